package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// tables are what everybody delivers: the schema bench. A share of the bytes, and what a row takes as CSV, make the
// number of rows. What compresses how is part of the measurement: with deflate level 2 notes take 0.06 of their CSV,
// readings 0.30, events 0.26. So the order of the rows is said, and not left to the join.
var tables = []struct {
	name     string
	share    float64
	rowBytes float64
	sql      string
}{
	// Wide: what people have typed. There are a thousand sets of phrases, and the rows that share one lie next to each
	// other, as if they were about one thing, so deflate sees most of them again.
	{"notes", 0.5, 634, `SELECT i AS id, i % 9973 AS customer, timestamptz '2024-01-01' + i * interval '7 s' AS at, md5(i::text) AS reference,
		p1 AS subject, p2 AS summary, p3 AS cause, p4 AS remedy, p5 AS part, p6 AS machine, p7 AS remark, p8 AS answer, NULL::text AS closed
		FROM generate_series(1, $rows::bigint) i JOIN phrases ON n = i % 1009 $where ORDER BY n, i`},
	// Narrow: what sensors say.
	{"readings", 0.25, 53, `SELECT i AS id, (i % 211)::int AS sensor, timestamptz '2024-01-01' + i * interval '1 s' AS at,
		round((50 * sin(i / 1000.0) + i * 7919 % 10007 / 1000.0)::numeric, 4) AS value, (i * 104729 % 1000003)::float8 / 1000 AS raw, i % 97 = 0 AS suspect
		FROM generate_series(1, $rows::bigint) i $where`},
	// What programs store: documents, and bytes that nothing compresses.
	{"events", 0.25, 465, `SELECT i AS id, timestamptz '2024-01-01' + i * interval '3 s' AS at,
		jsonb_build_object('kind', (ARRAY['start','stop','alarm','change'])[1 + (i % 4)::int], 'order', i * 7919 % 100003, 'text', p1, 'by', jsonb_build_object('user', i % 57, 'station', p2)) AS document,
		decode(md5(i::text) || md5((i + 1)::text || 'a') || md5((i + 2)::text || 'b') || md5((i + 3)::text || 'c') || md5((i + 4)::text || 'd') || md5((i + 5)::text || 'e'), 'hex') AS payload
		FROM generate_series(1, $rows::bigint) i JOIN phrases ON n = i % 1009 $where ORDER BY n, i`},
}

// words are what phrases are made of.
const words = `assembly bearing belt bolt cable calibrated casing checked clamp conveyor coolant crack customer damaged delivered delay
	drawing drill error filter fixed flange frame gasket gauge grease hose inspected invoice leak line loose machine measured missing motor
	night noise nozzle oil operator order overheated paint panel part pressure pump quality replaced returned rotor scrap seal sensor
	shaft shift shipped spindle station steel stopped supplier tested thread tolerance tool torque valve vibration waiting weld worn`

// tinyTables is how many tables a small job has, of tinyRows rows each.
const (
	tinyTables = 50
	tinyRows   = 10
)

// prepare makes what data is made from.
func (g *ground) prepare(ctx context.Context) error {
	var columns []string
	for c := 1; c <= 8; c++ {
		columns = append(columns, fmt.Sprintf(`(SELECT string_agg(w[1 + ('x' || substr(md5(n || '-%d-' || m), 1, 7))::bit(28)::int %% cardinality(w)], ' ')
			FROM generate_series(1, 10) m) AS p%d`, c, c))
	}
	return g.exec(ctx, "CREATE TABLE phrases AS SELECT n, "+strings.Join(columns, ", ")+
		fmt.Sprintf(" FROM generate_series(0, 1008) n, (VALUES ('{%s}'::text[])) v(w)", strings.Join(strings.Fields(words), ",")))
}

// unlogged is a table of which nothing survives a crash of the server, which makes it quick.
const unlogged = "CREATE UNLOGGED TABLE %s WITH (autovacuum_enabled = off) AS %s"

// fill makes a schema of the three tables.
func (g *ground) fill(ctx context.Context, schema string, gb float64) error {
	script := []string{"CREATE SCHEMA " + schema}
	for _, t := range tables {
		rows := fmt.Sprint(max(1, int(gb*1e9*t.share/t.rowBytes)))
		sql := strings.NewReplacer("$rows", rows, "$where", "").Replace(t.sql)
		script = append(script, fmt.Sprintf(unlogged, schema+"."+t.name, sql))
	}
	return g.exec(ctx, append(script, settle...)...)
}

// fillMany makes a schema of many tables with the rows of notes. Each has all rows of its phrases, so that they
// compress as they do in one.
func (g *ground) fillMany(ctx context.Context, schema string, gb float64, many int) error {
	script, notes := []string{"CREATE SCHEMA " + schema}, tables[0]
	rows := fmt.Sprint(max(1, int(gb*1e9/notes.rowBytes)))
	for i := range many {
		sql := strings.NewReplacer("$rows", rows, "$where", fmt.Sprintf("WHERE n %% %d = %d", many, i)).Replace(notes.sql)
		script = append(script, fmt.Sprintf(unlogged, fmt.Sprintf("%s.notes_%03d", schema, i), sql))
	}
	return g.exec(ctx, append(script, settle...)...)
}

// fillTiny makes a schema of tables that hold next to nothing. It commits now and then, because a transaction locks
// what it makes.
func (g *ground) fillTiny(ctx context.Context, schema string, many int) error {
	table := fmt.Sprintf(unlogged, schema+".t%s", fmt.Sprintf("SELECT n AS id, md5(n::text) AS word FROM generate_series(1, %d) n", tinyRows))
	script := []string{"CREATE SCHEMA " + schema, fmt.Sprintf(`DO $do$ BEGIN
		FOR i IN 1..%d LOOP
			EXECUTE format($sql$%s$sql$, lpad(i::text, 5, '0'));
			IF i %% 200 = 0 THEN COMMIT; END IF;
		END LOOP; END $do$`, many, table)}
	return g.exec(ctx, append(script, settle...)...)
}

// count is how many tables a schema has.
func (g *ground) count(ctx context.Context, schema string) (n int, err error) {
	conn, err := pgx.Connect(ctx, g.database)
	if err != nil {
		return 0, err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it has served
	err = conn.QueryRow(ctx, "SELECT count(*) FROM pg_class WHERE relnamespace = $1::regnamespace AND relkind = 'r'", schema).Scan(&n)
	return n, err
}

// settle: readers have nothing to write down, and nobody else writes while they read.
var settle = []string{"VACUUM (FREEZE, ANALYZE)", "CHECKPOINT"}

// exec runs statements, each in a transaction of its own.
func (g *ground) exec(ctx context.Context, script ...string) error {
	conn, err := pgx.Connect(ctx, g.database)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it has served
	for _, sql := range script {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("make the data: %.60s: %w", sql, err)
		}
	}
	return nil
}
