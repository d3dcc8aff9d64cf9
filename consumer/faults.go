package consumer

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/snapfleet/snapfleet/contracts"
)

// What is about the worker itself never ends a job. A step that fails with a [contracts.WorkerFault] gives its job back
// without blame. The worker keeps the fault, says it once, is not ready, and leaves alone the jobs that need the broken
// part, until a probe finds the part well again. Other workers take the jobs.
//
// Rules for what is broken:
//   - NATS, the AWS identity, or the logins at all databases: the worker is not ready and takes no jobs. It looks at one
//     message every Observe/2 all the same, to end a job whose deadline is over.
//   - the login at one of several databases, or the house's role: the worker is ready, and says that it is degraded. It
//     leaves the jobs alone that need it.
//   - an endpoint or a database that other workers of the fleet have and this one lacks: its settings are wrong, so it is
//     not ready. It takes all other jobs.

// Probe tries one part of a worker.
type Probe struct {
	Part contracts.FaultPart
	// Name says which one, where there are several; see [contracts.WorkerFault].
	Name string
	// Try returns nil when the part works, and a [contracts.WorkerFault] when it does not. Any other error says nothing
	// about the part: a server that does not answer is no fault of the worker.
	Try func(ctx context.Context) error
}

const (
	// probeEvery is how often a part is tried that works.
	probeEvery = time.Minute
	// probeFirst bounds the first round: nothing but a refusal may keep a worker from starting.
	probeFirst = 5 * time.Second
	// probeTime bounds every later one.
	probeTime = 15 * time.Second
	// probeAgain and probeAgainMax bound the wait between two tries of a part that does not work.
	probeAgain, probeAgainMax = time.Second, 30 * time.Second
	// sayAgain is how long the same fault is not logged again.
	sayAgain = 10 * time.Minute
)

type faultKey struct {
	part contracts.FaultPart
	name string
}

// standingFault is one that this worker has.
type standingFault struct {
	what  *contracts.WorkerFault
	until time.Time // when it is forgotten unless it shows again; zero: a probe ends it
}

// faults are all of a worker. They are safe for concurrent use.
type faults struct {
	cfg    Config
	first  chan struct{} // closed when everything was tried once
	kick   chan struct{} // asks for a round of probes now
	healed chan struct{} // gets a token when a fault is gone

	mu   sync.Mutex
	now  map[faultKey]standingFault
	said map[faultKey]time.Time
}

func newFaults(cfg Config) *faults {
	f := &faults{
		cfg: cfg, first: make(chan struct{}), kick: make(chan struct{}, 1), healed: make(chan struct{}, 1),
		now: map[faultKey]standingFault{}, said: map[faultKey]time.Time{},
	}
	if len(cfg.Probes) == 0 {
		close(f.first)
	}
	return f
}

// tried reports whether everything was tried once.
func (f *faults) tried() bool {
	select {
	case <-f.first:
		return true
	default:
		return false
	}
}

// note keeps a fault. It reports whether it has to be said.
func (f *faults) note(what *contracts.WorkerFault, until time.Time) (say bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := faultKey{what.Part, what.Name}
	f.now[key] = standingFault{what, until}
	if say = time.Since(f.said[key]) > sayAgain; say {
		f.said[key] = time.Now()
	}
	return say
}

// clear forgets a fault. It reports whether there was one.
func (f *faults) clear(part contracts.FaultPart, name string) bool {
	f.mu.Lock()
	_, was := f.now[faultKey{part, name}]
	delete(f.now, faultKey{part, name})
	f.mu.Unlock()
	if was {
		select {
		case f.healed <- struct{}{}:
		default:
		}
	}
	return was
}

// list are the faults for which the worker is not ready, and those for which it is degraded, in a fixed order.
func (f *faults) list() (serious, partial []*contracts.WorkerFault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.expire()
	for _, one := range f.now {
		switch part := one.what.Part; {
		case part == contracts.FaultHouseRole, part == contracts.FaultDatabase && f.reads(one.what.Name) && !f.noDatabase():
			partial = append(partial, one.what)
		default:
			serious = append(serious, one.what)
		}
	}
	order := func(a, b *contracts.WorkerFault) int {
		parts := contracts.FaultParts()
		return cmp.Or(slices.Index(parts, a.Part)-slices.Index(parts, b.Part), strings.Compare(a.Name, b.Name))
	}
	slices.SortFunc(serious, order)
	slices.SortFunc(partial, order)
	return serious, partial
}

// count is how many faults there are of each part.
func (f *faults) count() map[contracts.FaultPart]int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.expire()
	n := map[contracts.FaultPart]int64{}
	for _, part := range contracts.FaultParts() {
		n[part] = 0
	}
	for key := range f.now {
		n[key.part]++
	}
	return n
}

// stops reports whether there is a fault with which no job can be worked on.
func (f *faults) stops() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.expire()
	for key := range f.now {
		if key.part == contracts.FaultNATS || key.part == contracts.FaultIdentity {
			return true
		}
	}
	return f.noDatabase()
}

// reads reports whether the worker's settings have that database.
func (f *faults) reads(database string) bool {
	return len(f.cfg.Databases) == 0 || slices.Contains(f.cfg.Databases, database)
}

// noDatabase reports whether no login at a database works. It must be called with mu held.
func (f *faults) noDatabase() bool {
	names := f.cfg.Databases
	if len(names) == 0 {
		names = []string{contracts.DefaultDatabase}
	}
	return !slices.ContainsFunc(names, func(name string) bool {
		_, broken := f.now[faultKey{contracts.FaultDatabase, name}]
		return !broken
	})
}

// expire forgets what has not shown for long. It must be called with mu held.
func (f *faults) expire() {
	for key, one := range f.now {
		if !one.until.IsZero() && time.Now().After(one.until) {
			delete(f.now, key)
		}
	}
}

// bars is the fault that keeps this worker from a job of the tenant, or nil. Once its data is uploaded a job needs no
// database.
func (f *faults) bars(t contracts.Tenant, uploaded bool) *contracts.WorkerFault {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.expire()
	needs := []faultKey{{contracts.FaultNATS, ""}, {contracts.FaultIdentity, ""}}
	if !uploaded {
		needs = append(needs, faultKey{contracts.FaultDatabase, cmp.Or(t.Database, contracts.DefaultDatabase)})
	}
	if t.Destination.Endpoint != "" {
		needs = append(needs, faultKey{contracts.FaultEndpoint, t.Destination.Endpoint})
	}
	if t.Destination.House() {
		needs = append(needs, faultKey{contracts.FaultHouseRole, ""})
	}
	for _, key := range needs {
		if one, ok := f.now[key]; ok {
			return one.what
		}
	}
	return nil
}

// none reports whether the worker has no fault at all.
func (f *faults) none() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.expire()
	return len(f.now) == 0
}

// wait returns at once unless a fault stops all work: then when one is gone, or after d.
func (f *faults) wait(ctx context.Context, d time.Duration) {
	if !f.stops() {
		return
	}
	late := time.NewTimer(d)
	defer late.Stop()
	for f.stops() {
		select {
		case <-f.healed:
		case <-late.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// noteFault keeps a fault that a job, the connection or a probe has met, says it once, and asks for a round of probes.
func (c *Consumer) noteFault(f *contracts.WorkerFault) {
	var until time.Time
	if !slices.ContainsFunc(c.cfg.Probes, func(p Probe) bool { return p.Part == f.Part && p.Name == f.Name }) {
		until = time.Now().Add(2*c.cfg.Observe + nextWait)
	}
	c.keepFault(f, until)
	select {
	case c.faults.kick <- struct{}{}:
	default:
	}
}

// keepFault says a fault that was not said lately.
func (c *Consumer) keepFault(f *contracts.WorkerFault, until time.Time) {
	if c.faults.note(f, until) {
		advice := f.Advice()
		c.cfg.Log.Error().Str("part", string(f.Part)).Str("error", f.Summary()).Str("cause", advice.Cause).Str("fix", advice.Fix).
			Msg("this worker has a fault: jobs that need this part are left to other workers")
	}
}

// probe tries the worker's parts until ctx is done.
func (c *Consumer) probe(ctx context.Context) {
	if len(c.cfg.Probes) == 0 {
		return
	}
	limit, wait := probeFirst, probeEvery
	for ctx.Err() == nil {
		c.probeAll(ctx, limit)
		if limit = probeTime; !c.faults.tried() {
			close(c.faults.first)
		}
		switch {
		case c.faults.none():
			wait = probeEvery/2 + rand.N(probeEvery)
		case wait > probeAgainMax:
			wait = probeAgain
		default:
			wait = min(2*wait, probeAgainMax)
		}
		late := time.NewTimer(wait)
		select {
		case <-late.C:
		case <-c.faults.kick:
			pause(ctx, probeAgain/2)
		case <-ctx.Done():
		}
		late.Stop()
	}
}

// probeAll is one round. What is neither well nor refused within the limit stays as it was.
func (c *Consumer) probeAll(ctx context.Context, limit time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var all sync.WaitGroup
	for _, p := range c.cfg.Probes {
		all.Go(func() {
			err := p.Try(ctx)
			if f, ok := contracts.AsWorkerFault(err); ok && ctx.Err() == nil {
				c.keepFault(f, time.Time{})
				return
			}
			if err == nil && c.faults.clear(p.Part, p.Name) {
				c.cfg.Log.Info().Str("part", string(p.Part)).Str("name", p.Name).Msg("the worker's fault is gone")
			}
		})
	}
	all.Wait()
}

// barred reports whether a fault keeps this worker from the job, and for how long its message should stay in the queue,
// for other workers to take. A job that only has to end is not barred. A request without a record that no other worker
// has taken either gets its record, so that people see why it waits.
func (c *Consumer) barred(ctx context.Context, m message, req contracts.Request, r record, readErr error) (delay time.Duration, barred bool) {
	fresh := errors.Is(readErr, errNoCell)
	switch {
	case c.faults.none(), readErr != nil && !fresh, fresh && m.Delivered() > 2:
		return 0, false
	case !fresh && (r.Cancel || r.State != running && !r.State.visible() || time.Now().After(r.Deadline)):
		return 0, false
	}
	t, err := c.tenants.Get(ctx, req.Tenant)
	if err != nil || c.faults.bars(t, r.State.visible()) == nil {
		return 0, false
	}
	return c.cfg.RetryBase/8 + rand.N(c.cfg.RetryBase/8+1), true
}

// ownFault is err, or the worker's fault that it turns out to be: a refusal of what this worker's settings lack is about
// the worker when another worker of the fleet has it. It is kept.
func (c *Consumer) ownFault(ctx context.Context, tenant string, err error) error {
	var busy Busy
	rejection, rejected := contracts.AsRejection(err)
	switch f, ok := contracts.AsWorkerFault(err); {
	case ok:
		c.noteFault(f)
		return err
	case rejected && rejection.Code == contracts.EndpointNotAllowed:
		t, readErr := c.tenants.Get(ctx, tenant)
		if endpoint := t.Destination.Endpoint; readErr == nil && c.lacks(ctx, settingEndpoint, endpoint, c.cfg.Endpoints) {
			err = contracts.Fault(contracts.FaultEndpoint, endpoint, "this worker may not talk to it, and another worker may")
		}
	case errors.As(err, &busy) && busy.Busy():
		t, readErr := c.tenants.Get(ctx, tenant)
		if database := cmp.Or(t.Database, contracts.DefaultDatabase); readErr == nil && c.lacks(ctx, settingDatabase, database, c.cfg.Databases) {
			err = contracts.Fault(contracts.FaultDatabase, database, "%w; another worker of the fleet knows it", err)
		}
	}
	if f, ok := contracts.AsWorkerFault(err); ok {
		c.noteFault(f)
	}
	return err
}

// What workers tell each other about their settings.
const (
	settingEndpoint = "endpoint"
	settingDatabase = "database"
	// announceEvery is how often they do, and announceLife how long it counts.
	announceEvery, announceLife = 10 * time.Minute, 30 * time.Minute
)

// announcement is the value of a setting's key. Clocks of other hosts are believed: a wrong one makes a refusal final, or
// keeps a job waiting, for half an hour.
type announcement struct {
	Value  string    `json:"value"`
	Worker string    `json:"worker"`
	At     time.Time `json:"at"`
}

func announcementKey(setting, value string) string {
	return "setting." + setting + "." + digestOf([]byte(value))[:32]
}

// announceSettings writes for the fleet what this worker has, until ctx is done.
func (c *Consumer) announceSettings(ctx context.Context) {
	if len(c.cfg.Endpoints)+len(c.cfg.Databases) == 0 {
		return
	}
	for ctx.Err() == nil {
		wait := announceEvery
		for setting, values := range map[string][]string{settingEndpoint: c.cfg.Endpoints, settingDatabase: c.cfg.Databases} {
			for _, value := range values {
				body, _ := json.Marshal(announcement{value, c.cfg.Worker, time.Now().UTC()}) // strings and a time
				if err := c.fleet.Put(ctx, announcementKey(setting, value), body); err != nil {
					wait = min(wait, 10*time.Second)
				}
			}
		}
		pause(ctx, wait)
	}
}

// lacks reports whether another worker of the fleet has said lately that it has the value, and this one has it not.
func (c *Consumer) lacks(ctx context.Context, setting, value string, own []string) bool {
	if value == "" || slices.Contains(own, value) {
		return false
	}
	body, _, err := c.fleet.Get(ctx, announcementKey(setting, value))
	var a announcement
	return err == nil && json.Unmarshal(body, &a) == nil && a.Value == value && time.Since(a.At).Abs() < announceLife
}

// whenClosed ends a run, with the reason, when the connection is closed for good. What is under way cannot be recorded any
// more, so it ends, too.
func (c *Consumer) whenClosed(ctx context.Context, end context.CancelCauseFunc) (stop func()) {
	if c.nc == nil {
		return func() {}
	}
	closed := c.nc.StatusChanged(nats.CLOSED)
	quit := make(chan struct{})
	over := func() {
		if ctx.Err() == nil {
			err := ErrClosed
			if last := c.nc.LastError(); last != nil {
				err = fmt.Errorf("%w: %w", ErrClosed, last)
			}
			end(err)
			c.interrupt(err)
		}
	}
	go func() {
		select {
		case <-closed:
			over()
		case <-quit:
		}
	}()
	if c.nc.IsClosed() {
		over()
	}
	forget := rightsOf(c.nc).handle(func(e *NoRight) bool { c.refused(e); return false })
	return func() {
		forget()
		close(quit)
		if !c.nc.IsClosed() {
			c.nc.RemoveStatusListener(closed)
		}
	}
}

// refused keeps a right that this worker lacks. Nothing that its user may not do is left out without harm.
func (c *Consumer) refused(e *NoRight) {
	own := strings.HasPrefix(e.Subject, inboxOf(c.nc))
	if !own && !slices.ContainsFunc([]string{"$JS.", "$KV.", "$SRV", "snapshot."}, func(space string) bool { return strings.HasPrefix(e.Subject, space) }) {
		c.cfg.Log.Warn().Err(e).Msg("NATS refuses something") // an answer to a question that came too late
		return
	}
	c.noteFault(&contracts.WorkerFault{Part: contracts.FaultNATS, Err: e})
	if e.Op == "subscribe" {
		// The server has dropped the subscription, and the library never asks for it again.
		time.AfterFunc(max(c.cfg.Observe/2, time.Second), func() {
			if c.nc.IsConnected() && c.leaving.Err() == nil {
				_ = c.nc.ForceReconnect() // fails only when it is closed
			}
		})
	}
}

// whileStaying is ctx until this worker leaves, for work that another worker can do as well.
func (c *Consumer) whileStaying(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(c.leaving, func() { cancel(ErrShutdown) })
	return ctx, func() { stop(); cancel(nil) }
}
