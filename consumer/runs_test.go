package consumer

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/test/world"
)

// fleetOf is the fleet's bucket as a node reaches it: with its faults.
type fleetOf struct{ n *node }

type value struct {
	data     []byte
	revision uint64
}

func (f fleetOf) Get(ctx context.Context, key string) ([]byte, uint64, error) {
	v, err := call(ctx, f.n, "fleet get "+key, func() (v value, err error) {
		v.data, v.revision, err = f.n.shelf.Get(ctx, key)
		return v, err
	})
	return v.data, v.revision, err
}

func (f fleetOf) Create(ctx context.Context, key string, data []byte) (uint64, error) {
	return call(ctx, f.n, "fleet create "+key, func() (uint64, error) { return f.n.shelf.Create(ctx, key, data) })
}

func (f fleetOf) Update(ctx context.Context, key string, data []byte, revision uint64) (uint64, error) {
	return call(ctx, f.n, "fleet update "+key, func() (uint64, error) { return f.n.shelf.Update(ctx, key, data, revision) })
}

func (f fleetOf) Put(ctx context.Context, key string, data []byte) error {
	return f.n.reach(ctx, "fleet put "+key, func() error { return f.n.shelf.Put(ctx, key, data) })
}

func (f fleetOf) Delete(ctx context.Context, key string) error {
	return f.n.reach(ctx, "fleet delete "+key, func() error { return f.n.shelf.Delete(ctx, key) })
}

func (f fleetOf) DeleteIf(ctx context.Context, key string, revision uint64) error {
	return f.n.reach(ctx, "fleet delete "+key, func() error { return f.n.shelf.DeleteIf(ctx, key, revision) })
}

func (f fleetOf) Keys(ctx context.Context, filter string) ([]string, error) {
	return call(ctx, f.n, "fleet keys "+filter, func() ([]string, error) { return f.n.shelf.Keys(ctx, filter) })
}

func (f fleetOf) Follow(ctx context.Context, filter string, seen func(string, []byte), all func()) error {
	return f.n.shelf.Follow(ctx, filter, seen, all)
}

func (f fleetOf) Changes(ctx context.Context, filter string, seen func(string, uint64)) error {
	return f.n.shelf.Changes(ctx, filter, seen)
}

// calendarOf is where a node finds the schedules.
type calendarOf struct{ n *node }

func (c calendarOf) All(ctx context.Context) ([]contracts.Schedule, error) {
	return call(ctx, c.n, "schedules", func() ([]contracts.Schedule, error) {
		return slices.Collect(maps.Values(c.n.schedules)), nil
	})
}

func (c calendarOf) Get(ctx context.Context, tenant string) (contracts.Schedule, error) {
	return call(ctx, c.n, "schedule of "+tenant, func() (contracts.Schedule, error) {
		s, ok := c.n.schedules[tenant]
		if !ok {
			return s, ErrNoSchedule
		}
		return s, nil
	})
}

func (c calendarOf) Ask(ctx context.Context, tenant string, body []byte, id string) error {
	return c.n.reach(ctx, "ask "+id, func() error {
		if at, taken := c.n.asked[id]; !taken || time.Since(at) > 24*time.Hour {
			c.n.asked[id] = time.Now()
			c.n.enqueue(tenant, body)
		}
		return nil
	})
}

func (c calendarOf) Restore(ctx context.Context, s contracts.Schedule) error {
	return c.n.reach(ctx, "restore "+s.Tenant, func() error { c.n.schedules[s.Tenant] = s; return nil })
}

// enqueue must be called inside change.
func (w *memory) enqueue(tenant string, body []byte) {
	req, _, err := asked(contracts.RunSubject(tenant), body, time.Now())
	if err != nil {
		panic(err)
	}
	m := &queued{subject: contracts.RunSubject(tenant), tenant: tenant, data: body, published: time.Now(), key: recordKey(tenant, req.Job)}
	w.messages = append(w.messages, m)
	w.show(m, 0)
}

// schedule keeps a schedule, and fires it as a server does that is up.
func (w *memory) schedule(s contracts.Schedule) {
	s.UpdatedAt = time.Now().UTC()
	table := must(readTimetable(s))
	w.change("schedule "+s.Tenant, func() { w.schedules[s.Tenant] = s })
	over := make(chan struct{})
	w.waits = append(w.waits, func() { <-over })
	go func() {
		defer close(over)
		for {
			next := must(world.NextFire(withSeconds(table.pattern()), table.zone, time.Now()))
			pause(w.ctx, time.Until(next))
			if w.ctx.Err() != nil {
				return
			}
			w.change("it is time for "+s.Tenant, func() {
				if !w.down {
					w.fired = append(w.fired, recordKey(s.Tenant, s.Request(time.Now()).Job))
					w.enqueue(s.Tenant, must(json.Marshal(s)))
				}
			})
		}
	}()
}

// down is a server that was killed: it fires nothing, and does not make up for it.
func (w *memory) kill(down bool) {
	w.change(fmt.Sprint("the server is down: ", down), func() { w.down = down })
}

// checkRuns: a tenant has one run of its schedule under way at most. It must be called inside change.
func (w *memory) checkRuns() {
	if len(w.schedules) == 0 {
		return
	}
	under := map[string]string{}
	for key := range w.cells {
		if strings.Count(key, ".") != 1 {
			continue
		}
		r := w.recordAt(key)
		if r.Schedule == nil || r.skipped() || r.State.ended() {
			continue
		}
		if other := under[r.Request.Tenant]; other != "" {
			w.fail("two runs are under way: %s and %s", key, other)
		}
		under[r.Request.Tenant] = key
	}
}

func minutely() contracts.Schedule { return schedule("* * * * *", "UTC") }

// ends are how the jobs of acme have ended, by job: kind and code.
func (w *memory) ends() map[string]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	ends := map[string]string{}
	for key, o := range w.outcomes {
		end := string(o.Kind)
		if o.Reason != nil {
			end += " " + string(o.Reason.Code)
		}
		ends[strings.TrimPrefix(key, "acme.")] = end
	}
	return ends
}

func (w *memory) run(job string) contracts.ScheduledRun {
	w.mu.Lock()
	defer w.mu.Unlock()
	if o := w.outcomes["acme."+job]; o.Schedule != nil {
		return *o.Schedule
	}
	return contracts.ScheduledRun{}
}

func (w *memory) wantEnds(want map[string]string) {
	w.t.Helper()
	if got := w.ends(); !maps.Equal(got, want) {
		w.t.Errorf("the jobs have ended as\n%v\nwant\n%v\n%s", got, want, strings.Join(w.trail, "\n"))
	}
	if len(w.dead) > 0 {
		w.t.Errorf("dead letters: %v", w.dead)
	}
}

// In the bubbles below time begins at midnight, UTC, on the first of January 2000.

func TestDecide(t *testing.T) {
	t.Parallel()
	at := func(clock string) time.Time { return must(time.Parse("15:04:05", clock)).AddDate(2026, 2, 30) } // from the year 0
	s := schedule("0 * * * *", "UTC")
	s.UpdatedAt = at("00:30:00")
	table := must(readTimetable(s))
	last := func(clock string, missed ...time.Time) *lastRun {
		return &lastRun{Job: "last", ScheduledRun: contracts.ScheduledRun{FiredAt: at(clock), Missed: missed, MissedTotal: len(missed)}}
	}
	for _, c := range []struct {
		name   string
		fired  string
		last   *lastRun
		over   bool
		now    string
		skip   contracts.Code // empty: it is begun
		by     string         // whom the reason names
		next   string         // what the cell becomes; empty: it stays
		missed []string       // of the run that is begun, or promised
	}{
		{name: "the first run", fired: "01:00:00", now: "01:00:01", next: "01:00:00"},
		{name: "the first run, after others had been missed", fired: "03:00:00", now: "03:00:01", next: "03:00:00", missed: []string{"01:00:00", "02:00:00"}},
		{name: "the next run", fired: "02:00:00", last: last("01:00:00"), over: true, now: "02:00:01", next: "02:00:00"},
		{name: "the run before goes on", fired: "02:00:00", last: last("01:00:00"), now: "02:00:01", skip: contracts.RunUnderWay, by: "last"},
		{name: "the run before goes on, and the next one is due", fired: "02:00:00", last: last("01:00:00"), now: "03:00:01", skip: contracts.RunUnderWay, by: "last"},
		{name: "the run after runs were skipped", fired: "04:00:00", last: last("01:00:00"), over: true, now: "04:00:01", next: "04:00:00", missed: []string{"02:00:00", "03:00:00"}},
		{name: "a later one is due", fired: "02:00:00", last: last("01:00:00"), over: true, now: "04:59:59", skip: contracts.RunMissed, by: "2026-03-31-040000", next: "04:00:00", missed: []string{"02:00:00", "03:00:00"}},
		{name: "a later one is promised", fired: "02:00:00", last: last("04:00:00"), now: "04:59:59", skip: contracts.RunMissed, by: "last"},
		{name: "a later one has ended", fired: "02:00:00", last: last("04:00:00"), over: true, now: "09:00:00", skip: contracts.RunMissed, by: "last"},
		{name: "it was promised", fired: "04:00:00", last: last("04:00:00", at("02:00:00")), now: "04:30:00", missed: []string{"02:00:00"}},
		{name: "it was promised, and another one is due by now", fired: "04:00:00", last: last("04:00:00", at("02:00:00")), now: "06:30:00", missed: []string{"02:00:00"}},
		{name: "the clock is behind", fired: "02:00:00", last: last("01:00:00"), over: true, now: "01:59:00", next: "02:00:00"},
	} {
		got := decide(table, at(c.fired), c.last, c.over, at(c.now))
		switch {
		case c.skip == "" && got.skip != nil, c.skip != "" && (got.skip == nil || got.skip.Code != c.skip || !strings.Contains(got.skip.Error(), "job "+c.by)):
			t.Errorf("%s: skipped: %v, want %q that names %s", c.name, got.skip, c.skip, c.by)
		case !got.run.FiredAt.Equal(at(c.fired)):
			t.Errorf("%s: the run is of %v", c.name, got.run.FiredAt)
		case (got.next == nil) != (c.next == ""), got.next != nil && (!got.next.FiredAt.Equal(at(c.next)) || got.next.Job != table.Request(at(c.next)).Job):
			t.Errorf("%s: next is %+v, want %s", c.name, got.next, c.next)
		}
		run := got.run
		if got.next != nil {
			run = &got.next.ScheduledRun
		}
		var missed []string
		for _, m := range run.Missed {
			missed = append(missed, m.Format("15:04:05"))
		}
		if !slices.Equal(missed, c.missed) || run.MissedTotal != len(c.missed) {
			t.Errorf("%s: missed %v of %d, want %v", c.name, missed, run.MissedTotal, c.missed)
		}
	}
}

func TestRunsOfAScheduleAreDelivered(t *testing.T) {
	inMemory(t, func(t *testing.T, w *memory) {
		w.schedule(minutely())
		w.node("w1").employ(exports{part: time.Second}, Config{})
		time.Sleep(3*time.Minute + 30*time.Second)
		w.wantEnds(map[string]string{"2000-01-01-000100": "delivered", "2000-01-01-000200": "delivered", "2000-01-01-000300": "delivered"})
		if run := w.run("2000-01-01-000200"); !run.FiredAt.Equal(time.Date(2000, 1, 1, 0, 2, 0, 0, time.UTC)) || run.MissedTotal > 0 || run.LateSeconds > 0 {
			t.Errorf("run %+v", run)
		}
	})
}

// A run takes three minutes, and is due every minute: on one worker, whose other slot is not for the same tenant, and
// on several.
func TestARunUnderWayIsNotBegunTwice(t *testing.T) {
	for workers := range 3 {
		inMemory(t, func(t *testing.T, w *memory) {
			w.schedule(minutely())
			for i := range workers + 1 {
				w.node(fmt.Sprint("w", i)).employ(exports{part: 17 * time.Second}, Config{})
			}
			time.Sleep(7*time.Minute + 50*time.Second)
			w.wantEnds(map[string]string{
				"2000-01-01-000100": "delivered", "2000-01-01-000200": "skipped run_under_way", "2000-01-01-000300": "skipped run_under_way",
				"2000-01-01-000400": "delivered", "2000-01-01-000500": "skipped run_under_way", "2000-01-01-000600": "skipped run_under_way",
			})
			if o := w.outcomes["acme.2000-01-01-000200"]; o.Attempts != 0 || o.Attempt != "" || o.EndedAt.Sub(o.Schedule.FiredAt) > time.Second || !strings.Contains(o.Reason.What, "2000-01-01-000100") {
				t.Errorf("a run that was skipped: %+v", o)
			}
			if run := w.run("2000-01-01-000400"); run.MissedTotal != 2 {
				t.Errorf("the run after that: %+v", run)
			}
		})
	}
}

func TestOneRunForAllThatWereMissed(t *testing.T) {
	inMemory(t, func(t *testing.T, w *memory) {
		w.schedule(minutely())
		time.Sleep(3*time.Minute + 20*time.Second) // nobody works
		w.node("w1").employ(exports{part: time.Second}, Config{})
		w.node("w2").employ(exports{part: time.Second}, Config{})
		within(t, w, 30*time.Second, "settled", w.settled)
		w.wantEnds(map[string]string{"2000-01-01-000100": "skipped run_missed", "2000-01-01-000200": "skipped run_missed", "2000-01-01-000300": "delivered"})
		want := []time.Time{time.Date(2000, 1, 1, 0, 1, 0, 0, time.UTC), time.Date(2000, 1, 1, 0, 2, 0, 0, time.UTC)}
		if run := w.run("2000-01-01-000300"); !slices.Equal(run.Missed, want) || run.MissedTotal != 2 || run.LateSeconds != 20 {
			t.Errorf("the run that makes up for them: %+v", run)
		}
		if o := w.outcomes["acme.2000-01-01-000100"]; !strings.Contains(o.Reason.What, "2000-01-01-000300") {
			t.Errorf("a run that was missed: %+v", o.Reason)
		}
	})
}

// The server fires for no local time that the clocks skip, and for each one that comes twice. Each day still has one run.
func TestADayWhoseClocksChangeHasOneRun(t *testing.T) {
	for _, c := range []struct {
		name, cron string
		set        time.Time
		want       map[string]string // after 30 hours
		late       int64             // at most, in seconds
	}{
		{"forward", "0 2 * * *", time.Date(2000, 4, 1, 18, 0, 0, 0, time.UTC), map[string]string{"2000-04-02-100000": "delivered"}, 59},
		{"back", "30 1 * * *", time.Date(2000, 10, 29, 2, 0, 0, 0, time.UTC), map[string]string{"2000-10-29-083000": "delivered"}, 1},
		{"back, and set in between", "30 1 * * *", time.Date(2000, 10, 29, 9, 0, 0, 0, time.UTC), map[string]string{"2000-10-30-093000": "delivered"}, 1},
	} {
		inMemory(t, func(t *testing.T, w *memory) {
			w.unchecked = true // a message of no run is acknowledged without an outcome
			time.Sleep(time.Until(c.set))
			w.schedule(schedule(c.cron, "America/Los_Angeles"))
			w.node("w1").employ(exports{part: time.Second}, Config{})
			time.Sleep(30 * time.Hour)
			w.wantEnds(c.want)
			for job := range c.want {
				if run := w.run(job); run.MissedTotal != 0 || run.LateSeconds > c.late {
					t.Errorf("%s: run %+v", c.name, run)
				}
			}
			if !w.settled() {
				t.Errorf("%s: a message is left in the queue", c.name)
			}
		})
	}
}

// A server that is killed fires nothing of what it missed.
func TestRunsThatNeverFiredAreFound(t *testing.T) {
	for name, fires := range map[string]int{"none has fired": 0, "the first of them has": 1} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, w *memory) {
				w.schedule(schedule("0 * * * *", "UTC"))
				time.Sleep(time.Duration(fires)*time.Hour + time.Minute)
				w.kill(true)
				time.Sleep(2*time.Hour + 30*time.Minute)
				w.kill(false)
				for _, worker := range []string{"w1", "w2", "w3"} {
					w.node(worker).employ(exports{part: time.Second}, Config{})
				}
				time.Sleep(10 * time.Minute)
				if fires == 0 {
					w.wantEnds(map[string]string{"2000-01-01-020000": "delivered"})
				} else {
					w.wantEnds(map[string]string{"2000-01-01-010000": "skipped run_missed", "2000-01-01-030000": "delivered"})
				}
				job := fmt.Sprintf("2000-01-01-%02d0000", 2+fires)
				if run := w.run(job); run.MissedTotal != 1+fires || run.LateSeconds < 1800 {
					t.Errorf("job %s: %+v", job, run)
				}
				if n := len(w.messages); n > 2 {
					t.Errorf("%d messages", n)
				}
			})
		})
	}
}

// Whoever works on a run is killed at the n-th call, for every n there is: another one goes on with the same job.
func TestARunSurvivesItsWorker(t *testing.T) {
	for _, kind := range []faultKind{die, dieLate, deceive} {
		for n, reached := 1, true; reached; n++ {
			inMemory(t, func(t *testing.T, w *memory) {
				s := schedule("*/10 * * * *", "UTC")
				first, calls := w.node("w1"), 0
				reached = false
				first.faults = func(op string) fault {
					if op == "next" {
						return fault{}
					}
					if calls++; calls == n {
						reached = true
						return fault{kind: kind}
					}
					return fault{}
				}
				w.schedule(s)
				time.Sleep(10 * time.Minute)
				first.employ(exports{part: time.Second}, Config{})
				time.Sleep(time.Second)
				w.node("w2").employ(exports{part: time.Second}, Config{})
				within(t, w, 9*time.Minute, "settled", w.settled)
				w.wantEnds(map[string]string{"2000-01-01-001000": "delivered"})
				if r := w.record("acme", "2000-01-01-001000"); r.Digest != s.Request(r.Schedule.FiredAt).Digest() || !r.Request.RequestedAt.Equal(r.Schedule.FiredAt) {
					t.Errorf("record %+v", r)
				}
			})
		}
	}
}

// One worker has decided to begin a run and is slow to write that down; the next run comes to another one. Whoever
// writes first begins his, and the other one looks again.
func TestTwoWorkersDecideAboutTwoRunsAtOnce(t *testing.T) {
	for _, slow := range []time.Duration{3500 * time.Millisecond, 4500 * time.Millisecond} {
		inMemory(t, func(t *testing.T, w *memory) {
			w.schedule(schedule("*/4 * * * * *", "UTC"))
			first := w.node("w1")
			first.faults = func(op string) fault {
				if op == "fleet create run.acme" {
					return fault{delay: slow}
				}
				return fault{}
			}
			first.employ(exports{part: 5 * time.Second}, Config{Slots: 1})
			time.Sleep(5 * time.Second)
			w.node("w2").employ(exports{part: 5 * time.Second}, Config{Slots: 4})
			time.Sleep(6 * time.Second)
			want := map[string]string{"2000-01-01-000004": "skipped run_missed"}
			if slow < 4*time.Second {
				want = map[string]string{"2000-01-01-000008": "skipped run_under_way"}
			}
			w.wantEnds(want)
		})
	}
}

// A run whose destination is away begins when it is back; the runs after it are skipped until then.
func TestARunWhoseDestinationIsAwayHoldsUpThoseAfterIt(t *testing.T) {
	inMemory(t, func(t *testing.T, w *memory) {
		n := w.node("w1")
		n.faults = func(op string) fault {
			if strings.HasPrefix(op, "s3") && time.Now().Before(time.Date(2000, 1, 1, 0, 3, 30, 0, time.UTC)) {
				return fault{kind: refuse}
			}
			return fault{}
		}
		w.schedule(minutely())
		n.employ(exports{part: time.Second}, Config{RetryMax: 30 * time.Second})
		time.Sleep(4*time.Minute + 30*time.Second)
		ends := w.ends()
		if ends["2000-01-01-000100"] != "delivered" || ends["2000-01-01-000200"] != "skipped run_under_way" || ends["2000-01-01-000300"] != "skipped run_under_way" {
			t.Errorf("%v", ends)
		}
	})
}

// A fleet that looks at every run too late still makes every other one.
func TestAFleetThatIsAlwaysLateDelivers(t *testing.T) {
	inMemory(t, func(t *testing.T, w *memory) {
		n := w.node("w1")
		n.faults = func(op string) fault {
			return fault{delay: map[bool]time.Duration{true: 80 * time.Second}[op == "next"]}
		}
		w.schedule(minutely())
		n.employ(exports{part: time.Millisecond}, Config{Slots: 4})
		time.Sleep(40 * time.Minute)
		delivered := 0
		for _, end := range w.ends() {
			if end == "delivered" {
				delivered++
			}
		}
		if delivered < 3 {
			t.Errorf("%d deliveries: %v", delivered, w.ends())
		}
	})
}

func TestScheduleOfAnotherTenantIsBuried(t *testing.T) {
	inMemory(t, func(t *testing.T, w *memory) {
		w.addTenant("globex")
		w.node("w1").employ(exports{part: time.Second}, Config{})
		s := minutely()
		s.Tenant = "globex"
		body := must(json.Marshal(s))
		w.change("forged", func() {
			w.messages = append(w.messages, &queued{subject: contracts.RunSubject("acme"), tenant: "acme", data: body, published: time.Now(), key: "acme.2000-01-01-000000"})
			w.show(w.messages[0], 0)
		})
		time.Sleep(time.Minute)
		w.change("look", func() {
			if want := "acme.2000-01-01-000000 invalid_request"; !slices.Contains(w.dead, want) || len(w.folders) > 0 {
				t.Errorf("dead letters %q, folders %v", w.dead, w.folders)
			}
		})
	})
}

func TestOverdueIsToldWhenItChanges(t *testing.T) {
	inMemory(t, func(t *testing.T, w *memory) {
		broken := true
		w.schedule(schedule("0 * * * *", "UTC"))
		for _, worker := range []string{"w1", "w2"} {
			w.node(worker).employ(exports{part: time.Second, reject: func(contracts.Attempt) error {
				if broken {
					return contracts.Reject(contracts.BucketDenied, "no")
				}
				return nil
			}}, Config{})
		}
		told := func() (kinds []contracts.NoticeKind) {
			w.mu.Lock()
			defer w.mu.Unlock()
			for _, n := range w.notices {
				kinds = append(kinds, n.Kind)
			}
			return kinds
		}
		time.Sleep(89 * time.Minute)
		if got := told(); len(got) > 0 {
			t.Errorf("told %v before there was anything to tell", got)
		}
		time.Sleep(5 * time.Minute)
		if got := told(); !slices.Equal(got, []contracts.NoticeKind{contracts.DeliveryOverdue}) {
			t.Errorf("told %v", got)
			return
		}
		w.mu.Lock()
		if n := w.notices[0]; n.Tenant != "acme" || n.Reason == nil || n.Reason.Code != contracts.DeliveryIsLate || !n.Since.Equal(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)) {
			t.Errorf("notice %+v", n)
		}
		w.mu.Unlock()
		time.Sleep(3 * time.Hour)
		broken = false
		time.Sleep(2 * time.Hour)
		if got := told(); !slices.Equal(got, []contracts.NoticeKind{contracts.DeliveryOverdue, contracts.DeliveryCaughtUp}) {
			t.Errorf("told %v", got)
		}
	})
}

// TestRandomFaultsOfRuns is TestRandomFaults for schedules: three workers, two tenants, calls that fail, lie, lag, or
// take effect after all, workers that die, a server that is killed. After every change no two runs of a tenant are under
// way. In the end every run that fired has one outcome, and whoever reads the outcomes knows of every other.
func TestRandomFaultsOfRuns(t *testing.T) {
	for seed := range uint64(max(1, *seeds/12)) {
		seed += *first
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inMemory(t, func(t *testing.T, w *memory) {
				c := newChaos(w, seed)
				c.jobs = nil
				for _, tenant := range []string{"acme", "globex"} {
					s := minutely()
					s.Tenant = tenant
					w.schedule(s)
				}
				c.runSchedules()
			})
		})
	}
}

func (c *chaos) runSchedules() {
	for at := 0; c.storm() || !c.settled(); at++ {
		if !c.storm() {
			c.change("no more schedules fire", func() { c.down = true })
		}
		if time.Since(c.began) > stormy+patience {
			c.fail("I12: not settled %v after the last fault", patience)
		}
		for i, n := range c.nodes {
			if n == nil || n.ctx.Err() != nil {
				c.start(i)
			}
		}
		if dice := c.dice("tick", at); c.storm() {
			switch i := dice.IntN(len(c.nodes)); dice.IntN(30) {
			case 0:
				n := c.nodes[i]
				n.stop()
				time.AfterFunc(100*time.Second, n.cont)
			case 1:
				c.drain[i]()
				c.start(i)
			case 2:
				c.kill(true)
				time.AfterFunc(150*time.Second, func() { c.kill(false) })
			}
		}
		time.Sleep(tick) // virtual: the world is in a bubble
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delivered := map[string]int{}
	missed := map[string]bool{}
	for _, o := range c.outcomes {
		if o.Kind == contracts.Delivered {
			delivered[o.Tenant]++
		}
		for _, at := range o.Schedule.Missed {
			missed[recordKey(o.Tenant, at.Format(contracts.JobLayout))] = true
		}
	}
	for _, key := range c.fired {
		switch o := c.outcomes[key]; o.Kind {
		case contracts.Delivered:
			if missed[key] {
				c.fail("%s was delivered, and another run makes up for it", key)
			}
		case contracts.Skipped:
		default:
			c.fail("%s: outcome %q, reason %+v", key, o.Kind, o.Reason)
		}
	}
	if delivered["acme"] < 1 || delivered["globex"] < 1 || len(c.dead) > 0 {
		c.fail("deliveries %v, dead letters %v", delivered, c.dead)
	}
}

// TestNobodyTakesARun: a publisher who asks for a run of a schedule before it is made is refused, whatever it asks for,
// and the run is made.
func TestNobodyTakesARun(t *testing.T) {
	t.Parallel()
	inMemory(t, func(t *testing.T, w *memory) {
		w.node("w1").employ(exports{}, Config{Slots: 2})
		began := time.Now().UTC().Truncate(time.Minute)
		w.schedule(minutely())
		run := func(n int) string { return began.Add(time.Duration(n) * time.Minute).Format(contracts.JobLayout) }
		ask := func(job string, only contracts.Kind) {
			req := request(job)
			req.Only = only
			w.publish(req)
		}
		time.Sleep(5 * time.Second)
		ask(run(1), contracts.Attachments)                                      // less than a minute ahead
		ask(run(2), "")                                                         // the same wish as the run's
		ask(run(3), contracts.Tables)                                           // further ahead
		ask(began.AddDate(10, 0, 0).Format(contracts.JobLayout), "")            // a run that no schedule names yet
		ask(began.Add(2*time.Second).Format(contracts.JobLayout), "")           // no run: as `snapfleet submit` makes ids
		ask("nightly", "")                                                      // nor is this
		time.Sleep(time.Until(began.Add(4*time.Minute)) + 500*time.Millisecond) // run 4 may be queued or under way
		ask(run(4), contracts.Attachments)                                      // at the very moment
		time.Sleep(time.Until(began.Add(4*time.Minute + 50*time.Second)))
		for n := 1; n <= 4; n++ {
			if end, made := w.ends()[run(n)], w.run(run(n)); end != string(contracts.Delivered) || made.FiredAt.IsZero() {
				t.Errorf("run %d has ended as %q, fired at %v", n, end, made.FiredAt)
			}
		}
		for _, job := range []string{began.Add(2 * time.Second).Format(contracts.JobLayout), "nightly"} {
			if end := w.ends()[job]; end != string(contracts.Delivered) {
				t.Errorf("job %s, which is no run, has ended as %q", job, end)
			}
		}
		var refused []string
		for _, r := range w.refused {
			refused = append(refused, r.Job)
		}
		if len(refused) != 5 {
			t.Errorf("refused are %q", refused)
		}
	})
}

// TestRunIsNotAnEarlierRequest: a job that a worker of an earlier release has begun for a request does not stand for the
// run of that id.
func TestRunIsNotAnEarlierRequest(t *testing.T) {
	t.Parallel()
	inMemory(t, func(t *testing.T, w *memory) {
		began := time.Now().UTC().Truncate(time.Minute)
		job := began.Add(time.Minute).Format(contracts.JobLayout)
		req := request(job)
		taken := record{State: done, Request: req, Digest: req.Digest(), Epoch: 1, Attempt: 1, CreatedAt: began, Delivery: &delivery{}}
		must(recordsOf(w.node("earlier")).swap(t.Context(), recordKey("acme", job), taken, 0))
		w.node("w1").employ(exports{}, Config{})
		w.schedule(minutely())
		time.Sleep(90 * time.Second)
		if want := "acme." + job + " " + string(contracts.JobConflict); !slices.Contains(w.dead, want) {
			t.Errorf("dead letters are %q, want %q", w.dead, want)
		}
	})
}
