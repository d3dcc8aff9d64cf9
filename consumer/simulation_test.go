package consumer

import (
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
)

// A simulation is a night of a fleet in virtual time: the consumer as it is, over a broker in memory, and jobs that take
// as long as what they share lets them. `make simulation` runs a large one, and prints it.
var (
	simulated    = flag.Int("simulate", 0, "tenants of TestSimulation; 0: it is a small night")
	simWorkers   = flag.Int("sim-workers", 20, "workers of TestSimulation")
	simSlots     = flag.Int("sim-slots", 2, "slots of each")
	simDatabases = flag.Int("sim-databases", 20, "database servers")
	simSessions  = flag.Int("sim-sessions", 20, "sessions that the fleet may have in each")
	simSpread    = flag.Duration("sim-spread", 0, "time over which the requests are spread")
	simSilent    = flag.Float64("sim-silent", 0.002, "part of the destinations that do not answer")
	simFlood     = flag.Int("sim-flood", 0, "requests of one more tenant, ahead of all others")
	simSeed      = flag.Uint64("sim-seed", 1, "seed of the sizes")
	simJSON      = flag.String("sim-json", "", "file for the results")
	simSVG       = flag.String("sim-svg", "", "file for the picture")
)

// A night is what is simulated.
type night struct {
	Tenants   int           `json:"tenants"`
	Workers   int           `json:"workers"`
	Slots     int           `json:"slots"`
	Cores     float64       `json:"cores"` // of each worker
	Databases int           `json:"databases"`
	Share     float64       `json:"database_cores"` // that each database has for us
	Sessions  int           `json:"sessions"`
	Egress    float64       `json:"egress"` // bytes a second, compressed
	Spread    time.Duration `json:"spread"`
	Silent    float64       `json:"silent"`    // part of the destinations
	Revoked   float64       `json:"revoked"`   // the same
	Throttled float64       `json:"throttled"` // the same
	Flood     int           `json:"flood"`     // requests of one more tenant
	Crash     time.Duration `json:"crash"`     // when a worker is killed; 0: never
	Rollout   time.Duration `json:"rollout"`   // when every worker is replaced, a quarter at a time; 0: never
	Seed      uint64        `json:"seed"`

	t      *testing.T
	hub    *hub
	pipes  *pipes
	visits map[string]*visit
	order  []*visit

	mu       sync.Mutex
	requests int64 // to S3 and STS
	refused  int64 // no session was free
	left     int   // visits that are to be delivered yet
	done     chan struct{}
	samples  []sample
	employed []*employee
}

// sample is one minute.
type sample struct {
	At        float64   `json:"at"` // minutes
	Delivered []float64 `json:"delivered"`
	Busy      float64   `json:"busy"` // part of the slots
	Read      float64   `json:"read"` // part of the databases' cores
	Pending   int       `json:"pending"`
}

// employee is one worker.
type employee struct {
	c       *Consumer
	wire    *wire
	retire  context.CancelFunc
	retired chan struct{}
}

// populate makes the tenants up. Sizes are log-normal: half of them have less than 5 MB, and one in a hundred more than
// a gigabyte. One in 10,000, and the first one of fewer, has 100 GB.
func (n *night) populate() {
	random := rand.New(rand.NewPCG(n.Seed, 0))
	n.visits = map[string]*visit{}
	for i := range n.Tenants {
		v := &visit{
			tenant: fmt.Sprintf("t%06d", i), bytes: min(100*gigabyte, 5e6*math.Exp(2.3*random.NormFloat64())), database: i % n.Databases,
		}
		if i%10_000 == 5_000 || n.Tenants <= 5_000 && i == n.Tenants/2 {
			v.bytes = 100 * gigabyte
		}
		switch p := random.Float64(); {
		case v.bytes == 100*gigabyte:
		case p < n.Silent:
			v.health = silent
		case p < n.Silent+n.Revoked:
			v.health = revoked
		case p < n.Silent+n.Revoked+n.Throttled:
			v.health = throttled
		}
		if v.health == healthy {
			n.left++
		}
		n.visits[v.tenant] = v
		n.order = append(n.order, v)
	}
	n.visits["flood"] = &visit{tenant: "flood", bytes: 5e6, health: throttled}
	// Who asks when says nothing of how much he has.
	random.Shuffle(len(n.order), func(i, j int) { n.order[i], n.order[j] = n.order[j], n.order[i] })
}

// build makes the ground that the fleet stands on.
func (n *night) build() {
	n.done = make(chan struct{})
	n.hub = newHub(time.Millisecond)
	n.hub.ended = n.end
	n.pipes = &pipes{workers: map[string]*pipe{}, egress: pipe{capacity: n.Egress / deflated}, flows: map[*flow]struct{}{}, last: time.Now()}
	for range n.Databases {
		n.pipes.databases = append(n.pipes.databases, pipe{capacity: n.Share * gigabyte / readCPU})
		n.pipes.sessions = append(n.pipes.sessions, n.Sessions)
	}
	n.pipes.alarm = time.AfterFunc(time.Hour, func() {
		n.pipes.mu.Lock()
		defer n.pipes.mu.Unlock()
		n.pipes.turn()
	})
}

// end is called inside the hub, with every outcome.
func (n *night) end(o contracts.Outcome) {
	n.mu.Lock()
	defer n.mu.Unlock()
	v := n.visits[o.Tenant]
	v.ended, v.outcome = time.Now(), o.Kind
	if v.health == healthy {
		if n.left--; n.left == 0 {
			close(n.done)
		}
	}
}

// employ starts a worker.
func (n *night) employ(name string) *employee {
	n.pipes.mu.Lock()
	n.pipes.workers[name] = &pipe{capacity: n.Cores * gigabyte / packCPU}
	n.pipes.mu.Unlock()
	e := &employee{wire: &wire{hub: n.hub}, retired: make(chan struct{})}
	cfg := Config{Worker: name, Slots: n.Slots, CheckEvery: -1, CheckAhead: -1}.withDefaults()
	e.c = assemble(load{night: n, worker: name}, cfg, e.wire, records{e.wire, e.wire}, fleetAt{&n.hub.shelf, e.wire}, e.wire, registryAt{e.wire})
	ctx, cancel := context.WithCancel(context.Background())
	e.retire = cancel
	go func() {
		defer close(e.retired)
		_ = e.c.Run(ctx)
	}()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.employed = append(n.employed, e)
	return e
}

// kill is SIGKILL.
func (e *employee) kill() {
	e.wire.cut.Store(true)
	e.c.interrupt(errKilled)
	e.retire()
}

// run is the night, until everybody is delivered to who can be.
func (n *night) run() (took time.Duration) {
	n.populate()
	n.build()
	over, stop := context.WithCancel(context.Background())
	var busy sync.WaitGroup
	began := time.Now()
	busy.Go(func() { n.ask(over) })
	busy.Go(func() { n.sample(over, began) })
	fleet := make([]*employee, n.Workers)
	for i := range fleet {
		fleet[i] = n.employ(fmt.Sprintf("w%d", i))
	}
	busy.Go(func() {
		if n.Crash == 0 {
			return
		}
		pause(over, n.Crash)
		fleet[0].kill()
		pause(over, 30*time.Second)
		fleet[0] = n.employ("w0-again")
	})
	busy.Go(func() {
		if n.Rollout > 0 {
			n.rollOut(over, fleet)
		}
	})
	<-n.done
	took = time.Since(began)
	stop()
	busy.Wait()
	for _, e := range n.employed {
		e.c.Interrupt()
		e.retire()
	}
	for _, e := range n.employed {
		<-e.retired
	}
	n.hub.alarm.Stop()
	n.pipes.alarm.Stop()
	return took
}

// rollOut replaces every worker, as deploy/kubernetes does: a quarter at a time, the new ones first.
func (n *night) rollOut(over context.Context, fleet []*employee) {
	pause(over, n.Rollout)
	for quarter := range slices.Chunk(fleet, max(1, len(fleet)/4)) {
		if over.Err() != nil {
			return
		}
		for range quarter {
			n.employ(fmt.Sprintf("new%d", len(n.employed)))
		}
		for _, e := range quarter {
			e.retire()
		}
		pause(over, time.Minute)
	}
}

// ask publishes the requests, spread as they are to be.
func (n *night) ask(over context.Context) {
	publish := func(v *visit, job string) {
		data := must(json.Marshal(contracts.Request{Version: contracts.RequestVersion, Tenant: v.tenant, Job: job, Only: contracts.Tables, RequestedAt: time.Now().UTC()}))
		n.hub.enqueue(v.tenant, job, data, v.health != healthy)
	}
	for i := range n.Flood {
		publish(n.visits["flood"], fmt.Sprintf("flood-%d", i))
	}
	for i, v := range n.order {
		if n.Spread > 0 {
			pause(over, n.Spread/time.Duration(n.Tenants))
		}
		if over.Err() != nil {
			return
		}
		n.mu.Lock()
		v.asked = time.Now()
		n.mu.Unlock()
		publish(v, fmt.Sprintf("night-%d", i))
	}
}

// sample looks once a minute.
func (n *night) sample(over context.Context, began time.Time) {
	read := 0.0
	for pause(over, time.Minute); over.Err() == nil; pause(over, time.Minute) {
		s := sample{At: time.Since(began).Minutes(), Delivered: make([]float64, len(classes))}
		n.mu.Lock()
		all := make([]float64, len(classes))
		for _, v := range n.order {
			if v.health != healthy {
				continue
			}
			if all[v.class()]++; !v.ended.IsZero() {
				s.Delivered[v.class()]++
			}
		}
		for i := range all {
			s.Delivered[i] /= max(1, all[i])
		}
		for _, e := range n.employed {
			e.c.crowd.mu.Lock()
			for _, taken := range e.c.crowd.mine {
				s.Busy += float64(taken) / float64(n.Workers*n.Slots)
			}
			e.c.crowd.mu.Unlock()
		}
		n.mu.Unlock()
		n.pipes.mu.Lock()
		n.pipes.turn()
		moved := 0.0
		for _, d := range n.pipes.databases {
			moved += d.moved
		}
		n.pipes.mu.Unlock()
		s.Read, read = (moved-read)/60/gigabyte*readCPU/(n.Share*float64(n.Databases)), moved
		n.hub.mu.Lock()
		s.Pending = n.hub.pending
		n.hub.mu.Unlock()
		n.samples = append(n.samples, s)
	}
}

// simulate runs a night in a bubble.
func simulate(t *testing.T, n *night) (r results) {
	t.Helper()
	began := time.Now()
	synctest.Test(t, func(t *testing.T) {
		n.t = t
		r = n.results(n.run())
	})
	r.RealSeconds = time.Since(began).Seconds()
	return r
}

// TestSimulation is a night of 500 tenants, or of as many as the flag says.
func TestSimulation(t *testing.T) {
	n := &night{
		Tenants: cmp.Or(*simulated, 500), Workers: *simWorkers, Slots: *simSlots, Cores: 1, Databases: *simDatabases, Share: 2, Sessions: *simSessions,
		Egress: 1.25e9, Spread: *simSpread, Silent: *simSilent, Revoked: 0.005, Throttled: 0.01, Flood: *simFlood, Crash: 5 * time.Minute, Rollout: 15 * time.Minute, Seed: *simSeed,
	}
	if *simulated == 0 {
		n.Workers, n.Databases, n.Silent, n.Crash, n.Rollout = 4, 1, 0.01, 2*time.Minute, 4*time.Minute
	}
	r := simulate(t, n)
	t.Log("\n" + r.table())
	if *simJSON != "" {
		write(t, *simJSON, must(json.MarshalIndent(r, "", "  ")))
	}
	if *simSVG != "" {
		write(t, *simSVG, must(r.draw()))
	}
	for _, v := range n.order {
		if v.health == healthy && v.outcome != contracts.Delivered || v.health != healthy && v.health != throttled && v.outcome == contracts.Delivered {
			t.Errorf("tenant %s (%v): outcome %q", v.tenant, v.health, v.outcome)
		}
	}
	if *simulated > 0 {
		return
	}
	// The largest job is begun again if its worker is the one that is killed, after a minute of silence.
	if most := r.Bound + 6; r.Minutes > most {
		t.Errorf("it took %.1f min, of which %.1f are needed", r.Minutes, r.Bound)
	}
	// Everybody but the largest is through while that goes on.
	for _, c := range r.Classes[:3] {
		if c.Wait95 > 180 {
			t.Errorf("tenants with %s wait %v for their turn", c.Name, brief(c.Wait95))
		}
	}
	if r.PerJob > 30 || r.Requests > 16 {
		t.Errorf("a job costs %.1f messages and %.1f requests", r.PerJob, r.Requests)
	}
	if r.Returned > 0.03 {
		t.Errorf("slots were taken for nothing for %.1f %% of the time", 100*r.Returned)
	}
}

func write(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(name, data, 0o644); err != nil {
		t.Error(err)
	}
}

// results are what came of a night.
type results struct {
	Night       *night             `json:"night"`
	GB          float64            `json:"gb"`
	Minutes     float64            `json:"minutes"`
	Bound       float64            `json:"bound_minutes"` // nothing could be quicker
	Bounds      map[string]float64 `json:"bounds"`
	Classes     []class            `json:"classes"`
	Served      float64            `json:"served"`   // parts of the slots' time
	Wasted      float64            `json:"wasted"`   // the same, of destinations that take nothing
	Returned    float64            `json:"returned"` // the same, of jobs that went back to the queue
	Asked       map[string]int64   `json:"asked"`
	Told        map[string]int64   `json:"told"`
	PerJob      float64            `json:"messages_per_job"`
	PerSecond   float64            `json:"messages_per_second"`
	Pushed      float64            `json:"pushed_per_second"`
	Requests    float64            `json:"requests_per_job"`
	Attempts    float64            `json:"attempts_per_job"`
	Refused     int64              `json:"no_session"`
	Pending     int                `json:"most_pending"`
	Stalled     float64            `json:"stalled_minutes"`
	RealSeconds float64            `json:"real_seconds"`
	Samples     []sample           `json:"samples"`
}

// class is the tenants of one size. Waits are in seconds.
type class struct {
	Name    string  `json:"name"`
	Tenants int     `json:"tenants"`
	GB      float64 `json:"gb"`
	Wait50  float64 `json:"wait_p50"` // until its first attempt began
	Wait95  float64 `json:"wait_p95"`
	WaitMax float64 `json:"wait_max"`
	Took50  float64 `json:"took_p50"` // from there to the outcome
	Took95  float64 `json:"took_p95"`
	TookMax float64 `json:"took_max"`
}

func (n *night) results(took time.Duration) results {
	n.hub.mu.Lock()
	defer n.hub.mu.Unlock()
	r := results{Night: n, Minutes: took.Minutes(), Asked: n.hub.asked, Told: n.hub.told, Refused: n.refused, Pending: n.hub.most, Stalled: n.hub.stalled.Minutes(), Samples: n.samples}
	waits, tooks := make([][]time.Duration, len(classes)), make([][]time.Duration, len(classes))
	r.Classes = make([]class, len(classes))
	jobs, attempts := 0, 0
	longest := 0.0
	for _, v := range n.order {
		if v.health == healthy {
			i := v.class()
			jobs++
			attempts += v.attempts
			r.GB += v.bytes / gigabyte
			r.Classes[i].Tenants++
			r.Classes[i].GB += v.bytes / gigabyte
			waits[i], tooks[i] = append(waits[i], v.begun.Sub(v.asked)), append(tooks[i], v.ended.Sub(v.begun))
			longest = max(longest, v.bytes/gigabyte*max(packCPU/n.Cores, readCPU/min(5, n.Share)))
		}
	}
	for i, c := range classes {
		k := &r.Classes[i]
		k.Name = c.name
		k.Wait50, k.Wait95, k.WaitMax = quantile(waits[i], 0.5).Seconds(), quantile(waits[i], 0.95).Seconds(), quantile(waits[i], 1).Seconds()
		k.Took50, k.Took95, k.TookMax = quantile(tooks[i], 0.5).Seconds(), quantile(tooks[i], 0.95).Seconds(), quantile(tooks[i], 1).Seconds()
	}
	const alone = 0.45 // s that a job of no bytes takes
	r.Bounds = map[string]float64{
		"worker cores": r.GB * packCPU / (float64(n.Workers) * n.Cores) / 60, "database cores": r.GB * readCPU / (float64(n.Databases) * n.Share) / 60,
		"egress": r.GB * gigabyte * deflated / n.Egress / 60, "slots": float64(jobs) * alone / float64(n.Workers*n.Slots) / 60, "the largest job": longest / 60,
	}
	r.Bound = slices.Max(slices.Collect(maps.Values(r.Bounds)))
	slots := took.Seconds() * float64(n.Workers*n.Slots)
	r.Served, r.Wasted, r.Returned = n.hub.served.Seconds()/slots, n.hub.wasted.Seconds()/slots, n.hub.returned.Seconds()/slots
	for _, count := range n.hub.asked {
		r.PerJob += float64(count) / float64(len(n.order))
		r.PerSecond += float64(count) / took.Seconds()
	}
	for _, count := range n.hub.told {
		r.Pushed += float64(count) / took.Seconds()
	}
	r.Requests, r.Attempts = float64(n.requests)/float64(len(n.order)), float64(attempts)/float64(max(1, jobs))
	return r
}
