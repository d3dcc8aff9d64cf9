package exporter

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/test/bucket"
	"github.com/snapfleet/snapfleet/test/world"
)

// The servers of all tests of the package. Each test has a database of its own, called after it.
var (
	postgres *world.Postgres
	store    *bucket.Server
)

// otherAddress is where PostgreSQL is met as if it were another server.
const otherAddress = "127.0.0.2"

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "snapfleet-exporter-")
	if err == nil {
		err = os.Chmod(dir, 0o755) // PostgreSQL is another user where we are root
	}
	defer os.RemoveAll(dir)
	if err == nil {
		postgres, err = world.StartPostgres(ctx, dir+"/postgres", world.Set("max_connections", "200"),
			world.Set("listen_addresses", "127.0.0.1,"+otherAddress))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer postgres.Stop()
	if store, err = bucket.Start(ctx, bucket.Config{Dir: dir + "/bucket"}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	store.Close()
	postgres.Stop()
	if err := goleak.Find(bucket.LeftBehind()...); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// tenant is a schema "acme" in a database of its own, and the superuser's connection to it.
type tenant struct {
	t      testing.TB
	db     *pgx.ConnConfig // as the exporter logs in
	admin  *pgx.ConnConfig
	conn   *pgx.Conn
	schema string
}

func newTenant(t testing.TB, ddl ...string) *tenant {
	t.Helper()
	return newTenantIn(t, postgres, ddl...)
}

// newTenantIn is newTenant in a server of the test's own.
func newTenantIn(t testing.TB, server *world.Postgres, ddl ...string) *tenant {
	t.Helper()
	digest := sha256.Sum256([]byte(t.Name()))
	url, err := server.CreateDatabase(t.Context(), "t"+hex.EncodeToString(digest[:8]))
	must(t, err)
	db, err := pgx.ParseConfig(url)
	must(t, err)
	tn := &tenant{t: t, db: db, admin: db, schema: "acme"}
	tn.conn = tn.connect()
	tn.exec("CREATE SCHEMA acme; SET search_path = acme, public")
	tn.exec(ddl...)
	return tn
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// connect opens another superuser's connection.
func (tn *tenant) connect() *pgx.Conn {
	tn.t.Helper()
	conn, err := pgx.ConnectConfig(tn.t.Context(), tn.admin)
	must(tn.t, err)
	tn.t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func (tn *tenant) exec(statements ...string) {
	tn.t.Helper()
	for _, s := range statements {
		if _, err := tn.conn.Exec(tn.t.Context(), s, pgx.QueryExecModeSimpleProtocol); err != nil {
			tn.t.Fatalf("%v\n%.300s", err, s)
		}
	}
}

// one is a query's only value, as text.
func (tn *tenant) one(sql string, args ...any) (s string) {
	tn.t.Helper()
	must(tn.t, tn.conn.QueryRow(tn.t.Context(), "SELECT ("+sql+")::text", args...).Scan(&s))
	return s
}

func attempt(schema string) contracts.Attempt {
	return contracts.Attempt{
		Request: contracts.Request{Version: 1, Tenant: "acme", Job: "2026-03-31-143022", RequestedAt: time.Unix(0, 0)},
		Tenant:  contracts.Tenant{Version: 1, Name: "acme", Schema: schema},
		Number:  1, ID: "1-9f86d081884c7d65",
	}
}

// open takes a snapshot of the tables that is closed, and checked to be gone, when the test ends.
func (tn *tenant) open(cfg Config) *Snapshot {
	tn.t.Helper()
	s, err := tn.tryOpen(tn.t.Context(), cfg)
	must(tn.t, err)
	tn.t.Cleanup(func() {
		s.Close()
		tn.noSessions()
	})
	return s
}

// tryOpen reads as large tenants are read: the tables of tests are small, so chunks are, too, or no sibling would be
// worth its while.
func (tn *tenant) tryOpen(ctx context.Context, cfg Config) (*Snapshot, error) {
	if _, measured := tn.t.(*testing.B); cfg.ChunkBytes == 0 && !measured {
		cfg.ChunkBytes = 4 << 10
	}
	if cfg.SecondLook == 0 {
		cfg.SecondLook = 10 * time.Millisecond
	}
	return New(tn.db, nil, cfg).Open(ctx, attempt(tn.schema))
}

// noSessions waits until the exporter has no session in the database.
func (tn *tenant) noSessions() {
	tn.t.Helper()
	conn, err := pgx.ConnectConfig(context.Background(), tn.admin)
	must(tn.t, err)
	defer conn.Close(context.Background())
	await(tn.t, "the exporter's sessions to end", func() bool {
		var n int
		must(tn.t, conn.QueryRow(context.Background(), "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'snapfleet/%' AND datname = current_database()").Scan(&n))
		return n == 0
	})
}

// await polls for something that is about to happen.
func await(t testing.TB, what string, happened func() bool) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !happened() {
		select {
		case <-deadline.C:
			t.Fatalf("waited too long for %s", what)
		case <-tick.C:
		}
	}
}

// written is one file as it was written.
type written struct {
	member contracts.Member
	rows   int64
	data   []byte
}

// write writes all members of an archive, each in as many files as room makes it.
func write(t testing.TB, a contracts.Archive, room int64) []written {
	t.Helper()
	files, err := tryWrite(t.Context(), a, room)
	must(t, err)
	return files
}

func tryWrite(ctx context.Context, a contracts.Archive, room int64) (files []written, err error) {
	for m, err := range a.Members {
		if err != nil {
			return files, err
		}
		for {
			var b bytes.Buffer
			p, err := m.Write(ctx, &b, room)
			if err != nil {
				return files, err
			}
			files = append(files, written{m, p.Rows, b.Bytes()})
			if !p.More {
				break
			}
		}
	}
	return files, nil
}

// gunzip unfolds exactly one gzip member.
func gunzip(t testing.TB, data []byte) []byte {
	t.Helper()
	r := bytes.NewReader(data)
	z, err := gzip.NewReader(r)
	must(t, err)
	z.Multistream(false)
	plain, err := io.ReadAll(z)
	must(t, err)
	if r.Len() > 0 {
		t.Fatalf("%d bytes follow the gzip member", r.Len())
	}
	return plain
}

// export reads all tables and returns each one's rows of CSV, without the header row.
func (tn *tenant) export(cfg Config) (map[string]string, contracts.Contents) {
	tn.t.Helper()
	s := tn.open(cfg)
	csv := map[string]string{}
	for _, f := range write(tn.t, s.Tables(), 0) {
		_, csv[f.member.Of], _ = strings.Cut(string(gunzip(tn.t, f.data)), "\n")
	}
	must(tn.t, s.Release(tn.t.Context()))
	return csv, s.Contents()
}

// roundTrip loads every file into an empty clone and compares the rows with those of the schema, as text,
// which is every byte that can be seen of them.
func (tn *tenant) roundTrip(files []written) {
	tn.t.Helper()
	tn.exec(`DROP SCHEMA IF EXISTS "clone" CASCADE; CREATE SCHEMA "clone"`)
	only := map[string]string{}
	for _, f := range files {
		source, clone := pgx.Identifier{tn.schema, f.member.Of}.Sanitize(), pgx.Identifier{"clone", f.member.Of}.Sanitize()
		if only[f.member.Of] == "" {
			tn.exec("CREATE TABLE " + clone + " (LIKE " + source + ")")
			only[f.member.Of] = "ONLY "
			if tn.one("SELECT relkind FROM pg_class WHERE oid = to_regclass($1)", source) == "p" {
				only[f.member.Of] = " "
			}
		}
		tag, err := tn.conn.PgConn().CopyFrom(tn.t.Context(), bytes.NewReader(gunzip(tn.t, f.data)), "COPY "+clone+" FROM STDIN (FORMAT csv, HEADER match)")
		if err != nil {
			tn.t.Fatalf("load %s: %v", f.member.Of, err)
		}
		if tag.RowsAffected() != f.rows {
			tn.t.Errorf("%s: %d rows said, %d loaded", f.member.Of, f.rows, tag.RowsAffected())
		}
	}
	for table, only := range only {
		source, clone := pgx.Identifier{tn.schema, table}.Sanitize(), pgx.Identifier{"clone", table}.Sanitize()
		for _, q := range []string{
			"SELECT count(*) FROM (SELECT x::text FROM " + only + source + " x EXCEPT ALL SELECT x::text FROM " + clone + " x) d",
			"SELECT count(*) FROM (SELECT x::text FROM " + clone + " x EXCEPT ALL SELECT x::text FROM " + only + source + " x) d",
		} {
			if n := tn.one(q); n != "0" {
				tn.t.Errorf("table %q: %s rows differ", table, n)
			}
		}
	}
}
