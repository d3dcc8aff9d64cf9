package consumer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
)

// fate is what becomes of a message once this worker is through with it.
type fate struct {
	end    end
	delay  time.Duration // for later
	reason string        // for dropped
}

type end int

const (
	left    end = iota // neither acknowledged nor refused: the queue hands it out again after its ack wait
	later              // handed out again after delay
	acked              // the job is done
	dropped            // the job has failed, or the message is no request
)

// String is what JetStream calls it.
func (e end) String() string {
	return [...]string{left: "leave", later: "nak", acked: "ack", dropped: "term"}[e]
}

// claim decides, by one compare-and-swap, whether this worker works on the job that m asks for. It returns a
// lease on a record in whatever state the job has reached, or nil and the message's fate. The context is the job's.
// table is nil unless a schedule has made the request.
func (c *Consumer) claim(job context.Context, m message, req contracts.Request, table *timetable) (l *lease, f fate) {
	ctx, span := tracer().Start(job, "claim")
	defer func() { endClaim(span, l, f) }()
	key := recordKey(req.Tenant, req.Job)
	chair := &seat{c: c, tenant: req.Tenant, key: key}
	defer func() {
		if l == nil {
			chair.leave()
		}
	}()
	for {
		r, rev, err := c.records.get(ctx, key)
		if f, denied := c.denied(ctx, m, req, r, err); denied {
			return nil, f
		}
		var t turn
		if errors.Is(err, errNoCell) && isRun(m.Subject()) {
			decided, f, ok := c.turnOf(ctx, req, table)
			if !ok {
				return nil, f
			}
			t = decided
		}
		if begins := errors.Is(err, errNoCell) && t.skip == nil || err == nil && r.State == running && !r.Cancel && r.Owner == ""; begins {
			if delay, ok := chair.take(); !ok {
				return nil, fate{end: later, delay: delay}
			}
		}
		var next record
		kind := claimAgain
		if r.Owner != "" {
			kind = claimTakeover
		}
		switch {
		case errors.Is(err, errNoCell):
			made, f, ok := c.firstSight(ctx, m, req, t)
			if !ok {
				return nil, f
			}
			next, kind = made, claimFirst
		case errors.Is(err, errForeignVersion):
			return nil, c.postpone(ctx, err, c.cfg.Observe)
		case err != nil:
			return nil, c.postpone(ctx, err, c.cfg.RetryBase)
		case r.Digest != "" && r.Digest != req.Digest():
			return nil, c.bury(ctx, m, req.Job, contracts.Reject(contracts.JobConflict, "job %s of tenant %s was asked for before, with other content", req.Job, req.Tenant))
		case r.State.ended():
			return nil, fateOf(r)
		case r.Owner != "":
			if age := c.seen.unchanged(key, rev); age < c.cfg.Observe {
				// Alive as far as anyone can know. The message comes back when it would be time.
				return nil, fate{end: later, delay: c.cfg.Observe - age + rand.N(c.cfg.Heartbeat)}
			}
			if delay := c.pauses.wait(req.Tenant); delay > 0 && r.State == running && !r.Cancel {
				return nil, fate{end: later, delay: delay} // its owner is gone: going on is beginning anew
			}
			next = c.takeOver(r, req)
		case !r.Cancel && c.early(key, rev, r) > 0:
			return nil, fate{end: later, delay: c.early(key, rev, r)}
		default:
			next = c.takeOver(r, req)
		}
		if kind != claimFirst && !next.skipped() { // which leaves nothing behind; firstSight has made the note
			if err := c.records.Put(ctx, sweepKey(req.Tenant, req.Job), []byte("{}")); err != nil {
				return nil, c.postpone(ctx, fmt.Errorf("mark the job for the janitor: %w", err), c.cfg.RetryBase)
			}
		}
		next.Owner, next.Worker, next.NotBefore = nonce(), c.cfg.Worker, time.Time{}
		began := time.Now()
		written, err := c.records.swap(ctx, key, next, rev)
		switch {
		case err == nil:
			// From here on the job is ours, until a heartbeat fails.
			noteOwner(ctx, r)
			l = hold(job, c.records, key, m, c.cfg, next, written, began)
			l.seat = chair
			l.phased = func(phase contracts.Phase, took time.Duration) { c.meters.phase(job, string(phase), took) }
			c.meters.claim(job, kind, 1)
			return l, fate{}
		case errors.Is(err, errSwapped):
			continue // somebody was faster: look again
		default:
			return nil, c.postpone(ctx, err, c.cfg.RetryBase)
		}
	}
}

// denied is the fate of a message whose job this worker may not claim, whatever the record's state: a fault of the worker
// bars it, or the job's id belongs to a run of the tenant's schedule, and the message does not, or the other way round.
// readErr is how reading r ended.
func (c *Consumer) denied(ctx context.Context, m message, req contracts.Request, r record, readErr error) (f fate, denied bool) {
	if delay, barred := c.barred(ctx, m, req, r, readErr); barred {
		return fate{end: later, delay: delay}, true
	}
	switch {
	case errors.Is(readErr, errNoCell) && !isRun(m.Subject()):
		why, err := c.takesRun(ctx, req, time.Now())
		if err != nil {
			return c.postpone(ctx, err, c.cfg.RetryBase), true
		}
		if why != nil {
			return c.bury(ctx, m, req.Job, why), true
		}
	case readErr == nil && isRun(m.Subject()) && r.before(req):
		return c.bury(ctx, m, req.Job, contracts.Reject(contracts.JobConflict, "job %s of tenant %s was asked for before the schedule's time, by a request: it is not this run", req.Job, req.Tenant)), true
	}
	return fate{}, false
}

// early is how long r, at that revision, is not to be touched. NotBefore is of another host's clock, which may be days
// ahead: no delay is longer than the longest there is, by our own.
func (c *Consumer) early(key string, rev uint64, r record) time.Duration {
	return min(time.Until(r.NotBefore), max(c.cfg.RetryMax, signatureLife)-c.seen.unchanged(key, rev))
}

// firstSight is the record of a job that has none: new, or delivered before and forgotten since, or to be given up at
// once. That goes through the record, too: another holder of the message may see the registry otherwise, and begin. ok
// is false when there is to be no record, and f is the message's fate.
func (c *Consumer) firstSight(ctx context.Context, m message, req contracts.Request, t turn) (r record, f fate, ok bool) {
	now := time.Now().UTC()
	r = record{
		State: running, Epoch: 1, Request: req, Digest: req.Digest(), Attempt: 1, AttemptID: attemptID(1),
		CreatedAt: now, Deadline: now.Add(c.cfg.Deadline),
	}
	r.TraceID, r.Trace = traceOf(ctx)
	if t.run != nil {
		run := *t.run
		run.LateSeconds = max(0, int64(now.Sub(run.FiredAt).Seconds()))
		r.Schedule = &run
	}
	if t.skip != nil { // no attempt, and nobody's bucket is asked
		r.Attempt, r.AttemptID = 0, ""
		return c.unlessEnded(ctx, m, r.givenUp(t.skip))
	}
	if err := req.ValidateAt(m.Published()); err != nil { // it would never be too old
		rejection, _ := contracts.AsRejection(err)
		return r, c.bury(ctx, m, req.Job, rejection), false
	}
	age := now.Sub(req.RequestedAt) - c.pauses.held(req.Tenant, req.RequestedAt, now)
	if age > c.cfg.MaxAge {
		return r, c.bury(ctx, m, req.Job, contracts.Reject(contracts.RequestExpired, "the request is %v old, the limit is %v; pauses do not count", age.Round(time.Second), c.cfg.MaxAge)), false
	}
	a, err := c.attemptOf(ctx, r)
	if rejection, rejected := contracts.AsRejection(err); rejected {
		if m.Delivered() < 2 { // the registry may lag behind the publisher
			return r, fate{end: later, delay: min(5*time.Second, c.cfg.Observe)}, false
		}
		return c.unlessEnded(ctx, m, r.givenUp(rejection))
	} else if err != nil {
		return r, c.postpone(ctx, err, c.cfg.RetryBase), false
	}
	return c.existingDelivery(ctx, m, r, a)
}

// existingDelivery ends [Consumer.firstSight]: the bucket is the second witness of a commit. A record may be lost where the
// delivery is not.
func (c *Consumer) existingDelivery(ctx context.Context, m message, r record, a contracts.Attempt) (_ record, f fate, ok bool) {
	req := r.Request
	c.routes.aim(req.Tenant, destinationOf(a))
	note, err := c.countLook(ctx, &r)
	if err != nil {
		return r, c.postpone(ctx, err, c.cfg.RetryBase), false
	}
	if r.Crashes > c.cfg.Crashes {
		return c.unlessEnded(ctx, m, r.givenUp(&contracts.Rejection{Code: contracts.CrashLoop, Err: fmt.Errorf(
			"%d workers went silent while they looked for a delivery in %s", r.Crashes, manifestURL(a))}))
	}
	look, cancel := context.WithTimeout(ctx, c.cfg.Fence) // nobody holds the job yet, so not for long
	defer cancel()
	look, stop := c.whileStaying(look)
	defer stop()
	found, err := c.work.Delivered(look, a)
	if _, faulty := contracts.AsWorkerFault(err); faulty {
		err = nil // it was not looked: the attempt meets the fault again, and the record keeps it for people to see
	}
	rejection, rejected := contracts.AsRejection(err)
	if err != nil && !rejected {
		away := unreachable(err) || look.Err() != nil
		c.routes.report(req.Tenant, away)
		c.endLook(ctx, req, note, r.Crashes)
		// There is no record to count in, and the circuit is this worker's own: without the count of the whole fleet, each
		// worker would find out anew, with a slot, that nothing answers.
		if away || m.Delivered() <= mostLooks {
			return r, c.postpone(ctx, err, retryDelay(int(m.Delivered())-1, c.cfg)), false
		}
		// It answers, and nothing comes of it: the attempts meet that again. They are counted, and end.
	}
	switch {
	case rejected && rejection.Code == contracts.DestinationTaken:
		return c.unlessEnded(ctx, m, r.givenUp(rejection))
	case found == nil: // or we are not let in: the attempt meets that again, and there it is counted, and judged
		return c.unlessEnded(ctx, m, r)
	}
	d, err := witness(a, found)
	if err != nil { // it has ended, and this is no request for it
		return r, c.bury(ctx, m, req.Job, &contracts.Rejection{Code: contracts.JobConflict, Err: err}), false
	}
	r.State, r.Delivery, r.AttemptID = committed, d, d.AttemptID
	return r, fate{}, true
}

// mostLooks is how often a message is handed out before an unknown failure begins an attempt all the same.
const mostLooks = 20

// countLook counts, before there is a record, that this worker looks into the job's folder, where anything may be: it is
// the note for the janitor that holds the count. What an earlier look has left there is a worker that went silent: it is
// in r.Crashes. So whatever kills workers there comes to an end.
func (c *Consumer) countLook(ctx context.Context, r *record) (note uint64, err error) {
	key := sweepKey(r.Request.Tenant, r.Request.Job)
	value, _ := json.Marshal(sweep{Looks: 1})
	for {
		note, err := c.records.Create(ctx, key, value)
		if err == nil || !errors.Is(err, errSwapped) {
			return note, lookError(err)
		}
		old, rev, err := c.records.Get(ctx, key)
		if errors.Is(err, errNoCell) { // the janitor was faster
			continue
		}
		var s sweep
		if err == nil {
			err = json.Unmarshal(old, &s)
		}
		if err != nil {
			return 0, lookError(err)
		}
		r.Crashes = s.Looks
		s.Looks++
		more, _ := json.Marshal(s)
		if note, err = c.records.Update(ctx, key, more, rev); err == nil || !errors.Is(err, errSwapped) {
			return note, lookError(err)
		}
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
	}
}

func lookError(err error) error {
	if err != nil {
		err = fmt.Errorf("count a look into the bucket: %w", err)
	}
	return err
}

// endLook takes a look back that ended without a record. Should it fail, one crash too many is counted.
func (c *Consumer) endLook(ctx context.Context, req contracts.Request, note uint64, before int) {
	value, _ := json.Marshal(sweep{Looks: before})
	_, _ = c.records.Update(ctx, sweepKey(req.Tenant, req.Job), value, note)
}

// unlessEnded is firstSight's last question: an outcome is the third witness of a job, and says that its id is used
// up. There is no second end of a job, so there is no second beginning; the request is kept, for people to see.
func (c *Consumer) unlessEnded(ctx context.Context, m message, r record) (record, fate, bool) {
	o, err := c.ledger.Outcome(ctx, r.Request.Tenant, r.Request.Job)
	switch {
	case err != nil:
		return r, c.postpone(ctx, fmt.Errorf("look for an outcome: %w", err), c.cfg.RetryBase), false
	case o != nil:
		// Unless the record is not gone, but has come since we looked: another holder of the message was faster.
		if _, _, err := c.records.get(ctx, recordKey(o.Tenant, o.Job)); !errors.Is(err, errNoCell) {
			return r, fate{end: later, delay: c.cfg.Heartbeat}, false
		}
		return r, c.bury(ctx, m, r.Request.Job, contracts.Reject(contracts.JobConflict,
			"job %s of tenant %s has ended before (%s), and its record is gone: ask again with another job id", o.Job, o.Tenant, o.Kind)), false
	}
	return r, fate{}, true
}

// errOtherContent: the same job was delivered for another wish.
var errOtherContent = errors.New("it was asked for before, with other content")

// witness is what the record keeps of a delivery that was found. The error Is errOtherContent.
func witness(a contracts.Attempt, found *contracts.FoundDelivery) (*delivery, error) {
	m := found.Manifest
	if asked := a.Request; m.Only != asked.Only || asked.Format != "" && m.Format != asked.Format {
		return nil, fmt.Errorf("the folder %s holds this job's delivery: %w", a.Prefix(), errOtherContent)
	}
	return &delivery{
		AttemptID: m.Attempt, Manifest: manifestURL(a), ManifestSHA256: found.SHA256, Totals: m.Totals,
	}, nil
}

func manifestURL(a contracts.Attempt) string {
	return "s3://" + a.Tenant.Destination.Bucket + "/" + a.Prefix() + contracts.ManifestName
}

// takeOver is the record as its next owner writes it: the same state, one epoch on. A job that still runs gets
// a new attempt, unless its last one has kept a plan, or the job's time or its workers are spent. Blame is raised before work starts, so that input
// that kills its workers comes to an end.
func (c *Consumer) takeOver(r record, req contracts.Request) record {
	next := r
	next.Epoch++
	if r.Digest == "" { // cancelled before anybody had seen the request
		next.Request, next.Digest = req, req.Digest()
	}
	if r.Owner != "" {
		next.Crashes++
		next.Vain++
	}
	if r.State != running {
		return next
	}
	now := time.Now()
	next.Deadline = r.Deadline.Add(c.pauses.held(req.Tenant, r.UpdatedAt, now)) // since nobody has written it any more
	var why *contracts.Rejection
	switch last := r.LastError; {
	case r.Cancel:
		why, _ = contracts.AsRejection(errCancelled)
	case next.Crashes > c.cfg.Crashes:
		why = &contracts.Rejection{Code: contracts.CrashLoop, Err: fmt.Errorf("%d workers went silent over it; last error: %s", next.Crashes, orNone(last))}
	case now.After(next.Deadline):
		why = &contracts.Rejection{Code: contracts.DeadlineExceeded, Err: fmt.Errorf("not delivered by %s; last error: %s", next.Deadline.Format(time.RFC3339), orNone(last))}
	case next.resumable():
		return next
	default:
		next.Attempt++
		next.Plan, next.Vain = nil, 0
		next.AttemptID = attemptID(next.Attempt)
		next.Progress = contracts.Progress{}
		return next
	}
	return next.givenUp(why)
}

// givenUp is r, FAILING.
func (r record) givenUp(why *contracts.Rejection) record {
	r.State, r.Reason = failing, why.Reason()
	return r
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// attemptOf joins the record with the tenant's own record, as it is now.
func (c *Consumer) attemptOf(ctx context.Context, r record) (contracts.Attempt, error) {
	t, err := c.tenants.Get(ctx, r.Request.Tenant)
	if err != nil {
		return contracts.Attempt{}, err
	}
	return contracts.Attempt{Request: r.Request, Tenant: t, Number: r.Attempt, ID: r.AttemptID, Conflicts: r.Conflicts, FleetKey: c.fleetKey}, nil
}

// postpone lets the message come again; err is logged with the job, because nothing else records it.
func (c *Consumer) postpone(ctx context.Context, err error, delay time.Duration) fate {
	if others, ok := c.delays.allow(time.Now()); ok {
		line := c.log(ctx).Warn().Err(err).Dur("delay", delay)
		if others > 0 {
			line = line.Int("others_not_logged", others)
		}
		line.Msg("request postponed")
	}
	return fate{end: later, delay: delay}
}
