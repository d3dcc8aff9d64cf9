package consumer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/snapfleet/snapfleet/contracts"
)

var (
	// ErrNoLetter: there is no dead letter of that number, or it is older than they are kept.
	ErrNoLetter = errors.New("no such dead letter")
	// ErrReplayed: the dead letter was replayed before.
	ErrReplayed = errors.New("it was replayed before")
	// ErrNotReplayable: what the dead letter holds is no request that could be published again.
	ErrNotReplayable = errors.New("it cannot be replayed")
)

// Letter is a request that was given up, as it is kept. Whatever it holds was written by whoever published it.
type Letter struct {
	Seq uint64 `json:"seq"`
	// At is when it was given up.
	At     time.Time `json:"at"`
	Tenant string    `json:"tenant"`
	// Job is empty when the request could not be read that far.
	Job    string           `json:"job,omitempty"`
	Reason contracts.Reason `json:"reason"`
	// Replay is what it was replayed as, if it was.
	Replay *Replay `json:"replay,omitempty"`

	Header contracts.Header `json:"-"`
	Body   []byte           `json:"-"`
}

// Replay is what became of a letter that was published again.
type Replay struct {
	Job string    `json:"job"`
	At  time.Time `json:"at"`
	// Letter is when the letter was given up: numbers begin anew with the stream.
	Letter time.Time `json:"letter"`
}

// replayKey is where it is remembered in the fleet's bucket.
func replayKey(seq uint64) string { return replayKeys + strconv.FormatUint(seq, 10) }

const replayKeys = "replay."

func letterOf(m *jetstream.RawStreamMsg) Letter {
	code := contracts.Code(m.Header.Get(contracts.HeaderCode))
	advice := code.Advice()
	return Letter{
		Seq: m.Sequence, At: m.Time.UTC(), Tenant: m.Subject[strings.LastIndexByte(m.Subject, '.')+1:], Job: m.Header.Get(contracts.HeaderJob),
		Reason: contracts.Reason{Code: code, What: m.Header.Get(contracts.HeaderReason), Cause: advice.Cause, Fix: advice.Fix},
		Header: contracts.Header(m.Header), Body: m.Data,
	}
}

// Letters yields the dead letters of a tenant, or of all tenants when tenant is empty, oldest first.
func (j *Jobs) Letters(ctx context.Context, tenant string) iter.Seq2[Letter, error] {
	return func(yield func(Letter, error) bool) {
		subject := contracts.DeadSubjects
		if tenant != "" {
			if !contracts.ValidTenant(tenant) {
				yield(Letter{}, contracts.Reject(contracts.UnknownTenant, "%.80q is no tenant's name", tenant))
				return
			}
			subject = contracts.DeadSubject(tenant)
		}
		replays, err := j.replays(ctx)
		if err != nil {
			yield(Letter{}, fmt.Errorf("list dead letters: %w", err))
			return
		}
		for m, err := range j.messages(ctx, contracts.DeadStream, subject) {
			if err != nil {
				yield(Letter{}, fmt.Errorf("list dead letters: %w", err))
				return
			}
			l := letterOf(m)
			if replays[replayKey(l.Seq)] {
				l.Replay, _, err = j.replay(ctx, l)
			}
			if !yield(l, err) || err != nil {
				return
			}
		}
	}
}

// Letter returns one, or [ErrNoLetter].
func (j *Jobs) Letter(ctx context.Context, seq uint64) (l Letter, err error) {
	err = soon(ctx, func(ctx context.Context) error {
		stream, err := j.js.Stream(ctx, contracts.DeadStream)
		if err != nil {
			return notSetUp(err)
		}
		m, err := stream.GetMsg(ctx, seq)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return ErrNoLetter
		}
		if err == nil {
			l = letterOf(m)
		}
		return err
	})
	if err != nil {
		return l, fmt.Errorf("dead letter %d: %w", seq, err)
	}
	l.Replay, _, err = j.replay(ctx, l)
	return l, err
}

// replays are the keys of all replays that are remembered.
func (j *Jobs) replays(ctx context.Context) (map[string]bool, error) {
	keys, err := j.fleet.Keys(ctx, replayKeys+"*")
	if err != nil {
		return nil, err
	}
	known := make(map[string]bool, len(keys))
	for _, key := range keys {
		known[key] = true
	}
	return known, nil
}

// replay reads what is remembered of the letter's replay, and its revision, 0 when nothing ever was.
func (j *Jobs) replay(ctx context.Context, l Letter) (*Replay, uint64, error) {
	value, rev, err := j.fleet.Get(ctx, replayKey(l.Seq))
	if errors.Is(err, errNoCell) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("see whether dead letter %d was replayed: %w", l.Seq, err)
	}
	var r Replay
	if json.Unmarshal(value, &r) != nil || !r.Letter.Equal(l.At) {
		return nil, rev, nil // of another stream
	}
	return &r, rev, nil
}

// Wish is the request that a letter holds. Its error, an [ErrNotReplayable], says why there is none to publish again:
// nothing that was refused for what it is may come back as something else.
//
// A schedule's message is a request, too: the one of its run. Workers keep the request that they made of it; one that could
// not read it, being of an earlier release, has kept the schedule itself. Then it is the run that the job is named after,
// or else the last one before it was given up.
func (l Letter) Wish() (contracts.Request, error) {
	fired := l.At
	if at, err := time.Parse(contracts.JobLayout, l.Job); err == nil {
		fired = at
	}
	req, _, err := asked(contracts.RunSubject(l.Tenant), l.Body, fired)
	if err != nil {
		return req, fmt.Errorf("dead letter %d is no request, %w: %w", l.Seq, ErrNotReplayable, plainly(err))
	}
	if req.Tenant != l.Tenant {
		return req, fmt.Errorf("dead letter %d was published for tenant %.80q and is for tenant %.80q, %w", l.Seq, l.Tenant, req.Tenant, ErrNotReplayable)
	}
	return req, nil
}

// plainly is err without a rejection's code and advice, which are for publishers.
func plainly(err error) error {
	if r, ok := contracts.AsRejection(err); ok {
		return r.Err
	}
	return err
}

// ReplayOptions are how a letter is replayed.
type ReplayOptions struct {
	// Job is the id to publish it under when its own is used up. Empty: the present second, and the letter's number
	// when that is used up, too. An own id that is not used up is kept, unless Job is given.
	Job string
	// Again allows what was replayed before.
	Again bool
}

// Replay publishes a letter's request again, as one of this moment, by way of publish, which is given the request that
// it is to [Jobs.Submit]. A letter whose request never became a job keeps its id. One that was replayed before is
// [ErrReplayed]; one that holds no request is [ErrNotReplayable].
func (j *Jobs) Replay(ctx context.Context, l Letter, o ReplayOptions, publish func(context.Context, contracts.Request) error) (contracts.Request, error) {
	req, err := l.Wish()
	if err != nil {
		return req, err
	}
	was, rev, err := j.replay(ctx, l)
	if err != nil {
		return req, err
	}
	if was != nil && !o.Again {
		return req, fmt.Errorf("dead letter %d: %w, as job %s at %s", l.Seq, ErrReplayed, was.Job, was.At.Format(time.RFC3339))
	}
	req.RequestedAt = time.Now().UTC().Truncate(time.Millisecond)
	if req.Job, err = j.freeJob(ctx, req, l, o.Job); err != nil {
		return req, err
	}
	value, err := json.Marshal(Replay{Job: req.Job, At: req.RequestedAt, Letter: l.At})
	if err != nil {
		return req, err
	}
	// First remembered, then published: of two who replay one letter at the same moment, one does.
	key := replayKey(l.Seq)
	if rev == 0 {
		_, err = j.fleet.Create(ctx, key, value)
	} else {
		_, err = j.fleet.Update(ctx, key, value, rev)
	}
	if errors.Is(err, errSwapped) {
		return req, fmt.Errorf("dead letter %d: %w, at this very moment", l.Seq, ErrReplayed)
	}
	if err != nil {
		return req, fmt.Errorf("remember that dead letter %d is replayed: %w", l.Seq, err)
	}
	if err := publish(ctx, req); err != nil {
		_ = j.forgetReplay(ctx, key) // should it fail, the letter counts as replayed, and Again is there for that
		return req, fmt.Errorf("replay dead letter %d: %w", l.Seq, err)
	}
	return req, nil
}

func (j *Jobs) forgetReplay(ctx context.Context, key string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
	defer cancel()
	return j.fleet.Delete(ctx, key)
}

// freeJob is the id under which a request of the past can become a job.
func (j *Jobs) freeJob(ctx context.Context, req contracts.Request, l Letter, wanted string) (string, error) {
	second := req.RequestedAt.Format(contracts.JobLayout)
	candidates := []string{req.Job, second, second + "-" + strconv.FormatUint(l.Seq, 10)}
	switch {
	case wanted != "":
		candidates = []string{wanted}
	case l.Reason.Code == contracts.JobConflict: // somebody else's, whatever is left of it
		candidates = candidates[1:]
	}
	for _, job := range candidates {
		if !contracts.ValidJob(job) {
			return "", contracts.Reject(contracts.InvalidRequest, "job %.80q is not 1 to 64 of A-Z a-z 0-9 _ -", job)
		}
		s, err := j.status(ctx, req.Tenant, job)
		switch {
		case errors.Is(err, ErrNoJob):
			return job, nil
		case err != nil:
			return "", fmt.Errorf("see whether job %s of tenant %s is known: %w", job, req.Tenant, err)
		case s.State == string(failed) && s.Outcome == nil && s.CreatedAt.IsZero():
			return job, nil // a request that was refused, and never became a job
		}
	}
	return "", contracts.Reject(contracts.JobConflict, "job %s of tenant %s is used up", candidates[len(candidates)-1], req.Tenant)
}
