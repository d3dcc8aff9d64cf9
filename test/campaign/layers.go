package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/snapfleet/snapfleet/test/model"
)

// layer is one way to look for violations.
type layer struct {
	name  string
	cases int // expected; 0: not known before
	// run tells the tally of each case as it ends, from any goroutine. Its own error means that the layer could not be
	// run.
	run func(ctx context.Context, t *tally) error
}

// modelLayer looks at every state of the protocol, and at the mutants, each of which has to fail.
func modelLayer() layer {
	return layer{"model", len(model.Protocols) + len(model.Mutants), func(ctx context.Context, t *tally) error {
		check := func(v model.Variant, want model.Invariant) {
			var err error
			if r := model.Check(v); r.Broken != want {
				err = fmt.Errorf("%v\nwanted: %v", r, want)
			}
			t.done(v.Name, err)
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
func virtualLayer(shop workshop, seeds int, first uint64) layer {
	return layer{"virtual", seeds, func(ctx context.Context, t *tally) error {
		const test = "TestRandomFaults"
		trail, bad := map[string][]string{}, 0
		err := shop.stream(ctx, random("./consumer", test, seeds, first), func(e event) {
			seed, ok := strings.CutPrefix(e.Test, test+"/")
			if !ok {
				return
			}
			switch e.Action {
			case "output":
				trail[seed] = append(trail[seed], e.Output)
			case "pass":
				delete(trail, seed)
				t.done("seed "+seed, nil)
			case "fail":
				bad++
				t.done("seed "+seed, fmt.Errorf("repeat it: go test ./consumer -run '^%s$/^%s$' -args -seeds=1 -first=%s\n%s", test, seed, seed, strings.Join(trail[seed], "")))
			}
		})
		return unlessTold(err, bad)
	}}
}

// worldLayer runs real workers, a real broker, a real database and a real store.
func worldLayer(shop workshop, seeds int, first uint64) layer {
	return layer{"world", 0, func(ctx context.Context, t *tally) error {
		trail, bad := map[string][]string{}, 0 // what was said in each case
		err := shop.stream(ctx, random("./test", "TestCampaign", seeds, first), func(e event) {
			if e.Action != "output" {
				return
			}
			if _, name, ok := strings.Cut(strings.TrimPrefix(e.Test, "TestCampaign/"), "/"); ok {
				trail[name] = append(trail[name], e.Output)
			}
			line := strings.TrimSpace(e.Output)
			if n, ok := strings.CutPrefix(line, "cases: "); ok {
				total, _ := strconv.Atoi(n)
				t.expect(total)
			}
			rest, ok := strings.CutPrefix(line, "case ")
			if !ok {
				return
			}
			if name, ok := strings.CutSuffix(rest, " ok"); ok {
				delete(trail, name)
				t.done(name, nil)
			} else if name, why, ok := strings.Cut(rest, " VIOLATION"); ok {
				bad++
				t.done(name, fmt.Errorf("%s\nwhat was said: %s\nrepeat it: %s", strings.TrimPrefix(why, ": "), keep(name, trail[name]), again(name)))
			}
		})
		return unlessTold(err, bad)
	}}
}

// keep writes what was said in a case to a file that outlives the campaign, and returns its name.
func keep(name string, said []string) string {
	file := filepath.Join(os.TempDir(), "campaign-"+strings.ReplaceAll(name, "/", "-")+".log")
	if err := os.WriteFile(file, []byte(strings.Join(said, "")), 0o600); err != nil {
		return err.Error()
	}
	return file
}

// again is the command that repeats one case of the world.
func again(name string) string {
	seed := ""
	if n, ok := strings.CutPrefix(name, "seed-"); ok {
		n, _, _ = strings.Cut(n, "/")
		seed = " -seeds=1 -first=" + n
	}
	return fmt.Sprintf("go test ./test -run '^TestCampaign$' -args%s -case='^%s$'", seed, regexp.QuoteMeta(name))
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

// bugsLayer puts bugs into the code, two at a time: all whose name the regular expression finds.
func bugsLayer(shop workshop, wanted *regexp.Regexp) layer {
	bugs := slices.DeleteFunc(allBugs(), func(b bug) bool { return !wanted.MatchString(b.name) })
	return layer{"bugs", len(bugs), func(ctx context.Context, t *tally) error {
		group, ctx := errgroup.WithContext(ctx)
		group.SetLimit(2)
		sounds := map[string]func() error{}
		for _, b := range bugs {
			if pkg, _ := b.test(); sounds[pkg] == nil {
				sounds[pkg] = sync.OnceValue(func() error { return sound(ctx, shop, pkg, bugs) })
			}
		}
		for _, b := range bugs {
			group.Go(func() error {
				pkg, _ := b.test()
				err := sounds[pkg]()
				if err == nil {
					err = b.caught(ctx, shop)
				}
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				if err != nil {
					err = fmt.Errorf("%w\nrepeat it: go run ./test/campaign --only bugs --bug '^%s$'", err, regexp.QuoteMeta(b.name))
				}
				t.done(b.name, err)
				return nil
			})
		}
		return group.Wait()
	}}
}
