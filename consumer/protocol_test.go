package consumer

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
)

// within lets virtual time pass until ok, and fails when it never becomes so.
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

func TestOneRequestOneDelivery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newMemory(t)
		ctx, stop := context.WithCancel(t.Context())
		wait := w.node("w1").run(ctx, exports{part: time.Second}, Config{})
		w.publish(request("job"))
		w.publish(request("job")) // a publisher that repeats itself
		within(t, w, 2*time.Minute, "settled", w.settled)
		stop()
		wait()
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
			synctest.Test(t, func(t *testing.T) {
				w := newMemory(t)
				ctx, stop := context.WithCancel(t.Context())
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
				wait1 := first.run(ctx, exports{part: time.Second}, Config{})
				w.publish(request("job"))
				time.Sleep(time.Second)
				wait2 := w.node("w2").run(ctx, exports{part: time.Second}, Config{})
				within(t, w, 10*time.Minute, "settled", w.settled)
				if got := w.outcome("job"); got != contracts.Delivered {
					t.Errorf("killed at call %d: outcome %q", n, got)
				}
				if left := w.uploadsLeft(); left > 0 {
					t.Errorf("killed at call %d: %d uploads are left", n, left)
				}
				stop()
				wait1()
				wait2()
			})
		}
	}
}

func TestEveryCallFailsOnce(t *testing.T) {
	for _, kind := range []faultKind{refuse, deceive} {
		for n, reached := 1, true; reached; n++ {
			synctest.Test(t, func(t *testing.T) {
				w := newMemory(t)
				ctx, stop := context.WithCancel(t.Context())
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
				wait := one.run(ctx, exports{part: time.Second}, Config{})
				w.publish(request("job"))
				within(t, w, 10*time.Minute, "settled", w.settled)
				if got := w.outcome("job"); got != contracts.Delivered {
					t.Errorf("call %d failed: outcome %q", n, got)
				}
				if r := w.record("acme", "job"); strings.HasSuffix(hit, "te acme.job") && (r.Attempt != 1 || r.Errors != 0 || r.Crashes != 0) {
					t.Errorf("%s failed (%v): a lost reply cost an attempt: %+v", hit, kind, r)
				}
				stop()
				wait()
			})
		}
	}
}

func TestOwnerIsPausedForLongerThanItsLease(t *testing.T) {
	for _, at := range []time.Duration{500 * time.Millisecond, 3500 * time.Millisecond, 9500 * time.Millisecond, 10*time.Second + 500*time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			w := newMemory(t)
			ctx, stop := context.WithCancel(t.Context())
			first := w.node("w1")
			wait1 := first.run(ctx, exports{part: time.Second}, Config{})
			w.publish(request("job"))
			time.Sleep(at)
			first.stop()
			wait2 := w.node("w2").run(ctx, exports{part: time.Second}, Config{})
			within(t, w, 10*time.Minute, "settled", w.settled)
			first.cont()
			time.Sleep(5 * time.Minute) // what the first one does now must do no harm: the world checks
			if got := w.outcome("job"); got != contracts.Delivered {
				t.Errorf("outcome %q", got)
			}
			stop()
			wait1()
			wait2()
		})
	}
}

func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newMemory(t)
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
		ctx, stop = context.WithCancel(t.Context())
		start = time.Now()
		wait = w.node("w2").run(ctx, exports{part: time.Second}, Config{})
		within(t, w, time.Minute, "settled", w.settled)
		if d := time.Since(start); d > 30*time.Second {
			t.Errorf("the successor waited %v", d)
		}
		stop()
		wait()
	})
}

func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newMemory(t)
		ctx, stop := context.WithCancel(t.Context())
		wait := w.node("w1").run(ctx, exports{part: time.Minute}, Config{})
		w.publish(request("job"))
		time.Sleep(90 * time.Second)
		operator := records{w.node("operator")}
		for {
			r, rev, err := operator.get(ctx, "acme.job")
			if err != nil {
				t.Fatal(err)
			}
			r.Cancel = true
			if _, err := operator.swap(ctx, "acme.job", r, rev); err == nil {
				break
			}
		}
		within(t, w, time.Minute, "settled", w.settled)
		if got := w.outcome("job"); got != contracts.Cancelled {
			t.Errorf("outcome %q", got)
		}
		if left := w.uploadsLeft(); left > 0 {
			t.Errorf("%d uploads are left", left)
		}
		stop()
		wait()
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
		"unknown tenant":  {request: contracts.Request{Version: 1, Tenant: "nobody", Job: "job", RequestedAt: time.Now()}, dead: "nobody.job unknown_tenant"},
		"unknown version": {request: contracts.Request{Version: 2, Tenant: "acme", Job: "job", RequestedAt: time.Now()}, dead: "acme.job unsupported_version"},
		"too old":         {request: request("job"), age: 8 * 24 * time.Hour, dead: "acme.job request_expired"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tt.request.RequestedAt = time.Now()
				time.Sleep(tt.age)
				w := newMemory(t)
				ctx, stop := context.WithCancel(t.Context())
				wait := w.node("w1").run(ctx, tt.exports, tt.cfg)
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
				stop()
				wait()
			})
		})
	}
}

func TestCrashLoopEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newMemory(t)
		ctx, stop := context.WithCancel(t.Context())
		w.publish(request("job"))
		started := 0
		for w.outcome("job") == "" && started < 10 {
			n := w.node("w")
			started++
			wait := n.run(ctx, exports{reject: func(contracts.Attempt) error { n.kill(); return errKilled }}, Config{Crashes: 3})
			for n.ctx.Err() == nil && w.outcome("job") == "" {
				time.Sleep(time.Second)
			}
			n.kill()
			wait()
		}
		if got := w.outcome("job"); got != contracts.Failed {
			t.Errorf("outcome %q after %d crashes", got, started)
		}
		if r := w.record("acme", "job"); r.Reason == nil || r.Reason.Code != contracts.CrashLoop {
			t.Errorf("reason %+v", r.Reason)
		}
		stop()
	})
}

func TestLostUploadStartsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newMemory(t)
		ctx, stop := context.WithCancel(t.Context())
		lost := false
		wait := w.node("w1").run(ctx, exports{part: time.Second, lose: func(a contracts.Attempt, id string) bool {
			hit := !lost && id == "u2" // the first volume stands by then
			lost = lost || hit
			return hit
		}}, Config{})
		w.publish(request("job"))
		within(t, w, 10*time.Minute, "settled", w.settled)
		if r := w.record("acme", "job"); w.outcome("job") != contracts.Delivered || r.Attempt != 2 || !lost {
			t.Errorf("outcome %q after %d attempts", w.outcome("job"), r.Attempt)
		}
		stop()
		wait()
	})
}

func TestRecordsAreLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newMemory(t)
		ctx, stop := context.WithCancel(t.Context())
		wait := w.node("w1").run(ctx, exports{part: time.Second}, Config{})
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
		stop()
		wait()
	})
}

func TestJanitor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newMemory(t)
		ctx, stop := context.WithCancel(t.Context())
		wait := w.node("w1").run(ctx, exports{part: time.Second}, Config{})
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
		stop()
		wait()
	})
}

// TestRandomFaults runs several jobs on several workers while calls fail, lie, lag, and workers die or are
// paused. Every change of the world is checked, and in the end every job has ended.
func TestRandomFaults(t *testing.T) {
	seeds := uint64(40)
	if testing.Short() {
		seeds = 10
	}
	for seed := range seeds {
		synctest.Test(t, func(t *testing.T) {
			w := newMemory(t)
			ctx, stop := context.WithCancel(t.Context())
			rnd, dice := rand.New(rand.NewPCG(seed, 1)), rand.New(rand.NewPCG(seed, 2))
			calm := time.Now().Add(time.Hour) // faults stop after that
			start := func(name string) (*node, func()) {
				n := w.node(name)
				n.faults = func(string) fault {
					if time.Now().After(calm) {
						return fault{}
					}
					f := fault{delay: rand.N(20 * time.Millisecond)}
					switch p := rnd.IntN(1000); {
					case p < 20:
						f.kind = refuse
					case p < 40:
						f.kind = deceive
					case p < 45:
						f.kind = die
					case p < 50:
						f.kind = dieLate
					case p < 55:
						f.delay = time.Duration(rnd.IntN(90)) * time.Second
					}
					return f
				}
				return n, n.run(ctx, exports{part: time.Second}, Config{Slots: 2, Attempts: 1000, Crashes: 1000, RetryMax: time.Minute})
			}
			for i := range 4 {
				w.publish(request("job" + string(rune('a'+i))))
			}
			nodes, waits := make([]*node, 3), []func(){}
			for time.Now().Before(calm.Add(time.Minute)) || !w.settled() {
				for i, n := range nodes {
					if n == nil || n.ctx.Err() != nil { // the orchestrator starts a new one
						fresh, wait := start("w" + string(rune('1'+i)))
						nodes[i], waits = fresh, append(waits, wait)
					}
				}
				if n := nodes[dice.IntN(3)]; dice.IntN(60) == 0 && time.Now().Before(calm) {
					n.stop()
					time.AfterFunc(100*time.Second, n.cont)
				}
				time.Sleep(10 * time.Second)
				if time.Now().After(calm.Add(3 * time.Hour)) {
					t.Fatalf("seed %d: not settled:\n%s", seed, strings.Join(w.trail[max(0, len(w.trail)-200):], "\n"))
				}
			}
			for i := range 4 {
				if got := w.outcome("job" + string(rune('a'+i))); got != contracts.Delivered {
					t.Errorf("seed %d: job%c: outcome %q", seed, 'a'+i, got)
				}
			}
			stop()
			for _, wait := range waits {
				wait()
			}
			if t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		})
	}
}

func TestRefusalPastThePointOfNoReturnIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newMemory(t)
		ctx, stop := context.WithCancel(t.Context())
		mended := time.Now().Add(time.Hour)
		n := w.node("w1")
		wait := n.run(ctx, exports{part: time.Second, commit: func() error {
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
		stop()
		wait()
	})
}

func TestOwnerWithoutRecordsStopsBeforeItsSuccessorStarts(t *testing.T) {
	for _, after := range []time.Duration{5 * time.Second, 15 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			w := newMemory(t)
			ctx, stop := context.WithCancel(t.Context())
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
			wait1 := first.run(ctx, exports{part: 20 * time.Second}, Config{})
			w.publish(request("job"))
			time.Sleep(2 * time.Second)
			wait2 := w.node("w2").run(ctx, exports{part: time.Second}, Config{})
			within(t, w, 10*time.Minute, "settled", w.settled)
			if limit := cut.Add(30 * time.Second); lastPart.After(limit) || lastPart.Before(cut) {
				t.Errorf("the last part left %v after contact was lost", lastPart.Sub(cut))
			}
			stop()
			wait1()
			wait2()
		})
	}
}

func TestDeliveryThatStandsEndsTheJob(t *testing.T) {
	// The record and the worker were lost together, and the worker's last request arrived after all.
	synctest.Test(t, func(t *testing.T) {
		w := newMemory(t)
		ctx, stop := context.WithCancel(t.Context())
		n := w.node("w1")
		wait := n.run(ctx, exports{reject: func(a contracts.Attempt) error {
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
		stop()
		wait()
	})
}
