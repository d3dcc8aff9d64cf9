// Package uploader brings members into a customer's bucket. It is the only package that knows STS, S3
// multipart uploads and tar.
//
//	Begin     assumes the customer's role and proves that the bucket takes a multipart upload
//	Write     packs an archive into .tar volumes; their parts leave while more is written
//	Receipt   everything is durable, nothing is visible
//	Commit    makes it visible: every volume, then manifest.json
//	Verify    reads a delivery back and proves it, with no help from whoever wrote it
//
// No disk is used, and memory does not grow with the snapshot: a [Delivery] owns a fixed set of part
// buffers, which bounds memory and parallelism and slows the writer down, all at once.
//
// A tar header stands before the bytes whose number it holds, and of a compressed table that number is
// known only at its end. S3 takes parts in any order. So the header is reserved, the part that owes it
// stays in memory while the parts after it leave, and it leaves last (object.go).
//
// Errors: a [contracts.Rejection] says that somebody has to change something first; [ErrUploadLost] that
// this attempt's bytes are gone and another attempt is needed; any other error that the attempt, or the
// same call, may be tried again. One request is retried here (retry.go) and nowhere else.
package uploader
