package exporter

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
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
	queryCanceled         = "57014"
	featureNotSupported   = "0A000"
	protocolViolation     = "08P01"
	internalError         = "XX000"
	badEncoding           = "22021"
	untranslatable        = "22P05"
)

// standbyRemedy is for whoever runs a standby that has no patience with those who read it.
const standbyRemedy = "a standby ends whoever is in the way of what its primary did to these rows or tables; " +
	"fix: raise max_standby_streaming_delay on the standby, or set hot_standby_feedback = on there"

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

// serverError is what may be safe of an error of the server: never its detail, context or hint, which quote
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

// failed says what was being done when the database failed, as a [contracts.Rejection] where no retry helps, and as a
// [contracts.WorkerFault] where the worker's own login is refused.
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
		// The login is the worker's. Other workers may have another one, and this one may be corrected.
		return &contracts.WorkerFault{Part: contracts.FaultDatabase, Err: err}
	case code == dataCorrupted, code == indexCorrupted:
		return &contracts.Rejection{Code: contracts.DataCorrupted, Err: err}
	case code == badEncoding, code == untranslatable:
		return &contracts.Rejection{Code: contracts.EncodingInvalid, Err: fmt.Errorf("%w: a value or a name is not valid UTF-8", err)}
	case isTooLarge(err):
		return &contracts.Rejection{Code: contracts.ValueTooLarge, Err: err}
	case isPoolFull(err):
		return busy{err}
	}
	return err
}

// inEncoding names the database's encoding where a value or a name is not UTF-8.
func inEncoding(conn *pgx.Conn, err error) error {
	if r, ok := contracts.AsRejection(err); ok && r.Code == contracts.EncodingInvalid {
		return &contracts.Rejection{Code: r.Code, Err: fmt.Errorf("%w, in a database of encoding %s", r.Err, conn.PgConn().ParameterStatus("server_encoding"))}
	}
	return err
}

// tooLarge is the message for a row that exceeds a limit of PostgreSQL's. Its own, "out of memory", means one buffer.
const tooLarge = "a row or a value is larger than PostgreSQL can send"

// tooLargeAllocation begins the message of an allocation beyond the limit of 1 GB. It has the code of internal errors.
const tooLargeAllocation = "invalid memory alloc request size"

// isTooLarge reports whether a limit of the program was met, which a retry meets again.
func isTooLarge(err error) bool {
	e, ok := errors.AsType[*serverError](err)
	return ok && (strings.HasPrefix(e.code, "54") || e.code == internalError && e.message == tooLarge)
}

// poolFull are parts of the messages with which poolers (PgBouncer, PgCat, Supavisor) refuse or end a session because
// all of their connections are in use. Their codes mean other things, too.
var poolFull = []string{
	"query_wait_timeout", "max_client_conn", "client_login_timeout", "no more connections allowed",
	"unable to check out", "Max client connections reached", "could not get connection from the pool",
}

// isPoolFull reports whether a pooler has no connection for us now.
func isPoolFull(err error) bool {
	e, ok := errors.AsType[*serverError](err)
	return ok && (e.code == protocolViolation || e.code == internalError || strings.HasPrefix(e.code, "58")) &&
		slices.ContainsFunc(poolFull, func(part string) bool { return strings.Contains(e.message, part) })
}

// noAnswer makes a failure within ctx, a bound of its own within parent, one of a database without room: the server, or
// a pooler in front of it, has taken the session and not answered it in time.
func noAnswer(parent, ctx context.Context, err error) error {
	if parent.Err() != nil || !errors.Is(ctx.Err(), context.DeadlineExceeded) || isBusy(err) {
		return err
	}
	if _, rejected := contracts.AsRejection(err); rejected {
		return err
	}
	return busy{fmt.Errorf("no answer in time: the database, or a pooler in front of it, has no free connection (%w)", err)}
}

// loginFailed is failed for a session that does not begin. Whatever the server refuses then it refuses the worker: no
// word of a tenant was said yet.
func loginFailed(ctx context.Context, err error) error {
	safe := failed(ctx, err, "connect to the database")
	if ctx.Err() != nil || err == nil || isBusy(safe) {
		return safe
	}
	code := sqlstate(err)
	class := code[:min(2, len(code))]
	_, fault := contracts.AsWorkerFault(safe)
	if !fault && (slices.Contains([]string{"22", "42", "55"}, class) || untrusted(err)) {
		return contracts.Fault(contracts.FaultDatabase, "", "connect to the database: %w", withoutSecrets(err)) // and no rejection
	}
	return safe
}

// untrusted reports whether TLS failed because this side does not accept the server's certificate.
func untrusted(err error) bool {
	_, verification := errors.AsType[*tls.CertificateVerificationError](err)
	_, unknown := errors.AsType[x509.UnknownAuthorityError](err)
	_, host := errors.AsType[x509.HostnameError](err)
	return verification || unknown || host
}

func withoutSecrets(err error) error {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		safe := &serverError{code: e.Code}
		if strings.HasPrefix(e.Code, "54") && e.Message == "out of memory" || e.Code == internalError && strings.HasPrefix(e.Message, tooLargeAllocation) {
			safe.message = tooLarge
			return safe
		}
		raised := e.Routine == "exec_stmt_raise" // by a function, with whatever code and words it likes
		if class := e.Code[:min(2, len(e.Code))]; !raised && class != "22" && class != "23" && class != "P0" && class != "28" {
			safe.message = e.Message
		}
		return safe
	}
	return withoutAddress(err)
}

// withoutAddress keeps of an error of the network what names no host, address, port or login.
func withoutAddress(err error) error {
	if e, ok := errors.AsType[*net.DNSError](err); ok {
		return &net.OpError{Op: "look up the database's host", Err: errors.New(e.Err)}
	}
	if safe := certificateError(err); safe != nil {
		return safe
	}
	if e, ok := errors.AsType[*net.OpError](err); ok {
		if _, address := errors.AsType[*net.AddrError](e.Err); address {
			return &net.OpError{Op: e.Op, Err: errors.New("the database's address is not valid")}
		}
		if system, ok := errors.AsType[*os.SyscallError](e.Err); ok {
			return &net.OpError{Op: e.Op, Err: system}
		}
		return &net.OpError{Op: e.Op, Err: innermost(e.Err)}
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return innermost(err)
	}
	return err
}

// certificateError says what is wrong with the server's certificate, or returns nil. The library's texts name the host
// and the names in the certificate.
func certificateError(err error) error {
	what := ""
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		what = "it is signed by an authority that is not known here: check sslrootcert"
	} else if _, ok := errors.AsType[x509.HostnameError](err); ok {
		what = "it is for another host than the one that is connected to"
	} else if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		what = "it cannot be verified"
		if e.Reason == x509.Expired {
			what = "it has expired, or is not valid yet"
		}
	} else if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		what = "it cannot be verified"
	} else {
		return nil
	}
	return errors.New("the server's certificate is refused: " + what)
}

// innermost is the last cause of an error, of the last one where there are several: it knows neither host nor user.
func innermost(err error) error {
	for {
		var causes []error
		if several, ok := err.(interface{ Unwrap() []error }); ok {
			causes = several.Unwrap()
		} else if cause := errors.Unwrap(err); cause != nil {
			causes = []error{cause}
		}
		if len(causes) == 0 {
			return err
		}
		err = causes[len(causes)-1]
	}
}

// ownText are the classes of errors whose text a function of a tenant's cannot choose: those of connections, conflicts,
// resources, limits, and an operator's intervention.
var ownText = []string{"08", "40", "53", "54", "57"}

// queryFaults say in our words what is wrong with a query.
var queryFaults = map[string]string{
	undefinedTable:        "it names a table that is not there",
	undefinedColumn:       "it names a column that is not there",
	undefinedSchema:       "it names a schema that is not there",
	insufficientPrivilege: "the exporter's role may not read a table that it names",
	"42601":               "its syntax is wrong",
	"42883":               "it calls a function or an operator that is not there for these types",
	"42804":               "its types do not fit",
	"42P10":               "it names a generated column, which a copy of the table does not have",
}

// withoutText is for a statement that might have run code of a tenant's in spite of all: such code chooses the text of
// its errors, which could tell what it has read. The code of the error is kept, and described in our words.
func withoutText(err error) error {
	e, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || slices.Contains(ownText, e.Code[:min(2, len(e.Code))]) || strings.HasPrefix(e.Message, tooLargeAllocation) {
		return err
	}
	return &serverError{code: e.Code, message: queryFaults[e.Code]}
}
