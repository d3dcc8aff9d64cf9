package consumer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/snapfleet/snapfleet/contracts"
)

// letters are all dead letters, oldest first.
func letters(t *testing.T, jobs *Jobs) (all []Letter) {
	t.Helper()
	for l, err := range jobs.Letters(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, l)
	}
	return all
}

// bury publishes a body as a dead letter, as a worker would have.
func bury(t *testing.T, jobs *Jobs, tenant, body string, code contracts.Code) Letter {
	t.Helper()
	m := letter{tenant: tenant, body: body}
	job := ""
	if req, err := contracts.DecodeRequest([]byte(body)); err == nil {
		job = req.Job
	}
	if err := jobs.ledger.Bury(t.Context(), m, job, &contracts.Rejection{Code: code, Err: errors.New("no")}); err != nil {
		t.Fatal(err)
	}
	all := letters(t, jobs)
	return all[len(all)-1]
}

type letter struct {
	message
	tenant, body string
}

func (l letter) Data() []byte             { return []byte(l.body) }
func (l letter) Tenant() string           { return l.tenant }
func (l letter) Header() contracts.Header { return contracts.Header{"Publisher": {"erp"}} }

// submitted is what a letter is replayed by.
func submitted(jobs *Jobs) func(context.Context, contracts.Request) error {
	return func(ctx context.Context, req contracts.Request) error {
		if again, err := jobs.Submit(ctx, req, nil); err != nil || again {
			return fmt.Errorf("again %v: %w", again, err)
		}
		return nil
	}
}

func old(job string) string {
	return fmt.Sprintf(`{"version":1,"tenant":"acme","job":%q,"only":"tables","format":"jsonl.gz","requested_at":"2020-01-01T00:00:00Z"}`, job)
}

func TestLetterOfARequestThatNeverBecameAJobKeepsItsID(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	nc, jobs, w, _ := fleet(t)
	stop := start(t, nc, exports{n: w.node("bucket")}, quick("w1"))
	defer stop()
	must(jobs.js.Publish(ctx, contracts.RequestSubject("acme"), []byte(old("late")), jetstream.WithMsgID(contracts.RequestMsgID("acme", "late"))))
	eventually(t, "refused", func() bool { return len(letters(t, jobs)) == 1 })
	l := letters(t, jobs)[0]
	if l.Reason.Code != contracts.RequestExpired || l.Job != "late" || l.Tenant != "acme" || string(l.Body) != old("late") || l.Reason.Fix == "" || l.Replay != nil {
		t.Errorf("%+v", l)
	}
	req, err := jobs.Replay(ctx, l, ReplayOptions{}, submitted(jobs))
	if err != nil || req.Job != "late" || req.Only != contracts.Tables || req.Format != contracts.JSONL || time.Since(req.RequestedAt) > time.Minute {
		t.Fatalf("%+v, %v", req, err)
	}
	if s := ending(t, jobs, "late"); s.Outcome == nil || s.Outcome.Kind != contracts.Delivered {
		t.Errorf("%+v", s)
	}
	l = must(jobs.Letter(ctx, l.Seq))
	if l.Replay == nil || l.Replay.Job != "late" || letters(t, jobs)[0].Replay == nil {
		t.Errorf("not remembered: %+v", l)
	}
	if _, err := jobs.Replay(ctx, l, ReplayOptions{}, submitted(jobs)); !errors.Is(err, ErrReplayed) {
		t.Errorf("a second time: %v", err)
	}
	// Its id is used up now.
	again, err := jobs.Replay(ctx, l, ReplayOptions{Again: true}, submitted(jobs))
	if err != nil || again.Job == "late" {
		t.Fatalf("again: %+v, %v", again, err)
	}
	if s := ending(t, jobs, again.Job); s.Outcome == nil || s.Outcome.Kind != contracts.Delivered {
		t.Errorf("again: %+v", s)
	}
}

func TestLetterOfAJobThatFailedBecomesAnotherJob(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	nc, jobs, w, _ := fleet(t)
	broken := true
	stop := start(t, nc, exports{n: w.node("bucket"), reject: func(contracts.Attempt) error {
		if broken {
			return contracts.Reject(contracts.RoleDenied, "no")
		}
		return nil
	}}, quick("w1"))
	must(jobs.Submit(ctx, request("job"), nil))
	ending(t, jobs, "job")
	stop()
	broken = false
	defer start(t, nc, exports{n: w.node("bucket")}, quick("w2"))()
	l := letters(t, jobs)[0]
	for _, used := range []string{"job"} {
		if _, err := jobs.Replay(ctx, l, ReplayOptions{Job: used}, submitted(jobs)); err == nil || !strings.Contains(err.Error(), "used up") {
			t.Errorf("as job %s: %v", used, err)
		}
	}
	if must(jobs.Letter(ctx, l.Seq)).Replay != nil {
		t.Error("what was refused is remembered as done")
	}
	req, err := jobs.Replay(ctx, l, ReplayOptions{Job: "mended"}, submitted(jobs))
	if err != nil || req.Job != "mended" {
		t.Fatalf("%+v, %v", req, err)
	}
	if s := ending(t, jobs, "mended"); s.Outcome == nil || s.Outcome.Kind != contracts.Delivered {
		t.Errorf("%+v", s)
	}
	if s := must(jobs.Status(ctx, "acme", "job")); s.Outcome.Kind != contracts.Failed {
		t.Errorf("the failed job is now %+v", s)
	}
}

func TestLettersOfOneSecondBecomeJobsOfTheirOwn(t *testing.T) {
	t.Parallel()
	_, jobs, _, _ := fleet(t)
	var ids []string
	for n := range 5 { // nobody works: all ids are of requests that wait
		l := bury(t, jobs, "acme", fmt.Sprintf(`{"version":1,"tenant":"acme","job":"j%d","requested_at":"2020-01-01T00:00:00Z"}`, n), contracts.JobConflict)
		ids = append(ids, must(jobs.Replay(t.Context(), l, ReplayOptions{}, submitted(jobs))).Job)
	}
	if slices.Sort(ids); len(slices.Compact(ids)) != 5 || slices.ContainsFunc(ids, func(id string) bool { return strings.HasPrefix(id, "j") }) {
		t.Errorf("%q", ids)
	}
}

func TestWhatIsNoRequestIsNotReplayed(t *testing.T) {
	t.Parallel()
	_, jobs, _, _ := fleet(t)
	publish := func(_ context.Context, req contracts.Request) error {
		t.Errorf("published: %+v", req)
		return nil
	}
	for _, body := range []string{
		"", "nonsense", `{"version":1}`, strings.Replace(old("x"), `"version":1`, `"version":2`, 1),
		strings.Replace(old("x"), `"acme"`, `"other"`, 1), // published for acme: whoever may do that may not ask for other
		strings.Replace(old("x"), `"x"`, `"../x"`, 1),
		`{"version":1,"tenant":"acme","cron":"0 3 * * *"}`,
		`{"version":1,"tenant":"other","cron":"0 3 * * *","timezone":"UTC","updated_at":"2020-01-01T00:00:00Z"}`,
		`{"version":1,"tenant":"acme","cron":"0 3 30 2 *","timezone":"UTC","updated_at":"2020-01-01T00:00:00Z"}`,
	} {
		l := bury(t, jobs, "acme", body, contracts.InvalidRequest)
		if _, err := jobs.Replay(t.Context(), l, ReplayOptions{}, publish); !errors.Is(err, ErrNotReplayable) {
			t.Errorf("%s: %v", body, err)
		}
		if must(jobs.Letter(t.Context(), l.Seq)).Replay != nil {
			t.Errorf("%s: remembered as replayed", body)
		}
	}
	if _, err := jobs.Letter(t.Context(), 99); !errors.Is(err, ErrNoLetter) {
		t.Errorf("no letter: %v", err)
	}
}

// A run that became a job and failed, and one that a worker could not read.
func TestRunsOfAScheduleThatWereGivenUpAreReplayed(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	nc, jobs, w, _ := fleet(t)
	s := schedule("@daily", "America/Los_Angeles")
	s.Only, s.Format = contracts.Tables, contracts.JSONL
	table := must(readTimetable(s))
	run := must(table.fired(time.Now()))
	body := must(json.Marshal(s))
	replayed := func(l Letter, job string) {
		t.Helper()
		req, err := jobs.Replay(ctx, l, ReplayOptions{}, submitted(jobs))
		if err != nil || job != "" && req.Job != job || req.Only != contracts.Tables || req.Format != contracts.JSONL || time.Since(req.RequestedAt) > time.Minute {
			t.Fatalf("%+v, %v, want job %s", req, err, job)
		}
		if s := ending(t, jobs, req.Job); s.Outcome == nil || s.Outcome.Kind != contracts.Delivered {
			t.Errorf("job %s: %+v", req.Job, s)
		}
	}

	stop := start(t, nc, exports{n: w.node("bucket"), reject: func(contracts.Attempt) error { return contracts.Reject(contracts.RoleDenied, "no") }}, quick("w1"))
	must(jobs.js.Publish(ctx, contracts.RunSubject("acme"), body))
	ending(t, jobs, s.Request(run).Job)
	stop()
	defer start(t, nc, exports{n: w.node("bucket")}, quick("w2"))()
	l := letters(t, jobs)[0]
	if l.Job != s.Request(run).Job || l.Reason.Code != contracts.RoleDenied || contracts.IsSchedule(l.Body) {
		t.Errorf("job %s, %+v: %s", l.Job, l.Reason, l.Body)
	}
	replayed(l, "") // its id is used up

	before := table.last(run.Add(-time.Second))
	l = bury(t, jobs, "acme", string(body), contracts.InvalidRequest)
	if req, err := l.Wish(); err != nil || req.Job != s.Request(run).Job || !req.RequestedAt.Equal(run) {
		t.Errorf("the last run before it was given up: %+v, %v", req, err)
	}
	l.Job = s.Request(before).Job
	replayed(l, l.Job)
}

func TestLetterThatCouldNotBePublishedIsNotReplayed(t *testing.T) {
	t.Parallel()
	_, jobs, _, _ := fleet(t)
	l := bury(t, jobs, "acme", old("x"), contracts.RequestExpired)
	away := errors.New("the broker is away")
	if _, err := jobs.Replay(t.Context(), l, ReplayOptions{}, func(context.Context, contracts.Request) error { return away }); !errors.Is(err, away) {
		t.Errorf("%v", err)
	}
	if must(jobs.Letter(t.Context(), l.Seq)).Replay != nil {
		t.Error("it is remembered as replayed")
	}
	if req := must(jobs.Replay(t.Context(), l, ReplayOptions{}, submitted(jobs))); req.Job != "x" {
		t.Errorf("%+v", req)
	}
	// What is remembered of a stream that is gone is of no letter of this one.
	l.At = l.At.Add(-time.Hour)
	if r, _, err := jobs.replay(t.Context(), l); r != nil || err != nil {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestOfManyWhoReplayALetterOneDoes(t *testing.T) {
	t.Parallel()
	_, jobs, _, _ := fleet(t)
	l := bury(t, jobs, "acme", old("x"), contracts.RequestExpired)
	const many = 8
	ends, published := make(chan error, many), make(chan string, many)
	for range many {
		go func() {
			_, err := jobs.Replay(t.Context(), l, ReplayOptions{}, func(_ context.Context, req contracts.Request) error {
				published <- req.Job
				return nil
			})
			ends <- err
		}()
	}
	done := 0
	for range many {
		switch err := <-ends; {
		case err == nil:
			done++
		case !errors.Is(err, ErrReplayed):
			t.Error(err)
		}
	}
	if done != 1 || len(published) != 1 {
		t.Errorf("%d have replayed it, and it was published %d times", done, len(published))
	}
}

func TestListOfAThousandJobs(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	_, jobs, _, _ := fleet(t)
	const many = 1000
	now := time.Now().UTC()
	for i := range many {
		req := request(fmt.Sprintf("job%04d", i))
		r := record{
			State: done, Epoch: 1, Owner: nonce(), Worker: "w1", Request: req, Digest: req.Digest(), Attempt: 1, AttemptID: attemptID(1), TraceID: nonce() + nonce(),
			CreatedAt: now.Add(-time.Duration(i+1) * time.Hour), EndedAt: now.Add(-time.Duration(i) * time.Hour), Deadline: now,
			Delivery: &delivery{Manifest: "s3://acme-snapshots/acme/" + req.Job + "/manifest.json", Totals: contracts.Totals{Tables: 3, Rows: int64(i), Bytes: 1 << 20, Volumes: 1}},
		}
		if i%10 == 9 {
			r.State, r.Delivery, r.Reason = failed, nil, (&contracts.Rejection{Code: contracts.RoleDenied, Err: errors.New("no")}).Reason()
		}
		must(jobs.records.swap(ctx, recordKey("acme", req.Job), r, 0))
	}
	start := time.Now()
	list := must(jobs.List(ctx, "acme"))
	spent := time.Since(start)
	t.Logf("%d jobs in %v", len(list), spent)
	if len(list) != many || spent > 10*time.Second { // a round trip for each would show here
		t.Errorf("%d jobs in %v", len(list), spent)
	}
	slices.SortFunc(list, func(a, b Status) int { return strings.Compare(a.Job, b.Job) })
	if s := list[7]; s.Totals == nil || s.Totals.Rows != 7 || s.Manifest == "" || s.Took() != time.Hour || s.Worker != "w1" || s.TraceID == "" || s.Reason != nil {
		t.Errorf("delivered: %+v", s)
	}
	if s := list[9]; s.State != string(failed) || s.Reason == nil || s.Reason.Code != contracts.RoleDenied || s.Totals != nil {
		t.Errorf("failed: %+v", s)
	}
}
