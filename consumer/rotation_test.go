package consumer

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
)

// acmeIn is a registry in memory with one tenant.
func acmeIn(t *testing.T, c cells) *Registry {
	t.Helper()
	r := &Registry{cells: c}
	if err := r.Set(t.Context(), tenant("acme")); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRotation(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	r := acmeIn(t, &shelf{})
	old := must(r.Get(ctx, "acme")).Destination.ExternalID

	if _, err := r.Switch(ctx, must(r.Get(ctx, "acme"))); codeOf(err) != contracts.InvalidTenant {
		t.Errorf("a switch without a rotation: %v", err)
	}
	if _, ended, err := r.Abandon(ctx, "acme"); ended || err != nil {
		t.Errorf("nothing is abandoned: %v, %v", ended, err)
	}
	both, begun, err := r.Rotate(ctx, "acme")
	next := both.Destination.NextExternalID
	if err != nil || !begun || both.Destination.ExternalID != old || len(next) < 26 { // of 5 bits each
		t.Fatalf("begun %v: %+v, %v", begun, both, err)
	}
	if again, begun, err := r.Rotate(ctx, "acme"); begun || err != nil || again.Destination != both.Destination {
		t.Errorf("a rotation is begun once: %v, %+v, %v", begun, again, err)
	}
	for _, change := range []func(*contracts.Destination){
		func(d *contracts.Destination) { d.ExternalID, d.NextExternalID = next, "" },
		func(d *contracts.Destination) { d.NextExternalID = "" },
		func(d *contracts.Destination) { d.NextExternalID = "another-external-id-0123456789" },
	} {
		set := both
		change(&set.Destination)
		if err := r.Set(ctx, set); codeOf(err) != contracts.InvalidTenant {
			t.Errorf("Set changes the external IDs to %+v: %v", set.Destination, err)
		}
	}
	changed := both
	changed.Format = contracts.JSONL
	if err := r.Set(ctx, changed); err != nil {
		t.Errorf("Set in the middle of a rotation: %v", err)
	}
	if _, err := r.Switch(ctx, both); !errors.Is(err, ErrRecordChanged) {
		t.Errorf("a check of another record lets the ID be switched: %v", err)
	}
	now, err := r.Switch(ctx, must(r.Get(ctx, "acme")))
	if stands := must(r.Get(ctx, "acme")); err != nil || stands.Destination != now.Destination || stands.Destination.ExternalID != next || stands.Destination.NextExternalID != "" || stands.Format != contracts.JSONL {
		t.Errorf("switched to %+v, and %+v stands: %v", now, stands, err)
	}
	must(recordOf(r.Rotate(ctx, "acme")))
	if kept, ended, err := r.Abandon(ctx, "acme"); err != nil || !ended || kept.Destination.ExternalID != next || kept.Destination.NextExternalID != "" {
		t.Errorf("abandoned %v: %+v, %v", ended, kept, err)
	}
	if _, _, err := r.Rotate(ctx, "nobody"); codeOf(err) != contracts.UnknownTenant {
		t.Errorf("a tenant that is not there: %v", err)
	}
}

func recordOf[A, B any](a A, _ B, err error) (A, error) { return a, err }

// Whoever comes at the same time, the record is always of one writer: what was switched was proven, and what is told as
// done stands.
func TestRotationAmongConcurrentWriters(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	r := acmeIn(t, &shelf{})
	switched, abandoned := 0, 0
	for range 200 {
		var mu sync.Mutex
		var all sync.WaitGroup
		begun, nexts := 0, map[string]bool{}
		for range 4 {
			all.Go(func() {
				got, b, err := r.Rotate(ctx, "acme")
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					t.Error(err)
				}
				if b {
					begun++
				}
				nexts[got.Destination.NextExternalID] = true
			})
		}
		all.Wait()
		if begun != 1 || len(nexts) != 1 {
			t.Fatalf("%d rotations are begun, with %d next external IDs", begun, len(nexts))
		}
		proven := must(r.Get(ctx, "acme"))
		var switchErr, setErr error
		var ended bool
		all.Go(func() { _, switchErr = r.Switch(ctx, proven) })
		all.Go(func() {
			var err error
			if _, ended, err = r.Abandon(ctx, "acme"); err != nil {
				t.Error(err)
			}
		})
		all.Go(func() {
			changed := proven
			changed.Limits.VolumeBytes ^= 1 << 30
			setErr = r.Set(ctx, changed)
		})
		all.Wait()
		was, is := proven.Destination, must(r.Get(ctx, "acme")).Destination
		switch {
		case is.NextExternalID != "":
			t.Fatalf("abandoned %v and switched (%v), and a rotation is under way", ended, switchErr)
		case ended == (switchErr == nil):
			t.Fatalf("abandoned %v, and switched: %v", ended, switchErr)
		case ended && is.ExternalID != was.ExternalID, !ended && is.ExternalID != was.NextExternalID:
			t.Fatalf("abandoned %v: the external ID was %s of %+v", ended, is.ExternalID, was)
		case switchErr != nil && !errors.Is(switchErr, ErrRecordChanged) && codeOf(switchErr) == "":
			t.Fatal(switchErr)
		case setErr != nil && !errors.Is(setErr, errSwapped) && codeOf(setErr) != contracts.InvalidTenant:
			t.Fatal(setErr)
		}
		if ended {
			abandoned++
		} else {
			switched++
		}
	}
	if switched == 0 || abandoned == 0 {
		t.Errorf("%d rounds were switched and %d abandoned: they do not meet", switched, abandoned)
	}
}

// A switch whose reply is lost has happened, and says so.
func TestSwitchWithoutAReply(t *testing.T) {
	for _, kind := range []faultKind{deceive, refuse} {
		inMemory(t, func(t *testing.T, w *memory) {
			n := w.node("operator")
			r := acmeIn(t, n)
			both := must(recordOf(r.Rotate(t.Context(), "acme")))
			n.faults = func(op string) fault {
				if op == "update acme" {
					return fault{kind: kind}
				}
				return fault{}
			}
			_, err := r.Switch(t.Context(), both)
			is := must(r.Get(t.Context(), "acme")).Destination.ExternalID
			if took := is == both.Destination.NextExternalID; took != (err == nil) || took != (kind == deceive) {
				t.Errorf("the external ID is switched: %v, and the error is %v", took, err)
			}
		})
	}
}

// A job that began before a switch goes on after it, with the tenant's record as it is at each step.
func TestJobGoesOnAfterASwitch(t *testing.T) {
	inMemory(t, func(t *testing.T, w *memory) {
		before := tenant("acme").Destination
		w.tenants["acme"] = tenant("acme").WithDefaults()
		var used []string
		under := make(chan struct{}, 1)
		w.node("w1").employ(exports{
			part: 10 * time.Second,
			reject: func(a contracts.Attempt) error {
				used = append(used, a.Tenant.Destination.ExternalID)
				under <- struct{}{}
				return nil
			},
			lose: func(a contracts.Attempt, _ string) bool {
				used = append(used, a.Tenant.Destination.ExternalID)
				return false
			},
		}, Config{})
		w.publish(request("job"))
		<-under
		w.change("switch", func() {
			switched := w.tenants["acme"]
			switched.Destination.ExternalID = "the-next-external-id-0123456789"
			w.tenants["acme"] = switched
		})
		within(t, w, 10*time.Minute, "settled", w.settled)
		if got := w.outcome("job"); got != contracts.Delivered {
			t.Errorf("outcome %q", got)
		}
		if len(used) < 2 || used[0] != before.ExternalID || used[len(used)-1] != "the-next-external-id-0123456789" {
			t.Errorf("the steps used %q", used)
		}
	})
}
