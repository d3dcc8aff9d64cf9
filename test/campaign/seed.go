package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
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
func (b bug) caught(ctx context.Context, shop workshop) error {
	dir, err := os.MkdirTemp(shop.temp, "bug-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder
	overlay, err := b.overlay(shop.root, dir)
	if err != nil {
		return err
	}
	pkg, run := b.test()
	out, err := shop.test(ctx, overlay, bugTimeout, pkg, run)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err == nil && bytes.Contains(out, []byte("no tests to run")):
		return fmt.Errorf("no test is called %s", run)
	case err == nil:
		return fmt.Errorf("survived %s in %s", run, pkg)
	case bytes.Contains(out, []byte("go build: exit status")):
		return fmt.Errorf("it does not compile: %w\n%s", err, tail(out, 20))
	case strings.HasPrefix(run, inCampaign) && !bytes.Contains(out, []byte(" VIOLATION")), !bytes.Contains(out, []byte("--- FAIL")) && !bytes.Contains(out, []byte("panic: ")):
		return fmt.Errorf("no test has failed, but: %w\n%s", err, tail(out, 20))
	}
	return nil
}

// sound runs, without any bug, the tests of one package that are to notice bugs: what fails anyway notices nothing.
func sound(ctx context.Context, shop workshop, pkg string, bugs []bug) error {
	var tests, cases []string
	for _, b := range bugs {
		at, run := b.test()
		if at != pkg {
			continue
		}
		if pattern, ok := strings.CutPrefix(run, inCampaign); ok {
			cases = append(cases, pattern)
			continue
		}
		name, _, _ := strings.Cut(run, "/")
		tests = append(tests, name)
	}
	for _, run := range []string{strings.Join(tests, "|"), inCampaign + strings.Join(cases, "|")} {
		if run == "" || run == inCampaign {
			continue
		}
		if out, err := shop.test(ctx, "", 2*bugTimeout, pkg, run); err != nil {
			return fmt.Errorf("tests of %s fail without a bug: %w\n%s", pkg, err, tail(out, 20))
		}
	}
	return nil
}
