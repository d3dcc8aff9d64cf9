package exporter

import (
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/snapfleet/snapfleet/contracts"
)

// transport is what there is to know of a column's type in order to ask for its values.
type transport struct {
	send    string // the function of the server's own that sends the type in binary; empty: another's
	output  string // the function of the server's own that makes text of it; empty: another's
	typeOID uint32
	value   *value // how JSON is made of it
}

// field is a column as it is read and written.
type field struct {
	name  string // quoted
	label string // not quoted
	typ   string

	// As the column is asked for, where a query is. Empty: it cannot be had in that way.
	expr     string // inBinary
	document string // inJSON
	text     string // fromText

	native  bool   // it comes in binary: expr is the column itself
	foreign bool   // text can only be made of it by a function that is not the server's own
	value   *value // fromText: how JSON is made of the text; nil: text is JSON already
	before  string // precedes the value in a row
	kind    kind
	write   func(dst, v []byte) []byte
}

// fieldsOf decides for each column of a file whether the server sends it in binary, or makes text or JSON of it first.
// after is what ends a row.
func fieldsOf(columns []column, format contracts.Format) (fields []field, after string) {
	after = "\n"
	if format == contracts.JSONL {
		after = "}\n"
	}
	for i, c := range columns {
		f := field{name: pgx.Identifier{c.Name}.Sanitize(), label: c.Name, typ: c.Type}
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
		f.expr = outputOf(c, f.name)
		f.foreign = c.output == ""
	}
	f.write = f.kind.csv
	if alone {
		f.write = func(dst, v []byte) []byte { return aloneInRow(dst, v, f.kind.csv) }
	}
}

// outputOf makes text of a column by the server's own function, whatever casts there are.
func outputOf(c column, name string) string {
	return "pg_catalog." + pgx.Identifier{c.output}.Sanitize() + "(" + name + ")"
}

// asJSON finds the ways in which a column's JSON may be made. The server makes none of a type whose owner may give it
// a cast to json: at any moment, and with a function that would run as our role. Such a value comes as text.
func (f *field) asJSON(c column) {
	if c.value == nil {
		c.value = &value{}
	}
	f.value, f.text = c.value, f.name
	f.native = f.native && !c.value.served
	switch toJSON := "pg_catalog.to_json(" + f.name + ")"; {
	case c.value.open && c.value.served: // neither may make all of it
		f.expr, f.text = "", ""
	case c.value.served:
		f.kind, f.expr, f.document, f.text, f.value = asJSON, toJSON, f.name, toJSON, nil
	case !c.value.open:
		f.document = f.name
		if !f.native {
			f.kind, f.expr = asJSON, toJSON
		}
	case c.value.scalar && c.output != "":
		f.document = "pg_catalog.textin(" + outputOf(c, f.name) + ") AS " + f.name
		if !f.native {
			f.kind, f.expr = textJSON, outputOf(c, f.name)
		}
	case !f.native:
		f.expr = ""
	}
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
	// fromText: the server writes CSV, and JSON is made of it here. A string of a gigabyte takes no room.
	fromText
)

// wayOf is for one relation of a file. Whether a field of CSV needs quotation marks is known at its end, so it is held
// in memory as a whole: that cannot be where a value may be outside of its row.
func wayOf(format contracts.Format, fields []field, r *relation, toast int64) way {
	all := func(can func(field) bool) bool {
		return !slices.ContainsFunc(fields, func(f field) bool { return !can(f) })
	}
	native := all(func(f field) bool { return f.native })
	switch {
	case len(fields) == 0:
		return inBinary
	case format == contracts.CSV && (toast > 0 || r.plain() || !all(func(f field) bool { return !f.foreign })):
		return inText
	case format == contracts.CSV, toast == 0 && native:
		return inBinary
	case r.plain():
		return fromText
	case toast == 0 && all(func(f field) bool { return f.expr != "" }):
		return inBinary
	case toast > 0 && all(func(f field) bool { return f.document != "" }):
		return inJSON
	}
	return fromText
}

// checkJSON refuses what JSON cannot be made of without running functions of a tenant's, with our rights to all
// tenants' tables. It names every column.
func checkJSON(tables []*table) error {
	var names []string
	for _, t := range tables {
		for _, f := range t.fields {
			if slices.ContainsFunc(t.chunks, func(c chunk) bool { return c.way == fromText && (f.text == "" || c.plain && f.value == nil) }) {
				names = append(names, fmt.Sprintf("column %.80q of table %.80q (%.80s)", f.label, t.Name, f.typ))
			}
		}
	}
	if len(names) == 0 {
		return nil
	}
	return refuse(contracts.FormatImpossible, names, "JSON of %s is made by a cast, which would have to run in a query that also runs functions of the table's owner", firstOf(names))
}

// selected is the list of columns of a query, or names of a COPY without one.
func selected(fields []field, what func(field) string) string {
	all := make([]string, len(fields))
	for i, f := range fields {
		all[i] = what(f)
	}
	return strings.Join(all, ", ")
}
