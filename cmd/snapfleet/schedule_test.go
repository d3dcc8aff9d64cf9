package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/test/world"
)

// TestScheduleVerbs sets, shows and clears schedules with the real binary, and is refused in every way there is. No
// worker runs: nothing fires soon.
func TestScheduleVerbs(t *testing.T) {
	t.Parallel()
	nats, err := world.StartNATS(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nats.Stop)
	env := []string{"SNAPFLEET_NATS_URL=" + nats.URL()}
	for _, args := range [][]string{{"set", "acme", "--cron=@daily"}, {"list"}, {"next", "acme"}, {"check"}, {"clear", "acme"}} {
		snapfleet(t, env, append([]string{"schedule"}, args...)...).want(t, exitFailed, "fix: run `snapfleet setup`")
	}
	snapfleet(t, env, "setup").want(t, exitOK)
	snapfleet(t, env, "tenant", "set", "acme", "--bucket=acme-snapshots", "--region=us-west-2", "--role-arn="+role).want(t, exitOK)
	snapfleet(t, env, "schedule", "list").want(t, exitOK, "No schedule is set yet.")
	snapfleet(t, env, "schedule", "check").want(t, exitOK, "Nobody is overdue: 0 schedules.")

	snapfleet(t, env, "schedule", "set", "acme", "--cron=0 2 * * *", "--timezone=America/Los_Angeles").want(t, exitOK, "NEXT RUN, AMERICA/LOS_ANGELES", "IN UTC", "02:00:00 P")
	was := snapfleet(t, env, "schedule", "list", "--json").out
	var p struct {
		contracts.Schedule
		NextRun time.Time `json:"next_run"`
		Overdue bool      `json:"overdue"`
	}
	if err := json.Unmarshal([]byte(was), &p); err != nil || p.Tenant != "acme" || p.Cron != "0 2 * * *" || p.TimeZone != "America/Los_Angeles" || p.Overdue || p.NextRun.Before(time.Now()) {
		t.Errorf("%+v, %v: %s", p, err, was)
	}

	// What is refused changes nothing.
	for _, c := range []struct {
		args  []string
		code  int
		texts []string
	}{
		{[]string{"acme", "--cron=61 2 * * *"}, exitUsage, []string{"above maximum", "schedule set --help", "nothing was changed"}},
		{[]string{"acme", "--cron=0 2 * *"}, exitUsage, []string{"is not minute, hour, day of the month, month and day of the week"}},
		{[]string{"acme", "--cron=@every 5m"}, exitUsage, []string{"@hourly"}},
		{[]string{"acme", "--cron=0 2 30 2 *"}, exitUsage, []string{"names no time in the next five years"}},
		{[]string{"acme", "--cron=* * * * * *"}, exitUsage, []string{"fires 1s after another time"}},
		{[]string{"acme", "--cron=0 2 * * *", "--timezone=localtime"}, exitUsage, []string{"not the same on every host", "IANA name"}},
		{[]string{"acme", "--cron=0 2 L * *"}, exitUsage, []string{"day of the month", "L, W and # are not known"}},
		{[]string{"acme", "--cron=0 2 * * *", "--timezone=Los_Angeles"}, exitUsage, []string{"IANA name such as America/Los_Angeles"}},
		{[]string{"acme", "--cron=0 2 * * *", "--only=all"}, exitUsage, []string{"only"}},
		{[]string{"acme"}, exitUsage, []string{"--cron"}},
		{[]string{"a.b", "--cron=@daily"}, exitUsage, []string{"tenant"}},
		{[]string{"globex", "--cron=@daily"}, exitNotFound, []string{"tenant globex is not registered", "fix:"}},
	} {
		snapfleet(t, env, append([]string{"schedule", "set"}, c.args...)...).want(t, c.code, c.texts...)
	}
	snapfleet(t, env, "schedule", "next", "globex").want(t, exitNotFound, "no schedule is set", "fix:")
	snapfleet(t, env, "schedule", "next", "acme", "-n", "0").want(t, exitUsage, "1 to 1000")
	snapfleet(t, env, "schedule", "check", "globex").want(t, exitNotFound, "no schedule is set")
	snapfleet(t, env, "schedule", "clear", "globex").want(t, exitNotFound, "no schedule is set")
	if is := snapfleet(t, env, "schedule", "list", "--json").out; is != was {
		t.Errorf("it was\n%s\nand is\n%s", was, is)
	}

	// The night without 02:30 has its run at 03:00, and `next` shows it.
	snapfleet(t, env, "schedule", "set", "acme", "--cron=30 2 * * *", "--timezone=America/Los_Angeles", "--format=jsonl.gz", "--json").want(t, exitOK, `"format": "jsonl.gz"`)
	next := snapfleet(t, env, "schedule", "next", "acme", "-n", "400")
	next.want(t, exitOK)
	if n, moved := strings.Count(next.out, " 02:30:00 P"), strings.Count(next.out, " 03:00:00 PDT"); n+moved != 400 || moved < 1 || moved > 2 {
		t.Errorf("%d runs at 02:30, and %d at 03:00:\n%s", n, moved, next)
	}
	snapfleet(t, env, "schedule", "set", "acme", "--cron=30  2 * * 7", "--json").want(t, exitOK, `"cron": "30 2 * * 0"`)
	snapfleet(t, env, "schedule", "set", "acme", "--cron=30 2 * * *", "--timezone=America/Los_Angeles").want(t, exitOK)
	snapfleet(t, env, "schedule", "list").want(t, exitOK, "acme 30 2 * * * America/Los_Angeles")
	snapfleet(t, env, "schedule", "check", "acme").want(t, exitOK, "Nobody is overdue: 1 schedule.")

	snapfleet(t, env, "schedule", "clear", "acme").want(t, exitOK, "Tenant acme has no schedule any more.")
	snapfleet(t, env, "schedule", "clear", "acme").want(t, exitNotFound, "no schedule is set")
	snapfleet(t, env, "schedule", "set", "acme", "--cron=@weekly").want(t, exitOK, "NEXT RUN, UTC")
	snapfleet(t, env, "tenant", "remove", "acme", "--yes").want(t, exitOK)
	snapfleet(t, env, "schedule", "list").want(t, exitOK, "No schedule is set yet.")
}
