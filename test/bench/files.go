package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/jackc/pgx/v5"
	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/minio/crc64nvme"
	"golang.org/x/sync/errgroup"
)

// Attachments: files of a source bucket, which a table names.

// loaders is how many objects are put at once.
const loaders = 16

// Attachment is what attachments of one size cost. The least that they could cost is measured apart: get is all
// objects from the source to nowhere on as many connections as a worker has (8), put is as many bytes into the
// destination, in parts of 16 MiB, five at a time. A delivery does both at once, so where there are cores enough it can
// take as long as the slower of them. Here the same cores serve both sides of both, and what it can be held against is
// their sum.
type Attachment struct {
	Files     int     `json:"files"`
	Bytes     int64   `json:"bytes"` // of all files
	Snapfleet Cost    `json:"snapfleet"`
	MBPerS    float64 `json:"mb_per_s"`
	CPUPerGB  float64 `json:"cpu_s_per_gb"`
	Get       float64 `json:"get_wall_s"`
	Put       float64 `json:"put_wall_s"`
	Slower    float64 `json:"wall_ratio_slower"` // to the slower of get and put
	Sum       float64 `json:"wall_ratio_sum"`    // to get and then put
}

// measureFiles loads files for a tenant, and measures each of the three as often as there are rounds.
func (f *fleet) measureFiles(ctx context.Context, tenant string, count int, size int64, rounds int) (a Attachment, err error) {
	began := time.Now()
	say("attachments: loading %d x %.3g MB", count, float64(size)/1e6)
	if err := f.enrolFiled(ctx, tenant, count, size); err != nil {
		return a, err
	}
	say("attachments: loaded in %.1f s", time.Since(began).Seconds())
	a.Files, a.Bytes = count, int64(count)*size
	contenders := []contender{
		{"get", func(ctx context.Context) (Cost, error) { return f.ground.getAll(ctx, tenant) }},
		{"put", func(ctx context.Context) (Cost, error) { return f.ground.putAll(ctx, a.Bytes) }},
		{"snapfleet", func(ctx context.Context) (Cost, error) { return f.deliver(ctx, tenant) }},
	}
	var all Comparison
	for n := range rounds {
		round, err := f.ground.round(ctx, contenders, fmt.Sprintf("attachments: round %d of %d", n+1, rounds))
		if err != nil {
			return a, err
		}
		all.Rounds = append(all.Rounds, round)
	}
	wall := func(n Round, name string) float64 { return n.Costs[name].Wall }
	a.Snapfleet, a.Get, a.Put = all.cost("snapfleet"), all.cost("get").Wall, all.cost("put").Wall
	a.MBPerS, a.CPUPerGB = float64(a.Bytes)/1e6/a.Snapfleet.Wall, a.Snapfleet.CPU/(float64(a.Bytes)/1e9)
	a.Slower = all.median(func(n Round) float64 { return wall(n, "snapfleet") / max(wall(n, "get"), wall(n, "put")) })
	a.Sum = all.median(func(n Round) float64 { return wall(n, "snapfleet") / (wall(n, "get") + wall(n, "put")) })
	return a, nil
}

// enrolFiled makes a tenant with attachments, and with nothing else if there is no schema yet.
func (f *fleet) enrolFiled(ctx context.Context, tenant string, count int, size int64) error {
	err := f.ground.exec(ctx, "CREATE SCHEMA IF NOT EXISTS "+tenant, "CREATE TABLE "+tenant+
		".file_attachments (id text PRIMARY KEY, entity_id bigint, filename text, content_type text, s3_bucket text, s3_key text, s3_etag text)")
	if err != nil {
		return err
	}
	etags, err := f.ground.load(ctx, tenant, count, size)
	if err != nil {
		return fmt.Errorf("load attachments: %w", err)
	}
	conn, err := pgx.Connect(ctx, f.ground.database)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it has served
	_, err = conn.CopyFrom(ctx, pgx.Identifier{tenant, "file_attachments"},
		[]string{"id", "entity_id", "filename", "content_type", "s3_bucket", "s3_key", "s3_etag"},
		pgx.CopyFromSlice(count, func(i int) ([]any, error) {
			return []any{fmt.Sprintf("file-%06d", i), i, "measured.bin", "application/octet-stream", files, fileKey(tenant, i), etags[i]}, nil
		}))
	if err != nil {
		return err
	}
	f.filed[tenant] = true
	return f.enrol(ctx, tenant, tenant)
}

func fileKey(tenant string, i int) string { return fmt.Sprintf("%s/%06d", tenant, i) }

// load puts the objects, whose bytes follow from their number. Large ones go up in parts, one object after another.
func (g *ground) load(ctx context.Context, tenant string, count int, size int64) ([]string, error) {
	client, etags := g.cloud.Admin(), make([]string, count)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(loaders)
	if size > standInPart {
		group.SetLimit(1)
	}
	for i := range count {
		group.Go(func() (err error) {
			var seed [32]byte
			binary.BigEndian.PutUint64(seed[:], uint64(i))
			body, key := io.LimitReader(rand.NewChaCha8(seed), size), fileKey(tenant, i)
			if size > standInPart {
				etags[i], err = uploadAll(ctx, client, body, files, key)
				return err
			}
			data, err := io.ReadAll(body)
			if err != nil {
				return err
			}
			out, err := client.PutObject(ctx, &s3.PutObjectInput{Bucket: aws.String(files), Key: &key, Body: bytes.NewReader(data)})
			if err == nil {
				etags[i] = aws.ToString(out.ETag)
			}
			return err
		})
	}
	return etags, group.Wait()
}

// fetchers is snapfleet's default of --attachments-fetch.
const fetchers = 8

// getAll reads all objects of a tenant, and keeps nothing.
func (g *ground) getAll(ctx context.Context, tenant string) (Cost, error) {
	client := s3.NewFromConfig(g.cloud.AWSConfig(worker), func(o *s3.Options) {
		o.UsePathStyle, o.ResponseChecksumValidation = true, aws.ResponseChecksumValidationWhenRequired
	})
	var keys []*string
	pages := s3.NewListObjectsV2Paginator(g.cloud.Admin(), &s3.ListObjectsV2Input{Bucket: aws.String(files), Prefix: aws.String(tenant + "/")})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return Cost{}, err
		}
		for _, o := range page.Contents {
			keys = append(keys, o.Key)
		}
	}
	began := time.Now()
	group, ctx := errgroup.WithContext(ctx)
	next := make(chan *string, len(keys))
	for _, key := range keys {
		next <- key
	}
	close(next)
	for range fetchers {
		group.Go(func() error {
			buffer := make([]byte, 256<<10)
			for key := range next {
				out, err := client.GetObject(ctx, &s3.GetObjectInput{Bucket: aws.String(files), Key: key})
				if err != nil {
					return err
				}
				_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, out.Body, buffer) // Discard has smaller buffers
				if err := errors.Join(err, out.Body.Close()); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := group.Wait()
	return Cost{Wall: time.Since(began).Seconds()}, err
}

// putPart and putInFlight are snapfleet's defaults.
const (
	putPart     = 16 << 20
	putInFlight = 5
)

// putAll uploads as many bytes as parts of one object, the same ones again and again, with the checksum that a
// delivery's parts carry.
func (g *ground) putAll(ctx context.Context, size int64) (Cost, error) {
	client := s3.NewFromConfig(g.cloud.AWSConfig(peer), func(o *s3.Options) {
		o.UsePathStyle, o.RequestChecksumCalculation = true, aws.RequestChecksumCalculationWhenRequired
		o.APIOptions = append(o.APIOptions, v4.SwapComputePayloadSHA256ForUnsignedPayloadMiddleware)
	})
	data := make([]byte, min(putPart, size))
	rand.NewChaCha8([32]byte{}).Read(data) //nolint:errcheck // it never fails
	began := time.Now()
	created, err := client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{
		Bucket: aws.String(store), Key: aws.String("put"), ChecksumAlgorithm: types.ChecksumAlgorithmCrc64nvme, ChecksumType: types.ChecksumTypeFullObject,
	})
	if err != nil {
		return Cost{}, err
	}
	parts := make([]types.CompletedPart, (size+putPart-1)/putPart)
	group, working := errgroup.WithContext(ctx)
	group.SetLimit(putInFlight)
	whole := checksum(data)
	for i := range parts {
		group.Go(func() error {
			body, sum := data, whole
			if rest := size - int64(i)*putPart; rest < int64(len(body)) {
				body = body[:rest]
				sum = checksum(body)
			}
			out, err := client.UploadPart(working, &s3.UploadPartInput{
				Bucket: created.Bucket, Key: created.Key, UploadId: created.UploadId, PartNumber: aws.Int32(int32(i + 1)),
				Body: bytes.NewReader(body), ChecksumCRC64NVME: &sum,
			})
			if err == nil {
				parts[i] = types.CompletedPart{PartNumber: aws.Int32(int32(i + 1)), ETag: out.ETag, ChecksumCRC64NVME: &sum}
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return Cost{}, err
	}
	_, err = client.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
		Bucket: created.Bucket, Key: created.Key, UploadId: created.UploadId, MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
	})
	return Cost{Wall: time.Since(began).Seconds()}, err
}

// checksum is S3's CRC64NVME of a part.
func checksum(part []byte) string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint64(nil, crc64nvme.Checksum(part)))
}

// printFiles shows them.
func printFiles(w io.Writer, all []Attachment) {
	t := newTable(w, table.Row{"attachments", "wall s", "MB/s", "CPU s/GB", "memory MiB", "get s", "put s", "by the slower", "by their sum"})
	for _, a := range all {
		size := strings.Replace(fmt.Sprintf("%.3g MB", float64(a.Bytes)/float64(a.Files)/1e6), "e+03", "000", 1)
		t.AppendRow(table.Row{
			fmt.Sprintf("%d x %s", a.Files, size), fmt.Sprintf("%.2f", a.Snapfleet.Wall), fmt.Sprintf("%.0f", a.MBPerS), fmt.Sprintf("%.2f", a.CPUPerGB),
			fmt.Sprintf("%.0f", a.Snapfleet.RSS), fmt.Sprintf("%.2f", a.Get), fmt.Sprintf("%.2f", a.Put),
			fmt.Sprintf("%.2f x", a.Slower), fmt.Sprintf("%.2f x", a.Sum),
		})
	}
	t.Render()
	fmt.Fprintln(w, "get: every object to nowhere, 8 connections; put: as many bytes in parts of 16 MiB, five at a time; the server is on the same cores")
}
