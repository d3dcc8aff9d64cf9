package exporter

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// firstUserOID is the first oid of objects that users have made in a database. PostgreSQL's to_json looks for casts of types
// from here on only.
const firstUserOID = 16384

// jsonForm is what a value becomes in JSON, as PostgreSQL's row_to_json decides it.
type jsonForm int

const (
	asString jsonForm = iota
	asBool
	asNumber
	asDocument
	asTimestamp
	asTimestamptz
	asArray
	asVector // int2vector and oidvector: an array that is written without braces
	asRecord
	asHstore
)

// value is how JSON is made of a column's values, from the text that the server's own output functions make.
type value struct {
	form   jsonForm
	elem   *value // of an array or a vector
	delim  byte   // between the elements of an array
	names  []string
	fields []*value // of a record

	// open: a type that no superuser owns, or an enum, is in it. Who owns a type may make a cast from it to json at any
	// moment, which the server's to_json would run as our role. So the JSON is made here, from the text.
	open bool
	// served: a type that a superuser owns is in it, as those of extensions are, and has a cast to json. Only the server
	// can make that JSON.
	served bool
	// casts: a type that no superuser owns is in it, and has a cast by a function that is not compiled.
	casts bool
	// scalar: the column's own type is no domain, array or record.
	scalar bool
}

// typeInfo is a row of pg_type.
type typeInfo struct {
	oid, base, elem uint32
	kind            string // pg_type.typtype
	array           bool
	delim           string
	superuser       bool // owns it
	toJSON          bool // there is a cast to json by a function
	hstore          bool // which is the one of the extension hstore
	foreignCast     bool // there is any cast by a function that is not compiled
	names           []string
	fields          []uint32
}

type typeInfos map[uint32]*typeInfo

// listTypes reads the types of the columns of a schema's tables, and those that they are made of.
func listTypes(ctx context.Context, conn *pgx.Conn, schema uint32) (typeInfos, error) {
	rows, err := conn.Query(ctx, `
		WITH RECURSIVE used (oid) AS (
			SELECT a.atttypid FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
				WHERE c.relnamespace = $1 AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped
			UNION SELECT part.oid FROM used u JOIN pg_type t ON t.oid = u.oid CROSS JOIN LATERAL (
				SELECT t.typbasetype AS oid WHERE t.typtype = 'd'
				UNION ALL SELECT t.typelem WHERE t.typelem <> 0
				UNION ALL SELECT a.atttypid FROM pg_attribute a WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) part)
		SELECT t.oid, t.typtype::text, t.typbasetype, t.typelem, t.typoutput = 'array_out'::regproc, t.typdelim::text, coalesce(r.rolsuper, false),
			EXISTS (SELECT FROM pg_cast k WHERE k.castsource = t.oid AND k.casttarget = 'json'::regtype AND k.castmethod = 'f'),
			EXISTS (SELECT FROM pg_cast k JOIN pg_proc f ON f.oid = k.castfunc JOIN pg_language l ON l.oid = f.prolang
				WHERE k.castsource = t.oid AND k.casttarget = 'json'::regtype AND l.lanname = 'c' AND f.prosrc = 'hstore_to_json'),
			EXISTS (SELECT FROM pg_cast k JOIN pg_proc f ON f.oid = k.castfunc JOIN pg_language l ON l.oid = f.prolang
				WHERE t.oid IN (k.castsource, k.casttarget) AND l.lanname NOT IN ('internal', 'c')),
			ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum),
			ARRAY(SELECT a.atttypid FROM pg_attribute a WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum)
		FROM used u JOIN pg_type t ON t.oid = u.oid LEFT JOIN pg_roles r ON r.oid = t.typowner`, schema)
	if err != nil {
		return nil, err
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*typeInfo, error) {
		var t typeInfo
		return &t, row.Scan(&t.oid, &t.kind, &t.base, &t.elem, &t.array, &t.delim, &t.superuser, &t.toJSON, &t.hstore, &t.foreignCast, &t.names, &t.fields)
	})
	types := make(typeInfos, len(all))
	for _, t := range all {
		types[t.oid] = t
	}
	return types, err
}

// builtin are the types of the server's own that are not strings in JSON. Dates are, because their text is the same.
var builtin = map[uint32]jsonForm{
	16: asBool, 20: asNumber, 21: asNumber, 23: asNumber, 700: asNumber, 701: asNumber, 1700: asNumber,
	114: asDocument, 3802: asDocument, 1114: asTimestamp, 1184: asTimestamptz, 22: asVector, 30: asVector,
}

// value works out how JSON is made of a type. A type that is not there any more is a string: the copy will fail.
func (all typeInfos) value(oid uint32) *value {
	v := all.make(oid, 0)
	t := all[oid]
	v.scalar = t != nil && t.kind != "d" && v.form != asArray && v.form != asRecord
	return v
}

// maxNesting bounds how deep types may lie inside each other. PostgreSQL lets no type be inside of itself.
const maxNesting = 100

func (all typeInfos) make(oid uint32, depth int) *value {
	t := all[oid]
	foreign := false
	for t != nil && t.kind == "d" {
		foreign = foreign || t.foreignCast
		t = all[t.base]
	}
	if t == nil || depth > maxNesting {
		return &value{open: true}
	}
	v := &value{}
	switch form, own := builtin[t.oid]; {
	case own && form == asVector:
		v.form, v.elem = form, all.make(t.elem, depth+1)
	case own:
		v.form = form
	case t.array:
		v.form, v.elem, v.delim = asArray, all.make(t.elem, depth+1), ','
		if elem := all[t.elem]; elem != nil && elem.delim != "" {
			v.delim = elem.delim[0]
		}
		v.add(v.elem)
	case t.kind == "c":
		v.form, v.names = asRecord, t.names
		for _, f := range t.fields {
			field := all.make(f, depth+1)
			v.fields = append(v.fields, field)
			v.add(field)
		}
	case t.oid >= firstUserOID:
		v.user(t)
	}
	if (t.foreignCast || foreign) && t.oid >= firstUserOID && !t.superuser {
		v.casts = true
	}
	return v
}

// user is for a type that a user made, and that is neither an array nor a record. An enum is its label, whatever casts
// there are: its form may not depend on how its table is stored.
func (v *value) user(t *typeInfo) {
	switch {
	case t.kind == "e" || !t.superuser:
		v.open = true
	case t.hstore:
		v.form = asHstore
	case t.toJSON:
		v.served = true
	}
}

// add takes over what a part of the value brings along.
func (v *value) add(part *value) {
	v.open, v.served, v.casts = v.open || part.open, v.served || part.served, v.casts || part.casts
}
