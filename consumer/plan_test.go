package consumer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
)

// sent is how often each part has been sent.
func (w *memory) sent() map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := map[string]int{}
	for _, line := range w.trail {
		if _, part, ok := strings.Cut(line, "s3 part "); ok {
			n[part]++
		}
	}
	return n
}

func TestSuccessorGoesOnWithTheAttempt(t *testing.T) {
	// The owner dies among the attachments, again and again: every part is sent once, but for the one under way.
	inMemory(t, func(t *testing.T, w *memory) {
		w.publish(request("job"))
		deaths := 0
		for ; w.outcome("job") == "" && deaths < 20; deaths++ {
			n, parts := w.node(fmt.Sprintf("w%d", deaths)), 0
			n.faults = func(op string) fault {
				if strings.HasPrefix(op, "s3 part") && strings.HasSuffix(op, "u2") {
					if parts++; parts == 2 {
						return fault{kind: die}
					}
				}
				return fault{}
			}
			n.employ(exports{part: time.Second}, Config{})
			for n.ctx.Err() == nil && w.outcome("job") == "" {
				time.Sleep(time.Second) // virtual
			}
		}
		r := w.record("acme", "job")
		if w.outcome("job") != contracts.Delivered || r.Attempt != 1 || r.Crashes != deaths-1 || deaths != partsPerVolume {
			t.Errorf("outcome %q after %d deaths: %+v", w.outcome("job"), deaths, r)
		}
		for part, n := range w.sent() {
			if n != 1 {
				t.Errorf("part %s was sent %d times", part, n)
			}
		}
	})
}

func TestAttemptThatCannotGoOnIsReplaced(t *testing.T) {
	for name, tt := range map[string]struct {
		reject  func(c *int, a contracts.Attempt) error
		disturb func(f *folder)
		errors  int
	}{
		"an upload is gone": {disturb: func(f *folder) { delete(f.uploads, "u2") }, errors: 1},
		"it always fails": {errors: vainErrors, reject: func(fails *int, a contracts.Attempt) error {
			if *fails++; a.Number == 1 && *fails > 1 {
				return errors.New("poison")
			}
			return nil
		}},
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, w *memory) {
				begun := 0
				e := exports{part: time.Second, reject: func(a contracts.Attempt) error {
					if tt.reject == nil {
						return nil
					}
					return tt.reject(&begun, a)
				}}
				ctx, stop := context.WithCancel(t.Context())
				wait := w.node("w1").run(ctx, e, Config{Grace: time.Millisecond})
				w.publish(request("job"))
				within(t, w, time.Minute, "among the attachments", func() bool { return w.sent()["2 of u2"] > 0 })
				stop()
				wait()
				if r := w.record("acme", "job"); len(r.Plan) == 0 || r.Attempt != 1 || r.Errors != 0 {
					t.Fatalf("not given back with a plan: %+v", r)
				}
				if tt.disturb != nil {
					w.change("something happens to the bucket", func() { tt.disturb(w.folder("acme/job/")) })
				}
				w.node("w2").employ(e, Config{})
				within(t, w, 3*time.Hour, "settled", w.settled)
				r := w.record("acme", "job")
				if w.outcome("job") != contracts.Delivered || r.Attempt != 2 || number(r.AttemptID) != 2 || r.Errors != tt.errors {
					t.Errorf("outcome %q: %+v", w.outcome("job"), r)
				}
				if left := w.uploadsLeft(); left > 0 {
					t.Errorf("%d uploads are left", left)
				}
			})
		})
	}
}

func TestCheckpointsComeBack(t *testing.T) {
	inMemory(t, func(t *testing.T, w *memory) {
		s := recordsOf(w.node("w1"))
		r := record{State: running, Epoch: 1, Request: request("job"), Attempt: 1, AttemptID: attemptID(1)}
		var want [][]byte
		rev := uint64(0)
		for range 3 { // owners
			if rev > 0 {
				r.Epoch++
			}
			rev = must(s.swap(t.Context(), "acme.job", r, rev))
			l := hold(t.Context(), s, "acme.job", note{s.cells.(*node), &queued{}}, Config{}.withDefaults(), r, rev, time.Now())
			for _, size := range []int{0, 1, 3 * contracts.ReceiptPieceBytes} {
				data := make([]byte, size)
				for i := range data {
					data[i] = byte(rand.IntN(256))
				}
				want = append(want, data)
				if err := l.Checkpoint(t.Context(), data); err != nil {
					t.Fatal(err)
				}
			}
			l.rest()
			r, rev = l.record(), l.rev
		}
		got := must(s.plan(t.Context(), r))
		if len(got) != len(want) {
			t.Fatalf("%d checkpoints, want %d", len(got), len(want))
		}
		for i := range want {
			if !bytes.Equal(got[i], want[i]) {
				t.Errorf("checkpoint %d has come back as another", i)
			}
		}
		for key, c := range w.cells {
			if len(c.value) > contracts.ReceiptPieceBytes {
				t.Errorf("%s has %d bytes", key, len(c.value))
			}
		}
	})
}

// TestPiecesAreApart: receipts and plans hold contents of a tenant's rows, and are in no bucket that is shown to those
// who may see how jobs are doing. What a worker of an earlier release has kept beside the records is still read.
func TestPiecesAreApart(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	nc, jobs, w, _ := fleet(t)
	stop := start(t, nc, exports{n: w.node("bucket")}, quick("w1"))
	defer stop()
	must(jobs.Submit(ctx, request("one"), nil))
	if s := ending(t, jobs, "one"); s.Outcome == nil || s.Outcome.Kind != contracts.Delivered {
		t.Fatalf("%+v", s)
	}
	pieces := must(openCells(ctx, jobs.js, contracts.PieceBucket))
	kept := must(pieces.Keys(ctx, "acme.one.>"))
	for _, kind := range []string{".receipt.", ".plan."} {
		if !slices.ContainsFunc(kept, func(key string) bool { return strings.Contains(key, kind) }) {
			t.Errorf("the pieces are %q, without a %s", kept, kind)
		}
	}
	for _, key := range must(jobs.cells.Keys(ctx, ">")) {
		if strings.Count(key, ".") > 2 {
			t.Errorf("%s is among the records", key)
		}
	}

	both := records{jobs.cells, pieces}
	if err := jobs.cells.Put(ctx, "acme.earlier.receipt.1.0", []byte("kept before")); err != nil {
		t.Fatal(err)
	}
	if p, err := both.piece(ctx, "acme.earlier.receipt.1.0"); err != nil || string(p) != "kept before" {
		t.Errorf("an earlier release's piece: %q, %v", p, err)
	}
}
