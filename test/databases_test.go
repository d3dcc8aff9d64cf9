package test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/snapfleet/snapfleet/consumer"
	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/test/bucket"
	"github.com/snapfleet/snapfleet/test/world"
)

// login is a password in the URLs of these tests, which the servers do not ask for.
const login = "pw-of-a-database"

// withLogin is the URL with a password in it, that nobody may read anywhere.
func withLogin(url string) string { return strings.Replace(url, "postgres@", "postgres:"+login+"@", 1) }

// databases writes what --databases names, and returns the flag.
func databases(t *testing.T, all map[string]map[string]any) (flag string) {
	t.Helper()
	data, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(data), login) {
		t.Fatalf("there is no login in it: %s", data)
	}
	path := filepath.Join(t.TempDir(), "databases.json")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return "--databases=" + path
}

// anotherServer is a PostgreSQL of the test's own, with a database of that name.
func anotherServer(t *testing.T, name, script string, opts ...world.Option) (server *world.Postgres, url string) {
	t.Helper()
	server, err := world.StartPostgres(t.Context(), t.TempDir(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop() })
	if url, err = server.CreateDatabase(t.Context(), name); err == nil {
		err = sql(script)(t.Context(), url)
	}
	if err != nil {
		t.Fatal(err)
	}
	return server, url
}

// waits returns a job that waits in the queue without blame, and says why.
func (f *fleet) waits(job, says string) (s consumer.Status) {
	f.t.Helper()
	f.eventually("job "+job+" waits", func() (err error) {
		if s, err = f.jobs.Status(f.t.Context(), f.tenant, job); err == nil && !strings.Contains(s.LastError, says) {
			err = fmt.Errorf("it is %s: %s", s.State, s.LastError)
		}
		return err
	})
	if s.Errors+s.Crashes > 0 || s.Ended() {
		f.t.Errorf("job %s: %d errors, %d crashes: %s", job, s.Errors, s.Crashes, s.State)
	}
	return s
}

// TestManyDatabases: two tenants live on two servers, each of which has both schemas, with other rows. A job for a
// database that the workers do not know waits for one that does, says so to everybody who looks, and does not wait for
// ever.
func TestManyDatabases(t *testing.T) {
	t.Parallel()
	both := func(rows int) string {
		return fmt.Sprintf(`CREATE SCHEMA home_a; CREATE TABLE home_a.t AS SELECT generate_series(1, %d) AS n;
			CREATE SCHEMA home_b; CREATE TABLE home_b.t AS SELECT generate_series(1, %d) AS n`, rows, rows)
	}
	f := newFleet(t, "home_a", sql(both(10)))
	_, other := anotherServer(t, "elsewhere", both(20))
	eu1 := map[string]map[string]any{"eu-1": {"url": withLogin(other), "connections": 2}}
	first := f.work("first", databases(t, eu1))
	g := f.customer(t, "home_b", "--database=eu-1")

	for of, rows := range map[*fleet]int64{f: 10, g: 20} {
		of.submit("job", "--only=tables")
		if s := of.delivered("job"); s.Outcome.Totals.Rows != rows || s.Errors > 0 {
			t.Errorf("%s: %d rows are delivered, not %d", of.tenant, s.Outcome.Totals.Rows, rows)
		}
	}
	if out := g.run("tenant", "get", "home_b"); !strings.Contains(strings.Join(strings.Fields(out), " "), "database eu-1") {
		t.Errorf("tenant get says\n%s", out)
	}

	// Another name: the worker does not know it, and touches neither the customer's bucket nor a database.
	const unknown = `this worker knows no database "eu-9", only default, eu-1`
	g.set("--database=eu-9")
	probes := 0
	defer cloud.Inject(bucket.Fault{Match: func(c bucket.Call) bool {
		if g.request("waiting", create)(c) {
			probes++
		}
		return false
	}}).Remove()
	g.submit("waiting", "--only=tables")
	g.waits("waiting", unknown)
	g.tell("this worker knows no database", 2, first) // again and again
	if said := strings.Join(strings.Fields(g.run("status", "home_b", "waiting")), " "); !strings.Contains(said, unknown) || !strings.Contains(said, "--databases") {
		t.Errorf("status says %s", said)
	}
	if probes > 0 {
		t.Errorf("%d uploads were begun for nothing", probes)
	}
	second := f.work("second", databases(t, map[string]map[string]any{"eu-1": eu1["eu-1"], "eu-9": {"url": withLogin(other)}}))
	if s := g.delivered("waiting"); s.Outcome.Totals.Rows != 20 || s.Errors+s.Crashes > 0 {
		t.Errorf("%d rows, %d errors", s.Outcome.Totals.Rows, s.Errors)
	}
	for _, w := range []*process{first, second} {
		if err := w.stop(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if strings.Contains(w.said(), login) {
			t.Error("the log tells a login")
		}
	}

	hasty := f.work("hasty", "--deadline=2s", databases(t, eu1))
	g.submit("never", "--only=tables")
	s := g.await("never")
	if r := s.Outcome.Reason; s.Outcome.Kind != contracts.Failed || r.Code != contracts.DeadlineExceeded || !strings.Contains(r.What, unknown) || s.Errors > 0 {
		t.Errorf("a job for a database that nobody knows: %+v", s.Outcome)
	}
	if err := hasty.stop(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if strings.Contains(hasty.said(), login) {
		t.Error("the log tells a login")
	}

	// An operator who puts the name right need not ask again.
	f.work("third", databases(t, eu1))
	g.submit("mended", "--only=tables")
	g.waits("mended", unknown)
	g.set("--database=")
	if s := g.delivered("mended"); s.Outcome.Totals.Rows != 10 {
		t.Errorf("%d rows are delivered of the default database", s.Outcome.Totals.Rows)
	}
}

// TestReplica: a database is read from its hot standby. A job that is in the way of what its primary does, twice, is
// delivered from the primary; one that finds no standby is so at once.
func TestReplica(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "spared", func(context.Context, string) error { return nil })
	primary, url := anotherServer(t, "spared", `CREATE SCHEMA spared; CREATE TABLE spared.t AS SELECT n, md5(n::text) AS word FROM generate_series(1, 20000) n`,
		world.Primary(), world.Set("autovacuum", "off")) // whose snapshots would keep dead rows
	standby, err := primary.StartStandby(t.Context(), t.TempDir(), world.Set("max_standby_streaming_delay", "0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = standby.Stop() })
	w := f.work("w", "--chunk-size=8KiB", databases(t, map[string]map[string]any{"eu-1": {"url": withLogin(url), "replica_url": withLogin(standby.URL("spared"))}}))
	f.set("--database=eu-1")

	f.submit("calm", "--only=tables")
	f.delivered("calm")
	if !f.manifest("calm").Snapshot.Standby {
		t.Error("the primary was read")
	}

	there := connect(t, standby.URL("spared"))
	here := connect(t, url)
	hold := make(chan struct{})
	fault := cloud.Inject(bucket.Fault{Match: f.request("disturbed", create), Skip: 1, Times: 1, Hold: hold}) // the first is the probe's
	f.submit("disturbed", "--only=tables")
	for n := range 2 {
		select {
		case <-fault.Reached:
		case <-time.After(time.Minute):
			t.Fatalf("attempt %d does not upload", n+1)
		}
		if _, err := here.Exec(t.Context(), "UPDATE spared.t SET n = n"); err != nil {
			t.Fatal(err)
		}
		if _, err := here.Exec(t.Context(), "VACUUM spared.t"); err != nil {
			t.Fatal(err)
		}
		f.eventually("the standby ends our sessions", func() error {
			var left int
			err := there.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'snapfleet/%'").Scan(&left)
			if err == nil && left > 0 {
				err = fmt.Errorf("%d are left", left)
			}
			return err
		})
		release := hold
		hold = make(chan struct{})
		if n == 0 {
			fault = cloud.Inject(bucket.Fault{Match: f.request("disturbed", create), Skip: 1, Times: 1, Hold: hold})
		}
		close(release)
	}
	s := f.delivered("disturbed")
	if m := f.manifest("disturbed"); m.Snapshot.Standby || s.Errors != 2 || s.Outcome.Attempts != 3 || m.Totals.Rows != 20000 {
		t.Errorf("delivered from a standby: %t, after %d errors: %d rows; last error: %s", m.Snapshot.Standby, s.Errors, m.Totals.Rows, s.LastError)
	}
	for _, says := range []string{"max_standby_streaming_delay", "hot_standby_feedback"} {
		if !strings.Contains(w.said(), says) {
			t.Errorf("the log does not say what to do about it: %s", says)
		}
	}

	if err := standby.Stop(); err != nil {
		t.Fatal(err)
	}
	f.submit("alone", "--only=tables")
	if s := f.delivered("alone"); s.Errors > 0 || f.manifest("alone").Snapshot.Standby {
		t.Errorf("without a standby it takes %d errors", s.Errors)
	}
	if said := w.said(); !strings.Contains(said, `"database":"eu-1"`) || !strings.Contains(said, "the replica cannot be read: the primary is") || strings.Contains(said, login) {
		t.Errorf("the log does not say that the replica cannot be read, or tells more:\n%s", said)
	}
}
