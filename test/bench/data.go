package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// tables are what everybody delivers: the schema bench. A share of the bytes, and what a row takes as CSV, make the
// number of rows.
var tables = []struct {
	name     string
	share    float64
	rowBytes float64
	sql      string
}{
	// Wide: what people have typed. A thousand sets of phrases, which come again too late for deflate to see it.
	{"notes", 0.5, 634, `SELECT i AS id, i % 9973 AS customer, timestamptz '2024-01-01' + i * interval '7 s' AS at, md5(i::text) AS reference,
		p1 AS subject, p2 AS summary, p3 AS cause, p4 AS remedy, p5 AS part, p6 AS machine, p7 AS remark, p8 AS answer, NULL::text AS closed
		FROM generate_series(1, $rows::bigint) i JOIN phrases ON n = i % 1009`},
	// Narrow: what sensors say.
	{"readings", 0.25, 53, `SELECT i AS id, (i % 211)::int AS sensor, timestamptz '2024-01-01' + i * interval '1 s' AS at,
		round((50 * sin(i / 1000.0) + i * 7919 % 10007 / 1000.0)::numeric, 4) AS value, (i * 104729 % 1000003)::float8 / 1000 AS raw, i % 97 = 0 AS suspect
		FROM generate_series(1, $rows::bigint) i`},
	// What programs store: documents, and bytes that nothing compresses.
	{"events", 0.25, 465, `SELECT i AS id, timestamptz '2024-01-01' + i * interval '3 s' AS at,
		jsonb_build_object('kind', (ARRAY['start','stop','alarm','change'])[1 + (i % 4)::int], 'order', i * 7919 % 100003, 'text', p1, 'by', jsonb_build_object('user', i % 57, 'station', p2)) AS document,
		decode(md5(i::text) || md5((i + 1)::text || 'a') || md5((i + 2)::text || 'b') || md5((i + 3)::text || 'c') || md5((i + 4)::text || 'd') || md5((i + 5)::text || 'e'), 'hex') AS payload
		FROM generate_series(1, $rows::bigint) i JOIN phrases ON n = i % 1009`},
}

// words are what phrases are made of.
const words = `assembly bearing belt bolt cable calibrated casing checked clamp conveyor coolant crack customer damaged delivered delay
	drawing drill error filter fixed flange frame gasket gauge grease hose inspected invoice leak line loose machine measured missing motor
	night noise nozzle oil operator order overheated paint panel part pressure pump quality replaced returned rotor scrap seal sensor
	shaft shift shipped spindle station steel stopped supplier tested thread tolerance tool torque valve vibration waiting weld worn`

// tinyTables is how many tables a small job has.
const tinyTables = 50

// fill makes the schemas bench and tiny. Nothing of them survives a crash of the server, which makes it quick.
func (g *ground) fill(ctx context.Context, gb float64) error {
	conn, err := pgx.Connect(ctx, g.database)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it has served
	var columns []string
	for c := 1; c <= 8; c++ {
		columns = append(columns, fmt.Sprintf(`(SELECT string_agg(w[1 + ('x' || substr(md5(n || '-%d-' || m), 1, 7))::bit(28)::int %% cardinality(w)], ' ')
			FROM generate_series(1, 10) m) AS p%d`, c, c))
	}
	script := []string{
		"CREATE TABLE phrases AS SELECT n, " + strings.Join(columns, ", ") +
			fmt.Sprintf(" FROM generate_series(0, 1008) n, (VALUES ('{%s}'::text[])) v(w)", strings.Join(strings.Fields(words), ",")),
		"CREATE SCHEMA bench", "CREATE SCHEMA tiny",
	}
	for _, t := range tables {
		rows := fmt.Sprint(max(1, int(gb*1e9*t.share/t.rowBytes)))
		script = append(script, "CREATE UNLOGGED TABLE bench."+t.name+" WITH (autovacuum_enabled = off) AS "+strings.ReplaceAll(t.sql, "$rows", rows))
	}
	for i := range tinyTables {
		script = append(script, fmt.Sprintf("CREATE UNLOGGED TABLE tiny.t%02d WITH (autovacuum_enabled = off) AS SELECT n AS id, md5(n::text) AS word FROM generate_series(1, 10) n", i))
	}
	// Readers have nothing to write down, and nobody else writes while they read.
	script = append(script, "VACUUM (FREEZE, ANALYZE)", "CHECKPOINT")
	for _, sql := range script {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("make the data: %w", err)
		}
	}
	return nil
}
