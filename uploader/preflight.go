package uploader

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/minio/crc64nvme"

	"github.com/snapfleet/snapfleet/contracts"
)

// preflight proves, before the database is touched, what the delivery will need: the role's trust policy
// wants the external ID; the bucket exists, is in that region, is the right account's and lists its
// objects and uploads; a multipart upload can be begun, written to, listed and aborted, with whatever key
// encrypts it; what was written can be read back. Nothing becomes visible.
//
// The bucket is asked for a list and not by HeadBucket: the session policy allows lists of this job's
// folder only, and HeadBucket names no folder.
func (b *bucket) preflight(ctx context.Context, keep []contracts.Upload) error {
	if err := b.trust.check(ctx, b.role); err != nil {
		return err
	}
	names, err := b.list(ctx)
	if r, ok := contracts.AsRejection(err); ok && r.Code == contracts.BucketDenied && b.foreign(ctx) {
		err = contracts.Reject(contracts.WrongOwner, "it does not belong to account %s", *b.owner)
	}
	if errors.Is(err, errAbsent) {
		err = contracts.Reject(contracts.BucketNotFound, "S3 knows no such bucket")
	}
	if err != nil {
		return fmt.Errorf("bucket %s in %s: %w", b.to.Bucket, b.to.Region, err)
	}
	if err := b.free(ctx, names); err != nil {
		return err
	}
	if err := abortListed(ctx, b, keep); err != nil {
		return err
	}
	if err := b.readable(ctx); err != nil {
		return err
	}
	if err := b.probe(ctx); err != nil {
		return fmt.Errorf("probe bucket %s: %w", b.to.Bucket, err)
	}
	return nil
}

// readable proves the right to read what will be written, by asking for what is not there: that is absent to
// those who have it, and denied to all others. Without it a delivery could not be verified, and it would only
// be known once every volume is visible.
func (b *bucket) readable(ctx context.Context) error {
	if b.reads.Load() { // it was asked a moment ago, to find out whether the job is delivered
		return nil
	}
	_, err := b.read(ctx, contracts.ManifestName)
	// S3 denies a key that is not there also to those who may not know that, and then names that right.
	if r, ok := contracts.AsRejection(err); ok && r.Code == contracts.WriteDenied && strings.Contains(errorMessage(err), "s3:ListBucket") {
		return nil
	}
	return err
}

// foreign finds out, after a refusal, whether the bucket's owner is the reason for it: it asks once more
// without naming one. It is the only request that does not, and reads nothing but names in our folder.
func (b *bucket) foreign(ctx context.Context) bool {
	_, err := send(ctx, b, listing, func(ctx context.Context) (*s3.ListObjectsV2Output, error) {
		return b.client.ListObjectsV2(ctx, &s3.ListObjectsV2Input{
			Bucket: b.name(), Prefix: aws.String(b.attempt.Prefix()), MaxKeys: aws.Int32(1),
		})
	})
	return err == nil
}

// free makes sure that the job's folder is ours to write to: what stands under our names was left by
// another attempt of this job, which never was whole.
func (b *bucket) free(ctx context.Context, names []string) error {
	for _, name := range names {
		switch {
		case name == contracts.ManifestName:
			data, err := b.read(ctx, name)
			switch {
			case err != nil:
				return err
			case data != nil && ours(data, b.attempt):
				return ErrDelivered
			case data != nil:
				return taken(b.attempt, name)
			}
		case strings.HasPrefix(name, "snapshot_") && strings.HasSuffix(name, "_"+b.attempt.Request.Job+".tar"):
			found, err := b.stat(ctx, name)
			if err != nil {
				return fmt.Errorf("look at %s: %w", name, err)
			}
			if found != nil && found.job != b.attempt.Prefix() {
				return taken(b.attempt, name)
			}
		}
	}
	return nil
}

// probe begins a real multipart upload, writes one byte, lists it and aborts it.
func (b *bucket) probe(ctx context.Context) error {
	id, err := b.create(ctx, contracts.ProbeName)
	if err != nil {
		return err
	}
	u := contracts.Upload{Name: contracts.ProbeName, ID: id}
	body := []byte{0}
	_, err = b.put(ctx, u, 1, 0, body, crc64nvme.Checksum(body))
	if err == nil {
		var found []arrived
		if found, err = b.parts(ctx, u, len(body)); err == nil && len(found) != 1 {
			err = fmt.Errorf("one part was uploaded, S3 lists %d", len(found))
		}
	}
	return errors.Join(err, b.abort(ctx, u))
}
