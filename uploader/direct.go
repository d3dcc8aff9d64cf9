package uploader

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"

	"github.com/snapfleet/snapfleet/contracts"
)

// Bounds of what a store or STS may answer. The SDK reads most bodies whole, and an error's in any case.
const (
	// maxAnswerHeaders is the most bytes of an answer's status line and headers. S3 sends 2 KB of metadata at most.
	maxAnswerHeaders = 64 << 10
	// maxErrorBytes is the largest body of an error. S3's are below 1 KB.
	maxErrorBytes = 64 << 10
	// maxAnswerBytes is the largest body of any other answer, but of an object's. The largest that is asked for is a page
	// of 1,000 parts, some 450 KB, or of pageSize keys, of 1,024 bytes each, most of them escaped.
	maxAnswerBytes = 1 << 20
	// pageSize is how many names are asked for in one page of a list.
	pageSize = 150
	// maxPages bounds a list.
	maxPages = 1000
)

// errAnswerTooLong says that an answer is larger than any that S3 or STS gives.
var errAnswerTooLong = errors.New("the answer is larger than any of S3 or STS")

// direct makes a client follow no redirect, and bounds what it is answered. Where a delivery goes is the tenant's
// record's to say, over TLS and within AllowEndpoints, and no answer's: the host that a request is sent on to would be
// believed, also about what is there, and could be inside our own network.
func direct(c aws.HTTPClient) aws.HTTPClient {
	if c == nil {
		c = awshttp.NewBuildableClient()
	}
	var client http.Client
	switch c := c.(type) {
	case *http.Client: // whose transport reads 10 MB of headers unless it says otherwise
		client = *c
	case *awshttp.BuildableClient: // follows 307 and 308
		transport := c.GetTransport() // a clone
		transport.MaxResponseHeaderBytes = maxAnswerHeaders
		client = http.Client{Transport: transport, Timeout: c.GetTimeout()}
	default:
		return boundedClient{c}
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return boundedClient{&client}
}

// boundedClient bounds the bodies of answers.
type boundedClient struct{ client aws.HTTPClient }

// objectWanted marks the context of a request whose answer is an object. Its sender bounds what is read.
type objectWanted struct{}

// Do implements [aws.HTTPClient].
func (c boundedClient) Do(r *http.Request) (*http.Response, error) {
	answer, err := c.client.Do(r)
	if err != nil || answer.Body == nil {
		return answer, err
	}
	headers := 0
	for name, values := range answer.Header {
		for _, v := range values {
			headers += len(name) + len(v)
		}
	}
	if headers > maxAnswerHeaders {
		answer.Body.Close()
		return nil, fmt.Errorf("%w: more than %d bytes of headers", errAnswerTooLong, maxAnswerHeaders)
	}
	most := int64(maxAnswerBytes)
	switch {
	case answer.StatusCode >= 300:
		most = maxErrorBytes
	case r.Context().Value(objectWanted{}) != nil:
		return answer, nil
	}
	if answer.ContentLength > most && r.Method != http.MethodHead { // which has the length of what it leaves out
		answer.Body.Close()
		return nil, tooLong(most)
	}
	answer.Body = &boundedBody{ReadCloser: answer.Body, left: most, most: most}
	return answer, nil
}

func tooLong(most int64) error {
	return fmt.Errorf("%w: more than %d bytes", errAnswerTooLong, most)
}

// boundedBody fails after so many bytes. It does not end there: a list that is cut would look like a shorter one.
type boundedBody struct {
	io.ReadCloser
	left, most int64
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, tooLong(b.most)
	}
	if int64(len(p)) > b.left+1 { // one byte more distinguishes an end from a cut
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return n - 1, tooLong(b.most)
	}
	return n, err
}

// goesOn checks that a list goes on: that it has not come to maxPages, and that the store names a place that is not the
// one before.
func goesOn(n int, was, next string) error {
	switch {
	case next == "" || next == was:
		return contracts.Reject(contracts.StoreUnusable, "a list is truncated, and does not say where it goes on")
	case n >= maxPages:
		return contracts.Reject(contracts.StoreUnusable, "a list has more than %d pages of %d", n, pageSize)
	}
	return nil
}

// wantObject marks the context of a request for an object.
func wantObject(ctx context.Context) context.Context {
	return context.WithValue(ctx, objectWanted{}, true)
}
