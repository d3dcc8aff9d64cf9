package exporter

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/test/world"
)

// newServer is a server that the test may treat as it likes.
func newServer(t *testing.T, opts ...world.Option) *world.Postgres {
	t.Helper()
	server, err := world.StartPostgres(t.Context(), filepath.Join(t.TempDir(), "postgres"), opts...)
	must(t, err)
	t.Cleanup(func() { server.Stop() }) // a throw-away
	return server
}

// retryable fails the test unless err is one that a second attempt may cure.
func retryable(t *testing.T, err error) {
	t.Helper()
	if _, rejected := contracts.AsRejection(err); err == nil || rejected {
		t.Errorf("not to be tried again: %v", err)
	}
}

// TestRestartedServer: a server that is restarted in the middle ends the attempt, whichever way it went down, and
// the next attempt reads everything.
func TestRestartedServer(t *testing.T) {
	t.Parallel()
	server := newServer(t)
	for name, mode := range map[string]world.Mode{"fast": world.Fast, "immediate": world.Immediate} {
		t.Run(name, func(t *testing.T) {
			tn := newTenantIn(t, server, slow, "CREATE TABLE z (x int); INSERT INTO z VALUES (1)", "CHECKPOINT")
			s := tn.open(tiny)
			restart := sync.OnceValue(func() error { return server.Restart(t.Context(), mode) })
			files, err := tryWriteTo(s.Tables(), writerFunc(func(p []byte) (int, error) { return len(p), restart() }))
			must(t, restart())
			retryable(t, err)
			if err := s.Release(t.Context()); err == nil {
				t.Errorf("a snapshot that was lost after %d rows was released without a word", files)
			}
			must(t, s.Close())
			tn.noSessions()
			tn.conn = tn.connect()
			tn.schema = "acme"
			again := tn.open(tiny)
			tn.roundTrip(write(t, again.Tables(), 0))
			must(t, again.Release(t.Context()))
		})
	}
}

// TestStandby: a hot standby is read like a primary. What its primary does meanwhile may end an attempt there, with
// an error that names the remedy, but never bends it; and the next attempt succeeds.
func TestStandby(t *testing.T) {
	t.Parallel()
	primary := newServer(t, world.Primary(), world.Set("autovacuum", "off")) // whose snapshots would keep dead rows
	standby, err := primary.StartStandby(t.Context(), filepath.Join(t.TempDir(), "standby"), world.Set("max_standby_streaming_delay", "0"))
	must(t, err)
	t.Cleanup(func() { standby.Stop() }) // a throw-away

	for _, c := range []struct {
		name string
		cfg  Config
		harm []string
		rows int64 // afterwards
	}{
		{"vacuum", tiny, []string{"DELETE FROM slow", "VACUUM slow"}, 1},
		{"vacuum under one long COPY", Config{ChunkBytes: -1, Window: 1, FleetConnections: 1}, []string{"DELETE FROM slow", "VACUUM slow"}, 1},
		{"truncate", tiny, []string{"TRUNCATE slow"}, 1},
		{"alter", tiny, []string{"ALTER TABLE slow ALTER t TYPE varchar(80) USING t || '!'"}, 60001},
	} {
		t.Run(c.name, func(t *testing.T) {
			tn := newTenantIn(t, primary, slow, "CREATE TABLE z (x int); INSERT INTO z VALUES (1)", "VACUUM slow")
			there, err := pgx.ParseConfig(standby.URL(tn.db.Database))
			must(t, err)
			tn.db = there
			replay := follow(tn, there)
			replay.until("the primary's last change", func(done, _ bool) bool { return done })

			whole, err := tn.tryOpen(t.Context(), c.cfg)
			must(t, err)
			defer whole.Close()
			rows, err := tryWriteTo(whole.Tables(), writerFunc(func(p []byte) (int, error) { return len(p), nil }))
			if err := errors.Join(err, whole.Release(t.Context())); err != nil || rows != 60001 || !whole.Contents().Snapshot.Standby || len(whole.siblings) != 0 {
				t.Errorf("%d rows of a standby: %v", rows, err)
			}
			primary := tn.admin
			tn.admin = there
			tn.noSessions() // who has just ended still counts for a moment
			tn.admin = primary

			s, err := tn.tryOpen(t.Context(), c.cfg)
			must(t, err)
			defer s.Close()
			harm := sync.OnceFunc(func() {
				tn.exec(c.harm...)
				// A COPY that waits for us to read is ended no sooner than we do, so the change need not be done.
				replay.until("the standby to be in conflict with us", func(done, conflict bool) bool { return done || conflict })
			})
			_, err = tryWriteTo(s.Tables(), writerFunc(func(p []byte) (int, error) { harm(); return len(p), nil }))
			retryable(t, err)
			for _, says := range []string{"max_standby_streaming_delay", "hot_standby_feedback"} {
				if !strings.Contains(fmt.Sprint(err), says) {
					t.Errorf("does not say %s: %v", says, err)
				}
			}
			if err := s.Release(t.Context()); err == nil {
				t.Error("a snapshot that was lost was released without a word")
			}
			replay.until("the change to be replayed", func(done, _ bool) bool { return done })

			next, err := tn.tryOpen(t.Context(), c.cfg)
			must(t, err)
			defer next.Close()
			rows, err = tryWriteTo(next.Tables(), writerFunc(func(p []byte) (int, error) { return len(p), nil }))
			if err := errors.Join(err, next.Release(t.Context())); err != nil || rows != c.rows {
				t.Errorf("the next attempt: %d rows, %v", rows, err)
			}
			tn.admin = there
			tn.noSessions()
		})
	}

	t.Run("unlogged", func(t *testing.T) {
		tn := newTenantIn(t, primary, "CREATE UNLOGGED TABLE fast (x int)")
		there, err := pgx.ParseConfig(standby.URL(tn.db.Database))
		must(t, err)
		tn.db = there
		follow(tn, there).until("the table", func(done, _ bool) bool { return done })
		if _, err := tn.tryOpen(t.Context(), Config{}); err == nil || !strings.Contains(err.Error(), `"fast"`) {
			t.Errorf("error: %v", err)
		}
	})
}

// following looks at how a standby gets on with its primary.
type following struct {
	primary *tenant
	there   *pgx.ConnConfig
	standby *pgx.Conn
}

// follow waits for the tenant's database to be there.
func follow(tn *tenant, there *pgx.ConnConfig) *following {
	tn.t.Helper()
	f := &following{primary: tn, there: there}
	await(tn.t, "the database on the standby", f.connected)
	tn.t.Cleanup(func() { f.standby.Close(tn.t.Context()) })
	return f
}

// connected reports whether there is a session; one that was in the way has been ended.
func (f *following) connected() bool {
	if f.standby == nil || f.standby.IsClosed() {
		conn, err := pgx.ConnectConfig(f.primary.t.Context(), f.there)
		if err != nil {
			return false
		}
		f.standby = conn
	}
	return true
}

// until polls whether the standby has done all that the primary has, and whether one of its readers is in the way of that:
// it waits for it, or, where it may not wait, has everything and comes no further. Of that it shows nothing.
func (f *following) until(what string, happened func(done, conflict bool) bool) {
	f.primary.t.Helper()
	ctx := f.primary.t.Context()
	f.primary.exec("SELECT pg_logical_emit_message(true, 'here', 'here')") // a commit that is flushed
	lsn := f.primary.one("pg_current_wal_insert_lsn()")
	var last string
	still := 0
	await(f.primary.t, what, func() bool {
		if !f.connected() {
			return false
		}
		var at string
		var done, received, waits bool
		err := f.standby.QueryRow(ctx, `SELECT pg_last_wal_replay_lsn()::text, pg_last_wal_replay_lsn() >= $1::text::pg_lsn, pg_last_wal_receive_lsn() >= $1::text::pg_lsn,
			EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'startup' AND (wait_event LIKE 'RecoveryConflict%' OR wait_event_type = 'Lock'))`, lsn).Scan(&at, &done, &received, &waits)
		if still++; err != nil || at != last || !received {
			still = 0
		}
		last = at
		return err == nil && happened(done, waits || still > 100) // this reader may be in the way, too
	})
}
