package test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/test/bucket"
)

// TestTwoTenants delivers two tenants by turns, by the same workers from the same database. What is in one's rows,
// attachments and file names comes to that one's customer and to nobody else.
func TestTwoTenants(t *testing.T) {
	t.Parallel()
	canary := map[string]string{"alpha": "c4n4ry-of-alpha", "beta": "c4n4ry-of-beta"}
	spans := collect(t)
	alpha := newFleet(t, "alpha", func(ctx context.Context, url string) error {
		return errors.Join(traced("alpha", "alpha-files", canary["alpha"])(ctx, url), traced("beta", "beta-files", canary["beta"])(ctx, url))
	})
	alpha.env = append(alpha.env, spans.environ()...)
	beta := alpha.customer(t, "beta")
	both := []*fleet{alpha, beta}
	flags := append([]string{"--log-level=debug", "--attachments-source=alpha-files={tenant}/", "--attachments-source=beta-files={tenant}/"}, crowd...)
	workers := []*process{alpha.work("one", flags...), alpha.work("two", flags...)}
	jobs := []string{"1", "2", "3"}
	for _, job := range jobs {
		for _, f := range both {
			f.submit(job)
		}
	}

	told := map[string]string{}
	for _, f := range both {
		f.allDelivered(jobs...)
		for _, job := range jobs {
			told["status"] += f.run("status", f.tenant, job, "--json")
			given := f.given(job)
			for _, form := range []string{"row-%s-500", "body-%s-one", "file-%s-two"} {
				if own := fmt.Sprintf(form, canary[f.tenant]); !strings.Contains(given, own) {
					t.Errorf("%s does not get its own %s", f.tenant, own)
				}
			}
			for other, foreign := range canary {
				if other != f.tenant && strings.Contains(given, foreign) {
					t.Errorf("%s gets what is of %s", f.tenant, other)
				}
			}
		}
		for key := range f.everything() {
			if !strings.HasPrefix(key, f.tenant+"/") {
				t.Errorf("in the bucket of %s stands %s", f.tenant, key)
			}
		}
	}
	for _, w := range workers {
		_ = w.stop(os.Interrupt)
		told["logs"] += w.said()
	}
	told["spans"] = spans.raw.String()
	told["outcomes"] = alpha.messages(contracts.OutcomeStream)
	told["records"] = alpha.records()
	if n := alpha.stream(contracts.DeadStream).State.Msgs; n != 0 {
		t.Errorf("%d dead letters", n)
	}
	for _, c := range cloud.Calls() {
		if strings.Contains(c.Principal, ":assumed-role/alpha/") || strings.Contains(c.Principal, ":assumed-role/beta/") {
			told["requests"] += fmt.Sprintln(c)
		}
	}
	for who, what := range told {
		if !strings.Contains(what, "beta") {
			t.Errorf("the %s tell nothing of beta", who)
		}
		for tenant, secret := range canary {
			if strings.Contains(what, secret) {
				t.Errorf("the %s tell what is in the rows or files of %s", who, tenant)
			}
		}
	}
}

// records is all that the fleet remembers of its jobs.
func (f *fleet) records() string {
	f.t.Helper()
	return f.cells(contracts.JobBucket) + f.cells(contracts.PieceBucket)
}

// cells is all that is in a bucket.
func (f *fleet) cells(bucket string) string {
	f.t.Helper()
	kv, err := f.js.KeyValue(f.t.Context(), bucket)
	if err != nil {
		f.t.Fatal(err)
	}
	all, err := kv.WatchAll(f.t.Context(), jetstream.IgnoreDeletes(), jetstream.IncludeHistory())
	if err != nil {
		f.t.Fatal(err)
	}
	defer func() { _ = all.Stop() }()
	var b strings.Builder
	for e := range all.Updates() {
		if e == nil { // all that there is
			break
		}
		fmt.Fprintf(&b, "%s %s\n", e.Key(), e.Value())
	}
	return b.String()
}

// given is all that a delivery holds, in plain: names, metadata, manifest, what is in volumes and compressed files.
func (f *fleet) given(job string) string {
	f.t.Helper()
	dir := f.download(job)
	var b strings.Builder
	for name := range f.objects(job) {
		head, err := cloud.Admin().HeadObject(f.t.Context(), &s3.HeadObjectInput{Bucket: &f.bucket, Key: aws.String(contracts.JobPrefix(f.tenant, job) + name)})
		if err != nil {
			f.t.Fatal(err)
		}
		data := read(f.t, filepath.Join(dir, name))
		fmt.Fprintf(&b, "%s %v\n%s\n", name, head.Metadata, data)
		if filepath.Ext(name) != ".tar" {
			continue
		}
		for archive := tar.NewReader(bytes.NewReader(data)); ; {
			h, err := archive.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			var body io.Reader = archive
			if err == nil && strings.HasSuffix(h.Name, ".gz") {
				body, err = gzip.NewReader(archive)
			}
			if err == nil {
				fmt.Fprintf(&b, "%+v\n", *h)
				_, err = io.Copy(&b, body)
			}
			if err != nil {
				f.t.Fatalf("%s: %v", name, err)
			}
		}
	}
	return b.String()
}

// everything is what stands in the customer's bucket.
func (f *fleet) everything() map[string]int64 {
	f.t.Helper()
	found := map[string]int64{}
	pages := s3.NewListObjectsV2Paginator(cloud.Admin(), &s3.ListObjectsV2Input{Bucket: &f.bucket})
	for pages.HasMorePages() {
		page, err := pages.NextPage(f.t.Context())
		if err != nil {
			f.t.Fatal(err)
		}
		for _, o := range page.Contents {
			found[*o.Key] = *o.Size
		}
	}
	return found
}

// TestForgedRequests publishes requests that are about another tenant's job, or would steer a delivery to another
// place, while the jobs that they name are under way: before and after the point of no return. Nothing comes of
// them but one dead letter for each, which says why and how to mend it.
func TestForgedRequests(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "victim", little("victim"))
	mallory := f.customer(t, "mallory", "--schema=victim")
	f.work("one", many...)
	f.work("two", many...)

	hold := make(chan struct{})
	live := map[string]string{"running": "UploadPart", "committing": complete}
	for state, operation := range live {
		skip := 0
		if operation == "UploadPart" {
			skip = 1 // the probe's
		}
		fault := cloud.Inject(bucket.Fault{Match: f.request(state, operation), Skip: skip, Times: 1, Hold: hold})
		defer fault.Remove()
		f.submit(state, "--only=tables")
		<-fault.Reached
	}
	now := time.Now().UTC().Format(time.RFC3339)
	request := func(tenant, job, more string) string {
		return fmt.Sprintf(`{"version":1,"tenant":%q,"job":%q,"requested_at":%q%s}`, tenant, job, now, more)
	}
	type forgery struct {
		subject, body string
		code          contracts.Code
		word          string
	}
	var forgeries []forgery
	for job := range live {
		forgeries = append(
			forgeries,
			forgery{"mallory", request("victim", job, `,"only":"tables"`), contracts.InvalidRequest, "victim"},
			forgery{"victim", request("mallory", job, `,"only":"tables"`), contracts.InvalidRequest, "mallory"},
			forgery{"victim", request("victim", job, ``), contracts.JobConflict, job},
			forgery{"victim", request("victim", job, `,"only":"attachments"`), contracts.JobConflict, job},
		)
		for field, value := range map[string]string{
			"bucket": `"customer-mallory"`, "role_arn": `"arn:aws:iam::222222222222:role/mallory"`, "external_id": `"0123456789abcdef0123456789abcdef"`, "prefix": `"mallory/"`,
			"endpoint": `"https://s3.example.com"`, "schema": `"pg_catalog"`, "attempt": `7`, "destination": `{"bucket":"customer-mallory"}`,
		} {
			forgeries = append(forgeries, forgery{"victim", request("victim", job, `,"only":"tables","`+field+`":`+value), contracts.InvalidRequest, field})
		}
	}
	for range 2 { // whoever insists is not heard twice
		for _, x := range forgeries {
			if _, err := f.js.Publish(t.Context(), contracts.RequestSubject(x.subject), []byte(x.body)); err != nil {
				t.Fatal(err)
			}
		}
	}
	// The same name for a job of one's own is no forgery.
	for job := range live {
		mallory.submit(job, "--only=tables")
		mallory.delivered(job)
	}
	f.eventually("only what is no forgery is in the queue", func() error {
		if n := f.stream(contracts.RequestStream).State.Msgs; n != uint64(len(live)) {
			return fmt.Errorf("%d requests", n)
		}
		return nil
	})
	letters := map[string]int{}
	for _, x := range forgeries {
		sum := sha256.Sum256([]byte(x.body))
		var found []*jetstream.RawStreamMsg
		for _, m := range f.dead(x.subject) {
			if m.Header.Get(contracts.HeaderDigest) == hex.EncodeToString(sum[:]) {
				found = append(found, m)
			}
		}
		letters[x.subject] += len(found)
		if len(found) != 1 || string(found[0].Data) != x.body {
			t.Errorf("%d dead letters of %s on the subject of %s", len(found), x.body, x.subject)
			continue
		}
		h, advice := found[0].Header, x.code.Advice()
		if code, reason := h.Get(contracts.HeaderCode), h.Get(contracts.HeaderReason); code != string(x.code) || !strings.Contains(reason, x.word) {
			t.Errorf("%s ends as %s, %q", x.body, code, reason)
		}
		if advice.Cause == "" || advice.Fix == "" {
			t.Errorf("%s says neither why nor how to mend it", x.code)
		}
	}
	for tenant, n := range letters {
		if all := len(f.dead(tenant)); all != n {
			t.Errorf("%d dead letters of %s, %d of forgeries", all, tenant, n)
		}
	}
	for state := range live {
		if s, err := f.jobs.Status(t.Context(), f.tenant, state); err != nil || s.State != state || s.Attempt != 1 || s.CancelRequested {
			t.Errorf("the job is now %+v, %v", s, err)
		}
	}
	close(hold)
	for job := range live {
		s := f.delivered(job)
		m := f.manifest(job)
		if s.Attempt != 1 || m.Tenant != "victim" || m.Only != contracts.Tables || s.Outcome.Totals.Rows != 1000 || len(f.objects(job)) != 2 {
			t.Errorf("%+v, %+v, %v", s.Outcome, m.Totals, f.objects(job))
		}
	}
	for _, f := range []*fleet{f, mallory} {
		for key := range f.everything() {
			if !strings.HasPrefix(key, f.tenant+"/running/") && !strings.HasPrefix(key, f.tenant+"/committing/") {
				t.Errorf("in the bucket of %s stands %s", f.tenant, key)
			}
		}
		f.strays()
		for _, err := range f.violations() {
			// A dead letter names the job that it pretends to be about, which is no sign of a bad end.
			if !strings.Contains(err.Error(), "dead letters [invalid_request") {
				t.Error(err)
			}
		}
	}
}
