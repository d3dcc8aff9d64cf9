package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/snapfleet/snapfleet/consumer"
)

// patience ends a verb that NATS does not answer within --timeout, and at once one whose user lacks a right: NATS answers
// neither. It is in the context of every verb.
type patience struct {
	end context.CancelCauseFunc

	mu      sync.Mutex
	timer   *time.Timer
	timeout time.Duration
	inbox   string
}

type patienceKey struct{}

// withPatience is the context that verbs run under.
func withPatience(ctx context.Context) (context.Context, *patience) {
	ctx, end := context.WithCancelCause(ctx)
	p := &patience{end: end}
	return context.WithValue(ctx, patienceKey{}, p), p
}

// noAnswer is why a verb ends whose requests are not answered.
type noAnswer struct{ timeout time.Duration }

func (e *noAnswer) Error() string { return fmt.Sprintf("no answer within %v", e.timeout) }

// watch begins to wait for answers on nc. timeout 0: without a limit.
func (p *patience) watch(ctx context.Context, nc *nats.Conn, timeout time.Duration, inbox string) {
	refused, stop := consumer.WithRights(ctx, nc)
	context.AfterFunc(refused, func() {
		stop()
		if right, ok := consumer.AsNoRight(context.Cause(refused)); ok {
			p.end(right)
		}
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timeout, p.inbox = timeout, inbox
	if timeout > 0 {
		p.timer = time.AfterFunc(timeout, func() { p.end(&noAnswer{timeout}) })
	}
}

// waits says that from now on the verb waits for something that takes its time: a job's end, a worker's answer, a person.
// The returned function ends that.
func waits(ctx context.Context) (over func()) {
	p, ok := ctx.Value(patienceKey{}).(*patience)
	if !ok {
		return func() {}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timer != nil {
		p.timer.Stop()
	}
	return func() { goesOn(ctx) }
}

// goesOn restarts the verb's timer. A verb that sends many requests gives --timeout to each.
func goesOn(ctx context.Context) {
	p, ok := ctx.Value(patienceKey{}).(*patience)
	if !ok {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timer != nil {
		p.timer.Reset(p.timeout)
	}
}

// explain says why a verb has ended, when patience has ended it: what the verb itself returns is only a consequence.
func (p *patience) explain(ctx context.Context, err error) error {
	if err == nil || errors.Is(err, errTold) {
		return err
	}
	var late *noAnswer
	if cause := context.Cause(ctx); errors.As(cause, &late) {
		return explain(exitUnreachable, fmt.Errorf("%w: %w", late, firstOf(err)), "NATS, or a server behind it, does not answer", "try again, look at the NATS servers, or wait longer with --timeout")
	} else if right, ok := consumer.AsNoRight(cause); ok {
		err = right
	}
	right, ok := consumer.AsNoRight(err)
	if known, explained := errors.AsType[*failure](err); !ok || explained && known.fix != "" {
		return err
	}
	return missing(right, p.inbox, err)
}

// firstOf is what was being done when the context ended.
func firstOf(err error) error {
	return errors.New(strings.TrimSuffix(err.Error(), ": "+context.Canceled.Error()))
}

// missing says which role of deploy/nats has the right, and how to be that.
func missing(right *consumer.NoRight, inbox string, err error) error {
	if inbox != "" && right.Op == "subscribe" && strings.HasPrefix(right.Subject, inbox) {
		return explain(exitRejected, err, "answers arrive on subjects that begin with --nats-inbox, and the server's permissions give this user another prefix",
			"give --nats-inbox: with deploy/nats it is _INBOX_operator for the operator, _INBOX_worker for a worker, and _INBOX for publisher and reader")
	}
	return explain(exitRejected, err, "this NATS user is not the one that the command needs: with deploy/nats that is the operator for every command but the worker; a reader may use status and links, a publisher submit",
		"log in as that user with --nats-nkey or --nats-creds, and give its --nats-inbox (_INBOX_operator, _INBOX_worker); readers and publishers need --nats-domain=snapfleet")
}
