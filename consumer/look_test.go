package consumer

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
)

// What kills workers while they look into a customer's bucket is counted before there is a record, and comes to an end.
func TestCrashLoopBeforeThereIsARecordEnds(t *testing.T) {
	inMemory(t, func(t *testing.T, w *memory) {
		w.publish(request("job"))
		started := 0
		for w.outcome("job") == "" && started < 10 {
			n := w.node("w")
			started++
			n.employ(exports{seek: func() error { n.kill(); return errKilled }}, Config{Crashes: 3})
			for n.ctx.Err() == nil && w.outcome("job") == "" {
				time.Sleep(time.Second)
			}
			n.kill()
		}
		if got := w.outcome("job"); got != contracts.Failed || started != 5 {
			t.Errorf("outcome %q after %d workers", got, started)
		}
		if r := w.record("acme", "job"); r.Reason == nil || r.Reason.Code != contracts.CrashLoop {
			t.Errorf("reason %+v", r.Reason)
		}
	})
}

// A look that ends is no crash, however often the destination does not answer.
func TestALookThatEndsIsNoCrash(t *testing.T) {
	inMemory(t, func(t *testing.T, w *memory) {
		looks := 0
		w.node("w1").employ(exports{part: time.Second, seek: func() error {
			if looks++; looks <= 30 {
				return down{errors.New("no answer")}
			}
			return nil
		}}, Config{Crashes: 3})
		w.publish(request("job"))
		within(t, w, 6*24*time.Hour, "settled", w.settled)
		if r := w.record("acme", "job"); w.outcome("job") != contracts.Delivered || r.Crashes != 0 {
			t.Errorf("outcome %q with %d crashes: %+v", w.outcome("job"), r.Crashes, r.Reason)
		}
	})
}

// A failure that stays is met by attempts in the end, which are counted: the job ends with a reason, and not by its age.
func TestALookThatNeverSucceedsEnds(t *testing.T) {
	inMemory(t, func(t *testing.T, w *memory) {
		w.node("w1").employ(exports{seek: func() error { return errors.New("S3 answers 418 to GetObject") }}, Config{})
		w.publish(request("job"))
		within(t, w, 2*24*time.Hour, "settled", w.settled)
		if r := w.record("acme", "job"); w.outcome("job") != contracts.Failed || r.Reason == nil || r.Reason.Code != contracts.AttemptsExhausted {
			t.Errorf("outcome %q, reason %+v", w.outcome("job"), r.Reason)
		}
	})
}

// A manifest that proves nothing ends the job with that reason, and with no attempt.
func TestAManifestThatProvesNothing(t *testing.T) {
	inMemory(t, func(t *testing.T, w *memory) {
		w.node("w1").employ(exports{seek: func() error {
			return contracts.Reject(contracts.DestinationTaken, "it has no signature of this fleet")
		}}, Config{})
		w.publish(request("job"))
		within(t, w, time.Hour, "settled", w.settled)
		if r := w.record("acme", "job"); w.outcome("job") != contracts.Failed || r.Reason == nil || r.Reason.Code != contracts.DestinationTaken || r.Reason.What != "it has no signature of this fleet" {
			t.Errorf("outcome %q, reason %+v", w.outcome("job"), r.Reason)
		}
	})
}

// One bucket that never ends an answer does not keep the janitor from the other jobs.
func TestJanitorLeavesABucketThatHangs(t *testing.T) {
	inMemory(t, func(t *testing.T, w *memory) {
		var begun, ended atomic.Int32
		w.node("w1").employ(exports{part: time.Second, clean: func(ctx context.Context) error {
			begun.Add(1)
			<-ctx.Done()
			ended.Add(1)
			return context.Cause(ctx)
		}}, Config{})
		w.publish(request("job"))
		within(t, w, time.Minute, "settled", w.settled)
		time.Sleep(time.Hour)
		if begun, ended := begun.Load(), ended.Load(); begun < 5 || ended < begun-1 {
			t.Errorf("%d looks after the job have begun within an hour, %d have ended", begun, ended)
		}
	})
}

func TestFleetKeyIsMadeOnce(t *testing.T) {
	inMemory(t, func(t *testing.T, w *memory) {
		n := w.node("operator")
		if _, err := (&Registry{cells: n}).fleetKey(t.Context()); err == nil {
			t.Error("a key that was never made is read")
		}
		var all sync.WaitGroup
		did := make([]string, 5)
		for i := range did {
			all.Go(func() { did[i] = must(ensureFleetKey(t.Context(), w.node("operator"))) })
		}
		all.Wait()
		key := must((&Registry{cells: n}).fleetKey(t.Context()))
		if n := len(slices.DeleteFunc(did, func(s string) bool { return s != made })); n != 1 || key == (contracts.FleetKey{}) {
			t.Errorf("the key is made %d times", n)
		}
		again := must(ensureFleetKey(t.Context(), n))
		if again != kept || must((&Registry{cells: n}).fleetKey(t.Context())) != key {
			t.Error("the key has changed")
		}
		if names := must((&Registry{cells: n}).Names(t.Context())); len(names) > 0 {
			t.Errorf("it is listed as tenants %q", names)
		}
	})
}
