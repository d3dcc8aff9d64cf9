package test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"gopkg.in/yaml.v3"

	"github.com/snapfleet/snapfleet/contracts"
)

// borrowed are the metrics that others make of a worker: Go, the operating system, and Prometheus itself.
// TestMetricsPage sees that a worker tells those of the first two.
var borrowed = []string{"process_cpu_seconds_total", "process_resident_memory_bytes"}

// page reads a file of the folder deploy.
func page(t *testing.T, path ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(append([]string{root, "deploy"}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// A book is what queries may ask for: series, by what they are called, and the labels of each.
type book map[string][]string

// metricsBook is deploy/metrics.md, whose truth TestMetricsPage holds, and what is borrowed.
func metricsBook(t *testing.T) book {
	t.Helper()
	b := book{}
	for _, m := range metricsPage(t) {
		with := strings.FieldsFunc(strings.ReplaceAll(m.labels, "`", ""), func(r rune) bool { return r == ',' || r == ' ' })
		if m.kind != "histogram" {
			b[m.name] = with
			continue
		}
		b[m.name+"_bucket"], b[m.name+"_sum"], b[m.name+"_count"] = append(slices.Clone(with), "le"), with, with
	}
	if len(b) < 20 {
		t.Fatalf("deploy/metrics.md has only %d metrics", len(b))
	}
	for _, name := range borrowed {
		b[name] = nil
	}
	return b
}

// read parses a query, and complains about what it asks for that is not there. It returns the metrics.
func (b book) read(t *testing.T, where, query string) (names []string) {
	t.Helper()
	query = strings.NewReplacer("$__rate_interval", "1m", "$job", ".+").Replace(query)
	expr, err := parser.ParseExpr(query)
	if err != nil {
		t.Errorf("%s: %s: %v", where, query, err)
		return nil
	}
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		s, ok := node.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		with, known := b[s.Name]
		if !known {
			t.Errorf("%s asks for %q, and nobody tells it", where, s.Name)
		}
		names = append(names, s.Name)
		for _, m := range s.LabelMatchers {
			if m.Name != labels.MetricName && m.Name != "job" && m.Name != "instance" && known && !slices.Contains(with, m.Name) {
				t.Errorf("%s asks for the label %s of %s, which has %q", where, m.Name, s.Name, with)
			}
			if m.Name == "code" {
				b.codes(t, where, m.Value)
			}
		}
		return nil
	})
	return names
}

// codes complains about what is no code of a rejection.
func (b book) codes(t *testing.T, where, pattern string) {
	t.Helper()
	for code := range strings.SplitSeq(pattern, "|") {
		if !slices.Contains(contracts.Codes(), contracts.Code(code)) {
			t.Errorf("%s asks for the code %q, and there is none", where, code)
		}
	}
}

// TestDashboard: every panel of the dashboard says what it shows and in which unit, and asks for metrics that there are.
func TestDashboard(t *testing.T) {
	t.Parallel()
	var d struct {
		ID            *int `json:"id"`
		SchemaVersion int  `json:"schemaVersion"`
		Templating    struct {
			List []struct{ Name, Type string }
		}
		Panels []struct {
			ID                       *int `json:"id"`
			Type, Title, Description string
			Datasource               struct{ UID string }
			GridPos                  struct{ H, W, X, Y int }
			FieldConfig              struct{ Defaults struct{ Unit string } }
			Targets                  []struct {
				Expr, RefID, LegendFormat string
				Datasource                struct{ UID string }
			}
		}
	}
	if err := json.Unmarshal([]byte(page(t, "grafana", "snapfleet.json")), &d); err != nil {
		t.Fatal(err)
	}
	if d.ID != nil || d.SchemaVersion < 39 || len(d.Templating.List) == 0 || d.Templating.List[0].Type != "datasource" {
		t.Errorf("id %v, schema %d, variables %+v", d.ID, d.SchemaVersion, d.Templating.List)
	}
	b, asked, rows, taken := metricsBook(t), []string{"snapfleet_worker_ready"}, 0, map[[2]int]string{}
	for _, p := range d.Panels {
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				at := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				if other, lies := taken[at]; lies || at[0] >= 24 {
					t.Fatalf("%q lies on %q at %v", p.Title, other, at)
				}
				taken[at] = p.Title
			}
		}
		if p.ID != nil {
			t.Errorf("%q has an id of somebody's Grafana", p.Title)
		}
		if p.Type == "row" {
			rows++
			continue
		}
		if p.Title == "" || p.Description == "" || p.FieldConfig.Defaults.Unit == "" || p.Datasource.UID != "${datasource}" || len(p.Targets) == 0 {
			t.Errorf("%q: description %q, unit %q, data source %q, %d queries", p.Title, p.Description, p.FieldConfig.Defaults.Unit, p.Datasource.UID, len(p.Targets))
		}
		for _, q := range p.Targets {
			if q.Datasource.UID != "${datasource}" || q.LegendFormat == "" || !strings.Contains(q.Expr, `job=~"$job"`) {
				t.Errorf("%q: the query %s is of %q, or of no fleet, or has no legend", p.Title, q.Expr, q.Datasource.UID)
			}
			asked = append(asked, b.read(t, p.Title, q.Expr)...)
		}
	}
	if rows != 4 || len(d.Panels) < 30 {
		t.Errorf("%d rows, %d panels", rows, len(d.Panels))
	}
	for name := range b {
		whole, of := strings.CutSuffix(name, "_bucket")
		if strings.HasSuffix(name, "_sum") || strings.HasSuffix(name, "_count") {
			continue
		}
		if !slices.Contains(asked, name) && !slices.Contains(seldom, name) {
			t.Errorf("no panel shows %s (%v)", whole, of)
		}
	}
}

// seldom are metrics that no panel shows.
var seldom = []string{
	"snapfleet_queue_length",                 // the sum of the states
	"snapfleet_delivered_bytes_total",        // bytes that were sent say more, and sooner
	"snapfleet_pause_age_seconds",            // is for an alert
	"snapfleet_webhook_delay_seconds_bucket", // the backlog says it
}

// A rule, as Prometheus reads it.
type rule struct {
	Record, Alert, Expr, For string
	Labels, Annotations      map[string]string
}

func rules(t *testing.T) (all []rule) {
	t.Helper()
	var file struct {
		Groups []struct{ Rules []rule }
	}
	if err := yaml.Unmarshal([]byte(page(t, "prometheus", "rules.yaml")), &file); err != nil {
		t.Fatal(err)
	}
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	return all
}

// TestAlertsHaveAnEntryInTheRunbook: each alert leads to an entry that says what it means, what to look at, what to do and
// what not to do; the runbook has no entry of another one; and rules ask for metrics that there are.
func TestAlertsHaveAnEntryInTheRunbook(t *testing.T) {
	t.Parallel()
	b := metricsBook(t)
	var alerts []rule
	for _, r := range rules(t) {
		if r.Alert != "" {
			alerts = append(alerts, r)
			continue
		}
		b.read(t, r.Record, r.Expr)
		b[r.Record] = []string{"state", "outcome"}
	}
	entries := map[string]string{}
	for _, section := range strings.Split(page(t, "runbook.md"), "\n### ")[1:] {
		title, text, _ := strings.Cut(section, "\n")
		text, _, _ = strings.Cut(text, "\n## ")
		entries[title] = text
	}
	used := map[string]bool{}
	for _, r := range alerts {
		b.read(t, r.Alert, r.Expr)
		used[r.Alert] = true
		entry := entries[r.Alert]
		for _, part := range []string{"**Means.**", "**Look.**", "**Do.**", "**Do not.**"} {
			if !strings.Contains(entry, part) {
				t.Errorf("the runbook's entry of %s lacks %s", r.Alert, part)
			}
		}
		if s := r.Labels["severity"]; s != "critical" && s != "warning" {
			t.Errorf("%s has the severity %q", r.Alert, s)
		}
		if a := r.Annotations; a["summary"] == "" || a["description"] == "" || a["runbook_url"] != "https://github.com/snapfleet/snapfleet/blob/main/deploy/runbook.md#"+strings.ToLower(r.Alert) {
			t.Errorf("%s is annotated with %q", r.Alert, a)
		}
	}
	for title := range entries {
		if !used[title] {
			t.Errorf("the runbook has an entry %q, and there is no such alert", title)
		}
	}
	if len(alerts) < 15 {
		t.Errorf("only %d alerts", len(alerts))
	}
	fires := page(t, "prometheus", "rules_test.yaml")
	for name := range used {
		if !strings.Contains(fires, `alertname="`+name+`"`) {
			t.Errorf("rules_test.yaml has no case in which %s fires", name)
		}
	}
}

var consoleBlock = regexp.MustCompile("(?s)```(sh|promql)\n(.*?)```")

// TestRunbookCommandsExist: what the runbook tells people to type at night is a command of this build, and a query of
// metrics that there are.
func TestRunbookCommandsExist(t *testing.T) {
	t.Parallel()
	b, commands := metricsBook(t), 0
	for _, r := range rules(t) {
		if r.Record != "" {
			b[r.Record] = []string{"state", "outcome"}
		}
	}
	for _, block := range consoleBlock.FindAllStringSubmatch(page(t, "runbook.md"), -1) {
		for line := range strings.Lines(block[2]) {
			line, _, _ = strings.Cut(strings.TrimSpace(line), "  #")
			switch {
			case line == "":
			case block[1] == "promql":
				b.read(t, "the runbook", line)
			case strings.HasPrefix(line, "snapfleet "):
				commands++
				line, _, _ = strings.Cut(line, " | ")
				understands(t, strings.Fields(line)[1:])
			}
		}
	}
	if commands < 10 {
		t.Errorf("only %d commands", commands)
	}
}

// understands complains when the binary does not know a command or one of its flags. There is no broker where it looks,
// so nothing is done, and that is how it has to end.
func understands(t *testing.T, args []string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary, append(args, "--nats-url=nats://127.0.0.1:1")...)
	cmd.Env = []string{"HOME=" + t.TempDir()}
	out, err := cmd.CombinedOutput()
	if code := cmd.ProcessState.ExitCode(); code != 7 {
		t.Errorf("snapfleet %s ends with %d (%v), and ought to find no broker:\n%s", strings.Join(args, " "), code, err, out)
	}
}
