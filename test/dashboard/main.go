// Command dashboard draws deploy/grafana/snapfleet.json from a Prometheus, without Grafana: every query of every panel
// is evaluated, and what comes back is drawn into one SVG. It shows whether the queries say something sensible, and not
// what Grafana makes of them.
//
//	go run ./test/dashboard --prometheus=http://127.0.0.1:9090 --for=15m >dashboard.svg
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"html"
	"io"
	"math"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

func main() {
	if err := run(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "dashboard:", err)
		os.Exit(1)
	}
}

type dashboard struct{ Panels []panel }

type panel struct {
	Type, Title string
	GridPos     struct{ H, W, X, Y float64 }
	FieldConfig struct {
		Defaults struct {
			Unit     string
			Min, Max *float64
			Custom   struct{ Stacking struct{ Mode string } }
		}
	}
	Targets []struct{ Expr, LegendFormat string }
}

// series is what a query returns over time.
type series struct {
	name   string
	points [][2]float64
}

type screen struct {
	prometheus string
	from, to   time.Time
	step       time.Duration
	interval   string // what $__rate_interval stands for
}

func run(to io.Writer) error {
	var s screen
	file := flag.String("dashboard", "deploy/grafana/snapfleet.json", "the dashboard")
	flag.StringVar(&s.prometheus, "prometheus", "http://127.0.0.1:9090", "its URL")
	note := flag.String("note", "", "what the data is of, for the line at the bottom")
	back := flag.Duration("for", time.Hour, "how much time is drawn")
	end := flag.Int64("to", time.Now().Unix(), "the end of it, in seconds since 1970")
	flag.StringVar(&s.interval, "rate-interval", "1m", "what $__rate_interval stands for: four times the scrape interval")
	flag.Parse()
	s.to = time.Unix(*end, 0)
	s.from, s.step = s.to.Add(-*back), max(time.Second, *back/200)
	data, err := os.ReadFile(*file)
	if err != nil {
		return err
	}
	var d dashboard
	if err := json.Unmarshal(data, &d); err != nil {
		return fmt.Errorf("read %s: %w", *file, err)
	}
	height := 0.0
	for _, p := range d.Panels {
		height = max(height, (p.GridPos.Y+p.GridPos.H)*rowHeight)
	}
	height += rowHeight
	fmt.Fprintf(to, "<svg xmlns='http://www.w3.org/2000/svg' width='%d' height='%.0f' font-family='sans-serif' font-size='11' fill='#ddd'>\n<rect width='100%%' height='100%%' fill='#111217'/>\n", 24*columnWidth, height)
	for _, p := range d.Panels {
		if err := s.draw(to, p); err != nil {
			return fmt.Errorf("panel %q: %w", p.Title, err)
		}
	}
	fmt.Fprintf(to, "<text x='8' y='%.0f' fill='#999'>Drawn by test/dashboard from what Prometheus answers to the dashboard's queries, not by Grafana. %s</text>\n</svg>\n", height-10, html.EscapeString(*note))
	return nil
}

const columnWidth, rowHeight = 60, 30

func (s screen) draw(to io.Writer, p panel) error {
	x, y, w, h := p.GridPos.X*columnWidth, p.GridPos.Y*rowHeight, p.GridPos.W*columnWidth, p.GridPos.H*rowHeight
	fmt.Fprintf(to, "<g transform='translate(%.0f,%.0f)'>\n", x, y)
	defer fmt.Fprintln(to, "</g>")
	if p.Type == "row" {
		fmt.Fprintf(to, "<text x='8' y='20' font-size='14' font-weight='bold'>%s</text>\n", html.EscapeString(p.Title))
		return nil
	}
	fmt.Fprintf(to, "<rect x='3' y='3' width='%.0f' height='%.0f' fill='#181b1f' stroke='#2a2d33'/>\n<text x='10' y='18' font-weight='bold'>%s</text>\n", w-6, h-6, html.EscapeString(p.Title))
	var all []series
	for _, t := range p.Targets {
		found, err := s.query(t.Expr, t.LegendFormat)
		if err != nil {
			return fmt.Errorf("%s: %w", t.Expr, err)
		}
		all = append(all, found...)
	}
	switch {
	case len(all) == 0:
		fmt.Fprintf(to, "<text x='%.0f' y='%.0f' text-anchor='middle' fill='#777'>no data</text>\n", w/2, h/2)
	case p.Type == "stat":
		drawStat(to, p, all, w, h)
	default:
		s.drawSeries(to, p, all, w, h)
	}
	return nil
}

func drawStat(to io.Writer, p panel, all []series, w, h float64) {
	for i, one := range all {
		last := one.points[len(one.points)-1][1]
		at := w * (float64(i) + 0.5) / float64(len(all))
		fmt.Fprintf(to, "<text x='%.0f' y='%.0f' text-anchor='middle' font-size='26' fill='#73bf69'>%s</text>\n<text x='%.0f' y='%.0f' text-anchor='middle' fill='#999'>%s</text>\n",
			at, h/2+14, amount(last, p.FieldConfig.Defaults.Unit), at, h-14, html.EscapeString(one.name))
	}
}

var colours = []string{"#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#5794f2", "#b877d9", "#37872d", "#fade2a", "#c4162a"}

func (s screen) drawSeries(to io.Writer, p panel, all []series, w, h float64) {
	const left, right, top, bottom = 62, 14, 28, 44
	if p.FieldConfig.Defaults.Custom.Stacking.Mode == "normal" {
		stack(all)
	}
	low, high := 0.0, 0.0
	if m := p.FieldConfig.Defaults.Max; m != nil {
		high = *m
	}
	for _, one := range all {
		for _, point := range one.points {
			high = max(high, point[1])
		}
	}
	if high == 0 {
		high = 1
	}
	px := func(at float64) float64 {
		return left + (at-float64(s.from.Unix()))/s.to.Sub(s.from).Seconds()*(w-left-right)
	}
	py := func(v float64) float64 { return top + (high-v)/(high-low)*(h-top-bottom) }
	for i := range 3 {
		v := low + (high-low)*float64(i)/2
		fmt.Fprintf(to, "<line x1='%d' x2='%.0f' y1='%.1f' y2='%.1f' stroke='#2a2d33'/><text x='%d' y='%.1f' text-anchor='end' fill='#999'>%s</text>\n", left, w-right, py(v), py(v), left-5, py(v)+4, amount(v, p.FieldConfig.Defaults.Unit))
	}
	legend := left - 50.0
	for i, one := range all {
		colour := colours[i%len(colours)]
		var path strings.Builder
		last := math.Inf(-1)
		for _, point := range one.points {
			verb := "L"
			if point[0]-last > 2.5*s.step.Seconds() {
				verb = "M"
			}
			fmt.Fprintf(&path, "%s%.1f %.1f", verb, px(point[0]), py(point[1]))
			last = point[0]
		}
		fmt.Fprintf(to, "<path d='%s' fill='none' stroke='%s' stroke-width='1.3'/>\n", path.String(), colour)
		if legend < w-60 {
			fmt.Fprintf(to, "<rect x='%.0f' y='%.0f' width='9' height='3' fill='%s'/><text x='%.0f' y='%.0f' font-size='10' fill='#bbb'>%s</text>\n", legend, h-17, colour, legend+12, h-12, html.EscapeString(one.name))
		}
		legend += 24 + 5.6*float64(len(one.name))
	}
	for _, at := range []time.Time{s.from, s.from.Add(s.to.Sub(s.from) / 2), s.to} {
		fmt.Fprintf(to, "<text x='%.0f' y='%.0f' text-anchor='middle' font-size='9' fill='#777'>%s</text>\n", min(max(px(float64(at.Unix())), left), w-30), h-bottom+13.0, at.UTC().Format("15:04"))
	}
}

// stack puts each series on top of those before it.
func stack(all []series) {
	sum := map[float64]float64{}
	for _, one := range all {
		for i, point := range one.points {
			sum[point[0]] += point[1]
			one.points[i][1] = sum[point[0]]
		}
	}
}

// query evaluates one query of a panel, as Grafana would: with its variables replaced.
func (s screen) query(expr, legend string) ([]series, error) {
	expr = strings.NewReplacer("$__rate_interval", s.interval, "$job", ".+").Replace(expr)
	resp, err := http.PostForm(s.prometheus+"/api/v1/query_range", url.Values{
		"query": {expr}, "start": {strconv.FormatInt(s.from.Unix(), 10)}, "end": {strconv.FormatInt(s.to.Unix(), 10)}, "step": {fmt.Sprint(s.step.Seconds())},
	})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // it was read
	var answer struct {
		Status, Error string
		Data          struct {
			Result []struct {
				Metric map[string]string
				Values [][2]any
			}
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return nil, err
	}
	if answer.Status != "success" {
		return nil, errors.New(answer.Error)
	}
	var all []series
	for _, r := range answer.Data.Result {
		one := series{name: legend}
		for label, v := range r.Metric {
			one.name = strings.ReplaceAll(one.name, "{{"+label+"}}", v)
		}
		for _, v := range r.Values {
			at, _ := v[0].(float64)
			text, _ := v[1].(string)
			if n, err := strconv.ParseFloat(text, 64); err == nil && !math.IsNaN(n) && !math.IsInf(n, 0) {
				one.points = append(one.points, [2]float64{at, n})
			}
		}
		if len(one.points) > 0 {
			all = append(all, one)
		}
	}
	slices.SortFunc(all, func(a, b series) int { return strings.Compare(a.name, b.name) })
	return all, nil
}

// amount is a number as people read it.
func amount(v float64, unit string) string {
	switch unit {
	case "percentunit":
		return fmt.Sprintf("%.3g%%", v*100)
	case "s":
		switch {
		case v >= 3600:
			return fmt.Sprintf("%.1fh", v/3600)
		case v >= 60:
			return fmt.Sprintf("%.1fmin", v/60)
		}
		return fmt.Sprintf("%.3gs", v)
	case "bytes", "Bps":
		suffix := map[string]string{"bytes": "", "Bps": "/s"}[unit]
		for _, prefix := range []string{"B", "KB", "MB", "GB"} {
			if v < 1000 {
				return fmt.Sprintf("%.3g %s%s", v, prefix, suffix)
			}
			v /= 1000
		}
		return fmt.Sprintf("%.3g TB%s", v, suffix)
	}
	return fmt.Sprintf("%.4g", v)
}
