package test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/snapfleet/snapfleet/consumer"
	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/test/bucket"
)

// often are a worker's flags that make it look for runs, and check destinations, all the time.
var often = []string{"--schedule-every=1s", "--check-every=2s", "--check-ahead=1h"}

// runs is an operator who runs the fleet, by every verb there is for it.
func (g *guarded) runs(ctx context.Context, t *testing.T) {
	g.pausesOverARun(ctx)
	g.replays(ctx, t)
	g.rotates(t)
	g.run("tenant", "check", g.tenant)
	g.eventually("a worker has checked the destination unasked", func() error {
		var checked struct{ Check consumer.Checkup }
		if err := json.Unmarshal([]byte(g.run("tenant", "get", g.tenant, "--json")), &checked); err != nil || checked.Check.Result != contracts.CheckOK {
			return fmt.Errorf("%w: %+v", err, checked)
		}
		return nil
	})
}

// pausesOverARun: a run is due while the tenant is paused. The worker asks for it, too, because nobody begins it; that
// needs a right of its own.
func (g *guarded) pausesOverARun(ctx context.Context) {
	g.run("pause", g.tenant, "--reason=a test")
	g.every(8)
	g.run("schedule", "list")
	g.run("schedule", "next", g.tenant)
	g.run("schedule", "check", g.tenant)
	g.run("pause", "--fleet", "--for=1h")
	g.run("resume", "--fleet")
	g.eventually("the worker asks for a run that is not begun", func() error {
		stream, err := g.js.Stream(ctx, contracts.ScheduleStream)
		if err != nil {
			return err
		}
		for seq := uint64(1); ; seq++ {
			m, err := stream.GetMsg(ctx, seq, jetstream.WithGetMsgSubject(contracts.RunSubject(g.tenant)))
			if err != nil {
				return err
			}
			if id := m.Header.Get(jetstream.MsgIDHeader); strings.HasSuffix(id, ".promised") || strings.HasSuffix(id, ".missed") {
				return nil
			}
			seq = m.Sequence
		}
	})
	g.run("resume", g.tenant)
	g.made(time.Time{})
	g.vanishes(ctx)
	g.clear()
}

// vanishes: a publisher cannot have the server remove a schedule. An operator can, and a worker sets it again.
func (g *guarded) vanishes(ctx context.Context) {
	stream, err := g.js.Stream(ctx, contracts.ScheduleStream)
	if err != nil {
		g.t.Fatal(err)
	}
	schedule := contracts.ScheduleSubject(g.tenant)
	was, err := stream.GetLastMsgForSubject(ctx, schedule)
	if err != nil {
		g.t.Fatal(err)
	}
	nc, v := g.connect("publisher")
	m := nats.NewMsg(contracts.RequestSubject(g.tenant))
	m.Data = []byte(fmt.Sprintf(`{"version":1,"tenant":%q,"job":"hostile","only":"tables","requested_at":%q}`, g.tenant, time.Now().Format(time.RFC3339)))
	m.Header.Set(jetstream.SchedulerHeader, schedule)
	m.Header.Set(jetstream.ScheduleNextHeader, "purge")
	if _, err := nc.RequestMsgWithContext(ctx, m); err != nil {
		g.t.Fatalf("%v, %q", err, v.all)
	}
	if now, err := stream.GetLastMsgForSubject(ctx, schedule); err != nil || now.Sequence != was.Sequence {
		g.t.Errorf("a publisher has removed a schedule: %v", err)
	}
	if err := stream.Purge(ctx, jetstream.WithPurgeSubject(schedule)); err != nil {
		g.t.Fatal(err)
	}
	g.eventually("the schedule is there again", func() error {
		now, err := stream.GetLastMsgForSubject(ctx, schedule)
		if err == nil && (now.Sequence == was.Sequence || string(now.Data) != string(was.Data)) {
			err = fmt.Errorf("message %d: %s", now.Sequence, now.Data)
		}
		return err
	})
}

// replays: a request that has waited too long.
func (g *guarded) replays(ctx context.Context, t *testing.T) {
	nc, v := g.connect("publisher")
	js, err := jetstream.NewWithDomain(nc, "snapfleet")
	if err != nil {
		t.Fatal(err)
	}
	body := fmt.Sprintf(`{"version":1,"tenant":%q,"job":"late","only":"tables","requested_at":"2020-01-01T00:00:00Z"}`, g.tenant)
	if _, err := js.Publish(ctx, contracts.RequestSubject(g.tenant), []byte(body)); err != nil {
		t.Fatalf("%v, %q", err, v.all)
	}
	var letter consumer.Letter
	g.eventually("it is a dead letter", func() error {
		return json.Unmarshal([]byte(g.run("dead", "list", g.tenant, "--json")), &letter)
	})
	seq := strconv.FormatUint(letter.Seq, 10)
	g.run("dead", "show", seq)
	if out, code := g.try(g.as("reader"), "dead", "show", seq); code != 0 || !strings.Contains(out, "request_expired") {
		t.Errorf("a reader's dead show ends with %d:\n%s", code, out)
	}
	g.run("dead", "replay", seq)
	g.delivered("late")
}

// rotates the tenant's external ID.
func (g *guarded) rotates(t *testing.T) {
	g.run("tenant", "rotate", g.tenant)
	g.run("tenant", "rotate", g.tenant, "--abandon")
	g.run("tenant", "rotate", g.tenant)
	next := g.record().Destination.NextExternalID
	g.obey()
	g.run("tenant", "rotate", g.tenant)
	if now := g.record().Destination; now.ExternalID != next || now.NextExternalID != "" {
		t.Errorf("%+v", now)
	}
	g.obey()
}

// obey is a customer who does what `snapfleet policy` says.
func (f *fleet) obey() {
	f.t.Helper()
	dir := f.t.TempDir()
	f.run("policy", f.tenant, "--account="+ourAccount, "--out="+dir)
	role := bucket.Role{ARN: f.role}
	for name, policy := range map[string]*string{"trust.json": &role.Trust, "permissions.json": &role.Policy} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			f.t.Fatal(err)
		}
		*policy = string(data)
	}
	if err := cloud.SetRole(role); err != nil {
		f.t.Fatal(err)
	}
}

// settle makes a bucket and a role of our own, and the house of them.
func (f *fleet) settle(name string) {
	f.t.Helper()
	role := "arn:aws:iam::" + ourAccount + ":role/" + name
	if err := cloud.CreateBucket(f.t.Context(), name, ourAccount); err != nil {
		f.t.Fatal(err)
	}
	out := f.run("setup", "--ack-wait=3s", "--house-bucket="+name, "--house-region="+cloud.Region(), "--house-role-arn="+role, "--house-endpoint="+cloud.Endpoint())
	policies := regexp.MustCompile(`(?s)Trust policy of the role:\n(.*)\n\nPermission policy of the role:\n(.*?\n}\n)`).FindStringSubmatch(out)
	if policies == nil {
		f.t.Fatalf("setup prints no policies:\n%s", out)
	}
	if err := cloud.SetRole(bucket.Role{ARN: role, Trust: policies[1], Policy: policies[2]}); err != nil {
		f.t.Fatal(err)
	}
}

// houses a tenant that has no bucket, and has a reader download what is delivered.
func (g *guarded) houses(t *testing.T) {
	g.settle("our-house")
	g.run("tenant", "set", "guest", "--schema="+g.tenant)
	g.run("submit", "guest", "--job=one", "--only=tables", "--wait")
	g.run("links", "guest", "one")
	reader := g.as("reader")
	out, code := g.try(reader, "links", "guest", "one", "--json")
	if code != 0 || !strings.Contains(out, "snapshot_tables_one.tar") {
		t.Errorf("a reader's links end with %d:\n%s", code, out)
	}
	dir := t.TempDir()
	if out, code := g.try(reader, "download", "guest", "one", "--to="+dir); code != 0 {
		t.Errorf("a reader's download ends with %d:\n%s", code, out)
	}
	if _, err := os.Stat(filepath.Join(dir, "guest", "one", contracts.ManifestName)); err != nil {
		t.Error(err)
	}
}

// refusals: verbs that are not for a reader. They say so, and change nothing.
func (g *guarded) refusals(t *testing.T) {
	env := g.as("reader")
	for _, line := range []string{
		"pause " + g.tenant, "resume " + g.tenant, "schedule set " + g.tenant + " --cron=@daily", "schedule clear " + g.tenant, "tenant list", "tenant rotate " + g.tenant,
		"policy " + g.tenant + " --account=" + ourAccount, "submit " + g.tenant + " --job=forged", "tenant check " + g.tenant, "dead replay 1 --again",
	} {
		began := time.Now()
		out, code := g.try(env, words(line)...)
		if code == 0 || time.Since(began) > 30*time.Second {
			t.Errorf("a reader's %s ends with %d after %v:\n%s", line, code, time.Since(began), out)
		}
		if strings.Contains(out, g.record().Destination.ExternalID) {
			t.Errorf("%s shows the external ID", line)
		}
	}
	if out, code := g.try(env, "schedule", "list"); code != 0 {
		t.Errorf("a reader's schedule list ends with %d:\n%s", code, out)
	}
}
