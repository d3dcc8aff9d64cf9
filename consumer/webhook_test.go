package consumer

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"github.com/santhosh-tekuri/jsonschema/v6"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"go.opentelemetry.io/otel/trace"
	"gopkg.in/yaml.v3"

	"github.com/snapfleet/snapfleet/contracts"
)

// whsec is a secret of n bytes.
func whsec(n int, of byte) string {
	return "whsec_" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{of}, n))
}

var theSecret = whsec(32, 'k')

// receiver is who the webhook posts to: a real server that speaks TLS, and answers as the test says.
type receiver struct {
	t      *testing.T
	server *httptest.Server
	answer func(n int, w http.ResponseWriter, r *http.Request) // to the n-th post of an event, from 1

	mu    sync.Mutex
	posts map[string][]post // by event
}

// post is one post as it came.
type post struct {
	at     time.Time
	header http.Header
	body   []byte
	event  event.Event
}

func newReceiver(t *testing.T, answer func(n int, w http.ResponseWriter, r *http.Request)) *receiver {
	t.Helper()
	r := &receiver{t: t, answer: answer, posts: map[string][]post{}}
	r.server = httptest.NewTLSServer(r)
	t.Cleanup(r.server.Close)
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		r.t.Errorf("read a post: %v", err)
	}
	p := post{at: time.Now(), header: req.Header, body: body}
	verifier := must(standardwebhooks.NewWebhook(theSecret))
	if err := verifier.Verify(body, req.Header); err != nil {
		r.t.Errorf("a post's signature: %v", err)
	}
	if err := json.Unmarshal(body, &p.event); err != nil {
		r.t.Errorf("a post is no event: %v", err)
	}
	if id := req.Header.Get(contracts.HeaderWebhookID); id != p.event.ID() {
		r.t.Errorf("event %s comes as %s", p.event.ID(), id)
	}
	r.mu.Lock()
	r.posts[p.event.ID()] = append(r.posts[p.event.ID()], p)
	n := len(r.posts[p.event.ID()])
	r.mu.Unlock()
	if r.answer != nil {
		r.answer(n, w, req)
	}
}

// events is how often each event came, by what it is about.
func (r *receiver) events() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	came := map[string]int{}
	for _, posts := range r.posts {
		came[posts[0].event.Subject()] += len(posts)
	}
	return came
}

// hook posts there, and does not wait long between two posts.
func (r *receiver) hook(change ...func(*WebhookConfig)) *Webhook {
	r.t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(r.server.Certificate())
	cfg := WebhookConfig{URL: r.server.URL + "/hook?key=hidden", Secrets: []string{theSecret}, Timeout: time.Second, Roots: roots}
	for _, c := range change {
		c(&cfg)
	}
	w := must(NewWebhook(cfg))
	w.first, w.longest = 50*time.Millisecond, 400*time.Millisecond
	return w
}

// posting is a broker that is set up, with a poster at work for the rest of the test.
type posting struct {
	t   *testing.T
	js  jetstream.JetStream
	nc  *nats.Conn
	url string
	streams
}

func newPosting(t *testing.T) *posting {
	t.Helper()
	nc, js, server := broker(t)
	must(Setup(t.Context(), js, SetupOptions{}))
	return &posting{t, js, nc, server.URL(), must(openLedger(t.Context(), js))}
}

// start runs a poster over its own connection. stop ends it, and waits.
func (p *posting) start(hook *Webhook, log io.Writer) (nc *nats.Conn, stop func()) {
	p.t.Helper()
	nc = must(Connect(p.url))
	js := must(jetstream.New(nc))
	poster := must(openPoster(p.t.Context(), nc, js, hook, zerolog.New(log)))
	ctx, cancel := context.WithCancel(p.t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); poster.run(ctx) }()
	stop = func() { cancel(); <-ended; nc.Close() }
	p.t.Cleanup(stop)
	return nc, stop
}

func (p *posting) publish(jobs ...string) {
	p.t.Helper()
	for _, job := range jobs {
		o := contracts.Outcome{Version: 1, Tenant: "acme", Job: job, Kind: contracts.Cancelled, EndedAt: time.Now(), Reason: &contracts.Reason{Code: contracts.CancelledByUser, What: "cancelled on request"}}
		must(p.Publish(p.t.Context(), o))
	}
}

// settled waits until nothing is left to post. A consumer hears of a message some time after its publisher does, and has
// nothing pending until then.
func (p *posting) settled() {
	p.t.Helper()
	comesTrue(p.t, "every event is settled", func() error {
		for _, stream := range []string{contracts.OutcomeStream, contracts.NoticeStream} {
			q, err := p.js.Consumer(p.t.Context(), stream, contracts.WebhookName)
			if err != nil {
				return err
			}
			s, err := p.js.Stream(p.t.Context(), stream)
			if err != nil {
				return err
			}
			i, last := q.CachedInfo(), s.CachedInfo().State.LastSeq
			if i.Delivered.Stream < last || i.NumAckPending > 0 {
				return fmt.Errorf("%s: %d of %d handed out, %d posted and not settled", stream, i.Delivered.Stream, last, i.NumAckPending)
			}
		}
		return nil
	})
}

// comesTrue waits for what must come true by itself.
func comesTrue(t *testing.T, what string, ok func() error) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(30 * time.Second); ; <-tick.C {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not true: %s: %v", what, err)
		}
	}
}

// sharedLog is a log that is written and read at the same time.
type sharedLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *sharedLog) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *sharedLog) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestWebhookTakesNothingThatCannotBeMeant(t *testing.T) {
	t.Parallel()
	good := WebhookConfig{URL: "https://ops.example.com/hook", Secrets: []string{theSecret}}
	for name, c := range map[string]struct {
		change func(*WebhookConfig)
		says   string // empty: taken
	}{
		"https":                  {func(*WebhookConfig) {}, ""},
		"http on loopback":       {func(c *WebhookConfig) { c.URL = "http://127.0.0.1:8000/x" }, ""},
		"http on loopback 6":     {func(c *WebhookConfig) { c.URL = "http://[::1]:8000/x" }, ""},
		"http on localhost":      {func(c *WebhookConfig) { c.URL = "http://localhost/x" }, ""},
		"two secrets":            {func(c *WebhookConfig) { c.Secrets = append(c.Secrets, whsec(24, 'x')) }, ""},
		"http":                   {func(c *WebhookConfig) { c.URL = "http://ops.example.com/hook" }, "only https is taken"},
		"http to a like-named":   {func(c *WebhookConfig) { c.URL = "http://localhost.example.com/hook" }, "only https is taken"},
		"no URL":                 {func(c *WebhookConfig) { c.URL = "" }, "https://host/path"},
		"no host":                {func(c *WebhookConfig) { c.URL = "https:///hook" }, "https://host/path"},
		"another scheme":         {func(c *WebhookConfig) { c.URL = "nats://ops.example.com" }, "https://host/path"},
		"a user":                 {func(c *WebhookConfig) { c.URL = "https://me:hidden@ops.example.com" }, "without user"},
		"no secret":              {func(c *WebhookConfig) { c.Secrets = nil }, "needs a secret"},
		"three secrets":          {func(c *WebhookConfig) { c.Secrets = []string{theSecret, theSecret, theSecret} }, "not 3"},
		"secret without whsec_":  {func(c *WebhookConfig) { c.Secrets[0] = theSecret[6:] }, "secret 1 of 1"},
		"secret that is short":   {func(c *WebhookConfig) { c.Secrets[0] = whsec(23, 'k') }, "24 to 64 bytes"},
		"secret that is long":    {func(c *WebhookConfig) { c.Secrets[0] = whsec(65, 'k') }, "24 to 64 bytes"},
		"secret that is no code": {func(c *WebhookConfig) { c.Secrets[0] = "whsec_hidden" }, "base64"},
		"no time":                {func(c *WebhookConfig) { c.Timeout = time.Millisecond }, "100ms to 1m"},
		"all the time":           {func(c *WebhookConfig) { c.Timeout = time.Hour }, "100ms to 1m"},
		"source that is no URI":  {func(c *WebhookConfig) { c.Source = "%" }, "no URI"},
	} {
		cfg := good
		cfg.Secrets = slices.Clone(cfg.Secrets)
		c.change(&cfg)
		_, err := NewWebhook(cfg)
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && (strings.Contains(err.Error(), "hidden") || strings.Contains(err.Error(), theSecret[6:])) {
			t.Errorf("%s: the error tells a secret: %v", name, err)
		}
	}
}

func TestWebhookWaitsLongerEachTime(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		n      uint64
		asked  time.Duration
		random float64
		want   time.Duration
	}{
		{n: 1, want: 5 * time.Second},
		{n: 2, want: 10 * time.Second},
		{n: 2, random: 0.5, want: 7500 * time.Millisecond},
		{n: 10, want: 2560 * time.Second},
		{n: 11, want: time.Hour},
		{n: 1000, want: time.Hour},
		{n: 1 << 63, random: 1, want: 30 * time.Minute},
		{n: 0, want: 5 * time.Second},
		{n: 1, asked: time.Minute, want: time.Minute},
		{n: 8, asked: time.Minute, want: 640 * time.Second}, // no sooner than without it
		{n: 1, asked: 30 * 24 * time.Hour, want: 24 * time.Hour},
	} {
		if got := threeDays.delay(c.n, c.asked, c.random); got != c.want {
			t.Errorf("after post %d, asked for %v, random %v: %v, want %v", c.n, c.asked, c.random, got, c.want)
		}
	}
	for _, c := range []struct {
		age  time.Duration
		n    uint64
		over bool
	}{
		{age: 71 * time.Hour, n: 1000},
		{age: 73 * time.Hour, n: 11},
		{age: 73 * time.Hour, n: 12, over: true},
		{age: 1000 * time.Hour, n: 1},
	} {
		if threeDays.over(c.age, c.n) != c.over {
			t.Errorf("given up at the age of %v after post %d: not %v", c.age, c.n, c.over)
		}
	}
	// All posts of an event that nobody takes, without jitter, are within three days and not many.
	posts, age := uint64(0), time.Duration(0)
	for !threeDays.over(age, posts) {
		posts++
		age += threeDays.delay(posts, 0, 0)
	}
	if posts < 50 || posts > 100 {
		t.Errorf("%d posts within %v", posts, age)
	}
	now := time.Date(2026, 3, 31, 14, 30, 22, 0, time.UTC)
	for header, want := range map[string]time.Duration{
		"": 0, "120": 2 * time.Minute, "0": 0, "-5": 0, "soon": 0, "99999999999999999999": 0,
		"Tue, 31 Mar 2026 14:31:22 GMT": time.Minute, "Tue, 31 Mar 2026 14:29:22 GMT": 0,
	} {
		if got := retryAfter(header, now); got != want {
			t.Errorf("Retry-After: %s: %v, want %v", header, got, want)
		}
	}
}

// describedEvents is what receivers are told of events.
func describedEvents(t *testing.T) *jsonschema.Schema {
	t.Helper()
	var doc any
	if err := yaml.Unmarshal(must(os.ReadFile("../contracts/webhook.yaml")), &doc); err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	add := func(name string, content []byte) {
		if err := c.AddResource(strings.TrimSuffix(schemas, "schemas/")+name, must(jsonschema.UnmarshalJSON(bytes.NewReader(content)))); err != nil {
			t.Fatal(err)
		}
	}
	add("webhook.yaml", must(json.Marshal(doc)))
	for _, name := range []string{"schemas/outcome.schema.json", "schemas/notice.schema.json", "schemas/manifest.schema.json"} {
		add(name, must(os.ReadFile("../contracts/"+name)))
	}
	return must(c.Compile(strings.TrimSuffix(schemas, "schemas/") + "webhook.yaml#/components/schemas/Event"))
}

func TestWebhookEventIsWhatWasPublished(t *testing.T) {
	t.Parallel()
	hook := must(NewWebhook(WebhookConfig{URL: "https://ops.example.com", Secrets: []string{theSecret}, Source: "urn:example:fleet"}))
	at := time.Date(2026, 3, 31, 14, 30, 22, 482913000, time.UTC)
	described := describedEvents(t)
	outcome := must(json.Marshal(contracts.Outcome{
		Version: 1, Tenant: "acme", Job: "j", Kind: contracts.DeliveredWithGaps, Attempt: "1-0", Attempts: 1, EndedAt: at,
		Manifest: "s3://bucket/acme/j/manifest.json", ManifestSHA256: strings.Repeat("0", 64), Totals: &contracts.Totals{Gaps: 1},
	}))
	notice := must(json.Marshal(contracts.Notice{Version: 1, Tenant: "acme", Kind: contracts.DestinationBroken, At: at}))
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	for _, c := range []struct {
		subject, kind, about, schema string
		body                         []byte
		valid                        bool // as this release writes them
	}{
		{contracts.OutcomeSubject("acme", "j"), "com.github.snapfleet.snapshot.delivered-with-gaps", "acme/j", "outcome.schema.json", outcome, true},
		{contracts.NoticeSubject("acme", contracts.DestinationBroken), "com.github.snapfleet.snapshot.destination-broken", "acme", "notice.schema.json", notice, true},
		{contracts.OutcomeSubject("acme", "j"), "com.github.snapfleet.snapshot.of-a-later-release", "acme/j", "outcome.schema.json", []byte(`{ "tenant":"acme","job":"j",  "kind":"of-a-later-release", "n": 12345678901234567890 }`), false},
	} {
		e := must(hook.event(c.subject, c.body, at, contracts.Header{"traceparent": {parent}, "Nats-Msg-Id": {"x"}}))
		posted := must(e.MarshalJSON())
		if again := must(must(hook.event(c.subject, c.body, at, contracts.Header{"traceparent": {parent}})).MarshalJSON()); !bytes.Equal(posted, again) {
			t.Errorf("the same is told differently:\n%s\n%s", posted, again)
		}
		if c.valid {
			if err := described.Validate(must(jsonschema.UnmarshalJSON(bytes.NewReader(posted)))); err != nil {
				t.Errorf("not as contracts/webhook.yaml has it: %v\n%s", err, posted)
			}
		}
		var got event.Event
		if err := json.Unmarshal(posted, &got); err != nil {
			t.Fatal(err)
		}
		if got.Type() != c.kind || got.Subject() != c.about || got.Source() != "urn:example:fleet" || !got.Time().Equal(at) || !strings.HasSuffix(got.DataSchema(), "/contracts/schemas/"+c.schema) {
			t.Errorf("the event is %s", posted)
		}
		if got.ID() != contracts.EventID(c.subject, c.body) || strings.Contains(got.ID(), ".") || len(got.ID()) != 36 {
			t.Errorf("its id is %s", got.ID())
		}
		if got.Extensions()["traceparent"] != parent || len(got.Extensions()) != 1 {
			t.Errorf("its extensions are %v", got.Extensions())
		}
		if !bytes.Contains(posted, c.body) { // byte for byte
			t.Errorf("its data is not what was published:\n%s\n%s", posted, c.body)
		}
	}
	if contracts.EventID("a", []byte("b")) == contracts.EventID("a", []byte("c")) || contracts.EventID("a", []byte("b")) == contracts.EventID("b", []byte("b")) {
		t.Error("two events have one id")
	}
	for _, body := range []string{"", "null", "{", `"x"`, `{"tenant":"a/b","job":"j","kind":"failed"}`, `{"tenant":"acme","job":"j","kind":"Failed\n"}`} {
		if e, err := hook.event("snapshot.outcome.acme.j", []byte(body), at, nil); err == nil {
			t.Errorf("%s becomes %s", body, e)
		}
	}
}

// While the secret is being changed, whoever knows one of the two is content, and nobody else is.
func TestWebhookSignsWithBothSecrets(t *testing.T) {
	t.Parallel()
	second, third := whsec(24, 's'), whsec(64, 't')
	r := newReceiver(t, func(_ int, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) })
	hook := r.hook(func(c *WebhookConfig) { c.Secrets = append(c.Secrets, second) })
	id, answer, err := hook.Test(t.Context())
	if err != nil || !answer.Accepted() {
		t.Fatalf("%+v, %v", answer, err)
	}
	p := r.posts[id][0]
	for secret, ok := range map[string]bool{theSecret: true, second: true, third: false} {
		if err := must(standardwebhooks.NewWebhook(secret)).Verify(p.body, p.header); (err == nil) != ok {
			t.Errorf("%s: %v, want %v", secret, err, ok)
		}
	}
	if err := must(standardwebhooks.NewWebhook(theSecret)).Verify(append(p.body, ' '), p.header); err == nil {
		t.Error("another body has the same signature")
	}
	if p.header.Get("Content-Type") != contracts.EventContentType || p.event.Type() != contracts.TestEvent {
		t.Errorf("%v: %s", p.header, p.body)
	}
}

// Whatever a receiver does to an event, it gets it again, the same, under the same id, until it says that it has it.
func TestWebhookPostsAgainUntilTheReceiverHasIt(t *testing.T) {
	t.Parallel()
	redirected := newReceiver(t, nil)
	misdeeds := []func(w http.ResponseWriter, r *http.Request){
		func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "hidden", http.StatusInternalServerError) },
		func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusGone) },
		func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadRequest) },
		func(_ http.ResponseWriter, r *http.Request) { // hangs until the poster leaves, who could still hear a late yes
			<-r.Context().Done()
			panic(http.ErrAbortHandler)
		},
		func(w http.ResponseWriter, _ *http.Request) { // resets
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				_ = conn.(interface{ NetConn() net.Conn }).NetConn().(*net.TCPConn).SetLinger(0)
				_ = conn.Close()
			}
		},
		func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, redirected.server.URL, http.StatusTemporaryRedirect)
		},
		func(w http.ResponseWriter, _ *http.Request) { // says yes, and never stops talking
			for {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		},
	}
	r := newReceiver(t, func(n int, w http.ResponseWriter, req *http.Request) {
		if n <= len(misdeeds) {
			misdeeds[n-1](w, req)
		}
	})
	p := newPosting(t)
	log := new(sharedLog)
	p.start(r.hook(), log)
	parent := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled})
	if err := p.Notify(trace.ContextWithSpanContext(t.Context(), parent), contracts.Notice{Tenant: "acme", Kind: contracts.DestinationBroken, At: time.Now()}); err != nil {
		t.Fatal(err)
	}
	p.settled()
	if len(r.posts) != 1 {
		t.Fatalf("%d events", len(r.posts))
	}
	for id, posts := range r.posts {
		// The one that never stops talking has said 2xx: it has the event.
		if len(posts) != len(misdeeds) {
			t.Errorf("event %s came %d times, want %d", id, len(posts), len(misdeeds))
		}
		for _, p := range posts {
			if !bytes.Equal(p.body, posts[0].body) {
				t.Errorf("event %s was told differently:\n%s\n%s", id, p.body, posts[0].body)
			}
		}
		if got := posts[0].event.Extensions()["traceparent"]; got != "00-01000000000000000000000000000000-0200000000000000-01" {
			t.Errorf("the event's traceparent is %v", got)
		}
	}
	if came := redirected.events(); len(came) > 0 {
		t.Errorf("a redirect was followed: %v", came)
	}
	said := log.String()
	if strings.Contains(said, "hidden") || strings.Contains(said, theSecret[6:]) {
		t.Errorf("the log tells the URL, the answer or the secret:\n%s", said)
	}
	for _, want := range []string{`"level":"error"`, `"status":410`, `"status":400`, `"status":307`, `"status":500`, "refuses an event"} {
		if !strings.Contains(said, want) {
			t.Errorf("the log does not say %s:\n%s", want, said)
		}
	}
}

// A receiver that is down for a while misses nothing, and is not told of what was before there was a webhook.
func TestWebhookReceiverComesBack(t *testing.T) {
	t.Parallel()
	p := newPosting(t)
	p.publish("before")
	r := newReceiver(t, nil)
	hook := r.hook()
	address := r.server.Listener.Addr().String()
	r.server.Close()
	p.start(hook, io.Discard)
	want := map[string]int{}
	for i := range 20 {
		job := fmt.Sprintf("j%d", i)
		want["acme/"+job]++
		p.publish(job)
	}
	comesTrue(t, "posts have failed", func() error {
		if i := must(must(p.js.Consumer(t.Context(), contracts.OutcomeStream, contracts.WebhookName)).Info(t.Context())); i.NumRedelivered == 0 {
			return fmt.Errorf("%+v", i)
		}
		return nil
	})
	back := httptest.NewUnstartedServer(r)
	_ = back.Listener.Close()
	var err error
	if back.Listener, err = net.Listen("tcp", address); err != nil {
		t.Fatal(err)
	}
	back.TLS = r.server.TLS
	back.StartTLS()
	defer back.Close()
	p.settled()
	came := r.events()
	for about := range want {
		if came[about] < 1 {
			t.Errorf("%s was not told", about)
		}
	}
	if len(came) != len(want) {
		t.Errorf("%d events came, want %d: %v", len(came), len(want), came)
	}
}

// A worker that is gone between the post and the ack leaves the event to another one, which tells it under the same id.
func TestWebhookWorkerIsGoneBeforeTheAck(t *testing.T) {
	t.Parallel()
	p := newPosting(t)
	var first *nats.Conn
	gone := make(chan struct{})
	r := newReceiver(t, func(n int, _ http.ResponseWriter, _ *http.Request) {
		if n == 1 {
			first.Close()
			close(gone)
		}
	})
	first, _ = p.start(r.hook(), io.Discard)
	p.publish("j")
	<-gone
	p.start(r.hook(), io.Discard)
	p.settled()
	if came := r.events(); came["acme/j"] != 2 || len(r.posts) != 1 {
		t.Errorf("%v", came)
	}
}

// Two workers share the events: each is posted by one of them. What nobody can read does not hold up the others.
func TestWebhookIsShared(t *testing.T) {
	t.Parallel()
	r := newReceiver(t, nil)
	p := newPosting(t)
	log := new(sharedLog)
	p.start(r.hook(), log)
	p.start(r.hook(func(c *WebhookConfig) { c.Timeout = 5 * time.Second }), log)
	p.start(r.hook(), log) // needs less than the others
	for _, stream := range []string{contracts.OutcomeStream, contracts.NoticeStream} {
		if c := must(p.js.Consumer(t.Context(), stream, contracts.WebhookName)).CachedInfo().Config; c.AckWait != 10*time.Second || c.MaxDeliver != -1 || c.DeliverPolicy != jetstream.DeliverNewPolicy {
			t.Errorf("%s: %+v", stream, c)
		}
	}
	must(p.js.Publish(t.Context(), contracts.OutcomeSubject("acme", "garbage"), []byte("garbage")))
	for i := range 50 {
		p.publish(fmt.Sprintf("j%d", i))
	}
	p.settled()
	came := r.events()
	if len(came) != 50 {
		t.Errorf("%d events", len(came))
	}
	for about, n := range came {
		if n != 1 {
			t.Errorf("%s came %d times", about, n)
		}
	}
	if said := log.String(); strings.Count(said, "not an event") != 1 {
		t.Errorf("the log:\n%s", said)
	}
}

// A receiver that takes nothing for as long as anybody can be expected to wait is not posted to any more, and the log
// says so.
func TestWebhookGivesUp(t *testing.T) {
	t.Parallel()
	r := newReceiver(t, func(n int, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	hook := r.hook()
	hook.old, hook.fewest = time.Millisecond, 3
	p := newPosting(t)
	log := new(sharedLog)
	p.start(hook, log)
	p.publish("j")
	p.settled()
	if came := r.events(); came["acme/j"] != 3 {
		t.Errorf("%v", came)
	}
	if said := log.String(); strings.Count(said, "event given up") != 1 {
		t.Errorf("the log:\n%s", said)
	}
}

// A slow receiver costs a worker a few goroutines, however much there is to tell, and its end is not waited for.
func TestWebhookReceiverIsSlow(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	now, most := 0, 0
	full := make(chan struct{})
	r := newReceiver(t, func(_ int, _ http.ResponseWriter, req *http.Request) {
		mu.Lock()
		if now++; now > most {
			if most = now; most == postsAtOnce {
				close(full)
			}
		}
		mu.Unlock()
		<-req.Context().Done()
		mu.Lock()
		now--
		mu.Unlock()
	})
	p := newPosting(t)
	_, stop := p.start(r.hook(func(c *WebhookConfig) { c.Timeout = time.Minute }), io.Discard)
	for i := range 5 * postsAtOnce {
		p.publish(fmt.Sprintf("j%d", i))
	}
	<-full
	began := time.Now()
	stop()
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("the end took %v", took)
	}
	if most != postsAtOnce {
		t.Errorf("%d posts at once", most)
	}
	// What was under way is somebody else's at once, long before the ack wait.
	r.answer = nil
	p.start(r.hook(), io.Discard)
	p.settled()
	if came := r.events(); len(came) != 5*postsAtOnce {
		t.Errorf("%v", came)
	}
}
