package uploader

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/minio/crc64nvme"

	"github.com/snapfleet/snapfleet/contracts"
)

// nowhere is a store that takes every part and keeps none.
type nowhere struct{ store }

func (nowhere) preflight(context.Context, []contracts.Upload) error { return nil }
func (nowhere) create(context.Context, string) (string, error)      { return "id", nil }
func (nowhere) put(context.Context, contracts.Upload, int, int64, []byte, uint64) (contracts.Part, error) {
	return contracts.Part{ETag: "e"}, nil
}

// BenchmarkWrite packs members of unknown size: reserve and fill, SHA-256 of each, parts handed over, CRC
// of each, CRCs combined.
func BenchmarkWrite(b *testing.B) {
	chunk := noise(1, 64<<10)
	for _, size := range []int{1 << 10, 1 << 20, 256 << 20} {
		b.Run(fmt.Sprintf("members of %d KiB", size>>10), func(b *testing.B) {
			const total = 256 << 20
			b.SetBytes(total)
			b.ReportAllocs()
			for b.Loop() {
				u := newUploader(Config{})
				u.open = func(context.Context, contracts.Attempt) (store, error) { return nowhere{}, nil }
				d, err := u.Begin(b.Context(), attempt(0), &journal{})
				if err != nil {
					b.Fatal(err)
				}
				err = d.Write(b.Context(), contracts.Archive{Kind: contracts.Tables, Members: func(yield func(contracts.Member, error) bool) {
					for i := range total / size {
						m := contracts.Member{Name: fmt.Sprint(i), Size: -1, ModTime: time.Unix(0, 0)}
						m.Write = func(_ context.Context, w io.Writer, _ int64) (contracts.Piece, error) {
							for left := size; left > 0; left -= len(chunk) {
								if _, err := w.Write(chunk[:min(left, len(chunk))]); err != nil {
									return contracts.Piece{}, err
								}
							}
							return contracts.Piece{}, nil
						}
						if !yield(m, nil) {
							return
						}
					}
				}})
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkCRC(b *testing.B) {
	part := noise(1, 16<<20)
	b.SetBytes(int64(len(part)))
	for b.Loop() {
		crc64nvme.Checksum(part)
	}
}

func BenchmarkCombine(b *testing.B) {
	for b.Loop() {
		combine(1, 2, 16<<20)
	}
}

func BenchmarkCSVCounter(b *testing.B) {
	row := []byte("12345,\"a quoted \"\"field\"\"\nof two lines\",2026-03-31 14:30:22+00,,0.125\n")
	block := bytes.Repeat(row, (1<<20)/len(row))
	b.SetBytes(int64(len(block)))
	for b.Loop() {
		var c csvCounter
		c.Write(block)
	}
}

func BenchmarkJSONLTable(b *testing.B) {
	row := []byte("{\"id\":12345,\"note\":\"a quoted \\\"field\\\"\\nof two lines\",\"at\":\"2026-03-31T14:30:22+00:00\",\"by\":null,\"ratio\":0.125}\n")
	block := bytes.Repeat(row, (1<<20)/len(row))
	b.SetBytes(int64(len(block)))
	for b.Loop() {
		c := newJSONLTable(columns("id", "note", "at", "by", "ratio"))
		c.Write(block)
		if rows, err := c.rows(); err != nil || rows == 0 {
			b.Fatal(rows, err)
		}
	}
}

// BenchmarkJSONValid is what encoding/json would take for the same, line by line.
func BenchmarkJSONValid(b *testing.B) {
	row := []byte("{\"id\":12345,\"note\":\"a quoted \\\"field\\\"\\nof two lines\",\"at\":\"2026-03-31T14:30:22+00:00\",\"by\":null,\"ratio\":0.125}")
	b.SetBytes(int64(len(row)))
	for b.Loop() {
		json.Valid(row)
	}
}

// BenchmarkUploadPart is what one part costs this side, and a server that throws it away, by how it is signed and summed.
// Whatever is not summed or signed here is still compared with the checksum when the object is completed.
func BenchmarkUploadPart(b *testing.B) {
	body := noise(1, 16<<20)
	sum := crcText(crc64nvme.Checksum(body))
	sink := http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		io.Copy(io.Discard, q.Body) // who breaks off has failed already
		w.Header().Set("ETag", `"e"`)
	})
	unsigned := func(o *s3.Options) {
		o.APIOptions = append(o.APIOptions, v4.SwapComputePayloadSHA256ForUnsignedPayloadMiddleware)
	}
	for _, scheme := range []string{"https", "http"} {
		server := httptest.NewUnstartedServer(sink)
		if scheme == "https" {
			server.StartTLS()
		} else {
			server.Start()
		}
		b.Cleanup(server.Close)
		client := s3.New(s3.Options{
			Region: "us-east-1", BaseEndpoint: aws.String(server.URL), UsePathStyle: true, HTTPClient: server.Client(), Retryer: aws.NopRetryer{},
			Credentials:                credentials.NewStaticCredentialsProvider("AKIAX", "secret", ""),
			RequestChecksumCalculation: aws.RequestChecksumCalculationWhenRequired,
		})
		for _, way := range []struct {
			name string
			with func(*s3.UploadPartInput)
			opts []func(*s3.Options)
		}{
			{"CRC64NVME known before, body unsigned", func(in *s3.UploadPartInput) { in.ChecksumCRC64NVME = &sum }, []func(*s3.Options){unsigned}},
			{"CRC64NVME known before, body signed", func(in *s3.UploadPartInput) { in.ChecksumCRC64NVME = &sum }, nil},
			{"CRC64NVME by the SDK", func(in *s3.UploadPartInput) { in.ChecksumAlgorithm = types.ChecksumAlgorithmCrc64nvme }, nil},
			{"CRC32 by the SDK", func(in *s3.UploadPartInput) { in.ChecksumAlgorithm = types.ChecksumAlgorithmCrc32 }, nil},
			{"SHA256 by the SDK", func(in *s3.UploadPartInput) { in.ChecksumAlgorithm = types.ChecksumAlgorithmSha256 }, nil},
			{"nothing, body unsigned", func(*s3.UploadPartInput) {}, []func(*s3.Options){unsigned}},
		} {
			b.Run(scheme+"/"+way.name, func(b *testing.B) {
				b.SetBytes(int64(len(body)))
				for b.Loop() {
					in := &s3.UploadPartInput{
						Bucket: aws.String("b"), Key: aws.String("k"), UploadId: aws.String("u"), PartNumber: aws.Int32(1),
						Body: bytes.NewReader(body), ContentLength: aws.Int64(int64(len(body))),
					}
					way.with(in)
					if _, err := client.UploadPart(b.Context(), in, way.opts...); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
