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
	watchers []func(string, uint64)
	hearers  []func(string)

	messages []*queued
	ackWait  time.Duration
	outcomes map[string]contracts.Outcome
	dead     []string // "tenant.job code"
	tenants  map[string]contracts.Tenant

	folders map[string]*folder // by "tenant/job/"
	trail   []string

	asking sync.Mutex // held while faults are thrown
}

type cell struct {
	value    []byte
	revision uint64
}

type queued struct {
	tenant    string
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
	full          bool
}

func newMemory(t *testing.T) *memory {
	return &memory{
		t: t, cells: map[string]cell{}, ackWait: 60 * time.Second, outcomes: map[string]contracts.Outcome{},
		folders: map[string]*folder{},
		tenants: map[string]contracts.Tenant{"acme": contracts.Tenant{Name: "acme", Destination: contracts.Destination{Bucket: "acme-bucket"}}.WithDefaults()},
	}
}

// change makes one change, and checks the world after it.
func (w *memory) change(what string, f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
	w.trail = append(w.trail, time.Now().Format("15:04:05.000 ")+what)
	w.check()
}

// check holds the safety promises against the world as it is now (I1-I5, I8 of the catalogue).
func (w *memory) check() {
	for dir, f := range w.folders {
		key := strings.ReplaceAll(strings.TrimSuffix(dir, "/"), "/", ".")
		o, over := w.outcomes[key]
		if f.manifest != nil {
			m := must(contracts.DecodeManifest(f.manifest))
			for _, v := range m.Volumes {
				if f.objects[v.Name] != m.Attempt {
					w.fail("%s: the manifest of %s stands, and %s is of %q", dir, m.Attempt, v.Name, f.objects[v.Name])
				}
			}
			if over && !o.Kind.OK() {
				w.fail("%s: the outcome is %s, and the manifest stands", dir, o.Kind)
			}
		} else if over && o.Kind.OK() {
			w.fail("%s: the outcome is %s, and there is no manifest", dir, o.Kind)
		}
	}
	for _, m := range w.messages {
		if !m.gone {
			continue
		}
		req, err := contracts.DecodeRequest(m.data)
		if err != nil {
			continue // dead letters are looked at by the tests that make them
		}
		key := recordKey(req.Tenant, req.Job)
		if _, over := w.outcomes[key]; !over && !slices.ContainsFunc(w.dead, func(s string) bool { return strings.HasPrefix(s, key+" ") }) {
			w.fail("the request for %s is gone, and there is neither outcome nor dead letter", key)
		}
	}
}

func (w *memory) fail(format string, args ...any) {
	w.t.Errorf(format, args...)
	w.t.Log(strings.Join(w.trail, "\n"))
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
		w.messages = append(w.messages, &queued{tenant: req.Tenant, data: data, published: time.Now(), visible: time.Now()})
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
	var r record
	_ = json.Unmarshal(w.cells[recordKey(tenant, job)].value, &r)
	return r
}

// A node is one worker's view of the world: what it calls passes through reach, which is where faults live.
type node struct {
	*memory
	name string
	ctx  context.Context // done when the node is killed: from then on it reaches nothing
	kill context.CancelFunc

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
	n.passGate()
	f := n.fault(op)
	if f.kind == die {
		n.kill()
	}
	if f.delay > 0 {
		pause(ctx, f.delay)
	}
	if n.ctx.Err() != nil {
		return errKilled
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if f.kind == refuse {
		return fmt.Errorf("%s: %w", op, errFault)
	}
	var err error
	n.change(n.name+" "+op, func() { err = effect() })
	switch f.kind {
	case deceive:
		return fmt.Errorf("%s, reply lost: %w", op, errFault)
	case dieLate:
		n.kill()
		return errKilled
	}
	return err
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

func (n *node) passGate() {
	for {
		n.mu.Lock()
		gate := n.gate
		n.mu.Unlock()
		if gate == nil {
			return
		}
		<-gate
	}
}

// The ports.

func (n *node) Get(ctx context.Context, key string) (value []byte, revision uint64, err error) {
	err = n.reach(ctx, "get "+key, func() error {
		c, ok := n.cells[key]
		if !ok {
			return errNoCell
		}
		value, revision = c.value, c.revision
		return nil
	})
	return value, revision, err
}

func (n *node) write(ctx context.Context, op, key string, value []byte, allowed func(cell, bool) bool) (revision uint64, err error) {
	err = n.reach(ctx, op+" "+key, func() error {
		c, ok := n.cells[key]
		if !allowed(c, ok) {
			return errSwapped
		}
		n.revision++
		revision = n.revision
		n.cells[key] = cell{value, revision}
		for _, seen := range n.watchers {
			seen(key, revision)
		}
		return nil
	})
	return revision, err
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

func (n *node) Keys(ctx context.Context, filter string) (keys []string, err error) {
	err = n.reach(ctx, "keys "+filter, func() error {
		for key := range n.cells {
			if ok, _ := path.Match(strings.ReplaceAll(strings.ReplaceAll(filter, ".", "/"), ">", "*/*"), strings.ReplaceAll(key, ".", "/")); ok {
				keys = append(keys, key)
			}
		}
		return nil
	})
	return keys, err
}

func (n *node) Changes(ctx context.Context, _ string, seen func(string, uint64)) error {
	n.mu.Lock()
	n.watchers = append(n.watchers, func(key string, rev uint64) {
		if n.ctx.Err() == nil && strings.Count(key, ".") == 1 {
			seen(key, rev)
		}
	})
	n.mu.Unlock()
	<-ctx.Done()
	return nil
}

func (n *node) Next(ctx context.Context) (message, error) {
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end) && ctx.Err() == nil; pause(ctx, 100*time.Millisecond) {
		if !n.waiting() {
			continue
		}
		var got *queued
		err := n.reach(ctx, "next", func() error {
			for _, m := range n.messages {
				if !m.gone && !m.visible.After(time.Now()) {
					m.visible = time.Now().Add(n.ackWait)
					m.delivered++
					got = m
					return nil
				}
			}
			return nil
		})
		if err != nil || got != nil {
			if err != nil {
				return nil, err
			}
			return note{n, got}, nil
		}
	}
	return nil, nil
}

// waiting reports whether the queue has something to hand out.
func (w *memory) waiting() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.messages, func(m *queued) bool { return !m.gone && !m.visible.After(time.Now()) })
}

// note is a message of the queue, unfenced as JetStream's are: every holder can end it.
type note struct {
	n *node
	*queued
}

func (m note) Data() []byte             { return m.data }
func (m note) Tenant() string           { return m.tenant }
func (m note) Header() contracts.Header { return nil }
func (m note) Published() time.Time     { return m.published }
func (m note) Delivered() uint64        { return m.delivered }

func (m note) InProgress() error {
	return m.n.reach(context.Background(), "in progress", func() error { m.visible = time.Now().Add(m.n.ackWait); return nil })
}

func (m note) Nak(delay time.Duration) error {
	return m.n.reach(context.Background(), "nak", func() error { m.visible = time.Now().Add(delay); return nil })
}

func (m note) Ack(ctx context.Context) error {
	return m.n.reach(ctx, "ack", func() error { m.gone = true; return nil })
}

func (m note) Term(ctx context.Context, _ string) error {
	return m.n.reach(ctx, "term", func() error { m.gone = true; return nil })
}

func (n *node) Publish(ctx context.Context, o contracts.Outcome) (contracts.Outcome, error) {
	stands := o
	err := n.reach(ctx, "outcome "+string(o.Kind), func() error {
		key := recordKey(o.Tenant, o.Job)
		if was, ok := n.outcomes[key]; ok {
			stands = was
			return nil
		}
		n.outcomes[key] = o
		for _, ended := range n.hearers {
			ended(key)
		}
		return nil
	})
	return stands, err
}

func (n *node) Endings(ctx context.Context, ended func(string)) error {
	n.mu.Lock()
	n.hearers = append(n.hearers, ended)
	n.mu.Unlock()
	<-ctx.Done()
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

// tenantsOf is the registry as a node sees it.
type tenantsOf struct{ n *node }

func (r tenantsOf) Get(ctx context.Context, name string) (t contracts.Tenant, err error) {
	err = r.n.reach(ctx, "tenant "+name, func() error {
		found, ok := r.n.tenants[name]
		if !ok {
			return contracts.Reject(contracts.UnknownTenant, "tenant %s is not registered", name)
		}
		t = found
		return nil
	})
	return t, err
}

// exports is the attempt itself: two volumes in a bucket whose keys are fixed, as the customer's are.
type exports struct {
	n      *node
	part   time.Duration                             // how long one part takes
	reject func(a contracts.Attempt) error           // from Prepare, before anything
	lose   func(a contracts.Attempt, id string) bool // the upload vanishes before Complete
	commit func() error                              // from Commit, before anything
}

type lostUpload struct{ error }

func (lostUpload) LostUpload() bool { return true }

const partsPerVolume = 5

func (e exports) Prepare(ctx context.Context, a contracts.Attempt, j Journal) (contracts.Receipt, error) {
	none := contracts.Receipt{}
	if e.reject != nil {
		if err := e.reject(a); err != nil {
			return none, err
		}
	}
	if err := e.Abort(ctx, a, nil); err != nil {
		return none, err
	}
	m := contracts.Manifest{Version: contracts.ManifestVersion, Tenant: a.Tenant.Name, Job: a.Request.Job, Attempt: a.ID, Only: a.Request.Only}
	r := contracts.Receipt{Version: contracts.ReceiptVersion, Attempt: a.ID}
	for _, kind := range []contracts.Kind{contracts.Tables, contracts.Attachments} {
		name, id := contracts.VolumeName(kind, a.Request.Job, 0), ""
		err := e.n.reach(ctx, "s3 create "+name, func() error {
			f := e.n.folder(a.Prefix())
			f.next++
			id = fmt.Sprintf("u%d", f.next)
			f.uploads[id] = upload{name: name, attempt: a.ID}
			return nil
		})
		if err != nil {
			return none, err
		}
		if err := j.Upload(ctx, contracts.Upload{Name: name, ID: id}); err != nil {
			return none, err
		}
		for part := range partsPerVolume {
			pause(ctx, e.part)
			err := e.n.reach(ctx, fmt.Sprintf("s3 part %d of %s", part+1, id), func() error {
				u, ok := e.n.folder(a.Prefix()).uploads[id]
				if !ok {
					return errors.New("NoSuchUpload")
				}
				u.full = part == partsPerVolume-1
				e.n.folder(a.Prefix()).uploads[id] = u
				return nil
			})
			if err != nil {
				return none, err
			}
			j.Progress(func(p *contracts.Progress) { p.Bytes += 100 })
		}
		r.Uploads = append(r.Uploads, contracts.Upload{Name: name, ID: id, Size: 500})
		m.Volumes = append(m.Volumes, contracts.Volume{Name: name, Kind: kind, Size: 500})
	}
	r.Manifest = must(m.Encode())
	return r, nil
}

func (e exports) Commit(ctx context.Context, a contracts.Attempt, r contracts.Receipt) error {
	if e.commit != nil {
		if err := e.commit(); err != nil {
			return err
		}
	}
	for _, u := range r.Uploads {
		err := e.n.reach(ctx, "s3 complete "+u.ID, func() error {
			f := e.n.folder(a.Prefix())
			if e.lose != nil && e.lose(a, u.ID) {
				delete(f.uploads, u.ID)
			}
			was, exists := f.objects[u.Name]
			switch up, ok := f.uploads[u.ID]; {
			case exists && was == a.ID:
				return nil // completed before
			case !ok:
				return lostUpload{errors.New("NoSuchUpload")}
			case !up.full:
				return errors.New("not all parts are there")
			case exists && f.manifest != nil:
				return contracts.Reject(contracts.DestinationTaken, "%s is taken", u.Name)
			}
			delete(f.uploads, u.ID)
			f.objects[u.Name] = a.ID // what an earlier attempt left under the key is replaced
			return nil
		})
		if err != nil {
			return err
		}
	}
	return e.n.reach(ctx, "s3 manifest", func() error {
		f := e.n.folder(a.Prefix())
		for _, u := range r.Uploads {
			if f.objects[u.Name] != a.ID {
				return lostUpload{fmt.Errorf("%s is gone", u.Name)}
			}
		}
		if f.manifest != nil && string(f.manifest) != string(r.Manifest) {
			return contracts.Reject(contracts.DestinationTaken, "another manifest stands")
		}
		f.manifest = r.Manifest
		return nil
	})
}

func (e exports) Abort(ctx context.Context, a contracts.Attempt, _ []contracts.Upload) error {
	return e.n.reach(ctx, "s3 abort all", func() error { clear(e.n.folder(a.Prefix()).uploads); return nil })
}

func (e exports) Delivered(ctx context.Context, a contracts.Attempt) (manifest []byte, err error) {
	err = e.n.reach(ctx, "s3 get manifest", func() error { manifest = e.n.folder(a.Prefix()).manifest; return nil })
	return manifest, err
}

// run starts a worker on the node. It ends when the node is killed or ctx is done.
func (n *node) run(ctx context.Context, e exports, cfg Config) (wait func()) {
	e.n = n
	cfg.Worker = n.name
	c := assemble(e, cfg.withDefaults(), n, n, n, tenantsOf{n})
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
