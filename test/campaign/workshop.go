package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// workshop is where tests are run: at the repository's root, with a temporary folder that holds all that they make.
// They are a process group of their own, of which nothing is left when they end, however they end.
type workshop struct{ root, temp string }

// openWorkshop makes one. close takes it away.
func openWorkshop(ctx context.Context) (shop workshop, close func(), err error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return shop, nil, fmt.Errorf("find the module: %w", err)
	}
	shop.root = strings.TrimSpace(string(out))
	if shop.temp, err = os.MkdirTemp("", "snapfleet-campaign-"); err != nil {
		return shop, nil, err
	}
	close = func() { _ = os.RemoveAll(shop.temp) }
	if err := os.Chmod(shop.temp, 0o755); err != nil { // PostgreSQL is another user, and has to get to its data
		close()
		return shop, nil, err
	}
	return shop, close, nil
}

// command is go with some arguments. Its end is reported by wait.
func (w workshop) command(ctx context.Context, args ...string) (cmd *exec.Cmd, wait func() error) {
	cmd = exec.CommandContext(ctx, "go", args...)
	cmd.Dir = w.root
	cmd.Env = append(os.Environ(), "TMPDIR="+w.temp)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = 10 * time.Second
	return cmd, func() error {
		err := cmd.Wait()
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // workers that the tests could not end
		return err
	}
}

// test runs tests of a package, or cases of the campaign. The overlay, if there is one, is also that of the programs
// which the tests build.
func (w workshop) test(ctx context.Context, overlay string, limit time.Duration, pkg, run string) ([]byte, error) {
	args := []string{"test", "-count=1", "-timeout", limit.String()}
	if cases, ok := strings.CutPrefix(run, inCampaign); ok {
		args = append(args, "-run", "^TestCampaign$", pkg, "-args", "-case="+cases)
	} else {
		args = append(args, "-run", run, pkg)
	}
	cmd, wait := w.command(ctx, args...)
	if overlay != "" {
		cmd.Env = append(cmd.Env, strings.TrimSpace("GOFLAGS="+os.Getenv("GOFLAGS")+" -overlay="+overlay))
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	err := wait()
	return out.Bytes(), err
}

// event is a line of go test -json.
type event struct {
	Action string
	Test   string
	Output string
}

// stream runs go test and hands on its events as they come. The error says that it failed, and how it ended.
func (w workshop) stream(ctx context.Context, args []string, see func(event)) error {
	cmd, wait := w.command(ctx, append([]string{"test", "-json", "-count=1"}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	var last []byte
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			continue
		}
		last = append(last, e.Output...)
		last = last[max(0, len(last)-8<<10):]
		see(e)
	}
	err = wait()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return fmt.Errorf("go test %s: %w\n%s%s", strings.Join(args, " "), err, stderr.String(), tail(last, 30))
	}
	return nil
}

// tail is the last n lines.
func tail(out []byte, n int) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
