package exporter

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
)

// diary is what writers do their work in: three tables of many chunks, and a journal that says of every row which
// transaction gave it which version, or took it away.
const diary = `CREATE SEQUENCE ids; CREATE TABLE a (id bigint PRIMARY KEY, version int, amount bigint, xid text, pad text);
	CREATE TABLE b (LIKE a INCLUDING ALL); CREATE TABLE c (LIKE a INCLUDING ALL);
	CREATE TABLE journal (xid text, of text, id bigint, version int, amount bigint, there bool);
	INSERT INTO a SELECT nextval('ids'), 1, 1000, pg_current_xact_id()::text, repeat('x', 200) FROM generate_series(1, 2000);
	INSERT INTO b SELECT * FROM a; INSERT INTO c SELECT * FROM a;
	INSERT INTO journal SELECT xid, of, id, 1, 1000, true FROM a, unnest('{a,b,c}'::text[]) of`

// note adds a change of rows, and its entry in the journal.
func note(b *strings.Builder, of, change string) {
	fmt.Fprintf(b, `WITH w AS (%s) INSERT INTO acme.journal SELECT pg_current_xact_id()::text, '%s', id, version, amount, there FROM w; `, change, of)
}

func add(b *strings.Builder, of string, amount int) {
	note(b, of, fmt.Sprintf(`INSERT INTO acme.%s VALUES (nextval('acme.ids'), 1, %d, pg_current_xact_id()::text, repeat('y', 200))
		RETURNING id, version, amount, true AS there`, of, amount))
}

// turn is one transaction: some rows of several tables are changed, one is added and one is removed, which a row
// that is not there any more survives.
func turn(r *rand.Rand) string {
	var b strings.Builder
	table := func() string { return string("abc"[r.IntN(3)]) }
	b.WriteString("BEGIN; ")
	for range 3 {
		of := table()
		note(&b, of, fmt.Sprintf(`UPDATE acme.%s SET amount = amount + %d, version = version + 1, xid = pg_current_xact_id()::text WHERE id = %d
			RETURNING id, version, amount, true AS there`, of, r.IntN(100)-50, 1+r.IntN(2000)))
	}
	of := table()
	add(&b, of, r.IntN(100))
	of = table()
	note(&b, of, fmt.Sprintf(`DELETE FROM acme.%s WHERE id = %d RETURNING id, version + 1 AS version, amount, false AS there`, of, 1+r.IntN(2000)))
	b.WriteString("COMMIT")
	return b.String()
}

// versions are the rows of table $2 that snapshot $1 sees, by the journal; entries are the journal's own.
const (
	visible  = " pg_visible_in_snapshot(xid::xid8, $1::text::pg_snapshot) "
	versions = `SELECT concat_ws(',', id, version, amount, xid) FROM (SELECT DISTINCT ON (id) * FROM acme.journal
		WHERE of = $2 AND` + visible + `ORDER BY id, version DESC) newest WHERE there`
	entries = `SELECT concat_ws(',', xid, of, id, version, amount, left(there::text, 1)) FROM acme.journal WHERE $2::text <> '' AND` + visible
)

// shared is how many of the rows are in both.
func shared(a, b []string) (n int) {
	in := map[string]bool{}
	for _, row := range b {
		in[row] = true
	}
	for _, row := range a {
		if in[row] {
			n++
		}
	}
	return n
}

// TestOneInstant: while writers change, add and remove rows of several tables in each of their transactions, a
// snapshot has exactly the rows that its instant sees, each in the version that it sees. So every transaction is
// wholly in or wholly out, over all tables and all their chunks.
func TestOneInstant(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, diary)
	ctx, stop := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	var turns atomic.Int64
	for w := range 3 {
		conn := tn.connect()
		writers.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 1))
			for ctx.Err() == nil {
				if _, err := conn.Exec(context.Background(), turn(r), pgx.QueryExecModeSimpleProtocol); err != nil {
					conn.Exec(context.Background(), "ROLLBACK") // a deadlock
				}
				turns.Add(1)
			}
		})
	}
	defer writers.Wait()
	defer stop()
	var b strings.Builder
	for _, of := range []string{"a", "b", "c"} {
		add(&b, of, 1)
	}
	straddling := tn.connect() // one transaction that ends in the middle of each export
	for range 3 {
		work := func() {
			before := turns.Load()
			await(t, "writers", func() bool { return turns.Load() > before+60 })
		}
		work()
		_, err := straddling.Exec(t.Context(), "BEGIN; "+b.String(), pgx.QueryExecModeSimpleProtocol)
		must(t, err)
		s := tn.open(tiny)
		work()
		first := true
		got := map[string][]string{}
		for m, err := range s.Tables().Members {
			must(t, err)
			var b strings.Builder
			_, err = m.Write(t.Context(), writerFunc(func(p []byte) (int, error) {
				if first && m.Of == "b" {
					first = false
					_, err := straddling.Exec(t.Context(), "COMMIT")
					must(t, err)
					work()
				}
				return b.Write(p)
			}), 0)
			must(t, err)
			_, csv, _ := strings.Cut(string(gunzip(t, []byte(b.String()))), "\n")
			for line := range strings.Lines(csv) {
				line = strings.TrimSpace(line)
				if m.Of != "journal" {
					line = line[:strings.LastIndex(line, ",")] // without the padding
				}
				got[m.Of] = append(got[m.Of], line)
			}
		}
		if len(s.tables[0].chunks) < 20 || len(s.siblings) < 4 {
			t.Errorf("%d chunks, %d siblings", len(s.tables[0].chunks), len(s.siblings))
		}
		xid := s.Contents().Snapshot.XID
		if strings.HasSuffix(xid, ":") {
			t.Errorf("no transaction was under way at %s", xid)
		}
		must(t, s.Release(t.Context()))
		for table, sql := range map[string]string{"a": versions, "b": versions, "c": versions, "journal": entries} {
			rows, err := tn.conn.Query(t.Context(), sql, xid, table)
			must(t, err)
			want, err := pgx.CollectRows(rows, pgx.RowTo[string])
			must(t, err)
			slices.Sort(want)
			if slices.Sort(got[table]); !slices.Equal(got[table], want) {
				t.Errorf("%s: %d rows, of which %d are as snapshot %s sees them; it sees %d", table, len(got[table]), shared(got[table], want), xid, len(want))
			}
		}
	}
}
