package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"

	"github.com/snapfleet/snapfleet/contracts"
)

// hostile are names that a tenant, or a stranger, may give: each has something that a terminal obeys.
var hostile = []string{
	"\x1b]0;PWN\a\x1b[2Jx", "\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "a\rproven: 5 tables", "\x9b2J", "\u009b2J", "a\u202eb\u2066c\u2069", "\xff\xfe",
	"\x7f\x08\x00", "\x1b[8mhidden", "\x1b[31mred\x1b[0m", "\u200b\u00ad\ufeff",
}

// obeyedBy are the bytes of a text, but line feeds and the colours of this program, that a terminal might obey.
func obeyedBy(s string, colors bool) string {
	if colors {
		s = regexp.MustCompile(`\x1b\[[0-9;]*m`).ReplaceAllString(s, "")
	}
	if !utf8.ValidString(s) {
		return "invalid UTF-8"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r >= 0x7f && obeyed(r) {
			return r
		}
		return -1
	}, s)
}

// TestNothingPrintedIsObeyed: a table, facts, an error, a line of progress and whatever a verb prints by itself.
func TestNothingPrintedIsObeyed(t *testing.T) {
	t.Parallel()
	for _, colors := range []bool{false, true} {
		for _, name := range hostile {
			var b bytes.Buffer
			c := &console{out: screen{&b, colors}, err: screen{&b, colors}, colors: colors, width: 80}
			painted := func() { // by our own code, of the name as it is
				c.table(table.Row{"name", ""}, []table.Row{{name, c.mark(true)}, {contracts.Format(name), c.bold(name)}})
				c.facts([2]string{"name", name}, [2]string{"bold", c.bold(name) + " " + name})
			}
			painted()
			if colors && !strings.Contains(b.String(), text.FgGreen.Sprint("ok")) {
				t.Errorf("%q: what is ours has lost its colour: %q", name, b.String())
			}
			if colors && strings.Contains(name, "\x1b[31m") && strings.Contains(b.String(), "\x1b[31m") {
				t.Errorf("%q paints: %q", name, b.String())
			}
			fmt.Fprintf(c.out, "gap: %s\n", name)
			printError(c.err, c.width, errors.New(name))
			c.progress(c.err, false, name).show(name, contracts.Progress{Phase: contracts.Phase(name), Current: name, Bytes: 1})
			if err := c.json(name, false); err != nil {
				t.Error(err)
			}
			if bad := obeyedBy(b.String(), colors); bad != "" || b.Len() < 100 {
				t.Errorf("colors %t, %q: a terminal obeys %q of %q", colors, name, bad, b.String())
			}
		}
	}
}

// TestBarsShowNamesAsTheyAre: the view on a terminal moves the cursor by itself, and by nothing else.
func TestBarsShowNamesAsTheyAre(t *testing.T) {
	t.Parallel()
	for _, name := range hostile {
		b := &bytes.Buffer{}
		c := &console{width: 80}
		view := c.progress(screen{b, true}, true, name)
		view.show(name, contracts.Progress{Phase: contracts.Phase(name), Current: name, Tables: 1, TablesTotal: 2, Bytes: 1, BytesTotal: 2})
		bars := view.(*bars)
		bars.mu.Lock()
		shown := bars.title + bars.state + string(bars.now.Phase) + bars.now.Current
		bars.mu.Unlock()
		view.end(false)
		if bad := obeyedBy(shown, false); bad != "" {
			t.Errorf("a terminal obeys %q of %q", bad, shown)
		}
	}
}

// TestVerifyOfAStrangersManifest runs the program: nothing that the manifest holds is obeyed, in whatever field.
func TestVerifyOfAStrangersManifest(t *testing.T) {
	t.Parallel()
	for _, name := range hostile {
		dir := t.TempDir()
		m := contracts.Manifest{
			Version: 1, Tenant: "acme", Job: "j", Format: contracts.Format(name), Snapshot: contracts.Snapshot{At: time.Unix(1e9, 0)},
			Tables:   []contracts.Table{{Name: name, Columns: []contracts.Column{{Name: name}}}},
			Gaps:     []contracts.Gap{{ID: name, Filename: name, Reason: name}},
			Volumes:  []contracts.Volume{{Name: name, Kind: contracts.Kind(name), CRC64NVME: name}, {Name: "snapshot_tables_j.tar", Kind: contracts.Tables, CRC64NVME: name}},
			Files:    []contracts.File{{Name: name, Volume: name, Of: name, SHA256: strings.Repeat("0", 64)}},
			Excluded: []string{name}, Filter: contracts.Filtered{ExcludeTables: []string{name}, Tables: []string{name}},
			Producer: contracts.Producer{Name: name, Version: name},
		}
		data, err := m.Encode()
		if err == nil {
			err = errors.Join(os.WriteFile(filepath.Join(dir, contracts.ManifestName), data, 0o600), os.WriteFile(filepath.Join(dir, "snapshot_tables_j.tar"), make([]byte, 1024), 0o600))
		}
		if err != nil {
			t.Fatal(err)
		}
		r := snapfleet(t, nil, "verify", dir, "--files")
		r.want(t, exitUnproven, "wrong: ", "gap: attachment")
		if bad := obeyedBy(r.out+r.err, false); bad != "" {
			t.Errorf("%q: a terminal obeys %q of\n%q", name, bad, r.out+r.err)
		}
	}
}
