package exporter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/snapfleet/snapfleet/contracts"
)

// slots is how many slots of the tenant's database are taken, by as many sessions.
const slots = `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 1936613744 AND objsubid = 2
	AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`

// isWaiting reports whether the error says that there is no room now, in the way in which other packages ask.
func isWaiting(err error) bool {
	var b interface{ Busy() bool }
	_, rejected := contracts.AsRejection(err)
	return errors.As(err, &b) && b.Busy() && !rejected
}

// tables makes so many of ten rows each.
func tables(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "CREATE TABLE t%02d AS SELECT n AS id, md5(n::text) AS word FROM generate_series(1, 10) n;", i)
	}
	return b.String()
}

// job is an attempt at a job of its own.
func job(n int) contracts.Attempt {
	a := attempt("acme")
	a.Request.Job = fmt.Sprintf("job-%d", n)
	return a
}

// TestFleetShare: two workers with two jobs each, and room for three sessions in all. Never are there more, each
// job ends, and nobody waits inside the database.
func TestFleetShare(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, slow)
	cfg := tiny
	cfg.FleetConnections = 3
	workers := []*Exporter{New(tn.db, nil, cfg), New(tn.db, nil, cfg)}

	done := make(chan struct{})
	var jobs sync.WaitGroup
	var mu sync.Mutex
	refused, most := 0, 0
	for n := range 4 {
		jobs.Go(func() {
			for range 2 {
				waited := insistOn(t, workers[n%2], job(n), 60000)
				mu.Lock()
				refused += waited
				mu.Unlock()
			}
		})
	}
	go func() { jobs.Wait(); close(done) }()
	tick := time.NewTicker(3 * time.Millisecond)
	defer tick.Stop()
	for ended := false; !ended; {
		select {
		case <-done:
			ended = true
		case <-tick.C:
		}
		var taken, reading, waiting int
		must(t, tn.conn.QueryRow(t.Context(), "SELECT ("+slots+`), (SELECT count(*) FROM pg_stat_activity
				WHERE datname = current_database() AND application_name LIKE 'snapfleet/%' AND (query LIKE 'COPY%' OR query LIKE '%to_regclass%')),
			(SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE datname = current_database() AND NOT granted)`).Scan(&taken, &reading, &waiting))
		if taken > 3 || reading > 3 || waiting > 0 {
			t.Errorf("%d slots are taken, %d sessions read, %d wait for a lock", taken, reading, waiting)
		}
		most = max(most, taken)
	}
	if most != 3 || refused == 0 {
		t.Errorf("%d slots were in use at most, and %d times there was none", most, refused)
	}
	tn.noSessions()
}

// TestFullDatabase: who finds no slot goes away, having locked nothing, and says that it was nobody's fault.
func TestFullDatabase(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, "CREATE TABLE a (x int); INSERT INTO a VALUES (1)", attachmentTable)
	e := New(tn.db, nil, Config{Connections: 4, FleetConnections: 3, ChunkBytes: 1})
	first, err := e.Open(t.Context(), job(1))
	must(t, err)
	defer first.Close()
	if len(first.siblings) != 2 || tn.one(slots) != "3" {
		t.Fatalf("%d siblings, and %s slots", len(first.siblings), tn.one(slots))
	}
	for _, only := range []contracts.Kind{"", contracts.Tables, contracts.Attachments} {
		a := job(2)
		a.Request.Only = only
		if _, err := e.Open(t.Context(), a); !isWaiting(err) || !strings.Contains(err.Error(), "all 3 connections") {
			t.Errorf("only %q: %v", only, err)
		}
	}
	await(t, "the refused sessions to end", func() bool {
		return tn.one("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'snapfleet/%' AND datname = current_database()") == "3"
	})
	must(t, first.Close())
	tn.noSessions() // a server frees the locks of a session a moment after that has ended
	second, err := e.Open(t.Context(), job(2))
	must(t, err)
	must(t, second.Close())
	tn.noSessions()
}

// TestSlotOfAKilledSession is free again, and the one session that gets it reads everything by itself.
func TestSlotOfAKilledSession(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, churned, "CREATE TABLE z (x int); INSERT INTO z VALUES (1)")
	cfg := tiny
	cfg.FleetConnections = 3
	e := New(tn.db, nil, cfg)
	first, err := e.Open(t.Context(), job(1))
	must(t, err)
	defer first.Close()
	tn.exec(fmt.Sprintf("SELECT pg_terminate_backend(%d)", first.siblings[0].PgConn().PID()))
	await(t, "the slot to be free", func() bool { return tn.one(slots) == "2" })
	alone, err := e.Open(t.Context(), job(2))
	must(t, err)
	defer alone.Close()
	if len(alone.siblings) != 0 || tn.one(slots) != "3" {
		t.Errorf("%d siblings, and %s slots", len(alone.siblings), tn.one(slots))
	}
	tn.roundTrip(write(t, alone.Tables(), 0))
	must(t, alone.Release(t.Context()))
}

// TestSlotIsTheTransactions: a pooler that lends sessions for a transaction gets none back that still holds one.
func TestSlotIsTheTransactions(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, "CREATE TABLE a (x int); INSERT INTO a VALUES (1)")
	s := tn.open(Config{Connections: 2, FleetConnections: 7, ChunkBytes: 1})
	if got := tn.one(slots); got != "3" {
		t.Errorf("%s slots for three sessions", got)
	}
	for _, conn := range append(s.siblings, s.holder) {
		s.stopWatch()
		s.watched.Wait()
		must(t, exec(t.Context(), conn, "ROLLBACK"))
	}
	if got := tn.one("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"); got != "0" {
		t.Errorf("%s slots are held by sessions without a transaction", got)
	}
}

// TestLocksOfOtherRoles: each role that may log in may lock the numbers of the slots. That takes nothing from the fleet.
func TestLocksOfOtherRoles(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, "CREATE TABLE a (x int); INSERT INTO a VALUES (1)")
	tn.as(grantAll)
	tn.exec(fmt.Sprintf("SELECT count(pg_advisory_lock(%d, n)) FROM generate_series(1, 25) n", slotClass))
	cfg := Config{Connections: 2, FleetConnections: 3, ChunkBytes: 1}
	s := tn.open(cfg)
	if len(s.siblings) != 2 {
		t.Errorf("%d siblings beside locks of others", len(s.siblings))
	}
	_, err := New(tn.db, nil, cfg).Open(t.Context(), job(2))
	if !isWaiting(err) || !strings.Contains(err.Error(), "all 3 connections") || !strings.Contains(err.Error(), "postgres") {
		t.Errorf("a fourth session: %v", err)
	}
	if files := write(t, s.Tables(), 0); files[0].rows != 1 {
		t.Errorf("%d rows", files[0].rows)
	}
}

// TestNoShare: whoever wants no bound has none.
func TestNoShare(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, "CREATE TABLE a (x int); INSERT INTO a VALUES (1)")
	s := tn.open(Config{Connections: 5, FleetConnections: -1, ChunkBytes: 1})
	if got := tn.one(slots); len(s.siblings) != 5 || got != "0" {
		t.Errorf("%d siblings, %s slots", len(s.siblings), got)
	}
}

// TestSmallTenant: who has next to nothing to read opens one session, and says little on it.
func TestSmallTenant(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, tables(50))
	s := tn.open(Config{ChunkBytes: 16 << 20})
	if got := tn.one(slots); len(s.siblings) != 0 || got != "1" {
		t.Errorf("%d siblings, %s slots", len(s.siblings), got)
	}
	if files := write(t, s.Tables(), 0); len(files) != 50 {
		t.Errorf("%d files", len(files))
	}
}

// TestSiblingsFollowTheWork: one for each chunk, at the most as many as were asked for, and none where one would do.
func TestSiblingsFollowTheWork(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	for _, c := range []struct {
		chunk, bytes int64
		tables       int
		want         int64
	}{
		{16 * mib, 8 << 10, 1, 0},
		{16 * mib, 15 * mib, 1, 0},
		{16 * mib, 17 * mib, 1, 2},
		{16 * mib, 40 * mib, 1, 3},
		{16 * mib, 1 << 40, 1, 4},
		{16 * mib, 0, 50, 0},
		{16 * mib, 0, 300, 3},
		{16 * mib, 0, 5000, 4},
		{1, 8 << 10, 1, 4},
		{-1, 15 * mib, 1, 0}, // whole tables
		{-1, 1 << 40, 1, 4},
	} {
		s := &Snapshot{exporter: New(&pgx.ConnConfig{}, nil, Config{ChunkBytes: c.chunk})}
		sizes := map[uint32]storage{}
		for i := range c.tables {
			sizes[uint32(i)] = storage{heap: c.bytes / 2, toast: c.bytes / 2}
		}
		if got := s.worthwhile(sizes); got != c.want {
			t.Errorf("%d tables of %d bytes, chunks of %d: %d siblings, want %d", c.tables, c.bytes, c.chunk, got, c.want)
		}
	}
}

// TestServerWithoutRoom: what the server itself refuses for want of connections is no fault either, and siblings
// do without.
func TestServerWithoutRoom(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, "CREATE TABLE a (x int); INSERT INTO a VALUES (1)")
	tn.as(grantAll, "ALTER ROLE {role} CONNECTION LIMIT 1")
	s := tn.open(Config{})
	if _, err := New(tn.db, nil, Config{}).Open(t.Context(), job(2)); !isWaiting(err) || sqlstate(err) != tooManyConnections {
		t.Errorf("error: %v", err)
	}
	if files := write(t, s.Tables(), 0); len(s.siblings) != 0 || files[0].rows != 1 {
		t.Errorf("%d siblings, %d rows", len(s.siblings), files[0].rows)
	}
}

// TestHolderAloneIsKilled: the one session that does everything is missed, too.
func TestHolderAloneIsKilled(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, slow)
	cfg := tiny
	cfg.FleetConnections = 1
	s := tn.open(cfg)
	killed := false
	_, err := tryWriteTo(s.Tables(), writerFunc(func(p []byte) (int, error) {
		if !killed {
			killed = true
			tn.exec(fmt.Sprintf("SELECT pg_terminate_backend(%d)", s.holder.PgConn().PID()))
		}
		return len(p), nil
	}))
	if _, rejected := contracts.AsRejection(err); err == nil || rejected {
		t.Errorf("error: %v", err)
	}
	if err := s.Release(context.Background()); err == nil {
		t.Error("a snapshot that was lost was released without a word")
	}
}

// insistOn reads all tables as soon as there is room for the job, and counts how often there was none.
func insistOn(t *testing.T, e *Exporter, a contracts.Attempt, want int64) (refused int) {
	for ; ; refused++ {
		s, err := e.Open(t.Context(), a)
		if isWaiting(err) {
			continue
		}
		if err != nil {
			t.Error(err)
			return refused
		}
		rows, err := tryWriteTo(s.Tables(), io.Discard)
		if err = errors.Join(err, s.Release(t.Context()), s.Close()); err != nil || rows != want {
			t.Errorf("%d rows, %v", rows, err)
		}
		return refused
	}
}
