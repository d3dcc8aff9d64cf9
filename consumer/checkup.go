package consumer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/snapfleet/snapfleet/contracts"
)

// A destination breaks on a customer's side, and nobody there tells us. So the fleet checks every one of them once a day,
// and once more in time before each scheduled snapshot. There is no scheduler: each worker looks every few minutes, and
// one of them, elected for the round, checks those that are due. What is known of a tenant stands in one cell. Clocks of
// other hosts are believed here: a wrong one costs a check too early or too late, and nothing else.

const (
	// checkupKey is swapped by whichever worker checks next.
	checkupKey = "checkup"
	// lookEvery is how often a worker looks, at least.
	lookEvery = 5 * time.Minute
	// checkTime bounds one check; claimLife is when a claim is nobody's any more, because its worker has died.
	checkTime, claimLife = 2 * time.Minute, 10 * time.Minute
	// tryAgain is how long after a check that found nothing out the next one is due.
	tryAgain = time.Hour
)

func checkupKeyOf(tenant string) string { return "check." + tenant }

// Checkup is what the fleet knows of a tenant's destination.
type Checkup struct {
	// Result of the last check that found something out: ok or failed. Empty: nothing is known.
	Result contracts.CheckResult `json:"result,omitempty"`
	// Reason of the first step that failed.
	Reason *contracts.Reason `json:"reason,omitempty"`
	// At is when that check began, by its worker's clock.
	At time.Time `json:"at,omitzero"`
	// Since is since when the result is what it is. Of what is broken it is the last time that it was well, or when that was
	// first looked at.
	Since  time.Time `json:"since,omitzero"`
	Worker string    `json:"worker,omitempty"`
}

// checkup is a tenant's cell.
type checkup struct {
	Checkup
	// Of is the destination that was checked, see destinationDigest. What was found of another one says nothing.
	Of string `json:"of,omitempty"`
	// Tried is when the last check began that found nothing out, unless another one has since.
	Tried time.Time `json:"tried,omitzero"`
	// Claimed is when a worker began the check that is under way.
	Claimed   time.Time `json:"claimed,omitzero"`
	ClaimedBy string    `json:"claimed_by,omitempty"`
	// Untold is what has to be told yet: it is written with the result, and erased once it is told.
	Untold *contracts.Notice `json:"untold,omitempty"`
}

// due reports whether a destination is to be checked now, if its next scheduled snapshot is at run; zero: there is none.
func (k checkup) due(now, run time.Time, of string, cfg Config) bool {
	last := k.At
	if k.Of != of {
		last = time.Time{} // this one was never checked
	}
	before := run.Add(-cfg.CheckAhead) // a check since then is good enough for the run
	switch {
	case now.Sub(k.Claimed) < claimLife:
		return false
	case now.Sub(k.Tried) < againAfter(cfg):
		return false
	case last.IsZero():
		return true
	case cfg.CheckEvery > 0 && now.Sub(last) >= cfg.CheckEvery:
		return true
	default:
		return cfg.CheckAhead > 0 && !run.IsZero() && !now.Before(before) && last.Before(before)
	}
}

// againAfter is how long nothing is tried after a check that found nothing out.
func againAfter(cfg Config) time.Duration {
	if cfg.CheckEvery > 0 {
		return min(tryAgain, cfg.CheckEvery)
	}
	return tryAgain
}

// after is what is known once a check of the destination of has ended. What is inconclusive changes nothing of it, and of
// two checks at the same time the one that began later counts.
func (k checkup) after(found contracts.Check, of string) checkup {
	k.Claimed, k.ClaimedBy = time.Time{}, ""
	was, result := k.Checkup, found.Result()
	if why := found.Failure(); why != nil && why.Code == contracts.EndpointNotAllowed {
		result = contracts.CheckInconclusive // the workers' settings, or our record: no customer can have broken that
	}
	lead := was.At.Sub(found.At) // more than a check takes: the other worker's clock is wrong, and its check is over
	switch {
	case lead > 0 && lead < checkTime:
		return k
	case result != contracts.CheckOK && result != contracts.CheckFailed:
		k.Tried = found.At
		return k
	}
	k.Of, k.Tried = of, time.Time{}
	k.Checkup = Checkup{Result: result, Reason: found.Failure(), At: found.At, Since: was.Since, Worker: found.Worker}
	if result == was.Result {
		return k
	}
	k.Since = found.At
	switch {
	case result == contracts.CheckFailed:
		if was.Result == contracts.CheckOK {
			k.Since = was.At
		}
		k.Untold = &contracts.Notice{Tenant: found.Tenant, Kind: contracts.DestinationBroken, At: found.At, Reason: k.Reason, Since: k.Since}
	case was.Result == contracts.CheckFailed:
		k.Untold = &contracts.Notice{Tenant: found.Tenant, Kind: contracts.DestinationMended, At: found.At, Since: was.Since}
	}
	return k
}

// destinationDigest tells destinations apart, without saying what they are. The next external ID is none of it.
func destinationDigest(t contracts.Tenant) string {
	t.Destination.NextExternalID = ""
	data, _ := json.Marshal(t.Destination) // strings only
	return digestOf(data)
}

// checkups looks again and again, until ctx is done.
func (c *Consumer) checkups(ctx context.Context) {
	every := lookEvery // and often enough for a test that is in a hurry
	for _, d := range []time.Duration{c.cfg.CheckEvery, c.cfg.CheckAhead} {
		if d > 0 {
			every = min(every, max(d/4, 50*time.Millisecond))
		}
	}
	if c.cfg.CheckEvery < 0 && c.cfg.CheckAhead < 0 {
		return
	}
	for pause(ctx, every); ctx.Err() == nil; pause(ctx, every) {
		if err := c.checkupRound(ctx, every); err != nil && ctx.Err() == nil {
			c.cfg.Log.Warn().Err(err).Msg("not all destinations could be checked that are due, trying again")
		}
	}
}

// checkupRound checks what is due, if this worker is the one to do it.
func (c *Consumer) checkupRound(ctx context.Context, every time.Duration) error {
	known, err := c.checkupsKnown(ctx)
	if err != nil || !c.elected(ctx, c.fleet, checkupKey, every) {
		return err
	}
	names, err := c.tenants.Names(ctx)
	if err != nil {
		return err
	}
	var runs map[string]time.Time
	if c.upcoming != nil {
		if runs, err = c.upcoming(ctx); err != nil { // what is due by its age is checked all the same
			c.cfg.Log.Warn().Err(err).Msg("the schedules could not be read")
		}
	}
	err = each(ctx, names, func(ctx context.Context, name string) error {
		return c.checkup(ctx, name, known[name], runs[name])
	})
	for _, name := range names {
		delete(known, name)
	}
	gone := slices.Collect(maps.Keys(known))
	err = errors.Join(err, each(ctx, gone, func(ctx context.Context, name string) error {
		return c.fleet.Delete(ctx, checkupKeyOf(name))
	}))
	_, readErr := c.checkupsKnown(ctx)
	return errors.Join(err, readErr)
}

// checkupsKnown reads all cells, and counts the broken ones. Every worker does so every few minutes, so it is one question
// and not one for each tenant.
func (c *Consumer) checkupsKnown(ctx context.Context) (map[string]checkup, error) {
	reading, stop := context.WithTimeout(ctx, checkTime)
	defer stop()
	known, broken, all := map[string]checkup{}, int64(0), false
	var problem error
	err := c.fleet.Follow(reading, checkupKeyOf("*"), func(key string, value []byte) {
		if value == nil { // removed
			return
		}
		var k checkup
		if err := json.Unmarshal(value, &k); err != nil {
			problem = fmt.Errorf("read %s: %w", key, err)
		}
		known[strings.TrimPrefix(key, checkupKeyOf(""))] = k
	}, func() {
		all = true
		stop()
	})
	if err == nil && !all {
		err = context.Cause(reading)
	}
	if err = errors.Join(err, problem); err != nil {
		return nil, fmt.Errorf("read what is known of destinations: %w", err)
	}
	for _, k := range known {
		if k.Result == contracts.CheckFailed {
			broken++
		}
	}
	c.meters.broken.Record(ctx, broken)
	return known, nil
}

// readCheckup reads a cell. Revision 0: there is none.
func readCheckup(ctx context.Context, in cells, tenant string) (k checkup, revision uint64, err error) {
	value, revision, err := in.Get(ctx, checkupKeyOf(tenant))
	if errors.Is(err, errNoCell) {
		return k, 0, nil
	}
	if err == nil {
		err = json.Unmarshal(value, &k)
	}
	if err != nil {
		return k, 0, fmt.Errorf("read what is known of the destination of tenant %s: %w", tenant, err)
	}
	return k, revision, nil
}

// swapCheckup changes a cell, until nobody is in between or change reports that there is nothing to do.
func (c *Consumer) swapCheckup(ctx context.Context, tenant string, change func(*checkup) bool) (changed bool, err error) {
	for {
		k, rev, err := readCheckup(ctx, c.fleet, tenant)
		if err != nil || !change(&k) {
			return false, err
		}
		value, err := json.Marshal(k)
		if err != nil {
			return false, err
		}
		if rev == 0 {
			_, err = c.fleet.Create(ctx, checkupKeyOf(tenant), value)
		} else {
			_, err = c.fleet.Update(ctx, checkupKeyOf(tenant), value, rev)
		}
		if errors.Is(err, errSwapped) && ctx.Err() == nil {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("write what is known of the destination of tenant %s: %w", tenant, err)
		}
		return true, nil
	}
}

// checkup checks one destination, if it is due, and tells what was not told in time.
func (c *Consumer) checkup(ctx context.Context, name string, k checkup, run time.Time) error {
	t, err := c.tenants.Get(ctx, name)
	if _, rejected := contracts.AsRejection(err); rejected {
		return nil // removed in between, or a record that no job can use either
	}
	if err != nil {
		return err
	}
	if k.Untold != nil {
		if err := c.tell(ctx, name); err != nil {
			return err
		}
	}
	of := destinationDigest(t)
	if !k.due(time.Now(), run, of, c.cfg) {
		return nil
	}
	ours, err := c.swapCheckup(ctx, name, func(k *checkup) bool {
		due := k.due(time.Now(), run, of, c.cfg)
		k.Claimed, k.ClaimedBy = time.Now().UTC(), c.cfg.Worker
		return due
	})
	if err != nil || !ours {
		return err
	}
	// From here on no other worker checks it, until the claim is old.
	bounded, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	found := c.check(bounded, t)
	if ctx.Err() != nil {
		return nil // this worker stops: what it found is of no use, and the claim gets old
	}
	return c.keep(ctx, t, found)
}

// check tries a tenant's destination.
func (c *Consumer) check(ctx context.Context, t contracts.Tenant) contracts.Check {
	found := c.work.Check(ctx, t)
	found.Worker = c.cfg.Worker
	c.meters.checks.Add(ctx, 1, labels("result", string(found.Result())))
	return found
}

// keep writes down what a check of t has found, and tells what has changed by it.
func (c *Consumer) keep(ctx context.Context, t contracts.Tenant, found contracts.Check) error {
	of, untold := destinationDigest(t), false
	_, err := c.swapCheckup(ctx, t.Name, func(k *checkup) bool {
		*k = k.after(found, of)
		untold = k.Untold != nil
		return true
	})
	if err != nil || !untold {
		return err
	}
	return c.tell(ctx, t.Name)
}

// tell publishes a notice, and remembers that it did. A worker that dies in between leaves it to be told again.
func (c *Consumer) tell(ctx context.Context, tenant string) error {
	k, _, err := readCheckup(ctx, c.fleet, tenant)
	if err != nil || k.Untold == nil {
		return err
	}
	if err := c.ledger.Notify(ctx, *k.Untold); err != nil {
		return err
	}
	line := c.cfg.Log.Info()
	if k.Untold.Reason != nil {
		line = c.cfg.Log.Warn().Str("code", string(k.Untold.Reason.Code)).Str("reason", k.Untold.Reason.What)
	}
	line.Str("tenant", tenant).Time("since", k.Untold.Since).Msg(string(k.Untold.Kind))
	told := k.Untold.At
	_, err = c.swapCheckup(ctx, tenant, func(k *checkup) bool {
		same := k.Untold != nil && k.Untold.At.Equal(told)
		if same {
			k.Untold = nil
		}
		return same
	})
	return err
}

// Checkups are what the fleet knows of the tenants' destinations. It is safe for concurrent use.
type Checkups struct{ cells cells }

// OpenCheckups opens what [Setup] has made.
func OpenCheckups(ctx context.Context, js jetstream.JetStream) (*Checkups, error) {
	cells, err := openCells(ctx, js, contracts.FleetBucket)
	if err != nil {
		return nil, err
	}
	return &Checkups{cells}, nil
}

// Get returns what is known of a tenant's destination as its record has it now: nothing, when that has changed since.
func (c *Checkups) Get(ctx context.Context, t contracts.Tenant) (Checkup, error) {
	k, _, err := readCheckup(ctx, c.cells, t.Name)
	if err != nil || k.Of != destinationDigest(t) {
		return Checkup{}, err
	}
	return k.Checkup, nil
}
