package test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/test/world"
)

// A witness hears what a lane's workers say, sees what becomes of their jobs' records, and looks at once whether that
// may be so: some promises are about an instant, and nobody can tell afterwards whether they were kept.
type witness struct {
	lane    *lane
	looking sync.WaitGroup

	mu      sync.Mutex
	pulled  string            // who was given a request last
	seen    map[string]bool   // what was looked at
	broken  []error           // since they were last asked for
	turns   map[string][]turn // of records, by job
	folders map[string]string // what stood in the customer's bucket when a job had ended, by key
	loads   []float64         // bytes sent for each byte delivered
}

// turn is a revision of a job's record.
type turn struct {
	at       time.Time
	revision uint64
	removed  bool
	jobRecord
}

func newWitness(t *testing.T, l *lane) *witness {
	w := &witness{lane: l, seen: map[string]bool{}, folders: map[string]string{}, turns: map[string][]turn{}}
	l.wire.Inject(world.Fault{Match: func(m world.Message) bool { w.hear(m); return false }})
	kv, err := l.js.KeyValue(t.Context(), contracts.JobBucket)
	if err != nil {
		t.Fatal(err)
	}
	records, err := kv.Watch(context.WithoutCancel(t.Context()), l.tenant+".*", jetstream.UpdatesOnly())
	if err != nil {
		t.Fatal(err)
	}
	w.looking.Go(func() {
		for e := range records.Updates() {
			if e != nil {
				w.see(e)
			}
		}
	})
	t.Cleanup(func() { _ = records.Stop(); w.looking.Wait() })
	return w
}

func (w *witness) puller() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pulled
}

func (w *witness) say(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.broken = append(w.broken, fmt.Errorf(format, args...))
}

// hear is asked about every message before it is on its way, and must be quick.
func (w *witness) hear(m world.Message) {
	switch {
	case !m.ToServer:
		if m.Kind == "MSG" && strings.HasPrefix(m.Reply, acks) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.pulled = m.Via
		}
	case m.Kind == "Q" || m.Kind == "P":
		if sql := string(m.Body); !allowed(sql) {
			w.say("I8: the database is told %.200q", sql)
		}
	case strings.HasPrefix(m.Subject, acks):
		if word := string(m.Body); strings.HasPrefix(word, "+ACK") || strings.HasPrefix(word, "+TERM") {
			w.look(m.Subject, func(ctx context.Context) error { return w.acknowledged(ctx, m.Subject) })
		}
	case strings.HasPrefix(m.Subject, strings.TrimSuffix(contracts.OutcomeSubjects, "*.*")):
		var o contracts.Outcome
		if err := json.Unmarshal(m.Body, &o); err != nil {
			w.say("I2: an outcome cannot be read: %w", err)
			return
		}
		w.look(m.Subject, func(ctx context.Context) error { return w.told(ctx, o) })
	}
}

// look does something slow about a message that comes for the first time.
func (w *witness) look(what string, do func(context.Context) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.seen[what] {
		return
	}
	w.seen[what] = true
	w.looking.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := do(ctx); err != nil {
			w.say("%w", err)
		}
	})
}

// told: when an outcome is told, the manifest that it tells of stands, or none does (I5).
func (w *witness) told(ctx context.Context, o contracts.Outcome) error {
	data, err := w.lane.object(ctx, o.Job, contracts.ManifestName)
	sum := sha256.Sum256(data)
	switch {
	case o.Kind.OK() && err != nil:
		return fmt.Errorf("I5: the outcome of %s is %s, and there is no manifest then: %w", o.Job, o.Kind, err)
	case o.Kind.OK() && hex.EncodeToString(sum[:]) != o.ManifestSHA256:
		return fmt.Errorf("I5: the outcome of %s tells of another manifest than the one that stands then", o.Job)
	case !o.Kind.OK() && err == nil:
		return fmt.Errorf("I5: the outcome of %s is %s, and a manifest stands then", o.Job, o.Kind)
	}
	return nil
}

// acknowledged: when a request leaves the queue, its job has an outcome and, if that says delivered, all that the
// manifest names can be read (I1).
func (w *witness) acknowledged(ctx context.Context, subject string) error {
	l := w.lane
	word := strings.Split(subject, ".")
	at := 5 // of the request's sequence, with and without a domain
	if len(word) > 9 {
		at = 7
	}
	sequence, err := strconv.ParseUint(word[at], 10, 64)
	if err != nil {
		return err
	}
	job := fmt.Sprintf("job-%d", sequence) // a lane's jobs are its only requests, and each is made once
	var o contracts.Outcome
	for {
		if o, err = w.outcome(ctx, job); err == nil {
			break
		}
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return fmt.Errorf("I1: the request for %s is settled, and it has no outcome then", job)
		}
		select { // the broker is restarted just now, and not for that long
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("ask for the outcome of %s: %w", job, err)
		}
	}
	if !o.Kind.OK() {
		return nil
	}
	data, err := l.object(ctx, job, contracts.ManifestName)
	if err != nil {
		return fmt.Errorf("I1: the request for %s is settled, and then: %w", job, err)
	}
	m, err := contracts.DecodeManifest(data)
	if err != nil {
		return err
	}
	for _, v := range m.Volumes {
		key := contracts.JobPrefix(l.tenant, job) + v.Name
		head, err := cloud.Admin().HeadObject(ctx, &s3.HeadObjectInput{Bucket: &l.bucket, Key: &key})
		if err != nil || *head.ContentLength != v.Size {
			return fmt.Errorf("I1: the request for %s is settled, and %s is not as its manifest says: %w", job, v.Name, cmpErr(err))
		}
	}
	return nil
}

// outcome asks for a job's outcome. What is asked while the broker restarts is never answered.
func (w *witness) outcome(ctx context.Context, job string) (o contracts.Outcome, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	stream, err := w.lane.js.Stream(ctx, contracts.OutcomeStream)
	if err != nil {
		return o, err
	}
	m, err := stream.GetLastMsgForSubject(ctx, contracts.OutcomeSubject(w.lane.tenant, job))
	if err != nil {
		return o, err
	}
	return o, json.Unmarshal(m.Data, &o)
}

// statements are all that may be said to PostgreSQL (I8), each as it begins. What is prepared has a name before it.
var statements = regexp.MustCompile(`^(\w*\x00)?\s*(BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY|SET |SHOW |LOCK TABLE [^;]* IN ACCESS SHARE MODE|SELECT |WITH |COPY \(SELECT [^;]*\) TO STDOUT|COMMIT|ROLLBACK|SAVEPOINT |RELEASE |DEALLOCATE|;|-- )`)

// allowed reports whether every statement of a message is one of them, and writes nothing.
func allowed(sql string) bool {
	return statements.MatchString(sql) && !regexp.MustCompile(`(?i)\b(INSERT INTO|UPDATE |DELETE FROM|TRUNCATE|ALTER|DROP|CREATE|GRANT|COPY .* FROM STDIN)\b`).MatchString(sql)
}

// see takes a revision of a job's record.
func (w *witness) see(e jetstream.KeyValueEntry) {
	n := turn{at: time.Now(), revision: e.Revision(), removed: e.Operation() != jetstream.KeyValuePut}
	if !n.removed {
		if err := json.Unmarshal(e.Value(), &n.jobRecord); err != nil {
			w.say("record %s: %w", e.Key(), err)
			return
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	_, job, _ := strings.Cut(e.Key(), ".")
	w.turns[job] = append(w.turns[job], n)
}

// violations are what the witness has to say of a job that has ended, and of everything since it was last asked.
func (w *witness) violations(job string) []error {
	w.mu.Lock()
	defer w.mu.Unlock()
	broken := w.broken
	w.broken = nil
	broken = append(broken, turnViolations(w.turns[job])...)
	broken = append(broken, w.lane.sourceViolations()...)
	return append(broken, w.lane.abortViolations(job, w.turns[job])...)
}

// aborts is asked once more at the end: a worker that was stopped may have woken up when its job had been judged.
func (w *witness) aborts() (broken []error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for job, turns := range w.turns {
		broken = append(broken, w.lane.abortViolations(job, turns)...)
	}
	return broken
}

// sourceViolations: of our own store we only read (I8).
func (l *lane) sourceViolations() (broken []error) {
	for _, c := range cloud.Calls() {
		if c.Bucket == l.source && c.Principal == worker.ARN && c.Operation != "GetObject" && c.Operation != "HeadObject" {
			broken = append(broken, fmt.Errorf("I8: %s of %s in our own store", c.Operation, c.Key))
		}
	}
	return broken
}

// turnViolations: a record's revision and epoch only grow, and what has ended stays so, unless it was removed (I10).
func turnViolations(turns []turn) (broken []error) {
	var last turn
	for _, n := range turns {
		switch {
		case n.revision <= last.revision:
			broken = append(broken, fmt.Errorf("I10: revision %d comes after %d", n.revision, last.revision))
		case n.removed:
		case n.Epoch < last.Epoch, (last.State == "done" || last.State == "failed") && n.State != last.State:
			broken = append(broken, fmt.Errorf("I10: %s of epoch %d comes after %s of epoch %d", n.State, n.Epoch, last.State, last.Epoch))
		case last.State == "committed" && n.State != "committed" && n.State != "done", last.State == "failing" && n.State != "failing" && n.State != "failed" && n.State != "committed":
			broken = append(broken, fmt.Errorf("I10: %s comes after %s", n.State, last.State))
		}
		last = n
	}
	return broken
}

// abortViolations: the uploads of the attempt that was committed are not aborted by us once that was recorded (I10).
func (l *lane) abortViolations(job string, turns []turn) (broken []error) {
	var since time.Time
	var uploads []contracts.Upload
	for _, n := range turns {
		switch n.State {
		case "committing":
			if since.IsZero() {
				since, uploads = n.at, n.Uploads
			}
		case "sealing", "committed", "done":
		default: // it was lost after all
			since, uploads = time.Time{}, nil
		}
	}
	for _, c := range cloud.Calls() {
		if c.Operation != "AbortMultipartUpload" || c.Bucket != l.bucket || !strings.Contains(c.Principal, ":assumed-role/") || !c.Time.After(since) {
			continue
		}
		if slices.ContainsFunc(uploads, func(u contracts.Upload) bool { return u.ID == c.UploadID }) {
			broken = append(broken, fmt.Errorf("I10: the upload of %s is aborted by %s, %v after the record said that it is being committed, and answered %d", c.Key, c.Principal, c.Time.Sub(since), c.Status))
		}
	}
	return broken
}

// uploaded is how many bytes of parts the job has cost.
func (l *lane) uploaded(job string) (n int64) {
	for _, c := range cloud.Calls() {
		if c.Operation == "UploadPart" && c.Bucket == l.bucket && strings.HasPrefix(c.Key, contracts.JobPrefix(l.tenant, job)) {
			n += c.Bytes
		}
	}
	return n
}

// weigh remembers what a delivery has cost.
func (w *witness) weigh(sent, delivered int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.loads = append(w.loads, float64(sent)/float64(delivered))
}

// remember notes what stands in the job's folder: it is to stay so for ever.
func (w *witness) remember(ctx context.Context, job string) error {
	stands, err := w.lane.standing(ctx, contracts.JobPrefix(w.lane.tenant, job))
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	maps.Copy(w.folders, stands)
	return nil
}

// keepsakes: what stood when a job had ended still stands, and nothing came after it (I4, I5).
func (l *lane) keepsakes(ctx context.Context) (broken []error) {
	now, err := l.standing(ctx, l.tenant+"/")
	if err != nil {
		return []error{err}
	}
	l.witness.mu.Lock()
	defer l.witness.mu.Unlock()
	for key, was := range l.witness.folders {
		if now[key] != was {
			broken = append(broken, fmt.Errorf("I4: %s was %s when its job had ended, and is %q", key, was, now[key]))
		}
	}
	for key := range now {
		if _, was := l.witness.folders[key]; !was {
			broken = append(broken, fmt.Errorf("I5: %s came after its job had ended", key))
		}
	}
	return broken
}

// standing is what stands in the customer's bucket, by key: each object's digest and time.
func (l *lane) standing(ctx context.Context, prefix string) (map[string]string, error) {
	found := map[string]string{}
	pages := s3.NewListObjectsV2Paginator(cloud.Admin(), &s3.ListObjectsV2Input{Bucket: &l.bucket, Prefix: &prefix})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, o := range page.Contents {
			found[*o.Key] = *o.ETag + " of " + o.LastModified.String()
		}
	}
	return found, nil
}

// attachmentViolation: every attachment is delivered as it was or as it was changed to, or is a gap (I7).
func (l *lane) attachmentViolation(m contracts.Manifest) error {
	digests := map[string][]string{}
	for name, body := range l.files() {
		for _, b := range [][]byte{body, changed} {
			sum := sha256.Sum256(b)
			digests[name] = append(digests[name], hex.EncodeToString(sum[:]))
		}
	}
	found := map[string]bool{}
	for _, f := range m.Files {
		if want, is := digests[f.Of]; is {
			found[f.Of] = true
			if !slices.Contains(want, f.SHA256) {
				return fmt.Errorf("I7: attachment %s is delivered as %s", f.Of, f.SHA256)
			}
		}
	}
	for _, g := range m.Gaps {
		found[g.ID] = true
	}
	if got := slices.Sorted(maps.Keys(found)); len(got) != len(l.files()) {
		return fmt.Errorf("I7: of the attachments only %v are delivered or named as gaps", got)
	}
	return nil
}
