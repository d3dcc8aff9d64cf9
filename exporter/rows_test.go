package exporter

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/snapfleet/snapfleet/contracts"
)

// binaryRow is a row as the server sends it.
func binaryRow(values ...[]byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(len(values)))
	for _, v := range values {
		if v == nil {
			b = binary.BigEndian.AppendUint32(b, 1<<32-1)
			continue
		}
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(v))), v...)
	}
	return b
}

// tableOf is a table of columns that the server sends with these functions.
func tableOf(format contracts.Format, sends ...string) *table {
	t := &table{}
	var columns []column
	for i, send := range sends {
		c := column{transport: transport{send: send, output: "textout"}}
		c.Name = fmt.Sprintf("c%d", i)
		columns = append(columns, c)
	}
	if t.fields, t.after = fieldsOf(columns, format); format == contracts.JSONL {
		t.null = "null"
	}
	return t
}

func BenchmarkTuples(b *testing.B) {
	word := bytes.Repeat([]byte("assembly bolt "), 5)
	for _, shape := range []struct {
		name  string
		sends []string
		row   []byte
	}{
		{"words", []string{"int8send", "textsend", "textsend", "textsend", "textsend"}, binaryRow([]byte{0, 0, 0, 0, 0, 1, 2, 3}, word, word, word, nil)},
		{"numbers", []string{"int8send", "int4send", "timestamptz_send", "numeric_send", "boolsend"}, binaryRow([]byte{0, 0, 0, 0, 0, 1, 2, 3}, []byte{0, 0, 0, 201},
			[]byte{0, 2, 0xd6, 0x35, 0xfa, 0x91, 0x80, 0x40}, []byte{0, 2, 0, 0, 0, 0, 0, 4, 0, 7, 0x25, 0xda}, []byte{0})},
		{"bytes", []string{"int8send", "jsonb_send", "byteasend"}, binaryRow([]byte{0, 0, 0, 0, 0, 1, 2, 3}, append([]byte{1}, `{"by": {"user": 41, "station": "conveyor"}, "kind": "change"}`...), word)},
	} {
		for _, format := range []contracts.Format{contracts.CSV, contracts.JSONL} {
			b.Run(shape.name+"/"+string(format), func(b *testing.B) {
				l := lines{w: io.Discard}
				s := &tuples{binaryRows: binaryRows{lines: &l, begun: true}, table: tableOf(format, shape.sends...)}
				must(b, s.message(shape.row, 0))
				b.SetBytes(int64(len(l.out)))
				b.ReportAllocs()
				for b.Loop() {
					if err := s.message(shape.row, 0); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// FuzzTuples: whatever a server sends, it is written or refused.
func FuzzTuples(f *testing.F) {
	sends := []string{
		"boolsend", "int2send", "int4send", "int8send", "oidsend", "numeric_send", "textsend", "uuid_send", "byteasend", "date_send", "time_send",
		"timestamp_send", "timestamptz_send", "json_send", "jsonb_send", "none",
	}
	r := rand.New(rand.NewPCG(3, 4))
	for range 20 {
		var values [][]byte
		for range sends {
			v := make([]byte, []int{0, 1, 2, 4, 8, 16, 12}[r.IntN(7)])
			for i := range v {
				v[i] = byte(r.Uint32())
			}
			values = append(values, v)
		}
		f.Add(binaryRow(values...), false)
	}
	f.Add(binaryRow(make([][]byte, len(sends))...), true)
	f.Add([]byte(binaryEnd), true)
	f.Fuzz(func(t *testing.T, row []byte, asJSON bool) {
		format := contracts.CSV
		if asJSON {
			format = contracts.JSONL
		}
		for _, columns := range [][]string{sends, sends[3:4], sends[6:7], nil} {
			var whole, cut bytes.Buffer
			l := lines{w: &whole}
			s := &tuples{binaryRows: binaryRows{lines: &l}, table: tableOf(format, columns...)}
			err := s.message(append([]byte(binaryHeader), row...), 0)
			must(t, l.end())

			m := lines{w: &cut}
			p := &tuples{binaryRows: binaryRows{lines: &m}, table: s.table}
			in := append([]byte(binaryHeader), row...)
			half := len(in) / 2
			again := p.message(in[:half], len(in)-half)
			if again == nil {
				again = p.message(in[half:], 0)
			}
			must(t, m.end())
			if (err == nil) != (again == nil) || err == nil && !bytes.Equal(whole.Bytes(), cut.Bytes()) {
				t.Fatalf("whole: %v %q, in two pieces: %v %q", err, &whole, again, &cut)
			}
			if err == nil && l.rows > 0 && bytes.Count(whole.Bytes(), []byte("\n")) != 1 && asJSON {
				t.Fatalf("not one line: %q", &whole)
			}
		}
	})
}
