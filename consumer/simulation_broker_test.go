package consumer

import (
	"container/heap"
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
)

// A hub is the broker of a simulation: the memory's ports again, for a hundred thousand jobs. It checks no promise, and
// keeps what [memory] does not have to: the order in which JetStream hands out messages, its bound of those that are
// handed out, and a count of all that it is asked and tells.
type hub struct {
	latency    time.Duration // of whatever is asked
	ackWait    time.Duration
	maxPending int
	ended      func(o contracts.Outcome)

	mu       sync.Mutex
	asked    map[string]int64 // by what was asked
	told     map[string]int64 // what is sent to every worker: changes, ends
	revision uint64
	cells    map[string]cell
	sweeps   map[string]bool
	pieces   map[string][]string // by "tenant.job"
	watchers map[context.Context]func(string, uint64)
	hearers  map[context.Context]func(string)
	outcomes map[string]contracts.Outcome
	dead     int
	shelf    shelf

	fresh   []*parcel // never handed out yet
	due     dues      // handed out: when they come again
	pending int       // handed out, and not gone
	waiting []chan *parcel
	alarm   *time.Timer

	most    int           // pending
	since   time.Time     // when the bound of pending was reached; zero: it is not
	stalled time.Duration // how long it held back what was fresh while a worker waited

	served   time.Duration // slots were taken, of jobs of tenants that can be delivered to
	wasted   time.Duration // of others
	returned time.Duration // and for nothing: the message went back to the queue
}

// parcel is a message of the hub's.
type parcel struct {
	tenant    string
	key       string
	data      []byte
	published time.Time
	visible   time.Time
	delivered uint64
	gone      bool
	hopeless  bool // of a tenant that cannot be delivered to
}

type due struct {
	at time.Time
	p  *parcel
}

// dues is a heap by time. What has been moved since is in it twice, and only the later entry counts.
type dues []due

func (d dues) Len() int           { return len(d) }
func (d dues) Less(i, j int) bool { return d[i].at.Before(d[j].at) }
func (d dues) Swap(i, j int)      { d[i], d[j] = d[j], d[i] }
func (d *dues) Push(x any)        { *d = append(*d, x.(due)) }
func (d *dues) Pop() any {
	old := *d
	last := old[len(old)-1]
	*d = old[:len(old)-1]
	return last
}

func newHub(latency time.Duration) *hub {
	h := &hub{
		latency: latency, ackWait: 60 * time.Second, maxPending: place{}.consumer().MaxAckPending,
		asked: map[string]int64{}, told: map[string]int64{}, cells: map[string]cell{}, sweeps: map[string]bool{}, pieces: map[string][]string{},
		watchers: map[context.Context]func(string, uint64){}, hearers: map[context.Context]func(string){}, outcomes: map[string]contracts.Outcome{},
	}
	h.alarm = time.AfterFunc(time.Hour, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.handOut()
	})
	return h
}

// enqueue is what publishes a request.
func (h *hub) enqueue(tenant, job string, data []byte, hopeless bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fresh = append(h.fresh, &parcel{tenant: tenant, key: recordKey(tenant, job), data: data, published: time.Now(), hopeless: hopeless})
	h.handOut()
}

// handOut gives messages to workers that wait: first what comes again, then what is fresh, while the bound allows it.
func (h *hub) handOut() {
	for len(h.waiting) > 0 {
		p := h.ready()
		if p == nil {
			break
		}
		p.delivered++
		h.show(p, h.ackWait)
		h.waiting[0] <- p
		h.waiting = h.waiting[1:]
	}
	now := time.Now()
	switch held := len(h.waiting) > 0 && len(h.fresh) > 0; {
	case held && h.since.IsZero():
		h.since = now
	case !held && !h.since.IsZero():
		h.stalled += now.Sub(h.since)
		h.since = time.Time{}
	}
	if len(h.due) > 0 && len(h.waiting) > 0 {
		h.alarm.Reset(max(0, h.due[0].at.Sub(now)))
	}
}

func (h *hub) ready() *parcel {
	for now := time.Now(); len(h.due) > 0 && !h.due[0].at.After(now); {
		d := heap.Pop(&h.due).(due)
		if !d.p.gone && d.p.visible.Equal(d.at) {
			return d.p
		}
	}
	if len(h.fresh) == 0 || h.pending >= h.maxPending {
		return nil
	}
	p := h.fresh[0]
	h.fresh = h.fresh[1:]
	h.pending++
	h.most = max(h.most, h.pending)
	return p
}

func (h *hub) show(p *parcel, delay time.Duration) {
	p.visible = time.Now().Add(delay)
	heap.Push(&h.due, due{p.visible, p})
}

// A wire is one worker's connection to the hub.
type wire struct {
	*hub
	cut atomic.Bool // the worker was killed
}

// ask counts one question, and waits for its answer.
func (p *wire) ask(what string) error {
	if p.cut.Load() {
		return errKilled
	}
	p.mu.Lock()
	p.asked[what]++
	p.mu.Unlock()
	time.Sleep(p.latency) // virtual: what an answer takes
	if p.cut.Load() {
		return errKilled
	}
	return nil
}

func (p *wire) Next(ctx context.Context) (message, error) {
	if err := p.ask("next"); err != nil {
		pause(ctx, time.Minute)
		return nil, err
	}
	mine := make(chan *parcel, 1)
	p.mu.Lock()
	p.waiting = append(p.waiting, mine)
	p.handOut()
	p.mu.Unlock()
	select {
	case m := <-mine:
		return &handed{p, m, time.Now()}, nil
	case <-time.After(nextWait):
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, other := range p.waiting {
		if other == mine {
			p.waiting = append(p.waiting[:i:i], p.waiting[i+1:]...)
			return nil, nil
		}
	}
	return &handed{p, <-mine, time.Now()}, nil
}

// handed is a message in a worker's hands.
type handed struct {
	wire *wire
	*parcel
	at time.Time
}

func (m *handed) Data() []byte             { return m.data }
func (m *handed) Subject() string          { return contracts.RequestSubject(m.tenant) }
func (m *handed) Tenant() string           { return m.tenant }
func (m *handed) Header() contracts.Header { return nil }
func (m *handed) Published() time.Time     { return m.published }
func (m *handed) Delivered() uint64        { return m.delivered }
func (m *handed) Sequence() uint64         { return 0 }

func (m *handed) InProgress() error {
	err := m.wire.ask("in progress")
	m.wire.mu.Lock()
	defer m.wire.mu.Unlock()
	if err == nil {
		m.wire.show(m.parcel, m.wire.ackWait)
	}
	return err
}

func (m *handed) Nak(delay time.Duration) error {
	if err := m.settle("nak"); err != nil {
		return err
	}
	m.wire.mu.Lock()
	defer m.wire.mu.Unlock()
	m.wire.show(m.parcel, delay)
	m.wire.handOut()
	return nil
}

func (m *handed) Ack(context.Context) error          { return m.end("ack") }
func (m *handed) Term(context.Context, string) error { return m.end("term") }

func (m *handed) end(how string) error {
	if err := m.settle(how); err != nil {
		return err
	}
	m.wire.mu.Lock()
	defer m.wire.mu.Unlock()
	if !m.gone {
		m.gone = true
		m.wire.pending--
		m.wire.handOut()
	}
	return nil
}

// settle adds up how long the message has had a slot.
func (m *handed) settle(how string) error {
	held := time.Since(m.at)
	if err := m.wire.ask(how); err != nil {
		return err
	}
	m.wire.mu.Lock()
	defer m.wire.mu.Unlock()
	switch {
	case m.hopeless:
		m.wire.wasted += held
	case how == "nak":
		m.wire.returned += held
	default:
		m.wire.served += held
	}
	return nil
}

// The records.

func (p *wire) Get(_ context.Context, key string) ([]byte, uint64, error) {
	if err := p.ask("read"); err != nil {
		return nil, 0, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	c, ok := p.cells[key]
	if !ok {
		return nil, 0, errNoCell
	}
	return c.value, c.revision, nil
}

func (p *wire) write(key string, value []byte, allowed func(cell, bool) bool) (uint64, error) {
	if err := p.ask("write"); err != nil {
		return 0, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	c, ok := p.cells[key]
	if !allowed(c, ok) {
		return 0, errSwapped
	}
	p.revision++
	p.cells[key] = cell{value, p.revision}
	switch part := strings.SplitN(key, ".", 3); {
	case len(part) == 3 && part[0] == "sweep":
		p.sweeps[key] = true
	case len(part) == 3:
		p.pieces[recordKey(part[0], part[1])] = append(p.pieces[recordKey(part[0], part[1])], key)
	case len(part) == 2:
		for _, seen := range p.watchers {
			seen(key, p.revision)
		}
		p.told["changes"] += int64(len(p.watchers))
	}
	return p.revision, nil
}

func (p *wire) Create(_ context.Context, key string, value []byte) (uint64, error) {
	return p.write(key, value, func(_ cell, ok bool) bool { return !ok })
}

func (p *wire) Update(_ context.Context, key string, value []byte, revision uint64) (uint64, error) {
	return p.write(key, value, func(c cell, ok bool) bool { return ok && c.revision == revision })
}

func (p *wire) Put(_ context.Context, key string, value []byte) error {
	_, err := p.write(key, value, func(cell, bool) bool { return true })
	return err
}

func (p *wire) Delete(_ context.Context, key string) error {
	if err := p.ask("write"); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.cells, key)
	delete(p.sweeps, key)
	return nil
}

// DeleteIf is the janitor's, of whom there is one in a simulation.
func (p *wire) DeleteIf(ctx context.Context, key string, _ uint64) error { return p.Delete(ctx, key) }

// Keys knows the two filters that the janitor has.
func (p *wire) Keys(_ context.Context, filter string) (keys []string, err error) {
	if err := p.ask("list"); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if strings.HasPrefix(filter, "sweep.") {
		for key := range p.sweeps {
			keys = append(keys, key)
		}
		return keys, nil
	}
	part := strings.SplitN(strings.TrimSuffix(filter, ">"), ".", 3)
	for _, key := range p.pieces[recordKey(part[0], part[1])] {
		if _, ok := p.cells[key]; ok && strings.HasPrefix(key, strings.TrimSuffix(filter, ">")) {
			keys = append(keys, key)
		}
	}
	return keys, nil
}

func (p *wire) Changes(ctx context.Context, _ string, seen func(string, uint64)) error {
	return listenTo(ctx, p, p.watchers, func(key string, revision uint64) {
		if !p.cut.Load() {
			seen(key, revision)
		}
	})
}

// listenTo keeps a listener among others until ctx is done.
func listenTo[F any](ctx context.Context, p *wire, among map[context.Context]F, listener F) error {
	p.mu.Lock()
	among[ctx] = listener
	p.mu.Unlock()
	<-ctx.Done()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(among, ctx)
	return nil
}

// The ledger.

func (p *wire) Publish(_ context.Context, o contracts.Outcome) (contracts.Outcome, error) {
	if err := p.ask("outcome"); err != nil {
		return o, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	key := recordKey(o.Tenant, o.Job)
	if was, ok := p.outcomes[key]; ok {
		return was, nil
	}
	p.outcomes[key] = o
	p.ended(o)
	for _, heard := range p.hearers {
		heard(key)
	}
	p.told["ends"] += int64(len(p.hearers))
	return o, nil
}

func (p *wire) Outcome(_ context.Context, tenant, job string) (*contracts.Outcome, error) {
	if err := p.ask("read"); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if o, ok := p.outcomes[recordKey(tenant, job)]; ok {
		return &o, nil
	}
	return nil, nil
}

func (p *wire) Endings(ctx context.Context, ended func(string)) error {
	return listenTo(ctx, p, p.hearers, ended)
}

func (p *wire) Return() {}

func (p *wire) Refuse(context.Context, contracts.Refusal) error { return nil }

func (p *wire) Bury(context.Context, message, string, *contracts.Rejection) error {
	if err := p.ask("dead letter"); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dead++
	return nil
}

func (p *wire) Notify(context.Context, contracts.Notice) error { return p.ask("notice") }

// fleetAt is the fleet's bucket as a wire reaches it.
type fleetAt struct {
	*shelf
	p *wire
}

func (f fleetAt) Get(ctx context.Context, key string) ([]byte, uint64, error) {
	if err := f.p.ask("read"); err != nil {
		return nil, 0, err
	}
	return f.shelf.Get(ctx, key)
}

func (f fleetAt) Create(ctx context.Context, key string, value []byte) (uint64, error) {
	if err := f.p.ask("write"); err != nil {
		return 0, err
	}
	return f.shelf.Create(ctx, key, value)
}

func (f fleetAt) Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	if err := f.p.ask("write"); err != nil {
		return 0, err
	}
	return f.shelf.Update(ctx, key, value, revision)
}

// registryAt knows every tenant.
type registryAt struct{ p *wire }

func (r registryAt) Get(_ context.Context, name string) (contracts.Tenant, error) {
	if err := r.p.ask("read"); err != nil {
		return contracts.Tenant{}, err
	}
	return contracts.Tenant{Name: name, Destination: contracts.Destination{Bucket: name}}.WithDefaults(), nil
}

func (r registryAt) Names(context.Context) ([]string, error) { return nil, nil }

func (r registryAt) House(context.Context) (h contracts.House, _ error) { return h, nil }
