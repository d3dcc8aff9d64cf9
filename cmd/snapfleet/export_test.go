package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/snapfleet/snapfleet/test/world"
)

// source is a database with a tenant in it, as SNAPFLEET_DATABASE_URL.
func source(t *testing.T, name, script string) (env []string) {
	t.Helper()
	url, err := postgres.CreateDatabase(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := postgres.DropDatabase(context.Background(), name); err != nil {
			t.Error(err)
		}
	})
	if err := world.Load(t.Context(), url, strings.NewReader(script)); err != nil {
		t.Fatal(err)
	}
	return []string{"SNAPFLEET_DATABASE_URL=" + url}
}

const tenant = `
CREATE SCHEMA acme;
CREATE TABLE acme.parts (id int PRIMARY KEY, name text, weight numeric);
INSERT INTO acme.parts SELECT i, 'Schraube ' || i, i / 7.0 FROM generate_series(1, 5000) i;
CREATE TABLE acme.empty (id int);
CREATE SCHEMA bare;
`

func TestExportAndVerify(t *testing.T) {
	t.Parallel()
	env := source(t, "cmd_export", tenant)
	to := t.TempDir()
	args := []string{"export", "acme", "--to=" + to, "--job=j1"}
	folder := filepath.Join(to, "acme", "j1")

	r := snapfleet(t, env, args...)
	r.want(t, exitOK, "2 tables, 5,000 rows")
	if r.out != folder+"\n" {
		t.Errorf("stdout is %q, want the folder alone", r.out)
	}
	entries, err := os.ReadDir(folder)
	if err != nil || len(entries) != 2 || entries[0].Name() != "manifest.json" || entries[1].Name() != "snapshot_tables_j1.tar" {
		t.Errorf("the folder holds %v, %v", entries, err)
	}

	snapfleet(t, nil, "verify", folder, "--files").want(t, exitOK, "proven: 2 tables, 5,000 rows", "snapshot_tables_j1.tar", "parts.csv.gz 5,000")
	snapfleet(t, env, args...).want(t, exitUsage, "holds a delivery already")

	volume := filepath.Join(folder, "snapshot_tables_j1.tar")
	data, err := os.ReadFile(volume)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(volume, data, 0o644); err != nil {
		t.Fatal(err)
	}
	snapfleet(t, nil, "verify", folder).want(t, exitUnproven, "wrong: snapshot_tables_j1.tar", "snapfleet: the delivery is not what its manifest says")
}

func TestExportInLines(t *testing.T) {
	t.Parallel()
	env := source(t, "cmd_export_lines", tenant)
	to := t.TempDir()
	snapfleet(t, env, "export", "acme", "--to="+to, "--job=j1", "--format=jsonl.gz").want(t, exitOK, "2 tables, 5,000 rows")
	folder := filepath.Join(to, "acme", "j1")
	snapfleet(t, nil, "verify", folder, "--files").want(t, exitOK, "format jsonl.gz", "proven: 2 tables, 5,000 rows", "parts.jsonl.gz 5,000", "empty.jsonl.gz")
}

func TestExportThatFailsLeavesNothing(t *testing.T) {
	t.Parallel()
	env := source(t, "cmd_export_bad", tenant)
	for _, c := range []struct {
		schema string
		texts  []string
	}{
		{"nobody", []string{`snapfleet: `, "cause: the database has no schema of that name", "fix:"}},
		{"bare", []string{"cause: the schema has no tables", "fix:"}},
	} {
		to := t.TempDir()
		snapfleet(t, env, "export", c.schema, "--to="+to).want(t, exitRejected, c.texts...)
		if left, err := os.ReadDir(to); err != nil || len(left) > 0 {
			t.Errorf("%s: left behind: %v, %v", c.schema, left, err)
		}
	}
}

func TestExportOfADatabaseThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	for name, url := range map[string]string{
		"refused":   "postgres://user:secret@127.0.0.1:1/db",
		"no socket": "postgres:///db?host=/nowhere&password=secret",
		"no host":   "postgres://user:secret@host.invalid/db",
	} {
		to := t.TempDir()
		r := snapfleet(t, []string{"SNAPFLEET_DATABASE_URL=" + url}, "export", "acme", "--to="+to)
		r.want(t, exitUnreachable, "snapfleet: ")
		if strings.Contains(r.err, "secret") || strings.Contains(r.err, "host.invalid") {
			t.Errorf("%s: it tells whom it asked: %s", name, r.err)
		}
		if left, err := os.ReadDir(to); err != nil || len(left) > 0 {
			t.Errorf("%s: left behind: %v, %v", name, left, err)
		}
	}
}

func TestExportThatIsInterruptedLeavesNothing(t *testing.T) {
	t.Parallel()
	env := source(t, "cmd_export_stop", tenant)
	// Somebody holds a table, so that the export waits in the middle of things.
	url := strings.TrimPrefix(env[0], "SNAPFLEET_DATABASE_URL=")
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), "BEGIN; LOCK acme.parts IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}

	to := t.TempDir()
	cmd, _, stderr := command(t.Context(), env, "export", "acme", "--to="+to, "--lock-timeout=5m")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the export waits for the lock", func() bool {
		var waiting int
		err := conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_locks WHERE NOT granted").Scan(&waiting)
		return err == nil && waiting > 0
	})
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	result{"", stderr.String(), cmd.ProcessState.ExitCode()}.want(t, exitInterrupted, "snapfleet: interrupted")
	if left, err := os.ReadDir(to); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// eventually looks again and again until ok, for a minute at most.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for !ok() {
		select {
		case <-look.C:
		case <-deadline.C:
			t.Fatalf("not within a minute: %s", what)
		}
	}
}
