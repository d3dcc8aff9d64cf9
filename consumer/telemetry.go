package consumer

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
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

// meters are the instruments of a worker. Names and units follow OpenTelemetry's conventions; no label has
// a value that a tenant could choose.
type meters struct {
	attempts metric.Int64Counter
	outcomes metric.Int64Counter
	refusals metric.Int64Counter
	duration metric.Float64Histogram
	waited   metric.Float64Histogram
	busy     metric.Int64UpDownCounter
	paused   metric.Int64Gauge
	bytes    metric.Int64Counter
	rows     metric.Int64Counter
	checks   metric.Int64Counter
	broken   metric.Int64Gauge
}

func newMeters() meters {
	m := otel.Meter(scope)
	var s meters
	// The errors of these constructors are about malformed names; the no-op instrument is usable.
	s.attempts, _ = m.Int64Counter("snapfleet.job.steps", metric.WithDescription("Steps of jobs that ended in an error, by step and by what was done about it."), metric.WithUnit("{step}"))
	s.outcomes, _ = m.Int64Counter("snapfleet.jobs", metric.WithDescription("Jobs that ended, by outcome and code."), metric.WithUnit("{job}"))
	s.refusals, _ = m.Int64Counter("snapfleet.requests.refused", metric.WithDescription("Requests that were dead-lettered without becoming a job, by code."), metric.WithUnit("{request}"))
	s.duration, _ = m.Float64Histogram("snapfleet.job.duration", metric.WithDescription("From the first worker's claim to the outcome."), metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400))
	s.waited, _ = m.Float64Histogram("snapfleet.queue.wait", metric.WithDescription("From the publishing of a request to its first claim."), metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 14400, 86400))
	s.busy, _ = m.Int64UpDownCounter("snapfleet.slots.busy", metric.WithDescription("Jobs under way in this worker."), metric.WithUnit("{job}"))
	s.paused, _ = m.Int64Gauge("snapfleet.paused", metric.WithDescription("Pauses in force that this worker knows of: of the fleet, and of how many tenants."), metric.WithUnit("{pause}"))
	s.bytes, _ = m.Int64Counter("snapfleet.delivered.bytes", metric.WithDescription("Bytes of archives delivered."), metric.WithUnit("By"))
	s.rows, _ = m.Int64Counter("snapfleet.delivered.rows", metric.WithDescription("Rows delivered."), metric.WithUnit("{row}"))
	s.checks, _ = m.Int64Counter("snapfleet.checks", metric.WithDescription("Checks of destinations, by result."), metric.WithUnit("{check}"))
	s.broken, _ = m.Int64Gauge("snapfleet.destinations.broken", metric.WithDescription("Destinations whose last check failed, as far as this worker knows."), metric.WithUnit("{destination}"))
	return s
}

func (s meters) refused(ctx context.Context, code contracts.Code) {
	s.refusals.Add(ctx, 1, metric.WithAttributes(attribute.String("code", string(code))))
}

// pausedNow is whether the fleet is paused, and how many pauses hold in all.
func (s meters) pausedNow(fleet bool, all int) {
	scopes := map[string]int{"fleet": 0, "tenant": all}
	if fleet {
		scopes["fleet"], scopes["tenant"] = 1, all-1
	}
	for scope, n := range scopes {
		s.paused.Record(context.Background(), int64(n), metric.WithAttributes(attribute.String("scope", scope)))
	}
}

// lateness is what the worker that looked at the schedules last found. The others say 0: whoever adds up, or takes the
// largest, is right but for the moment in which the turn passes on.
type lateness struct{ overdue, oldest atomic.Int64 }

func newLateness() *lateness {
	l := &lateness{}
	m := otel.Meter(scope)
	overdue, _ := m.Int64ObservableGauge("snapfleet.tenants.overdue", metric.WithDescription("Tenants with a schedule that nothing was delivered to for one and a half intervals. 0 from all workers but the one that looked last."), metric.WithUnit("{tenant}"))
	oldest, _ := m.Int64ObservableGauge("snapfleet.delivery.age", metric.WithDescription("Age of the last delivery to that tenant with a schedule whose last delivery is oldest. 0 from all workers but the one that looked last."), metric.WithUnit("s"))
	_, _ = m.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		o.ObserveInt64(overdue, l.overdue.Load())
		o.ObserveInt64(oldest, l.oldest.Load())
		return nil
	}, overdue, oldest)
	return l
}

func (l *lateness) note(overdue int, oldest time.Duration) {
	l.overdue.Store(int64(overdue))
	l.oldest.Store(int64(oldest.Seconds()))
}

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
	c.meters.attempts.Add(ctx, 1, metric.WithAttributes(attribute.String("step", step), attribute.String("act", what)))
	c.log(ctx).Warn().Str("step", step).Str("act", what).Dur("delay", v.delay).Int("errors", r.Errors).Err(err).Msg("a step of the job failed")
}

// noteEnd counts a job that has just ended.
func (c *Consumer) noteEnd(ctx context.Context, r record, o contracts.Outcome) {
	labels := metric.WithAttributes(attribute.String("outcome", string(o.Kind)))
	if o.Reason != nil {
		labels = metric.WithAttributes(attribute.String("outcome", string(o.Kind)), attribute.String("code", string(o.Reason.Code)))
	}
	c.meters.outcomes.Add(ctx, 1, labels)
	trace.SpanFromContext(ctx).SetAttributes(attribute.String("snapfleet.outcome", string(o.Kind)))
	took := time.Since(r.CreatedAt)
	c.meters.duration.Record(ctx, max(0, took.Seconds()), metric.WithAttributes(attribute.String("outcome", string(o.Kind))))
	line := c.log(ctx).Info().Str("outcome", string(o.Kind)).Int("attempts", o.Attempts).Dur("took", took)
	if t := o.Totals; t != nil {
		c.meters.bytes.Add(ctx, t.Bytes)
		c.meters.rows.Add(ctx, t.Rows)
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
