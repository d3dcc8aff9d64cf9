//go:build duckdb

package test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// TestDuckDB runs the page's two commands for DuckDB, as they are written there, in the DuckDB that test/duckdb.sh has
// brought, and compares every value with what was exported.
func TestDuckDB(t *testing.T) {
	p := newLoadingPage(t, "page_duckdb")
	want := []map[string]any{
		{"customer_id": "1", "first_name": "Luís", "company": nil, "last_seen": "2024-01-01 00:00:07+00", "tags": "{a,b}", "label": "Luís!"},
		{"customer_id": "2", "first_name": "1.10", "company": "", "last_seen": nil, "tags": nil, "label": "1.10!"},
		{"customer_id": "3", "first_name": "1.1", "company": "two\nlines, and \"quotes\"", "last_seen": "2024-06-01 12:00:00+00", "tags": "{}", "label": "1.1!"},
		{"customer_id": "4", "first_name": "90071992547409901123", "company": "=1+1", "last_seen": nil, "tags": `{NULL,"x y"}`, "label": "90071992547409901123!"},
	}
	for _, format := range []struct{ folder, block string }{{p.csv, "sql duckdb-csv"}, {p.jsonl, "sql duckdb-jsonl"}} {
		p.runIn(format.folder, p.source, []string{p.blocks["sh"][0]}, "bash", "-euo", "pipefail")
		got := p.duckdb(filepath.Join(format.folder, "load"), p.only(format.block))
		if len(got) != len(want) {
			t.Fatalf("%s: %d rows, want %d", format.block, len(got), len(want))
		}
		for i, row := range got {
			for _, column := range []string{"first_name", "company", "label"} {
				if row[column] != want[i][column] {
					t.Errorf("%s: %s of row %d is %q, want %q", format.block, column, i+1, row[column], want[i][column])
				}
			}
			if format.block == "sql duckdb-csv" {
				for _, column := range []string{"customer_id", "last_seen", "tags"} {
					if row[column] != want[i][column] {
						t.Errorf("%s of row %d is %q, want %q", column, i+1, row[column], want[i][column])
					}
				}
			}
		}
	}
	// Where it guesses types, two codes become one number, as the page says.
	guessed := p.duckdb(filepath.Join(p.csv, "load"), "SELECT DISTINCT lot FROM read_csv('codes.csv.gz', header = true)")
	if len(guessed) != 1 {
		t.Errorf("DuckDB keeps the codes 1.10 and 1.1 apart: %v", guessed)
	}
	if rows := p.duckdb(filepath.Join(p.jsonl, "load"), "SELECT a, b FROM read_json('nothing.jsonl.gz', format = 'newline_delimited', columns = {a: 'INTEGER', b: 'VARCHAR'})"); len(rows) != 0 {
		t.Errorf("an empty table has rows: %v", rows)
	}
}

// duckdb is what DuckDB answers, with every value as text or nil.
func (p *loadingPage) duckdb(folder, sql string) (rows []map[string]any) {
	p.t.Helper()
	home := os.Getenv("SNAPFLEET_TEST_DUCKDB")
	if home == "" {
		p.t.Fatal("SNAPFLEET_TEST_DUCKDB is the folder into which npm has installed @duckdb/node-api: run make test-duckdb")
	}
	const program = `
		const { DuckDBInstance } = require(process.argv[1] + '/node_modules/@duckdb/node-api');
		DuckDBInstance.create(':memory:').then(d => d.connect())
			.then(c => c.runAndReadAll(process.argv[2])).then(r => console.log(JSON.stringify(r.getRowObjectsJson())));`
	out := p.runIn(folder, p.source, nil, "node", "-e", program, home, sql)
	if err := json.Unmarshal([]byte(out), &rows); err != nil {
		p.t.Fatalf("DuckDB answers %q: %v", out, err)
	}
	return rows
}
