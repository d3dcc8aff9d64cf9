package consumer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
)

// A memory is everything outside the workers, in memory and in virtual time: the queue, the records, the
// outcomes, the dead letters, the customer's bucket. It checks the promises after every single change.
type memory struct {
	t  *testing.T
	mu sync.Mutex

	cells    map[string]cell
	revision uint64
	watchers map[context.Context]func(string, uint64)
	hearers  map[context.Context]func(string)

	messages []*queued
	ackWait  time.Duration
	stir     chan struct{} // closed, and made anew, when a message becomes visible earlier than it was to
	outcomes map[string]contracts.Outcome
	dead     []string // "tenant.job code"
	refused  []contracts.Refusal
	tenants  map[string]contracts.Tenant
	house    *contracts.House

	folders   map[string]*folder            // by "tenant/job/"
	manifests map[string]string             // by folder: as it was first seen
	decoded   map[string]contracts.Manifest // by its bytes
	trail     []string

	unchecked bool // a test is about something else, and about many jobs

	asking sync.Mutex // held while faults are thrown

	ctx   context.Context // done when the test is over: what stops the workers that employ has started
	stop  context.CancelFunc
	waits []func()

	shelf   shelf // what the fleet knows between two jobs
	notices []contracts.Notice

	schedules map[string]contracts.Schedule
	asked     map[string]time.Time // ids of what was asked for besides
	fired     []string             // keys of the runs that the server has asked for
	down      bool                 // the server, as far as schedules go
}

type cell struct {
	value    []byte
	revision uint64
}

type queued struct {
	subject   string
	tenant    string
	key       string // of the job's record
	data      []byte
	published time.Time
	visible   time.Time
	delivered uint64
	gone      bool
}

// folder is a job's folder in the customer's bucket.
type folder struct {
	uploads  map[string]upload // by id: started, and neither completed nor aborted
	objects  map[string]string // name -> attempt
	manifest []byte
	next     int
}

type upload struct {
	name, attempt string
	parts         uint // a bit for each
}

func newMemory(t *testing.T) *memory {
	w := &memory{
		t: t, cells: map[string]cell{}, watchers: map[context.Context]func(string, uint64){}, hearers: map[context.Context]func(string){}, ackWait: 60 * time.Second, stir: make(chan struct{}),
		outcomes: map[string]contracts.Outcome{}, folders: map[string]*folder{}, manifests: map[string]string{}, decoded: map[string]contracts.Manifest{},
		tenants:   map[string]contracts.Tenant{},
		schedules: map[string]contracts.Schedule{}, asked: map[string]time.Time{},
	}
	w.addTenant("acme")
	w.ctx, w.stop = context.WithCancel(context.WithoutCancel(t.Context()))
	return w
}

// inMemory runs a test in virtual time over a world of its own, and stops the workers that it has employed. A sleep in it
// takes no time.
func inMemory(t *testing.T, test func(t *testing.T, w *memory)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newMemory(t)
		defer w.rest()
		test(t, w)
	})
}

// employ starts a worker that goes on until the test is over.
func (n *node) employ(e exports, cfg Config) *node {
	n.waits = append(n.waits, n.run(n.memory.ctx, e, cfg))
	return n
}

// rest stops all that were employed.
func (w *memory) rest() {
	w.stop()
	for _, wait := range w.waits {
		wait()
	}
	w.waits = nil
}

// change makes one change, and checks the world after it.
func (w *memory) change(what string, f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
	if w.unchecked {
		return
	}
	w.trail = append(w.trail, time.Now().Format("15:04:05.000 ")+what)
	w.check()
}

// check holds the safety promises against the world as it is now (I1-I5, I8 of the catalogue).
func (w *memory) check() {
	w.checkRuns()
	for dir, f := range w.folders {
		o, over := w.outcomes[strings.ReplaceAll(strings.TrimSuffix(dir, "/"), "/", ".")]
		if first, ok := w.manifests[dir]; ok && string(f.manifest) != first {
			w.fail("%s: the manifest has changed", dir)
		}
		switch {
		case f.manifest != nil:
			w.manifests[dir] = string(f.manifest)
			m := w.decode(f.manifest)
			for _, v := range m.Volumes {
				if f.objects[v.Name] != m.Attempt {
					w.fail("%s: the manifest of %s stands, and %s is of %q", dir, m.Attempt, v.Name, f.objects[v.Name])
				}
			}
			if over && (!o.Kind.OK() || o.Attempt != m.Attempt || o.ManifestSHA256 != digestOf(f.manifest)) {
				w.fail("%s: the outcome is %s of attempt %q, and the manifest of %s stands", dir, o.Kind, o.Attempt, m.Attempt)
			}
		case over && o.Kind.OK():
			w.fail("%s: the outcome is %s, and there is no manifest", dir, o.Kind)
		}
	}
	for _, m := range w.messages {
		if !m.gone {
			continue
		}
		if _, over := w.outcomes[m.key]; !over && !w.buried(m.key) {
			w.fail("the request for %s is gone, and there is neither outcome nor dead letter", m.key)
		}
	}
}

// buried reports whether there is a dead letter for the job.
func (w *memory) buried(key string) bool {
	return slices.ContainsFunc(w.dead, func(s string) bool { return strings.HasPrefix(s, key+" ") })
}

// decode reads a manifest that was made by us, once.
func (w *memory) decode(data []byte) contracts.Manifest {
	m, ok := w.decoded[string(data)]
	if !ok {
		m = must(contracts.DecodeManifest(data))
		w.decoded[string(data)] = m
	}
	return m
}

func (w *memory) fail(format string, args ...any) {
	w.t.Errorf(format, args...)
	w.t.Log(strings.Join(w.trail[max(0, len(w.trail)-300):], "\n"))
	w.trail = append(w.trail, "VIOLATION")
	w.t.FailNow()
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func (w *memory) publish(req contracts.Request) {
	data := must(json.Marshal(req))
	w.change("publish "+req.Job, func() {
		m := &queued{subject: contracts.RequestSubject(req.Tenant), tenant: req.Tenant, data: data, published: time.Now(), key: recordKey(req.Tenant, req.Job)}
		w.messages = append(w.messages, m)
		w.show(m, 0)
	})
}

// folder must be called inside change.
func (w *memory) folder(dir string) *folder {
	if w.folders[dir] == nil {
		w.folders[dir] = &folder{uploads: map[string]upload{}, objects: map[string]string{}}
	}
	return w.folders[dir]
}

// settled reports whether every message is gone.
func (w *memory) settled() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !slices.ContainsFunc(w.messages, func(m *queued) bool { return !m.gone })
}

func (w *memory) record(tenant, job string) record {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.recordAt(recordKey(tenant, job))
}

func (w *memory) recordAt(key string) (r record) {
	_ = json.Unmarshal(w.cells[key].value, &r)
	return r
}

// A node is one worker's view of the world: what it calls passes through reach, which is where faults live.
type node struct {
	*memory
	name string
	ctx  context.Context // done when the node is killed: from then on it reaches nothing
	kill context.CancelFunc

	upcoming func(context.Context) (map[string]time.Time, error) // nil: nothing is scheduled

	faults func(op string) fault // nil: none; asked about one call at a time
	gate   chan struct{}         // not nil while the node is stopped, as by SIGSTOP; guarded by mu
}

// fault is what happens to one call.
type fault struct {
	kind  faultKind
	delay time.Duration
}

type faultKind int

const (
	none    faultKind = iota
	refuse            // it fails
	deceive           // it fails, but took effect
	die               // the node is killed before it
	dieLate           // the node is killed after it took effect
	late              // it fails at once, and takes effect after the delay, whatever has become of the node
)

var (
	errFault  = errors.New("injected fault")
	errKilled = errors.New("node killed")
)

func (w *memory) node(name string) *node {
	n := &node{memory: w, name: name}
	n.ctx, n.kill = context.WithCancel(context.Background())
	return n
}

// reach makes one call to the world, with its fault.
func (n *node) reach(ctx context.Context, op string, effect func() error) error {
	_, err := call(ctx, n, op, func() (struct{}, error) { return struct{}{}, effect() })
	return err
}

// call is reach for what has an answer. The effect may come later than the answer, and must touch nothing but the
// world.
func call[T any](ctx context.Context, n *node, op string, effect func() (T, error)) (answer T, err error) {
	var nothing T
	sent := n.passGate()
	f := n.fault(op)
	switch f.kind {
	case die:
		n.kill()
	case late:
		time.AfterFunc(f.delay, func() { n.change(n.name+" "+op+" (late)", func() { _, _ = effect() }) })
		return nothing, fmt.Errorf("%s, no answer: %w", op, errFault)
	}
	if f.delay > 0 {
		pause(ctx, f.delay)
	}
	if n.ctx.Err() != nil {
		return nothing, errKilled
	}
	if ctx.Err() != nil && !sent {
		return nothing, context.Cause(ctx)
	}
	if f.kind == refuse {
		return nothing, fmt.Errorf("%s: %w", op, errFault)
	}
	n.change(n.name+" "+op, func() { answer, err = effect() })
	switch f.kind {
	case deceive:
		return nothing, fmt.Errorf("%s, reply lost: %w", op, errFault)
	case dieLate:
		n.kill()
		return nothing, errKilled
	}
	return answer, err
}

func (n *node) fault(op string) fault {
	n.asking.Lock()
	defer n.asking.Unlock()
	if n.faults == nil {
		return fault{}
	}
	return n.faults(op)
}

// stop makes every call of the node wait for cont.
func (n *node) stop() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.gate == nil {
		n.gate = make(chan struct{})
	}
}

func (n *node) cont() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.gate != nil {
		close(n.gate)
		n.gate = nil
	}
}

// passGate waits while the node is stopped. It reports whether it was: then the call is as good as sent, and takes
// effect before anybody on the node learns how late it is.
func (n *node) passGate() (stopped bool) {
	for {
		n.mu.Lock()
		gate := n.gate
		n.mu.Unlock()
		if gate == nil {
			return stopped
		}
		stopped = true
		<-gate
	}
}

// The ports.

func (n *node) Get(ctx context.Context, key string) ([]byte, uint64, error) {
	c, err := call(ctx, n, "get "+key, func() (cell, error) {
		c, ok := n.cells[key]
		if !ok {
			return cell{}, errNoCell
		}
		return c, nil
	})
	return c.value, c.revision, err
}

func (n *node) write(ctx context.Context, op, key string, value []byte, allowed func(cell, bool) bool) (uint64, error) {
	return call(ctx, n, op+" "+key, func() (uint64, error) {
		c, ok := n.cells[key]
		if !allowed(c, ok) {
			return 0, errSwapped
		}
		n.revision++
		n.cells[key] = cell{value, n.revision}
		for _, seen := range n.watchers {
			seen(key, n.revision)
		}
		return n.revision, nil
	})
}

func (n *node) Create(ctx context.Context, key string, value []byte) (uint64, error) {
	return n.write(ctx, "create", key, value, func(_ cell, ok bool) bool { return !ok })
}

func (n *node) Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	return n.write(ctx, "update", key, value, func(c cell, ok bool) bool { return ok && c.revision == revision })
}

func (n *node) Put(ctx context.Context, key string, value []byte) error {
	_, err := n.write(ctx, "put", key, value, func(cell, bool) bool { return true })
	return err
}

func (n *node) Delete(ctx context.Context, key string) error {
	return n.reach(ctx, "delete "+key, func() error { delete(n.cells, key); return nil })
}

func (n *node) DeleteIf(ctx context.Context, key string, revision uint64) error {
	return n.reach(ctx, "delete "+key, func() error {
		if c := n.cells[key]; c.revision != revision {
			return errSwapped
		}
		delete(n.cells, key)
		return nil
	})
}

func (n *node) Keys(ctx context.Context, filter string) ([]string, error) {
	return call(ctx, n, "keys "+filter, func() (keys []string, _ error) {
		for key := range n.cells {
			if ok, _ := path.Match(strings.ReplaceAll(strings.ReplaceAll(filter, ".", "/"), ">", "*/*/*"), strings.ReplaceAll(key, ".", "/")); ok {
				keys = append(keys, key)
			}
		}
		return keys, nil
	})
}

func (n *node) Changes(ctx context.Context, _ string, seen func(string, uint64)) error {
	n.mu.Lock()
	n.watchers[ctx] = func(key string, rev uint64) {
		if n.ctx.Err() == nil && strings.Count(key, ".") == 1 {
			seen(key, rev)
		}
	}
	n.mu.Unlock()
	<-ctx.Done()
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.watchers, ctx)
	return nil
}

func (n *node) Next(ctx context.Context) (message, error) {
	end := time.Now().Add(5 * time.Second)
	for ctx.Err() == nil && time.Now().Before(end) {
		if wait, stirred := n.quiet(); wait > 0 {
			select {
			case <-time.After(min(wait, time.Until(end))):
			case <-stirred:
			case <-ctx.Done():
			}
			continue
		}
		m, err := call(ctx, n, "next", n.take)
		if err != nil {
			return nil, err
		}
		if m != nil {
			return note{n, m}, nil
		}
	}
	return nil, nil
}

func (n *node) Return() {}

// take hands out the first message that is visible. It must be called inside change.
func (w *memory) take() (*queued, error) {
	for _, m := range w.messages {
		if !m.gone && !m.visible.After(time.Now()) {
			m.visible = time.Now().Add(w.ackWait)
			m.delivered++
			return m, nil
		}
	}
	return nil, nil
}

// quiet is how long the queue has nothing to hand out, unless it is stirred before.
func (w *memory) quiet() (time.Duration, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	wait := time.Hour
	for _, m := range w.messages {
		if !m.gone {
			wait = min(wait, time.Until(m.visible))
		}
	}
	return wait, w.stir
}

// show makes m visible after delay. It must be called inside change.
func (w *memory) show(m *queued, delay time.Duration) {
	m.visible = time.Now().Add(delay)
	close(w.stir)
	w.stir = make(chan struct{})
}

// note is a message of the queue, unfenced as JetStream's are: every holder can end it.
type note struct {
	n *node
	*queued
}

func (m note) Data() []byte             { return m.data }
func (m note) Subject() string          { return m.subject }
func (m note) Tenant() string           { return m.tenant }
func (m note) Header() contracts.Header { return nil }
func (m note) Published() time.Time     { return m.published }
func (m note) Sequence() uint64 {
	m.n.mu.Lock()
	defer m.n.mu.Unlock()
	return uint64(slices.Index(m.n.messages, m.queued) + 1)
}
func (m note) Delivered() uint64 { return m.delivered }

func (m note) InProgress() error {
	return m.n.reach(context.Background(), "in progress", func() error { m.visible = time.Now().Add(m.n.ackWait); return nil })
}

func (m note) Nak(delay time.Duration) error {
	return m.n.reach(context.Background(), "nak", func() error { m.n.show(m.queued, delay); return nil })
}

func (m note) Ack(ctx context.Context) error {
	return m.n.reach(ctx, "ack", func() error { m.gone = true; return nil })
}

func (m note) Term(ctx context.Context, _ string) error {
	return m.n.reach(ctx, "term", func() error { m.gone = true; return nil })
}

func (n *node) Publish(ctx context.Context, o contracts.Outcome) (contracts.Outcome, error) {
	return call(ctx, n, "outcome "+string(o.Kind), func() (contracts.Outcome, error) {
		key := recordKey(o.Tenant, o.Job)
		if was, ok := n.outcomes[key]; ok {
			return was, nil
		}
		n.outcomes[key] = o
		for _, ended := range n.hearers {
			ended(key)
		}
		return o, nil
	})
}

func (n *node) Outcome(ctx context.Context, tenant, job string) (*contracts.Outcome, error) {
	return call(ctx, n, "get outcome", func() (*contracts.Outcome, error) {
		if o, ok := n.outcomes[recordKey(tenant, job)]; ok {
			return &o, nil
		}
		return nil, nil
	})
}

func (n *node) Endings(ctx context.Context, ended func(string)) error {
	n.mu.Lock()
	n.hearers[ctx] = ended
	n.mu.Unlock()
	<-ctx.Done()
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.hearers, ctx)
	return nil
}

func (n *node) Bury(ctx context.Context, m message, job string, why *contracts.Rejection) error {
	return n.reach(ctx, "bury "+string(why.Code), func() error {
		if line := recordKey(m.Tenant(), job) + " " + string(why.Code); !slices.Contains(n.dead, line) {
			n.dead = append(n.dead, line)
		}
		return nil
	})
}

func (n *node) Refuse(ctx context.Context, r contracts.Refusal) error {
	return n.reach(ctx, "refuse "+string(r.Reason.Code), func() error { n.refused = append(n.refused, r); return nil })
}

func (n *node) Notify(ctx context.Context, told contracts.Notice) error {
	return n.reach(ctx, "notify "+string(told.Kind), func() error { n.notices = append(n.notices, told); return nil })
}

// tenantsOf is the registry as a node sees it.
type tenantsOf struct{ n *node }

func (r tenantsOf) Get(ctx context.Context, name string) (contracts.Tenant, error) {
	return call(ctx, r.n, "tenant "+name, func() (contracts.Tenant, error) {
		t, ok := r.n.tenants[name]
		if !ok {
			return t, contracts.Reject(contracts.UnknownTenant, "tenant %s is not registered", name)
		}
		return t, nil
	})
}

func (r tenantsOf) Names(ctx context.Context) ([]string, error) {
	return call(ctx, r.n, "tenants", func() ([]string, error) { return slices.Sorted(maps.Keys(r.n.tenants)), nil })
}

func (r tenantsOf) House(ctx context.Context) (contracts.House, error) {
	return call(ctx, r.n, "house", func() (h contracts.House, err error) {
		if r.n.house == nil {
			return h, contracts.Reject(contracts.NoDestination, "there is no house bucket")
		}
		return *r.n.house, nil
	})
}

// run starts a worker on the node. It ends when the node is killed or ctx is done.
func (n *node) run(ctx context.Context, e exports, cfg Config) (wait func()) {
	e.n = n
	cfg.Worker = n.name
	if cfg.CheckEvery == 0 && cfg.CheckAhead == 0 { // a test that is about jobs
		cfg.CheckEvery, cfg.CheckAhead = -1, -1
	}
	c := assemble(e, cfg.withDefaults(), n, recordsOf(n), fleetOf{n}, n, tenantsOf{n})
	c.upcoming, c.calendar = n.upcoming, calendarOf{n}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(n.ctx, func() { c.interrupt(errKilled); cancel() })
	over := make(chan struct{})
	go func() {
		defer close(over)
		defer stop()
		defer cancel()
		_ = c.Run(ctx)
	}()
	return func() { <-over }
}

// recordsOf are the records, and the pieces, as the node sees them.
func recordsOf(n *node) records { return records{n, n} }

func request(job string) contracts.Request {
	return contracts.Request{Version: contracts.RequestVersion, Tenant: "acme", Job: job, RequestedAt: time.Now().UTC()}
}

// uploadsLeft counts what nobody has completed or aborted.
func (w *memory) uploadsLeft() (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for f := range maps.Values(w.folders) {
		n += len(f.uploads)
	}
	return n
}

func jsonInto(data []byte, v any) bool { return json.Unmarshal(data, v) == nil }
