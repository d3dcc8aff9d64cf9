package uploader

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/cenkalti/backoff/v4"
)

// Source is where [Verify] reads a delivery from: the folder of one job. It is safe for concurrent use.
type Source interface {
	// String names the folder for people.
	String() string
	// Objects lists the visible objects and their sizes.
	Objects(ctx context.Context) (map[string]int64, error)
	// Open reads an object from its beginning; fs.ErrNotExist when there is none.
	Open(ctx context.Context, name string) (io.ReadCloser, error)
}

// maxObjects is how many objects a source may list. A delivery has one for each volume, and the manifest.
const maxObjects = 100_000

var (
	errTooMany  = fmt.Errorf("more than %d objects are there: this is not the folder of one job", maxObjects)
	errNotPlain = errors.New("it is no plain file")
)

// FolderSource reads a delivery in a local folder, which holds manifest.json. Files whose name starts
// with a dot are not seen. What is no plain file (a link, a pipe, a device) is never opened.
func FolderSource(dir string) Source { return folderSource(dir) }

type folderSource string

func (f folderSource) String() string { return string(f) }

func (f folderSource) Objects(context.Context) (map[string]int64, error) {
	entries, err := os.ReadDir(string(f))
	if err != nil {
		return nil, err
	}
	found := make(map[string]int64)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return nil, err
		}
		found[e.Name()] = info.Size()
		if len(found) > maxObjects {
			return nil, errTooMany
		}
	}
	return found, nil
}

func (f folderSource) Open(_ context.Context, name string) (io.ReadCloser, error) {
	if !filepath.IsLocal(name) {
		return nil, fmt.Errorf("open %q: not inside the folder: %w", name, fs.ErrNotExist)
	}
	path := filepath.Join(string(f), name)
	found, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !found.Mode().IsRegular() {
		return nil, errNotPlain
	}
	// Without O_NONBLOCK, a pipe that takes the file's place right now would be waited for.
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	opened, err := file.Stat()
	if err == nil && !os.SameFile(found, opened) {
		err = errNotPlain
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// BucketSource reads a delivery in a bucket, below prefix ("tenant/job/"), with whatever credentials
// client has: GetObject and ListBucket suffice. A download that is cut off is continued where it was, as
// long as the object is still the same.
func BucketSource(client *s3.Client, bucket, prefix string) Source {
	return bucketSource{client, bucket, strings.TrimSuffix(prefix, "/") + "/"}
}

type bucketSource struct {
	client         *s3.Client
	bucket, prefix string
}

func (b bucketSource) String() string { return "s3://" + b.bucket + "/" + b.prefix }

func (b bucketSource) Objects(ctx context.Context) (map[string]int64, error) {
	found := make(map[string]int64)
	pages := s3.NewListObjectsV2Paginator(b.client, &s3.ListObjectsV2Input{Bucket: &b.bucket, Prefix: &b.prefix}, func(o *s3.ListObjectsV2PaginatorOptions) {
		o.StopOnDuplicateToken = true
	})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, o := range page.Contents {
			found[strings.TrimPrefix(aws.ToString(o.Key), b.prefix)] = aws.ToInt64(o.Size)
		}
		if len(found) > maxObjects {
			return nil, errTooMany
		}
	}
	return found, nil
}

func (b bucketSource) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	d := &download{ctx: ctx, source: b, key: b.prefix + name}
	if err := d.open(); err != nil {
		return nil, err
	}
	return d, nil
}

// downloadTries is how often a download is continued without a byte in between.
const downloadTries = 6

// download is an object being read, over as many connections as that takes.
type download struct {
	ctx    context.Context
	source bucketSource
	key    string
	etag   *string
	at     int64
	body   io.ReadCloser
}

func (d *download) open() error {
	in := &s3.GetObjectInput{Bucket: &d.source.bucket, Key: &d.key, IfMatch: d.etag}
	if d.at > 0 {
		in.Range = aws.String(fmt.Sprintf("bytes=%d-", d.at))
	}
	out, err := d.source.client.GetObject(d.ctx, in, func(o *s3.Options) {
		// Verify compares, and says what is wrong; the SDK would only break off.
		o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
	})
	if err != nil {
		if _, judged := judge(writing, err); errors.Is(judged, errAbsent) {
			err = fmt.Errorf("%w: %w", fs.ErrNotExist, err)
		}
		return err
	}
	d.body, d.etag = out.Body, out.ETag
	return nil
}

// Read implements io.Reader.
func (d *download) Read(p []byte) (int, error) {
	n, err := d.body.Read(p)
	d.at += int64(n)
	if err == nil || errors.Is(err, io.EOF) || n > 0 || d.ctx.Err() != nil {
		if n > 0 && !errors.Is(err, io.EOF) {
			err = nil // the next call meets it again
		}
		return n, err
	}
	d.body.Close()
	wait := backoff.NewExponentialBackOff(backoff.WithInitialInterval(200*time.Millisecond), backoff.WithMaxInterval(5*time.Second))
	return backoff.RetryWithData(func() (int, error) {
		if err := d.open(); err != nil {
			if v, _ := judge(writing, err); v != again {
				err = backoff.Permanent(err)
			}
			return 0, err
		}
		n, err := d.body.Read(p)
		d.at += int64(n)
		switch {
		case n > 0 && !errors.Is(err, io.EOF):
			return n, nil
		case errors.Is(err, io.EOF):
			return n, backoff.Permanent(io.EOF)
		case err != nil:
			d.body.Close()
		}
		return n, err
	}, backoff.WithContext(backoff.WithMaxRetries(wait, downloadTries), d.ctx))
}

// Close implements io.Closer.
func (d *download) Close() error { return d.body.Close() }
