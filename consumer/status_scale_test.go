package consumer

import (
	"encoding/json"
	"flag"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/snapfleet/snapfleet/contracts"
)

var manyRecords = flag.Int("records", 3000, "records of TestTheNewestJobsAreReadWithoutTheOthers")

// What is asked for is the newest few; what is read must not grow with what there is. The figure of README is of
// -records=100000.
func TestTheNewestJobsAreReadWithoutTheOthers(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	nc, js, _ := broker(t)
	must(Setup(ctx, js, SetupOptions{}))
	jobs := must(OpenJobs(ctx, js))
	async := must(jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(4000)))
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	write := func(i int, tenant string, s state, at time.Time) {
		r := record{Version: recordVersion, State: s, Epoch: 1, Attempt: 1, CreatedAt: at, UpdatedAt: at, Delivery: &delivery{}}
		r.Request = contracts.Request{Version: 1, Tenant: tenant, Job: fmt.Sprintf("j%d", i)}
		must(async.PublishAsync("$KV."+contracts.JobBucket+"."+recordKey(tenant, r.Request.Job), must(json.Marshal(r))))
	}
	for i := range *manyRecords {
		tenant, s := fmt.Sprintf("t%d", i%1000), done
		if i%1000 == 7 {
			s = failed
		}
		write(i, tenant, running, begin.Add(time.Duration(i)*time.Second))
		write(i, tenant, s, begin.Add(time.Duration(i)*time.Second))
	}
	write(3, "t3", done, begin.Add(time.Hour*1000)) // an old one has changed again
	<-async.PublishAsyncComplete()
	must(jobs.Submit(ctx, contracts.Request{Version: 1, Tenant: "t9", Job: "waits", RequestedAt: time.Now().UTC()}, nil))
	if err := jobs.cells.Delete(ctx, recordKey(fmt.Sprintf("t%d", (*manyRecords-1)%1000), fmt.Sprintf("j%d", *manyRecords-1))); err != nil {
		t.Fatal(err)
	}
	isFailed := func(s Status) bool { return s.State == string(failed) }
	for _, c := range []struct {
		name, tenant string
		limit        int
		match        func(Status) bool
		messages     uint64 // that are read, at most; 0: as many as it takes
	}{
		{"of all", "", 50, nil, 1200},
		{"one", "", 1, nil, 1200},
		{"of a tenant", "t9", 50, nil, 1200},
		{"of a tenant that changed last long ago", "t8", 2, nil, 1200},
		{"in a state", "", 3, isFailed, 0},
		{"in a state, of a tenant", "t7", 2, isFailed, 1200},
		{"of no tenant", "nobody", 50, nil, 1200},
	} {
		all := must(jobs.List(ctx, c.tenant))
		if c.match != nil {
			all = slices.DeleteFunc(all, func(s Status) bool { return !c.match(s) })
		}
		before, began := nc.Stats().InMsgs, time.Now()
		got, more, err := jobs.Newest(ctx, c.tenant, c.limit, c.match)
		took, read := time.Since(began), nc.Stats().InMsgs-before
		t.Logf("%s: %d of %d in %v, of %d messages", c.name, len(got), len(all), took.Round(time.Millisecond), read)
		if err != nil || more != (len(all) > c.limit) || c.messages > 0 && read > c.messages {
			t.Errorf("%s: more %v of %d, %d messages, %v", c.name, more, len(all), read, err)
		}
		want := all[:min(c.limit, len(all))]
		if !slices.EqualFunc(got, want, func(a, b Status) bool { return a.Tenant == b.Tenant && a.Job == b.Job && a.State == b.State }) {
			t.Errorf("%s: %d jobs, %d wanted", c.name, len(got), len(want))
		}
	}
}
