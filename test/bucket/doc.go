// Package bucket is a strict stand-in for the part of AWS that snapfleet meets: a real S3 server
// (versitygw on the local disk), a small STS, and the few calls of IAM that set up a role; all over TLS, all in this
// process.
//
// It exists because a lenient double proves nothing. These rules of AWS are enforced:
//
//   - Signature Version 4 on every request, S3 and STS, with region, service and a clock within 15 minutes.
//   - AssumeRole: the role's trust policy (principal, then conditions such as sts:ExternalId) and the
//     caller's own policy must both allow it. Every refusal reads the same, as at AWS.
//   - DurationSeconds from 900 to the role's maximum, one hour where roles are chained; the patterns of
//     RoleSessionName and ExternalId; a session policy of at most 2,048 characters.
//   - On each S3 request the role's policy, the session's policy and the bucket's policy; a principal of
//     another account than the bucket's needs the bucket's policy to name it.
//   - A missing key is 404 only to those who may list the bucket, and 403 to everybody else. For that
//     question the key stands as s3:prefix (ceph/ceph#68577 matched the same behaviour).
//   - Session tokens: unguessable, compared in constant time, ExpiredToken after their time.
//   - A signature lives for 15 minutes, whatever it signs, and that is judged as the request arrives.
//   - x-amz-expected-bucket-owner, checksums in headers and trailers, If-None-Match, part sizes.
//   - Where parts carry checksums, the part numbers of CompleteMultipartUpload are 1, 2, 3 ...
//   - Whoever writes or reads what a KMS key encrypts, named by the request or by the bucket's default, needs
//     kms:GenerateDataKey and kms:Decrypt on it. Nothing is encrypted.
//
// What a customer says of a bucket (default encryption, lifecycle rules, public access block) is read as strictly as
// AWS reads it, kept and told again; but for the default key it changes nothing.
//
// It does not know keys' own policies, permissions boundaries, service control policies or more than one region.
//
// [Server.Inject] disturbs requests: refused, applied but the reply lost, delayed, held, cut, a bit flipped on its
// way in or out. [Server.Rot] flips one at rest, and [Server.OpenFront] opens an entrance whose clock is off.
// [Server.Calls] tells what was asked, by whom, and what that session could have asked. A [Server] is safe for concurrent use.
package bucket
