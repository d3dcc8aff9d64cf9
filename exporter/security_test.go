package exporter

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/snapfleet/snapfleet/contracts"
)

// byOwner runs the statements as a role of the tenant's own, which may make things in its schema and is no superuser.
func (tn *tenant) byOwner(statements ...string) {
	tn.t.Helper()
	owner := "o" + tn.db.Database[1:]
	tn.exec("CREATE ROLE "+owner, "ALTER SCHEMA acme OWNER TO "+owner)
	tn.t.Cleanup(func() {
		tn.conn.Exec(context.Background(), "RESET ROLE; DROP OWNED BY "+owner+" CASCADE; DROP ROLE "+owner, pgx.QueryExecModeSimpleProtocol)
	})
	tn.exec("SET ROLE " + owner)
	tn.exec(statements...)
	tn.exec("RESET ROLE")
}

// trap is a function that fails when the exporter's role runs it, and gives NULL to everybody else.
func trap(name, args, returns string) string {
	return fmt.Sprintf(`CREATE FUNCTION %s(%s) RETURNS %s LANGUAGE plpgsql IMMUTABLE AS
		$$ BEGIN IF current_user LIKE 'r%%' THEN RAISE EXCEPTION 'the trap ran as %%', current_user; END IF; RETURN NULL; END $$;`, name, args, returns)
}

// TestTenantsCodeDoesNotRun: our role may read every tenant's tables, so a tenant's code must never run as it,
// wherever the tenant has put it.
func TestTenantsCodeDoesNotRun(t *testing.T) {
	t.Parallel()
	tn := newTenant(t)
	tn.byOwner(trap("trap", "int", "int"), trap("is_trap", "int", "bool"), trap("two", "int, int", "int"), trap("on_change", "", "trigger"),
		`CREATE FUNCTION inlined(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 + acme.trap(1)';
		CREATE OPERATOR ||| (LEFTARG = int, RIGHTARG = int, FUNCTION = two);
		CREATE TABLE indexed (x int, twice int GENERATED ALWAYS AS (x * 2) STORED); CREATE INDEX ON indexed ((trap(1) + x));
		CREATE TABLE predicate (x int); CREATE INDEX ON predicate (x) WHERE trap(1) = 1;
		CREATE TABLE counted (x int, y int); CREATE STATISTICS s ON (trap(1) + x), y FROM counted;
		CREATE TABLE operated (x int); CREATE INDEX ON operated ((x + (1 OPERATOR(acme.|||) 2)));
		CREATE TABLE wrapped (x int); CREATE INDEX ON wrapped ((inlined(x)));
		CREATE TABLE bare (); CREATE INDEX ON bare ((trap(1)));
		CREATE TABLE parts (x int) PARTITION BY LIST (x); CREATE TABLE one PARTITION OF parts FOR VALUES IN (1); CREATE INDEX ON parts ((trap(1) + x));
		CREATE TABLE checked (x int CHECK (is_trap(1)));
		CREATE TABLE defaulted (x int DEFAULT trap(1));
		CREATE TABLE generated (x int, y int GENERATED ALWAYS AS (trap(1) + x) STORED);
		CREATE TABLE secured (x int); ALTER TABLE secured ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON secured USING (is_trap(1));
		CREATE DOMAIN dom AS int CHECK (is_trap(VALUE)); CREATE TABLE domained (x dom);
		CREATE TABLE changing (x int); CREATE TRIGGER t BEFORE INSERT OR UPDATE OR DELETE ON changing FOR EACH STATEMENT EXECUTE FUNCTION on_change();
		CREATE RULE r AS ON UPDATE TO changing DO ALSO SELECT trap(1);
		CREATE VIEW seen AS SELECT trap(1) AS x; CREATE MATERIALIZED VIEW kept AS SELECT trap(1) AS x`)
	// What our own statements call, under the same names in the tenant's schema.
	tn.exec(trap("pg_export_snapshot", "", "text"), trap("pg_current_snapshot", "", "text"), trap("clock_timestamp", "", "timestamptz"),
		trap("to_regclass", "text", "regclass"), trap("generate_series", "int, int", "int"), trap("pg_try_advisory_xact_lock", "int, int", "bool"),
		trap("format_type", "oid, int", "text"), trap("row_security_active", "oid", "bool"), trap("has_table_privilege", "oid, text", "bool"),
		trap("pg_relation_size", "oid", "bigint"), trap("starts_with", "text, text", "bool"), trap("current_setting", "text", "text"),
		trap("current_setting", "text, bool", "text"), trap("set_config", "text, text, bool", "text"), trap("pg_is_in_recovery", "", "bool"),
		trap("not_below", "tid, tid", "bool"), trap("same_oid", "oid, oid", "bool"), trap("same_name", "name, text", "bool"), trap("same_text", "text, text", "bool"),
		`CREATE OPERATOR >= (LEFTARG = tid, RIGHTARG = tid, FUNCTION = not_below); CREATE OPERATOR < (LEFTARG = tid, RIGHTARG = tid, FUNCTION = not_below);
		CREATE OPERATOR = (LEFTARG = oid, RIGHTARG = oid, FUNCTION = same_oid); CREATE OPERATOR = (LEFTARG = name, RIGHTARG = text, FUNCTION = same_name);
		CREATE OPERATOR = (LEFTARG = text, RIGHTARG = text, FUNCTION = same_text);
		CREATE TABLE pg_class (x int); CREATE TABLE pg_attribute (x int); CREATE TABLE pg_namespace (x int); CREATE TABLE pg_locks (x int)`)
	tables := map[string]bool{"bare": true, "parts": true}
	for _, name := range strings.Fields("indexed predicate counted operated wrapped checked defaulted generated secured domained changing pg_class pg_attribute pg_namespace pg_locks") {
		tables[name] = true
		tn.exec("INSERT INTO acme." + name + " (x) SELECT n FROM pg_catalog.generate_series(1, 3000) n")
	}
	tn.exec("INSERT INTO bare SELECT FROM pg_catalog.generate_series(1, 3000)", "INSERT INTO parts SELECT 1 FROM pg_catalog.generate_series(1, 3000)")
	tn.as(grantAll, "ALTER ROLE {role} BYPASSRLS", "ALTER ROLE {role} SET search_path = acme, pg_catalog", "ALTER ROLE {role} SET constraint_exclusion = on")

	s := tn.open(tiny)
	var interval string // a refusal of this setting is no error, so nor is a trap in its place
	must(t, s.siblings[0].QueryRow(t.Context(), "SELECT current_setting('client_connection_check_interval')").Scan(&interval))
	if interval != "10s" {
		t.Errorf("the session's settings were not made: %s", interval)
	}
	for _, f := range write(t, s.Tables(), 0) {
		if f.rows != 3000 || strings.Count(string(gunzip(t, f.data)), "\n") != 3001 || !tables[f.member.Of] {
			t.Errorf("%s has %d rows", f.member.Of, f.rows)
		}
		delete(tables, f.member.Of)
		if head, _, _ := strings.Cut(string(gunzip(t, f.data)), "\n"); f.member.Of == "indexed" && head != "x" || f.member.Of == "generated" && head != "x,y" {
			t.Errorf("%s has columns %s", f.member.Of, head)
		}
	}
	if len(tables) > 0 {
		t.Errorf("missing: %v", tables)
	}
	c := s.Contents()
	if note := strings.Join(c.Excluded, "\n"); !strings.Contains(note, "generated columns of a table with an index or statistics that call a function: indexed") || strings.Contains(note, "function: generated") {
		t.Errorf("excluded:\n%s", note)
	}
	for _, table := range c.Tables {
		if table.Name == "indexed" && len(table.Columns) != 1 {
			t.Errorf("the manifest names columns that are not there: %v", table.Columns)
		}
	}
}

// TestNoCodeMakesJSON: nor does a tenant's code run that would make JSON of a value. What cannot be written without it is
// refused, in one message that names every table.
func TestNoCodeMakesJSON(t *testing.T) {
	t.Parallel()
	tn := newTenant(t)
	tn.byOwner("CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TYPE pair AS (a mood, b int); CREATE DOMAIN humour AS mood",
		trap("shout", "mood", "json"), trap("roll", "int", "int"), "CREATE CAST (mood AS json) WITH FUNCTION shout(mood)",
		`CREATE TABLE plain (m mood, h humour); INSERT INTO plain VALUES ('sad', 'ok');
		CREATE TABLE toasted (m mood, t text); ALTER TABLE toasted ALTER t SET STORAGE EXTERNAL; INSERT INTO toasted VALUES ('ok', repeat('x', 300000));
		CREATE TABLE indexed (m mood, x int); CREATE INDEX ON indexed ((roll(1) + x)); INSERT INTO indexed VALUES ('sad', 1);
		CREATE TABLE lists (m mood[]); CREATE TABLE pairs (p pair); CREATE TABLE arrays (x int, a int[]); CREATE INDEX ON arrays ((roll(1) + x))`)
	tn.as(grantAll)
	a := attempt("acme")
	a.Request.Format = contracts.JSONL
	_, err := New(tn.db, nil, Config{}).Open(t.Context(), a)
	if r, ok := contracts.AsRejection(err); !ok || r.Code != contracts.FormatImpossible || !strings.Contains(err.Error(), `tables "arrays", "lists", "pairs" would`) {
		t.Errorf("error: %v", err)
	}
	for name, rows := range map[string]string{"lists": "", "pairs": "", "arrays": "", "plain": "sad,ok\n", "indexed": "sad,1\n"} {
		if got := tn.exportAs(contracts.CSV, Config{})[name].data; got != rows {
			t.Errorf("CSV of %s: %q", name, got)
		}
	}
	tn.exec("DROP TABLE lists, pairs, arrays")
	files := tn.exportAs(contracts.JSONL, Config{})
	for name, rows := range map[string]string{
		"plain": `{"m":"sad","h":"ok"}` + "\n", "indexed": `{"m":"sad","x":1}` + "\n", "toasted": `{"m":"ok","t":"` + strings.Repeat("x", 300000) + `"}` + "\n",
	} {
		if got := files[name].data; got != rows {
			t.Errorf("JSON of %s: %.200q", name, got)
		}
	}
	tn.exec("INSERT INTO toasted VALUES ('ok', repeat('x', 17 << 20))")
	s, err := New(tn.db, nil, Config{}).Open(t.Context(), a)
	must(t, err)
	defer s.Close()
	if _, err := tryWrite(t.Context(), s.Tables(), 0); !strings.Contains(fmt.Sprint(err), "format_impossible") {
		t.Errorf("a row that is too large to be held: %v", err)
	}
}

// TestTrustedCodeKeepsItsChunks: what a superuser has put into an index, as extensions do, is no reason to read the
// table in one piece.
func TestTrustedCodeKeepsItsChunks(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, churned, "CREATE FUNCTION f(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 + 1'; CREATE INDEX ON churned (f(n)); CREATE INDEX ON churned (lower(t))")
	s := tn.open(tiny)
	if n := len(s.tables[0].chunks); n < 50 {
		t.Errorf("%d chunks", n)
	}
}

// TestAttachmentTablesCode: nor does code run that the attachment query would come across.
func TestAttachmentTablesCode(t *testing.T) {
	t.Parallel()
	for name, ddl := range map[string]string{
		"view":            `CREATE VIEW file_attachments AS SELECT trap(1)::text id, 1 entity_id, '' filename, '' content_type, '' s3_bucket, '' s3_key, '' s3_etag`,
		"index":           attachmentTable + "; CREATE INDEX ON file_attachments ((trap(1)))",
		"statistics":      attachmentTable + "; CREATE STATISTICS s ON (trap(1)), id FROM file_attachments",
		"partition":       strings.Replace(attachmentTable, " PRIMARY KEY", "", 1) + " PARTITION BY LIST (id); CREATE TABLE q (LIKE file_attachments); CREATE INDEX ON q ((trap(1))); CREATE TABLE p (LIKE file_attachments) PARTITION BY LIST (id); ALTER TABLE p ATTACH PARTITION q DEFAULT; ALTER TABLE file_attachments ATTACH PARTITION p DEFAULT",
		"another's table": attachmentTable + "; CREATE SCHEMA other; CREATE TABLE other.t () INHERITS (acme.file_attachments)",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tn := newTenant(t, "CREATE TABLE a (x int)")
			if name == "another's table" {
				tn.exec(ddl)
			} else {
				tn.byOwner(trap("trap", "int", "int"), ddl)
			}
			tn.as(grantAll)
			for only, code := range map[contracts.Kind]contracts.Code{"": contracts.AttachmentsUnreadable, contracts.Attachments: contracts.AttachmentsUnreadable} {
				if name == "another's table" {
					code = contracts.ForeignRelation
				}
				a := attempt("acme")
				a.Request.Only = only
				_, err := New(tn.db, nil, Config{}).Open(t.Context(), a)
				if !isRejected(err, code) || strings.Contains(fmt.Sprint(err), "P0001") {
					t.Errorf("only %q: %v", only, err)
				}
			}
		})
	}
}

func TestNamesInAQuery(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		relation, query string
		refused         bool
	}{
		{"file_attachments", DefaultAttachmentsQuery, true},
		{"file", DefaultAttachmentsQuery, false},
		{"id", DefaultAttachmentsQuery, false},
		{"files", `SELECT * FROM {schema} . FILES`, true},
		{`Odd "name`, `SELECT * FROM {schema}."Odd ""name" JOIN {schema}.b USING (id)`, true},
		{"b", `SELECT * FROM {schema}."Odd ""name" JOIN {schema}.b USING (id)`, true},
		{"B", `SELECT * FROM {schema}.b`, false},
		{"größe", `SELECT * FROM {schema}.größe`, true},
	} {
		err := (&catalog{relations: []*relation{{name: c.relation, kind: "v"}}}).checkQuery(c.query)
		if isRejected(err, contracts.AttachmentsUnreadable) != c.refused {
			t.Errorf("%s in %s: %v", c.relation, c.query, err)
		}
		if err := (&catalog{relations: []*relation{{name: c.relation, kind: "r"}}}).checkQuery(c.query); err != nil {
			t.Errorf("a table without code: %v", err)
		}
	}
}

// oddNames are what PostgreSQL takes for a name, and what a careless program would take for something else.
var oddNames = []string{
	`a"; DROP SCHEMA public CASCADE; --`, `"`, `""`, "'; SELECT 1; '", "ä\n", "\r\n\t", "{schema}", "$1", "$$", "%s%d%n", `\`, `\"`, `\.`, "a.b", ".", "..", "A", "select",
	"/* ", " */", "--", ";", " ", "\u2028", "\ufeff", "\U0001F980", "U&\"\\0061\"", "pg", "ONLY", "*", "NULL", strings.Repeat("n", 63), strings.Repeat("ö", 31),
}

// TestOddNames: a schema, table and column of every odd name is locked, copied and loaded again, and so are its
// attachments listed.
func TestOddNames(t *testing.T) {
	t.Parallel()
	tn := newTenant(t)
	for n, name := range oddNames {
		schema, quoted := name, pgx.Identifier{name}.Sanitize()
		tn.exec("CREATE SCHEMA "+quoted, fmt.Sprintf("CREATE TABLE %s.%s (%s text, other int); INSERT INTO %s.%s VALUES ('x', %d)", quoted, quoted, quoted, quoted, quoted, n),
			strings.Replace(attachmentTable, "TABLE ", "TABLE "+quoted+".", 1), fmt.Sprintf("INSERT INTO %s.file_attachments (id) VALUES ('%d')", quoted, n))
		tn.schema = schema
		s, err := tn.tryOpen(t.Context(), Config{Connections: 1})
		if err != nil {
			t.Fatalf("%q: %v", name, err)
		}
		files := write(t, s.Tables(), 0)
		must(t, s.Release(t.Context()))
		if _, stored := s.Totals(); len(files) != 2 || stored != 0 || len(s.Contents().Attachments) != 1 || s.Contents().Attachments[0].ID != fmt.Sprint(n) {
			t.Errorf("%q: %d files, attachments %v", name, len(files), s.Contents().Attachments)
		}
		tn.roundTrip(files)
		must(t, s.Close())
	}
	tn.noSessions()
}
