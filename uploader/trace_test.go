package uploader

import (
	"fmt"
	"strings"
	"testing"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	testbucket "github.com/snapfleet/snapfleet/test/bucket"
)

// One trace tells what a delivery did, and no secret.
func TestTrace(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	c.inject("UploadPart", testbucket.Fault{Match: volumes, Times: 1, Reply: testbucket.Reply{Status: 503, Code: "SlowDown"}})
	ctx, root := otel.Tracer("test").Start(t.Context(), "job")
	d, err := c.uploader().Begin(ctx, c.attempt, &journal{})
	if err != nil {
		t.Fatal(err)
	}
	m, archives := archives()
	for _, a := range archives {
		if err := d.Write(ctx, a); err != nil {
			t.Fatal(err)
		}
	}
	r, err := d.Receipt(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.uploader().Commit(ctx, c.attempt, r); err != nil {
		t.Fatal(err)
	}
	root.End()

	names, failures := map[string]int{}, 0
	for _, s := range spans.Ended() {
		if s.SpanContext().TraceID() != root.SpanContext().TraceID() {
			continue // another test's
		}
		names[s.Name()]++
		for _, e := range s.Events() {
			if e.Name == "a part failed" {
				failures++
			}
		}
		attributes := fmt.Sprint(s.Attributes(), s.Events(), s.Status())
		if strings.Contains(attributes, c.to().ExternalID) || strings.Contains(attributes, c.worker.SecretKey) {
			t.Errorf("%s holds a secret: %s", s.Name(), attributes)
		}
		if s.SpanKind() == trace.SpanKindClient && !strings.Contains(attributes, "http.response.status_code") {
			t.Errorf("%s: %s", s.Name(), attributes)
		}
		if s.Status().Code == codes.Error { // the customer's role has refused us, as it should, and an upload is gone
			t.Errorf("%s is called a failure: %s", s.Name(), attributes)
		}
	}
	for name, n := range map[string]int{
		"preflight": 1, "upload volume": 2, "upload parts": 2, "complete volumes": 1, "write manifest": 1, "S3.CompleteMultipartUpload": 2,
		"S3.CreateMultipartUpload": 3, "S3.PutObject": 1, "STS.AssumeRole": 4, "S3.UploadPart": 0,
	} {
		if names[name] != n {
			t.Errorf("%d spans of %s, want %d", names[name], name, n)
		}
	}
	if failures != 1 {
		t.Errorf("%d failed parts were noted", failures)
	}
}
