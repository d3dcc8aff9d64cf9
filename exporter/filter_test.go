package exporter

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/snapfleet/snapfleet/contracts"
)

// without is an attempt for a tenant that leaves out what the patterns match.
func without(patterns ...string) contracts.Attempt {
	a := attempt("acme")
	a.Tenant.Filter.ExcludeTables = patterns
	return a
}

// names are those of the delivered tables, in their order.
func names(c contracts.Contents) (all []string) {
	for _, t := range c.Tables {
		all = append(all, t.Name)
	}
	return all
}

// openAs is open for an attempt of the test's own.
func (tn *tenant) openAs(a contracts.Attempt, cfg Config) *Snapshot {
	tn.t.Helper()
	s, err := New(tn.db, nil, cfg).Open(tn.t.Context(), a)
	must(tn.t, err)
	tn.t.Cleanup(func() { s.Close() })
	return s
}

// TestExcludedTablesAreNotTouched: whoever leaves a table out is not stopped by it. It may be locked by somebody, hidden
// by row security, closed to us, or have children in another schema.
func TestExcludedTablesAreNotTouched(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, `CREATE TABLE parts (x int); INSERT INTO parts SELECT generate_series(1, 3000);
		CREATE TABLE audit_busy (x int); INSERT INTO audit_busy VALUES (1);
		CREATE TABLE audit_secured (x int); ALTER TABLE audit_secured ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON audit_secured USING (x > 1);
		CREATE SCHEMA other; CREATE TABLE audit_far (x int); CREATE TABLE other.child () INHERITS (audit_far);
		CREATE TABLE "Audit_kept" (x int)`, attachmentTable)
	tn.as(`GRANT USAGE ON SCHEMA acme TO {role}; GRANT SELECT ON parts, "Audit_kept", audit_secured, file_attachments TO {role}`)
	busy := tn.connect()
	_, err := busy.Exec(t.Context(), "BEGIN; LOCK acme.audit_busy IN ACCESS EXCLUSIVE MODE", pgx.QueryExecModeSimpleProtocol)
	must(t, err)

	s := tn.openAs(without("audit_*"), Config{ChunkBytes: 4 << 10, LockTimeout: 50 * time.Millisecond})
	if len(s.siblings) == 0 {
		t.Error("no sibling reads, so none has locked")
	}
	if n := tn.one("SELECT count(*) FROM pg_locks JOIN pg_class c ON c.oid = relation WHERE relname LIKE 'audit%' AND pid <> $1", busy.PgConn().PID()); n != "0" {
		t.Errorf("%s locks on tables that are left out", n)
	}
	for _, f := range write(t, s.Tables(), 0) {
		if want := map[string]int64{"parts": 3000}[f.member.Of]; f.rows != want {
			t.Errorf("%s has %d rows", f.member.Of, f.rows)
		}
	}
	c := s.Contents()
	if got := names(c); !slices.Equal(got, []string{"Audit_kept", "file_attachments", "parts"}) {
		t.Errorf("delivered: %q", got)
	}
	if f := c.Filter; !slices.Equal(f.ExcludeTables, []string{"audit_*"}) || !slices.Equal(f.Tables, []string{"audit_busy", "audit_far", "audit_secured"}) {
		t.Errorf("the manifest says %+v", f)
	}
}

// TestExclusionFollowsTheDelivery: a pattern is about tables as they are delivered. Partitions follow their table, whose
// name alone counts; a table that inherits is one of its own.
func TestExclusionFollowsTheDelivery(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, `CREATE TABLE events (x int) PARTITION BY LIST (x);
		CREATE TABLE events_1 PARTITION OF events FOR VALUES IN (1) PARTITION BY LIST (x); CREATE TABLE events_1a PARTITION OF events_1 FOR VALUES IN (1);
		CREATE TABLE events_2 PARTITION OF events FOR VALUES IN (2); INSERT INTO events VALUES (1), (2);
		CREATE TABLE base (x int); INSERT INTO base VALUES (1); CREATE TABLE child () INHERITS (base); INSERT INTO child VALUES (2);
		CREATE VIEW events_seen AS SELECT 1 AS x;
		CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w; CREATE FOREIGN TABLE events_far PARTITION OF events FOR VALUES IN (3) SERVER s`)
	for _, c := range []struct {
		pattern         string
		delivered, left []string
		rows            map[string]int64
	}{
		{"events_*", []string{"base", "child", "events"}, nil, map[string]int64{"base": 1, "child": 1, "events": 2}},
		{"events", []string{"base", "child"}, []string{"events"}, nil},
		{"base", []string{"child", "events"}, []string{"base"}, map[string]int64{"child": 1, "events": 2}},
		{"child", []string{"base", "events"}, []string{"child"}, map[string]int64{"base": 1, "events": 2}},
		{"EVENTS", []string{"base", "child", "events"}, nil, nil},
	} {
		s := tn.openAs(without(c.pattern), Config{})
		for _, f := range write(t, s.Tables(), 0) {
			if want, known := c.rows[f.member.Of]; known && f.rows != want {
				t.Errorf("%s: %s has %d rows", c.pattern, f.member.Of, f.rows)
			}
		}
		got := s.Contents()
		must(t, s.Close())
		if !slices.Equal(names(got), c.delivered) || !slices.Equal(got.Filter.Tables, c.left) || !slices.Equal(got.Filter.ExcludeTables, []string{c.pattern}) {
			t.Errorf("%s: delivered %q, left out %+v", c.pattern, names(got), got.Filter)
		}
		for _, table := range got.Tables {
			for _, parent := range table.Parents {
				if !slices.Contains(names(got), parent) {
					t.Errorf("%s: %s has the parent %s, which is not there", c.pattern, table.Name, parent)
				}
			}
		}
		far := slices.Contains(got.Excluded, "the rows of a partition that is a foreign table: events_far")
		if far != slices.Contains(c.delivered, "events") {
			t.Errorf("%s: a partition of a table that is left out is told of: %q", c.pattern, got.Excluded)
		}
		if want := "views (they hold no rows of their own): events_seen"; !slices.Contains(got.Excluded, want) {
			t.Errorf("%s: %q", c.pattern, got.Excluded)
		}
	}
	if c := tn.openAs(attempt("acme"), Config{}).Contents(); c.Filter.ExcludeTables != nil || c.Filter.Tables != nil || !c.Filter.AttachmentsSince.IsZero() {
		t.Errorf("without a filter: %+v", c.Filter)
	}
}

// TestNothingLeft: a delivery without a table is a mistake, and the filter is named as what made it.
func TestNothingLeft(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, "CREATE TABLE a (x int); CREATE TABLE b (x int)")
	_, err := New(tn.db, nil, Config{}).Open(t.Context(), without("[ab]", "c"))
	if !isRejected(err, contracts.SchemaEmpty) || !strings.Contains(err.Error(), `the tenant's filter leaves out all 2 tables of schema "acme"`) || !strings.Contains(err.Error(), "--exclude-tables") {
		t.Errorf("error: %v", err)
	}
	tn.noSessions()
}

// TestExcludedTablesMayChange: what happens to a table that is left out, between looking and locking, is no change.
func TestExcludedTablesMayChange(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, "CREATE TABLE a (x int); CREATE TABLE audit_1 (x int); CREATE TABLE audit_2 (x int); CREATE TABLE audit_3 (x int)")
	db := tn.db.Copy()
	var tries atomic.Int32
	db.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		tries.Add(1)
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	ddl := tn.connect()
	_, err := ddl.Exec(t.Context(), `BEGIN; SET search_path = acme; LOCK a; TRUNCATE audit_1; ALTER TABLE audit_2 ADD y int;
		DROP TABLE audit_3; CREATE TABLE audit_4 (x int); CREATE TABLE audit_5 () INHERITS (audit_1)`, pgx.QueryExecModeSimpleProtocol)
	must(t, err)
	opened := make(chan *Snapshot, 1)
	go func() {
		s, err := New(db, nil, Config{}).Open(t.Context(), without("audit_*"))
		if err != nil {
			t.Error(err)
		}
		opened <- s
	}()
	await(t, "the exporter to wait for the lock", func() bool {
		return tn.one("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'snapfleet/%' AND wait_event_type = 'Lock' AND datname = current_database()") == "1"
	})
	_, err = ddl.Exec(t.Context(), "COMMIT")
	must(t, err)
	s := <-opened
	if s == nil {
		return
	}
	defer s.Close()
	if n := tries.Load(); n != 1 {
		t.Errorf("it was opened in %d tries", n)
	}
	if got := s.Contents().Filter.Tables; !slices.Equal(got, []string{"audit_1", "audit_2", "audit_4", "audit_5"}) {
		t.Errorf("left out: %q", got)
	}
}

// TestExcludedAttachmentTable: who leaves out the attachment table still gets the attachments. What the query reads is
// locked like a table that is delivered, and is held against the same rules.
func TestExcludedAttachmentTable(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	f.put("a", "a.txt", []byte("hello"))
	f.exec("CREATE TABLE parts (x int)")
	exclude := func(a *contracts.Attempt) { a.Tenant.Filter.ExcludeTables = []string{"file_*"} }
	s, err := f.try(t.Context(), exclude)
	must(t, err)
	c := s.Contents()
	if got := names(c); !slices.Equal(got, []string{"parts"}) || len(c.Attachments) != 1 || !slices.Equal(c.Filter.Tables, []string{"file_attachments"}) {
		t.Errorf("delivered: %q and %d attachments, %+v", got, len(c.Attachments), c.Filter)
	}
	if n := f.one("SELECT count(*) FROM pg_locks WHERE relation = 'acme.file_attachments'::regclass AND pid <> pg_backend_pid()"); n == "0" {
		t.Error("the attachment table is not locked")
	}
	must(t, s.Close())
	f.noSessions()

	f.byOwner(trap("trap", "int", "int"))
	f.exec("CREATE INDEX ON file_attachments ((trap(1)))", "GRANT USAGE ON SCHEMA acme TO PUBLIC")
	f.as(grantAll)
	if _, err := f.try(t.Context(), exclude); !isRejected(err, contracts.AttachmentsUnreadable) || !strings.Contains(err.Error(), "owner's code") {
		t.Errorf("a tenant's code in a table that is left out: %v", err)
	}
	f.exec("DROP INDEX file_attachments_trap_idx", "REVOKE SELECT ON file_attachments FROM "+f.db.User)
	if _, err := f.try(t.Context(), exclude); !isRejected(err, contracts.AttachmentsUnreadable) || sqlstate(err) != insufficientPrivilege {
		t.Errorf("an attachment table that we may not read: %v", err)
	}
}

// ids are those of the attachments, in their order.
func ids(c contracts.Contents) (all []string) {
	for _, a := range c.Attachments {
		all = append(all, a.ID)
	}
	return all
}

func newerThan(age string) func(*contracts.Attempt) {
	return func(a *contracts.Attempt) { a.Tenant.Filter.AttachmentsNewerThan = age }
}

// TestRecentAttachments: an age is counted from the snapshot's instant, whatever type says when a row was created. Who
// does not say is delivered.
func TestRecentAttachments(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	for _, id := range []string{"a-old", "b-unknown", "c-new", "d-older", "e-now"} {
		f.row(id, id, "", "", "")
	}
	f.exec("ALTER TABLE file_attachments ADD created_at date", "UPDATE file_attachments SET created_at = CASE left(id, 1) WHEN 'b' THEN NULL"+
		" WHEN 'a' THEN current_date - 92 WHEN 'd' THEN '-infinity' WHEN 'c' THEN current_date - 88 ELSE current_date END")
	for _, typ := range []string{"date", "timestamp", "timestamptz"} {
		f.exec("ALTER TABLE file_attachments ALTER created_at TYPE " + typ)
		for _, only := range []contracts.Kind{"", contracts.Attachments} {
			s, err := f.try(t.Context(), newerThan("90d"), func(a *contracts.Attempt) { a.Request.Only = only })
			must(t, err)
			c := s.Contents()
			if got := ids(c); !slices.Equal(got, []string{"b-unknown", "c-new", "e-now"}) || c.Filter.AttachmentsLeftOut != 2 || !c.Filter.AttachmentsSince.Equal(c.Snapshot.At.AddDate(0, 0, -90)) {
				t.Errorf("%s: %q, %+v of a snapshot at %v", typ, got, c.Filter, c.Snapshot.At)
			}
			if plan := s.Plan(); plan.Filter.AttachmentsLeftOut != 2 || !plan.Filter.AttachmentsSince.Equal(c.Filter.AttachmentsSince) {
				t.Errorf("%s: who takes over is told %+v", typ, plan.Filter)
			}
			must(t, s.Close())
		}
	}

	// The instant itself is within; what is a microsecond older is not.
	f.exec("UPDATE file_attachments SET created_at = '2026-01-01T00:00:00Z'", "UPDATE file_attachments SET created_at = created_at - interval '1 microsecond' WHERE id > 'c'")
	s, err := f.try(t.Context(), newerThan("2026-01-01"))
	must(t, err)
	defer s.Close()
	if got := ids(s.Contents()); !slices.Equal(got, []string{"a-old", "b-unknown"}) || s.Contents().Filter.AttachmentsLeftOut != 3 {
		t.Errorf("%q", got)
	}
	if tables := s.Contents().Tables; tables[0].Name != "file_attachments" || s.tables[0].chunks == nil {
		t.Errorf("the table is delivered as it is: %+v", tables)
	}
}

// TestRecentAttachmentsOfAQuery: one query serves tenants with and without a filter, and gives created_at wherever it
// likes.
func TestRecentAttachmentsOfAQuery(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	f.row("1", "one", "", "", "")
	f.row("2", "two", "", "", "")
	f.row("3", "three", "", "", "")
	f.exec("ALTER TABLE file_attachments ADD made timestamptz DEFAULT now()", "UPDATE file_attachments SET made = '2020-01-01' WHERE id = '2'")
	const rest = "entity_id, filename, content_type, s3_bucket, s3_key, s3_etag"
	for _, query := range []string{
		"SELECT id, " + rest + ", made AS created_at FROM {schema}.file_attachments ORDER BY id DESC",
		"SELECT made AS created_at, id, " + rest + " FROM {schema}.file_attachments ORDER BY id DESC;\n",
		"SELECT id || '' AS name, made AS created_at, " + rest + " FROM {schema}.file_attachments ORDER BY id DESC -- a remark",
	} {
		f.cfg.Attachments.Query = query
		for age, want := range map[string][]string{"": {"3", "2", "1"}, "30d": {"3", "1"}} {
			s, err := f.try(t.Context(), newerThan(age))
			must(t, err)
			if got := ids(s.Contents()); !slices.Equal(got, want) || s.Contents().Attachments[0].Filename != "three" {
				t.Errorf("%s, %q: %v", query, age, s.Contents().Attachments)
			}
			must(t, s.Close())
		}
	}
}

// TestNoCreatedAt: an age that nothing tells is refused, with what to do; and no code of a tenant's that would tell it
// is run.
func TestNoCreatedAt(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	f.row("1", "one", "", "", "")
	f.byOwner("CREATE TYPE age AS ENUM ('old')", trap("grow", "age", "timestamptz"), "CREATE CAST (age AS timestamptz) WITH FUNCTION grow(age) AS IMPLICIT",
		"CREATE DOMAIN years AS age")
	f.as(grantAll)
	const columns = "id, entity_id, filename, content_type, s3_bucket, s3_key, s3_etag"
	for name, c := range map[string]struct{ ddl, query string }{
		"the default query, without the column": {"", ""},
		"a query without the column":            {"", "SELECT " + columns + " FROM {schema}.file_attachments"},
		"in quotes":                             {"", "SELECT " + columns + `, now() AS "Created_At" FROM {schema}.file_attachments`},
		"text":                                  {"ALTER TABLE file_attachments ADD created_at text DEFAULT '2026-01-01'", ""},
		"seconds":                               {"ALTER TABLE file_attachments ADD created_at bigint DEFAULT 1", ""},
		"a tenant's type with a cast":           {"ALTER TABLE file_attachments ADD created_at age DEFAULT 'old'", ""},
		"a domain over it":                      {"ALTER TABLE file_attachments ADD created_at years DEFAULT 'old'", ""},
		"too few columns":                       {"", "SELECT id, now() AS created_at FROM {schema}.file_attachments"},
	} {
		if c.ddl != "" {
			f.exec(c.ddl)
		}
		f.cfg.Attachments.Query = c.query
		_, err := f.try(t.Context(), newerThan("90d"))
		if !isRejected(err, contracts.AttachmentsUnreadable) || !strings.Contains(fmt.Sprint(err), "created_at") || strings.Contains(fmt.Sprint(err), "the trap ran") {
			t.Errorf("%s: %v", name, err)
		}
		f.exec("ALTER TABLE file_attachments DROP IF EXISTS created_at")
	}
	f.cfg.Attachments.Query = ""
	f.exec("DROP TABLE file_attachments", "CREATE TABLE parts (x int)", "GRANT SELECT ON parts TO PUBLIC")
	s, err := f.try(t.Context(), newerThan("90d"))
	must(t, err)
	defer s.Close()
	if c := s.Contents(); len(c.Attachments) != 0 || !slices.Contains(c.Excluded, "attachments: the schema has no attachment table") {
		t.Errorf("a schema without attachments: %+v", c)
	}
	if _, err := f.try(t.Context(), newerThan("soon")); !isRejected(err, contracts.InvalidTenant) {
		t.Errorf("an age that is none: %v", err)
	}
}

// TestResumedFilter: who goes on with an attempt leaves out the same, and says so.
func TestResumedFilter(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	f.row("old", "old", "", "", "")
	f.row("new", "new", "", "", "")
	f.exec("ALTER TABLE file_attachments ADD created_at timestamptz DEFAULT now()", "UPDATE file_attachments SET created_at = '2020-01-01' WHERE id = 'old'", "CREATE TABLE audit (x int)")
	first, err := f.try(t.Context(), newerThan("90d"), func(a *contracts.Attempt) { a.Tenant.Filter.ExcludeTables = []string{"audit"} })
	must(t, err)
	want := first.Contents()
	checkpoint := kept(first, 0, "", 0)
	must(t, first.Close())
	again, err := New(f.db, f.client, f.cfg).Resume(t.Context(), attempt("acme"), checkpoint) // whose record says nothing any more
	must(t, err)
	defer again.Close()
	if got := again.Contents(); fmt.Sprint(got.Filter) != fmt.Sprint(want.Filter) || got.Filter.AttachmentsLeftOut != 1 || len(got.Filter.Tables) != 1 || !slices.Equal(ids(got), []string{"new"}) {
		t.Errorf("%+v, and before %+v", got.Filter, want.Filter)
	}
}
