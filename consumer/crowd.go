package consumer

import (
	"errors"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
)

// crowd is who holds the fleet's slots, as far as this worker can know: its own jobs exactly, those of others by
// the changes of their records, which an owner makes every heartbeat. It keeps one tenant from holding every
// slot. It is about fairness and not about safety: two workers that decide at the same moment may let in one
// job too many.
type crowd struct {
	perTenant int           // jobs of one tenant in the whole fleet
	perWorker int           // jobs of one tenant in this worker
	lively    time.Duration // how long a record that has not changed still counts

	mu    sync.Mutex
	mine  map[string]int                  // slots of this worker, by tenant
	moved map[string]map[string]time.Time // when a job's record last changed, by tenant and key
	ended map[string]time.Time            // keys of jobs whose outcome was seen

	pruned time.Time // when old keys of ended were dropped
}

func newCrowd(cfg Config) *crowd {
	return &crowd{
		perTenant: cfg.PerTenant, perWorker: max(1, cfg.Slots-1), lively: 5 * cfg.Heartbeat / 2,
		mine: map[string]int{}, moved: map[string]map[string]time.Time{}, ended: map[string]time.Time{},
	}
}

// note remembers that the record has changed. It reports whether the job is still under way, as far as this
// worker knows.
func (c *crowd) note(key string) (live bool) {
	tenant, _, _ := strings.Cut(key, ".")
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, over := c.ended[key]; over {
		return false // the last write of a job comes after its outcome
	}
	if c.moved[tenant] == nil {
		c.moved[tenant] = map[string]time.Time{}
	}
	c.moved[tenant][key] = time.Now()
	return true
}

// end remembers that the job's outcome was published.
func (c *crowd) end(key string) {
	tenant, _, _ := strings.Cut(key, ".")
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.pruned) > c.lively { // a fast fleet ends many jobs between two rounds of forget
		c.pruned = time.Now()
		maps.DeleteFunc(c.ended, func(_ string, at time.Time) bool { return time.Since(at) > c.lively })
	}
	c.ended[key] = time.Now()
	delete(c.moved[tenant], key)
}

// enter takes a place for the tenant, unless it holds its share already.
func (c *crowd) enter(tenant, key string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	others := 0
	for k, at := range c.moved[tenant] {
		switch {
		case time.Since(at) > c.lively:
			delete(c.moved[tenant], k)
		case k != key:
			others++
		}
	}
	if c.mine[tenant] >= c.perWorker || max(others, c.mine[tenant]) >= c.perTenant {
		return false
	}
	c.mine[tenant]++
	return true
}

// leave gives the place back. last reports whether the tenant has no other place in this worker.
func (c *crowd) leave(tenant string) (last bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mine[tenant]--; c.mine[tenant] <= 0 {
		delete(c.mine, tenant)
		return true
	}
	return false
}

// busy reports whether this worker works on a job of the tenant.
func (c *crowd) busy(tenant string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mine[tenant] > 0
}

// forget drops what no longer matters.
func (c *crowd) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, at := range c.ended {
		if time.Since(at) > c.lively {
			delete(c.ended, key)
		}
	}
	for tenant, jobs := range c.moved {
		for key, at := range jobs {
			if time.Since(at) > c.lively {
				delete(jobs, key)
			}
		}
		if len(jobs) == 0 {
			delete(c.moved, tenant)
		}
	}
}

// seat is one job's part in the crowd.
type seat struct {
	c           *Consumer
	tenant, key string
	taken       bool
}

// take takes a slot for a job that is to run. When it may not, the message comes again after the delay. A job
// that only has to be finished takes none: it is quick, and holds up others when it waits.
func (s *seat) take() (delay time.Duration, ok bool) {
	if s.taken {
		return 0, true
	}
	if delay := s.c.pauses.wait(s.tenant); delay > 0 {
		return delay, false
	}
	if !s.c.crowd.enter(s.tenant, s.key) {
		return s.c.cfg.Heartbeat + rand.N(2*s.c.cfg.Heartbeat), false
	}
	if delay := s.c.routes.wait(s.tenant); delay > 0 {
		s.c.crowd.leave(s.tenant)
		return delay, false
	}
	s.taken = true
	return 0, true
}

// leave gives the slot back. It may be called again.
func (s *seat) leave() {
	if s.taken {
		s.taken = false
		last := s.c.crowd.leave(s.tenant)
		s.c.routes.over(s.tenant, last)
	}
}

// circuits keep a destination that does not answer from holding slots: after an attempt has failed on it, one
// job at a time tries it again, and the others wait in the queue.
type circuits struct {
	cfg  Config
	busy func(tenant string) bool // whether this worker works on a job of the tenant; must not be slow

	mu    sync.Mutex
	route map[string]string // a tenant's destination, as of its last attempt
	open  map[string]*circuit
}

type circuit struct {
	failures int
	until    time.Time
	trial    bool // a job is trying whether the destination answers again
}

func newCircuits(cfg Config, busy func(tenant string) bool) *circuits {
	return &circuits{cfg: cfg, busy: busy, route: map[string]string{}, open: map[string]*circuit{}}
}

// aim remembers where an attempt of the tenant goes.
func (c *circuits) aim(tenant, destination string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.route[tenant] = destination
}

// wait is how long a job of the tenant should stay in the queue; 0 lets it try.
func (c *circuits) wait(tenant string) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.open[c.route[tenant]]
	switch {
	case o == nil:
		return 0
	case time.Until(o.until) > 0:
		return time.Until(o.until) + rand.N(c.cfg.RetryBase)
	case o.trial:
		return c.cfg.RetryBase/2 + rand.N(c.cfg.RetryBase)
	}
	o.trial = true
	return 0
}

// over ends a trial, if there was one, whatever came of it. After the tenant's last job in this worker, its destination
// is forgotten if it answers: a worker serves more tenants in its life than it can remember.
func (c *circuits) over(tenant string, last bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if o := c.open[c.route[tenant]]; o != nil {
		o.trial = false
	} else if last {
		delete(c.route, tenant)
	}
}

// forget drops the circuits that no job has tried for twice the longest delay between two attempts, with the routes that
// lead there: their tenants are gone, or other workers serve them.
func (c *circuits) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for destination, o := range c.open {
		if !o.trial && time.Since(o.until) > 2*c.cfg.RetryMax {
			delete(c.open, destination)
		}
	}
	for tenant, destination := range c.route {
		if c.open[destination] == nil && !c.busy(tenant) {
			delete(c.route, tenant)
		}
	}
}

// report says how an attempt of the tenant went: whether its destination answered.
func (c *circuits) report(tenant string, down bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	destination, known := c.route[tenant]
	if !known {
		return
	}
	if !down {
		delete(c.open, destination)
		return
	}
	o := c.open[destination]
	if o == nil {
		o = &circuit{}
		c.open[destination] = o
	}
	o.until, o.trial = time.Now().Add(retryDelay(o.failures, c.cfg)), false
	o.failures++
}

// destinationOf names what a circuit is about.
func destinationOf(a contracts.Attempt) string {
	d := a.Tenant.Destination
	return d.Endpoint + " " + d.Region + " " + d.Bucket
}

// unreachable reports whether err says that the destination did not answer.
func unreachable(err error) bool {
	var u Unreachable
	return errors.As(err, &u) && u.Unreachable()
}
