package consumer

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
)

// A request that cannot be read costs its publisher nothing, and must cost the fleet little: it takes no slot, and the log
// has few lines about it.

const (
	// refusers is how many requests that cannot be read one worker refuses at once, beside its slots.
	refusers = 16
	// refusalLines is how many lines about refused requests a worker logs in a minute. The last one counts the others.
	refusalLines = 20
	// buryTries is how often a dead letter that the server will never take is tried before its request is dropped.
	buryTries = 5
)

// bury keeps a message that is no valid request, with the reason, answers its publisher, and drops it from the queue.
// There is no outcome for it: outcomes belong to jobs, and a forged message must not be able to end one.
func (c *Consumer) bury(ctx context.Context, m message, job string, err error) fate {
	why, ok := contracts.AsRejection(err)
	if !ok {
		why = &contracts.Rejection{Code: contracts.InvalidRequest, Err: err}
	}
	if err = c.answer(ctx, m, job, why); err == nil || permanent(err) {
		err = c.ledger.Bury(ctx, m, job, why)
	}
	result := "kept"
	switch {
	case err == nil:
	case permanent(err) && m.Delivered() >= buryTries:
		result = "dropped"
		c.meters.dropped.Add(ctx, 1)
		c.cfg.Log.Error().Err(err).Str("tenant", tenantOf(m)).Uint64("sequence", m.Sequence()).Str("digest", digestOf(m.Data())).
			Msg("a refused request cannot be kept as a dead letter, and is dropped")
	default:
		return c.postpone(ctx, fmt.Errorf("dead-letter a request: %w", err), retryDelay(int(min(m.Delivered(), 20))-1, c.cfg))
	}
	c.meters.refused(ctx, why.Code)
	if others, ok := c.refusals.allow(time.Now()); ok {
		line := c.cfg.Log.Warn().Str("tenant", tenantOf(m)).Str("job", job).Str("code", string(why.Code)).Str("reason", why.Error()).Str("dead_letter", result)
		if others > 0 {
			line = line.Int("others_not_logged", others)
		}
		line.Msg("request refused")
	}
	return fate{end: dropped, reason: string(why.Code)}
}

// answer publishes a refusal for the publisher of m. A run of a schedule has none.
func (c *Consumer) answer(ctx context.Context, m message, job string, why *contracts.Rejection) error {
	if isRun(m.Subject()) {
		return nil
	}
	if !contracts.ValidJob(job) {
		job = ""
	}
	id := m.Header().Get("Nats-Msg-Id")
	if len(id) > 256 {
		id = ""
	}
	return c.ledger.Refuse(ctx, contracts.Refusal{
		Tenant: tenantOf(m), Sequence: m.Sequence(), Digest: digestOf(m.Data()), Job: job, MsgID: contracts.CutText(printableLine(id), 256),
		At: time.Now().UTC(), Reason: *why.Reason(),
	})
}

// tenantOf is the tenant in the subject of m, or [contracts.NoTenant]: a publisher chooses the subject.
func tenantOf(m message) string {
	if contracts.ValidTenant(m.Tenant()) {
		return m.Tenant()
	}
	return contracts.NoTenant
}

// unreadable reports whether m asks for no job.
func unreadable(m message) bool {
	req, _, err := asked(m.Subject(), m.Data(), m.Published())
	return err != nil || req.Tenant != m.Tenant()
}

// refuse settles a message that is [unreadable].
func (c *Consumer) refuse(ctx context.Context, m message) {
	ctx, span := c.startJob(ctx, m)
	defer span.End()
	c.settle(ctx, m, c.process(ctx, m))
}

// logLimit lets some events through in each minute, and counts the others. It is safe for concurrent use.
type logLimit struct {
	mu      sync.Mutex
	since   time.Time
	n, more int
}

// allow reports whether an event is to be logged now, and how many before it were not.
func (l *logLimit) allow(now time.Time) (others int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.since) >= time.Minute {
		l.since, l.n = now, 0
	}
	if l.n++; l.n > refusalLines {
		l.more++
		return 0, false
	}
	others, l.more = l.more, 0
	return others, true
}
