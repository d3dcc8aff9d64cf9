package consumer

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/snapfleet/snapfleet/contracts"
)

const scope = "github.com/snapfleet/snapfleet/consumer"

// The members of the baggage that a request, its job's spans, and its outcome have.
const (
	BaggageTenant = "snapfleet.tenant"
	BaggageJob    = "snapfleet.job"
)

func tracer() trace.Tracer { return otel.Tracer(scope) }

// startJob continues the publisher's trace. Whatever else the publisher sends along ends here: what a job carries on is
// set by who has checked it.
func (c *Consumer) startJob(ctx context.Context, m message) (context.Context, trace.Span) {
	ctx = propagation.TraceContext{}.Extract(ctx, m.Header())
	return tracer().Start(ctx, "process snapshot request", trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(
		attribute.String("messaging.system", "nats"),
		attribute.String("messaging.operation.type", "process"),
		attribute.String("messaging.destination.name", contracts.RequestStream),
		attribute.String("messaging.consumer.group.name", contracts.WorkersName),
		attribute.String("messaging.client.id", c.cfg.Worker),
		attribute.Int("messaging.message.body.size", len(m.Data())),
		attribute.Int64("snapfleet.delivered", int64(min(m.Delivered(), 1<<62))),
		attribute.Float64("snapfleet.queue.seconds", time.Since(m.Published()).Seconds()),
	))
}

func (c *Consumer) nameJob(ctx context.Context, req contracts.Request) context.Context {
	trace.SpanFromContext(ctx).SetAttributes(attribute.String("snapfleet.tenant", req.Tenant), attribute.String("snapfleet.job", req.Job))
	log := c.cfg.Log.With().Str("tenant", req.Tenant).Str("job", req.Job)
	if sc := trace.SpanContextFromContext(ctx); sc.HasTraceID() {
		log = log.Str("trace_id", sc.TraceID().String())
	}
	l := log.Logger()
	return l.WithContext(WithBaggage(ctx, req))
}

// WithBaggage makes everything that is done for the request say whose it is, here and wherever its messages go: the
// members snapfleet.tenant and snapfleet.job, of a request that is valid. There are no others.
func WithBaggage(ctx context.Context, req contracts.Request) context.Context {
	var b baggage.Baggage
	for key, value := range map[string]string{BaggageTenant: req.Tenant, BaggageJob: req.Job} {
		m, err := baggage.NewMemberRaw(key, value)
		if err == nil {
			b, err = b.SetMember(m)
		}
		if err != nil { // a name that cannot be carried: nobody finds the job by it
			otel.Handle(fmt.Errorf("baggage of job %s of tenant %s: %w", req.Job, req.Tenant, err))
		}
	}
	return baggage.ContextWithBaggage(ctx, b)
}

// noteWait makes a span of the time in which a request that is claimed for the first time lay in the queue. It stands
// beside the job's, under the publisher's: without one, the job's own span has to tell.
func (c *Consumer) noteWait(ctx context.Context, m message, until time.Time) {
	publisher := propagation.TraceContext{}.Extract(ctx, m.Header())
	if since := m.Published(); trace.SpanContextFromContext(publisher).IsRemote() && since.Before(until) { // the broker's clock
		_, span := tracer().Start(publisher, "wait in queue", trace.WithTimestamp(since), trace.WithAttributes(
			attribute.String("messaging.system", "nats"),
			attribute.String("messaging.destination.name", contracts.RequestStream),
			attribute.Int64("snapfleet.delivered", int64(min(m.Delivered(), 1<<62)))))
		span.End(trace.WithTimestamp(until))
	}
}

// noteClaim logs, counts, and links a later attempt to the trace of the first one.
func (c *Consumer) noteClaim(ctx context.Context, r record) {
	span := trace.SpanFromContext(ctx)
	span.SetAttributes(attribute.Int("snapfleet.attempt", r.Attempt), attribute.Int64("snapfleet.epoch", int64(r.Epoch)))
	if r.Epoch > 1 && r.Trace != "" {
		first := propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{"traceparent": r.Trace})
		if sc := trace.SpanContextFromContext(first); sc.IsValid() && sc.SpanID() != span.SpanContext().SpanID() {
			span.AddLink(trace.Link{SpanContext: sc, Attributes: []attribute.KeyValue{attribute.String("snapfleet.link", "first attempt")}})
		}
	}
	if r.Epoch == 1 {
		c.meters.waited.Record(ctx, max(0, time.Since(r.Request.RequestedAt).Seconds()))
	}
	c.log(ctx).Info().Str("state", string(r.State)).Int("attempt", r.Attempt).Uint64("epoch", r.Epoch).Msg("job claimed")
}

// noteOwner says whose the job was until now, if it is taken over.
func noteOwner(ctx context.Context, r record) {
	if r.Owner != "" {
		trace.SpanFromContext(ctx).SetAttributes(attribute.String("snapfleet.taken_over_from", r.Worker))
	}
}

// endClaim says what came of it: a hold on the job, or the message's fate.
func endClaim(span trace.Span, l *lease, f fate) {
	came := "claimed"
	if l == nil {
		came = f.end.String()
	}
	span.SetAttributes(attribute.String("snapfleet.claim", came))
	span.End()
}

// startSend is the span of one message that is published. subject is a subject space: span names are few.
func startSend(ctx context.Context, subject string) (context.Context, trace.Span) {
	return tracer().Start(ctx, "send "+subject, trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(
		attribute.String("messaging.system", "nats"),
		attribute.String("messaging.operation.type", "send"),
		attribute.String("messaging.destination.template", subject)))
}

// startStep is a span of the job's span. The attempt's own context takes it over by spanInto.
func (c *Consumer) startStep(ctx context.Context, name string, r record) (context.Context, trace.Span) {
	return tracer().Start(ctx, name, trace.WithAttributes(
		attribute.String("snapfleet.state", string(r.State)), attribute.String("snapfleet.attempt.id", r.AttemptID)))
}

// spanInto returns ctx with the span of from.
func spanInto(ctx, from context.Context) context.Context {
	return trace.ContextWithSpan(ctx, trace.SpanFromContext(from))
}

func endStep(span trace.Span, err error) {
	if err != nil {
		span.SetStatus(codes.Error, firstLine(err))
	}
	span.End()
}

func (c *Consumer) startSettle(ctx context.Context, m message, f fate) (context.Context, trace.Span) {
	if req, _, err := asked(m.Subject(), m.Data(), m.Published()); err == nil {
		ctx = WithBaggage(ctx, req)
	}
	return tracer().Start(ctx, f.end.String(), trace.WithAttributes(
		attribute.String("messaging.operation.type", "settle"), attribute.String("snapfleet.delay", strconv.FormatFloat(f.delay.Seconds(), 'f', 1, 64)+"s")))
}

// noteError is the one place where an error of a job is logged.
func (c *Consumer) noteError(ctx context.Context, r record, step string, v verdict, err error) {
	what := map[act]string{letGo: "let go", release: "released", retry: "retry", restart: "restart", giveUp: "given up"}[v.act]
	c.meters.step(ctx, step, strings.ReplaceAll(what, " ", "_"))
	if errors.Is(err, ErrLeaseLost) {
		c.meters.lost.Add(ctx, 1)
	}
	c.log(ctx).Warn().Str("step", step).Str("act", what).Dur("delay", v.delay).Int("errors", r.Errors).Err(err).Msg("a step of the job failed")
}

// noteEnd counts a job that has just ended.
func (c *Consumer) noteEnd(ctx context.Context, r record, o contracts.Outcome) {
	trace.SpanFromContext(ctx).SetAttributes(attribute.String("snapfleet.outcome", string(o.Kind)))
	took := time.Since(r.CreatedAt)
	c.meters.ended(ctx, o, took)
	line := c.log(ctx).Info().Str("outcome", string(o.Kind)).Int("attempts", o.Attempts).Dur("took", took)
	if t := o.Totals; t != nil {
		line = line.Int("tables", t.Tables).Int64("rows", t.Rows).Int64("bytes", t.Bytes).Int("gaps", t.Gaps)
	}
	if o.Reason != nil {
		line = line.Str("code", string(o.Reason.Code)).Str("reason", o.Reason.What)
	}
	line.Msg("job ended")
}

// traceOf is the trace of ctx, as a record keeps it.
func traceOf(ctx context.Context) (id, parent string) {
	sc := trace.SpanContextFromContext(ctx)
	if !sc.IsValid() {
		return "", ""
	}
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return sc.TraceID().String(), carrier["traceparent"]
}

// traceHeader carries the trace of ctx on to whoever reads what is published.
func traceHeader(ctx context.Context) nats.Header {
	header := contracts.Header{}
	propagation.TraceContext{}.Inject(ctx, header)
	propagation.Baggage{}.Inject(ctx, header)
	return nats.Header(header)
}

// log is the logger of the job in ctx.
func (c *Consumer) log(ctx context.Context) *zerolog.Logger {
	if l := zerolog.Ctx(ctx); l.GetLevel() != zerolog.Disabled {
		return l
	}
	return &c.cfg.Log
}
