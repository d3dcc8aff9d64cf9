package exporter

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
)

func FuzzCombineCRC(f *testing.F) {
	f.Add([]byte(""), []byte(""))
	f.Add([]byte("a"), []byte(""))
	f.Add([]byte(""), []byte("b"))
	f.Add([]byte("hello, "), bytes.Repeat([]byte{0}, 70000))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		want := crc32.ChecksumIEEE(append(bytes.Clone(a), b...))
		if got := combineCRC(crc32.ChecksumIEEE(a), crc32.ChecksumIEEE(b), int64(len(b))); got != want {
			t.Fatalf("%08x, not %08x", got, want)
		}
	})
}

// TestCombineCRCOfGiants compares lengths beyond 4 GiB, which nobody wants to hash, with the same bytes
// combined by doubling.
func TestCombineCRCOfGiants(t *testing.T) {
	t.Parallel()
	crc, n := crc32.ChecksumIEEE([]byte("x")), int64(1)
	for n < 1<<40 {
		// (x^n)(x^n) in two ways: at once, and as (x^n x^(n/2)) x^(n/2).
		twice := combineCRC(crc, crc, n)
		if n > 1 {
			half := halves[n/2]
			if other := combineCRC(combineCRC(crc, half, n/2), half, n/2); other != twice {
				t.Fatalf("%d bytes twice: %08x and %08x", n, twice, other)
			}
		}
		halves[n], crc, n = crc, twice, n*2
	}
}

var halves = map[int64]uint32{}

// join makes one gzip member of text, cut into pieces that are compressed apart.
func join(t testing.TB, text []byte, level int, cuts ...int) []byte {
	var b bytes.Buffer
	j, err := newJoiner(&b)
	must(t, err)
	d, err := newDeflater(level)
	must(t, err)
	for _, n := range append(cuts, len(text)) {
		n = min(n, len(text))
		d.reset(j)
		_, err := d.Write(text[:n])
		must(t, err)
		s, err := d.end()
		must(t, err)
		j.add(s)
		text = text[n:]
	}
	must(t, j.finish())
	if j.written != int64(b.Len()) {
		t.Errorf("%d bytes written, %d counted", b.Len(), j.written)
	}
	return b.Bytes()
}

func FuzzJoiner(f *testing.F) {
	f.Add([]byte(""), uint8(0), uint8(2), uint16(0), uint16(0))
	f.Add([]byte("abcabcabcabc"), uint8(0), uint8(1), uint16(3), uint16(3))
	f.Add([]byte("0123456789,\n"), uint8(255), uint8(2), uint16(65535), uint16(1))
	f.Add([]byte(hex.EncodeToString(random(2000))), uint8(200), uint8(2), uint16(10), uint16(10))
	f.Fuzz(func(t *testing.T, text []byte, more, level uint8, a, b uint16) {
		text = bytes.Repeat(text, 1+int(more)) // long ones, of inputs that are changed in no time
		if got := gunzip(t, join(t, text, 1+int(level)%9, int(a), int(b))); !bytes.Equal(got, text) {
			t.Fatalf("%d bytes came back as %d", len(text), len(got))
		}
	})
}

// TestDigitsAreHalved: binary data, which COPY doubles, is not delivered doubled, and text after it not worse.
func TestDigitsAreHalved(t *testing.T) {
	t.Parallel()
	digits, text := []byte(hex.EncodeToString(random(4<<20))), rowsOfText(16<<20)
	if n := len(join(t, digits, 2)); n > len(digits)*62/100 {
		t.Errorf("%d digits became %d bytes", len(digits), n)
	}
	alone, after := len(join(t, text, 2)), len(join(t, append(digits, text...), 2))-len(join(t, digits, 2))
	if after > alone+plainSegments*segmentBytes {
		t.Errorf("text becomes %d bytes alone, and %d after digits", alone, after)
	}
}

// TestJoinerIsDeterministic: what a deflater compressed before leaves no trace.
func TestJoinerIsDeterministic(t *testing.T) {
	t.Parallel()
	text := rowsOfText(1 << 20)
	one := join(t, text, 2, 300_000, 300_000)
	d, err := newDeflater(2)
	must(t, err)
	d.reset(io.Discard)
	d.Write(rowsOfText(3 << 20)[12345:])
	d.end()
	var b bytes.Buffer
	d.reset(&b)
	d.Write(text[:300_000])
	d.end()
	if !bytes.HasPrefix(one[len(gzipHeader):], b.Bytes()) {
		t.Error("a used deflater compresses the same bytes otherwise")
	}
}

// rowsOfText looks like a table.
func rowsOfText(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	words := []string{"inspection", "torque", "passed", "failed", "M6x20", "2026-03-31 14:30:22.123456+00", "", "serial"}
	var b bytes.Buffer
	for b.Len() < n {
		for range 8 {
			b.WriteString(words[r.IntN(len(words))])
			b.WriteByte(',')
		}
		for range 12 {
			b.WriteByte("0123456789abcdef"[r.IntN(16)])
		}
		b.WriteByte('\n')
	}
	return b.Bytes()[:n]
}

// kindsOfRows are what tables hold: each writes one row.
var kindsOfRows = []struct {
	name string
	row  func(w *bytes.Buffer, r *rand.Rand, i int)
}{
	{"forms", func(w *bytes.Buffer, r *rand.Rand, i int) { // what was typed from a template, one after another
		form := rand.New(rand.NewPCG(uint64(i/40), 1))
		fmt.Fprintf(w, "%d,%d,2024-01-01 %02d:%02d:%02d+00,%016x", i, r.IntN(9973), i/3600%24, i/60%60, i%60, r.Uint64())
		for range 20 {
			w.WriteString("," + vocabulary[form.IntN(len(vocabulary))] + " " + vocabulary[form.IntN(len(vocabulary))])
		}
	}},
	{"words", func(w *bytes.Buffer, r *rand.Rand, i int) { // what was typed anew each time
		fmt.Fprintf(w, "%d", i)
		for range 12 {
			w.WriteString("," + vocabulary[r.IntN(len(vocabulary))] + " " + vocabulary[r.IntN(len(vocabulary))])
		}
	}},
	{"numbers", func(w *bytes.Buffer, r *rand.Rand, i int) { // what sensors say
		fmt.Fprintf(w, "%d,%d,2024-01-01 %02d:%02d:%02d+00,%.4f,%.3f,f", i, i%211, i/3600%24, i/60%60, i%60, 50+r.NormFloat64(), r.Float64()*1000)
	}},
	{"documents", func(w *bytes.Buffer, r *rand.Rand, i int) { // what programs store
		fmt.Fprintf(w, `%d,"{""by"": {""user"": %d, ""station"": ""%s""}, ""kind"": ""%s"", ""order"": %d}",\x%016x%016x%016x`, i, r.IntN(57),
			vocabulary[r.IntN(len(vocabulary))], vocabulary[r.IntN(4)], r.IntN(100_003), r.Uint64(), r.Uint64(), r.Uint64())
	}},
	{"uuids", func(w *bytes.Buffer, r *rand.Rand, i int) { // who belongs to whom
		fmt.Fprintf(w, "%08x-%04x-4%03x-8%03x-%012x,%08x-%04x-4%03x-8%03x-%012x,%d", r.Uint32(), r.Uint32N(1<<16), r.Uint32N(1<<12), r.Uint32N(1<<12), r.Uint64N(1<<48),
			r.Uint32(), r.Uint32N(1<<16), r.Uint32N(1<<12), r.Uint32N(1<<12), r.Uint64N(1<<48), i)
	}},
}

var vocabulary = strings.Fields(`assembly bearing belt bolt cable calibrated casing checked clamp conveyor coolant crack customer damaged delivered delay drawing
	drill error filter fixed flange frame gasket gauge grease hose inspected invoice leak line loose machine measured missing motor night noise nozzle oil`)

// BenchmarkDeflate is where the default level comes from; the table stands in ARCHITECTURE.md.
func BenchmarkDeflate(b *testing.B) {
	for _, kind := range kindsOfRows {
		var rows bytes.Buffer
		for r, i := rand.New(rand.NewPCG(1, 2)), 0; rows.Len() < 8<<20; i++ {
			kind.row(&rows, r, i)
			rows.WriteByte('\n')
		}
		for _, level := range []int{1, 2, 3, 4, 6, 9} {
			b.Run(fmt.Sprintf("%s/level=%d", kind.name, level), func(b *testing.B) {
				d, err := newDeflater(level)
				must(b, err)
				b.SetBytes(int64(rows.Len()))
				out := &counter{}
				for b.Loop() {
					d.reset(out)
					d.Write(rows.Bytes())
					d.end()
				}
				b.ReportMetric(float64(out.n)/float64(b.N)/float64(rows.Len()), "ratio")
			})
		}
	}
}

type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) { c.n += int64(len(p)); return len(p), nil }

func BenchmarkCombineCRC(b *testing.B) {
	for b.Loop() {
		combineCRC(0x12345678, 0x9abcdef0, 64<<20)
	}
}
