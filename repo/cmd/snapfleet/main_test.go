package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/snapfleet/snapfleet/test/bucket"
	"github.com/snapfleet/snapfleet/test/world"
	"go.uber.org/goleak"
)

// What the tests of the built binary share.
var (
	binary   string
	postgres *world.Postgres
	broker   *world.NATS
	house    string // the repository: the S3 server below changes the working directory
)

func TestMain(m *testing.M) { os.Exit(setUp(m)) }

func setUp(m *testing.M) (code int) {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var err error
	if house, err = filepath.Abs(filepath.Join("..", "..")); err != nil {
		return fail(err)
	}
	dir, err := os.MkdirTemp("", "snapfleet-cmd-")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "snapfleet")
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		return fail(fmt.Errorf("build: %w\n%s", err, out))
	}
	if postgres, err = world.FindPostgres(context.Background()); err != nil {
		return fail(err)
	}
	if broker, err = world.StartNATS(filepath.Join(dir, "nats")); err != nil {
		return fail(errors.Join(err, postgres.Stop()))
	}
	code = m.Run()
	broker.Stop()
	if err := postgres.Stop(); err != nil {
		return fail(err)
	}
	if err := goleak.Find(bucket.LeftBehind()...); err != nil {
		return fail(err)
	}
	return code
}

// result is what a run of the binary did.
type result struct {
	out, err string
	code     int
}

// command is the binary with no variables but those given, and a NATS that does not answer.
func command(ctx context.Context, env []string, args ...string) (cmd *exec.Cmd, out, err *bytes.Buffer) {
	cmd = exec.CommandContext(ctx, binary, args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "SNAPFLEET_NATS_URL=nats://127.0.0.1:1"}, env...)
	out, err = new(bytes.Buffer), new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = out, err
	return cmd, out, err
}

func snapfleet(t *testing.T, env []string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd, out, stderr := command(ctx, env, args...)
	if err := cmd.Run(); err != nil {
		if _, ok := errors.AsType[*exec.ExitError](err); !ok {
			t.Fatalf("snapfleet %s: %v", strings.Join(args, " "), err)
		}
	}
	r := result{out.String(), stderr.String(), cmd.ProcessState.ExitCode()}
	if strings.Contains(r.out+r.err, secret) {
		t.Errorf("snapfleet %s: the password is shown:\n%s%s", strings.Join(args, " "), r.out, r.err)
	}
	return r
}

// secret is the password in every connection string of these tests.
const secret = "hunter2hunter2"

func (r result) String() string {
	return fmt.Sprintf("exit %d\n--- stdout\n%s--- stderr\n%s", r.code, r.out, r.err)
}

// want fails unless the code is right and every text is in one of the two streams.
func (r result) want(t *testing.T, code int, texts ...string) {
	t.Helper()
	flat := strings.Join(strings.Fields(r.out+" "+r.err), " ") // however it was wrapped
	for _, text := range texts {
		if !strings.Contains(flat, text) {
			t.Errorf("%q is not in:\n%s", text, r)
		}
	}
	if r.code != code {
		t.Errorf("exit %d, want %d:\n%s", r.code, code, r)
	}
}
