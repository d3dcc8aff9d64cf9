package consumer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
)

// NATS does not answer a user who lacks a right: it reports the error to the connection, and the request waits until it times out.
// So each connection keeps the errors, and wakes the requests that wait.

// NoRight says that NATS does not let this user publish or subscribe to a subject. It is final: the same request is
// refused until an operator changes the user, or its permissions.
type NoRight struct {
	Op      string // publish or subscribe
	Subject string
}

// Error names the subject.
func (e *NoRight) Error() string {
	return fmt.Sprintf("NATS does not let this user %s to %q", e.Op, e.Subject)
}

// AsNoRight finds a missing right in err's chain.
func AsNoRight(err error) (*NoRight, bool) { return errors.AsType[*NoRight](err) }

// rights are the rights that a connection is known to lack. It is safe for concurrent use.
type rights struct {
	mu        sync.Mutex
	missing   map[string]*NoRight // by subject
	next      int
	handlers  map[int]func(*NoRight) (handled bool)
	fallbacks map[int]func(*NoRight) // called when no handler takes the refusal
}

// maxMissing bounds what a connection remembers.
const maxMissing = 1000

var connections sync.Map // of *nats.Conn to *rights, until the connection is closed

// OnError returns an error handler for a connection that [Connect] has made: it keeps what the server says about missing
// rights, as [WithRights] and workers need it, and calls other for everything else.
func OnError(nc *nats.Conn, other func(error)) nats.ErrHandler {
	r := rightsOf(nc)
	return func(_ *nats.Conn, _ *nats.Subscription, err error) {
		if refusal, ok := missingRight(err); ok {
			r.note(refusal)
		} else if err != nil {
			other(err)
		}
	}
}

// rightsOf are the refusals that nc has received since the first call. It takes the place of the connection's error handler, and calls
// that for everything else.
func rightsOf(nc *nats.Conn) *rights {
	r := &rights{missing: map[string]*NoRight{}, handlers: map[int]func(*NoRight) bool{}, fallbacks: map[int]func(*NoRight){}}
	if known, loaded := connections.LoadOrStore(nc, r); loaded {
		return known.(*rights)
	}
	others := nc.ErrorHandler()
	nc.SetErrorHandler(func(nc *nats.Conn, sub *nats.Subscription, err error) {
		if refusal, ok := missingRight(err); ok {
			r.note(refusal)
		} else if others != nil {
			others(nc, sub, err)
		}
	})
	again := nc.ReconnectHandler()
	nc.SetReconnectHandler(func(nc *nats.Conn) { // subscribes to everything once more, and may have other rights now
		r.mu.Lock()
		clear(r.missing)
		r.mu.Unlock()
		if again != nil {
			again(nc)
		}
	})
	closed := nc.ClosedHandler()
	nc.SetClosedHandler(func(nc *nats.Conn) {
		connections.Delete(nc)
		if closed != nil {
			closed(nc)
		}
	})
	if nc.IsClosed() {
		connections.Delete(nc)
	}
	return r
}

var violation = regexp.MustCompile(`(?i)permissions violation for (publish|subscription) to "([^"]*)"`)

// missingRight reads what the server says.
func missingRight(err error) (*NoRight, bool) {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return nil, false
	}
	m := violation.FindStringSubmatch(err.Error())
	if m == nil {
		return &NoRight{Op: "use", Subject: "something"}, true
	}
	op := "publish"
	if strings.EqualFold(m[1], "subscription") {
		op = "subscribe"
	}
	return &NoRight{Op: op, Subject: m[2]}, true
}

func (r *rights) note(refusal *NoRight) {
	r.mu.Lock()
	if len(r.missing) < maxMissing {
		r.missing[refusal.Subject] = refusal
	}
	handlers, fallbacks := slices.Collect(maps.Values(r.handlers)), slices.Collect(maps.Values(r.fallbacks))
	r.mu.Unlock()
	handled := false
	for _, f := range handlers {
		handled = f(refusal) || handled
	}
	for _, f := range fallbacks {
		if !handled {
			f(refusal)
		}
	}
}

// handle calls f for each refusal from now on, until stop. f says whether the refusal is its own. It must not block.
func (r *rights) handle(f func(*NoRight) bool) (stop func()) { return register(r, r.handlers, f) }

// listen calls f for each refusal from now on that no handler takes, until stop. f must not block.
func (r *rights) listen(f func(*NoRight)) (stop func()) { return register(r, r.fallbacks, f) }

// register adds f to a map of r until stop.
func register[F any](r *rights, to map[int]F, f F) (stop func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.next
	r.next++
	to[n] = f
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(to, n)
	}
}

// subscription is the missing right to hear subjects that begin with prefix, or nil: that is refused once, when the
// connection subscribes, and nothing that is asked for is heard from then on.
func (r *rights) subscription(prefix string) *NoRight {
	r.mu.Lock()
	defer r.mu.Unlock()
	for subject, refusal := range r.missing {
		if refusal.Op == "subscribe" && strings.HasPrefix(subject, prefix) {
			return refusal
		}
	}
	return nil
}

// inboxOf is what the subjects begin with on which nc hears answers.
func inboxOf(nc *nats.Conn) string {
	if nc.Opts.InboxPrefix != "" {
		return nc.Opts.InboxPrefix + "."
	}
	return nats.InboxPrefix
}

// WithRights is ctx until NATS refuses a right to nc's user: then the cause is a [NoRight]. It is for work of which each
// request matters. What a function of this package reports itself, such as [ErrMayNotSee], does not end it. cancel must be
// called.
func WithRights(ctx context.Context, nc *nats.Conn) (_ context.Context, cancel context.CancelFunc) {
	ctx, end := context.WithCancelCause(ctx)
	r := rightsOf(nc)
	stop := r.listen(func(refusal *NoRight) { end(refusal) })
	if refusal := r.subscription(inboxOf(nc)); refusal != nil {
		end(refusal)
	}
	return ctx, func() { stop(); end(nil) }
}

// MayRead is ctx in which a missing right is no reason to end what [WithRights] watches: then only this context ends, with
// a [NoRight] as its cause. cancel must be called.
func MayRead(ctx context.Context, nc *nats.Conn) (_ context.Context, cancel context.CancelFunc) {
	return untilRefused(ctx, nc, errRefused, "")
}

// untilRefused is ctx until NATS refuses a right to a subject with one of the names in it, or to the connection's own
// inbox: then the cause is refusal, with a [NoRight].
func untilRefused(ctx context.Context, nc *nats.Conn, refusal error, names ...string) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	r := rightsOf(nc)
	end := func(e *NoRight) { cancel(fmt.Errorf("%w: %w", refusal, e)) }
	stop := r.handle(func(e *NoRight) bool {
		if !strings.HasPrefix(e.Subject, inboxOf(nc)) && !slices.ContainsFunc(names, func(name string) bool { return strings.Contains(e.Subject, name) }) {
			return false
		}
		end(e)
		return true
	})
	if e := r.subscription(inboxOf(nc)); e != nil {
		end(e)
	}
	return ctx, func() { stop(); cancel(nil) }
}
