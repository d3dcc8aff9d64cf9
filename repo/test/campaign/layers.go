package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/snapfleet/snapfleet/test/model"
)

// report takes the end of one case: err is nil when it is as it should be.
type report func(name string, err error)

// layer is one way to look for violations.
type layer struct {
	name  string
	cases int // expected; 0: not known before
	// run reports each case as it ends, from any goroutine. Its own error means that the layer could not be run.
	run func(ctx context.Context, done report) error
}

// modelLayer looks at every state of the protocol, and at the mutants, each of which has to fail.
func modelLayer() layer {
	return layer{"model", len(model.Protocols) + len(model.Mutants), func(ctx context.Context, done report) error {
		check := func(v model.Variant, want model.Invariant) {
			var err error
			if r := model.Check(v); r.Broken != want {
				err = fmt.Errorf("%v\nwanted: %v", r, want)
			}
			done(v.Name, err)
		}
		for _, v := range model.Protocols {
			check(v, model.Holds)
		}
		for _, m := range model.Mutants {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			check(m.Variant, m.Breaks)
		}
		return nil
	}}
}

// virtualLayer runs the orchestration itself in virtual time, a world for each seed.
func virtualLayer(root string, seeds int, first uint64) layer {
	return layer{"virtual", seeds, func(ctx context.Context, done report) error {
		const test = "TestRandomFaults"
		trail, bad := map[string][]string{}, 0
		err := stream(ctx, root, random("./consumer", test, seeds, first), func(e event) {
			seed, ok := strings.CutPrefix(e.Test, test+"/")
			if !ok {
				return
			}
			switch e.Action {
			case "output":
				trail[seed] = append(trail[seed], e.Output)
			case "pass":
				delete(trail, seed)
				done("seed "+seed, nil)
			case "fail":
				bad++
				done("seed "+seed, fmt.Errorf("repeat it: go test ./consumer -run '^%s$/^%s$' -args -seeds=1 -first=%s\n%s", test, seed, seed, strings.Join(trail[seed], "")))
			}
		})
		return unlessTold(err, bad)
	}}
}

// worldLayer runs real workers, a real broker, a real database and a real store.
func worldLayer(root string, seeds int, first uint64) layer {
	return layer{"world", 0, func(ctx context.Context, done report) error {
		bad := 0
		err := stream(ctx, root, random("./test", "TestCampaign", seeds, first), func(e event) {
			rest, ok := strings.CutPrefix(strings.TrimSpace(e.Output), "case ")
			if e.Action != "output" || !ok {
				return
			}
			if name, ok := strings.CutSuffix(rest, " ok"); ok {
				done(name, nil)
			} else if name, why, ok := strings.Cut(rest, " VIOLATION"); ok {
				bad++
				done(name, errors.New(strings.TrimPrefix(why, ": ")))
			}
		})
		return unlessTold(err, bad)
	}}
}

// random is how a random campaign is run: for as long as it takes, but not for ever.
func random(pkg, test string, seeds int, first uint64) []string {
	limit := 30*time.Minute + time.Duration(seeds)*time.Minute
	return []string{"-timeout", limit.String(), "-run", "^" + test + "$", pkg, "-args", fmt.Sprintf("-seeds=%d", seeds), fmt.Sprintf("-first=%d", first)}
}

// unlessTold drops the error of a run whose failures were told one by one.
func unlessTold(err error, bad int) error {
	if bad > 0 {
		return nil
	}
	return err
}

// bugsLayer puts bugs into the code, two at a time: all whose name contains match.
func bugsLayer(root, match string) layer {
	bugs := slices.DeleteFunc(slices.Clone(bugs), func(b bug) bool { return !strings.Contains(b.name, match) })
	return layer{"bugs", len(bugs), func(ctx context.Context, done report) error {
		group, ctx := errgroup.WithContext(ctx)
		group.SetLimit(2)
		var mu sync.Mutex
		unsound := map[string]error{}
		checked := map[string]*sync.Once{}
		for _, b := range bugs {
			if checked[b.pkg()] == nil {
				checked[b.pkg()] = new(sync.Once)
			}
		}
		for _, b := range bugs {
			group.Go(func() error {
				checked[b.pkg()].Do(func() {
					err := sound(ctx, root, b.pkg())
					mu.Lock()
					defer mu.Unlock()
					unsound[b.pkg()] = err
				})
				mu.Lock()
				err := unsound[b.pkg()]
				mu.Unlock()
				if err == nil {
					err = b.caught(ctx, root)
				}
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				done(b.name, err)
				return nil
			})
		}
		return group.Wait()
	}}
}

// event is a line of go test -json.
type event struct {
	Action string
	Test   string
	Output string
}

// stream runs go test and hands on its events as they come. The error says that it failed, and how it ended.
func stream(ctx context.Context, root string, args []string, see func(event)) error {
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-json", "-count=1"}, args...)...)
	cmd.Dir = root
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
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
	err = cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return fmt.Errorf("go test %s: %w\n%s%s", strings.Join(args, " "), err, stderr.String(), tail(last, 30))
	}
	return nil
}
