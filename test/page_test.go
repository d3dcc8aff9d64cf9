package test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/test/world"
)

// pageJob is the job of the page's file names.
const pageJob = "2026-03-31-143022"

// pageSchema is the page's application: a generated column, an identity, both kinds of empty, a foreign key whose rows
// come before their parents in the order of names, and a sequence.
const pageSchema = `
CREATE TABLE %[1]s.customer (
	customer_id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, first_name text NOT NULL, company text, last_seen timestamptz,
	tags text[], label text GENERATED ALWAYS AS (first_name || '!') STORED);
CREATE TABLE %[1]s.orders (id serial PRIMARY KEY, customer_id int REFERENCES %[1]s.customer, settings jsonb NOT NULL);
CREATE TABLE %[1]s."odd ""name""" ("a b" int, nothing text NOT NULL);
CREATE TABLE %[1]s.nothing (a int, b text);
CREATE TABLE %[1]s.empties (a text);
CREATE TABLE %[1]s.codes (lot text);
`

const pageRows = `
INSERT INTO acme.customer (first_name, company, last_seen, tags) VALUES
	('Luís', NULL, '2024-01-01 00:00:07+00', '{a,b}'), ('1.10', '', NULL, NULL), ('1.1', 'two
lines, and "quotes"', '2024-06-01 12:00:00+00', '{}'), ('90071992547409901123', '=1+1', NULL, '{NULL,"x y"}');
INSERT INTO acme.orders (customer_id, settings) VALUES (1, 'null'), (3, '{"a": [1, 2]}'), (2, '"text"');
INSERT INTO acme."odd ""name""" VALUES (1, ''), (2, 'x');
INSERT INTO acme.empties VALUES (NULL), (''), ('x'), (NULL);
INSERT INTO acme.codes VALUES ('1.10'), ('1.1');
`

// loadingPage is contracts/README.md with a delivery of each format to try it on.
type loadingPage struct {
	t      *testing.T
	source string // URL of the database that was exported
	blocks map[string][]string
	csv    string // folder of the delivery
	jsonl  string
	home   string
}

func newLoadingPage(t *testing.T, name string) *loadingPage {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "contracts", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	p := &loadingPage{t: t, blocks: fencedBlocks(string(text)), home: t.TempDir()}
	p.source = p.database(name, "CREATE SCHEMA acme;"+fmt.Sprintf(pageSchema, "acme")+pageRows)
	p.csv, p.jsonl = p.export(contracts.CSV), p.export(contracts.JSONL)
	return p
}

// fencedBlocks are a page's code blocks by the words after the fence.
func fencedBlocks(text string) map[string][]string {
	blocks := map[string][]string{}
	for rest := text; ; {
		_, after, found := strings.Cut(rest, "\n```")
		if !found {
			return blocks
		}
		info, after, _ := strings.Cut(after, "\n")
		body, after, _ := strings.Cut(after, "\n```")
		blocks[info] = append(blocks[info], body+"\n")
		rest = after
	}
}

// database makes a database with that content, and returns its URL.
func (p *loadingPage) database(name, script string) string {
	p.t.Helper()
	url, err := postgres.CreateDatabase(p.t.Context(), name)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		if err := postgres.DropDatabase(context.Background(), name); err != nil {
			p.t.Error(err)
		}
	})
	if err := world.Load(p.t.Context(), url, strings.NewReader(script)); err != nil {
		p.t.Fatal(err)
	}
	return url
}

func (p *loadingPage) export(format contracts.Format) string {
	p.t.Helper()
	to := filepath.Join(p.home, string(format))
	p.runIn(p.home, p.source, nil, binary, "export", "acme", "--to="+to, "--job="+pageJob, "--format="+string(format))
	return filepath.Join(to, "acme", pageJob)
}

// only is the one block of that kind.
func (p *loadingPage) only(info string) string {
	p.t.Helper()
	if len(p.blocks[info]) != 1 {
		p.t.Fatalf("the page has %d blocks %q, want 1", len(p.blocks[info]), info)
	}
	return p.blocks[info][0]
}

// runIn runs a program in a folder, with a database for psql and for the exporter.
func (p *loadingPage) runIn(folder, database string, stdin []string, name string, args ...string) string {
	p.t.Helper()
	config, err := pgx.ParseConfig(database)
	if err != nil {
		p.t.Fatal(err)
	}
	cmd := exec.CommandContext(p.t.Context(), name, args...)
	cmd.Dir = folder
	cmd.Stdin = strings.NewReader(strings.Join(stdin, "\n"))
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + p.home, "SNAPFLEET_DATABASE_URL=" + database, "PGHOST=" + config.Host,
		fmt.Sprintf("PGPORT=%d", config.Port), "PGUSER=" + config.User, "PGPASSWORD=" + config.Password, "PGDATABASE=" + config.Database,
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		p.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// psql runs a block of the page as a person would paste it.
func (p *loadingPage) psql(folder, database, sql string) {
	p.t.Helper()
	p.runIn(folder, database, []string{sql}, "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", "-")
}

// wantSame holds a table of a database against the one that was exported.
func (p *loadingPage) wantSame(database, from, columns string) {
	p.t.Helper()
	rows := func(url, table string) string {
		conn := connect(p.t, url)
		var all string
		sql := fmt.Sprintf("SELECT coalesce(string_agg(x::text, E'\\n' ORDER BY x::text), '') FROM (SELECT %s FROM %s) x", columns, table)
		if err := conn.QueryRow(p.t.Context(), sql).Scan(&all); err != nil {
			p.t.Fatal(err)
		}
		return all
	}
	if want, got := rows(p.source, "acme."+from), rows(database, from); want != got {
		p.t.Errorf("%s was loaded as\n%s\nand its source is\n%s", from, got, want)
	}
}

// TestLoadingPage runs every command for a shell and psql on the page for those who load deliveries, in the page's order,
// as it is written there.
func TestLoadingPage(t *testing.T) {
	t.Parallel()
	p := newLoadingPage(t, "page")
	shell := p.blocks["sh"]
	if len(shell) != 2 {
		t.Fatalf("the page has %d blocks for a shell, want 2", len(shell))
	}
	for _, folder := range []string{p.csv, p.jsonl} {
		bare := p.database("page_bare_"+strings.ReplaceAll(filepath.Base(filepath.Dir(filepath.Dir(folder))), ".", "_"), "")
		p.runIn(folder, bare, []string{shell[0], shell[1]}, "bash", "-euo", "pipefail")
		for _, table := range []string{"customer", "orders", `"odd ""name"""`, "nothing", "empties", "codes"} {
			if _, err := connect(t, bare).Exec(t.Context(), "SELECT FROM "+table); err != nil {
				t.Errorf("the tables that the manifest describes: %v", err)
			}
		}
	}
	for kind, folder := range map[string]string{"psql-csv": p.csv, "psql-jsonl": p.jsonl} {
		own := p.database("page_"+strings.ReplaceAll(kind, "-", "_"), fmt.Sprintf(pageSchema, "public"))
		p.psql(filepath.Join(folder, "load"), own, p.only("sql "+kind))
		p.wantSame(own, "customer", "customer_id, first_name, company, last_seen, tags, label")
		p.psql(p.home, own, "INSERT INTO orders VALUES (7, 1, '{}');"+p.only("sql psql-after")+`
			INSERT INTO orders (customer_id, settings) VALUES (2, '{}');`)
		var last int
		if err := connect(t, own).QueryRow(t.Context(), "SELECT max(id) FROM orders").Scan(&last); err != nil || last != 8 {
			t.Errorf("after the page's setval the next order is %d, want 8: %v", last, err)
		}
	}
}

// TestPageSaysWhatGoesWrong holds what the page says of other readers against what they do.
func TestPageSaysWhatGoesWrong(t *testing.T) {
	t.Parallel()
	p := newLoadingPage(t, "page_wrong")
	p.runIn(p.csv, p.source, []string{p.blocks["sh"][0]}, "bash", "-euo", "pipefail")
	if got := p.runIn(p.csv, p.source, nil, "bash", "-c", "gzip -dc load/empties.csv.gz"); got != "a\n\n\"\"\nx\n\n" {
		t.Errorf("a table of one column is %q: NULL is an empty line, as the page says", got)
	}
	p.psql(p.home, p.source, `CREATE TABLE acme.dot (a text); INSERT INTO acme.dot VALUES (E'a\n\\.\nb')`)
	const version = `psql --version | sed 's/[^0-9]*\([0-9]*\).*/\1/'`
	p.runIn(p.home, p.source, []string{`
		psql -X -q -c "COPY acme.dot TO STDOUT (FORMAT csv)" > dot.csv
		if psql -X -q -v ON_ERROR_STOP=1 -c '\copy acme.dot from dot.csv (format csv)' 2> error
		then test "$(` + version + `)" -ge 18; else grep -q 'unterminated CSV quoted field' error; fi`}, "bash", "-eu")
}
