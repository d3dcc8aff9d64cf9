// Package contracts holds the nouns that the rest of snapfleet agrees on, and nothing that acts.
//
// A [Request] asks for a snapshot of a [Tenant]. An [Attempt] is one try at it. The exporter turns the
// tenant into [Member] values, the uploader turns members into a [Receipt], and whoever holds the receipt
// can make the delivery visible: that is the whole seam, and all of it is plain data. A [Manifest] is what
// the customer trusts, an [Outcome] is how the job ended, a [Rejection] is a failure that no retry cures.
//
// Every name that snapfleet creates, in a bucket, in an archive or in JetStream, is made in layout.go or
// subjects.go, and nowhere else. The package imports the standard library only.
package contracts
