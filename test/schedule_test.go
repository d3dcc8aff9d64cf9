package test

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/snapfleet/snapfleet/consumer"
	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/test/bucket"
	"github.com/snapfleet/snapfleet/test/world"
)

// TestSchedule lives through some minutes with schedules that fire every few seconds, as operators see them, and holds
// the whole world against the invariants in the end.
func TestSchedule(t *testing.T) {
	t.Parallel()
	sideBySide(t, map[string]func(*testing.T){
		"is kept":                     scheduleIsKept,
		"without workers":             scheduleWithoutWorkers,
		"broker is stopped":           func(t *testing.T) { scheduleWithoutBroker(t, "stopped", (*world.NATS).Stop) },
		"broker is killed":            func(t *testing.T) { scheduleWithoutBroker(t, "killed", (*world.NATS).Kill) },
		"run takes too long":          runTakesTooLong,
		"worker is killed over a run": workerDiesOverARun,
		"tenant is overdue":           tenantIsOverdue,
	})
}

// every sets a schedule of so many seconds, and returns its next times. Those are only known of a part of a minute: cron
// begins anew with each.
func (f *fleet) every(seconds int) (next func(n int) time.Time) {
	f.t.Helper()
	f.run("schedule", "set", f.tenant, fmt.Sprintf("--cron=*/%d * * * * *", seconds), "--timezone=America/Los_Angeles", "--only=tables")
	step := time.Duration(seconds) * time.Second
	first := time.Now().UTC().Truncate(step).Add(step)
	return func(n int) time.Time {
		if 60%seconds != 0 {
			f.t.Fatalf("every %d seconds is not what cron makes of it", seconds)
		}
		return first.Add(time.Duration(n) * step)
	}
}

// until waits for an instant.
func (f *fleet) until(at time.Time) {
	select {
	case <-time.After(time.Until(at)):
	case <-f.t.Context().Done():
	}
}

func jobAt(at time.Time) string { return at.UTC().Format(contracts.JobLayout) }

// clear ends the schedule, and waits for the end of all its runs.
func (f *fleet) clear() {
	f.t.Helper()
	f.run("schedule", "clear", f.tenant)
	f.eventually("all runs have ended", func() error {
		jobs, err := f.jobs.List(f.t.Context(), f.tenant)
		for _, j := range jobs {
			if j.State != "done" && j.State != "failed" {
				return fmt.Errorf("%s is %s", j.Job, j.State)
			}
		}
		return err
	})
}

// skipped waits for a run that is not made.
func (f *fleet) skipped(job string, code contracts.Code, by string) {
	f.t.Helper()
	s := f.await(job)
	if s.Outcome.Kind != contracts.Skipped || s.Outcome.Reason.Code != code || !strings.Contains(s.Outcome.Reason.What, by) {
		f.t.Errorf("job %s: %+v, %+v", job, s.Outcome, s.Outcome.Reason)
	}
	if out, code := f.try(f.env, "status", f.tenant, job); code != 0 || !strings.Contains(out, "skipped") {
		f.t.Errorf("status ends with %d: %s", code, out)
	}
}

// catchUp waits for the run that makes up for others.
func (f *fleet) catchUp(at time.Time, missed ...time.Time) {
	f.t.Helper()
	s := f.delivered(jobAt(at))
	if run := s.Outcome.Schedule; run == nil || !run.FiredAt.Equal(at) || run.MissedTotal != len(missed) || !slices.EqualFunc(run.Missed, missed, time.Time.Equal) {
		f.t.Errorf("job %s: %+v, want it to make up for %v", s.Job, run, missed)
	}
}

func scheduleIsKept(t *testing.T) {
	f := newFleet(t, "punctual", little("punctual"))
	f.work("w1", sweeping...)
	f.work("w2", sweeping...)
	at := f.every(15)
	for n := range 3 {
		f.until(at(n).Add(time.Second))
		f.catchUp(at(n))
	}
	var p consumer.Punctuality
	if err := json.Unmarshal([]byte(f.run("schedule", "list", "--json")), &p); err != nil {
		t.Fatal(err)
	}
	if p.Tenant != f.tenant || p.Interval != 15 || p.Overdue || p.LastRun == nil || p.LastRun.State != "done" || p.LastDelivery.Before(at(2)) {
		t.Errorf("%+v", p)
	}
	if out := f.run("status", f.tenant, jobAt(at(0))); !strings.Contains(out, "scheduled") {
		t.Errorf("status says nothing of a schedule:\n%s", out)
	}
	f.clear()
	f.check()
}

func scheduleWithoutWorkers(t *testing.T) {
	f := newFleet(t, "vacant", little("vacant"))
	p := f.work("w1", sweeping...)
	at := f.every(20)
	f.catchUp(at(0))
	if err := p.stop(syscall.SIGKILL); err == nil {
		t.Error("it was not killed")
	}
	f.until(at(2).Add(time.Second)) // nobody works at two of these times
	f.work("w2", sweeping...)
	f.skipped(jobAt(at(1)), contracts.RunMissed, jobAt(at(2)))
	f.catchUp(at(2), at(1))
	if out := f.run("status", f.tenant, jobAt(at(2))); !strings.Contains(out, "makes up for 1 run") {
		t.Errorf("status says nothing of what was missed:\n%s", out)
	}
	f.clear()
	f.check()
}

func scheduleWithoutBroker(t *testing.T, name string, away func(*world.NATS)) {
	f := newFleet(t, "brokerless-"+name, little("brokerless-"+name), world.AsProcess(), world.WithSync())
	f.work("w1", append([]string{"--schedule-every=1s"}, sweeping...)...)
	at := f.every(20)
	f.catchUp(at(0))
	away(f.nats)
	f.until(at(2).Add(time.Second))
	if err := f.nats.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.catchUp(at(2), at(1))
	f.clear()
	f.check()
}

func runTakesTooLong(t *testing.T) {
	f := newFleet(t, "tardy", little("tardy"))
	at := f.every(20)
	hold := make(chan struct{})
	fault := cloud.Inject(bucket.Fault{Match: f.request(jobAt(at(0)), complete), Times: 1, Hold: hold})
	defer fault.Remove()
	f.work("w1", sweeping...)
	f.work("w2", sweeping...)
	f.until(at(1).Add(time.Second))
	f.skipped(jobAt(at(1)), contracts.RunUnderWay, jobAt(at(0)))
	close(hold)
	f.catchUp(at(0))
	f.until(at(2).Add(time.Second))
	f.catchUp(at(2), at(1))
	f.clear()
	f.check()
}

func workerDiesOverARun(t *testing.T) {
	f := newFleet(t, "mortal", little("mortal"))
	at := f.every(30)
	hold := make(chan struct{})
	fault := cloud.Inject(bucket.Fault{Match: f.request(jobAt(at(0)), complete), Times: 1, Hold: hold})
	defer fault.Remove()
	p := f.work("w1", sweeping...)
	f.until(at(0))
	select {
	case <-fault.Reached:
	case <-time.After(time.Minute):
		t.Fatal("the run has not come to its end")
	}
	if err := p.stop(syscall.SIGKILL); err == nil {
		t.Error("it was not killed")
	}
	close(hold)
	f.work("w2", sweeping...)
	f.catchUp(at(0))
	f.run("schedule", "clear", f.tenant)
	f.clearAgain()
	f.check()
}

// clearAgain: there is no schedule any more, and it is told so.
func (f *fleet) clearAgain() {
	f.t.Helper()
	if out, code := f.try(f.env, "schedule", "clear", f.tenant); code != 3 || !strings.Contains(out, "no schedule is set") {
		f.t.Errorf("clearing none ends with %d: %s", code, out)
	}
}

// tenantIsOverdue: nothing can be delivered for more than one and a half intervals, and then it can.
func tenantIsOverdue(t *testing.T) {
	f := newFleet(t, "owing", little("owing"))
	f.grant("somebody-else-s-external-id")
	p := f.work("w1", append([]string{"--schedule-every=1s", "--listen=127.0.0.1:0"}, sweeping...)...)
	at := f.every(20)
	if out, code := f.try(f.env, "schedule", "check", f.tenant); code != 0 || !strings.Contains(out, "Nobody is overdue") {
		t.Errorf("check ends with %d: %s", code, out)
	}
	overdue := func(want bool) error {
		gauge := "snapfleet_tenants_overdue{"
		said := ""
		for line := range strings.Lines(f.metrics(p)) {
			if strings.HasPrefix(line, "snapfleet_tenants_overdue") {
				said = strings.TrimSpace(line)
			}
		}
		if is := strings.HasSuffix(said, " 1"); said == "" || is != want {
			return fmt.Errorf("%s says %q", gauge, said)
		}
		return nil
	}
	f.until(at(1).Add(12 * time.Second))
	f.eventually("the gauge says that a tenant is overdue", func() error { return overdue(true) })
	if out, code := f.try(f.env, "schedule", "check"); code != 1 || !strings.Contains(out, "owing is OVERDUE") || !strings.Contains(out, "never delivered") {
		t.Errorf("check ends with %d: %s", code, out)
	}
	if out := f.run("schedule", "list"); !strings.Contains(out, "OVERDUE") {
		t.Errorf("list says\n%s", out)
	}
	f.grant(f.record().Destination.ExternalID)
	f.eventually("the gauge says that nobody is overdue", func() error { return overdue(false) })
	if out, code := f.try(f.env, "schedule", "check", "--json"); code != 0 {
		t.Errorf("check ends with %d: %s", code, out)
	}
	if got, want := f.notices(), []string{"delivery-overdue", "delivery-caught-up"}; !slices.Equal(got, want) {
		t.Errorf("notices %q, want %q", got, want)
	}
	if err := p.stop(os.Interrupt); err != nil {
		t.Error(err)
	}
}

// notices are the kinds of what was told of the tenant.
func (f *fleet) notices() (kinds []string) {
	f.t.Helper()
	stream, err := f.js.Stream(f.t.Context(), contracts.NoticeStream)
	if err != nil {
		f.t.Fatal(err)
	}
	for seq := uint64(1); ; seq++ {
		m, err := stream.GetMsg(f.t.Context(), seq, jetstream.WithGetMsgSubject(contracts.NoticeSubject(f.tenant, "*")))
		if err != nil {
			return kinds
		}
		var n contracts.Notice
		if err := json.Unmarshal(m.Data, &n); err != nil {
			f.t.Fatal(err)
		}
		kinds, seq = append(kinds, string(n.Kind)), m.Sequence
	}
}
