package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// TestMain makes the test's program what the scripts are run by, and what they may call for aws s3 cp.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == meter || os.Args[1] == standIn) {
		main()
	}
	os.Exit(m.Run())
}

// TestEverythingOnce runs the whole program as small as it gets. It starts every server, and takes some 20 seconds.
func TestEverythingOnce(t *testing.T) {
	dir := t.TempDir()
	figures, picture := filepath.Join(dir, "bench.json"), filepath.Join(dir, "bench.svg")
	code := run([]string{
		"--gb=0.01", "--rounds=1", "--jobs=4", "--slots=1,4", "--idle=1s", "--json=" + figures, "--svg=" + picture,
		"--growth", "--growth-gb=0.005,0.01", "--growth-tables=3", "--attachments", "--small-files=20", "--large-files=1", "--large-mb=20",
	})
	if code != 0 {
		t.Fatalf("exit code %d", code)
	}
	data, err := os.ReadFile(figures)
	if err != nil {
		t.Fatal(err)
	}
	var r Report
	if err := json.Unmarshal(data, &r); err != nil {
		t.Fatal(err)
	}
	for what, is := range map[string]bool{
		"ratios":      r.RoofRatio > 0 && r.ScriptRatio > 0 && r.TunedRatio > 0 && r.DumpRatio > 0,
		"worker":      r.CPUPerGB > 0 && r.DBPerGB > 0 && r.RSS > 0,
		"small jobs":  len(r.Small) == 2 && r.JobsPerS > 0 && r.Small[0].CPU > 0,
		"idle":        r.Idle.RSS > 0 && r.Idle.Seconds >= 1,
		"round trips": r.RoundTrips.Small.SQL["COPY"] == tinyTables && r.RoundTrips.Attachments.S3["GetObject of the source"] == filedFiles,
		"acks":        r.RoundTrips.Small.NATS["ack"] == 1 && r.RoundTrips.Small.STS["AssumeRole"] > 0,
		"growth":      len(r.Growth.Sizes) == 2 && len(r.Growth.Tables) == 1 && r.Growth.Tables[0].Tables == 3,
		"attachments": len(r.Attachments) == 2 && r.Attachments[0].Sum > 0 && r.Attachments[1].Bytes == 20e6,
	} {
		if !is {
			t.Errorf("%s: %s", what, data)
		}
	}
	if _, err := os.Stat(picture); err != nil {
		t.Error(err)
	}
	if left, err := filepath.Glob(filepath.Join(os.TempDir(), "snapfleet-bench-*")); err == nil && len(left) > 0 {
		t.Logf("there are folders, maybe of another run: %v", left)
	}
}
