package consumer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/snapfleet/snapfleet/contracts"
)

// Pause says that no attempt is begun, for one tenant or for the whole fleet. Requests wait in the queue, attempts under
// way go on to their end, and what is past its point of no return is finished. A request does not get older, and a
// job's deadline does not come nearer, while it waits because of a pause.
type Pause struct {
	// Tenant is who is paused; empty: everybody.
	Tenant string `json:"tenant,omitempty"`
	// At is since when, by the clock of whoever paused.
	At time.Time `json:"at"`
	// By and Reason are for people.
	By     string `json:"by,omitempty"`
	Reason string `json:"reason,omitempty"`
	// Until is when the pause ends by itself; zero: somebody has to end it.
	Until time.Time `json:"until,omitzero"`
}

// pauseCell is what stands in the fleet's bucket. A pause that is over stays there: what waited through it is only as
// old as the time that it could have been begun in.
type pauseCell struct {
	Pause
	Ended   time.Time `json:"ended,omitzero"` // when somebody ended it
	Earlier []span    `json:"earlier,omitempty"`
}

// span is a time that is over.
type span struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
}

// inForce reports whether the pause holds at now.
func (p pauseCell) inForce(now time.Time) bool {
	return !p.At.IsZero() && p.Ended.IsZero() && (p.Until.IsZero() || now.Before(p.Until))
}

// spans are all times at which the pause held, as seen at now.
func (p pauseCell) spans(now time.Time) []span {
	if p.At.IsZero() {
		return p.Earlier
	}
	end := now
	for _, t := range []time.Time{p.Until, p.Ended} {
		if !t.IsZero() && t.Before(end) {
			end = t
		}
	}
	return append(p.Earlier[:len(p.Earlier):len(p.Earlier)], span{p.At, end})
}

// overlap is how much of the time between from and to is in any of the spans.
func overlap(spans []span, from, to time.Time) (sum time.Duration) {
	spans = slices.SortedFunc(slices.Values(spans), func(a, b span) int { return a.From.Compare(b.From) })
	for _, s := range spans {
		begin, end := s.From, s.To
		if begin.Before(from) {
			begin = from
		}
		if end.After(to) {
			end = to
		}
		if end.After(begin) {
			sum += end.Sub(begin)
			from = end
		}
	}
	return sum
}

// holdBack is how long a job that these pauses are about has to stay in the queue before it is looked at again; 0: it
// may begin. It is a pure function but for the jitter. Whoever ends a pause wants to see work soon, so no delay is
// longer than three heartbeats.
func holdBack(cells []pauseCell, now time.Time, heartbeat time.Duration) (delay time.Duration) {
	for _, p := range cells {
		if !p.inForce(now) {
			continue
		}
		next := heartbeat + rand.N(2*heartbeat)
		if !p.Until.IsZero() {
			next = min(next, p.Until.Sub(now)+rand.N(heartbeat))
		}
		delay = max(delay, next)
	}
	return delay
}

// The keys of pauses in the fleet's bucket.
const (
	pauseKeys        = "pause.>"
	pauseFleetKey    = "pause.fleet"
	pauseTenantStart = "pause.tenant."
)

func pauseKey(tenant string) string {
	if tenant == "" {
		return pauseFleetKey
	}
	return pauseTenantStart + tenant
}

func decodePause(key string, value []byte) (pauseCell, error) {
	var p pauseCell
	if err := json.Unmarshal(value, &p); err != nil {
		return p, fmt.Errorf("read the pause %s: %w", key, err)
	}
	p.Tenant = strings.TrimPrefix(key, pauseTenantStart)
	if key == pauseFleetKey {
		p.Tenant = ""
	}
	return p, nil
}

// pauses is who is paused, as far as this worker has heard.
type pauses struct {
	heartbeat time.Duration
	log       zerolog.Logger
	gauge     func(fleet bool, all int)

	mu    sync.Mutex
	known map[string]pauseCell // by key
	told  map[string]Pause     // those that held when the log was last told
	alarm *time.Timer          // runs when one of them ends by itself
}

func newPauses(cfg Config, gauge func(bool, int)) *pauses {
	return &pauses{heartbeat: cfg.Heartbeat, log: cfg.Log, gauge: gauge, known: map[string]pauseCell{}}
}

// about are the pauses that concern the tenant.
func (p *pauses) about(tenant string) []pauseCell {
	p.mu.Lock()
	defer p.mu.Unlock()
	return []pauseCell{p.known[pauseFleetKey], p.known[pauseKey(tenant)]}
}

// wait is how long a job of the tenant that nobody works on should stay in the queue; 0 lets it begin.
func (p *pauses) wait(tenant string) time.Duration {
	return holdBack(p.about(tenant), time.Now(), p.heartbeat)
}

// held is how much of the time between from and to the tenant was paused.
func (p *pauses) held(tenant string, from, to time.Time) time.Duration {
	var spans []span
	for _, c := range p.about(tenant) {
		spans = append(spans, c.spans(to)...)
	}
	return overlap(spans, from, to)
}

// follow keeps up with the pauses until ctx is done, and calls ready when it knows them for the first time. While they
// cannot be read it goes by what it knew.
func (p *pauses) follow(ctx context.Context, fleet board, round time.Duration, ready func(error)) {
	for ctx.Err() == nil {
		fresh, complete := map[string]pauseCell{}, false
		seen := func(key string, value []byte) {
			p.mu.Lock()
			defer p.mu.Unlock()
			if !complete {
				p.note(fresh, key, value)
				return
			}
			p.note(p.known, key, value)
			p.tell()
		}
		all := func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.known, complete = fresh, true
			p.tell()
			ready(nil)
		}
		turn, cancel := context.WithTimeout(ctx, round) // a change that was missed is found by looking again
		err := fleet.Follow(turn, pauseKeys, seen, all)
		cancel()
		if err != nil {
			ready(err)
			pause(ctx, time.Second)
		}
	}
}

// note takes a cell as it stands now. One that cannot be read changes nothing. It must be called with mu held.
func (p *pauses) note(into map[string]pauseCell, key string, value []byte) {
	if value == nil {
		delete(into, key)
		return
	}
	next, err := decodePause(key, value)
	if err == nil {
		into[key] = next
		return
	}
	p.log.Warn().Err(err).Msg("a pause cannot be read: going on as before")
	if was, known := p.known[key]; known {
		into[key] = was
	}
}

// tell logs what has begun and ended since it was called last, and sets the gauge. It calls itself when a pause ends by
// itself. It must be called with mu held.
func (p *pauses) tell() {
	now, holds := time.Now(), map[string]Pause{}
	var next time.Time
	for key, c := range p.known {
		if !c.inForce(now) {
			continue
		}
		holds[key] = c.Pause
		if u := c.Until; !u.IsZero() && (next.IsZero() || u.Before(next)) {
			next = u
		}
		if _, told := p.told[key]; !told {
			p.log.Info().Str("tenant", c.Tenant).Str("reason", c.Reason).Str("by", c.By).Time("until", c.Until).Msg("paused: nothing new is begun")
		}
	}
	for key, was := range p.told {
		if _, still := holds[key]; !still {
			p.log.Info().Str("tenant", was.Tenant).Msg("no longer paused")
		}
	}
	p.told = holds
	_, fleet := holds[pauseFleetKey]
	p.gauge(fleet, len(holds))
	if p.alarm != nil {
		p.alarm.Stop()
	}
	if !next.IsZero() {
		p.alarm = time.AfterFunc(next.Sub(now), func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.tell()
		})
	}
}

// oldest is since when the fleet is paused, and the tenant that is paused longest; 0: nobody is.
func (p *pauses) oldest(now time.Time) (fleet, tenants time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, c := range p.known {
		switch age := max(0, now.Sub(c.At)); {
		case !c.inForce(now):
		case key == pauseFleetKey:
			fleet = age
		default:
			tenants = max(tenants, age)
		}
	}
	return fleet, tenants
}

// Pauses is what operators do to stop the fleet from beginning anything, for a while. It is safe for concurrent use.
type Pauses struct{ cells cells }

// OpenPauses opens what [Setup] has made.
func OpenPauses(ctx context.Context, js jetstream.JetStream) (*Pauses, error) {
	fleet, err := openCells(ctx, js, contracts.FleetBucket)
	if err != nil {
		return nil, err
	}
	return &Pauses{fleet}, nil
}

// Pause holds what p says from now on, and returns the pause that was in force, if there was one: then only until, who
// and why are changed. Workers hear of it within a second or so.
func (s *Pauses) Pause(ctx context.Context, p Pause) (was *Pause, err error) {
	if p.Tenant != "" && !contracts.ValidTenant(p.Tenant) {
		return nil, contracts.Reject(contracts.UnknownTenant, "%.80q is no tenant's name", p.Tenant)
	}
	now := time.Now().UTC()
	err = s.change(ctx, p.Tenant, func(c pauseCell) (pauseCell, bool) {
		next := pauseCell{Pause: p, Earlier: c.Earlier}
		next.At = now
		if was = nil; c.inForce(now) {
			before := c.Pause
			was, next.At = &before, c.At
			return next, true
		}
		next.Earlier = recent(c.spans(now), now)
		return next, true
	})
	return was, err
}

// Resume ends a pause, and returns it; nil when there was none. What waits is begun within three heartbeats.
func (s *Pauses) Resume(ctx context.Context, tenant string) (was *Pause, err error) {
	now := time.Now().UTC()
	err = s.change(ctx, tenant, func(c pauseCell) (pauseCell, bool) {
		if was = nil; !c.inForce(now) {
			return c, false
		}
		before := c.Pause
		was, c.Ended = &before, now
		return c, true
	})
	return was, err
}

// recent drops what no request that waits can have waited through.
func recent(spans []span, now time.Time) []span {
	spans = slices.DeleteFunc(slices.Clone(spans), func(s span) bool { return now.Sub(s.To) > remembered })
	return spans[max(0, len(spans)-100):]
}

// change makes one change by compare-and-swap, if to says so.
func (s *Pauses) change(ctx context.Context, tenant string, to func(pauseCell) (pauseCell, bool)) error {
	key := pauseKey(tenant)
	for {
		c, rev, err := s.get(ctx, key)
		if err != nil {
			return err
		}
		next, wanted := to(c)
		if !wanted {
			return nil
		}
		next.Tenant = "" // the key says it
		value, err := json.Marshal(next)
		if err != nil {
			return fmt.Errorf("write the pause %s: %w", key, err)
		}
		if rev == 0 {
			_, err = s.cells.Create(ctx, key, value)
		} else {
			_, err = s.cells.Update(ctx, key, value, rev)
		}
		if errors.Is(err, errSwapped) {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			continue // somebody else pauses or resumes at the same moment
		}
		if err != nil {
			return fmt.Errorf("write the pause %s: %w", key, err)
		}
		return nil
	}
}

// get reads a cell; one that cannot be understood is as good as none, and is written anew by whoever wants to.
func (s *Pauses) get(ctx context.Context, key string) (c pauseCell, rev uint64, err error) {
	value, rev, err := s.cells.Get(ctx, key)
	if errors.Is(err, errNoCell) {
		return pauseCell{}, 0, nil
	}
	if err != nil {
		return pauseCell{}, 0, fmt.Errorf("read the pause %s: %w", key, err)
	}
	c, err = decodePause(key, value)
	if err != nil {
		return pauseCell{}, rev, nil
	}
	return c, rev, nil
}

// Of returns the pause that holds jobs of the tenant back at this moment, or nil: the fleet's before its own.
func (s *Pauses) Of(ctx context.Context, tenant string) (*Pause, error) {
	for _, key := range []string{pauseFleetKey, pauseKey(tenant)} {
		c, _, err := s.get(ctx, key)
		if err != nil {
			return nil, err
		}
		if c.inForce(time.Now()) {
			return &c.Pause, nil
		}
	}
	return nil, nil
}

// List returns all pauses that are in force, the fleet's first, then by tenant.
func (s *Pauses) List(ctx context.Context) ([]Pause, error) {
	keys, err := s.cells.Keys(ctx, pauseKeys)
	if err != nil {
		return nil, fmt.Errorf("list pauses: %w", err)
	}
	found := map[string]Pause{}
	for _, key := range keys {
		c, _, err := s.get(ctx, key)
		if err != nil {
			return nil, err
		}
		if c.inForce(time.Now()) {
			found[c.Tenant] = c.Pause
		}
	}
	var all []Pause
	for _, tenant := range slices.Sorted(maps.Keys(found)) {
		all = append(all, found[tenant])
	}
	return all, nil
}
