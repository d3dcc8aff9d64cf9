package test

import (
	"bytes"
	"encoding/csv"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/snapfleet/snapfleet/contracts"
)

// load empties every table and fills it from the delivery, with nothing but the manifest to go by.
func (d *unpacked) load(conn *pgx.Conn, schema string) {
	d.t.Helper()
	must := func(sql string) {
		d.t.Helper()
		if _, err := conn.Exec(d.t.Context(), sql); err != nil {
			d.t.Fatalf("%s: %v", sql, err)
		}
	}
	must("SET session_replication_role = replica") // no triggers, no foreign keys
	var all []string
	for _, table := range d.Tables {
		all = append(all, quoted(schema, table.Name))
	}
	must("TRUNCATE " + strings.Join(all, ", "))
	for _, table := range d.Tables {
		files := d.filesOf(contracts.Tables, table.Name)
		if len(files) == 0 {
			d.t.Errorf("table %q has no file", table.Name)
		}
		into := quoted(schema, table.Name)
		var own []string // what can be written to
		for _, c := range table.Columns {
			if !c.Generated {
				own = append(own, quoted(c.Name))
			}
		}
		computed := len(own) < len(table.Columns) && d.Format == contracts.CSV
		if computed { // COPY has to put these columns somewhere
			must("CREATE TEMP TABLE staging (LIKE " + into + ")")
			into = "staging"
		}
		var loaded int64
		for _, name := range files {
			if d.Format == contracts.JSONL {
				loaded += d.loadLines(conn, into, own, name)
				continue
			}
			loaded += d.copyIn(conn, into, table.Columns, name)
		}
		if loaded != table.Rows {
			d.t.Errorf("table %q: %d rows were loaded, the manifest says %d", table.Name, loaded, table.Rows)
		}
		if computed {
			columns := strings.Join(own, ", ")
			must("INSERT INTO " + quoted(schema, table.Name) + " (" + columns + ") OVERRIDING SYSTEM VALUE SELECT " + columns + " FROM staging")
			must("DROP TABLE staging")
		}
	}
}

// copyIn loads one file, whose first row must name the manifest's columns.
func (d *unpacked) copyIn(conn *pgx.Conn, into string, columns []contracts.Column, name string) int64 {
	d.t.Helper()
	var names, list []string
	for _, c := range columns {
		names, list = append(names, c.Name), append(list, quoted(c.Name))
	}
	if list != nil { // SQL has no empty list of columns
		into += " (" + strings.Join(list, ", ") + ")"
	}
	plain := d.plain(name)
	if header, err := csv.NewReader(bytes.NewReader(plain)).Read(); list != nil && (err != nil || !slices.Equal(header, names)) {
		d.t.Errorf("%s: the header is %q (%v), the columns are %q", name, header, err, names)
	}
	tag, err := conn.PgConn().CopyFrom(d.t.Context(), bytes.NewReader(plain), "COPY "+into+" FROM STDIN (FORMAT csv, HEADER)")
	if err != nil {
		d.t.Errorf("load %s: %v", name, err)
	}
	for _, file := range d.Files {
		if file.Name == name && file.Rows != tag.RowsAffected() {
			d.t.Errorf("%s: %d rows, the manifest says %d", name, tag.RowsAffected(), file.Rows)
		}
	}
	return tag.RowsAffected()
}

// asExported are the settings of a session of the exporter, as far as they change how a value is written.
const asExported = `SET search_path = ''; SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres'; SET TimeZone = 'UTC';
	SET extra_float_digits = 3; SET bytea_output = 'hex'; SET xmlbinary = 'base64'; SET lc_monetary = 'C'`

// compareLines holds every line of a table's files against what PostgreSQL makes of the same row.
func (d *unpacked) compareLines(source *pgx.Conn, table contracts.Table, from string) {
	d.t.Helper()
	if _, err := source.Exec(d.t.Context(), asExported); err != nil {
		d.t.Fatal(err)
	}
	rows, err := source.Query(d.t.Context(), `SELECT translate(row_to_json(x)::text, E'\n\r', '  ') FROM `+from+` x`)
	if err != nil {
		d.t.Fatal(err)
	}
	want, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		d.t.Fatal(err)
	}
	var got []string
	for _, name := range d.filesOf(contracts.Tables, table.Name) {
		for line := range strings.Lines(string(d.plain(name))) {
			got = append(got, strings.TrimSuffix(line, "\n"))
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(want, got) {
		d.t.Errorf("table %q differs from row_to_json:\n%s", table.Name, difference([]byte(strings.Join(want, "\n")), []byte(strings.Join(got, "\n"))))
	}
}

// plain is the text of a table's file.
func (d *unpacked) plain(name string) []byte {
	d.t.Helper()
	path := filepath.Join(d.dir, name)
	if err := program(d.t.Context(), "gzip", "-t", path); err != nil {
		d.t.Errorf("%s: %v", name, err)
	}
	plain, err := exec.CommandContext(d.t.Context(), "gzip", "-dc", path).Output()
	if err != nil {
		d.t.Fatalf("gzip -dc %s: %v", name, err)
	}
	return plain
}

// loadLines loads one file into a table as contracts/README.md says.
func (d *unpacked) loadLines(conn *pgx.Conn, into string, own []string, name string) (rows int64) {
	d.t.Helper()
	run := func(sql string) {
		d.t.Helper()
		tag, err := conn.Exec(d.t.Context(), sql)
		if err != nil {
			d.t.Errorf("load %s: %.300s: %v", name, sql, err)
		}
		rows = tag.RowsAffected()
	}
	run("CREATE TEMP TABLE lines (line json)")
	_, err := conn.PgConn().CopyFrom(d.t.Context(), bytes.NewReader(d.plain(name)), `COPY lines FROM STDIN (FORMAT csv, QUOTE E'\x01', DELIMITER E'\x02')`)
	if err != nil {
		d.t.Errorf("load %s: %v", name, err)
	}
	if columns := strings.Join(own, ", "); columns != "" {
		run("INSERT INTO " + into + " (" + columns + ") OVERRIDING SYSTEM VALUE SELECT " + columns + " FROM lines, json_populate_record(NULL::" + into + ", line)")
	} else { // SQL has no empty list of columns
		run("INSERT INTO " + into + " SELECT FROM lines")
	}
	loaded := rows
	run("DROP TABLE lines")
	return loaded
}

// comparable lists what is the same of a table in its source and where it was loaded. A JSON null in a column is not
// told from none by row_to_json.
func (d *unpacked) comparable(table contracts.Table) string {
	var list []string
	for _, c := range table.Columns {
		name := quoted(c.Name)
		if d.Format == contracts.JSONL && (c.Type == "json" || c.Type == "jsonb") {
			name = "nullif(" + name + "::text, 'null') AS " + name
		}
		list = append(list, name)
	}
	return strings.Join(list, ", ")
}
