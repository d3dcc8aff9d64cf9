package consumer

import (
	"context"
	"sync"
	"time"
)

// observations is when this worker, by its own monotonic clock, first saw each record's present revision. A
// challenger needs to have seen one revision for the whole observation time. Every worker watches the changes
// of all records, so whichever worker a redelivered message reaches can usually decide at once.
type observations struct {
	mu   sync.Mutex
	seen map[string]observation
}

type observation struct {
	revision uint64
	since    time.Time
}

func newObservations() *observations { return &observations{seen: map[string]observation{}} }

// note remembers that key has the revision now.
func (o *observations) note(key string, revision uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if was, ok := o.seen[key]; !ok || revision > was.revision {
		o.seen[key] = observation{revision, time.Now()}
	}
}

// unchanged is how long key is known to have had this revision. Calling it is an observation, too.
func (o *observations) unchanged(key string, revision uint64) time.Duration {
	o.note(key, revision)
	o.mu.Lock()
	defer o.mu.Unlock()
	if s := o.seen[key]; s.revision == revision {
		return time.Since(s.since)
	}
	return 0 // a newer revision was seen: what was read is stale
}

// drop forgets one key: it is observed again should it be asked for.
func (o *observations) drop(key string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.seen, key)
}

// forget drops what is older than age: it is observed anew should it ever be asked for.
func (o *observations) forget(age time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for key, s := range o.seen {
		if time.Since(s.since) > age {
			delete(o.seen, key)
		}
	}
}

// observe follows all records until ctx is done. Missing changes costs time, not safety: a revision that was
// not seen to change is still compared with the one read at the claim, and swapped.
func (c *Consumer) observe(ctx context.Context) {
	for ctx.Err() == nil {
		c.seen.forget(max(10*c.cfg.Observe, 2*c.cfg.RetryMax, 2*signatureLife))
		c.crowd.forget()
		c.routes.forget()
		round, cancel := context.WithTimeout(ctx, 5*c.cfg.Observe)
		err := c.records.Changes(round, recordKeys, func(key string, revision uint64) {
			if c.crowd.note(key) {
				c.seen.note(key, revision)
			} else {
				c.seen.drop(key) // a worker that needs it of an ended job observes it then
			}
		})
		if err != nil {
			pause(ctx, time.Second)
		}
		cancel()
	}
}

// hear follows the ends of all jobs until ctx is done.
func (c *Consumer) hear(ctx context.Context) {
	for ctx.Err() == nil {
		ended := func(key string) {
			c.crowd.end(key)
			c.seen.drop(key)
		}
		if err := c.ledger.Endings(ctx, ended); err != nil {
			pause(ctx, time.Second)
		}
	}
}
