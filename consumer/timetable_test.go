package consumer

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/test/world"
)

func schedule(cron, zone string) contracts.Schedule {
	return contracts.Schedule{
		Version: contracts.ScheduleVersion, Tenant: "acme", Cron: cron, TimeZone: zone, UpdatedAt: time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC),
	}
}

// Where the server's reading of a cron is another than ours, we know it: every time of some years, clock changes and all.
// Each run of ours is fired by the server, or asked for at once, because we know that no server fires for it, or, in zones
// whose clocks change at midnight or by half an hour, asked for a round later. Whatever the server fires besides makes no run.
func TestTimetableAgreesWithTheServer(t *testing.T) {
	t.Parallel()
	crons := []string{
		"0 2 * * *", "30 1 * * *", "30 2 * * *", "0 0 * * *", "*/15 * * * *", "7-59/13 * * * *", "5/20 */3 * * *", "0 9-17 * * 1-5", "0 0 * * 0", "0 2 * * 5",
		"0 3 1 * *", "0 0 1 1 *", "59 23 31 12 *", "0 2 29 2 *", "0 2 31 * *", "0 2 13 * 5", "0 2 1-7 * MON", "0 2 */2 * *", "0 2 1-31 * 1", "0 2 ? * ?", "15 2,14 * JAN-MAR,dec *", "0 0,12 * * sun",
		"@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually", "*/20 30 1 * * *", "30 0 2 * * 1",
	}
	misreads := []string{"Australia/Lord_Howe", "America/Sao_Paulo", "Africa/Cairo", "Asia/Beirut", "America/Havana", "America/Santiago", "America/Scoresbysund"}
	zones := append([]string{
		"UTC", "America/Los_Angeles", "Europe/Berlin", "Asia/Kolkata", "Asia/Kathmandu", "Pacific/Auckland", "Pacific/Apia", "Etc/GMT+5", "Africa/Casablanca",
	}, misreads...)
	from, until := time.Date(2026, 1, 1, 7, 7, 7, 0, time.UTC), time.Date(2029, 1, 1, 0, 0, 0, 0, time.UTC)
	skipped, repeated, misread := 0, 0, 0
	compare := func(table timetable, from, until time.Time) {
		fires, runs := map[time.Time]bool{}, map[time.Time]bool{}
		for at := table.next(from); !at.IsZero() && at.Before(until); at = table.next(at) {
			runs[at] = true
		}
		for at := from; ; {
			at = must(world.NextFire(withSeconds(table.pattern()), table.zone, at)).UTC()
			if !at.Before(until) {
				break
			}
			if fires[at] = true; runs[at] {
				continue
			}
			run := must(table.fired(at))
			if !table.firedAgain(run, at) && !slices.Contains(misreads, table.TimeZone) {
				t.Errorf("%s in %s: the server fires at %v, which makes the run of %v", table.Cron, table.TimeZone, at.In(table.zone), run.In(table.zone))
			}
			repeated++
		}
		for at := range runs {
			switch {
			case fires[at]:
			case !table.firedByServer(at):
				skipped++
			case slices.Contains(misreads, table.TimeZone):
				misread++
			default:
				t.Errorf("%s in %s: the server does not fire for %v", table.Cron, table.TimeZone, at.In(table.zone))
			}
		}
	}
	for _, zone := range zones {
		for _, c := range crons {
			table := must(readTimetable(schedule(c, zone)))
			if err := table.check(from); err != nil {
				t.Errorf("%s in %s: %v", c, zone, err)
			}
			if table.interval(from) >= 12*time.Hour {
				compare(table, from, until)
				continue
			}
			compare(table, from, from.Add(24*time.Hour))
			for _, change := from.In(table.zone).ZoneBounds(); !change.IsZero() && change.Before(until); _, change = change.ZoneBounds() {
				compare(table, change.Add(-20*time.Hour), change.Add(20*time.Hour))
			}
		}
	}
	if skipped == 0 || repeated == 0 || misread == 0 {
		t.Errorf("the server leaves out %d runs that the clocks skip and %d others, and fires %d times too often", skipped, misread, repeated)
	}
}

// withSeconds is what the server makes of a pattern before it parses it.
func withSeconds(pattern string) string {
	if p, ok := map[string]string{
		"@hourly": "0 0 * * * *", "@daily": "0 0 0 * * *", "@midnight": "0 0 0 * * *", "@weekly": "0 0 0 * * 0", "@monthly": "0 0 0 1 * *", "@yearly": "0 0 0 1 1 *", "@annually": "0 0 0 1 1 *",
	}[pattern]; ok {
		return p
	}
	return pattern
}

// minutes is a cron of five fields, read by nothing of the product: which minutes of a day it names, and on which days.
type minutes struct {
	day       func(day time.Time) bool
	of        [day]bool
	quarter   [day / block]bool // whether any minute of it is named
	everyHour bool
}

// anyOf reads a list of numbers, ranges and steps.
func anyOf(field string, from, to int) (set map[int]bool) {
	set = map[int]bool{}
	for item := range strings.SplitSeq(field, ",") {
		first, last, step := from, to, 1
		span, by, stepped := strings.Cut(item, "/")
		if stepped {
			fmt.Sscan(by, &step)
		}
		if low, high, isRange := strings.Cut(span, "-"); isRange {
			fmt.Sscan(low, &first)
			fmt.Sscan(high, &last)
		} else if span != "*" {
			fmt.Sscan(span, &first)
			last = first
		}
		for n := first; n <= last; n += step {
			set[n] = true
		}
	}
	return set
}

func readMinutes(cron string) (m minutes) {
	f := strings.Fields(cron)
	minute, hour, dom, month, dow := anyOf(f[0], 0, 59), anyOf(f[1], 0, 23), anyOf(f[2], 1, 31), anyOf(f[3], 1, 12), anyOf(f[4], 0, 6)
	m.everyHour = len(hour) == 24
	for n := range m.of {
		m.of[n] = hour[n/60] && minute[n%60]
		m.quarter[n/block] = m.quarter[n/block] || m.of[n]
	}
	m.day = func(day time.Time) bool {
		byDate, byWeek := dom[day.Day()], dow[int(day.Weekday())]
		if f[2][0] != '*' && f[4][0] != '*' { // as in crontab: one of the two is enough
			return month[int(day.Month())] && (byDate || byWeek)
		}
		return month[int(day.Month())] && byDate && byWeek
	}
	return m
}

// runsByWatching watches a clock on a wall of that zone, minute by minute. A cron that names hours runs in the minute in
// which the clock shows, or has gone over, a time that it has not shown before; one for every hour whenever it shows a time.
func (m minutes) runsByWatching(clock wallClock) (runs []time.Time) {
	var latest, day0 int64 // the latest minute that the clock has shown, as if it were UTC; and a day
	var on bool            // whether the cron names that day
	named := func(minute int64) bool {
		if minute/day != day0 {
			day0 = minute / day
			on = m.day(time.Unix(day0*day*60, 0).UTC())
		}
		return on && m.of[minute%day]
	}
	for i, offset := range clock.offsets {
		at := clock.from + int64(i)*block
		if steady := latest == at+offset-1; steady && !named(at+offset) && !(on && m.quarter[(at+offset)%day/block]) {
			latest += block // nothing is named in it
			continue
		}
		for minute := at; minute < at+block; minute++ {
			shows := minute + offset
			due := m.everyHour && named(shows)
			for passed := latest + 1; !m.everyHour && latest > 0 && passed <= shows; passed++ {
				due = due || named(passed)
			}
			if latest = max(latest, shows); due {
				runs = append(runs, time.Unix(minute*60, 0).UTC())
			}
		}
	}
	return runs
}

const (
	day   = 24 * 60 // minutes
	block = 15      // minutes: clocks change between two blocks
)

// wallClock is how many minutes the clocks of a zone are ahead of UTC, for each block of minutes from one on.
type wallClock struct {
	from    int64
	offsets []int64
}

// changesAround reports whether clocks change within a day of that instant.
func (c wallClock) changesAround(at time.Time) bool {
	i := int((at.Unix()/60 - c.from) / block)
	return c.offsets[max(0, i-day/block)] != c.offsets[min(len(c.offsets)-1, i+day/block)]
}

func clockOf(zone *time.Location, from, until time.Time) wallClock {
	c := wallClock{from: from.Unix() / 60}
	for at := c.from; at < until.Unix()/60; at += block {
		_, offset := time.Unix(at*60, 0).In(zone).Zone()
		c.offsets = append(c.offsets, int64(offset/60))
	}
	return c
}

// Five years, in the zones whose clocks do what others' do not: each local time that a cron names has one run on each local
// day that it names.
func TestEachLocalDayHasItsRuns(t *testing.T) {
	t.Parallel()
	crons := []string{
		"0 2 * * *", "30 1 * * *", "30 2 * * *", "0 0 * * *", "15 3 * * 0", "30 23 * * 6", "0 2,3 * * *", "*/20 1-3 * * *", "0 */6 * * *", "30 0 1 * *", "0 2 13 * 5", "*/15 * * * *",
	}
	zones := []string{
		"UTC", "America/Los_Angeles", "America/New_York", "America/St_Johns", "America/Havana", "America/Santiago", "America/Sao_Paulo", "America/Asuncion", "America/Nuuk", "America/Scoresbysund",
		"America/Miquelon", "America/Phoenix", "Atlantic/Azores", "Europe/London", "Europe/Berlin", "Europe/Chisinau", "Europe/Dublin", "Europe/Lisbon", "Africa/Cairo", "Africa/Casablanca",
		"Africa/El_Aaiun", "Asia/Beirut", "Asia/Gaza", "Asia/Hebron", "Asia/Jerusalem", "Asia/Tehran", "Asia/Kathmandu", "Asia/Kolkata", "Asia/Tokyo", "Australia/Adelaide",
		"Australia/Lord_Howe", "Australia/Sydney", "Antarctica/Troll", "Pacific/Apia", "Pacific/Auckland", "Pacific/Chatham", "Pacific/Easter", "Pacific/Kiritimati", "Pacific/Norfolk", "Etc/GMT+12",
	}
	from, until := time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC), time.Date(2031, 1, 2, 0, 0, 0, 0, time.UTC)
	for _, zone := range zones {
		clock := clockOf(must(time.LoadLocation(zone)), from, until)
		for _, c := range crons {
			table := must(readTimetable(schedule(c, zone)))
			at := from.Add(48 * time.Hour)
			m := readMinutes(c)
			for i, want := range m.runsByWatching(clock) {
				if want.Before(at) {
					continue
				}
				if m.everyHour && i%997 != 0 && !clock.changesAround(want) { // there are very many
					at = want.Add(time.Second)
					continue
				}
				if at = table.next(at.Add(-time.Second)); !at.Equal(want) {
					t.Errorf("%s in %s: %v, want %v", c, zone, at.In(table.zone), want.In(table.zone))
					break
				}
				at = at.Add(time.Second)
			}
		}
	}
}

func TestCheckScheduleSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ cron, zone, want string }{
		{"0 2 * * *", "America/Los_Angeles", ""},
		{"0 2 * * *", "Africa/Cairo", ""},
		{"0 2 * * 5", "Africa/Cairo", ""},
		{"0 2 1 * *", "America/Santiago", ""},
		{"0 2 * 3-11 *", "Asia/Beirut", ""},
		{"0 2 * *", "UTC", "minute, hour"},
		{"61 2 * * *", "UTC", "above maximum"},
		{"0 24 * * *", "UTC", "above maximum"},
		{"0 24 * * *", "UTC", `the hour is "24", and takes 0 to 23`},
		{"0 2 * * 8", "UTC", `the day of the week is "8", and takes 0 to 6, or SUN to SAT`},
		{"0 2 * * 7/2", "UTC", "day of the week"},
		{"0 2 * * FRI-MON", "UTC", "day of the week"},
		{"60 0 2 * * *", "UTC", "the second is"},
		{"0 2 L * *", "UTC", "L, W and # are not known"},
		{"0 2 15W * *", "UTC", "L, W and # are not known"},
		{"0 2 * * 5#2", "UTC", "minute, hour"},
		{"\u0660 2 * * *", "UTC", "minute, hour"},
		{"0 2 * * ? 2027", "UTC", "the day of the week is"}, // Quartz has the year there
		{"", "UTC", "minute, hour"},
		{"0  2 * * *", "UTC", ""},
		{"\t0 2\t* * *\r\n", "UTC", ""},
		{"0 2 * * 7", "UTC", ""},
		{"0 2 * * MON-SUN", "UTC", ""},
		{"0 2 0 * *", "UTC", "below minimum"},
		{"5-1 2 * * *", "UTC", "beyond end"},
		{"*/0 2 * * *", "UTC", "positive"},
		{"0 2 * * MO", "UTC", "MO"},
		{"0 2 L * *", "UTC", "L"},
		{", 2 * * *", "UTC", "names no time"},
		{"0 2 30 2 *", "UTC", "names no time"},
		{"@reboot", "UTC", "@reboot"},
		{"@every 5m", "UTC", "cron"},
		{"* * * * * *", "UTC", "fires 1s"},
		{"1,2 * * * * *", "UTC", "fires 1s"},
		{"*/2 * * * * *", "UTC", ""},
		{"0 2 * * *", "Mars/Phobos", "IANA"},
		{"0 2 * * *", "Local", "IANA"},
		{"0 2 * * *", "", "IANA"},
		{"0 2 * * *", "localtime", "not the same on every host"},
		{"0 2 * * *", "Factory", "not the same on every host"},
		{"0 2 * * *", "posixrules", "IANA"},
		{"0 2 * * *", "posix/Europe/Berlin", "IANA"},
		{"0 2 * * *", "right/Europe/Berlin", "IANA"},
	} {
		err := CheckSchedule(schedule(c.cron, c.zone))
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%q in %q: %v, want %q", c.cron, c.zone, err, c.want)
		}
		if _, rejected := contracts.AsRejection(err); err != nil && !rejected {
			t.Errorf("%q in %q: %v is no rejection", c.cron, c.zone, err)
		}
	}
}

// Whoever goes from time to time meets every one that last finds, and no other.
func TestTimetableLast(t *testing.T) {
	t.Parallel()
	for _, cron := range []string{"0 2 * * *", "*/5 * * * * *", "30 1 * * *", "0 9-17 * * 1-5", "0 3 1 * *", "0 2 29 2 *"} {
		table := must(readTimetable(schedule(cron, "America/Los_Angeles")))
		at := table.next(time.Date(2026, 10, 30, 12, 0, 0, 0, time.UTC)) // before the clocks go back
		for range 15 {
			next := table.next(at)
			for _, in := range []time.Duration{0, time.Nanosecond, time.Second, next.Sub(at) / 2, next.Sub(at) - time.Nanosecond} {
				if got := table.last(at.Add(in)); !got.Equal(at) {
					t.Fatalf("%s: the last before %v is %v, want %v", cron, at.Add(in), got, at)
				}
			}
			at = next
		}
	}
	never := must(readTimetable(schedule("0 2 30 2 *", "UTC")))
	if got := never.last(time.Now()); !got.IsZero() {
		t.Errorf("30 February was %v", got)
	}
}

func TestCronIsKeptPlain(t *testing.T) {
	t.Parallel()
	for cron, want := range map[string]string{
		"0 2 * * *": "0 2 * * *", " 0  2 *\t* * \r\n": "0 2 * * *", "@daily ": "@daily", "0 0 2 * * 7": "0 0 2 * * 0", "0 2 7 * *": "0 2 7 * *",
		"0 2 * * 7": "0 2 * * 0", "0 2 * * 5-7": "0 2 * * 5,6,0", "0 2 * * 1,7": "0 2 * * 1,0", "0 2 * * 1-7": "0 2 * * 1,2,3,4,5,6,0", "0 2 * * 1-7/3": "0 2 * * 1,4,0", "0 2 * * sat-SUN": "0 2 * * 6,0",
		"0 2 * * */7": "0 2 * * */7", "0 2 * * 7/2": "0 2 * * 7/2", "0 2 * * 8-7": "0 2 * * 8-7", "0 2 * * SUN-7": "0 2 * * SUN-7", "7": "7",
	} {
		if got := plainCron(cron); got != want {
			t.Errorf("%q is kept as %q, want %q", cron, got, want)
		}
	}
}

func TestClocksThatChange(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, cron, zone, after string
		want                    string // the next runs, in local time
	}{
		{"a time that does not come", "0 2 * * *", "America/Los_Angeles", "2027-03-13T00:00:00Z", "13 02:00 PST, 14 03:00 PDT, 15 02:00 PDT"},
		{"half an hour into it", "30 2 * * *", "America/Los_Angeles", "2027-03-13T00:00:00Z", "13 02:30 PST, 14 03:00 PDT, 15 02:30 PDT"},
		{"together with the time after it", "0 2,3 * * *", "America/Los_Angeles", "2027-03-14T00:00:00Z", "14 03:00 PDT, 15 02:00 PDT, 15 03:00 PDT"},
		{"several that do not come", "*/20 2 * * *", "America/Los_Angeles", "2027-03-14T00:00:00Z", "14 03:00 PDT, 15 02:00 PDT, 15 02:20 PDT"},
		{"a time that comes twice", "30 1 * * *", "America/Los_Angeles", "2027-11-06T00:00:00Z", "06 01:30 PDT, 07 01:30 PDT, 08 01:30 PST"},
		{"asked in between", "30 1 * * *", "America/Los_Angeles", "2027-11-07T09:10:00Z", "08 01:30 PST, 09 01:30 PST"},
		{"the end of an hour that comes twice", "0 2 * * *", "America/Los_Angeles", "2027-11-07T00:00:00Z", "07 02:00 PST, 08 02:00 PST"},
		{"a midnight that does not come", "0 0 * * *", "Africa/Cairo", "2027-04-29T12:00:00Z", "30 01:00 EEST, 01 00:00 EEST"},
		{"half an hour", "15 2 * * *", "Australia/Lord_Howe", "2026-10-02T20:00:00Z", "04 02:30 +11, 05 02:15 +11"},
		{"the last half hour of a day", "30 23 * * 6", "America/Scoresbysund", "2027-03-27T12:00:00Z", "28 00:00 -01, 03 23:30 -01"},
		{"the end of a leap year far ahead", "0 2 * * *", "Europe/Berlin", "2040-12-29T12:00:00Z", "30 02:00 CET, 31 02:00 CET, 01 02:00 CET"},
		{"every hour goes by elapsed time, forward", "0 * * * *", "America/Los_Angeles", "2027-03-14T09:00:00Z", "14 03:00 PDT, 14 04:00 PDT"},
		{"every hour goes by elapsed time, back", "30 * * * *", "America/Los_Angeles", "2027-11-07T08:00:00Z", "07 01:30 PDT, 07 01:30 PST, 07 02:30 PST"},
	} {
		table := must(readTimetable(schedule(c.cron, c.zone)))
		at := must(time.Parse(time.RFC3339, c.after))
		for i, want := range strings.Split(c.want, ", ") {
			if at = table.next(at); at.In(table.zone).Format("02 15:04 MST") != want {
				t.Errorf("%s: %s in %s: run %d is %s, want %s", c.name, c.cron, c.zone, i+1, at.In(table.zone).Format("02 15:04 MST"), want)
			}
			if last := table.last(at.Add(59 * time.Second)); !last.Equal(at) {
				t.Errorf("%s: the last run at %v is %v", c.name, at, last)
			}
		}
	}
}

// The id of a job depends on nothing but the message.
func TestJobOfAMessageThatFired(t *testing.T) {
	t.Parallel()
	daily := must(readTimetable(schedule("0 2 * * *", "America/Los_Angeles")))
	quick := must(readTimetable(schedule("*/2 * * * * *", "UTC")))
	for _, c := range []struct {
		name      string
		table     timetable
		published string
		want      string
	}{
		{"on time", daily, "2026-03-31T09:00:00.001Z", "2026-03-31-090000"},
		{"a moment early", daily, "2026-03-31T08:59:59.9Z", "2026-03-31-090000"},
		{"too early", daily, "2026-03-31T08:59:59.7Z", "2026-03-30-090000"},
		{"when the server was back", daily, "2026-04-02T13:37:11.5Z", "2026-04-02-090000"},
		{"every two seconds", quick, "2026-03-31T09:00:04.001Z", "2026-03-31-090004"},
		{"every two seconds, late", quick, "2026-03-31T09:00:05.7Z", "2026-03-31-090004"},
	} {
		published := must(time.Parse(time.RFC3339Nano, c.published))
		fired := must(c.table.fired(published))
		got, _, err := asked(contracts.RunSubject("acme"), must(json.Marshal(c.table.Schedule)), published)
		if err != nil || got.Job != c.want || !got.RequestedAt.Equal(fired) || fired.Format(contracts.JobLayout) != c.want {
			t.Errorf("%s: %+v, %v, want job %s", c.name, got, err, c.want)
		}
	}
}

func TestInterval(t *testing.T) {
	t.Parallel()
	const aDay = 24 * time.Hour
	for _, c := range []struct {
		cron, now string
		want      time.Duration
	}{
		{"0 2 * * *", "2026-07-01T12:00:00Z", aDay},
		{"*/5 * * * *", "2026-07-01T12:00:00Z", 5 * time.Minute},
		{"0 9-17 * * 1-5", "2026-07-01T12:00:00Z", 64 * time.Hour}, // Friday 17:00 to Monday 9:00
		{"0 2,3 * * *", "2026-07-01T12:00:00Z", 23 * time.Hour},
		{"0 2 1 * *", "2026-07-15T12:00:00Z", 31 * aDay},
		{"0 2 1 1 *", "2026-07-15T12:00:00Z", 365 * aDay},
		{"0 2 29 2 *", "2026-07-15T12:00:00Z", 4*365*aDay + aDay},
		{"30 2 * * *", "2027-03-15T12:00:00Z", aDay}, // with the night without 02:30
		{"30 1 * * *", "2027-11-08T12:00:00Z", 25 * time.Hour},
		{"*/2 * * * * *", "2026-07-01T12:00:00Z", 2 * time.Second},
	} {
		table := must(readTimetable(schedule(c.cron, "America/Los_Angeles")))
		if got := table.interval(must(time.Parse(time.RFC3339, c.now))); got != c.want {
			t.Errorf("%s at %s: %v, want %v", c.cron, c.now, got, c.want)
		}
	}
}

func TestOverdueAfterOneAndAHalfIntervals(t *testing.T) {
	t.Parallel()
	set := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	s := schedule("0 2 * * *", "UTC")
	s.UpdatedAt = set
	table := must(readTimetable(s))
	for _, c := range []struct {
		name           string
		delivered, now time.Time
		want           bool
	}{
		{"never delivered, and just set", time.Time{}, set.Add(36 * time.Hour), false},
		{"never delivered", time.Time{}, set.Add(36*time.Hour + time.Second), true},
		{"delivered before it was set", set.Add(-100 * time.Hour), set.Add(time.Hour), false},
		{"delivered", set.Add(14 * time.Hour), set.Add(50 * time.Hour), false},
		{"not delivered again", set.Add(14 * time.Hour), set.Add(50*time.Hour + time.Second), true},
	} {
		if _, got := table.overdueSince(c.delivered, c.now); got != c.want {
			t.Errorf("%s: overdue %v", c.name, got)
		}
	}
}
