package exporter

import (
	"bytes"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/snapfleet/snapfleet/contracts"
)

// TestAttachmentRowsAreBounded: what a tenant puts into the attachment table is refused by name, and never held.
func TestAttachmentRowsAreBounded(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, fill string
		code       contracts.Code
		names      string
	}{
		{
			"giant file name", `INSERT INTO file_attachments (id, filename) VALUES ('before', 'x'), ('giant', repeat('x', 100000000))`,
			contracts.AttachmentTooLong, `row 2 of the attachment query, which begins with "giant", has 100000`,
		},
		{
			"giant id", `INSERT INTO file_attachments (id, filename) VALUES (repeat('x', 2000000), 'x')`,
			contracts.AttachmentTooLong, `row 1 of the attachment query, which begins with "xxx`,
		},
		{
			"long file name", `INSERT INTO file_attachments (id, filename) VALUES ('long', repeat('x', 8 * 1024))`,
			contracts.AttachmentTooLong, `attachment "long" has 8196 bytes in its columns`,
		},
		{
			"long in all columns", `INSERT INTO file_attachments (id, filename, content_type) VALUES ('sum', repeat('x', 5000), repeat('y', 5000))`,
			contracts.AttachmentTooLong, `attachment "sum" has 10003 bytes`,
		},
		{
			"many rows", `INSERT INTO file_attachments (id) SELECT generate_series(1, 100001)`,
			contracts.TooManyAttachments, "more than 100000 rows",
		},
		{
			"much text", `INSERT INTO file_attachments (id, filename) SELECT g, repeat('x', 8000) FROM generate_series(1, 13000) g`,
			contracts.ManifestTooLarge, "13000 attachments",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := newFiles(t)
			f.exec("ALTER TABLE file_attachments DROP CONSTRAINT file_attachments_pkey; ALTER TABLE file_attachments ADD created_at timestamptz", c.fill)
			for _, since := range []string{"", "90d"} {
				_, err := f.try(t.Context(), newerThan(since))
				if !isRejected(err, c.code) || !strings.Contains(err.Error(), c.names) || len(err.Error()) > 1000 {
					t.Errorf("since %q: %.1000v", since, err)
				}
			}
			f.noSessions()
		})
	}
}

// TestGiantRowIsNotHeld: a row of 100 MB costs no more than the buffer of the connection.
func TestGiantRowIsNotHeld(t *testing.T) {
	f := newFiles(t)
	f.exec(`INSERT INTO file_attachments (id, filename) VALUES ('giant', repeat('x', 100000000))`)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := f.try(t.Context(), func(a *contracts.Attempt) { a.Request.Only = contracts.Attachments })
	runtime.ReadMemStats(&after)
	if allocated := after.TotalAlloc - before.TotalAlloc; !isRejected(err, contracts.AttachmentTooLong) || allocated > 30<<20 {
		t.Errorf("%d bytes were allocated: %v", allocated, err)
	}
}

// TestAttachmentsAtTheLimit: as many as are allowed are taken.
func TestAttachmentsAtTheLimit(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	f.exec(fmt.Sprintf(`INSERT INTO file_attachments (id, filename) SELECT md5(g::text), 'drawing.pdf' FROM generate_series(1, %d) g`, contracts.MaxAttachments))
	s, err := f.try(t.Context())
	must(t, err)
	defer s.Close()
	if n := len(s.Contents().Attachments); n != contracts.MaxAttachments {
		t.Errorf("%d attachments", n)
	}
}

// TestLongErrorOfTheServer: an error that quotes a long value is not held either.
func TestLongErrorOfTheServer(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	f.exec(`INSERT INTO file_attachments (id, filename) VALUES ('x', repeat('x', 3000000))`)
	f.cfg.Attachments.Query = "SELECT filename::int, '', '', '', '', '', '' FROM {schema}.file_attachments"
	if _, err := f.try(t.Context()); !isRejected(err, contracts.AttachmentsUnreadable) || !strings.Contains(err.Error(), "the limit is 1048576") || len(err.Error()) > 1000 {
		t.Errorf("error: %.1000v", err)
	}
}

// TestManifestIsBounded: the estimate is no less than what is written, and not far from it.
func TestManifestIsBounded(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	f.exec(`CREATE TABLE "odd ""name"" <&>" ("column ""<&>""" int NOT NULL, b text GENERATED ALWAYS AS ('x') STORED, c int GENERATED ALWAYS AS IDENTITY)`,
		`CREATE TABLE child (LIKE "odd ""name"" <&>") INHERITS ("odd ""name"" <&>")`)
	for i := range 50 {
		f.put(fmt.Sprintf("Id-%d<>", i), "a \"file\" <&> of some length.pdf", []byte("x"))
	}
	f.exec(`INSERT INTO file_attachments (id, filename) SELECT 'external' || g, 'x' FROM generate_series(1, 50) g`)
	s, archive := f.plan()
	m := contracts.Manifest{}
	for _, w := range write(t, archive, 0) {
		m.Files = append(m.Files, contracts.File{Name: w.member.Name, Volume: "snapshot_attachments_2026-03-31-143022.tar", Of: w.member.Of, Size: 1 << 40, SHA256: strings.Repeat("0", 64)})
	}
	for _, tb := range s.tables {
		m.Files = append(m.Files, contracts.File{Name: tb.file, Volume: "snapshot_tables_part12_2026-03-31-143022.tar", Of: tb.Name, Size: 1 << 40, SHA256: strings.Repeat("0", 64), Rows: 1 << 40})
	}
	c := s.Contents()
	m.Tables, m.Attachments, m.Gaps, m.Excluded, m.Filter = c.Tables, c.Attachments, c.Gaps, c.Excluded, c.Filter
	data, err := m.Encode()
	must(t, err)
	if size := s.manifestBytes(); size < int64(len(data))-1000 || size > 2*int64(len(data)) {
		t.Errorf("%d bytes are expected, the manifest has %d", size, len(data))
	}
}

// TestSchemaIsBounded: more columns than are allowed are refused before they are all listed.
func TestSchemaIsBounded(t *testing.T) {
	t.Parallel()
	tn := newTenant(t)
	columns := make([]string, 1600)
	for i := range columns {
		columns[i] = fmt.Sprintf(`"%s%04d" bool`, strings.Repeat("c", 59), i)
	}
	tn.exec("CREATE TABLE wide (" + strings.Join(columns, ", ") + ")")
	tn.exec(fmt.Sprintf(`DO $$ BEGIN FOR i IN 1 .. %d LOOP EXECUTE format('CREATE TABLE acme.%%I (LIKE acme.wide)', 'wide' || i); END LOOP; END $$`, contracts.MaxColumns/1600))
	if _, err := tn.tryOpen(t.Context(), Config{}); !isRejected(err, contracts.SchemaTooLarge) || !strings.Contains(err.Error(), "more than 200000 columns") {
		t.Errorf("error: %v", err)
	}
}

// TestNoAttachmentTable: only the default query may meet a tenant without the table that it reads. Everything else that
// is not found is misspelt.
func TestNoAttachmentTable(t *testing.T) {
	t.Parallel()
	const from = "SELECT id, entity_id, filename, content_type, s3_bucket, s3_key, s3_etag FROM "
	f := newFiles(t)
	f.exec("CREATE TABLE parts (id int)")
	f.put("one", "x", []byte("x"))
	for name, query := range map[string]string{
		"misspelt table":          from + "{schema}.file_atachments ORDER BY id",
		"misspelt schema":         from + "{schem}.file_attachments",
		"another schema":          from + "no_such_schema.file_attachments",
		"misspelt column":         "SELECT id, entity, filename, content_type, s3_bucket, s3_key, s3_etag FROM {schema}.file_attachments",
		"misspelt function":       "SELECT id, entity_id, lowr(filename), content_type, s3_bucket, s3_key, s3_etag FROM {schema}.file_attachments",
		"default query, reworded": from + "{schema}.file_attachments_2 ORDER BY id",
	} {
		f.cfg.Attachments.Query = query
		if _, err := f.try(t.Context()); !isRejected(err, contracts.AttachmentsUnreadable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	f.cfg.Attachments.Query = ""
	f.exec("ALTER TABLE file_attachments RENAME COLUMN s3_etag TO etag")
	if _, err := f.try(t.Context()); !isRejected(err, contracts.AttachmentsUnreadable) || strings.Contains(err.Error(), createdColumn) {
		t.Errorf("a column that was renamed: %v", err)
	}
	if _, err := f.try(t.Context(), newerThan("90d")); !isRejected(err, contracts.AttachmentsUnreadable) || !strings.Contains(err.Error(), "no column created_at") {
		t.Errorf("a column that the age of attachments needs: %v", err)
	}
	f.exec("ALTER TABLE file_attachments ADD created_at timestamptz")
	if _, err := f.try(t.Context(), newerThan("90d")); !isRejected(err, contracts.AttachmentsUnreadable) || strings.Contains(err.Error(), createdColumn) {
		t.Errorf("another column than the age's: %v", err)
	}
	f.exec("ALTER TABLE file_attachments RENAME TO attachments")
	if _, err := f.try(t.Context(), func(a *contracts.Attempt) { a.Request.Only = contracts.Attachments }); !isRejected(err, contracts.AttachmentsUnreadable) {
		t.Errorf("only attachments, without a table: %v", err)
	}
	s, err := f.try(t.Context())
	must(t, err)
	defer s.Close()
	if why := s.Contents().AttachmentsExcluded; why != "the schema has no attachment table" {
		t.Errorf("attachments are excluded because %q", why)
	}
	plan := s.Plan()
	again, err := New(f.db, f.client, f.cfg).Resume(t.Context(), attempt("acme"), contracts.Checkpoint{Plan: plan})
	must(t, err)
	defer again.Close()
	if again.Contents().AttachmentsExcluded == "" {
		t.Error("a worker that takes over forgets that attachments are excluded")
	}
}

// TestAttachmentsOfOneName: what the manifest would refuse in the end is refused before anything is uploaded.
func TestAttachmentsOfOneName(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	f.exec("ALTER TABLE file_attachments DROP CONSTRAINT file_attachments_pkey, ALTER id DROP NOT NULL")
	for _, c := range []struct{ name, rows, names string }{
		{"one id, two file names", "('same', 'a.pdf'), ('same', 'b.pdf')", `two attachments have the id "same"`},
		{"one id, one file name", "('same', 'a.pdf'), ('same', 'a.pdf')", `two attachments have the id "same"`},
		{"no id", "('one', 'a.pdf'), (NULL, 'b.pdf')", `"b.pdf", has no id`},
		{"empty id", "('', 'b.pdf')", `"b.pdf", has no id`},
	} {
		f.exec("TRUNCATE file_attachments; INSERT INTO file_attachments (id, filename) VALUES " + c.rows)
		if _, err := f.try(t.Context()); !isRejected(err, contracts.AttachmentsUnreadable) || !strings.Contains(err.Error(), c.names) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	f.exec("TRUNCATE file_attachments")
	for i, id := range []string{"aB3x", "ab3x", "AB3X", "\u00e9", "e\u0301", "stra\u00dfe", "strasse"} {
		f.put(id, fmt.Sprintf("%d.pdf", i), []byte(id))
	}
	_, archive := f.plan()
	folders := map[string]bool{}
	for _, w := range write(t, archive, 0) {
		folder, _, _ := strings.Cut(strings.ToLower(w.member.Name), "/")
		if folders[folder] || string(w.data) != w.member.Of {
			t.Errorf("%q is in %s", w.member.Of, w.member.Name)
		}
		folders[folder] = true
	}
	if len(folders) != 7 {
		t.Errorf("%d folders", len(folders))
	}
}

// TestPatternsOfAFilter: a pattern means every character of a name, and one that means no table is said to.
func TestPatternsOfAFilter(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, `CREATE TABLE "audit_2024/q1" (a int); CREATE TABLE "one,two" (a int); CREATE TABLE keep (a int)`,
		`CREATE TABLE events (a int) PARTITION BY LIST (a); CREATE TABLE events_1 PARTITION OF events DEFAULT`)
	a := attempt("acme")
	a.Tenant.Filter.ExcludeTables = []string{"audit_*", "one,two", "stagin", "Keep", "events_1"}
	c := tn.openAs(a, Config{}).Contents()
	if got := fmt.Sprint(c.Filter.Tables, c.Filter.Unmatched); got != "[audit_2024/q1 one,two] [stagin Keep events_1]" {
		t.Errorf("left out, and unmatched: %s", got)
	}
}

// TestNotesAreBounded: what readers read sentence by sentence is not one of a megabyte.
func TestNotesAreBounded(t *testing.T) {
	t.Parallel()
	name := strings.Repeat("\x01", 63)
	for n, sentences := range map[int]int{0: 0, 1: 1, 100: 1, 101: 2, 1000: 10, 5000: 10} {
		got := notes("what: ", slices.Repeat([]string{name}, n))
		if len(got) != sentences {
			t.Errorf("%d names are %d sentences", n, len(got))
		}
		for _, s := range got {
			if !strings.HasPrefix(s, "what: ") || contracts.JSONBytes(s) > 64<<10 {
				t.Errorf("%d names: a sentence of %d bytes", n, contracts.JSONBytes(s))
			}
		}
		if n > 1000 && !strings.HasSuffix(got[9], " and 4000 more") {
			t.Errorf("%.80q", got[9])
		}
	}
	if most := 6 * contracts.MaxAttachmentBytes; most > 64<<10 {
		t.Errorf("a text of an attachment may have %d bytes in JSON", most)
	}
}

// TestManifestCanBeReadBack: what the limits allow, the reader of summaries takes.
func TestManifestCanBeReadBack(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	f.exec(`INSERT INTO file_attachments (id, filename) VALUES ('odd', repeat(E'\x01', 8000))`,
		`DO $$ BEGIN FOR i IN 1 .. 1500 LOOP EXECUTE format('CREATE SEQUENCE acme.%I', 's' || repeat('x', 50) || i); END LOOP; END $$`)
	s, err := f.try(t.Context())
	must(t, err)
	defer s.Close()
	c := s.Contents()
	data, err := contracts.Manifest{Version: 1, Tenant: "acme", Job: "j", Tables: c.Tables, Attachments: c.Attachments, Excluded: c.Excluded}.Encode()
	must(t, err)
	if _, err := contracts.ReadManifestSummary(bytes.NewReader(data)); err != nil {
		t.Error(err)
	}
	if note := strings.Join(c.Excluded, ""); !strings.Contains(note, "and 500 more") {
		t.Errorf("%.200q", note)
	}
}

// TestAttachmentQueriesThatMissTheSchema: a query that cannot be right for any tenant is refused at the start.
func TestAttachmentQueriesThatMissTheSchema(t *testing.T) {
	t.Parallel()
	for query, wrong := range map[string]bool{
		"":                      false,
		DefaultAttachmentsQuery: false,
		"SELECT 1 FROM {schema}.a, {schema}.b WHERE x #>> '{a,b}' = 'c'": false,
		"SELECT 1 FROM {shema}.a":                          true,
		"SELECT 1 FROM public.a":                           true,
		"SELECT 1 FROM public.a WHERE tenant = '{schema}'": true,
		`SELECT 1 FROM {schema}.a, "{schema}".b`:           true,
	} {
		if err := (Config{Attachments: Attachments{Query: query}}).Validate(); (err != nil) != wrong {
			t.Errorf("%s: %v", query, err)
		}
	}
}
