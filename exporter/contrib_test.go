package exporter

import (
	"testing"

	"github.com/snapfleet/snapfleet/contracts"
)

// TestExtensions: what PostgreSQL's own extensions put into tables and indexes is delivered, in both formats, byte for
// byte as the server writes it: also where an index calls a function that finds nothing under our search_path.
func TestExtensions(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, "SET search_path = public")
	for _, name := range []string{"cube", "earthdistance", "hstore", "ltree", "citext", "pg_trgm", "intarray", "unaccent", "seg", "isn", "btree_gist", "btree_gin", `"uuid-ossp"`, "fuzzystrmatch", "lo", "bloom", "pgcrypto", "tablefunc", "dict_int"} {
		tn.exec("CREATE EXTENSION " + name)
	}
	tn.exec("SET search_path = acme, public", tn.unaccentFunction(),
		"CREATE FUNCTION norm(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN acme.f_unaccent(lower($1)); END $$",
		"CREATE TABLE places (id int, lat float8, lon float8, at point, tags text[]); INSERT INTO places SELECT n, n / 3.0, n / 7.0, point(n, n / 3.0), ARRAY['a', n::text] FROM generate_series(1, 500) n",
		"CREATE INDEX ON places USING gist (ll_to_earth(lat, lon))",
		"CREATE TABLE people (name text, spoken text GENERATED ALWAYS AS (lower(name)) STORED); INSERT INTO people VALUES ('Zoë'), (NULL), ('b'); CREATE INDEX ON people (f_unaccent(name))",
		"CREATE TABLE predicate (name text, x float8[]); INSERT INTO predicate VALUES ('Zoë', '{1,NaN}'); CREATE INDEX ON predicate (name) WHERE norm(name) <> norm('x')",
		"CREATE TABLE counted (name text, x float8); INSERT INTO counted VALUES ('Zoë', 0.1); CREATE STATISTICS st ON (norm('x') || name), x FROM counted",
		`CREATE TYPE of_all AS (h hstore, l ltree, c citext, u cube);
		CREATE TABLE typed (h hstore, ha hstore[], l ltree, la ltree[], q lquery, c citext, ca citext[], u cube, ua cube[], s seg, i isbn13, b lo, rec of_all, ra of_all[], ia int[])`,
		`INSERT INTO typed VALUES ('a=>1, "b c"=>NULL', ARRAY['x=>"\"q\""'::hstore], 'a.b.c', '{a.b,c}', 'a.*{1,2}', 'MiXed "q"', ARRAY['x, y'::citext, NULL], '(1,2),(3,4)', ARRAY['(1)'::cube], '1 .. 2', '978-0-393-04002-9', 7,
			ROW('k=>v', 'x.y', 'Q', '(1)')::of_all, ARRAY[ROW('k=>"v w"', NULL, 'a"b', NULL)::of_all, NULL], '{1,2}')`, "INSERT INTO typed DEFAULT VALUES",
		"CREATE INDEX ON typed USING gin (h); CREATE INDEX ON typed USING gist (l); CREATE INDEX ON typed (lower(c)); CREATE INDEX ON typed USING gist (u); CREATE INDEX ON typed USING gin (ia gin__int_ops); CREATE INDEX ON typed ((h -> 'a'))",
		"CREATE TABLE coded AS TABLE typed; CREATE INDEX ON coded (norm(c::text))",
		"CREATE TABLE toasted AS SELECT *, ''::text AS t FROM typed; ALTER TABLE toasted ALTER t SET STORAGE EXTERNAL; UPDATE toasted SET t = repeat('x', 5000); CREATE TABLE coded_toasted AS TABLE toasted; CREATE INDEX ON coded_toasted (norm(t))",
		"CREATE TABLE trigrams (t text); INSERT INTO trigrams VALUES ('abc'); CREATE INDEX ON trigrams USING gin (t gin_trgm_ops); CREATE INDEX ON trigrams (similarity(t, 'abd')); CREATE INDEX ON trigrams (soundex(t)); CREATE INDEX ON trigrams (digest(t, 'md5'))")
	tn.as("GRANT USAGE ON SCHEMA acme TO {role}; GRANT SELECT ON ALL TABLES IN SCHEMA acme TO {role}")
	says := *tn
	says.db = tn.admin
	files := map[contracts.Format]map[string]rowsOf{}
	for _, format := range []contracts.Format{contracts.CSV, contracts.JSONL} {
		if files[format] = tn.exportAs(format, Config{}); len(files[format]) != 9 {
			t.Errorf("%s: %d tables", format, len(files[format]))
		}
	}
	// With these, a query fails, and so would the one that says what to expect.
	tn.exec("DROP INDEX places_ll_to_earth_idx, people_f_unaccent_idx, predicate_name_idx, coded_norm_idx, coded_toasted_norm_idx; DROP STATISTICS st; ALTER TABLE people DROP spoken")
	for format, tables := range files {
		for name, f := range tables {
			if want := says.serverSays(format, name); f.data != want {
				at := firstDifference(f.data, want)
				t.Errorf("%s of %q differs at byte %d of %d:\n%.300q\nPostgreSQL says\n%.300q", format, name, at, len(want), f.data[max(0, at-40):], want[max(0, at-40):])
			}
		}
	}
}

// makesOfPath reports whether an index may call a function that finds its names by the search_path. Since PostgreSQL 17 such
// an index cannot be made, so on newer servers the names are qualified.
func (tn *tenant) makesOfPath() bool {
	return tn.one("SELECT current_setting('server_version_num')::int < 170000") == "true"
}

// unaccentFunction makes the wrapper of unaccent that many schemas have.
func (tn *tenant) unaccentFunction() string {
	body := "public.unaccent('public.unaccent', $1)"
	if tn.makesOfPath() {
		body = "unaccent('unaccent', $1)"
	}
	return "CREATE FUNCTION f_unaccent(text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT " + body + " $$"
}
