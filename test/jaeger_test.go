//go:build jaeger

package test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/snapfleet/snapfleet/test/bucket"
	"github.com/snapfleet/snapfleet/test/world"
)

// A shown trace is one as Jaeger's query API answers it.
type shown struct {
	TraceID   string                  `json:"traceID"`
	Spans     []shownSpan             `json:"spans"`
	Processes map[string]shownProcess `json:"processes"`
}

type shownSpan struct {
	ID         string `json:"spanID"`
	Name       string `json:"operationName"`
	References []struct {
		Type    string `json:"refType"`
		TraceID string `json:"traceID"`
		SpanID  string `json:"spanID"`
	} `json:"references"`
	Start     int64      `json:"startTime"` // in microseconds, as the duration
	Took      int64      `json:"duration"`
	Tags      []shownTag `json:"tags"`
	ProcessID string     `json:"processID"`
	Warnings  []string   `json:"warnings"`
}

type shownProcess struct {
	Service string     `json:"serviceName"`
	Tags    []shownTag `json:"tags"`
}

type shownTag struct {
	Key   string `json:"key"`
	Value any    `json:"value"`
}

func tag(tags []shownTag, key string) string {
	for _, t := range tags {
		if t.Key == key {
			return fmt.Sprint(t.Value)
		}
	}
	return ""
}

// count is an attribute that is a number.
func count(t *testing.T, s shownSpan, key string) int {
	t.Helper()
	n, err := strconv.Atoi(tag(s.Tags, key))
	if err != nil {
		t.Errorf("%s: %s: %v", s.Name, key, err)
	}
	return n
}

// parent is empty for a root.
func (s shownSpan) parent() string {
	for _, r := range s.References {
		if r.Type == "CHILD_OF" {
			return r.SpanID
		}
	}
	return ""
}

// askJaeger asks its query API.
func askJaeger(j *world.Jaeger, path string, answer any) error {
	r, err := http.Get(j.URL() + path)
	if err != nil {
		return err
	}
	defer r.Body.Close() //nolint:errcheck // it was read
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	if r.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %.200s", path, r.Status, body)
	}
	return json.Unmarshal(body, answer)
}

func startJaeger(t *testing.T) *world.Jaeger {
	t.Helper()
	j, err := world.StartJaeger(t.Context(), filepath.Join(root, "bin", "jaeger"), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(j.Stop)
	return j
}

// trace is the trace of a job, once it is there to its end.
func (f *fleet) trace(j *world.Jaeger, id, last string) (found shown) {
	f.t.Helper()
	f.eventually("Jaeger has the trace", func() error {
		var answer struct {
			Data []shown `json:"data"`
		}
		if err := askJaeger(j, "/api/traces/"+id, &answer); err != nil {
			return err
		}
		if len(answer.Data) != 1 {
			return fmt.Errorf("%d traces", len(answer.Data))
		}
		found = answer.Data[0]
		if !slices.ContainsFunc(found.Spans, func(s shownSpan) bool { return s.Name == last }) {
			return fmt.Errorf("%d spans, without %q", len(found.Spans), last)
		}
		return nil
	})
	return found
}

// TestJaegerShowsATakeover kills a worker in the middle of the attachments of a delivery, which another one takes to its
// end, and asks the real Jaeger what it has understood.
func TestJaegerShowsATakeover(t *testing.T) {
	j := startJaeger(t)
	f := newFleet(t, "shown", traced("shown", "shown-files", "x"))
	f.env = append(f.env, j.Environ()...)
	hold := make(chan struct{})
	fault := cloud.Inject(bucket.Fault{Match: f.request("job", "UploadPart"), Skip: 2, Times: 1, Hold: hold}) // the probe's, the tables', and that
	defer fault.Remove()
	source := "--attachments-source=shown-files={tenant}/"
	first := f.work("first", source)
	f.submit("job")
	<-fault.Reached
	s, err := f.jobs.Status(t.Context(), f.tenant, "job")
	if err != nil {
		t.Fatal(err)
	}
	f.trace(j, s.TraceID, "plan attachments")
	_ = first.stop(syscall.SIGKILL)
	close(hold)
	second := f.work("second", source)
	s = f.delivered("job")
	if err := second.stop(syscall.SIGTERM); err != nil { // it sends what it has
		t.Error(err)
	}
	trace := f.trace(j, s.TraceID, "process snapshot request")

	byID := map[string]shownSpan{}
	who := func(s shownSpan) string { return tag(trace.Processes[s.ProcessID].Tags, "service.instance.id") }
	for _, s := range trace.Spans {
		byID[s.ID] = s
	}
	var roots, orphans, links int
	var begin, end int64
	edges := map[string]int{}
	for _, s := range trace.Spans {
		if p := trace.Processes[s.ProcessID]; p.Service != "snapfleet" || tag(p.Tags, "service.version") == "" {
			t.Errorf("%s is of service %q", s.Name, p.Service)
		}
		if tag(s.Tags, "snapfleet.tenant") != f.tenant || tag(s.Tags, "snapfleet.job") != "job" {
			t.Errorf("%s is of job %q of tenant %q", s.Name, tag(s.Tags, "snapfleet.job"), tag(s.Tags, "snapfleet.tenant"))
		}
		if tag(s.Tags, "error") != "" {
			t.Errorf("%s: %v", s.Name, s.Tags)
		}
		for _, w := range s.Warnings { // of clocks, which it leaves alone
			lost := strings.HasPrefix(w, "invalid parent span IDs") && who(s) == "first"
			late := strings.HasPrefix(w, "clock skew adjustment disabled") && s.Name == "process snapshot request" // after its parent's end
			if !lost && !late {
				t.Errorf("%s of %q: %s", s.Name, who(s), w)
			}
		}
		if s.Took < 0 || time.Duration(s.Took)*time.Microsecond > time.Minute {
			t.Errorf("%s takes %d µs", s.Name, s.Took)
		}
		if begin == 0 || s.Start < begin {
			begin = s.Start
		}
		end = max(end, s.Start+s.Took)
		for _, r := range s.References {
			if r.Type == "CHILD_OF" {
				continue
			}
			links++
			if to := byID[r.SpanID]; r.TraceID != trace.TraceID || to.Name != "claim" || who(to) != "first" || s.Name != "process snapshot request" || who(s) != "second" {
				t.Errorf("%s of %q has a link to %s of %q", s.Name, who(s), to.Name, who(to))
			}
		}
		parent, known := byID[s.parent()]
		switch {
		case known:
			edges[who(s)+": "+parent.Name+" > "+s.Name]++
			// What is sent and waits is taken up when whoever sent it has gone; everything else is a part of its parent.
			const tolerance = 1000 // µs: two readings of the clock
			if inside := s.Start >= parent.Start-tolerance && s.Start+s.Took <= parent.Start+parent.Took+tolerance; !inside && who(s) == who(parent) {
				t.Errorf("%s is not inside of %s", s.Name, parent.Name)
			}
		case s.parent() == "":
			roots++
			edges[s.Name]++
		default:
			orphans++
			edges[who(s)+": ... > "+s.Name]++
			if who(s) != "first" {
				t.Errorf("%s of %q is an orphan", s.Name, who(s))
			}
		}
	}
	if roots != 1 || links != 1 || orphans == 0 {
		t.Errorf("%d roots, %d links, %d orphans", roots, links, orphans)
	}
	if whole := time.Duration(end-begin) * time.Microsecond; whole < 3*time.Second || whole > 2*time.Minute {
		t.Errorf("a trace with a takeover, after three seconds of silence, takes %v", whole)
	}
	for edge, n := range map[string]int{
		"submit snapshot.request.*":                             1,
		"first: submit snapshot.request.* > wait in queue":      1,
		"first: ... > claim":                                    1,
		"first: ... > preflight":                                1,
		"first: ... > open snapshot":                            1,
		"first: open snapshot > lock tables":                    1,
		"first: open snapshot > take snapshot":                  1,
		"first: ... > read tables":                              1,
		"first: read tables > copy table":                       3,
		"first: ... > upload volume":                            1,
		"first: upload volume > upload parts":                   1,
		"first: ... > plan attachments":                         1,
		"second: process snapshot request > prepare":            1,
		"second: prepare > preflight":                           1,
		"second: prepare > upload volume":                       1,
		"second: upload volume > upload parts":                  1,
		"second: read tables > copy table":                      0,
		"second: process snapshot request > complete":           1,
		"second: complete > complete volumes":                   1,
		"second: complete volumes > S3.CompleteMultipartUpload": 2,
		"second: process snapshot request > seal":               1,
		"second: write manifest > S3.PutObject":                 1,
		"second: process snapshot request > announce":           1,
		"second: announce > send snapshot.outcome.*.*":          1,
		"second: process snapshot request > ack":                1,
	} {
		if edges[edge] != n {
			t.Errorf("%d times %s, want %d", edges[edge], edge, n)
		}
	}
	for _, s := range trace.Spans {
		if s.Name == "copy table" && tag(s.Tags, "db.collection.name") == "parts" {
			in, out := count(t, s, "snapfleet.deflate.bytes.in"), count(t, s, "snapfleet.deflate.bytes.out")
			if rows := count(t, s, "snapfleet.rows"); rows != 500 || in < 500*20 || out < 500 || out > in/2 {
				t.Errorf("%d rows of %d bytes are deflated to %d: %v", rows, in, out, s.Tags)
			}
		}
		if s.Name == "claim" && tag(s.Tags, "snapfleet.claim") == "claimed" && who(s) == "second" && tag(s.Tags, "snapfleet.taken_over_from") != "first" {
			t.Errorf("the job was taken over from the first: %v", s.Tags)
		}
	}

	// It is found by whose job it is, which is what operators know; the newer API has the same; and the page is ours.
	var found struct {
		Data []shown `json:"data"`
	}
	query := url.Values{"service": {"snapfleet"}, "tags": {`{"snapfleet.tenant":"shown","snapfleet.job":"job"}`}}
	if err := askJaeger(j, "/api/traces?"+query.Encode(), &found); err != nil || len(found.Data) != 1 || found.Data[0].TraceID != s.TraceID {
		t.Errorf("by its job Jaeger finds %d traces: %v", len(found.Data), err)
	}
	query.Set("tags", `{"snapfleet.job":"another"}`)
	if err := askJaeger(j, "/api/traces?"+query.Encode(), &found); err != nil || len(found.Data) != 0 {
		t.Errorf("by another job Jaeger finds %d traces: %v", len(found.Data), err)
	}
	var newer struct {
		Result struct {
			ResourceSpans []struct {
				ScopeSpans []struct {
					Spans []json.RawMessage `json:"spans"`
				} `json:"scopeSpans"`
			} `json:"resourceSpans"`
		} `json:"result"`
	}
	spans := 0
	if err := askJaeger(j, "/api/v3/traces/"+s.TraceID, &newer); err != nil {
		t.Error(err)
	}
	for _, r := range newer.Result.ResourceSpans {
		for _, scope := range r.ScopeSpans {
			spans += len(scope.Spans)
		}
	}
	if spans != len(trace.Spans) {
		t.Errorf("the newer API knows %d spans of %d", spans, len(trace.Spans))
	}
	page, err := http.Get(j.Trace(s.TraceID))
	if err != nil {
		t.Fatal(err)
	}
	defer page.Body.Close() //nolint:errcheck // it was read
	if body, err := io.ReadAll(page.Body); err != nil || !strings.Contains(string(body), "/api/traces/") {
		t.Errorf("Jaeger shows %v: %.100s", err, body)
	}
	t.Logf("%d spans, %d of them orphans of the worker that was killed", len(trace.Spans), orphans)
}

// TestJaegerTakesTheCollectorsConfiguration: Jaeger is a collector, with the components that ours is told to use.
func TestJaegerTakesTheCollectorsConfiguration(t *testing.T) {
	t.Parallel()
	jaeger, config := filepath.Join(root, "bin", "jaeger"), filepath.Join(root, "deploy", "collector.yaml")
	if out, err := exec.CommandContext(t.Context(), jaeger, "validate", "--config="+config).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	out, err := exec.CommandContext(t.Context(), jaeger, "validate", "--config="+config, "--config=yaml:processors::tail_sampling::decision_wait: soon").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "decision_wait") {
		t.Errorf("a wrong one is taken, too: %v\n%s", err, out)
	}
}
