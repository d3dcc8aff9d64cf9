package test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/test/world"
)

// smallTables is how many tables a small tenant has.
const smallTables = 50

// What a job of a small tenant asks of each service. ARCHITECTURE.md says why; whoever adds to it changes both.
var (
	// Sorted, because some are under way at the same time. The role's trust was checked by the job before.
	wantCalls = []string{
		"AbortMultipartUpload .snapfleet-probe",
		"AssumeRole",
		"CompleteMultipartUpload snapshot_tables_second.tar",
		"CreateMultipartUpload .snapfleet-probe",
		"CreateMultipartUpload snapshot_tables_second.tar",
		"GetObject manifest.json",
		"HeadObject snapshot_tables_second.tar",
		"ListMultipartUploads",
		"ListObjectsV2",
		"ListObjectsV2",
		"ListParts .snapfleet-probe",
		"PutObject manifest.json",
		"UploadPart .snapfleet-probe",
		"UploadPart snapshot_tables_second.tar",
	}
	wantMessages = []string{
		"read the record",
		"read the tenant",
		"mark for the janitor",
		"read the outcome",
		"record running",
		"read the tenant",
		"read what the tenant was",
		"record running with an upload",
		"receipt",
		"record committing",
		"read the tenant",
		"read the receipt",
		"record sealing",
		"read the tenant",
		"record committed",
		"outcome",
		"record done",
		"ack",
	}
)

// What it asks of the database beyond that, and for each table, in round trips.
const (
	wantTrips         = 24
	wantTripsPerTable = 1
)

// How many spans its trace has beyond that, and for each table. deploy/traces.md says so, too.
const (
	wantSpans         = 33
	wantSpansPerTable = 1
)

// overheard is what a worker says to the broker and to the database.
type overheard struct {
	mu       sync.Mutex
	messages []world.Message
}

func (o *overheard) hear(m world.Message) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.messages = append(o.messages, m)
	return false
}

func (o *overheard) since(n int) []world.Message {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.messages[n:])
}

// TestCost lists what one job of a small tenant costs, so that nobody adds a round trip without seeing it; and what a
// worker costs that has nothing to do.
func TestCost(t *testing.T) {
	t.Parallel()
	var script strings.Builder
	script.WriteString(`CREATE SCHEMA frugal_small;`)
	for i := range smallTables {
		fmt.Fprintf(&script, `CREATE TABLE frugal_small.t%02d AS SELECT n AS id, md5(n::text) AS word FROM generate_series(1, 10) n;`, i)
	}
	f := newFleet(t, "frugal_small", sql(script.String()))
	spans := collect(t)
	f.env = append(f.env, spans.environ()...)
	wire, said := &world.Wire{}, &overheard{}
	t.Cleanup(wire.Close)
	wire.Inject(world.Fault{Match: said.hear})
	broker, err := wire.NATS("w", f.nats.URL())
	if err != nil {
		t.Fatal(err)
	}
	database, err := wire.Postgres("w", f.database)
	if err != nil {
		t.Fatal(err)
	}
	f.work("w", "--nats-url="+broker.URL(), "--database-url="+database.URL(), "--slots=1", "--heartbeat=1s", "--fence=2500ms", "--sweep-every=1h")
	f.submit("first", "--only=tables")
	f.delivered("first")

	start := len(said.since(0))
	f.submit("second", "--only=tables")
	second := f.delivered("second")
	var heard []world.Message
	var job, next []string
	f.eventually("the worker waits for its next job", func() error {
		heard = said.since(start)
		all := f.said(heard)
		over := slices.Index(all, "ack") + 1
		if job, next = all[:over], all[over:]; !slices.Contains(next, "next request") {
			return fmt.Errorf("it has said %q", all)
		}
		return nil
	})
	compare(t, "calls of stores", f.storeCalls("second"), wantCalls)
	compare(t, "messages to the broker", job, wantMessages)
	// It looks into both queues by turns, and then waits for a request.
	if !slices.Contains([]string{"next request", "next run, next request", "next request, next run, next request"}, strings.Join(next[:min(len(next), 3)], ", ")) {
		t.Errorf("then it says %q", next)
	}
	sessions, trips := 0, 0
	for _, m := range heard {
		switch {
		case !m.ToServer || m.Subject != "":
		case m.Kind == "startup":
			sessions++
		case m.Kind == "Q", m.Kind == "S":
			trips++
		}
	}
	if most := wantTrips + smallTables*wantTripsPerTable; sessions != 1 || trips > most {
		t.Errorf("%d sessions of the database, want 1, and %d round trips, at the most %d", sessions, trips, most)
	}
	t.Logf("%d round trips to the database", trips)
	f.eventually("the trace is sent", func() error {
		told := spans.trace(second.TraceID)
		if !slices.ContainsFunc(told, func(s span) bool { return s.Name == "process snapshot request" }) {
			return fmt.Errorf("%d spans so far", len(told))
		}
		if most := wantSpans + smallTables*wantSpansPerTable; len(told) > most {
			t.Errorf("%d spans, at the most %d:\n%s", len(told), most, tree(told))
		}
		return nil
	})
	t.Logf("%d spans", len(spans.trace(second.TraceID)))

	start = len(said.since(0))
	time.Sleep(3 * time.Second) // real time, because it is real silence that is listened to
	idle := f.said(said.since(start))
	if strange := slices.DeleteFunc(slices.Clone(idle), func(s string) bool { return s == "next run" || s == "next request" }); len(idle) > 2*4 || len(strange) > 0 {
		t.Errorf("an idle worker says in three heartbeats: %q", idle)
	}
}

func compare(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%d %s, want %d:\n%s", len(got), what, len(want), strings.Join(got, "\n"))
	}
}

// storeCalls are the requests to S3 and STS that were made for a job, sorted.
func (f *fleet) storeCalls(job string) (calls []string) {
	folder := contracts.JobPrefix(f.tenant, job)
	for _, c := range cloud.Calls() {
		name, ours := strings.CutPrefix(c.Key, folder)
		switch {
		case !strings.Contains(c.Principal, ":assumed-role/") && c.Operation != "AssumeRole":
		case c.Query.Get("RoleArn") == f.role && c.Query.Get("RoleSessionName") == "snapshot-"+job, c.Bucket == f.bucket && (ours || c.Query.Get("prefix") == folder):
			calls = append(calls, strings.TrimSpace(c.Operation+" "+name))
		}
	}
	slices.Sort(calls)
	return calls
}

// said is what was said to the broker, but for heartbeats, and pings and subscriptions, which nobody waits for.
func (f *fleet) said(all []world.Message) (names []string) {
	for _, m := range all {
		if !m.ToServer || m.Kind != "PUB" || string(m.Body) == "+WPI" {
			continue
		}
		name, again := f.message(m)
		if again && slices.Contains(names, name) {
			continue
		}
		names = append(names, name)
	}
	return names
}

// message says what a message to the broker is; again: a heartbeat says the same.
func (f *fleet) message(m world.Message) (name string, again bool) {
	is := func(part string) bool { return strings.Contains(m.Subject, part) }
	var r jobRecord
	switch {
	case is("CONSUMER.MSG.NEXT." + contracts.ScheduleStream):
		return "next run", false
	case is("CONSUMER.MSG.NEXT"):
		return "next request", false
	case is("STREAM.MSG.GET." + contracts.OutcomeStream):
		return "read the outcome", false
	case is("DIRECT.GET.KV_" + contracts.TenantBucket):
		return "read the tenant", false
	case is("DIRECT.GET.KV_"+contracts.FleetBucket) && is(".record."):
		return "read what the tenant was", false
	case is("DIRECT.GET.KV_" + contracts.PieceBucket):
		return "read the receipt", false
	case is("DIRECT.GET.KV_" + contracts.JobBucket):
		return "read the record", false
	case is(".receipt."):
		return "receipt", false
	case is(".sweep."):
		return "mark for the janitor", false
	case strings.HasPrefix(m.Subject, "$KV."+contracts.JobBucket) && json.Unmarshal(m.Body, &r) == nil:
		if name = "record " + r.State; r.State == "running" && len(r.Uploads) > 0 {
			name += " with an upload"
		}
		return name, true
	case is("snapshot.outcome."):
		return "outcome", false
	case strings.HasPrefix(m.Subject, acks):
		return strings.ToLower(strings.TrimPrefix(string(m.Body), "+")), true
	}
	return m.Subject, false
}
