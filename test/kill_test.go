package test

import (
	"context"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/snapfleet/snapfleet/test/bucket"
	"github.com/snapfleet/snapfleet/test/world/factory"
)

// manufacturer loads the demo's tenant.
func manufacturer(schema string, scale float64) func(context.Context, string) error {
	return func(ctx context.Context, url string) error {
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			return err
		}
		defer conn.Close(ctx) //nolint:errcheck // it has served
		return factory.Load(ctx, conn, schema, scale)
	}
}

// TestKilledWorkerIsSucceeded kills a worker with SIGKILL while a request of its delivery is under way, before
// and after the request took effect, at every stage of a delivery. Another worker completes the job.
func TestKilledWorkerIsSucceeded(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "slain", manufacturer("slain", 0.3))
	for _, tt := range []struct {
		name      string
		operation string
		skip      int
	}{
		{"preflight", "ListObjectsV2", 0},
		{"probe", "CreateMultipartUpload", 0},
		{"create", "CreateMultipartUpload", 1},
		{"first part", "UploadPart", 1},
		{"later part", "UploadPart", 2},
		{"complete", "CompleteMultipartUpload", 0},
		{"verify", "HeadObject", 0},
		{"manifest", "PutObject", 0},
	} {
		for _, apply := range []bool{false, true} {
			job := map[bool]string{false: "before-", true: "after-"}[apply] + tt.name
			job = strings.ReplaceAll(job, " ", "-")
			t.Run(job, func(t *testing.T) {
				f := *f
				f.t = t
				hold := make(chan struct{})
				fault := cloud.Inject(bucket.Fault{Match: f.request(job, tt.operation), Skip: tt.skip, Times: 1, Apply: apply, Hold: hold, Reply: bucket.Reply{Lost: true}})
				defer fault.Remove()
				first := f.work("first", "--part-size=5MiB")
				f.submit(job, "--only=tables")
				select {
				case <-fault.Reached:
				case <-time.After(time.Minute):
					t.Fatal("the worker never got there")
				}
				_ = first.stop(syscall.SIGKILL)
				close(hold)
				fault.Remove()
				f.work("second", "--part-size=5MiB")
				s := f.delivered(job)
				if s.Crashes != 1 {
					t.Errorf("%d crashes", s.Crashes)
				}
				f.check()
			})
		}
	}
}

// TestStoppedWorkerIsFenced stops a worker with SIGSTOP for longer than its lease. What it does when it wakes up
// changes nothing.
func TestStoppedWorkerIsFenced(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "paused", manufacturer("paused", 0.02))
	for _, operation := range []string{"UploadPart", "CompleteMultipartUpload", "PutObject"} {
		t.Run(operation, func(t *testing.T) {
			f := *f
			f.t = t
			fault := cloud.Inject(bucket.Fault{Match: func(c bucket.Call) bool { return c.Operation == operation && c.Bucket == f.bucket }, Skip: 0, Times: 1, Apply: true, Delay: 500 * time.Millisecond})
			defer fault.Remove()
			first := f.work("first", "--part-size=5MiB")
			f.submit(operation, "--only=tables")
			<-fault.Reached
			if err := first.Process.Signal(syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			f.work("second", "--part-size=5MiB")
			before := f.delivered(operation)
			if err := first.Process.Signal(syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			_ = first.stop(os.Interrupt) // it has to notice, and end
			after := f.delivered(operation)
			if before.Outcome.ManifestSHA256 != after.Outcome.ManifestSHA256 {
				t.Error("the delivery has changed")
			}
			f.check()
		})
	}
}

// TestDrainedWorkerGivesBack stops a worker kindly, with no patience, in the middle of a job.
func TestDrainedWorkerGivesBack(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "drained", manufacturer("drained", 0.02))
	hold := make(chan struct{})
	fault := cloud.Inject(bucket.Fault{Match: func(c bucket.Call) bool { return c.Operation == "UploadPart" && c.Bucket == f.bucket }, Skip: 1, Times: 1, Hold: hold})
	defer fault.Remove()
	first := f.work("first", "--grace=100ms")
	f.submit("job", "--only=tables")
	<-fault.Reached
	start := time.Now()
	if err := first.stop(syscall.SIGTERM); err != nil {
		t.Errorf("the worker ends with %v", err)
	}
	if d := time.Since(start); d > 15*time.Second {
		t.Errorf("it took %v to stop", d)
	}
	close(hold)
	f.work("second")
	if s := f.delivered("job"); s.Crashes != 0 || s.Errors != 0 {
		t.Errorf("it was blamed: %d crashes, %d errors", s.Crashes, s.Errors)
	}
	f.check()
}
