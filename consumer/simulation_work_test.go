package consumer

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
)

// What a job costs, as it was measured; see ARCHITECTURE.md and deploy/capacity.md. Sizes are of a tenant's CSV.
const (
	gigabyte    = 1e9
	readCPU     = 3.5                   // s of a database's cores for a GB
	packCPU     = 4.0                   // s of a worker's cores for a GB
	deflated    = 0.25                  // of what is read, what leaves
	storeAnswer = 30 * time.Millisecond // one request of S3 or STS
	openTime    = 20 * time.Millisecond // a small schema, from connect to the last row
	silence     = 10 * time.Minute      // for so long the uploader tries one request, once a job is claimed
)

// health is what may be wrong with a tenant's destination.
type health int

const (
	healthy   health = iota
	silent           // nothing answers: no refusal, no reset
	revoked          // the role lets nobody in
	throttled        // it takes throttle bytes a second
)

const throttle = 1e6

// A visit is one tenant's night.
type visit struct {
	tenant   string
	bytes    float64
	database int
	health   health

	asked, begun, ended time.Time
	attempts            int
	outcome             contracts.OutcomeKind
}

// pipes are what the jobs share. Each job under way gets an equal share of each thing that it needs, and goes at the
// slowest of them; nobody is given what another one cannot use, so it is a little worse than it would be.
type pipes struct {
	databases []pipe // cores
	workers   map[string]*pipe
	egress    pipe
	sessions  []int // free, by database

	mu    sync.Mutex
	flows map[*flow]struct{}
	last  time.Time
	alarm *time.Timer
}

// pipe has a capacity in bytes a second.
type pipe struct {
	capacity float64
	flows    int
	moved    float64
}

type flow struct {
	left, rate, most float64
	database, worker *pipe
	over             chan struct{}
}

// move takes what it takes to move so many bytes.
func (p *pipes) move(ctx context.Context, bytes, most float64, database int, worker string, progress func()) error {
	f := &flow{left: bytes, most: most, database: &p.databases[database], over: make(chan struct{})}
	p.mu.Lock()
	f.worker = p.workers[worker]
	p.flows[f] = struct{}{}
	for _, pipe := range []*pipe{f.database, f.worker, &p.egress} {
		pipe.flows++
	}
	p.turn()
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if _, ok := p.flows[f]; ok {
			p.stop(f)
			p.turn()
		}
	}()
	beat := time.NewTicker(time.Minute)
	defer beat.Stop()
	for {
		select {
		case <-f.over:
			return nil
		case <-beat.C:
			progress()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (p *pipes) stop(f *flow) {
	delete(p.flows, f)
	for _, pipe := range []*pipe{f.database, f.worker, &p.egress} {
		pipe.flows--
	}
	close(f.over)
}

// turn moves everything on to now, and says when the next job is through.
func (p *pipes) turn() {
	now := time.Now()
	passed := now.Sub(p.last).Seconds()
	p.last = now
	for f := range p.flows {
		moved := min(f.left, f.rate*passed)
		f.left -= moved
		f.database.moved += moved
		f.worker.moved += moved
		p.egress.moved += moved
		if f.left < 1 {
			p.stop(f)
		}
	}
	next := time.Hour
	for f := range p.flows {
		f.rate = f.most
		for _, pipe := range []*pipe{f.database, f.worker, &p.egress} {
			f.rate = min(f.rate, pipe.capacity/float64(pipe.flows))
		}
		next = min(next, time.Duration(math.Ceil(f.left/f.rate*1e9)))
	}
	p.alarm.Reset(next)
}

// load is the work of one worker of a simulation.
type load struct {
	exports // what operators ask, which nobody does here
	night   *night
	worker  string
}

type noSession struct{ error }

func (noSession) Busy() bool { return true }

func (w load) Delivered(ctx context.Context, a contracts.Attempt) (*contracts.FoundDelivery, error) {
	if w.night.visits[a.Tenant.Name].health == silent {
		return nil, w.hang(ctx)
	}
	w.night.request(ctx, 2) // AssumeRole, and the manifest
	return nil, nil
}

// hang is a request that nobody answers.
func (w load) hang(ctx context.Context) error {
	w.night.request(ctx, 1)
	pause(ctx, silence)
	return down{errors.New("no answer")}
}

func (w load) Prepare(ctx context.Context, a contracts.Attempt, j Journal) (r contracts.Receipt, err error) {
	v := w.night.begin(a)
	switch v.health {
	case silent:
		return r, w.hang(ctx)
	case revoked:
		w.night.request(ctx, 1)
		return r, contracts.Reject(contracts.RoleDenied, "the role lets nobody in")
	}
	w.night.request(ctx, 4) // the probe; two of its requests are at the same time as others
	sessions, ok := w.night.connect(v)
	if !ok {
		return r, noSession{errors.New("no session is free")}
	}
	defer w.night.disconnect(v, sessions)
	pause(ctx, openTime)
	u := contracts.Upload{Name: contracts.VolumeName(contracts.Tables, a.Request.Job, 0), ID: "upload", Size: int64(deflated * v.bytes)}
	w.night.request(ctx, 1)
	if err := j.Upload(ctx, u); err != nil {
		return r, err
	}
	most := float64(sessions) * gigabyte / readCPU
	if v.health == throttled {
		most = min(most, throttle/deflated)
	}
	if err := w.night.pipes.move(ctx, v.bytes, most, v.database, w.worker, func() {
		j.Progress(func(p *contracts.Progress) { p.Bytes++ })
	}); err != nil {
		return r, err
	}
	w.night.request(ctx, 1)
	m := contracts.Manifest{
		Version: contracts.ManifestVersion, Tenant: a.Tenant.Name, Job: a.Request.Job, Attempt: a.ID, Only: a.Request.Only, Format: a.Format(),
		Volumes: []contracts.Volume{{Name: u.Name, Kind: contracts.Tables, Size: u.Size}}, Producer: contracts.Producer{Name: w.worker},
	}
	return contracts.Receipt{Version: contracts.ReceiptVersion, Attempt: a.ID, Uploads: []contracts.Upload{u}, Manifest: must(m.Encode())}, ctx.Err()
}

func (w load) Complete(ctx context.Context, _ contracts.Attempt, _ contracts.Receipt) error {
	w.night.request(ctx, 1)
	return ctx.Err()
}

func (w load) Seal(ctx context.Context, _ contracts.Attempt, _ contracts.Receipt) error {
	w.night.request(ctx, 2)
	return ctx.Err()
}

// Abort happens in a janitor's round, too: it asks for a role, and for a list of uploads.
func (w load) Abort(ctx context.Context, a contracts.Attempt, _ []contracts.Upload) error {
	switch w.night.visits[a.Tenant.Name].health {
	case silent:
		return w.hang(ctx)
	case revoked:
		return contracts.Reject(contracts.RoleDenied, "the role lets nobody in")
	}
	w.night.request(ctx, 2)
	return nil
}

// begin notes an attempt.
func (n *night) begin(a contracts.Attempt) *visit {
	n.mu.Lock()
	defer n.mu.Unlock()
	v := n.visits[a.Tenant.Name]
	if v.attempts++; v.begun.IsZero() {
		v.begun = time.Now()
	}
	return v
}

// request is so many requests of S3 or STS, one after the other.
func (n *night) request(ctx context.Context, times int) {
	n.mu.Lock()
	n.requests += int64(times)
	n.mu.Unlock()
	pause(ctx, time.Duration(times)*storeAnswer)
}

// connect takes sessions of the tenant's database: one, and up to four more for a tenant that is not small, as far as
// the fleet's share goes.
func (n *night) connect(v *visit) (sessions int, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	free := &n.pipes.sessions[v.database]
	if *free == 0 {
		n.refused++
		return 0, false
	}
	sessions = min(*free, 1+min(4, int(v.bytes/64e6)))
	*free -= sessions
	return sessions, true
}

func (n *night) disconnect(v *visit, sessions int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pipes.sessions[v.database] += sessions
}

// classes are the sizes that results are told for.
var classes = []struct {
	name string
	most float64
}{{"to 10 MB", 1e7}, {"to 100 MB", 1e8}, {"to 1 GB", 1e9}, {"to 10 GB", 1e10}, {"more", math.Inf(1)}}

func (v *visit) class() int {
	for i, c := range classes {
		if v.bytes < c.most {
			return i
		}
	}
	panic(fmt.Sprint("no class has ", v.bytes))
}

// quantile of what is sorted by it.
func quantile(all []time.Duration, q float64) time.Duration {
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[min(len(all)-1, int(q*float64(len(all))))]
}
