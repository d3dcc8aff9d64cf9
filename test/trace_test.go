package test

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/jackc/pgx/v5"
	collectortrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/test/bucket"
)

// A collector takes spans as Jaeger does: OTLP, protobuf over HTTP.
type collector struct {
	url string

	mu    sync.Mutex
	spans []span
	raw   bytes.Buffer // everything that was sent, as text
}

// A span is one that a process has ended and sent.
type span struct {
	*tracev1.Span
	process map[string]string // of its resource
}

func collect(t *testing.T) *collector {
	t.Helper()
	c := &collector{}
	server := httptest.NewServer(http.HandlerFunc(c.take))
	t.Cleanup(server.Close)
	c.url = server.URL
	return c
}

func (c *collector) take(w http.ResponseWriter, r *http.Request) {
	var batch collectortrace.ExportTraceServiceRequest
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = proto.Unmarshal(body, &batch)
	}
	if err != nil || r.URL.Path != "/v1/traces" {
		http.Error(w, "not a batch of spans", http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprintln(&c.raw, batch.String())
	for _, resource := range batch.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			for _, s := range scope.Spans {
				c.spans = append(c.spans, span{s, attributes(resource.Resource.GetAttributes())})
			}
		}
	}
}

func attributes(list []*commonv1.KeyValue) map[string]string {
	found := map[string]string{}
	for _, kv := range list {
		switch v := kv.Value.GetValue().(type) {
		case *commonv1.AnyValue_StringValue:
			found[kv.Key] = v.StringValue
		case *commonv1.AnyValue_IntValue:
			found[kv.Key] = fmt.Sprint(v.IntValue)
		case *commonv1.AnyValue_DoubleValue:
			found[kv.Key] = fmt.Sprint(v.DoubleValue)
		case *commonv1.AnyValue_BoolValue:
			found[kv.Key] = fmt.Sprint(v.BoolValue)
		default:
			found[kv.Key] = kv.Value.String()
		}
	}
	return found
}

// environ makes a process send its spans here, soon.
func (c *collector) environ() []string {
	return []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + c.url, "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf", "OTEL_BSP_SCHEDULE_DELAY=100"}
}

// trace is the spans of one trace, in the order of their beginning.
func (c *collector) trace(id string) (found []span) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.spans {
		if hex.EncodeToString(s.TraceId) == id {
			found = append(found, s)
		}
	}
	slices.SortStableFunc(found, func(a, b span) int { return int(a.StartTimeUnixNano) - int(b.StartTimeUnixNano) })
	return found
}

func (c *collector) all() []span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.spans)
}

// tree is how Jaeger shows a trace.
func tree(spans []span) string {
	children, known := map[string][]span{}, map[string]bool{}
	for _, s := range spans {
		known[string(s.SpanId)] = true
	}
	for _, s := range spans {
		parent := string(s.ParentSpanId)
		if !known[parent] {
			parent = ""
		}
		children[parent] = append(children[parent], s)
	}
	var b strings.Builder
	var show func(parent, indent string)
	show = func(parent, indent string) {
		for _, s := range children[parent] {
			mark := ""
			if s.Status.GetCode() == tracev1.Status_STATUS_CODE_ERROR {
				mark = "  ERROR " + s.Status.Message
			}
			attrs := attributes(s.Attributes)
			words := make([]string, 0, len(attrs))
			for _, k := range slices.Sorted(maps.Keys(attrs)) {
				words = append(words, k+"="+attrs[k])
			}
			fmt.Fprintf(&b, "%s%s  %v  %s%s\n", indent, s.Name, time.Duration(s.EndTimeUnixNano-s.StartTimeUnixNano).Round(100*time.Microsecond), strings.Join(words, " "), mark)
			show(string(s.SpanId), indent+"    ")
		}
	}
	show("", "")
	return b.String()
}

// traced loads a schema of two tables, one of them without rows, and three attachments, one of them an
// integration's. Rows and files hold the canary.
func traced(schema, files, canary string) func(context.Context, string) error {
	return func(ctx context.Context, url string) error {
		if err := cloud.CreateBucket(ctx, files, ourAccount); err != nil {
			return err
		}
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			return err
		}
		defer conn.Close(ctx) //nolint:errcheck // it has served
		_, err = conn.Exec(ctx, strings.NewReplacer("{schema}", pgx.Identifier{schema}.Sanitize(), "{canary}", canary).Replace(`
			CREATE SCHEMA {schema};
			CREATE TABLE {schema}.parts (id int PRIMARY KEY, name text, more jsonb, code bytea);
			INSERT INTO {schema}.parts SELECT n, 'row-{canary}-' || n, jsonb_build_object('key', 'row-{canary}'), 'row-{canary}' FROM generate_series(1, 500) n;
			CREATE TABLE {schema}."no rows" (id int);
			CREATE TABLE {schema}.file_attachments (id text PRIMARY KEY, entity_id text, filename text, content_type text, s3_bucket text, s3_key text, s3_etag text);
			INSERT INTO {schema}.file_attachments (id, filename) VALUES ('external', 'file-{canary}');
			CREATE OR REPLACE FUNCTION public.complain(text) RETURNS text LANGUAGE plpgsql AS $$
				BEGIN RAISE EXCEPTION 'row-%', $1 USING DETAIL = 'row-' || $1, HINT = 'row-' || $1; END $$`))
		if err != nil {
			return err
		}
		for _, id := range []string{"one", "two"} {
			key, body := schema+"/"+id, "body-"+canary+"-"+id
			out, err := cloud.Admin().PutObject(ctx, &s3.PutObjectInput{Bucket: &files, Key: &key, Body: strings.NewReader(body)})
			if err != nil {
				return err
			}
			_, err = conn.Exec(ctx, `INSERT INTO `+pgx.Identifier{schema, "file_attachments"}.Sanitize()+` VALUES ($1, $2, $3, 'text/plain', $4, $5, $6)`,
				id, "row-"+canary, "file-"+canary+"-"+id, files, key, out.ETag)
			if err != nil {
				return err
			}
		}
		return nil
	}
}

// lines are a worker's events.
func (p *process) lines(t *testing.T) (lines []map[string]any) {
	t.Helper()
	for line := range strings.Lines(p.said()) {
		var event map[string]any
		if err := json.Unmarshal([]byte(line), &event); err != nil {
			t.Fatalf("not JSON: %s", line)
		}
		lines = append(lines, event)
	}
	return lines
}

// manifest is the one that stands in the job's folder.
func (f *fleet) manifest(job string) contracts.Manifest {
	f.t.Helper()
	data, err := os.ReadFile(filepath.Join(f.download(job), contracts.ManifestName))
	if err != nil {
		f.t.Fatal(err)
	}
	m, err := contracts.DecodeManifest(data)
	if err != nil {
		f.t.Fatal(err)
	}
	return m
}

// TestOneTrace follows one request from its publisher to its end, in one trace of two processes.
func TestOneTrace(t *testing.T) {
	spans := collect(t)
	f := newFleet(t, "traced", traced("traced", "traced-files", "x"))
	f.env = append(f.env, spans.environ()...)
	w := f.work("w", "--attachments-source=traced-files={tenant}/")
	f.submit("job")
	s := f.delivered("job")
	if err := w.stop(syscall.SIGTERM); err != nil { // it sends what it has
		t.Error(err)
	}
	found := spans.trace(s.TraceID)
	t.Logf("the trace as Jaeger shows it:\n%s", tree(found))

	// One trace, and everybody calls it by the same name.
	if all := spans.all(); len(all) != len(found) {
		t.Errorf("%d of %d spans belong to another trace", len(all)-len(found), len(all))
	}
	m := f.manifest("job")
	if s.TraceID == "" || s.Outcome.TraceID != s.TraceID || m.TraceID != s.TraceID {
		t.Errorf("the trace is %q in the status, %q in the outcome, %q in the manifest", s.TraceID, s.Outcome.TraceID, m.TraceID)
	}
	if sent := f.messages(contracts.OutcomeStream); !strings.Contains(sent, "snapfleet.tenant=traced") || !strings.Contains(sent, "snapfleet.job=job") {
		t.Errorf("the outcome does not say in its baggage whose it is: %s", sent)
	}
	told := 0
	for _, line := range w.lines(t) {
		if line["job"] == "job" {
			told++
			if line["trace_id"] != s.TraceID {
				t.Errorf("an event without the trace: %v", line)
			}
		}
	}
	if told < 2 {
		t.Errorf("%d events of the job", told)
	}

	// One root, no orphan, no failure.
	byID, edges, tables := map[string]span{}, map[string]int{}, map[string]string{}
	for _, s := range found {
		byID[string(s.SpanId)] = s
	}
	for _, s := range found {
		attrs := attributes(s.Attributes)
		parent, known := byID[string(s.ParentSpanId)]
		switch {
		case known:
			edges[parent.Name+" > "+s.Name]++
			if s.StartTimeUnixNano < parent.StartTimeUnixNano {
				t.Errorf("%s begins before %s", s.Name, parent.Name)
			}
		case len(s.ParentSpanId) > 0:
			t.Errorf("%s is an orphan", s.Name)
		default:
			edges[s.Name]++
		}
		if s.Status.GetCode() == tracev1.Status_STATUS_CODE_ERROR {
			t.Errorf("%s: %s", s.Name, s.Status.Message)
		}
		if attrs["snapfleet.tenant"] != f.tenant || attrs["snapfleet.job"] != "job" {
			t.Errorf("%s is of job %q of tenant %q", s.Name, attrs["snapfleet.job"], attrs["snapfleet.tenant"])
		}
		if s.Name == "copy table" {
			tables[attrs["db.collection.name"]] = attrs["snapfleet.rows"]
		}
		if s.process["service.name"] != "snapfleet" || s.process["service.version"] == "" {
			t.Errorf("%s is of %v", s.Name, s.process)
		}
	}
	for edge, n := range map[string]int{
		"submit snapshot.request.*":                            1,
		"submit snapshot.request.* > wait in queue":            1,
		"submit snapshot.request.* > process snapshot request": 1,
		"process snapshot request > claim":                     1,
		"process snapshot request > prepare":                   1,
		"prepare > preflight":                                  1,
		"prepare > open snapshot":                              1,
		"open snapshot > connect":                              1,
		"open snapshot > look at tables":                       1,
		"open snapshot > lock tables":                          1,
		"open snapshot > take snapshot":                        1,
		"prepare > read tables":                                1,
		"read tables > copy table":                             3,
		"prepare > upload volume":                              2,
		"upload volume > upload parts":                         2,
		"prepare > plan attachments":                           1,
		"process snapshot request > complete":                  1,
		"complete > complete volumes":                          1,
		"complete volumes > S3.CompleteMultipartUpload":        2,
		"process snapshot request > seal":                      1,
		"seal > write manifest":                                1,
		"write manifest > S3.PutObject":                        1,
		"process snapshot request > announce":                  1,
		"announce > send snapshot.outcome.*.*":                 1,
		"process snapshot request > ack":                       1,
	} {
		if edges[edge] != n {
			t.Errorf("%d times %s, want %d", edges[edge], edge, n)
		}
	}
	for _, table := range m.Tables {
		if tables[table.Name] != strconv.FormatInt(table.Rows, 10) {
			t.Errorf("table %q has %d rows, its span says %q", table.Name, table.Rows, tables[table.Name])
		}
	}
}

// TestTakeoverStaysInTheTrace kills the worker. Its successor works in the same trace, and its span has a link to
// what the first one left.
func TestTakeoverStaysInTheTrace(t *testing.T) {
	spans := collect(t)
	f := newFleet(t, "traced_twice", traced("traced_twice", "traced-twice-files", "x"))
	f.env = append(f.env, spans.environ()...)
	hold := make(chan struct{})
	fault := cloud.Inject(bucket.Fault{Match: func(c bucket.Call) bool { return c.Operation == "UploadPart" && c.Bucket == f.bucket }, Skip: 1, Times: 1, Hold: hold})
	defer fault.Remove()
	first := f.work("first")
	f.submit("job", "--only=tables")
	<-fault.Reached
	f.eventually("the first worker has sent its claim", func() error {
		for _, s := range spans.all() {
			if s.Name == "claim" {
				return nil
			}
		}
		return fmt.Errorf("%d spans", len(spans.all()))
	})
	_ = first.stop(syscall.SIGKILL)
	close(hold)
	second := f.work("second")
	s := f.delivered("job")
	_ = second.stop(syscall.SIGTERM)

	found := spans.trace(s.TraceID)
	t.Logf("the trace as Jaeger shows it:\n%s", tree(found))
	if all := spans.all(); len(all) != len(found) {
		t.Errorf("%d of %d spans belong to another trace", len(all)-len(found), len(all))
	}
	if m := f.manifest("job"); m.TraceID != s.TraceID || s.Outcome.TraceID != s.TraceID {
		t.Errorf("the trace is %q in the status, %q in the outcome, %q in the manifest", s.TraceID, s.Outcome.TraceID, m.TraceID)
	}
	byID := map[string]span{}
	for _, s := range found {
		byID[string(s.SpanId)] = s
	}
	links := 0
	for _, s := range found {
		if s.process["process.pid"] != strconv.Itoa(first.Process.Pid) && len(s.ParentSpanId) > 0 && byID[string(s.ParentSpanId)].Span == nil {
			t.Errorf("%s is an orphan", s.Name)
		}
		for _, l := range s.Links {
			links++
			if to := byID[string(l.SpanId)]; to.Span == nil || to.process["process.pid"] != strconv.Itoa(first.Process.Pid) || attributes(s.Attributes)["messaging.client.id"] != "second" {
				t.Errorf("%s has a link to %v", s.Name, to)
			}
		}
	}
	if links != 1 {
		t.Errorf("%d links, want one", links)
	}
}
