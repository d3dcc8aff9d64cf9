package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/template"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// Report is bench.json. Each ratio is snapfleet's wall time by another's of the same round, and what is below 1 is
// faster; these and all other figures are medians over the rounds.
type Report struct {
	RoofRatio   float64 `json:"wall_ratio_roofline"`     // by copy_deflate's
	CopyRatio   float64 `json:"wall_ratio_copy"`         // by copy's
	ScriptRatio float64 `json:"wall_ratio_script"`       // by script's
	TunedRatio  float64 `json:"wall_ratio_script_tuned"` // by script_tuned's
	DumpRatio   float64 `json:"wall_ratio_pg_dump"`      // by pg_dump's
	Wall        float64 `json:"wall_s"`                  // of snapfleet, from submit to ack
	CPUPerGB    float64 `json:"worker_cpu_s_per_gb"`     // the worker's whole life, for each 1e9 bytes of CSV
	RSS         float64 `json:"peak_rss_mib"`            // the most memory that the worker had
	JobsPerS    float64 `json:"small_jobs_per_s"`        // one worker
	JobLatency  float64 `json:"small_job_latency_s"`     // from submit to ack, with every slot busy

	Asked    float64           `json:"gb_asked"` // --gb
	GB       float64           `json:"gb"`       // the tables as CSV, in 1e9 bytes
	Slots    int               `json:"small_job_slots"`
	Machine  Machine           `json:"machine"`
	Versions map[string]string `json:"versions"` // snapfleet, go, postgresql, and upload: what the scripts uploaded with
	Rounds   []Round           `json:"rounds"`
}

// Machine is where it was measured.
type Machine struct {
	Model string `json:"model"` // of the processor
	Cores int    `json:"cores"`
	OS    string `json:"os"`
}

// Round is what was measured in one round.
type Round struct {
	Order []string        `json:"order"` // in which they ran
	Costs map[string]Cost `json:"costs"`
	Small Small           `json:"small_jobs"`
}

// Cost is what one delivery took.
type Cost struct {
	Wall      float64 `json:"wall_s"`
	CPU       float64 `json:"cpu_s"`                     // of the client's processes
	RSS       float64 `json:"peak_rss_mib,omitempty"`    // of the largest of them; not of the rooflines, which are in our process
	Delivered int64   `json:"delivered_bytes,omitempty"` // as they are in the bucket
}

// Small is what small jobs took.
type Small struct {
	Jobs      int     `json:"jobs"`
	PerSecond float64 `json:"per_s"`
	Latency   float64 `json:"latency_s"` // the median
	CPU       float64 `json:"cpu_s_per_job"`
	RSS       float64 `json:"peak_rss_mib"`
}

// entrants are all who are measured, as the table and the picture show them.
var entrants = []struct{ name, what string }{
	{"script", "psql COPY | gzip, tar, aws s3 cp"},
	{"script_tuned", "two at a time, gzip -1, streamed"},
	{"pg_dump", "pg_dump -j2 -Z1, tar, aws s3 cp"},
	{"snapfleet", "submit to ack"},
	{"copy_deflate", "roofline: COPY + deflate, no upload"},
	{"copy", "roofline: COPY to nowhere"},
}

// conclude makes the figures of the rounds.
func (r *Report) conclude() {
	ratio := func(to string) float64 {
		return r.median(func(n Round) float64 { return n.Costs["snapfleet"].Wall / n.Costs[to].Wall })
	}
	r.RoofRatio, r.CopyRatio = ratio("copy_deflate"), ratio("copy")
	r.ScriptRatio, r.TunedRatio, r.DumpRatio = ratio("script"), ratio("script_tuned"), ratio("pg_dump")
	ours := r.cost("snapfleet")
	r.Wall, r.CPUPerGB, r.RSS = ours.Wall, ours.CPU/r.GB, ours.RSS
	r.JobsPerS = r.median(func(n Round) float64 { return n.Small.PerSecond })
	r.JobLatency = r.median(func(n Round) float64 { return n.Small.Latency })
}

// cost is the medians of one who was measured.
func (r *Report) cost(name string) Cost {
	of := func(figure func(Cost) float64) float64 {
		return r.median(func(n Round) float64 { return figure(n.Costs[name]) })
	}
	return Cost{
		Wall: of(func(c Cost) float64 { return c.Wall }), CPU: of(func(c Cost) float64 { return c.CPU }),
		RSS:       of(func(c Cost) float64 { return c.RSS }),
		Delivered: int64(of(func(c Cost) float64 { return float64(c.Delivered) })),
	}
}

func (r *Report) median(figure func(Round) float64) float64 {
	var all []float64
	for _, n := range r.Rounds {
		all = append(all, figure(n))
	}
	return median(all)
}

func median(all []float64) float64 {
	if len(all) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(all))
	half := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[half]
	}
	return (sorted[half-1] + sorted[half]) / 2
}

// print shows the medians.
func (r *Report) print(w io.Writer) {
	t := table.NewWriter()
	t.SetOutputMirror(w)
	t.SetStyle(table.StyleLight)
	t.AppendHeader(table.Row{"", "", "wall s", "CPU s/GB", "memory MiB", "in S3 MB", "snapfleet takes"})
	var right []table.ColumnConfig
	for n := 3; n <= 7; n++ {
		right = append(right, table.ColumnConfig{Number: n, Align: text.AlignRight})
	}
	t.SetColumnConfigs(right)
	ratios := map[string]float64{"script": r.ScriptRatio, "script_tuned": r.TunedRatio, "pg_dump": r.DumpRatio, "copy_deflate": r.RoofRatio, "copy": r.CopyRatio, "snapfleet": 1}
	known := func(format string, figure float64) string {
		if figure == 0 {
			return ""
		}
		return fmt.Sprintf(format, figure)
	}
	for _, e := range entrants {
		c := r.cost(e.name)
		t.AppendRow(table.Row{
			e.name, e.what, fmt.Sprintf("%.2f", c.Wall), fmt.Sprintf("%.2f", c.CPU/r.GB), known("%.0f", c.RSS),
			known("%.1f", float64(c.Delivered)/1e6), fmt.Sprintf("%.2f x", ratios[e.name]),
		})
	}
	t.Render()
	fmt.Fprintf(w, "small jobs: %.1f a second by one worker with %d slots, %.0f ms from submit to ack\n", r.JobsPerS, r.Slots, 1000*r.JobLatency)
	fmt.Fprintf(w, "medians of %d round(s), %.3g GB of CSV, %d x %s; scripts upload with %s\n", len(r.Rounds), r.GB, r.Machine.Cores, r.Machine.Model, r.Versions["upload"])
}

// write keeps the figures, and the picture if there is to be one.
func (r *Report) write(figures, picture string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(figures, append(data, '\n'), 0o644); err != nil {
		return err
	}
	if picture == "" {
		return nil
	}
	drawn, err := r.draw()
	if err != nil {
		return err
	}
	return os.WriteFile(picture, drawn, 0o644)
}

// bars is the picture. It is read on white and on black.
var bars = template.Must(template.New("bars").Parse(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 {{.Height}}" role="img" aria-label="{{.Title}}">
<style>
  text { font: 13px system-ui, sans-serif; fill: #24292f } .small { font-size: 11px; fill: #57606a }
  .other { fill: #afb8c1 } .roof { fill: none; stroke: #8c959f; stroke-dasharray: 3 2 } .ours { fill: #0969da }
  @media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .small { fill: #8d96a0 } .other { fill: #484f58 } .roof { stroke: #6e7681 } .ours { fill: #4493f8 } }
</style>
<text x="0" y="16">{{.Title}}</text>
{{range .Bars}}<text x="0" y="{{.Text}}">{{.Name}}</text><text class="small" x="0" y="{{.Below}}">{{.What}}</text>
<rect class="{{.Class}}" x="230" y="{{.Top}}" width="{{printf "%.1f" .Width}}" height="22" rx="2"/><text x="{{printf "%.1f" .End}}" y="{{.Text}}">{{printf "%.1f" .Wall}} s</text>
{{end}}<text class="small" x="0" y="{{.Foot}}">{{.Note}}</text>
</svg>
`))

type bar struct {
	Name, What, Class string
	Top, Text, Below  int
	Wall, Width, End  float64
}

// draw makes the picture of the medians.
func (r *Report) draw() ([]byte, error) {
	const first, step, left, most = 34, 40, 230, 450
	var all []bar
	longest := 0.0
	for i, e := range entrants {
		class := "other"
		if e.name == "snapfleet" {
			class = "ours"
		} else if strings.HasPrefix(e.what, "roofline") {
			class = "roof"
		}
		wall, top := r.cost(e.name).Wall, first+i*step
		longest = max(longest, wall)
		all = append(all, bar{Name: e.name, What: e.what, Class: class, Top: top, Text: top + 13, Below: top + 27, Wall: wall})
	}
	for i := range all {
		all[i].Width = most * all[i].Wall / longest
		all[i].End = left + all[i].Width + 8
	}
	foot := first + len(all)*step + 12
	var out bytes.Buffer
	err := bars.Execute(&out, map[string]any{
		"Title": fmt.Sprintf("%.2g GB from PostgreSQL to S3: seconds, less is better", r.GB), "Bars": all, "Foot": foot, "Height": foot + 10,
		"Note": fmt.Sprintf("Medians of %d round(s), everything on one machine: %d cores. Made by make bench.", len(r.Rounds), r.Machine.Cores),
	})
	return out.Bytes(), err
}

// thisMachine is what the system says of itself.
func thisMachine() Machine {
	m := Machine{Model: runtime.GOARCH, Cores: runtime.NumCPU(), OS: runtime.GOOS + "/" + runtime.GOARCH}
	info, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return m
	}
	defer info.Close() //nolint:errcheck // it is read
	for lines := bufio.NewScanner(info); lines.Scan(); {
		if key, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(key) == "model name" {
			m.Model = strings.TrimSpace(value)
			break
		}
	}
	return m
}
