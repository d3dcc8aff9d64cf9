package exporter

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/snapfleet/snapfleet/contracts"
)

// as makes the exporter log in as a role that may do what the statements grant.
func (tn *tenant) as(grants ...string) {
	tn.t.Helper()
	role := "r" + tn.db.Database[1:]
	tn.exec("CREATE ROLE " + role + " LOGIN")
	tn.t.Cleanup(func() {
		tn.conn.Exec(context.Background(), "DROP OWNED BY "+role+"; DROP ROLE "+role, pgx.QueryExecModeSimpleProtocol)
	})
	for _, g := range grants {
		tn.exec(strings.ReplaceAll(g, "{role}", role))
	}
	db := tn.db.Copy()
	db.User = role
	tn.db = db
}

const grantAll = "GRANT USAGE ON SCHEMA acme TO {role}; GRANT SELECT ON ALL TABLES IN SCHEMA acme TO {role}"

func TestRefusals(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name   string
		schema string
		ddl    string
		grants []string
		code   contracts.Code
		says   []string
	}{
		{name: "no schema", schema: "nobody", code: contracts.SchemaNotFound, says: []string{`"nobody"`}},
		{name: "hostile schema", schema: `acme"; DROP SCHEMA acme; --`, code: contracts.SchemaNotFound},
		{name: "system schema", schema: "pg_catalog", code: contracts.SchemaNotFound},
		{name: "no tables", ddl: "CREATE VIEW v AS SELECT 1; CREATE SEQUENCE s", code: contracts.SchemaEmpty},
		{name: "no usage", ddl: "CREATE TABLE a ()", grants: []string{""}, code: contracts.SchemaNotFound},
		{
			name: "no right", ddl: `CREATE TABLE a (x int); CREATE TABLE b (x int); CREATE TABLE "c""d" (x int); CREATE TABLE e (x int, y int); CREATE VIEW v AS SELECT 1`,
			grants: []string{"GRANT USAGE ON SCHEMA acme TO {role}; GRANT SELECT ON a TO {role}; GRANT SELECT (x) ON e TO {role}"},
			code:   contracts.TableDenied, says: []string{`"b"`, `"c\"d"`, `"e"`},
		},
		{
			name: "row security", ddl: `CREATE TABLE a (x int); CREATE TABLE b (x int); ALTER TABLE b ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON b USING (x > 1)`,
			grants: []string{grantAll}, code: contracts.RowSecurity, says: []string{`table "b"`},
		},
		{
			name: "foreign child", ddl: `CREATE TABLE a (x int); CREATE SCHEMA other; CREATE TABLE other.child () INHERITS (a)`,
			code: contracts.ForeignRelation, says: []string{"other.child"},
		},
		{
			name: "foreign partition", ddl: `CREATE TABLE a (x int) PARTITION BY LIST (x); CREATE SCHEMA other; CREATE TABLE other.one PARTITION OF a FOR VALUES IN (1)`,
			code: contracts.ForeignRelation, says: []string{"other.one"},
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			tn := newTenant(t)
			tn.exec(c.ddl)
			if c.grants != nil {
				tn.as(c.grants...)
			}
			if c.schema != "" {
				tn.schema = c.schema
			}
			_, err := tn.tryOpen(t.Context(), Config{})
			r, ok := contracts.AsRejection(err)
			if !ok || r.Code != c.code {
				t.Fatalf("not %s: %v", c.code, err)
			}
			for _, s := range c.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("does not name %s: %v", s, err)
				}
			}
			tn.noSessions()
		})
	}
}

// TestRefusedLogin: a login that is refused is the worker's fault and no verdict about the job, and its error has no
// address and no user.
func TestRefusedLogin(t *testing.T) {
	t.Parallel()
	tn := newTenant(t)
	for _, change := range []func(*pgx.ConnConfig){
		func(c *pgx.ConnConfig) { c.User = "somebody_unknown" },
		func(c *pgx.ConnConfig) { c.Database = "nowhere_known" },
		func(c *pgx.ConnConfig) { c.RuntimeParams = map[string]string{"no_such_setting": "on"} },
	} {
		db := tn.db.Copy()
		change(db)
		_, err := New(db, nil, Config{}).Open(t.Context(), attempt("acme"))
		if f, ok := contracts.AsWorkerFault(err); !ok || f.Part != contracts.FaultDatabase || f.Name != contracts.DefaultDatabase {
			t.Errorf("not the worker's fault: %v", err)
		}
		if _, ok := contracts.AsRejection(err); ok {
			t.Errorf("a wrong login ends the job: %v", err)
		}
		if f, ok := contracts.AsWorkerFault(New(db, nil, Config{}).Probe(t.Context(), "")); !ok || f.Part != contracts.FaultDatabase {
			t.Errorf("the probe does not find it: %v", f)
		}
	}
	if err := New(tn.db, nil, Config{}).Probe(t.Context(), ""); err != nil {
		t.Errorf("the probe of a login that works: %v", err)
	}
	db := tn.db.Copy()
	db.Port, db.User, db.Password, db.Fallbacks = 1, "somebody", "s3cret", nil
	_, err := New(db, nil, Config{}).Open(t.Context(), attempt("acme"))
	if _, ok := contracts.AsRejection(err); ok || err == nil {
		t.Errorf("a refused connection may be tried again: %v", err)
	}
	for _, secret := range []string{"s3cret", "somebody", "127.0.0.1"} {
		if strings.Contains(fmt.Sprint(err), secret) {
			t.Errorf("tells %q: %v", secret, err)
		}
	}
}

// TestRowSecurityThatDoesNotApply: whoever may see all rows is not refused.
func TestRowSecurityThatDoesNotApply(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, `CREATE TABLE b (x int); INSERT INTO b VALUES (1), (2); ALTER TABLE b ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON b USING (x > 1)`)
	tn.as(grantAll, "ALTER ROLE {role} BYPASSRLS")
	if csv, _ := tn.export(Config{}); csv["b"] != "1\n2\n" {
		t.Errorf("rows: %q", csv["b"])
	}
}

func TestWhatIsExcluded(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, `CREATE TABLE a (x serial); INSERT INTO a DEFAULT VALUES; CREATE TABLE parts (x int) PARTITION BY LIST (x);
		CREATE FUNCTION boom() RETURNS int LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''ran''; END';
		CREATE VIEW v AS SELECT boom(); CREATE MATERIALIZED VIEW mv AS SELECT 1; CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w;
		CREATE FOREIGN TABLE ft (x int) SERVER s; CREATE FOREIGN TABLE fp PARTITION OF parts FOR VALUES IN (1) SERVER s;
		CREATE TYPE ty AS (x int)`)
	csv, contents := tn.export(Config{})
	if len(csv) != 2 || csv["a"] != "1\n" || csv["parts"] != "" {
		t.Errorf("tables: %q", csv)
	}
	all := strings.Join(contents.Excluded, "\n")
	for _, want := range []string{"views (", ": v\n", "mv", "ft", "fp", "a_x_seq"} {
		if !strings.Contains(all, want) {
			t.Errorf("%q is not said to be excluded:\n%s", want, all)
		}
	}
}

// TestHostileDefaults: what a role's settings would change in the output, they do not.
func TestHostileDefaults(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, `CREATE TABLE a (d date, tz timestamptz, i interval, f float8, b bytea, m money, x xml, t text);
		INSERT INTO a VALUES ('2026-03-31', '2026-03-31 12:00Z', '-1 mon 3 days', 0.1::float8 + 0.2, '\x00ff', 1234.5, '<a/>', 'ä');
		CREATE SCHEMA evil; CREATE FUNCTION evil.format_type(oid, int) RETURNS text LANGUAGE sql AS $$ SELECT 'evil' $$`)
	tn.as(grantAll, `ALTER ROLE {role} SET DateStyle = 'German, DMY'; ALTER ROLE {role} SET TimeZone = 'Asia/Kathmandu';
		ALTER ROLE {role} SET IntervalStyle = 'iso_8601'; ALTER ROLE {role} SET extra_float_digits = -3; ALTER ROLE {role} SET bytea_output = 'escape';
		ALTER ROLE {role} SET client_encoding = 'LATIN1'; ALTER ROLE {role} SET statement_timeout = '1ms'; ALTER ROLE {role} SET search_path = evil, pg_catalog;
		ALTER ROLE {role} SET idle_in_transaction_session_timeout = '1ms'; ALTER ROLE {role} SET row_security = on; ALTER ROLE {role} SET quote_all_identifiers = on;
		ALTER ROLE {role} SET enable_tidscan = off; ALTER ROLE {role} SET default_transaction_isolation = 'serializable'; ALTER ROLE {role} SET xmlbinary = 'hex';
		GRANT USAGE ON SCHEMA evil TO {role}`)
	csv, contents := tn.export(Config{})
	if want := "2026-03-31,2026-03-31 12:00:00+00,-1 mons +3 days,0.30000000000000004,\\x00ff,\"$1,234.50\",<a/>,ä\n"; csv["a"] != want {
		t.Errorf("rows:\n%s\n%s", csv["a"], want)
	}
	if got := contents.Tables[0].Columns[0].Type; got != "date" {
		t.Errorf("type %q", got)
	}
}

func TestPartitionsAndInheritance(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, `
		CREATE TABLE runs (id int, at date, note text, twice int GENERATED ALWAYS AS (id * 2) STORED) PARTITION BY RANGE (at);
		CREATE TABLE runs_2024 (note text, at date, id int, twice int GENERATED ALWAYS AS (id * 2) STORED);
		ALTER TABLE runs ATTACH PARTITION runs_2024 FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
		CREATE TABLE runs_2025 PARTITION OF runs FOR VALUES FROM ('2025-01-01') TO ('2026-01-01') PARTITION BY LIST (id);
		CREATE TABLE runs_2025_a PARTITION OF runs_2025 FOR VALUES IN (1) PARTITION BY HASH (note);
		CREATE TABLE runs_2025_a0 PARTITION OF runs_2025_a FOR VALUES WITH (MODULUS 2, REMAINDER 0);
		CREATE TABLE runs_2025_a1 PARTITION OF runs_2025_a FOR VALUES WITH (MODULUS 2, REMAINDER 1);
		CREATE TABLE runs_2025_b PARTITION OF runs_2025 DEFAULT;
		INSERT INTO runs (id, at, note) SELECT i % 5, '2024-01-01'::date + i, 'n' || i FROM generate_series(0, 700) i;
		CREATE TABLE leafless (id int) PARTITION BY LIST (id);
		CREATE TABLE base (id int, name text); CREATE TABLE derived (extra text) INHERITS (base); CREATE TABLE more () INHERITS (derived);
		INSERT INTO base VALUES (1, 'b'); INSERT INTO derived VALUES (2, 'd', 'e'); INSERT INTO more VALUES (3, 'm', 'x');
		CREATE SCHEMA templates; CREATE TABLE templates.t (x int); CREATE TABLE from_template () INHERITS (templates.t); INSERT INTO from_template VALUES (7);
		CREATE TABLE templates.parts (x int) PARTITION BY LIST (x); CREATE TABLE lent PARTITION OF templates.parts FOR VALUES IN (8);
		CREATE TABLE templates.kept PARTITION OF templates.parts FOR VALUES IN (9); INSERT INTO templates.parts VALUES (8), (9)`)
	s := tn.open(Config{})
	files := write(t, s.Tables(), 0)
	tn.roundTrip(files)
	rows := map[string]int64{}
	for _, table := range s.Contents().Tables {
		rows[table.Name] = table.Rows
		switch table.Name {
		case "runs":
			if table.Partitions != 4 {
				t.Errorf("runs has %d partitions", table.Partitions)
			}
		case "more":
			if len(table.Parents) != 1 || table.Parents[0] != "derived" {
				t.Errorf("parents: %q", table.Parents)
			}
		}
	}
	if want := "map[base:1 derived:1 from_template:1 leafless:0 lent:1 more:1 runs:701]"; fmt.Sprint(rows) != want {
		t.Errorf("rows: %v", rows)
	}
}

// TestOlderAttempts: a successor ends what a dead worker left, and nothing else.
func TestOlderAttempts(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, "CREATE TABLE a (x int)")
	e := New(tn.db, nil, Config{Connections: 1})
	old, newer, other := attempt("acme"), attempt("acme"), attempt("acme")
	newer.Number, newer.ID = 2, "2-0000000000000000"
	other.Request.Job = "2026-03-31-14302"
	first, err := e.Open(t.Context(), old)
	must(t, err)
	defer first.Close()
	bystander, err := e.Open(t.Context(), other)
	must(t, err)
	defer bystander.Close()
	second, err := e.Open(t.Context(), newer)
	must(t, err)
	defer second.Close()
	_, err = tryWrite(t.Context(), first.Tables(), 0)
	if err == nil {
		t.Error("the older attempt could still read")
	}
	again, err := e.Open(t.Context(), old) // it wakes up
	must(t, err)
	defer again.Close()
	write(t, second.Tables(), 0)
	write(t, bystander.Tables(), 0)
	must(t, second.Release(t.Context()))
	must(t, bystander.Release(t.Context()))
}

func TestSessionNames(t *testing.T) {
	t.Parallel()
	a := attempt("acme")
	if got := sessionName(a); got != "snapfleet/acme/2026-03-31-143022/1-9f86d081884c7d65" {
		t.Errorf("name %q", got)
	}
	a.Tenant.Name, a.Request.Job = strings.Repeat("t", 63), strings.Repeat("j", 64)
	a.Number, a.ID = 12, "12-9f86d081884c7d65"
	long := sessionName(a)
	if len(long) > 63 || !strings.HasSuffix(long, "/12-9f86d081884c7d65") {
		t.Errorf("name %q", long)
	}
	b := a
	b.Number, b.ID = 11, "11-0000000000000000"
	if !supersedes(a, sessionName(b)) || supersedes(b, long) || supersedes(a, long) {
		t.Error("12 supersedes 11, and neither itself nor the other way round")
	}
	b.Request.Job = strings.Repeat("j", 63) + "k"
	if supersedes(a, sessionName(b)) {
		t.Error("another job's session")
	}
}

// TestAlteredWhileOpening: a table is truncated and another created between looking and locking.
func TestAlteredWhileOpening(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, "CREATE TABLE a (x int); CREATE TABLE b (x int); INSERT INTO a VALUES (1); INSERT INTO b VALUES (1)")
	for _, c := range []struct{ name, ddl, want string }{
		{"truncate", "TRUNCATE a; INSERT INTO a VALUES (2), (3)", "map[a:2\n3\n b:1\n]"},
		{"rewrite", "ALTER TABLE b ALTER x TYPE text USING x || '!'", "map[a:2\n3\n b:1!\n]"},
		{"create", "CREATE TABLE c (x int); INSERT INTO c VALUES (9)", "map[a:2\n3\n b:1!\n c:9\n]"},
		{"drop", "DROP TABLE b", "map[a:2\n3\n c:9\n]"},
		{"rename", "ALTER TABLE c RENAME TO d", "map[a:2\n3\n d:9\n]"},
		{"become a view", "DROP TABLE d; CREATE VIEW d AS SELECT 666 AS x", "map[a:2\n3\n]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			// The DDL holds its lock until the exporter, which has looked at the old tables, waits for it.
			ddl := tn.connect()
			_, err := ddl.Exec(t.Context(), "BEGIN; SET search_path = acme; "+c.ddl, pgx.QueryExecModeSimpleProtocol)
			must(t, err)
			done := make(chan map[string]string, 1)
			go func() {
				csv, err := tn.exportQuietly(t.Context())
				if err != nil {
					t.Error(err)
				}
				done <- csv
			}()
			if c.name != "create" {
				await(t, "the exporter to wait for the lock", func() bool {
					return tn.one("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'snapfleet/%' AND wait_event_type = 'Lock' AND datname = current_database()") != "0"
				})
			}
			_, err = ddl.Exec(t.Context(), "COMMIT")
			must(t, err)
			csv := <-done
			if c.name == "create" { // it commits before or after the instant
				csv, err = tn.exportQuietly(t.Context())
				must(t, err)
			}
			if got := fmt.Sprint(csv); got != c.want {
				t.Errorf("%q, not %q", got, c.want)
			}
		})
	}
}

// TestLookedAtAgain: what happened while the exporter waited for a lock, after it had looked, is noticed.
func TestLookedAtAgain(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, "CREATE TABLE a (x int); INSERT INTO a VALUES (1); CREATE SCHEMA other")
	meanwhile := func(ddl string) (*Snapshot, error) {
		conn := tn.connect()
		_, err := conn.Exec(t.Context(), "BEGIN; LOCK acme.a; "+ddl, pgx.QueryExecModeSimpleProtocol)
		must(t, err)
		type result struct {
			s   *Snapshot
			err error
		}
		opened := make(chan result, 1)
		go func() {
			s, err := tn.tryOpen(t.Context(), Config{Connections: 2})
			opened <- result{s, err}
		}()
		await(t, "the exporter to wait for the lock", func() bool {
			return tn.one("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'snapfleet/%' AND wait_event_type = 'Lock' AND datname = current_database()") == "1"
		})
		_, err = conn.Exec(t.Context(), "COMMIT")
		must(t, err)
		r := <-opened
		return r.s, r.err
	}
	s, err := meanwhile("CREATE TABLE acme.late (x int)")
	must(t, err)
	if n := tn.one("SELECT count(*) FROM pg_locks WHERE relation = 'acme.late'::regclass AND mode = 'AccessShareLock'"); n != "3" {
		t.Errorf("%s of 3 sessions have locked the new table", n)
	}
	must(t, s.Close())
	if _, err := meanwhile("CREATE TABLE other.child () INHERITS (acme.a)"); !isRejected(err, contracts.ForeignRelation) {
		t.Errorf("a foreign child: %v", err)
	}
	tn.noSessions()
}

// TestAnotherServer: a connection to the same address that leads elsewhere is not read from.
func TestAnotherServer(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, "CREATE TABLE a (x int); INSERT INTO a VALUES (1)")
	db := tn.db.Copy()
	var dials atomic.Int32
	db.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		if dials.Add(1) > 1 {
			address = strings.Replace(address, "127.0.0.1", otherAddress, 1) // the server tells where it was met
		}
		return (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}}).DialContext(ctx, network, address)
	}
	_, err := New(db, nil, Config{ChunkBytes: 1}).Open(t.Context(), attempt("acme"))
	if err == nil || !strings.Contains(err.Error(), "another server") {
		t.Errorf("error: %v", err)
	}
	tn.noSessions()
}

// TestSpans: one for each thing that the database is asked for, and one for each table, with no row in them.
func TestSpans(t *testing.T) { // not parallel: the tracer is global
	recorder := tracetest.NewSpanRecorder()
	before := tracer
	tracer = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder)).Tracer("test")
	defer func() { tracer = before }()
	tn := newTenant(t, "CREATE TABLE a (x text); INSERT INTO a VALUES ('SECRET'); CREATE TABLE b (x int)")
	tn.export(Config{})
	var names []string
	for _, s := range recorder.Ended() {
		if s.Name() == "copy table" && (s.EndTime().Before(s.StartTime()) || s.Parent().SpanID() != reading(recorder)) {
			t.Errorf("a table is read from %v to %v, by %v", s.StartTime(), s.EndTime(), s.Parent().SpanID())
		}
		names = append(names, s.Name())
		if text := fmt.Sprint(s.Attributes(), s.Events()); strings.Contains(text, "SECRET") {
			t.Errorf("%s: %s", s.Name(), text)
		}
	}
	if got := strings.Join(names, ", "); got != "connect, look at tables, lock tables, take snapshot, open readers, open snapshot, copy table, copy table, read tables" {
		t.Errorf("spans: %s", got)
	}
}

// reading is the span that the tables are read in.
func reading(spans *tracetest.SpanRecorder) (id trace.SpanID) {
	for _, s := range spans.Ended() {
		if s.Name() == "read tables" {
			id = s.SpanContext().SpanID()
		}
	}
	return id
}

// exportQuietly is export for other goroutines than the test's.
func (tn *tenant) exportQuietly(ctx context.Context) (map[string]string, error) {
	s, err := tn.tryOpen(ctx, Config{})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	files, err := tryWrite(ctx, s.Tables(), 0)
	if err != nil {
		return nil, err
	}
	csv := map[string]string{}
	for _, f := range files {
		_, csv[f.member.Of], _ = strings.Cut(string(gunzip(tn.t, f.data)), "\n")
	}
	return csv, nil
}

// TestLockedFromTheStart: while a snapshot is open, whoever alters a table waits for it.
func TestLockedFromTheStart(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, "CREATE TABLE a (x int); INSERT INTO a SELECT generate_series(1, 1000)")
	s := tn.open(Config{})
	ddl := tn.connect()
	for _, statement := range []string{"TRUNCATE acme.a", "ALTER TABLE acme.a ADD y int", "DROP TABLE acme.a", "ALTER TABLE acme.a RENAME TO b"} {
		_, err := ddl.Exec(t.Context(), "SET lock_timeout = '50ms'; "+statement, pgx.QueryExecModeSimpleProtocol)
		if sqlstate(err) != lockNotAvailable {
			t.Errorf("%s: %v", statement, err)
		}
	}
	// One that waits, and goes on waiting, does not keep the siblings from reading.
	truncated := make(chan error, 1)
	go func() {
		_, err := ddl.Exec(context.Background(), "SET lock_timeout = 0; TRUNCATE acme.a", pgx.QueryExecModeSimpleProtocol)
		truncated <- err
	}()
	await(t, "TRUNCATE to wait", func() bool {
		return tn.one("SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())") == "1"
	})
	if files := write(t, s.Tables(), 0); files[0].rows != 1000 {
		t.Errorf("%d rows", files[0].rows)
	}
	must(t, s.Release(t.Context()))
	must(t, <-truncated)
}

// TestLockTimeout: somebody who holds a table for long is waited for, not for ever.
func TestLockTimeout(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, "CREATE TABLE a (x int)")
	tn.exec("BEGIN; LOCK a")
	_, err := tn.tryOpen(t.Context(), Config{LockTimeout: 1})
	if _, rejected := contracts.AsRejection(err); rejected || sqlstate(err) != lockNotAvailable {
		t.Errorf("not to be tried again: %v", err)
	}
	tn.exec("ROLLBACK")
}

// TestRenamedSchema: the one thing that no lock prevents is noticed.
func TestRenamedSchema(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, "CREATE TABLE a (x int); INSERT INTO a VALUES (1); CREATE SCHEMA other; CREATE TABLE other.a (x int); INSERT INTO other.a VALUES (666)")
	s := tn.open(Config{})
	tn.exec("ALTER SCHEMA acme RENAME TO moved; ALTER SCHEMA other RENAME TO acme")
	if _, err := tryWrite(t.Context(), s.Tables(), 0); err == nil {
		t.Error("another schema's rows were delivered")
	}
}

func TestOnlyAttachmentsLocksNothing(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, "CREATE TABLE a (x int)", attachmentTable)
	a := attempt("acme")
	a.Request.Only = contracts.Attachments
	s, err := New(tn.db, nil, Config{}).Open(t.Context(), a)
	must(t, err)
	defer s.Close()
	tn.noSessions()
	if tables, files := s.Totals(); tables != 0 || files != 0 {
		t.Errorf("%d tables, %d files", tables, files)
	}
	if files := write(t, s.Tables(), 0); len(files) != 0 {
		t.Error("tables were written")
	}
	a.Tenant.Schema = "nobody"
	if _, err := New(tn.db, nil, Config{}).Open(t.Context(), a); !isRejected(err, contracts.SchemaNotFound) {
		t.Errorf("no schema: %v", err)
	}
}

func isRejected(err error, code contracts.Code) bool {
	r, ok := contracts.AsRejection(err)
	return ok && r.Code == code
}

func TestCancelledOpen(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, "CREATE TABLE a (x int)")
	tn.exec("BEGIN; LOCK a")
	cause := errors.New("the lease is lost")
	ctx, cancel := context.WithCancelCause(t.Context())
	failed := make(chan error)
	go func() {
		_, err := tn.tryOpen(ctx, Config{})
		failed <- err
	}()
	other := tn.connect()
	await(t, "the exporter to wait for the lock", func() bool {
		var n int
		must(t, other.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'snapfleet/%' AND wait_event_type = 'Lock' AND datname = current_database()").Scan(&n))
		return n == 1
	})
	cancel(cause)
	if err := <-failed; !errors.Is(err, cause) {
		t.Errorf("the cause is not told: %v", err)
	}
	tn.noSessions()
	tn.exec("ROLLBACK")
}
