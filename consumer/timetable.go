package consumer

import (
	"errors"
	"fmt"
	"sort"
	"strings"
	"time"
	_ "time/tzdata" // a worker's container need not have time zones

	"github.com/robfig/cron/v3"

	"github.com/snapfleet/snapfleet/contracts"
)

// timetable is when a schedule fires. JetStream has its own reading of a schedule, which is the one that counts; it was
// made of the same library, so that they agree in all that [CheckSchedule] lets pass. In both a local time that is
// skipped when the clocks go forward does not fire that day, and one that comes twice fires twice.
type timetable struct {
	contracts.Schedule
	spec *cron.SpecSchedule
}

var cronParser = cron.NewParser(cron.SecondOptional | cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor)

// early is how long before its time a run may fire. JetStream fires by the clock that it stamps messages with, late
// rather than early; the rest is for a clock that is set while it runs.
const early = 250 * time.Millisecond

// closest is how close the times of a schedule may be. A message that fired is told from the next one by its time stamp.
const closest = 2 * time.Second

// horizon is how far ahead the next time is looked for.
const horizon = 5 * 366 * 24 * time.Hour

// readTimetable reads a schedule. The error is a [contracts.Rejection].
func readTimetable(s contracts.Schedule) (timetable, error) {
	if err := s.Validate(); err != nil {
		return timetable{}, err
	}
	zone, err := time.LoadLocation(s.TimeZone)
	if err != nil {
		return timetable{}, contracts.Reject(contracts.InvalidRequest, "time zone %.80q is not known: it is an IANA name such as America/Los_Angeles or UTC", s.TimeZone)
	}
	parsed, err := cronParser.Parse(s.Cron)
	if err != nil {
		return timetable{}, contracts.Reject(contracts.InvalidRequest, "cron %.80q: %w", s.Cron, err)
	}
	spec, ok := parsed.(*cron.SpecSchedule)
	if !ok {
		return timetable{}, contracts.Reject(contracts.InvalidRequest, "cron %.80q is an interval, which has no times of its own", s.Cron)
	}
	spec.Location = zone
	return timetable{s, spec}, nil
}

// CheckSchedule says what is wrong with a schedule, before anybody keeps it: that it cannot be read, never fires, fires
// too often, or that JetStream would read it otherwise than we do. The error is a [contracts.Rejection].
func CheckSchedule(s contracts.Schedule) error {
	t, err := readTimetable(s)
	if err != nil {
		return err
	}
	return t.check(time.Now())
}

func (t timetable) check(now time.Time) error {
	at := t.next(now)
	if at.IsZero() {
		return contracts.Reject(contracts.InvalidRequest, "cron %.80q names no time in the next five years", t.Cron)
	}
	for range 60 {
		after := t.next(at)
		if after.IsZero() {
			break
		}
		if gap := after.Sub(at); gap < closest {
			return contracts.Reject(contracts.InvalidRequest, "cron %.80q fires %v after another time, the least is %v", t.Cron, gap, closest)
		}
		at = after
	}
	// JetStream goes from day to day by midnights. Where the clocks go forward at midnight it loses its way, and leaves
	// out a run, or makes it an hour early, unless every day is as good as any.
	if day, missing := t.noMidnight(now); missing && !t.everyDay() {
		return contracts.Reject(contracts.InvalidRequest,
			"in time zone %s the clocks go forward at midnight (%s has none), and there NATS misreads a cron that does not fire every day: use a cron such as \"0 2 * * *\", or another time zone such as UTC", t.TimeZone, day.Format(time.DateOnly))
	}
	return nil
}

// noMidnight finds a day without one in the next years.
func (t timetable) noMidnight(now time.Time) (time.Time, bool) {
	now = now.In(t.spec.Location)
	for n := range 5 * 366 {
		day := time.Date(now.Year(), now.Month(), now.Day()+n, 12, 0, 0, 0, t.spec.Location)
		if at := time.Date(day.Year(), day.Month(), day.Day(), 0, 0, 0, 0, t.spec.Location); at.Hour() != 0 {
			return day, true
		}
	}
	return time.Time{}, false
}

func (t timetable) everyDay() bool {
	all := func(bits uint64, from, to int) bool {
		for n := from; n <= to; n++ {
			if bits&(1<<n) == 0 {
				return false
			}
		}
		return true
	}
	return all(t.spec.Month, 1, 12) && all(t.spec.Dom, 1, 31) && all(t.spec.Dow, 0, 6)
}

// pattern is the cron as JetStream reads it: with seconds.
func (t timetable) pattern() string {
	if strings.HasPrefix(t.Cron, "@") || len(strings.Fields(t.Cron)) == 6 {
		return t.Cron
	}
	return "0 " + t.Cron
}

// next is the first time after at, in UTC; zero when there is none.
func (t timetable) next(at time.Time) time.Time {
	next := t.spec.Next(at)
	if next.IsZero() {
		return next
	}
	return next.UTC()
}

// last is the latest time that is not after at, in UTC; zero when there is none. The library only looks ahead.
func (t timetable) last(at time.Time) time.Time {
	at = at.Truncate(time.Second)
	back := func(n int) time.Time { return t.next(at.Add(-time.Duration(n) * time.Second)) }
	n := sort.Search(int(horizon/time.Second), func(n int) bool {
		next := back(n)
		return !next.IsZero() && !next.After(at)
	})
	if next := back(n); !next.After(at) {
		return next
	}
	return time.Time{}
}

// fired is the time for which a message was published by JetStream, or by whoever asks for a missed run. It depends on
// nothing but the message, so everybody who sees it makes the same job of it. A server that was stopped over several
// times fires once when it is back, with the time stamp of then: that is the run of the last of these times. A server
// that was killed does not even do that.
func (t timetable) fired(published time.Time) (time.Time, error) {
	fired := t.last(published.Add(early))
	if fired.IsZero() {
		return fired, contracts.Reject(contracts.InvalidRequest, "cron %.80q names no time before %s", t.Cron, published.UTC().Format(time.RFC3339))
	}
	return fired, nil
}

// between are the times after the one and before the other since the schedule was set, the last [contracts.MaxMissed]
// of them and how many there are.
func (t timetable) between(after, before time.Time) (times []time.Time, total int) {
	if after.Before(t.UpdatedAt) {
		after = t.UpdatedAt
	}
	for at := t.next(after); !at.IsZero() && at.Before(before); at = t.next(at) {
		if times = append(times, at); len(times) > contracts.MaxMissed {
			times = times[1:]
		}
		if total++; total == manyTimes {
			break
		}
	}
	return times, total
}

// manyTimes is where counting ends.
const manyTimes = 100_000

// interval is how far apart the times are: the longest gap between two of them that are neighbours, of the week before
// now and the one after it. A cron for office hours has its weekends in it, and one for the first of the month at least
// the gap around now.
func (t timetable) interval(now time.Time) (longest time.Duration) {
	const week = 7 * 24 * time.Hour
	at := t.last(now.Add(-week))
	if at.IsZero() {
		at = t.next(now.Add(-week))
	}
	for range manyTimes / 4 {
		next := t.next(at)
		if at.IsZero() || next.IsZero() {
			break
		}
		longest = max(longest, next.Sub(at))
		if next.After(now.Add(week)) {
			break
		}
		at = next
	}
	return longest
}

// overdueSince is since when there should have been another delivery: one and a half intervals after the last one, or
// after the schedule was set. ok is false as long as there is none missing.
func (t timetable) overdueSince(delivered, now time.Time) (since time.Time, overdue bool) {
	if delivered.Before(t.UpdatedAt) {
		delivered = t.UpdatedAt
	}
	since = delivered.Add(t.interval(now) * 3 / 2)
	return since, now.After(since)
}

// isRun reports whether a message on that subject is a run of a schedule.
func isRun(subject string) bool { return strings.HasPrefix(subject, contracts.RunSubject("")) }

// asked is what a message of the queues asks for: the request that it is, or the one that a schedule makes of its body and
// of its time stamp. table is nil unless it is a schedule's. The subject decides which, for publishers cannot publish on a
// run's; headers count for nothing.
func asked(subject string, data []byte, published time.Time) (req contracts.Request, table *timetable, err error) {
	if !isRun(subject) || !contracts.IsSchedule(data) { // or a run that was promised
		req, err = contracts.DecodeRequest(data)
		return req, nil, err
	}
	s, err := contracts.DecodeSchedule(data)
	if err != nil {
		return req, nil, err
	}
	t, err := readTimetable(s)
	if err != nil {
		return req, nil, err
	}
	fired, err := t.fired(published)
	if err != nil {
		return req, nil, err
	}
	req = s.Request(fired)
	return req, &t, req.Validate()
}

// misread tells what the server says to a schedule that we can read and it cannot.
func misread(s contracts.Schedule, err error) error {
	for text, why := range map[string]string{
		"schedules pattern is invalid":   fmt.Sprintf("NATS cannot read the cron %q", s.Cron),
		"schedules time zone is invalid": fmt.Sprintf("NATS does not know the time zone %s; its servers need the system's time zones (tzdata)", s.TimeZone),
	} {
		if strings.Contains(err.Error(), text) {
			return contracts.Reject(contracts.InvalidRequest, "%s: %w", why, err)
		}
	}
	return err
}

// ErrNoSchedule: the tenant has none.
var ErrNoSchedule = errors.New("no schedule is set")
