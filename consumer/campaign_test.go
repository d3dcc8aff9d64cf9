package consumer

import (
	"context"
	"flag"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
)

var (
	seeds = flag.Int("seeds", 40, "how many seeds TestRandomFaults runs")
	first = flag.Uint64("first", 0, "the first of them")
)

// TestRandomFaults lets three workers deliver the jobs of two tenants while calls fail, lie, lag, or take effect
// after all; while workers die, are paused and are replaced; while uploads are lost, operators cancel, records
// vanish and a tenant is removed and put back. Every change of the world is checked, and so is the end of it all.
//
// A seed decides what the world does. What the workers draw themselves (delays of retries, nonces) differs from run
// to run, so a failure that depends on a few milliseconds may need its seed more than once:
//
//	go test ./consumer -run '^TestRandomFaults$/^17$' -count=20 -args -first=17 -seeds=1
func TestRandomFaults(t *testing.T) {
	n := *seeds
	if testing.Short() {
		n = min(n, 10)
	}
	for seed := range uint64(n) {
		seed += *first
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inMemory(t, func(t *testing.T, w *memory) { newChaos(w, seed).run(t) })
		})
	}
}

const (
	tick   = 10 * time.Second
	stormy = 20 * time.Minute // from then on nothing is disturbed
	// How long after that the last job may take: a worker that died is observed for a minute, and the queue and
	// the longest delay of a retry cost another each; then come three attempts in a row on two slots.
	patience = 10 * time.Minute
)

// chaos is what happens to a memory.
type chaos struct {
	*memory
	seed  uint64
	began time.Time
	calls map[string]int // by node and operation
	jobs  []*trial
	nodes [3]*node
	drain [3]context.CancelFunc
	// Attempts for which nobody is blamed, by the record's key: the worker was told to stop, or the record lost.
	blameless map[string]int
	removed   bool // a tenant was, for a while
}

// trial is one job, and what is done to it.
type trial struct {
	request   contracts.Request
	published int // at which tick; again at repeated
	repeated  int
	cancelled int
	purged    int
}

func (j *trial) key() string { return recordKey(j.request.Tenant, j.request.Job) }

const never = -1

func newChaos(w *memory, seed uint64) *chaos {
	c := &chaos{memory: w, seed: seed, began: time.Now(), calls: map[string]int{}, blameless: map[string]int{}}
	w.addTenant("globex")
	for _, tenant := range []string{"acme", "globex"} {
		for _, job := range []string{"a", "b", "c"} {
			req, dice := request(job), c.dice(tenant, job)
			req.Tenant = tenant
			j := &trial{request: req, published: dice.IntN(12), repeated: never, cancelled: never, purged: never}
			switch dice.IntN(5) {
			case 0:
				j.repeated = j.published + dice.IntN(30)
			case 1:
				j.cancelled = j.published + dice.IntN(12)
			case 2:
				j.purged = j.published + dice.IntN(12)
			}
			c.jobs = append(c.jobs, j)
		}
	}
	return c
}

// dice is a source of randomness for one purpose: what it gives does not depend on what happened before.
func (c *chaos) dice(purpose ...any) *rand.Rand {
	h := fnv.New64a()
	fmt.Fprintln(h, purpose...)
	return rand.New(rand.NewPCG(c.seed, h.Sum64()))
}

func (c *chaos) storm() bool { return time.Since(c.began) < stormy }

// fault is what happens to a node's n-th call of an operation.
func (c *chaos) fault(n *node, op string) fault {
	if !c.storm() {
		return fault{}
	}
	id := n.name + " " + op
	c.calls[id]++
	dice := c.dice(id, c.calls[id])
	f := fault{delay: time.Duration(dice.IntN(int(20 * time.Millisecond)))}
	switch p := dice.IntN(1000); {
	case p < 20:
		f.kind = refuse
	case p < 35:
		f.kind = deceive
	case p < 45 && op != "next":
		f.kind, f.delay = late, time.Duration(dice.IntN(int(30*time.Second)))
	case p < 50:
		f.kind = die
	case p < 55:
		f.kind = dieLate
	case p < 60:
		f.delay = time.Duration(dice.IntN(int(90 * time.Second)))
	}
	return f
}

// start puts a fresh worker in the place of the i-th.
func (c *chaos) start(i int) {
	n := c.node(fmt.Sprintf("w%d.%d", i+1, len(c.waits)))
	n.faults = func(op string) fault { return c.fault(n, op) }
	ctx, drain := context.WithCancel(c.ctx)
	lose := func(a contracts.Attempt, id string) bool {
		return c.storm() && c.dice("lose", a.Prefix(), a.Number, id).IntN(50) == 0
	}
	c.waits = append(c.waits, n.run(ctx, exports{part: time.Second, lose: lose}, Config{
		Slots: 2, Grace: 15 * time.Second, Attempts: 1000, Crashes: 1000, RetryMax: time.Minute, SweepAgain: time.Hour,
	}))
	c.nodes[i], c.drain[i] = n, drain
}

func (c *chaos) run(t *testing.T) {
	for at := 0; c.storm() || !c.settled(); at++ {
		if !c.storm() && time.Since(c.began) > stormy+patience {
			c.fail("I12: not settled %v after the last fault", patience)
		}
		for i, n := range c.nodes {
			if n == nil || n.ctx.Err() != nil { // the orchestrator starts a new one
				c.start(i)
			}
		}
		if c.storm() {
			c.disturb(at)
		}
		time.Sleep(tick) // virtual: the world is in a bubble
	}
	c.checkEnds()
	time.Sleep(2 * time.Hour) // virtual, for the janitor
	c.checkRemains()
}

// disturb is what happens between two ticks, besides faults.
func (c *chaos) disturb(at int) {
	for _, j := range c.jobs {
		if at == j.published || at == j.repeated {
			c.publish(j.request)
		}
		if at == j.cancelled {
			c.memory.cancel(j.request.Tenant, j.request.Job)
		}
		if at == j.purged {
			c.purge(j)
		}
	}
	dice := c.dice("tick", at)
	i := dice.IntN(len(c.nodes))
	switch n := c.nodes[i]; dice.IntN(60) {
	case 0:
		n.stop()
		time.AfterFunc(100*time.Second, n.cont)
	case 1:
		c.change(n.name+" is told to stop", func() {
			for _, j := range c.jobs {
				c.blameless[j.key()]++ // of which it may hold any
			}
		})
		c.drain[i]()
		c.start(i)
	case 2:
		c.loseUpload(dice)
	case 3:
		c.change("globex is removed", func() { c.removed = true; delete(c.tenants, "globex") })
		time.AfterFunc(2*tick, func() {
			c.change("globex is put back", func() { c.addTenant("globex") })
		})
	}
}

// purge loses a record.
func (c *chaos) purge(j *trial) {
	c.change("the record of "+j.key()+" is lost", func() {
		c.blameless[j.key()] = 1000
		delete(c.cells, j.key())
	})
}

// loseUpload is a lifecycle rule, or somebody who tidies up.
func (c *chaos) loseUpload(dice *rand.Rand) {
	c.change("an upload is aborted from outside", func() {
		for _, dir := range slices.Sorted(maps.Keys(c.folders)) {
			for _, id := range slices.Sorted(maps.Keys(c.folders[dir].uploads)) {
				if dice.IntN(2) == 0 {
					delete(c.folders[dir].uploads, id)
					return
				}
			}
		}
	})
}

// checkEnds is about how each job has ended. That outcome and manifest agree is checked after every change.
func (c *chaos) checkEnds() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, j := range c.jobs {
		o, key := c.outcomes[j.key()], j.key()
		switch gone := c.removed && j.request.Tenant == "globex"; {
		case o.Kind == contracts.Delivered:
		case o.Kind == contracts.Cancelled && j.cancelled != never:
		case o.Kind == contracts.Failed && gone && o.Reason.Code == contracts.UnknownTenant:
		case o.Kind == contracts.Failed && j.purged != never && o.Reason.Code == contracts.DestinationTaken:
			// The attempts were numbered from 1 again, and found what an attempt of the lost record had
			// completed: nobody can say whether it still goes on.
		default:
			c.fail("%s: outcome %q, reason %+v", key, o.Kind, o.Reason)
		}
		r := c.recordAt(key)
		if want := map[bool]state{true: done, false: failed}[o.Kind.OK()]; r.State != want && o.Kind != "" && j.purged == never {
			c.fail("%s: the outcome is %s, and the record says %s", key, o.Kind, r.State)
		}
		if budget := 1 + r.Errors + r.Crashes + c.blameless[key]; r.Attempt > budget {
			c.fail("I15: %s: %d attempts, and reasons for %d", key, r.Attempt, budget)
		}
	}
}

// checkRemains is about what the janitor must not have left. Of a job whose record was lost after its end it knows
// nothing: there the bucket's lifecycle rule has the uploads. And a write of such a record that was under way when it
// was lost brings back a record that nobody asks for.
func (c *chaos) checkRemains() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, j := range c.jobs {
		if j.purged != never {
			delete(c.cells, j.key())
		}
	}
	for dir, f := range c.folders {
		key := strings.ReplaceAll(strings.TrimSuffix(dir, "/"), "/", ".")
		if _, kept := c.cells[key]; kept && len(f.uploads) > 0 {
			c.fail("I13: %s: uploads are left: %v", dir, f.uploads)
		}
	}
	for key := range c.cells {
		part := strings.Split(key, ".")
		if len(part) < 3 {
			continue // a record, or the janitor's own
		}
		of := recordKey(part[0], part[1])
		if part[0] == "sweep" {
			of = recordKey(part[1], part[2])
		}
		if _, kept := c.cells[of]; kept {
			c.fail("I13: %s is left", key)
		}
	}
}
