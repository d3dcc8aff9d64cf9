package test

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/snapfleet/snapfleet/consumer"
	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/test/world"
)

// A server with a configuration file is this program, started once more.
func init() { world.ServeNATS() }

// inboxes are the roles, and where each hears answers; apis is how the subjects of JetStream's API begin for it.
var (
	inboxes = map[string]string{"worker": "_INBOX_worker", "operator": "_INBOX_operator", "publisher": "_INBOX", "reader": "_INBOX"}
	apis    = map[string]string{"worker": "$JS.API.", "operator": "$JS.API.", "publisher": "$JS.snapfleet.API.", "reader": "$JS.snapfleet.API."}
	domains = map[string]string{"publisher": "snapfleet", "reader": "snapfleet"}
)

// guarded is a fleet whose broker runs with deploy/nats. What the fleet does, it does as the operator.
type guarded struct {
	*fleet
	dir     string
	urls    string   // of the broker
	environ []string // what its configuration takes from the environment
	ca      string
	seeds   map[string]string // files, by role
}

// newGuarded has one nats-server.
func newGuarded(t *testing.T, tenant string) *guarded {
	t.Helper()
	g := prepareGuarded(t, tenant)
	var err error
	if g.nats, err = world.StartNATS(t.TempDir(), world.WithConfig(filepath.Join(root, "deploy", "nats", "nats.conf"), g.environ...)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.nats.Stop)
	g.urls = g.nats.URL()
	g.begin("--ack-wait=3s")
	return g
}

// write keeps something for the servers and the roles.
func (g *guarded) write(name string, content []byte) (file string) {
	g.t.Helper()
	file = filepath.Join(g.dir, name)
	if err := os.WriteFile(file, content, 0o600); err != nil {
		g.t.Fatal(err)
	}
	return file
}

// prepareGuarded makes what the servers' configuration needs: a certificate, and the roles' keys.
func prepareGuarded(t *testing.T, tenant string) *guarded {
	t.Helper()
	g := &guarded{fleet: &fleet{t: t, tenant: tenant}, dir: t.TempDir(), seeds: map[string]string{}}
	certificate, key := loopbackCertificate(t)
	g.ca = g.write("ca.pem", certificate)
	g.environ = []string{"SNAPFLEET_NATS_STORE=" + filepath.Join(g.dir, "elsewhere"), "SNAPFLEET_NATS_CERT=" + g.ca, "SNAPFLEET_NATS_KEY=" + g.write("key.pem", key)}
	for role := range inboxes {
		pair, err := nkeys.CreateUser()
		if err != nil {
			t.Fatal(err)
		}
		seed, err := pair.Seed()
		if err != nil {
			t.Fatal(err)
		}
		public, err := pair.PublicKey()
		if err != nil {
			t.Fatal(err)
		}
		g.seeds[role] = g.write(role+".nk", seed)
		g.environ = append(g.environ, "SNAPFLEET_"+strings.ToUpper(role)+"_NKEY="+public)
	}
	return g
}

// begin makes the tenant, once the broker is there.
func (g *guarded) begin(setup ...string) {
	t, ctx := g.t, g.t.Context()
	t.Helper()
	var err error
	if g.database, err = postgres.CreateDatabase(ctx, g.tenant); err != nil {
		t.Fatal(err)
	}
	if err := little(g.tenant)(ctx, g.database); err != nil {
		t.Fatal(err)
	}
	g.env = g.as("operator")
	g.run(append([]string{"setup"}, setup...)...)
	g.enrol(g.tenant)
	nc, _ := g.connect("operator")
	if g.js, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	if g.jobs, err = consumer.OpenJobs(ctx, g.js); err != nil {
		t.Fatal(err)
	}
}

// loopbackCertificate is one for 127.0.0.1 that is its own authority, and its key.
func loopbackCertificate(t *testing.T) (certificate, key []byte) {
	t.Helper()
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	der, err := x509.MarshalPKCS8PrivateKey(server.TLS.Certificates[0].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// as is the environment of a snapfleet process of that role.
func (g *guarded) as(role string) []string {
	return append(cloud.Environ(worker), "SNAPFLEET_DATABASE_URL="+g.database, "HOME="+g.t.TempDir(), "PATH="+os.Getenv("PATH"),
		"SNAPFLEET_NATS_URL="+g.urls, "SNAPFLEET_NATS_CA="+g.ca, "SNAPFLEET_NATS_NKEY="+g.seeds[role], "SNAPFLEET_NATS_INBOX="+inboxes[role], "SNAPFLEET_NATS_DOMAIN="+domains[role])
}

// violations are what a server has refused to one connection.
type violations struct {
	mu  sync.Mutex
	all []string
}

func (v *violations) note(_ *nats.Conn, _ *nats.Subscription, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if errors.Is(err, nats.ErrPermissionViolation) {
		v.all = append(v.all, err.Error())
	}
}

func (v *violations) has(text string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.ContainsFunc(v.all, func(s string) bool { return strings.Contains(s, text) })
}

// connect is a program of that role that knows nothing of snapfleet.
func (g *guarded) connect(role string) (*nats.Conn, *violations) {
	g.t.Helper()
	v := new(violations)
	key, err := nats.NkeyOptionFromSeed(g.seeds[role])
	if err != nil {
		g.t.Fatal(err)
	}
	nc, err := nats.Connect(g.urls, key, nats.RootCAs(g.ca), nats.CustomInboxPrefix(inboxes[role]), nats.ErrorHandler(v.note))
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(nc.Close)
	return nc, v
}

// TestAccess: with the shipped configuration of the server each role can do its work, and nothing else.
func TestAccess(t *testing.T) {
	t.Parallel()
	g := newGuarded(t, "access")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()

	// The worker and the operator. The worker has a webhook, too.
	r := newReceiver(t)
	workers := &fleet{}
	*workers = *g.fleet
	workers.env = g.as("worker")
	w := workers.work("worker", append(r.flags(), often...)...)
	g.run("tenant", "list")
	g.run("tenant", "check", g.tenant)
	g.run("tenant", "check", "--all")
	g.submit("one", "--only=tables")
	g.delivered("one")
	g.run("status")
	g.run("status", g.tenant, "one", "--watch")
	if out, code := g.try(g.env, "cancel", g.tenant, "one"); code != 4 || !strings.Contains(out, "too late") {
		t.Errorf("cancel ends with %d:\n%s", code, out)
	}
	g.run("setup", "--ack-wait=3s")
	g.eventually("the webhook is told", func() error {
		if len(r.got(g.tenant+"/one")) == 0 {
			return errors.New("it is not")
		}
		return nil
	})

	t.Run("an operator runs the fleet", func(t *testing.T) { g.runs(ctx, t) })
	t.Run("a tenant without a bucket is delivered to the house", g.houses)
	t.Run("a publisher asks and learns how it ended", func(t *testing.T) { g.publishes(ctx, t) })
	t.Run("a reader sees jobs and outcomes and asks for links", func(t *testing.T) { g.reads(ctx, t) })
	if out, code := g.try(slices.DeleteFunc(g.as("reader"), func(v string) bool { return strings.HasPrefix(v, "SNAPFLEET_NATS_NKEY=") }), "status"); code != 7 || !strings.Contains(out, "Authorization Violation") {
		t.Errorf("nobody's status ends with %d:\n%s", code, out)
	}
	if said := w.said(); strings.Contains(strings.ToLower(said), "permissions violation") {
		t.Errorf("the worker needs what it has no right to:\n%s", said)
	}

	before := g.everything(ctx, t)
	t.Run("a reader changes nothing", g.refusals)
	for role, acts := range forbidden(g.tenant) {
		nc, v := g.connect(role)
		for subject, body := range acts.publish {
			api, ok := strings.CutPrefix(subject, "$JS.API.")
			if ok {
				subject = apis[role] + api
			}
			t.Run(role+" publishes "+subject, func(t *testing.T) {
				if err := errors.Join(nc.PublishRequest(subject, nc.NewRespInbox(), []byte(body)), nc.FlushWithContext(ctx)); err != nil {
					t.Fatal(err)
				}
				g.refused(t, v, fmt.Sprintf("Publish to %q", subject))
			})
		}
		for _, subject := range acts.subscribe {
			t.Run(role+" listens to "+subject, func(t *testing.T) {
				_, err := nc.SubscribeSync(subject)
				if err := errors.Join(err, nc.FlushWithContext(ctx)); err != nil {
					t.Fatal(err)
				}
				g.refused(t, v, fmt.Sprintf("Subscription to %q", subject))
			})
		}
	}
	for _, role := range []string{"reader", "publisher"} {
		t.Run(role+" has answers sent to where nobody but others may publish", func(t *testing.T) { g.misdirects(ctx, t, role) })
	}
	if after := g.everything(ctx, t); !maps.Equal(before, after) {
		t.Errorf("something was changed:\n%v\n%v", before, after)
	}
}

func (g *guarded) refused(t *testing.T, v *violations, what string) {
	t.Helper()
	g.eventually("a permissions violation: "+what, func() error {
		if !v.has(what) {
			return fmt.Errorf("only %q", v.all)
		}
		return nil
	})
}

// publishes is an application with a NATS client and nothing else.
func (g *guarded) publishes(ctx context.Context, t *testing.T) {
	nc, v := g.connect("publisher")
	js, err := jetstream.NewWithDomain(nc, "snapfleet")
	if err != nil {
		t.Fatal(err)
	}
	outcomes, err := nc.SubscribeSync(contracts.OutcomeSubject(g.tenant, "*"))
	if err != nil {
		t.Fatal(err)
	}
	body := fmt.Sprintf(`{"version":1,"tenant":%q,"job":"two","only":"tables","requested_at":%q}`, g.tenant, time.Now().Format(time.RFC3339))
	for _, duplicate := range []bool{false, true} {
		ack, err := js.Publish(ctx, contracts.RequestSubject(g.tenant), []byte(body), jetstream.WithMsgID(contracts.RequestMsgID(g.tenant, "two")))
		if err != nil || ack.Stream != contracts.RequestStream || ack.Duplicate != duplicate {
			t.Fatalf("%+v, %v", ack, err)
		}
	}
	heard, err := outcomes.NextMsgWithContext(ctx)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(ctx, contracts.OutcomeStream)
	if err != nil {
		t.Fatal(err)
	}
	read, err := stream.GetLastMsgForSubject(ctx, contracts.OutcomeSubject(g.tenant, "two"))
	if err != nil || string(read.Data) != string(heard.Data) {
		t.Fatalf("%v: heard %s", err, heard.Data)
	}
	var o contracts.Outcome
	if err := json.Unmarshal(read.Data, &o); err != nil || o.Kind != contracts.Delivered {
		t.Errorf("%+v, %v", o, err)
	}
	g.refusedRequest(ctx, t, nc, js)
	if len(v.all) > 0 {
		t.Errorf("%q", v.all)
	}
}

// reads is a reader with the binary, and one with a NATS client.
func (g *guarded) reads(ctx context.Context, t *testing.T) {
	env := g.as("reader")
	for _, args := range [][]string{{"status"}, {"status", g.tenant}, {"status", g.tenant, "one"}, {"status", g.tenant, "one", "--watch", "--json"}, {"status", g.tenant, "nothing"}} {
		out, code := g.try(env, args...)
		if want := strings.Contains(strings.Join(args, " "), "nothing"); (code == 3) != want || !want && (code != 0 || !strings.Contains(out, "one")) {
			t.Errorf("%v ends with %d:\n%s", args, code, out)
		}
		if strings.Contains(out, g.record().Destination.ExternalID) {
			t.Errorf("%v shows the external ID", args)
		}
	}
	// A worker answers across accounts.
	at, _ := g.connect("worker")
	if _, err := at.QueueSubscribe("snapshot.ask.links", contracts.WorkersName, func(m *nats.Msg) { _ = m.Respond([]byte("links of " + string(m.Data))) }); err != nil {
		t.Fatal(err)
	}
	if err := at.FlushWithContext(ctx); err != nil {
		t.Fatal(err)
	}
	for _, role := range []string{"reader", "operator"} {
		nc, v := g.connect(role)
		// The worker's own service may be there, too: somebody answers.
		if m, err := nc.RequestWithContext(ctx, "snapshot.ask.links", []byte(`{}`)); err != nil || len(m.Data)+len(m.Header) == 0 {
			t.Errorf("%s: %v, %q", role, err, v.all)
		}
	}
}

// misdirects asks for what the role may have, and names a subject for the answer where others write. Without accounts
// the server would publish there on behalf of the asker.
func (g *guarded) misdirects(ctx context.Context, t *testing.T, role string) {
	nc, _ := g.connect(role)
	answers := map[string]string{"$JS.API.STREAM.MSG.GET." + contracts.OutcomeStream: `{"seq":1}`, "$JS.API.STREAM.INFO." + contracts.OutcomeStream: ""}
	if role == "reader" {
		answers["$JS.API.DIRECT.GET.KV_"+contracts.JobBucket+".$KV."+contracts.JobBucket+"."+g.tenant+".one"] = ""
		answers["$JS.API.DIRECT.GET.KV_"+contracts.JobBucket] = `{"seq":1,"batch":10}`
	}
	for subject, body := range answers {
		subject = strings.Replace(subject, "$JS.API.", apis[role], 1)
		for _, to := range []string{"$KV." + contracts.TenantBucket + "." + g.tenant, contracts.RequestSubject(g.tenant), contracts.OutcomeSubject(g.tenant, "forged"), contracts.ScheduleSubject(g.tenant)} {
			if err := nc.PublishRequest(subject, to, []byte(body)); err != nil {
				t.Fatal(err)
			}
		}
		// The same question with an answer that is heard: the ones before it have been answered, too.
		if m, err := nc.RequestWithContext(ctx, subject, []byte(body)); err != nil {
			t.Errorf("%s: %v, %v", subject, m, err)
		}
	}
	if role == "publisher" {
		g.misdirectsAcks(ctx, t, nc)
	}
}

// misdirectsAcks: also the acknowledgement of what is published is an answer. It gets into no stream. Other publishers hear
// it on the subject of an outcome, because they share an account, and cannot take it for one.
func (g *guarded) misdirectsAcks(ctx context.Context, t *testing.T, nc *nats.Conn) {
	other, _ := g.connect("publisher")
	heard, err := other.SubscribeSync(contracts.OutcomeSubject(g.tenant, "forged"))
	if err := errors.Join(err, other.FlushWithContext(ctx)); err != nil {
		t.Fatal(err)
	}
	body := fmt.Sprintf(`{"version":1,"tenant":%q,"job":"two","only":"tables","requested_at":%q}`, g.tenant, time.Now().Format(time.RFC3339))
	for _, to := range []string{"$KV." + contracts.TenantBucket + "." + g.tenant, contracts.OutcomeSubject(g.tenant, "forged")} {
		m := &nats.Msg{Subject: contracts.RequestSubject(g.tenant), Data: []byte(body), Reply: to, Header: nats.Header{"Nats-Msg-Id": {contracts.RequestMsgID(g.tenant, "two")}}}
		if err := errors.Join(nc.PublishMsg(m), nc.FlushWithContext(ctx)); err != nil {
			t.Fatal(err)
		}
	}
	m, err := heard.NextMsgWithContext(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var o contracts.Outcome
	if err := json.Unmarshal(m.Data, &o); err == nil && (o.Version != 0 || o.Tenant != "" || o.Job != "" || o.Kind != "") {
		t.Errorf("an acknowledgement passes for an outcome: %s", m.Data)
	}
}

// refusedRequest: a publisher whose request is no request learns of it, and ends no job.
func (g *guarded) refusedRequest(ctx context.Context, t *testing.T, nc *nats.Conn, js jetstream.JetStream) {
	refusals, err := nc.SubscribeSync(contracts.RefusedSubject(g.tenant))
	if err != nil {
		t.Fatal(err)
	}
	forged := fmt.Sprintf(`{"version":1,"tenant":%q,"job":"two","only":"attachments","requested_at":%q}`, g.tenant, time.Now().Format(time.RFC3339))
	for what, body := range map[string]string{"garbage": "garbage", "another wish for a job that is delivered": forged} {
		ack, err := js.Publish(ctx, contracts.RequestSubject(g.tenant), []byte(body))
		if err != nil {
			t.Fatal(err)
		}
		heard, err := refusals.NextMsgWithContext(ctx)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		stream, err := js.Stream(ctx, contracts.RefusedStream)
		if err != nil {
			t.Fatal(err)
		}
		read, err := stream.GetLastMsgForSubject(ctx, contracts.RefusedSubject(g.tenant))
		if err != nil || string(read.Data) != string(heard.Data) {
			t.Errorf("%s: %v: heard %s", what, err, heard.Data)
		}
		var r contracts.Refusal
		if err := json.Unmarshal(heard.Data, &r); err != nil || r.Sequence != ack.Sequence || r.Reason.Code == "" {
			t.Errorf("%s: %+v, %v", what, r, err)
		}
	}
	g.delivered("two")
}

// everything is how much was ever written to each stream and bucket that nobody writes to while a fleet is idle.
func (g *guarded) everything(ctx context.Context, t *testing.T) map[string]uint64 {
	t.Helper()
	last := map[string]uint64{}
	for _, name := range []string{contracts.RequestStream, contracts.OutcomeStream, contracts.DeadStream, "KV_" + contracts.TenantBucket} {
		s, err := g.js.Stream(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		i := s.CachedInfo()
		last[name], last[name+" consumers"] = i.State.LastSeq, uint64(i.State.Consumers)
	}
	return last
}

// acts are what a role must not be able to do.
type acts struct {
	publish   map[string]string // bodies, by subject
	subscribe []string
}

func forbidden(tenant string) map[string]acts {
	const get = `{"seq":1}`
	destroy := func(a map[string]string) map[string]string { // nobody may
		for _, stream := range []string{contracts.RequestStream, contracts.OutcomeStream, contracts.DeadStream, contracts.RefusedStream, contracts.NoticeStream, "KV_" + contracts.JobBucket, "KV_" + contracts.PieceBucket, "KV_" + contracts.TenantBucket, "KV_" + contracts.FleetBucket} {
			a["$JS.API.STREAM.DELETE."+stream] = ""
			a["$JS.API.STREAM.MSG.DELETE."+stream] = get
			a["$JS.API.STREAM.SNAPSHOT."+stream] = `{"deliver_subject":"_INBOX.x"}`
			if stream != contracts.RequestStream {
				a["$JS.API.STREAM.PURGE."+stream] = ""
			}
		}
		a["$JS.API.STREAM.CREATE.MIRROR"] = `{"name":"MIRROR","mirror":{"name":"KV_` + contracts.TenantBucket + `"}}`
		a["$JS.API.CONSUMER.DELETE."+contracts.RequestStream+"."+contracts.WorkersName] = ""
		a["$JS.API.CONSUMER.PAUSE."+contracts.RequestStream+"."+contracts.WorkersName] = `{"pause_until":"2100-01-01T00:00:00Z"}`
		a["$JS.API.CONSUMER.CREATE."+contracts.OutcomeStream+".x"] = `{"stream_name":"SNAPSHOT_OUTCOMES","config":{"name":"x","deliver_subject":"$KV.snapshot_tenants.x","ack_policy":"none"}}`
		a["$SYS.REQ.SERVER.PING"] = ""
		return a
	}
	tenants, external := "KV_"+contracts.TenantBucket, "$KV."+contracts.TenantBucket+"."+tenant
	registry := func(a map[string]string) map[string]string { // every way to see an external ID
		a["$JS.API.DIRECT.GET."+tenants+"."+external] = ""
		a["$JS.API.DIRECT.GET."+tenants] = `{"multi_last":["$KV.` + contracts.TenantBucket + `.>"]}`
		a["$JS.API.STREAM.MSG.GET."+tenants] = get
		a["$JS.API.STREAM.INFO."+tenants] = ""
		a["$JS.API.CONSUMER.CREATE."+tenants] = `{"stream_name":"` + tenants + `","config":{"deliver_subject":"_INBOX.x","ack_policy":"none"}}`
		a["$JS.API.CONSUMER.CREATE."+tenants+".x."+external] = `{"stream_name":"` + tenants + `","config":{"name":"x","filter_subject":"` + external + `","deliver_subject":"_INBOX.x","ack_policy":"none"}}`
		a["$JS.API.CONSUMER.DURABLE.CREATE."+tenants+".x"] = `{"stream_name":"` + tenants + `","config":{"durable_name":"x","ack_policy":"explicit"}}`
		a["$JS.API.CONSUMER.MSG.NEXT."+tenants+".x"] = ""
		a[external] = "{}"
		// and the house's
		a["$JS.API.DIRECT.GET."+tenants+".$KV."+contracts.TenantBucket+"."+contracts.HouseKey] = ""
		a["$JS.API.DIRECT.GET."+tenants+".$KV."+contracts.TenantBucket+"."+contracts.FleetKeyKey] = ""
		a["$KV."+contracts.TenantBucket+"."+contracts.FleetKeyKey] = "{}"
		a["$KV."+contracts.TenantBucket+"."+contracts.HouseKey] = "{}"
		return a
	}
	rows := func(a map[string]string) map[string]string { // every way to see contents of tenants' rows
		pieces, piece := "KV_"+contracts.PieceBucket, "$KV."+contracts.PieceBucket+"."+tenant+".one.receipt.1.0"
		a["$JS.API.DIRECT.GET."+pieces+"."+piece] = ""
		a["$JS.API.DIRECT.GET."+pieces] = `{"seq":1,"batch":10}`
		a["$JS.API.STREAM.MSG.GET."+pieces] = get
		a["$JS.API.CONSUMER.CREATE."+pieces] = `{"stream_name":"` + pieces + `","config":{"deliver_subject":"_INBOX.x","ack_policy":"none"}}`
		a["$JS.API.CONSUMER.CREATE."+pieces+".x."+piece] = `{"stream_name":"` + pieces + `","config":{"name":"x","filter_subject":"` + piece + `","deliver_subject":"_INBOX.x","ack_policy":"none"}}`
		a[piece] = "{}"
		return a
	}
	writes := func(a map[string]string) map[string]string { // what belongs to the fleet
		a[contracts.OutcomeSubject(tenant, "forged")] = "{}"
		a[contracts.DeadSubject(tenant)], a[contracts.RefusedSubject(tenant)] = "{}", "{}"
		a[contracts.NoticeSubject(tenant, contracts.DestinationBroken)] = "{}"
		a[contracts.ScheduleSubject(tenant)], a[contracts.RunSubject(tenant)] = "{}", "{}"
		a["$KV."+contracts.JobBucket+"."+tenant+".one"] = "{}"
		for _, key := range []string{"pause.fleet", "pause.tenant." + tenant, "run." + tenant, "success." + tenant, "check." + tenant, "replay.1", "timekeeper"} {
			a["$KV."+contracts.FleetBucket+"."+key] = "{}"
		}
		a["$JS.API.CONSUMER.MSG.NEXT."+contracts.RequestStream+"."+contracts.WorkersName] = ""
		a["$JS.ACK."+contracts.RequestStream+"."+contracts.WorkersName+".1.1.1.1.0"] = "+TERM"
		a["$JS.API.CONSUMER.MSG.NEXT."+contracts.ScheduleStream+"."+contracts.WorkersName] = ""
		a["$JS.API.STREAM.PURGE."+contracts.RequestStream], a["$JS.API.STREAM.PURGE."+contracts.ScheduleStream] = "", ""
		a["$JS.API.STREAM.UPDATE."+contracts.RequestStream] = "{}"
		a["$JS.API.CONSUMER.CREATE.KV_"+contracts.JobBucket+".x"] = `{"stream_name":"KV_snapshot_jobs","config":{"name":"x","deliver_subject":"$KV.snapshot_tenants.x","ack_policy":"none"}}`
		return a
	}
	none := func() map[string]string { return map[string]string{} }
	publisher := writes(rows(registry(destroy(none()))))
	publisher["$JS.API.DIRECT.GET.KV_"+contracts.JobBucket+".$KV."+contracts.JobBucket+"."+tenant+".one"] = ""
	publisher["$JS.API.STREAM.MSG.GET."+contracts.RequestStream] = get
	publisher["$JS.API.STREAM.MSG.GET."+contracts.DeadStream] = get
	publisher["snapshot.ask.check"], publisher["snapshot.ask.links"], publisher["$SRV.PING"] = "{}", "{}", ""
	reader := writes(rows(registry(destroy(none()))))
	reader[contracts.RequestSubject(tenant)], reader["snapshot.ask.check"], reader["$SRV.PING"] = "{}", "{}", ""
	worker := destroy(none())
	worker[external], worker[contracts.RequestSubject(tenant)], worker["snapshot.ask.check"], worker["snapshot.ask.links"] = "{}", "{}", "{}", "{}"
	worker["$KV."+contracts.TenantBucket+"."+contracts.HouseKey] = "{}"
	worker["$KV."+contracts.TenantBucket+"."+contracts.FleetKeyKey] = "{}"
	worker["$JS.API.STREAM.PURGE."+contracts.ScheduleStream], worker["$JS.API.STREAM.UPDATE."+contracts.ScheduleStream] = "", "{}"
	worker["$JS.API.STREAM.UPDATE.KV_"+contracts.TenantBucket], worker["$JS.API.STREAM.PURGE."+contracts.RequestStream] = "{}", ""
	worker["$JS.API.STREAM.CREATE."+contracts.RequestStream] = "{}"
	operator := rows(destroy(none()))
	operator[contracts.OutcomeSubject(tenant, "forged")], operator[contracts.DeadSubject(tenant)], operator[contracts.NoticeSubject(tenant, contracts.DestinationBroken)] = "{}", "{}", "{}"
	operator["$JS.API.CONSUMER.MSG.NEXT."+contracts.RequestStream+"."+contracts.WorkersName] = ""
	operator["$JS.API.STREAM.PURGE."+contracts.RequestStream], operator[contracts.RunSubject(tenant)] = "", "{}"
	operator["$JS.ACK."+contracts.RequestStream+"."+contracts.WorkersName+".1.1.1.1.0"] = "+TERM"
	everywhere := []string{">", "*", "$JS.>", "$KV.>", "_INBOX_>", "$SYS.>", "snapshot.>", "snapshot.request.*", "$KV." + contracts.TenantBucket + ".>", "$KV." + contracts.JobBucket + ".>"}
	listen := func(more ...string) []string { return append(slices.Clone(everywhere), more...) }
	return map[string]acts{
		"publisher": {publisher, listen("_INBOX_worker.>", "_INBOX_operator.>", "snapshot.notice.*.*", "snapshot.ask.*")},
		"reader":    {reader, listen("_INBOX_worker.>", "_INBOX_operator.>", "snapshot.ask.*", "snapshot.ask.links", "snapshot.refused.*", "$KV."+contracts.PieceBucket+".>")},
		"worker":    {worker, listen("_INBOX.>", "_INBOX_operator.>", "snapshot.notice.*.*")},
		"operator":  {operator, listen("_INBOX.>", "_INBOX_worker.>", "snapshot.ask.*", "$SRV.>")},
	}
}
