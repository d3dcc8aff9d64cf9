package consumer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

// What somebody has to look at again and again is looked at by whichever worker finds a cell unchanged for a whole
// interval, by its own clock, and wins the swap of it. There is no leader, so there is none to fail over; two workers may
// do a round at once, so no round may mind.

// round is one such thing.
type round struct {
	in    cells
	key   string // of the cell
	every time.Duration
	do    func(context.Context) error
	// trouble is logged with do's error.
	trouble string
	// rest is called when it is another worker's turn, or nobody can say whose. May be nil.
	rest func()
}

// takeTurns does the rounds that fall to this worker until ctx is done.
func (c *Consumer) takeTurns(ctx context.Context, r round) {
	var mine uint64
	for pause(ctx, r.every); ctx.Err() == nil; pause(ctx, r.every) {
		switch revision, ok := c.turnBy(ctx, r.in, r.key, r.every); {
		case ok:
			mine = revision
			if err := r.do(ctx); err != nil && ctx.Err() == nil {
				c.cfg.Log.Warn().Err(err).Msg(r.trouble)
			}
		case revision != mine && r.rest != nil:
			r.rest()
		}
	}
}

// elected reports whether this worker does now what one worker of the fleet does every so often: nobody has for that
// long, as seen by its own clock, and it wins the swap.
func (c *Consumer) elected(ctx context.Context, in cells, key string, every time.Duration) bool {
	_, ok := c.turnBy(ctx, in, key, every)
	return ok
}

// turnBy is elected with the revision by which the present turn is known, whosoever it is; 0 when that is not known.
func (c *Consumer) turnBy(ctx context.Context, in cells, key string, every time.Duration) (revision uint64, ok bool) {
	_, rev, err := in.Get(ctx, key)
	if err != nil && !errors.Is(err, errNoCell) {
		return 0, false
	}
	if rev != 0 && c.seen.unchanged(key, rev) < every {
		return rev, false
	}
	now, _ := json.Marshal(map[string]any{"worker": c.cfg.Worker, "at": time.Now().UTC()})
	if rev == 0 {
		rev, err = in.Create(ctx, key, now)
	} else {
		rev, err = in.Update(ctx, key, now, rev)
	}
	if err != nil {
		return 0, false
	}
	c.seen.note(key, rev)
	return rev, true
}

const (
	// abreast is how many things a round looks at at once. It waits for answers most of its time.
	abreast = 8
	// complaints is how many errors a round tells in full: when a server is down, all its things have the same.
	complaints = 5
)

// each does something for every thing of a round, for some of them at once. What goes wrong with one is in the way of no
// other; the error tells of the first few.
func each[T any](ctx context.Context, things []T, do func(context.Context, T) error) error {
	var group errgroup.Group
	group.SetLimit(abreast)
	outcomes := make([]error, len(things))
	for i, thing := range things {
		group.Go(func() error {
			if ctx.Err() == nil {
				outcomes[i] = do(ctx, thing)
			}
			return nil
		})
	}
	_ = group.Wait() // outcomes has them

	problems := slices.DeleteFunc(outcomes, func(err error) bool { return err == nil })
	if more := len(problems) - complaints; more > 0 {
		problems = append(problems[:complaints], fmt.Errorf("and %d more", more))
	}
	return errors.Join(problems...)
}
