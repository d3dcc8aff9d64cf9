package uploader

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/minio/crc64nvme"
	"golang.org/x/sync/errgroup"

	"github.com/snapfleet/snapfleet/contracts"
)

// preflight proves, before the database is touched, what the delivery will need: the role's trust policy
// wants the external ID; the bucket exists, is in that region, is the right account's and lists its
// objects and uploads; a multipart upload can be begun, written to, listed and aborted, with whatever key
// encrypts it; what was written can be read back. Nothing becomes visible.
//
// A role that lets anybody in is not used at all. The rest is independent, and is asked at the same time: it takes as
// long as the probe does. Which refusal is told does not depend on which came first.
//
// The bucket is asked for a list and not by HeadBucket: the session policy allows lists of this job's
// folder only, and HeadBucket names no folder.
func (b *bucket) preflight(ctx context.Context, keep []contracts.Upload) error {
	if err := b.trust.check(ctx, b.role); err != nil {
		return err
	}
	vacant := sync.OnceValue(func() error { return b.vacant(ctx) })
	if !b.noManifest.Load() { // the job may be delivered: nothing is to be written then, and no probe
		if err := vacant(); err != nil {
			return err
		}
	}
	var left []contracts.Upload
	var probe contracts.Upload
	err := together(
		vacant,
		func() (err error) { left, err = b.uploads(ctx); return err },
		func() error { return b.readable(ctx) },
		func() (err error) { probe, err = b.probe(ctx); return err },
	)
	if err != nil {
		return err
	}
	return abortAll(ctx, b, left, append(slices.Clone(keep), probe)) // of the probe nothing is left
}

// together does independent things at the same time, waits for all of them, and returns the error of the first in the
// list that has one. Nobody is called off by another's failure: a probe that is broken off would leave something.
func together(things ...func() error) error {
	errs := make([]error, len(things))
	var group errgroup.Group // and not sync.WaitGroup: it hands on a panic
	for i, do := range things {
		group.Go(func() error { errs[i] = do(); return nil })
	}
	_ = group.Wait() // every error is in errs
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// vacant makes sure that the bucket is the one that is meant, and the job's folder ours to write to.
func (b *bucket) vacant(ctx context.Context) error {
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
	return b.free(ctx, names)
}

// readable proves the right to read what will be written, by asking for what is not there: that is absent to
// those who have it, and denied to all others. Without it a delivery could not be verified, and it would only
// be known once every volume is visible.
func (b *bucket) readable(ctx context.Context) error {
	if b.noManifest.Load() { // that was asked a moment ago, to find out whether the job is delivered
		return nil
	}
	_, err := b.get(ctx, contracts.ManifestName, func(*stored, io.Reader) error { return nil })
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
	for names := range slices.Chunk(names, 16*completing) { // the first one that is not ours is enough
		found, err := statAll(ctx, b, names)
		if err != nil {
			return err
		}
		for i, name := range names {
			switch s := found[i]; {
			case s == nil:
			case name == contracts.ManifestName:
				if err := signed(b.attempt, s); err != nil {
					return err
				}
				return ErrDelivered
			case s.job != b.attempt.Prefix():
				return taken(b.attempt, name)
			}
		}
	}
	return nil
}

// statAll looks at objects of the folder, some at a time. What is not there is nil.
func statAll(ctx context.Context, s store, names []string) ([]*stored, error) {
	found := make([]*stored, len(names))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(completing)
	for i, name := range names {
		group.Go(func() (err error) {
			if found[i], err = s.stat(ctx, name); err != nil {
				err = fmt.Errorf("look at %s: %w", name, err)
			}
			return err
		})
	}
	return found, group.Wait()
}

// probe begins a real multipart upload, writes one byte, aborts it, and lists what is left of it: nothing, to those who
// may list.
func (b *bucket) probe(ctx context.Context) (u contracts.Upload, err error) {
	u.Name = contracts.ProbeName
	if u.ID, err = b.create(ctx, u.Name); err == nil {
		body := []byte{0}
		_, err = b.put(ctx, u, 1, 0, body, crc64nvme.Checksum(body))
		err = errors.Join(err, b.abort(ctx, u))
	}
	if err != nil {
		err = fmt.Errorf("probe bucket %s: %w", b.to.Bucket, err)
	}
	return u, err
}
