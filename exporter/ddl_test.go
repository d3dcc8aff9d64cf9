package exporter

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// TestAlteredWhileReading: whatever is done to the tables in the middle of an export either waits for it to end, or
// does not concern it. The files are those of the instant, to the last byte.
func TestAlteredWhileReading(t *testing.T) {
	t.Parallel()
	tn := newTenant(t)
	for _, c := range []struct {
		ddl   string
		waits bool
	}{
		{"TRUNCATE slow", true},
		{"ALTER TABLE slow ALTER t TYPE varchar(80) USING t || '!'", true},
		{"DROP TABLE slow", true},
		{"ALTER TABLE slow DROP COLUMN t", true},
		{"ALTER TABLE slow RENAME TO fast", true},
		{"ALTER TABLE slow RENAME id TO number", true},
		{"ALTER TABLE slow SET SCHEMA other", true},
		{"ALTER TABLE slow SET UNLOGGED", true},
		{"ALTER TABLE slow ENABLE ROW LEVEL SECURITY", true},
		{"CLUSTER slow USING slow_pkey", true},
		{"VACUUM FULL slow", true},
		{"DROP SCHEMA acme CASCADE", true},
		{"ALTER TABLE parts DETACH PARTITION p1", true},
		{"DROP TABLE p1", true},
		{"ALTER TABLE parts DETACH PARTITION p1 CONCURRENTLY", true},
		{"ALTER TABLE parts ATTACH PARTITION p2 FOR VALUES IN (2)", true}, // for the lock on p2, which is a table of its own
		{"CREATE TABLE p3 PARTITION OF parts FOR VALUES IN (3)", true},
		{"CREATE TABLE another (x int); INSERT INTO another VALUES (1)", false},
		{"CREATE INDEX late ON slow (t); DROP INDEX late", true}, // for the end of DROP INDEX only
		{"UPDATE slow SET id = -id; DELETE FROM slow WHERE id < -100; INSERT INTO slow VALUES (1, 'late')", false},
		{"INSERT INTO parts VALUES (1, 'late'); DELETE FROM parts WHERE t = 'one'", false},
	} {
		t.Run(c.ddl, func(t *testing.T) {
			tn := *tn
			tn.t = t
			tn.exec(`DROP SCHEMA IF EXISTS acme CASCADE; DROP SCHEMA IF EXISTS other CASCADE; CREATE SCHEMA acme; CREATE SCHEMA other; SET search_path = acme`,
				`CREATE TABLE slow (id int PRIMARY KEY DEFERRABLE, t text); INSERT INTO slow SELECT i, md5(i::text) FROM generate_series(1, 5000) i;
				CREATE TABLE parts (x int, t text) PARTITION BY LIST (x); CREATE TABLE p1 PARTITION OF parts FOR VALUES IN (1); INSERT INTO parts VALUES (1, 'one');
				CREATE TABLE p2 (x int, t text); INSERT INTO p2 VALUES (2, 'two')`)
			s := tn.open(tiny)
			ddl := tn.connect()
			done := make(chan error, 1)
			alter := sync.OnceFunc(func() {
				go func() {
					var err error
					for statement := range strings.SplitSeq("SET search_path = acme; "+c.ddl, "; ") {
						if _, err = ddl.Exec(context.Background(), statement, pgx.QueryExecModeSimpleProtocol); err != nil {
							break
						}
					}
					done <- err
				}()
				if c.waits {
					await(t, "it to wait for the export", func() bool {
						return tn.one("SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND wait_event_type = 'Lock'", ddl.PgConn().PID()) == "1"
					})
					return
				}
				select {
				case err := <-done:
					must(t, err)
				case <-time.After(30 * time.Second):
					t.Fatal("it waits for the export")
				}
			})
			csv := map[string]string{}
			for m, err := range s.Tables().Members {
				must(t, err)
				var b strings.Builder
				_, err = m.Write(t.Context(), writerFunc(func(p []byte) (int, error) { alter(); return b.Write(p) }), 0)
				must(t, err)
				_, csv[m.Of], _ = strings.Cut(string(gunzip(t, []byte(b.String()))), "\n")
			}
			if c.waits {
				select {
				case err := <-done:
					t.Errorf("it did not wait until the export was over: %v", err)
				default:
				}
			}
			must(t, s.Release(t.Context()))
			if c.waits {
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
			if len(csv) != 3 || csv["parts"] != "1,one\n" || csv["p2"] != "2,two\n" || strings.Count(csv["slow"], "\n") != 5000 || !strings.HasPrefix(csv["slow"], "1,c4ca4238a0b923820dcc509a6f75849b\n") {
				t.Errorf("%d tables, %d rows", len(csv), strings.Count(csv["slow"], "\n"))
			}
			await(t, "the exporter's locks to be gone", func() bool {
				return tn.one("SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE a.application_name LIKE 'snapfleet/%' AND a.datname = current_database()") == "0"
			})
		})
	}
}
