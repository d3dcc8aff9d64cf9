package exporter

import (
	"context"
	"errors"
	"fmt"
	"reflect"
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

// owner is the role of byOwner.
func (tn *tenant) owner() string { return "o" + tn.admin.Database[1:] }

// bySameOwner runs more statements as that role.
func (tn *tenant) bySameOwner(statements ...string) {
	tn.t.Helper()
	tn.exec("SET ROLE " + tn.owner())
	tn.exec(statements...)
	tn.exec("RESET ROLE")
}

// trap is a function that fails when the exporter's role runs it, and gives NULL to everybody else.
func trap(name, args, returns string) string {
	return fmt.Sprintf(`CREATE FUNCTION %s(%s) RETURNS %s LANGUAGE plpgsql IMMUTABLE AS
		$$ BEGIN IF current_user LIKE 'r%%' THEN RAISE EXCEPTION 'the trap ran as %%', current_user; END IF; RETURN NULL; END $$;`, name, args, returns)
}

// carriers make an object of each kind that can carry an expression or a function of the tenant's. PostgreSQL's own
// list of who depends on a function says whether one is missing: see dependents.
const carriers = `CREATE FUNCTION inlined(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 + acme.trap(1)';
	CREATE FUNCTION parsed(x int) RETURNS int LANGUAGE sql IMMUTABLE RETURN x + acme.trap(1);
	CREATE OPERATOR ||| (LEFTARG = int, RIGHTARG = int, FUNCTION = two);
	CREATE AGGREGATE summed (int) (SFUNC = two, STYPE = int);
	CREATE CAST (mood AS json) WITH FUNCTION shout(mood); CREATE CAST (mood AS text) WITH FUNCTION shown(mood) AS IMPLICIT;
	CREATE CAST (span AS json) WITH FUNCTION shout(span);
	CREATE DOMAIN dom AS int CHECK (is_trap(VALUE)); CREATE TYPE pair AS (m mood, d dom);
	CREATE TABLE indexed (x int, twice int GENERATED ALWAYS AS (x * 2) STORED); CREATE INDEX ON indexed ((trap(1) + x));
	CREATE TABLE predicate (x int); CREATE INDEX ON predicate (x) WHERE trap(1) = 1;
	CREATE TABLE counted (x int, y int); CREATE STATISTICS s ON (trap(1) + x), y FROM counted;
	CREATE TABLE operated (x int); CREATE INDEX ON operated ((x + (1 OPERATOR(acme.|||) 2)));
	CREATE TABLE wrapped (x int); CREATE INDEX ON wrapped ((inlined(x)));
	CREATE TABLE unwrapped (x int); CREATE INDEX ON unwrapped ((parsed(x)));
	CREATE TABLE typed (x int); CREATE INDEX ON typed ((x + (1::acme.dom)::int));
	CREATE TABLE bare (); CREATE INDEX ON bare ((trap(1)));
	CREATE TABLE parts (x int) PARTITION BY LIST (x); CREATE TABLE one PARTITION OF parts DEFAULT; CREATE INDEX ON parts ((trap(1) + x));
	CREATE TABLE keyed (x int) PARTITION BY LIST ((x + coalesce(trap(1), 0))); CREATE TABLE k1 PARTITION OF keyed DEFAULT;
	CREATE TABLE keyed2 (x int) PARTITION BY LIST ((x + coalesce(trap(1), 0))); CREATE TABLE k2 PARTITION OF keyed2 DEFAULT PARTITION BY LIST (x); CREATE TABLE k3 PARTITION OF k2 DEFAULT;
	CREATE TABLE checked (x int CHECK (is_trap(1)));
	CREATE TABLE defaulted (x int DEFAULT trap(1));
	CREATE TABLE generated (x int, y int GENERATED ALWAYS AS (trap(1) + x) STORED);
	CREATE TABLE secured (x int); ALTER TABLE secured ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON secured USING (is_trap(1));
	CREATE TABLE domained (x dom);
	CREATE TABLE moody (x int, m mood, s span, p pair, a mood[], d dom[]);
	CREATE TABLE toasted (x int, m mood, s span, p pair, a mood[], t text); ALTER TABLE toasted ALTER t SET STORAGE EXTERNAL;
	CREATE TABLE excluding (x int, EXCLUDE USING btree ((trap(1) + x) WITH =) WHERE (is_trap(1)));
	CREATE TABLE changing (x int); CREATE TRIGGER t BEFORE INSERT OR UPDATE OR DELETE ON changing FOR EACH STATEMENT EXECUTE FUNCTION on_change();
	CREATE RULE r AS ON UPDATE TO changing DO ALSO SELECT trap(1);
	CREATE VIEW seen AS SELECT trap(1) AS x; CREATE MATERIALIZED VIEW kept AS SELECT trap(1) AS x`

// carried are the tables of carriers with a column x of each row's number.
const carried = "indexed predicate counted operated wrapped unwrapped typed keyed keyed2 checked defaulted generated secured domained moody toasted excluding changing"

// dependents are what PostgreSQL lets depend on a function that is no superuser's.
const dependents = "pg_attrdef pg_cast pg_class pg_constraint pg_operator pg_policy pg_proc pg_rewrite pg_statistic_ext pg_trigger pg_type"

// newCarriers makes a tenant with a trap in each place. A trusted one owns its tables as a role that may read whatever
// the exporter may.
func newCarriers(t *testing.T, trusted bool) *tenant {
	tn := newTenant(t)
	tn.byOwner(trap("trap", "int", "int"), trap("is_trap", "int", "bool"), trap("two", "int, int", "int"), trap("on_change", "", "trigger"),
		trap("apart", "float8, float8", "float8"), "CREATE TYPE mood AS ENUM ('sad', 'ok')", trap("shout", "mood", "json"), trap("shown", "mood", "text"),
		"CREATE TYPE span AS RANGE (subtype = float8, subtype_diff = apart)", trap("shout", "span", "json"), carriers)
	if got := tn.one(`SELECT string_agg(DISTINCT classid::regclass::text, ' ' ORDER BY classid::regclass::text) FROM pg_depend
		WHERE refclassid = 'pg_proc'::regclass AND refobjid IN (SELECT oid FROM pg_proc WHERE pronamespace = 'acme'::regnamespace)`); got != dependents {
		t.Errorf("on functions depend %s", got)
	}
	// What our own statements call, under the same names in the tenant's schema.
	tn.bySameOwner(trap("pg_export_snapshot", "", "text"), trap("pg_current_snapshot", "", "text"), trap("clock_timestamp", "", "timestamptz"),
		trap("to_regclass", "text", "regclass"), trap("generate_series", "int, int", "int"), trap("pg_try_advisory_xact_lock", "int, int", "bool"),
		trap("format_type", "oid, int", "text"), trap("row_security_active", "oid", "bool"), trap("has_table_privilege", "oid, text", "bool"),
		trap("pg_has_role", "oid, oid, text", "bool"), trap("has_any_column_privilege", "oid, text", "bool"), trap("has_schema_privilege", "oid, text", "bool"),
		trap("pg_relation_size", "oid", "bigint"), trap("starts_with", "text, text", "bool"), trap("current_setting", "text", "text"),
		trap("current_setting", "text, bool", "text"), trap("set_config", "text, text, bool", "text"), trap("pg_is_in_recovery", "", "bool"),
		trap("to_json", "mood", "json"), trap("row_to_json", "pair", "json"), trap("enum_out", "mood", "text"),
		trap("not_below", "tid, tid", "bool"), trap("same_oid", "oid, oid", "bool"), trap("same_name", "name, text", "bool"), trap("same_text", "text, text", "bool"),
		`CREATE OPERATOR >= (LEFTARG = tid, RIGHTARG = tid, FUNCTION = not_below); CREATE OPERATOR < (LEFTARG = tid, RIGHTARG = tid, FUNCTION = not_below);
		CREATE OPERATOR = (LEFTARG = oid, RIGHTARG = oid, FUNCTION = same_oid); CREATE OPERATOR = (LEFTARG = name, RIGHTARG = text, FUNCTION = same_name);
		CREATE OPERATOR = (LEFTARG = text, RIGHTARG = text, FUNCTION = same_text);
		CREATE TABLE pg_class (x int); CREATE TABLE pg_attribute (x int); CREATE TABLE pg_namespace (x int); CREATE TABLE pg_locks (x int)`)
	for _, name := range strings.Fields(carried + " pg_class pg_attribute pg_namespace pg_locks") {
		tn.exec("INSERT INTO acme." + name + " (x) SELECT n FROM pg_catalog.generate_series(1, 3000) n")
	}
	tn.exec("INSERT INTO bare SELECT FROM pg_catalog.generate_series(1, 3000)", "INSERT INTO parts SELECT 1 FROM pg_catalog.generate_series(1, 3000)",
		"UPDATE moody SET m = 'sad', s = '[1,2]', p = ROW('ok', 1)::pair, a = '{ok}', d = '{1}'", "UPDATE toasted SET m = 'sad', s = '[1,2]', p = ROW('ok', 1)::pair, a = '{ok}', t = pg_catalog.repeat('x', 3000)")
	tn.as(grantAll, "ALTER ROLE {role} BYPASSRLS", "ALTER ROLE {role} SET search_path = acme, pg_catalog", "ALTER ROLE {role} SET constraint_exclusion = on")
	if !trusted {
		tn.exec("CREATE SCHEMA beta; CREATE TABLE beta.secrets (s text)", "GRANT USAGE ON SCHEMA beta TO "+tn.db.User, "GRANT SELECT ON beta.secrets TO "+tn.db.User)
	}
	return tn
}

// TestTenantsCodeDoesNotRun: our role may read every tenant's tables, so a tenant's code must never run as it,
// wherever the tenant has put it: neither where the lists of what carries code protect us, nor where nothing is planned.
func TestTenantsCodeDoesNotRun(t *testing.T) {
	t.Parallel()
	for _, trusted := range []bool{true, false} {
		for _, format := range []contracts.Format{contracts.CSV, contracts.JSONL} {
			t.Run(fmt.Sprintf("trusted=%v,%s", trusted, format), func(t *testing.T) {
				t.Parallel()
				tn := newCarriers(t, trusted)
				a := attempt("acme")
				a.Request.Format = format
				s, err := New(tn.db, nil, tiny).Open(t.Context(), a)
				must(t, err)
				defer s.Close()
				tn.checkCarried(s, trusted, format)
			})
		}
	}
}

func (tn *tenant) checkCarried(s *Snapshot, trusted bool, format contracts.Format) {
	t := tn.t
	var interval string // a refusal of this setting is no error, so nor is a trap in its place
	must(t, s.siblings[0].QueryRow(t.Context(), "SELECT current_setting('client_connection_check_interval')").Scan(&interval))
	if interval != "10s" {
		t.Errorf("the session's settings were not made: %s", interval)
	}
	tables := map[string]bool{}
	for _, name := range strings.Fields(carried + " bare parts pg_class pg_attribute pg_namespace pg_locks") {
		tables[name] = true
	}
	header := 0
	if format == contracts.CSV {
		header = 1
	}
	for _, f := range write(t, s.Tables(), 0) {
		data := string(gunzip(t, f.data))
		if f.rows != 3000 || strings.Count(data, "\n") != 3000+header || !tables[f.member.Of] {
			t.Errorf("%s has %d rows", f.member.Of, f.rows)
		}
		delete(tables, f.member.Of)
		line, _, _ := strings.Cut(data, "\n")
		if want := `"m":"sad","s":"[1,2]","p":{"m":"ok","d":1},"a":["ok"],`; format == contracts.JSONL && (f.member.Of == "moody" || f.member.Of == "toasted") && !strings.Contains(line, want) {
			t.Errorf("%s: %.200s", f.member.Of, line)
		}
	}
	if len(tables) > 0 {
		t.Errorf("missing: %v", tables)
	}
	note := strings.Join(s.Contents().Excluded, "\n")
	for what, want := range map[string]bool{
		"generated columns of a table with an index, statistics or a partition key that call a function: indexed":    true,
		"generated columns of a table whose owner could run code with the rights of the exporter's login: generated": !trusted,
	} {
		if strings.Contains(note, what) != want {
			t.Errorf("excluded:\n%s", note)
		}
	}
	for _, table := range s.Contents().Tables {
		if want := map[bool]int{true: 2, false: 1}[trusted]; table.Name == "indexed" && len(table.Columns) != 1 || table.Name == "generated" && len(table.Columns) != want {
			t.Errorf("the manifest names columns that are not there: %v", table.Columns)
		}
	}
}

// TestCodeThatIsMadeMeanwhile: an index, statistics or a cast that a tenant makes while its tables are read runs
// nothing, either: what a tenant with such a gain owns is read without a query, and no cast is ever asked.
func TestCodeThatIsMadeMeanwhile(t *testing.T) {
	t.Parallel()
	for _, format := range []contracts.Format{contracts.CSV, contracts.JSONL} {
		t.Run(string(format), func(t *testing.T) {
			t.Parallel()
			tn := newTenant(t)
			tn.byOwner(trap("trap", "int", "int"), "CREATE TYPE mood AS ENUM ('sad'); CREATE TYPE span AS RANGE (subtype = float8); CREATE TYPE pair AS (m mood, s span)",
				"CREATE TABLE a AS SELECT g, md5(g::text) t FROM generate_series(1, 20000) g; CREATE TABLE b AS SELECT g FROM generate_series(1, 5000) g",
				"CREATE TABLE z AS SELECT g, 'sad'::mood m, '[1,2]'::span s, ROW('sad', NULL)::pair p, '{sad}'::mood[] l FROM generate_series(1, 5000) g",
				"CREATE TABLE zz AS SELECT *, ''::text AS t FROM z; ALTER TABLE zz ALTER t SET STORAGE EXTERNAL; UPDATE zz SET t = repeat('x', 3000) WHERE g < 10")
			tn.as(grantAll)
			tn.exec("CREATE SCHEMA beta; CREATE TABLE beta.secrets (s text)", "GRANT USAGE ON SCHEMA beta TO "+tn.db.User, "GRANT SELECT ON beta.secrets TO "+tn.db.User)
			a := attempt("acme")
			a.Request.Format = format
			s, err := New(tn.db, nil, tiny).Open(t.Context(), a)
			must(t, err)
			defer s.Close()
			made := false
			rows, err := tryWriteTo(s.Tables(), writerFunc(func(p []byte) (int, error) {
				if !made {
					made = true
					tn.bySameOwner("CREATE INDEX ON a ((trap(1) + g)); CREATE STATISTICS st ON (trap(1) + g), t FROM a; CREATE INDEX ON b (g) WHERE trap(1) = 1",
						trap("m_json", "mood", "json"), trap("s_json", "span", "json"), trap("p_json", "pair", "json"), trap("l_json", "mood[]", "json"),
						`CREATE CAST (mood AS json) WITH FUNCTION m_json(mood); CREATE CAST (span AS json) WITH FUNCTION s_json(span);
						CREATE CAST (pair AS json) WITH FUNCTION p_json(pair); CREATE CAST (mood[] AS json) WITH FUNCTION l_json(mood[])`)
				}
				return len(p), nil
			}))
			if err != nil || rows != 35000 {
				t.Errorf("%d rows, %v", rows, err)
			}
		})
	}
}

// TestWhoGainsByCode: only the table of an owner who would gain by running code as our role is read without a query,
// which is slower: in one piece.
func TestWhoGainsByCode(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, admin string
		exposed     bool
	}{
		{"our role reads this schema alone", "", false},
		{"one application owns all schemas", "CREATE SCHEMA beta AUTHORIZATION {owner}; SET ROLE {owner}; CREATE TABLE beta.t (x int); RESET ROLE; GRANT USAGE ON SCHEMA beta TO {role}; GRANT SELECT ON beta.t TO {role}", false},
		{"another schema, not open to us", "CREATE SCHEMA beta; CREATE TABLE beta.t (x int); GRANT SELECT ON beta.t TO {role}", false},
		{"another schema's table", "CREATE SCHEMA beta; CREATE TABLE beta.t (x int); GRANT USAGE ON SCHEMA beta TO {role}; GRANT SELECT ON beta.t TO {role}", true},
		{"another schema's column", "CREATE SCHEMA beta; CREATE TABLE beta.t (x int, y int); GRANT USAGE ON SCHEMA beta TO {role}; GRANT SELECT (y) ON beta.t TO {role}", true},
		{"another schema's view", "CREATE SCHEMA beta; CREATE VIEW beta.t AS SELECT 1; GRANT USAGE ON SCHEMA beta TO {role}; GRANT SELECT ON beta.t TO {role}", true},
		{"rows that a policy hides", "CREATE SCHEMA beta; CREATE TABLE beta.t (x int); ALTER TABLE beta.t ENABLE ROW LEVEL SECURITY; GRANT USAGE ON SCHEMA beta TO {role}, {owner}; GRANT SELECT ON beta.t TO {role}, {owner}; ALTER ROLE {role} BYPASSRLS", true},
		{"all data of the server", "GRANT pg_read_all_data TO {role}", true},
		{"all data of the server, which the owner has as well", "GRANT pg_read_all_data TO {role}, {owner}", false},
		{"a superuser", "ALTER ROLE {role} SUPERUSER", true},
		{"replication", "ALTER ROLE {role} REPLICATION", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			tn := newTenant(t)
			tn.byOwner(churned)
			tn.as(grantAll)
			if c.admin != "" {
				tn.exec(strings.NewReplacer("{role}", tn.db.User, "{owner}", tn.owner()).Replace(c.admin))
			}
			s := tn.open(tiny)
			if n := len(s.tables[0].chunks); (n == 1) != c.exposed {
				t.Errorf("%d chunks", n)
			}
			tn.roundTrip(write(t, s.Tables(), 0))
		})
	}
}

// TestOneFormOfAnEnum: an enum is its label in JSON, however its table is stored, and whatever casts there are.
func TestOneFormOfAnEnum(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, "CREATE TYPE mood AS ENUM ('a', 'b \"c\"'); CREATE DOMAIN humour AS mood; CREATE FUNCTION shown(mood) RETURNS json LANGUAGE sql AS $$ SELECT json_build_object('mood', $1::text) $$",
		"CREATE CAST (mood AS json) WITH FUNCTION shown(mood); CREATE TABLE small (m mood, h humour, l mood[]); INSERT INTO small VALUES ('a', 'b \"c\"', '{a}'), (NULL, NULL, NULL)",
		"CREATE TABLE toasted (LIKE small, t text); ALTER TABLE toasted ALTER t SET STORAGE EXTERNAL; INSERT INTO toasted SELECT *, repeat('x', 5000) FROM small",
		"CREATE TABLE direct (m mood, t text); ALTER TABLE direct ALTER t SET STORAGE EXTERNAL; INSERT INTO direct VALUES ('a', repeat('x', 5000))",
		"CREATE FUNCTION f(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1'; CREATE TABLE code AS TABLE small; CREATE INDEX ON code ((f(1)))")
	files := tn.exportAs(contracts.JSONL, Config{})
	row, null, long := `{"m":"a","h":"b \"c\"","l":["a"]`, `{"m":null,"h":null,"l":null`, `,"t":"`+strings.Repeat("x", 5000)+`"`
	for name, want := range map[string]string{
		"small": row + "}\n" + null + "}\n", "code": row + "}\n" + null + "}\n", "toasted": row + long + "}\n" + null + long + "}\n", "direct": `{"m":"a"` + long + "}\n",
	} {
		if got := files[name].data; got != want {
			t.Errorf("%s: %.200s", name, got)
		}
	}
}

// TestCastOfASuperusers: JSON that only a cast of a superuser's type makes is the server's, and is refused, by the names
// of table and column, where a query of the table would run its owner's code. That of hstore is made here.
func TestCastOfASuperusers(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, "CREATE EXTENSION hstore", "CREATE TYPE odd; CREATE FUNCTION odd_in(cstring) RETURNS odd LANGUAGE internal IMMUTABLE STRICT AS 'textin'; CREATE FUNCTION odd_out(odd) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout'",
		"CREATE TYPE odd (INPUT = odd_in, OUTPUT = odd_out, LIKE = text); CREATE FUNCTION shown(odd) RETURNS json LANGUAGE sql AS 'SELECT pg_catalog.json_build_array($1::pg_catalog.text)'; CREATE CAST (odd AS text) WITHOUT FUNCTION; CREATE CAST (odd AS json) WITH FUNCTION shown(odd)",
		`CREATE TABLE h (h hstore, l hstore[]); INSERT INTO h VALUES ('a=>1, "b \"q\\"=>NULL', ARRAY['x=>"y z"', ''::hstore]), ('', NULL), (NULL, '{}')`,
		"CREATE FUNCTION f(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1'; CREATE TABLE hcode AS TABLE h; CREATE INDEX ON hcode ((f(1)))",
		"CREATE TABLE o (o odd); INSERT INTO o VALUES ('x'); CREATE TABLE ocode AS TABLE o")
	files := tn.exportAs(contracts.JSONL, Config{})
	for _, name := range []string{"h", "hcode", "o", "ocode"} {
		if want := tn.serverSays(contracts.JSONL, name); files[name].data != want {
			t.Errorf("%s: %s not %s", name, files[name].data, want)
		}
	}
	tn.exec("CREATE INDEX ON ocode ((f(1)))")
	a := attempt("acme")
	a.Request.Format = contracts.JSONL
	_, err := New(tn.db, nil, Config{}).Open(t.Context(), a)
	if !isRejected(err, contracts.FormatImpossible) || !strings.Contains(err.Error(), `column "o" of table "ocode" (acme.odd)`) {
		t.Errorf("error: %v", err)
	}
}

// TestCompiledCodeKeepsItsChunks: compiled functions in an index, as extensions have them, are no reason to read the
// table in one piece. A function of a superuser's that is not compiled is, because it may call others by their names.
func TestCompiledCodeKeepsItsChunks(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, "CREATE EXTENSION cube", churned, "CREATE INDEX ON churned USING gist (cube(n)); CREATE INDEX ON churned (lower(t))")
	s := tn.open(tiny)
	if n := len(s.tables[0].chunks); n < 50 {
		t.Errorf("%d chunks", n)
	}
}

// TestCompiledCodeThatFails: a table whose query cannot be planned, because a compiled function in an index fails, is
// copied plain, in both formats.
func TestCompiledCodeThatFails(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, churned, "CREATE FUNCTION rel(text) RETURNS regclass LANGUAGE internal IMMUTABLE STRICT AS 'text_regclass'")
	want := map[contracts.Format]string{contracts.CSV: tn.serverSays(contracts.CSV, "churned"), contracts.JSONL: tn.serverSays(contracts.JSONL, "churned")}
	name := "acme.churned" // on a new server its query can be planned
	if tn.makesOfPath() {
		name = "churned" // found under the tenant's search_path alone
	}
	tn.exec("CREATE INDEX ON churned ((rel('" + name + "')::oid))")
	for format, rows := range want {
		if got := tn.exportAs(format, Config{})["churned"].data; got != rows {
			t.Errorf("%s: %d bytes, not %d", format, len(got), len(rows))
		}
	}
}

// TestAttachmentTablesCode: nor does code run that the attachment query would come across.
func TestAttachmentTablesCode(t *testing.T) {
	t.Parallel()
	for name, ddl := range map[string]string{
		"view":                         `CREATE VIEW file_attachments AS SELECT trap(1)::text id, 1 entity_id, '' filename, '' content_type, '' s3_bucket, '' s3_key, '' s3_etag`,
		"index":                        attachmentTable + "; CREATE INDEX ON file_attachments ((trap(1)))",
		"statistics":                   attachmentTable + "; CREATE STATISTICS s ON (trap(1)), id FROM file_attachments",
		"partition key":                strings.Replace(attachmentTable, " PRIMARY KEY", "", 1) + " PARTITION BY LIST ((id || coalesce(trap(1)::text, ''))); CREATE TABLE q PARTITION OF file_attachments DEFAULT",
		"partition key of a partition": strings.Replace(attachmentTable, " PRIMARY KEY", "", 1) + " PARTITION BY LIST (id); CREATE TABLE p PARTITION OF file_attachments DEFAULT PARTITION BY LIST ((id || coalesce(trap(1)::text, ''))); CREATE TABLE q PARTITION OF p DEFAULT",
		"partition bounds":             strings.Replace(attachmentTable, " PRIMARY KEY", "", 1) + " PARTITION BY RANGE ((length(id) + coalesce(trap(1), 0))); CREATE TABLE q PARTITION OF file_attachments DEFAULT",
		"function in SQL":              attachmentTable + "; CREATE FUNCTION g(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $1 || acme.trap(1)'; CREATE INDEX ON file_attachments (g(id))",
		"operator":                     attachmentTable + "; CREATE OPERATOR |> (LEFTARG = int, RIGHTARG = int, FUNCTION = two); CREATE INDEX ON file_attachments ((1 OPERATOR(acme.|>) 2))",
		"materialized view":            `CREATE MATERIALIZED VIEW file_attachments AS SELECT ''::text id, '' entity_id, '' filename, '' content_type, '' s3_bucket, '' s3_key, '' s3_etag; CREATE INDEX ON file_attachments ((trap(1)))`,
		"domain in an index":           attachmentTable + "; CREATE DOMAIN dom AS int CHECK (is_trap(VALUE)); CREATE INDEX ON file_attachments ((length(id) + (1::acme.dom)::int))",
		"implicit cast":                "CREATE TYPE mood AS ENUM ('a');" + trap("shown", "mood", "text") + "CREATE CAST (mood AS text) WITH FUNCTION shown(mood) AS IMPLICIT; " + strings.Replace(attachmentTable, "entity_id bigint", "entity_id mood", 1),
		"cast of an array":             "CREATE TYPE mood AS ENUM ('a');" + trap("shown", "mood[]", "text") + "CREATE CAST (mood[] AS text) WITH FUNCTION shown(mood[]) AS IMPLICIT; " + strings.Replace(attachmentTable, "entity_id bigint", "entity_id mood[]", 1),
		"partition":                    strings.Replace(attachmentTable, " PRIMARY KEY", "", 1) + " PARTITION BY LIST (id); CREATE TABLE q (LIKE file_attachments); CREATE INDEX ON q ((trap(1))); CREATE TABLE p (LIKE file_attachments) PARTITION BY LIST (id); ALTER TABLE p ATTACH PARTITION q DEFAULT; ALTER TABLE file_attachments ATTACH PARTITION p DEFAULT",
		"another's table":              attachmentTable + "; CREATE SCHEMA other; CREATE TABLE other.t () INHERITS (acme.file_attachments)",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tn := newTenant(t, "CREATE TABLE a (x int)")
			if name == "another's table" {
				tn.exec(ddl)
			} else {
				tn.byOwner(trap("trap", "int", "int"), trap("is_trap", "int", "bool"), trap("two", "int, int", "int"), ddl)
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

// TestQueryThatCallsTheTenant: nor does a query of the operator's run what the tenant has made under a name in it.
func TestQueryThatCallsTheTenant(t *testing.T) {
	t.Parallel()
	tn := newTenant(t)
	tn.byOwner(attachmentTable, trap("trap", "text", "text"), trap("two", "int, int", "int"), trap("shown", "text", "text"),
		`CREATE AGGREGATE summed (int) (SFUNC = two, STYPE = int); CREATE OPERATOR = (LEFTARG = int, RIGHTARG = int, FUNCTION = two); CREATE DOMAIN dom AS text CHECK (trap(VALUE) IS NULL);
		CREATE FUNCTION "Odd ""name"(text) RETURNS text LANGUAGE sql AS 'SELECT acme.trap($1)'; INSERT INTO file_attachments (id) VALUES ('1')`)
	tn.as(grantAll)
	for _, id := range []string{
		`{schema}.trap(id)`, `{schema} . TRAP (id)`, `{schema}."trap"(id)`, `{schema}."Odd ""name"(id)`, `(SELECT {schema}.summed(1))::text`, `(1 OPERATOR({schema}.=) 1)::text`,
		`id::{schema}.dom`, `CAST(id AS {schema}.dom)`,
	} {
		for _, only := range []contracts.Kind{"", contracts.Attachments} {
			a := attempt("acme")
			a.Request.Only = only
			cfg := Config{Attachments: Attachments{Query: "SELECT " + id + ", entity_id, filename, content_type, s3_bucket, s3_key, s3_etag FROM {schema}.file_attachments"}}
			_, err := New(tn.db, nil, cfg).Open(t.Context(), a)
			if !isRejected(err, contracts.AttachmentsUnreadable) || strings.Contains(fmt.Sprint(err), "P0001") {
				t.Errorf("%s: %v", id, err)
			}
		}
	}
}

// TestErrorOfAQueryHasNoText: code that should not have run chooses the text of its error, so the text is left out.
func TestErrorOfAQueryHasNoText(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, attachmentTable)
	for code, execute := range map[string]string{
		undefinedColumn: `EXECUTE 'SELECT "leaked"'`, undefinedTable: `EXECUTE 'SELECT FROM "leaked"'`, undefinedSchema: `EXECUTE 'SELECT "leaked".f()'`, "42704": "PERFORM set_config('leaked', 'x', true)",
		"34000": `EXECUTE 'CLOSE "leaked"'`, "26000": `EXECUTE 'EXECUTE "leaked"'`, "58P01": "LOAD '$libdir/plugins/leaked'", "22P02": "PERFORM 'leaked'::int", "P0001": "RAISE 'leaked'",
		dataCorrupted: "RAISE 'leaked' USING ERRCODE = 'XX001'", tooManyConnections: "RAISE 'leaked' USING ERRCODE = '53300'",
	} {
		tn.exec("CREATE OR REPLACE FUNCTION f() RETURNS text LANGUAGE plpgsql AS $$ BEGIN " + execute + "; RETURN 'x'; END $$")
		conn := tn.connect()
		_, err := conn.Exec(t.Context(), "SELECT acme.f()")
		if safe := failed(t.Context(), withoutText(err), "read"); sqlstate(err) != code || strings.Contains(fmt.Sprint(safe), "leaked") {
			t.Errorf("%s: %v becomes %v", code, err, safe)
		}
		must(t, conn.Close(t.Context()))
	}
}

// TestErrorOfAnAttachmentQuery: the reason of a query that fails has no text of the server's.
func TestErrorOfAnAttachmentQuery(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, "CREATE TABLE file_attachments (id text)")
	for _, only := range []contracts.Kind{"", contracts.Attachments} {
		a := attempt("acme")
		a.Request.Only = only
		_, err := New(tn.db, nil, Config{}).Open(t.Context(), a)
		if !isRejected(err, contracts.AttachmentsUnreadable) || strings.Contains(err.Error(), "entity_id") || !strings.Contains(err.Error(), "names a column that is not there (SQLSTATE 42703)") {
			t.Errorf("only %q: %v", only, err)
		}
	}
}

// TestIndexMadeBeforeTheQuery: an index that is made between the look at the schema and the query is noticed.
func TestIndexMadeBeforeTheQuery(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, attachmentTable, "INSERT INTO file_attachments (id) VALUES ('1')")
	s := tn.begun()
	c := &catalog{relations: []*relation{{name: defaultAttachments}}}
	must(t, s.readAttachments(c))
	tn.exec("CREATE INDEX ON file_attachments (lower(id))")
	if err := s.readAttachments(c); !errors.Is(err, errMoved) {
		t.Errorf("error: %v", err)
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

// TestAttachmentsOfAnOwnerWhoGains: the attachment table of an owner who would gain by code of theirs is copied, not
// queried, and gives the same files: whatever its types, with partitions and children, and with an age.
func TestAttachmentsOfAnOwnerWhoGains(t *testing.T) {
	t.Parallel()
	const columns = "entity_id bigint, filename text, content_type varchar(50), s3_bucket text, s3_key text, s3_etag text"
	const rows = ` SELECT n, CASE WHEN n % 3 > 0 THEN n END, E'a "b", c\n\\' || n, '', NULL, NULL, NULL, now() - n * interval '1 day' FROM generate_series(1, 30) n`
	for name, ddl := range map[string]string{
		"numbers":     "CREATE TABLE file_attachments (id int, " + columns + ", created_at timestamptz); INSERT INTO file_attachments" + rows,
		"texts":       "CREATE TABLE file_attachments (id text COLLATE \"C\", " + columns + ", created_at timestamp); INSERT INTO file_attachments" + rows,
		"dates":       "CREATE TABLE file_attachments (id uuid, " + columns + ", created_at date); INSERT INTO file_attachments SELECT md5(n::text)::uuid, 1, 'a', 'b', '', '', '', (ARRAY['infinity', '-infinity', '0044-03-15 BC', '12000-01-01', NULL, '2026-01-01'])[n]::date FROM generate_series(1, 6) n",
		"partitions":  "CREATE TABLE file_attachments (id int, " + columns + ", created_at timestamptz) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF file_attachments FOR VALUES FROM (1) TO (20); CREATE TABLE p2 PARTITION OF file_attachments DEFAULT; INSERT INTO file_attachments" + rows,
		"inheritance": "CREATE TABLE file_attachments (id int, " + columns + ", created_at timestamptz); CREATE TABLE more () INHERITS (file_attachments); INSERT INTO more" + rows + "; INSERT INTO file_attachments (id) VALUES (50)",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tn := newTenant(t)
			tn.byOwner(trap("trap", "int", "int"), ddl)
			tn.as(grantAll)
			read := func(filter string) (c contracts.Contents) {
				a := attempt("acme")
				a.Request.Only = contracts.Attachments
				a.Tenant.Filter.AttachmentsNewerThan = filter
				s, err := New(tn.db, nil, Config{}).Open(t.Context(), a)
				must(t, err)
				defer s.Close()
				return s.Contents()
			}
			queried, recent := read(""), read("10d")
			tn.exec("CREATE SCHEMA beta; CREATE TABLE beta.secrets (s text)", "GRANT USAGE ON SCHEMA beta TO "+tn.db.User, "GRANT SELECT ON beta.secrets TO "+tn.db.User)
			if got := read(""); !reflect.DeepEqual(got.Attachments, queried.Attachments) || len(got.Attachments) < 6 {
				t.Errorf("%v\nnot %v", got.Attachments, queried.Attachments)
			}
			if got := read("10d"); !reflect.DeepEqual(got.Attachments, recent.Attachments) || got.Filter.AttachmentsLeftOut != recent.Filter.AttachmentsLeftOut || got.Filter.AttachmentsLeftOut == 0 {
				t.Errorf("%v, %d left out\nnot %v, %d", got.Attachments, got.Filter.AttachmentsLeftOut, recent.Attachments, recent.Filter.AttachmentsLeftOut)
			}
			s := tn.begun()
			c, err := listCatalog(t.Context(), s.holder, "acme")
			must(t, err)
			tn.bySameOwner("CREATE INDEX ON file_attachments ((trap(1)))", "CREATE STATISTICS st ON (trap(1)), id FROM file_attachments")
			if err := s.readAttachments(c); err != nil || len(s.files) != len(queried.Attachments) {
				t.Errorf("with an index that was made meanwhile: %d files, %v", len(s.files), err)
			}
		})
	}
}

// TestAttachmentsWithASuperusersIndex: a superuser's function in an index of the attachment table, which finds nothing under
// our search_path, is no reason to refuse the default query. A query of the operator's own would fail.
func TestAttachmentsWithASuperusersIndex(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, attachmentTable, "CREATE EXTENSION unaccent SCHEMA public")
	tn.exec(tn.unaccentFunction(), "INSERT INTO file_attachments (id, filename) VALUES ('2', 'Zoë'), ('1', NULL); CREATE INDEX ON file_attachments (f_unaccent(filename)) WHERE f_unaccent('x') = 'x'")
	tn.as(grantAll)
	a := attempt("acme")
	a.Request.Only = contracts.Attachments
	s, err := New(tn.db, nil, Config{}).Open(t.Context(), a)
	must(t, err)
	defer s.Close()
	if files := s.Contents().Attachments; len(files) != 2 || files[0].ID != "1" || files[1].Filename != "Zoë" {
		t.Errorf("%v", files)
	}
	_, err = New(tn.db, nil, Config{Attachments: Attachments{Query: DefaultAttachmentsQuery + " DESC"}}).Open(t.Context(), a)
	if !isRejected(err, contracts.AttachmentsUnreadable) {
		t.Errorf("error: %v", err)
	}
}

// begun is a snapshot whose instant is taken, and nothing else.
func (tn *tenant) begun() *Snapshot {
	tn.t.Helper()
	s := &Snapshot{exporter: New(tn.db, nil, Config{}), server: &server{db: tn.db, share: -1}, attempt: attempt("acme")}
	s.ctx, s.cancel = context.WithCancelCause(tn.t.Context())
	tn.t.Cleanup(func() { s.Close() })
	var err error
	s.holder, err = s.server.connect(tn.t.Context(), "snapfleet/test")
	must(tn.t, err)
	_, err = s.begin(nil)
	must(tn.t, err)
	return s
}
