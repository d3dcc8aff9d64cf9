package exporter

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/snapfleet/snapfleet/contracts"
)

// connectTimeout bounds a connection attempt where the database URL does not.
const connectTimeout = 15 * time.Second

// cancelTimeout bounds a request to cancel what a session does. It is a courtesy: the session ends without it, too.
const cancelTimeout = 2 * time.Second

// keepAlive notices within half a minute that the other side is gone, also when only it would speak.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}

// connect opens a session that belongs to one attempt and to nothing else: no pool, no cache, no tracer.
func (s *server) connect(ctx context.Context, name string) (*pgx.Conn, error) {
	c := s.db.Copy()
	if c.RuntimeParams == nil {
		c.RuntimeParams = map[string]string{}
	}
	// Start-up parameters that every pooler knows and tracks. The server reads each later statement, with the names of
	// tables in it, as UTF-8, whatever the role, the database, the URL or the environment say of client_encoding.
	c.RuntimeParams["application_name"], c.RuntimeParams["client_encoding"] = name, "UTF8"
	keep := tap(c)
	c.DefaultQueryExecMode = pgx.QueryExecModeExec
	c.Tracer, c.OnNotice, c.OnNotification = nil, nil, nil
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = connectTimeout
	}
	var connected atomic.Bool
	dial := c.DialFunc
	c.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if tcp, ok := conn.(*net.TCPConn); ok && err == nil {
			err = tcp.SetKeepAliveConfig(keepAlive)
		}
		if err == nil && connected.Load() { // for a request to cancel, which a pooler may keep waiting, too
			err = conn.SetDeadline(time.Now().Add(cancelTimeout))
		}
		return conn, err
	}
	conn, err := pgx.ConnectConfig(ctx, c)
	if err != nil {
		return nil, loginFailed(ctx, err)
	}
	connected.Store(true)
	keep(conn)
	return conn, nil
}

// setting is a server setting and the value that we want.
type setting struct{ name, value string }

// optionalSettings are those that some servers do not know or refuse: a system that cannot watch a socket.
var optionalSettings = []setting{
	{"restrict_nonsystem_relation_kind", "view,foreign-table"}, // no tenant's view runs code as us
	{"client_connection_check_interval", "10s"},                // a COPY ends soon after we do
	{"transaction_timeout", "0"},
}

// trySettings makes the settings that the server knows and allows, for the transaction that conn is in, and returns them
// as statements for later transactions. Nothing may be left in the session after the transaction: behind a pooler in
// transaction mode the next transaction of that session is another client's.
func trySettings(ctx context.Context, conn *pgx.Conn, settings []setting) (accepted string, err error) {
	values := make([]string, len(settings))
	for i, s := range settings {
		values[i] = "('" + s.name + "', '" + s.value + "')"
	}
	results, err := conn.PgConn().Exec(ctx, "SAVEPOINT settings; SELECT name, pg_catalog.set_config(name, value, true) FROM (VALUES "+strings.Join(values, ", ")+
		") AS wanted (name, value) WHERE pg_catalog.current_setting(name, true) IS NOT NULL; RELEASE settings").ReadAll()
	switch {
	case err == nil && len(results) == 3:
		for _, row := range results[1].Rows {
			for _, s := range settings {
				if s.name == string(row[0]) {
					accepted += "; SET LOCAL " + s.name + " = '" + s.value + "'"
				}
			}
		}
		return accepted, nil
	case sqlstate(err) == "":
		return "", failed(ctx, cmp.Or(err, errors.New("a savepoint without an answer")), "prepare a database transaction")
	}
	if err := exec(ctx, conn, "ROLLBACK TO settings; RELEASE settings"); err != nil {
		return "", failed(ctx, err, "prepare a database transaction")
	}
	if len(settings) == 1 {
		return "", nil // refused
	}
	for _, s := range settings {
		one, err := trySettings(ctx, conn, []setting{s})
		if err != nil {
			return "", err
		}
		accepted += one
	}
	return accepted, nil
}

// settings of each transaction, so that no default of a role, a database or a server changes a byte. They
// are local to the transaction, which is as far as a pooler lets one rely on a session.
func (e *Exporter) settings() string {
	return `SET LOCAL statement_timeout = 0; SET LOCAL search_path = ''; SET LOCAL row_security = off; SET LOCAL client_encoding = 'UTF8';
SET LOCAL DateStyle = 'ISO, YMD'; SET LOCAL IntervalStyle = 'postgres'; SET LOCAL TimeZone = 'UTC';
SET LOCAL extra_float_digits = 3; SET LOCAL bytea_output = 'hex'; SET LOCAL xmlbinary = 'base64';
SET LOCAL lc_monetary = 'C'; SET LOCAL quote_all_identifiers = off; SET LOCAL standard_conforming_strings = on;
SET LOCAL idle_in_transaction_session_timeout = 0;
SET LOCAL lock_timeout = ` + strconv.FormatInt(max(1, e.cfg.LockTimeout.Milliseconds()), 10) + `;
SET LOCAL synchronize_seqscans = off; SET LOCAL enable_seqscan = on; SET LOCAL enable_tidscan = on;
SET LOCAL constraint_exclusion = off;
SET LOCAL jit = off; SET LOCAL max_parallel_workers_per_gather = 0`
}

const begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; "

// beginTries is how often a transaction is begun under a statement_timeout that is shorter than that takes.
const beginTries = 50

// beginWith runs the statements that begin a transaction with these settings. A statement_timeout of the role or the
// database applies until the first SET LOCAL: where it ends them, the timeout is taken off in a message of its own.
func beginWith(ctx context.Context, conn *pgx.Conn, settings string, run func(before string) error) error {
	err := run(begin + settings)
	for try := 0; sqlstate(err) == queryCanceled && ctx.Err() == nil && try < beginTries; try++ {
		exec(ctx, conn, "ROLLBACK") // what fails here fails again below
		if err = exec(ctx, conn, begin+"SET LOCAL statement_timeout = 0"); err == nil {
			err = run(settings)
		}
	}
	return err
}

// exec runs statements that return nothing of interest.
func exec(ctx context.Context, conn *pgx.Conn, sql string) error {
	_, err := conn.PgConn().Exec(ctx, sql).ReadAll()
	return err
}

// disconnect ends a session and waits until its socket is closed.
func disconnect(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	conn.Close(ctx) // all that can fail is saying goodbye
	<-conn.PgConn().CleanupDone()
}

// abandon ends a session that may have given no answer: its socket is closed without waiting for one.
func abandon(conn *pgx.Conn) {
	if conn.PgConn().IsClosed() {
		conn.PgConn().Conn().Close() // it is read until the other side closes it, or is closed here
	}
	disconnect(conn)
}

// maxSessionName is PostgreSQL's: longer names are cut.
const maxSessionName = 63

// sessionPrefix is what the names of all sessions of a job begin with.
func sessionPrefix(a contracts.Attempt) string {
	p := "snapfleet/" + a.Tenant.Name + "/" + a.Request.Job + "/"
	if room := maxSessionName - len("999999-0123456789abcdef"); len(p) > room {
		digest := sha256.Sum256([]byte(p))
		p = "snapfleet/~" + hex.EncodeToString(digest[:10]) + "/"
	}
	return p
}

// sessionName tells the sessions of one attempt from all others, for people and for successors.
func sessionName(a contracts.Attempt) string {
	p := sessionPrefix(a)
	if len(p)+len(a.ID) > maxSessionName {
		digest := sha256.Sum256([]byte(a.ID))
		return p + strconv.Itoa(a.Number) + "-" + hex.EncodeToString(digest[:8])
	}
	return p + a.ID
}

// supersedes reports whether the session called other belongs to an older attempt of a's job. One that was
// thought dead and wakes up must not end its successor's.
func supersedes(a contracts.Attempt, other string) bool {
	attempt, ok := strings.CutPrefix(other, sessionPrefix(a))
	if !ok || other == sessionName(a) {
		return false
	}
	number, _, _ := strings.Cut(attempt, "-")
	n, err := strconv.Atoi(number)
	return err == nil && n <= a.Number
}

// evict ends, in the transaction that conn is in, what is left of older attempts of the job: their sessions would hold
// locks and slots, and keep the database from cleaning up behind an instant that nobody reads any more.
func evict(ctx context.Context, conn *pgx.Conn, a contracts.Attempt) error {
	rows, err := conn.Query(ctx, `SELECT pid, application_name FROM pg_stat_activity
		WHERE usename = current_user AND datname = current_database() AND pid <> pg_backend_pid() AND starts_with(application_name, $1)`, sessionPrefix(a))
	if err != nil {
		return failed(ctx, err, "look for older sessions of the job")
	}
	type session struct {
		PID  int32
		Name string
	}
	sessions, err := pgx.CollectRows(rows, pgx.RowToStructByPos[session])
	if err != nil {
		return failed(ctx, err, "look for older sessions of the job")
	}
	for _, s := range sessions {
		if supersedes(a, s.Name) {
			if _, err := conn.Exec(ctx, "SELECT pg_terminate_backend($1)", s.PID); err != nil {
				return failed(ctx, err, "end an older session of the job")
			}
		}
	}
	return nil
}

// instant identifies a server and one snapshot of it. A pooler, a name that means several hosts or a failover
// may send a sibling to another server, where the same short snapshot id can exist for something else.
type instant struct {
	XID     string // pg_current_snapshot()
	Started time.Time
	Address string
	Standby bool
}

const instantColumns = `pg_current_snapshot()::text, pg_postmaster_start_time(),
	coalesce(host(inet_server_addr()) || ' ' || inet_server_port(), ''), pg_is_in_recovery()`

func (i *instant) fields() []any { return []any{&i.XID, &i.Started, &i.Address, &i.Standby} }

func (i instant) equal(j instant) bool {
	return i.XID == j.XID && i.Started.Equal(j.Started) && i.Address == j.Address && i.Standby == j.Standby
}

// lockTables takes ACCESS SHARE on every relation, which lets everybody read and write and nobody truncate,
// rewrite, drop or rename. LOCK takes no snapshot, so it may come before one. The first locks go with the statements
// that are to come before them.
func lockTables(ctx context.Context, conn *pgx.Conn, before, schema string, relations []*relation, suffix string) error {
	const atOnce = 200
	for len(relations) > 0 {
		n := min(atOnce, len(relations))
		names := make([]string, n)
		for i, r := range relations[:n] {
			names[i] = "ONLY " + r.quoted(schema)
		}
		sql := fmt.Sprintf("%sLOCK TABLE %s IN ACCESS SHARE MODE%s", before, strings.Join(names, ", "), suffix)
		if err := exec(ctx, conn, sql); err != nil {
			return err
		}
		relations, before = relations[n:], ""
	}
	return nil
}
