package consumer

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/test/world"
)

// What deploy/capacity.md says of the broker is measured here: go test ./consumer -run '^$' -bench Fleet -benchtime 2000x

// noWork delivers nothing, at once: what is left is what a job costs the broker, and the worker that talks to it.
type noWork struct{ exports }

func (noWork) Delivered(context.Context, contracts.Attempt) (*contracts.FoundDelivery, error) {
	return nil, nil
}
func (noWork) Complete(context.Context, contracts.Attempt, contracts.Receipt) error { return nil }
func (noWork) Seal(context.Context, contracts.Attempt, contracts.Receipt) error     { return nil }
func (noWork) Abort(context.Context, contracts.Attempt, []contracts.Upload) error   { return nil }
func (noWork) Prepare(ctx context.Context, a contracts.Attempt, j Journal) (contracts.Receipt, error) {
	u := contracts.Upload{Name: contracts.VolumeName(contracts.Tables, a.Request.Job, 0), ID: "upload", Size: 1 << 20}
	m := contracts.Manifest{
		Version: contracts.ManifestVersion, Tenant: a.Tenant.Name, Job: a.Request.Job, Attempt: a.ID, Only: a.Request.Only, Format: a.Format(),
		Volumes: []contracts.Volume{{Name: u.Name, Kind: contracts.Tables, Size: u.Size}},
	}
	for i := range 50 { // as much as a manifest says of 50 tables
		m.Tables = append(m.Tables, contracts.Table{Name: fmt.Sprintf("table_%d", i), Columns: []contracts.Column{{Name: "id", Type: "bigint", NotNull: true}, {Name: "name", Type: "text"}}})
	}
	return contracts.Receipt{Version: contracts.ReceiptVersion, Attempt: a.ID, Uploads: []contracts.Upload{u}, Manifest: must(m.Encode())}, j.Upload(ctx, u)
}

// yard is a broker in a process of its own, that syncs, and tenants that it knows.
type yard struct {
	js     jetstream.JetStream
	server *world.NATS
}

func openYard(b testing.TB, tenants int) *yard {
	b.Helper()
	server, err := world.StartNATS(b.TempDir(), world.AsProcess(), world.WithSync(), world.WithMonitoring())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(server.Stop)
	nc := must(Connect(server.URL()))
	b.Cleanup(nc.Close)
	y := &yard{js: must(jetstream.New(nc)), server: server}
	must(Setup(b.Context(), y.js, SetupOptions{}))
	registry := must(OpenRegistry(b.Context(), y.js))
	for i := range tenants {
		if err := registry.Set(b.Context(), tenant(fmt.Sprintf("t%d", i))); err != nil {
			b.Fatal(err)
		}
	}
	return y
}

// TestCheckupsAreReadAtOnce: every worker looks at what is known of all destinations every few minutes. A question for
// each tenant would keep a broker busy for nothing.
func TestCheckupsAreReadAtOnce(t *testing.T) {
	t.Parallel()
	const many = 200
	y := openYard(t, 0)
	c := y.worker(t, Config{})
	for i := range many {
		k := checkup{Checkup: Checkup{Result: contracts.CheckOK, At: time.Now().UTC()}}
		if i%10 == 0 {
			k.Result = contracts.CheckFailed
		}
		if err := c.writeCell(t.Context(), checkupKeyOf(fmt.Sprintf("t%d", i)), k, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.fleet.Delete(t.Context(), checkupKeyOf("t7")); err != nil {
		t.Fatal(err)
	}
	before := y.account(t)
	known, err := c.checkupsKnown(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	asked := y.account(t)[1] - before[1]
	if len(known) != many-1 || known["t10"].Result != contracts.CheckFailed || known["t11"].Result != contracts.CheckOK {
		t.Errorf("%d cells are known: %+v", len(known), known)
	}
	if asked > many/10 {
		t.Errorf("the server was asked %.0f things about %d tenants", asked, many)
	}
}

// worker has a connection of its own.
func (y *yard) worker(b testing.TB, cfg Config) *Consumer {
	b.Helper()
	nc := must(Connect(y.server.URL()))
	b.Cleanup(nc.Close)
	cfg.CheckEvery, cfg.CheckAhead = -1, -1
	return must(New(b.Context(), nc, noWork{}, cfg))
}

// account is what the server has done so far: s of CPU, messages in and out, bytes on its disk.
func (y *yard) account(b testing.TB) (a [4]float64) {
	b.Helper()
	tasks, _ := filepath.Glob("/proc/self/task/*/children")
	for _, children := range tasks {
		data, _ := os.ReadFile(children)
		for _, pid := range strings.Fields(string(data)) {
			stat, err := os.ReadFile("/proc/" + pid + "/stat")
			if err != nil {
				continue
			}
			field := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
			for _, ticks := range field[11:13] {
				a[0] += must(strconv.ParseFloat(ticks, 64)) / 100
			}
		}
	}
	answer, err := http.Get(y.server.MonitoringURL() + "/varz")
	if err != nil {
		b.Fatal(err)
	}
	defer answer.Body.Close() //nolint:errcheck // it is read
	var varz struct {
		In  float64 `json:"in_msgs"`
		Out float64 `json:"out_msgs"`
	}
	if err := json.NewDecoder(answer.Body).Decode(&varz); err != nil {
		b.Fatal(err)
	}
	a[1], a[2] = varz.In, varz.Out
	a[3] = float64(must(y.js.AccountInfo(b.Context())).Store)
	return a
}

// BenchmarkFleet is jobs of no work, which wait in the queue already.
func BenchmarkFleet(b *testing.B) {
	for _, workers := range []int{1, 2, 4} {
		b.Run(fmt.Sprintf("workers=%d", workers), func(b *testing.B) {
			y := openYard(b, 50)
			for i := range b.N {
				req := requestOf(fmt.Sprintf("t%d", i%50), fmt.Sprintf("job%d", i))
				must(y.js.Publish(b.Context(), contracts.RequestSubject(req.Tenant), must(json.Marshal(req))))
			}
			before := y.account(b)
			ctx, stop := context.WithCancel(b.Context())
			var busy sync.WaitGroup
			b.ResetTimer()
			for i := range workers {
				c := y.worker(b, Config{Worker: fmt.Sprintf("w%d", i), Slots: 8, PerTenant: 8})
				busy.Go(func() { _ = c.Run(ctx) })
			}
			requests := must(y.js.Stream(ctx, contracts.RequestStream))
			for must(requests.Info(ctx)).State.Msgs > 0 {
				pause(ctx, 20*time.Millisecond)
			}
			b.StopTimer()
			after := y.account(b)
			stop()
			busy.Wait()
			for i, unit := range []string{"broker-ms/job", "in/job", "out/job", "disk-B/job"} {
				b.ReportMetric((after[i]-before[i])/float64(b.N)*[]float64{1000, 1, 1, 1}[i], unit)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
		})
	}
}

// BenchmarkFleetRounds is one round of what one worker does for all of b.N tenants, whether or not there is something to
// do: once a minute for schedules, every five for what has ended, and for destinations.
func BenchmarkFleetRounds(b *testing.B) {
	y := openYard(b, b.N)
	c := y.worker(b, Config{})
	schedules := must(OpenSchedules(b.Context(), y.js))
	for i := range b.N {
		name, job := fmt.Sprintf("t%d", i), "night"
		s := schedule("0 2 * * *", "UTC")
		s.Tenant = name
		must(schedules.Set(b.Context(), s))
		now := time.Now().UTC()
		r := record{Version: recordVersion, State: done, Request: requestOf(name, job), CreatedAt: now, UpdatedAt: now, EndedAt: now}
		must(c.records.Create(b.Context(), recordKey(name, job), must(json.Marshal(r))))
		must(c.records.Create(b.Context(), sweepKey(name, job), []byte("{}")))
		for key, v := range map[string]any{
			runKey(name): lastRun{Job: job, ScheduledRun: contracts.ScheduledRun{FiredAt: now}}, successKey(name): success{Job: job, At: now},
			checkupKeyOf(name): checkup{Checkup: Checkup{Result: contracts.CheckOK, At: now}},
		} {
			if err := c.writeCell(b.Context(), key, v, 0); err != nil {
				b.Fatal(err)
			}
		}
	}
	for _, round := range []struct {
		name string
		do   func() error
	}{
		{"janitor", func() error { return c.sweepAll(b.Context()) }},
		{"schedules", func() error { return c.lookAtSchedules(b.Context()) }},
		{"checkups-known", func() error { _, err := c.checkupsKnown(b.Context()); return err }},
	} {
		before, began := y.account(b), time.Now()
		if err := round.do(); err != nil {
			b.Fatal(err)
		}
		took, after := time.Since(began), y.account(b)
		b.ReportMetric(float64(took.Microseconds())/float64(b.N), round.name+"-µs")
		b.ReportMetric((after[1]-before[1])/float64(b.N), round.name+"-in")
		b.ReportMetric((after[0]-before[0])/float64(b.N)*1e6, round.name+"-broker-µs")
	}
}
