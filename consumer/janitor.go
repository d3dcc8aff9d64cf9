package consumer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
)

// janitorKey is swapped by whichever worker sweeps next.
const janitorKey = "janitor"

// sweepTimeout bounds the look after one job, in whose bucket anything may answer. The next round tries again.
const sweepTimeout = 2 * time.Minute

// sweep is what the janitor remembers of a job: how often it has looked after it.
type sweep struct {
	Passes int `json:"passes,omitempty"`
	// Looks is how many workers have begun to look into the job's folder before there was a record, and have not ended.
	Looks int `json:"looks,omitempty"`
}

// janitor removes what could not be removed in time: uploads that a paused worker created after its successor
// had cleaned up, and the receipts and plans of jobs that ended. Any worker may do it, and it does no harm if two do.
func (c *Consumer) janitor(ctx context.Context) {
	c.takeTurns(ctx, round{
		in: c.records, key: janitorKey, every: c.cfg.SweepEvery, do: c.sweepAll,
		trouble: "the janitor could not look after all ended jobs, and will try again",
	})
}

func (c *Consumer) sweepAll(ctx context.Context) error {
	keys, err := c.records.Keys(ctx, sweepKey("*", "*"))
	if err != nil {
		return fmt.Errorf("list jobs to look after: %w", err)
	}
	return each(ctx, keys, c.sweepJob)
}

// sweepJob looks after one job, if it is time.
func (c *Consumer) sweepJob(ctx context.Context, key string) error {
	part := strings.Split(key, ".")
	if len(part) != 3 {
		return nil
	}
	tenant, job := part[1], part[2]
	value, rev, err := c.records.Get(ctx, key)
	if err != nil {
		return fmt.Errorf("read %s: %w", key, err)
	}
	var s sweep
	if err := json.Unmarshal(value, &s); err != nil {
		return fmt.Errorf("read %s: %w", key, err)
	}
	r, _, err := c.records.get(ctx, recordKey(tenant, job))
	if errors.Is(err, errNoCell) {
		unchanged := c.seen.unchanged(key, rev)
		if unchanged < c.cfg.Observe || s.Looks > 0 && unchanged < max(c.cfg.RetryMax, 10*c.cfg.Observe) {
			return nil // a worker may be about to write the record, or has died over the job, which is still to be counted
		}
		return c.forget(ctx, tenant, job, rev)
	}
	if err != nil || !r.State.ended() {
		return err
	}
	age := time.Since(r.EndedAt)
	if s.Passes == 0 && age < c.cfg.SweepAfter || s.Passes > 0 && age < c.cfg.SweepAgain {
		return nil
	}
	a, err := c.attemptOf(ctx, r)
	if err == nil {
		abort, cancel := context.WithTimeoutCause(ctx, sweepTimeout, fmt.Errorf("not done within %v", sweepTimeout))
		err = c.work.Abort(abort, a, r.Uploads)
		cancel()
	}
	result := "ok"
	if err != nil {
		result = "failed"
	}
	c.meters.swept.Add(ctx, 1, labels("result", result))
	if _, rejected := contracts.AsRejection(err); err != nil && !rejected {
		return fmt.Errorf("look after job %s of tenant %s: %w", job, tenant, err)
	}
	pieces, err := c.pieces(ctx, tenant, job)
	if err == nil {
		err = c.drop(ctx, pieces)
	}
	if err != nil {
		return err
	}
	if s.Passes++; s.Passes > 1 {
		return newer(c.records.DeleteIf(ctx, key, rev))
	}
	value, _ = json.Marshal(s)
	_, err = c.records.Update(ctx, key, value, rev)
	return newer(err)
}

// newer takes it well that a note is newer than the one that was read: somebody has claimed the job, or another janitor
// was faster, and the next round looks again.
func newer(err error) error {
	if errors.Is(err, errSwapped) {
		return nil
	}
	return err
}

// forget removes what a job has left whose record is lost; the bucket's lifecycle rule has its uploads. Its request may
// come again meanwhile, and be claimed anew. So what is removed was there before it was seen, once more, that there is no
// record, and the note stays if it is not the one of that revision.
func (c *Consumer) forget(ctx context.Context, tenant, job string, note uint64) error {
	pieces, err := c.pieces(ctx, tenant, job)
	if err != nil {
		return err
	}
	if _, _, err = c.records.get(ctx, recordKey(tenant, job)); !errors.Is(err, errNoCell) {
		return err
	}
	if err := c.drop(ctx, pieces); err != nil {
		return err
	}
	return newer(c.records.DeleteIf(ctx, sweepKey(tenant, job), note))
}

// pieces are the cells that were written for a job's attempts.
func (c *Consumer) pieces(ctx context.Context, tenant, job string) (keys []string, err error) {
	for _, kind := range []string{"receipt", "plan"} {
		some, err := c.records.pieces.Keys(ctx, tenant+"."+job+"."+kind+".>")
		if err != nil {
			return nil, fmt.Errorf("list the %ss of job %s of tenant %s: %w", kind, job, tenant, err)
		}
		keys = append(keys, some...)
	}
	return keys, nil
}

// drop deletes cells. Nobody will commit or continue what they are pieces of.
func (c *Consumer) drop(ctx context.Context, keys []string) error {
	for _, key := range keys {
		if err := c.records.pieces.Delete(ctx, key); err != nil {
			return fmt.Errorf("delete %s: %w", key, err)
		}
	}
	return nil
}
