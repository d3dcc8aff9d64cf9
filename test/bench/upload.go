package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"golang.org/x/sync/errgroup"
)

// standIn is the word by which this program is `aws s3 cp`, where there is none: bench upload FILE s3://bucket/key
const standIn = "upload"

// Its parts are as large, and as many at a time, as those of aws s3 cp.
const (
	standInPart     = 8 << 20
	standInInFlight = 10
)

// upload copies a file, or - for standard input.
func upload(ctx context.Context, from, to string) (err error) {
	source := os.Stdin
	if from != "-" {
		if source, err = os.Open(from); err != nil {
			return err
		}
		defer source.Close() //nolint:errcheck // it is read
	}
	bucket, key, ok := strings.Cut(strings.TrimPrefix(to, "s3://"), "/")
	if !ok {
		return fmt.Errorf("%q is not s3://bucket/key", to)
	}
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return err
	}
	client := s3.NewFromConfig(cfg, func(o *s3.Options) { o.UsePathStyle = true })
	_, err = uploadAll(ctx, client, source, bucket, key)
	return err
}

// uploadAll copies a stream into an object, and returns its tag.
func uploadAll(ctx context.Context, client *s3.Client, source io.Reader, bucket, key string) (etag string, err error) {
	created, err := client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: &bucket, Key: &key, ChecksumAlgorithm: types.ChecksumAlgorithmCrc64nvme})
	if err != nil {
		return "", err
	}
	parts, err := uploadParts(ctx, client, source, created)
	if err != nil {
		_, aborted := client.AbortMultipartUpload(context.WithoutCancel(ctx), &s3.AbortMultipartUploadInput{Bucket: &bucket, Key: &key, UploadId: created.UploadId})
		return "", errors.Join(err, aborted)
	}
	out, err := client.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
		Bucket: &bucket, Key: &key, UploadId: created.UploadId, MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
	})
	if err != nil {
		return "", err
	}
	return aws.ToString(out.ETag), nil
}

func uploadParts(ctx context.Context, client *s3.Client, source io.Reader, u *s3.CreateMultipartUploadOutput) (parts []types.CompletedPart, err error) {
	group, working := errgroup.WithContext(ctx)
	group.SetLimit(standInInFlight)
	var done []*types.CompletedPart
	for last := false; !last && working.Err() == nil; {
		body := make([]byte, standInPart)
		n, err := io.ReadFull(source, body)
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, errors.Join(err, group.Wait())
		}
		if last = err != nil; n == 0 && len(done) > 0 {
			break
		}
		part := &types.CompletedPart{PartNumber: aws.Int32(int32(len(done) + 1))}
		done = append(done, part)
		group.Go(func() error {
			out, err := client.UploadPart(working, &s3.UploadPartInput{
				Bucket: u.Bucket, Key: u.Key, UploadId: u.UploadId, PartNumber: part.PartNumber,
				Body: bytes.NewReader(body[:n]), ChecksumAlgorithm: types.ChecksumAlgorithmCrc64nvme,
			})
			if err == nil {
				part.ETag, part.ChecksumCRC64NVME = out.ETag, out.ChecksumCRC64NVME
			}
			return err
		})
	}
	if err := errors.Join(group.Wait(), context.Cause(ctx)); err != nil { // half of it would look like all
		return nil, err
	}
	for _, p := range done {
		parts = append(parts, *p)
	}
	return parts, nil
}
