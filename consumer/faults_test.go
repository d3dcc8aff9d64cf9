package consumer

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/snapfleet/snapfleet/contracts"
)

var errLogin = contracts.Fault(contracts.FaultDatabase, contracts.DefaultDatabase, "SQLSTATE 28P01")

// What is about the worker gives the job back without blame, in every state but one, and never ends it.
func TestJudgeOfAWorkersFault(t *testing.T) {
	t.Parallel()
	cfg := Config{}.withDefaults()
	now := time.Now()
	for _, part := range contracts.FaultParts() {
		err := errors.Join(errors.New("prepare"), contracts.Fault(part, "", "no"), contracts.Reject(contracts.RoleDenied, "no"))
		for _, s := range []state{running, committing, sealing, committed} {
			for _, errs := range []int{0, cfg.Attempts + 1} {
				v := judge(err, record{State: s, Errors: errs, Deadline: now.Add(time.Hour)}, cfg, now)
				if v.act != release || v.reason != nil || v.delay <= 0 {
					t.Errorf("%s in %s after %d errors: %+v", part, s, errs, v)
				}
			}
		}
		// The end of a job that was given up must not wait for a worker to be repaired: that it failed is counted.
		if v := judge(err, record{State: failing}, cfg, now); v.act != retry {
			t.Errorf("%s in failing: %+v", part, v)
		}
	}
}

// Which faults make a worker not ready, and which keep it from which jobs.
func TestFaultsAndReadiness(t *testing.T) {
	t.Parallel()
	two := []string{"default", "eu-1"}
	at := func(database, endpoint string) contracts.Tenant {
		tn := tenant("acme")
		tn.Database, tn.Destination.Endpoint = database, endpoint
		return tn
	}
	for name, tt := range map[string]struct {
		databases         []string
		faults            []contracts.WorkerFault
		ready, works      bool
		degraded          int
		bars, barsNeither contracts.Tenant
	}{
		"none":                 {ready: true, works: true},
		"the only database":    {faults: []contracts.WorkerFault{{Part: contracts.FaultDatabase, Name: "default"}}, bars: at("", "")},
		"one of two":           {databases: two, faults: []contracts.WorkerFault{{Part: contracts.FaultDatabase, Name: "eu-1"}}, ready: true, works: true, degraded: 1, bars: at("eu-1", ""), barsNeither: at("", "")},
		"both of two":          {databases: two, faults: []contracts.WorkerFault{{Part: contracts.FaultDatabase, Name: "eu-1"}, {Part: contracts.FaultDatabase, Name: "default"}}, bars: at("", "")},
		"one that others know": {databases: two, faults: []contracts.WorkerFault{{Part: contracts.FaultDatabase, Name: "eu-2"}}, works: true, bars: at("eu-2", ""), barsNeither: at("eu-1", "")},
		"AWS identity":         {faults: []contracts.WorkerFault{{Part: contracts.FaultIdentity}}, bars: at("", "")},
		"NATS":                 {faults: []contracts.WorkerFault{{Part: contracts.FaultNATS}}, bars: at("", "")},
		"an endpoint":          {faults: []contracts.WorkerFault{{Part: contracts.FaultEndpoint, Name: "https://s3"}}, works: true, bars: at("", "https://s3"), barsNeither: at("", "https://other")},
		"the house's role":     {faults: []contracts.WorkerFault{{Part: contracts.FaultHouseRole}}, ready: true, works: true, degraded: 1, bars: contracts.Tenant{Name: "acme"}, barsNeither: at("", "")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := &Consumer{connected: func() bool { return true }, faults: newFaults(Config{Databases: tt.databases})}
			for _, f := range tt.faults {
				f.Err = errors.New("what happened")
				c.faults.note(&f, time.Time{})
			}
			err := c.Ready()
			if (err == nil) != tt.ready || c.faults.stops() == tt.works || len(c.Degraded()) != tt.degraded {
				t.Errorf("ready: %v, stops %v, degraded %v", err, c.faults.stops(), c.Degraded())
			}
			if err != nil && (!strings.Contains(err.Error(), "what happened") || !strings.Contains(err.Error(), "fix: ")) {
				t.Errorf("it does not say why: %v", err)
			}
			if len(tt.faults) > 0 && c.faults.bars(tt.bars, false) == nil {
				t.Error("it would take the job that it cannot do")
			}
			if tt.barsNeither.Name != "" && c.faults.bars(tt.barsNeither, false) != nil {
				t.Error("it leaves alone a job that it can do")
			}
			for _, f := range tt.faults {
				c.faults.clear(f.Part, f.Name)
			}
			if err := c.Ready(); err != nil || len(c.Degraded()) > 0 {
				t.Errorf("without the fault: %v, %v", err, c.Degraded())
			}
		})
	}
}

// hireWorker is start with the worker in hand.
func hireWorker(t *testing.T, nc *nats.Conn, e exports, cfg Config) *Consumer {
	t.Helper()
	c, err := New(t.Context(), nc, e, cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan error, 1)
	go func() { over <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-over; err != nil {
			t.Error(err)
		}
	})
	return c
}

// Two workers, one whose login is refused: the good one delivers everything, the other one is not ready and says why, and
// nothing of it is blame in a record. Repaired, it is ready without a restart.
func TestWorkersFaultEndsNoJob(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	nc, jobs, w, _ := fleet(t)
	var broken atomic.Bool
	broken.Store(true)
	login := func() error {
		if broken.Load() {
			return errLogin
		}
		return nil
	}
	cfg := quick("bad")
	cfg.Probes = []Probe{{Part: contracts.FaultDatabase, Name: contracts.DefaultDatabase, Try: func(context.Context) error { return login() }}}
	bad := hireWorker(t, nc, exports{n: w.node("bad"), reject: func(contracts.Attempt) error { return login() }}, cfg)
	eventually(t, "the worker knows its fault", func() bool { return bad.faults.tried() && bad.Ready() != nil })
	if err := bad.Ready(); !strings.Contains(err.Error(), "28P01") || !strings.Contains(err.Error(), "fix: ") {
		t.Errorf("not ready, because %v", err)
	}

	must(jobs.Submit(ctx, request("alone"), nil))
	eventually(t, "status says why the job waits", func() bool {
		s, err := jobs.Status(ctx, "acme", "alone")
		return err == nil && s.State == "waiting" && strings.Contains(s.LastError, "28P01") && s.Errors == 0 && s.Crashes == 0
	})
	hireWorker(t, nc, exports{n: w.node("good")}, quick("good"))
	names := []string{"a", "b", "c", "d"}
	for _, job := range names {
		must(jobs.Submit(ctx, request(job), nil))
	}
	for _, job := range append(names, "alone") {
		if s := ending(t, jobs, job); s.Outcome == nil || s.Outcome.Kind != contracts.Delivered || s.Errors != 0 || s.Crashes != 0 {
			t.Errorf("%s: %+v", job, s)
		}
	}
	broken.Store(false)
	eventually(t, "the repaired worker is ready", func() bool { return bad.Ready() == nil })
}

// A login that stops working under load, and works again: no job fails, though every worker has met it.
func TestLoginThatIsRotatedUnderLoad(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	nc, jobs, w, _ := fleet(t)
	var broken atomic.Bool
	login := func() error {
		if broken.Load() {
			return errLogin
		}
		return nil
	}
	for _, name := range []string{"one", "two"} {
		cfg := quick(name)
		cfg.Attempts = 1
		cfg.Probes = []Probe{{Part: contracts.FaultDatabase, Name: contracts.DefaultDatabase, Try: func(context.Context) error { return login() }}}
		hireWorker(t, nc, exports{n: w.node(name), reject: func(contracts.Attempt) error { return login() }}, cfg)
	}
	var names []string
	for _, c := range "abcdefgh" {
		names = append(names, string(c))
		must(jobs.Submit(ctx, request(string(c)), nil))
		if c == 'd' {
			broken.Store(true)
		}
	}
	eventually(t, "a job has met the refusal", func() bool {
		all, err := jobs.List(ctx, "acme")
		return err == nil && slices.ContainsFunc(all, func(s Status) bool { return strings.Contains(s.LastError, "28P01") })
	})
	broken.Store(false)
	for _, job := range names {
		if s := ending(t, jobs, job); s.Outcome == nil || s.Outcome.Kind != contracts.Delivered || s.Errors != 0 {
			t.Errorf("%s: %+v", job, s)
		}
	}
}

// All workers have the fault: the deadline ends the job, with the fault as its reason, and no customer is accused.
func TestDeadlineEndsAJobThatNoWorkerCanDo(t *testing.T) {
	t.Parallel()
	nc, jobs, w, _ := fleet(t)
	cfg := quick("bad")
	cfg.Deadline = 3 * time.Second
	hireWorker(t, nc, exports{n: w.node("bad"), reject: func(contracts.Attempt) error {
		return contracts.Fault(contracts.FaultIdentity, "", "there are no AWS credentials")
	}}, cfg)
	must(jobs.Submit(t.Context(), request("j"), nil))
	s := ending(t, jobs, "j")
	if s.Reason == nil || s.Reason.Code != contracts.DeadlineExceeded || !strings.Contains(s.Reason.What, "no AWS credentials") {
		t.Errorf("%+v, %+v", s, s.Reason)
	} else if s.Reason.Code.Advice().Customer {
		t.Error("the customer is accused")
	}
}

// An endpoint that no worker may talk to ends the job: the tenant's record is wrong. One that another worker may talk to
// is the fault of the worker that may not.
func TestEndpointThatAnotherWorkerMayTalkTo(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	nc, jobs, w, _ := fleet(t)
	const endpoint = "https://s3.example.com"
	registry := must(OpenRegistry(ctx, must(jetstream.New(nc))))
	acme := tenant("acme")
	acme.Destination.Endpoint = endpoint
	if err := registry.Set(ctx, acme); err != nil {
		t.Fatal(err)
	}
	bad := hireWorker(t, nc, exports{n: w.node("bad"), reject: func(contracts.Attempt) error {
		return contracts.Reject(contracts.EndpointNotAllowed, "endpoint %q", endpoint)
	}}, quick("bad"))
	must(jobs.Submit(ctx, request("nobody"), nil))
	if s := ending(t, jobs, "nobody"); s.Reason == nil || s.Reason.Code != contracts.EndpointNotAllowed {
		t.Errorf("an endpoint that no worker has: %+v", s)
	}
	cfg := quick("good")
	cfg.Endpoints = []string{endpoint}
	hireWorker(t, nc, exports{n: w.node("good")}, cfg)
	eventually(t, "the fleet knows that a worker may", func() bool { return bad.lacks(ctx, settingEndpoint, endpoint, nil) })
	names := []string{"a", "b", "c", "d", "e", "f", "g", "h"}
	met := false
	for _, job := range names {
		must(jobs.Submit(ctx, request(job), nil))
	}
	for _, job := range names {
		s := ending(t, jobs, job)
		if s.Outcome == nil || s.Outcome.Kind != contracts.Delivered || s.Errors != 0 {
			t.Errorf("%s: %+v", job, s)
		}
		met = met || s.Attempt > 1
	}
	if err := bad.Ready(); met && (err == nil || !strings.Contains(err.Error(), "--allow-endpoint")) {
		t.Errorf("the worker that may not: %v", err)
	}
}

// A fault of the worker that a check meets breaks no destination, and makes no notice.
func TestNoDestinationIsBrokenByAnEndpointThatIsNotAllowed(t *testing.T) {
	t.Parallel()
	found := contracts.Check{Tenant: "acme", At: time.Now(), Steps: []contracts.CheckStep{{
		Name: contracts.CheckAssume, Result: contracts.CheckFailed, Reason: &contracts.Reason{Code: contracts.EndpointNotAllowed},
	}}}
	k := checkup{Checkup: Checkup{Result: contracts.CheckOK}}.after(found, "")
	if k.Result != contracts.CheckOK || k.Untold != nil || k.Tried.IsZero() {
		t.Errorf("%+v", k)
	}
}

// serverOf starts a real server with these users.
func serverOf(t *testing.T, port int, users ...*server.User) *server.Server {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: t.TempDir(), Users: users, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(20 * time.Second) {
		t.Fatal("the server does not start")
	}
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	return s
}

func connectAs(t *testing.T, s *server.Server, name string, opts ...nats.Option) *nats.Conn {
	t.Helper()
	nc, err := Connect(s.ClientURL(), append([]nats.Option{nats.UserInfo(name, name), nats.ReconnectWait(20 * time.Millisecond)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// A login that is refused several times in a row closes nothing for good: the connection comes back when it is taken.
func TestRefusedLoginsDoNotCloseTheConnection(t *testing.T) {
	t.Parallel()
	user := func(password string) *server.User { return &server.User{Username: "w", Password: password} }
	s := serverOf(t, -1, user("w"))
	port := s.Addr().(*net.TCPAddr).Port
	nc := connectAs(t, s, "w")
	s.Shutdown()
	s.WaitForShutdown()
	s = serverOf(t, port, user("another"))
	eventually(t, "the login is refused four times", func() bool {
		if nc.IsClosed() {
			t.Fatal("closed for good")
		}
		v, err := s.Varz(nil)
		return err == nil && v.TotalConnections >= 4
	})
	s.Shutdown()
	s.WaitForShutdown()
	serverOf(t, port, user("w"))
	eventually(t, "it is connected again", nc.IsConnected)
}

// A connection that is closed for good ends Run with an error, so that the process ends, too.
func TestRunEndsWhenTheConnectionIsClosed(t *testing.T) {
	t.Parallel()
	nc, _, w, _ := fleet(t)
	own, err := Connect(nc.ConnectedUrl())
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(t.Context(), own, exports{n: w.node("w")}, quick("w"))
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan error, 1)
	ctx, end := context.WithCancel(t.Context())
	defer end()
	go func() { over <- c.Run(ctx) }()
	eventually(t, "it is ready", func() bool { return c.Ready() == nil })
	own.Close()
	select {
	case err := <-over:
		if !errors.Is(err, ErrClosed) {
			t.Errorf("Run ends with %v", err)
		}
	case <-time.After(time.Minute):
		t.Error("Run goes on without a connection")
	}
}

// A worker whose NATS user may not take requests is not ready, and says which right and which flags.
func TestWorkerWithoutItsRights(t *testing.T) {
	t.Parallel()
	for name, denied := range map[string]*server.Permissions{
		"pull":    {Publish: &server.SubjectPermission{Deny: []string{"$JS.API.CONSUMER.MSG.NEXT.>"}}},
		"records": {Publish: &server.SubjectPermission{Deny: []string{"$KV.snapshot_jobs.>"}}},
		"hear":    {Subscribe: &server.SubjectPermission{Deny: []string{"snapshot.ask.*"}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			s := serverOf(t, -1, &server.User{Username: "admin", Password: "admin"}, &server.User{Username: "w", Password: "w", Permissions: denied})
			js := must(jetstream.New(connectAs(t, s, "admin")))
			must(Setup(ctx, js, SetupOptions{AckWait: 2 * time.Second}))
			if err := must(OpenRegistry(ctx, js)).Set(ctx, tenant("acme")); err != nil {
				t.Fatal(err)
			}
			jobs := must(OpenJobs(ctx, js))
			must(jobs.Submit(ctx, request("j"), nil))
			c := hireWorker(t, connectAs(t, s, "w"), exports{n: newMemory(t).node("w")}, quick("w"))
			eventually(t, "it is not ready, and says why", func() bool {
				err := c.Ready()
				return err != nil && strings.Contains(err.Error(), "--nats-nkey") && strings.Contains(err.Error(), "--nats-inbox") && strings.Contains(err.Error(), "NATS does not let this user")
			})
		})
	}
}

// A user who may not write hears that at once, from every verb that writes.
func TestMissingRightIsFinal(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := serverOf(t, -1, &server.User{Username: "admin", Password: "admin"}, &server.User{Username: "viewer", Password: "viewer", Permissions: &server.Permissions{
		Publish: &server.SubjectPermission{Deny: []string{"$KV.snapshot_jobs.>"}},
	}})
	js := must(jetstream.New(connectAs(t, s, "admin")))
	must(Setup(ctx, js, SetupOptions{}))
	must(must(OpenJobs(ctx, js)).Submit(ctx, request("j"), nil))
	viewer := must(OpenJobs(ctx, must(jetstream.New(connectAs(t, s, "viewer")))))
	ctx, stop := context.WithTimeout(ctx, 30*time.Second) // for a test that fails; the server's answer takes no time
	defer stop()
	err := viewer.Cancel(ctx, "acme", "j")
	if ctx.Err() != nil {
		t.Error("it is tried again and again")
	}
	if e, ok := AsNoRight(err); !ok || e.Op != "publish" || !strings.HasPrefix(e.Subject, "$KV.snapshot_jobs.") {
		t.Errorf("cancel: %v", err)
	}
}

// A user who may not hear answers learns it at once, whatever the prefix of the answers' subjects is.
func TestMayNotHearAnswers(t *testing.T) {
	t.Parallel()
	s := serverOf(t, -1, &server.User{Username: "u", Password: "u", Permissions: &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: []string{"snapshot.ask.*"}},
		Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX_operator.>"}},
	}})
	for _, prefix := range []string{"_INBOX", "_INBOX_mine"} {
		nc := connectAs(t, s, "u", nats.CustomInboxPrefix(prefix))
		for range 2 { // the second time the subscription is broken already
			if _, err := AskCheck(t.Context(), nc, "acme", false); !errors.Is(err, ErrMayNotAsk) {
				t.Errorf("%s: %v", prefix, err)
			} else if e, ok := AsNoRight(err); !ok || !strings.HasPrefix(e.Subject, prefix) {
				t.Errorf("%s: it does not say what is missing: %v", prefix, err)
			}
		}
	}
}

// Who follows a job waits for the clock when the connection is closed, and does not spin: the time of a bubble only moves
// while everybody waits.
func TestWatchOfAClosedConnectionDoesNotSpin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		changes := make(chan jetstream.KeyValueEntry)
		close(changes)
		look := time.NewTicker(2 * time.Second)
		defer look.Stop()
		began := time.Now()
		if _, err := nextChange(t.Context(), changes, look.C); err != nil || time.Since(began) != 2*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

// A worker that must stop while a bucket does not answer gives back what another worker can do as well: to remove
// the uploads of a job that was given up takes no grace period.
func TestWorkerThatStopsDoesNotWaitForABucket(t *testing.T) {
	t.Parallel()
	nc, jobs, w, _ := fleet(t)
	reject := func(contracts.Attempt) error { return contracts.Reject(contracts.RoleDenied, "no") }
	hangs := make(chan struct{}, 10)
	c, err := New(t.Context(), nc, exports{n: w.node("first"), reject: reject, clean: func(ctx context.Context) error {
		hangs <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}}, quick("first")) // with a grace period of 10 min
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	over := make(chan error, 1)
	go func() { over <- c.Run(ctx) }()
	must(jobs.Submit(t.Context(), request("j"), nil))
	<-hangs
	stop()
	select {
	case err := <-over:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("it does not stop within a minute")
	}
	r, _, err := jobs.records.get(t.Context(), recordKey("acme", "j"))
	if err != nil || r.State != failing || r.Owner != "" || r.Errors != 0 || r.Crashes != 0 {
		t.Errorf("it leaves %+v, %v", r, err)
	}
	hireWorker(t, nc, exports{n: w.node("second"), reject: reject}, quick("second"))
	if s := ending(t, jobs, "j"); s.Reason == nil || s.Reason.Code != contracts.RoleDenied {
		t.Errorf("%+v", s)
	}
}

// Rights that are taken away from a worker that runs, and given back: it is not ready meanwhile, works again without a
// restart, and the connection was closed for good at no time. The same with its queue.
func TestRightsAndQueuesThatComeBack(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	admin := &server.User{Username: "admin", Password: "admin"}
	options := func(denied *server.Permissions) *server.Options {
		return &server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, NoSigs: true, Users: []*server.User{admin, {Username: "w", Password: "w", Permissions: denied}}}
	}
	first := options(nil)
	first.StoreDir = t.TempDir()
	s, err := server.NewServer(first)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	defer func() { s.Shutdown(); s.WaitForShutdown() }()
	if !s.ReadyForConnections(20 * time.Second) {
		t.Fatal("the server does not start")
	}
	reload := func(denied *server.Permissions) {
		t.Helper()
		o := options(denied)
		o.StoreDir, o.Port = first.StoreDir, s.Addr().(*net.TCPAddr).Port
		if err := s.ReloadOptions(o); err != nil {
			t.Fatal(err)
		}
	}
	js := must(jetstream.New(connectAs(t, s, "admin")))
	must(Setup(ctx, js, SetupOptions{AckWait: 2 * time.Second}))
	if err := must(OpenRegistry(ctx, js)).Set(ctx, tenant("acme")); err != nil {
		t.Fatal(err)
	}
	jobs := must(OpenJobs(ctx, js))
	own := connectAs(t, s, "w")
	c := hireWorker(t, own, exports{n: newMemory(t).node("w")}, quick("w"))
	works := func(job string) {
		t.Helper()
		must(jobs.Submit(ctx, request(job), nil))
		if s := ending(t, jobs, job); s.Outcome == nil || s.Outcome.Kind != contracts.Delivered {
			t.Fatalf("%s: %+v", job, s)
		}
		eventually(t, "it is ready after "+job, func() bool { return c.Ready() == nil })
	}
	works("before")
	for name, denied := range map[string]*server.Permissions{
		"inbox": {Subscribe: &server.SubjectPermission{Deny: []string{"_INBOX.>"}}},
		"pull":  {Publish: &server.SubjectPermission{Deny: []string{"$JS.API.CONSUMER.MSG.NEXT.>"}}},
	} {
		reload(denied)
		eventually(t, "it is not ready without its "+name, func() bool { return c.Ready() != nil })
		reload(nil)
		works("after-" + name)
	}
	if err := js.DeleteConsumer(ctx, contracts.RequestStream, contracts.WorkersName); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is not ready without its queue", func() bool { return c.Ready() != nil })
	must(Setup(ctx, js, SetupOptions{AckWait: 2 * time.Second}))
	works("after-queue")
	if own.IsClosed() {
		t.Error("closed for good")
	}
}
