package world_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/snapfleet/snapfleet/test/world"
)

func TestLoad(t *testing.T) {
	t.Parallel()
	url := database(t, "load")
	const script = `
-- a comment; with a semicolon and 'a quote
\restrict abc
/* another; /* nested; */ still ' */
CREATE TABLE "odd;name" (a text, b text);  CREATE TABLE no$tag$here (a int); CREATE FUNCTION f() RETURNS text LANGUAGE plpgsql AS $body$
BEGIN
  RETURN 'a;b' || $$;$$; -- not the end
END $body$;
COPY "odd;name" (a, b) FROM stdin;
one	\N
two;	COPY "odd;name" FROM stdin;
back\\slash	\\.
\.
INSERT INTO "odd;name" VALUES (E'it\'s; here', 'C:\'), ($a1$;$a1$, U&'\0041;');
COPY "odd;name" FROM STDIN WITH (FORMAT csv);
"multi
line",""
\.
SET standard_conforming_strings = off;
SET escape_string_warning = off;
INSERT INTO "odd;name" VALUES ('it\'s; off', '');
INSERT INTO "odd;name" VALUES ('no semicolon at the end', f())`
	if err := world.Load(t.Context(), url, strings.NewReader(script)); err != nil {
		t.Fatal(err)
	}
	got := query(t, url, `SELECT string_agg(a || '=' || coalesce(b, 'NULL'), '|') FROM "odd;name"`)
	want := strings.Join([]string{`one=NULL`, `two;=COPY "odd;name" FROM stdin;`, `back\slash=\.`, `it's; here=C:\`, `;=A;`, "multi\nline=", `it's; off=`, `no semicolon at the end=a;b;`}, "|")
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestLoadErrors(t *testing.T) {
	t.Parallel()
	url := database(t, "load_errors")
	for script, want := range map[string]string{
		"SELECT 1;\n\nSELECT oops;": "line 3:",
		"SELECT 'open":              "the script ends within a string",
		"SELECT $a$ open $b$":       "the script ends within a string",
		"/* open":                   "the script ends within a comment",
		"\\connect elsewhere\n":     `psql command \connect elsewhere is not understood`,
		"CREATE TEMP TABLE t (a int);\nCOPY t FROM stdin;\n1\n":      "the script ends within the data of a COPY",
		"CREATE TEMP TABLE t (a int);\nCOPY t FROM stdin;\nx\n\\.\n": "line 2:",
	} {
		if err := world.Load(t.Context(), url, strings.NewReader(script)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", script, err, want)
		}
	}
}

// TestLoadSamples loads the well-known sample databases, where this checkout has them beside it.
func TestLoadSamples(t *testing.T) {
	t.Parallel()
	dir := filepath.Join("..", "..", "..", "shared", "data")
	for name, sample := range map[string]struct {
		files []string
		count string
		want  string
	}{
		"chinook": {[]string{"chinook/chinook.sql"}, "SELECT count(*)::text FROM track", "3503"},
		"sakila":  {[]string{"sakila/schema.sql", "sakila/data.sql"}, "SELECT count(*)::text FROM rental", "16044"},
	} {
		if _, err := os.Stat(filepath.Join(dir, sample.files[0])); err != nil {
			t.Logf("%s is not here", name)
			continue
		}
		url := database(t, name)
		for _, file := range sample.files {
			f, err := os.Open(filepath.Join(dir, file))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := world.Load(t.Context(), url, f); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
		}
		if got := query(t, url, sample.count); got != sample.want {
			t.Errorf("%s: %s rows, want %s", name, got, sample.want)
		}
	}
}
