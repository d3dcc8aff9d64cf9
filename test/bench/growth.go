package main

import (
	"context"
	"fmt"
	"io"

	"github.com/jedib0t/go-pretty/v6/table"
)

// What grows with what: the same data in all sizes, and in ever more tables.

// tinyFrom is the number of tables from which on they hold ten rows each; fewer share the smallest of the sizes.
const tinyFrom = 500

// flat is how much more the largest may cost than the smallest, for a byte, before we do not call it flat.
const flat = 1.15

// Growth is what deliveries of all sizes cost.
type Growth struct {
	Sizes   []Grown  `json:"sizes"`
	Tables  []Grown  `json:"tables"`
	FlatCPU bool     `json:"flat_cpu"`     // the largest costs no more for a GB than the smallest, with 15 % of tolerance
	FlatRSS bool     `json:"flat_memory"`  // the largest takes no more memory than the one before it, with the same tolerance
	Lines   []string `json:"plain_result"` // the same in words
}

// Grown is one of these deliveries. The copies are the roofline's: the same COPYs on as many connections as a worker
// has, to nowhere, without compression.
type Grown struct {
	Tables   int     `json:"tables"`
	GB       float64 `json:"gb"` // as CSV
	Wall     float64 `json:"wall_s"`
	CPU      float64 `json:"cpu_s"`
	CPUPerGB float64 `json:"cpu_s_per_gb"`
	RSS      float64 `json:"peak_rss_mib"`
	Copies   float64 `json:"copy_wall_s"`
	Ratio    float64 `json:"wall_ratio_copy"`
}

// grow measures every size and every number of tables, one schema at a time.
func (f *fleet) grow(ctx context.Context, sizes []float64, counts []int) (*Growth, error) {
	var g Growth
	small := func(schema string) error { return f.ground.fill(ctx, schema, sizes[0]) }
	if _, err := f.grown(ctx, "warming_up", small); err != nil { // the first delivery of all meets a cold system
		return nil, err
	}
	for i, gb := range sizes {
		one, err := f.grown(ctx, fmt.Sprintf("size_%d", i), func(schema string) error { return f.ground.fill(ctx, schema, gb) })
		if err != nil {
			return nil, fmt.Errorf("%g GB: %w", gb, err)
		}
		g.Sizes = append(g.Sizes, one)
	}
	for _, n := range counts {
		one, err := f.grown(ctx, fmt.Sprintf("tables_%d", n), func(schema string) error {
			if n >= tinyFrom {
				return f.ground.fillTiny(ctx, schema, n)
			}
			return f.ground.fillMany(ctx, schema, sizes[0], n)
		})
		if err != nil {
			return nil, fmt.Errorf("%d tables: %w", n, err)
		}
		g.Tables = append(g.Tables, one)
	}
	g.judge()
	return &g, nil
}

// grown makes a schema, measures its delivery, and removes it.
func (f *fleet) grown(ctx context.Context, schema string, fill func(schema string) error) (one Grown, err error) {
	say("growth: %s: making it", schema)
	if err := fill(schema); err != nil {
		return one, err
	}
	if err := f.enrol(ctx, schema, schema); err != nil {
		return one, err
	}
	if _, _, err := f.ground.copyAll(ctx, schema, workerConnections, nil); err != nil { // now it is in memory
		return one, err
	}
	copies, csv, err := f.ground.copyAll(ctx, schema, workerConnections, nil)
	if err != nil {
		return one, err
	}
	cost, err := f.deliver(ctx, schema)
	if err != nil {
		return one, err
	}
	if one.Tables, err = f.ground.count(ctx, schema); err != nil {
		return one, err
	}
	one.GB, one.Wall, one.CPU, one.RSS, one.Copies = float64(csv)/1e9, cost.Wall, cost.CPU, cost.RSS, copies.Wall
	one.CPUPerGB, one.Ratio = one.CPU/one.GB, one.Wall/one.Copies
	say("growth: %s: %.3g GB in %d tables: %.2f s, %.0f MiB", schema, one.GB, one.Tables, one.Wall, one.RSS)
	if err := f.ground.sweep(ctx); err != nil {
		return one, err
	}
	return one, f.ground.exec(ctx, "DROP SCHEMA "+schema+" CASCADE")
}

// judge says whether it is flat.
func (g *Growth) judge() {
	line := func(format string, args ...any) { g.Lines = append(g.Lines, fmt.Sprintf(format, args...)) }
	verdict := func(is bool) string {
		if is {
			return "flat"
		}
		return "NOT flat"
	}
	if n := len(g.Sizes); n > 1 {
		first, last := g.Sizes[0], g.Sizes[n-1]
		before := g.Sizes[n-2] // the smallest does not fill a worker's buffers
		g.FlatCPU, g.FlatRSS = last.CPUPerGB <= flat*first.CPUPerGB, last.RSS <= flat*before.RSS
		line("cost for a byte is %s: %.2f CPU s/GB for %.3g GB, %.2f for %.3g GB", verdict(g.FlatCPU), first.CPUPerGB, first.GB, last.CPUPerGB, last.GB)
		line("memory is %s: %.0f MiB for %.3g GB, %.0f MiB for %.3g GB", verdict(g.FlatRSS), before.RSS, before.GB, last.RSS, last.GB)
	}
	for _, t := range g.Tables {
		if t.Tables >= tinyFrom {
			line("%d tables of %d rows take %.2f s, %.2f ms each, %.2f x as long as their COPYs alone on %d connections (%.2f s)",
				t.Tables, tinyRows, t.Wall, 1000*t.Wall/float64(t.Tables), t.Ratio, workerConnections, t.Copies)
		}
	}
}

// print shows it.
func (g *Growth) print(w io.Writer) {
	t := newTable(w, table.Row{"tables", "GB", "wall s", "CPU s", "CPU s/GB", "memory MiB", "COPYs alone s", "ratio"})
	for _, of := range [][]Grown{g.Sizes, g.Tables} {
		for _, one := range of {
			t.AppendRow(table.Row{
				one.Tables, fmt.Sprintf("%.3g", one.GB), fmt.Sprintf("%.2f", one.Wall), fmt.Sprintf("%.2f", one.CPU), fmt.Sprintf("%.2f", one.CPUPerGB),
				fmt.Sprintf("%.0f", one.RSS), fmt.Sprintf("%.2f", one.Copies), fmt.Sprintf("%.2f x", one.Ratio),
			})
		}
		t.AppendSeparator()
	}
	t.Render()
	for _, line := range g.Lines {
		fmt.Fprintln(w, line)
	}
}
