package uploader

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"testing"
	"time"

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
