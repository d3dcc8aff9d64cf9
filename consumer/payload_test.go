package consumer

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/test/world"
)

// TestSmallPayload: a server whose messages are too small is refused at setup, at a worker's start, and when a worker's
// connection comes back at it.
func TestSmallPayload(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server, err := world.StartNATS(t.TempDir(), world.WithMaxPayload(MinPayload-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	nc := must(Connect(server.URL(), nats.ReconnectWait(50*time.Millisecond)))
	t.Cleanup(nc.Close)
	js := must(jetstream.New(nc))
	refused := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, ErrPayload) || !strings.Contains(err.Error(), "max_payload is 524287") {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err = Setup(ctx, js, SetupOptions{})
	refused("setup", err)
	_, err = New(ctx, nc, exports{}, quick("w1"))
	refused("a worker's start", err)

	server.Change(world.WithMaxPayload(MinPayload))
	if err := server.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	becomes(t, time.Minute, "the connection is back", func() bool { return nc.IsConnected() && nc.MaxPayload() == MinPayload })
	must(Setup(ctx, js, SetupOptions{AckWait: 2 * time.Second}))
	c := must(New(ctx, nc, exports{n: newMemory(t).node("bucket")}, quick("w1")))
	go func() { _ = c.Run(ctx) }()
	becomes(t, time.Minute, "the worker is ready", func() bool { return c.Ready() == nil })
	server.Change(world.WithMaxPayload(1000))
	if err := server.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	becomes(t, time.Minute, "the worker says why it takes no jobs", func() bool { return errors.Is(c.Ready(), ErrPayload) })
}

// becomes waits until a condition holds. It asks again and again, because neither a worker's readiness nor what a server
// holds is reported when it changes.
func becomes(t *testing.T, limit time.Duration, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it does not happen within %v that %s", limit, what)
		}
	}
}

// TestRecordFits: whatever an attempt reports, the job's record fits into one message of the smallest server.
func TestRecordFits(t *testing.T) {
	t.Parallel()
	inMemory(t, func(t *testing.T, w *memory) {
		n := w.node("w1")
		r := record{State: running, Request: request("job"), Epoch: 1, Attempt: 1, LastError: firstLine(errors.New(strings.Repeat("é", 1_000_000)))}
		key := recordKey("acme", "job")
		rev := must(recordsOf(n).swap(t.Context(), key, r, 0))
		l := hold(t.Context(), recordsOf(n), key, nil, Config{}.withDefaults(), r, rev, time.Now())
		defer l.cancel(nil)
		defer l.rest()
		l.Progress(func(p *contracts.Progress) { p.Current = strings.Repeat("日", 1_000_000) })
		var err error
		volumes := 0
		for ; err == nil; volumes++ {
			err = l.Upload(t.Context(), contracts.Upload{Name: contracts.VolumeName(contracts.Tables, "2026-03-31-143022", volumes+1), ID: strings.Repeat("u", 1000)})
		}
		if why, ok := contracts.AsRejection(err); !ok || why.Code != contracts.TooManyVolumes || volumes < 300 {
			t.Errorf("after %d volumes: %v", volumes, err)
		}
		why, _ := contracts.AsRejection(contracts.Reject(contracts.TableDenied, "%s", strings.Repeat("\x01", 1_000_000)))
		if err := l.update(t.Context(), func(r *record) { r.State, r.Reason = failing, why.Reason() }); err != nil {
			t.Error(err)
		}
		if size := len(w.cells[key].value); size > MinPayload-4096 {
			t.Errorf("the record has %d bytes", size)
		}
		stored := w.record("acme", "job")
		o := must(json.Marshal(contracts.Outcome{Reason: stored.Reason}))
		if len(o) > 64<<10 || len(stored.Progress.Current) > maxCurrent {
			t.Errorf("the outcome has %d bytes, the name %d", len(o), len(stored.Progress.Current))
		}
	})
}
