package consumer

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // a worker's container need not have time zones

	"github.com/robfig/cron/v3"

	"github.com/snapfleet/snapfleet/contracts"
)

// timetable is when a schedule has its runs. A cron names local times, and clocks change: where they go forward some local
// times do not come, and where they go back some come twice.
//
//   - A cron that names hours, such as "0 2 * * *", has one run for each local time that it names, on every local day that
//     it names. A time that does not come has its run at the first instant after it, together with the other times that
//     do not come then. A time that comes twice has its run when it comes first.
//   - A cron for every hour, such as "*/15 * * * *", goes by elapsed time: it runs whenever a clock on the wall shows a
//     time that it names, also where the hour comes a second time, and nothing is made up for an hour that does not come.
//
// JetStream fires the messages, and reads a cron otherwise: no local time that does not come, every one that comes twice,
// and, in zones whose clocks change at midnight or by half an hour, some days wrong. What it leaves out the fleet asks for, see
// [Consumer.findMissed]. What it fires too much makes the job of the run before, see [timetable.fired], which has ended.
type timetable struct {
	contracts.Schedule
	spec *cron.SpecSchedule // as JetStream reads it
	wall *cron.SpecSchedule // the same on a clock that never changes: local times, written as if they were UTC
	zone *time.Location
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
		return timetable{}, contracts.Reject(contracts.InvalidRequest, "cron %.80q: %s%w", s.Cron, wrongField(s.Cron), err)
	}
	spec, ok := parsed.(*cron.SpecSchedule)
	if !ok {
		return timetable{}, contracts.Reject(contracts.InvalidRequest, "cron %.80q is an interval, which has no times of its own", s.Cron)
	}
	wall := *spec
	spec.Location, wall.Location = zone, time.UTC
	return timetable{s, spec, &wall, zone}, nil
}

// cronFields are the fields of a cron, and what each of them takes.
var cronFields = []struct {
	name  string
	field cron.ParseOption
	takes string
}{
	{"second", cron.Second, "0 to 59"},
	{"minute", cron.Minute, "0 to 59"},
	{"hour", cron.Hour, "0 to 23"},
	{"day of the month", cron.Dom, "1 to 31"},
	{"month", cron.Month, "1 to 12, or JAN to DEC"},
	{"day of the week", cron.Dow, "0 to 6, or SUN to SAT"},
}

// wrongField names the first field of a cron that cannot be read, and says what it takes. It is the beginning of a sentence,
// or empty.
func wrongField(pattern string) string {
	texts, fields := strings.Fields(pattern), cronFields
	if len(texts) < len(fields) {
		fields = fields[1:]
	}
	for i, text := range texts[:min(len(texts), len(fields))] {
		if _, err := cron.NewParser(fields[i].field).Parse(text); err != nil {
			return fmt.Sprintf("the %s is %.40q, and takes %s, with lists (1,15), ranges (9-17) and steps (*/6) of these; L, W and # are not known: ", fields[i].name, text, fields[i].takes)
		}
	}
	return ""
}

// plainCron is a cron as it is kept: single blanks between the fields, and no other day for Sunday than 0, which crontab(5)
// also calls 7.
func plainCron(pattern string) string {
	fields := strings.Fields(pattern)
	if len(fields) == 5 || len(fields) == 6 {
		days := &fields[len(fields)-1]
		items := strings.Split(*days, ",")
		for i, item := range items {
			items[i] = plainDays(item)
		}
		*days = strings.Join(items, ",")
	}
	return strings.Join(fields, " ")
}

// plainDays writes one item of a list of days of the week without a 7. What it cannot read it leaves as it is.
func plainDays(item string) string {
	days, step, stepped := strings.Cut(item, "/")
	first, last, isRange := strings.Cut(days, "-")
	if !isRange {
		if first == "7" && !stepped {
			return "0"
		}
		return item
	}
	from, err := strconv.Atoi(first)
	if at := slices.Index([]string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}, strings.ToLower(first)); at >= 0 {
		from, err = at, nil
	}
	every := 1
	if stepped && err == nil {
		every, err = strconv.Atoi(step)
	}
	if err != nil || from < 1 || from > 7 || every < 1 || last != "7" && !strings.EqualFold(last, "sun") {
		return item
	}
	var plain []string
	for day := from; day <= 7; day += every {
		plain = append(plain, strconv.Itoa(day%7))
	}
	return strings.Join(plain, ",")
}

// hostZones are names under which a host keeps time zones that are none of the IANA's: on another host they are missing, or
// other zones.
var hostZones = regexp.MustCompile(`(?i)^(local|localtime|factory|posixrules|(posix|right|systemv)/.*)$`)

// CheckSchedule says what is wrong with a schedule, before it is kept: that it cannot be read, never fires, fires too
// often, or names a time zone that is not the same on every host. The error is a [contracts.Rejection].
func CheckSchedule(s contracts.Schedule) error {
	s.Cron = plainCron(s.Cron)
	t, err := readTimetable(s)
	if err != nil {
		return err
	}
	return t.check(time.Now())
}

func (t timetable) check(now time.Time) error {
	if hostZones.MatchString(t.TimeZone) {
		return contracts.Reject(contracts.InvalidRequest, "time zone %.80q is not the same on every host: it must be an IANA name such as America/Los_Angeles or UTC", t.TimeZone)
	}
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
	return nil
}

// everyHour reports whether the cron goes by elapsed time, because it names all hours.
func (t timetable) everyHour() bool {
	const all = 1<<24 - 1
	return t.spec.Hour&all == all
}

// pattern is the cron as JetStream reads it: with seconds.
func (t timetable) pattern() string {
	if strings.HasPrefix(t.Cron, "@") || len(strings.Fields(t.Cron)) == 6 {
		return t.Cron
	}
	return "0 " + t.Cron
}

// next is the first run after at, in UTC; zero when there is none in the next years.
//
// It goes from one change of the clocks to the next: in between, local time and elapsed time are the same.
func (t timetable) next(at time.Time) time.Time {
	at = at.Truncate(time.Second).Add(time.Second).In(t.zone)
	for limit := at.Add(horizon); at.Before(limit); {
		began, ends := at.ZoneBounds()
		if !ends.IsZero() && !ends.After(at) { // as the library says on the last day of a leap year, from 2040 on
			ends = at.Add(24 * time.Hour)
		}
		wall := wallOf(at)
		if skipped := t.changed(began); skipped != 0 && !t.everyHour() {
			switch before := wallOf(began).Add(-skipped); { // what the clock would have shown at this instant
			case skipped < 0: // it shows that once more
				if wall.Before(before) {
					wall = before
				}
			case at.Equal(began):
				if missing := t.named(before); !missing.IsZero() && missing.Before(wall) {
					return began.UTC()
				}
			}
		}
		named := t.named(wall)
		if named.IsZero() {
			return time.Time{}
		}
		if run := at.Add(named.Sub(wallOf(at))); ends.IsZero() || run.Before(ends) {
			return run.UTC()
		}
		// No local time in between is named, so nothing is missed by going on a day and more before the next one.
		if at = ends; named.Add(-aDayAndMore).After(ends) {
			at = named.Add(-aDayAndMore).In(t.zone)
		}
	}
	return time.Time{}
}

// aDayAndMore is more than a local time and UTC are ever apart, or clocks change by.
const aDayAndMore = 50 * time.Hour

// wallOf is what a clock on the wall shows at that instant, written as if it were UTC.
func wallOf(at time.Time) time.Time {
	_, offset := at.Zone()
	return at.UTC().Add(time.Duration(offset) * time.Second)
}

// changed is by how much the clocks go forward at an instant; negative: they go back. Zero is no instant.
func (t timetable) changed(at time.Time) time.Duration {
	if at.IsZero() {
		return 0
	}
	return wallOf(at.In(t.zone)).Sub(wallOf(at.Add(-time.Nanosecond).In(t.zone))).Round(time.Second)
}

// named is the first local time that the cron names which is not before wall; zero when there is none.
func (t timetable) named(wall time.Time) time.Time { return t.wall.Next(wall.Add(-time.Nanosecond)) }

// firedByServer reports whether JetStream fires for that run. It does not where the clocks have gone forward over it.
func (t timetable) firedByServer(run time.Time) bool {
	return t.spec.Next(run.Add(-time.Second)).Equal(run)
}

// last is the latest run that is not after at, in UTC; zero when there is none. next only looks ahead.
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
// that was killed does not even do that. One that fires for a local time that comes again asks for the run before once
// more, which is no second run.
func (t timetable) fired(published time.Time) (time.Time, error) {
	fired := t.last(published.Add(early))
	if fired.IsZero() {
		return fired, contracts.Reject(contracts.InvalidRequest, "cron %.80q names no time before %s", t.Cron, published.UTC().Format(time.RFC3339))
	}
	return fired, nil
}

// muchLater is how long after a run's time a message is no longer the one that JetStream fires for it.
const muchLater = time.Minute

// setAfter reports whether a message that was published then asks for a run from before the schedule was set: JetStream
// fires once more for a local time that comes twice, and the schedule was set in between. There is no such run.
func (t timetable) setAfter(fired, published time.Time) bool {
	return published.Sub(fired) >= muchLater && fired.Before(t.UpdatedAt)
}

// firedAgain reports whether JetStream has published a message because a local time has come for the second time: it asks
// for a run that was asked for before.
func (t timetable) firedAgain(fired, published time.Time) bool {
	published = published.Add(early)
	return published.Sub(fired) >= muchLater && !t.spec.Next(published.Add(-closest)).After(published)
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

// interval is how far apart the runs are: the longest gap between two of them that are neighbours, of the week before
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
