package exporter

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/snapfleet/snapfleet/contracts"
)

// newTenantEncoded is newTenant in a database of that encoding.
func newTenantEncoded(t *testing.T, encoding string) *tenant {
	t.Helper()
	tn := newTenant(t)
	name := tn.db.Database + "_" + strings.ToLower(encoding)
	tn.exec("CREATE DATABASE " + name + " TEMPLATE template0 ENCODING '" + encoding + "' LC_COLLATE 'C' LC_CTYPE 'C'")
	t.Cleanup(func() {
		tn.conn.Exec(context.Background(), "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)", pgx.QueryExecModeSimpleProtocol)
	})
	db := tn.db.Copy()
	db.Database = name
	admin := db.Copy()
	admin.RuntimeParams["client_encoding"] = "UTF8" // the exporter asks for it itself
	encoded := &tenant{t: t, db: db, admin: admin, schema: "acme"}
	encoded.conn = encoded.connect()
	return encoded
}

// read reads the tables as the format says, and returns the text of each.
func (tn *tenant) read(cfg Config, format contracts.Format, only contracts.Kind) (map[string]string, *Snapshot, error) {
	tn.t.Helper()
	cfg.SecondLook = 1
	a := attempt(tn.schema)
	a.Request.Format, a.Request.Only = format, only
	s, err := New(tn.db, nil, cfg).Open(tn.t.Context(), a)
	if err != nil {
		return nil, nil, err
	}
	defer s.Close()
	text := map[string]string{}
	files, err := tryWrite(tn.t.Context(), s.Tables(), 0)
	for _, f := range files {
		text[f.member.Of] = string(gunzip(tn.t, f.data))
	}
	return text, s, err
}

// TestNamesInEveryEncoding: names and values that are not ASCII are delivered, whatever the database's encoding and
// whatever client_encoding the role, the database and the URL ask for.
func TestNamesInEveryEncoding(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		encoding, word string
		change         string // {role}, {database}
		url            string
	}{
		{encoding: "UTF8", word: "größe部品", change: "ALTER ROLE {role} SET client_encoding = 'LATIN1'"},
		{encoding: "UTF8", word: "größe", change: "ALTER DATABASE {database} SET client_encoding = 'LATIN1'"},
		{encoding: "UTF8", word: "部品", change: "ALTER DATABASE {database} SET client_encoding = 'SJIS'"},
		{encoding: "UTF8", word: "größe", change: "ALTER ROLE {role} SET client_encoding = 'SQL_ASCII'"},
		{encoding: "UTF8", word: "größe", url: "LATIN1"},
		{encoding: "LATIN1", word: "größe"},
		{encoding: "LATIN1", word: "größe", url: "auto"},
		{encoding: "WIN1251", word: "размер"},
		{encoding: "EUC_JP", word: "部品"},
		{encoding: "SQL_ASCII", word: "größe"},
		{encoding: "SQL_ASCII", word: "größe", change: "ALTER ROLE {role} SET client_encoding = 'LATIN1'"},
	} {
		t.Run(strings.Join([]string{c.encoding, c.word, c.change, c.url}, " "), func(t *testing.T) {
			t.Parallel()
			tn := newTenantEncoded(t, c.encoding)
			schema := pgx.Identifier{"mandant_" + c.word}.Sanitize()
			table := pgx.Identifier{c.word}.Sanitize()
			tn.exec("CREATE SCHEMA "+schema+"; SET search_path = "+schema, "CREATE TABLE "+table+" ("+table+" text); INSERT INTO "+table+" VALUES ('"+c.word+"')",
				"CREATE TABLE toasted (id int, t text); ALTER TABLE toasted ALTER t SET STORAGE EXTERNAL; INSERT INTO toasted VALUES (1, repeat('"+c.word+"', 10000))",
				`CREATE TABLE "datei_`+c.word+`" (id text, entity_id text, filename text, content_type text, s3_bucket text, s3_key text, s3_etag text)`,
				`INSERT INTO "datei_`+c.word+`" VALUES ('1', 'e', '`+c.word+`', '', '', '', '')`)
			tn.as("GRANT USAGE ON SCHEMA "+schema+" TO {role}; GRANT SELECT ON ALL TABLES IN SCHEMA "+schema+" TO {role}",
				strings.ReplaceAll(c.change, "{database}", tn.db.Database))
			if c.url != "" {
				tn.db.RuntimeParams["client_encoding"] = c.url
			}
			tn.schema = "mandant_" + c.word
			cfg := Config{ChunkBytes: 4 << 10, Attachments: Attachments{Query: `SELECT * FROM {schema}."datei_` + c.word + `"`}}
			csv, s, err := tn.read(cfg, contracts.CSV, "")
			must(t, err)
			if want := c.word + "\n" + c.word + "\n"; csv[c.word] != want {
				t.Errorf("csv: %q, want %q", csv[c.word], want)
			}
			if len(s.files) != 1 || s.files[0].filename() != c.word {
				t.Errorf("attachments: %+v", s.files)
			}
			lines, _, err := tn.read(cfg, contracts.JSONL, contracts.Tables)
			must(t, err)
			if want := fmt.Sprintf("{%q:%q}\n", c.word, c.word); lines[c.word] != want {
				t.Errorf("jsonl: %q, want %q", lines[c.word], want)
			}
			if want := fmt.Sprintf("{\"id\":1,\"t\":%q}\n", strings.Repeat(c.word, 10000)); lines["toasted"] != want {
				t.Errorf("jsonl: %.100q, want %.100q", lines["toasted"], want)
			}
			_, s, err = tn.read(cfg, contracts.CSV, contracts.Attachments)
			must(t, err)
			if len(s.files) != 1 {
				t.Errorf("attachments alone: %+v", s.files)
			}
		})
	}
}

// TestBytesThatAreNotUTF8: csv.gz delivers what a database of encoding UTF8 holds byte for byte. What cannot be delivered is
// refused by the table's name, as what it is: no damage.
func TestBytesThatAreNotUTF8(t *testing.T) {
	t.Parallel()
	const invalid = "ca\xe9f"
	refused := func(t *testing.T, err error, says ...string) {
		t.Helper()
		if !isRejected(err, contracts.EncodingInvalid) {
			t.Fatalf("not refused: %v", err)
		}
		for _, s := range append(says, "UTF-8") {
			if !strings.Contains(err.Error(), s) {
				t.Errorf("does not say %s: %v", s, err)
			}
		}
		if !utf8.ValidString(err.Error()) || strings.Contains(err.Error(), "repair") {
			t.Errorf("says %q", err)
		}
	}
	const cast = `CREATE CAST (bytea AS text) WITHOUT FUNCTION;`
	for name, ddl := range map[string]string{
		"in a row":    `CREATE TABLE bad (id int, t text); INSERT INTO bad VALUES (1, 'good'), (2, '\x6361e966'::bytea::text)`,
		"with TOAST":  `CREATE TABLE bad (id int, t text); ALTER TABLE bad ALTER t SET STORAGE EXTERNAL; INSERT INTO bad VALUES (1, repeat('good', 10000)), (2, '\x6361e966'::bytea::text)`,
		"in an array": `CREATE TABLE bad (id int, t text[]); INSERT INTO bad VALUES (1, ARRAY['good', '\x6361e966'::bytea::text])`,
	} {
		t.Run("UTF8, "+name, func(t *testing.T) {
			t.Parallel()
			tn := newTenant(t, cast+ddl)
			csv, _, err := tn.read(Config{}, contracts.CSV, contracts.Tables)
			must(t, err)
			if !strings.Contains(csv["bad"], invalid) {
				t.Errorf("csv: %.100q", csv["bad"])
			}
			_, _, err = tn.read(Config{}, contracts.JSONL, contracts.Tables)
			refused(t, err, `table "bad"`, "encoding UTF8")
		})
	}
	t.Run("UTF8, a name", func(t *testing.T) {
		t.Parallel()
		tn := newTenant(t, "CREATE TABLE named (x int)", "SET allow_system_table_mods = on")
		tn.exec(cast + `UPDATE pg_attribute SET attname = ('\x6361e966'::bytea::text)::name WHERE attrelid = 'named'::regclass AND attname = 'x'`)
		for _, format := range []contracts.Format{contracts.CSV, contracts.JSONL} {
			_, _, err := tn.read(Config{}, format, contracts.Tables)
			refused(t, err, `table "named"`)
		}
	})
	t.Run("SQL_ASCII, a value", func(t *testing.T) {
		t.Parallel()
		tn := newTenantEncoded(t, "SQL_ASCII")
		tn.exec(`CREATE SCHEMA acme; CREATE TABLE acme.bad (t text); INSERT INTO acme.bad VALUES (E'ca\xe9f')`)
		for _, format := range []contracts.Format{contracts.CSV, contracts.JSONL} {
			_, _, err := tn.read(Config{}, format, contracts.Tables)
			refused(t, err, `"bad"`, "SQL_ASCII")
		}
	})
	t.Run("SQL_ASCII, a name", func(t *testing.T) {
		t.Parallel()
		tn := newTenantEncoded(t, "SQL_ASCII")
		tn.exec(`CREATE SCHEMA acme; DO $$ BEGIN EXECUTE E'CREATE TABLE acme."ca\xe9f" (x int)'; END $$`)
		_, _, err := tn.read(Config{}, contracts.CSV, contracts.Tables)
		refused(t, err, `schema "acme"`, "SQL_ASCII", "name")
	})
}

// TestCutCharacters: a character whose bytes come in two pieces is one character.
func TestCutCharacters(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("aäß部😀", 5)
	for n := 1; n <= len(text); n++ {
		for _, tail := range []string{"", "\xe9", "\x80", "\xf0\x9f"} {
			var out strings.Builder
			l := lines{w: &out, json: "t"}
			var err error
			for rest := text[:n] + tail; rest != "" && err == nil; {
				piece := rest[:min(3, len(rest))]
				rest = rest[len(piece):]
				l.out = append(l.out, piece...)
				err = l.flush(wholeRunes(l.out))
			}
			if err == nil {
				err = l.end()
			}
			if valid := utf8.ValidString(text[:n] + tail); valid != (err == nil) || valid && out.String() != text[:n]+tail {
				t.Fatalf("%q: %q, %v", text[:n]+tail, out.String(), err)
			}
		}
	}
}

// TestFailureAheadNamesItsTable: a table that cannot be read fails while another one is being written. The error names the
// first alone.
func TestFailureAheadNamesItsTable(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, `CREATE CAST (bytea AS text) WITHOUT FUNCTION; CREATE TABLE wrong (t text); INSERT INTO wrong VALUES ('\x6361e966'::bytea::text)`,
		`CREATE TABLE innocent AS SELECT n, md5(n::text) FROM generate_series(1, 10) n`)
	a := attempt("acme")
	a.Request.Format = contracts.JSONL
	s, err := New(tn.db, nil, Config{ChunkBytes: 4 << 10, Connections: 4, Window: 1 << 20}).Open(t.Context(), a)
	must(t, err)
	defer s.Close()
	_, err = tryWriteTo(s.Tables(), writerFunc(func(p []byte) (int, error) {
		<-s.ctx.Done() // the other one has failed
		return len(p), nil
	}))
	if !isRejected(err, contracts.EncodingInvalid) || strings.Contains(err.Error(), "innocent") || !strings.Contains(err.Error(), `table "wrong"`) {
		t.Errorf("error: %v", err)
	}
}
