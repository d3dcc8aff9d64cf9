package consumer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
)

// The runs of one tenant's schedule never overlap, and of those that were missed one is made. Both are decided in one
// cell for each tenant, by compare-and-swap: the run that was begun last, or promised. A run is begun only by whoever
// finds it there, so two workers that see two runs of a tenant at once cannot begin both.

// lastRun is that cell.
type lastRun struct {
	Job    string           `json:"job"`
	Only   contracts.Kind   `json:"only,omitempty"`
	Format contracts.Format `json:"format,omitempty"`
	contracts.ScheduledRun
}

func runKey(tenant string) string { return "run." + tenant }

// request is what the run asks for, as its schedule did.
func (r lastRun) request(tenant string) contracts.Request {
	return contracts.Schedule{Tenant: tenant, Only: r.Only, Format: r.Format}.Request(r.FiredAt)
}

// turn is what is decided about a run that has no record.
type turn struct {
	run  *contracts.ScheduledRun // nil: the job is nobody's run
	skip *contracts.Rejection    // why the run is not made
	// next is what the tenant's cell has to become before anything else happens. Nil: it stays.
	next *lastRun
}

// decide says what becomes of the run of table that fired for a time: it is begun, or it is skipped because the run
// before goes on, or because a later one stands for it. last is the tenant's cell, nil when there is none, over whether
// the job in it has ended, and now this worker's clock.
//
// Nobody has looked at a run in time when the next one is due. That next one is promised then, so that it is begun even
// if nobody looks at it in time either: a fleet that is always late still delivers.
func decide(table timetable, fired time.Time, last *lastRun, over bool, now time.Time) turn {
	run := &contracts.ScheduledRun{FiredAt: fired}
	missed := func(by string) *contracts.Rejection {
		return &contracts.Rejection{Code: contracts.RunMissed, Err: fmt.Errorf("the run of %s was missed; job %s stands for it", fired.Format(time.RFC3339), by)}
	}
	after := table.UpdatedAt
	if last != nil {
		switch {
		case fired.Equal(last.FiredAt):
			return turn{run: &last.ScheduledRun}
		case fired.Before(last.FiredAt):
			return turn{run: run, skip: missed(last.Job)}
		case !over:
			return turn{run: run, skip: &contracts.Rejection{Code: contracts.RunUnderWay, Err: fmt.Errorf("the run before, job %s, has not ended", last.Job)}}
		}
		after = last.FiredAt
	}
	due := fired
	if latest := table.last(now); latest.After(fired) {
		due = latest
	}
	next := &lastRun{Job: table.Request(due).Job, Only: table.Only, Format: table.Format, ScheduledRun: contracts.ScheduledRun{FiredAt: due}}
	next.Missed, next.MissedTotal = table.between(after, due)
	if due.After(fired) {
		return turn{run: run, skip: missed(next.Job), next: next}
	}
	return turn{run: &next.ScheduledRun, next: next}
}

// turnOf decides about a job that has no record, and writes the decision down. ok is false when there is nothing to
// begin, and f is the message's fate.
func (c *Consumer) turnOf(ctx context.Context, req contracts.Request, table *timetable) (t turn, f fate, ok bool) {
	if table != nil {
		// Its own record may have been forgotten. A request would be kept for people to see; of a run there is nothing
		// to see that its outcome does not say.
		switch o, err := c.ledger.Outcome(ctx, req.Tenant, req.Job); {
		case err != nil:
			return t, c.postpone(ctx, fmt.Errorf("look for an outcome: %w", err), c.cfg.RetryBase), false
		case o != nil:
			return t, fate{end: acked}, false
		}
	}
	for {
		last, rev, err := c.lastRun(ctx, req.Tenant)
		if err != nil {
			return t, c.postpone(ctx, err, c.cfg.RetryBase), false
		}
		if table == nil { // that was promised
			if last != nil && last.Job == req.Job {
				t.run = &last.ScheduledRun
			}
			return t, fate{}, true
		}
		over := false
		if last != nil {
			if over, err = c.runIsOver(ctx, req.Tenant, *last); err != nil {
				return t, c.postpone(ctx, err, c.cfg.RetryBase), false
			}
		}
		t = decide(*table, req.RequestedAt, last, over, time.Now())
		if t.next == nil {
			return t, fate{}, true
		}
		switch err := c.writeCell(ctx, runKey(req.Tenant), t.next, rev); {
		case err == nil:
			return t, fate{}, true
		case errors.Is(err, errSwapped): // somebody else has begun a run: look again
		default:
			return t, c.postpone(ctx, fmt.Errorf("promise a run: %w", err), c.cfg.RetryBase), false
		}
	}
}

// skew is how far a publisher's clock may be ahead of a worker's.
const skew = time.Minute

// takesRun says why a request that has no record may not have its job's id, or nil. A publisher could otherwise ask for a
// run of a schedule before its time, and the run would find its job done. The ids of runs are known years ahead. A run
// that was decided about, or is too old to be begun, cannot be taken any more.
func (c *Consumer) takesRun(ctx context.Context, req contracts.Request, now time.Time) (why *contracts.Rejection, err error) {
	at, parseErr := time.Parse(contracts.JobLayout, req.Job)
	if parseErr != nil || now.Sub(at) > c.cfg.MaxAge {
		return nil, nil
	}
	refused := func(format string) *contracts.Rejection {
		return &contracts.Rejection{Code: contracts.InvalidRequest, Err: fmt.Errorf("job %s: "+format+"; ask with another id", req.Job)}
	}
	if at.After(now.Add(skew)) {
		return refused("it names a time that lies ahead, and such ids are kept for the runs of schedules"), nil
	}
	if c.calendar == nil {
		return nil, nil
	}
	schedule, err := c.calendar.Get(ctx, req.Tenant)
	if _, unreadable := contracts.AsRejection(err); unreadable || errors.Is(err, ErrNoSchedule) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	table, err := readTimetable(schedule)
	if err != nil || at.Before(table.UpdatedAt) || !table.last(at).Equal(at) {
		return nil, nil //nolint:nilerr // a schedule that cannot be read has no runs
	}
	last, _, err := c.lastRun(ctx, req.Tenant)
	if err != nil || last != nil && at.Before(last.FiredAt) {
		return nil, err
	}
	return refused("it is the run of the tenant's schedule at that time"), nil
}

// before reports whether r is the job of a request that was begun before the time of the run that run asks for.
func (r record) before(run contracts.Request) bool {
	return r.Schedule == nil && r.Digest != "" && r.CreatedAt.Before(run.RequestedAt)
}

// lastRun reads a tenant's cell: nil and 0 when there is none.
func (c *Consumer) lastRun(ctx context.Context, tenant string) (*lastRun, uint64, error) {
	last := new(lastRun)
	rev, err := readCell(ctx, c.fleet, runKey(tenant), last)
	if err != nil || rev == 0 {
		return nil, 0, err
	}
	return last, rev, nil
}

// readCell decodes a cell of the fleet's bucket. The revision is 0 when there is none.
func readCell(ctx context.Context, fleet cells, key string, v any) (uint64, error) {
	value, rev, err := fleet.Get(ctx, key)
	if errors.Is(err, errNoCell) {
		return 0, nil
	}
	if err == nil {
		err = json.Unmarshal(value, v)
	}
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", key, err)
	}
	return rev, nil
}

// writeCell writes a cell that still has the revision, 0 meaning that there is none.
func (c *Consumer) writeCell(ctx context.Context, key string, v any, revision uint64) error {
	value, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write %s: %w", key, err)
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	if revision == 0 {
		_, err = c.fleet.Create(ctx, key, value)
	} else {
		_, err = c.fleet.Update(ctx, key, value, revision)
	}
	return err
}

// runIsOver reports whether a run has ended. One that was promised and has not begun has not, unless it is so old that
// it will not be begun any more.
func (c *Consumer) runIsOver(ctx context.Context, tenant string, last lastRun) (bool, error) {
	known, over, err := c.knows(ctx, tenant, last.Job)
	return over || !known && time.Since(last.FiredAt) > c.cfg.MaxAge, err
}

// knows reports whether a job was ever begun, and whether it has ended.
func (c *Consumer) knows(ctx context.Context, tenant, job string) (known, over bool, err error) {
	r, _, err := c.records.get(ctx, recordKey(tenant, job))
	switch {
	case err == nil:
		return true, r.State.ended(), nil
	case errors.Is(err, errForeignVersion):
		return true, false, nil
	case !errors.Is(err, errNoCell):
		return false, false, err
	}
	o, err := c.ledger.Outcome(ctx, tenant, job)
	if err != nil {
		return false, false, fmt.Errorf("look for an outcome: %w", err)
	}
	return o != nil, o != nil, nil
}

// skipped reports whether the job is a run that was not to be made.
func (r record) skipped() bool {
	return r.Reason != nil && (r.Reason.Code == contracts.RunMissed || r.Reason.Code == contracts.RunUnderWay)
}

// asRequest is a message of a schedule, with the request that was made of it as its body: a dead letter has to say which
// of the schedule's many jobs it was.
type asRequest struct {
	message
	body []byte
}

// Data is the request.
func (m asRequest) Data() []byte { return m.body }

// success is what is remembered of a tenant's last delivery.
type success struct {
	Job string    `json:"job,omitempty"`
	At  time.Time `json:"at,omitzero"`
	// Overdue: it was told that there should have been another one.
	Overdue bool `json:"overdue,omitempty"`
}

func successKey(tenant string) string { return "success." + tenant }

// noteDelivery remembers a delivery of all that the tenant has, or that its schedule asks for. Failing to is no reason
// to hold up a job: the next delivery does it again.
func (c *Consumer) noteDelivery(ctx context.Context, r record) {
	if r.Schedule == nil && r.Request.Only != "" {
		return
	}
	var err error
	for range 5 {
		var s success
		var rev uint64
		if rev, err = readCell(ctx, c.fleet, successKey(r.Request.Tenant), &s); err != nil {
			break
		}
		now := time.Now().UTC()
		if s.At.After(now) {
			return
		}
		s.Job, s.At = r.Request.Job, now
		if err = c.writeCell(ctx, successKey(r.Request.Tenant), s, rev); !errors.Is(err, errSwapped) {
			break
		}
	}
	if err != nil {
		c.log(ctx).Warn().Err(err).Msg("cannot remember when the tenant was delivered to")
	}
}
