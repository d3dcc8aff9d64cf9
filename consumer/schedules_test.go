package consumer

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/test/world"
)

// A broker that a test kills is this program, started once more.
func init() { world.ServeNATS() }

// fired waits until a schedule of acme has fired n times more, and returns these messages, which nobody has taken.
func fired(t *testing.T, js jetstream.JetStream, after uint64, n int) (messages []*jetstream.RawStreamMsg) {
	t.Helper()
	stream := must(js.Stream(t.Context(), contracts.ScheduleStream))
	for end := time.Now().Add(30 * time.Second); len(messages) < n; {
		m, err := stream.GetMsg(t.Context(), after+1, jetstream.WithGetMsgSubject(contracts.RunSubject("acme")))
		if err == nil {
			messages, after = append(messages, m), m.Sequence
			continue
		}
		if time.Now().After(end) {
			t.Fatalf("%d have fired, not %d: %v", len(messages), n, err)
		}
		pause(t.Context(), 50*time.Millisecond)
	}
	return messages
}

func TestSchedules(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	_, js, _ := broker(t)
	must(Setup(ctx, js, SetupOptions{}))
	schedules := must(OpenSchedules(ctx, js))
	registry := must(OpenRegistry(ctx, js))
	if err := registry.Set(ctx, tenant("acme")); err != nil {
		t.Fatal(err)
	}
	if _, err := schedules.Get(ctx, "acme"); !errors.Is(err, ErrNoSchedule) {
		t.Errorf("before: %v", err)
	}
	if err := schedules.Clear(ctx, "acme"); !errors.Is(err, ErrNoSchedule) {
		t.Errorf("clearing none: %v", err)
	}
	set := must(schedules.Set(ctx, schedule("0 2 * * *", "America/Los_Angeles")))
	if got := must(schedules.Get(ctx, "acme")); got != set {
		t.Errorf("set %+v, got %+v", set, got)
	}

	// What is refused changes nothing, whoever refuses it.
	for _, bad := range []contracts.Schedule{schedule("61 * * * *", "UTC"), schedule("@daily", "Mars/Phobos"), schedule("0 2 * * *", "localtime")} {
		if _, err := schedules.Set(ctx, bad); err == nil {
			t.Errorf("%s in %s is set", bad.Cron, bad.TimeZone)
		}
	}
	for header, want := range map[string]string{"Nats-Schedule": "NATS cannot read the cron", "Nats-Schedule-Time-Zone": "NATS does not know the time zone"} {
		m := &nats.Msg{Subject: contracts.ScheduleSubject("acme"), Data: []byte("x"), Header: nats.Header{
			"Nats-Schedule": {"0 0 2 * * *"}, "Nats-Schedule-Time-Zone": {"UTC"}, "Nats-Schedule-Target": {contracts.RunSubject("acme")},
		}}
		m.Header.Set(header, "nonsense")
		if _, err := js.PublishMsg(ctx, m); err == nil || !strings.Contains(misread(set, err).Error(), want) {
			t.Errorf("the server says to a bad %s: %v", header, err)
		}
	}
	if got := must(schedules.Get(ctx, "acme")); got != set {
		t.Errorf("after what was refused: %+v", got)
	}

	// To set it again replaces it.
	again := schedule("@hourly", "UTC")
	again.Only = contracts.Tables
	set = must(schedules.Set(ctx, again))
	other := schedule("0 0 1 1 *", "Europe/Berlin")
	other.Tenant = "globex"
	must(schedules.Set(ctx, other))
	all := must(schedules.All(ctx))
	if len(all) != 2 || all[0] != set || all[1].Tenant != "globex" {
		t.Errorf("all: %+v", all)
	}
	next := must(schedules.Upcoming(ctx))
	if len(next) != 2 || next["acme"].Minute() != 0 || time.Until(next["acme"]) > time.Hour || next["globex"].Format("01-02 15:04") != "12-31 23:00" {
		t.Errorf("upcoming: %v", next)
	}
	must(js.Publish(ctx, contracts.ScheduleSubject("other"), []byte("not a schedule")))
	if all, err := schedules.All(ctx); len(all) != 2 || err == nil || !strings.Contains(err.Error(), "snapshot.schedule.other") {
		t.Errorf("with one that cannot be read: %d, %v", len(all), err)
	}
	if err := schedules.Clear(ctx, "globex"); err != nil {
		t.Error(err)
	}
	if err := registry.Remove(ctx, "acme"); err != nil {
		t.Error(err)
	}
	if all, _ := schedules.All(ctx); len(all) != 0 {
		t.Errorf("cleared, and of a tenant that was removed: %+v", all)
	}
}

// What a fired message looks like, and that the server names the same next time as we do.
func TestTheServerFires(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	_, js, _ := broker(t)
	must(Setup(ctx, js, SetupOptions{}))
	schedules, jobs := must(OpenSchedules(ctx, js)), must(OpenJobs(ctx, js))
	set := must(schedules.Set(ctx, schedule("*/2 * * * * *", "America/Los_Angeles")))
	table := must(readTimetable(set))
	for _, m := range fired(t, js, 0, 2) {
		req, from, err := asked(m.Subject, m.Data, m.Time)
		if err != nil || from == nil || from.Schedule != set {
			t.Fatalf("%s: %+v, %v", m.Data, from, err)
		}
		if late := m.Time.Sub(req.RequestedAt); late < -early || late >= closest {
			t.Errorf("it is stamped %v after the time that it fired for", late)
		}
		if again := must(table.fired(m.Time)); req.Job != again.Format(contracts.JobLayout) {
			t.Errorf("job %s, and %v", req.Job, again)
		}
		next := must(time.Parse(time.RFC3339Nano, m.Header.Get("Nats-Schedule-Next")))
		if m.Header.Get("Nats-Scheduler") != contracts.ScheduleSubject("acme") || !next.Equal(table.next(req.RequestedAt)) {
			t.Errorf("headers %v, we say that %v is next", m.Header, table.next(req.RequestedAt))
		}
		// It is a job like any other for those who ask.
		s, err := jobs.Status(ctx, "acme", req.Job)
		if err != nil || s.State != "queued" || s.Schedule == nil || !s.Schedule.FiredAt.Equal(req.RequestedAt) {
			t.Errorf("status %+v, %v", s, err)
		}
		if list := must(jobs.List(ctx, "")); !slices.ContainsFunc(list, func(s Status) bool { return s.Job == req.Job && s.Schedule != nil }) {
			t.Errorf("the list has no %s: %+v", req.Job, list)
		}
	}
}

// Whoever may publish requests can neither pass for a schedule nor, by a header, remove what others have asked for.
func TestForgedSchedules(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	nc, jobs, w, _ := fleet(t)
	js := must(jetstream.New(nc))
	set := must(must(OpenSchedules(ctx, js)).Set(ctx, schedule("@yearly", "UTC")))
	must(jobs.Submit(ctx, request("waits"), nil))
	forge := func(body any, header nats.Header) error {
		_, err := js.PublishMsg(ctx, &nats.Msg{Subject: contracts.RequestSubject("acme"), Data: must(json.Marshal(body)), Header: header})
		return err
	}
	for _, header := range []nats.Header{
		{"Nats-Rollup": {"all"}},
		{"Nats-Rollup": {"sub"}},
		{"Nats-Schedule": {"@every 1s"}, "Nats-Schedule-Target": {contracts.RequestSubject("acme")}},
	} {
		if err := forge(request("forged"), header); err == nil {
			t.Errorf("the server takes a request with %v", header)
		}
	}
	scheduler := nats.Header{"Nats-Scheduler": {contracts.ScheduleSubject("acme")}, "Nats-Schedule-Next": {"purge"}}
	taken := forge(request("forged"), scheduler) == nil // a header like any other, there
	s := schedule("@daily", "UTC")
	if err := forge(s, nil); err != nil {
		t.Fatal(err)
	}
	defer start(t, nc, exports{n: w.node("bucket")}, quick("w1"))()
	end := ending(t, jobs, "waits")
	if end.Outcome == nil || end.Outcome.Kind != contracts.Delivered {
		t.Errorf("what waited: %+v", end)
	}
	if taken {
		if end := ending(t, jobs, "forged"); end.Outcome == nil || end.Schedule != nil {
			t.Errorf("the forged one: %+v", end)
		}
	}
	if got := must(must(OpenSchedules(ctx, js)).Get(ctx, "acme")); got != set {
		t.Errorf("the schedule is %+v", got)
	}
	for end := time.Now().Add(20 * time.Second); ; pause(ctx, 50*time.Millisecond) {
		var codes []string
		for m, err := range jobs.messages(ctx, contracts.DeadStream, contracts.DeadSubjects) {
			if err == nil {
				codes = append(codes, m.Header.Get(contracts.HeaderCode))
			}
		}
		if slices.Equal(codes, []string{string(contracts.InvalidRequest)}) { // the schedule that is no request
			return
		}
		if time.Now().After(end) {
			t.Fatalf("dead letters: %v", codes)
		}
	}
}

// Whoever may publish runs can remove messages of their stream by a header, and anybody can make mistakes. A schedule comes
// back, and with it the run that it has missed; what was cleared does not.
func TestAScheduleThatVanishesComesBack(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	nc, _, w, _ := fleet(t)
	js := must(jetstream.New(nc))
	schedules := must(OpenSchedules(ctx, js))
	cfg := quick("w1")
	cfg.ScheduleEvery = 500 * time.Millisecond
	defer start(t, nc, exports{n: w.node("bucket")}, cfg)()
	set := must(schedules.Set(ctx, schedule("@yearly", "UTC")))
	for _, header := range []nats.Header{
		{"Nats-Rollup": {"all"}},
		{"Nats-Scheduler": {contracts.ScheduleSubject("acme")}, "Nats-Schedule-Next": {"purge"}},
	} {
		if _, err := js.PublishMsg(ctx, &nats.Msg{Subject: contracts.RunSubject("globex"), Header: header}); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(20 * time.Second); ; pause(ctx, 100*time.Millisecond) {
			got, err := schedules.Get(ctx, "acme")
			if err == nil && got == set {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("after %v: %+v, %v", header, got, err)
			}
		}
	}
	if err := schedules.Clear(ctx, "acme"); err != nil {
		t.Fatal(err)
	}
	between := must(openCells(ctx, js, contracts.FleetBucket))
	for turns, last := 0, uint64(0); turns < 4 && ctx.Err() == nil; pause(ctx, 50*time.Millisecond) {
		if _, rev, err := between.Get(ctx, timekeeperKey); err == nil && rev != last {
			turns, last = turns+1, rev
		}
	}
	if got, err := schedules.Get(ctx, "acme"); !errors.Is(err, ErrNoSchedule) {
		t.Errorf("cleared, and still: %+v, %v", got, err)
	}
}

// ends waits until each of the jobs has an outcome, and returns them.
func ends(t *testing.T, jobs *Jobs, of ...string) map[string]contracts.Outcome {
	t.Helper()
	all := map[string]contracts.Outcome{}
	for _, job := range of {
		s := ending(t, jobs, job)
		if s.Outcome == nil {
			t.Fatalf("job %s: %+v", job, s)
		}
		all[job] = *s.Outcome
	}
	return all
}

// Many workers, each with its own connection, see several runs of one tenant at the same moment: one of them is begun.
func TestRunsThatAreSeenAtTheSameTime(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	nc, jobs, w, _ := fleet(t)
	js := must(jetstream.New(nc))
	schedules := must(OpenSchedules(ctx, js))
	must(schedules.Set(ctx, schedule("*/2 * * * * *", "UTC")))
	var fires []string
	for _, m := range fired(t, js, 0, 4) {
		req, _, _ := asked(m.Subject, m.Data, m.Time)
		fires = append(fires, req.Job)
	}
	if err := schedules.Clear(ctx, "acme"); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		own, err := Connect(nc.ConnectedUrl())
		if err != nil {
			t.Fatal(err)
		}
		defer own.Close()
		defer start(t, own, exports{n: w.node("bucket"), part: 100 * time.Millisecond}, quick("w"))()
	}
	// The last that is due by the workers' clocks is promised; its message may never come, but then it is asked for.
	all := ends(t, jobs, fires[:3]...)
	begun := map[string]bool{}
	for _, s := range must(jobs.List(ctx, "acme")) {
		if s.Attempt > 0 {
			begun[s.Job] = true
		}
	}
	for job, o := range all {
		if o.Kind != contracts.Skipped || o.Reason.Code != contracts.RunMissed {
			t.Errorf("job %s: %+v", job, o)
		}
	}
	if len(begun) > 1 {
		t.Errorf("begun: %v", slices.Collect(maps.Keys(begun)))
	}
}

// TestTheServerIsAwayOverFireTimes takes the server away over several times of a schedule. One that is stopped fires
// once when it is back; one that is killed does not, and a worker finds out.
func TestTheServerIsAwayOverFireTimes(t *testing.T) {
	t.Parallel()
	for name, away := range map[string]func(*world.NATS){"stopped": (*world.NATS).Stop, "killed": (*world.NATS).Kill} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			server, err := world.StartNATS(t.TempDir(), world.AsProcess(), world.WithSync())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(server.Stop)
			nc, err := Connect(server.URL(), nats.ReconnectWait(50*time.Millisecond))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(nc.Close)
			js := must(jetstream.New(nc))
			must(Setup(ctx, js, SetupOptions{AckWait: 2 * time.Second}))
			if err := must(OpenRegistry(ctx, js)).Set(ctx, tenant("acme")); err != nil {
				t.Fatal(err)
			}
			schedules, jobs := must(OpenSchedules(ctx, js)), must(OpenJobs(ctx, js))
			// Twelve seconds, so that there is time for everything between two of them.
			set := must(schedules.Set(ctx, schedule("*/12 * * * * *", "UTC")))
			table := must(readTimetable(set))
			until := func(at time.Time) { pause(ctx, time.Until(at)) }
			first := table.next(time.Now())
			until(first.Add(2 * time.Second))
			fired(t, js, 0, 1)
			away(server)
			third := table.next(table.next(first))
			until(third.Add(time.Second))
			if err := server.Start(ctx); err != nil {
				t.Fatal(err)
			}
			cfg := quick("w1")
			cfg.ScheduleEvery = time.Second
			w := newMemory(t)
			var stop func()
			for stop == nil && ctx.Err() == nil {
				if _, err := js.AccountInfo(ctx); err == nil {
					stop = start(t, nc, exports{n: w.node("bucket")}, cfg)
				}
			}
			defer stop()
			jobOf := func(at time.Time) string { return set.Request(at).Job }
			all := ends(t, jobs, jobOf(first), jobOf(third))
			if o := all[jobOf(first)]; o.Kind != contracts.Skipped || !strings.Contains(o.Reason.What, jobOf(third)) {
				t.Errorf("the run before: %+v, %+v", o, o.Reason)
			}
			o := all[jobOf(third)]
			if want := []time.Time{first, table.next(first)}; o.Kind != contracts.Delivered || !slices.EqualFunc(o.Schedule.Missed, want, time.Time.Equal) {
				t.Errorf("the run that makes up for all: %+v, %+v", o, o.Schedule)
			}
			if _, err := jobs.Status(ctx, "acme", jobOf(table.next(first))); !errors.Is(err, ErrNoJob) {
				t.Errorf("the run in between, which nobody asked for: %v", err)
			}
		})
	}
}

// A schedule's messages have one body; each run that fails still has a dead letter of its own, which says what was asked
// for.
func TestDeadLettersOfRuns(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	nc, jobs, w, _ := fleet(t)
	js := must(jetstream.New(nc))
	reject := func(contracts.Attempt) error { return contracts.Reject(contracts.BucketDenied, "no") }
	defer start(t, nc, exports{n: w.node("bucket"), reject: reject}, quick("w1"))()
	s := schedule("*/4 * * * * *", "UTC")
	s.Only = contracts.Tables
	must(must(OpenSchedules(ctx, js)).Set(ctx, s))
	letters := map[string]bool{}
	for end := time.Now().Add(time.Minute); len(letters) < 2 && time.Now().Before(end); pause(ctx, 200*time.Millisecond) {
		for m, err := range jobs.messages(ctx, contracts.DeadStream, contracts.DeadSubject("acme")) {
			if err != nil {
				t.Fatal(err)
			}
			req, err := contracts.DecodeRequest(m.Data)
			if err != nil || req.Job != m.Header.Get(contracts.HeaderJob) || req.Only != contracts.Tables || m.Header.Get(contracts.HeaderDigest) != digestOf(m.Data) || m.Header.Get("Nats-Scheduler") != "" {
				t.Fatalf("dead letter %s: %v, %v", m.Data, m.Header, err)
			}
			letters[req.Job] = true
		}
	}
	if len(letters) < 2 {
		t.Errorf("dead letters of %v", letters)
	}
}

func TestCancelARunThatIsQueued(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	nc, jobs, w, _ := fleet(t)
	js := must(jetstream.New(nc))
	body := must(json.Marshal(schedule("@daily", "UTC")))
	must(js.Publish(ctx, contracts.RunSubject("acme"), body))
	job := time.Now().UTC().Truncate(24 * time.Hour).Format(contracts.JobLayout)
	if err := jobs.Cancel(ctx, "acme", job); err != nil {
		t.Fatal(err)
	}
	defer start(t, nc, exports{n: w.node("bucket")}, quick("w1"))()
	if s := ending(t, jobs, job); s.Outcome == nil || s.Outcome.Kind != contracts.Cancelled {
		t.Errorf("%+v", s)
	}
}
