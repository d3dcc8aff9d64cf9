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
	"os/signal"
	"regexp"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"github.com/jedib0t/go-pretty/v6/table"
)

type options struct {
	Seeds int    `default:"50" help:"Seeds of each random campaign."`
	First uint64 `default:"0" help:"The first seed."`
	Only  string `default:"" enum:",model,virtual,world,bugs" help:"Run one layer: model, virtual, world or bugs."`
	Bug   string `default:"" help:"Put in only the bugs whose name this regular expression finds."`
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
	wanted, err := regexp.Compile(o.Bug)
	if err != nil {
		return false, err
	}
	shop, closeShop, err := openWorkshop(ctx)
	if err != nil {
		return false, err
	}
	defer closeShop()
	layers := []layer{
		modelLayer(), virtualLayer(shop, o.Seeds, o.First), worldLayer(shop, o.Seeds, o.First), bugsLayer(shop, wanted),
	}
	screen := newScreen()
	var results []result
	for _, l := range layers {
		if (o.Only == "" || o.Only == l.name) && ctx.Err() == nil {
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

// result is what a layer has come to.
type result struct {
	layer      string
	cases, bad int
	took       time.Duration
}

// measure runs one layer.
func measure(ctx context.Context, l layer, s *screen) result {
	began, t := time.Now(), s.begin(l)
	err := l.run(ctx, t)
	if err == nil && t.cases == 0 {
		err = errors.New("no case was run")
	}
	if err != nil && ctx.Err() == nil {
		t.done("the layer itself", err)
	}
	t.end()
	return result{l.name, t.cases, t.bad, time.Since(began)}
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
