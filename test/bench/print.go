package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// newTable makes a table of one name and figures.
func newTable(w io.Writer, header table.Row) table.Writer {
	t := table.NewWriter()
	t.SetOutputMirror(w)
	t.SetStyle(table.StyleLight)
	t.Style().Format.Header = text.FormatDefault
	t.AppendHeader(header)
	var right []table.ColumnConfig
	for n := 2; n <= len(header); n++ {
		right = append(right, table.ColumnConfig{Number: n, Align: text.AlignRight})
	}
	t.SetColumnConfigs(right)
	return t
}

// print shows all that was measured.
func (r *Report) print(w io.Writer) {
	if r.Comparison != nil {
		r.Comparison.print(w)
		fmt.Fprintf(w, "medians of %s, %.3g GB of CSV; scripts upload with %s\n", rounds(len(r.Rounds)), r.GB, r.Versions["upload"])
		r.printSmall(w)
	}
	if r.RoundTrips != nil {
		r.RoundTrips.print(w)
	}
	if r.Growth != nil {
		r.Growth.print(w)
	}
	if r.Attachments != nil {
		printFiles(w, r.Attachments)
	}
	fmt.Fprintf(w, "%d x %s, %s, PostgreSQL %s\n", r.Machine.Cores, r.Machine.Model, r.Machine.OS, r.Versions["postgresql"])
}

// print shows the medians.
func (r *Comparison) print(w io.Writer) {
	t := newTable(w, table.Row{"", "wall s", "CPU s/GB", "PostgreSQL's", "memory MiB", "in S3 MB", "snapfleet takes"})
	known := func(format string, figure float64) string {
		if figure == 0 {
			return ""
		}
		return fmt.Sprintf(format, figure)
	}
	for _, e := range entrants {
		c := r.cost(e.name)
		t.AppendRow(table.Row{
			fmt.Sprintf("%-12s  %s", e.name, e.what), fmt.Sprintf("%.2f", c.Wall), fmt.Sprintf("%.2f", c.CPU/r.GB), fmt.Sprintf("%.2f", c.Database/r.GB), known("%.0f", c.RSS),
			known("%.1f", float64(c.Delivered)/1e6), fmt.Sprintf("%.2f x", r.ratio(e.name)),
		})
	}
	t.Render()
}

// printSmall shows small jobs, and none.
func (r *Comparison) printSmall(w io.Writer) {
	t := newTable(w, table.Row{fmt.Sprintf("small jobs: %d tables of %d rows", tinyTables, tinyRows), "ms to the ack", "a second", "CPU ms each", "memory MiB"})
	for _, s := range r.Small {
		t.AppendRow(table.Row{
			strings.Join(s.Flags, " "), fmt.Sprintf("%.0f", 1000*s.Latency), fmt.Sprintf("%.1f", s.PerSecond),
			fmt.Sprintf("%.1f", 1000*s.CPU), fmt.Sprintf("%.0f", s.RSS),
		})
	}
	t.Render()
	if i := r.Idle; i != nil {
		fmt.Fprintf(w, "an idle worker in a minute: %.3f s of CPU, %.0f messages to NATS and %.0f from it (%s in %.0f s); it has %.0f MiB\n",
			i.CPU, i.Sent, i.Received, list(i.Messages), i.Seconds, i.RSS)
	}
}

// list is counts in one line.
func list(counts map[string]int) string {
	var all []string
	for _, what := range slices.Sorted(maps.Keys(counts)) {
		all = append(all, fmt.Sprintf("%d %s", counts[what], what))
	}
	return strings.Join(all, ", ")
}

// print shows what a job says, what is said most often first.
func (t *RoundTrips) print(w io.Writer) {
	out := newTable(w, table.Row{"what one job says", fmt.Sprintf("%d tables", tinyTables), fmt.Sprintf("and %d files", filedFiles)})
	for _, to := range []struct {
		whom string
		of   func(Said) map[string]int
	}{
		{"S3", func(s Said) map[string]int { return s.S3 }},
		{"STS", func(s Said) map[string]int { return s.STS }},
		{"NATS", func(s Said) map[string]int { return s.NATS }},
		{"PostgreSQL", func(s Said) map[string]int { return s.SQL }},
	} {
		small, filed := to.of(t.Small), to.of(t.Attachments)
		out.AppendRow(table.Row{to.whom, sum(small), sum(filed)})
		for _, what := range byCount(filed, small) {
			out.AppendRow(table.Row{"  " + what, shown(small[what]), shown(filed[what])})
		}
		if to.whom == "PostgreSQL" {
			out.AppendRow(table.Row{"  round trips", t.Small.SQLTrips, t.Attachments.SQLTrips})
		}
		out.AppendSeparator()
	}
	out.Render()
}

func shown(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

func sum(counts map[string]int) (total int) {
	for _, n := range counts {
		total += n
	}
	return total
}

// byCount is everything that is counted in either, what is counted most in the first before the rest.
func byCount(counts, others map[string]int) []string {
	all := maps.Clone(others)
	maps.Copy(all, counts)
	return slices.SortedFunc(maps.Keys(all), func(a, b string) int {
		if d := all[b] - all[a]; d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
}
