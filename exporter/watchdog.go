package exporter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/cenkalti/backoff/v4"
)

// least is how many bytes of a body have to come within [Attachments].Silence. Fewer are no progress: a store that sends
// a byte now and then would keep an attempt busy for ever.
const least = 64 << 10

// Answers of the store that are no file are held in memory whole, so they are bounded.
const (
	longestError = 1 << 20
	longestList  = 8 << 20 // a thousand keys of 1,024 bytes, escaped
)

var errAnswerTooLong = errors.New("the store's answer is longer than any of S3's")

// silentError is a store that accepted a request, and did not go on.
type silentError struct{ after time.Duration }

func (e silentError) Error() string {
	return fmt.Sprintf("the store accepted a request and sent no answer, or less than %d bytes of a file, for %v", least, e.after)
}

// tryOnce ends a request when the store is silent for too long. Without, one that is accepted and never answered would be
// neither tried again nor given up.
func (s sources) tryOnce(parent context.Context, request func(context.Context, *watchdog) error) error {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	silent := silentError{s.silence}
	w := &watchdog{silence: s.silence, left: s.silence}
	w.timer = time.AfterFunc(s.silence, func() { cancel(silent) })
	defer w.timer.Stop()
	err := request(ctx, w)
	_, permanent := errors.AsType[*backoff.PermanentError](err)
	if err != nil && !permanent && parent.Err() == nil && errors.Is(context.Cause(ctx), silent) {
		return silent
	}
	return err
}

// watchdog counts the time that one request waits for the store, and not that which we take ourselves.
type watchdog struct {
	timer   *time.Timer
	silence time.Duration
	left    time.Duration // for the next bytes
	got     int           // of them
}

// body is a body that is watched. The time runs while it is read.
func (w *watchdog) body(r io.Reader) io.Reader {
	w.timer.Stop()
	w.left = w.silence
	return watchedBody{r, w}
}

type watchedBody struct {
	r io.Reader
	w *watchdog
}

func (b watchedBody) Read(p []byte) (int, error) {
	began := time.Now()
	b.w.timer.Reset(max(b.w.left, 0))
	n, err := b.r.Read(p)
	b.w.timer.Stop()
	b.w.left -= time.Since(began)
	if b.w.got += n; b.w.got >= least {
		b.w.left, b.w.got = b.w.silence, 0
	}
	return n, err
}

// once turns the SDK's own retries off, and bounds what it reads.
func once(o *s3.Options) {
	o.Retryer = aws.NopRetryer{}
	o.HTTPClient = boundedClient{o.HTTPClient}
}

// boundedClient bounds every answer but a file, which is streamed.
type boundedClient struct{ s3.HTTPClient }

func (c boundedClient) Do(r *http.Request) (*http.Response, error) {
	answer, err := c.HTTPClient.Do(r)
	if err != nil {
		return answer, err
	}
	switch {
	case answer.StatusCode >= http.StatusMultipleChoices:
		answer.Body = &boundedBody{answer.Body, longestError}
	case r.URL.Query().Has("list-type"):
		answer.Body = &boundedBody{answer.Body, longestList}
	}
	return answer, nil
}

type boundedBody struct {
	io.ReadCloser
	left int
}

func (b *boundedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left -= n; b.left < 0 {
		return 0, errAnswerTooLong
	}
	return n, err
}
