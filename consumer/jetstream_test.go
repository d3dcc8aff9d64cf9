package consumer

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/test/world"
)

// broker starts a real nats-server for one test.
func broker(t *testing.T) (*nats.Conn, jetstream.JetStream, *world.NATS) {
	t.Helper()
	server, err := world.StartNATS(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	nc, err := Connect(server.URL(), nats.ReconnectWait(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc, must(jetstream.New(nc)), server
}

func tenant(name string) contracts.Tenant {
	return contracts.Tenant{Name: name, Destination: contracts.Destination{
		Bucket: "acme-snapshots", Region: "us-east-1", RoleARN: "arn:aws:iam::222222222222:role/snapshots", ExternalID: "0123456789abcdef0123456789abcdef",
	}}
}

// quick are the constants of the protocol for tests in real time.
func quick(name string) Config {
	return Config{Worker: name, Heartbeat: 200 * time.Millisecond, Fence: time.Second, Observe: 2 * time.Second, RetryBase: 100 * time.Millisecond, RetryMax: time.Second}
}

func TestSetup(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	nc, js, _ := broker(t)
	if _, err := New(ctx, nc, exports{}, Config{}); err == nil || !strings.Contains(err.Error(), "snapfleet setup") {
		t.Errorf("a worker before setup: %v", err)
	}
	for _, want := range []string{"created", "as it should be"} {
		lines, err := Setup(ctx, js, SetupOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range lines {
			if !strings.HasSuffix(line, want) {
				t.Errorf("%q, want it %s", line, want)
			}
		}
	}
	if _, err := New(ctx, nc, exports{}, Config{}); err != nil {
		t.Errorf("a worker after setup: %v", err)
	}
	if _, err := New(ctx, nc, exports{}, Config{Observe: 90 * time.Second}); err == nil || !strings.Contains(err.Error(), "ack wait") {
		t.Errorf("a worker that observes for longer than the ack wait: %v", err)
	}
}

// What the release before schedules made is brought up to date, with all that waits in it.
func TestSetupUpgrades(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	_, js, _ := broker(t)
	requests := plan()[0]
	before := requests.stream
	before.Replicas, before.MaxMsgs, before.MaxMsgsPerSubject, before.DiscardNewPerSubject, before.Duplicates = 1, 0, 0, false, 24*time.Hour
	must(js.CreateStream(ctx, before))
	queue := requests.consumer()
	queue.FilterSubject, queue.MaxAckPending, queue.AckWait = "", 10_000, 60*time.Second
	must(js.CreateConsumer(ctx, contracts.RequestStream, queue))
	must(js.Publish(ctx, contracts.RequestSubject("acme"), []byte("waits")))

	for _, want := range []string{upgraded, kept} {
		lines := must(Setup(ctx, js, SetupOptions{}))
		for _, what := range []string{requests.what(), requests.reader()} {
			if !slices.Contains(lines, what+": "+want) {
				t.Errorf("%q, want %s %s", lines, what, want)
			}
		}
	}
	if err := verify(ctx, js); err != nil {
		t.Error(err)
	}
	q := must(js.Consumer(ctx, contracts.RequestStream, contracts.WorkersName))
	if m := must(q.Next()); string(m.Data()) != "waits" {
		t.Errorf("the queue has %q", m.Data())
	}
}

func TestSetupRefusesWhatDiffers(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	change := func(name string, f func(*jetstream.StreamConfig)) func(jetstream.JetStream) error {
		return func(js jetstream.JetStream) error {
			s, err := js.Stream(ctx, name)
			if err != nil {
				return err
			}
			cfg := s.CachedInfo().Config
			f(&cfg)
			_, err = js.UpdateStream(ctx, cfg)
			return err
		}
	}
	queue := func(f func(*jetstream.ConsumerConfig)) func(jetstream.JetStream) error {
		return func(js jetstream.JetStream) error {
			q, err := js.Consumer(ctx, contracts.RequestStream, contracts.WorkersName)
			if err != nil {
				return err
			}
			cfg := q.CachedInfo().Config
			f(&cfg)
			_, err = js.UpdateConsumer(ctx, contracts.RequestStream, cfg)
			return err
		}
	}
	for name, alter := range map[string]func(jetstream.JetStream) error{
		"max_age":              change(contracts.RequestStream, func(c *jetstream.StreamConfig) { c.MaxAge = time.Hour * 48 }),
		"max_msg_size":         change(contracts.RequestStream, func(c *jetstream.StreamConfig) { c.MaxMsgSize = 1000 }),
		"discard":              change(contracts.RequestStream, func(c *jetstream.StreamConfig) { c.Discard, c.DiscardNewPerSubject = jetstream.DiscardOld, false }),
		"duplicate_window":     change(contracts.DeadStream, func(c *jetstream.StreamConfig) { c.Duplicates = time.Minute }),
		"max_msgs_per_subject": change(contracts.OutcomeStream, func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 2 }),
		"max_msgs":             change(contracts.RequestStream, func(c *jetstream.StreamConfig) { c.MaxMsgs = 500 }),
		"history":              change("KV_"+contracts.JobBucket, func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 1 }),
		"ttl":                  change("KV_"+contracts.JobBucket, func(c *jetstream.StreamConfig) { c.MaxAge = time.Hour }),
		"max_ack_pending":      queue(func(c *jetstream.ConsumerConfig) { c.MaxAckPending = 1000 }),
		"max_deliver":          queue(func(c *jetstream.ConsumerConfig) { c.MaxDeliver = 5 }),
		"backoff":              queue(func(c *jetstream.ConsumerConfig) { c.BackOff, c.MaxDeliver = []time.Duration{time.Second}, 5 }),
		"ack_wait":             queue(func(c *jetstream.ConsumerConfig) { c.AckWait = time.Second }),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nc, js, _ := broker(t)
			if _, err := Setup(ctx, js, SetupOptions{}); err != nil {
				t.Fatal(err)
			}
			if err := alter(js); err != nil {
				t.Fatal(err)
			}
			if _, err := Setup(ctx, js, SetupOptions{}); err == nil || !strings.Contains(err.Error(), ": "+name+" is ") {
				t.Errorf("setup: %v", err)
			}
			if _, err := New(ctx, nc, exports{}, Config{}); err == nil {
				t.Error("a worker starts on it")
			}
		})
	}
}

func TestRegistry(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	_, js, _ := broker(t)
	must(Setup(ctx, js, SetupOptions{}))
	r := must(OpenRegistry(ctx, js))
	code := func(err error) contracts.Code {
		if rejection, ok := contracts.AsRejection(err); ok {
			return rejection.Code
		}
		return ""
	}
	if _, err := r.Get(ctx, "acme"); code(err) != contracts.UnknownTenant {
		t.Errorf("an unknown tenant: %v", err)
	}
	for _, name := range []string{"beta", "acme"} {
		if err := r.Set(ctx, tenant(name)); err != nil {
			t.Fatal(err)
		}
	}
	got, err := r.Get(ctx, "acme")
	if err != nil || got.Schema != "acme" || got.Limits.VolumeBytes != contracts.DefaultVolumeBytes {
		t.Errorf("%+v, %v", got, err)
	}
	stolen := tenant("acme")
	stolen.Destination.ExternalID = "another-external-id-0123456789"
	if err := r.Set(ctx, stolen); code(err) != contracts.InvalidTenant {
		t.Errorf("another external ID: %v", err)
	}
	all, err := r.List(ctx)
	if err != nil || len(all) != 2 || all[0].Name != "acme" || all[1].Name != "beta" {
		t.Errorf("%+v, %v", all, err)
	}
	if err := r.Remove(ctx, "acme"); err != nil {
		t.Fatal(err)
	}
	if err := r.Remove(ctx, "acme"); code(err) != contracts.UnknownTenant {
		t.Errorf("removed twice: %v", err)
	}
	if err := r.Set(ctx, tenant("acme")); err != nil {
		t.Errorf("registered again: %v", err)
	}
}

// fleet is a broker that is set up, the tenant acme, and a bucket in memory.
func fleet(t *testing.T) (*nats.Conn, *Jobs, *memory, *world.NATS) {
	t.Helper()
	ctx := t.Context()
	nc, js, server := broker(t)
	must(Setup(ctx, js, SetupOptions{AckWait: 2 * time.Second}))
	if err := must(OpenRegistry(ctx, js)).Set(ctx, tenant("acme")); err != nil {
		t.Fatal(err)
	}
	return nc, must(OpenJobs(ctx, js)), newMemory(t), server
}

// start runs a worker until the returned function is called.
func start(t *testing.T, nc *nats.Conn, e exports, cfg Config) (stop func()) {
	t.Helper()
	c, err := New(t.Context(), nc, e, cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan error, 1)
	go func() { over <- c.Run(ctx) }()
	return func() {
		cancel()
		if err := <-over; err != nil {
			t.Error(err)
		}
	}
}

// ending waits for a job's last status.
func ending(t *testing.T, jobs *Jobs, job string) (last Status) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	for ctx.Err() == nil && !last.Ended() {
		for s, err := range jobs.Watch(ctx, "acme", job) {
			if err != nil { // the broker may be away for a moment
				pause(ctx, 100*time.Millisecond)
				break
			}
			last = s
		}
	}
	return last
}

func TestThroughJetStream(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	nc, jobs, w, _ := fleet(t)
	if _, err := jobs.Status(ctx, "acme", "one"); !errors.Is(err, ErrNoJob) {
		t.Errorf("before: %v", err)
	}
	if duplicate, err := jobs.Submit(ctx, request("one"), nil); err != nil || duplicate {
		t.Fatal(duplicate, err)
	}
	if s, err := jobs.Status(ctx, "acme", "one"); err != nil || s.State != "queued" {
		t.Errorf("queued: %+v, %v", s, err)
	}
	for _, tenant := range []string{"acme", ""} {
		if list, err := jobs.List(ctx, tenant); err != nil || len(list) != 1 || list[0].Job != "one" || list[0].State != "queued" {
			t.Errorf("queued, in the list of %q: %+v, %v", tenant, list, err)
		}
	}
	if list, err := jobs.List(ctx, "other"); err != nil || len(list) != 0 {
		t.Errorf("the list of another tenant: %+v, %v", list, err)
	}
	stop := start(t, nc, exports{n: w.node("bucket")}, quick("w1"))
	defer stop()
	s := ending(t, jobs, "one")
	if s.Outcome == nil || s.Outcome.Kind != contracts.Delivered || s.Outcome.Manifest != "s3://acme-snapshots/acme/one/manifest.json" || s.Attempt != 1 {
		t.Errorf("%+v", s)
	}
	if duplicate, err := jobs.Submit(ctx, request("one"), nil); err != nil || !duplicate {
		t.Errorf("again: %v, %v", duplicate, err)
	}
	for _, change := range []func(*contracts.Request){
		func(r *contracts.Request) { r.Only = contracts.Tables },
		func(r *contracts.Request) { r.Format = contracts.JSONL },
	} {
		other := request("one")
		change(&other)
		if _, err := jobs.Submit(ctx, other, nil); err == nil || !strings.Contains(err.Error(), string(contracts.JobConflict)) {
			t.Errorf("the same job with other content: %v", err)
		}
	}
	if err := jobs.Cancel(ctx, "acme", "one"); !errors.Is(err, ErrTooLate) {
		t.Errorf("cancelling what is done: %v", err)
	}
	if list, err := jobs.List(ctx, "acme"); err != nil || len(list) != 1 || list[0].State != string(done) {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestWorkerIsReplaced(t *testing.T) {
	t.Parallel()
	nc, jobs, w, _ := fleet(t)
	first := w.node("first")
	second, err := Connect(nc.ConnectedUrl())
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	// The first worker loses NATS for good, in the middle of an attempt that hangs.
	c, err := New(t.Context(), second, exports{n: first, part: time.Hour}, quick("w1"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan error, 1)
	go func() { over <- c.Run(ctx) }()
	if _, err := jobs.Submit(t.Context(), request("job"), nil); err != nil {
		t.Fatal(err)
	}
	for s := range jobs.Watch(t.Context(), "acme", "job") {
		if s.State == string(running) {
			break
		}
	}
	stop := start(t, nc, exports{n: w.node("second")}, quick("w2"))
	defer stop()
	second.Close()
	s := ending(t, jobs, "job")
	if s.Outcome == nil || s.Outcome.Kind != contracts.Delivered || s.Crashes != 1 || s.Attempt != 2 {
		t.Errorf("%+v", s)
	}
	cancel()
	<-over
}

func TestBrokerRestarts(t *testing.T) {
	t.Parallel()
	nc, jobs, w, server := fleet(t)
	stop := start(t, nc, exports{n: w.node("bucket"), part: 300 * time.Millisecond}, quick("w1"))
	defer stop()
	if _, err := jobs.Submit(t.Context(), request("job"), nil); err != nil {
		t.Fatal(err)
	}
	for s := range jobs.Watch(t.Context(), "acme", "job") {
		if s.State == string(running) {
			break
		}
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := ending(t, jobs, "job"); s.Outcome == nil || s.Outcome.Kind != contracts.Delivered {
		t.Errorf("%+v", s)
	}
}

func TestCancelThroughJetStream(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	nc, jobs, w, _ := fleet(t)
	for _, job := range []string{"queued", "running"} {
		if _, err := jobs.Submit(ctx, request(job), nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := jobs.Cancel(ctx, "acme", "queued"); err != nil {
		t.Fatal(err)
	}
	if err := jobs.Cancel(ctx, "acme", "never-asked-for"); !errors.Is(err, ErrNoJob) {
		t.Errorf("an unknown job: %v", err)
	}
	stop := start(t, nc, exports{n: w.node("bucket"), part: time.Hour}, quick("w1"))
	defer stop()
	if s := ending(t, jobs, "queued"); s.Outcome == nil || s.Outcome.Kind != contracts.Cancelled {
		t.Errorf("%+v", s)
	}
	for s := range jobs.Watch(ctx, "acme", "running") {
		if s.State == string(running) {
			break
		}
	}
	if list, err := jobs.List(ctx, "acme"); err != nil || len(list) != 2 {
		t.Errorf("a claimed request is listed once: %+v, %v", list, err)
	}
	if err := jobs.Cancel(ctx, "acme", "running"); err != nil {
		t.Fatal(err)
	}
	if s := ending(t, jobs, "running"); s.Outcome == nil || s.Outcome.Kind != contracts.Cancelled {
		t.Errorf("%+v", s)
	}
}

func TestRefusedRequestsAreKeptWithTheReason(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	nc, jobs, w, _ := fleet(t)
	js := jobs.js
	stop := start(t, nc, exports{n: w.node("bucket")}, quick("w1"))
	defer stop()
	for _, tt := range []struct {
		tenant, body string
		code         contracts.Code
	}{
		{"acme", "{", contracts.InvalidRequest},
		{"acme", `{"version":1,"tenant":"acme","job":"a","requested_at":"2026-01-01T00:00:00Z","bucket":"mine"}`, contracts.InvalidRequest},
		{"other", `{"version":1,"tenant":"acme","job":"b","requested_at":"2026-01-01T00:00:00Z"}`, contracts.InvalidRequest},
		{"acme", `{"version":9,"tenant":"acme","job":"c","requested_at":"2026-01-01T00:00:00Z"}`, contracts.UnsupportedVersion},
		{"acme", `{"version":1,"tenant":"acme","job":"d","requested_at":"2016-01-01T00:00:00Z"}`, contracts.RequestExpired},
		{"acme", `{"version":1,"tenant":"acme","job":"future","requested_at":"2999-01-01T00:00:00Z"}`, contracts.InvalidRequest},
	} {
		if _, err := js.Publish(ctx, contracts.RequestSubject(tt.tenant), []byte(tt.body)); err != nil {
			t.Fatal(err)
		}
		var got *jetstream.RawStreamMsg
		for end := time.Now().Add(20 * time.Second); got == nil && time.Now().Before(end); pause(ctx, 50*time.Millisecond) {
			for m, err := range jobs.messages(ctx, contracts.DeadStream, contracts.DeadSubject(tt.tenant)) {
				if err == nil && string(m.Data) == tt.body {
					got = m
				}
			}
		}
		if got == nil || got.Header.Get(contracts.HeaderCode) != string(tt.code) {
			t.Errorf("%s: %+v, want %s", tt.body, got, tt.code)
		}
	}
	if n := must(must(js.Stream(ctx, contracts.OutcomeStream)).Info(ctx)).State.Msgs; n != 0 {
		t.Errorf("%d outcomes of what never was a job", n)
	}
}

func TestForgedOutcomeSilencesNothing(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	nc, jobs, w, _ := fleet(t)
	if _, err := jobs.js.Publish(ctx, contracts.OutcomeSubject("acme", "job"), []byte(`{"version":1,"tenant":"acme","job":"job","kind":"failed"}`)); err != nil {
		t.Fatal(err)
	}
	stop := start(t, nc, exports{n: w.node("bucket")}, quick("w1"))
	defer stop()
	if _, err := jobs.Submit(ctx, request("job"), nil); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); ; pause(ctx, 50*time.Millisecond) {
		why, err := jobs.dead(ctx, "acme", "job")
		if err == nil && why != nil && why.Code == contracts.JobConflict {
			return // kept, and the job is not called done
		}
		if time.Now().After(end) {
			t.Fatalf("%+v, %v", why, err)
		}
	}
}

func TestNoRequestIsTakenForAnother(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	nc, jobs, w, _ := fleet(t)
	// Somebody uses the id by which the queue would know our request, for something else.
	stranger := &nats.Msg{Subject: contracts.RequestSubject("somebody"), Data: []byte("nonsense")}
	if _, err := jobs.js.PublishMsg(ctx, stranger, jetstream.WithMsgID(contracts.RequestMsgID("acme", "job"))); err != nil {
		t.Fatal(err)
	}
	for again, want := range []bool{false, true, true} {
		if duplicate, err := jobs.Submit(ctx, request("job"), nil); err != nil || duplicate != want {
			t.Fatalf("submitted %d times before: duplicate %t, %v", again, duplicate, err)
		}
	}
	stop := start(t, nc, exports{n: w.node("bucket")}, quick("w1"))
	defer stop()
	if s := ending(t, jobs, "job"); s.Outcome == nil || s.Outcome.Kind != contracts.Delivered {
		t.Errorf("%+v", s)
	}
	if duplicate, err := jobs.Submit(ctx, request("job"), nil); err != nil || !duplicate {
		t.Errorf("submitted when it has ended: duplicate %t, %v", duplicate, err)
	}
}
