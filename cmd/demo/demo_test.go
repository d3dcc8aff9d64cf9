package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/snapfleet/snapfleet/test/world"
	"github.com/snapfleet/snapfleet/test/world/factory"

	"al.essio.dev/pkg/shellescape"
)

// The real binaries, built once.
var demoBinary, snapfleetBinary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "snapfleet-demo-test-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		demoBinary, snapfleetBinary = filepath.Join(dir, "demo"), filepath.Join(dir, "snapfleet")
		for binary, pkg := range map[string]string{demoBinary: ".", snapfleetBinary: "../snapfleet"} {
			if out, err := exec.Command("go", "build", "-o", binary, pkg).CombinedOutput(); err != nil {
				fmt.Fprintf(os.Stderr, "%v\n%s", err, out)
				return 1
			}
		}
		return m.Run()
	}())
}

// demonstration is a demo under way, with a temporary folder of its own that must be empty in the end.
type demonstration struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	temp  string
	lines chan string
	err   *bytes.Buffer
	said  strings.Builder
}

func start(t *testing.T, args ...string) *demonstration {
	t.Helper()
	temp, err := os.MkdirTemp("", "snapfleet-demo-test-") // not t.TempDir, which other users cannot reach
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(temp) })
	if err := os.Chmod(temp, 0o755); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(strings.Join(args, " "), "--snapfleet") {
		args = append(args, "--snapfleet="+snapfleetBinary)
	}
	r := &demonstration{cmd: exec.Command(demoBinary, args...), temp: temp, lines: make(chan string), err: &bytes.Buffer{}}
	r.cmd.Env = append(cleanEnviron(), "TMPDIR="+temp, "DATABASE_URL=", "SCHEMA=")
	r.cmd.Stderr = r.err
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if r.in, err = r.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	watchdog := time.AfterFunc(5*time.Minute, func() { r.cmd.Process.Kill() })
	t.Cleanup(func() { watchdog.Stop() })
	go func() {
		defer close(r.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			r.lines <- s.Text()
		}
	}()
	return r
}

// until reads what the demo says up to a line that matches, and returns the submatches.
func (r *demonstration) until(t *testing.T, pattern string) []string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	for line := range r.lines {
		r.said.WriteString(line + "\n")
		if m := re.FindStringSubmatch(line); m != nil {
			return m
		}
	}
	t.Fatalf("the demo ended without saying %q:\n%s%s", pattern, &r.said, r.err)
	return nil
}

// end waits for the exit code, and checks that nothing is left.
func (r *demonstration) end(t *testing.T, want int) string {
	t.Helper()
	for line := range r.lines {
		r.said.WriteString(line + "\n")
	}
	r.cmd.Wait() // the exit code says it
	if got := r.cmd.ProcessState.ExitCode(); got != want {
		t.Fatalf("exit code %d, want %d:\n%s%s", got, want, &r.said, r.err)
	}
	left, err := os.ReadDir(r.temp)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range left {
		t.Errorf("left behind: %s", entry.Name())
	}
	// Whatever it started has the folder in its command line or its environment.
	if out, err := exec.Command("pgrep", "-f", r.temp).Output(); err == nil {
		t.Errorf("left running: %s", out)
	}
	return r.said.String()
}

func TestTwoAtOnce(t *testing.T) {
	t.Parallel()
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			said := start(t, "--rows=0.01", "--no-keep").end(t, 0)
			for _, want := range []string{"proven: 38 tables, 12,256 rows, 200 attachments", "manifest.json", "all of it"} {
				if !strings.Contains(said, want) {
					t.Errorf("it did not say %q:\n%s", want, said)
				}
			}
		})
	}
	wg.Wait()
}

// TestKeep does what the demo says one can do while it waits.
func TestKeep(t *testing.T) {
	t.Parallel()
	r := start(t, "--rows=0.001", "--keep")
	env := r.until(t, `the environment +\. (\S+)`)[1]
	status := r.until(t, `the job +(snapfleet status .*)`)[1]
	prove := r.until(t, `the proof, by file +(.*)`)[1]
	files := r.until(t, `the files +(.*)`)[1]
	again := r.until(t, `again +(snapfleet submit .*)`)[1]
	shell := func(command string) string {
		t.Helper()
		out, err := exec.Command("sh", "-ec", ". "+env+"; PATH="+filepath.Dir(snapfleetBinary)+":$PATH; "+command).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
		return string(out)
	}
	for command, want := range map[string]string{
		status: "delivered", prove: "run_steps.csv.gz", files: "measurements.csv.gz", again: "delivered: 38 tables",
	} {
		if out := shell(command); !strings.Contains(out, want) {
			t.Errorf("%s did not print %q:\n%s", command, want, out)
		}
	}
	if _, err := io.WriteString(r.in, "\n"); err != nil {
		t.Fatal(err)
	}
	r.end(t, 0)
}

// TestKill kills the worker that has the job. The other one must find what it left behind, and deliver.
func TestKill(t *testing.T) {
	t.Parallel()
	r := start(t, "--rows=1", "--no-keep")
	url := r.until(t, `JetStream at (nats://\S+)`)[1]
	processes := map[string]string{}
	for range 2 {
		m := r.until(t, `(worker-\d) takes jobs: process (\d+)`)
		processes[m[1]] = m[2]
	}
	job := r.until(t, `status acme (\S+) --watch`)[1]
	r.until(t, `running, tables`)
	out, err := exec.Command(snapfleetBinary, "status", "acme", job, "--json", "--nats-url="+url).Output()
	if err != nil {
		t.Fatal(err)
	}
	var status struct {
		State, Worker string
		Attempt       int
	}
	if err := json.Unmarshal(out, &status); err != nil {
		t.Fatal(err)
	}
	if processes[status.Worker] == "" {
		t.Fatalf("nobody to kill: %s", out)
	}
	if out, err := exec.Command("kill", "-9", processes[status.Worker]).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	said := r.end(t, 0)
	for _, want := range []string{"proven: 38 tables, 1,199,044 rows", status.Worker + " was killed"} {
		if !strings.Contains(said, want) {
			t.Errorf("it did not say %q:\n%s", want, said)
		}
	}
}

func TestInterrupt(t *testing.T) {
	t.Parallel()
	for _, moment := range []string{`✓ S3 and STS`, `✓ PostgreSQL`, `worker-2 takes jobs`, `status .* --watch`} {
		t.Run(moment, func(t *testing.T) {
			r := start(t, "--rows=0.01", "--no-keep")
			r.until(t, moment)
			if err := r.cmd.Process.Signal(syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
			r.end(t, exitInterrupted)
			if !strings.Contains(r.err.String(), "everything is stopped") {
				t.Errorf("it said %q", r.err)
			}
		})
	}
}

// TestOwnDatabase delivers a schema of somebody's database, and changes nothing there.
func TestOwnDatabase(t *testing.T) {
	t.Parallel()
	p, err := world.FindPostgres(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop() // the test is over
	database, err := p.CreateDatabase(t.Context(), "own")
	if err != nil {
		t.Fatal(err)
	}
	defer p.DropDatabase(context.Background(), "own") // the test is over
	conn, err := pgx.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background()) // the test is over
	const schema = `O'Brien & "sons"`
	if err := factory.Load(t.Context(), conn, schema, 0.001); err != nil {
		t.Fatal(err)
	}
	objects := func() (n int) {
		t.Helper()
		if err := conn.QueryRow(t.Context(), "SELECT (SELECT count(*) FROM pg_class) + (SELECT count(*) FROM pg_roles)").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := objects()
	said := start(t, "--no-keep", "--database-url="+database, "--schema="+schema).end(t, 0)
	if !strings.Contains(said, "proven: 38 tables") || !strings.Contains(said, "s3://acme-snapshots/demo/") {
		t.Errorf("it said:\n%s", said)
	}
	if after := objects(); after != before {
		t.Errorf("%d relations and roles before, %d after", before, after)
	}
}

func TestFailures(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		args []string
		code int
		want string
	}{
		"no schema":           {[]string{"--database-url=postgres://127.0.0.1:1/x"}, exitUsage, "needs --schema"},
		"unreachable":         {[]string{"--database-url=postgres://127.0.0.1:1/x", "--schema=s"}, exitFailed, "PostgreSQL: "},
		"no such binary":      {[]string{"--snapfleet=/nonexistent/snapfleet"}, exitUsage, "/nonexistent/snapfleet"},
		"no rows":             {[]string{"--rows=0"}, exitUsage, "--rows"},
		"binary that is none": {[]string{"--snapfleet=/bin/false", "--rows=0.001"}, exitFailed, "snapfleet setup"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t, append(tc.args, "--no-keep")...)
			r.end(t, tc.code)
			if !strings.Contains(r.err.String(), tc.want) {
				t.Errorf("it said %q, want %q", r.err, tc.want)
			}
		})
	}
}

// TestPolicies: the demo's customer does what the customers' page says.
func TestPolicies(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join("..", "..", "deploy", "customer", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	role, err := customerRole("YOUR-EXTERNAL-ID-FROM-US")
	if err != nil {
		t.Fatal(err)
	}
	for name, ours := range map[string]string{"trust": role.Trust, "permissions": role.Policy} {
		block := regexp.MustCompile("(?s)<!-- policy: " + name + " -->\\s*```json\n(.*?)```").FindSubmatch(page)
		if block == nil {
			t.Fatalf("the page has no block %q", name)
		}
		var want, got any
		if err := json.Unmarshal(block[1], &want); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(ours), &got); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s policy differs from the page's:\n%s", name, block[1])
		}
	}
}

func TestShellQuote(t *testing.T) {
	t.Parallel()
	for _, word := range []string{"", "plain", "two words", "it's", `"$HOME"`, "a=b{c}", "new\nline", "~", "*"} {
		out, err := exec.Command("sh", "-c", "printf %s "+shellescape.Quote(word)).Output()
		if err != nil || string(out) != word {
			t.Errorf("%q became %q, %v", word, out, err)
		}
	}
}
