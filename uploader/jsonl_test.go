package uploader

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/snapfleet/snapfleet/contracts"
)

// columns is a table with columns of these names.
func columns(names ...string) contracts.Table {
	t := contracts.Table{Name: "t"}
	for _, name := range names {
		t.Columns = append(t.Columns, contracts.Column{Name: name})
	}
	return t
}

func TestJSONLTable(t *testing.T) {
	t.Parallel()
	a, ab := columns("a"), columns("a", "b")
	odd := columns(`q"b\`, "l\nr\rt\tb\bf\fe\x1b\x7f", "größe", "", "a:b,c")
	for name, c := range map[string]struct {
		table contracts.Table
		in    string
		rows  int64
		bad   string
	}{
		"nothing":        {table: a},
		"rows":           {table: ab, in: "{\"a\":1,\"b\":\"x\"}\n{\"a\":null,\"b\":\"\"}\n", rows: 2},
		"no columns":     {table: columns(), in: "{}\n{}\n", rows: 2},
		"odd columns":    {table: odd, in: "{\"q\\\"b\\\\\":1,\"l\\nr\\rt\\tb\\bf\\fe\\u001b\x7f\":2,\"größe\":3,\"\":4,\"a:b,c\":5}\n", rows: 1},
		"white space":    {table: ab, in: "{\"a\": {\"x\" :\t[1 , 2]} ,\"b\": 1 }\n", rows: 1},
		"line separator": {table: a, in: "{\"a\":\"\u2028\u0085\x7f\"}\n", rows: 1},
		"half a pair":    {table: a, in: "{\"a\":\"\\ud800\"}\n", rows: 1}, // json may have it
		"very deep":      {table: a, in: "{\"a\":" + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + "}\n", rows: 1},

		"too deep":          {table: a, in: "{\"a\":" + strings.Repeat("[", 1<<20+1) + "\n", bad: "row 1: value 1 is not JSON"},
		"cut":               {table: a, in: "{\"a\":1}\n{\"a\":", rows: 1, bad: "row 2 does not end in a line feed"},
		"no last feed":      {table: a, in: "{\"a\":1}", bad: "row 1 does not end in a line feed"},
		"cut in a string":   {table: a, in: "{\"a\":\"1", bad: "row 1 does not end"},
		"cut in a letter":   {table: a, in: "{\"a\":\"\xc3", bad: "row 1 does not end"},
		"empty line":        {table: a, in: "{\"a\":1}\n\n{\"a\":1}\n", rows: 1, bad: "row 2 is not an object"},
		"Windows' line":     {table: a, in: "{\"a\":1}\r\n", bad: "row 1 is not an object"},
		"byte order mark":   {table: a, in: "\ufeff{\"a\":1}\n", bad: "row 1 is not an object"},
		"an array":          {table: a, in: "[1]\n", bad: "row 1 is not an object"},
		"CSV":               {table: ab, in: "a,b\n1,2\n", bad: "row 1 is not an object with the columns of table \"t\""},
		"another column":    {table: ab, in: "{\"a\":1,\"c\":2}\n", bad: "row 1 is not an object"},
		"another order":     {table: ab, in: "{\"b\":1,\"a\":2}\n", bad: "row 1 is not an object"},
		"a column less":     {table: ab, in: "{\"a\":1}\n", bad: "row 1 is not an object"},
		"a column more":     {table: a, in: "{\"a\":1,\"b\":2}\n", bad: "row 1 is not an object"},
		"two on a line":     {table: a, in: "{\"a\":1}{\"a\":1}\n", bad: "row 1 is not an object"},
		"return in a value": {table: a, in: "{\"a\":[1,\r2]}\n", bad: "row 1: value 1 is not JSON"},
		"feed in a value":   {table: a, in: "{\"a\":[1,\n2]}\n", bad: "row 1: value 1 is not JSON"},
		"feed in a string":  {table: ab, in: "{\"a\":1,\"b\":\"x\ny\"}\n", bad: "row 1: value 2 is not JSON"},
		"not UTF-8":         {table: a, in: "{\"a\":\"\xff\"}\n", bad: "not UTF-8"},
		"a cut character":   {table: a, in: "{\"a\":\"\xe2\x82\"}\n", bad: "not UTF-8"},
		"a surrogate":       {table: a, in: "{\"a\":\"\xed\xa0\x80\"}\n", bad: "not UTF-8"},
		"no value":          {table: a, in: "{\"a\":}\n", bad: "not JSON"},
		"not a number":      {table: a, in: "{\"a\":NaN}\n", bad: "not JSON"},
		"a number":          {table: a, in: "{\"a\":01}\n", bad: "row 1 is not an object"},
		"bytes not as text": {table: a, in: "{\"a\":\\x00}\n", bad: "not JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			steps := len(c.in)
			if steps > 100 {
				steps = 3
			}
			for step := 1; step <= max(1, steps); step++ {
				n := newJSONLTable(c.table)
				for p := range slices.Chunk([]byte(c.in), step) {
					n.Write(p)
				}
				rows, err := n.rows()
				if rows != c.rows || (err == nil) != (c.bad == "") || err != nil && !strings.Contains(err.Error(), c.bad) {
					t.Fatalf("step %d: %d, %v; want %d, %q", step, rows, err, c.rows, c.bad)
				}
			}
		})
	}
}

// Whatever the text is, and however it comes, it is taken for lines with a column exactly when encoding/json and
// unicode/utf8 do so.
func FuzzJSONLTable(f *testing.F) {
	for _, value := range []string{
		`1`, `-0.5e+10`, `"x\n\u00e9\""`, ` {"k" : [true,false,null] , "l":{}} `, `[]`, `"é"`, "\"\xff\"", `1,"b":2`, `[1,]`, `{"a"}`, `{,}`, `[}`, `1.`, `-`, `00`, `1e`, `.5`,
		`nul`, `nulll`, `"\u12g4"`, `"\x"`, "\"\t\"", "[1\n]", `{"a":1 "b":2}`, `{"a" 1}`, `{1:2}`, `[1 2]`, `1 2`, `"a""b"`, `]`, `tru e`, "\t1 ", "[1\r]",
	} {
		f.Add([]byte(`{"a":`+value+"}\n"), uint8(1))
		f.Add([]byte("{\"a\":1}\n{\"a\":"+value+"}\n{\"a\":2}\n"), uint8(5))
	}
	f.Fuzz(func(t *testing.T, text []byte, step uint8) {
		n := newJSONLTable(columns("a"))
		for p := range slices.Chunk(text, int(step)+1) {
			if _, err := n.Write(p); err != nil {
				t.Fatal(err)
			}
		}
		got, err := n.rows()
		rows, good := jsonLines(text)
		if (err == nil) != good || good && got != rows {
			t.Fatalf("%d rows, %v; want %d, %t", got, err, rows, good)
		}
		if err != nil && !utf8.ValidString(err.Error()) {
			t.Fatalf("%q", err)
		}
	})
}

// jsonLines is what a jsonlTable of one column "a" does, by other means.
func jsonLines(text []byte) (rows int64, good bool) {
	if !utf8.Valid(text) {
		return 0, false
	}
	for len(text) > 0 {
		line, rest, ended := bytes.Cut(text, newline)
		value, begun := bytes.CutPrefix(line, []byte(`{"a":`))
		value, closed := bytes.CutSuffix(value, []byte(`}`))
		if !ended || !begun || !closed || !json.Valid(value) || bytes.ContainsRune(value, '\r') {
			return rows, false
		}
		rows, text = rows+1, rest
	}
	return rows, true
}

// What the columns are called is known from their JSON alone.
func FuzzJSONLColumns(f *testing.F) {
	f.Add("a\x00b", uint8(0))
	f.Add("\"\x00\\\x00\n\x00\x1f\x00é", uint8(3))
	f.Fuzz(func(t *testing.T, list string, step uint8) {
		names := strings.Split(strings.ToValidUTF8(list, "?"), "\x00")
		b := []byte("{")
		for i, name := range names {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(appendJSON(b, name), ":null"...)
		}
		b = append(b, "}\n"...)

		d := json.NewDecoder(bytes.NewReader(b))
		var keys []string
		for _, err := d.Token(); err == nil && d.More(); {
			key, bad := d.Token()
			if _, err = d.Token(); bad != nil || err != nil {
				t.Fatalf("%s: %v, %v", b, bad, err)
			}
			keys = append(keys, key.(string))
		}
		if !slices.Equal(keys, names) {
			t.Fatalf("%q is read as %q", names, keys)
		}
		n := newJSONLTable(columns(names...))
		for p := range slices.Chunk(b, int(step)+1) {
			n.Write(p)
		}
		if rows, err := n.rows(); rows != 1 || err != nil {
			t.Fatalf("%s: %d, %v", b, rows, err)
		}
	})
}
