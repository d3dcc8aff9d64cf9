package uploader

import (
	"context"
	"net/http"

	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/snapfleet/snapfleet/contracts"
)

var tracer = otel.Tracer("github.com/snapfleet/snapfleet/uploader")

// endSpan ends a span with what became of it. Our errors hold no secret and no data.
func endSpan(span trace.Span, err error) {
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
		if r, ok := contracts.AsRejection(err); ok {
			span.SetAttributes(attribute.String("error.type", string(r.Code)))
		}
	}
	span.End()
}

// traced adds a client span to every request of an SDK client, under OpenTelemetry's names. Parts have
// none: a volume has thousands, all alike. A batch of them has one; a part that fails is an event of that.
func traced(stack *middleware.Stack) error {
	return stack.Initialize.Add(middleware.InitializeMiddlewareFunc("snapfleet.trace",
		func(ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler) (middleware.InitializeOutput, middleware.Metadata, error) {
			service, method := awsmiddleware.GetServiceID(ctx), awsmiddleware.GetOperationName(ctx)
			if method == "UploadPart" {
				out, meta, err := next.HandleInitialize(ctx, in)
				metered.request(ctx, service, method, err)
				if err != nil {
					trace.SpanFromContext(ctx).AddEvent("a part failed", trace.WithAttributes(answered(meta, err)...))
				}
				return out, meta, err
			}
			ctx, span := tracer.Start(ctx, service+"."+method, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(
				attribute.String("rpc.system", "aws-api"),
				attribute.String("rpc.service", service),
				attribute.String("rpc.method", method),
				attribute.String("cloud.region", awsmiddleware.GetRegion(ctx))))
			out, meta, err := next.HandleInitialize(ctx, in)
			failure := err
			if isAnswer(ctx, err) {
				failure = nil
			}
			metered.request(ctx, service, method, failure)
			span.SetAttributes(answered(meta, failure)...)
			endSpan(span, bounded(failure))
			return out, meta, err
		}), middleware.After)
}

// refusalWanted marks the context of a request that ought to be refused.
type refusalWanted struct{}

// isAnswer reports whether what the SDK calls an error is the answer that was hoped for, or as good as another: a
// refusal where one is wanted, and that a thing is not there. Whoever minds that fails a span of its own, and a
// delivery without trouble is a trace without errors.
func isAnswer(ctx context.Context, err error) bool {
	if ctx.Value(refusalWanted{}) != nil {
		return isDenied(errorCode(err), errorStatus(err))
	}
	return errorStatus(err) == http.StatusNotFound && errorCode(err) != "NoSuchBucket"
}

func answered(meta middleware.Metadata, err error) []attribute.KeyValue {
	var known []attribute.KeyValue
	if r, ok := awsmiddleware.GetRawResponse(meta).(*smithyhttp.Response); ok && r != nil {
		known = append(known, attribute.Int("http.response.status_code", r.StatusCode))
	}
	if id, ok := awsmiddleware.GetRequestIDMetadata(meta); ok {
		known = append(known, attribute.String("aws.request_id", printable(id, maxName)))
	}
	if err != nil {
		known = append(known, attribute.String("error.type", printable(errorCode(err), maxName)))
	}
	return known
}
