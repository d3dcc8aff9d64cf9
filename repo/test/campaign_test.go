package test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/jackc/pgx/v5"

	"github.com/snapfleet/snapfleet/consumer"
	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/test/bucket"
	"github.com/snapfleet/snapfleet/test/world"
)

var (
	seeds     = flag.Int("seeds", 0, "random cases of the fault campaign, after every single fault at every moment; 0: only the brief pass")
	firstSeed = flag.Int("first", 0, "seed of the first random case")
)

// lanes are fleets at work side by side. Most of a case is waiting, so there are more of them than cores.
const lanes = 8

// patience is how long a disturbed job may take (I12): three observation times, the longest back-off, a clean
// run, and what a busy machine needs.
const patience = 90 * time.Second

// TestCampaign disturbs one delivery after another, and holds the whole world against the invariants after each:
// every moment of a delivery with every fault that fits it, then random pairs. It prints one line for each case.
// Without -seeds it is brief: each request fails, and fails but took effect. `make campaign` is the whole of it.
func TestCampaign(t *testing.T) {
	chosen := brief()
	if *seeds > 0 {
		chosen = append(singles(), scenes()...)
	}
	var cases, own []trial // own need a database server of their own
	for _, c := range chosen {
		if c.ownServer() {
			own = append(own, c)
		} else {
			cases = append(cases, c)
		}
	}
	for seed := *firstSeed; seed < *firstSeed+*seeds; seed++ {
		cases = append(cases, pair(seed))
	}
	queue := make(chan trial, len(cases))
	for _, c := range cases {
		queue <- c
	}
	close(queue)

	start := time.Now()
	var tally struct {
		sync.Mutex
		cases, violations int
	}
	var all sync.WaitGroup // and not t.Parallel, which runs as many at once as there are cores
	for n := range lanes {
		all.Go(func() {
			t.Run(strconv.Itoa(n), func(t *testing.T) {
				l := newLane(t, fmt.Sprintf("lane%d", n), n == 0)
				work := func(c trial) {
					ran, why := l.run(t, c)
					if !ran { // -run chooses another one
						return
					}
					tally.Lock()
					defer tally.Unlock()
					tally.cases++
					if why == "" {
						fmt.Printf("case %s ok\n", c.name)
						return
					}
					tally.violations++
					fmt.Printf("case %s VIOLATION: %s\n", c.name, why)
				}
				if n == 0 {
					for _, c := range own {
						work(c)
					}
				}
				for c := range queue {
					work(c)
				}
				if err := l.unswept(t.Context()); err != nil {
					t.Error(err)
				}
			})
		})
	}
	all.Wait()
	t.Logf("%d cases, %d violations, %.0f s", tally.cases, tally.violations, time.Since(start).Seconds())
}

// A lane is a fleet of two workers that has one job at a time, with a ledger that is written to all the while.
type lane struct {
	*fleet
	server     *world.Postgres // whose database it is
	source     string          // bucket of the attachments
	externalID string
	ledger     ledger
	crew       *crew
	submitted  int
	home       *lane // the lane itself, where this is its copy for one case
}

// crew are the workers of a lane, by name.
type crew struct {
	sync.Mutex
	present map[string]*process
}

func newLane(t *testing.T, tenant string, own bool) *lane {
	l := &lane{server: postgres, source: tenant + "-files", crew: &crew{present: map[string]*process{}}}
	l.home = l
	script := `CREATE SCHEMA {s};` + changing + `
		CREATE TABLE {s}.file_attachments (id text PRIMARY KEY, entity_id text, filename text, content_type text, s3_bucket text, s3_key text, s3_etag text);
		` + ledger{schema: tenant}.script()
	script = strings.ReplaceAll(script, "{s}", quoted(tenant))
	l.fleet = newFleet(t, tenant, sql(script))
	if own {
		var err error
		if l.server, err = world.StartPostgres(t.Context(), t.TempDir(), world.Set("synchronous_commit", "on")); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.server.Stop() })
		if l.database, err = l.server.CreateDatabase(t.Context(), tenant); err != nil {
			t.Fatal(err)
		}
		if err := sql(script)(t.Context(), l.database); err != nil {
			t.Fatal(err)
		}
		l.env = append(l.env, "SNAPFLEET_DATABASE_URL="+l.database)
	}
	if err := cloud.CreateBucket(t.Context(), l.source, ourAccount); err != nil {
		t.Fatal(err)
	}
	conn := connect(t, l.database)
	for name, body := range files {
		out, err := l.store(t.Context(), name, body)
		if err != nil {
			t.Fatal(err)
		}
		_, err = conn.Exec(t.Context(), "INSERT INTO "+quoted(tenant, "file_attachments")+" VALUES ($1, 'e', $1 || '.bin', 'text/plain', $2, $3, $4)", name, l.source, tenant+"/"+name, out.ETag)
		if err != nil {
			t.Fatal(err)
		}
	}
	_ = conn.Close(t.Context())
	l.externalID = l.record().Destination.ExternalID
	l.ledger = ledger{url: l.database, schema: tenant}
	ctx, cancel := context.WithCancel(context.Background())
	written := make(chan struct{})
	go func() { defer close(written); l.ledger.write(ctx) }()
	t.Cleanup(func() { cancel(); <-written })
	return l
}

// files are the attachments: the large one makes two parts.
var files = map[string][]byte{"large": bytes.Repeat([]byte("0123456789abcdef"), 6<<20/16), "small": []byte("small")}

func (l *lane) store(ctx context.Context, name string, body []byte) (*s3.PutObjectOutput, error) {
	return cloud.Admin().PutObject(ctx, &s3.PutObjectInput{Bucket: &l.source, Key: aws.String(l.tenant + "/" + name), Body: bytes.NewReader(body)})
}

// staff starts the workers that are not there.
func (l *lane) staff() {
	l = l.home
	for _, name := range []string{"one", "two"} {
		l.crew.Lock()
		p := l.crew.present[name]
		l.crew.Unlock()
		if p != nil {
			continue
		}
		p = l.work(name, append([]string{"--part-size=5MiB", "--attachments-source=" + l.source + "={tenant}/"}, sweeping...)...)
		l.crew.Lock()
		l.crew.present[name] = p
		l.crew.Unlock()
	}
}

// workers are those that are there.
func (l *lane) workers() map[string]*process {
	l.crew.Lock()
	defer l.crew.Unlock()
	return maps.Clone(l.crew.present)
}

// holder waits for whoever works on the job.
func (l *lane) holder(ctx context.Context, job string) (*process, string) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		if s, err := l.jobs.Status(ctx, l.tenant, job); err == nil {
			if p := l.workers()[s.Worker]; p != nil {
				return p, s.Worker
			}
		}
		<-tick.C
	}
	return nil, ""
}

// A trial is one disturbed delivery.
type trial struct {
	name  string
	blows []blow
	// loose: not every blow has to be struck, because another one may have changed the course.
	loose bool
	// scene, where there are no blows, disturbs what submit has begun.
	scene func(ctx context.Context, l *lane, submit func()) error
	rows  *int64 // of the table victim, after a scene
}

func (c trial) ownServer() bool {
	return slices.ContainsFunc(c.blows, func(b blow) bool { return b.kind.own })
}

// A blow is a kind of fault at a moment.
type blow struct {
	at   moment
	kind kind
}

// A moment is the n-th request of an operation in a delivery.
type moment struct {
	name, operation string
	skip            int
	source          bool // of our own store, not the customer's
}

func (m moment) match(l *lane) func(bucket.Call) bool {
	return func(c bucket.Call) bool {
		switch {
		case c.Operation != m.operation:
			return false
		case m.operation == "AssumeRole":
			return c.Query.Get("RoleArn") == l.role && c.Query.Get("RoleSessionName") != "snapshot-trust-check"
		case m.source:
			return c.Bucket == l.source && c.Principal == worker.ARN
		}
		return c.Bucket == l.bucket && strings.Contains(c.Principal, ":assumed-role/")
	}
}

// moments are the requests of a delivery, in their order.
var moments = []moment{
	{name: "assume", operation: "AssumeRole"},
	{name: "look-for-manifest", operation: "GetObject"},
	{name: "assume-for-attempt", operation: "AssumeRole", skip: 1},
	{name: "list-folder", operation: "ListObjectsV2"},
	{name: "list-uploads", operation: "ListMultipartUploads"},
	{name: "create-probe", operation: "CreateMultipartUpload"},
	{name: "put-probe", operation: "UploadPart"},
	{name: "list-probe", operation: "ListParts"},
	{name: "abort-probe", operation: "AbortMultipartUpload"},
	{name: "create-tables", operation: "CreateMultipartUpload", skip: 1},
	{name: "part-tables", operation: "UploadPart", skip: 1},
	{name: "source-head", operation: "HeadObject", source: true},
	{name: "create-attachments", operation: "CreateMultipartUpload", skip: 2},
	{name: "source-get", operation: "GetObject", source: true},
	{name: "part-attachments", operation: "UploadPart", skip: 2},
	{name: "complete-first", operation: "CompleteMultipartUpload"},
	{name: "complete-second", operation: "CompleteMultipartUpload", skip: 1},
	{name: "head-volume", operation: "HeadObject"},
	{name: "put-manifest", operation: "PutObject"},
}

// A kind is what goes wrong.
type kind struct {
	name  string
	fault bucket.Fault // but for Match and Skip
	// strike acts while the request is held, before or (with fault.Apply) after it took effect.
	strike func(ctx context.Context, l *lane, job string) error
	// mend undoes what strike has done, after its time; 0: when the job has ended.
	mend func(l *lane) error
	wait time.Duration
	// ends are the rejections that the job may end with, besides being delivered.
	ends []contracts.Code
	own  bool // only on a database server of its own
	// only are the operations that it fits; none: all.
	only []string
}

func (k kind) fits(m moment) bool {
	if m.source && slices.Contains(k.only, "source") {
		return true
	}
	return len(k.only) == 0 || !m.source && (slices.Contains(k.only, m.operation) || slices.Contains(k.only, m.name))
}

func answer(status int, code string) bucket.Reply { return bucket.Reply{Status: status, Code: code} }

// replies are what a server or the network may do to any request.
var replies = []kind{
	{name: "503", fault: bucket.Fault{Times: 1, Reply: answer(503, "SlowDown")}},
	{name: "storm", fault: bucket.Fault{Times: 4, Reply: answer(503, "SlowDown")}},
	{name: "500-but-done", fault: bucket.Fault{Times: 1, Apply: true, Reply: answer(500, "InternalError")}},
	{name: "lost", fault: bucket.Fault{Times: 2, Reply: bucket.Reply{Lost: true}}},
	{name: "lost-but-done", fault: bucket.Fault{Times: 2, Apply: true, Reply: bucket.Reply{Lost: true}}},
	{name: "hang", fault: bucket.Fault{Times: 1, Delay: 3500 * time.Millisecond}},
	{name: "hang-after", fault: bucket.Fault{Times: 1, Apply: true, Delay: 3500 * time.Millisecond, Reply: bucket.Reply{Lost: true}}},
}

const (
	create   = "CreateMultipartUpload"
	complete = "CompleteMultipartUpload"
)

// peculiar are the faults of some operations.
var peculiar = []kind{
	{
		name: "expired", fault: bucket.Fault{Times: 1, Reply: answer(400, "ExpiredToken")},
		only: []string{"GetObject", "ListObjectsV2", create, "UploadPart", complete, "HeadObject", "PutObject", "AbortMultipartUpload"},
	},
	{name: "409", fault: bucket.Fault{Times: 1, Reply: answer(409, "ConditionalRequestConflict")}, only: []string{complete, "PutObject"}},
	{name: "412-but-done", fault: bucket.Fault{Times: 1, Apply: true, Reply: answer(412, "PreconditionFailed")}, only: []string{complete, "PutObject"}},
	{name: "200-error", fault: bucket.Fault{Times: 1, Reply: answer(200, "InternalError")}, only: []string{complete}},
	{name: "200-error-but-done", fault: bucket.Fault{Times: 1, Apply: true, Reply: answer(200, "InternalError")}, only: []string{complete}},
	{name: "no-such-upload", fault: bucket.Fault{Times: 1, Reply: answer(404, "NoSuchUpload")}, only: []string{complete}},
	{name: "no-such-upload-but-done", fault: bucket.Fault{Times: 1, Apply: true, Reply: answer(404, "NoSuchUpload")}, only: []string{complete}},
	{name: "no-such-upload-for-part", fault: bucket.Fault{Times: 1, Reply: answer(404, "NoSuchUpload")}, only: []string{"UploadPart", "ListParts"}},
	{name: "bad-digest", fault: bucket.Fault{Times: 1, Reply: answer(400, "BadDigest")}, only: []string{"UploadPart"}},
	{name: "aborted-by-hand", strike: strikeUploads, only: []string{"UploadPart", complete, create}},
	{name: "sessions-expire", strike: func(context.Context, *lane, string) error { cloud.ExpireSessions(); return nil }, only: []string{create, "UploadPart", complete, "PutObject"}},
	{
		name: "revoked", strike: strikeTrust, mend: (*lane).mendTrust, wait: 1500 * time.Millisecond, only: []string{"AssumeRole", create, "UploadPart", complete, "HeadObject", "PutObject"},
		ends: []contracts.Code{contracts.RoleDenied, contracts.WriteDenied, contracts.BucketDenied},
	},
	{name: "cut", fault: bucket.Fault{Times: 1, Reply: bucket.Reply{Cut: 1000}}, only: []string{"GetObject", "source"}},
	{name: "vanishes", strike: strikeSource(nil), mend: (*lane).mendSource, only: []string{"source"}},
	{name: "changes", strike: strikeSource([]byte("changed")), mend: (*lane).mendSource, only: []string{"source"}},
}

// accidents happen to servers and processes while a request is under way.
var accidents = []kind{
	{name: "kill", strike: strikeKill},
	{name: "kill-after", strike: strikeKill, fault: bucket.Fault{Apply: true}},
	{name: "stop", strike: strikeStop},
	{name: "stop-after", strike: strikeStop, fault: bucket.Fault{Apply: true}},
	{name: "nats-restart", strike: func(ctx context.Context, l *lane, _ string) error { return l.nats.Restart(ctx) }},
	{name: "consumer-gone", strike: strikeConsumer},
	{name: "record-purged", strike: strikeRecord},
	{name: "postgres-restart", own: true, strike: func(ctx context.Context, l *lane, _ string) error { return l.server.Restart(ctx, world.Immediate) }},
	{name: "session-terminated", strike: strikeSession("ASC"), only: []string{"create-tables"}},
	{name: "sibling-terminated", strike: strikeSession("DESC"), only: []string{"create-tables"}},
}

// landmarks are the moments at which accidents are tried one by one: one in each stretch of a delivery.
var landmarks = []string{"create-probe", "create-tables", "part-tables", "source-get", "part-attachments", "complete-first", "complete-second", "head-volume", "put-manifest"}

// brief is every moment with a refusal, an error and a lost answer; the last two took effect.
func brief() []trial {
	return slices.DeleteFunc(singles(), func(c trial) bool {
		return !slices.Contains([]string{"503", "500-but-done", "lost-but-done"}, c.blows[0].kind.name)
	})
}

// singles are every moment with everything that can go wrong then.
func singles() (all []trial) {
	for _, m := range moments {
		for _, k := range slices.Concat(replies, peculiar, accidents) {
			accident := slices.ContainsFunc(accidents, func(a kind) bool { return a.name == k.name })
			if !k.fits(m) || accident && !slices.Contains(landmarks, m.name) {
				continue
			}
			all = append(all, trial{name: m.name + "/" + k.name, blows: []blow{{m, k}}})
		}
	}
	return all
}

// pair is two blows by chance. The same seed makes the same pair.
func pair(seed int) trial {
	r := rand.New(rand.NewPCG(uint64(seed), 0))
	kinds := slices.DeleteFunc(slices.Concat(replies, peculiar, accidents), func(k kind) bool { return k.own })
	c := trial{loose: true}
	var names []string
	for len(c.blows) < 2 {
		b := blow{moments[r.IntN(len(moments))], kinds[r.IntN(len(kinds))]}
		if !b.kind.fits(b.at) || len(c.blows) == 1 && c.blows[0].at.name == b.at.name {
			continue
		}
		b.at.skip += r.IntN(2)
		c.blows = append(c.blows, b)
		names = append(names, b.at.name+"/"+b.kind.name)
	}
	c.name = fmt.Sprintf("seed-%d/%s", seed, strings.Join(names, "+"))
	return c
}

// run is one case. It returns whether -run lets it be and what was violated, empty when nothing was.
func (l *lane) run(t *testing.T, c trial) (ran bool, why string) {
	t.Run(c.name, func(t *testing.T) {
		ran = true
		defer func() {
			if t.Failed() && why == "" {
				why = "see the log"
			}
		}()
		l.staff()
		f := *l.fleet
		f.t = t
		on := *l
		on.fleet = &f
		l.submitted++
		job := fmt.Sprintf("job-%d", l.submitted)
		problems := on.deliver(t.Context(), job, c)
		for _, err := range problems {
			t.Error(err)
		}
		if len(problems) > 0 {
			why = strings.ReplaceAll(problems[0].Error(), "\n", " ")
			for name, p := range l.workers() {
				said := p.said()
				t.Logf("%s said last:\n%s", name, said[max(0, len(said)-6000):])
			}
		}
	})
	return ran, why
}

// deliver runs a job, disturbs it, waits for its end, and returns every broken promise.
func (l *lane) deliver(ctx context.Context, job string, c trial) (broken []error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errors.New("the job's time is over"))
	defer cancel()
	submit := func() {
		_, err := l.jobs.Submit(ctx, contracts.Request{Version: contracts.RequestVersion, Tenant: l.tenant, Job: job, RequestedAt: time.Now().UTC()}, contracts.Header{})
		if err != nil {
			l.t.Fatal(err)
		}
	}
	var struck []func() error
	for _, b := range c.blows {
		struck = append(struck, l.strike(ctx, job, b, c.loose))
	}
	if c.scene != nil {
		if err := c.scene(ctx, l, submit); err != nil {
			broken = append(broken, err)
		}
	} else {
		submit()
	}
	s, err := l.ended(ctx, job)
	cancel()
	for _, end := range struck {
		broken = append(broken, end())
	}
	for _, p := range l.workers() {
		_ = p.Process.Signal(syscall.SIGCONT) // one that was stopped wakes up, and finds that all is over
	}
	for _, b := range c.blows {
		if b.kind.mend != nil {
			broken = append(broken, b.kind.mend(l))
		}
	}
	if err != nil {
		// A fresh lane for the next case would be better, and this is as bad as it gets anyway.
		return slices.DeleteFunc(append([]error{err}, broken...), func(err error) bool { return err == nil })
	}

	var ends []contracts.Code
	for _, b := range c.blows {
		ends = append(ends, b.kind.ends...)
	}
	if o := s.Outcome; !o.Kind.OK() && (o.Reason == nil || !slices.Contains(ends, o.Reason.Code)) {
		broken = append(broken, fmt.Errorf("it ends as %s: %+v", o.Kind, o.Reason))
	}
	ctx = l.t.Context()
	broken = append(broken, l.jobViolations(ctx, job)...)
	broken = append(broken, l.leftovers(ctx)...)
	for _, p := range l.workers() {
		broken = append(broken, p.spoolless())
	}
	if s.Outcome.Kind.OK() {
		broken = append(broken, l.oneInstant(ctx, job, c.rows))
	}
	if c.scene != nil {
		broken = append(broken, l.restore(ctx))
	}
	return slices.DeleteFunc(broken, func(err error) bool { return err == nil })
}

// oneInstant: what was delivered is one state of the ledger, and of the table victim.
func (l *lane) oneInstant(ctx context.Context, job string, rows *int64) error {
	data, err := l.object(ctx, job, contracts.ManifestName)
	if err != nil {
		return err
	}
	m, err := contracts.DecodeManifest(data)
	if err != nil {
		return err
	}
	victim := int64(absent)
	for _, t := range m.Tables {
		if t.Name == "victim" {
			victim = t.Rows
		}
	}
	if rows != nil && victim != *rows {
		return fmt.Errorf("the table victim has %d rows, and is delivered with %d", *rows, victim)
	}
	return l.ledger.violation(ctx, m, func(name string) ([]byte, error) { return l.object(ctx, job, name) })
}

// ended waits for the job's outcome.
func (l *lane) ended(ctx context.Context, job string) (consumer.Status, error) {
	var s consumer.Status
	var err error
	for ctx.Err() == nil {
		if s, err = l.jobs.Status(ctx, l.tenant, job); err == nil && s.Ended() {
			return s, nil
		}
		l.staff()
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return s, fmt.Errorf("it has not ended within %v: it is %s, attempt %d, %d errors, %d crashes, by %s; last error: %s; %w", patience, s.State, s.Attempt, s.Errors, s.Crashes, s.Worker, s.LastError, cmpErr(err))
}

// strike puts a blow in place. The function that it returns takes it away, and says whether it went wrong.
func (l *lane) strike(ctx context.Context, job string, b blow, loose bool) func() error {
	fault := b.kind.fault
	fault.Match, fault.Skip = b.at.match(l), b.at.skip
	if b.kind.strike == nil {
		injected := cloud.Inject(fault)
		return func() error {
			injected.Remove()
			if injected.Hits() == 0 && !loose {
				return fmt.Errorf("the moment %s never came", b.at.name)
			}
			return nil
		}
	}
	hold := make(chan struct{})
	fault.Times, fault.Hold = 1, hold
	injected := cloud.Inject(fault)
	over := make(chan error, 1)
	go func() {
		over <- func() error {
			defer close(hold)
			select {
			case <-injected.Reached:
			case <-ctx.Done():
			}
			if injected.Hits() == 0 {
				if loose {
					return nil
				}
				return fmt.Errorf("the moment %s never came", b.at.name)
			}
			// Not to be stopped halfway when the job ends: what is half restarted would disturb the next one.
			if err := b.kind.strike(l.t.Context(), l, job); err != nil && ctx.Err() == nil {
				return fmt.Errorf("%s: %w", b.kind.name, err)
			}
			return nil
		}()
		if b.kind.mend != nil && b.kind.wait > 0 {
			select {
			case <-time.After(b.kind.wait):
			case <-ctx.Done():
			}
			_ = b.kind.mend(l) // it is done again at the end
		}
	}()
	return func() error {
		injected.Remove()
		return <-over
	}
}

// strikeKill ends whoever works on the job. Somebody new comes in their place.
func strikeKill(ctx context.Context, l *lane, job string) error {
	p, name := l.holder(ctx, job)
	if p == nil {
		return errors.New("nobody has the job")
	}
	_ = p.stop(syscall.SIGKILL) // says that it was killed
	l.crew.Lock()
	defer l.crew.Unlock()
	delete(l.crew.present, name)
	return nil
}

// strikeStop stops whoever works on the job, for twice the time after which others think that it is dead.
func strikeStop(ctx context.Context, l *lane, job string) error {
	p, _ := l.holder(ctx, job)
	if p == nil {
		return errors.New("nobody has the job")
	}
	time.AfterFunc(6*time.Second, func() { _ = p.Process.Signal(syscall.SIGCONT) })
	return p.Process.Signal(syscall.SIGSTOP)
}

func strikeConsumer(ctx context.Context, l *lane, _ string) error {
	if err := l.js.DeleteConsumer(ctx, contracts.RequestStream, contracts.WorkersName); err != nil {
		return err
	}
	if out, code := l.try(l.env, "setup", "--ack-wait=3s"); code != 0 {
		return fmt.Errorf("setup ends with %d: %s", code, out)
	}
	return nil
}

func strikeRecord(ctx context.Context, l *lane, job string) error {
	kv, err := l.js.KeyValue(ctx, contracts.JobBucket)
	if err != nil {
		return err
	}
	return kv.Purge(ctx, l.tenant+"."+job)
}

// strikeUploads aborts every upload, as a customer's lifecycle rule would.
func strikeUploads(ctx context.Context, l *lane, _ string) error {
	out, err := cloud.Admin().ListMultipartUploads(ctx, &s3.ListMultipartUploadsInput{Bucket: &l.bucket})
	if err != nil {
		return err
	}
	for _, u := range out.Uploads {
		_, err = cloud.Admin().AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &l.bucket, Key: u.Key, UploadId: u.UploadId})
		if err != nil {
			return err
		}
	}
	return nil
}

func strikeTrust(_ context.Context, l *lane, _ string) error {
	cloud.RemoveRole(l.role)
	return nil
}

func (l *lane) mendTrust() error {
	l.grant(l.externalID)
	return nil
}

// strikeSource removes the attachments, or changes them.
func strikeSource(body []byte) func(context.Context, *lane, string) error {
	return func(ctx context.Context, l *lane, _ string) error {
		for name := range files {
			var err error
			if body != nil {
				_, err = l.store(ctx, name, body)
			} else {
				_, err = cloud.Admin().DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &l.source, Key: aws.String(l.tenant + "/" + name)})
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
}

func (l *lane) mendSource() error {
	for name, body := range files {
		if _, err := l.store(l.t.Context(), name, body); err != nil {
			return err
		}
	}
	return nil
}

// strikeSession ends the oldest of the exporter's sessions, which holds the instant, or the youngest.
func strikeSession(order string) func(context.Context, *lane, string) error {
	return func(ctx context.Context, l *lane, _ string) error {
		return l.query(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()
			AND application_name LIKE 'snapfleet/%' ORDER BY backend_start `+order+` LIMIT 1`)
	}
}

// query runs a query that must give true.
func (l *lane) query(ctx context.Context, sql string) error {
	conn, err := pgx.Connect(ctx, l.database)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it has served
	var ok bool
	if err := conn.QueryRow(ctx, sql).Scan(&ok); err != nil {
		return err
	}
	if !ok {
		return errors.New("not so")
	}
	return nil
}

// absent is how many rows a table has that is not there.
const absent = -1

// scenes change the schema while the tables are opened, and while they are read.
func scenes() (all []trial) {
	for _, ddl := range []struct {
		name, sql string
		rows      int64 // of the table victim, afterwards
	}{
		{"truncate", "TRUNCATE {s}.victim", 0},
		{"alter-type", "ALTER TABLE {s}.victim ALTER id TYPE bigint USING id + 1", 1000},
		{"drop", "DROP TABLE {s}.victim", absent},
		{"attach-partition", "ALTER TABLE {s}.parted ATTACH PARTITION {s}.parted_2 FOR VALUES IN (2)", 1000},
	} {
		during := func(open bool) func(context.Context, *lane, func()) error {
			return func(ctx context.Context, l *lane, submit func()) error {
				return l.alter(ctx, strings.ReplaceAll(ddl.sql, "{s}", quoted(l.tenant)), open, submit)
			}
		}
		all = append(all,
			trial{name: "open/" + ddl.name, scene: during(true), rows: &ddl.rows},
			trial{name: "copy/" + ddl.name, scene: during(false), rows: new(int64(1000))})
	}
	return all
}

// alter changes the schema in a transaction that the exporter has to wait for, or after it has locked the tables.
func (l *lane) alter(ctx context.Context, ddl string, open bool, submit func()) (err error) {
	conn, err := pgx.Connect(ctx, l.database)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it has served
	waits := func(who string) error {
		return l.settles(func() error {
			return l.query(ctx, "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database() AND "+who)
		})
	}
	if open {
		if _, err := conn.Exec(ctx, "BEGIN; "+ddl); err != nil {
			return err
		}
		submit()
		if err := waits("application_name LIKE 'snapfleet/%'"); err != nil {
			return fmt.Errorf("the exporter does not wait for the change: %w", err)
		}
		_, err = conn.Exec(ctx, "COMMIT")
		return err
	}
	hold := make(chan struct{})
	at := moment{operation: create}
	fault := cloud.Inject(bucket.Fault{Match: at.match(l), Skip: 1, Times: 1, Hold: hold})
	defer fault.Remove()
	submit()
	select {
	case <-fault.Reached:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	altered := make(chan error, 1)
	go func() {
		_, err := conn.Exec(ctx, ddl)
		altered <- err
	}()
	err = l.settles(func() error {
		if len(altered) > 0 { // it is one that does not disturb readers
			return nil
		}
		return l.query(ctx, fmt.Sprintf("SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %d", conn.PgConn().PID()))
	})
	close(hold)
	return errors.Join(err, <-altered)
}

// restore brings the tables that scenes change back to what they were.
func (l *lane) restore(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, l.database)
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // it has served
	_, err = conn.Exec(ctx, strings.ReplaceAll(`DROP TABLE IF EXISTS {s}.victim, {s}.parted, {s}.parted_2;`+changing, "{s}", quoted(l.tenant)))
	return err
}

// changing are the tables that scenes change.
const changing = `CREATE TABLE {s}.victim (id int, word text); INSERT INTO {s}.victim SELECT n, 'word' FROM generate_series(1, 1000) n;
	CREATE TABLE {s}.parted (id int) PARTITION BY LIST (id); CREATE TABLE {s}.parted_1 PARTITION OF {s}.parted FOR VALUES IN (1); INSERT INTO {s}.parted VALUES (1);
	CREATE TABLE {s}.parted_2 (id int); INSERT INTO {s}.parted_2 VALUES (2);`
