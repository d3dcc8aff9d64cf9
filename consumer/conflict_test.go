package consumer

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
)

type conflict struct{ error }

func (conflict) RecoveryConflict() bool { return true }

// TestConflictsAreCounted: the next attempts are told how often a standby has ended the job, also when another worker
// makes them, and whatever else went wrong. A conflict is an error like others, too.
func TestConflictsAreCounted(t *testing.T) {
	inMemory(t, func(t *testing.T, w *memory) {
		var told []int
		work := exports{part: time.Second, reject: func(a contracts.Attempt) error {
			told = append(told, a.Conflicts)
			switch len(told) {
			case 1, 3:
				return fmt.Errorf("copy a table: %w", conflict{errors.New("conflict with recovery")})
			case 2:
				return errors.New("something else")
			}
			return nil
		}}
		w.node("w1").employ(work, Config{})
		w.node("w2").employ(work, Config{})
		w.publish(request("job"))
		within(t, w, time.Hour, "settled", w.settled)
		if want := []int{0, 1, 1, 2}; !slices.Equal(told, want) {
			t.Errorf("the attempts were told of %v conflicts, not %v", told, want)
		}
		if r := w.record("acme", "job"); w.outcome("job") != contracts.Delivered || r.Errors != 3 || r.Conflicts != 2 {
			t.Errorf("outcome %q: %+v", w.outcome("job"), r)
		}
	})
}

// TestUnknownSourceWaitsForAWorkerThatKnowsIt: a job that this worker cannot serve waits without blame. It says why all
// the while, another worker ends it well, and without one the deadline ends it, with the same words.
func TestUnknownSourceWaitsForAWorkerThatKnowsIt(t *testing.T) {
	unknown := exports{part: time.Second, reject: func(contracts.Attempt) error {
		return busy{errors.New(`this worker knows no database "eu-1"`)}
	}}
	for name, c := range map[string]struct {
		known bool
		want  contracts.OutcomeKind
	}{"another worker knows it": {true, contracts.Delivered}, "nobody does": {false, contracts.Failed}} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, w *memory) {
				w.node("old").employ(unknown, Config{Deadline: 2 * time.Hour, Attempts: 2})
				w.publish(request("job"))
				time.Sleep(time.Hour)
				if r := w.record("acme", "job"); r.State != running || !strings.Contains(r.LastError, `no database "eu-1"`) || r.Errors != 0 || w.settled() {
					t.Fatalf("after an hour: %+v", r)
				}
				if c.known {
					w.node("new").employ(exports{part: time.Second}, Config{})
				}
				within(t, w, 62*time.Minute, "settled", w.settled)
				r := w.record("acme", "job")
				if w.outcome("job") != c.want || r.Errors != 0 {
					t.Errorf("outcome %q: %+v", w.outcome("job"), r)
				}
				if !c.known && (r.Reason.Code != contracts.DeadlineExceeded || !strings.Contains(r.Reason.What, `no database "eu-1"`)) {
					t.Errorf("it ends because of %+v", r.Reason)
				}
			})
		})
	}
}
