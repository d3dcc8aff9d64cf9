package consumer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
)

// serve takes one message as far as it can go, and settles it.
func (c *Consumer) serve(ctx context.Context, m message) {
	ctx, span := c.startJob(ctx, m)
	defer span.End()
	c.meters.busy.Add(ctx, 1)
	defer c.meters.busy.Add(ctx, -1)
	c.settle(ctx, m, c.process(ctx, m))
}

// process is the whole story of one message.
func (c *Consumer) process(ctx context.Context, m message) fate {
	began := time.Now()
	req, table, err := asked(m.Subject(), m.Data(), m.Published())
	if err == nil && req.Tenant != m.Tenant() {
		err = contracts.Reject(contracts.InvalidRequest, "the request is for tenant %s, the subject for %.80q", req.Tenant, m.Tenant())
	}
	if err != nil {
		return c.bury(ctx, m, req.Job, err)
	}
	if table != nil {
		body, _ := json.Marshal(req) // of strings, and of an instant that was read from one
		m = asRequest{m, body}
	}
	ctx = c.nameJob(ctx, req)
	switch {
	case table == nil:
	case table.setAfter(req.RequestedAt, m.Published()):
		c.log(ctx).Info().Time("published", m.Published()).Msg("no run: the schedule was set after the time that NATS has fired for")
		return fate{end: acked}
	case table.firedAgain(req.RequestedAt, m.Published()) && m.Delivered() <= 1:
		c.log(ctx).Info().Time("published", m.Published()).Msg("no second run: the clocks went back, and NATS has fired again for this local time")
	}
	l, f := c.claim(ctx, m, req, table)
	if l == nil {
		return f
	}
	defer l.seat.leave()
	defer l.release()
	c.noteClaim(ctx, l.record())
	if l.record().Epoch == 1 {
		c.noteWait(ctx, m, began)
	}
	for {
		step, err := c.step(l)
		if err == nil && step == "" {
			return fateOf(l.record())
		}
		if err == nil {
			c.meters.step(ctx, step, stepOK)
			continue
		}
		if f, over := c.conclude(ctx, l, step, err); over {
			return f
		}
	}
}

// step does what the record's state asks for next, and moves the record on. It does not matter who brought the
// record to that state: success and recovery are the same code. An empty name means that nothing is left to do.
func (c *Consumer) step(l *lease) (name string, err error) {
	r := l.record()
	var do func(context.Context, *lease, record) error
	switch r.State {
	case running:
		name, do = "prepare", c.prepare
	case committing:
		name, do = "complete", c.complete
	case sealing:
		name, do = "seal", c.seal
	case committed:
		name, do = "announce", c.announce
	case failing:
		name, do = "give up", c.abandon
	default:
		return "", nil
	}
	ctx, span := c.startStep(l.ctx, name, r)
	began := time.Now()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
		err = because(l.ctx, err)
		endStep(span, err)
		if err == nil && r.State.visible() {
			c.meters.phase(ctx, name, time.Since(began))
		}
	}()
	return name, do(ctx, l, r)
}

// prepare runs one attempt. It ends at the point of no return.
func (c *Consumer) prepare(ctx context.Context, l *lease, r record) error {
	a, err := c.attemptOf(ctx, r)
	if err != nil {
		return err
	}
	if len(r.Uploads) > 0 && !r.resumable() { // an earlier attempt's
		if err := c.work.Abort(ctx, a, r.Uploads); err != nil {
			return fmt.Errorf("clean up after an earlier attempt: %w", err)
		}
		if err := l.update(ctx, func(r *record) { r.Uploads = nil }); err != nil {
			return err
		}
	}
	if r.Epoch == 1 {
		c.noteRecord(ctx, a.Tenant)
	}
	c.routes.aim(r.Request.Tenant, destinationOf(a))
	attempt, cancel := l.begin()
	defer cancel(nil)
	receipt, err := c.work.Prepare(spanInto(attempt, ctx), a, l)
	if err != nil {
		return because(attempt, err)
	}
	if attempt.Err() != nil {
		return context.Cause(attempt) // the wish to cancel wins as long as it can
	}
	// From here on everything is durable in the customer's bucket, and nothing of it is visible.
	c.routes.report(r.Request.Tenant, false)
	d, pieces, err := seal(a, receipt)
	if err != nil {
		return err
	}
	if err := c.records.keepReceipt(ctx, r, d, pieces); err != nil {
		return err
	}
	l.Progress(func(p *contracts.Progress) { p.Phase, p.Current = contracts.Committing, "" })
	return l.update(ctx, func(r *record) {
		// From here on the job can only go forward, by this worker or by any other: that is what
		// this one write means.
		r.State, r.Delivery = committing, d
	})
}

// seal encodes a receipt and sums it up for the record.
func seal(a contracts.Attempt, receipt contracts.Receipt) (*delivery, [][]byte, error) {
	if receipt.Attempt != a.ID {
		return nil, nil, fmt.Errorf("the receipt is of attempt %s, not of %s", receipt.Attempt, a.ID)
	}
	m, err := contracts.DecodeManifest(receipt.Manifest)
	if err == nil && (m.Tenant != a.Tenant.Name || m.Job != a.Request.Job) {
		err = fmt.Errorf("it is of %s, not of %s", contracts.JobPrefix(m.Tenant, m.Job), a.Prefix())
	}
	var d *delivery
	if err == nil {
		d, err = witness(a, &contracts.FoundDelivery{Manifest: m, SHA256: digestOf(receipt.Manifest)})
	}
	if err != nil {
		return nil, nil, fmt.Errorf("the receipt's manifest: %w", err)
	}
	pieces, digest, err := receipt.Pieces()
	if err != nil {
		return nil, nil, err
	}
	d.Pieces, d.Digest = len(pieces), digest
	return d, pieces, nil
}

// complete makes the volumes of the recorded receipt visible.
func (c *Consumer) complete(ctx context.Context, l *lease, r record) error {
	a, receipt, err := c.recorded(ctx, l, r)
	if err != nil {
		return err
	}
	if err := c.work.Complete(ctx, a, receipt); err != nil {
		return err
	}
	// From here on the manifest may come to stand at any moment, and nobody can call the job failed who has not
	// looked. Until this write nobody has asked for it: no worker does without having read SEALING.
	return l.update(ctx, func(r *record) { r.State, r.Cancel = sealing, false })
}

// seal writes the manifest.
func (c *Consumer) seal(ctx context.Context, l *lease, r record) error {
	a, receipt, err := c.recorded(ctx, l, r)
	if err != nil {
		return err
	}
	if err := c.work.Seal(ctx, a, receipt); err != nil {
		return err
	}
	// From here on the customer has the snapshot: every volume is verified and the manifest stands.
	return l.update(ctx, func(r *record) { r.State, r.Uploads = committed, nil })
}

// recorded is the receipt, as the record's state has it, and the attempt that it is of. What was read of it by its
// digest once need not be read again.
func (c *Consumer) recorded(ctx context.Context, l *lease, r record) (contracts.Attempt, contracts.Receipt, error) {
	a, err := c.attemptOf(ctx, r)
	if err != nil {
		return a, contracts.Receipt{}, err
	}
	a.ID = r.Delivery.AttemptID
	if l.read.digest == r.Delivery.Digest && l.read.receipt.Attempt == a.ID {
		return a, l.read.receipt, nil
	}
	receipt, err := c.records.receipt(ctx, r)
	if err == nil {
		l.read.receipt, l.read.digest = receipt, r.Delivery.Digest
	}
	return a, receipt, err
}

// announce publishes the outcome, once and for ever.
func (c *Consumer) announce(ctx context.Context, l *lease, r record) error {
	o := c.deliveredOutcome(r)
	if err := c.publish(ctx, o); err != nil {
		return err
	}
	c.noteDelivery(ctx, r)
	// From here on the job is over for everybody; what is left is to stop the queue from reminding us.
	if err := l.update(ctx, func(r *record) { r.State, r.EndedAt, r.LastError = done, time.Now().UTC(), "" }); err != nil {
		return err
	}
	c.noteEnd(ctx, r, o)
	return nil
}

// abandon ends a job that was given up: no uploads, one outcome, one dead letter if it has failed.
func (c *Consumer) abandon(ctx context.Context, l *lease, r record) error {
	if !r.skipped() { // which has uploaded nothing
		a, err := c.attemptOf(ctx, r)
		if err == nil {
			abort, stop := c.whileStaying(ctx)
			err = because(abort, c.work.Abort(abort, a, r.Uploads))
			stop()
		}
		if errors.Is(err, ErrShutdown) {
			return err // the next worker does it
		}
		if _, rejected := contracts.AsRejection(err); err != nil && !rejected && r.Errors < c.cfg.Attempts+3 {
			return fmt.Errorf("abort the uploads: %w", err)
		}
	}
	// A customer who has locked us out keeps our uploads until we are let in (the janitor tries again) or
	// the bucket's lifecycle rule removes them; that must not keep the job from ending.
	o := c.failedOutcome(r)
	if err := c.publish(ctx, o); err != nil {
		return err
	}
	if o.Kind == contracts.Failed {
		why := &contracts.Rejection{Code: o.Reason.Code, Err: errors.New(o.Reason.What)}
		if err := c.ledger.Bury(ctx, l.msg, r.Request.Job, why); err != nil {
			return fmt.Errorf("dead-letter the request: %w", err)
		}
	}
	if err := l.update(ctx, func(r *record) { r.State, r.EndedAt = failed, time.Now().UTC() }); err != nil {
		return err
	}
	c.noteEnd(ctx, r, o)
	return nil
}

// publish writes the outcome, or finds that the same one stands already.
func (c *Consumer) publish(ctx context.Context, o contracts.Outcome) error {
	stands, err := c.ledger.Publish(ctx, o)
	if err != nil {
		return fmt.Errorf("publish the outcome: %w", err)
	}
	if stands.Kind.OK() != o.Kind.OK() {
		return fmt.Errorf("the outcome of job %s of tenant %s stands as %q, but the record says %q: somebody else writes outcomes", o.Job, o.Tenant, stands.Kind, o.Kind)
	}
	return nil
}

func (c *Consumer) deliveredOutcome(r record) contracts.Outcome {
	o := c.outcome(r, contracts.Delivered)
	if r.Delivery.Totals.Gaps > 0 {
		o.Kind = contracts.DeliveredWithGaps
	}
	o.Attempt, o.Manifest, o.ManifestSHA256 = r.Delivery.AttemptID, r.Delivery.Manifest, r.Delivery.ManifestSHA256
	o.Totals = &r.Delivery.Totals
	return o
}

func (c *Consumer) failedOutcome(r record) contracts.Outcome {
	o := c.outcome(r, contracts.Failed)
	o.Reason = r.Reason
	if o.Reason == nil {
		o.Reason = &contracts.Reason{Code: contracts.CancelledByUser}
	}
	switch {
	case o.Reason.Code == contracts.CancelledByUser:
		o.Kind = contracts.Cancelled
	case r.skipped():
		o.Kind = contracts.Skipped
	}
	return o
}

func (c *Consumer) outcome(r record, kind contracts.OutcomeKind) contracts.Outcome {
	return contracts.Outcome{
		Version: contracts.OutcomeVersion, Tenant: r.Request.Tenant, Job: r.Request.Job, Kind: kind,
		Attempt: r.AttemptID, Attempts: r.Attempt, EndedAt: time.Now().UTC(), TraceID: r.TraceID, Schedule: r.Schedule,
	}
}

// conclude turns a step's error into an act. over is false when the job goes on in another state.
func (c *Consumer) conclude(ctx context.Context, l *lease, step string, err error) (f fate, over bool) {
	r := l.record()
	err = c.ownFault(ctx, r.Request.Tenant, err)
	v := judge(err, r, c.cfg, time.Now())
	if v.act != letGo && v.act != release && slices.Contains([]state{running, committing, sealing}, r.State) {
		c.routes.report(r.Request.Tenant, unreachable(err))
	}
	if lost := c.carryOut(ctx, l, r, v, err); lost != nil {
		// What cannot be recorded is not done: another worker goes on from what stands in the record.
		v, err = verdict{act: letGo}, fmt.Errorf("%w, over: %w", lost, err)
	}
	c.noteError(ctx, r, step, v, err)
	switch v.act {
	case letGo:
		return fate{end: left}, true
	case giveUp:
		return fate{}, false
	}
	return fate{end: later, delay: v.delay}, true
}

// carryOut records what was judged of a step's error.
func (c *Consumer) carryOut(ctx context.Context, l *lease, r record, v verdict, err error) error {
	// It must be recorded although the work was cancelled, but not for ever: whoever takes over would have to wait.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.cfg.Fence)
	defer cancel()
	switch v.act {
	case letGo:
		return nil
	case giveUp:
		return c.fail(ctx, l, r, v.reason)
	case retry:
		if r.State == running && !r.resumable() {
			c.tidy(ctx, l, r)
		}
	}
	l.rest()
	return l.update(ctx, func(r *record) {
		r.Owner, r.Worker, r.LastError = "", "", firstLine(err)
		if v.act != release {
			r.Errors++
			r.Vain++
			if conflicted(err) {
				r.Conflicts++
			}
		}
		if v.delay > 0 {
			r.NotBefore = time.Now().Add(v.delay).UTC()
		}
		if v.act == restart {
			r.State, r.Delivery, r.Plan = running, nil, nil
		}
	})
}

// fail records that the job is given up, after a last look at the bucket: a manifest that stands there has
// ended the job already, whoever wrote it and whatever went wrong since.
func (c *Consumer) fail(ctx context.Context, l *lease, r record, why *contracts.Rejection) error {
	found, err := c.found(ctx, r)
	if err != nil && r.State == sealing {
		return err // whether the manifest stands nobody can say: not the time to call the job failed
	}
	return l.update(ctx, func(r *record) {
		if found == nil {
			r.State, r.Reason = failing, why.Reason()
			return
		}
		r.State, r.Delivery, r.Uploads, r.Cancel = committed, found, nil, false
	})
}

// found is the delivery that stands in the job's folder, or nil when there is none.
func (c *Consumer) found(ctx context.Context, r record) (*delivery, error) {
	a, err := c.attemptOf(ctx, r)
	var there *contracts.FoundDelivery
	if err == nil {
		there, err = c.work.Delivered(ctx, a)
	}
	if rejection, ok := contracts.AsRejection(err); ok && rejection.Code == contracts.DestinationTaken {
		return nil, nil // a stranger's
	}
	if err != nil || there == nil {
		return nil, err
	}
	d, err := witness(a, there)
	if err != nil {
		return nil, nil // it was delivered for another wish
	}
	return d, nil
}

// tidy aborts what a failed attempt has uploaded, as long as the job is ours. Should it fail, the next attempt does it.
func (c *Consumer) tidy(ctx context.Context, l *lease, r record) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.ctx, cancel)()
	a, err := c.attemptOf(ctx, r)
	if err != nil || len(r.Uploads) == 0 || l.ctx.Err() != nil {
		return
	}
	if err := c.work.Abort(ctx, a, r.Uploads); err != nil {
		return
	}
	_ = l.update(ctx, func(r *record) { r.Uploads = nil })
}

// fateOf is what becomes of the message of a job that has ended.
func fateOf(r record) fate {
	if r.State == done || r.skipped() {
		return fate{end: acked}
	}
	f := fate{end: dropped, reason: string(failed)}
	if r.Reason != nil {
		f.reason = string(r.Reason.Code)
	}
	return f
}

// settle tells the queue. Nothing depends on its being heard: a message that comes again finds the record.
func (c *Consumer) settle(ctx context.Context, m message, f fate) {
	ctx, span := c.startSettle(ctx, m, f)
	defer span.End()
	ctx = context.WithoutCancel(ctx)
	var tell func(context.Context) error
	switch f.end {
	case left:
		return
	case later:
		_ = m.Nak(c.spacing.delay(tenantOf(m), f.delay, time.Now()))
		return
	case acked:
		tell = m.Ack
	case dropped:
		tell = func(ctx context.Context) error { return m.Term(ctx, f.reason) }
	}
	for try := range 3 {
		if try > 0 && c.leaving.Err() != nil {
			return // it comes again, and the worker that takes it finds the record
		}
		round, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := tell(round)
		cancel()
		if err == nil {
			return
		}
	}
}

// firstLine is an error as a record keeps it: short, and without a stack.
func firstLine(err error) string {
	s := err.Error()
	for i, c := range s {
		if c == '\n' && i > 0 {
			s = s[:i]
			break
		}
	}
	return contracts.CutText(s, 1000)
}
