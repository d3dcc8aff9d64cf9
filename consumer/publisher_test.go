package consumer

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/test/world"
)

var flood = flag.Bool("flood", false, "run TestFlood with 1,000,000 requests of one tenant and 100,000 that cannot be read")

// rawPublisher is a publisher who speaks NATS's protocol itself, so that no client checks what it sends.
type rawPublisher struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
	out  *bufio.Writer
}

func newRawPublisher(t *testing.T, server *world.NATS) *rawPublisher {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(server.URL(), "nats://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	p := &rawPublisher{t, conn, bufio.NewReader(conn), bufio.NewWriterSize(conn, 1<<20)}
	if _, err := p.in.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	p.write("CONNECT {\"verbose\":false,\"headers\":true}\r\n")
	return p
}

func (p *rawPublisher) write(s string) {
	p.t.Helper()
	if _, err := p.out.WriteString(s); err != nil {
		p.t.Fatal(err)
	}
}

// publish sends a message whose header lines are as they are given.
func (p *rawPublisher) publish(subject, header, body string) {
	p.t.Helper()
	if header == "" {
		p.write(fmt.Sprintf("PUB %s %d\r\n%s\r\n", subject, len(body), body))
		return
	}
	if !strings.HasPrefix(header, "NATS/1.0") { // and with what a server itself would say
		header = "NATS/1.0\r\n" + header
	}
	header += "\r\n"
	p.write(fmt.Sprintf("HPUB %s %d %d\r\n%s%s\r\n", subject, len(header), len(header)+len(body), header, body))
}

// flush waits until the server has read everything.
func (p *rawPublisher) flush() {
	p.t.Helper()
	p.write("PING\r\n")
	if err := p.out.Flush(); err != nil {
		p.t.Fatal(err)
	}
	for {
		line, err := p.in.ReadString('\n')
		if err != nil {
			p.t.Fatal(err)
		}
		if strings.HasPrefix(line, "PONG") {
			return
		}
	}
}

// lines counts what a worker logs. It is safe for concurrent use.
type lines struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(b)
}

func (l *lines) with(text string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range bytes.Lines(l.all.Bytes()) {
		if bytes.Contains(line, []byte(text)) {
			n++
		}
	}
	return n
}

// empties waits until nothing is left in the queue of requests.
func empties(t *testing.T, js jetstream.JetStream) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		s, err := js.Stream(ctx, contracts.RequestStream)
		if err != nil {
			t.Fatal(err)
		}
		if s.CachedInfo().State.Msgs == 0 {
			return
		}
		pause(ctx, 20*time.Millisecond)
	}
}

// hostileHeaders are header lines, by what is wrong with them.
func hostileHeaders() map[string]string {
	many := ""
	for n := range 400 {
		many += fmt.Sprintf("X-%d: %s\r\n", n, strings.Repeat("v", 100))
	}
	return map[string]string{
		"a name with a space":           "Foo bar: x\r\n",
		"a name with a slash":           "foo/bar: x\r\n",
		"a name that is not ASCII":      "größe: x\r\n",
		"a name of 5,000 bytes":         strings.Repeat("n", 5000) + ": x\r\n",
		"a value with a NUL and an ESC": "Foo: a\x00b\x1b[2J\r\n",
		"a value that is not UTF-8":     "Foo: \xff\xfe\r\n",
		"a value of 40,000 bytes":       "Foo: " + strings.Repeat("v", 40_000) + "\r\n",
		"400 headers":                   many,
		"words for JetStream":           "Nats-Msg-Id: x\r\nNats-Expected-Last-Sequence-Per-Subject: 0\r\nnats-rollup: all\r\n",
		"words in our name":             "Snapfleet-Job: payroll\r\nsnapfleet-code: delivered\r\nSNAPFLEET-DIGEST: 0\r\n",
	}
}

// TestWhateverIsPublishedIsBuried: no message that a publisher can get into the queue stays there, and none costs the
// worker its connection.
func TestWhateverIsPublishedIsBuried(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	nc, jobs, w, server := fleet(t)
	p := newRawPublisher(t, server)
	sent := 0
	send := func(subject, header, body string) {
		p.publish(subject, header, body)
		sent++
	}
	for what, header := range hostileHeaders() {
		send(contracts.RequestSubject("acme"), header, "no request: "+what)
	}
	send(contracts.RequestSubject("acme"), "", strings.Repeat("x", contracts.MaxRequestBytes))
	send(contracts.RequestSubject("acme"), "", strings.Repeat("[", 60_000))
	send(contracts.RequestSubject("acme"), "", "")
	for _, status := range []string{"100 Idle Heartbeat", "404 No Messages", "408 Request Timeout", "409 Consumer Deleted", "409 Exceeded MaxWaiting", "503 No Responders", "423 Nats-Pin-Id mismatch", "400 Bad Request"} {
		send(contracts.RequestSubject("acme"), "NATS/1.0 "+status+"\r\n", "")
		send(contracts.RequestSubject("acme"), "NATS/1.0 "+status+"\r\nFoo: x\r\n", "no request: "+status)
	}
	for _, token := range []string{">", "*", "a\x1b[2J", "größe", strings.Repeat("t", 3000), strings.Repeat("t", 4060)} {
		send("snapshot.request."+token, "", fmt.Sprintf("no request: %.1s %d", token, len(token)))
	}
	p.flush()
	queue := must(jobs.js.Stream(ctx, contracts.RequestStream))
	becomes(t, time.Minute, "the queue has taken every message", func() bool { return must(queue.Info(ctx)).State.Msgs == uint64(sent) })

	var log lines
	cfg := quick("w1")
	cfg.Log = zerolog.New(&log)
	stop := start(t, nc, exports{n: w.node("bucket")}, cfg)
	defer stop()
	empties(t, jobs.js)
	if nc.IsClosed() || nc.Stats().Reconnects > 0 {
		t.Errorf("the worker has lost its connection: %v", nc.LastError())
	}
	letters := 0
	for m, err := range jobs.messages(ctx, contracts.DeadStream, contracts.DeadSubjects) {
		if err != nil {
			t.Fatal(err)
		}
		letters++
		size := 0
		for name, values := range m.Header {
			size += len(name) + len(strings.Join(values, ""))
			if strings.ContainsAny(strings.Join(values, ""), "\x00\x1b") {
				t.Errorf("letter %d: %s is %q", m.Sequence, name, values)
			}
		}
		l := letterOf(m)
		if size > maxHeaderBytes+4000 || l.Job != "" || l.Reason.Code != contracts.InvalidRequest && l.Reason.Code != contracts.RequestTooLarge || l.Header.Get(contracts.HeaderDigest) != digestOf(m.Data) {
			t.Errorf("letter %d: %d bytes of headers, %+v", m.Sequence, size, l)
		}
	}
	empty := 8 // of them are one message and one letter: an empty body is the same whatever the status says
	if letters != sent-empty {
		t.Errorf("%d dead letters of %d messages", letters, sent)
	}
	answers := must(jobs.js.Stream(ctx, contracts.RefusedStream))
	if n := answers.CachedInfo().State.Msgs; n != uint64(sent) {
		t.Errorf("%d answers for %d messages", n, sent)
	}
	if _, err := jobs.Status(ctx, "acme", "payroll"); !errors.Is(err, ErrNoJob) {
		t.Errorf("a forged header makes a job: %v", err)
	}
	must(jobs.Submit(ctx, request("after"), nil))
	if s := ending(t, jobs, "after"); s.Outcome == nil || s.Outcome.Kind != contracts.Delivered {
		t.Errorf("a request after all that: %+v", s)
	}
}

// TestLetterThatNATSRefuses: what is in the way is left out, and in the end the request is dropped, with a line that names
// it.
func TestLetterThatNATSRefuses(t *testing.T) {
	t.Parallel()
	body := strings.Repeat("x", 60_000)
	for name, c := range map[string]struct {
		most    int32
		dropped bool
	}{
		"takes its beginning": {8192, false},
		"takes nothing":       {600, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			nc, jobs, w, _ := fleet(t)
			var log lines
			cfg := quick("w1")
			cfg.Log = zerolog.New(&log)
			stop := start(t, nc, exports{n: w.node("bucket")}, cfg)
			defer stop()
			stream := must(jobs.js.Stream(ctx, contracts.DeadStream))
			changed := stream.CachedInfo().Config
			changed.MaxMsgSize = c.most
			must(jobs.js.UpdateStream(ctx, changed))
			must(jobs.js.Publish(ctx, contracts.RequestSubject("acme"), []byte(body)))
			empties(t, jobs.js)
			if got := log.with("is dropped") == 1; got != c.dropped {
				t.Errorf("the log says that it is dropped: %v", got)
			}
			m, err := stream.GetLastMsgForSubject(ctx, contracts.DeadSubject("acme"))
			if c.dropped {
				if !errors.Is(err, jetstream.ErrMsgNotFound) {
					t.Errorf("there is a letter: %v", err)
				}
				return
			}
			if err != nil || len(m.Data) != maxCutBody || m.Header.Get(contracts.HeaderCut) != "60000" || m.Header.Get(contracts.HeaderDigest) != digestOf([]byte(body)) {
				t.Errorf("%v, %+v", err, m)
			}
		})
	}
}

// TestSubmitKeepsWhatTheQueueDropped: the queue knows a job's message id from another message, and no job. The caller's
// headers are not written to.
func TestSubmitKeepsWhatTheQueueDropped(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	nc, jobs, w, _ := fleet(t)
	stop := start(t, nc, exports{n: w.node("bucket")}, quick("w1"))
	defer stop()
	must(jobs.js.Publish(ctx, contracts.RequestSubject("nobody"), []byte("garbage"), jetstream.WithMsgID(contracts.RequestMsgID("acme", "one"))))
	header := contracts.Header{"traceparent": {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}}
	if duplicate, err := jobs.Submit(ctx, request("one"), header); err != nil || duplicate {
		t.Fatalf("%v, %v", duplicate, err)
	}
	if len(header) != 1 {
		t.Errorf("the caller's headers are now %v", header)
	}
	if s := ending(t, jobs, "one"); s.Outcome == nil || s.Outcome.Kind != contracts.Delivered {
		t.Errorf("%+v", s)
	}
}

// TestShareOfATenant: the server refuses more requests of a tenant than its share, and takes another tenant's.
func TestShareOfATenant(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	_, jobs, _, _ := fleet(t)
	for n := range contracts.MaxTenantRequests {
		if _, err := jobs.js.PublishAsync(contracts.RequestSubject("acme"), []byte(fmt.Sprint(n))); err != nil {
			t.Fatal(err)
		}
	}
	<-jobs.js.PublishAsyncComplete()
	if _, err := jobs.Submit(ctx, request("more"), nil); !errors.Is(err, ErrQueueFull) {
		t.Errorf("one more: %v", err)
	}
	other := request("one")
	other.Tenant = "beta"
	if _, err := jobs.Submit(ctx, other, nil); err != nil {
		t.Errorf("another tenant's: %v", err)
	}
	// A wish to cancel is recorded, and needs no place in the queue.
	waits := record{State: running, Request: request("waits"), Digest: request("waits").Digest(), Epoch: 1, Attempt: 1}
	must(jobs.records.swap(ctx, recordKey("acme", "waits"), waits, 0))
	if err := jobs.Cancel(ctx, "acme", "waits"); err != nil {
		t.Errorf("cancel: %v", err)
	}
}

// TestFlood: one tenant asks for as many snapshots as the server takes, and others publish what cannot be read. Another
// tenant's job begins within a minute, and the log stays short. With -flood it has its full size.
func TestFlood(t *testing.T) {
	if !*flood {
		t.Parallel()
	}
	ctx := t.Context()
	requests, garbage := 3000, 3000
	if *flood {
		requests, garbage = 1_000_000, 100_000
	}
	nc, jobs, w, server := fleet(t)
	registry := must(OpenRegistry(ctx, jobs.js))
	for _, name := range []string{"greedy", "beta"} {
		w.addTenant(name)
		if err := registry.Set(ctx, tenant(name)); err != nil {
			t.Fatal(err)
		}
	}
	refused := 0
	greedy := request("x")
	greedy.Tenant = "greedy"
	publisher := must(jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(4000), jetstream.WithPublishAsyncErrHandler(func(_ jetstream.JetStream, _ *nats.Msg, err error) {
		if why, ok := errors.AsType[*jetstream.APIError](err); ok && why.ErrorCode == storeRefused {
			refused++ // called by one goroutine
		}
	})))
	for n := range requests {
		greedy.Job = fmt.Sprintf("j%d", n)
		if _, err := publisher.PublishAsync(contracts.RequestSubject("greedy"), must(json.Marshal(greedy)), jetstream.WithStallWait(time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	<-publisher.PublishAsyncComplete()
	if want := requests - contracts.MaxTenantRequests; refused != want {
		t.Errorf("the publisher hears of %d requests that are refused, want %d", refused, want)
	}
	stream := must(jobs.js.Stream(ctx, contracts.RequestStream))
	p := newRawPublisher(t, server)
	for n := range garbage { // of many subjects, because each has its share
		p.publish(fmt.Sprintf("snapshot.request.t%d", n/500), "Foo bar: x\r\n", fmt.Sprintf("garbage %d", n))
		if n%2000 == 1999 || n == garbage-1 { // the server throws away what it has no time for
			p.flush()
			becomes(t, time.Minute, "the server has kept what was published", func() bool {
				return must(stream.Info(ctx)).State.Msgs >= uint64(contracts.MaxTenantRequests+n+1)
			})
		}
	}

	var log lines
	cfg := Config{Worker: "w1", Log: zerolog.New(&log), Observe: time.Second, Fence: 900 * time.Millisecond, Heartbeat: 300 * time.Millisecond}
	stop := start(t, nc, exports{n: w.node("bucket"), part: 20 * time.Millisecond}, cfg)
	defer stop()
	began := time.Now()
	other := request("one")
	other.Tenant = "beta"
	must(jobs.Submit(ctx, other, nil))
	becomes(t, 3*time.Minute, "another tenant's job begins", func() bool { return must(jobs.Status(ctx, "beta", "one")).Attempt > 0 })
	t.Logf("%d requests, %d that cannot be read: another tenant's job begins after %v, with %d lines in the log",
		requests, garbage, time.Since(began).Round(time.Millisecond), log.with("request refused")+log.with("request postponed"))
	if minutes := int(time.Since(began).Minutes()) + 1; log.with("request refused") > minutes*refusalLines {
		t.Errorf("%d lines about refused requests", log.with("request refused"))
	}
	if dead := must(jobs.js.Stream(ctx, contracts.DeadStream)).CachedInfo().State; dead.Msgs > maxLetters {
		t.Errorf("%d dead letters", dead.Msgs)
	}
	if nc.IsClosed() || !errors.Is(nc.LastError(), nil) && errors.Is(nc.LastError(), nats.ErrConnectionClosed) {
		t.Error(nc.LastError())
	}
}

// TestSpacing: what a worker sends back of one tenant comes back one by one; a tenant with few requests waits for the
// given delay.
func TestSpacing(t *testing.T) {
	t.Parallel()
	now, base := time.Now(), 20*time.Second
	var s spacing
	for n := range 1000 {
		want := base + time.Duration(n)*time.Second/tenantRate
		if got := s.delay("greedy", base, now); got != want {
			t.Fatalf("request %d waits for %v, want %v", n, got, want)
		}
	}
	if got := s.delay("beta", base, now); got != base {
		t.Errorf("another tenant's waits for %v", got)
	}
	if got := s.delay("greedy", 0, now); got != 0 {
		t.Errorf("what is given back for another worker waits for %v", got)
	}
	if got := s.delay("greedy", base, now.Add(time.Hour)); got != base || len(s.next) != 1 {
		t.Errorf("after an hour it waits for %v; %d tenants are remembered", got, len(s.next))
	}
}

// TestRequestFromTheFuture: a request that names a time that lies ahead is refused at once, or it would never be too old.
// A publisher's clock may be a little ahead.
func TestRequestFromTheFuture(t *testing.T) {
	t.Parallel()
	inMemory(t, func(t *testing.T, w *memory) {
		n := w.node("w1")
		n.employ(exports{}, Config{})
		for job, at := range map[string]time.Time{
			"future": time.Date(2999, 1, 1, 0, 0, 0, 0, time.UTC), "ahead": time.Now().Add(contracts.MaxClockSkew),
		} {
			req := request(job)
			req.RequestedAt = at
			w.publish(req)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if want := "acme.future " + string(contracts.InvalidRequest); len(w.dead) != 1 || w.dead[0] != want || len(w.refused) != 1 {
			t.Errorf("%q, %v, want %q", w.dead, w.refused, want)
		}
	})
}
