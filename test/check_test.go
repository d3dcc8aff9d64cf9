package test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/snapfleet/snapfleet/consumer"
	"github.com/snapfleet/snapfleet/contracts"
)

// check holds the whole world against what was promised, once every job has ended: see [fleet.violations].
func (f *fleet) check() {
	f.t.Helper()
	for _, err := range f.violations() {
		f.t.Error(err)
	}
}

// violations are the promises that are broken once every job of the tenant has ended. There should be none.
// It looks at the customer's bucket, at the streams and records, at the database, and at every request that
// the server saw.
func (f *fleet) violations() (broken []error) {
	f.t.Helper()
	ctx := f.t.Context()
	jobs, err := f.jobs.List(ctx, f.tenant)
	if err != nil {
		return []error{fmt.Errorf("list jobs: %w", err)}
	}
	for _, j := range jobs {
		for _, err := range f.jobViolations(ctx, j.Job) {
			broken = append(broken, fmt.Errorf("job %s: %w", j.Job, err))
		}
	}
	return append(broken, f.leftovers(ctx)...)
}

// jobViolations are the broken promises about one job that has ended.
func (f *fleet) jobViolations(ctx context.Context, job string) (broken []error) {
	say := func(format string, args ...any) { broken = append(broken, fmt.Errorf(format, args...)) }
	var s consumer.Status
	err := f.settles(func() (err error) { // an outcome stands for a moment before the record says so
		if s, err = f.jobs.Status(ctx, f.tenant, job); err == nil && !s.Ended() {
			err = fmt.Errorf("it is %s", s.State)
		}
		return err
	})
	if err != nil {
		say("it has not ended: %w: %+v", err, s)
		return broken
	}
	o := *s.Outcome

	// I1, I3 to I5: the folder holds what the manifest names, or nothing, and the outcome says which.
	objects := f.objects(job)
	_, delivered := objects[contracts.ManifestName]
	switch {
	case delivered != o.Kind.OK(), !delivered && len(objects) > 0:
		say("the outcome is %s, and the folder holds %v", o.Kind, slices.Sorted(maps.Keys(objects)))
	case delivered:
		broken = append(broken, f.manifestViolations(ctx, job, o, objects)...)
	}
	// I2: one end, which everybody tells alike.
	broken = append(broken, f.endViolations(ctx, s)...)
	// I10
	broken = append(broken, f.historyViolations(ctx, job)...)
	return append(broken, f.callViolations(job)...)
}

// cmpErr is err, or an error that says that there was none.
func cmpErr(err error) error {
	if err == nil {
		return errors.New("no error")
	}
	return err
}

// proven are the manifests that `snapfleet verify` has found whole, by place and digest.
var proven sync.Map

// manifestViolations holds a delivery against its manifest, and the manifest against the outcome.
func (f *fleet) manifestViolations(ctx context.Context, job string, o contracts.Outcome, objects map[string]int64) (broken []error) {
	say := func(format string, args ...any) { broken = append(broken, fmt.Errorf(format, args...)) }
	data, err := f.object(ctx, job, contracts.ManifestName)
	if err != nil {
		return []error{err}
	}
	sum := sha256.Sum256(data)
	digest := hex.EncodeToString(sum[:])
	m, err := contracts.DecodeManifest(data)
	if err != nil {
		return []error{err}
	}
	named := map[string]int64{contracts.ManifestName: int64(len(data))}
	for _, v := range m.Volumes {
		named[v.Name] = v.Size
	}
	if !maps.Equal(named, objects) {
		say("the manifest names %v, and the folder holds %v", named, objects)
	}
	if o.ManifestSHA256 != digest || o.Attempt != m.Attempt || o.Totals == nil || *o.Totals != m.Totals {
		say("the outcome tells of another manifest than %s of attempt %s: %+v", digest, m.Attempt, o)
	}
	if want := "s3://" + f.bucket + "/" + contracts.JobPrefix(f.tenant, job); o.Manifest != want+contracts.ManifestName {
		say("the outcome points to %s", o.Manifest)
	} else if _, known := proven.Load(want + digest); !known {
		env := append(cloud.Environ(auditor), "AWS_REGION="+cloud.Region(), "HOME="+os.TempDir())
		if out, code := f.try(env, "verify", want); code != 0 {
			say("verify ends with %d: %s", code, out)
		} else {
			proven.Store(want+digest, true)
		}
	}
	for _, v := range m.Volumes {
		key := contracts.JobPrefix(f.tenant, job) + v.Name
		head, err := cloud.Admin().HeadObject(ctx, &s3.HeadObjectInput{Bucket: &f.bucket, Key: &key})
		if err != nil {
			say("look at %s: %w", v.Name, err)
			continue
		}
		marks := slices.Collect(maps.Values(head.Metadata))
		if !slices.Contains(marks, m.Attempt) {
			say("%s is not of attempt %s: %v", v.Name, m.Attempt, head.Metadata)
		}
	}
	return broken
}

// endViolations: outcome, record and dead letters agree, and there is one of each.
func (f *fleet) endViolations(ctx context.Context, s consumer.Status) (broken []error) {
	say := func(format string, args ...any) { broken = append(broken, fmt.Errorf(format, args...)) }
	stream, err := f.js.Stream(ctx, contracts.OutcomeStream)
	if err != nil {
		return []error{err}
	}
	subject := contracts.OutcomeSubject(s.Tenant, s.Job)
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(subject))
	if err != nil {
		return []error{err}
	}
	if n := info.State.Subjects[subject]; n != 1 {
		say("there are %d outcomes", n)
	}
	state := ""
	err = f.settles(func() error {
		now, err := f.jobs.Status(ctx, s.Tenant, s.Job)
		state = now.State
		if err == nil && state != "done" && state != "failed" {
			err = fmt.Errorf("the record is %s", state)
		}
		return err
	})
	if err != nil || s.Outcome.Kind.OK() != (state == "done") {
		say("the outcome is %s, and the record %s: %w", s.Outcome.Kind, state, cmpErr(err))
	}
	// Of requests that never became a job there are letters, too; and none of a job that somebody cancelled.
	aside := []contracts.Code{contracts.JobConflict, contracts.RequestExpired, contracts.CancelledByUser}
	var codes []string
	for _, m := range f.dead(s.Tenant) {
		if code := m.Header.Get(contracts.HeaderCode); m.Header.Get(contracts.HeaderJob) == s.Job && !slices.Contains(aside, contracts.Code(code)) {
			codes = append(codes, code)
		}
	}
	var want []string
	if s.Outcome.Kind == contracts.Skipped { // a legal end, of a job that was never begun, which nobody has to look at
		if s.Outcome.Attempts != 0 || s.Outcome.Schedule == nil || s.Attempt != 0 {
			say("it was skipped, and begun: %+v", s)
		}
	} else if s.Outcome.Reason != nil && !slices.Contains(aside, s.Outcome.Reason.Code) {
		want = []string{string(s.Outcome.Reason.Code)}
	}
	if !slices.Equal(codes, want) {
		say("dead letters %v, where the outcome gives %v", codes, want)
	}
	return broken
}

// historyViolations: a record's epoch only grows, as far back as its history goes, unless an operator removed it.
func (f *fleet) historyViolations(ctx context.Context, job string) (broken []error) {
	kv, err := f.js.KeyValue(ctx, contracts.JobBucket)
	if err != nil {
		return []error{err}
	}
	entries, err := kv.History(ctx, f.tenant+"."+job)
	if err != nil {
		return []error{fmt.Errorf("its record's history: %w", err)}
	}
	type record struct {
		Epoch uint64 `json:"epoch"`
		State string `json:"state"`
	}
	var last record
	var revision uint64
	for _, e := range entries {
		if e.Revision() <= revision {
			broken = append(broken, fmt.Errorf("revision %d comes after %d", e.Revision(), revision))
		}
		revision = e.Revision()
		var r record
		if e.Operation() == jetstream.KeyValuePut {
			if err := json.Unmarshal(e.Value(), &r); err != nil {
				return append(broken, err)
			}
			if r.Epoch < last.Epoch || (last.State == "done" || last.State == "failed") && r.State != last.State {
				broken = append(broken, fmt.Errorf("%+v comes after %+v", r, last))
			}
		}
		last = r
	}
	return broken
}

// callViolations looks at every request of ours that the customer's bucket has seen for a job: it was sent with
// the role's session, narrowed by its policy, to the right owner's bucket, below the job's prefix (I8), and
// nothing was written over what stands (I4), and nothing completed once the manifest stood (I3).
func (f *fleet) callViolations(job string) (broken []error) {
	prefix := contracts.JobPrefix(f.tenant, job)
	whole := 0
	for _, c := range cloud.Calls() {
		if c.Service != "s3" || c.Bucket != f.bucket || !strings.Contains(c.Principal, ":assumed-role/") {
			continue
		}
		at := c.Key
		if c.Key == "" {
			at = c.Query.Get("prefix")
		}
		say := func(format string, args ...any) {
			broken = append(broken, fmt.Errorf("%s of %q: %s", c.Operation, at, fmt.Sprintf(format, args...)))
		}
		if !strings.HasPrefix(at, f.tenant+"/") {
			say("it is outside of the tenant's folder")
			continue
		}
		if !strings.HasPrefix(at, prefix) {
			continue // another job's
		}
		if !c.SessionPolicy {
			say("the session has no policy")
		}
		foreign := c.Operation == "ListObjectsV2" && c.Query.Get("max-keys") == "1" // the one that asks whose bucket it is
		if owner := c.Header.Get("X-Amz-Expected-Bucket-Owner"); owner != theirAccount && !foreign {
			say("the expected owner is %q", owner)
		}
		guarded := c.Header.Get("If-None-Match") == "*"
		switch c.Operation {
		case "CompleteMultipartUpload":
			if whole > 0 && c.Status == 200 && !c.Faulted {
				say("a volume is completed after the manifest was written")
			}
			if !guarded && c.Header.Get("If-Match") == "" {
				say("it would replace whatever is there")
			}
		case "PutObject":
			if !guarded || c.Key != prefix+contracts.ManifestName {
				say("only the manifest is put, and only where there is none")
			}
			if c.Status == 200 && !c.Faulted {
				whole++
			}
		case "CopyObject", "UploadPartCopy", "DeleteObjects", "":
			say("this is no operation of a delivery")
		}
	}
	if whole > 1 {
		broken = append(broken, fmt.Errorf("the manifest was written %d times", whole))
	}
	return broken
}

// leftovers are what must be gone by itself once all jobs have ended: uploads (I13), requests, sessions (I14).
func (f *fleet) leftovers(ctx context.Context) (broken []error) {
	for what, gone := range map[string]func() error{
		"uploads": func() error {
			out, err := cloud.Admin().ListMultipartUploads(ctx, &s3.ListMultipartUploadsInput{Bucket: &f.bucket})
			if err == nil && len(out.Uploads) > 0 {
				err = fmt.Errorf("%d, the first of %s", len(out.Uploads), *out.Uploads[0].Key)
			}
			return err
		},
		"requests": func() error {
			for name, asks := range map[string]string{contracts.RequestStream: contracts.RequestSubjects, contracts.ScheduleStream: contracts.RunSubjects} {
				stream, err := f.js.Stream(ctx, name)
				if err != nil {
					return err
				}
				info, err := stream.Info(ctx, jetstream.WithSubjectFilter(asks)) // schedules stay
				if err != nil {
					return err
				}
				if len(info.State.Subjects) > 0 {
					return fmt.Errorf("messages on %v", info.State.Subjects)
				}
			}
			return nil
		},
		"sessions": func() error {
			conn, err := pgx.Connect(ctx, f.database)
			if err != nil {
				return err
			}
			defer conn.Close(ctx) //nolint:errcheck // it has served
			var sessions, locks, horizons int
			err = conn.QueryRow(ctx, `SELECT count(DISTINCT a.pid), count(l.pid), count(a.backend_xmin) FROM pg_stat_activity a LEFT JOIN pg_locks l USING (pid)
				WHERE a.application_name LIKE 'snapfleet%' AND a.datname = current_database()`).Scan(&sessions, &locks, &horizons)
			if err == nil && sessions > 0 {
				err = fmt.Errorf("%d sessions, with %d locks and %d horizons", sessions, locks, horizons)
			}
			return err
		},
	} {
		if err := f.settles(gone); err != nil {
			broken = append(broken, fmt.Errorf("%s are left: %w", what, err))
		}
	}
	return broken
}

// settles waits, 30 seconds at most, until ok gives no error.
func (f *fleet) settles(ok func() error) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(30 * time.Second); ; <-tick.C {
		err := ok()
		if err == nil || time.Now().After(end) || f.t.Context().Err() != nil {
			return err
		}
	}
}

// sweeping are the flags of workers whose janitor is done soon after a job's end.
var sweeping = []string{"--sweep-every=1s", "--sweep-after=1s", "--sweep-again=2s"}

// unswept is what the janitor, with the flags sweeping, should have removed: pieces of receipts, and its own notes.
func (f *fleet) unswept(ctx context.Context) error {
	notes, err := f.js.KeyValue(ctx, contracts.JobBucket)
	if err != nil {
		return err
	}
	pieces, err := f.js.KeyValue(ctx, contracts.PieceBucket)
	if err != nil {
		return err
	}
	return f.settles(func() error {
		var left []string
		for kv, filter := range map[jetstream.KeyValue]string{notes: "sweep.*.*", pieces: "*.*.receipt.>"} {
			keys, err := kv.ListKeysFiltered(ctx, filter)
			if err != nil {
				return err
			}
			for key := range keys.Keys() {
				left = append(left, key)
			}
		}
		if len(left) > 0 {
			return fmt.Errorf("the janitor has left %v", left)
		}
		return nil
	})
}

// mostOpen is far more than a worker needs: what leaks with every job gets there.
const mostOpen = 150

// spoolless: a worker holds no file that it could write to, so no disk can be full, and not ever more of others (I14).
func (p *process) spoolless() error {
	dir := fmt.Sprintf("/proc/%d/fd", p.Process.Pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil //nolint:nilerr // it has ended, or this is no Linux
	}
	if len(entries) > mostOpen {
		return fmt.Errorf("I14: it has %d files and sockets open", len(entries))
	}
	for _, e := range entries {
		to, _ := os.Readlink(filepath.Join(dir, e.Name()))
		info, err := os.Stat(filepath.Join(dir, e.Name()))
		if err != nil || !info.Mode().IsRegular() || !filepath.IsAbs(to) { // the kernel's own, such as epoll's, have no path
			continue
		}
		about, _ := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%s", p.Process.Pid, e.Name()))
		for line := range strings.Lines(string(about)) {
			flags, is := strings.CutPrefix(line, "flags:")
			if mode, err := strconv.ParseInt(strings.TrimSpace(flags), 8, 64); is && err == nil && mode&syscall.O_ACCMODE != syscall.O_RDONLY {
				return fmt.Errorf("it has %s open for writing", to)
			}
		}
	}
	return nil
}

// object is what stands under a name in the job's folder.
func (f *fleet) object(ctx context.Context, job, name string) ([]byte, error) {
	out, err := cloud.Admin().GetObject(ctx, &s3.GetObjectInput{Bucket: &f.bucket, Key: aws.String(contracts.JobPrefix(f.tenant, job) + name)})
	if err != nil {
		return nil, fmt.Errorf("read %s of job %s: %w", name, job, err)
	}
	data, err := io.ReadAll(out.Body)
	return data, errors.Join(err, out.Body.Close())
}
