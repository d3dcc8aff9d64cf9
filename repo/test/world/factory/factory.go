// Package factory is a tenant to try things with: a manufacturer's schema of some forty tables, over a
// million rows and two hundred files. It holds what real databases hold and demos leave out: partitions
// of partitions, inheritance, generated columns, an empty table, a quoted name, every type, every value
// that a careless CSV spoils.
package factory

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	_ "embed"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/snapfleet/snapfleet/test/world"
)

//go:embed tenant.sql
var tenantSQL string

// Bucket is the one that the rows of file_attachments name.
const Bucket = "ion-files"

// Load makes the schema, which must not exist, and fills it: all or nothing. At scale 1 there are over a
// million rows, which take some ten seconds; tests are well served by 0.01. The files' rows name [Bucket]
// and keys below "<schema>/"; [Upload] puts the files there.
func Load(ctx context.Context, conn *pgx.Conn, schema string, scale float64) (err error) {
	script := strings.NewReplacer(
		`:"schema"`, pgx.Identifier{schema}.Sanitize(),
		`:'scale'`, "'"+strconv.FormatFloat(scale, 'f', -1, 64)+"'",
	).Replace(tenantSQL)
	if err := world.LoadConn(ctx, conn.PgConn(), strings.NewReader(script)); err != nil {
		conn.Exec(context.WithoutCancel(ctx), "ROLLBACK") // the first error is the one to tell
		return fmt.Errorf("load the factory's tenant %q: %w", schema, err)
	}
	if err := insertFiles(ctx, conn, schema); err != nil {
		return fmt.Errorf("load the factory's tenant %q: %w", schema, err)
	}
	return nil
}

// File is a file that the tenant's users uploaded.
type File struct {
	ID, EntityID, Filename, ContentType string
	Key                                 string // in [Bucket]
	Size                                int64

	seed [32]byte
}

// Body is the content, the same each time.
func (f File) Body() []byte {
	b := make([]byte, f.Size)
	rand.NewChaCha8(f.seed).Read(b) // never fails
	return b
}

// ETag is what S3 calls the content.
func (f File) ETag() string {
	sum := md5.Sum(f.Body())
	return `"` + hex.EncodeToString(sum[:]) + `"`
}

// filenames are as people and cameras make them, with those that an extractor must not take at their word.
var filenames = []string{
	"drawing.pdf", "IMG_0042.JPG", "Prüfbericht Nr. 7.pdf", "測定結果.csv", "report (1).docx", "no extension", ".hidden", "a/b/c.txt",
	"../../etc/passwd", "con", `quote".step`, "tab\there.txt", "new\nline.txt", "emoji 🏭.png", "trailing space ", "e\u0301tude.stl",
	strings.Repeat("long", 50) + ".txt", "C:\\temp\\x.exe", "-rf", "%2e%2e%2f",
}

// Files are the two hundred that are stored. One is empty and one is 3 MB.
func Files(schema string) []File {
	files := make([]File, 200)
	for i := range files {
		seed := sha256.Sum256(binary.BigEndian.AppendUint64([]byte(schema), uint64(i)))
		id := seed[:16]
		id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80 // a UUID of version 4
		f := File{
			ID:          fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:16]),
			EntityID:    fmt.Sprintf("part_instance:%d", i+1),
			Filename:    filenames[i%len(filenames)],
			ContentType: "application/octet-stream",
			Size:        int64(binary.BigEndian.Uint32(seed[16:]) % 120_000),
			seed:        seed,
		}
		switch i {
		case 7:
			f.Size = 0
		case 8:
			f.Size = 3_000_000
		}
		f.Key = schema + "/" + f.ID
		files[i] = f
	}
	return files
}

// External is how many rows of file_attachments have no stored file: an integration keeps it elsewhere.
const External = 12

func insertFiles(ctx context.Context, conn *pgx.Conn, schema string) error {
	created := time.Date(2025, 1, 6, 6, 0, 0, 0, time.UTC)
	var rows [][]any
	for i, f := range Files(schema) {
		rows = append(rows, []any{f.ID, f.EntityID, f.Filename, f.ContentType, Bucket, f.Key, f.ETag(), f.Size, created.Add(time.Duration(i) * time.Minute)})
	}
	for i := range External {
		rows = append(rows, []any{fmt.Sprintf("00000000-0000-4000-8000-%012d", i), nil, fmt.Sprintf("model %d.step", i), nil, nil, nil, nil, nil, created})
	}
	columns := []string{"id", "entity_id", "filename", "content_type", "s3_bucket", "s3_key", "s3_etag", "size", "created_at"}
	if _, err := conn.CopyFrom(ctx, pgx.Identifier{schema, "file_attachments"}, columns, pgx.CopyFromRows(rows)); err != nil {
		return err
	}
	_, err := conn.Exec(ctx, "ANALYZE")
	return err
}

// Upload stores the tenant's files in [Bucket], which must exist.
func Upload(ctx context.Context, store *s3.Client, schema string) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for _, f := range Files(schema) {
		g.Go(func() error {
			bucket := Bucket
			_, err := store.PutObject(ctx, &s3.PutObjectInput{Bucket: &bucket, Key: &f.Key, ContentType: &f.ContentType, Body: bytes.NewReader(f.Body())})
			if err != nil {
				return fmt.Errorf("store the factory's file %s: %w", f.Key, err)
			}
			return nil
		})
	}
	return g.Wait()
}
