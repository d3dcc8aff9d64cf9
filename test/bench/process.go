package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// cpuOf is how many seconds of CPU a running process has had. The threads' own counts are in nanoseconds, the
// process's in hundredths of a second, which is more than an idle worker takes in many.
func cpuOf(pid int) (float64, error) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(threads) == 0 {
		return 0, fmt.Errorf("the system does not say what process %d has used: this takes Linux", pid)
	}
	var total time.Duration
	for _, name := range threads {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // the thread has ended
		}
		on, _, _ := strings.Cut(string(text), " ")
		ns, err := strconv.ParseInt(on, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read %s: %w", name, err)
		}
		total += time.Duration(ns)
	}
	return total.Seconds(), nil
}

// databaseCPU is how many seconds of CPU all sessions have had that have ended by now, and waits for those that are
// about to: PostgreSQL makes a process of each, and the system knows what a process's children have used.
func (g *ground) databaseCPU(ctx context.Context) (float64, error) {
	conn, err := pgx.Connect(ctx, g.database)
	if err != nil {
		return 0, err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it has served
	text, err := os.ReadFile(filepath.Join(g.temp, "postgres", "data", "postmaster.pid"))
	if err != nil {
		return 0, err
	}
	pid, _, _ := strings.Cut(string(text), "\n")
	for tick := time.NewTicker(5 * time.Millisecond); ; <-tick.C {
		busy, err := sessions(pid, int(conn.PgConn().PID()))
		if err != nil {
			return 0, err
		}
		if !busy {
			tick.Stop()
			break
		}
	}
	if text, err = os.ReadFile("/proc/" + pid + "/stat"); err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	const cutime, cstime, ticks = 13, 14, 100 // a second, for everybody who looks in there
	if len(fields) <= cstime {
		return 0, fmt.Errorf("/proc/%s/stat has %d fields", pid, len(fields))
	}
	user, err := strconv.ParseFloat(fields[cutime], 64)
	system, err2 := strconv.ParseFloat(fields[cstime], 64)
	return (user + system) / ticks, errors.Join(err, err2)
}

// sessions reports whether the server with that process id has a session but ours. A session's process calls itself
// after its client's address, "postgres: user database 127.0.0.1(54321) COPY", and one that has ended and is not yet
// accounted for has no name.
func sessions(server string, ours int) (bool, error) {
	children, err := os.ReadFile("/proc/" + server + "/task/" + server + "/children")
	if err != nil {
		return false, err
	}
	for child := range strings.FieldsSeq(string(children)) {
		title, err := os.ReadFile("/proc/" + child + "/cmdline")
		if err == nil && child != strconv.Itoa(ours) && (len(title) == 0 || strings.Contains(string(title), "(")) {
			return true, nil
		}
	}
	return false, nil
}

// memoryOf is how much memory a running process has, in MiB: now (VmRSS), or when it had most (VmHWM). What wait says
// of a process that has ended will not do: in it is also what its parent had when it was started.
func memoryOf(pid int, what string) (float64, error) {
	status, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	defer status.Close() //nolint:errcheck // it is read
	for lines := bufio.NewScanner(status); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) == 3 && fields[0] == what+":" {
			kib, err := strconv.ParseFloat(fields[1], 64)
			return kib / 1024, err
		}
	}
	return 0, fmt.Errorf("the system does not say how much memory process %d has", pid)
}

// meter is the word by which this program runs another, and tells what that has cost: bench meter bash -c ... It is a
// process of its own because it is small: a process inherits its parent's largest memory, and we have a server in us.
const meter = "meter"

// meterFD is where it tells.
const meterFD = 3

// runMetered runs a program with our streams, and returns its exit code.
func runMetered(args []string) int {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	began := time.Now()
	err := cmd.Run()
	if cmd.ProcessState == nil {
		fmt.Fprintln(os.Stderr, err)
		return exitFailed
	}
	if err := json.NewEncoder(os.NewFile(meterFD, meter)).Encode(costOf(cmd.ProcessState, time.Since(began))); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return exitFailed
	}
	return max(cmd.ProcessState.ExitCode(), 0)
}

// metered is execute for a program whose memory counts, too.
func metered(ctx context.Context, cmd *exec.Cmd) (cost Cost, err error) {
	self, err := os.Executable()
	if err != nil {
		return Cost{}, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return Cost{}, err
	}
	defer r.Close() //nolint:errcheck // it is read
	outer := exec.Command(self, append([]string{meter}, cmd.Args...)...)
	outer.Dir, outer.Env, outer.ExtraFiles = cmd.Dir, cmd.Env, []*os.File{w}
	_, err = execute(ctx, outer)
	if err := errors.Join(err, w.Close()); err != nil {
		return Cost{}, err
	}
	return cost, json.NewDecoder(r).Decode(&cost)
}
