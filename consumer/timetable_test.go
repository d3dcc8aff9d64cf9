package consumer

import (
	"encoding/json"
	"fmt"
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

// What we let pass, the server reads as we do: every time of some years, DST and all. And what we refuse because it
// would not, it does not.
func TestTimetableAgreesWithTheServer(t *testing.T) {
	t.Parallel()
	crons := []string{
		"0 2 * * *", "30 1 * * *", "30 2 * * *", "0 0 * * *", "*/15 * * * *", "7-59/13 * * * *", "5/20 */3 * * *", "0 9-17 * * 1-5", "0 0 * * 0", "0 2 * * 5",
		"0 3 1 * *", "0 0 1 1 *", "59 23 31 12 *", "0 2 29 2 *", "0 2 31 * *", "0 2 13 * 5", "0 2 1-7 * MON", "0 2 */2 * *", "0 2 1-31 * 1", "0 2 ? * ?", "15 2,14 * JAN-MAR,dec *", "0 0,12 * * sun",
		"@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually", "*/20 30 1 * * *", "30 0 2 * * 1",
	}
	zones := []string{
		"UTC", "America/Los_Angeles", "Europe/Berlin", "America/Sao_Paulo", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Auckland", "Pacific/Apia", "Etc/GMT+5",
		"Africa/Cairo", "Asia/Beirut", "America/Havana", "America/Santiago", "Africa/Casablanca", "America/Scoresbysund",
	}
	from := time.Date(2026, 1, 1, 7, 7, 7, 7, time.UTC)
	expand := map[string]string{
		"@hourly": "0 0 * * * *", "@daily": "0 0 0 * * *", "@midnight": "0 0 0 * * *", "@weekly": "0 0 0 * * 0", "@monthly": "0 0 0 1 * *", "@yearly": "0 0 0 1 1 *", "@annually": "0 0 0 1 1 *",
	}
	refused, misread := 0, 0
	for _, zone := range zones {
		for _, c := range crons {
			table := must(readTimetable(schedule(c, zone)))
			err := table.check(from)
			pattern := table.pattern()
			if p, ok := expand[pattern]; ok { // by the server, before it parses
				pattern = p
			}
			differ := ""
			for ours, theirs, n := from, from, 0; n < 1200 && ours.Year() < 2030 && differ == ""; n++ {
				// Both are asked from points that are no times of theirs, too.
				ours, theirs = table.next(ours), must(world.NextFire(pattern, table.spec.Location, theirs))
				if !ours.Equal(theirs) {
					differ = fmt.Sprintf("%s in %s: we say %v, the server %v", c, zone, ours, theirs)
				}
				if n%7 == 0 {
					ours = ours.Add(5 * time.Hour)
					theirs = ours
				}
			}
			switch {
			case err == nil && differ != "":
				t.Error(differ)
			case err != nil && !strings.Contains(err.Error(), "midnight"):
				t.Errorf("%s in %s: %v", c, zone, err)
			case err != nil:
				refused++
				if differ != "" {
					misread++
				}
			}
		}
	}
	if misread == 0 || refused > 4*len(crons) {
		t.Errorf("%d are refused because of midnights, and the server misreads %d of them", refused, misread)
	}
}

func TestCheckScheduleSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct{ cron, zone, want string }{
		{"0 2 * * *", "America/Los_Angeles", ""},
		{"0 2 * * *", "Africa/Cairo", ""}, // every day is as good as any
		{"0 2 * * 5", "Africa/Cairo", "midnight"},
		{"0 2 1 * *", "America/Santiago", "midnight"},
		{"0 2 * 3-11 *", "Asia/Beirut", "midnight"},
		{"0 2 * *", "UTC", "minute, hour"},
		{"61 2 * * *", "UTC", "above maximum"},
		{"0 24 * * *", "UTC", "above maximum"},
		{"0 2 * * 7", "UTC", "above maximum"},
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
	} {
		table, err := readTimetable(schedule(c.cron, c.zone))
		if err == nil {
			err = table.check(now)
		}
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

func TestClocksThatChange(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		cron, after string
		want        []string
	}{
		{"30 2 * * *", "2027-03-13T00:00:00Z", []string{"2027-03-13T10:30:00Z", "2027-03-15T09:30:00Z"}},                         // 02:30 is skipped on the 14th
		{"30 1 * * *", "2026-11-01T00:00:00Z", []string{"2026-11-01T08:30:00Z", "2026-11-01T09:30:00Z", "2026-11-02T09:30:00Z"}}, // 01:30 comes twice
		{"0 2 * * *", "2026-11-01T00:00:00Z", []string{"2026-11-01T10:00:00Z", "2026-11-02T10:00:00Z"}},
	} {
		table := must(readTimetable(schedule(c.cron, "America/Los_Angeles")))
		at := must(time.Parse(time.RFC3339, c.after))
		for _, want := range c.want {
			if at = table.next(at); at.Format(time.RFC3339) != want {
				t.Errorf("%s: %s, want %s", c.cron, at.Format(time.RFC3339), want)
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
	const day = 24 * time.Hour
	for _, c := range []struct {
		cron, now string
		want      time.Duration
	}{
		{"0 2 * * *", "2026-07-01T12:00:00Z", day},
		{"*/5 * * * *", "2026-07-01T12:00:00Z", 5 * time.Minute},
		{"0 9-17 * * 1-5", "2026-07-01T12:00:00Z", 64 * time.Hour}, // Friday 17:00 to Monday 9:00
		{"0 2,3 * * *", "2026-07-01T12:00:00Z", 23 * time.Hour},
		{"0 2 1 * *", "2026-07-15T12:00:00Z", 31 * day},
		{"0 2 1 1 *", "2026-07-15T12:00:00Z", 365 * day},
		{"0 2 29 2 *", "2026-07-15T12:00:00Z", 4*365*day + day},
		{"30 2 * * *", "2027-03-15T12:00:00Z", 47 * time.Hour}, // the night without 02:30
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
