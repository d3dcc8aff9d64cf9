package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// bugTimeout is how long a test may take to notice. One that hangs has noticed, too.
const bugTimeout = 3 * time.Minute

// overlay writes the file with the bug in it, and the overlay that puts it in the place of the real one.
func (b bug) overlay(root, dir string) (string, error) {
	file := filepath.Join(root, filepath.FromSlash(b.file))
	source, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	if n := strings.Count(string(source), b.old); n != 1 {
		return "", fmt.Errorf("the substitution no longer applies: its text stands %d times in %s", n, b.file)
	}
	bent := filepath.Join(dir, "bent.go")
	if err := os.WriteFile(bent, []byte(strings.Replace(string(source), b.old, b.new, 1)), 0o600); err != nil {
		return "", err
	}
	list, err := json.Marshal(map[string]any{"Replace": map[string]string{file: bent}})
	if err != nil {
		return "", err
	}
	overlay := filepath.Join(dir, "overlay.json")
	return overlay, os.WriteFile(overlay, list, 0o600)
}

// caught runs the bug's test over the bug. It returns nil when the test fails, and the reason why that is not so.
func (b bug) caught(ctx context.Context, root string) error {
	dir, err := os.MkdirTemp("", "snapfleet-bug-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder
	overlay, err := b.overlay(root, dir)
	if err != nil {
		return err
	}
	out, err := goTest(ctx, root, "-overlay", overlay, "-count=1", "-timeout", bugTimeout.String(), "-run", b.run, b.pkg())
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err == nil && bytes.Contains(out, []byte("no tests to run")):
		return fmt.Errorf("no test is called %s", b.run)
	case err == nil:
		return fmt.Errorf("survived %s in %s", b.run, b.pkg())
	case !bytes.Contains(out, []byte("--- FAIL")) && !bytes.Contains(out, []byte("panic: ")):
		return fmt.Errorf("no test has failed, but: %w\n%s", err, tail(out, 20))
	}
	return nil
}

// sound runs, without any bug, the tests that are to notice the bugs of one package: what fails anyway
// notices nothing.
func sound(ctx context.Context, root, pkg string) error {
	var tests []string
	for _, b := range bugs {
		if name, _, _ := strings.Cut(b.run, "/"); b.pkg() == pkg {
			tests = append(tests, name)
		}
	}
	out, err := goTest(ctx, root, "-count=1", "-timeout", (2 * bugTimeout).String(), "-run", strings.Join(tests, "|"), pkg)
	if err != nil {
		return fmt.Errorf("tests of %s fail without a bug: %w\n%s", pkg, err, tail(out, 20))
	}
	return nil
}

// goTest runs go test at the repository's root.
func goTest(ctx context.Context, root string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", append([]string{"test"}, args...)...)
	cmd.Dir = root
	cmd.WaitDelay = 5 * time.Second
	return cmd.CombinedOutput()
}

// tail is the last n lines.
func tail(out []byte, n int) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
