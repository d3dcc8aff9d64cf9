package uploader

import (
	"context"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// meters are what the customers' side is like, all customers together.
type meters struct {
	requests metric.Int64Counter
	bytes    metric.Int64Counter
	swept    metric.Int64Counter
}

var metered = newMeters()

func newMeters() meters {
	m := otel.Meter("github.com/snapfleet/snapfleet/uploader")
	var s meters
	// The errors of these constructors are about malformed names; the no-op instrument is usable.
	s.requests, _ = m.Int64Counter("snapfleet.aws.requests", metric.WithDescription("Requests to STS and S3, each try of one counted, by operation and result. TrustCheck is an AssumeRole that must be refused, and is ok when it is."), metric.WithUnit("{request}"))
	s.bytes, _ = m.Int64Counter("snapfleet.upload.bytes", metric.WithDescription("Bytes of parts that stores have taken, whatever became of them."), metric.WithUnit("By"))
	s.swept, _ = m.Int64Counter("snapfleet.uploads.swept", metric.WithDescription("Uploads that an attempt which is over had left in its job's folder, and that were aborted."), metric.WithUnit("{upload}"))
	return s
}

// What becomes of a request. What the store calls the error would be a label of its choice.
const (
	requestOK         = "ok"
	requestRefused    = "refused"    // with a status of 4xx
	requestFailed     = "failed"     // with another one
	requestUnanswered = "unanswered" // no status at all
)

// begin makes the counters say 0 for what every worker does sooner or later: nobody can tell the rate of a series that
// was not there before.
func (s meters) begin(ctx context.Context) {
	for service, methods := range map[string][]string{"STS": {"AssumeRole", "TrustCheck"}, "S3": {"CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "PutObject"}} {
		for _, method := range methods {
			for _, result := range []string{requestOK, requestRefused, requestFailed, requestUnanswered} {
				s.requests.Add(ctx, 0, requestLabels(service, method, result))
			}
		}
	}
	s.bytes.Add(ctx, 0)
	s.swept.Add(ctx, 0)
}

func requestLabels(service, method, result string) metric.MeasurementOption {
	return metric.WithAttributes(attribute.String("service", service), attribute.String("method", method), attribute.String("result", result))
}

// request counts one that was answered so; err is nil where the answer is as good as another, see [isAnswer].
func (s meters) request(ctx context.Context, service, method string, err error) {
	if ctx.Value(refusalWanted{}) != nil {
		method = "TrustCheck"
	}
	result := requestOK
	switch status := errorStatus(err); {
	case err == nil:
	case status >= 400 && status < 500:
		result = requestRefused
	case status > 0:
		result = requestFailed
	default:
		result = requestUnanswered
	}
	s.requests.Add(ctx, 1, requestLabels(service, method, result))
}
