package consumer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
)

// paused and resumed are what an operator does.
func (w *memory) pause(p Pause) *Pause { return must((&Pauses{&w.shelf}).Pause(w.ctx, p)) }

func (w *memory) resume(tenant string) *Pause  { return must((&Pauses{&w.shelf}).Resume(w.ctx, tenant)) }
func (w *memory) resumed(tenant string) string { return fmt.Sprint(w.resume(tenant) != nil) }

// begun reports whether anybody has claimed the job.
func (w *memory) begun(tenant, job string) bool { return w.record(tenant, job).Version > 0 }

func TestHoldBack(t *testing.T) {
	t.Parallel()
	const h = 10 * time.Second
	now := time.Now()
	at := func(d time.Duration) time.Time { return now.Add(d) }
	begun := Pause{At: at(-time.Hour)}
	for name, c := range map[string]struct {
		cells    []pauseCell
		min, max time.Duration
	}{
		"nobody is paused":              {nil, 0, 0},
		"no cell":                       {[]pauseCell{{}, {}}, 0, 0},
		"the fleet is paused":           {[]pauseCell{{Pause: begun}, {}}, h, 3 * h},
		"the tenant is paused":          {[]pauseCell{{}, {Pause: begun}}, h, 3 * h},
		"it was resumed":                {[]pauseCell{{Pause: begun, Ended: at(-time.Second)}}, 0, 0},
		"its time is over":              {[]pauseCell{{Pause: Pause{At: at(-time.Hour), Until: now}}}, 0, 0},
		"its time is nearly over":       {[]pauseCell{{Pause: Pause{At: at(-time.Hour), Until: at(time.Second)}}}, time.Second, h + time.Second},
		"one is over, the other is not": {[]pauseCell{{Pause: begun, Ended: at(-time.Second)}, {Pause: begun}}, h, 3 * h},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for range 100 {
				if d := holdBack(c.cells, now, h); d < c.min || d > c.max || (c.max == 0) != (d == 0) {
					t.Fatalf("%v, want %v to %v", d, c.min, c.max)
				}
			}
		})
	}
}

func TestTimeThatAPauseTakesIsCountedOnce(t *testing.T) {
	t.Parallel()
	zero := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	s := func(from, to int) span {
		return span{zero.Add(time.Duration(from) * time.Hour), zero.Add(time.Duration(to) * time.Hour)}
	}
	for _, c := range []struct {
		spans []span
		hours int // of those between 10 and 20
	}{
		{nil, 0},
		{[]span{s(0, 10), s(20, 30)}, 0},
		{[]span{s(0, 30)}, 10},
		{[]span{s(5, 12), s(18, 30)}, 4},
		{[]span{s(14, 16), s(12, 15)}, 4},            // not in order, and one goes on in the other
		{[]span{s(12, 18), s(13, 14), s(12, 18)}, 6}, // the fleet's and the tenant's at once
		{[]span{s(15, 12)}, 0},
	} {
		r := s(10, 20)
		if got := overlap(c.spans, r.From, r.To); got != time.Duration(c.hours)*time.Hour {
			t.Errorf("%v: %v, want %d h", c.spans, got, c.hours)
		}
	}
}

func TestPauseKeepsQueuedRequestsAndResumeBeginsThem(t *testing.T) {
	for _, tenant := range []string{"", "acme"} {
		inMemory(t, func(t *testing.T, w *memory) {
			w.addTenant("other")
			if was := w.pause(Pause{Tenant: tenant, Reason: "maintenance"}); was != nil {
				t.Errorf("was paused before: %+v", was)
			}
			for i := range 2 {
				w.node(fmt.Sprintf("w%d", i)).employ(exports{part: time.Second}, Config{})
			}
			w.publish(request("one"))
			w.publish(request("two"))
			w.publish(requestOf("other", "three"))
			time.Sleep(time.Hour)
			for _, job := range []string{"one", "two"} {
				if w.begun("acme", job) {
					t.Errorf("%q is paused, and job %s was begun: %+v", tenant, job, w.record("acme", job))
				}
			}
			if delivered := w.record("other", "three").State == done; delivered != (tenant == "acme") {
				t.Errorf("%q is paused; delivered for the other tenant: %v", tenant, delivered)
			}
			if was := w.resume(tenant); was == nil || was.Reason != "maintenance" {
				t.Errorf("resumed %+v", was)
			}
			start := time.Now()
			within(t, w, 5*time.Minute, "begun", func() bool { return w.begun("acme", "one") || w.begun("acme", "two") })
			if d := time.Since(start); d > 31*time.Second {
				t.Errorf("begun %v after the end of the pause", d)
			}
			within(t, w, 5*time.Minute, "settled", w.settled)
			for _, job := range []string{"one", "two"} {
				if r := w.record("acme", job); r.State != done || r.Attempt != 1 || r.Errors+r.Crashes != 0 {
					t.Errorf("job %s: %+v", job, r)
				}
			}
		})
	}
}

func TestPauseLetsAnAttemptThatRunsGoOn(t *testing.T) {
	inMemory(t, func(t *testing.T, w *memory) {
		w.node("w1").employ(exports{part: time.Minute}, Config{})
		w.publish(request("job"))
		within(t, w, time.Minute, "begun", func() bool { return w.begun("acme", "job") })
		w.pause(Pause{})
		w.publish(request("next"))
		within(t, w, 20*time.Minute, "delivered", func() bool { return w.outcome("job") == contracts.Delivered })
		time.Sleep(time.Hour)
		if r := w.record("acme", "job"); r.State != done || r.Attempt != 1 {
			t.Errorf("%+v", r)
		}
		if w.begun("acme", "next") {
			t.Error("the next one was begun")
		}
	})
}

func TestPauseHoldsBackTheNextAttemptAndBlamesNobody(t *testing.T) {
	inMemory(t, func(t *testing.T, w *memory) {
		tries := 0
		w.node("w1").employ(exports{part: time.Second, reject: func(contracts.Attempt) error {
			if tries++; tries == 1 {
				return errors.New("the database is away")
			}
			return nil
		}}, Config{Deadline: 3 * time.Hour})
		w.publish(request("job"))
		within(t, w, time.Minute, "a first attempt", func() bool { return w.record("acme", "job").Errors == 1 })
		w.pause(Pause{Tenant: "acme"})
		time.Sleep(12 * time.Hour) // four deadlines
		if r := w.record("acme", "job"); tries != 1 || r.Attempt != 1 || r.Owner != "" {
			t.Errorf("%d attempts while paused: %+v", tries, r)
		}
		w.resume("acme")
		within(t, w, 2*time.Minute, "settled", w.settled)
		if r := w.record("acme", "job"); w.outcome("job") != contracts.Delivered || r.Attempt != 2 || r.Errors != 1 || r.Crashes != 0 {
			t.Errorf("%s: %+v", w.outcome("job"), r)
		}
	})
}

func TestPauseDoesNotReplaceAWorkerThatDied(t *testing.T) {
	inMemory(t, func(t *testing.T, w *memory) {
		first := w.node("w1").employ(exports{part: time.Minute}, Config{})
		w.publish(request("job"))
		within(t, w, time.Minute, "begun", func() bool { return w.begun("acme", "job") })
		w.pause(Pause{})
		first.kill()
		w.node("w2").employ(exports{part: time.Second}, Config{})
		time.Sleep(2 * time.Hour)
		if r := w.record("acme", "job"); r.Epoch != 1 || r.State != running {
			t.Errorf("taken over while paused: %+v", r)
		}
		w.resume("")
		within(t, w, 2*time.Minute, "settled", w.settled)
		if r := w.record("acme", "job"); w.outcome("job") != contracts.Delivered || r.Crashes != 1 {
			t.Errorf("%s: %+v", w.outcome("job"), r)
		}
	})
}

func TestPauseFinishesWhatIsPastItsPointOfNoReturn(t *testing.T) {
	for name, trouble := range map[string]func(ctx context.Context) error{
		"its worker has let it go":  func(context.Context) error { return errors.New("S3 is away") },
		"its worker dies over it":   func(ctx context.Context) error { pause(ctx, time.Hour); return errKilled },
		"its worker gets to finish": func(ctx context.Context) error { pause(ctx, 20*time.Second); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, w *memory) {
				one := w.node("w1")
				one.employ(exports{part: time.Second, commit: func() error { return trouble(one.ctx) }}, Config{})
				w.publish(request("job"))
				within(t, w, 5*time.Minute, "committing", func() bool { return w.record("acme", "job").State == committing })
				w.pause(Pause{})
				w.pause(Pause{Tenant: "acme"})
				if time.Sleep(25 * time.Second); w.record("acme", "job").State != done {
					one.kill()
				}
				w.node("w2").employ(exports{part: time.Second}, Config{})
				within(t, w, 5*time.Minute, "settled", w.settled)
				if r := w.record("acme", "job"); w.outcome("job") != contracts.Delivered || r.Attempt != 1 {
					t.Errorf("%s: %+v", w.outcome("job"), r)
				}
			})
		})
	}
}

func TestPauseEndsByItselfAndAnotherTakesItsPlace(t *testing.T) {
	inMemory(t, func(t *testing.T, w *memory) {
		start := time.Now()
		w.pause(Pause{Until: start.Add(2 * time.Hour)})
		w.node("w1").employ(exports{part: time.Second}, Config{})
		w.publish(request("job"))
		time.Sleep(time.Hour)
		was := w.pause(Pause{Until: start.Add(4 * time.Hour), Reason: "longer"})
		if was == nil || !was.At.Equal(start) || w.begun("acme", "job") {
			t.Errorf("was %+v", was)
		}
		time.Sleep(2*time.Hour + 59*time.Minute)
		if w.begun("acme", "job") {
			t.Error("begun before the end of the pause")
		}
		within(t, w, time.Minute+31*time.Second, "begun", func() bool { return w.begun("acme", "job") })
		within(t, w, 2*time.Minute, "settled", w.settled)
		if got := w.resumed("") + w.resumed("acme"); got != "falsefalse" {
			t.Errorf("there was something to resume: %s", got)
		}
	})
}

func TestRequestDoesNotAgeInAPause(t *testing.T) {
	const day = 24 * time.Hour
	for name, c := range map[string]struct {
		pauses []Pause
		waits  time.Duration // before, and again after each pause of ten days
		want   contracts.OutcomeKind
	}{
		"one pause":               {[]Pause{{}}, 3 * day, contracts.Delivered},
		"of the tenant":           {[]Pause{{Tenant: "acme"}}, 3 * day, contracts.Delivered},
		"one after another":       {[]Pause{{}, {Tenant: "acme"}, {}}, day, contracts.Delivered},
		"of another tenant":       {[]Pause{{Tenant: "other"}}, 3 * day, ""},
		"it waits too long apart": {[]Pause{{}}, 4 * day, ""},
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, w *memory) {
				w.publish(request("job"))
				time.Sleep(c.waits) // nobody works
				for _, p := range c.pauses {
					w.pause(p)
					time.Sleep(10 * day)
					w.resume(p.Tenant)
					time.Sleep(c.waits)
				}
				w.node("w1").employ(exports{part: time.Second}, Config{})
				within(t, w, 2*time.Minute, "settled", w.settled)
				if got := w.outcome("job"); got != c.want {
					t.Errorf("outcome %q, want %q; dead letters %q", got, c.want, w.dead)
				}
			})
		})
	}
}

func TestRequestIsNotRefusedWhileItIsPaused(t *testing.T) {
	inMemory(t, func(t *testing.T, w *memory) {
		w.publish(request("job"))
		time.Sleep(time.Hour)
		w.pause(Pause{})
		w.node("w1").employ(exports{part: time.Second}, Config{MaxAge: 2 * time.Hour})
		time.Sleep(12 * time.Hour)
		if len(w.dead) > 0 {
			t.Errorf("refused while it was paused: %q", w.dead)
		}
		w.resume("")
		within(t, w, 2*time.Minute, "settled", w.settled)
		if got := w.outcome("job"); got != contracts.Delivered {
			t.Errorf("outcome %q; dead letters %q", got, w.dead)
		}
	})
}

func TestCancelIsHeardInAPause(t *testing.T) {
	inMemory(t, func(t *testing.T, w *memory) {
		w.node("w1").employ(exports{reject: func(contracts.Attempt) error { return errors.New("no") }}, Config{})
		w.publish(request("job"))
		within(t, w, time.Minute, "a first attempt", func() bool { return w.record("acme", "job").Errors == 1 })
		w.pause(Pause{})
		if !w.cancel("acme", "job") {
			t.Fatal("too late")
		}
		within(t, w, 2*time.Minute, "settled", w.settled)
		if got := w.outcome("job"); got != contracts.Cancelled {
			t.Errorf("outcome %q", got)
		}
	})
}

func TestPauseThatCannotBeReadChangesNothing(t *testing.T) {
	inMemory(t, func(t *testing.T, w *memory) {
		w.pause(Pause{Tenant: "acme"})
		w.node("w1").employ(exports{part: time.Second}, Config{})
		time.Sleep(time.Second)
		for _, key := range []string{pauseKey("acme"), pauseFleetKey} {
			if err := w.shelf.Put(w.ctx, key, []byte("nonsense")); err != nil {
				t.Fatal(err)
			}
		}
		w.addTenant("other")
		w.publish(requestOf("other", "job"))
		w.publish(request("job"))
		time.Sleep(time.Hour)
		if w.begun("acme", "job") || w.record("other", "job").State != done {
			t.Error("the tenant is no longer paused, or another one is")
		}
		// Whoever pauses or resumes now writes it anew.
		if w.pause(Pause{Tenant: "acme"}) != nil || w.resume("acme") == nil {
			t.Error("what cannot be read stays")
		}
		within(t, w, 2*time.Minute, "settled", w.settled)
	})
}

func TestPausesThroughJetStream(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	nc, jobs, w, server := fleet(t)
	pauses := must(OpenPauses(ctx, jobs.js))
	stop := start(t, nc, exports{n: w.node("bucket")}, quick("w1"))
	defer stop()
	second := start(t, nc, exports{n: w.node("bucket")}, quick("w2"))
	defer second()
	if must(jobs.Submit(ctx, request("zero"), nil)); ending(t, jobs, "zero").State != string(done) {
		t.Fatal("not delivered")
	}
	if was := must(pauses.Pause(ctx, Pause{Reason: "move", By: "ops"})); was != nil {
		t.Errorf("%+v", was)
	}
	must(pauses.Pause(ctx, Pause{Tenant: "acme"}))
	if err := server.Restart(ctx); err != nil { // what is paused stays so
		t.Fatal(err)
	}
	eventually(t, "submitted", func() bool { _, err := jobs.Submit(ctx, request("one"), nil); return err == nil })
	// Each delivery of the message to a worker is a chance to begin the job.
	eventually(t, "offered five times", func() bool {
		q, err := jobs.js.Consumer(ctx, contracts.RequestStream, contracts.WorkersName)
		if err != nil {
			return false
		}
		return q.CachedInfo().Delivered.Consumer >= 7
	})
	s, err := jobs.Status(ctx, "acme", "one")
	if err != nil || s.State != "queued" || s.Paused == nil || s.Paused.Reason != "move" || s.Paused.By != "ops" {
		t.Errorf("%+v, %v", s, err)
	}
	if list := must(jobs.List(ctx, "acme")); len(list) != 2 || list[0].Paused == nil || list[1].Paused != nil {
		t.Errorf("%+v", list)
	}
	if list := must(pauses.List(ctx)); len(list) != 2 || list[0].Tenant != "" || list[1].Tenant != "acme" {
		t.Errorf("%+v", list)
	}
	for _, tenant := range []string{"", "acme"} {
		if must(pauses.Resume(ctx, tenant)) == nil || must(pauses.Resume(ctx, tenant)) != nil {
			t.Errorf("%q: not resumed once", tenant)
		}
	}
	if s := ending(t, jobs, "one"); s.State != string(done) || s.Attempt != 1 || s.Paused != nil {
		t.Errorf("%+v", s)
	}
	if _, err := pauses.Pause(ctx, Pause{Tenant: "no.tenant"}); err == nil || !strings.Contains(err.Error(), string(contracts.UnknownTenant)) {
		t.Errorf("%v", err)
	}
}
