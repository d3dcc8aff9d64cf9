//go:build linux

package test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/snapfleet/snapfleet/test/bucket"
)

// TestProcess runs workers where no process is comfortable: what they deliver is as whole as ever, or somebody else
// delivers it.
func TestProcess(t *testing.T) {
	t.Parallel()
	sideBySide(t, map[string]func(*testing.T){
		"log that nobody can keep":   logsNowhere,
		"disk that takes no file":    writesNowhere,
		"memory that is just enough": needsLittle,
		"memory that is not enough":  runsOutOfMemory,
		"signals":                    isSignalled,
		"broker that comes later":    waitsForBroker,
	})
}

// launch starts a worker by a shell that has run the setup first, in the same process. Nobody reads what it says,
// unless change says so.
func (f *fleet) launch(name, setup string, change func(*exec.Cmd), args ...string) *process {
	f.t.Helper()
	args = slices.Concat([]string{"-c", setup + `; exec "$0" "$@"`, binary, "worker", "--name=" + name, "--allow-endpoint=" + cloud.Endpoint()}, quick, args)
	p := &process{Cmd: exec.Command("sh", args...), over: make(chan error, 1)}
	p.Env = f.env
	if change != nil {
		change(p.Cmd)
	}
	if err := p.Start(); err != nil {
		f.t.Fatal(err)
	}
	go func() { p.over <- p.Wait() }()
	f.t.Cleanup(func() { _ = p.stop(os.Interrupt) })
	return p
}

// logsNowhere: what a worker says goes to a disk that is full, or to a pipe whose reader has gone.
func logsNowhere(t *testing.T) {
	f := newFleet(t, "nowhere", little("nowhere"))
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close() //nolint:errcheck // nothing was written
	p := f.launch("full", ":", func(c *exec.Cmd) { c.Stdout, c.Stderr = full, full }, "--log-level=debug")
	f.submit("full", "--only=tables")
	f.allDelivered("full")
	if err := p.stop(syscall.SIGTERM); err != nil {
		t.Errorf("a worker with a full disk ends with %v", err)
	}

	// The reader goes away in the middle of a job.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	hold := make(chan struct{})
	fault := cloud.Inject(bucket.Fault{Match: f.request("pipe", "UploadPart"), Skip: 1, Times: 1, Hold: hold})
	defer fault.Remove()
	p = f.launch("pipe", ":", func(c *exec.Cmd) { c.Stdout, c.Stderr = w, w }, "--log-level=debug")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	f.submit("pipe", "--only=tables")
	for lines := bufio.NewScanner(r); lines.Scan() && !strings.Contains(lines.Text(), "job claimed"); {
	}
	<-fault.Reached
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	close(hold)
	f.allDelivered("pipe")
	if err := p.stop(syscall.SIGTERM); err != nil {
		t.Errorf("a worker whose reader has gone ends with %v", err)
	}
}

// writesNowhere: neither the working folder nor the temporary one nor the home takes a file, and any byte that is
// written to a file would end the process. A worker needs none.
func writesNowhere(t *testing.T) {
	f := newFleet(t, "diskless", traced("diskless", "diskless-files", "x"))
	p := f.launch("diskless", "ulimit -f 0", func(c *exec.Cmd) {
		c.Dir = "/proc"
		c.Env = append(slices.Clone(f.env), "TMPDIR=/proc", "HOME=/proc")
	}, "--attachments-source=diskless-files={tenant}/")
	f.submit("job")
	f.allDelivered("job")
	if err := p.spoolless(); err != nil {
		t.Error(err)
	}
	if err := p.stop(syscall.SIGTERM); err != nil {
		t.Errorf("the worker ends with %v", err)
	}
}

// needsLittle: a worker whose memory limit is less than its buffers and windows takes longer, and delivers.
func needsLittle(t *testing.T) {
	const most = 128 << 20
	f := newFleet(t, "frugal", func(ctx context.Context, url string) error { return fill(ctx, url, "frugal", 0.1) })
	p := f.launch("frugal", "export GOMEMLIMIT=40MiB", nil, "--slots=1", "--part-size=5MiB", "--buffers=3", "--connections=1", "--attachments-fetch=1")
	f.submit("job", "--only=tables")
	f.allDelivered("job")
	if had := highWater(t, p.Process.Pid); had > most {
		t.Errorf("a worker that was told to need 40 MiB had %d", had>>20)
	}
	if err := p.stop(syscall.SIGTERM); err != nil {
		t.Errorf("the worker ends with %v", err)
	}
}

// runsOutOfMemory: a worker that needs more memory than there is ends, says why, and loses nothing. The limit is of
// addresses: Linux does not hold the Go runtime to one of data. The tenant is large enough to need a part's buffer.
func runsOutOfMemory(t *testing.T) {
	f := newFleet(t, "greedy", func(ctx context.Context, url string) error { return fill(ctx, url, "greedy", 0.02) })
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close() //nolint:errcheck // it was read
	p := f.launch("greedy", "ulimit -v 4194304", func(c *exec.Cmd) { c.Stderr = w }, "--part-size=5GiB")
	f.submit("job", "--only=tables")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	said, err := io.ReadAll(r)
	if err != nil || !strings.Contains(string(said), "out of memory") {
		t.Errorf("it says %.2000s, %v", said, err)
	}
	if code := exitCode(p.stop(syscall.SIGTERM)); code != 2 {
		t.Errorf("it ends with %d", code)
	}
	f.work("successor", sweeping...)
	f.allDelivered("job")
	if s := f.await("job"); s.Crashes != 1 {
		t.Errorf("%d crashes", s.Crashes)
	}
}

// exitCode is how a process has ended; -1: by a signal.
func exitCode(err error) int {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	return 0
}

// isSignalled: the first SIGTERM lets a job go on, the second gives it back, and SIGQUIT says where everything
// stands and ends the process. The job goes on elsewhere.
func isSignalled(t *testing.T) {
	f := newFleet(t, "signals", little("signals"))
	for _, tt := range []struct {
		name    string
		hurry   syscall.Signal
		says    string
		code    int
		crashes int
	}{
		{"term", syscall.SIGTERM, "worker stopped", 0, 0},
		{"quit", syscall.SIGQUIT, "SIGQUIT: quit", 2, 1},
	} {
		hold := make(chan struct{})
		fault := cloud.Inject(bucket.Fault{Match: f.request(tt.name, "UploadPart"), Skip: 1, Times: 1, Hold: hold})
		first := f.work(tt.name, append([]string{"--grace=1h"}, sweeping...)...)
		f.submit(tt.name, "--only=tables")
		<-fault.Reached
		if err := first.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		f.tell("stopping: no new job is taken", 1, first)
		f.submit(tt.name+"-later", "--only=tables")
		if s, err := f.jobs.Status(t.Context(), f.tenant, tt.name); err != nil || s.State != "running" || s.Worker != tt.name {
			t.Errorf("after the first signal: %+v, %v", s, err)
		}
		if code := exitCode(first.stop(tt.hurry)); code != tt.code {
			t.Errorf("%s: it ends with %d", tt.name, code)
		}
		said := first.said()
		if !strings.Contains(said, tt.says) {
			t.Errorf("%s: it does not say %q", tt.name, tt.says)
		}
		for _, secret := range []string{f.record().Destination.ExternalID, worker.SecretKey, f.database} {
			if strings.Contains(said, secret) {
				t.Errorf("%s: it tells a secret", tt.name)
			}
		}
		if n := strings.Count(said, `"message":"job claimed"`); n != 1 {
			t.Errorf("%s: it has claimed %d jobs", tt.name, n)
		}
		close(hold)
		fault.Remove()
		second := f.work(tt.name+"-successor", sweeping...)
		f.allDelivered(tt.name, tt.name+"-later")
		if s := f.await(tt.name); s.Crashes != tt.crashes || s.Errors != 0 {
			t.Errorf("%s: %d crashes, %d errors", tt.name, s.Crashes, s.Errors)
		}
		if err := second.stop(syscall.SIGTERM); err != nil {
			t.Errorf("%s: its successor ends with %v", tt.name, err)
		}
	}
}

// waitsForBroker: a worker that finds no broker says so and ends; whoever supervises it starts it again, until there
// is one.
func waitsForBroker(t *testing.T) {
	f := newFleet(t, "later", little("later"))
	f.submit("job", "--only=tables")
	f.nats.Stop()
	const unreachable = 7
	if out, code := f.try(f.env, "worker", "--listen="); code != unreachable || !strings.Contains(out, "fix:") {
		t.Errorf("it ends with %d:\n%s", code, out)
	}
	if err := f.nats.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.work("worker", sweeping...)
	f.allDelivered("job")
}
