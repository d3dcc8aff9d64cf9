package uploader

import (
	"encoding/csv"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
)

func TestCSVCounter(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		in      string
		rows    int64
		columns []string
		bad     string
	}{
		"rows":            {in: "a,b\n1,2\n3,4\n", rows: 2, columns: []string{"a", "b"}},
		"only a header":   {in: "a\n", columns: []string{"a"}},
		"no columns":      {in: "\n\n\n", rows: 2},
		"NULL alone":      {in: "a\n\n\n", rows: 2, columns: []string{"a"}},
		"feeds in quotes": {in: "a\n\"x\ny\"\n\"\"\"\n\"\"\"\n", rows: 2, columns: []string{"a"}},
		"quoted header":   {in: "\"a,b\",\"c\"\"d\",\"e\r\nf\"\n1,2,3\n", rows: 1, columns: []string{"a,b", `c"d`, "e\r\nf"}},
		"nothing":         {in: "", bad: "no header"},
		"cut in a row":    {in: "a\n1", bad: "line feed"},
		"cut in quotes":   {in: "a\n\"1\n", bad: "quoted"},
		"cut at a quote":  {in: "a\n\"1\"", bad: "line feed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for step := 1; step <= max(1, len(c.in)); step++ {
				var n csvCounter
				for p := range slices.Chunk([]byte(c.in), step) {
					n.Write(p)
				}
				rows, err := n.rows()
				if c.bad != "" {
					if err == nil || !strings.Contains(err.Error(), c.bad) {
						t.Fatalf("step %d: %v, want %q", step, err, c.bad)
					}
					continue
				}
				if err != nil || rows != c.rows || !slices.Equal(n.columns(), c.columns) {
					t.Fatalf("step %d: %d %q %v", step, rows, n.columns(), err)
				}
			}
		})
	}
}

// What PostgreSQL may write: the counter agrees with encoding/csv about records, whatever the fields hold.
func FuzzCSVCounter(f *testing.F) {
	f.Add("a\x00b", "1\x00\n\x00\"", uint8(2), uint8(3))
	f.Add("\"\"", ",\x00\r\n", uint8(1), uint8(1))
	f.Fuzz(func(t *testing.T, header, fields string, width, step uint8) {
		columns := strings.Split(header, "\x00")
		values := strings.Split(fields, "\x00")
		var b strings.Builder
		record := func(fields []string) {
			for i, v := range fields {
				if i > 0 {
					b.WriteByte(',')
				}
				b.WriteString(`"` + strings.ReplaceAll(v, `"`, `""`) + `"`)
			}
			b.WriteByte('\n')
		}
		record(columns)
		rows := int64(0)
		for r := range slices.Chunk(values, int(width)%8+1) {
			record(r)
			rows++
		}

		var n csvCounter
		for p := range slices.Chunk([]byte(b.String()), int(step)%64+1) {
			if _, err := n.Write(p); err != nil {
				t.Fatal(err)
			}
		}
		got, err := n.rows()
		if err != nil || got != rows || !slices.Equal(n.columns(), columns) {
			t.Fatalf("%d rows, %q, %v; want %d, %q", got, n.columns(), err, rows, columns)
		}
		std := csv.NewReader(strings.NewReader(b.String()))
		std.FieldsPerRecord = -1
		records := int64(0)
		for {
			if _, err := std.Read(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			records++
		}
		if records != rows+1 {
			t.Fatalf("encoding/csv sees %d records, we %d", records, rows+1)
		}
	})
}
