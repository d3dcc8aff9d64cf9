package exporter

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/snapfleet/snapfleet/contracts"
)

// ErrSnapshotLost is in the chain of the error that ends a snapshot when the session that held the instant,
// and the locks, is gone. Nothing that was read after it can be trusted; try again from the start.
var ErrSnapshotLost = errors.New("the session that holds the snapshot is gone")

var (
	errClosed   = errors.New("the snapshot was closed")
	errReleased = errors.New("the snapshot's database transaction was released")
	// errMoved: the tables changed between being listed and being locked. Open looks again.
	errMoved = errors.New("the tables changed while they were being locked")
)

// The SQLSTATEs that something depends on.
const (
	undefinedTable        = "42P01"
	undefinedColumn       = "42703"
	undefinedSchema       = "3F000"
	insufficientPrivilege = "42501"
	deadlockDetected      = "40P01"
	lockNotAvailable      = "55P03"
	outOfMemory           = "53200"
	tooManyConnections    = "53300"
	serializationFailure  = "40001"
	adminShutdown         = "57P01"
	crashShutdown         = "57P02"
	cannotConnectNow      = "57P03"
	databaseDropped       = "57P04"
	undefinedDatabase     = "3D000"
	dataCorrupted         = "XX001"
	indexCorrupted        = "XX002"
	badEncoding           = "22021"
	untranslatable        = "22P05"
)

// standbyRemedy is for whoever runs a standby that has no patience with those who read it.
const standbyRemedy = "a standby ends whoever is in the way of what its primary did to these rows or tables; " +
	"to mend it: raise max_standby_streaming_delay on the standby, or set hot_standby_feedback = on there"

// standbyConflicts are the codes with which a standby ends whoever is in the way of what its primary did.
var standbyConflicts = []string{serializationFailure, deadlockDetected}

// standbyEnds are those with which it may end a session that reads. Who is ended while it waits for us to read cannot
// say anything, and a standby that stops does so for reasons of its own: its primary is not the worse for it.
var standbyEnds = append([]string{"", adminShutdown, crashShutdown, cannotConnectNow, databaseDropped}, standbyConflicts...)

// conflict says that a standby did not let us read in peace.
type conflict struct{ error }

func (c conflict) Unwrap() error { return c.error }

// RecoveryConflict tells who tries again that another standby, or the primary, may be read in peace.
func (c conflict) RecoveryConflict() bool { return true }

func isConflict(err error) bool {
	_, ok := errors.AsType[conflict](err)
	return ok
}

// asConflict makes a conflict of an error with one of these codes, where a standby is read. A replica whose copy of a
// table is damaged is one, too: nobody knows yet whether the primary's is.
func (s *Snapshot) asConflict(ctx context.Context, err error, codes []string) error {
	if ctx.Err() != nil || !s.taken.Standby && !s.server.replica {
		return err
	}
	rejection, rejected := contracts.AsRejection(err)
	switch {
	case rejected && s.server.replica && rejection.Code == contracts.DataCorrupted:
		return conflict{errors.New("the replica is damaged: " + rejection.Err.Error())} // and no rejection any more
	case !rejected && slices.Contains(codes, sqlstate(err)):
		return conflict{err}
	}
	return err
}

// serverError is what may be told of an error of the server: never its detail, context or hint, which quote
// rows, and its message only where that cannot.
type serverError struct{ code, message string }

func (e *serverError) Error() string {
	if e.message == "" {
		return "SQLSTATE " + e.code
	}
	return e.message + " (SQLSTATE " + e.code + ")"
}

// sqlstate is the server's code for err, or "".
func sqlstate(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	if e, ok := errors.AsType[*serverError](err); ok {
		return e.code
	}
	return ""
}

// failed says what was being done when the database failed, as a [contracts.Rejection] where no retry helps.
// The result holds no row, no address and no login; a cancelled context's cause explains what it caused.
func failed(ctx context.Context, err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	what := fmt.Sprintf(format, args...)
	if cause := context.Cause(ctx); cause != nil {
		return fmt.Errorf("%s: %w", what, cause)
	}
	err = fmt.Errorf("%s: %w", what, withoutSecrets(err))
	switch code := sqlstate(err); {
	case code == tooManyConnections:
		return busy{err}
	case code == serializationFailure: // who only reads, and not SERIALIZABLE, meets it on a standby alone
		return fmt.Errorf("%w: %s", err, standbyRemedy)
	case strings.HasPrefix(code, "28"), code == undefinedDatabase:
		return &contracts.Rejection{Code: contracts.DatabaseDenied, Err: err}
	case code == dataCorrupted, code == indexCorrupted, code == badEncoding, code == untranslatable:
		return &contracts.Rejection{Code: contracts.DataCorrupted, Err: err}
	}
	return err
}

func withoutSecrets(err error) error {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		told := &serverError{code: e.Code}
		raised := e.Routine == "exec_stmt_raise" // by a function, with whatever code and words it likes
		if class := e.Code[:min(2, len(e.Code))]; !raised && class != "22" && class != "23" && class != "P0" && class != "28" {
			told.message = e.Message
		}
		return told
	}
	if e, ok := errors.AsType[*net.OpError](err); ok {
		return &net.OpError{Op: e.Op, Err: e.Err}
	}
	if e, ok := errors.AsType[*net.DNSError](err); ok {
		return &net.OpError{Op: "look up the database's host", Err: errors.New(e.Err)}
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		for cause := err; cause != nil; cause = errors.Unwrap(cause) {
			err = cause // the innermost error knows neither host nor user
		}
	}
	return err
}
