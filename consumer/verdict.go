package consumer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
)

// The causes for which the consumer cancels work. Every cancellation has one of them.
var (
	// ErrLeaseLost: the record could not be swapped in time, or somebody else's write stands there.
	ErrLeaseLost = errors.New("lease on the job lost")
	// ErrShutdown: the worker stops and its grace period is over.
	ErrShutdown = errors.New("worker is shutting down")
	// ErrStalled: nothing has moved for [Config].Stall.
	ErrStalled = errors.New("no progress")
	// errCancelled: somebody asked for the job's end.
	errCancelled = contracts.Reject(contracts.CancelledByUser, "cancelled on request")
)

// act is what becomes of a job after a step of it failed.
type act int

const (
	letGo   act = iota // touch nothing: another worker owns the job
	release            // give it back without blame, for another worker at once or for any worker after a delay
	retry              // try again after a delay
	restart            // an upload is lost: RUNNING, again, with a new attempt after a delay
	giveUp             // FAILING
)

// verdict is judge's answer.
type verdict struct {
	act    act
	delay  time.Duration
	reason *contracts.Rejection // for giveUp
}

// signatureLife is how long after it was signed a request can take effect at the most: S3 refuses those that are
// older than 15 minutes.
// https://docs.aws.amazon.com/AmazonS3/latest/API/RESTAuthentication.html#RESTAuthenticationTimeStamp
const signatureLife = 20 * time.Minute

// judge is the one place where an error is turned into an act. It is a pure function of the error, of the
// job's record as it was when the error happened, of the settings, and of the wall clock.
func judge(err error, r record, cfg Config, now time.Time) verdict {
	var lost LostUpload
	var busy Busy
	rejection, rejected := contracts.AsRejection(err)
	_, faulty := contracts.AsWorkerFault(err)
	switch {
	case errors.Is(err, ErrLeaseLost), errors.Is(err, errSwapped):
		return verdict{act: letGo}
	case errors.Is(err, ErrShutdown):
		return verdict{act: release}
	case errors.As(err, &busy) && busy.Busy(), faulty && r.State != failing:
		// Of a job that is given up there is nothing to do but to remove its uploads: that it cannot be done is counted.
		return verdict{act: release, delay: cfg.RetryBase/2 + rand.N(cfg.RetryBase)}
	case r.State == running && rejected:
		return verdict{act: giveUp, reason: inContext(err, rejection)}
	case r.State.visible() && rejected && rejection.Code == contracts.DestinationTaken:
		return verdict{act: giveUp, reason: inContext(err, rejection)}
	}
	// Past the point of no return a refusal is a reason to wait, not to give up: a customer who breaks the
	// role at that moment and mends it the next day finds the delivery whole. Only the deadline ends it, and
	// once the manifest may stand not even that: whoever could tell has to be let in first.
	late := now.After(r.Deadline)
	spent := r.Errors+1 >= cfg.Attempts
	v := verdict{act: retry, delay: retryDelay(r.Errors, cfg)}
	switch {
	case (r.State == running || r.State.visible()) && errors.As(err, &lost) && lost.LostUpload():
		v.act = restart
		switch {
		case r.State == sealing:
			// Somebody has removed what we had completed. A manifest for it may still be on its way.
			v.delay = max(v.delay, signatureLife)
		case spent:
			v = verdict{act: giveUp, reason: exhausted(err, contracts.AttemptsExhausted)}
		}
	case (r.State == running || r.State == committing) && late:
		v = verdict{act: giveUp, reason: exhausted(err, contracts.DeadlineExceeded)}
	case r.State == running && spent:
		v = verdict{act: giveUp, reason: exhausted(err, contracts.AttemptsExhausted)}
	}
	return v
}

// inContext is the rejection within err with the words that err puts before it: S3 does not say which bucket it
// has refused, but whoever asked has.
func inContext(err error, r *contracts.Rejection) *contracts.Rejection {
	before, _, found := strings.Cut(err.Error(), r.Error())
	before = before[strings.LastIndexByte(before, '\n')+1:] // of errors that were joined
	if !found || before == "" {
		return r
	}
	return &contracts.Rejection{Code: r.Code, Err: fmt.Errorf("%s%w", before, r.Err)}
}

// conflicted reports whether err is a RecoveryConflict.
func conflicted(err error) bool {
	var c RecoveryConflict
	return errors.As(err, &c) && c.RecoveryConflict()
}

func exhausted(err error, code contracts.Code) *contracts.Rejection {
	return &contracts.Rejection{Code: code, Err: err}
}

// retryDelay is full jitter over a doubling bound: retries of many jobs that failed together spread out.
func retryDelay(errs int, cfg Config) time.Duration {
	bound := cfg.RetryMax
	if errs < 20 {
		bound = min(cfg.RetryBase<<errs, cfg.RetryMax)
	}
	return max(rand.N(bound), bound/10)
}

// because returns err with the cause for which ctx was cancelled, if it was: what a step reports after a
// cancellation is only its consequence.
func because(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil {
		return err
	}
	cause := context.Cause(ctx)
	if cause == nil || errors.Is(err, cause) {
		return err
	}
	return errors.Join(cause, err)
}
