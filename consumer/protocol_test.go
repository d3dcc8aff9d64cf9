package consumer

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/snapfleet/snapfleet/contracts"
)

// within lets virtual time pass until ok, and fails when it never becomes so. It is called in bubbles only, where a sleep
// takes no time.
func within(t *testing.T, w *memory, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !ok(); time.Sleep(500 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not %s within %v:\n%s", what, limit, strings.Join(w.trail, "\n"))
		}
	}
}

func (w *memory) outcome(job string) contracts.OutcomeKind {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.outcomes["acme."+job].Kind
}

// cancel is what an operator does. It reports whether the wish was recorded in time.
func (w *memory) cancel(tenant, job string) bool {
	operator, key := recordsOf(w.node("operator")), recordKey(tenant, job)
	for {
		r, rev, err := operator.get(w.ctx, key)
		if err != nil || r.State != running {
			return false
		}
		r.Cancel = true
		if _, err := operator.swap(w.ctx, key, r, rev); err == nil {
			return true
		}
	}
}

func TestOneRequestOneDelivery(t *testing.T) {
	inMemory(t, func(t *testing.T, w *memory) {
		w.node("w1").employ(exports{part: time.Second}, Config{})
		w.publish(request("job"))
		w.publish(request("job")) // a publisher that repeats itself
		within(t, w, 2*time.Minute, "settled", w.settled)
		if got := w.outcome("job"); got != contracts.Delivered {
			t.Errorf("outcome %q", got)
		}
		if r := w.record("acme", "job"); r.State != done || r.Attempt != 1 || r.Errors != 0 {
			t.Errorf("record %+v", r)
		}
	})
}

func TestOwnerDies(t *testing.T) {
	// The owner is killed at its n-th call, before or after that call took effect, for every n there is.
	for _, kind := range []faultKind{die, dieLate} {
		for n, reached := 1, true; reached; n++ {
			inMemory(t, func(t *testing.T, w *memory) {
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
				first.employ(exports{part: time.Second}, Config{})
				w.publish(request("job"))
				time.Sleep(time.Second)
				w.node("w2").employ(exports{part: time.Second}, Config{})
				within(t, w, 10*time.Minute, "settled", w.settled)
				if got := w.outcome("job"); got != contracts.Delivered {
					t.Errorf("killed at call %d: outcome %q", n, got)
				}
				if left := w.uploadsLeft(); left > 0 {
					t.Errorf("killed at call %d: %d uploads are left", n, left)
				}
			})
		}
	}
}

func TestEveryCallFailsOnce(t *testing.T) {
	for _, kind := range []faultKind{refuse, deceive} {
		for n, reached := 1, true; reached; n++ {
			inMemory(t, func(t *testing.T, w *memory) {
				one, calls, hit := w.node("w1"), 0, ""
				reached = false
				one.faults = func(op string) fault {
					if op == "next" {
						return fault{}
					}
					if calls++; calls == n {
						reached, hit = true, op
						return fault{kind: kind}
					}
					return fault{}
				}
				one.employ(exports{part: time.Second}, Config{})
				w.publish(request("job"))
				within(t, w, 10*time.Minute, "settled", w.settled)
				if got := w.outcome("job"); got != contracts.Delivered {
					t.Errorf("call %d failed: outcome %q", n, got)
				}
				if r := w.record("acme", "job"); strings.HasSuffix(hit, "te acme.job") && (r.Attempt != 1 || r.Errors != 0 || r.Crashes != 0) {
					t.Errorf("%s failed (%v): a lost reply cost an attempt: %+v", hit, kind, r)
				}
			})
		}
	}
}

func TestOwnerIsPausedForLongerThanItsLease(t *testing.T) {
	for _, at := range []time.Duration{500 * time.Millisecond, 3500 * time.Millisecond, 9500 * time.Millisecond, 10*time.Second + 500*time.Millisecond} {
		inMemory(t, func(t *testing.T, w *memory) {
			first := w.node("w1")
			first.employ(exports{part: time.Second}, Config{})
			w.publish(request("job"))
			time.Sleep(at)
			first.stop()
			w.node("w2").employ(exports{part: time.Second}, Config{})
			within(t, w, 10*time.Minute, "settled", w.settled)
			first.cont()
			time.Sleep(5 * time.Minute) // what the first one does now must do no harm: the world checks
			if got := w.outcome("job"); got != contracts.Delivered {
				t.Errorf("outcome %q", got)
			}
		})
	}
}

func TestDrain(t *testing.T) {
	inMemory(t, func(t *testing.T, w *memory) {
		ctx, stop := context.WithCancel(t.Context())
		wait := w.node("w1").run(ctx, exports{part: time.Minute}, Config{Grace: 2 * time.Minute})
		w.publish(request("job"))
		time.Sleep(90 * time.Second)
		stop()
		start := time.Now()
		wait()
		if d := time.Since(start); d > 2*time.Minute+time.Second {
			t.Errorf("drained in %v", d)
		}
		r := w.record("acme", "job")
		if r.State != running || r.Owner != "" || r.Errors != 0 || r.Crashes != 0 {
			t.Errorf("not given back without blame: %+v", r)
		}
		start = time.Now()
		w.node("w2").employ(exports{part: time.Second}, Config{})
		within(t, w, time.Minute, "settled", w.settled)
		if d := time.Since(start); d > 30*time.Second {
			t.Errorf("the successor waited %v", d)
		}
	})
}

func TestCancel(t *testing.T) {
	inMemory(t, func(t *testing.T, w *memory) {
		w.node("w1").employ(exports{part: time.Minute}, Config{})
		w.publish(request("job"))
		time.Sleep(90 * time.Second)
		if !w.cancel("acme", "job") {
			t.Fatal("too late to cancel")
		}
		within(t, w, time.Minute, "settled", w.settled)
		if got := w.outcome("job"); got != contracts.Cancelled {
			t.Errorf("outcome %q", got)
		}
		if left := w.uploadsLeft(); left > 0 {
			t.Errorf("%d uploads are left", left)
		}
	})
}

func TestBadEnds(t *testing.T) {
	for name, tt := range map[string]struct {
		request contracts.Request
		age     time.Duration // of the request when the first worker starts
		exports exports
		cfg     Config
		outcome contracts.OutcomeKind
		dead    string
	}{
		"destination refuses": {
			request: request("job"),
			exports: exports{reject: func(contracts.Attempt) error { return contracts.Reject(contracts.RoleDenied, "no") }},
			outcome: contracts.Failed, dead: "acme.job role_denied",
		},
		"every attempt fails": {
			request: request("job"),
			exports: exports{reject: func(contracts.Attempt) error { return errors.New("database is away") }},
			outcome: contracts.Failed, dead: "acme.job attempts_exhausted",
		},
		"an attempt panics": {
			request: request("job"),
			exports: exports{reject: func(contracts.Attempt) error { panic("poison") }},
			cfg:     Config{Attempts: 2},
			outcome: contracts.Failed, dead: "acme.job attempts_exhausted",
		},
		"an attempt hangs": {
			request: request("job"),
			exports: exports{part: 2 * time.Hour}, cfg: Config{Attempts: 2},
			outcome: contracts.Failed, dead: "acme.job attempts_exhausted",
		},
		"the deadline passes": {
			request: request("job"),
			exports: exports{reject: func(contracts.Attempt) error { return errors.New("database is away") }},
			cfg:     Config{Attempts: 1000, Deadline: 5 * time.Hour},
			outcome: contracts.Failed, dead: "acme.job deadline_exceeded",
		},
		"unknown tenant":  {request: contracts.Request{Version: 1, Tenant: "nobody", Job: "job", RequestedAt: time.Now()}, outcome: contracts.Failed, dead: "nobody.job unknown_tenant"},
		"unknown version": {request: contracts.Request{Version: 2, Tenant: "acme", Job: "job", RequestedAt: time.Now()}, dead: "acme.job unsupported_version"},
		"too old":         {request: request("job"), age: 8 * 24 * time.Hour, dead: "acme.job request_expired"},
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, w *memory) {
				tt.request.RequestedAt = time.Now()
				time.Sleep(tt.age)
				w.node("w1").employ(tt.exports, tt.cfg)
				w.publish(tt.request)
				within(t, w, 100*time.Hour, "settled", w.settled)
				if got := w.outcomes[recordKey(tt.request.Tenant, "job")].Kind; got != tt.outcome {
					t.Errorf("outcome %q, want %q", got, tt.outcome)
				}
				if len(w.dead) != 1 || w.dead[0] != tt.dead {
					t.Errorf("dead letters %q, want %q", w.dead, tt.dead)
				}
				if left := w.uploadsLeft(); left > 0 {
					t.Errorf("%d uploads are left", left)
				}
			})
		})
	}
}

func TestCrashLoopEnds(t *testing.T) {
	inMemory(t, func(t *testing.T, w *memory) {
		w.publish(request("job"))
		started := 0
		for w.outcome("job") == "" && started < 10 {
			n := w.node("w")
			started++
			n.employ(exports{reject: func(contracts.Attempt) error { n.kill(); return errKilled }}, Config{Crashes: 3})
			for n.ctx.Err() == nil && w.outcome("job") == "" {
				time.Sleep(time.Second)
			}
			n.kill()
		}
		if got := w.outcome("job"); got != contracts.Failed {
			t.Errorf("outcome %q after %d crashes", got, started)
		}
		if r := w.record("acme", "job"); r.Reason == nil || r.Reason.Code != contracts.CrashLoop {
			t.Errorf("reason %+v", r.Reason)
		}
	})
}

func TestLostUploadStartsAgain(t *testing.T) {
	inMemory(t, func(t *testing.T, w *memory) {
		lost := false
		w.node("w1").employ(exports{part: time.Second, lose: func(a contracts.Attempt, id string) bool {
			hit := !lost && id == "u2" // the first volume stands by then
			lost = lost || hit
			return hit
		}}, Config{})
		w.publish(request("job"))
		within(t, w, 10*time.Minute, "settled", w.settled)
		if r := w.record("acme", "job"); w.outcome("job") != contracts.Delivered || r.Attempt != 2 || number(r.AttemptID) != 2 || !lost {
			t.Errorf("outcome %q after %d attempts, the last of them %s", w.outcome("job"), r.Attempt, r.AttemptID)
		}
	})
}

// TestVerdictThatComesTooLate: an error is judged, and meanwhile another worker has taken over. Whatever the verdict was,
// nothing of it is done, and what is told of it is that the job was let go.
func TestVerdictThatComesTooLate(t *testing.T) {
	for name, fault := range map[string]error{
		"retry":    errors.New("fault"),
		"restart":  lostUpload{errors.New("fault")},
		"release":  busy{errors.New("fault")},
		"given up": contracts.Reject(contracts.RoleDenied, "fault"),
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, w *memory) {
				var said sharedLog
				w.node("w1").employ(exports{reject: func(contracts.Attempt) error {
					another, key := recordsOf(w.node("another")), recordKey("acme", "job")
					r, rev, err := another.get(w.ctx, key)
					r.Epoch, r.Owner = r.Epoch+1, "another"
					if err == nil {
						_, err = another.swap(w.ctx, key, r, rev)
					}
					if err != nil {
						t.Error(err)
					}
					return fault
				}}, Config{Log: zerolog.New(&said), Slots: 1})
				w.publish(request("job"))
				within(t, w, time.Minute, "noticed", func() bool { return strings.Contains(said.String(), "a step of the job failed") })
				if r := w.record("acme", "job"); r.State != running || r.Owner != "another" || r.Errors > 0 || r.LastError != "" {
					t.Errorf("something was done: %+v", r)
				}
				if told := said.String(); !strings.Contains(told, `"act":"let go"`) || !strings.Contains(told, ErrLeaseLost.Error()) || !strings.Contains(told, "fault") || strings.Count(told, "a step of the job failed") != 1 {
					t.Errorf("it tells\n%s", told)
				}
			})
		})
	}
}

func TestRecordsAreLost(t *testing.T) {
	inMemory(t, func(t *testing.T, w *memory) {
		w.node("w1").employ(exports{part: time.Second}, Config{})
		w.publish(request("job"))
		within(t, w, time.Minute, "settled", w.settled)
		w.change("the bucket of records is purged", func() { clear(w.cells); clear(w.outcomes); clear(w.messages); w.messages = nil })
		manifest := string(w.folders["acme/job/"].manifest)
		w.publish(request("job"))
		within(t, w, time.Minute, "settled", w.settled)
		if w.outcome("job") != contracts.Delivered || string(w.folders["acme/job/"].manifest) != manifest {
			t.Errorf("not found delivered: %q", w.outcome("job"))
		}
		other := request("job")
		other.Only = contracts.Tables
		w.publish(other)
		within(t, w, time.Minute, "settled", w.settled)
		if len(w.dead) != 1 || w.dead[0] != "acme.job job_conflict" {
			t.Errorf("dead letters %q", w.dead)
		}
	})
}

func TestJanitor(t *testing.T) {
	inMemory(t, func(t *testing.T, w *memory) {
		w.node("w1").employ(exports{part: time.Second}, Config{})
		w.publish(request("job"))
		within(t, w, time.Minute, "settled", w.settled)
		w.change("a zombie starts an upload", func() { w.folder("acme/job/").uploads["zombie"] = upload{} })
		time.Sleep(30 * time.Minute)
		if left := w.uploadsLeft(); left > 0 {
			t.Errorf("%d uploads are left after half an hour", left)
		}
		w.change("and another", func() { w.folder("acme/job/").uploads["zombie"] = upload{} })
		time.Sleep(25 * time.Hour)
		if left := w.uploadsLeft(); left > 0 {
			t.Errorf("%d uploads are left after a day", left)
		}
		for key := range w.cells {
			if key != "acme.job" && key != janitorKey {
				t.Errorf("%s is left", key)
			}
		}
	})
}

// TestJanitorForgetsNothingNew: a job's record is lost, and the janitor removes what the job has left. Whenever meanwhile
// its request comes again and the job is claimed anew, what that writes stays, and is looked after.
func TestJanitorForgetsNothingNew(t *testing.T) {
	const old, recent = "acme.job.receipt.1-old.digest.0", "acme.job.receipt.1-new.digest.0"
	for n, reached := 1, true; reached; n++ {
		inMemory(t, func(t *testing.T, w *memory) {
			put := func(key, value string) {
				w.revision++
				w.cells[key] = cell{value: []byte(value), revision: w.revision}
			}
			w.change("a record is lost", func() { put(sweepKey("acme", "job"), "{}"); put(old, "{}") })
			janitor, calls := w.node("w1"), 0
			reached = false
			janitor.faults = func(op string) fault {
				if !strings.Contains(op, "acme.job") {
					return fault{}
				}
				if calls++; calls == n {
					reached = true
					w.change("and the job is claimed anew", func() {
						put(sweepKey("acme", "job"), "{}")
						put(recordKey("acme", "job"), `{"state":"running","epoch":1,"owner":"another"}`)
						put(recent, "{}")
					})
				}
				return fault{}
			}
			janitor.employ(exports{part: time.Second}, Config{})
			time.Sleep(time.Hour)
			w.rest()
			left := func(key string) bool { return w.cells[key].revision > 0 }
			if reached && (!left(sweepKey("acme", "job")) || !left(recent)) {
				t.Errorf("claimed anew before call %d: the note is left: %t, the new receipt: %t", n, left(sweepKey("acme", "job")), left(recent))
			}
			if !reached && (left(sweepKey("acme", "job")) || left(old) || n < 6) {
				t.Errorf("after %d calls the note is left: %t, the old receipt: %t", n-1, left(sweepKey("acme", "job")), left(old))
			}
		})
	}
}

func TestRefusalPastThePointOfNoReturnIsWaitedFor(t *testing.T) {
	inMemory(t, func(t *testing.T, w *memory) {
		mended := time.Now().Add(time.Hour)
		n := w.node("w1")
		n.employ(exports{part: time.Second, commit: func() error {
			if time.Now().Before(mended) {
				return contracts.Reject(contracts.RoleDenied, "the customer has changed the role")
			}
			return nil
		}}, Config{Attempts: 3})
		w.publish(request("job"))
		within(t, w, 4*time.Hour, "settled", w.settled)
		if r := w.record("acme", "job"); w.outcome("job") != contracts.Delivered || r.Attempt != 1 || time.Now().Before(mended) {
			t.Errorf("outcome %q after %d attempts", w.outcome("job"), r.Attempt)
		}
	})
}

func TestOwnerWithoutRecordsStopsBeforeItsSuccessorStarts(t *testing.T) {
	for _, after := range []time.Duration{5 * time.Second, 15 * time.Second} {
		inMemory(t, func(t *testing.T, w *memory) {
			first, cut := w.node("w1"), time.Now().Add(after)
			var lastPart time.Time
			first.faults = func(op string) fault { // reaches the bucket, and nothing of NATS
				if strings.HasPrefix(op, "s3 part") {
					lastPart = time.Now()
				} else if time.Now().After(cut) {
					return fault{kind: refuse}
				}
				return fault{}
			}
			first.employ(exports{part: 20 * time.Second}, Config{})
			w.publish(request("job"))
			time.Sleep(2 * time.Second)
			w.node("w2").employ(exports{part: time.Second}, Config{})
			within(t, w, 10*time.Minute, "settled", w.settled)
			if limit := cut.Add(30 * time.Second); lastPart.After(limit) || lastPart.Before(cut) {
				t.Errorf("the last part left %v after contact was lost", lastPart.Sub(cut))
			}
		})
	}
}

func TestDeliveryThatStandsEndsTheJob(t *testing.T) {
	// The record and the worker were lost together, and the worker's last request arrived after all.
	inMemory(t, func(t *testing.T, w *memory) {
		n := w.node("w1")
		n.employ(exports{reject: func(a contracts.Attempt) error {
			name := contracts.VolumeName(contracts.Tables, a.Request.Job, 0)
			m := contracts.Manifest{
				Version: contracts.ManifestVersion, Tenant: "acme", Job: a.Request.Job, Attempt: "7-0123456789abcdef",
				Volumes: []contracts.Volume{{Name: name, Kind: contracts.Tables}},
			}
			w.change("an older worker's manifest arrives", func() {
				w.folder(a.Prefix()).objects[name], w.folder(a.Prefix()).manifest = m.Attempt, must(m.Encode())
			})
			return contracts.Reject(contracts.DestinationTaken, "the job is already delivered")
		}}, Config{})
		w.publish(request("job"))
		within(t, w, time.Minute, "settled", w.settled)
		if o := w.outcomes["acme.job"]; o.Kind != contracts.Delivered || o.Attempt != "7-0123456789abcdef" {
			t.Errorf("outcome %+v", o)
		}
	})
}

func TestProgressOutlivesItsWorker(t *testing.T) {
	inMemory(t, func(t *testing.T, w *memory) {
		first := w.node("w1")
		first.employ(exports{part: time.Second, commit: func() error { first.kill(); return errKilled }}, Config{})
		w.publish(request("job"))
		<-first.ctx.Done()
		w.node("w2").employ(exports{part: time.Second}, Config{})
		within(t, w, 10*time.Minute, "settled", w.settled)
		if p := w.record("acme", "job").Progress; p.Phase != contracts.Committing || p.Bytes != 1000 {
			t.Errorf("progress %+v", p)
		}
	})
}

func TestDeadlineWhileTheBucketIsAway(t *testing.T) {
	// The manifest stands, and nobody can see it when the job's time is over: that is no reason to call it failed.
	inMemory(t, func(t *testing.T, w *memory) {
		n, away, back := w.node("w1"), false, time.Now().Add(5*time.Hour)
		n.faults = func(op string) fault {
			switch {
			case op == "s3 manifest" && !away:
				away = true
				return fault{kind: deceive}
			case away && strings.HasPrefix(op, "s3 ") && time.Now().Before(back):
				return fault{kind: refuse}
			}
			return fault{}
		}
		n.employ(exports{part: time.Second}, Config{Deadline: 3 * time.Hour})
		w.publish(request("job"))
		within(t, w, 10*time.Hour, "settled", w.settled)
		if got := w.outcome("job"); got != contracts.Delivered || time.Now().Before(back) {
			t.Errorf("outcome %q", got)
		}
	})
}

func TestDeadlineWhileAPausedWorkerIsAboutToSeal(t *testing.T) {
	// Every volume is visible, and the worker that made them so is stopped at each of its calls from there on. The
	// customer breaks the role, the deadline passes, and then the worker wakes up. The world checks that there is
	// a manifest or a failure, not both.
	ends := map[contracts.OutcomeKind]int{}
	for n := range 6 {
		inMemory(t, func(t *testing.T, w *memory) {
			var broken atomic.Bool
			calls, asleep := -1, make(chan struct{})
			refusal := func() error {
				if broken.Load() {
					return contracts.Reject(contracts.RoleDenied, "the customer has changed the role")
				}
				return nil
			}
			a := w.node("w1")
			a.faults = func(op string) fault {
				if calls >= 0 || strings.HasPrefix(op, "s3 complete") {
					if calls++; calls == n {
						a.stop() // the next call waits
						close(asleep)
					}
				}
				return fault{}
			}
			a.employ(exports{part: time.Second}, Config{Deadline: time.Hour})
			w.publish(request("job"))
			<-asleep
			broken.Store(true)
			w.node("w2").employ(exports{part: time.Second, commit: refusal, seal: refusal}, Config{Deadline: time.Hour})
			time.Sleep(5 * time.Hour)
			a.cont()
			time.Sleep(time.Minute)
			broken.Store(false)
			within(t, w, 10*time.Hour, "settled", w.settled)
			time.Sleep(time.Hour)
			ends[w.outcome("job")]++
		})
	}
	if ends[contracts.Failed] == 0 || ends[contracts.Delivered] == 0 {
		t.Errorf("the worker was stopped on one side of the seal only: %v", ends)
	}
}

func TestEndedJobIsNotBegunAgain(t *testing.T) {
	// The record of a failed job is lost, and a publisher repeats the request when nothing would refuse it any more.
	inMemory(t, func(t *testing.T, w *memory) {
		var mended atomic.Bool
		w.node("w1").employ(exports{part: time.Second, reject: func(contracts.Attempt) error {
			if !mended.Load() {
				return contracts.Reject(contracts.RoleDenied, "no")
			}
			return nil
		}}, Config{})
		w.publish(request("job"))
		within(t, w, time.Hour, "settled", w.settled)
		mended.Store(true)
		w.change("the record is lost", func() { delete(w.cells, "acme.job") })
		w.publish(request("job"))
		within(t, w, time.Hour, "settled", w.settled)
		if want := []string{"acme.job role_denied", "acme.job job_conflict"}; !slices.Equal(w.dead, want) || w.outcome("job") != contracts.Failed {
			t.Errorf("outcome %q, dead letters %q", w.outcome("job"), w.dead)
		}
	})
}

func TestClockOfAnotherWorkerIsDaysAhead(t *testing.T) {
	inMemory(t, func(t *testing.T, w *memory) {
		fails := 0
		w.node("w1").employ(exports{part: time.Second, reject: func(contracts.Attempt) error {
			if fails++; fails == 1 {
				return errors.New("once")
			}
			return nil
		}}, Config{})
		w.publish(request("job"))
		within(t, w, time.Minute, "failed once", func() bool { return w.record("acme", "job").Errors == 1 })
		w.change("the record says: in ten days", func() {
			r := w.recordAt("acme.job")
			r.NotBefore = time.Now().Add(240 * time.Hour)
			w.cells["acme.job"] = cell{must(json.Marshal(r)), w.cells["acme.job"].revision}
		})
		within(t, w, 70*time.Minute, "settled", w.settled)
		if got := w.outcome("job"); got != contracts.Delivered {
			t.Errorf("outcome %q", got)
		}
	})
}

type busy struct{ error }

func (busy) Busy() bool { return true }

func TestBusySourceIsWaitedForWithoutBlame(t *testing.T) {
	inMemory(t, func(t *testing.T, w *memory) {
		free := time.Now().Add(time.Hour)
		w.node("w1").employ(exports{part: time.Second, reject: func(contracts.Attempt) error {
			if time.Now().Before(free) {
				return busy{errors.New("every place is taken")}
			}
			return nil
		}}, Config{Attempts: 2})
		w.publish(request("job"))
		within(t, w, 62*time.Minute, "settled", w.settled)
		if r := w.record("acme", "job"); w.outcome("job") != contracts.Delivered || r.Errors != 0 || r.Attempt > 240 {
			t.Errorf("outcome %q: %+v", w.outcome("job"), r)
		}
	})
}

func TestReleasesSideBySide(t *testing.T) {
	// Workers of the next release have written a record that we do not know: we leave it, and they end it.
	for name, change := range map[string]func(*record){
		"version": func(r *record) { r.Version++ },
		"state":   func(r *record) { r.State = "polishing" },
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, w *memory) {
				w.publish(request("job"))
				r := record{Version: recordVersion, State: running, Request: request("job"), Digest: request("job").Digest(), Attempt: 1, Deadline: time.Now().Add(100 * time.Hour)}
				theirs := r
				change(&theirs)
				w.change("the next release has begun the job", func() {
					w.revision++
					w.cells["acme.job"] = cell{must(json.Marshal(theirs)), w.revision}
				})
				w.node("ours").employ(exports{part: time.Second}, Config{})
				time.Sleep(12 * time.Hour)
				if w.settled() || w.record("acme", "job").Epoch != 0 {
					t.Fatalf("touched: %+v", w.record("acme", "job"))
				}
				w.change("and given it back in our words", func() {
					w.revision++
					w.cells["acme.job"] = cell{must(json.Marshal(r)), w.revision}
				})
				within(t, w, 10*time.Minute, "settled", w.settled)
				if got := w.outcome("job"); got != contracts.Delivered {
					t.Errorf("outcome %q", got)
				}
			})
		})
	}
}

func TestRepeatedRequestOfATenantThatIsGone(t *testing.T) {
	// Delivered, forgotten, and asked for again when the tenant is not registered any more: that is no failure.
	inMemory(t, func(t *testing.T, w *memory) {
		w.node("w1").employ(exports{part: time.Second}, Config{})
		w.publish(request("job"))
		within(t, w, time.Minute, "settled", w.settled)
		w.change("the tenant leaves, and the record is lost", func() { delete(w.cells, "acme.job"); delete(w.tenants, "acme") })
		w.publish(request("job"))
		within(t, w, time.Hour, "settled", w.settled)
		if want := []string{"acme.job job_conflict"}; !slices.Equal(w.dead, want) || w.outcome("job") != contracts.Delivered {
			t.Errorf("outcome %q, dead letters %q", w.outcome("job"), w.dead)
		}
	})
}

func TestUnansweredWriteIsNotTakenBack(t *testing.T) {
	// The owner has recorded that it gives up, and never heard of it. Then its heartbeat is due.
	inMemory(t, func(t *testing.T, w *memory) {
		s := recordsOf(w.node("w1"))
		r := record{State: running, Epoch: 1, Owner: "me", Request: request("job"), Attempt: 1, AttemptID: attemptID(1)}
		rev := must(s.swap(t.Context(), "acme.job", r, 0))
		l := hold(t.Context(), s, "acme.job", note{s.cells.(*node), &queued{}}, Config{}.withDefaults(), r, rev, time.Now())
		unanswered := r
		unanswered.State = failing
		must(s.swap(t.Context(), "acme.job", unanswered, rev))
		time.Sleep(time.Minute)
		l.rest()
		if got := w.record("acme", "job"); got.State != failing || got.Owner != "me" || l.ctx.Err() != nil {
			t.Errorf("the record says %s of %q", got.State, got.Owner)
		}
	})
}
