package consumer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
)

// timekeeperKey is swapped, in the fleet's bucket, by whichever worker looks at the schedules next.
const timekeeperKey = "timekeeper"

// calendar is where schedules are kept.
type calendar interface {
	// All returns every schedule that can be read; the error is about the others, or about all.
	All(ctx context.Context) ([]contracts.Schedule, error)
	// Get returns a tenant's schedule, or [ErrNoSchedule]. One that cannot be read is a [contracts.Rejection].
	Get(ctx context.Context, tenant string) (contracts.Schedule, error)
	// Ask publishes a message on the tenant's runs. The same id is taken once, for a day.
	Ask(ctx context.Context, tenant string, body []byte, id string) error
	// Restore publishes a schedule that was there before, as it was.
	Restore(ctx context.Context, s contracts.Schedule) error
}

// keepTime looks at the schedules again and again: JetStream makes the requests, and this finds what it did not make
// because it was killed, and who has not been delivered to for too long. Any worker may do it, and it does no harm if
// two do.
func (c *Consumer) keepTime(ctx context.Context) {
	if c.calendar == nil {
		return
	}
	c.takeTurns(ctx, round{
		in: c.fleet, key: timekeeperKey, every: c.cfg.ScheduleEvery, do: c.lookAtSchedules,
		trouble: "cannot look at all schedules, and will try again",
		rest:    func() { c.lateness.Store(nil) },
	})
}

func (c *Consumer) lookAtSchedules(ctx context.Context) error {
	schedules, err := c.calendar.All(ctx)
	problems := []error{err}
	if err == nil {
		problems = append(problems, c.restoreSchedules(ctx, schedules))
	}
	found := &punctual{}
	problems = append(problems, each(ctx, schedules, func(ctx context.Context, s contracts.Schedule) error {
		table, err := readTimetable(s)
		if err != nil {
			return fmt.Errorf("the schedule of tenant %s: %w", s.Tenant, err)
		}
		late, age, err := c.noteLateness(ctx, table)
		if err == nil || age > 0 { // else nobody knows
			found.note(s.Tenant, late, age)
		}
		return errors.Join(err, c.findMissed(ctx, table))
	}))
	if err != nil && len(schedules) == 0 { // nothing could be read, which is not the same as none
		found = nil
	}
	c.lateness.Store(found.sorted())
	return errors.Join(append(problems, c.keepPromises(ctx))...)
}

// restoreSchedules brings back what is gone and was not cleared: a stream with schedules takes headers that remove
// messages (Nats-Rollup, Nats-Schedule-Next: purge), and people make mistakes. there are the schedules whose messages are
// in the stream: they were read before the copies are, and a schedule loses its copy first, so what is cleared meanwhile
// does not come back.
func (c *Consumer) restoreSchedules(ctx context.Context, there []contracts.Schedule) error {
	keys, err := c.fleet.Keys(ctx, scheduleKey("*"))
	if err != nil {
		return fmt.Errorf("list the copies of schedules: %w", err)
	}
	present := map[string]bool{}
	for _, s := range there {
		present[scheduleKey(s.Tenant)] = true
	}
	keys = slices.DeleteFunc(keys, func(key string) bool { return present[key] })
	return each(ctx, keys, func(ctx context.Context, key string) error {
		var s contracts.Schedule
		rev, err := readCell(ctx, c.fleet, key, &s)
		if err != nil || rev == 0 {
			return err
		}
		c.cfg.Log.Warn().Str("tenant", s.Tenant).Msg("a schedule has vanished that nobody has cleared; it is set again")
		return c.calendar.Restore(ctx, s)
	})
}

// findMissed asks for the run that JetStream did not: a server that was killed goes on with the next time, and no server
// fires for a local time that the clocks skip. It asks by the same message, so that the worker that takes it decides as always,
// and makes the same job of it should JetStream still ask.
func (c *Consumer) findMissed(ctx context.Context, table timetable) error {
	due := table.last(time.Now())
	if !due.IsZero() && table.firedByServer(due) { // which gets an interval to do so
		due = table.last(time.Now().Add(-c.cfg.ScheduleEvery))
	}
	if due.IsZero() || !due.After(table.UpdatedAt) {
		return nil
	}
	last, _, err := c.lastRun(ctx, table.Tenant)
	if err != nil {
		return err
	}
	if last != nil {
		if !due.After(last.FiredAt) { // nothing is missing: the answer of every other minute, without another question
			return nil
		}
		if over, err := c.runIsOver(ctx, table.Tenant, *last); err != nil || !over {
			return err
		}
	}
	job := table.Request(due).Job
	if known, _, err := c.knows(ctx, table.Tenant, job); err != nil || known {
		return err
	}
	body, err := json.Marshal(table.Schedule)
	if err != nil {
		return fmt.Errorf("encode the schedule: %w", err)
	}
	return c.calendar.Ask(ctx, table.Tenant, body, contracts.RequestMsgID(table.Tenant, job)+".missed")
}

// keepPromises asks for every run that was promised and does not begin: its own message may never have been.
func (c *Consumer) keepPromises(ctx context.Context) error {
	keys, err := c.fleet.Keys(ctx, runKey("*"))
	if err != nil {
		return fmt.Errorf("list the runs that were promised: %w", err)
	}
	return each(ctx, keys, func(ctx context.Context, key string) error {
		tenant := strings.TrimPrefix(key, runKey(""))
		last, _, err := c.lastRun(ctx, tenant)
		if err != nil || last == nil {
			return err
		}
		if age := time.Since(last.FiredAt); age <= c.cfg.ScheduleEvery || age > c.cfg.MaxAge {
			return nil
		}
		if known, _, err := c.knows(ctx, tenant, last.Job); err != nil || known {
			return err
		}
		body, err := json.Marshal(last.request(tenant))
		if err != nil {
			return fmt.Errorf("encode the run: %w", err)
		}
		return c.calendar.Ask(ctx, tenant, body, contracts.RequestMsgID(tenant, last.Job)+".promised")
	})
}

// noteLateness tells when a tenant's deliveries fall behind, and when there is one again. age is that of the last one,
// or of the schedule.
func (c *Consumer) noteLateness(ctx context.Context, table timetable) (late bool, age time.Duration, err error) {
	var s success
	rev, err := readCell(ctx, c.fleet, successKey(table.Tenant), &s)
	if err != nil {
		return false, 0, err
	}
	now := time.Now()
	well := s.At
	if well.Before(table.UpdatedAt) {
		well = table.UpdatedAt
	}
	_, late = table.overdueSince(s.At, now)
	if late == s.Overdue {
		return late, now.Sub(well), nil
	}
	told := contracts.Notice{Tenant: table.Tenant, Kind: contracts.DeliveryCaughtUp, At: now.UTC()}
	if late {
		what := contracts.Reject(contracts.DeliveryIsLate, "nothing was delivered since %s, and the schedule %q (%s) wants it every %v",
			well.UTC().Format(time.RFC3339), table.Cron, table.TimeZone, table.interval(now))
		why, _ := contracts.AsRejection(what)
		told.Kind, told.Since, told.Reason = contracts.DeliveryOverdue, well.UTC(), why.Reason()
	}
	if err := c.ledger.Notify(ctx, told); err != nil {
		return late, now.Sub(well), err
	}
	// Told, and remembered: whoever dies in between tells it twice.
	s.Overdue = late
	if err := c.writeCell(ctx, successKey(table.Tenant), s, rev); err != nil && !errors.Is(err, errSwapped) {
		return late, now.Sub(well), err
	}
	return late, now.Sub(well), nil
}
