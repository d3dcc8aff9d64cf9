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

// sweep is what the janitor remembers of a job: how often it has looked after it.
type sweep struct {
	Passes int `json:"passes,omitempty"`
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
		if c.seen.unchanged(key, rev) < c.cfg.Observe {
			return nil // whoever has just left the note may be about to write the record
		}
		// The record is lost; the bucket's lifecycle rule has the uploads.
		return errors.Join(c.dropPieces(ctx, tenant, job), c.records.Delete(ctx, key))
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
		err = c.work.Abort(ctx, a, r.Uploads)
	}
	result := "ok"
	if err != nil {
		result = "failed"
	}
	c.meters.swept.Add(ctx, 1, labels("result", result))
	if _, rejected := contracts.AsRejection(err); err != nil && !rejected {
		return fmt.Errorf("look after job %s of tenant %s: %w", job, tenant, err)
	}
	if err := c.dropPieces(ctx, tenant, job); err != nil {
		return err
	}
	if s.Passes++; s.Passes > 1 {
		return c.records.Delete(ctx, key)
	}
	value, _ = json.Marshal(s)
	_, err = c.records.Update(ctx, key, value, rev)
	return err
}

// dropPieces deletes what was written for a job's attempts: nobody will commit or continue one of them again.
func (c *Consumer) dropPieces(ctx context.Context, tenant, job string) error {
	for _, pieces := range []string{"receipt", "plan"} {
		if err := c.drop(ctx, tenant+"."+job+"."+pieces+".>"); err != nil {
			return err
		}
	}
	return nil
}

// drop deletes the cells that a filter finds.
func (c *Consumer) drop(ctx context.Context, pieces string) error {
	keys, err := c.records.Keys(ctx, pieces)
	if err != nil {
		return fmt.Errorf("list %s: %w", pieces, err)
	}
	for _, key := range keys {
		if err := c.records.Delete(ctx, key); err != nil {
			return fmt.Errorf("delete %s: %w", key, err)
		}
	}
	return nil
}
