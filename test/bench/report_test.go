package main

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// given is a report of three rounds. In the second the machine was slow.
func given() *Report {
	round := func(slow, perSecond float64) Round {
		return Round{
			Order: []string{"script", "script_tuned", "pg_dump", "copy", "copy_deflate", "snapfleet"},
			Costs: map[string]Cost{
				"script":       {Wall: 40 * slow, CPU: 36, RSS: 70, Delivered: 1e9},
				"script_tuned": {Wall: 20 * slow, CPU: 20, RSS: 71, Delivered: 1e9},
				"pg_dump":      {Wall: 16 * slow, CPU: 18, RSS: 72, Delivered: 1e9},
				"copy":         {Wall: 8 * slow, CPU: 4},
				"copy_deflate": {Wall: 10 * slow, CPU: 7},
				"snapfleet":    {Wall: 12 * slow, CPU: 6 * slow, RSS: 150, Delivered: 1e9},
			},
			Small: []Small{
				{Slots: 1, Flags: []string{"--slots=1"}, Jobs: 10, PerSecond: perSecond / 2, Latency: 2 / perSecond},
				{Slots: 4, Flags: []string{"--slots=4"}, Jobs: 10, PerSecond: perSecond, Latency: 1 / perSecond},
				{Slots: 16, Flags: []string{"--slots=16"}, Jobs: 10, PerSecond: 3 * perSecond, Latency: 5 / perSecond},
			},
		}
	}
	c := &Comparison{GB: 2, Rounds: []Round{round(1, 20), round(3, 5), round(1, 10)}, Idle: &Idle{Seconds: 20, CPU: 0.06, Sent: 6}}
	c.conclude()
	return &Report{Comparison: c, Versions: map[string]string{"upload": "aws-cli/0"}, RoundTrips: &RoundTrips{
		Small:       Said{S3: map[string]int{"PutObject": 2}, NATS: map[string]int{"ack": 1}, SQL: map[string]int{"COPY": 50}, SQLTrips: 70},
		Attachments: Said{S3: map[string]int{"PutObject": 2, "GetObject of the source": 10}, NATS: map[string]int{"ack": 1}, SQL: map[string]int{"COPY": 51}},
	}}
}

func TestReportHasItsKeys(t *testing.T) {
	t.Parallel()
	r, file := given(), filepath.Join(t.TempDir(), "bench.json")
	if err := r.write(file, ""); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var found map[string]any
	if err := json.Unmarshal(data, &found); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]float64{
		"wall_ratio_roofline": 1.2, "wall_ratio_copy": 1.5, "wall_ratio_script": 0.3, "wall_ratio_script_tuned": 0.6, "wall_ratio_pg_dump": 0.75,
		"wall_s": 12, "worker_cpu_s_per_gb": 3, "peak_rss_mib": 150, "small_jobs_per_s": 10, "small_job_latency_s": 0.1, "small_job_slots": 4, "gb": 2,
	} {
		if got, ok := found[key].(float64); !ok || math.Abs(got-want) > 1e-9 {
			t.Errorf("%s is %v, want %v", key, found[key], want)
		}
	}
	for _, key := range []string{"machine", "versions", "rounds", "round_trips", "small_jobs", "idle"} {
		if found[key] == nil {
			t.Errorf("there is no %s", key)
		}
	}
	if rounds, ok := found["rounds"].([]any); !ok || len(rounds) != 3 {
		t.Errorf("not every round is there: %v", found["rounds"])
	}
}

func TestGrowthSaysWhetherItIsFlat(t *testing.T) {
	t.Parallel()
	sizes := func(cpu, rss float64) []Grown {
		return []Grown{
			{Tables: 3, GB: 0.1, CPUPerGB: 4, RSS: 60}, {Tables: 3, GB: 1, CPUPerGB: 3, RSS: 140}, {Tables: 3, GB: 4, CPUPerGB: cpu, RSS: rss},
		}
	}
	for _, tt := range []struct {
		cpu, rss           float64
		flatCPU, flatRSS   bool
		wantCPU, wantBytes string
	}{
		{3, 150, true, true, "cost for a byte is flat", "memory is flat"},
		{5, 150, false, true, "cost for a byte is NOT flat", "memory is flat"},
		{3, 300, true, false, "cost for a byte is flat", "memory is NOT flat: 140 MiB for 1 GB, 300 MiB for 4 GB"},
	} {
		g := Growth{Sizes: sizes(tt.cpu, tt.rss), Tables: []Grown{{Tables: 1}, {Tables: 1000, Wall: 2, Copies: 0.5, Ratio: 4}}}
		g.judge()
		var out strings.Builder
		g.print(&out)
		if g.FlatCPU != tt.flatCPU || g.FlatRSS != tt.flatRSS {
			t.Errorf("%v and %v: flat: %t and %t", tt.cpu, tt.rss, g.FlatCPU, g.FlatRSS)
		}
		for _, want := range []string{tt.wantCPU, tt.wantBytes, "1000 tables of 10 rows take 2.00 s, 2.00 ms each, 4.00 x"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("no %q in\n%s", want, &out)
			}
		}
	}
}

func TestStatement(t *testing.T) {
	t.Parallel()
	for sql, want := range map[string]string{
		"COPY (SELECT a FROM b) TO STDOUT\x00":                      "COPY",
		"  SET  x =\n 'y'\x00rest":                                  "SET x = _",
		`LOCK TABLE ONLY "acme"."t1" IN ACCESS SHARE MODE` + "\x00": "LOCK TABLE ONLY _._ IN ACCESS SHARE MODE",
		"SELECT " + strings.Repeat("a", 60):                         "SELECT " + strings.Repeat("a", 53) + " ...",
	} {
		if got := statement([]byte(sql)); got != want {
			t.Errorf("%q is %q, want %q", sql, got, want)
		}
	}
}

func TestWrongFlags(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"--gb=0"}, {"--rounds=-1"}, {"--slots=0"}, {"--slots=64"}, {"--growth-gb=1,0.1"}, {"--growth-tables=0"}, {"--idle=0s"}, {"--nonsense"}, {"--rounds=0", "--svg=x"}, {"more"},
	} {
		if got := run(args); got != exitUsage {
			t.Errorf("%v: exit code %d, want %d", args, got, exitUsage)
		}
	}
}

func TestMedian(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		of   []float64
		want float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{4, 1}, 2.5}, {[]float64{9, 1, 2}, 2}} {
		if got := median(tt.of); got != tt.want {
			t.Errorf("of %v: %v, want %v", tt.of, got, tt.want)
		}
	}
}

func TestTableSaysHowScriptsUpload(t *testing.T) {
	t.Parallel()
	r := given()
	var out strings.Builder
	r.print(&out)
	for _, want := range []string{"aws-cli/0", "0.75 x", "│           100 │     10.0 │", "GetObject of the source", "0.060 s of CPU"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
}

func TestPictureIsXML(t *testing.T) {
	t.Parallel()
	r := given()
	drawn, err := r.draw()
	if err != nil {
		t.Fatal(err)
	}
	bars := 0
	for d := xml.NewDecoder(strings.NewReader(string(drawn))); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, drawn)
		}
		if start, ok := token.(xml.StartElement); ok && start.Name.Local == "rect" {
			bars++
		}
	}
	if bars != len(entrants)+1 || // one behind all
		!strings.Contains(string(drawn), ">40.0 s<") || !strings.Contains(string(drawn), ">3.3 ×<") {
		t.Errorf("%d bars:\n%s", bars, drawn)
	}
}
