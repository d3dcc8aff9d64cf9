package exporter

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/snapfleet/snapfleet/contracts"
)

func TestRoundTripOfEveryType(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, `
		CREATE TYPE mood AS ENUM ('sad', 'it''s "ok"', 'a,b');
		CREATE TYPE pair AS (a int, b text);
		CREATE DOMAIN positive AS numeric CHECK (VALUE > 0);
		CREATE TABLE everything (
			id bigint PRIMARY KEY, s smallint, i int, b bool, r real, d double precision, n numeric, n2 numeric(40,20), m money,
			t text, v varchar(50), c char(7), nm name, by bytea, dt date, tm time, tz timetz, ts timestamp, tsz timestamptz,
			iv interval, u uuid, j json, jb jsonb, x xml, ip inet, ci cidr, ma macaddr, bt bit(5), vb varbit, ar int[],
			ar2 text[][], en mood, co pair, dom positive, rg int4range, mr nummultirange, pt point, po polygon, tv tsvector,
			tq tsquery, o oid, ls pg_lsn, jp jsonpath);
		INSERT INTO everything VALUES
		(1, -32768, 2147483647, true, 0.1, 0.1::float8 + 0.2, 'NaN', 12345678901234567890.12345678901234567890, 1234.56,
			E'line\nbreak, "quote" \\. \t\r\n ünïcödé 🦀', '', 'pad', 'nm', '\x00ff10', '0044-03-15 BC', '24:00', '12:00+02', 'infinity',
			'2026-03-31 14:30:22.123456+02', '1 year -2 mons 3 days -04:05:06.789', gen_random_uuid(), '{"a" : 1}', '{"b": [1, null, "x\u00e4"]}',
			'<a b="c">d</a>', '::1/64', '10.0.0.0/8', '08:00:2b:01:02:03', B'10101', B'1', '{1,NULL,3}', '{{a,"b,c"},{NULL,"NULL"}}',
			'it''s "ok"', ROW(1, 'x"y'), 3.14, '[1,10)', '{[1,2),[3,4)}', '(1,2)', '((0,0),(1,1),(2,0))', 'a fat cat', 'fat & cat', 4294967295, '16/B374D848', '$.a[*]'),
		(2, 0, 0, false, 'Infinity', '-Infinity', 0.000, 0, 0, '', ' ', '', '', '', 'infinity', '00:00', '00:00-12', '-infinity', 'infinity',
			'0', '00000000-0000-0000-0000-000000000000', 'null', 'null', '<e/>', '0.0.0.0', '::/0', 'ff:ff:ff:ff:ff:ff', B'00000', B'', '{}', '{}',
			'a,b', ROW(NULL, NULL), 1, 'empty', '{}', '(0,0)', '((0,0))', '', '', 0, '0/0', '$'),
		(3, 1, 1, NULL, 1e-40, 1e308, 1e100, -1, -1, E'\\.', 'NULL', 'null', '"', E'\\x00', '9999-12-31', '00:00:00.000001', NULL, NULL, '1900-01-01 00:00:00+00',
			'178000000 years', NULL, '"x"', '"x"', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '(,)', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
		INSERT INTO everything (id) VALUES (4);
		CREATE TABLE one_column (t text);
		INSERT INTO one_column VALUES (NULL), (''), (E'\\.'), (E'\n'), ('x'), ('"'), (E'a\rb'), (' ');`)
	s := tn.open(Config{})
	files := write(t, s.Tables(), 0)
	if files[0].rows != 4 || files[1].rows != 8 {
		t.Errorf("rows: %d and %d", files[0].rows, files[1].rows)
	}
	tn.roundTrip(files)
	if got := string(gunzip(t, files[1].data)); !strings.HasPrefix(got, "t\n\n\"\"\n\"\\.\"\n") {
		t.Errorf("NULL, empty string and end-of-data marker: %q", got)
	}
}

func TestNamesAndShapes(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("ä", 31) // 62 bytes
	names := []string{`quo"te`, "sl/ash", "..", "new\nline", long, "🦀", "CON", "a", "A", "order", "dot.csv.gz", "-rf", " "}
	tn := newTenant(t)
	for i, n := range names {
		tn.exec(`CREATE TABLE "` + strings.ReplaceAll(n, `"`, `""`) + `" ("` + strings.ReplaceAll(n, `"`, `""`) + `" text, "b,c" int, "q""q" int, "\." text)`)
		tn.exec(`INSERT INTO "` + strings.ReplaceAll(n, `"`, `""`) + `" VALUES ('v', ` + fmt.Sprint(i) + `)`)
	}
	tn.exec(`CREATE TABLE empty (a int, b text); CREATE TABLE nothing (); INSERT INTO nothing DEFAULT VALUES; INSERT INTO nothing DEFAULT VALUES;
		CREATE TABLE dropped (a int, b int, c int); ALTER TABLE dropped DROP COLUMN b; INSERT INTO dropped VALUES (1, 3);
		CREATE TABLE gen (id int GENERATED ALWAYS AS IDENTITY, a int NOT NULL, twice int GENERATED ALWAYS AS (a * 2) STORED); INSERT INTO gen (a) VALUES (21)`)
	s := tn.open(Config{})
	files := write(t, s.Tables(), 0)
	tn.roundTrip(files)

	var order []string
	for _, f := range files {
		order = append(order, f.member.Of)
	}
	if !slices.IsSorted(order) || len(order) != len(names)+4 {
		t.Errorf("order: %q", order)
	}
	for _, f := range files {
		text := string(gunzip(t, f.data))
		switch f.member.Of {
		case "empty":
			if text != "a,b\n" || f.rows != 0 {
				t.Errorf("empty: %q", text)
			}
		case "nothing":
			if text != "\n\n\n" || f.rows != 2 {
				t.Errorf("nothing: %q", text)
			}
		case "gen":
			if text != "id,a,twice\n1,21,42\n" {
				t.Errorf("gen: %q", text)
			}
		}
	}
	c := s.Contents()
	i := slices.IndexFunc(c.Tables, func(t contracts.Table) bool { return t.Name == "gen" })
	if cols := c.Tables[i].Columns; !cols[0].Identity || !cols[0].NotNull || !cols[2].Generated || cols[2].Identity || cols[1].Type != "integer" {
		t.Errorf("columns: %+v", cols)
	}
	if c.Snapshot.At.IsZero() || c.Snapshot.XID == "" || c.Snapshot.ServerVersion == "" {
		t.Errorf("snapshot: %+v", c.Snapshot)
	}
}
