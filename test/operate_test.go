package test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/snapfleet/snapfleet/consumer"
	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/test/world/factory"
)

// says runs a verb, and fails unless it ends with the code and says every text, however it is wrapped.
func (f *fleet) says(code int, args []string, texts ...string) (out string) {
	f.t.Helper()
	out, got := f.try(f.env, args...)
	flat := strings.Join(strings.Fields(out), " ")
	for _, text := range texts {
		if !strings.Contains(flat, text) {
			f.t.Errorf("snapfleet %s: %q is not in:\n%s", strings.Join(args, " "), text, out)
		}
	}
	if got != code {
		f.t.Errorf("snapfleet %s: exit %d, want %d:\n%s", strings.Join(args, " "), got, code, out)
	}
	return out
}

// words are a command line.
func words(line string) []string { return strings.Fields(line) }

// document is the JSON document that a verb prints.
func document[T any](f *fleet, args ...string) (v T) {
	f.t.Helper()
	if out := f.run(args...); json.Unmarshal([]byte(out), &v) != nil {
		f.t.Fatalf("snapfleet %s prints no JSON document:\n%s", strings.Join(args, " "), out)
	}
	return v
}

// offered is how often the queue has handed out a message.
func (f *fleet) offered() uint64 {
	f.t.Helper()
	q, err := f.js.Consumer(f.t.Context(), contracts.RequestStream, contracts.WorkersName)
	if err != nil {
		f.t.Fatal(err)
	}
	return q.CachedInfo().Delivered.Consumer
}

// probe asks a worker's listener.
func (f *fleet) probe(p *process, path string) string {
	f.t.Helper()
	address := regexp.MustCompile(`"listen":"([^"]+)"`).FindStringSubmatch(p.said())
	if address == nil {
		f.t.Fatalf("it does not listen:\n%s", p.said())
	}
	resp, err := http.Get("http://" + address[1] + path)
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // it is read
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	return fmt.Sprintf("%d %s", resp.StatusCode, body)
}

// TestPause is an operator who stops the fleet, and one tenant of it, for a while.
func TestPause(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "held", sql("CREATE SCHEMA held; CREATE TABLE held.t AS SELECT 1 AS a; CREATE SCHEMA free; CREATE TABLE free.t AS SELECT 1 AS a"))
	other := f.customer(t, "free")
	worker := f.work("worker", "--listen=127.0.0.1:0")

	// What cannot be meant changes nothing.
	f.says(2, words("pause"), "give a tenant, or --fleet to pause everybody")
	f.says(2, words("pause held --fleet"), "not both")
	f.says(2, words("pause ../x"), `tenant "../x" is not`)
	f.says(2, words("pause held --for=-1h"), "in the past")
	f.says(2, words("pause held --for=soon"), "--for")
	f.says(2, []string{"pause", "held", "--reason=a\x1b[2J"}, "one line")
	f.says(3, words("pause nobody"), "tenant nobody is not registered", "fix:")
	f.says(3, words("resume nobody"), "tenant nobody is not registered")
	f.says(2, words("resume held --fleet"), "not both")
	f.says(2, words("resume"), "give a tenant, or --fleet to end the pause of the fleet")
	f.says(0, words("resume --fleet"), "The fleet was not paused.")
	f.says(0, words("resume held"), "Tenant held was not paused.")
	f.submit("before")
	f.delivered("before")

	f.says(0, []string{"pause", "--fleet", "--reason=database moves", "--for=2h"}, "The fleet is paused, until", "jobs under way go on to their end, and requests wait")
	f.says(0, []string{"pause", "--fleet", "--reason=database moves"}, "The fleet was paused already, since", "until `snapfleet resume --fleet`")
	f.eventually("the worker has heard of it", func() error {
		if m := f.probe(worker, "/metrics"); !strings.Contains(m, `snapfleet_paused{scope="fleet"} 1`) || !strings.Contains(m, `snapfleet_paused{scope="tenant"} 0`) {
			return errors.New(m)
		}
		return nil
	})
	if ready := f.probe(worker, "/readyz"); ready != "200 ready\n" {
		t.Errorf("/readyz says %q", ready)
	}
	f.says(0, words("submit held --job=one"), "one", "The fleet is paused since")
	f.submit("two")
	before := f.offered()
	f.eventually("they were offered to the worker again and again", func() error {
		if now := f.offered(); now < before+8 {
			return fmt.Errorf("%d times", now-before)
		}
		return nil
	})
	f.says(0, words("status held"), "one queued, paused 20", "The fleet is paused since", ": database moves.")
	f.says(0, words("status held one"), "state queued, paused", "paused the fleet, since")
	f.says(0, words("tenant get held"), "paused the fleet, since", "database moves")
	s := document[consumer.Status](f, "status", "held", "one", "--json")
	if s.State != "queued" || s.Paused == nil || s.Paused.Reason != "database moves" || s.Paused.By == "" || !s.Paused.Until.IsZero() {
		t.Errorf("%+v", s)
	}
	// Who does not want to wait can still cancel.
	if c := document[consumer.Status](f, "cancel", "held", "two", "--json"); !c.CancelRequested || c.Job != "two" {
		t.Errorf("cancelled: %+v", c)
	}
	if end := f.await("two"); end.Outcome.Kind != contracts.Cancelled {
		t.Errorf("cancelled: %+v", end.Outcome)
	}

	// One tenant instead of all.
	p := document[consumer.Pause](f, "pause", "held", "--json")
	if p.Tenant != "held" || p.At.IsZero() {
		t.Errorf("%+v", p)
	}
	f.says(0, words("resume --fleet"), "The fleet is no longer paused", "database moves", "Tenant held is paused since")
	other.submit("job")
	other.delivered("job")
	if s := document[consumer.Status](f, "status", "held", "one", "--json"); s.State != "queued" || s.Paused == nil || s.Paused.Tenant != "held" {
		t.Errorf("%+v", s)
	}
	f.says(0, words("resume held"), "Tenant held is no longer paused")
	if s := f.delivered("one"); s.Attempt != 1 || s.Errors+s.Crashes > 0 {
		t.Errorf("%+v", s)
	}
	r := document[struct {
		Resumed bool
		Was     *consumer.Pause
		Paused  []consumer.Pause
	}](f, "resume", "held", "--json")
	if r.Resumed || r.Was != nil || r.Paused == nil || len(r.Paused) > 0 {
		t.Errorf("there was something to resume: %+v", r)
	}
	if m := f.probe(worker, "/metrics"); !strings.Contains(m, `snapfleet_paused{scope="tenant"} 0`) {
		t.Errorf("the gauge still counts a pause:\n%s", m)
	}
	// One that ends by itself.
	p = document[consumer.Pause](f, "pause", "--fleet", "--for=3s", "--json")
	f.submit("three")
	if s := f.delivered("three"); s.CreatedAt.Before(p.Until) {
		t.Errorf("begun before %v: %+v", p.Until, s)
	}
	f.eventually("the worker has told of it", func() error {
		if said, m := worker.said(), f.probe(worker, "/metrics"); strings.Count(said, `"no longer paused"`) < 3 || !strings.Contains(m, `snapfleet_paused{scope="fleet"} 0`) {
			return errors.New(m)
		}
		return nil
	})
	f.check()
}

// TestDeadLetters is an operator who looks at what was given up, mends it, and publishes it again.
func TestDeadLetters(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "letters", sql("CREATE SCHEMA letters; CREATE TABLE letters.t AS SELECT 1 AS a; CREATE SCHEMA newcomer; CREATE TABLE newcomer.t AS SELECT 1 AS a"))
	f.work("worker")
	publish := func(tenant, body string) (seq string) {
		t.Helper()
		before := len(f.dead(tenant))
		m := nats.NewMsg(contracts.RequestSubject(tenant))
		m.Data = []byte(body)
		m.Header.Set("Publisher", "erp\u009b2J")
		if _, err := f.js.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		f.eventually("there is a dead letter", func() error {
			if len(f.dead(tenant)) == before {
				return errors.New("none")
			}
			return nil
		})
		all := f.dead(tenant)
		return fmt.Sprint(all[len(all)-1].Sequence)
	}
	body := func(tenant, job, at string) string {
		return fmt.Sprintf(`{"version":1,"tenant":%q,"job":%q,"only":"tables","format":"jsonl.gz","requested_at":%q}`, tenant, job, at)
	}
	const past = "2020-01-01T00:00:00Z"
	now := time.Now().UTC().Format(time.RFC3339)

	f.says(0, words("dead list"), "No dead letters.")
	f.says(0, words("dead list letters"), "No dead letters.")
	f.says(3, words("dead list nobody"), "tenant nobody is not registered")
	early := publish("newcomer", body("newcomer", "first", now))
	late := publish("letters", body("letters", "late", past))
	twice := publish("letters", body("letters", "late", "2020-01-02T00:00:00Z"))
	hostile := publish("letters", "{\"version\":1,\"tenant\":\"letters\",\"job\":\"\x1b[2J\xff\u202e\"} \x1b]0;owned\x07")
	forged := publish("letters", body("newcomer", "x", now))
	f.grant(f.record().Destination.ExternalID, "s3:PutObject")
	f.submit("denied", "--only=tables")
	if s := f.await("denied"); s.Outcome.Kind != contracts.Failed {
		t.Fatalf("%+v", s.Outcome)
	}
	f.grant(f.record().Destination.ExternalID)
	denied := fmt.Sprint(f.dead("letters")[4].Sequence)

	// Looking.
	list := f.says(0, words("dead list"), "SEQ WHEN TENANT JOB CODE REASON REPLAYED AS", early+" 2", "newcomer first unknown_tenant", "letters late request_expired", "letters denied write_denied")
	show := f.says(0, []string{"dead", "show", hostile}, "invalid_request", "cause:", "fix:", "Publisher erp\\u009b2J", `\x1b]0;owned\a`, "It cannot be replayed")
	f.says(0, []string{"dead", "show", denied}, "(write_denied)", "fix: grant these actions", `"job":"denied","only":"tables"`, "When that is mended: snapfleet dead replay "+denied)
	raw := f.says(0, []string{"dead", "show", hostile, "--json"}, `"replayable": false`, `"hint"`)
	raw += f.says(0, words("dead list letters --json"), `"code":"write_denied"`)
	for _, out := range []string{list, show, raw} {
		if strings.ContainsAny(out, "\x1b\x07\u009b\u202e") || strings.Contains(out, "\xff") {
			t.Errorf("hostile bytes reach the terminal: %q", out)
		}
	}
	whole := document[struct {
		Seq        uint64
		Text       string
		Header     map[string][]string
		Replayable bool
		Reason     contracts.Reason
	}](f, "dead", "show", denied, "--json")
	if whole.Text == "" || !whole.Replayable || whole.Reason.Code != contracts.WriteDenied || whole.Reason.Fix == "" || len(whole.Header) == 0 {
		t.Errorf("%+v", whole)
	}

	// What cannot be meant changes nothing.
	queue := f.messages(contracts.RequestStream)
	for _, c := range []struct {
		code  int
		line  string
		texts []string
	}{
		{2, "dead", nil},
		{2, "dead show x", []string{"<seq>"}},
		{2, "dead show -- -1", []string{"<seq>"}},
		{3, "dead show 999", []string{"no such dead letter", "snapfleet dead list"}},
		{3, "dead replay 999", []string{"no such dead letter"}},
		{2, "dead replay", []string{"give the number of a dead letter, or --all"}},
		{2, "dead replay --all " + late, []string{"not both"}},
		{2, "dead replay --all", []string{"nobody to ask on this terminal: give --yes"}},
		{2, "dead replay --all --yes --job=x", []string{"--job names one job"}},
		{2, "dead replay " + late + " --job=a/b", []string{`job "a/b" is not`}},
		{2, "dead replay " + late + " --tenant=letters", []string{"--tenant goes with --all"}},
		{3, "dead replay --all --yes --tenant=nobody", []string{"tenant nobody is not registered"}},
		{3, "dead replay " + early, []string{"tenant newcomer is not registered", "fix: register it with `snapfleet tenant set`, then replay the dead letter"}},
		{4, "dead replay " + hostile, []string{"is no request", "cannot be replayed", "fix: have its publisher mended, and ask for what it meant with `snapfleet submit`"}},
		{4, "dead replay " + forged, []string{`was published for tenant "letters" and is for tenant "newcomer"`}},
		{4, "dead replay " + denied + " --job=denied", []string{"job denied of tenant letters is used up", "give another --job, or none"}},
	} {
		f.says(c.code, words(c.line), c.texts...)
	}
	if is := f.messages(contracts.RequestStream); is != queue || strings.Contains(f.run("dead", "list", "--json"), `"replay":`) {
		t.Errorf("something was replayed: %s, was %s", is, queue)
	}

	// A request that never became a job keeps its id; one whose job has failed becomes another.
	if out := f.says(0, []string{"dead", "replay", late}); out != "late\n" {
		t.Errorf("it prints %q", out)
	}
	f.delivered("late")
	if m := f.manifest("late"); m.Format != contracts.JSONL || m.Only != contracts.Tables {
		t.Errorf("delivered as %s, only %q", m.Format, m.Only)
	}
	r := document[struct {
		Job string
		Own bool `json:"own_id"`
	}](f, "dead", "replay", denied, "--job=mended", "--json")
	if r.Job != "mended" || r.Own {
		t.Errorf("%+v", r)
	}
	f.delivered("mended")
	f.says(4, []string{"dead", "replay", late}, "it was replayed before, as job late", "--again")
	f.says(0, []string{"dead", "list", "letters"}, "late", "mended")

	// An unknown tenant's job has ended, too: with an outcome that stands for ever.
	newcomer := f.customer(t, "newcomer")
	out := f.says(0, words("dead replay --all --yes"), "Left out: dead letter "+hostile, "Left out: dead letter "+forged, "Left out: dead letter "+twice+" asks for the same as "+late, "Job newcomer/first is used up: dead letter "+early+" becomes job")
	job := regexp.MustCompile(`(?m)^` + early + ` newcomer (\S+)$`).FindStringSubmatch(out)
	if job == nil {
		t.Fatalf("it does not say what it has replayed:\n%s", out)
	}
	newcomer.delivered(job[1])
	f.says(0, words("dead replay --all --yes"), "No dead letter to replay.")
	again := strings.Fields(f.run("dead", "replay", late, "--again"))[0]
	f.delivered(again)
	f.check()
	newcomer.check()
}

// TestSubmitAndWait: the exit code is the outcome; and the history has all of them.
func TestSubmitAndWait(t *testing.T) {
	t.Parallel()
	if err := sourceBucket(); err != nil {
		t.Fatal(err)
	}
	f := newFleet(t, "waiting", sql(`CREATE SCHEMA waiting; CREATE TABLE waiting.t AS SELECT n FROM generate_series(1, 1234) n;
		CREATE TABLE waiting.file_attachments (id text, entity_id text, filename text, content_type text, s3_bucket text, s3_key text, s3_etag text);
		INSERT INTO waiting.file_attachments VALUES ('gone', 'e', 'gone.txt', 'text/plain', '`+factory.Bucket+`', 'waiting/gone', '')`))
	f.work("worker", "--attachments-source="+factory.Bucket+"={tenant}/")
	wait := func(job string, args ...string) []string {
		return append([]string{"submit", "waiting", "--job=" + job, "--wait"}, args...)
	}
	f.says(0, wait("good", "--only=tables"), "delivered: 2 tables, 1,235 rows", "s3://customer-waiting/waiting/good/manifest.json")
	f.says(0, wait("gaps"), "delivered-with-gaps: 2 tables", "1 attachment could not be had, the manifest names them")
	f.grant(f.record().Destination.ExternalID, "s3:PutObject")
	f.says(6, wait("bad"), "failed: ", "(write_denied)", "cause:", "fix: grant these actions")
	f.grant(f.record().Destination.ExternalID)
	f.says(0, wait("good", "--only=tables"), "was asked for before: nothing new is published", "delivered: 2 tables")

	f.run("pause", "waiting")
	over := make(chan struct{})
	go func() {
		defer close(over)
		f.says(6, wait("stopped"), "Tenant waiting is paused since", "waiting/stopped: queued, paused", "cancelled: ", "(cancelled)")
	}()
	f.eventually("it is queued", func() error {
		_, err := f.jobs.Status(t.Context(), "waiting", "stopped")
		return err
	})
	f.run("cancel", "waiting", "stopped")
	<-over
	f.run("resume", "waiting")

	// The history: the newest first, without an outcome being read.
	f.says(2, words("status waiting --state=finished"), "--state")
	f.says(2, words("status waiting --limit=-1"), "less than nothing")
	f.says(2, words("status waiting good --limit=1"), "for several jobs")
	f.says(2, words("status waiting --trace-url=https://jaeger.internal/trace/"), "--trace-url is no http or https address with {trace_id} in it")
	f.says(2, words("status waiting --trace-url=javascript:{trace_id}"), "--trace-url is no http")
	f.says(3, words("status nobody"), "tenant nobody is not registered")
	f.says(3, words("status waiting nothing"), "no such job")
	out := f.says(0, words("status waiting"), "TENANT JOB STATE ATTEMPT DONE ROWS BYTES TOOK WORKER UPDATED REASON TRACE", "waiting good done 1 2/2 tables 1,235", "1 gap", "failed", "write_denied", "stopped cancelled")
	if !inOrder(out, "waiting   stopped", "waiting   bad", "waiting   gaps", "waiting   good") {
		t.Errorf("the newest is not first:\n%s", out)
	}
	if out := f.run("status", "waiting", "--state=failed,cancelled", "--limit=1"); !strings.Contains(out, "stopped") || strings.Contains(out, "bad") || strings.Contains(out, "good") {
		t.Errorf("one that failed or was cancelled:\n%s", out)
	}
	type entry struct {
		consumer.Status
		TookMS   int64  `json:"took_ms"`
		TraceURL string `json:"trace_url"`
	}
	found := 0
	for line := range strings.Lines(f.run("status", "waiting", "--json", "--state=done", "--trace-url=https://jaeger.internal/trace/{trace_id}?x=1")) {
		var e entry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		found++
		if e.Totals == nil || e.Totals.Rows != 1235 || e.Manifest == "" || e.TookMS <= 0 || e.Worker != "worker" || len(e.TraceID) != 32 || e.TraceURL != "https://jaeger.internal/trace/"+e.TraceID+"?x=1" {
			t.Errorf("%s", line)
		}
	}
	if found != 2 {
		t.Errorf("%d jobs are done", found)
	}
	good := document[entry](f, "status", "waiting", "good", "--json")
	f.env = append(f.env, "SNAPFLEET_TRACE_URL=https://jaeger.internal/trace/{trace_id}")
	f.says(0, words("status waiting good"), "state delivered", "data 1,235 rows, ", "took ", "worker worker", "trace https://jaeger.internal/trace/"+good.TraceID, "s3://customer-waiting/waiting/good/manifest.json")
	f.says(0, words("status waiting bad"), "(write_denied)", "cause:", "fix:", "https://jaeger.internal/trace/")
	f.check()
}

// inOrder reports whether the texts are in s, one after the other.
func inOrder(s string, texts ...string) bool {
	for _, text := range texts {
		_, after, found := strings.Cut(s, text)
		if !found {
			return false
		}
		s = after
	}
	return true
}
