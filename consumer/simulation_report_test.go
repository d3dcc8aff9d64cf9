package consumer

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"text/template"
	"time"
)

// table is the results for people.
func (r results) table() string {
	var out strings.Builder
	n := r.Night
	fmt.Fprintf(&out, "%d tenants, %.0f GB; %d workers with %d slots and %.0f core each, %d databases with %.0f cores and %d sessions each, %.2g GB/s of egress\n",
		n.Tenants, r.GB, n.Workers, n.Slots, n.Cores, n.Databases, n.Share, n.Sessions, n.Egress/1e9)
	fmt.Fprintf(&out, "delivered in %.1f min; no fleet of that size could in less than %.1f (", r.Minutes, r.Bound)
	for i, name := range slices.Sorted(maps.Keys(r.Bounds)) {
		if i > 0 {
			out.WriteString(", ")
		}
		fmt.Fprintf(&out, "%s %.1f", name, r.Bounds[name])
	}
	fmt.Fprintf(&out, ")\nslots: %.0f %% delivered, %.0f %% lost to destinations that take nothing, %.1f %% given back; %.3f attempts a job, %d times no session was free\n",
		100*r.Served, 100*r.Wasted, 100*r.Returned, r.Attempts, r.Refused)
	fmt.Fprintf(&out, "broker: %.1f messages a job, %.0f a second, and %.0f a second to tell workers of changes; %d handed out at most, fresh ones held back for %.1f min\n",
		r.PerJob, r.PerSecond, r.Pushed, r.Pending, r.Stalled)
	for _, what := range slices.Sorted(maps.Keys(r.Asked)) {
		fmt.Fprintf(&out, "  %s %.2f", what, float64(r.Asked[what])/float64(n.Tenants))
	}
	fmt.Fprintf(&out, "\nS3 and STS: %.1f requests a job, %.0f a second\n\n", r.Requests, r.Requests*float64(n.Tenants)/r.Minutes/60)
	table := tabwriter.NewWriter(&out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "CSV\ttenants\tGB\twait p50\tp95\tmax\tthen took p50\tp95\tmax\t")
	for _, c := range r.Classes {
		fmt.Fprintf(table, "%s\t%d\t%.0f\t%v\t%v\t%v\t%v\t%v\t%v\t\n", c.Name, c.Tenants, c.GB,
			brief(c.Wait50), brief(c.Wait95), brief(c.WaitMax), brief(c.Took50), brief(c.Took95), brief(c.TookMax))
	}
	_ = table.Flush()
	fmt.Fprintf(&out, "\nsimulated in %.0f s\n", r.RealSeconds)
	return out.String()
}

func brief(seconds float64) time.Duration {
	d := time.Duration(seconds * 1e9)
	if d > time.Minute {
		return d.Round(time.Second)
	}
	return d.Round(100 * time.Millisecond)
}

// nightPicture brings its own ground, so that it can be read on white and on black.
var nightPicture = template.Must(template.New("night").Parse(
	`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 470" width="800" height="470" role="img" aria-labelledby="title desc" font-family="system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif" font-size="12.5">
  <title id="title">{{.Title}}</title>
  <desc id="desc">{{.Description}}</desc>
  <style>
    .card { fill: #ffffff; stroke: #d0d7de }
    .name { fill: #1f2328; font-weight: 600; font-size: 14px }
    .soft { fill: #59636e }
    .grid { stroke: #d0d7de }
    .mark { stroke: #8c959f; stroke-dasharray: 4 3 }
    .line { fill: none; stroke-width: 2 }
    .c0 { stroke: #0969da } .c1 { stroke: #1a7f37 } .c2 { stroke: #9a6700 } .c3 { stroke: #bc4c00 } .c4 { stroke: #8250df }
    .c5 { stroke: #0969da } .c6 { stroke: #cf222e }
    @media (prefers-color-scheme: dark) {
      .card { fill: #0d1117; stroke: #3d444d }
      .name { fill: #f0f6fc }
      .soft { fill: #9198a1 }
      .grid { stroke: #3d444d }
      .mark { stroke: #9198a1 }
      .c0, .c5 { stroke: #4493f8 } .c1 { stroke: #3fb950 } .c2 { stroke: #d29922 } .c3 { stroke: #db6d28 } .c4 { stroke: #ab7df8 } .c6 { stroke: #f85149 }
    }
  </style>
  <rect class="card" x="0.5" y="0.5" width="799" height="469" rx="8"/>
  <text class="name" x="20" y="30">{{.Title}}</text>
{{range .Grid}}  <line class="grid" x1="60" y1="{{.Y}}" x2="620" y2="{{.Y}}"/>
  <text class="soft" x="52" y="{{.Text}}" text-anchor="end">{{.Name}}</text>
{{end}}{{range .Times}}  <text class="soft" x="{{.X}}" y="438" text-anchor="middle">{{.Name}}</text>
{{end}}{{range .Marks}}  <line class="mark" x1="{{.X}}" y1="60" x2="{{.X}}" y2="420"/>
  <text class="soft" x="{{.Text}}" y="{{.Y}}">{{.Name}}</text>
{{end}}{{range .Lines}}  <polyline class="line c{{.Class}}" points="{{.Points}}"/>
  <line class="line c{{.Class}}" x1="640" y1="{{.Key}}" x2="660" y2="{{.Key}}"/>
  <text class="soft" x="668" y="{{.Text}}">{{.Name}}</text>
{{end}}  <text class="soft" x="640" y="72">delivered, by CSV:</text>
  <text class="soft" x="20" y="458">{{.Note}}</text>
</svg>
`))

// draw shows how much of each size was delivered when, and what was busy.
func (r results) draw() ([]byte, error) {
	type line struct {
		Class        int
		Name, Points string
		Key, Text    int
	}
	type tick struct {
		Name    string
		X       string
		Y, Text int
	}
	const left, wide, top, high, lower, low = 60.0, 560.0, 60.0, 220.0, 320.0, 100.0
	across := func(minutes float64) string { return fmt.Sprintf("%.1f", left+wide*min(1, minutes/r.Minutes)) }
	all := make([]line, len(classes)+2)
	for i, c := range classes {
		all[i] = line{Class: i, Name: c.name, Key: 90 + 20*i, Text: 94 + 20*i, Points: across(0) + "," + fmt.Sprint(top+high)}
	}
	all[len(classes)] = line{Class: 5, Name: "slots busy", Key: 340, Text: 344}
	all[len(classes)+1] = line{Class: 6, Name: "databases' cores", Key: 360, Text: 364}
	for _, s := range r.Samples {
		for i, part := range s.Delivered {
			all[i].Points += fmt.Sprintf(" %s,%.1f", across(s.At), top+high*(1-part))
		}
		for i, part := range []float64{s.Busy, s.Read} {
			all[len(classes)+i].Points += fmt.Sprintf(" %s,%.1f", across(s.At), lower+low*(1-min(1, part)))
		}
	}
	for i := range classes {
		all[i].Points += fmt.Sprintf(" %s,%.1f", across(r.Minutes), top)
	}
	var times []tick
	step := []float64{1, 2, 5, 10, 20, 30, 60, 120, 240, 480}
	every := step[min(len(step)-1, slices.IndexFunc(append(step, r.Minutes), func(m float64) bool { return r.Minutes/m <= 10 }))]
	for at := 0.0; at <= r.Minutes; at += every {
		times = append(times, tick{Name: fmt.Sprintf("%.0f min", at), X: across(at)})
	}
	var marks []tick
	for i, m := range []struct {
		name string
		at   time.Duration
	}{{"a worker is killed", r.Night.Crash}, {"all are replaced", r.Night.Rollout}} {
		if m.at > 0 && m.at.Minutes() < r.Minutes {
			marks = append(marks, tick{Name: m.name, X: across(m.at.Minutes()), Y: 312 - 16*i, Text: int(left+wide*m.at.Minutes()/r.Minutes) + 6})
		}
	}
	var out bytes.Buffer
	n := r.Night
	err := nightPicture.Execute(&out, map[string]any{
		"Title":       fmt.Sprintf("A night of %d tenants, all asked for at once: delivered in %.0f minutes", n.Tenants, r.Minutes),
		"Description": "How much of each size was delivered when, and how busy slots and databases were.",
		"Grid":        []tick{{Name: "100 %", Y: 60, Text: 64}, {Name: "50 %", Y: 170, Text: 174}, {Name: "0 %", Y: 280, Text: 284}, {Name: "100 %", Y: 320, Text: 324}, {Name: "0 %", Y: 420, Text: 424}},
		"Times":       times, "Marks": marks, "Lines": all,
		"Note": fmt.Sprintf("Simulated: %d workers with %d slots, %d database servers, %.0f GB of CSV. Made by make simulation.", n.Workers, n.Slots, n.Databases, r.GB),
	})
	return out.Bytes(), err
}
