package exporter

import (
	"bytes"
	"strings"
	"testing"

	"github.com/snapfleet/snapfleet/contracts"
)

// textTable has a column of each form that is written in a way of its own.
func textTable() *table {
	number := &value{form: asNumber}
	forms := []*value{
		{},
		{form: asDocument},
		number,
		{form: asBool},
		{form: asTimestamptz},
		{form: asArray, elem: &value{}, delim: ','},
		{form: asRecord, names: []string{"a", "b"}, fields: []*value{number, {}}},
		{form: asHstore},
		{form: asVector, elem: number},
	}
	var columns []column
	for i, v := range forms {
		columns = append(columns, column{Column: contracts.Column{Name: string(rune('a' + i)), Type: "t"}, transport: transport{value: v}})
	}
	t := &table{Table: contracts.Table{Name: "t"}, null: "null"}
	t.fields, t.after = fieldsOf(columns, contracts.JSONL)
	return t
}

func jsonOfText(pieces ...[]byte) (string, error) {
	var b bytes.Buffer
	l := &lines{w: &b}
	left := 0
	for _, p := range pieces {
		left += len(p)
	}
	rows := &textRows{lines: l, table: textTable()}
	for _, p := range pieces {
		left -= len(p)
		if err := rows.message(p, left); err != nil {
			return "", err
		}
	}
	err := l.end()
	return b.String(), err
}

// FuzzTextRows: a row becomes the same, or is refused, however the connection cuts it, and nothing that a server might
// send makes the program fail.
func FuzzTextRows(f *testing.F) {
	f.Add([]byte("\"x \"\"y\"\"\n,\",\"{\"\"a\"\": 1}\",1.50,t,2026-03-31 14:30:22+00,\"{a,\"\"b c\"\",NULL}\",\"(1,\"\"x y\"\")\",\"\"\"k\"\"=>\"\"v\"\"\",1 2\n"), uint8(3))
	f.Add([]byte(",,,,,,,,\n"), uint8(1))
	f.Add([]byte("\"\",{},NaN,f,infinity,{},\"(,)\",\"\",\"\"\n"), uint8(1))
	f.Add([]byte("a,b\n"), uint8(1))
	f.Add([]byte("\"a,b\n"), uint8(9))
	f.Fuzz(func(t *testing.T, row []byte, size uint8) {
		whole, err := jsonOfText(row)
		var pieces [][]byte
		for rest := row; len(rest) > 0; {
			n := min(len(rest), 1+int(size))
			pieces, rest = append(pieces, bytes.Clone(rest[:n])), rest[n:]
		}
		cut, cutErr := jsonOfText(pieces...)
		if (err == nil) != (cutErr == nil) && len(row) > 0 || err == nil && len(row) > 0 && whole[:strings.LastIndexByte(whole, '\n')+1] != cut[:strings.LastIndexByte(cut, '\n')+1] {
			t.Fatalf("%q, %v\n%q, %v", whole, err, cut, cutErr)
		}
	})
}

func TestTextRows(t *testing.T) {
	t.Parallel()
	for row, want := range map[string]string{
		",,,,,,,,\n": `{"a":null,"b":null,"c":null,"d":null,"e":null,"f":null,"g":null,"h":null,"i":null}` + "\n",
		"\"\",{},NaN,f,infinity,{},\"(,)\",\"\",\"\"\n": `{"a":"","b":{},"c":"NaN","d":false,"e":"infinity","f":[],"g":{"a":null,"b":null},"h":{},"i":[]}` + "\n",
	} {
		if got, err := jsonOfText([]byte(row)); err != nil || got != want {
			t.Errorf("%q: %s %v", row, got, err)
		}
	}
	for _, row := range []string{"a\n", ",,,,,,,,,\n", ",,,,,,,,", ",,,,,,,,\n,", ",,,,,{a,,,\n", ",,,,,,\"(1)\",,\n", ",,,,,,,x,\n", "\"x\"y,,,,,,,,\n", ",,,,,\"{\"\"a\",,,\n"} {
		if got, err := jsonOfText([]byte(row)); err == nil {
			t.Errorf("%q was taken: %s", row, got)
		}
	}
}
