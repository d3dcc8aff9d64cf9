package consumer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
)

// lease is a worker's hold on a job: the record as this worker last wrote it, and the heartbeat that keeps it.
// It is the attempt's [Journal], too.
type lease struct {
	records records
	key     string
	msg     message
	seat    *seat // the tenant's share of slots that the job takes
	cfg     Config
	phased  func(phase contracts.Phase, took time.Duration) // told when one is over; nil: nobody wants to know

	ctx    context.Context // done, with the cause, when the hold is lost or the worker stops
	cancel context.CancelCauseFunc
	fence  *time.Timer // runs out F after the start of the last swap that succeeded
	beats  sync.WaitGroup
	end    chan struct{}

	keeping sync.Mutex // held while a checkpoint is kept

	read struct { // the steps' own: the receipt that one of them has read back
		receipt contracts.Receipt
		digest  string
	}

	turn chan struct{} // holds a token during a swap: one at a time, and whoever waits can be cancelled

	mu       sync.Mutex // guards the fields below; never held across the network
	rec      record     // changed only by who has the turn
	rev      uint64
	progress contracts.Progress
	moved    time.Time
	phase    contracts.Phase // the attempt's, and when it began
	since    time.Time
	attempt  context.CancelCauseFunc // ends the attempt and not the hold; nil while there is none
}

// hold starts the heartbeat of a record that this worker has just written; began is when that write started.
func hold(ctx context.Context, s records, key string, m message, cfg Config, r record, rev uint64, began time.Time) *lease {
	l := &lease{records: s, key: key, msg: m, cfg: cfg, rec: r, rev: rev, progress: r.Progress, end: make(chan struct{}), turn: make(chan struct{}, 1), moved: time.Now()}
	l.ctx, l.cancel = context.WithCancelCause(ctx)
	l.fence = time.AfterFunc(cfg.Fence-time.Since(began), func() {
		l.cancel(fmt.Errorf("%w: no heartbeat within %v", ErrLeaseLost, cfg.Fence))
	})
	l.beats.Go(l.beat)
	return l
}

// rest ends the heartbeat. The record stays as it is; one more update may follow.
func (l *lease) rest() {
	select {
	case <-l.end:
	default:
		close(l.end)
	}
	l.beats.Wait()
	l.fence.Stop()
}

// release ends the heartbeat and releases the lease's context. Until then that context is registered in its parent, which
// lives as long as the worker, and holds the job's span and logger.
func (l *lease) release() {
	l.rest()
	l.cancel(nil)
}

// begin returns the context of an attempt: it ends with the hold, and before it when the attempt stalls or
// somebody wants it cancelled. The hold outlives it, so that what the attempt left can be cleaned up.
func (l *lease) begin() (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(l.ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.attempt, l.moved, l.phase = cancel, time.Now(), ""
	return ctx, cancel
}

// interrupt ends the attempt, if there is one.
func (l *lease) interrupt(cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.attempt != nil {
		l.attempt(cause)
	}
}

// beat keeps the hold. It has its own goroutine: nothing that can be slow may delay it.
func (l *lease) beat() {
	tick := time.NewTicker(l.cfg.Heartbeat)
	defer tick.Stop()
	for {
		select {
		case <-l.end:
			return
		case <-l.ctx.Done():
			return
		case <-tick.C:
		}
		if l.stalled() {
			l.interrupt(fmt.Errorf("%w for %v", ErrStalled, l.cfg.Stall))
		}
		if err := l.update(l.ctx, func(*record) {}); err != nil {
			return // update has cancelled what there is to cancel
		}
		// Only now: the queue's timer is extended by the owner and by nobody else.
		_ = l.msg.InProgress()
	}
}

// update changes the record by compare-and-swap, as this worker's next write. What stands there by then may be an
// operator's wish to cancel, or a write of our own that was never answered: both are taken over as they stand, and the
// change is made to that. Anything else means that the hold is lost, and cancels it.
func (l *lease) update(ctx context.Context, change func(*record)) error {
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	for {
		was, rev, next := l.next()
		change(&next)
		began := time.Now()
		written, err := l.records.swap(ctx, l.key, next, rev)
		if err == nil {
			l.set(next, written)
			l.fence.Reset(l.cfg.Fence - time.Since(began))
			return nil
		}
		if !errors.Is(err, errSwapped) {
			return because(l.ctx, err)
		}
		now, at, readErr := l.records.get(ctx, l.key)
		if readErr != nil || now.Owner != was.Owner || now.Epoch != was.Epoch || at <= rev {
			err = fmt.Errorf("%w: %w", ErrLeaseLost, err)
			l.cancel(err)
			return err
		}
		l.set(now, at)
		if now.Cancel && now.State == running {
			l.interrupt(errCancelled)
		}
	}
}

// next is the record as it was last written, and a copy with the present progress.
func (l *lease) next() (was record, rev uint64, next record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	next = l.rec
	next.Progress = l.progress
	return l.rec, l.rev, next
}

func (l *lease) set(r record, rev uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rec, l.rev = r, rev
}

// record is the record as this worker last wrote it.
func (l *lease) record() record {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rec
}

// Upload implements [Journal].
func (l *lease) Upload(ctx context.Context, u contracts.Upload) error {
	r := l.record()
	value, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode the record: %w", err)
	}
	if size := len(value) + len(u.Name) + len(u.ID); size > maxRecordBytes {
		return contracts.Reject(contracts.TooManyVolumes, "the delivery has %d volumes and is not complete: with one more, the job's record has %d bytes, and the limit is %d", len(r.Uploads), size, maxRecordBytes)
	}
	return l.update(ctx, func(r *record) {
		r.Uploads = append(r.Uploads[:len(r.Uploads):len(r.Uploads)], contracts.Upload{Name: u.Name, ID: u.ID})
	})
}

// Progress implements [Journal].
func (l *lease) Progress(change func(*contracts.Progress)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.progress
	change(&l.progress)
	l.progress.Current = contracts.CutText(l.progress.Current, maxCurrent)
	if l.progress != before {
		l.moved = time.Now()
	}
	if l.progress.Phase != l.phase {
		l.endPhase()
	}
}

// endPhase measures the phase that is over, and begins the one that the report names. It must be called with mu held.
func (l *lease) endPhase() {
	now := time.Now()
	if l.phase != "" && l.phased != nil {
		l.phased(l.phase, now.Sub(l.since))
	}
	l.phase, l.since = l.progress.Phase, now
}

// stalled reports whether an attempt's report has stood still for too long. A commit reports nothing.
func (l *lease) stalled() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rec.State == running && time.Since(l.moved) > l.cfg.Stall
}
