package exporter

import (
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/snapfleet/snapfleet/contracts"
)

// transport is what there is to know of a column's type in order to ask for its values.
type transport struct {
	send   string // the function of the server's own that sends the type in binary; empty: another's
	output string // the function of the server's own that makes text of it; empty: another's
	user   bool   // somebody made the type
	casts  bool   // and somebody may have made a function that makes JSON of it: see listColumns
}

// field is a column as it is read and written.
type field struct {
	name    string // quoted
	typ     string
	expr    string // as it is asked for
	native  bool   // it comes in binary: expr is the column itself
	casts   bool   // the server may make JSON of it by a function that is not its own
	foreign bool   // neither text nor JSON can be made of it without such a function

	before string // stands before the value in a row
	kind   kind
	write  func(dst, v []byte) []byte
}

// fieldsOf decides for each column of a file whether the server sends it in binary, or makes text or JSON of it first.
// after is what ends a row.
func fieldsOf(columns []column, format contracts.Format) (fields []field, after string) {
	after = "\n"
	if format == contracts.JSONL {
		after = "}\n"
	}
	for i, c := range columns {
		f := field{name: pgx.Identifier{c.Name}.Sanitize(), typ: c.Type}
		f.expr = f.name
		f.kind, f.native = kinds[c.send]
		if format == contracts.JSONL {
			f.asJSON(c)
			f.before = jsonKey(i, c.Name)
		} else {
			f.asCSV(c, len(columns) == 1)
			if i > 0 {
				f.before = ","
			}
		}
		fields = append(fields, f)
	}
	if format == contracts.JSONL && len(fields) == 0 {
		after = "{}\n"
	}
	return fields, after
}

func (f *field) asCSV(c column, alone bool) {
	if !f.native {
		f.kind = asText
		f.expr = "pg_catalog." + pgx.Identifier{c.output}.Sanitize() + "(" + f.name + ")"
		f.foreign = c.output == ""
	}
	f.write = f.kind.csv
	if alone {
		f.write = func(dst, v []byte) []byte { return aloneInRow(dst, v, f.kind.csv) }
	}
}

func (f *field) asJSON(c column) {
	if !f.native {
		f.kind = asJSON
		f.expr = "pg_catalog.to_json(" + f.name + ")"
	}
	f.casts = c.user && c.casts
	f.foreign = f.casts && !f.native
	f.write = f.kind.json
}

// aloneInRow keeps the only field of a row from ending the data, which \. does.
func aloneInRow(dst, v []byte, write func(dst, v []byte) []byte) []byte {
	start := len(dst)
	if dst = write(dst, v); string(dst[start:]) == `\.` {
		return append(dst[:start], `"\."`...)
	}
	return dst
}

func jsonKey(i int, name string) string {
	before := byte('{')
	if i > 0 {
		before = ','
	}
	return string(append(jsonText([]byte{before}, []byte(name)), ':'))
}

// way is in which form the rows of a relation come.
type way int

const (
	// inText: the server writes CSV, and it is passed on as it comes. A row of a gigabyte takes no room here.
	inText way = iota
	// inBinary: the server sends values, and the rows are written here.
	inBinary
	// inJSON: the server makes a document of each row. As inText.
	inJSON
)

// wayOf is for one relation of a file. Whether a field of CSV needs quotation marks is known at its end, so it is held
// in memory as a whole: that cannot be where a value may be outside of its row.
func wayOf(format contracts.Format, fields []field, r *relation, toast int64) way {
	foreign := slices.ContainsFunc(fields, func(f field) bool { return f.foreign })
	casts := slices.ContainsFunc(fields, func(f field) bool { return f.casts })
	switch {
	case format == contracts.JSONL && toast > 0 && !r.code && !casts:
		return inJSON
	case format == contracts.JSONL:
		return inBinary
	case toast > 0 || r.code || foreign:
		return inText
	}
	return inBinary
}

// checkJSON refuses what JSON cannot be made of without running functions of a tenant's, with our rights to all
// tenants' tables.
func checkJSON(tables []*table) error {
	var names []string
	for _, t := range tables {
		code := slices.ContainsFunc(t.chunks, func(c chunk) bool { return c.plain })
		if slices.ContainsFunc(t.fields, func(f field) bool { return f.foreign || code && !f.native }) {
			names = append(names, t.Name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	return refuse(contracts.FormatImpossible, names, "%s would run functions of its owner", list(names))
}

// selected is the list of columns of a query, or names of a COPY without one.
func selected(fields []field, what func(field) string) string {
	all := make([]string, len(fields))
	for i, f := range fields {
		all[i] = what(f)
	}
	return strings.Join(all, ", ")
}
