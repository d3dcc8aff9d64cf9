package test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/test/bucket"
	"github.com/snapfleet/snapfleet/test/world"
)

// A broker that a test kills is this program, started once more.
func init() { world.ServeNATS() }

// TestBroker takes the broker away from real workers in every way that it can go, and holds the whole world
// against the invariants once it is back.
func TestBroker(t *testing.T) {
	t.Parallel()
	scenarios := map[string]func(*testing.T){
		"is killed":   func(t *testing.T) { brokerRestarts(t, "killed", (*world.NATS).Kill) },
		"is stopped":  func(t *testing.T) { brokerRestarts(t, "stopped", (*world.NATS).Stop) },
		"is away":     brokerIsAway,
		"forgets":     brokerForgets,
		"is full":     brokerIsFull,
		"hears twice": brokerHearsTwice,
	}
	for lane := range partitioned {
		scenarios[fmt.Sprint("loses sight ", lane)] = func(t *testing.T) { partitions(t, lane) }
	}
	sideBySide(t, scenarios)
}

// sideBySide runs scenarios all at once. Most of each is waiting, and t.Parallel runs as many as there are cores.
func sideBySide(t *testing.T, scenarios map[string]func(*testing.T)) {
	var all sync.WaitGroup
	for name, scenario := range scenarios {
		all.Go(func() { t.Run(name, scenario) })
	}
	all.Wait()
}

// little loads a schema of one table that makes one part.
func little(schema string) func(context.Context, string) error {
	return sql(strings.ReplaceAll(`CREATE SCHEMA {s}; CREATE TABLE {s}.little AS SELECT n, repeat(md5(n::text), 10) AS words FROM generate_series(1, 1000) n;`, "{s}", quoted(schema)))
}

// many lets one tenant have as many jobs as a test likes.
var many = append([]string{"--slots=8", "--per-tenant=8"}, sweeping...)

// phases are where a job can be when something happens to its fleet: the request that it waits for.
var phases = []struct {
	name, operation string
	skip            int
}{
	{"begins", "ListObjectsV2", 0},
	{"opens", create, 1}, // the first is the probe's
	{"exports", "UploadPart", 1},
	{"completes", complete, 0},
	{"verifies", "HeadObject", 0},
	{"reveals", "PutObject", 0},
}

// inEveryPhase submits a job for each phase, and returns once each of them waits there. release lets them go on,
// or loses what they wait for.
func (f *fleet) inEveryPhase(name string, lost bool) (jobs []string, release func()) {
	f.t.Helper()
	hold := make(chan struct{})
	release = sync.OnceFunc(func() { close(hold) })
	f.t.Cleanup(release)
	var reached []<-chan struct{}
	for _, p := range phases {
		job := name + "-" + p.name
		jobs = append(jobs, job)
		fault := cloud.Inject(bucket.Fault{Match: f.request(job, p.operation), Skip: p.skip, Times: 1, Hold: hold, Reply: bucket.Reply{Lost: lost}})
		f.t.Cleanup(fault.Remove)
		reached = append(reached, fault.Reached)
		f.submit(job, "--only=tables")
	}
	for n, r := range reached {
		select {
		case <-r:
		case <-time.After(time.Minute):
			f.t.Fatalf("job %s never got there", jobs[n])
		}
	}
	return jobs, release
}

// request matches the requests of an operation that are made for a job.
func (f *fleet) request(job, operation string) func(bucket.Call) bool {
	return func(c bucket.Call) bool {
		if c.Operation != operation {
			return false
		}
		if c.Service == "sts" {
			return c.Query.Get("RoleArn") == f.role && c.Query.Get("RoleSessionName") == "snapshot-"+job
		}
		return c.Bucket == f.bucket && strings.HasPrefix(cmp.Or(c.Key, c.Query.Get("prefix")), contracts.JobPrefix(f.tenant, job))
	}
}

// allDelivered waits for jobs, and looks at the whole world then.
func (f *fleet) allDelivered(jobs ...string) {
	f.t.Helper()
	for _, job := range jobs {
		if s := f.await(job); !s.Outcome.Kind.OK() {
			f.t.Errorf("job %s: %s: %+v", job, s.Outcome.Kind, s.Outcome.Reason)
		}
	}
	f.check()
	f.strays()
}

// strays looks at every request that was made with the tenant's role: nothing but the tenant's own folder in the
// customer's own bucket was ever asked for.
func (f *fleet) strays() {
	f.t.Helper()
	session, n := strings.Replace(strings.Replace(f.role, ":iam:", ":sts:", 1), ":role/", ":assumed-role/", 1)+"/", 0
	for _, c := range cloud.Calls() {
		if c.Service != "s3" || !strings.HasPrefix(c.Principal, session) {
			continue
		}
		n++
		if at := c.Key + c.Query.Get("prefix"); c.Bucket != f.bucket || !strings.HasPrefix(at, f.tenant+"/") {
			f.t.Errorf("%s asked for %s of %q in %s", c.Principal, c.Operation, at, c.Bucket)
		}
	}
	if n == 0 {
		f.t.Errorf("%s asked for nothing", session)
	}
}

// tell waits until the workers have said a text that many times, all together.
func (f *fleet) tell(text string, times int, workers ...*process) {
	f.t.Helper()
	f.eventually(fmt.Sprintf("%d times %s", times, text), func() error {
		n := 0
		for _, w := range workers {
			n += strings.Count(w.said(), text)
		}
		if n < times {
			return fmt.Errorf("%d times", n)
		}
		return nil
	})
}

// brokerRestarts: the broker ends, where it stands or as an operator would have it, while jobs are in every phase
// and others have only just been asked for, and starts again.
func brokerRestarts(t *testing.T, tenant string, end func(*world.NATS)) {
	f := newFleet(t, tenant, little(tenant), world.AsProcess())
	f.work("one", many...)
	f.work("two", many...)
	jobs, release := f.inEveryPhase("job", false)
	for _, job := range []string{"late-1", "late-2"} {
		f.submit(job, "--only=tables")
		jobs = append(jobs, job)
	}
	end(f.nats)
	if err := f.nats.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	release()
	f.allDelivered(jobs...)
}

// brokerIsAway: the broker is away for longer than others would wait for a job's owner. Whoever had a job stops by
// itself, and from then on sends nothing to the customer's bucket, until the broker is back.
func brokerIsAway(t *testing.T) {
	f := newFleet(t, "away", little("away"))
	workers := []*process{f.work("one", many...), f.work("two", many...)}
	jobs, lose := f.inEveryPhase("job", true)
	f.nats.Stop()
	gone := time.Now()
	f.tell(`"act":"let go"`, len(jobs), workers...)
	fenced := time.Now()
	lose() // a worker that goes on would ask again
	<-time.After(time.Until(gone.Add(5 * time.Second)))
	for _, c := range cloud.Calls() {
		if c.Time.After(fenced) && (c.Bucket == f.bucket || c.Query.Get("RoleArn") == f.role) {
			t.Errorf("%s of %q, %v after it has let go", c.Operation, c.Key, c.Time.Sub(fenced))
		}
	}
	if err := f.nats.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.allDelivered(jobs...)
	for _, job := range jobs {
		if s := f.await(job); s.Errors > 0 || s.Crashes == 0 {
			t.Errorf("job %s: %d errors, %d crashes", job, s.Errors, s.Crashes)
		}
	}
}

// brokerForgets: the queue's consumer is deleted while jobs are under way, and made again when they have ended. The
// acknowledgements of the old one went nowhere; the requests come once more, and are found done.
func brokerForgets(t *testing.T) {
	f := newFleet(t, "forgets", little("forgets"))
	workers := []*process{f.work("one", many...), f.work("two", many...)}
	jobs, release := f.inEveryPhase("job", false)
	if err := f.js.DeleteConsumer(t.Context(), contracts.RequestStream, contracts.WorkersName); err != nil {
		t.Fatal(err)
	}
	for _, w := range workers {
		f.tell("the request queue cannot be read", 1, w)
	}
	release()
	for _, job := range jobs {
		f.await(job)
	}
	f.submit("late", "--only=tables")
	if n := f.stream(contracts.RequestStream).State.Msgs; n != uint64(len(jobs)+1) {
		t.Errorf("%d requests are kept, and there are %d that nobody could acknowledge", n, len(jobs)+1)
	}
	f.run("setup", "--ack-wait=3s")
	f.allDelivered(append(jobs, "late")...)
	for _, w := range workers {
		f.tell("the request queue can be read again", 1, w)
	}
}

// stream is what a stream holds now.
func (f *fleet) stream(name string) *jetstream.StreamInfo {
	f.t.Helper()
	s, err := f.js.Stream(f.t.Context(), name)
	if err != nil {
		f.t.Fatal(err)
	}
	return s.CachedInfo()
}

// brokerIsFull: nothing more can be stored, while jobs are in every phase. Nobody can renew a lease or say that a
// job is over, so nobody does; when there is space again, every job goes on.
func brokerIsFull(t *testing.T) {
	f := newFleet(t, "full", little("full"), world.WithStorage(4<<20))
	workers := []*process{f.work("one", many...), f.work("two", many...)}
	jobs, release := f.inEveryPhase("job", false)
	if _, err := f.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "REST", Subjects: []string{"rest"}}); err != nil {
		t.Fatal(err)
	}
	var refusal *jetstream.APIError
	for n := 0; n < 100 && refusal == nil; n++ {
		if _, err := f.js.Publish(t.Context(), "rest", make([]byte, 64<<10)); err != nil && !errors.As(err, &refusal) {
			t.Fatal(err)
		}
	}
	if refusal == nil || refusal.ErrorCode != 10023 {
		t.Fatalf("a full broker says %v", refusal)
	}
	if out, code := f.try(f.env, "submit", f.tenant, "--job=refused"); code == 0 || !strings.Contains(out, "insufficient resources") {
		t.Errorf("a request that was not stored ends with %d:\n%s", code, out)
	}
	release()
	f.tell("a step of the job failed", len(jobs), workers...)
	if outcomes, requests := f.stream(contracts.OutcomeStream).State.Msgs, f.stream(contracts.RequestStream).State.Msgs; outcomes != 0 || requests != uint64(len(jobs)) {
		t.Errorf("%d outcomes and %d requests for %d jobs", outcomes, requests, len(jobs))
	}
	if err := f.js.DeleteStream(t.Context(), "REST"); err != nil {
		t.Fatal(err)
	}
	f.allDelivered(jobs...)
}

// brokerHearsTwice: a request comes again and again, with the id by which the queue knows it and without, before
// its job has ended and after. It is one job.
func brokerHearsTwice(t *testing.T) {
	f := newFleet(t, "twice", little("twice"))
	workers := []*process{f.work("one", many...), f.work("two", many...)}
	req := contracts.Request{Version: contracts.RequestVersion, Tenant: f.tenant, Job: "job", Only: contracts.Tables, RequestedAt: time.Now().UTC()}
	body := fmt.Appendf(nil, `{"version":1,"tenant":%q,"job":"job","only":"tables","requested_at":%q}`, f.tenant, req.RequestedAt.Format(time.RFC3339))
	raw := func() {
		if _, err := f.js.Publish(t.Context(), contracts.RequestSubject(f.tenant), body); err != nil {
			t.Error(err)
		}
	}
	for _, want := range []bool{false, true} {
		if duplicate, err := f.jobs.Submit(t.Context(), req, nil); err != nil || duplicate != want {
			t.Errorf("the queue has seen it before: %v, %v", duplicate, err)
		}
	}
	var all sync.WaitGroup
	for range 4 {
		all.Go(raw)
	}
	all.Wait()
	before := f.await("job")
	raw()
	f.allDelivered("job")
	after := f.await("job")
	if after.Attempt != 1 || after.Outcome.ManifestSHA256 != before.Outcome.ManifestSHA256 {
		t.Errorf("it was %+v, and is %+v after %d attempts", before.Outcome, after.Outcome, after.Attempt)
	}
	f.tell(`"message":"job claimed"`, 1, workers...)
	if dead := f.dead(f.tenant); len(dead) > 0 {
		t.Errorf("dead letters: %v", dead)
	}
}

// A cut is the moment at which one worker loses sight of the broker: when it sends a text, which arrives at once
// without its answer, or as late as everything else.
type cut struct {
	name, text string
	passed     bool
	torn       bool // connections end, instead of hanging
}

// cuts are the writes of a job, in their order.
var cuts = []cut{
	{name: "claim", text: "HPUB $KV.snapshot_jobs.{key} ", passed: true},
	{name: "upload", text: `"uploads":[`},
	{name: "receipt", text: "$KV.snapshot_pieces.{key}.receipt."},
	{name: "committing", text: `"state":"committing"`, passed: true},
	{name: "sealing", text: `"state":"sealing"`},
	{name: "committed", text: `"state":"committed"`, torn: true},
	{name: "outcome", text: "PUB snapshot.outcome.{key} ", passed: true},
	{name: "done", text: `"state":"done"`},
	{name: "ack", text: "+ACK"},
	{name: "ack-heard", text: "+ACK", passed: true},
}

// partitioned is how many fleets share the cuts.
const partitioned = 5

// partitions cut whichever worker has a job off from the broker, and from nothing else. The other one completes the
// job meanwhile. When the first is back, what it had sent arrives late, and changes nothing.
func partitions(t *testing.T, lane int) {
	tenant := fmt.Sprintf("sight%d", lane)
	f := newFleet(t, tenant, little(tenant))
	var links []*world.Link
	var workers []*process
	for _, name := range []string{"one", "two"} {
		l, err := world.NewLink(f.nats.Address())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		behind := *f
		behind.env = append(slices.Clone(f.env), "SNAPFLEET_NATS_URL=nats://"+l.Address())
		links, workers = append(links, l), append(workers, behind.work(name, sweeping...))
	}
	t.Cleanup(func() {
		for _, l := range links {
			l.Mend() // so that whoever is stopped now can say goodbye
		}
	})
	last := 0
	for n := lane; n < len(cuts); n += partitioned {
		c := cuts[n]
		key := f.tenant + "." + c.name
		text := strings.ReplaceAll(c.text, "{key}", key)
		sprung := []<-chan struct{}{links[0].CutAt(text, c.passed), links[1].CutAt(text, c.passed)}
		f.submit(c.name, "--only=tables")
		select {
		case <-sprung[0]:
			last = 0
		case <-sprung[1]:
			last = 1
		case <-time.After(time.Minute):
			t.Fatalf("nobody ever sent %q", text)
		}
		links[1-last].Spare()
		if c.torn {
			links[last].Tear()
		}
		f.allDelivered(c.name)
		links[last].Mend()
	}
	// The one that was cut off is as good as before: it is alone now.
	if err := workers[1-last].stop(syscall.SIGTERM); err != nil {
		t.Errorf("the other worker ends with %v", err)
	}
	f.submit("alone", "--only=tables")
	f.allDelivered("alone")
	if err := f.unswept(t.Context()); err != nil {
		t.Error(err)
	}
}
