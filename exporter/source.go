package exporter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
	"github.com/cenkalti/backoff/v4"

	"github.com/snapfleet/snapfleet/contracts"
)

// sources is the store that attachments come from. It is the one home of retry for a request to it.
type sources struct {
	client   *s3.Client
	patience time.Duration // with one request, since its last progress
	silence  time.Duration // of the store, in one try
}

// gapError says that a file cannot be had, and why, in the manifest's words.
type gapError string

func (e gapError) Error() string { return "the file is " + string(e) }

const (
	gapMissing  = gapError("missing")
	gapChanged  = gapError("changed")
	gapDenied   = gapError("denied")
	gapArchived = gapError("archived")
)

// retry repeats a request that the store may yet answer, for as long as it is patient since the last progress.
func (s sources) retry(ctx context.Context, request func(ctx context.Context, w *watchdog, progress func()) error) error {
	b := backoff.NewExponentialBackOff(backoff.WithInitialInterval(100*time.Millisecond),
		backoff.WithMaxInterval(10*time.Second), backoff.WithMaxElapsedTime(s.patience))
	err := backoff.Retry(func() error {
		err := s.tryOnce(ctx, func(ctx context.Context, w *watchdog) error { return request(ctx, w, b.Reset) })
		if err != nil && !transient(err) {
			return backoff.Permanent(err)
		}
		return err
	}, backoff.WithContext(b, ctx))
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause
	}
	return err
}

// plan learns a file's size, or why it is a gap.
func (s sources) plan(ctx context.Context, f *file) error {
	var head *s3.HeadObjectOutput
	err := s.retry(ctx, func(ctx context.Context, _ *watchdog, _ func()) (err error) {
		head, err = s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: aws.String(f.bucket()), Key: aws.String(f.key())}, once)
		switch status(err) {
		case http.StatusNotFound, http.StatusForbidden, http.StatusBadRequest, http.StatusMovedPermanently:
			err = s.explain(ctx, f, err) // a HEAD has no body that says which of many reasons it is
		}
		return err
	})
	if gap, ok := errors.AsType[gapError](gapIn(err)); ok {
		f.gap = string(gap)
		return nil
	}
	if err != nil {
		return fmt.Errorf("ask for attachment %.80q: %w", f.id(), s.refused(f, err))
	}
	etag := strings.Trim(strings.TrimPrefix(aws.ToString(head.ETag), "W/"), `"`)
	switch {
	case f.etag != "" && f.etag != etag:
		f.gap = string(gapChanged)
	case archived(head):
		f.gap = string(gapArchived)
	}
	f.size, f.modified = aws.ToInt64(head.ContentLength), aws.ToTime(head.LastModified).Unix()
	if f.etag == "" {
		f.etag = etag
	}
	return nil
}

// explain asks for the first byte, for the reason why there is none.
func (s sources) explain(ctx context.Context, f *file, head error) error {
	out, err := s.client.GetObject(ctx, &s3.GetObjectInput{Bucket: aws.String(f.bucket()), Key: aws.String(f.key()), Range: aws.String("bytes=0-0")}, once)
	if err == nil {
		out.Body.Close()
		return head
	}
	return err
}

func archived(head *s3.HeadObjectOutput) bool {
	cold := head.StorageClass == types.StorageClassGlacier || head.StorageClass == types.StorageClassDeepArchive || head.ArchiveStatus != ""
	return cold && !strings.Contains(aws.ToString(head.Restore), `ongoing-request="false"`)
}

// fetch writes the file to w, from its offset to its end: the one that was planned, or an error. A cut connection
// is taken up again where it broke. The error is a gap only as long as nothing has been written.
func (s sources) fetch(ctx context.Context, f fetch, w io.Writer) error {
	got := f.offset
	err := s.retry(ctx, func(ctx context.Context, watch *watchdog, progress func()) error {
		n, err := s.get(ctx, f.file, got, w, watch)
		if got += n; n >= least {
			progress()
		}
		return err
	})
	if gap := gapIn(err); gap != nil && got == f.offset {
		return gap
	}
	if err != nil {
		return fmt.Errorf("%d of %d bytes: %w", got, f.size, s.refused(f.file, err))
	}
	return nil
}

// get writes the file from offset on and returns how much came.
func (s sources) get(ctx context.Context, f *file, offset int64, w io.Writer, watch *watchdog) (int64, error) {
	in := &s3.GetObjectInput{Bucket: aws.String(f.bucket()), Key: aws.String(f.key()), IfMatch: aws.String(`"` + f.etag + `"`)}
	if offset > 0 {
		if offset == f.size {
			return 0, nil
		}
		in.Range = aws.String(fmt.Sprintf("bytes=%d-", offset))
	}
	out, err := s.client.GetObject(ctx, in, once)
	if err != nil {
		return 0, err
	}
	defer out.Body.Close()
	if aws.ToInt64(out.ContentLength) != f.size-offset ||
		offset > 0 && !strings.HasPrefix(aws.ToString(out.ContentRange), fmt.Sprintf("bytes %d-", offset)) {
		return 0, gapChanged
	}
	to := &sink{w: w}
	n, err := io.CopyN(to, watch.body(out.Body), f.size-offset)
	if to.err != nil {
		return n, backoff.Permanent(to.err)
	}
	if err != nil {
		return n, cutError{err}
	}
	return n, nil
}

// sink remembers that it was the writer that failed.
type sink struct {
	w   io.Writer
	err error
}

func (s *sink) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	s.err = err
	return n, err
}

// cutError is a body that broke off.
type cutError struct{ err error }

func (e cutError) Error() string { return "the connection broke off: " + withoutURL(e.err).Error() }
func (e cutError) Unwrap() error { return e.err }

// status is the HTTP status of an error, or 0.
func status(err error) int {
	if e, ok := errors.AsType[*awshttp.ResponseError](err); ok {
		return e.HTTPStatusCode()
	}
	return 0
}

// code is S3's name for an error, or "".
func code(err error) string {
	if e, ok := errors.AsType[smithy.APIError](err); ok {
		return e.ErrorCode()
	}
	return ""
}

// gapIn tells the answers that concern one file from those that concern all, which fail the attempt: a lapsed
// login of ours must not look like a thousand files that are gone.
func gapIn(err error) error {
	if gap, ok := errors.AsType[gapError](err); ok {
		return gap
	}
	switch code(err) {
	case "NoSuchKey":
		return gapMissing
	case "AccessDenied":
		return gapDenied
	case "InvalidObjectState":
		return gapArchived
	case "PreconditionFailed":
		return gapChanged
	}
	if status(err) == http.StatusPreconditionFailed {
		return gapChanged
	}
	return nil
}

// transient reports whether the same request may be answered otherwise in a moment.
func transient(err error) bool {
	if gapIn(err) != nil || errors.Is(err, context.Canceled) {
		return false
	}
	switch s := status(err); {
	case s == http.StatusMovedPermanently:
		return false
	case s == http.StatusTooManyRequests, s == http.StatusRequestTimeout, s >= 500:
		return true
	case s >= 400:
		switch code(err) {
		case "RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "RequestTimeTooSkewed", "ExpiredToken":
			return true
		}
		return false
	}
	return true // no answer at all, or one that broke off
}

// refused tells what concerns a whole bucket, and no retry helps, from the rest.
func (s sources) refused(f *file, err error) error {
	switch code(err) {
	case "NoSuchBucket", "PermanentRedirect", "AuthorizationHeaderMalformed":
		return contracts.Reject(contracts.SourceNotFound, "bucket %.80q: %w", f.bucket(), withoutURL(err))
	}
	return withoutURL(err)
}

// withoutURL tells what went wrong with a request without where it went: a key is a row's value.
func withoutURL(err error) error {
	if s := status(err); s != 0 {
		return fmt.Errorf("HTTP status %d %s", s, code(err))
	}
	if e, ok := errors.AsType[*net.OpError](err); ok {
		return fmt.Errorf("%s: %w", e.Op, e.Err)
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}
