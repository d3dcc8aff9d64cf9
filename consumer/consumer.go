package consumer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"
	"go.opentelemetry.io/otel/metric"

	"github.com/snapfleet/snapfleet/contracts"
)

// Config is how a worker works. A zero field means its default.
type Config struct {
	// Worker is this worker's name in records and logs, for people. Default "worker".
	Worker string
	// Version is the build's, for people who look at the workers' service. Default: unknown.
	Version string
	// Slots is how many jobs are worked on at once. Default 2: while one waits for a bucket, the other
	// keeps the cores busy. Memory and database connections grow with it.
	Slots int
	// PerTenant is how many jobs of one tenant the whole fleet works on at once, more or less. Default 2: a
	// tenant that asks for a thousand snapshots waits for itself and not the others for it. Of a worker's slots
	// one tenant never has the last, if there is more than one.
	PerTenant int
	// Grace is how long jobs under way may go on after Run's context is done, before they are given back.
	// Default 10 min. Whatever stops the process has to allow a little more.
	Grace time.Duration

	// Heartbeat (H) is how often a job's owner renews its hold. Default 10 s.
	Heartbeat time.Duration
	// Fence (F) is how long after the start of its last successful renewal an owner stops by itself.
	// Default 30 s; more than twice Heartbeat, so that one lost renewal does no harm.
	Fence time.Duration
	// Observe (O) is how long a record must stand still before another worker takes over. Default 60 s;
	// more than Fence, and no more than the AckWait of the queue's consumer.
	Observe time.Duration
	// Stall ends an attempt whose progress has not moved for so long. Default 10 min.
	Stall time.Duration

	// Attempts is how often a job may end in an error before it is given up. Default 8.
	Attempts int
	// Crashes is how often an owner may go silent over one job before it is given up. Default 20.
	Crashes int
	// Deadline is how long after it was first seen a job is given up. Default 72 h.
	Deadline time.Duration
	// MaxAge is the age at which a request that nobody has begun is refused. Default 7 days.
	MaxAge time.Duration
	// RetryBase and RetryMax bound the delay before the n-th retry, which is random below
	// min(RetryBase * 2^n, RetryMax). Default 30 s and 1 h.
	RetryBase, RetryMax time.Duration

	// SweepEvery is how often the fleet looks for uploads that ended jobs have left behind. Default 5 min.
	SweepEvery time.Duration
	// SweepAfter and SweepAgain are how long after its end a job is looked after. Default 15 min and 24 h:
	// a paused worker may wake up and create an upload, but not after its credentials have expired.
	SweepAfter, SweepAgain time.Duration

	// CheckEvery is how often the fleet tries each tenant's destination without anybody asking. Default 24 h.
	// Negative: never.
	CheckEvery time.Duration
	// CheckAhead is how long before a scheduled snapshot the fleet tries its destination: long enough for a customer
	// to mend it. Default 12 h. Negative: never.
	CheckAhead time.Duration
	// ScheduleEvery is how often the fleet looks for runs of schedules that nobody has asked for, and for tenants whose
	// deliveries are overdue. Default 1 min.
	ScheduleEvery time.Duration
	// MeasureEvery is how often one worker of the fleet measures the queue. Default 30 s.
	MeasureEvery time.Duration
	// TenantMetrics is for how many tenants with a schedule, those whose last delivery is oldest, its age is a metric of
	// their own. Default none: it is a label for each of them.
	TenantMetrics int

	// Probes try what this worker needs for itself, before it takes its first job and again and again. Default: nothing is
	// tried, and a fault shows when a job meets it.
	Probes []Probe
	// Databases are the names of the databases that this worker reads, and Endpoints the S3 endpoints other than AWS that
	// it may talk to. A worker that lacks what another worker of the fleet has is not ready. Default: nothing is compared.
	Databases, Endpoints []string

	// Domain is that of the JetStream that holds the streams. Default: the account's own.
	Domain string
	// Webhook is where outcomes and notices are posted. Default: nowhere.
	Webhook *Webhook

	// Log gets one line for each thing that an operator may act on. Default: none.
	Log zerolog.Logger
}

func (c Config) withDefaults() Config {
	duration := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	number := func(n *int, v int) {
		if *n == 0 {
			*n = v
		}
	}
	if c.Worker == "" {
		c.Worker = "worker"
	}
	if c.Version == "" {
		c.Version = "unknown"
	}
	number(&c.Slots, 2)
	number(&c.PerTenant, 2)
	number(&c.Attempts, 8)
	number(&c.Crashes, 20)
	duration(&c.Grace, 10*time.Minute)
	duration(&c.Heartbeat, 10*time.Second)
	duration(&c.Fence, 30*time.Second)
	duration(&c.Observe, 60*time.Second)
	duration(&c.Stall, 10*time.Minute)
	duration(&c.Deadline, 72*time.Hour)
	duration(&c.MaxAge, 7*24*time.Hour)
	duration(&c.RetryBase, 30*time.Second)
	duration(&c.RetryMax, time.Hour)
	duration(&c.SweepEvery, 5*time.Minute)
	duration(&c.SweepAfter, 15*time.Minute)
	duration(&c.SweepAgain, 24*time.Hour)
	duration(&c.CheckEvery, 24*time.Hour)
	duration(&c.CheckAhead, 12*time.Hour)
	duration(&c.ScheduleEvery, time.Minute)
	duration(&c.MeasureEvery, 30*time.Second)
	return c
}

// validate is about the constants whose order the protocol rests on, and about what cannot be meant.
func (c Config) validate(ackWait time.Duration) error {
	switch {
	case c.Slots < 1, c.PerTenant < 1, c.Attempts < 1, c.Crashes < 1:
		return fmt.Errorf("slots (%d), per tenant (%d), attempts (%d) and crashes (%d) must be at least 1", c.Slots, c.PerTenant, c.Attempts, c.Crashes)
	case c.Heartbeat <= 0 || 2*c.Heartbeat >= c.Fence:
		return fmt.Errorf("twice the heartbeat (%v) must be less than the fence (%v)", c.Heartbeat, c.Fence)
	case c.Fence >= c.Observe:
		return fmt.Errorf("the fence (%v) must be less than the observation time (%v)", c.Fence, c.Observe)
	case c.Observe > ackWait:
		return fmt.Errorf("the observation time (%v) must not be more than the queue's ack wait (%v)", c.Observe, ackWait)
	case c.RetryBase <= 0 || c.RetryMax < c.RetryBase:
		return fmt.Errorf("the retry delay must grow from more than 0 (%v) to at least that (%v)", c.RetryBase, c.RetryMax)
	case c.Grace < 0, c.Stall <= 0, c.Deadline <= 0, c.MaxAge <= 0, c.SweepEvery <= 0, c.SweepAfter <= 0, c.SweepAgain < c.SweepAfter, c.ScheduleEvery <= 0, c.MeasureEvery <= 0:
		return errors.New("grace, stall, deadline, max age, sweep, schedule and measure times must be positive, and the second sweep not before the first")
	case c.TenantMetrics < 0 || c.TenantMetrics > maxTenantMetrics:
		return fmt.Errorf("tenant metrics (%d) must be 0 to %d", c.TenantMetrics, maxTenantMetrics)
	}
	return nil
}

// Consumer works jobs off. Make it with [New] and call Run once.
type Consumer struct {
	work    Work
	cfg     Config
	queue   queue
	records records
	fleet   board // what the fleet knows between two jobs
	ledger  ledger
	tenants registry
	// fleetKey signs what is delivered, and proves what is found.
	fleetKey contracts.FleetKey
	seen     *observations
	crowd    *crowd
	routes   *circuits
	pauses   *pauses
	meters   meters
	poster   *poster // nil without a webhook

	spacing          spacing
	refusals, delays logLimit // of what is logged about refused and about postponed requests

	calendar calendar // nil: there are no schedules
	lateness *lateness
	survey   func(context.Context) (*census, error) // nil: there is no queue to measure
	measured *measured
	callback metric.Registration // of what watch registers; nil in memory

	jobs      context.Context // what jobs run under; outlives Run's context by the grace period
	interrupt context.CancelCauseFunc
	leaving   context.Context // done soon after Run's context: for what another worker can do as well
	leave     context.CancelCauseFunc
	faults    *faults
	broken    atomic.Pointer[error] // why the queue cannot be read, for Ready
	connected func() bool
	upcoming  func(context.Context) (map[string]time.Time, error) // each tenant's next scheduled snapshot; nil: there are none
	nc        *nats.Conn                                          // to be asked on; nil in memory, where nobody asks
}

// New checks that the streams, buckets and the queue's consumer are as [Setup] makes them, and that cfg fits
// them. The error says what to change.
func New(ctx context.Context, nc *nats.Conn, work Work, cfg Config) (*Consumer, error) {
	cfg = cfg.withDefaults()
	js, err := JetStream(nc, cfg.Domain)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(checkPayload(nc), verify(ctx, js)); err != nil {
		return nil, err
	}
	q, ackWait, err := openQueues(ctx, nc, js, cfg.Heartbeat)
	if err != nil {
		return nil, err
	}
	if err := cfg.validate(ackWait); err != nil {
		return nil, fmt.Errorf("worker settings: %w", err)
	}
	jobs, err := openCells(ctx, js, contracts.JobBucket)
	if err != nil {
		return nil, err
	}
	pieces, err := openCells(ctx, js, contracts.PieceBucket)
	if err != nil {
		return nil, err
	}
	between, err := openCells(ctx, js, contracts.FleetBucket)
	if err != nil {
		return nil, err
	}
	tenants, err := OpenRegistry(ctx, js)
	if err != nil {
		return nil, err
	}
	outcomes, err := openLedger(ctx, js)
	if err != nil {
		return nil, err
	}
	c := assemble(work, cfg, q, records{jobs, pieces}, between, outcomes, resolved{tenants})
	c.connected, c.nc = nc.IsConnected, nc
	rightsOf(nc)
	if c.fleetKey, err = tenants.fleetKey(ctx); err != nil {
		return nil, err
	}
	if cfg.Webhook != nil {
		if c.poster, err = openPoster(ctx, nc, js, cfg.Webhook, cfg.Log); err != nil {
			return nil, err
		}
	}
	schedules := &Schedules{js: js, jobs: &Jobs{js: js, records: records{cells: jobs}, ledger: outcomes, cells: jobs, fleet: between, pauses: &Pauses{between}}, fleet: between}
	c.calendar, c.upcoming = schedules, schedules.Upcoming
	c.survey = surveyor{schedules.jobs, c.pauses}.survey
	c.watch()
	return c, nil
}

// assemble puts a consumer together over any ports.
func assemble(work Work, cfg Config, q queue, jobs records, fleet board, l ledger, tenants registry) *Consumer {
	c := &Consumer{
		work: work, cfg: cfg, queue: q, records: jobs, fleet: fleet, ledger: l, tenants: tenants,
		seen: newObservations(), crowd: newCrowd(cfg), meters: newMeters(cfg), connected: func() bool { return true },
		lateness: newLateness(cfg.TenantMetrics), measured: newMeasured(),
	}
	c.routes = newCircuits(cfg, c.crowd.busy)
	c.pauses = newPauses(cfg, c.meters.pausedNow)
	c.jobs, c.interrupt = context.WithCancelCause(context.Background())
	c.leaving, c.leave = context.WithCancelCause(context.Background())
	c.faults = newFaults(cfg)
	return c
}

// Ready reports whether this worker can take jobs; the error says why not. A fault of the worker itself is a
// [contracts.WorkerFault]. [Consumer.Degraded] are the faults in spite of which it is ready.
func (c *Consumer) Ready() error {
	if !c.connected() {
		if c.nc != nil && c.nc.LastError() != nil {
			return fmt.Errorf("not connected to NATS: %w", c.nc.LastError())
		}
		return errors.New("not connected to NATS")
	}
	if !c.faults.tried() {
		return errors.New("the worker is still trying its logins and its AWS identity")
	}
	serious, _ := c.faults.list()
	if len(serious) > 0 {
		errs := make([]error, len(serious))
		for i, f := range serious {
			errs[i] = f
		}
		return errors.Join(errs...)
	}
	if err := c.broken.Load(); err != nil {
		return *err
	}
	return nil
}

// Degraded are the faults of this worker that keep it from some jobs only, such as a login at one of several databases.
func (c *Consumer) Degraded() []*contracts.WorkerFault {
	_, partial := c.faults.list()
	return partial
}

// Interrupt ends the grace period: jobs under way are given back now.
func (c *Consumer) Interrupt() { c.interrupt(ErrShutdown) }

// leaveTime is how long after the end of Run's context a worker goes on with what another worker can do as well: to
// look into a bucket, to remove the uploads of a job that was given up.
const leaveTime = 5 * time.Second

// ErrClosed is why Run ends when the connection to NATS was closed for good: nothing opens it again.
var ErrClosed = errors.New("the connection to NATS was closed")

// Run works jobs off until ctx is done. Then it takes no more, lets those under way go on for the grace
// period, gives back what is left, and returns nil: a broker that is away is waited for, and Ready says so.
// A connection that is closed while ctx is not done ends it with [ErrClosed].
func (c *Consumer) Run(ctx context.Context) (err error) {
	defer c.interrupt(ErrShutdown)
	defer c.unregister()
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	defer c.whenClosed(ctx, end)()
	defer func() {
		if cause := context.Cause(ctx); errors.Is(cause, ErrClosed) {
			err = cause
		}
	}()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(leaveTime, func() { c.leave(ErrShutdown) }) })()
	var around sync.WaitGroup
	around.Go(func() { c.probe(ctx) })
	around.Go(func() { c.announceSettings(ctx) })
	around.Go(func() { c.observe(ctx) })
	around.Go(func() { c.hear(ctx) })
	around.Go(func() { c.janitor(ctx) })
	around.Go(func() { c.keepTime(ctx) })
	around.Go(func() { c.takeCensus(ctx) })
	around.Go(func() { c.offer(ctx) })
	around.Go(func() { c.checkups(ctx) })
	around.Go(c.watchPauses(ctx))
	posting, stop := context.WithCancel(context.WithoutCancel(ctx)) // also what the last jobs have to tell
	defer stop()
	if c.poster != nil {
		around.Go(func() { c.poster.run(posting) })
	}

	var busy sync.WaitGroup
	select {
	case <-c.faults.first: // a worker that cannot log in anywhere touches no job
	case <-ctx.Done():
	}
	c.feed(ctx, &busy)

	grace := time.AfterFunc(c.cfg.Grace, c.Interrupt)
	defer grace.Stop()
	busy.Wait()
	stop()
	around.Wait()
	return nil
}

// watchPauses returns once it is known who is paused, or ctx is done. What it returns keeps up with that.
func (c *Consumer) watchPauses(ctx context.Context) (keepUp func()) {
	known, over := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(over)
		c.pauses.follow(ctx, c.fleet, 5*c.cfg.Observe, func(err error) {
			select {
			case <-known: // from now on what was known is gone by
				return
			default:
			}
			if c.noteQueue(err); err == nil {
				close(known)
			}
		})
	}()
	select {
	case <-known:
	case <-ctx.Done():
	}
	return func() { <-over }
}

// feed takes a free slot first and a message second, so that no message ever waits, unheld, inside a busy
// worker.
func (c *Consumer) feed(ctx context.Context, busy *sync.WaitGroup) {
	slots, refusing := make(chan struct{}, c.cfg.Slots), make(chan struct{}, refusers)
	for {
		select {
		case slots <- struct{}{}:
		default:
			c.queue.Return()
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
		}
		// One message now and then all the same: a job whose deadline is over has to end, also when this worker is broken.
		c.faults.wait(ctx, c.cfg.Observe/2)
		m, err := c.queue.Next(ctx)
		if ctx.Err() != nil {
			c.queue.Return()
			if m != nil {
				_ = m.Nak(0) // not begun: somebody else's, at once
			}
			return
		}
		c.noteQueue(err)
		if m == nil {
			<-slots
			if err != nil {
				pause(ctx, time.Second)
			}
			continue
		}
		if unreadable(m) { // the next message need not wait for it
			refusing <- struct{}{}
			<-slots
			busy.Go(func() {
				defer func() { <-refusing }()
				c.refuse(c.jobs, m)
			})
			continue
		}
		busy.Go(func() {
			defer func() { <-slots }()
			c.serve(c.jobs, m)
		})
	}
}

// noteQueue keeps the reason for Ready, and logs when it changes.
func (c *Consumer) noteQueue(err error) {
	was := c.broken.Load()
	if err == nil {
		if was != nil {
			c.broken.Store(nil)
			c.cfg.Log.Info().Msg("the request queue can be read again")
		}
		return
	}
	c.broken.Store(&err)
	if was == nil {
		c.cfg.Log.Warn().Err(err).Msg("the request queue cannot be read, trying on")
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
