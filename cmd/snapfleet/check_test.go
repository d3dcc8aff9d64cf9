package main

import (
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/snapfleet/snapfleet/consumer"
	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/test/bucket"
	"github.com/snapfleet/snapfleet/test/world"
)

// customerSite is a customer's AWS account, an operator's fleet that is set up, and the tenant acme, whose role does not
// exist yet.
type customerSite struct {
	t      *testing.T
	aws    *bucket.Server
	nats   *world.NATS
	env    []string // of an operator
	worker []string // of a worker
}

func newSite(t *testing.T, database string) *customerSite {
	t.Helper()
	aws, err := bucket.Start(t.Context(), bucket.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := aws.Close(); err != nil {
			t.Error(err)
		}
	})
	us := bucket.User{
		ARN: "arn:aws:iam::111111111111:user/worker", AccessKey: "AKIACMDWORKER0000000", SecretKey: "cmd/worker/secret/cmd/worker/secret/0000",
		Policy: `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"sts:AssumeRole","Resource":"*"}]}`,
	}
	if err := aws.AddUser(us); err != nil {
		t.Fatal(err)
	}
	if err := aws.CreateBucket(t.Context(), "cmd-acme", customer); err != nil {
		t.Fatal(err)
	}
	server, err := world.StartNATS(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	s := &customerSite{t: t, aws: aws, nats: server, env: append(source(t, database, tenant), "SNAPFLEET_NATS_URL="+server.URL())}
	s.worker = append(s.env, aws.Environ(us)...)
	snapfleet(t, s.env, "setup").want(t, exitOK)
	s.register("acme", aws.Endpoint())
	return s
}

func (s *customerSite) register(name, endpoint string) {
	s.t.Helper()
	snapfleet(s.t, s.env, "tenant", "set", name, "--bucket=cmd-acme", "--region="+s.aws.Region(), "--role-arn="+role, "--endpoint="+endpoint).want(s.t, exitOK)
}

// trusts makes the customer's role trust us with these external IDs; with none of them, to whoever comes from our account.
func (s *customerSite) trusts(externalIDs ...string) {
	s.t.Helper()
	policy := strings.ReplaceAll(trust, `"EXTERNAL"`, `["`+strings.Join(externalIDs, `","`)+`"]`)
	if len(externalIDs) == 0 {
		policy = strings.ReplaceAll(trust, `,"Condition":{"StringEquals":{"sts:ExternalId":"EXTERNAL"}}`, "")
	}
	if err := s.aws.SetRole(bucket.Role{ARN: role, Trust: policy, Policy: permission}); err != nil {
		s.t.Fatal(err)
	}
}

// employ starts a worker that works until the test is over.
func (s *customerSite) employ(args ...string) (probes string) {
	s.t.Helper()
	args = append([]string{"--allow-endpoint=" + s.aws.Endpoint(), "--allow-endpoint=https://127.0.0.1:1", "--log-format=json", "--listen=127.0.0.1:0"}, args...)
	worker, probes := startWorker(s.t, s.worker, args...)
	s.t.Cleanup(func() { _ = worker.Wait() }) // it is killed with the test's context
	// Its service is there a moment after it works.
	within(s.t, "the worker answers", func() bool {
		return snapfleet(s.t, s.env, "tenant", "check", "acme").code != exitUnreachable
	})
	return probes
}

// within waits for ok.
func within(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("not within a minute: %s", what)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// record is what `tenant get` says, with the check.
func (s *customerSite) record(name string) (r checkedTenant) {
	s.t.Helper()
	if err := json.Unmarshal([]byte(snapfleet(s.t, s.env, "tenant", "get", name, "--json").out), &r); err != nil {
		s.t.Fatal(err)
	}
	return r
}

func TestTenantCheck(t *testing.T) {
	s := newSite(t, "cmd_check")
	check := func(args ...string) result {
		t.Helper()
		return snapfleet(t, s.env, append([]string{"tenant", "check"}, args...)...)
	}
	id := s.record("acme").Destination.ExternalID

	check().want(t, exitUsage, "give a tenant, or --all")
	check("acme", "--all").want(t, exitUsage, "leave the tenant and --next out")
	check("../x").want(t, exitUsage, "is not 1 to 63 of")
	check("nobody").want(t, exitNotFound, "tenant nobody is not registered", "fix:")
	check("acme", "--next").want(t, exitRejected, "no rotation of tenant acme's external ID is under way", "fix: begin one with `snapfleet tenant rotate acme`")
	check("acme").want(t, exitUnreachable, "no worker answers", "cause:", "fix: start one with `snapfleet worker`")
	check("--all").want(t, exitUnreachable, "no worker answers", "fix:")
	snapfleet(t, s.env, "tenant", "list").want(t, exitOK, "DESTINATION", "unknown")

	s.trusts(id)
	probes := s.employ("--check-every=0", "--check-ahead=0")

	// The role forgets to ask for the external ID: the step that says so is red, and those after it are not made.
	s.trusts()
	r := check("acme")
	r.want(t, exitRejected, "failed: 1 of 10 steps are ok", "cause:", "fix: add the condition StringEquals sts:ExternalId")
	lines := strings.Split(r.out, "\n")
	for _, step := range []struct{ name, result, below string }{
		{"assume", "ok", "failed"}, {"refuse-without", "failed", "    "}, {"bucket", "skipped", "skipped"}, {"outside-the-folder", "skipped", ""},
	} {
		found := false
		for i, line := range lines {
			if fields := strings.Fields(line); len(fields) > 1 && fields[1] == step.name {
				found = true
				if fields[0] != step.result || !strings.HasPrefix(lines[i+1], step.below) {
					t.Errorf("%s is not %s, or not followed by %q:\n%s", step.name, step.result, step.below, r)
				}
			}
		}
		if !found {
			t.Errorf("no line for %s:\n%s", step.name, r)
		}
	}
	if !strings.Contains(r.err, "acme: a worker checks the destination with the external ID") {
		t.Errorf("nobody sees that something happens: %s", r.err)
	}
	snapfleet(t, s.env, "tenant", "list").want(t, exitOK, "broken since 20")
	snapfleet(t, s.env, "tenant", "get", "acme").want(t, exitOK, "destination broken since 20", "by worker", "fix: add the condition")

	// Mended, it is green, and nothing is left in the bucket.
	s.trusts(id)
	check("acme").want(t, exitOK, "ok: 10 of 10 steps are ok", "ok outside-the-folder we may not write outside")
	r = check("acme", "--json")
	var report contracts.Check
	if err := json.Unmarshal([]byte(r.out), &report); err != nil || r.code != exitOK || report.Result() != contracts.CheckOK || len(report.Steps) != len(contracts.CheckNames) || report.Worker == "" {
		t.Errorf("the check is %+v, %v", report, err)
	}
	snapfleet(t, s.env, "tenant", "get", "acme").want(t, exitOK, "destination ok", "checked 20")
	if k := s.record("acme").Check; k.Result != contracts.CheckOK || k.At.IsZero() {
		t.Errorf("what is known is %+v", k)
	}

	// A store that does not answer is nothing against the customer, and no reason to feel safe.
	s.register("beta", "https://127.0.0.1:1")
	s.trusts(id, s.record("beta").Destination.ExternalID)
	check("beta").want(t, exitFailed, "inconclusive: ", "inconclusive bucket")
	s.register("gamma", s.aws.Endpoint()) // the role does not know it
	check("gamma", "--json").want(t, exitRejected, `"result": "failed"`, `"code": "role_denied"`)
	r = check("--all")
	r.want(t, exitRejected, "TENANT RESULT STEP WHY", "acme ok", "beta inconclusive bucket", "gamma failed assume")
	if r := check("--all", "--json"); r.code != exitRejected || strings.Count(r.out, "\n") != 3 {
		t.Errorf("three tenants, an object each: %s", r)
	}
	if r := snapfleet(t, s.env, "tenant", "list", "--json"); r.code != exitOK || strings.Contains(r.out, id) || strings.Count(r.out, `"check":{"result":`) != 2 {
		t.Errorf("three tenants, and something is known of two: %s", r)
	}
	snapfleet(t, s.env, "tenant", "remove", "gamma", "--yes").want(t, exitOK)
	check("--all").want(t, exitFailed, "acme ok", "beta inconclusive")
	if body := get(t, probes+"/metrics"); !strings.Contains(body, `snapfleet_checks_total{result="failed"}`) || !strings.Contains(body, `snapfleet_checks_total{result="ok"}`) {
		t.Errorf("the metrics lack the checks:\n%.3000s", body)
	}
}

// A destination that breaks is noticed without anybody asking, and so is that it is mended.
func TestDestinationThatBreaksIsNoticed(t *testing.T) {
	s := newSite(t, "cmd_checkup")
	id := s.record("acme").Destination.ExternalID
	s.trusts(id)
	nc, err := consumer.Connect(s.nats.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	probes := s.employ("--check-every=2s")
	within(t, "the destination is known to be well", func() bool { return s.record("acme").Check.Result == contracts.CheckOK })

	s.trusts("somebody-elses-external-id-0123")
	n := s.notice(nc, contracts.DestinationBroken)
	if n.Tenant != "acme" || n.Reason == nil || n.Reason.Code != contracts.RoleDenied || n.Reason.Fix == "" || n.Since.IsZero() || n.Since.After(n.At) {
		t.Errorf("told is %+v", n)
	}
	snapfleet(t, s.env, "tenant", "list").want(t, exitOK, "broken since 20")
	within(t, "the worker counts it", func() bool { return strings.Contains(get(t, probes+"/metrics"), "snapfleet_destinations_broken 1") })

	s.trusts(id)
	if m := s.notice(nc, contracts.DestinationMended); m.Reason != nil || !m.Since.Equal(n.Since) {
		t.Errorf("told is %+v", m)
	}
	snapfleet(t, s.env, "tenant", "list").want(t, exitOK, " ok")
	within(t, "the worker counts it", func() bool { return strings.Contains(get(t, probes+"/metrics"), "snapfleet_destinations_broken 0") })
}

// notice waits for the first notice of a kind, and fails if there is a second one.
func (s *customerSite) notice(nc *nats.Conn, kind contracts.NoticeKind) (n contracts.Notice) {
	s.t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		s.t.Fatal(err)
	}
	stream, err := js.Stream(s.t.Context(), contracts.NoticeStream)
	if err != nil {
		s.t.Fatal(err)
	}
	subject := contracts.NoticeSubject("acme", kind)
	within(s.t, string(kind), func() bool {
		m, err := stream.GetLastMsgForSubject(s.t.Context(), subject)
		return err == nil && json.Unmarshal(m.Data, &n) == nil
	})
	info, err := stream.Info(s.t.Context(), jetstream.WithSubjectFilter(subject))
	if err != nil || info.State.Subjects[subject] != 1 {
		s.t.Errorf("%d notices that it is %s, %v", info.State.Subjects[subject], kind, err)
	}
	return n
}

// Whoever waits for an answer sees it, and may stop waiting.
func TestTenantCheckIsInterrupted(t *testing.T) {
	s := newSite(t, "cmd_interrupted")
	nc, err := consumer.Connect(s.nats.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	asked := make(chan *nats.Msg, 2)
	if _, err := nc.ChanSubscribe(contracts.AskSubject("check"), asked); err != nil { // and never answers
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"tenant", "check", "acme"}, {"tenant", "check", "--all"}} {
		cmd, out, stderr := command(t.Context(), s.env, args...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		m := <-asked
		if string(m.Data) != `{"tenant":"acme"}` {
			t.Errorf("the question is %s", m.Data)
		}
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // the exit code says it
		result{out.String(), stderr.String(), cmd.ProcessState.ExitCode()}.want(t, exitInterrupted, "the destination", "snapfleet: interrupted")
	}
}
