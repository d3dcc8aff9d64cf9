package test

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/test/world"
	"github.com/snapfleet/snapfleet/test/world/factory"
)

// TestRoundTrip delivers real databases, unpacks what arrives with four programs that people use, loads it into
// an empty clone, and compares that with the source, row for row and byte for byte.
func TestRoundTrip(t *testing.T) {
	for _, tt := range []struct {
		tenant string
		schema string // default: the tenant
		dumps  []string
		scale  float64 // of the factory's tenant
		set    []string
		ask    []string
		work   []string
		split  bool
		format contracts.Format
	}{
		{tenant: "chinook", schema: "public", dumps: []string{"chinook/chinook.sql"}},
		{tenant: "sakila", schema: "public", dumps: []string{"sakila/schema.sql", "sakila/data.sql"}},
		{tenant: "factory", scale: 0.02},
		{tenant: "volumes", scale: 0.005, split: true, set: []string{"--volume-size=32MiB"}, work: []string{"--part-size=5MiB", "--chunk-size=1MiB"}},
		{tenant: "chinook_lines", schema: "public", dumps: []string{"chinook/chinook.sql"}, ask: []string{"--format=jsonl.gz"}, format: contracts.JSONL},
		{tenant: "sakila_lines", schema: "public", dumps: []string{"sakila/schema.sql", "sakila/data.sql"}, set: []string{"--format=jsonl.gz"}, format: contracts.JSONL},
		{
			tenant: "lines", scale: 0.02, split: true, set: []string{"--volume-size=32MiB", "--format=jsonl.gz"}, format: contracts.JSONL,
			work: []string{"--part-size=5MiB", "--chunk-size=1MiB"},
		},
		{tenant: "no_lines", scale: 0.001, set: []string{"--format=jsonl.gz"}, ask: []string{"--format=csv.gz"}},
	} {
		t.Run(tt.tenant, func(t *testing.T) {
			t.Parallel()
			load := manufacturer(tt.tenant, tt.scale)
			if tt.dumps != nil {
				files := make([]string, len(tt.dumps))
				for i, name := range tt.dumps {
					files[i] = filepath.Join(root, "..", "shared", "data", name)
				}
				if _, err := os.Stat(files[0]); err != nil {
					t.Logf("NOT TESTED with %s, which is not part of the repository: %v", tt.tenant, err)
					return
				}
				load = scripts(files)
			} else {
				storeFiles(t, tt.tenant)
			}
			f := newFleet(t, tt.tenant, load)
			if tt.schema == "" {
				tt.schema = tt.tenant
			}
			f.set(append(tt.set, "--schema="+tt.schema)...)
			var more map[string][]byte
			if tt.split {
				more = f.enlarge()
			}
			f.work("worker", append(tt.work, "--attachments-source="+factory.Bucket+"={tenant}/")...)
			f.submit("job", tt.ask...)
			s := f.delivered("job")
			f.check()

			d := f.unpack("job")
			if want := cmp.Or(tt.format, contracts.CSV); d.Format != want {
				t.Errorf("the format is %s, not %s", d.Format, want)
			}
			d.compareTables(f.database, tt.schema)
			if tt.dumps == nil {
				d.compareFiles(tt.tenant, more)
			}
			if *s.Outcome.Totals != d.Totals {
				t.Errorf("the outcome's totals are %+v, the manifest's %+v", *s.Outcome.Totals, d.Totals)
			}
			if tt.split {
				d.wantSplit(contracts.Tables, "large")
				d.wantSplit(contracts.Attachments, "")
			} else if d.Totals.Volumes != 2 {
				t.Errorf("%d volumes", d.Totals.Volumes)
			}
		})
	}
}

// scripts loads SQL files, one after another.
func scripts(files []string) func(context.Context, string) error {
	return func(ctx context.Context, url string) error {
		for _, name := range files {
			file, err := os.Open(name)
			if err != nil {
				return err
			}
			err = world.Load(ctx, url, file)
			if err := errors.Join(err, file.Close()); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		return nil
	}
}

// sourceBucket makes the one bucket that all the factory's tenants keep their files in.
var sourceBucket = sync.OnceValue(func() error {
	return cloud.CreateBucket(context.Background(), factory.Bucket, ourAccount)
})

// storeFiles stores the attachments of a factory's tenant.
func storeFiles(t *testing.T, schema string) {
	t.Helper()
	if err := errors.Join(sourceBucket(), factory.Upload(t.Context(), cloud.Admin(), schema)); err != nil {
		t.Fatal(err)
	}
}

// enlarge adds a table and files to the tenant that are larger than a volume of 32 MiB: random bytes, which no
// compression makes smaller. It returns the files by their ids.
func (f *fleet) enlarge() map[string][]byte {
	f.t.Helper()
	ctx := f.t.Context()
	conn := connect(f.t, f.database)
	random := rand.NewChaCha8([32]byte{1})
	bytesOf := func(n int) []byte {
		b := make([]byte, n)
		_, _ = random.Read(b) // never fails
		return b
	}
	// The second table is called what the first one's second file will be.
	script := strings.ReplaceAll("CREATE TABLE S.large (id int, body bytea); CREATE TABLE S.large_part2 AS SELECT 1 AS id", "S.", f.tenant+".")
	if _, err := conn.Exec(ctx, script); err != nil {
		f.t.Fatal(err)
	}
	rows := pgx.CopyFromSlice(4500, func(i int) ([]any, error) { return []any{i, bytesOf(8 << 10)}, nil })
	if _, err := conn.CopyFrom(ctx, pgx.Identifier{f.tenant, "large"}, []string{"id", "body"}, rows); err != nil {
		f.t.Fatal(err)
	}
	files := make(map[string][]byte)
	for i := range 3 {
		id, body := fmt.Sprintf("ffffffff-0000-4000-8000-%012d", i), bytesOf(12<<20)
		files[id] = body
		bucket, key := factory.Bucket, f.tenant+"/"+id
		if _, err := cloud.Admin().PutObject(ctx, &s3.PutObjectInput{Bucket: &bucket, Key: &key, Body: bytes.NewReader(body)}); err != nil {
			f.t.Fatal(err)
		}
		_, err := conn.Exec(ctx, "INSERT INTO "+f.tenant+".file_attachments (id, filename, s3_bucket, s3_key, s3_etag, created_at) VALUES ($1, 'large.bin', $2, $3, $4, now())",
			id, bucket, key, fmt.Sprintf("%x", md5.Sum(body)))
		if err != nil {
			f.t.Fatal(err)
		}
	}
	if err := conn.Close(ctx); err != nil {
		f.t.Fatal(err)
	}
	return files
}

// connect is a session that ends with the test.
func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// unpacked is a delivery as its customer has it: extracted to a folder, with its manifest.
type unpacked struct {
	contracts.Manifest
	t   *testing.T
	dir string
}

// unpack downloads a delivery, extracts it with every extractor, and makes sure that each of them finds the same,
// and exactly the files that the manifest names.
func (f *fleet) unpack(job string) *unpacked {
	t := f.t
	t.Helper()
	from := f.download(job)
	d := &unpacked{t: t}
	data, err := os.ReadFile(filepath.Join(from, contracts.ManifestName))
	if err != nil {
		t.Fatal(err)
	}
	if d.Manifest, err = contracts.DecodeManifest(data); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, file := range d.Files {
		names = append(names, file.Name)
	}
	slices.Sort(names)
	for _, x := range extractors {
		dir := t.TempDir()
		for _, v := range d.Volumes {
			if err := x.extract(t.Context(), filepath.Join(from, v.Name), dir); err != nil {
				t.Fatalf("%s: %s: %v", x.name, v.Name, err)
			}
		}
		if d.dir == "" {
			d.dir = dir
		}
		called := x.called
		if called == nil {
			called = func(name string) string { return name }
		}
		var want []string
		for _, name := range names {
			want = append(want, called(name))
		}
		slices.Sort(want)
		if found := filesBelow(t, dir); !slices.Equal(found, want) {
			t.Errorf("%s finds %q, which the manifest does not name, and not %q", x.name, without(found, want), without(want, found))
			continue
		}
		for _, name := range names {
			if !bytes.Equal(read(t, filepath.Join(dir, called(name))), read(t, filepath.Join(d.dir, name))) {
				t.Errorf("%s and %s disagree about %q", x.name, extractors[0].name, name)
			}
		}
	}
	return d
}

// extractors are the programs that customers unpack with.
var extractors = []struct {
	name    string
	extract func(ctx context.Context, archive, dir string) error
	called  func(name string) string // what it makes of a name; nil: nothing
}{
	{name: "GNU tar", extract: func(ctx context.Context, archive, dir string) error {
		return program(ctx, "tar", "-xf", archive, "-C", dir)
	}},
	{name: "bsdtar", extract: func(ctx context.Context, archive, dir string) error {
		return program(ctx, "bsdtar", "-xf", archive, "-C", dir)
	}, called: composed},
	{name: "Python", extract: func(ctx context.Context, archive, dir string) error {
		// The filter refuses absolute paths, "..", links out of the folder and devices.
		return program(ctx, "python3", "-c", `
import sys, tarfile
safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
with tarfile.open(sys.argv[1]) as archive:
    archive.extractall(sys.argv[2], **safe)`, archive, dir)
	}},
	{name: "Go", extract: untar},
}

// composed is a name as libarchive writes it where a header says that it is UTF-8: letters and the accents that
// follow them become one character. Only attachments have such headers; they are in folders.
func composed(name string) string {
	if !strings.Contains(name, "/") {
		return name
	}
	return strings.ReplaceAll(name, "e\u0301", "é") // the only ones of the factory's files
}

// program runs one that has nothing to say.
func program(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		return fmt.Errorf("%w: it says %q", err, out)
	}
	return nil
}

// untar is how a Go program extracts: into a root that no name can leave.
func untar(_ context.Context, archive, dir string) error {
	in, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // it was only read
	into, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer into.Close() //nolint:errcheck // it holds nothing
	r := tar.NewReader(in)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg {
			return fmt.Errorf("%q is no regular file", h.Name)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		if err := into.MkdirAll(filepath.Dir(h.Name), 0o755); err != nil {
			return err
		}
		if _, err := into.Lstat(h.Name); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%q is there twice", h.Name)
		}
		if err := into.WriteFile(h.Name, body, 0o644); err != nil {
			return err
		}
	}
}

// filesBelow lists the files in a folder, which holds nothing but files and folders.
func filesBelow(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		if !e.Type().IsRegular() {
			return fmt.Errorf("%s is no regular file", path)
		}
		name, err := filepath.Rel(dir, path)
		names = append(names, filepath.ToSlash(name))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return names
}

// without is list less the names in other.
func without(list, other []string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(name string) bool { return slices.Contains(other, name) })
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// filesOf are the files of a table, or of an attachment, in order.
func (d *unpacked) filesOf(kind contracts.Kind, of string) (names []string) {
	for _, v := range d.Volumes {
		for _, file := range d.Files {
			if v.Kind == kind && file.Volume == v.Name && file.Of == of {
				names = append(names, file.Name)
			}
		}
	}
	return names
}

// compareTables loads the tables into an empty clone of the database, and compares them with the source.
func (d *unpacked) compareTables(url, schema string) {
	d.t.Helper()
	source := connect(d.t, url)
	var name string
	if err := source.QueryRow(d.t.Context(), "SELECT current_database()").Scan(&name); err != nil {
		d.t.Fatal(err)
	}
	tables := tablesOf(d.t, source, schema)
	if err := source.Close(d.t.Context()); err != nil { // who clones must be alone
		d.t.Fatal(err)
	}
	cloned, err := postgres.CloneDatabase(d.t.Context(), name+"_clone", name)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = postgres.DropDatabase(context.Background(), name+"_clone") })
	source, clone := connect(d.t, url), connect(d.t, cloned)

	var named []string
	for _, table := range d.Tables {
		named = append(named, table.Name)
	}
	if want := slices.Sorted(maps.Keys(tables)); !slices.Equal(named, want) {
		d.t.Fatalf("the manifest has tables\n%q, the database\n%q", named, want)
	}
	d.load(clone, schema)
	for _, table := range d.Tables {
		from := tables[table.Name] + " " + quoted(schema, table.Name)
		if d.Format == contracts.JSONL {
			d.compareLines(source, table, from)
		}
		rows := fmt.Sprintf("COPY (SELECT * FROM (SELECT %s FROM %s) x ORDER BY x::text COLLATE \"C\") TO STDOUT", d.comparable(table), from)
		want, n := copyOut(d.t, source, rows)
		got, _ := copyOut(d.t, clone, rows)
		if n != table.Rows {
			d.t.Errorf("table %q has %d rows, the manifest says %d", table.Name, n, table.Rows)
		}
		if !bytes.Equal(want, got) {
			d.t.Errorf("table %q differs:\n%s", table.Name, difference(want, got))
		}
	}
}

func quoted(name ...string) string { return pgx.Identifier(name).Sanitize() }

// tablesOf are the tables that a snapshot must have, each with the word that makes a query read its own rows:
// all of a partitioned table's, but not those of tables that inherit.
func tablesOf(t *testing.T, conn *pgx.Conn, schema string) map[string]string {
	t.Helper()
	rows, err := conn.Query(t.Context(), `SELECT relname::text, CASE relkind WHEN 'r' THEN 'ONLY' ELSE '' END FROM pg_class
		WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1) AND relkind IN ('r', 'p') AND NOT relispartition`, schema)
	if err != nil {
		t.Fatal(err)
	}
	tables := make(map[string]string)
	var name, only string
	if _, err := pgx.ForEachRow(rows, []any{&name, &only}, func() error { tables[name] = only; return nil }); err != nil {
		t.Fatal(err)
	}
	if len(tables) == 0 {
		t.Fatalf("schema %q has no tables", schema)
	}
	return tables
}

func copyOut(t *testing.T, conn *pgx.Conn, sql string) ([]byte, int64) {
	t.Helper()
	var b bytes.Buffer
	var tag pgconn.CommandTag
	tag, err := conn.PgConn().CopyTo(t.Context(), &b, sql)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return b.Bytes(), tag.RowsAffected()
}

// difference is the first line that differs.
func difference(want, got []byte) string {
	a, b := bytes.Split(want, []byte("\n")), bytes.Split(got, []byte("\n"))
	for i := 0; i < len(a) || i < len(b); i++ {
		var x, y []byte
		if i < len(a) {
			x = a[i]
		}
		if i < len(b) {
			y = b[i]
		}
		if !bytes.Equal(x, y) {
			return fmt.Sprintf("line %d of %d and %d\nsource %.300q\nloaded %.300q", i+1, len(a), len(b), x, y)
		}
	}
	return "not at all"
}

// compareFiles compares the attachments with what the factory stored, and more.
func (d *unpacked) compareFiles(schema string, more map[string][]byte) {
	d.t.Helper()
	rows := make(map[string]contracts.Attachment)
	external := 0
	for _, a := range d.Attachments {
		rows[a.ID] = a
		if a.External {
			external++
		}
	}
	if external != factory.External || len(d.Gaps) > 0 {
		d.t.Errorf("%d external attachments, gaps: %v", external, d.Gaps)
	}
	want := make(map[string][]byte)
	maps.Copy(want, more)
	for _, f := range factory.Files(schema) {
		want[f.ID] = f.Body()
		if a := rows[f.ID]; a.Filename != f.Filename || a.EntityID != f.EntityID || a.ContentType != f.ContentType || `"`+a.ETag+`"` != f.ETag() {
			d.t.Errorf("the row of %s is %+v in the manifest", f.ID, a)
		}
	}
	if len(d.Attachments) != len(want)+external {
		d.t.Errorf("%d attachments, not %d and %d", len(d.Attachments), len(want), external)
	}
	for id, body := range want {
		a := rows[id]
		// A name that would be safe anywhere is kept as it is.
		if plain := a.Filename == "drawing.pdf" || a.Filename == "Prüfbericht Nr. 7.pdf" || a.Filename == "large.bin"; plain && a.File != id+"/"+a.Filename {
			d.t.Errorf("%s is at %q", id, a.File)
		}
		if names := d.filesOf(contracts.Attachments, id); !slices.Equal(names, []string{a.File}) || filepath.Dir(a.File) != id {
			d.t.Errorf("the files of %s are %q, and the row says %q", id, names, a.File)
			continue
		}
		if !bytes.Equal(read(d.t, filepath.Join(d.dir, a.File)), body) {
			d.t.Errorf("%q is not what was stored", a.File)
		}
	}
}

// wantSplit makes sure that there are several volumes of a kind, and that the table is in more than one.
func (d *unpacked) wantSplit(kind contracts.Kind, table string) {
	d.t.Helper()
	n := 0
	for _, v := range d.Volumes {
		if v.Kind != kind {
			continue
		}
		if n++; v.Name != contracts.VolumeName(kind, d.Job, n) {
			d.t.Errorf("volume %d of the %s is called %s", n, kind, v.Name)
		}
		if limit := int64(36 << 20); v.Size > limit {
			d.t.Errorf("%s has %d bytes", v.Name, v.Size)
		}
	}
	if n < 2 {
		d.t.Errorf("%d volumes of %s", n, kind)
	}
	if files := d.filesOf(kind, table); table != "" && (len(files) < 2 || files[1] != contracts.PartFile(table+"."+string(d.Format), 2)) {
		d.t.Errorf("the files of table %q are %q", table, files)
	}
}
