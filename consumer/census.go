package consumer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"

	"github.com/snapfleet/snapfleet/contracts"
)

// What the whole fleet has in common, its queue above all, is measured by one worker of it. The others say nothing of
// it, so a sum over all workers is no multiple of the truth. While the turn passes on two may speak for one round:
// whoever asks takes the largest.

// censusKey is swapped, in the fleet's bucket, by whichever worker measures next.
const censusKey = "census"

// censusTime bounds one measurement.
const censusTime = 20 * time.Second

// census is what was measured last.
type census struct {
	requests int64                // in the queue
	jobs     map[string]*standing // by the state of the jobs that they ask for
	letters  int64                // dead, and kept
	backlog  map[string]int64     // what the webhook's receiver has not taken yet, by stream; empty: nobody posts
}

// standing is how many jobs there are in a state, and how old the oldest request among them is.
type standing struct {
	jobs   int64
	oldest time.Duration
}

// States of jobs in a census, beside those of a record.
const (
	unbegun = "queued"
	held    = "paused"  // not begun because of a pause
	between = "waiting" // for a retry
)

func censusStates() []string {
	return []string{unbegun, held, between, string(running), string(committing), string(sealing), string(committed), string(failing)}
}

func newCensus() *census {
	n := &census{jobs: map[string]*standing{}, backlog: map[string]int64{}}
	for _, state := range censusStates() {
		n.jobs[state] = &standing{}
	}
	return n
}

func (n *census) count(state string, age time.Duration) {
	s := n.jobs[state]
	s.jobs, s.oldest = s.jobs+1, max(s.oldest, age)
}

// measured is what this worker has measured in its turn; nil: it is not its turn, or it does not know.
type measured struct {
	atomic.Pointer[census]
	callback metric.Registration
}

func newMeasured() *measured {
	l := &measured{}
	m := otel.Meter(scope)
	const whose = " Said by the one worker that measures."
	length, _ := m.Int64ObservableGauge("snapfleet.queue.length", metric.WithDescription("Requests in the queues, of applications and of schedules, those under way included."+whose), metric.WithUnit("{request}"))
	jobs, _ := m.Int64ObservableGauge("snapfleet.queue.jobs", metric.WithDescription("Jobs that have not ended, by state. The oldest 1000 requests of each queue are looked at, and what is behind them counts as queued."+whose), metric.WithUnit("{job}"))
	age, _ := m.Float64ObservableGauge("snapfleet.queue.age", metric.WithDescription("Age of the oldest request among the jobs in a state, 0 where there is none. For queued ones time spent in a pause does not count."+whose), metric.WithUnit("s"))
	letters, _ := m.Int64ObservableGauge("snapfleet.dead.letters", metric.WithDescription("Dead letters that are kept, those that were replayed included."+whose), metric.WithUnit("{request}"))
	backlog, _ := m.Int64ObservableGauge("snapfleet.webhook.backlog", metric.WithDescription("Events that the webhook's receiver has not taken yet, by what they tell."+whose), metric.WithUnit("{event}"))
	l.callback, _ = m.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		n := l.Load()
		if n == nil {
			return nil
		}
		o.ObserveInt64(length, n.requests)
		for state, s := range n.jobs {
			o.ObserveInt64(jobs, s.jobs, labels("state", state))
			o.ObserveFloat64(age, s.oldest.Seconds(), labels("state", state))
		}
		o.ObserveInt64(letters, n.letters)
		for tells, events := range n.backlog {
			o.ObserveInt64(backlog, events, labels("tells", tells))
		}
		return nil
	}, length, jobs, age, letters, backlog)
	return l
}

// takeCensus measures again and again while it is this worker's turn.
func (c *Consumer) takeCensus(ctx context.Context) {
	if c.survey == nil {
		return
	}
	defer c.measured.Store(nil)
	c.takeTurns(ctx, round{
		in: c.fleet, key: censusKey, every: c.cfg.MeasureEvery,
		do: func(ctx context.Context) error {
			bounded, cancel := context.WithTimeout(ctx, censusTime)
			defer cancel()
			n, err := c.survey(bounded)
			if err != nil {
				n = nil
			}
			c.measured.Store(n)
			return err
		},
		trouble: "the queue could not be measured, and will be again",
		rest:    func() { c.measured.Store(nil) },
	})
}

// surveyor asks JetStream, over what operators ask it by.
type surveyor struct {
	jobs   *Jobs
	pauses *pauses
}

func (s surveyor) survey(ctx context.Context) (*census, error) {
	n := newCensus()
	seen := map[string]bool{}
	for stream, subject := range map[string]string{contracts.RequestStream: contracts.RequestSubjects, contracts.ScheduleStream: contracts.RunSubjects} {
		if err := s.queue(ctx, n, stream, subject, seen); err != nil {
			return nil, fmt.Errorf("measure the queue %s: %w", stream, err)
		}
	}
	dead, err := s.jobs.js.Stream(ctx, contracts.DeadStream)
	if err != nil {
		return nil, fmt.Errorf("count dead letters: %w", err)
	}
	n.letters = int64(dead.CachedInfo().State.Msgs)
	for tells, stream := range map[string]string{"outcomes": contracts.OutcomeStream, "notices": contracts.NoticeStream} {
		hook, err := s.jobs.js.Consumer(ctx, stream, contracts.WebhookName)
		if errors.Is(err, jetstream.ErrConsumerNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("count what the webhook has to tell: %w", err)
		}
		have := hook.CachedInfo()
		n.backlog[tells] = int64(have.NumPending) + int64(have.NumAckPending)
	}
	return n, nil
}

// queue measures one of the queues: how long it is, and the jobs that its oldest requests ask for.
func (s surveyor) queue(ctx context.Context, n *census, stream, subject string, seen map[string]bool) error {
	q, err := s.jobs.js.Consumer(ctx, stream, contracts.WorkersName)
	if err != nil {
		return err
	}
	info := q.CachedInfo()
	length := int64(info.NumPending) + int64(info.NumAckPending)
	n.requests += length
	looked := 0
	for m, err := range s.jobs.messages(ctx, stream, subject) {
		if err == nil {
			err = s.look(ctx, n, m, seen)
		}
		if err != nil {
			return err
		}
		if looked++; looked == listed {
			n.jobs[unbegun].jobs += max(0, length-listed)
			break
		}
	}
	return nil
}

// look counts the job that a message asks for, by its record. Every job that has not ended has a message in a queue.
func (s surveyor) look(ctx context.Context, n *census, m *jetstream.RawStreamMsg, seen map[string]bool) error {
	now := time.Now()
	req, _, err := asked(m.Subject, m.Data, m.Time)
	if err != nil { // nobody has looked at it, who would refuse it
		n.count(unbegun, max(0, now.Sub(m.Time)))
		return nil
	}
	key := recordKey(req.Tenant, req.Job)
	if seen[key] {
		return nil
	}
	seen[key] = true
	r, _, err := s.jobs.records.get(ctx, key)
	if err != nil && !errors.Is(err, errNoCell) && !errors.Is(err, errForeignVersion) {
		return err
	}
	s.count(n, req.Tenant, r, err != nil, m.Time, now)
	return nil
}

func (s surveyor) count(n *census, tenant string, r record, unknown bool, published, now time.Time) {
	age := max(0, now.Sub(published))
	switch {
	case unknown || r.State == running && r.Attempt == 0 && r.Owner == "": // cancelled before anybody had seen it, perhaps
		state := unbegun
		if slices.ContainsFunc(s.pauses.about(tenant), func(p pauseCell) bool { return p.inForce(now) }) {
			state = held
		} else {
			age = max(0, age-s.pauses.held(tenant, published, now))
		}
		n.count(state, age)
	case r.State.ended():
	case r.Owner == "":
		n.count(between, age)
	default:
		n.count(string(r.State), age)
	}
}
