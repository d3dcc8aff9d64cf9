// Command campaign looks for violations of the promises, in layers: the protocol's model in every state; the
// orchestration in virtual time, thousands of seeds a minute; real processes; and, because a check that cannot fail is
// worth nothing, bugs that were put into the code on purpose and have to be caught.
//
//	go run ./test/campaign --seeds 200
//	go run ./test/campaign --only virtual --seeds 1 --first 4711
//
// Its last line sums up. It fails when a promise was broken, or when a bug was not caught.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"github.com/jedib0t/go-pretty/v6/table"
)

type options struct {
	Seeds int    `default:"50" help:"Seeds of each random campaign."`
	First uint64 `default:"0" help:"The first seed."`
	Only  string `default:"" enum:",model,virtual,world,bugs" help:"Run one layer: model, virtual, world or bugs."`
	Bug   string `default:"" help:"Put in only the bugs whose name contains this."`
}

func main() {
	var o options
	kong.Parse(&o, kong.Name("campaign"), kong.Description("Look for violations of the promises."))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ok, err := run(ctx, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "campaign:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

// run runs the layers, and prints the table and the last line. It reports whether every promise holds and every bug
// was caught.
func run(ctx context.Context, o options) (bool, error) {
	root, err := repository(ctx)
	if err != nil {
		return false, err
	}
	layers := []layer{
		modelLayer(), virtualLayer(root, o.Seeds, o.First), worldLayer(root, o.Seeds, o.First), bugsLayer(root, o.Bug),
	}
	screen := newScreen()
	var results []result
	for _, l := range layers {
		if o.Only == "" || o.Only == l.name {
			results = append(results, measure(ctx, l, screen))
		}
	}
	screen.close()
	if ctx.Err() != nil {
		return false, errors.New("interrupted")
	}
	violations, caught, bugs := print(results)
	return violations == 0 && caught == bugs, nil
}

// repository is the module's root.
func repository(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// result is what a layer has come to.
type result struct {
	layer      string
	cases, bad int
	took       time.Duration
}

// measure runs one layer.
func measure(ctx context.Context, l layer, s *screen) result {
	r := result{layer: l.name}
	began := time.Now()
	done, end := s.begin(l)
	err := l.run(ctx, func(name string, err error) {
		s.mu.Lock()
		r.cases++
		if err != nil {
			r.bad++
		}
		s.mu.Unlock()
		done(name, err)
	})
	if err == nil && r.cases == 0 {
		err = errors.New("no case was run")
	}
	if err != nil && ctx.Err() == nil {
		r.cases, r.bad = r.cases+1, r.bad+1
		done("the layer itself", err)
	}
	end()
	r.took = time.Since(began)
	return r
}

// print writes the table, and the line that sums up.
func print(results []result) (violations, caught, bugs int) {
	t := table.NewWriter()
	t.SetOutputMirror(os.Stdout)
	t.SetStyle(table.StyleLight)
	t.AppendHeader(table.Row{"layer", "cases", "violations", "seconds"})
	cases := 0
	for _, r := range results {
		bad := fmt.Sprint(r.bad)
		cases += r.cases
		if r.layer == "bugs" {
			caught, bugs = r.cases-r.bad, r.cases
			bad = fmt.Sprintf("%d not caught", r.bad)
		} else {
			violations += r.bad
		}
		t.AppendRow(table.Row{r.layer, r.cases, bad, fmt.Sprintf("%.1f", r.took.Seconds())})
	}
	t.Render()
	fmt.Printf("violations: %d, seeded bugs caught: %d/%d, cases: %d\n", violations, caught, bugs, cases)
	return violations, caught, bugs
}
