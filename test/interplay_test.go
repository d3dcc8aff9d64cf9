package test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/snapfleet/snapfleet/consumer"
	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/test/bucket"
)

// TestInterplay is what happens between two runs of a schedule, or over one.
func TestInterplay(t *testing.T) {
	t.Parallel()
	sideBySide(t, map[string]func(*testing.T){
		"tenant moves out of the house":        tenantMovesOut,
		"external ID is switched over a run":   rotationOverARun,
		"one of two workers knows no database": oneWorkerKnowsNoDatabase,
	})
}

// made waits for a run of the schedule that is delivered, and was due after an instant.
func (f *fleet) made(after time.Time) (s consumer.Status) {
	f.t.Helper()
	f.eventually("a run is delivered after "+after.Format(time.TimeOnly), func() error {
		jobs, err := f.jobs.List(f.t.Context(), f.tenant)
		for _, j := range jobs {
			if j.Schedule != nil && j.Schedule.FiredAt.After(after) && j.State == "done" {
				s = j
				return nil
			}
		}
		return errors.Join(err, fmt.Errorf("%d jobs", len(jobs)))
	})
	if s.Errors+s.Crashes > 0 {
		f.t.Errorf("job %s: %+v", s.Job, s)
	}
	return s
}

// tenantMovesOut: a tenant without a bucket gets one. What was delivered to the house stays there, and is downloaded
// from there; the next run goes to the customer.
func tenantMovesOut(t *testing.T) {
	f := newFleet(t, "mover", little("mover"))
	f.settle("mover-house")
	f.work("w1", often...)
	own := []string{"--bucket=" + f.bucket, "--region=" + cloud.Region(), "--role-arn=" + f.role, "--endpoint=" + cloud.Endpoint()}
	external := f.record().Destination.ExternalID
	f.set("--bucket=", "--region=", "--role-arn=", "--endpoint=")
	if d := f.record().Destination; !d.House() || d.ExternalID != external {
		t.Fatalf("%+v", d)
	}
	f.every(6)
	first := f.made(time.Time{})
	if want := "s3://mover-house/" + contracts.JobPrefix(f.tenant, first.Job) + contracts.ManifestName; first.Manifest != want {
		t.Errorf("the first run is at %s, want %s", first.Manifest, want)
	}
	f.set(own...)
	moved := time.Now()
	second := f.made(moved)
	if want := "s3://" + f.bucket + "/" + contracts.JobPrefix(f.tenant, second.Job) + contracts.ManifestName; second.Manifest != want {
		t.Errorf("the run after that is at %s, want %s", second.Manifest, want)
	}
	f.clear()
	f.delivered(second.Job)
	f.run("download", f.tenant, first.Job, "--to="+t.TempDir())
	if out, code := f.try(f.env, "links", f.tenant, second.Job); code != 4 || !strings.Contains(out, "is in the customer's own bucket") {
		t.Errorf("links to what is the customer's end with %d:\n%s", code, out)
	}
	f.eventually("what is known is of the customer's bucket", func() error {
		out := f.run("tenant", "get", f.tenant, "--json")
		if !strings.Contains(out, `"result": "ok"`) {
			return errors.New(out)
		}
		return nil
	})
	if kinds := f.notices(); !slices.Equal(kinds, []string{string(contracts.DestinationChanged)}) {
		t.Errorf("notices %q, want one, that the record has changed", kinds)
	}
}

// rotationOverARun: the external ID is switched, and the customer takes the old one out, while a run is about to become
// visible. The run goes on, and so does the next one.
func rotationOverARun(t *testing.T) {
	f := newFleet(t, "turning", little("turning"))
	at := f.every(15)
	hold := make(chan struct{})
	fault := cloud.Inject(bucket.Fault{Match: f.request(jobAt(at(0)), complete), Times: 1, Hold: hold})
	defer fault.Remove()
	f.work("w1", sweeping...)
	f.until(at(0))
	<-fault.Reached
	was := f.record().Destination.ExternalID
	f.run("tenant", "rotate", f.tenant)
	f.obey()
	f.run("tenant", "rotate", f.tenant)
	f.obey()
	if now := f.record().Destination; now.ExternalID == was || now.NextExternalID != "" {
		t.Errorf("%+v", now)
	}
	close(hold)
	if s := f.delivered(jobAt(at(0))); s.Attempt != 1 || s.Errors > 0 {
		t.Errorf("the run that was under way: %+v", s)
	}
	next := f.made(time.Now())
	f.clear()
	f.delivered(next.Job)
	if told := f.stream(contracts.DeadStream).State.Msgs; told > 0 {
		t.Errorf("%d dead letters", told)
	}
}

// oneWorkerKnowsNoDatabase: every run is delivered by the worker that knows the tenant's database, and nobody is blamed
// for the other one.
func oneWorkerKnowsNoDatabase(t *testing.T) {
	f := newFleet(t, "remote", little("remote"))
	f.set("--database=eu-1")
	f.work("ignorant")
	f.work("w1", databases(t, map[string]map[string]any{"eu-1": {"url": withLogin(f.database)}}))
	f.every(6)
	last := time.Time{}
	for range 2 {
		s := f.made(last)
		if s.Worker != "w1" {
			t.Errorf("job %s is of %s", s.Job, s.Worker)
		}
		f.delivered(s.Job)
		last = s.Schedule.FiredAt
	}
	f.clear()
	f.check()
}
