package exporter

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/snapfleet/snapfleet/contracts"
)

// samples makes rows of one column of each type that comes in binary, and of some that do not: limits, and thousands at
// random, made by the server.
var samples = []struct{ name, typ, sql string }{
	{"bool", "bool", "VALUES (true), (false), (NULL)"},
	{"int2", "int2", "SELECT generate_series(-32768, 32767, 13)::int2"},
	{"int4", "int4", "SELECT unnest('{-2147483648,2147483647,0,-1,9,10}'::int4[]) UNION ALL SELECT (random() * 4e9 - 2e9)::int4 FROM generate_series(1, 3000)"},
	{"int8", "int8", "SELECT unnest('{-9223372036854775808,9223372036854775807,0}'::int8[]) UNION ALL SELECT ((random() - 0.5) * 10 ^ (random() * 18))::int8 FROM generate_series(1, 3000)"},
	{"oid", "oid", "SELECT unnest('{0,4294967295}'::oid[])"},
	{"float4", "float4", "SELECT unnest('{NaN,Infinity,-Infinity,0,-0,1e-45,3.4e38}'::float4[]) UNION ALL SELECT ((random() - 0.5) * 10 ^ (random() * 60 - 30))::float4 FROM generate_series(1, 3000)"},
	{"float8", "float8", "SELECT unnest('{NaN,Infinity,-Infinity,0,-0,5e-324,1.7e308,9007199254740993}'::float8[]) UNION ALL SELECT (random() - 0.5) * 10 ^ (random() * 600 - 300) FROM generate_series(1, 3000)"},
	{"numeric", "numeric", `SELECT unnest('{NaN,0,0.0,0.000000,-0.00,1,-1,10000,9999,10000.0001,0.0001,0.00001,100000000,1e100,-1e-100,1234567890123456789.98765432109876543210}'::numeric[])
		UNION ALL SELECT ((random() - 0.5) * 10 ^ (random() * 60 - 30)::int)::numeric FROM generate_series(1, 3000)
		UNION ALL SELECT round((random() - 0.5)::numeric * 10::numeric ^ (n % 40), n % 17) FROM generate_series(1, 3000) n
		UNION ALL SELECT ('1e' || n)::numeric FROM generate_series(-200, 200) n`},
	{"numeric_infinity", "numeric", "SELECT unnest('{Infinity,-Infinity}'::numeric[])"},
	{"numeric_scaled", "numeric(20, 7)", "SELECT (random() * 1e6)::numeric FROM generate_series(1, 2000) UNION ALL VALUES (0), (1), (-0.0000001)"},
	{"text", "text", `SELECT unnest(ARRAY['', ' ', ',', '"', '""', E'\n', E'\r', E'\r\n', E'\t', E'\\', E'\\.', E'\\N', 'NULL', 'a"b', 'ünïcödé 🦀', E'\x01\x02\x1f\x7f', E'a\bb\fc', '/', '<>&', E'\u2028']) 
		UNION ALL SELECT string_agg(chr((ARRAY[34,44,10,13,92,46,65,66,67,128512,228,9,1,31,32,127])[1 + (random() * 15)::int]), '') FROM generate_series(1, 3000) n, generate_series(1, 20) m WHERE random() < 0.9 GROUP BY n
		UNION ALL SELECT repeat('x', n) || (ARRAY['', ',', '"', E'\n', E'\r', '\'])[1 + n % 6] || repeat('y', n % 11) FROM generate_series(0, 300) n`},
	{"varchar", "varchar(20)", "VALUES ('a,b'), (''), ('plain')"},
	{"bpchar", "char(7)", "VALUES ('pad'), (''), ('full123')"},
	{"name", "name", "VALUES ('a'::name), (''), ('q\"')"},
	{"char", `"char"`, `SELECT chr(n)::"char" FROM generate_series(1, 127) n`},
	{"enum", "mood", "VALUES ('sad'::mood), ('it''s \"ok\"'), ('a,b'), (NULL)"},
	{"domain", "positive", "VALUES (1.50::positive), (2)"},
	{"domain_text", "label", "VALUES ('x,y'::label)"},
	{"uuid", "uuid", "SELECT gen_random_uuid() FROM generate_series(1, 200) UNION ALL VALUES ('00000000-0000-0000-0000-000000000000'::uuid)"},
	{"bytea", "bytea", `SELECT decode(repeat(md5(n::text), n % 5), 'hex') FROM generate_series(1, 500) n UNION ALL VALUES ('\x00ff0a0d2c22'::bytea)`},
	{"date", "date", "SELECT unnest('{infinity,-infinity,4714-11-24 BC,0001-12-31 BC,0001-01-01,5874897-12-31}'::date[]) UNION ALL SELECT '4714-11-24 BC'::date + n * 97 FROM generate_series(0, 60000) n UNION ALL SELECT '1999-12-31'::date + n FROM generate_series(-1000, 1500) n"},
	{"time", "time", "SELECT unnest('{00:00,24:00,23:59:59.999999,12:34:56.1,00:00:00.000001}'::time[]) UNION ALL SELECT time '00:00' + n * interval '7.123457 s' FROM generate_series(1, 3000) n"},
	{"timetz", "timetz", "SELECT unnest('{00:00+00,24:00-12,12:34:56.1+05:30}'::timetz[])"},
	{"timestamp", "timestamp", "SELECT unnest('{infinity,-infinity,4714-11-24 00:00:00 BC,0001-12-31 23:59:59.999999 BC,294276-12-31 23:59:59.999999,10000-01-01}'::timestamp[]) UNION ALL SELECT '1600-01-01'::timestamp + n * interval '19 days 3.000017 s' FROM generate_series(1, 20000) n"},
	{"timestamptz", "timestamptz", "SELECT unnest('{infinity,-infinity,4714-11-24 00:00:00+00 BC,0044-03-15 12:00:00+00 BC,294276-12-31 23:59:59.999999+00,1999-12-31 23:59:59.5+00,10000-01-01 00:00+00}'::timestamptz[]) UNION ALL SELECT '1600-01-01'::timestamptz + n * interval '19 days 3.000017 s' FROM generate_series(1, 20000) n"},
	{"interval", "interval", "SELECT unnest('{1 year -2 mons 3 days -04:05:06.789,0,178000000 years}'::interval[])"},
	{"json", "json", `SELECT unnest(ARRAY['{"a" :  1}', E'{\n "a": [1,\r\n 2]\n}', 'null', '"x"', '"\u00e4\n"', ' 1 ']::json[])`},
	{"jsonb", "jsonb", `SELECT unnest(ARRAY['{"a" :  1, "b": {"c": [true, null]}}', 'null', '"x,y"', '"\u00e4\n"', '1.50']::jsonb[])`},
	{"xml", "xml", `VALUES ('<a b="c">d</a>'::xml)`},
	{"array", "text[]", `SELECT unnest(ARRAY['{}', '{a,"b,c",NULL,"NULL"}', '{{a,b},{c,"d\"e"}}'])::text[]`},
	{"array_of_enums", "mood[]", `SELECT ARRAY['sad', 'a,b']::mood[]`},
	{"array_of_dates", "timestamptz[]", `SELECT ARRAY['2026-03-31 14:30:22.5+02', 'infinity']::timestamptz[]`},
	{"composite", "pair", `VALUES (ROW(1, 'x"y')::pair), (ROW(NULL, NULL)::pair), (NULL)`},
	{"range", "int4range", "VALUES ('[1,10)'::int4range), ('empty')"},
	{"inet", "inet", "VALUES ('::1/64'::inet), ('10.0.0.1')"},
	{"money", "money", "VALUES (1234.56::money)"},
	{"bit", "varbit", "VALUES (B'10101'), (B'')"},
	{"point", "point", "VALUES ('(1,2.5)'::point)"},
	{"tsvector", "tsvector", "VALUES ('a fat cat'::tsvector)"},
	{"pg_lsn", "pg_lsn", "VALUES ('16/B374D848'::pg_lsn)"},
	{"int2vector", "int2vector", "VALUES ('1 2 -3'::int2vector), ('')"},
	{"oidvector", "oidvector", "VALUES ('1 2 3'::oidvector)"},
	{"boxes", "box[]", "VALUES ('{(1,2),(0,0);(3,4),(1,1)}'::box[]), ('{}'), (NULL)"},
	{"bounds", "int[]", "VALUES ('[0:1][2:3]={{1,2},{3,NULL}}'::int[])"},
	{"floats", "float8[]", "VALUES ('{NaN,-Infinity,1e300,-0,0.1}'::float8[])"},
	{"bools", "bool[]", "VALUES ('{t,f,NULL}'::bool[])"},
	{"jsons", "json[]", `SELECT ARRAY[E'{"a":\n [1, "x\\\\y"]}', 'null', '"q"']::json[]`},
	{"arrays_of_domain", "positive[]", "VALUES ('{1.50,NULL,2}'::positive[])"},
	{"domain_of_arrays", "numbers[]", `SELECT ARRAY['{1,2}'::numbers, NULL]::numbers[]`},
	{"domain_of_enum", "humour", "VALUES ('sad'::humour)"},
	{"range_of_ours", "span", "VALUES ('[1,2.5)'::span), ('empty')"},
	{"ranges_of_ours", "span[]", "VALUES (ARRAY['[1,2.5)'::span])"},
	{"multirange_of_ours", "spans", "VALUES ('{[1,2.5),[4,5]}'::spans)"},
	{"record_of_many", "deep", `VALUES (ROW(ARRAY[ROW(1, E'x"\\y (z), {w}\n')::pair, NULL, ROW(NULL, '')::pair], '2026-03-31 14:30:22.5', '2026-03-31 14:30:22+02', 'a,b', '\x00ff', '{"a": [1, "\\"]}', ARRAY['sad', NULL]::mood[])::deep), (ROW(NULL, NULL, NULL, NULL, NULL, NULL, NULL)::deep)`},
	{"records_of_many", "deep[]", `VALUES (ARRAY[ROW(ARRAY[ROW(1, E'x"\\y (z), {w}\n')::pair], 'infinity', '0044-03-15 12:00:00+00 BC', '', '', '[]', '{}')::deep, NULL])`},
	{"empty_record", "nothing", "VALUES (ROW()::nothing)"},
}

const sampleTypes = `CREATE TYPE mood AS ENUM ('sad', 'it''s "ok"', 'a,b'); CREATE TYPE pair AS (a int, b text);
	CREATE DOMAIN positive AS numeric CHECK (VALUE > 0); CREATE DOMAIN label AS text; CREATE DOMAIN numbers AS int[]; CREATE DOMAIN humour AS mood;
	CREATE TYPE span AS RANGE (subtype = float8, multirange_type_name = spans); CREATE TYPE nothing AS ();
	CREATE TYPE deep AS (p pair[], at timestamp, "time ""z""" timestamptz, l label, b bytea, j jsonb, m mood[])`

// TestEveryValueIsPostgreSQLs: what is written here is, byte for byte, what the server writes, in CSV and in JSON, alone
// in its row and next to others.
func TestEveryValueIsPostgreSQLs(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, sampleTypes)
	for _, s := range samples {
		tn.exec(fmt.Sprintf("CREATE TABLE %[1]q AS SELECT v::%[2]s AS %[1]q FROM (%[3]s) s (v); INSERT INTO %[1]q VALUES (NULL)", s.name, s.typ, s.sql),
			fmt.Sprintf("CREATE TABLE %[2]q AS SELECT 7 AS a, %[1]q AS v, 'x' AS \"q\"\"k\", NULL::text AS b FROM %[1]q", s.name, s.name+" among others"))
	}
	for _, format := range []contracts.Format{contracts.CSV, contracts.JSONL} {
		for name, f := range tn.exportAs(format, Config{}) {
			want := tn.serverSays(format, name)
			if f.data != want {
				at := firstDifference(f.data, want)
				t.Errorf("%s of %q differs at byte %d of %d:\n%.200q\nPostgreSQL says\n%.200q", format, name, at, len(want), f.data[max(0, at-40):], want[max(0, at-40):])
			}
			if rows := int64(strings.Count(want, "\n")); format == contracts.JSONL && f.rows != rows {
				t.Errorf("%s: %d rows, not %d", name, f.rows, rows)
			}
		}
	}
}

// TestEveryValueFromText: the JSON of a table that may only be copied plain is the server's, too, byte for byte, with
// TOAST and without, alone in its row and next to others.
func TestEveryValueFromText(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, sampleTypes, "CREATE FUNCTION f(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 + 1'")
	for _, s := range samples {
		tn.exec(fmt.Sprintf("CREATE TABLE %[1]q AS SELECT v::%[2]s AS %[1]q FROM (%[3]s) s (v); INSERT INTO %[1]q VALUES (NULL); CREATE INDEX ON %[1]q ((f(1)))", s.name, s.typ, s.sql),
			fmt.Sprintf(`CREATE TABLE %[2]q AS SELECT 7 AS a, %[1]q AS v, 'x' AS "q""k", NULL::text AS b, '{}'::text[] AS c FROM %[1]q; CREATE INDEX ON %[2]q ((f(1)))`, s.name, s.name+" among others"),
			fmt.Sprintf(`CREATE TABLE %[2]q AS SELECT %[1]q AS v, '' AS t FROM %[1]q LIMIT 50; ALTER TABLE %[2]q ALTER t SET STORAGE EXTERNAL; UPDATE %[2]q SET t = repeat(E'a"\n,\\', 2000); CREATE INDEX ON %[2]q ((f(1)))`,
				s.name, s.name+" toasted"))
	}
	ways := map[way]int{}
	a := attempt(tn.schema)
	a.Request.Format = contracts.JSONL
	s, err := New(tn.db, nil, Config{}).Open(t.Context(), a)
	must(t, err)
	for _, table := range s.tables {
		ways[table.chunks[0].way]++
	}
	must(t, s.Close())
	if ways[fromText] < len(samples) || ways[inJSON] > 0 {
		t.Errorf("ways: %v", ways)
	}
	for name, f := range tn.exportAs(contracts.JSONL, Config{}) {
		if want := tn.serverSays(contracts.JSONL, name); f.data != want {
			at := firstDifference(f.data, want)
			t.Errorf("%q differs at byte %d of %d:\n%.200q\nPostgreSQL says\n%.200q", name, at, len(want), f.data[max(0, at-40):], want[max(0, at-40):])
		}
	}
}

func firstDifference(a, b string) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// serverSays are the rows of a table as the server itself writes them in that format.
func (tn *tenant) serverSays(format contracts.Format, name string) string {
	tn.t.Helper()
	table := pgx.Identifier{tn.schema, name}.Sanitize()
	sql := "COPY (SELECT * FROM ONLY " + table + ") TO STDOUT (FORMAT csv)"
	if format == contracts.JSONL {
		sql = "COPY (SELECT translate(row_to_json(r)::text, E'\\n\\r', '  ') FROM ONLY " + table + " r) TO STDOUT (FORMAT csv, QUOTE E'\\x01', DELIMITER E'\\x02')"
	}
	conn := tn.connect()
	defer conn.Close(tn.t.Context())
	must(tn.t, exec(tn.t.Context(), conn, begin+New(tn.db, nil, Config{}).settings()))
	var b strings.Builder
	_, err := conn.PgConn().CopyTo(tn.t.Context(), &b, sql)
	must(tn.t, err)
	return b.String()
}

// rowsOf is what one table became.
type rowsOf struct {
	data string
	rows int64
}

// exportAs reads all tables in a format; of CSV, without the header row.
func (tn *tenant) exportAs(format contracts.Format, cfg Config) map[string]rowsOf {
	tn.t.Helper()
	a := attempt(tn.schema)
	a.Request.Format = format
	s, err := New(tn.db, nil, cfg).Open(tn.t.Context(), a)
	must(tn.t, err)
	defer s.Close()
	files := map[string]rowsOf{}
	for _, f := range write(tn.t, s.Tables(), 0) {
		data := string(gunzip(tn.t, f.data))
		if format == contracts.CSV {
			_, data, _ = strings.Cut(data, "\n")
		}
		files[f.member.Of] = rowsOf{data, f.rows}
	}
	return files
}

// TestWideAndLongRows sends rows of every shape through both writers: nothing, small and large.
func TestWideAndLongRows(t *testing.T) {
	t.Parallel()
	var columns, values []string
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 400 {
		typ := []string{"int", "text", "numeric", "timestamptz", "bool", "jsonb", "float8", "int[]"}[i%8]
		columns = append(columns, fmt.Sprintf("c%d %s", i, typ))
		values = append(values, fmt.Sprintf("CASE WHEN (n * %d) %% 7 < 3 THEN NULL ELSE %s END", 1+r.IntN(6), map[string]string{
			"int": "n", "text": "'t' || n", "numeric": "n / 7.0", "timestamptz": "now()", "bool": "n % 2 = 0", "jsonb": "to_jsonb(n)", "float8": "n / 3.0", "int[]": "ARRAY[n]",
		}[typ]))
	}
	tn := newTenant(t, "CREATE TABLE wide ("+strings.Join(columns, ", ")+"); ALTER TABLE wide SET (toast_tuple_target = 8160)",
		"INSERT INTO wide SELECT "+strings.Join(values, ", ")+" FROM generate_series(1, 300) n",
		// 1 MiB in a page, without TOAST.
		"CREATE TABLE folded (id int, t text); ALTER TABLE folded ALTER t SET STORAGE MAIN; INSERT INTO folded SELECT n, repeat(CASE WHEN n % 2 = 0 THEN 'x' ELSE '\"' END, 300000 + n) FROM generate_series(1, 5) n",
		// And with.
		"CREATE TABLE toasted (id int, t text, j json); ALTER TABLE toasted ALTER t SET STORAGE EXTERNAL; INSERT INTO toasted SELECT n, repeat(E'a\\nb\"', 1000 * n), to_json(repeat('j', 500000)) FROM generate_series(1, 20) n",
		"CREATE TABLE none (); INSERT INTO none SELECT FROM generate_series(1, 5)")
	for _, format := range []contracts.Format{contracts.CSV, contracts.JSONL} {
		for _, cfg := range []Config{{}, {ChunkBytes: 16 << 10}} {
			for name, f := range tn.exportAs(format, cfg) {
				if f.data != tn.serverSays(format, name) {
					t.Errorf("%s of %s differs (%+v)", format, name, cfg)
				}
			}
		}
	}
}
