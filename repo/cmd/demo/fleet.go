package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/snapfleet/snapfleet/test/world"
)

// fleet runs the snapfleet binary, as an operator would.
type fleet struct {
	binary string
	env    []string // what all of its processes see
	dir    string   // where logs go
	out    io.Writer
}

// build makes the binary from the source that we were built from, with the same settings: most of its
// packages are compiled already then.
func build(ctx context.Context, source, dir string) (string, error) {
	binary := filepath.Join(dir, "snapfleet")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", binary, "github.com/snapfleet/snapfleet/cmd/snapfleet")
	cmd.Dir = source
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build (run the demo in the source's folder, or give --snapfleet): %w: %s", err, bytes.TrimSpace(out))
	}
	return binary, nil
}

// cleanEnviron is ours without what would lead snapfleet elsewhere. keep names what stays nevertheless.
func cleanEnviron(keep ...string) []string {
	var env []string
	for _, v := range os.Environ() {
		kept := false
		for _, prefix := range keep {
			kept = kept || strings.HasPrefix(v, prefix)
		}
		if kept || !strings.HasPrefix(v, "AWS_") && !strings.HasPrefix(v, "SNAPFLEET_") && !strings.HasPrefix(v, "PG") {
			env = append(env, v)
		}
	}
	return env
}

// output runs a verb and returns what it printed.
func (f *fleet) output(ctx context.Context, env []string, args ...string) ([]byte, error) {
	var out bytes.Buffer
	err := f.run(ctx, env, &out, args...)
	return out.Bytes(), err
}

// show runs a verb that prints for the person before us.
func (f *fleet) show(ctx context.Context, env []string, args ...string) error {
	return f.run(ctx, env, f.out, args...)
}

func (f *fleet) run(ctx context.Context, env []string, out io.Writer, args ...string) error {
	cmd := exec.Command(f.binary, args...)
	cmd.Env = append(append([]string(nil), f.env...), env...)
	cmd.Stdout = out
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	if file, ok := out.(*os.File); ok && file == os.Stdout {
		cmd.Stderr = os.Stderr
	}
	done, err := world.Spawn(cmd, syscall.SIGKILL)
	if err != nil {
		return fmt.Errorf("snapfleet %s: %w", args[0], err)
	}
	select {
	case err = <-done:
	case <-ctx.Done():
		cmd.Process.Signal(syscall.SIGTERM) // it may have ended by now
		<-done
		return context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("snapfleet %s: %w%s", args[0], err, indented(complaint.Bytes()))
	}
	return nil
}

func indented(b []byte) string {
	if b = bytes.TrimSpace(b); len(b) == 0 {
		return ""
	}
	return "\n    " + strings.ReplaceAll(string(b), "\n", "\n    ")
}

// workerProcess is one `snapfleet worker`.
type workerProcess struct {
	name    string
	address string // of its probes and metrics
	log     string // a file
	cmd     *exec.Cmd
	done    <-chan error
}

// work starts a worker and waits until it takes jobs.
func (f *fleet) work(ctx context.Context, name string, env []string, args ...string) (*workerProcess, error) {
	var last error
	for range 3 { // another process may take the port before the worker does
		w := &workerProcess{name: name, log: filepath.Join(f.dir, name+".log")}
		if w.address, last = freeAddress(); last != nil {
			break
		}
		log, err := os.OpenFile(w.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			return nil, err
		}
		w.cmd = exec.Command(f.binary, append([]string{"worker", "--name=" + name, "--listen=" + w.address, "--log-format=json"}, args...)...)
		w.cmd.Env = append(append([]string(nil), f.env...), env...)
		w.cmd.Stdout, w.cmd.Stderr = log, log
		w.done, err = world.Spawn(w.cmd, syscall.SIGKILL)
		log.Close() // the worker has it open, too
		if err != nil {
			return nil, err
		}
		if last = w.ready(ctx); last == nil {
			return w, nil
		}
		w.stop() // why it is not ready says more
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	return nil, last
}

func (w *workerProcess) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("not ready within a minute"))
	defer cancel()
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Second}
	for {
		select {
		case err := <-w.done:
			return fmt.Errorf("%s ended at its start: %w: %s", w.name, cmp.Or(err, errors.New("without an error")), w.lastWords())
		case <-ctx.Done():
			return fmt.Errorf("%s: %w: %s", w.name, context.Cause(ctx), w.lastWords())
		case <-tick.C:
		}
		r, err := client.Get("http://" + w.address + "/readyz")
		if err != nil {
			continue
		}
		r.Body.Close() // read to nowhere
		if r.StatusCode == http.StatusOK {
			return nil
		}
	}
}

// lastWords is the end of its log.
func (w *workerProcess) lastWords() string {
	data, err := os.ReadFile(w.log)
	if err != nil {
		return ""
	}
	lines := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	return indented(bytes.Join(lines[max(0, len(lines)-5):], []byte("\n")))
}

// stop lets the worker drain: there is nothing to do any more, or nobody who waits for it. It may be called
// again.
func (w *workerProcess) stop() error {
	w.cmd.Process.Signal(syscall.SIGTERM) // it may have ended by now
	var err error
	select {
	case err = <-w.done:
	case <-time.After(30 * time.Second):
		w.cmd.Process.Kill() // it may have ended by now
		<-w.done
		return fmt.Errorf("%s did not stop within 30s and was killed", w.name)
	}
	if w.murdered() { // by somebody who wanted to see the other one take over
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w%s", w.name, err, w.lastWords())
	}
	return nil
}

// murdered: it ended by a SIGKILL that was not ours.
func (w *workerProcess) murdered() bool {
	if w.cmd.ProcessState == nil {
		return false
	}
	status, ok := w.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// peak is the most memory that it held, where the system tells.
func (w *workerProcess) peak() (bytes int64, known bool) {
	if w.cmd.ProcessState == nil {
		return 0, false
	}
	usage, ok := w.cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok || runtime.GOOS != "linux" {
		return 0, false
	}
	return usage.Maxrss << 10, true
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close() // nothing was written
	return l.Addr().String(), nil
}
