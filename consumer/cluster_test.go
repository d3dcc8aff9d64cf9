package consumer

import (
	"context"
	"errors"
	"slices"
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
	// A stream that has just been made may not have chosen who leads it, and says nothing useful until then.
	patiently := func(what string, do func() error) {
		t.Helper()
		err := do()
		for ; err != nil && ctx.Err() == nil; err = do() {
			pause(ctx, 100*time.Millisecond)
		}
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	patiently("set up", func() error {
		_, err := Setup(ctx, js, SetupOptions{Replicas: 3, AckWait: 2 * time.Second})
		return err
	})
	patiently("register the tenant", func() error {
		r, err := OpenRegistry(ctx, js)
		if err != nil {
			return err
		}
		return r.Set(ctx, tenant("acme"))
	})
	var jobs *Jobs
	patiently("open the jobs", func() (err error) {
		jobs, err = OpenJobs(ctx, js)
		return err
	})

	// One of two swaps is refused, and the first of two outcomes stands.
	first, err := jobs.records.swap(ctx, "acme.swapped", record{Owner: "first"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := jobs.records.swap(ctx, "acme.swapped", record{Owner: "second"}, 0); !errors.Is(err, errSwapped) {
		t.Errorf("created twice: %v", err)
	}
	third, err := jobs.records.swap(ctx, "acme.swapped", record{Owner: "third"}, first)
	if err != nil {
		t.Error(err)
	}
	if _, err := jobs.records.swap(ctx, "acme.swapped", record{Owner: "fourth"}, first); !errors.Is(err, errSwapped) {
		t.Errorf("swapped twice: %v", err)
	}
	if err := jobs.records.DeleteIf(ctx, "acme.swapped", first); !errors.Is(err, errSwapped) {
		t.Errorf("an old revision is deleted: %v", err)
	}
	if err := jobs.records.DeleteIf(ctx, "acme.swapped", third); err != nil {
		t.Errorf("the revision that stands is not deleted: %v", err)
	}
	for _, kind := range []contracts.OutcomeKind{contracts.Delivered, contracts.Failed} {
		patiently("publish an outcome", func() error {
			o, err := jobs.ledger.Publish(ctx, contracts.Outcome{Version: contracts.OutcomeVersion, Tenant: "acme", Job: "published", Kind: kind})
			if err == nil && o.Kind != contracts.Delivered {
				t.Errorf("the outcome that stands is %s", o.Kind)
			}
			return err
		})
	}

	w := newMemory(t)
	defer start(t, nc, exports{n: w.node("bucket"), part: time.Second}, quick("w1"))()
	patiently("submit", func() error {
		_, err := jobs.Submit(ctx, request("job"), nil)
		return err
	})
	for s := range jobs.Watch(ctx, "acme", "job") {
		if s.State == string(running) {
			break
		}
	}
	var leader *world.NATS
	patiently("find the leader", func() error {
		s, err := js.Stream(ctx, "KV_"+contracts.JobBucket)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(cluster, func(n *world.NATS) bool { return n.Name() == s.CachedInfo().Cluster.Leader })
		if i < 0 {
			return errors.New("nobody leads")
		}
		leader = cluster[i]
		return nil
	})
	leader.Stop()
	// Looked for, and not watched: a replica may answer a look with what was true a moment ago.
	var end Status
	patiently("the job ends", func() (err error) {
		if end, err = jobs.Status(ctx, "acme", "job"); err == nil && !end.Ended() {
			err = errors.New(end.State)
		}
		return err
	})
	if end.Outcome.Kind != contracts.Delivered {
		t.Errorf("%+v", end)
	}
}
