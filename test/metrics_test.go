package test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/snapfleet/snapfleet/test/bucket"
)

var (
	update  = flag.Bool("update", false, "write again what deploy/metrics.md says of every metric")
	scraped = flag.String("scraped", "", "file to write to what TestMetricsPage has scraped, for promtool")
)

// scrape is what a worker tells Prometheus, by the name of the metric.
func (f *fleet) scrape(p *process) map[string]*dto.MetricFamily {
	f.t.Helper()
	_, body, _ := strings.Cut(f.probe(p, "/metrics"), " ")
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	return families
}

// value is the sum of the samples of a metric with these labels; ok is false when there is none.
func value(families map[string]*dto.MetricFamily, name string, labels ...string) (sum float64, ok bool) {
	for _, m := range families[name].GetMetric() {
		has := map[string]string{}
		for _, l := range m.GetLabel() {
			has[l.GetName()] = l.GetValue()
		}
		fits := true
		for i := 0; i < len(labels); i += 2 {
			fits = fits && has[labels[i]] == labels[i+1]
		}
		if fits {
			ok = true
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return sum, ok
}

// measures waits until a worker says that a metric with these labels is from to the other.
func (f *fleet) measures(p *process, from, to float64, name string, labels ...string) {
	f.t.Helper()
	f.eventually(fmt.Sprint(name, labels, " is right"), func() error {
		if is, ok := value(f.scrape(p), name, labels...); !ok || is < from || is > to {
			return fmt.Errorf("%s%q is %v (%v), want %v to %v", name, labels, is, ok, from, to)
		}
		return nil
	})
}

// counted waits until the workers have counted so many together. An outcome can be read a moment before it is counted.
func (f *fleet) counted(want float64, workers []*process, name string, labels ...string) {
	f.t.Helper()
	f.eventually(fmt.Sprint(name, labels, " is right"), func() error {
		sum := 0.0
		for _, w := range workers {
			n, _ := value(f.scrape(w), name, labels...)
			sum += n
		}
		if sum != want {
			return fmt.Errorf("it is %v in all, want %v", sum, want)
		}
		return nil
	})
}

// ours are the families that snapfleet makes itself.
func ours(families map[string]*dto.MetricFamily) (names []string) {
	for _, name := range slices.Sorted(maps.Keys(families)) {
		if strings.HasPrefix(name, "snapfleet_") {
			names = append(names, name)
		}
	}
	return names
}

// A metric, as deploy/metrics.md has it.
type metric struct{ name, kind, labels, help string }

// described are the metrics that a worker tells.
func described(families map[string]*dto.MetricFamily) (all []metric) {
	for _, name := range ours(families) {
		labels := map[string]bool{}
		for _, m := range families[name].GetMetric() {
			for _, l := range m.GetLabel() {
				labels["`"+l.GetName()+"`"] = true
			}
		}
		kind := strings.ToLower(families[name].GetType().String())
		all = append(all, metric{name, kind, strings.Join(slices.Sorted(maps.Keys(labels)), ", "), families[name].GetHelp()})
	}
	return all
}

var metricRow = regexp.MustCompile("(?m)^\\| `(snapfleet_\\w+)` \\| (\\w+) \\| ([^|]*) \\| (.*) \\|$")

// metricsPage reads the table in deploy/metrics.md.
func metricsPage(t *testing.T) (all []metric) {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(root, "deploy", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range metricRow.FindAllStringSubmatch(string(page), -1) {
		all = append(all, metric{row[1], row[2], strings.TrimSpace(row[3]), row[4]})
	}
	return all
}

const tableBegin, tableEnd = "<!-- metrics:begin -->\n", "<!-- metrics:end -->"

func writeMetricsPage(t *testing.T, all []metric) {
	t.Helper()
	name := filepath.Join(root, "deploy", "metrics.md")
	page, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, begins := strings.Cut(string(page), tableBegin)
	_, after, ends := strings.Cut(rest, tableEnd)
	if !begins || !ends {
		t.Fatalf("%s has no place for the table", name)
	}
	var b bytes.Buffer
	b.WriteString(before + tableBegin + "| Metric | Type | Labels | What |\n|---|---|---|---|\n")
	for _, m := range all {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", m.name, m.kind, m.labels, m.help)
	}
	b.WriteString(tableEnd + after)
	if err := os.WriteFile(name, b.Bytes(), 0o644); err != nil { //nolint:gosec // a page of the repository
		t.Fatal(err)
	}
}

// fleetWide is what one worker says for all of them.
var fleetWide = []string{
	"snapfleet_queue_length", "snapfleet_queue_jobs", "snapfleet_queue_age_seconds", "snapfleet_dead_letters", "snapfleet_webhook_backlog",
	"snapfleet_tenants_scheduled", "snapfleet_tenants_overdue", "snapfleet_delivery_age_seconds", "snapfleet_tenant_delivery_age_seconds",
}

// speakers are the workers that say anything of a metric.
func (f *fleet) speakers(name string, workers ...*process) (who []*process) {
	f.t.Helper()
	for _, w := range workers {
		if f.scrape(w)[name] != nil {
			who = append(who, w)
		}
	}
	return who
}

// TestMetricsPage: every metric that workers tell is in deploy/metrics.md, as they tell it, and the page has no other.
// What is of the fleet is said by one of them.
func TestMetricsPage(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "measured", aged("measured"))
	r := newReceiver(t)
	flags := append(append(r.flags(), sweeping...), "--listen=127.0.0.1:0", "--attachments-source=measured-files={tenant}/", "--measure-every=1s", "--schedule-every=1s", "--check-every=1s", "--tenant-metrics=1")
	workers := []*process{f.work("w1", flags...), f.work("w2", flags...)}
	f.run("schedule", "set", f.tenant, "--cron=0 3 1 1 *", "--timezone=UTC")
	f.submit("one")
	job := f.delivered("one")

	all := map[string]*dto.MetricFamily{}
	want := metricsPage(t)
	f.eventually("every metric has come", func() error {
		for _, w := range workers {
			for name, family := range f.scrape(w) {
				if was := all[name]; was != nil {
					family.Metric = append(family.Metric, was.Metric...)
				}
				all[name] = family
			}
		}
		for _, m := range want {
			if all[m.name] == nil && !*update {
				return fmt.Errorf("nobody tells %s", m.name)
			}
		}
		if _, ok := value(all, "snapfleet_tenant_delivery_age_seconds", "tenant", f.tenant); !ok {
			return errors.New("nobody tells how old the tenant's delivery is")
		}
		if n, _ := value(all, "snapfleet_webhook_delay_seconds"); n < 1 {
			return errors.New("no event is delivered yet")
		}
		for _, phase := range []string{"preflight", "opening", "tables", "attachments", "complete", "seal"} {
			if n, _ := value(all, "snapfleet_job_phase_duration_seconds", "phase", phase); n < 1 {
				return fmt.Errorf("the phase %s was not measured", phase)
			}
		}
		return nil
	})
	for _, name := range borrowed {
		if all[name] == nil {
			t.Errorf("no worker tells %s", name)
		}
	}
	if *scraped != "" {
		_, body, _ := strings.Cut(f.probe(workers[0], "/metrics"), " ")
		if err := os.WriteFile(*scraped, []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := described(all); *update {
		writeMetricsPage(t, got)
	} else if !slices.Equal(got, want) {
		for _, m := range got {
			if !slices.Contains(want, m) {
				t.Errorf("deploy/metrics.md lacks %+v: go test ./test -run '^TestMetricsPage$' -args -update", m)
			}
		}
		for _, m := range want {
			if !slices.Contains(got, m) {
				t.Errorf("deploy/metrics.md has, and no worker tells, %+v", m)
			}
		}
	}
	for _, name := range fleetWide {
		f.eventually("one worker speaks of "+name, func() error {
			if who := f.speakers(name, workers...); len(who) != 1 {
				return fmt.Errorf("%d do", len(who))
			}
			return nil
		})
	}
	f.counted(1, workers, "snapfleet_jobs_total", "outcome", "delivered")
	f.exemplars(job.TraceID, workers...)
}

// exemplars: who asks in OpenMetrics gets, with a duration, the trace of a job that took so long.
func (f *fleet) exemplars(trace string, workers ...*process) {
	f.t.Helper()
	found := ""
	for _, w := range workers {
		address := regexp.MustCompile(`"listen":"([^"]+)"`).FindStringSubmatch(w.said())
		req, err := http.NewRequestWithContext(f.t.Context(), http.MethodGet, "http://"+address[1]+"/metrics", nil)
		if err != nil {
			f.t.Fatal(err)
		}
		req.Header.Set("Accept", "application/openmetrics-text; version=1.0.0")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			f.t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err = errors.Join(err, resp.Body.Close()); err != nil || !strings.HasSuffix(string(body), "# EOF\n") {
			f.t.Fatalf("not OpenMetrics: %v\n%s", err, body)
		}
		found += string(body)
	}
	for _, name := range []string{"snapfleet_job_duration_seconds", "snapfleet_job_phase_duration_seconds", "snapfleet_queue_wait_seconds"} {
		if !regexp.MustCompile(`(?m)^` + name + `_bucket\{.*# \{.*trace_id="` + trace + `"`).MatchString(found) {
			f.t.Errorf("%s names no trace %s", name, trace)
		}
	}
}

// TestMetricsOfTrouble: what goes wrong can be seen in the metrics, and where.
func TestMetricsOfTrouble(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "troubled", little("troubled"))
	flags := []string{"--listen=127.0.0.1:0", "--slots=1", "--measure-every=500ms", "--schedule-every=500ms"}
	f.run("schedule", "set", f.tenant, "--cron=0 3 1 1 *", "--timezone=UTC")
	first := f.work("w1", flags...)

	// A store that fails once is asked again.
	once := cloud.Inject(bucket.Fault{Match: f.request("shaky", "UploadPart"), Skip: 1, Times: 1, Reply: bucket.Reply{Status: 500, Code: "InternalError"}})
	f.submit("shaky")
	f.delivered("shaky")
	once.Remove()
	f.measures(first, 1, 1, "snapfleet_aws_requests_total", "service", "S3", "method", "UploadPart", "result", "failed")
	f.measures(first, 1, 1, "snapfleet_aws_requests_total", "service", "STS", "method", "AssumeRole", "result", "ok")
	f.measures(first, 2, 2, "snapfleet_aws_requests_total", "service", "STS", "method", "TrustCheck", "result", "ok")
	f.measures(first, 1000, 1e9, "snapfleet_upload_bytes_total")
	f.measures(first, 1, 1, "snapfleet_job_steps_total", "step", "seal", "result", "ok")

	// One job holds the only slot, and another one waits for it.
	hold := make(chan struct{})
	held := cloud.Inject(bucket.Fault{Match: f.request("slow", "UploadPart"), Skip: 1, Times: 1, Hold: hold})
	f.submit("slow")
	<-held.Reached
	f.submit("behind")
	f.measures(first, 1, 1, "snapfleet_queue_jobs", "state", "running")
	f.measures(first, 1, 1, "snapfleet_queue_jobs", "state", "queued")
	f.measures(first, 0.5, 60, "snapfleet_queue_age_seconds", "state", "queued")
	f.measures(first, 2, 2, "snapfleet_queue_length")
	f.measures(first, 1, 1, "snapfleet_slots_busy")
	f.measures(first, 1, 1, "snapfleet_slots_limit")

	// While the fleet is paused, nobody waits for us.
	f.run("pause", "--fleet", "--reason=to see it")
	f.measures(first, 1, 1, "snapfleet_queue_jobs", "state", "paused")
	f.measures(first, 0, 0, "snapfleet_queue_age_seconds", "state", "queued")
	f.measures(first, 0.1, 60, "snapfleet_pause_age_seconds", "scope", "fleet")
	f.measures(first, 0, 0, "snapfleet_pause_age_seconds", "scope", "tenant")
	f.run("resume", "--fleet")
	f.measures(first, 0, 0, "snapfleet_pause_age_seconds", "scope", "fleet")

	// A worker is suspended over the job: another one takes over, and the first learns that it is not its job any more.
	if err := first.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	second := f.work("w2", flags...)
	f.measures(second, 1, 1, "snapfleet_job_claims_total", "kind", "takeover")
	if err := first.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	close(hold)
	held.Remove()
	f.delivered("slow")
	f.delivered("behind")
	f.measures(first, 1, 1, "snapfleet_leases_lost_total")
	f.measures(first, 1, 1, "snapfleet_job_steps_total", "step", "prepare", "result", "let_go")
	f.measures(second, 0, 0, "snapfleet_leases_lost_total")

	// A customer refuses us, and a job is given up for good.
	f.grant("another-external-id-0123456789")
	f.submit("refused")
	f.await("refused")
	f.counted(1, []*process{first, second}, "snapfleet_jobs_total", "outcome", "failed", "code", "role_denied")
	f.eventually("one dead letter is counted", func() error {
		for _, w := range []*process{first, second} {
			if n, _ := value(f.scrape(w), "snapfleet_dead_letters"); n == 1 {
				return nil
			}
		}
		return errors.New("it is not")
	})
	f.grant(f.record().Destination.ExternalID)

	// No tenant is named, because nobody has asked for it.
	f.eventually("somebody looks at the schedules", func() error {
		if len(f.speakers("snapfleet_delivery_age_seconds", first, second)) == 0 {
			return errors.New("nobody does")
		}
		return nil
	})
	for _, w := range []*process{first, second} {
		if body := f.probe(w, "/metrics"); strings.Contains(body, f.tenant) {
			t.Errorf("a tenant is named:\n%s", body)
		}
	}

	// Whoever has lost the turn, or cannot ask, says nothing of the fleet.
	f.nats.Stop()
	for _, w := range []*process{first, second} {
		f.eventually("without a broker nothing is said of the queue", func() error {
			if len(f.speakers("snapfleet_queue_length", w)) > 0 {
				return errors.New("it is")
			}
			return nil
		})
		f.measures(w, 0, 0, "snapfleet_worker_ready")
	}
}

// TestMetricsNeedNoFurtherRights: with the shipped configuration of the server a worker may measure all that it tells.
func TestMetricsNeedNoFurtherRights(t *testing.T) {
	t.Parallel()
	g := newGuarded(t, "gauged")
	workers := *g.fleet
	workers.env = g.as("worker")
	w := workers.work("worker", append(newReceiver(t).flags(), "--listen=127.0.0.1:0", "--measure-every=300ms", "--schedule-every=300ms")...)
	g.measures(w, 0, 0, "snapfleet_queue_length")
	g.measures(w, 0, 0, "snapfleet_dead_letters")
	g.measures(w, 0, 0, "snapfleet_webhook_backlog", "tells", "outcomes")
	g.measures(w, 0, 0, "snapfleet_tenants_scheduled")
	g.run("pause", "--fleet", "--reason=to see what waits")
	g.run("schedule", "set", g.tenant, "--cron=*/2 * * * * *", "--timezone=UTC", "--only=tables")
	g.measures(w, 1, 60, "snapfleet_queue_jobs", "state", "paused") // the runs of schedules wait, too
	g.measures(w, 1, 60, "snapfleet_queue_length")
	g.run("schedule", "clear", g.tenant)
	if said := w.said(); strings.Contains(said, "this worker has a fault") || strings.Contains(said, "could not be measured") {
		t.Errorf("the worker needs what it has no right to:\n%s", said)
	}
}

// TestTenantMetricsHaveABound: whoever asks for too many names learns how many there may be.
func TestTenantMetricsHaveABound(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "countless", little("countless"))
	for _, n := range []string{"-1", "1001"} {
		if out, code := f.try(f.env, append(append([]string{"worker"}, quick...), "--tenant-metrics="+n)...); code == 0 || !strings.Contains(strings.Join(strings.Fields(out), " "), "tenant metrics ("+n+") must be 0 to 1000") {
			t.Errorf("--tenant-metrics=%s ends with %d: %s", n, code, out)
		}
	}
}
