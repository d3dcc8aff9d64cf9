package consumer

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/test/world"
)

// hire starts a worker over real NATS, and returns when it can be asked. It works until the test is over.
func hire(t *testing.T, nc *nats.Conn, e exports, cfg Config) *Consumer {
	t.Helper()
	e.n = &node{name: cfg.Worker}
	c := must(New(t.Context(), nc, e, cfg))
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	over := make(chan struct{})
	go func() { defer close(over); _ = c.Run(ctx) }()
	t.Cleanup(func() { stop(); c.Interrupt(); <-over })
	eventually(t, "the worker's service is there", func() bool { return len(services(t, nc, cfg.Worker)) == 1 })
	return c
}

// services are what `nats micro ls` finds of a worker.
func services(t *testing.T, nc *nats.Conn, worker string) (found []micro.Info) {
	t.Helper()
	inbox := nats.NewInbox()
	sub := must(nc.SubscribeSync(inbox))
	defer func() { _ = sub.Unsubscribe() }()
	if err := nc.PublishRequest(must(micro.ControlSubject(micro.InfoVerb, contracts.ServiceName, "")), inbox, nil); err != nil {
		t.Fatal(err)
	}
	for {
		m, err := sub.NextMsg(100 * time.Millisecond)
		if err != nil {
			return found
		}
		var info micro.Info
		if err := json.Unmarshal(m.Data, &info); err == nil && info.Metadata["worker"] == worker {
			found = append(found, info)
		}
	}
}

// service is the one of a worker that is there.
func service(t *testing.T, nc *nats.Conn, worker string) (info micro.Info) {
	t.Helper()
	eventually(t, "the service of "+worker+" answers", func() bool {
		found := services(t, nc, worker)
		if len(found) > 0 {
			info = found[0]
		}
		return len(found) > 0
	})
	return info
}

// statistics add up what the workers' services tell of the endpoint check.
func statistics(t *testing.T, nc *nats.Conn) (answered, failed int) {
	t.Helper()
	for _, worker := range []string{"w1", "w2"} {
		id := service(t, nc, worker).ID
		m := must(nc.Request(must(micro.ControlSubject(micro.StatsVerb, contracts.ServiceName, id)), nil, 10*time.Second))
		var stats micro.Stats
		if err := json.Unmarshal(m.Data, &stats); err != nil {
			t.Fatal(err)
		}
		for _, e := range stats.Endpoints {
			var counted tally
			if err := json.Unmarshal(e.Data, &counted); err != nil {
				t.Errorf("%s tells %s: %v", worker, e.Data, err)
			}
			answered, failed = answered+counted.Answered, failed+counted.Failed
		}
	}
	return answered, failed
}

// eventually waits for real time to pass until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); pause(t.Context(), 20*time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

func TestWorkersAnswerQuestions(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	nc, js, _ := broker(t)
	must(Setup(ctx, js, SetupOptions{}))
	registry := must(OpenRegistry(ctx, js))
	acme := tenant("acme")
	if err := registry.Set(ctx, acme); err != nil {
		t.Fatal(err)
	}
	if _, err := AskCheck(ctx, nc, "acme", false); !errors.Is(err, ErrNobodyAnswers) {
		t.Errorf("without a worker: %v", err)
	}
	cfg := quick("w1")
	cfg.Version = "1.2.3-4-gabcdef0"
	hire(t, nc, exports{check: func(_ context.Context, got contracts.Tenant) contracts.CheckResult {
		if got.Destination.ExternalID != acme.Destination.ExternalID {
			return contracts.CheckFailed
		}
		return contracts.CheckOK
	}}, cfg)
	odd := quick("w2")
	odd.Version = "made by hand" // no semantic version, and the worker offers its service all the same
	hire(t, nc, exports{check: func(context.Context, contracts.Tenant) contracts.CheckResult { return contracts.CheckOK }}, odd)

	check, err := AskCheck(ctx, nc, "acme", false)
	if err != nil || check.Result() != contracts.CheckOK || check.Tenant != "acme" || check.Worker != "w1" && check.Worker != "w2" {
		t.Errorf("the check is %+v, %v", check, err)
	}
	for _, c := range []struct {
		name, tenant string
		next         bool
		code         contracts.Code
	}{
		{"a tenant that is not registered", "nobody", false, contracts.UnknownTenant},
		{"no name", "../x", false, contracts.UnknownTenant},
		{"no rotation", "acme", true, contracts.InvalidQuestion},
	} {
		if _, err := AskCheck(ctx, nc, c.tenant, c.next); codeOf(err) != c.code {
			t.Errorf("%s: %v, want %s", c.name, err, c.code)
		}
	}
	info := service(t, nc, "w1")
	if info.Version != cfg.Version || len(info.Endpoints) == 0 || info.Endpoints[0].Subject != "snapshot.ask.check" || info.Endpoints[0].QueueGroup != contracts.WorkersName {
		t.Errorf("the service is %+v", info)
	}
	if answered, failed := statistics(t, nc); answered != 1 || failed != 3 {
		t.Errorf("%d questions are counted as answered and %d as failed", answered, failed)
	}
	if info := service(t, nc, "w2"); info.Version != "0.0.0" || info.Metadata["version"] != odd.Version {
		t.Errorf("the service of an odd build is %+v", info)
	}
}

// codeOf is the code of a rejection, or empty.
func codeOf(err error) contracts.Code {
	if r, ok := contracts.AsRejection(err); ok {
		return r.Code
	}
	return ""
}

func TestGarbageGetsOneClearError(t *testing.T) {
	t.Parallel()
	nc, js, _ := broker(t)
	must(Setup(t.Context(), js, SetupOptions{}))
	hire(t, nc, exports{check: func(context.Context, contracts.Tenant) contracts.CheckResult {
		t.Error("garbage has led to a check")
		return contracts.CheckOK
	}}, quick("w1"))
	for _, c := range []struct{ body, says string }{
		{"", "not JSON: empty"},
		{"acme", "not JSON"},
		{`{"tenant":"acme","force":true}`, "unknown field"},
		{`{"tenant":"acme","tenant":"other"}`, `"tenant" is given twice`},
		{`{"tenant":7}`, "not the expected JSON"},
		{`{"tenant":"` + strings.Repeat("a", contracts.MaxRequestBytes) + `"}`, "the limit is"},
	} {
		m := must(nc.Request("snapshot.ask.check", []byte(c.body), 10*time.Second))
		if code, text := m.Header.Get(micro.ErrorCodeHeader), m.Header.Get(micro.ErrorHeader); code != string(contracts.InvalidQuestion) || !strings.Contains(text, c.says) || len(m.Data) > 0 {
			t.Errorf("%.40q is answered with %q %q %q, want %q", c.body, code, text, m.Data, c.says)
		}
	}
}

// More questions than a worker answers at once wait for their turn, and none is lost.
func TestQuestionsWaitForTheirTurn(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	nc, js, _ := broker(t)
	must(Setup(ctx, js, SetupOptions{}))
	if err := must(OpenRegistry(ctx, js)).Set(ctx, tenant("acme")); err != nil {
		t.Fatal(err)
	}
	under, release := make(chan struct{}, 2*turns), make(chan struct{})
	hire(t, nc, exports{check: func(context.Context, contracts.Tenant) contracts.CheckResult {
		under <- struct{}{}
		<-release
		return contracts.CheckOK
	}}, quick("w1"))
	answers := make(chan error)
	for range 2 * turns {
		go func() {
			check, err := AskCheck(ctx, nc, "acme", false)
			if err == nil && check.Result() != contracts.CheckOK {
				err = errors.New("not ok")
			}
			answers <- err
		}()
	}
	for range turns {
		<-under
	}
	// All turns are taken: the next question is refused at once, with a word that it may be asked again.
	m := must(nc.Request("snapshot.ask.check", []byte(`{"tenant":"acme"}`), 10*time.Second))
	if m.Header.Get(micro.ErrorCodeHeader) != contracts.AnswerUnavailable {
		t.Errorf("one more question is answered with %v %q", m.Header, m.Data)
	}
	close(release)
	for range 2 * turns {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
}

// A worker that stops takes no more questions, and answers those that it has.
func TestWorkerThatStopsAnswersFirst(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	nc, js, _ := broker(t)
	must(Setup(ctx, js, SetupOptions{}))
	if err := must(OpenRegistry(ctx, js)).Set(ctx, tenant("acme")); err != nil {
		t.Fatal(err)
	}
	under, release := make(chan struct{}), make(chan struct{})
	cfg := quick("w1")
	cfg.CheckEvery, cfg.CheckAhead = -1, -1
	c := must(New(ctx, nc, exports{n: &node{name: "w1"}, check: func(context.Context, contracts.Tenant) contracts.CheckResult {
		close(under)
		<-release
		return contracts.CheckOK
	}}, cfg))
	working, stop := context.WithCancel(ctx)
	over := make(chan struct{})
	go func() { defer close(over); _ = c.Run(working) }()
	eventually(t, "the worker's service is there", func() bool { return len(services(t, nc, "w1")) == 1 })
	answer := make(chan error)
	go func() {
		_, err := AskCheck(ctx, nc, "acme", false)
		answer <- err
	}()
	<-under
	stop()
	eventually(t, "the worker's service is gone", func() bool { return len(services(t, nc, "w1")) == 0 })
	if _, err := AskCheck(ctx, nc, "acme", false); !errors.Is(err, ErrNobodyAnswers) {
		t.Errorf("a worker that stops is asked: %v", err)
	}
	select {
	case <-over:
		t.Error("the worker is gone, and owes an answer")
	default:
	}
	close(release)
	if err := <-answer; err != nil {
		t.Errorf("the answer that was under way: %v", err)
	}
	<-over
}

func TestAskingWithoutTheRight(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server, err := world.StartNATS(t.TempDir(), world.WithUser("reader", "reader", "snapshot.ask.>"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	nc := must(Connect(server.URL(), nats.UserInfo("reader", "reader")))
	t.Cleanup(nc.Close)
	if _, err := AskCheck(ctx, nc, "acme", false); !errors.Is(err, ErrMayNotAsk) {
		t.Errorf("somebody without the right: %v", err)
	}
}
