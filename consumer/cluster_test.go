package consumer

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/test/world"
)

// TestReplicated works a job off on three brokers that keep everything three times, as production has it, while
// the one that leads the job's record goes away. A replicated stream refuses with other codes than a single one.
func TestReplicated(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cluster, err := world.StartNATSCluster(ctx, t.TempDir(), 3)
	for _, n := range cluster {
		t.Cleanup(n.Stop)
	}
	if err != nil {
		t.Fatal(err)
	}
	var urls []string
	for _, n := range cluster {
		urls = append(urls, n.URL())
	}
	nc, err := Connect(strings.Join(urls, ","), nats.ReconnectWait(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js := must(jetstream.New(nc))
	must(Setup(ctx, js, SetupOptions{Replicas: 3, AckWait: 2 * time.Second}))
	if err := must(OpenRegistry(ctx, js)).Set(ctx, tenant("acme")); err != nil {
		t.Fatal(err)
	}

	// One of two swaps is refused, and the first of two outcomes stands.
	cells := must(openCells(ctx, js, contracts.JobBucket))
	first := must(cells.Create(ctx, "acme.swapped", []byte("1")))
	if _, err := cells.Create(ctx, "acme.swapped", []byte("2")); !errors.Is(err, errSwapped) {
		t.Errorf("created twice: %v", err)
	}
	must(cells.Update(ctx, "acme.swapped", []byte("3"), first))
	if _, err := cells.Update(ctx, "acme.swapped", []byte("4"), first); !errors.Is(err, errSwapped) {
		t.Errorf("swapped twice: %v", err)
	}
	if err := cells.Delete(ctx, "acme.swapped"); err != nil {
		t.Error(err)
	}
	for _, kind := range []contracts.OutcomeKind{contracts.Delivered, contracts.Failed} {
		o, err := streams{js}.Publish(ctx, contracts.Outcome{Version: contracts.OutcomeVersion, Tenant: "acme", Job: "published", Kind: kind})
		if err != nil || o.Kind != contracts.Delivered {
			t.Errorf("the outcome that stands is %s, %v", o.Kind, err)
		}
	}

	w := newMemory(t)
	jobs := must(OpenJobs(ctx, js))
	defer start(t, nc, exports{n: w.node("bucket"), part: time.Second}, quick("w1"))()
	if _, err := jobs.Submit(ctx, request("job"), nil); err != nil {
		t.Fatal(err)
	}
	for s := range jobs.Watch(ctx, "acme", "job") {
		if s.State == string(running) {
			break
		}
	}
	leader := must(js.Stream(ctx, "KV_"+contracts.JobBucket)).CachedInfo().Cluster.Leader
	for _, n := range cluster {
		if n.Name() == leader {
			n.Stop()
			leader = ""
		}
	}
	if leader != "" {
		t.Errorf("nobody is called %s", leader)
	}
	if s := ending(t, jobs, "job"); s.Outcome == nil || s.Outcome.Kind != contracts.Delivered {
		t.Errorf("%+v", s)
	}
}
