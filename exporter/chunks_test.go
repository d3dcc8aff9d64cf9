package exporter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/snapfleet/snapfleet/contracts"
)

// tiny cuts tables into chunks of one or two pages.
var tiny = Config{ChunkBytes: 16 << 10, Window: 1}

// churned is a table whose visible rows are all over the place: deleted, updated in the page and out of it.
const churned = `CREATE TABLE churned (id int PRIMARY KEY, n int, t text) WITH (autovacuum_enabled = off);
	INSERT INTO churned SELECT i, 0, repeat(md5(i::text), 1 + i % 20) FROM generate_series(1, 6000) i;
	DELETE FROM churned WHERE id % 7 = 0; DELETE FROM churned WHERE id BETWEEN 1000 AND 1900;
	UPDATE churned SET n = n + 1 WHERE id % 3 = 0; UPDATE churned SET t = t || t WHERE id % 5 = 0; DELETE FROM churned WHERE id > 5800;
	ALTER TABLE churned ADD late text DEFAULT 'x'`

func TestChunksAreTheWhole(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, churned, `CREATE TABLE toasted (id int, t text, b bytea);
		ALTER TABLE toasted ALTER t SET STORAGE EXTERNAL;
		INSERT INTO toasted SELECT i, repeat(md5(i::text), 1000 * i), decode(repeat(md5(i::text), 3000), 'hex') FROM generate_series(1, 40) i;
		CREATE TABLE parts (id int, t text) PARTITION BY HASH (id); CREATE TABLE p0 PARTITION OF parts FOR VALUES WITH (MODULUS 2, REMAINDER 0);
		CREATE TABLE p1 PARTITION OF parts FOR VALUES WITH (MODULUS 2, REMAINDER 1); INSERT INTO parts SELECT i, md5(i::text) FROM generate_series(1, 5000) i`)
	whole, _ := tn.export(Config{Connections: 1, ChunkBytes: -1})
	for _, cfg := range []Config{tiny, {ChunkBytes: 64 << 10, Connections: 7, Level: 1}, {ChunkBytes: 1, Connections: 2}, {}} {
		s := tn.open(cfg)
		files := write(t, s.Tables(), 0)
		for _, f := range files {
			_, got, _ := strings.Cut(string(gunzip(t, f.data)), "\n")
			if got != whole[f.member.Of] {
				t.Errorf("%+v: %s differs from one connection's", cfg, f.member.Of)
			}
		}
		chunks := len(s.tables[0].chunks)
		if cfg.ChunkBytes == tiny.ChunkBytes && chunks < 50 {
			t.Errorf("only %d chunks", chunks)
		}
		must(t, s.Release(t.Context()))
	}
	if strings.Count(whole["churned"], "\n") != 4200 && tn.one("SELECT count(*) FROM acme.churned") != strconv.Itoa(strings.Count(whole["churned"], "\n")) {
		t.Error("rows are missing")
	}
}

func TestChunksAreRangeScans(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, churned, "ANALYZE churned")
	s := tn.open(tiny)
	chunks := s.tables[0].chunks
	for _, c := range []chunk{chunks[0], chunks[len(chunks)/2], chunks[len(chunks)-1]} {
		query := c.query()
		rows, err := s.siblings[0].Query(t.Context(), "EXPLAIN "+query)
		must(t, err)
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		must(t, err)
		if plan := strings.Join(lines, "\n"); !strings.Contains(plan, "Tid Range Scan") {
			t.Errorf("%s:\n%s", query, plan)
		}
	}
}

func TestSplitAtChunks(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, churned, "CREATE TABLE z (x int); INSERT INTO z VALUES (1)")
	s := tn.open(tiny)
	const room = 20_000
	files := write(t, s.Tables(), room)
	if len(files) < 6 || files[len(files)-1].member.Of != "z" {
		t.Fatalf("%d files", len(files))
	}
	for i, f := range files[:len(files)-2] {
		if len(f.data) < room {
			t.Errorf("file %d ends early, with %d bytes", i, len(f.data))
		}
		if !bytes.HasPrefix(gunzip(t, f.data), []byte("id,n,t,late\n")) {
			t.Errorf("file %d has no header row", i)
		}
	}
	tn.roundTrip(files)
	if rows := s.Contents().Tables[0].Rows; fmt.Sprint(rows) != tn.one("SELECT count(*) FROM acme.churned") {
		t.Errorf("%d rows", rows)
	}
	must(t, s.Close())

	// Room for less than a header row still makes files with rows in them.
	s = tn.open(tiny)
	files = write(t, s.Tables(), 1)
	tn.roundTrip(files)
}

// TestGrowthWhileReading: rows, pages and TOAST that come after the instant are not in it.
func TestGrowthWhileReading(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, "CREATE TABLE a (id int, t text); INSERT INTO a SELECT i, md5(i::text) FROM generate_series(1, 5000) i")
	s := tn.open(tiny)
	tn.exec("INSERT INTO a SELECT i, repeat(md5(i::text), 300) FROM generate_series(1, 3000) i; UPDATE a SET t = t || t", "VACUUM a", "DELETE FROM a")
	if files := write(t, s.Tables(), 0); files[0].rows != 5000 || len(gunzip(t, files[0].data)) > 200_000 {
		t.Errorf("%d rows", files[0].rows)
	}
}

func TestManySmallTables(t *testing.T) {
	t.Parallel()
	tn := newTenant(t)
	var ddl strings.Builder
	for i := range 300 {
		fmt.Fprintf(&ddl, "CREATE TABLE t%03d (x int); INSERT INTO t%03d SELECT generate_series(1, %d);", i, i, i%40)
	}
	tn.exec(ddl.String())
	s := tn.open(Config{})
	if n, _ := s.Totals(); n != 300 {
		t.Errorf("%d tables", n)
	}
	for i, f := range write(t, s.Tables(), 0) {
		if f.member.Name != fmt.Sprintf("t%03d.csv.gz", i) || f.rows != int64(i%40) {
			t.Errorf("%s: %d rows", f.member.Name, f.rows)
		}
	}
}

// slow is a table that takes many chunks.
const slow = "CREATE TABLE slow (id int, t text); INSERT INTO slow SELECT i, md5(i::text) || md5((-i)::text) FROM generate_series(1, 60000) i"

// TestKilled: the end of a session, whoever's, is the end of the snapshot, and says which it was.
func TestKilled(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		victim func(*Snapshot) *pgx.Conn
		lost   bool
	}{
		{"holder", func(s *Snapshot) *pgx.Conn { return s.holder }, true},
		{"sibling", func(s *Snapshot) *pgx.Conn { return s.siblings[1] }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			tn := newTenant(t, slow)
			s := tn.open(tiny)
			pid := c.victim(s).PgConn().PID()
			failed := false
			for m, err := range s.Tables().Members {
				must(t, err)
				_, err = m.Write(t.Context(), writerFunc(func(p []byte) (int, error) {
					if !failed {
						failed = true
						tn.exec(fmt.Sprintf("SELECT pg_terminate_backend(%d)", pid))
						if c.lost {
							<-s.ctx.Done()
						}
					}
					return len(p), nil
				}), 0)
				if err == nil || errors.Is(err, ErrSnapshotLost) != c.lost {
					t.Errorf("error: %v", err)
				}
				if _, rejected := contracts.AsRejection(err); rejected {
					t.Errorf("rejected: %v", err)
				}
				break
			}
			if err := s.Release(t.Context()); err == nil {
				t.Error("a snapshot that was lost was released without a word")
			}
		})
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// TestCancelled: whoever cancels in the middle is told why, and leaves nothing.
func TestCancelled(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, slow)
	cause := errors.New("the lease is lost")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	s, err := tn.tryOpen(ctx, tiny)
	must(t, err)
	for m, err := range s.Tables().Members {
		must(t, err)
		_, err = m.Write(ctx, writerFunc(func(p []byte) (int, error) { cancel(cause); return len(p), nil }), 0)
		if !errors.Is(err, cause) {
			t.Errorf("the cause is not told: %v", err)
		}
		break
	}
	must(t, s.Close())
	must(t, s.Close())
	tn.noSessions()
	if _, err := tryWrite(t.Context(), s.Tables(), 0); err == nil {
		t.Error("a closed snapshot was read")
	}
}

// TestClosedMeanwhile: Close ends a Write that another goroutine is in.
func TestClosedMeanwhile(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, slow)
	s := tn.open(tiny)
	entered := make(chan struct{})
	failed := make(chan error)
	go func() {
		_, err := tryWriteTo(s.Tables(), writerFunc(func(p []byte) (int, error) {
			select {
			case <-entered:
			default:
				close(entered)
			}
			return len(p), nil
		}))
		failed <- err
	}()
	<-entered
	must(t, s.Close())
	if err := <-failed; err != nil && !errors.Is(err, errClosed) {
		t.Errorf("error: %v", err)
	}
}

func tryWriteTo(a contracts.Archive, w io.Writer) (rows int64, err error) {
	for m, err := range a.Members {
		if err != nil {
			return rows, err
		}
		p, err := m.Write(context.Background(), w, 0)
		rows += p.Rows
		if err != nil {
			return rows, err
		}
	}
	return rows, nil
}

// TestFailingWriter: the reader's error comes back as it is.
func TestFailingWriter(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, slow)
	s := tn.open(tiny)
	full := errors.New("full")
	n := 0
	_, err := tryWriteTo(s.Tables(), writerFunc(func(p []byte) (int, error) {
		if n += len(p); n > 100_000 {
			return 0, full
		}
		return len(p), nil
	}))
	if !errors.Is(err, full) {
		t.Errorf("error: %v", err)
	}
}

// TestSkippedMember: who does not write a table may not go on to the next.
func TestSkippedMember(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, "CREATE TABLE a (x int); CREATE TABLE b (x int)")
	s := tn.open(Config{})
	var errs []error
	for _, err := range s.Tables().Members {
		errs = append(errs, err)
	}
	if len(errs) != 2 || errs[0] != nil || errs[1] == nil {
		t.Errorf("errors: %v", errs)
	}
}

// TestGiantRowsInLittleMemory: rows of 16 MB pass through windows of one block, to a reader that stands still
// for a while. Not parallel: it looks at the whole heap.
func TestGiantRowsInLittleMemory(t *testing.T) {
	tn := newTenant(t, `CREATE TABLE giants (id int, t text); ALTER TABLE giants ALTER t SET STORAGE EXTERNAL;
		INSERT INTO giants SELECT i, (SELECT string_agg(md5(j::text || i), '') FROM generate_series(1, 500000) j) FROM generate_series(1, 4) i`)
	s := tn.open(Config{ChunkBytes: 1, Connections: 4, Window: 1})
	runtime.GC()
	var before, peak runtime.MemStats
	runtime.ReadMemStats(&before)
	n := 0
	rows, err := tryWriteTo(s.Tables(), writerFunc(func(p []byte) (int, error) {
		if n++; n%100 == 0 {
			var now runtime.MemStats
			if runtime.ReadMemStats(&now); now.HeapAlloc > peak.HeapAlloc {
				peak = now
			}
		}
		return len(p), nil
	}))
	must(t, err)
	if grown := int64(peak.HeapAlloc) - int64(before.HeapAlloc); rows != 4 || grown > 15<<20 {
		t.Errorf("%d rows, the heap grew by %d bytes", rows, grown)
	}
}

func BenchmarkExport(b *testing.B) {
	tn := newTenant(b, `CREATE TABLE big (id bigint, at timestamptz, serial text, step text, value double precision, passed bool, note text);
		INSERT INTO big SELECT i, '2026-01-01'::timestamptz + i * '1.37 s'::interval, 'SN-' || md5(i::text), 'step ' || i % 40, sqrt(i), i % 3 = 0, CASE WHEN i % 5 = 0 THEN 'measured again after calibration' END
			FROM generate_series(1, 3000000) i`, "VACUUM ANALYZE big")
	heap, err := strconv.ParseInt(tn.one("SELECT pg_table_size('acme.big')"), 10, 64)
	must(b, err)
	for _, cfg := range []Config{{Connections: 1, ChunkBytes: -1}, {Connections: 1}, {Connections: 2}, {}, {ChunkBytes: 64 << 20}, {ChunkBytes: 64 << 20, Window: 16 << 20}} {
		b.Run(fmt.Sprintf("connections=%d,chunk=%dMiB,window=%dMiB", cfg.withDefaults().Connections, cfg.withDefaults().ChunkBytes>>20, cfg.withDefaults().Window>>20), func(b *testing.B) {
			var out int64
			b.SetBytes(heap)
			for b.Loop() {
				s, err := tn.tryOpen(b.Context(), cfg)
				must(b, err)
				w := &counter{}
				_, err = tryWriteTo(s.Tables(), w)
				must(b, err)
				must(b, s.Close())
				out += w.n
			}
			b.ReportMetric(float64(out)/float64(b.N)/float64(heap), "gz/heap")
		})
	}
}
