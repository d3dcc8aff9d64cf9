package test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
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

// A lane is a fleet of two workers that has one job at a time, with a ledger that is written to all the while. All
// that its workers say to the broker and to the database goes over a wire, and a witness listens.
type lane struct {
	*fleet
	server     *world.Postgres // whose database it is
	source     string          // bucket of the attachments
	externalID string
	ledger     ledger
	crew       *crew
	wire       *world.Wire
	relays     map[string][]string // the flags that lead a worker over the wire
	witness    *witness
	submitted  int
	large      []byte // what is stored as the large attachment, of the home lane
	home       *lane  // the lane itself, where this is its copy for one case
}

// crew are the workers of a lane, by name.
type crew struct {
	sync.Mutex
	present map[string]*process
}

// hands are the names of a lane's workers.
var hands = []string{"one", "two"}

// newLane makes a lane. own says that its database is on a server of its own.
func newLane(t *testing.T, tenant string, own bool) *lane {
	l := &lane{server: postgres, source: tenant + "-files", crew: &crew{present: map[string]*process{}}, wire: &world.Wire{}, relays: map[string][]string{}}
	l.home = l
	script := `CREATE SCHEMA {s};` + changing + `
		CREATE TABLE {s}.file_attachments (id text PRIMARY KEY, entity_id text, filename text, content_type text, s3_bucket text, s3_key text, s3_etag text);
		` + ledger{schema: tenant}.script()
	script = strings.ReplaceAll(script, "{s}", quoted(tenant))
	t.Cleanup(l.wire.Close) // after the workers have ended
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
	}
	if err := strikeConsumer(t.Context(), l, "", ""); err != nil { // to have the lane's ack wait
		t.Fatal(err)
	}
	for _, name := range hands {
		broker, err := l.wire.NATS(name, l.nats.URL())
		if err != nil {
			t.Fatal(err)
		}
		database, err := l.wire.Postgres(name, l.database)
		if err != nil {
			t.Fatal(err)
		}
		l.relays[name] = []string{"--nats-url=" + broker.URL(), "--database-url=" + database.URL()}
	}
	l.furnish(t)
	l.externalID = l.record().Destination.ExternalID
	l.ledger = ledger{url: l.database, schema: tenant, busy: make(chan bool)}
	ctx, cancel := context.WithCancel(context.Background())
	written := make(chan struct{})
	go func() { defer close(written); l.ledger.write(ctx) }()
	t.Cleanup(func() { cancel(); <-written })
	l.witness = newWitness(t, l)
	return l
}

// setUp makes the streams, with the ack wait that goes with a lane's workers.
func (l *lane) setUp() error {
	if out, code := l.try(l.env, "setup", "--ack-wait="+ackWait.String()); code != 0 {
		return fmt.Errorf("setup ends with %d: %s", code, out)
	}
	return nil
}

// large and short are the contents of an attachment: of the one that is larger than a part, which is dear, and of the
// one that stands in for it where nothing depends on that. The other attachment is small.
var (
	large = bytes.Repeat([]byte("0123456789abcdef"), 6<<20/16)
	short = large[:64<<10]
	small = []byte("small")
)

// files are the attachments of the case that is under way.
func (l *lane) files() map[string][]byte {
	return map[string][]byte{"large": l.home.large, "small": small}
}

// furnish makes the attachments' bucket, and the rows that name them.
func (l *lane) furnish(t *testing.T) {
	if err := cloud.CreateBucket(t.Context(), l.source, ourAccount); err != nil {
		t.Fatal(err)
	}
	conn := connect(t, l.database)
	defer func() { _ = conn.Close(t.Context()) }()
	for name := range l.files() {
		_, err := conn.Exec(t.Context(), "INSERT INTO "+quoted(l.tenant, "file_attachments")+" VALUES ($1, 'e', $1 || '.bin', 'text/plain', $2, $3, '')", name, l.source, l.tenant+"/"+name)
		if err != nil {
			t.Fatal(err)
		}
	}
}

// stock stores the attachments that a case needs, unless they are there.
func (l *lane) stock(ctx context.Context, c trial) error {
	want := short
	if len(c.blows) != 1 || slices.Contains(bulky, c.blows[0].at.name) {
		want = large
	}
	if len(l.home.large) == len(want) {
		return nil
	}
	l.home.large = want
	conn, err := pgx.Connect(ctx, l.database)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it has served
	for name, body := range l.files() {
		out, err := l.store(ctx, name, body)
		if err == nil {
			_, err = conn.Exec(ctx, "UPDATE "+quoted(l.tenant, "file_attachments")+" SET s3_etag = $1 WHERE id = $2", out.ETag, name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (l *lane) store(ctx context.Context, name string, body []byte) (*s3.PutObjectOutput, error) {
	return cloud.Admin().PutObject(ctx, &s3.PutObjectInput{Bucket: &l.source, Key: aws.String(l.tenant + "/" + name), Body: bytes.NewReader(body)})
}

// staff starts the workers that are not there.
func (l *lane) staff() {
	l = l.home
	for _, name := range hands {
		if l.workers()[name] != nil {
			continue
		}
		args := append([]string{
			"--part-size=5MiB", "--chunk-size=8KiB", "--attachments-source=" + l.source + "={tenant}/", "--grace=300ms",
			"--heartbeat=" + heartbeat.String(), "--fence=" + fence.String(), "--observe=" + observe.String(),
			// The second look has to come after whoever was stopped has woken up.
			"--sweep-every=2s", "--sweep-after=1s", "--sweep-again=10s",
		}, l.relays[name]...)
		p := l.work(name, args...)
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

// leaves says that a worker has ended.
func (l *lane) leaves(name string, p *process) {
	l.crew.Lock()
	defer l.crew.Unlock()
	if l.crew.present[name] == p {
		delete(l.crew.present, name)
	}
}

// run is one case. It returns what was violated first, and how to see it again; empty when nothing was.
func (l *lane) run(t *testing.T, c trial) (why string) {
	t.Run(c.name, func(t *testing.T) {
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
		if len(problems) == 0 {
			return
		}
		for _, err := range problems {
			t.Error(err)
		}
		why = strings.ReplaceAll(problems[0].Error(), "\n", " ")
		for name, p := range l.workers() {
			said := p.said()
			t.Logf("%s said last:\n%s", name, said[max(0, len(said)-6000):])
		}
	})
	return why
}

// deliver runs a job, disturbs it, waits for its end, and returns every broken promise.
func (l *lane) deliver(ctx context.Context, job string, c trial) (broken []error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errors.New("the job's time is over"))
	defer cancel()
	if err := l.stock(ctx, c); err != nil {
		return []error{err}
	}
	l.ledger.busy <- true
	submit := func() {
		_, err := l.jobs.Submit(ctx, contracts.Request{Version: contracts.RequestVersion, Tenant: l.tenant, Job: job, RequestedAt: time.Now().UTC()}, contracts.Header{})
		if err != nil {
			l.t.Fatal(err)
		}
	}
	var blows []*struck
	for _, b := range c.all() {
		if b.at.slow {
			look := moment{operation: "ListObjectsV2"}
			defer cloud.Inject(bucket.Fault{Match: look.match(l, job), Times: 1, Delay: 4 * heartbeat}).Remove()
		}
		blows = append(blows, l.strike(ctx, job, b, c.loose))
	}
	if c.scene != nil {
		if err := c.scene(ctx, l, job, submit); err != nil {
			broken = append(broken, err)
		}
	} else {
		submit()
	}
	s, err := l.ended(ctx, job)
	l.ledger.busy <- false
	for _, b := range blows {
		b.await()
	}
	cancel()
	for _, b := range blows {
		broken = append(broken, b.end())
	}
	for _, p := range l.workers() {
		_ = p.Process.Signal(syscall.SIGCONT) // one that was stopped wakes up, and finds that all is over
	}
	for _, b := range blows {
		if b.kind.mend != nil {
			broken = append(broken, b.kind.mend(l))
		}
	}
	l.staff()
	if err != nil {
		// A fresh lane for the next case would be better, and this is as bad as it gets anyway.
		broken = append([]error{err}, broken...)
	} else {
		broken = append(broken, l.judge(l.t.Context(), job, c, s)...)
	}
	if c.scene != nil {
		broken = append(broken, l.restore(l.t.Context()))
	}
	return slices.DeleteFunc(broken, func(err error) bool { return err == nil })
}

// judge holds the world against the invariants once a job has ended.
func (l *lane) judge(ctx context.Context, job string, c trial, s consumer.Status) (broken []error) {
	var ends []contracts.Code
	reasons := 1 + s.Errors + s.Crashes
	for _, b := range c.all() {
		ends = append(ends, b.kind.ends...)
		switch b.kind.name {
		case "term":
			reasons++ // for which nobody is blamed
		case "record-purged":
			reasons = 1 << 30 // it is not known any more
		}
	}
	if o := s.Outcome; !o.Kind.OK() && (o.Reason == nil || !slices.Contains(ends, o.Reason.Code)) {
		broken = append(broken, fmt.Errorf("it ends as %s: %+v", o.Kind, o.Reason))
	}
	if s.Attempt > reasons {
		broken = append(broken, fmt.Errorf("I15: %d attempts, and reasons for %d", s.Attempt, reasons))
	}
	broken = append(broken, l.jobViolations(ctx, job)...)
	broken = append(broken, l.leftovers(ctx)...)
	broken = append(broken, l.witness.violations(job)...)
	broken = append(broken, l.witness.remember(ctx, job))
	for _, p := range l.workers() {
		broken = append(broken, p.spoolless())
	}
	if s.Outcome.Kind.OK() {
		broken = append(broken, l.contentViolations(ctx, job, c.rows)...)
	}
	return broken
}

// contentViolations: what was delivered is one state of the ledger and of the table victim, and every attachment.
func (l *lane) contentViolations(ctx context.Context, job string, rows *int64) (broken []error) {
	data, err := l.object(ctx, job, contracts.ManifestName)
	if err != nil {
		return []error{err}
	}
	m, err := contracts.DecodeManifest(data)
	if err != nil {
		return []error{err}
	}
	victim := int64(absent)
	for _, t := range m.Tables {
		if t.Name == "victim" {
			victim = t.Rows
		}
	}
	if rows != nil && victim != *rows {
		broken = append(broken, fmt.Errorf("the table victim has %d rows, and is delivered with %d", *rows, victim))
	}
	broken = append(broken, l.attachmentViolation(m))
	l.witness.weigh(l.uploaded(job), m.Totals.Bytes)
	return append(broken, l.ledger.violation(ctx, m, func(name string) ([]byte, error) { return l.object(ctx, job, name) }))
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
	return s, fmt.Errorf("I12: it has not ended within %v: it is %s, attempt %d, %d errors, %d crashes, by %s; last error: %s; %w", patience, s.State, s.Attempt, s.Errors, s.Crashes, s.Worker, s.LastError, cmpErr(err))
}
