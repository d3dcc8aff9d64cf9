package consumer

import (
	"context"
	"flag"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/test/world"
)

var (
	soak     = flag.Int("soak", 2000, "jobs of TestMemoryOfAWorkerDoesNotGrow")
	realSoak = flag.Int("real-soak", 400, "jobs of TestMemoryOfAWorkerDoesNotGrowOverARealServer")
)

// jobsAtOnce is how many jobs the test publishes before it waits for all of them.
const jobsAtOnce = 100

// contexts keeps what a step of a job gets as its context: it is of the job's lease.
type contexts struct {
	exports
	mu   *sync.Mutex
	kept *[]context.Context
}

func (e contexts) Complete(ctx context.Context, a contracts.Attempt, r contracts.Receipt) error {
	e.mu.Lock()
	*e.kept = append(*e.kept, ctx)
	e.mu.Unlock()
	return e.exports.Complete(ctx, a, r)
}

// A context that is not released stays registered in its parent, and with it all that the job has put there.
func TestTheContextOfALeaseIsReleased(t *testing.T) {
	inMemory(t, func(t *testing.T, w *memory) {
		var mu sync.Mutex
		var kept []context.Context
		c, stop := worker(w, contexts{exports{n: w.node("w1"), part: time.Millisecond}, &mu, &kept})
		defer stop()
		for i := range 20 {
			w.publish(request(fmt.Sprintf("job-%d", i)))
		}
		within(t, w, time.Hour, "settled", w.settled)
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if len(kept) != 20 {
			t.Errorf("%d contexts of 20 jobs", len(kept))
		}
		for _, ctx := range kept {
			if ctx.Err() == nil {
				t.Fatal("the job has ended and its context is still registered")
			}
		}
		if err := c.jobs.Err(); err != nil {
			t.Errorf("the worker's own context: %v", err)
		}
	})
}

// worker starts a worker over the memory, as [node.run] does, for tests that look inside it.
func worker(w *memory, work Work) (c *Consumer, stop func()) {
	n := w.node("inside")
	cfg := Config{Worker: n.name, CheckEvery: -1, CheckAhead: -1, Slots: 4, RetryBase: time.Second, RetryMax: 10 * time.Second, Attempts: 3}
	c = assemble(work, cfg.withDefaults(), n, recordsOf(n), fleetOf{n}, n, tenantsOf{n})
	c.calendar = calendarOf{n}
	ctx, cancel := context.WithCancel(w.ctx)
	over := make(chan struct{})
	go func() { defer close(over); _ = c.Run(ctx) }()
	return c, func() { cancel(); <-over }
}

// empty forgets what the world has kept of jobs that have ended: what is left to grow is the worker.
func (w *memory) empty() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.cells)
	clear(w.outcomes)
	clear(w.folders)
	clear(w.manifests)
	clear(w.decoded)
	clear(w.tenants)
	w.messages, w.dead, w.trail, w.notices = nil, nil, nil, nil
	w.shelf.mu.Lock()
	defer w.shelf.mu.Unlock()
	clear(w.shelf.cells)
}

// remembered is how many things a worker remembers of tenants and jobs.
func (c *Consumer) remembered() map[string]int {
	c.seen.mu.Lock()
	defer c.seen.mu.Unlock()
	c.crowd.mu.Lock()
	defer c.crowd.mu.Unlock()
	c.routes.mu.Lock()
	defer c.routes.mu.Unlock()
	jobs := 0
	for key := range c.seen.seen {
		if key != timekeeperKey && key != janitorKey {
			jobs++
		}
	}
	return map[string]int{
		"revisions": jobs, "slots": len(c.crowd.mine), "moved": len(c.crowd.moved), "ended": len(c.crowd.ended),
		"routes": len(c.routes.route), "circuits": len(c.routes.open),
	}
}

// Each job is of another tenant. Some of their destinations do not answer, and never will.
func TestMemoryOfAWorkerDoesNotGrow(t *testing.T) {
	inMemory(t, func(t *testing.T, w *memory) {
		work := exports{n: w.node("w1"), part: time.Millisecond, reject: func(a contracts.Attempt) error {
			if a.Tenant.Name[len(a.Tenant.Name)-1] == '7' {
				return away{fmt.Errorf("no answer")}
			}
			return nil
		}}
		c, stop := worker(w, work)
		w.unchecked = true
		done := 0
		round := func() {
			for range jobsAtOnce {
				done++
				tenant := fmt.Sprintf("t%d", done)
				w.change("register "+tenant, func() { w.addTenant(tenant) })
				w.publish(requestOf(tenant, fmt.Sprintf("job-%d", done)))
			}
			within(t, w, 100*time.Hour, "settled", w.settled)
			w.empty()
		}
		for range 5 {
			round()
		}
		before, goroutines := heapInUse(), runtime.NumGoroutine()
		began := done
		for done < *soak {
			round()
		}
		time.Sleep(6 * time.Hour) // longer than anything is remembered
		grown := int64(heapInUse()) - int64(before)
		t.Logf("%d jobs: the heap was %d KiB after the first %d, and has grown by %d bytes a job; %d goroutines, then %d",
			done, before>>10, began, grown/int64(done-began), goroutines, runtime.NumGoroutine())
		for what, n := range c.remembered() {
			if n > 0 {
				t.Errorf("after %d jobs, all of which have ended, the worker remembers %d %s", done, n, what)
			}
		}
		// Maps keep the room that they once had.
		if limit := int64(512<<10 + 16*(done-began)); grown > limit {
			t.Errorf("the heap has grown by %d bytes over %d jobs, the limit is %d", grown, done-began, limit)
		}
		if n := runtime.NumGoroutine(); n > goroutines {
			t.Errorf("%d goroutines, and %d after %d jobs more", goroutines, n, done-began)
		}
		stop()
	})
}

// The same with a real server, in a process of its own. It is no parallel test: others would use the same heap.
func TestMemoryOfAWorkerDoesNotGrowOverARealServer(t *testing.T) {
	ctx := t.Context()
	server, err := world.StartNATS(t.TempDir(), world.AsProcess())
	if err != nil {
		t.Fatal(err)
	}
	defer server.Stop()
	nc, err := Connect(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js := must(JetStream(nc, ""))
	must(Setup(ctx, js, SetupOptions{}))
	registry := must(OpenRegistry(ctx, js))
	for i := range jobsAtOnce { // no job waits for its tenant's share
		if err := registry.Set(ctx, tenant(fmt.Sprintf("t%d", i))); err != nil {
			t.Fatal(err)
		}
	}
	jobs, w := must(OpenJobs(ctx, js)), newMemory(t)
	defer w.rest()
	w.unchecked = true
	defer start(t, nc, exports{n: w.node("bucket")}, Config{Worker: "w1", Slots: 8, PerTenant: 8, CheckEvery: -1, CheckAhead: -1})()
	ended := make(chan string, jobsAtOnce)
	sub, err := nc.Subscribe(contracts.OutcomeSubjects, func(m *nats.Msg) { ended <- m.Subject })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	done := 0
	round := func() {
		for i := range jobsAtOnce {
			done++
			must(jobs.Submit(ctx, requestOf(fmt.Sprintf("t%d", i), fmt.Sprintf("job-%d", done)), nil))
		}
		for range jobsAtOnce {
			select {
			case <-ended:
			case <-time.After(5 * time.Minute):
				t.Fatalf("no job has ended for five minutes, of %d", done)
			}
		}
		w.empty()
	}
	for range 2 {
		round()
	}
	before, goroutines, began := heapInUse(), runtime.NumGoroutine(), done
	for done < *realSoak {
		round()
	}
	grown := int64(heapInUse()) - int64(before)
	t.Logf("%d jobs: the heap was %d KiB after the first %d, and has grown by %d bytes; %d goroutines, then %d", done, before>>10, began, grown, goroutines, runtime.NumGoroutine())
	if limit := int64(2<<20 + 32*(done-began)); grown > limit {
		t.Errorf("the heap has grown by %d bytes over %d jobs, the limit is %d", grown, done-began, limit)
	}
	if n := runtime.NumGoroutine(); n > goroutines+16 { // the last jobs may be about to end
		t.Errorf("%d goroutines, and %d after %d jobs more", goroutines, n, done-began)
	}
}

// heapInUse is how much is in use.
func heapInUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// away is a destination that does not answer.
type away struct{ error }

func (away) Unreachable() bool { return true }

// It is no parallel test: the provider is the program's.
func TestAWorkerThatHasEndedReportsNothing(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	otel.SetMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)))
	reported := func() map[string]bool {
		var all metricdata.ResourceMetrics
		if err := reader.Collect(context.Background(), &all); err != nil {
			t.Fatal(err)
		}
		names := map[string]bool{}
		for _, s := range all.ScopeMetrics {
			for _, m := range s.Metrics {
				names[m.Name] = true
			}
		}
		return names
	}
	inMemory(t, func(t *testing.T, w *memory) {
		w.schedule(minutely())
		c, stop := worker(w, exports{n: w.node("w1"), part: time.Millisecond})
		c.measured.Store(newCensus())
		time.Sleep(10 * time.Minute)
		for _, name := range []string{"snapfleet.tenants.scheduled", "snapfleet.queue.length"} {
			if !reported()[name] {
				t.Errorf("%s is not reported", name)
			}
		}
		stop()
		c.lateness.Store(&punctual{})
		c.measured.Store(newCensus())
		for _, name := range []string{"snapfleet.tenants.scheduled", "snapfleet.queue.length"} {
			if reported()[name] {
				t.Errorf("%s is reported by a worker that has ended", name)
			}
		}
	})
}
