package uploader

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/minio/crc64nvme"

	"github.com/snapfleet/snapfleet/contracts"
)

// resum makes the checksum of a header right again.
func resum(b []byte) []byte {
	copy(b[148:156], "        ")
	sum := 0
	for _, c := range b[:block] {
		sum += int(c)
	}
	copy(b[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

// extended is an extended header of these records.
func extended(t *testing.T, records string) []byte {
	t.Helper()
	h, err := header("PaxHeaders.0/f", int64(len(records)), time.Time{}, tar.FormatPAX)
	if err != nil {
		t.Fatal(err)
	}
	h[typeflag] = tar.TypeXHeader
	b := append(resum(h), records...)
	return append(b, zeros[:padding(int64(len(records)))]...)
}

// record is one record of an extended header.
func record(key, value string) string {
	for n := len(key) + len(value) + 3; ; n++ {
		if s := fmt.Sprintf("%d %s=%s\n", n, key, value); len(s) == n {
			return s
		}
	}
}

// TestVerifyRefusesWhatOthersUnpackDifferently changes the first member of a volume, 0000/f, and makes the manifest agree:
// its name, its size, its digest and those of the volume are right, and yet it is not a file as a delivery has it.
func TestVerifyRefusesWhatOthersUnpackDifferently(t *testing.T) {
	t.Parallel()
	set := func(at int, value string) func(*testing.T, []byte) []byte {
		return func(_ *testing.T, b []byte) []byte {
			copy(b[at:], value)
			return resum(b)
		}
	}
	before := func(records ...string) func(*testing.T, []byte) []byte {
		return func(t *testing.T, b []byte) []byte { return append(extended(t, strings.Join(records, "")), b...) }
	}
	kind := func(flag byte) func(*testing.T, []byte) []byte { return set(typeflag, string(flag)) }
	const first = "0000/f: "
	for name, c := range map[string]struct {
		change func(*testing.T, []byte) []byte
		want   string
	}{
		"nothing":              {func(_ *testing.T, b []byte) []byte { return b }, ""},
		"set-user-id":          {set(100, "0004755\x00"), first + "its mode is 4755"},
		"executable":           {set(100, "0000755\x00"), first + "its mode is 0755"},
		"user":                 {set(108, "0000001\x00"), first + "it has an owner"},
		"group":                {set(116, "0000001\x00"), first + "it has an owner"},
		"name of a user":       {set(265, "root"), first + "it has an owner"},
		"name of a group":      {set(297, "root"), first + "it has an owner"},
		"target of a link":     {set(157, "/etc/passwd"), first + "it links to another file"},
		"number of a device":   {set(329, "0000001\x00"), first + "its header is not as"},
		"behind the name":      {set(7, "evil"), first + "its header is not as"},
		"behind the prefix":    {set(500, "evil"), first + "its header is not as"},
		"size in another form": {set(124, "     0\x00\x00\x00\x00\x00\x00"), first + "its header is not as"},
		"old plain file":       {kind(0), "it is no plain file"},
		"hard link":            {kind(tar.TypeLink), first + "it is no plain file: it is a hard link"},
		"symbolic link":        {kind(tar.TypeSymlink), first + "it is no plain file: it is a symbolic link"},
		"character device":     {kind(tar.TypeChar), first + "it is no plain file: it is a device"},
		"block device":         {kind(tar.TypeBlock), first + "it is no plain file: it is a device"},
		"folder":               {kind(tar.TypeDir), first + "it is no plain file: it is a folder"},
		"pipe":                 {kind(tar.TypeFifo), first + "it is no plain file: it is a pipe"},
		"contiguous":           {kind(tar.TypeCont), first + "it is no plain file: it is of the unknown type '7'"},
		"sparse of GNU":        {kind(tar.TypeGNUSparse), first + "it is no plain file: it is a sparse file"},
		"long name of GNU":     {kind(tar.TypeGNULongName), first + "it is no plain file: it is a long name of GNU tar"},
		"long link of GNU":     {kind(tar.TypeGNULongLink), first + "it is no plain file: it is a long name of GNU tar"},
		"continued":            {kind('M'), first + "it is no plain file"},
		"for all members":      {kind(tar.TypeXGlobalHeader), first + "it is no plain file: it is a header for all members"},
		"of Solaris":           {kind('X'), first + "it is no plain file"},
		"two extended headers": {func(t *testing.T, b []byte) []byte {
			x := extended(t, record("mtime", "5"))
			return slices.Concat(x, x, b)
		}, "it is no plain file: it is a second extended header"},
		"sparse 1.0":              {before(record("GNU.sparse.major", "1"), record("GNU.sparse.minor", "0"), record("GNU.sparse.realsize", "1125899906842624"), record("GNU.sparse.name", "0000/f")), "it is a sparse file"},
		"sparse 0.1":              {before(record("GNU.sparse.map", "0,1"), record("GNU.sparse.size", "1125899906842624")), "it is a sparse file"},
		"another path underneath": {before(record("path", "0000/f")), first + "its header is not as"},
		"a size that is there":    {before(record("size", "5000")), "its header is not as"},
		"part of a second":        {before(record("mtime", "1000000000.5")), first + "its header is not as"},
		"attribute":               {before(record("SCHILY.xattr.security.capability", "x")), first + `it has the extended attribute "SCHILY.xattr.security.capability"`},
		"access list":             {before(record("SCHILY.acl.access", "user::rwx")), first + `it has the extended attribute "SCHILY.acl.access"`},
		"link by record":          {before(record("linkpath", "/etc/passwd")), first + "it links to another file"},
		"owner by record":         {before(record("uname", "root")), first + "it has an owner"},
		"group by record":         {before(record("gid", "7")), first + "it has an owner"},
		"character set":           {before(record("hdrcharset", "BINARY")), first + "it has the extended attribute"},
		"comment":                 {before(record("comment", "x")), first + "it has the extended attribute"},
		"endless extended header": {before(record("comment", strings.Repeat("x", maxExtended))), "its extended header has no size that snapfleet writes"},
		"in the padding": {func(_ *testing.T, b []byte) []byte {
			b[block+100] = 'x'
			return b
		}, "something is hidden between two files"},
		"one block of zeros": {func(_ *testing.T, b []byte) []byte { return append(bytes.Clone(zeros[:block]), b...) }, "follows the first of the two blocks"},
		"an end in front":    {func(_ *testing.T, b []byte) []byte { return append(bytes.Clone(zeros[:]), b...) }, "does not end as a .tar does"},
		"zeros behind":       {func(_ *testing.T, b []byte) []byte { return append(b, zeros[:]...) }, "does not end as a .tar does"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, m := delivered(t)
			forge(t, dir, m, len(m.Volumes)-1, func(b []byte) []byte { return c.change(t, b) })
			r, err := Verify(t.Context(), FolderSource(dir), VerifyOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if r.OK() != (c.want == "") || r.Intact() != r.OK() {
				t.Fatalf("OK is %t, intact is %t: %v", r.OK(), r.Intact(), r.Problems)
			}
			if !slices.ContainsFunc(r.Problems, func(p Problem) bool { return strings.Contains(p.String(), c.want) }) && c.want != "" {
				t.Errorf("no %q in %v", c.want, r.Problems)
			}
		})
	}
}

// TestVerifyRefusesOtherNames: a file is called as the layout calls it, though archive and manifest agree on another name.
func TestVerifyRefusesOtherNames(t *testing.T) {
	t.Parallel()
	for name, ok := range map[string]bool{
		"table 0.csv.gz": true, "table 0_part12.csv.gz": true,
		"table 7.csv.gz": false, "table 0_part0.csv.gz": false, "table 0_part007.csv.gz": false, "table%200.csv.gz": false, "\x1b[2J": false,
	} {
		bad := misnamed(contracts.Manifest{
			Format: contracts.CSV, Tables: []contracts.Table{{Name: "table 0"}}, Volumes: []contracts.Volume{{Name: "t", Kind: contracts.Tables}},
			Files: []contracts.File{{Volume: "t", Of: "table 0", Name: name}},
		})
		if ok != (len(bad) == 0) {
			t.Errorf("table %q: %v", name, bad)
		}
	}
	for name, ok := range map[string]bool{"0000/f": true, "0000/g": false, "0000/a/f": false, "0000/\x1b[2J": false, "-rf": false, "../f": false} {
		m := contracts.Manifest{
			Version: 1, Tenant: "acme", Job: "j", Format: contracts.CSV,
			Attachments: []contracts.Attachment{{ID: "0000", Filename: "f", File: name}},
		}
		data, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		_, bad, err := readManifest(t.Context(), bytes.NewReader(data))
		if err != nil || ok != (len(bad) == 0) {
			t.Errorf("attachment %q: %v, %v", name, bad, err)
		}
	}
}

// TestVerifyOpensPlainFilesOnly: what else is in the folder is neither waited for nor read.
func TestVerifyOpensPlainFilesOnly(t *testing.T) {
	t.Parallel()
	for name, place := range map[string]func(path string) error{
		"pipe":   func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"link":   func(path string) error { return os.Symlink("/dev/zero", path) },
		"folder": func(path string) error { return os.Mkdir(path, 0o700) },
		"socket": func(path string) error {
			fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
			if err != nil {
				return err
			}
			defer syscall.Close(fd)
			return syscall.Bind(fd, &syscall.SockaddrUnix{Name: path})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, what := range []func(m contracts.Manifest) string{
				func(m contracts.Manifest) string { return m.Volumes[0].Name },
				func(contracts.Manifest) string { return contracts.ManifestName },
			} {
				dir, m := delivered(t)
				short, err := os.MkdirTemp("", "v") // a socket's path is short
				if err != nil {
					t.Fatal(err)
				}
				defer os.RemoveAll(short)
				if err := os.Rename(dir, filepath.Join(short, "d")); err != nil {
					t.Fatal(err)
				}
				dir = filepath.Join(short, "d")
				path := filepath.Join(dir, what(m))
				if err := errors.Join(os.Remove(path), place(path)); err != nil {
					t.Fatal(err)
				}
				r, err := Verify(t.Context(), FolderSource(dir), VerifyOptions{})
				if err != nil || !slices.ContainsFunc(r.Problems, func(p Problem) bool { return p.What == errNotPlain.Error() }) {
					t.Errorf("%s: %v, %v", what(m), r.Problems, err)
				}
			}
		})
	}
}

// TestReadManifestIsBounded: entries that say nothing, of which a few bytes make hundreds in memory, end the reading or
// are not kept.
func TestReadManifestIsBounded(t *testing.T) {
	t.Parallel()
	head := `{"version":1,"tenant":"acme","job":"j","format":"csv.gz",`
	many := func(field, entry string, n int) string {
		return head + `"` + field + `":[` + strings.Repeat(entry+",", n-1) + entry + `]}`
	}
	for name, c := range map[string]struct{ in, want string }{
		"attachments":      {many("attachments", "{}", 100_000), ""},
		"tables":           {many("tables", "{}", 2), "a table without a name"},
		"one table twice":  {many("tables", `{"name":"a"}`, 2), "named twice"},
		"columns":          {head + `"tables":[{"name":"a","columns":[` + strings.Repeat("{},", 2000) + `{}]}]}`, "2001 columns"},
		"rows below 0":     {many("tables", `{"name":"a","rows":-5}`, 1), "-5 rows"},
		"many volumes":     {many("volumes", `{"name":"a","crc64nvme":"x"}`, maxObjects+1), "more than 100000 volumes"},
		"gaps":             {many("gaps", "{}", 2), "a gap without a reason"},
		"volumes":          {many("volumes", "{}", 2), "a volume without a name"},
		"size below 0":     {many("volumes", `{"name":"a","crc64nvme":"x","size":-1}`, 1), "a volume without"},
		"files":            {many("files", "{}", 2), "lacks a name"},
		"one giant entry":  {head + `"attachments":[{"id":"` + strings.Repeat("a", 2*maxEntry) + `"}]}`, "one of its entries has more than"},
		"one giant field":  {head + `"snapshot":"` + strings.Repeat("a", 2*maxEntry) + `"}`, "one of its entries has more than"},
		"later field":      {head + `"later":[` + strings.Repeat(`{"a":[1,"b",null]},`, 500_000) + `{}]}`, ""},
		"deep later field": {head + `"later":` + strings.Repeat("[", 5000), "nested deeper"},
		"a field twice":    {head + `"files":[],"files":[]}`, `"files" is given twice`},
		"a head twice":     {head + `"job":"j"}`, `"job" is given twice`},
		"no list":          {head + `"files":{}}`, "files is no list"},
		"two values":       {head + `"files":[]}{}`, "more than one JSON value"},
		"cut":              {head, "JSON"},
		"nothing":          {"", "JSON"},
		"another version":  {`{"version":2}`, "version 2"},
		"no name":          {`{"version":1,"tenant":"../x","job":"j"}`, "not a valid name"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, _, err := readManifest(t.Context(), strings.NewReader(c.in))
			if c.want == "" {
				if err != nil || len(m.Attachments) != 0 || m.Job != "j" {
					t.Fatalf("%d attachments, %v", len(m.Attachments), err)
				}
			} else if _, bad := errors.AsType[badManifest](err); !bad || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

// TestReadManifestKeepsWhatIsCompared: of a manifest as it is written, all is read that Verify compares.
func TestReadManifestKeepsWhatIsCompared(t *testing.T) {
	t.Parallel()
	dir, want := delivered(t)
	data, err := os.ReadFile(filepath.Join(dir, contracts.ManifestName))
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := readManifest(t.Context(), bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	for i := range want.Attachments {
		want.Attachments[i].Filename = ""
	}
	for i := range want.Tables {
		for c := range want.Tables[i].Columns {
			want.Tables[i].Columns[c].Type = ""
		}
	}
	a, errA := json.Marshal(want)
	b, errB := json.Marshal(got)
	if errA != nil || errB != nil || !bytes.Equal(bytes.ReplaceAll(a, []byte(`"gaps":[]`), []byte(`"gaps":null`)), b) {
		t.Errorf("%s\n%s", a, b)
	}
}

// TestVerifyNamesAHundredProblems, and counts the others; a long name is cut, and nothing in it is obeyed by a terminal.
func TestVerifyNamesAHundredProblems(t *testing.T) {
	t.Parallel()
	dir, _ := delivered(t)
	for i := range 150 {
		name := fmt.Sprintf("%03d\x1b]0;x\a%s", i, strings.Repeat("y", 220))
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r, err := Verify(t.Context(), FolderSource(dir), VerifyOptions{})
	if err != nil || len(r.Problems) != maxProblems || r.More != 50 || r.OK() || r.Intact() {
		t.Fatalf("%d problems and %d more, %v", len(r.Problems), r.More, err)
	}
	if s := r.Problems[0].String(); strings.ContainsAny(s, "\x1b\a") || len(s) > 300 {
		t.Errorf("%q", s)
	}
}

// rowCounter counts the text that reaches a counter.
type rowCounter struct {
	counter
	text int
}

func (r *rowCounter) Write(p []byte) (int, error) {
	r.text += len(p)
	return r.counter.Write(p)
}

// TestVerifyStopsDecompressing: a small file may hold any amount of text.
func TestVerifyStopsDecompressing(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	table := contracts.Table{Name: "t", Columns: []contracts.Column{{Name: "a"}}}
	for name, c := range map[string]struct {
		counter counter
		text    string
		most    int
		want    string
	}{
		"rows in CSV":           {&csvTable{table: table}, "a\n" + strings.Repeat("\n", 32*mib), mib, "it has more rows than 3"},
		"rows in JSON":          {newJSONLTable(table), strings.Repeat(`{"a":1}`+"\n", 4*mib), mib, "it has more rows than 3"},
		"no JSON":               {newJSONLTable(table), strings.Repeat(`x`, 32*mib), mib, "row 1 is not an object"},
		"no UTF-8":              {newJSONLTable(table), "{\"a\":\"" + strings.Repeat("\xff", 32*mib), mib, "is not UTF-8"},
		"a header without end":  {&csvTable{table: table}, strings.Repeat("a", 32*mib), 2 * mib, "its header row does not end"},
		"a header in one quote": {&csvTable{table: table}, `"` + strings.Repeat("\n", 32*mib), 2 * mib, "its header row does not end"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var zipped bytes.Buffer
			z := gzip.NewWriter(&zipped)
			io.WriteString(z, c.text)
			z.Close()
			counted := &rowCounter{counter: c.counter}
			_, err := countRows(t.Context(), counted, &zipped, 3)
			if err == nil || !strings.Contains(err.Error(), c.want) || counted.text > c.most {
				t.Errorf("%v after %d bytes of text, want %q", err, counted.text, c.want)
			}
		})
	}
	t.Run("cancelled", func(t *testing.T) {
		t.Parallel()
		var zipped bytes.Buffer
		z := gzip.NewWriter(&zipped)
		io.WriteString(z, "a\n\""+strings.Repeat("\n", 32*mib))
		z.Close()
		ctx, cancel := context.WithCancel(t.Context())
		counted := &rowCounter{counter: &csvTable{table: table}}
		body := io.MultiReader(io.LimitReader(&zipped, 4<<10), readerFunc(func(p []byte) (int, error) {
			cancel() // as a signal does, in the midst of a file
			return zipped.Read(p)
		}))
		if _, err := countRows(ctx, counted, body, 3); !errors.Is(err, context.Canceled) || counted.text > 16*mib {
			t.Errorf("%v after %d bytes of text", err, counted.text)
		}
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestVerifyLeavesTheCustomerOutOfIt: where size, CRC and SHA-256 hold, what is wrong is what the source held.
func TestVerifyLeavesTheCustomerOutOfIt(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		format contracts.Format
		text   string
		want   string
	}{
		"not UTF-8":               {contracts.JSONL, "{\"id\":1,\"a \\\"b\\\",\\n\":\"caf\xc3\"}\n", "is not UTF-8"},
		"not JSON":                {contracts.JSONL, "{\"id\":nope}\n", "is not JSON"},
		"a header without an end": {contracts.CSV, strings.Repeat("x", 2<<20), "its header row does not end"},
		"other columns":           {contracts.CSV, "a,b\n", "header row does not have the columns"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			member := contracts.Member{Name: "table 0." + string(c.format), Of: "table 0", Size: -1, Write: func(_ context.Context, w io.Writer, _ int64) (contracts.Piece, error) {
				z := gzip.NewWriter(w)
				_, err := io.WriteString(z, c.text)
				return contracts.Piece{Rows: int64(strings.Count(c.text, "\n"))}, errors.Join(err, z.Close())
			}}
			list, _ := tablesIn(c.format, int64(strings.Count(c.text, "\n")))
			u, dir := inFolder(t, small, nil)
			a := attempt(0)
			a.Request.Format, a.Request.Only = c.format, contracts.Tables
			r := deliver(t, u, a, contracts.Manifest{Tables: list}, contracts.Archive{Kind: contracts.Tables, Members: func(yield func(contracts.Member, error) bool) { yield(member, nil) }})
			if err := u.Commit(t.Context(), a, r); err != nil {
				t.Fatal(err)
			}
			report, err := Verify(t.Context(), FolderSource(dir), VerifyOptions{})
			if err != nil || report.OK() || !report.Intact() || !strings.Contains(fmt.Sprint(report.Problems), c.want) {
				t.Fatalf("intact is %t: %v, %v", report.Intact(), report.Problems, err)
			}
			edit(t, dir, report.Manifest.Volumes[0].Name, func(b []byte) []byte { b[block] ^= 1; return b })
			if report, err = Verify(t.Context(), FolderSource(dir), VerifyOptions{}); err != nil || report.Intact() {
				t.Fatalf("damaged, and intact: %v, %v", report.Problems, err)
			}
		})
	}
}

// TestVerifyBesideUnpackedFiles: `tar -xf` in the folder, as a person loads a delivery, takes nothing from it.
func TestVerifyBesideUnpackedFiles(t *testing.T) {
	t.Parallel()
	dir, m := delivered(t)
	for _, f := range m.Files {
		path := filepath.Join(dir, filepath.FromSlash(f.Name))
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "table 2.csv"), nil, 0o600); err != nil { // gunzip
		t.Fatal(err)
	}
	if r := check(t, dir); r.Unpacked != len(m.Files)+1 {
		t.Errorf("%d of %d files", r.Unpacked, len(m.Files)+1)
	}
	if err := os.WriteFile(filepath.Join(dir, "table 3.csv"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if r, err := Verify(t.Context(), FolderSource(dir), VerifyOptions{}); err != nil || len(r.Problems) != 1 || r.Problems[0].Volume != "table 3.csv" {
		t.Errorf("%v, %v", r.Problems, err)
	}
}

// TestHeadersStayTheSame: a verify of an older release compares headers with those that it would write itself.
func TestHeadersStayTheSame(t *testing.T) {
	t.Parallel()
	at := time.Unix(1_000_000_000, 0)
	for _, c := range []struct {
		name   string
		size   int64
		format tar.Format
		want   string
	}{
		{"a.csv.gz", 5, tar.FormatGNU, "e4sTAU1zANo="},
		{"a.csv.gz", 9 << 30, tar.FormatGNU, "pljSwDFEUWU="},
		{"0000/f", 5, tar.FormatPAX, "clyHX7Ss8hQ="},
		{"0000/" + strings.Repeat("é", 90), 9 << 30, tar.FormatPAX, "COUXckVucs8="},
		{"0000/" + strings.Repeat("a", 150), 5, tar.FormatPAX, "Mvb26qHfvko="},
	} {
		h, err := header(c.name, c.size, at, c.format)
		if err != nil {
			t.Fatal(err)
		}
		if got := crcText(crc64nvme.Checksum(h)); got != c.want {
			t.Errorf("%.20s of %d bytes: the checksum of the header is %s, not %s", c.name, c.size, got, c.want)
		}
	}
}
