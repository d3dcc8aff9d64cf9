package exporter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/test/world"
)

// isRecoveryConflict reports whether the error says that a standby did not let us end, in the way in which other packages
// ask.
func isRecoveryConflict(err error) bool {
	var c interface{ RecoveryConflict() bool }
	_, rejected := contracts.AsRejection(err)
	return errors.As(err, &c) && c.RecoveryConflict() && !rejected
}

func TestWhichServerIsRead(t *testing.T) {
	t.Parallel()
	there := &pgx.ConnConfig{}
	for _, c := range []struct {
		db        Database
		conflicts int
		replica   bool
	}{
		{Database{Primary: there}, 0, false},
		{Database{Primary: there, Replica: there}, 0, true},
		{Database{Primary: there, Replica: there}, 1, true},
		{Database{Primary: there, Replica: there}, 2, false},
		{Database{Primary: there, Replica: there}, 3, false},
	} {
		if got := readsReplica(c.db, c.conflicts); got != c.replica {
			t.Errorf("after %d conflicts a replica is read: %t", c.conflicts, got)
		}
	}
}

// TestUnknownDatabase: nobody is to blame for a worker that does not know a database, and what it says names it.
func TestUnknownDatabase(t *testing.T) {
	t.Parallel()
	db, err := pgx.ParseConfig("postgres://somebody:s3cret@127.0.0.1:1/db")
	must(t, err)
	e := New(db, nil, Config{Databases: map[string]Database{"eu-1": {Primary: db}}})
	a := attempt("acme")
	a.Tenant.Database = "eu-2"
	_, err = e.Open(t.Context(), a)
	for _, err := range []error{err, e.Knows("eu-2")} {
		if !isWaiting(err) || !strings.Contains(err.Error(), `no database "eu-2", only default, eu-1: name it in the workers' --databases`) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("error: %v", err)
		}
	}
	for _, name := range []string{"", "default", "eu-1"} {
		if err := e.Knows(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for name, bad := range map[string]Database{"EU": {Primary: db}, "": {Primary: db}, "eu-1": {Replica: db}} {
		if err := (Config{Databases: map[string]Database{name: bad}}).Validate(); err == nil {
			t.Errorf("%q: %+v is taken for a database", name, bad)
		}
	}
}

// fallbacks are what an exporter was heard to say of its replicas.
type fallbacks struct {
	mu   sync.Mutex
	said []string
}

func (f *fallbacks) tell(_ context.Context, database string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.said = append(f.said, database+": "+err.Error())
}

// take is what was said since it was taken last.
func (f *fallbacks) take() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer func() { f.said = nil }()
	return strings.Join(f.said, "\n")
}

// TestReplica: a replica is read in its primary's place, until it has ended two attempts of a job, and unless it cannot
// be read.
func TestReplica(t *testing.T) {
	t.Parallel()
	primary := newServer(t, world.Primary(), world.Set("autovacuum", "off")) // whose snapshots would keep dead rows
	standby, err := primary.StartStandby(t.Context(), filepath.Join(t.TempDir(), "standby"), world.Set("max_standby_streaming_delay", "0"))
	must(t, err)
	t.Cleanup(func() { standby.Stop() }) // a throw-away
	tn := newTenantIn(t, primary, slow, "CREATE TABLE z (x int); INSERT INTO z VALUES (1)", "VACUUM slow")
	there, err := pgx.ParseConfig(standby.URL(tn.db.Database))
	must(t, err)
	replay := follow(tn, there)
	caughtUp := func() { replay.until("the standby to catch up", func(done, _ bool) bool { return done }) }
	caughtUp()

	var told fallbacks
	exporting := func(replica *pgx.ConnConfig, cfg Config) *Exporter {
		cfg.Databases = map[string]Database{"eu-1": {Primary: tn.db, Replica: replica, FleetConnections: cfg.FleetConnections}}
		cfg.Fallback = told.tell
		nowhere := tn.db.Copy()
		nowhere.Port = 1
		return New(nowhere, nil, cfg)
	}
	at := func(schema string, conflicts int) contracts.Attempt {
		a := attempt(schema)
		a.Tenant.Database, a.Conflicts = "eu-1", conflicts
		return a
	}
	// reads returns where a snapshot was read, having read all of it.
	reads := func(t *testing.T, e *Exporter, a contracts.Attempt) (standby bool) {
		t.Helper()
		s, err := e.Open(t.Context(), a)
		must(t, err)
		defer s.Close()
		_, err = tryWriteTo(s.Tables(), io.Discard)
		must(t, errors.Join(err, s.Release(t.Context())))
		return s.Contents().Snapshot.Standby
	}

	t.Run("is read until two attempts have met a conflict", func(t *testing.T) {
		e := exporting(there, tiny)
		for conflicts := 0; ; conflicts++ {
			s, err := e.Open(t.Context(), at("acme", conflicts))
			must(t, err)
			if on := s.Contents().Snapshot.Standby; on != (conflicts < 2) {
				t.Errorf("after %d conflicts the standby is read: %t", conflicts, on)
			}
			harm := sync.OnceFunc(func() {
				tn.exec("UPDATE slow SET t = t", "VACUUM slow")
				if conflicts < 2 {
					replay.until("the standby to be in conflict with us", func(done, conflict bool) bool { return done || conflict })
				}
			})
			_, err = tryWriteTo(s.Tables(), writerFunc(func(p []byte) (int, error) { harm(); return len(p), nil }))
			if lost := s.Release(t.Context()); conflicts < 2 && !isRecoveryConflict(lost) || conflicts == 2 && lost != nil {
				t.Errorf("after %d conflicts it is released with %v", conflicts, lost)
			}
			must(t, s.Close())
			if conflicts == 2 {
				must(t, err)
				break
			}
			if !isRecoveryConflict(err) {
				t.Fatalf("after %d conflicts: %v", conflicts, err)
			}
			caughtUp()
		}
		if said := told.take(); said != "" {
			t.Errorf("a conflict is no reason to read the primary at once: %s", said)
		}
	})

	t.Run("that cannot be read leaves it to the primary at once", func(t *testing.T) {
		nobody := there.Copy()
		nobody.Port, nobody.Fallbacks = 1, nil
		stranger := there.Copy()
		stranger.User = "somebody_unknown"
		for name, replica := range map[string]*pgx.ConnConfig{"down": nobody, "denied": stranger} {
			if reads(t, exporting(replica, tiny), at("acme", 0)) {
				t.Errorf("%s: a standby was read", name)
			}
			said := told.take()
			if !strings.HasPrefix(said, "eu-1: ") || strings.Contains(said, "127.0.0.1") || strings.Contains(said, "somebody_unknown") {
				t.Errorf("%s: %q", name, said)
			}
		}
	})

	t.Run("that lags behind is no witness of what is not there", func(t *testing.T) {
		caughtUp()
		conn, err := pgx.ConnectConfig(t.Context(), there)
		must(t, err)
		defer conn.Close(context.Background())
		_, err = conn.Exec(t.Context(), "SELECT pg_wal_replay_pause()")
		must(t, err)
		defer func() {
			_, err := conn.Exec(t.Context(), "SELECT pg_wal_replay_resume()")
			must(t, err)
			caughtUp()
		}()
		tn.exec("CREATE SCHEMA late; CREATE TABLE late.t (x int)")
		if reads(t, exporting(there, tiny), at("late", 0)) || !strings.Contains(told.take(), "schema_not_found") {
			t.Error("a schema that only the primary has was read from the standby")
		}
		if _, err := exporting(there, tiny).Open(t.Context(), at("nobody", 0)); !isRejected(err, contracts.SchemaNotFound) {
			t.Errorf("a schema that neither has: %v", err)
		}
		told.take()
	})

	t.Run("has no rows of unlogged tables", func(t *testing.T) {
		tn.exec("CREATE SCHEMA fast; CREATE UNLOGGED TABLE fast.t (x int); INSERT INTO fast.t VALUES (1)")
		caughtUp()
		if reads(t, exporting(there, tiny), at("fast", 0)) || !strings.Contains(told.take(), "unlogged") {
			t.Error("an unlogged table was read from the standby")
		}
	})

	t.Run("has a share of its own, and whoever finds none waits", func(t *testing.T) {
		e := exporting(there, Config{Connections: 1, FleetConnections: 1})
		first, err := e.Open(t.Context(), at("acme", 0))
		must(t, err)
		defer first.Close()
		second := at("acme", 0)
		second.Request.Job = "another"
		if _, err := e.Open(t.Context(), second); !isWaiting(err) || !strings.Contains(err.Error(), "all 1 connections") || !strings.Contains(err.Error(), "replica") {
			t.Errorf("the replica's share is in use: %v", err)
		}
		second.Conflicts = 2
		if reads(t, e, second) {
			t.Error("the primary has a share of its own")
		}
		if said := told.take(); said != "" {
			t.Errorf("a replica that is busy can be read: %s", said)
		}
	})
}

// TestConflicts: what counts as one, of what a standby's session may end with. Whoever just cancels is not ended by it.
func TestConflicts(t *testing.T) {
	t.Parallel()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	coded := func(code string) error { return fmt.Errorf("copy: %w", &serverError{code: code}) }
	damaged := &contracts.Rejection{Code: contracts.DataCorrupted, Err: coded(dataCorrupted)}
	for _, c := range []struct {
		name          string
		ctx           context.Context
		standby       bool
		replica       bool
		err           error
		opens, copies bool
	}{
		{"conflict", t.Context(), true, false, coded("40001"), true, true},
		{"deadlock with recovery", t.Context(), true, true, coded("40P01"), true, true},
		{"shut down", t.Context(), true, true, coded("57P01"), false, true},
		{"crashed", t.Context(), true, true, coded("57P02"), false, true},
		{"starting", t.Context(), true, true, coded("57P03"), false, true},
		{"database dropped", t.Context(), true, true, coded("57P04"), false, true},
		{"silent", t.Context(), true, true, io.ErrUnexpectedEOF, false, true},
		{"silent primary", t.Context(), false, false, io.ErrUnexpectedEOF, false, false},
		{"primary", t.Context(), false, false, coded("40P01"), false, false},
		{"replica that was not asked yet", t.Context(), false, true, coded("40001"), true, true},
		{"another error", t.Context(), true, true, coded("42P01"), false, false},
		{"cancelled", gone, true, true, coded("40001"), false, false},
		{"refused", t.Context(), true, true, contracts.Reject(contracts.FormatImpossible, "x"), false, false},
		{"damaged replica", t.Context(), true, true, damaged, true, true},
		{"damaged standby without a primary", t.Context(), true, false, damaged, false, false},
	} {
		s := &Snapshot{server: &server{replica: c.replica}, taken: contracts.Snapshot{Standby: c.standby}}
		if got := isRecoveryConflict(s.asConflict(c.ctx, c.err, standbyConflicts)); got != c.opens {
			t.Errorf("%s, when it is opened: %t", c.name, got)
		}
		if got := isRecoveryConflict(s.asConflict(c.ctx, c.err, standbyEnds)); got != c.copies {
			t.Errorf("%s, when it is copied: %t", c.name, got)
		}
	}
}

// TestShareOfEachDatabase: two databases with room for one and for three, and many jobs for both: never are there more
// sessions than that in either, and all jobs end.
func TestShareOfEachDatabase(t *testing.T) {
	t.Parallel()
	here, there := newTenant(t, slow), newTenantIn(t, newServer(t), slow)
	cfg := tiny
	cfg.Databases = map[string]Database{"one": {Primary: here.db, FleetConnections: 1}, "three": {Primary: there.db, FleetConnections: 3}}
	workers := []*Exporter{New(here.db, nil, cfg), New(here.db, nil, cfg)}

	done := make(chan struct{})
	var jobs sync.WaitGroup
	for n := range 8 {
		jobs.Go(func() {
			a := job(n)
			a.Tenant.Database = []string{"one", "three"}[n%2]
			insistOn(t, workers[n/2%2], a, 60000)
		})
	}
	go func() { jobs.Wait(); close(done) }()
	tick := time.NewTicker(3 * time.Millisecond)
	defer tick.Stop()
	most := map[*tenant]int{}
	for ended := false; !ended; {
		select {
		case <-done:
			ended = true
		case <-tick.C:
		}
		for _, tn := range []*tenant{here, there} {
			var taken, reading int
			must(t, tn.conn.QueryRow(t.Context(), "SELECT ("+slots+`), (SELECT count(*) FROM pg_stat_activity
				WHERE datname = current_database() AND application_name LIKE 'snapfleet/%' AND (query LIKE 'COPY%' OR query LIKE '%to_regclass%'))`).Scan(&taken, &reading))
			most[tn] = max(most[tn], taken, reading)
		}
	}
	if most[here] != 1 || most[there] != 3 {
		t.Errorf("%d sessions read the database with room for 1 at once, and %d that with room for 3", most[here], most[there])
	}
	here.noSessions()
	there.noSessions()
}
