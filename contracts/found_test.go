package contracts_test

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/snapfleet/snapfleet/contracts"
)

func TestManifestMACIsOfOneManifest(t *testing.T) {
	key, other := contracts.FleetKey{1}, contracts.FleetKey{2}
	sum := strings.Repeat("ab", 32)
	mac := key.ManifestMAC("acme", "j1", "1-a", sum, 100)
	if len(mac) != 64 || !key.ProvesManifest(mac, "acme", "j1", "1-a", sum, 100) {
		t.Fatalf("%q does not prove what it is of", mac)
	}
	for name, proves := range map[string]bool{
		"another key":     other.ProvesManifest(mac, "acme", "j1", "1-a", sum, 100),
		"another tenant":  key.ProvesManifest(mac, "beta", "j1", "1-a", sum, 100),
		"another job":     key.ProvesManifest(mac, "acme", "j2", "1-a", sum, 100),
		"another attempt": key.ProvesManifest(mac, "acme", "j1", "2-a", sum, 100),
		"another digest":  key.ProvesManifest(mac, "acme", "j1", "1-a", strings.Repeat("ac", 32), 100),
		"another size":    key.ProvesManifest(mac, "acme", "j1", "1-a", sum, 101),
		"fields moved":    key.ProvesManifest(mac, "acmej1", "", "1-a", sum, 100),
		"no MAC":          key.ProvesManifest("", "acme", "j1", "1-a", sum, 100),
		"no key":          contracts.FleetKey{}.ProvesManifest("", "acme", "j1", "1-a", sum, 100),
	} {
		if proves {
			t.Errorf("%s is proven", name)
		}
	}
}

func TestFleetKeyIsNeverPrinted(t *testing.T) {
	key := contracts.FleetKey{0xde, 0xad, 0xbe, 0xef}
	a := contracts.Attempt{ID: "1-a", FleetKey: key}
	data, err := json.Marshal(struct {
		Attempt contracts.Attempt
		Key     contracts.FleetKey
	}{a, key})
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{string(data), fmt.Sprint(a), fmt.Sprintf("%v %+v %#v %s", a, a, a, key)} {
		if l := strings.ToLower(text); strings.Contains(l, "deadbeef") || strings.Contains(l, "222 173") || strings.Contains(l, "0xde, 0xad") {
			t.Errorf("the key is in %q", text)
		}
	}
}

func summaryOf(text string) (contracts.Manifest, error) {
	return contracts.ReadManifestSummary(strings.NewReader(text))
}

func TestReadManifestSummary(t *testing.T) {
	m := contracts.Manifest{
		Version: 1, Tenant: "acme", Job: "j1", Attempt: "1-a", Format: contracts.CSV, Only: contracts.Tables,
		Tables: []contracts.Table{{Name: "t", Columns: []contracts.Column{{Name: "c", Type: "int"}}}}, Excluded: []string{"x"},
		Volumes: []contracts.Volume{{Name: "a.tar", Size: 3, CRC64NVME: "AAAAAAAAAAA=", Files: 1}, {Name: "b.tar", Size: 4}},
		Totals:  contracts.Totals{Tables: 1, Rows: 5, Volumes: 2, Bytes: 7},
	}
	for i := range 100_000 { // more than one buffer of the reader
		m.Files = append(m.Files, contracts.File{Name: fmt.Sprint("f", i), Volume: "a.tar"})
	}
	data, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := summaryOf(string(data))
	if err != nil {
		t.Fatal(err)
	}
	want := m
	want.Tables, want.Excluded, want.Files = nil, nil, nil
	if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
		t.Errorf("read %+v, written %+v", got, want)
	}
}

func TestReadManifestSummaryRefuses(t *testing.T) {
	const forged = `{"version":1,"tenant":"acme","job":"f1","totals":{"tables":-5,"rows":-9000000000000000000,"bytes":-9223372036854775807,"attachments":-3,"volumes":7}}`
	long := strings.Repeat("x", 200_000)
	for name, text := range map[string]string{
		"negative totals":            forged,
		"nothing":                    "",
		"another type":               `[]`,
		"another version":            `{"version":2,"tenant":"acme","job":"j"}`,
		"no tenant":                  `{"version":1,"job":"j"}`,
		"a field twice":              `{"version":1,"version":1,"tenant":"acme","job":"j"}`,
		"too many fields":            `{"version":1,"tenant":"acme","job":"j"` + manyFields(40) + `}`,
		"something after it":         `{"version":1,"tenant":"acme","job":"j"} {}`,
		"a long string":              `{"version":1,"tenant":"acme","job":"j","x":"` + long + `"}`,
		"a long name":                `{"` + long + `":1}`,
		"a long volume":              `{"version":1,"tenant":"acme","job":"j","volumes":[{"name":"` + long + `"}]}`,
		"spaces":                     `{"version":1,"tenant":"acme","job":"j",` + strings.Repeat(" ", 200_000) + `"x":1}`,
		"deeper than any of ours":    `{"version":1,"tenant":"acme","job":"j","x":` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + `}`,
		"a negative volume":          `{"version":1,"tenant":"acme","job":"j","volumes":[{"name":"v","size":-1}],"totals":{"volumes":1,"bytes":-1}}`,
		"sizes beyond 64 bits":       `{"version":1,"tenant":"acme","job":"j","volumes":[{"size":9223372036854775807},{"size":9223372036854775807}],"totals":{"volumes":2,"bytes":-2}}`,
		"another number of volumes":  `{"version":1,"tenant":"acme","job":"j","volumes":[],"totals":{"volumes":7}}`,
		"another number of bytes":    `{"version":1,"tenant":"acme","job":"j","volumes":[{"size":1}],"totals":{"volumes":1,"bytes":2}}`,
		"negative rows":              `{"version":1,"tenant":"acme","job":"j","totals":{"rows":-1}}`,
		"cut in the middle of a key": `{"version":1,"ten`,
	} {
		if _, err := summaryOf(text); err == nil {
			t.Errorf("%s: read", name)
		}
	}
}

func manyFields(n int) (text string) {
	for i := range n {
		text += fmt.Sprintf(`,"f%d":1`, i)
	}
	return text
}

// A manifest of any content costs a stated amount of memory: for each byte of `{},` encoding/json takes 64.
func TestReadManifestSummaryHoldsLittle(t *testing.T) {
	const size = 4 << 20
	for name, fill := range map[string]string{"objects": "{},", "arrays": "[[]],", "strings": `"a",`, "numbers": "1,"} {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		peak := uint64(0)
		r := io.MultiReader(strings.NewReader(`{"version":1,"tenant":"acme","job":"j","attachments":[`),
			&filling{text: fill, left: size, look: func() {
				runtime.ReadMemStats(&after)
				peak = max(peak, after.HeapInuse)
			}}, strings.NewReader(`1]}`))
		if _, err := contracts.ReadManifestSummary(r); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		// The collector runs when the heap has doubled, and never below 4 MiB.
		if grown := int64(peak) - int64(before.HeapInuse); grown > 16<<20 {
			t.Errorf("%s: %d bytes more in use at the most", name, grown)
		}
	}
}

// filling is one text again and again.
type filling struct {
	text string
	left int
	n    int
	look func()
}

func (f *filling) Read(p []byte) (n int, err error) {
	if f.left <= 0 {
		return 0, io.EOF
	}
	if f.n++; f.n%64 == 0 {
		f.look()
	}
	for n+len(f.text) <= len(p) && f.left > 0 {
		n += copy(p[n:], f.text)
		f.left -= len(f.text)
	}
	if n == 0 { // a buffer shorter than the text
		n = copy(p, f.text)
		f.text = f.text[n:] + f.text[:n]
		f.left -= n
	}
	return n, nil
}
