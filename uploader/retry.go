package uploader

import (
	"context"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// try sends one request until it succeeds, cannot succeed, or cfg.RetryFor is over. This is the one place
// where a request is repeated: the SDK's own retryer is off. Each try has a time limit, and the wait
// between two tries doubles, with jitter. renew is called when the credentials have to be fetched anew, with the
// time at which the request that they did not open was begun.
//
// request must be safe to repeat when its answer was lost. Errors are what [judge] made of them; when ctx
// ends, its cause.
func try[T any](ctx context.Context, cfg Config, p purpose, timeout time.Duration, renew func(time.Time), request func(context.Context) (T, error)) (T, error) {
	wait := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(cfg.RetryFirst),
		backoff.WithMaxInterval(cfg.RetryMost),
		backoff.WithMultiplier(2),
		backoff.WithMaxElapsedTime(cfg.RetryFor),
	)
	fresh, last := false, final
	out, err := backoff.RetryWithData(func() (T, error) {
		for {
			began := time.Now()
			out, err := once(ctx, timeout, request)
			if err == nil {
				return out, nil
			}
			v, err := judge(p, err)
			last = v
			if v == stale && !fresh && ctx.Err() == nil {
				fresh = true
				renew(began)
				continue
			}
			if v != again {
				return out, backoff.Permanent(err)
			}
			return out, err
		}
	}, backoff.WithContext(wait, ctx))
	switch {
	case err != nil && ctx.Err() != nil:
		return out, context.Cause(ctx)
	case err != nil && last == again:
		return out, noAnswer{err}
	}
	return out, err
}

// noAnswer is what is left after the patience with one request: the store did not answer, or not usefully.
type noAnswer struct{ error }

func (n noAnswer) Unwrap() error { return n.error }

// Unreachable says that it is the destination that fails, and not this job.
func (n noAnswer) Unreachable() bool { return true }

// toItsEnd marks a context whose end begins no request, and breaks off none: one that is broken off may take effect when
// everybody has gone.
type toItsEnd struct{}

func once[T any](ctx context.Context, timeout time.Duration, request func(context.Context) (T, error)) (T, error) {
	whole := ctx
	if ctx.Value(toItsEnd{}) != nil {
		if ctx.Err() != nil {
			var none T
			return none, context.Cause(ctx)
		}
		whole = context.WithoutCancel(ctx)
	}
	whole, cancel := context.WithTimeoutCause(whole, timeout, fmt.Errorf("no answer within %s", timeout))
	defer cancel()
	out, err := request(whole)
	switch {
	case err != nil && ctx.Err() != nil:
		return out, context.Cause(ctx)
	case err != nil && whole.Err() != nil:
		return out, context.Cause(whole)
	}
	return out, err
}
