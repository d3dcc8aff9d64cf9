package main

import (
	"bytes"
	"fmt"
	"text/template"
)

// bars is the picture. It brings its own ground, so that it can be read on white and on black.
var bars = template.Must(template.New("bars").Funcs(template.FuncMap{"tenth": func(x float64) string { return fmt.Sprintf("%.1f", x) }}).Parse(
	`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 {{.Height}}" width="800" height="{{.Height}}" role="img" aria-labelledby="title desc" font-family="system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif" font-size="14">
  <title id="title">{{.Title}}</title>
  <desc id="desc">{{.Description}}</desc>
  <style>
    .card { fill: #ffffff; stroke: #d0d7de }
    .name { fill: #1f2328; font-weight: 600 }
    .text { fill: #1f2328 }
    .soft { fill: #59636e; font-size: 12.5px }
    .axis { stroke: #8c959f }
    .other { fill: #afb8c1 }
    .roof { fill: #f6f8fa; stroke: #8c959f; stroke-dasharray: 4 3 }
    .ours { fill: #0969da }
    @media (prefers-color-scheme: dark) {
      .card { fill: #0d1117; stroke: #3d444d }
      .name, .text { fill: #f0f6fc }
      .soft { fill: #9198a1 }
      .axis { stroke: #656c76 }
      .other { fill: #59636e }
      .roof { fill: #212830; stroke: #9198a1 }
      .ours { fill: #4493f8 }
    }
  </style>
  <rect class="card" x="0.5" y="0.5" width="799" height="{{.Bottom}}" rx="8"/>
  <text class="name" x="20" y="32">{{.Title}}</text>
{{range .Bars}}  <text class="name" x="20" y="{{.Text}}">{{.Name}}</text>
  <text class="soft" x="20" y="{{.Below}}">{{.What}}</text>
  <rect class="{{.Class}}" x="{{$.Left}}" y="{{.Top}}" width="{{tenth .Width}}" height="{{$.Thick}}"/>
  <text x="{{tenth .End}}" y="{{.Middle}}"><tspan class="text">{{tenth .Wall}} s</tspan>{{if .Times}}<tspan class="soft" dx="8">{{.Times}}</tspan>{{end}}</text>
{{end}}  <line class="axis" x1="{{.Left}}" y1="{{.AxisTop}}" x2="{{.Left}}" y2="{{.AxisEnd}}"/>
  <text class="soft" x="20" y="{{.Foot}}">{{.Note}}</text>
</svg>
`))

// bar is one who was measured.
type bar struct {
	Name, What, Class        string
	Times                    string // how much longer than snapfleet
	Top, Text, Below, Middle int
	Wall, Width, End         float64
}

// draw makes the picture of the medians.
func (r *Comparison) draw() ([]byte, error) {
	const first, step, thick, left, most = 52, 46, 28, 290, 390
	all, longest := make([]bar, 0, len(entrants)), 0.0
	description := ""
	for i, e := range entrants {
		wall, top := r.cost(e.name).Wall, first+i*step
		longest = max(longest, wall)
		b := bar{Name: e.name, What: e.what, Class: "other", Top: top, Text: top + 12, Below: top + 28, Middle: top + 19, Wall: wall}
		switch e.name {
		case "snapfleet":
			b.Class = "ours"
		case "copy", "copy_deflate":
			b.Class = "roof"
		}
		if ratio := r.ratio(e.name); e.name != "snapfleet" && ratio > 0 {
			b.Times = fmt.Sprintf("%.1f ×", 1/ratio)
		}
		all = append(all, b)
		description += fmt.Sprintf("%s: %.1f s. ", e.name, wall)
	}
	for i := range all {
		all[i].Width = most * all[i].Wall / longest
		all[i].End = left + all[i].Width + 8
	}
	end := first + len(all)*step
	var out bytes.Buffer
	err := bars.Execute(&out, map[string]any{
		"Title": fmt.Sprintf("%.2g GB from PostgreSQL to S3: seconds, and how many times snapfleet's", r.GB), "Description": description,
		"Bars": all, "Left": left, "Thick": thick, "AxisTop": first - 8, "AxisEnd": end - step + thick + 8,
		"Foot": end + 14, "Height": end + 32, "Bottom": end + 31,
		"Note": fmt.Sprintf("Medians of %s. PostgreSQL, NATS, S3 and the client share one machine. Made by make bench.", rounds(len(r.Rounds))),
	})
	return out.Bytes(), err
}

func rounds(n int) string {
	if n == 1 {
		return "1 round"
	}
	return fmt.Sprintf("%d rounds", n)
}
