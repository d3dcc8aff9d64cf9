package consumer

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/snapfleet/snapfleet/contracts"
)

// ErrNoJob: there is neither a record, nor a queued request, nor an outcome of the job.
var ErrNoJob = errors.New("no such job")

// ErrQueueFull: the server takes no more requests now, because as many wait as it keeps, for the tenant
// ([contracts.MaxTenantRequests]) or for all.
var ErrQueueFull = errors.New("the queue is full")

// ErrTooLate: the job can no longer be cancelled.
var ErrTooLate = errors.New("too late to cancel")

// Status is where a job stands, for people and programs outside the fleet.
type Status struct {
	Tenant string `json:"tenant"`
	Job    string `json:"job"`
	// State is queued, running, waiting (for a retry), committing, sealing, committed, failing, done or failed.
	State string `json:"state"`
	// Attempt is the number of the attempt under way, or of the last one.
	Attempt int `json:"attempt,omitempty"`
	// Errors is how many attempts ended in an error; Crashes how many workers went silent.
	Errors          int                `json:"errors,omitempty"`
	Crashes         int                `json:"crashes,omitempty"`
	Worker          string             `json:"worker,omitempty"`
	Progress        contracts.Progress `json:"progress,omitzero"`
	LastError       string             `json:"last_error,omitempty"`
	RequestedAt     time.Time          `json:"requested_at,omitzero"`
	CreatedAt       time.Time          `json:"created_at,omitzero"`
	UpdatedAt       time.Time          `json:"updated_at,omitzero"`
	NotBefore       time.Time          `json:"not_before,omitzero"`
	EndedAt         time.Time          `json:"ended_at,omitzero"`
	CancelRequested bool               `json:"cancel_requested,omitempty"`
	Reason          *contracts.Reason  `json:"reason,omitempty"`
	TraceID         string             `json:"trace_id,omitempty"`
	// Schedule says which run of the tenant's schedule the job is. Nil: nobody's, or it was cancelled before it began.
	Schedule *contracts.ScheduledRun `json:"schedule,omitempty"`
	Outcome  *contracts.Outcome      `json:"outcome,omitempty"`
	// Totals and Manifest are of the delivery, once the customer has it.
	Totals   *contracts.Totals `json:"totals,omitempty"`
	Manifest string            `json:"manifest,omitempty"`
	// Paused says why a job that is queued or waiting is not begun.
	Paused *Pause `json:"paused,omitempty"`

	unbegun bool // nobody works on it, and a pause would keep it so
}

// Took is how long the job takes, from its first attempt to its end, or to the last sign of life; 0: nobody has begun.
func (s Status) Took() time.Duration {
	end := s.EndedAt
	if end.IsZero() {
		end = s.UpdatedAt
	}
	if s.Attempt == 0 || s.CreatedAt.IsZero() || end.Before(s.CreatedAt) {
		return 0
	}
	return end.Sub(s.CreatedAt)
}

// Ended reports whether the job is over and its outcome stands.
func (s Status) Ended() bool { return s.Outcome != nil }

// Jobs is what publishers and operators do with jobs. It is safe for concurrent use.
type Jobs struct {
	js      jetstream.JetStream
	records records
	ledger  streams
	cells   bucketCells // of the records, too
	fleet   cells
	pauses  *Pauses
}

// OpenJobs opens what [Setup] has made.
func OpenJobs(ctx context.Context, js jetstream.JetStream) (*Jobs, error) {
	cells, err := openCells(ctx, js, contracts.JobBucket)
	if err != nil {
		return nil, err
	}
	outcomes, err := openLedger(ctx, js)
	if err != nil {
		return nil, err
	}
	fleet, err := openCells(ctx, js, contracts.FleetBucket)
	if err != nil {
		return nil, err
	}
	return &Jobs{js: js, records: records{cells: cells}, ledger: outcomes, cells: cells, fleet: fleet, pauses: &Pauses{fleet}}, nil
}

// Submit publishes a request, with a copy of header. duplicate says that the job was asked for before, and that nothing was added; a job
// whose id was used before, with the same content, is also harmless after that.
func (j *Jobs) Submit(ctx context.Context, req contracts.Request, header contracts.Header) (duplicate bool, err error) {
	if err := req.Validate(); err != nil {
		return false, err
	}
	r, _, err := j.records.get(ctx, recordKey(req.Tenant, req.Job))
	if err == nil && r.Digest != "" && r.Digest != req.Digest() {
		return false, contracts.Reject(contracts.JobConflict, "job %s of tenant %s was asked for before, with other content", req.Job, req.Tenant)
	}
	duplicate, err = j.publish(ctx, req, header, contracts.RequestMsgID(req.Tenant, req.Job))
	if err != nil || !duplicate {
		return duplicate, err
	}
	// The queue goes by a header, which anybody may have used, and which outlives a request that was refused: only a
	// job that is known has been asked for.
	s, err := j.Status(ctx, req.Tenant, req.Job)
	if err == nil && (s.State != string(failed) || s.Outcome != nil) {
		return true, nil
	}
	if err != nil && !errors.Is(err, ErrNoJob) {
		return false, fmt.Errorf("see whether the job is known: %w", err)
	}
	return j.publish(ctx, req, header, "")
}

// Publish is [Jobs.Submit] for a user who may publish requests and read nothing. It cannot see whether the job was asked for
// before: a worker finds that out. One with other content becomes a dead letter. The message has no id, because the server
// drops a message whose id it knows, also when no request of that id was kept.
func Publish(ctx context.Context, js jetstream.JetStream, req contracts.Request, header contracts.Header) (duplicate bool, err error) {
	if err := req.Validate(); err != nil {
		return false, err
	}
	return (&Jobs{js: js}).publish(ctx, req, header, "")
}

func (j *Jobs) publish(ctx context.Context, req contracts.Request, header contracts.Header, id string) (duplicate bool, err error) {
	body, err := json.Marshal(req)
	if err != nil {
		return false, fmt.Errorf("encode the request: %w", err)
	}
	m := &nats.Msg{Subject: contracts.RequestSubject(req.Tenant), Data: body, Header: nats.Header{}}
	for name, values := range header { // a copy: the options below write into it
		m.Header[name] = slices.Clone(values)
	}
	options := []jetstream.PublishOpt{jetstream.WithExpectStream(contracts.RequestStream)}
	if id != "" {
		options = append(options, jetstream.WithMsgID(id))
	}
	ack, err := j.js.PublishMsg(ctx, m, options...)
	if refused, ok := errors.AsType[*jetstream.APIError](err); ok && refused.ErrorCode == storeRefused {
		return false, fmt.Errorf("publish the request for tenant %s: %w: %w", req.Tenant, ErrQueueFull, err)
	}
	if err != nil {
		return false, fmt.Errorf("publish the request: %w", notSetUp(err))
	}
	// From here on the request is kept by the queue until the job has ended.
	return ack.Duplicate, nil
}

// storeRefused is JetStream's code for a message that a limit of the stream keeps out.
const storeRefused = 10077

// Status is where one job stands, or [ErrNoJob].
func (j *Jobs) Status(ctx context.Context, tenant, job string) (Status, error) {
	s, err := j.status(ctx, tenant, job)
	if err != nil || !s.unbegun {
		return s, err
	}
	s.Paused, err = j.pauses.Of(ctx, tenant)
	return s, err
}

func (j *Jobs) status(ctx context.Context, tenant, job string) (Status, error) {
	if !contracts.ValidTenant(tenant) || !contracts.ValidJob(job) {
		return Status{}, fmt.Errorf("job %.80q of tenant %.80q: %w", job, tenant, ErrNoJob)
	}
	r, _, err := j.records.get(ctx, recordKey(tenant, job))
	if errors.Is(err, errNoCell) {
		return j.withoutRecord(ctx, tenant, job)
	}
	if err != nil {
		return Status{}, err
	}
	return j.withOutcome(ctx, statusOf(r))
}

func statusOf(r record) Status {
	s := Status{
		Tenant: r.Request.Tenant, Job: r.Request.Job, State: string(r.State), Attempt: r.Attempt, Errors: r.Errors, Crashes: r.Crashes,
		Worker: r.Worker, Progress: r.Progress, LastError: r.LastError, RequestedAt: r.Request.RequestedAt, CreatedAt: r.CreatedAt,
		UpdatedAt: r.UpdatedAt, NotBefore: r.NotBefore, EndedAt: r.EndedAt, CancelRequested: r.Cancel, Reason: r.Reason, TraceID: r.TraceID,
		Schedule: r.Schedule,
	}
	if r.Owner == "" && !r.State.ended() {
		s.State, s.unbegun = "waiting", r.State == running && !r.Cancel
	}
	if r.State == committed || r.State == done {
		s.Totals, s.Manifest = &r.Delivery.Totals, r.Delivery.Manifest
	}
	return s
}

// withOutcome adds the outcome of a job that has one.
func (j *Jobs) withOutcome(ctx context.Context, s Status) (Status, error) {
	if state(s.State) != done && state(s.State) != failed {
		return s, nil
	}
	o, err := j.ledger.Outcome(ctx, s.Tenant, s.Job)
	if err != nil {
		return s, fmt.Errorf("read the outcome of job %s: %w", s.Job, err)
	}
	s.Outcome = o
	return s, nil
}

// withoutRecord finds a job that nobody has claimed yet, or whose record is gone.
func (j *Jobs) withoutRecord(ctx context.Context, tenant, job string) (Status, error) {
	o, err := j.ledger.Outcome(ctx, tenant, job)
	if err != nil {
		return Status{}, err
	}
	if o != nil {
		s := Status{Tenant: tenant, Job: job, State: string(failed), Attempt: o.Attempts, EndedAt: o.EndedAt, Reason: o.Reason, TraceID: o.TraceID, Schedule: o.Schedule, Outcome: o, Totals: o.Totals, Manifest: o.Manifest}
		if o.Kind.OK() {
			s.State = string(done)
		}
		return s, nil
	}
	for s, err := range j.queued(ctx, tenant) {
		if err != nil || s.Job == job {
			return s, err
		}
	}
	if reason, err := j.dead(ctx, tenant, job); reason != nil || err != nil {
		return Status{Tenant: tenant, Job: job, State: string(failed), Reason: reason}, err
	}
	return Status{}, fmt.Errorf("job %s of tenant %s: %w", job, tenant, ErrNoJob)
}

// queued yields the jobs of a tenant, or of all, that are asked for in the queues, oldest first in each, as if no worker had
// begun them.
func (j *Jobs) queued(ctx context.Context, tenant string) iter.Seq2[Status, error] {
	return func(yield func(Status, error) bool) {
		for m, err := range j.asking(ctx, tenant) {
			if err != nil {
				yield(Status{}, err)
				return
			}
			req, table, err := asked(m.Subject, m.Data, m.Time)
			if err != nil {
				continue
			}
			s := Status{Tenant: req.Tenant, Job: req.Job, State: "queued", RequestedAt: req.RequestedAt, unbegun: true}
			if table != nil {
				s.Schedule = &contracts.ScheduledRun{FiredAt: req.RequestedAt}
			}
			if !yield(s, nil) {
				return
			}
		}
	}
}

// asking are the messages that ask for jobs of a tenant, or, when tenant is "*", of all.
func (j *Jobs) asking(ctx context.Context, tenant string) iter.Seq2[*jetstream.RawStreamMsg, error] {
	return func(yield func(*jetstream.RawStreamMsg, error) bool) {
		for m, err := range j.messages(ctx, contracts.RequestStream, contracts.RequestSubject(tenant)) {
			if !yield(m, err) {
				return
			}
		}
		for m, err := range j.messages(ctx, contracts.ScheduleStream, contracts.RunSubject(tenant)) {
			if !yield(m, err) {
				return
			}
		}
	}
}

// dead is why a request never became a job.
func (j *Jobs) dead(ctx context.Context, tenant, job string) (reason *contracts.Reason, err error) {
	for m, err := range j.messages(ctx, contracts.DeadStream, contracts.DeadSubject(tenant)) {
		if err != nil {
			return nil, err
		}
		if m.Header.Get(contracts.HeaderJob) == job {
			code := contracts.Code(m.Header.Get(contracts.HeaderCode))
			a := code.Advice()
			reason = &contracts.Reason{Code: code, What: m.Header.Get(contracts.HeaderReason), Cause: a.Cause, Fix: a.Fix}
		}
	}
	return reason, nil
}

// soon bounds one question to the broker by readTimeout.
func soon(ctx context.Context, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	return ask(ctx)
}

// messages reads a stream's messages on a subject by their sequence. It makes no consumer: a work queue allows
// no second one.
func (j *Jobs) messages(ctx context.Context, name, subject string) iter.Seq2[*jetstream.RawStreamMsg, error] {
	return func(yield func(*jetstream.RawStreamMsg, error) bool) {
		var stream jetstream.Stream
		err := soon(ctx, func(ctx context.Context) (err error) {
			stream, err = j.js.Stream(ctx, name)
			return err
		})
		if err != nil {
			yield(nil, notSetUp(err))
			return
		}
		for seq := uint64(1); ; {
			var m *jetstream.RawStreamMsg
			err := soon(ctx, func(ctx context.Context) (err error) {
				m, err = stream.GetMsg(ctx, seq, jetstream.WithGetMsgSubject(subject))
				return err
			})
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				return
			}
			if !yield(m, err) || err != nil {
				return
			}
			seq = m.Sequence + 1
		}
	}
}

// listed is how many requests [Jobs.List] looks at in the queue.
const listed = 1000

// List returns the jobs of a tenant, or of all tenants when tenant is empty, those that changed last first: every
// job that has a record, and of those that nobody has claimed yet as many as are among the first 1000 requests of
// the queue. Outcomes are not read: a record's state says enough for a list.
func (j *Jobs) List(ctx context.Context, tenant string) ([]Status, error) {
	keys, whose := recordKeys, "*"
	if tenant != "" {
		if !contracts.ValidTenant(tenant) {
			return nil, contracts.Reject(contracts.UnknownTenant, "%.80q is no tenant's name", tenant)
		}
		keys, whose = recordKey(tenant, "*"), tenant
	}
	// The queue first: a request that is claimed in between has a record by the time the records are read.
	waiting, err := j.waiting(ctx, whose)
	if err != nil {
		return nil, fmt.Errorf("list jobs: %w", err)
	}
	jobs, err := j.recorded(ctx, keys)
	if err != nil {
		return nil, fmt.Errorf("list jobs: %w", err)
	}
	for _, s := range jobs {
		delete(waiting, recordKey(s.Tenant, s.Job))
	}
	jobs = slices.AppendSeq(jobs, maps.Values(waiting))
	slices.SortFunc(jobs, newestFirst)
	return jobs, j.notePauses(ctx, jobs)
}

// Newest returns the jobs of a tenant, or of all tenants when tenant is empty, that changed last, limit of them at most and
// only those that match; match may be nil. It reads no more records than that takes, however many there are. more reports
// that there may be others. As of [Jobs.List], of those that no worker has claimed it sees the first 1000 of the queue.
func (j *Jobs) Newest(ctx context.Context, tenant string, limit int, match func(Status) bool) (jobs []Status, more bool, err error) {
	keys, whose := recordKeys, "*"
	if tenant != "" {
		if !contracts.ValidTenant(tenant) {
			return nil, false, contracts.Reject(contracts.UnknownTenant, "%.80q is no tenant's name", tenant)
		}
		keys, whose = recordKey(tenant, "*"), tenant
	}
	// The queue first, as in List.
	waiting, err := j.waiting(ctx, whose)
	if err != nil {
		return nil, false, fmt.Errorf("list jobs: %w", err)
	}
	for c, err := range j.cells.lastChanged(ctx, keys) {
		if err != nil {
			return nil, false, fmt.Errorf("list jobs: %w", err)
		}
		var r record
		if err := json.Unmarshal(c.value, &r); err != nil || r.Version != recordVersion {
			continue
		}
		delete(waiting, c.key)
		if s := statusOf(r); match == nil || match(s) {
			if more = len(jobs) == limit; more {
				break
			}
			jobs = append(jobs, s)
		}
	}
	queued := slices.SortedFunc(maps.Values(waiting), newestFirst)
	for _, s := range queued[:min(len(queued), limit)] {
		// It may have a record that is older than what was read.
		r, _, err := j.records.get(ctx, recordKey(s.Tenant, s.Job))
		if err == nil {
			s = statusOf(r)
		} else if !errors.Is(err, errNoCell) {
			continue
		}
		if match == nil || match(s) {
			jobs = append(jobs, s)
		}
	}
	slices.SortFunc(jobs, newestFirst)
	if more = more || len(jobs) > limit || len(queued) > limit; len(jobs) > limit {
		jobs = jobs[:limit]
	}
	return jobs, more, j.notePauses(ctx, jobs)
}

// newestFirst orders jobs by when they changed last.
func newestFirst(a, b Status) int {
	changed := func(s Status) time.Time {
		if s.UpdatedAt.IsZero() {
			return s.RequestedAt
		}
		return s.UpdatedAt
	}
	return cmp.Or(changed(b).Compare(changed(a)), strings.Compare(a.Tenant, b.Tenant), strings.Compare(a.Job, b.Job))
}

// notePauses says of which jobs a pause is in the way.
func (j *Jobs) notePauses(ctx context.Context, jobs []Status) error {
	paused, err := j.pauses.List(ctx)
	if err != nil {
		return fmt.Errorf("list jobs: %w", err)
	}
	for i, s := range jobs {
		if at := slices.IndexFunc(paused, func(p Pause) bool { return p.Tenant == "" || p.Tenant == s.Tenant }); at >= 0 && s.unbegun {
			jobs[i].Paused = &paused[at]
		}
	}
	return nil
}

// waiting is what the queues' first requests ask for, by the key that a record would have.
func (j *Jobs) waiting(ctx context.Context, tenant string) (map[string]Status, error) {
	jobs, n := make(map[string]Status), 0
	for s, err := range j.queued(ctx, tenant) {
		if err != nil {
			return nil, err
		}
		jobs[recordKey(s.Tenant, s.Job)] = s
		if n++; n == listed {
			break
		}
	}
	return jobs, nil
}

// recorded are the jobs that have a record.
func (j *Jobs) recorded(ctx context.Context, keys string) (jobs []Status, err error) {
	for c, err := range j.cells.newest(ctx, keys) {
		if err != nil {
			return nil, err
		}
		var r record
		if err := json.Unmarshal(c.value, &r); err == nil && r.Version == recordVersion {
			jobs = append(jobs, statusOf(r))
		}
	}
	return jobs, nil
}

// changes follows one record. When that cannot be arranged soon, as while the connection comes back, nothing ever
// arrives: whoever watches has to look by himself.
func (j *Jobs) changes(ctx context.Context, key string) (entries <-chan jetstream.KeyValueEntry, stop func()) {
	ctx, cancel := MayRead(ctx, j.js.Conn()) // a reader may not follow a record: looking is enough
	late := time.AfterFunc(readTimeout, cancel)
	w, err := j.cells.kv.Watch(ctx, key, jetstream.IgnoreDeletes())
	if err != nil || !late.Stop() {
		cancel()
		return nil, cancel
	}
	return w.Updates(), func() { _ = w.Stop(); cancel() }
}

// Watch yields the status of a job now and after every change, until its outcome stands or it was refused, ctx
// is done, or an error. A job that nobody has claimed yet is looked for every two seconds.
func (j *Jobs) Watch(ctx context.Context, tenant, job string) iter.Seq2[Status, error] {
	return func(yield func(Status, error) bool) {
		if !contracts.ValidTenant(tenant) || !contracts.ValidJob(job) {
			yield(Status{}, fmt.Errorf("job %.80q of tenant %.80q: %w", job, tenant, ErrNoJob))
			return
		}
		changes, stop := j.changes(ctx, recordKey(tenant, job))
		defer stop()
		look := time.NewTicker(2 * time.Second)
		defer look.Stop()
		for first := true; ; first = false {
			if !first {
				var err error
				if changes, err = nextChange(ctx, changes, look.C); err != nil {
					yield(Status{}, err)
					return
				}
			}
			s, err := j.Status(ctx, tenant, job)
			if !yield(s, err) || err != nil || s.Ended() || s.State == string(failed) {
				return
			}
		}
	}
}

// nextChange waits for a change, or for the next look: a replica that lags has answered with the state before the last change. It
// returns the channel to wait on next: none, once it is closed, as with the connection.
func nextChange(ctx context.Context, changes <-chan jetstream.KeyValueEntry, look <-chan time.Time) (<-chan jetstream.KeyValueEntry, error) {
	for {
		select {
		case e, open := <-changes:
			if !open {
				changes = nil
			}
			if e != nil {
				return changes, nil
			}
		case <-look:
			return changes, nil
		case <-ctx.Done():
			return changes, context.Cause(ctx)
		}
	}
}

// Cancel asks for the end of a job, and returns once the wish is recorded. A running attempt stops within one
// heartbeat and leaves nothing behind. A job that is being committed, or has ended, is [ErrTooLate].
func (j *Jobs) Cancel(ctx context.Context, tenant, job string) error {
	s, err := j.Status(ctx, tenant, job)
	if err != nil {
		return err
	}
	key := recordKey(tenant, job)
	for {
		r, rev, err := j.records.get(ctx, key)
		switch {
		case errors.Is(err, errNoCell) && s.State != "queued":
			return fmt.Errorf("job %s of tenant %s is %s: %w", job, tenant, s.State, ErrTooLate)
		case errors.Is(err, errNoCell):
			// Nobody has claimed it: whoever does finds the decision made.
			now := time.Now().UTC()
			r = record{State: running, Epoch: 1, Request: contracts.Request{Version: contracts.RequestVersion, Tenant: tenant, Job: job}, CreatedAt: now, Deadline: now.Add(time.Hour)}
		case err != nil:
			return err
		case r.State == running && r.Cancel, r.State == failing && r.Reason != nil && r.Reason.Code == contracts.CancelledByUser:
			return nil
		case r.State != running:
			return fmt.Errorf("job %s of tenant %s is %s: %w", job, tenant, r.State, ErrTooLate)
		}
		r.Cancel = true
		_, err = j.records.swap(ctx, key, r, rev)
		if errors.Is(err, errSwapped) {
			continue // a heartbeat was faster
		}
		if err != nil {
			return err
		}
		return j.nudge(ctx, r)
	}
}

// nudge wakes the fleet for a job that waits for its next attempt: a second message with the same content is
// harmless, and comes at once.
func (j *Jobs) nudge(ctx context.Context, r record) error {
	if r.Owner != "" || r.Digest == "" {
		return nil
	}
	_, err := j.publish(ctx, r.Request, nil, contracts.RequestMsgID(r.Request.Tenant, r.Request.Job)+".cancel."+nonce())
	if errors.Is(err, ErrQueueFull) {
		return nil // the job's own request comes again by itself
	}
	return err
}
