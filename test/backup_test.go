package test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/test/bucket"
	"github.com/snapfleet/snapfleet/test/world"
)

// TestRestoredBroker brings a broker back to what it knew a while ago. A job that was delivered since then is found in the
// customer's bucket, whether the old broker knows it as under way or not at all, and not delivered once more.
func TestRestoredBroker(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "restored", little("restored"), world.AsProcess())
	worker := f.work("worker")
	f.submit("before", "--only=tables")
	before := f.delivered("before")

	hold := make(chan struct{})
	fault := cloud.Inject(bucket.Fault{Match: f.request("between", "UploadPart"), Skip: 1, Times: 1, Hold: hold})
	defer fault.Remove()
	f.submit("between", "--only=tables")
	select {
	case <-fault.Reached:
	case <-time.After(time.Minute):
		t.Fatal("the worker never got there")
	}
	backup := t.TempDir()
	f.nats.Stop()
	if err := os.CopyFS(backup, os.DirFS(f.nats.Dir())); err != nil {
		t.Fatal(err)
	}
	if err := f.nats.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	close(hold)
	between := f.delivered("between")
	f.submit("after", "--only=tables")
	after := f.delivered("after")

	// Workers are stopped first: they remember newer revisions than those that come back, and would wait for them.
	if err := worker.stop(os.Interrupt); err != nil {
		t.Error(err)
	}
	f.nats.Stop()
	if err := os.RemoveAll(f.nats.Dir()); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(f.nats.Dir(), os.DirFS(backup)); err != nil {
		t.Fatal(err)
	}
	if err := f.nats.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out, code := f.try(f.env, "status", f.tenant, "after"); code != 3 || !strings.Contains(out, "after") {
		t.Fatalf("the old broker knows better: %d\n%s", code, out)
	}
	f.run("setup", "--ack-wait=3s")
	sent := f.uploaded()
	f.work("another")
	// An application asks again with the request that it had sent. A request with a later time wants a later snapshot.
	again, err := json.Marshal(contracts.Request{Version: contracts.RequestVersion, Tenant: f.tenant, Job: "after", Only: contracts.Tables, RequestedAt: after.RequestedAt})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.js.Publish(t.Context(), contracts.RequestSubject(f.tenant), again); err != nil {
		t.Fatal(err)
	}
	for job, was := range map[string]string{"before": before.Outcome.ManifestSHA256, "between": between.Outcome.ManifestSHA256, "after": after.Outcome.ManifestSHA256} {
		if s := f.delivered(job); s.Outcome.ManifestSHA256 != was {
			t.Errorf("%s: the outcome tells of another manifest than before: %+v", job, s.Outcome)
		}
	}
	if n := f.uploaded(); n != sent {
		t.Errorf("%d parts were sent again", n-sent)
	}
	f.check()
}

// uploaded counts the parts of the tenant's volumes.
func (f *fleet) uploaded() (n int) {
	for _, c := range cloud.Calls() {
		if c.Bucket == f.bucket && c.Operation == "UploadPart" && strings.HasPrefix(c.Key, contracts.JobPrefix(f.tenant, "")) {
			n++
		}
	}
	return n
}
