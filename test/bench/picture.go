package main

import (
	"bytes"
	"fmt"
	"strings"
	"text/template"
)

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

