package exporter

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/test/world"
)

// throughPooler makes the exporter log in through a PgBouncer.
func (tn *tenant) throughPooler(settings ...string) *world.PgBouncer {
	tn.t.Helper()
	pooler, err := world.StartPgBouncer(tn.t.Context(), postgres, settings...)
	must(tn.t, err)
	tn.t.Cleanup(pooler.Stop)
	db, err := pgx.ParseConfig(pooler.URL(tn.db.User, tn.db.Database))
	must(tn.t, err)
	tn.db = db
	return pooler
}

// waits is a pool whose clients wait as long as they like.
const waits = "query_wait_timeout = 0"

// TestPools: through PgBouncer, in each mode that knows transactions, everything is delivered in both formats. A pool that
// is smaller than the connections that we want means fewer of them, and never a failure.
func TestPools(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		mode     string
		pool     int
		siblings int
	}{
		{"transaction", 1, 0},
		{"transaction", 2, 1},
		{"transaction", 20, 4},
		{"session", 1, 0},
		{"session", 3, 2},
		{"session", 20, 4},
	} {
		t.Run(fmt.Sprintf("%s, %d connections", c.mode, c.pool), func(t *testing.T) {
			t.Parallel()
			tn := newTenant(t, slow, "CREATE TABLE z (x int); INSERT INTO z VALUES (1)", attachmentTable)
			tn.throughPooler("pool_mode = "+c.mode, fmt.Sprintf("default_pool_size = %d", c.pool), waits)
			for _, format := range []contracts.Format{contracts.CSV, contracts.JSONL} {
				a := attempt("acme")
				a.Request.Format = format
				s, err := New(tn.db, nil, Config{ChunkBytes: 64 << 10}).Open(t.Context(), a)
				must(t, err)
				files := write(t, s.Tables(), 0)
				if rows := files[0].rows + files[1].rows + files[2].rows; rows != 60001 || len(s.siblings) != c.siblings {
					t.Errorf("%d rows, %d siblings", rows, len(s.siblings))
				}
				must(t, s.Release(t.Context()))
				must(t, s.Close())
			}
		})
	}
}

// TestPoolInUse: a pool without a free connection is no fault of the job, whether it says so or not.
func TestPoolInUse(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, "CREATE TABLE a (x int)")
	tn.throughPooler("pool_mode = transaction", "default_pool_size = 1", "query_wait_timeout = 1")
	s, err := New(tn.db, nil, Config{}).Open(t.Context(), job(1))
	must(t, err)
	defer s.Close()
	if _, err := New(tn.db, nil, Config{}).Open(t.Context(), job(2)); !isWaiting(err) {
		t.Errorf("a pool that is in use: %v", err)
	}
}

// TestTransactionPooler: a session of the pool is the next client's. Nothing that we set is left in it.
func TestTransactionPooler(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, slow, "CREATE VIEW seen AS SELECT 1 AS x", attachmentTable)
	pooler := tn.throughPooler("pool_mode = transaction", "default_pool_size = 10", waits)
	const ours = `SELECT string_agg(name || '=' || setting, ', ' ORDER BY name) FROM pg_settings WHERE source = 'session'
		AND name NOT IN ('application_name', 'client_encoding', 'DateStyle', 'TimeZone', 'standard_conforming_strings')`
	var others [10]*pgx.Conn
	for i := range others {
		conn, err := pgx.Connect(t.Context(), pooler.URL("postgres", tn.db.Database)+"&default_query_exec_mode=exec")
		must(t, err)
		defer conn.Close(context.Background())
		others[i] = conn
	}
	look := func() {
		t.Helper()
		for i, conn := range others { // each holds its transaction, so that all sessions of the pool are seen
			_, err := conn.Exec(t.Context(), "BEGIN")
			must(t, err)
			var left *string
			must(t, conn.QueryRow(t.Context(), ours).Scan(&left))
			if left != nil {
				t.Errorf("client %d has our settings: %s", i, *left)
			}
			var x int
			if err := conn.QueryRow(t.Context(), "SELECT x FROM acme.seen").Scan(&x); err != nil {
				t.Errorf("client %d cannot read a view: %v", i, err)
			}
		}
		for _, conn := range others {
			_, err := conn.Exec(t.Context(), "ROLLBACK")
			must(t, err)
		}
	}
	look() // opens all sessions of the pool
	for _, only := range []contracts.Kind{"", contracts.Attachments, contracts.Tables} {
		a := attempt("acme")
		a.Request.Only = only
		s, err := New(tn.db, nil, Config{ChunkBytes: 64 << 10}).Open(t.Context(), a)
		must(t, err)
		if only != contracts.Attachments {
			s.stopWatch() // which waits on the holder's connection
			s.watched.Wait()
			var guard string
			must(t, s.holder.QueryRow(t.Context(), "SELECT coalesce(current_setting('restrict_nonsystem_relation_kind', true), 'unknown')").Scan(&guard))
			for _, conn := range append(s.siblings, s.holder) {
				var here string
				must(t, conn.QueryRow(t.Context(), "SELECT coalesce(current_setting('restrict_nonsystem_relation_kind', true), 'unknown')").Scan(&here))
				if here != guard || here != "unknown" && !strings.Contains(here, "view") {
					t.Errorf("a session without the guard against views: %q", here)
				}
			}
		}
		must(t, s.Close())
		look()
	}
	// Siblings that end, and a look that ends in a refusal, give their sessions back to the pool.
	tn.exec("DROP TABLE slow, file_attachments")
	_, err := New(tn.db, nil, Config{SecondLook: 1}).Open(t.Context(), attempt("acme"))
	if !isRejected(err, contracts.SchemaEmpty) {
		t.Errorf("error: %v", err)
	}
	look()
}
