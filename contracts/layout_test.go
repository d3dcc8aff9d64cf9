package contracts_test

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"

	"github.com/snapfleet/snapfleet/contracts"
)

func TestTableFiles(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 63)
	hash := `~[0-9a-f]{8}\.csv\.gz$`
	for name, c := range map[string]struct {
		tables []string
		want   []string // exact, or a pattern when it starts with ^
	}{
		"none":                  {nil, nil},
		"plain":                 {[]string{"parts", "bom_lines", "T-1", "größe", "部品", "a b", "x.y"}, []string{"parts.csv.gz", "bom_lines.csv.gz", "T-1.csv.gz", "größe.csv.gz", "部品.csv.gz", "a b.csv.gz", "x.y.csv.gz"}},
		"63 bytes":              {[]string{long}, []string{long + ".csv.gz"}},
		"case":                  {[]string{"Parts", "parts", "PARTS"}, []string{"Parts.csv.gz", "^parts" + hash, "^PARTS" + hash}},
		"folding":               {[]string{"k", "\u212a", "ſ", "s"}, []string{"k.csv.gz", "^\u212a" + hash, "ſ.csv.gz", "^s" + hash}},
		"slash":                 {[]string{"a/b", "a%2Fb"}, []string{"a%2Fb.csv.gz", "a%252Fb.csv.gz"}},
		"dots":                  {[]string{".", "..", "../etc", ".hidden", "end."}, []string{"%2E.csv.gz", "%2E%2E.csv.gz", "%2E.%2Fetc.csv.gz", "%2Ehidden.csv.gz", "end%2E.csv.gz"}},
		"quotes":                {[]string{`a"b`, `a'b`, `a\b`, "a:b", "a*b"}, []string{"a%22b.csv.gz", "a'b.csv.gz", "a%5Cb.csv.gz", "a%3Ab.csv.gz", "a%2Ab.csv.gz"}},
		"control":               {[]string{"a\nb", "a\tb", "a\x7fb", "a\u0085b"}, []string{"a%0Ab.csv.gz", "a%09b.csv.gz", "a%7Fb.csv.gz", "a%C2%85b.csv.gz"}},
		"invisible":             {[]string{"a\u200bb", "a\u202egnp", "a\u2028b", "\ufeffa"}, []string{"a%E2%80%8Bb.csv.gz", "a%E2%80%AEgnp.csv.gz", "a%E2%80%A8b.csv.gz", "%EF%BB%BFa.csv.gz"}},
		"spaces at the ends":    {[]string{" a", "a ", "\u00a0"}, []string{"%20a.csv.gz", "a%20.csv.gz", "%C2%A0.csv.gz"}},
		"option":                {[]string{"-rf", "--help"}, []string{"%2Drf.csv.gz", "%2D-help.csv.gz"}},
		"devices":               {[]string{"con", "Aux", "com1", "com10", "console", "nul.x"}, []string{"%63on.csv.gz", "%41ux.csv.gz", "%63om1.csv.gz", "com10.csv.gz", "console.csv.gz", "%6Eul.x.csv.gz"}},
		"home":                  {[]string{"~", "a~b"}, []string{"%7E.csv.gz", "a%7Eb.csv.gz"}},
		"not UTF-8":             {[]string{"a\xff", "a\ufffd"}, []string{"a%FF.csv.gz", "a\ufffd.csv.gz"}},
		"part of another":       {[]string{"runs", "runs_part1", "runs_PART2", "Runs_part10"}, []string{"runs.csv.gz", "^runs_part1" + hash, "^runs_PART2" + hash, "^Runs_part10" + hash}},
		"part of no other":      {[]string{"runs_part1", "engine_part"}, []string{"runs_part1.csv.gz", "engine_part.csv.gz"}},
		"part of a later one":   {[]string{"a_part3", "a"}, []string{"^a_part3" + hash, "a.csv.gz"}},
		"part of a part":        {[]string{"a_part1", "a_part1_part1"}, []string{"a_part1.csv.gz", "^a_part1_part1" + hash}},
		"too long when written": {[]string{strings.Repeat("/", 63)}, []string{"^(%2F){22}" + hash}},
		"the same twice":        {[]string{"a", "a", "a"}, []string{"a.csv.gz", "^a" + hash, "^a" + hash}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := contracts.TableFiles(c.tables, contracts.CSV)
			if len(got) != len(c.want) {
				t.Fatalf("%d names for %d tables", len(got), len(c.tables))
			}
			for i, want := range c.want {
				if got[i] != want && (want[0] != '^' || !regexp.MustCompile(want).MatchString(got[i])) {
					t.Errorf("%q is %q, want %q", c.tables[i], got[i], want)
				}
			}
			checkTableFiles(t, c.tables)
		})
	}
}

// TestTableFilesOutliveTheirDigest gives two tables whose written names, cut, and whose digests are equal.
func TestTableFilesOutliveTheirDigest(t *testing.T) {
	t.Parallel()
	slashes := strings.Repeat("/", 40) // written in 120 bytes, of which 66 remain
	one, two := slashes+"13033", slashes+"122532"
	name := func(table string) string { return contracts.TableFiles([]string{table}, contracts.CSV)[0] }
	if name(one) != name(two) {
		t.Fatalf("%q and %q: no longer a collision; search another", name(one), name(two))
	}
	checkTableFiles(t, []string{one, two})
}

func FuzzTableFiles(f *testing.F) {
	for _, s := range []string{"a", "a,A", "t,t_part1,T_PART1", "..,.,~", "a/b,a%2Fb", "k,\u212a", "\xff,\ufffd", "-,--,a b "} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, tables string) {
		list := strings.Split(tables, ",")
		noName := func(s string) bool { return s == "" || len(s) > 200 } // PostgreSQL: 1 to 63 bytes
		if len(list) < 20 && !slices.ContainsFunc(list, noName) {
			checkTableFiles(t, list)
		}
	})
}

// checkTableFiles holds the names of tables, and of their parts, against everything that is promised. In whatever
// format, a table's file is called the same but for the suffix.
func checkTableFiles(t *testing.T, tables []string) {
	t.Helper()
	names := contracts.TableFiles(tables, contracts.CSV)
	if !slices.Equal(names, contracts.TableFiles(tables, contracts.CSV)) {
		t.Fatalf("%q: another name the second time", tables)
	}
	for i, name := range contracts.TableFiles(tables, contracts.JSONL) {
		if stem, ok := strings.CutSuffix(name, ".jsonl.gz"); !ok || stem+".csv.gz" != names[i] {
			t.Fatalf("%q: %q is %q in jsonl.gz", tables[i], names[i], name)
		}
		checkSegment(t, contracts.PartFile(name, 10_000), 100)
		if part := contracts.PartFile(name, 2); strings.TrimSuffix(part, ".jsonl.gz")+".csv.gz" != contracts.PartFile(names[i], 2) {
			t.Fatalf("%q: its second part is %q in jsonl.gz", tables[i], part)
		}
	}
	plain := regexp.MustCompile(`^[a-z][a-z0-9_]{3,60}[a-z_]$`) // and so no device
	seen := map[string]string{}
	for i, name := range names {
		if only := len(tables) == 1; only && plain.MatchString(tables[0]) && name != tables[0]+".csv.gz" {
			t.Fatalf("plain %q is %q", tables[0], name)
		}
		all := []string{name}
		for _, n := range []int{1, 2, 10, 10_000} {
			all = append(all, contracts.PartFile(name, n))
		}
		for _, n := range all {
			checkSegment(t, n, 100)
			if !strings.HasSuffix(n, ".csv.gz") {
				t.Fatalf("%q: %q has no suffix", tables[i], n)
			}
			folded := strings.ToLower(strings.ToUpper(n))
			if other, ok := seen[folded]; ok {
				t.Fatalf("%q: %q and %q are the same file where case does not count", tables, n, other)
			}
			seen[folded] = n
		}
	}
}

// checkSegment asserts that s is one segment of a path, anywhere.
func checkSegment(t *testing.T, s string, limit int) {
	t.Helper()
	bad := func(r rune) bool {
		return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || strings.ContainsRune(`/\:*?"<>|`, r)
	}
	switch {
	case s == "" || s == "." || s == "..":
		t.Fatalf("%q is no name", s)
	case len(s) > limit:
		t.Fatalf("%q has %d bytes", s, len(s))
	case !utf8.ValidString(s):
		t.Fatalf("%q is not UTF-8", s)
	case strings.ContainsFunc(s, bad):
		t.Fatalf("%q has a character that it must not have", s)
	case onWindows(s):
		t.Fatalf("%q is a device on Windows", s)
	case s != strings.TrimSpace(s) || strings.HasSuffix(s, ".") || s[0] == '-' || s[0] == '~':
		t.Fatalf("%q begins or ends badly", s)
	case regexp.MustCompile(`%($|[^0-9A-F]|[0-9A-F]$|[0-9A-F][^0-9A-F])`).MatchString(s):
		t.Fatalf("%q has a broken %%XX", s)
	}
}

// onWindows reports whether Windows takes s for a device: by what is before the first dot, without blanks at its end.
func onWindows(s string) bool {
	stem, _, _ := strings.Cut(s, ".")
	switch stem = strings.ToUpper(strings.TrimRight(stem, " ")); stem {
	case "CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$", "CLOCK$":
		return true
	}
	for _, port := range []string{"COM", "LPT"} {
		if n, ok := strings.CutPrefix(stem, port); ok && len([]rune(n)) == 1 && strings.Contains("0123456789¹²³", n) {
			return true
		}
	}
	return false
}

func TestPartFile(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		n    int
		want string
	}{
		{"runs.csv.gz", 1, "runs_part1.csv.gz"},
		{"runs.csv.gz", 12, "runs_part12.csv.gz"},
		{"a.csv.gz.csv.gz", 2, "a.csv.gz_part2.csv.gz"},
		{"runs.jsonl.gz", 2, "runs_part2.jsonl.gz"},
		{"a.csv.gz.jsonl.gz", 2, "a.csv.gz_part2.jsonl.gz"},
		{"a.jsonl.gz.csv.gz", 2, "a.jsonl.gz_part2.csv.gz"},
		{"runs", 3, "runs_part3"},
	} {
		if got := contracts.PartFile(c.name, c.n); got != c.want {
			t.Errorf("part %d of %q is %q, want %q", c.n, c.name, got, c.want)
		}
	}
}

func TestAttachmentFile(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("l", 300)
	for _, c := range []struct{ id, filename, want string }{
		{"1", "a.pdf", "1/a.pdf"},
		{"0d4c3f0e-52a1", "Zeichnung Größe 5.pdf", "0d4c3f0e-52a1/Zeichnung Größe 5.pdf"},
		{"1", "图纸.dwg", "1/图纸.dwg"},
		{"1", "../../etc/passwd", "1/%2E.%2F..%2Fetc%2Fpasswd"},
		{"1", "/etc/passwd", "1/%2Fetc%2Fpasswd"},
		{"1", `C:\Windows\x.dll`, "1/C%3A%5CWindows%5Cx.dll"},
		{"..", "x", "%2E%2E/x"},
		{"a/b", "x", "a%2Fb/x"},
		{"1", "", "1/unnamed"},
		{"1", "..", "1/%2E%2E"},
		{"1", "a\nb\x00c", "1/a%0Ab%00c"},
		{"1", "gnp.\u202eexe", "1/gnp.%E2%80%AEexe"},
		{"", "x", "no~id/x"},
		{"-", "-rf", "%2D/%2Drf"},
		{"nul", "CON.pdf", "%6Eul/%43ON.pdf"},
		{"con .1", "nul .x", "%63on .1/%6Eul .x"},
		{"conin$", "CONOUT$", "%63onin$/%43ONOUT$"},
		{"com1  ", "lpt9 . ", "%63om1 %20/%6Cpt9 .%20"},
		{"a ", "a.", "a%20/a%2E"},
		{"console", "null.txt", "console/null.txt"},
		{"ab3x", "drawing.pdf", "ab3x/drawing.pdf"},
		{"aB3x", "drawing.pdf", "aB3x~280a9b30/drawing.pdf"},
		{"AB3X", "drawing.pdf", "AB3X~6b048f65/drawing.pdf"},
		{"größe", "x", "größe~d353a267/x"},
	} {
		if got := contracts.AttachmentFile(c.id, c.filename); got != c.want {
			t.Errorf("%q, %q is %q, want %q", c.id, c.filename, got, c.want)
		}
		checkAttachmentFile(t, c.id, c.filename)
	}
	for _, filename := range []string{long + ".pdf", long + "." + long, long + ".p/f", strings.Repeat("ü", 100) + ".tar", strings.Repeat("/", 90) + ".x"} {
		checkAttachmentFile(t, "1", filename)
	}
	if got := contracts.AttachmentFile("1", long+".pdf"); path.Ext(got) != ".pdf" {
		t.Errorf("a long name loses its extension: %q", got)
	}
	if contracts.AttachmentFile("1", long+"a.pdf") == contracts.AttachmentFile("1", long+"b.pdf") {
		t.Error("two long names become one")
	}
}

// TestAttachmentsApart: what a file system takes for one name is two folders.
func TestAttachmentsApart(t *testing.T) {
	t.Parallel()
	for _, ids := range [][]string{
		{"aB3x", "ab3x", "AB3X", "Ab3x"},
		{"0015g00000AbCdE", "0015g00000aBcDe"},
		{"\u00e9", "e\u0301", "\u00c9", "E\u0301"},                 // composed or not
		{"\u212b", "\u00c5", "A\u030a", "\u00e5"},                  // the unit and the letter
		{"k", "K", "\u212a"},                                       // Kelvin
		{"\uff21\uff11", "A1", "a1", "\uff411"},                    // full width
		{"stra\u00dfe", "strasse", "STRASSE", "STRA\u1e9eE"},       // one letter or two
		{"\ufb01le", "file"},                                       // a ligature
		{"\uac00", "\u1100\u1161"},                                 // a syllable, and what it is made of
		{"i", "I", "\u0130", "\u0131"},                             // Turkish
		{"s", "\u017f"},                                            // long s
		{"\xff", "\ufffd", "%FF", "%ff"},                           // not UTF-8
		{strings.Repeat("a", 200), strings.Repeat("a", 199) + "b"}, // shortened
		{strings.Repeat("a", 200), strings.Repeat("a", 199) + "A"},
		{"", "no~id", "NO~ID", "no%7Eid"},
	} {
		seen := map[string]string{}
		for _, id := range ids {
			folder := sameName(path.Dir(checkAttachmentFile(t, id, "drawing.pdf")))
			if other, ok := seen[folder]; ok {
				t.Errorf("ids %+q and %+q share the folder %q", other, id, folder)
			}
			seen[folder] = id
		}
	}
}

// TestTablesApart: the same for tables, of which plain names stay as they are.
func TestTablesApart(t *testing.T) {
	t.Parallel()
	for _, tables := range [][]string{
		{"gr\u00f6\u00dfe", "gro\u0308\u00dfe", "gro\u0308sse", "GR\u00d6SSE"},
		{"\uac00", "\u1100\u1161"},
		{"\u212b", "\u00e5"},
		{"caf\u00e9", "cafe\u0301", "CAF\u00c9"},
	} {
		seen := map[string]string{}
		for i, name := range contracts.TableFiles(tables, contracts.CSV) {
			name = sameName(name)
			if other, ok := seen[name]; ok {
				t.Errorf("tables %+q and %+q share the file %q", other, tables[i], name)
			}
			seen[name] = tables[i]
		}
	}
	for _, plain := range []string{"gr\u00f6\u00dfe", "\u90e8\u54c1", "\u0437\u0430\u043a\u0430\u0437", "b\u00e5t"} {
		if got := contracts.TableFiles([]string{plain}, contracts.CSV)[0]; got != plain+".csv.gz" {
			t.Errorf("table %q is %q", plain, got)
		}
	}
}

// sameName is the same for names that some file system takes for one: without case, width and normalisation.
func sameName(s string) string { return norm.NFKC.String(cases.Fold().String(norm.NFKC.String(s))) }

func FuzzAttachmentFile(f *testing.F) {
	f.Add("1", "a.pdf", "2", "a.pdf")
	f.Add("", "..", "_", "/etc/passwd")
	f.Add("a/b", "\xff\u202e", "a%2Fb", strings.Repeat("ü", 120)+".pdf")
	f.Add("aB3x", "con .txt", "ab3x", "CONIN$")
	f.Add("e\u0301", "a ", "\u00e9", "a.")
	f.Add(strings.Repeat("x", 150)+"a", "", strings.Repeat("x", 150)+"A", "nul .x")
	f.Fuzz(func(t *testing.T, id, filename, id2, filename2 string) {
		one, two := checkAttachmentFile(t, id, filename), checkAttachmentFile(t, id2, filename2)
		if id != id2 && sameName(path.Dir(one)) == sameName(path.Dir(two)) {
			t.Fatalf("ids %q and %q share the folder %q", id, id2, path.Dir(one))
		}
	})
}

func checkAttachmentFile(t *testing.T, id, filename string) string {
	t.Helper()
	name := contracts.AttachmentFile(id, filename)
	folder, file, ok := strings.Cut(name, "/")
	if !ok || path.IsAbs(name) || path.Clean(name) != name {
		t.Fatalf("%q, %q is %q: not two segments", id, filename, name)
	}
	checkSegment(t, folder, 120)
	checkSegment(t, file, 180)
	return name
}

func TestVolumeName(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind contracts.Kind
		n    int
		want string
	}{
		{contracts.Tables, 0, "snapshot_tables_2026-03-31-143022.tar"},
		{contracts.Tables, 1, "snapshot_tables_part1_2026-03-31-143022.tar"},
		{contracts.Attachments, 0, "snapshot_attachments_2026-03-31-143022.tar"},
		{contracts.Attachments, 12, "snapshot_attachments_part12_2026-03-31-143022.tar"},
	} {
		if got := contracts.VolumeName(c.kind, instant.Format(contracts.JobLayout), c.n); got != c.want {
			t.Errorf("%s %d is %q, want %q", c.kind, c.n, got, c.want)
		}
	}
	if !contracts.ValidJob(instant.Format(contracts.JobLayout)) {
		t.Error("a schedule's job is not valid")
	}
	a := contracts.Attempt{Request: contracts.Request{Job: "j"}, Tenant: contracts.Tenant{Name: "acme"}}
	if a.Prefix() != "acme/j/" {
		t.Errorf("prefix is %q", a.Prefix())
	}
}

func BenchmarkTableFiles(b *testing.B) {
	tables := make([]string, 1000)
	for i := range tables {
		tables[i] = fmt.Sprintf("measurement_%d", i)
	}
	b.ReportAllocs()
	for b.Loop() {
		contracts.TableFiles(tables, contracts.CSV)
	}
}

func BenchmarkDecodeRequest(b *testing.B) {
	data := []byte(request("only", `"tables"`))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := contracts.DecodeRequest(data); err != nil {
			b.Fatal(err)
		}
	}
}
