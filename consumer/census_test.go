package consumer

import (
	"slices"
	"testing"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
)

// Every job that has not ended counts once, under the state that people see, and as old as its request is. What a pause
// holds back is no lateness of ours.
func TestCensusCountsAJobUnderItsState(t *testing.T) {
	t.Parallel()
	now := time.Now()
	const age = time.Hour
	paused := func(from, ended time.Duration) map[string]pauseCell { // so long ago
		c := pauseCell{Pause: Pause{At: now.Add(-from)}}
		if ended > 0 {
			c.Ended = now.Add(-ended)
		}
		return map[string]pauseCell{pauseFleetKey: c}
	}
	for _, tt := range []struct {
		name   string
		record *record // nil: there is none
		pauses map[string]pauseCell
		state  string // empty: it is not counted
		oldest time.Duration
	}{
		{"nobody has begun it", nil, nil, "queued", age},
		{"it is paused", nil, paused(20*time.Minute, 0), "paused", age},
		{"it was paused for a quarter of an hour", nil, paused(20*time.Minute, 5*time.Minute), "queued", 45 * time.Minute},
		{"it is cancelled, and nobody has begun it", &record{State: running}, nil, "queued", age},
		{"a worker has it", &record{State: running, Attempt: 1, Owner: "o"}, nil, "running", age},
		{"it runs through a pause", &record{State: running, Attempt: 1, Owner: "o"}, paused(20*time.Minute, 0), "running", age},
		{"it waits for its next attempt", &record{State: running, Attempt: 2}, nil, "waiting", age},
		{"it waits for its seal", &record{State: sealing, Attempt: 2}, nil, "waiting", age},
		{"it is being sealed", &record{State: sealing, Attempt: 2, Owner: "o"}, nil, "sealing", age},
		{"it is being given up", &record{State: failing, Attempt: 2, Owner: "o"}, nil, "failing", age},
		{"it has ended, and the queue does not know", &record{State: done, Attempt: 1}, nil, "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := newPauses(Config{}.withDefaults(), func(bool, int) {})
			p.known = tt.pauses
			n, r := newCensus(), record{}
			if tt.record != nil {
				r = *tt.record
			}
			surveyor{pauses: p}.count(n, "acme", r, tt.record == nil, now.Add(-age), now)
			for state, s := range n.jobs {
				want := standing{}
				if state == tt.state {
					want = standing{1, tt.oldest}
				}
				if *s != want {
					t.Errorf("%s: %+v, want %+v", state, *s, want)
				}
			}
		})
	}
}

// Of the tenants that are named, none is better off than one that is not.
func TestTheTenantsThatAreNamedAreTheOldest(t *testing.T) {
	t.Parallel()
	p := &punctual{}
	for tenant, age := range map[string]time.Duration{"young": time.Minute, "old": time.Hour, "b": time.Second, "a": time.Second} {
		p.note(tenant, age == time.Hour, age)
	}
	p.sorted()
	for n, want := range map[int][]string{0: nil, 1: {"old"}, 3: {"old", "young", "a"}, 9: {"old", "young", "a", "b"}} {
		var names []string
		for _, one := range p.worst(n) {
			names = append(names, one.tenant)
		}
		if !slices.Equal(names, want) {
			t.Errorf("the worst %d are %q, want %q", n, names, want)
		}
	}
	if p.overdue != 1 || p.oldest() != time.Hour {
		t.Errorf("%d are overdue, the oldest is of %v", p.overdue, p.oldest())
	}
}

// A phase is measured when the next one begins, and never the one that an attempt failed in.
func TestPhasesAreMeasuredWhenTheyAreOver(t *testing.T) {
	t.Parallel()
	inMemory(t, func(t *testing.T, _ *memory) {
		var over []string
		l := &lease{ctx: t.Context(), phased: func(phase contracts.Phase, took time.Duration) { over = append(over, string(phase)+" "+took.String()) }}
		l.begin()
		for _, phase := range []contracts.Phase{contracts.Preflight, contracts.Preflight, contracts.Opening, contracts.WritingTables} {
			l.Progress(func(p *contracts.Progress) { p.Phase = phase })
			time.Sleep(time.Second) // of the bubble
		}
		l.begin() // that one failed, and the next attempt goes on in the same phase
		l.Progress(func(p *contracts.Progress) { p.Rows++ })
		time.Sleep(time.Minute) // virtual
		l.Progress(func(p *contracts.Progress) { p.Phase = contracts.Committing })
		if want := []string{"preflight 2s", "opening 1s", "tables 1m0s"}; !slices.Equal(over, want) {
			t.Errorf("measured: %q, want %q", over, want)
		}
	})
}
