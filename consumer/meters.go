package consumer

import (
	"context"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/snapfleet/snapfleet/contracts"
)

// meters are the instruments for what happens in this worker. What the whole fleet has in common is measured by one
// worker of it, see census.go. Names and units follow OpenTelemetry's conventions; no label has a value that a tenant
// could choose. deploy/metrics.md lists all of them.
type meters struct {
	claims   metric.Int64Counter
	steps    metric.Int64Counter
	lost     metric.Int64Counter
	outcomes metric.Int64Counter
	refusals metric.Int64Counter
	dropped  metric.Int64Counter
	duration metric.Float64Histogram
	phases   metric.Float64Histogram
	waited   metric.Float64Histogram
	busy     metric.Int64UpDownCounter
	slots    metric.Int64Gauge
	paused   metric.Int64Gauge
	bytes    metric.Int64Counter
	rows     metric.Int64Counter
	swept    metric.Int64Counter
	checks   metric.Int64Counter
	broken   metric.Int64Gauge
}

func newMeters(cfg Config) meters {
	m := otel.Meter(scope)
	var s meters
	// The errors of these constructors are about malformed names; the no-op instrument is usable.
	s.claims, _ = m.Int64Counter("snapfleet.job.claims", metric.WithDescription("Claims of jobs by this worker: the first one of a job, one again after a delay, or a takeover from a worker that went silent."), metric.WithUnit("{claim}"))
	s.steps, _ = m.Int64Counter("snapfleet.job.steps", metric.WithDescription("Steps of jobs that ended, by step and by result: ok, or what was done about the error."), metric.WithUnit("{step}"))
	s.lost, _ = m.Int64Counter("snapfleet.leases.lost", metric.WithDescription("Jobs that this worker let go of because it could not renew its hold in time, or somebody else had taken over."), metric.WithUnit("{lease}"))
	s.outcomes, _ = m.Int64Counter("snapfleet.jobs", metric.WithDescription("Jobs that ended, by outcome and code."), metric.WithUnit("{job}"))
	s.refusals, _ = m.Int64Counter("snapfleet.requests.refused", metric.WithDescription("Requests that were dead-lettered without becoming a job, by code."), metric.WithUnit("{request}"))
	s.dropped, _ = m.Int64Counter("snapfleet.requests.dropped", metric.WithDescription("Refused requests that NATS would not keep as a dead letter, and that are gone. The log names each of them."), metric.WithUnit("{request}"))
	s.duration, _ = m.Float64Histogram("snapfleet.job.duration", metric.WithDescription("From the first worker's claim to the outcome."), metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400))
	s.phases, _ = m.Float64Histogram("snapfleet.job.phase.duration", metric.WithDescription("Phases of attempts that were gone through to their end."), metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 180, 600, 1800, 3600, 10800, 43200))
	s.waited, _ = m.Float64Histogram("snapfleet.queue.wait", metric.WithDescription("From the publishing of a request to its first claim."), metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 14400, 86400))
	s.busy, _ = m.Int64UpDownCounter("snapfleet.slots.busy", metric.WithDescription("Jobs under way in this worker."), metric.WithUnit("{job}"))
	s.slots, _ = m.Int64Gauge("snapfleet.slots.limit", metric.WithDescription("Jobs that this worker works on at once at the most."), metric.WithUnit("{job}"))
	s.paused, _ = m.Int64Gauge("snapfleet.paused", metric.WithDescription("Pauses in force that this worker knows of: of the fleet, and of how many tenants."), metric.WithUnit("{pause}"))
	s.bytes, _ = m.Int64Counter("snapfleet.delivered.bytes", metric.WithDescription("Bytes of archives delivered."), metric.WithUnit("By"))
	s.rows, _ = m.Int64Counter("snapfleet.delivered.rows", metric.WithDescription("Rows delivered."), metric.WithUnit("{row}"))
	s.swept, _ = m.Int64Counter("snapfleet.janitor.jobs", metric.WithDescription("Ended jobs that the janitor has looked after, by result."), metric.WithUnit("{job}"))
	s.checks, _ = m.Int64Counter("snapfleet.checks", metric.WithDescription("Checks of destinations, by result."), metric.WithUnit("{check}"))
	s.broken, _ = m.Int64Gauge("snapfleet.destinations.broken", metric.WithDescription("Destinations whose last check failed, as far as this worker knows."), metric.WithUnit("{destination}"))
	s.begin(cfg)
	return s
}

// What the labels are called.
const (
	claimFirst, claimAgain, claimTakeover = "first", "again", "takeover"
	stepOK                                = "ok"
)

// begin makes each counter say 0, so that the first event of a kind is a rise and not a beginning: nobody can tell the
// rate of a series that was not there before.
func (s meters) begin(cfg Config) {
	ctx := context.Background()
	s.slots.Record(ctx, int64(cfg.Slots))
	for _, kind := range []string{claimFirst, claimAgain, claimTakeover} {
		s.claim(ctx, kind, 0)
	}
	for _, step := range []string{"prepare", "complete", "seal", "announce", "give up"} {
		for _, result := range []string{stepOK, "let_go", "released", "retry", "restart", "given_up"} {
			s.steps.Add(ctx, 0, labels("step", step, "result", result))
		}
	}
	for _, kind := range []contracts.OutcomeKind{contracts.Delivered, contracts.DeliveredWithGaps} {
		s.outcomes.Add(ctx, 0, labels("outcome", string(kind)))
	}
	for _, code := range contracts.Codes() {
		s.outcomes.Add(ctx, 0, labels("outcome", string(contracts.Failed), "code", string(code)))
	}
	for _, code := range []contracts.Code{contracts.InvalidRequest, contracts.RequestTooLarge, contracts.UnsupportedVersion, contracts.RequestExpired, contracts.JobConflict} {
		s.refusals.Add(ctx, 0, labels("code", string(code)))
	}
	for _, result := range []contracts.CheckResult{contracts.CheckOK, contracts.CheckFailed} {
		s.checks.Add(ctx, 0, labels("result", string(result)))
	}
	for _, result := range []string{"ok", "failed"} {
		s.swept.Add(ctx, 0, labels("result", result))
	}
	for _, c := range []metric.Int64Counter{s.lost, s.bytes, s.rows, s.dropped} {
		c.Add(ctx, 0)
	}
}

// labels are names and values in turn.
func labels(pairs ...string) metric.MeasurementOption {
	var set []attribute.KeyValue
	for i := 0; i < len(pairs); i += 2 {
		set = append(set, attribute.String(pairs[i], pairs[i+1]))
	}
	return metric.WithAttributes(set...)
}

func (s meters) claim(ctx context.Context, kind string, n int64) {
	s.claims.Add(ctx, n, labels("kind", kind))
}

func (s meters) step(ctx context.Context, step, result string) {
	s.steps.Add(ctx, 1, labels("step", step, "result", result))
}

// phase is what an attempt has gone through. The two steps that follow on it are phases, too.
func (s meters) phase(ctx context.Context, phase string, took time.Duration) {
	s.phases.Record(ctx, max(0, took.Seconds()), labels("phase", phase))
}

func (s meters) refused(ctx context.Context, code contracts.Code) {
	s.refusals.Add(ctx, 1, labels("code", string(code)))
}

// ended is of a job that took so long.
func (s meters) ended(ctx context.Context, o contracts.Outcome, took time.Duration) {
	kind := labels("outcome", string(o.Kind))
	s.duration.Record(ctx, max(0, took.Seconds()), kind)
	if o.Reason != nil {
		kind = labels("outcome", string(o.Kind), "code", string(o.Reason.Code))
	}
	s.outcomes.Add(ctx, 1, kind)
	if t := o.Totals; t != nil {
		s.bytes.Add(ctx, t.Bytes)
		s.rows.Add(ctx, t.Rows)
	}
}

// pausedNow is whether the fleet is paused, and how many pauses hold in all.
func (s meters) pausedNow(fleet bool, all int) {
	scopes := map[string]int{"fleet": 0, "tenant": all}
	if fleet {
		scopes["fleet"], scopes["tenant"] = 1, all-1
	}
	for scope, n := range scopes {
		s.paused.Record(context.Background(), int64(n), labels("scope", scope))
	}
}

// unregister ends what is asked for at each scrape: a worker that has ended reports nothing.
func (c *Consumer) unregister() {
	for _, r := range []metric.Registration{c.callback, c.lateness.callback, c.measured.callback} {
		if r != nil {
			_ = r.Unregister() // its error is about a meter that is shut down
		}
	}
}

// watch registers what is asked for at each scrape. It tells of this worker alone.
func (c *Consumer) watch() {
	m := otel.Meter(scope)
	ready, _ := m.Int64ObservableGauge("snapfleet.worker.ready", metric.WithDescription("1 while this worker can take jobs, as /readyz says; else 0."))
	reconnects, _ := m.Int64ObservableCounter("snapfleet.nats.reconnects", metric.WithDescription("Times that this worker has lost its connection to NATS and found another."), metric.WithUnit("{reconnect}"))
	faulty, _ := m.Int64ObservableGauge("snapfleet.worker.faults", metric.WithDescription("Faults of this worker itself, by part: nats, aws_identity, database, endpoint, house_role. 0: the part works, as far as is known."), metric.WithUnit("{fault}"))
	pauseAge, _ := m.Float64ObservableGauge("snapfleet.pause.age", metric.WithDescription("Since when the oldest pause in force holds, of the fleet and of tenants; 0: there is none."), metric.WithUnit("s"))
	c.callback, _ = m.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		can := int64(1)
		if c.Ready() != nil {
			can = 0
		}
		o.ObserveInt64(ready, can)
		for part, n := range c.faults.count() {
			o.ObserveInt64(faulty, n, labels("part", string(part)))
		}
		o.ObserveInt64(reconnects, int64(c.nc.Stats().Reconnects))
		fleet, tenants := c.pauses.oldest(time.Now())
		o.ObserveFloat64(pauseAge, fleet.Seconds(), labels("scope", "fleet"))
		o.ObserveFloat64(pauseAge, tenants.Seconds(), labels("scope", "tenant"))
		return nil
	}, ready, faulty, reconnects, pauseAge)
}
