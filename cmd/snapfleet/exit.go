package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/nats-io/nats.go"
	"github.com/snapfleet/snapfleet/consumer"
	"github.com/snapfleet/snapfleet/contracts"
)

// The exit codes. Scripts compare them, so they never change their meaning.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitRejected    = 4
	exitUnproven    = 5
	exitJobFailed   = 6
	exitUnreachable = 7
	exitInterrupted = 130
)

// exitMeaning is what the help text of every verb says about its codes.
var exitMeaning = map[int]string{
	exitOK:          "done",
	exitFailed:      "failed for a reason that is in none of the rows below; the message says why",
	exitUsage:       "wrong flags or arguments; nothing was done",
	exitNotFound:    "no such tenant, job, schedule or delivery",
	exitRejected:    "refused: no retry helps until what the message's fix names is done",
	exitUnproven:    "the delivery is not what its manifest says",
	exitJobFailed:   "the job ended without a delivery: failed, cancelled or skipped",
	exitUnreachable: "NATS, PostgreSQL or S3 does not answer",
	exitInterrupted: "interrupted by SIGINT or SIGTERM",
}

var (
	errInterrupted = errors.New("interrupted")
	// errTold is for an error that the verb has already explained to the person.
	errTold = errors.New("told")
)

// failure is an error that knows how the process ends, and what a person can do about it.
type failure struct {
	code       int // 0: what the error itself means
	err        error
	cause, fix string
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// explain gives err an exit code, or 0, and a cause and a fix to print below it.
func explain(code int, err error, cause, fix string) error {
	return &failure{code: code, err: err, cause: cause, fix: fix}
}

// usagef is for flags and arguments that cannot be meant.
func usagef(format string, args ...any) error {
	return &failure{code: exitUsage, err: fmt.Errorf(format, args...)}
}

// exitCode is the one place where an error becomes a number.
func exitCode(ctx context.Context, err error) int {
	rejection, rejected := contracts.AsRejection(err)
	_, faulty := contracts.AsWorkerFault(err)
	_, noRight := consumer.AsNoRight(err)
	known, ok := errors.AsType[*failure](err)
	switch {
	case err == nil:
		return exitOK
	case errors.Is(context.Cause(ctx), errInterrupted), errors.Is(err, errInterrupted):
		return exitInterrupted
	case ok && known.code != 0:
		return known.code
	case errors.Is(err, consumer.ErrNoJob), errors.Is(err, consumer.ErrNoSchedule), rejected && rejection.Code == contracts.UnknownTenant, rejected && rejection.Code == contracts.DeliveryExpired:
		return exitNotFound
	case rejected && rejection.Code == contracts.DeliveryChanged:
		return exitUnproven
	case rejected, faulty, noRight, errors.Is(err, consumer.ErrTooLate), errors.Is(err, consumer.ErrMayNotSee):
		return exitRejected
	case unreachable(err):
		return exitUnreachable
	default:
		return exitFailed
	}
}

// unreachable recognises a server that could not be talked to, whoever tried.
func unreachable(err error) bool {
	var network *net.OpError
	var name *net.DNSError
	var postgres *pgconn.ConnectError
	return errors.As(err, &network) || errors.As(err, &name) || errors.As(err, &postgres) ||
		errors.Is(err, nats.ErrNoServers) || errors.Is(err, nats.ErrTimeout) ||
		errors.Is(err, nats.ErrNoResponders) || errors.Is(err, consumer.ErrNobodyAnswers) || errors.Is(err, nats.ErrConnectionClosed) ||
		errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EHOSTUNREACH) ||
		errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.ETIMEDOUT)
}

// printError tells a person what happened, what usually is behind it, and what to do. It is the last
// gate before a terminal or a log collector, so it redacts, too.
func printError(w io.Writer, width int, err error) {
	what, cause, fix := err.Error(), "", ""
	if fault, ok := contracts.AsWorkerFault(err); ok {
		advice := fault.Advice()
		what, cause, fix = fault.Summary(), advice.Cause, advice.Fix
	} else if r, ok := contracts.AsRejection(err); ok {
		reason := r.Reason()
		what, cause, fix = reason.What, reason.Cause, reason.Fix
	} else if f, ok := errors.AsType[*failure](err); ok {
		cause, fix = f.cause, f.fix
	}
	printReason(w, width, "snapfleet: ", what, cause, fix)
}

// printReason prints the three lines of a reason, each wrapped below itself.
func printReason(w io.Writer, width int, lead, what, cause, fix string) {
	for _, line := range []struct{ lead, text string }{{lead, what}, {"    cause: ", cause}, {"    fix:   ", fix}} {
		if line.text == "" {
			continue
		}
		body := wrap(printable(redact(line.text)), width-len(line.lead))
		fmt.Fprintf(w, "%s%s\n", line.lead, strings.ReplaceAll(body, "\n", "\n"+strings.Repeat(" ", len(line.lead))))
	}
}
