package main

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/snapfleet/snapfleet/consumer"
	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/test/bucket"
)

const (
	role       = "arn:aws:iam::222222222222:role/snapfleet"
	customer   = "222222222222"
	trust      = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111111111111:root"},"Action":"sts:AssumeRole","Condition":{"StringEquals":{"sts:ExternalId":"EXTERNAL"}}}]}`
	permission = `{"Version":"2012-10-17","Statement":[
		{"Effect":"Allow","Action":["s3:GetObject","s3:PutObject","s3:DeleteObject","s3:AbortMultipartUpload","s3:ListMultipartUploadParts"],"Resource":"arn:aws:s3:::cmd-acme/*"},
		{"Effect":"Allow","Action":["s3:ListBucket","s3:ListBucketMultipartUploads"],"Resource":"arn:aws:s3:::cmd-acme"}]}`
)

// TestFleet walks through an operator's day with the real binary: nothing set up, set up, a tenant, a worker, a
// delivery, a refusal, an end.
func TestFleet(t *testing.T) {
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
	them := bucket.User{ARN: "arn:aws:iam::222222222222:user/auditor", AccessKey: "AKIACMDAUDITOR000000", SecretKey: "cmd/auditor/secret/cmd/auditor/secret/00", Policy: permission}
	for _, u := range []bucket.User{us, them} {
		if err := aws.AddUser(u); err != nil {
			t.Fatal(err)
		}
	}
	if err := aws.CreateBucket(t.Context(), "cmd-acme", customer); err != nil {
		t.Fatal(err)
	}
	env := append(source(t, "cmd_fleet", tenant), "SNAPFLEET_NATS_URL="+broker.URL())

	// Nothing is set up, and every verb says what to do.
	for _, args := range [][]string{{"status"}, {"submit", "acme"}, {"tenant", "list"}, {"cancel", "acme", "j"}} {
		snapfleet(t, env, args...).want(t, exitFailed, "fix: run `snapfleet setup`")
	}
	snapfleet(t, append(env, aws.Environ(us)...), "worker", "--listen=").want(t, exitFailed, "fix: run `snapfleet setup`")
	snapfleet(t, env, "setup").want(t, exitOK, "stream SNAPSHOT_REQUESTS: created")
	snapfleet(t, env, "setup").want(t, exitOK, "stream SNAPSHOT_REQUESTS: as it should be")
	snapfleet(t, env, "setup", "--replicas=3").want(t, exitFailed, "replicas")

	// The registry.
	snapfleet(t, env, "submit", "acme").want(t, exitNotFound, "tenant acme is not registered", "fix:")
	snapfleet(t, env, "tenant", "get", "acme").want(t, exitNotFound, "fix:")
	snapfleet(t, env, "tenant", "set", "acme", "--bucket=cmd-acme").want(t, exitRejected, "region", "fix:")
	snapfleet(t, env, "tenant", "list").want(t, exitOK, "No tenant is registered yet.")
	set := []string{"--bucket=cmd-acme", "--region=" + aws.Region(), "--role-arn=" + role, "--endpoint=" + aws.Endpoint()}
	snapfleet(t, env, append([]string{"tenant", "set", "acme"}, set...)...).want(t, exitOK, "external ID", "Send the external ID to the customer")
	first := record(t, env, "acme")
	snapfleet(t, env, "tenant", "set", "acme", "--volume-size=1GiB").want(t, exitOK, "volumes of 1.0 GiB")
	second := record(t, env, "acme")
	snapfleet(t, env, "tenant", "set", "acme", "--volume-size=").want(t, exitOK, "volumes of 50 GiB")
	snapfleet(t, env, "tenant", "set", "acme", "--volume-size=1GiB").want(t, exitOK, "volumes of 1.0 GiB")
	snapfleet(t, env, "tenant", "set", "acme", "--format=jsonl.gz").want(t, exitOK, "format jsonl.gz", "volumes of 1.0 GiB")
	snapfleet(t, env, "tenant", "get", "acme").want(t, exitOK, "format jsonl.gz")
	snapfleet(t, env, "tenant", "list").want(t, exitOK, "FORMAT", "jsonl.gz")
	brokenRecord(t, env)
	snapfleet(t, env, "tenant", "set", "acme", "--format=csv.gz").want(t, exitOK, "format csv.gz")
	if first.Destination != second.Destination || len(first.Destination.ExternalID) < 22 {
		t.Errorf("the destination was %+v and is %+v", first.Destination, second.Destination)
	}
	snapfleet(t, env, append([]string{"tenant", "set", "bare"}, set...)...).want(t, exitOK)
	if r := snapfleet(t, env, "tenant", "list", "--json"); strings.Contains(r.out, first.Destination.ExternalID) || strings.Count(r.out, "\n") != 2 {
		t.Errorf("two tenants, and no external ID:\n%s", r)
	}
	if err := aws.AddRole(bucket.Role{ARN: role, Trust: strings.ReplaceAll(trust, "EXTERNAL", first.Destination.ExternalID), Policy: permission}); err != nil {
		t.Fatal(err)
	}

	// A worker, and a delivery.
	worker, probes := startWorker(t, append(env, aws.Environ(us)...), "--allow-endpoint="+aws.Endpoint(), "--log-format=json", "--listen=127.0.0.1:0")
	r := snapfleet(t, env, "submit", "acme", "--job=j1", "--wait", "--only=tables")
	r.want(t, exitOK, "delivered: 2 tables, 5,000 rows", "s3://cmd-acme/acme/j1/manifest.json")
	if r.out != "j1\n" {
		t.Errorf("stdout is %q, want the job's id alone", r.out)
	}
	snapfleet(t, env, "status").want(t, exitOK, "acme j1 done 1 2/2 tables")
	snapfleet(t, env, "status", "acme", "j1").want(t, exitOK, "state delivered", "delivered: 2 tables")
	snapfleet(t, env, "status", "acme", "j1", "--watch").want(t, exitOK, "delivered: 2 tables")
	var status consumer.Status
	if err := json.Unmarshal([]byte(snapfleet(t, env, "status", "acme", "j1", "--watch", "--json").out), &status); err != nil || status.Outcome == nil {
		t.Errorf("one object with an outcome: %+v, %v", status, err)
	}
	snapfleet(t, append(aws.Environ(them), "AWS_REGION="+aws.Region()), "verify", "s3://cmd-acme/acme/j1/").want(t, exitOK, "proven: 2 tables, 5,000 rows")
	snapfleet(t, append(aws.Environ(us), "AWS_REGION="+aws.Region()), "verify", "s3://cmd-acme/acme/j1/").want(t, exitRejected, "S3 answers AccessDenied", "fix:")
	snapfleet(t, append(aws.Environ(them), "AWS_REGION="+aws.Region()), "verify", "s3://cmd-acme/acme/j2/").want(t, exitNotFound, "nothing is there")

	// Refusals. Each tenant has an external ID of its own, and the role knows that of acme.
	snapfleet(t, env, "submit", "acme", "--job=j1", "--only=attachments").want(t, exitRejected, "was asked for before, with other content", "fix:")
	snapfleet(t, env, "submit", "acme", "--job=j1", "--only=tables", "--format=jsonl.gz").want(t, exitRejected, "was asked for before, with other content", "fix:")
	snapfleet(t, env, "submit", "bare", "--job=j1", "--wait").want(t, exitJobFailed, "failed: ", "(role_denied)", "cause:", "fix:")
	snapfleet(t, env, "status", "bare", "j1").want(t, exitOK, "state failed", "(role_denied)")
	snapfleet(t, env, "status", "acme", "nope").want(t, exitNotFound, "no such job")
	snapfleet(t, env, "cancel", "acme", "nope").want(t, exitNotFound, "no such job")
	snapfleet(t, env, "cancel", "acme", "j1").want(t, exitRejected, "too late to cancel")

	if body := get(t, probes+"/metrics"); !strings.Contains(body, `snapfleet_jobs_total{outcome="delivered"} 1`) || !strings.Contains(body, "go_goroutines") {
		t.Errorf("the metrics lack the delivery:\n%.2000s", body)
	}
	if body := get(t, probes+"/readyz"); body != "ready\n" {
		t.Errorf("/readyz says %q", body)
	}
	if err := worker.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := worker.Wait(); err != nil {
		t.Errorf("a worker without work ends with %v", err)
	}

	// Nobody works: a job that was never begun can be cancelled.
	snapfleet(t, env, "submit", "acme", "--job=j3").want(t, exitOK, "j3")
	snapfleet(t, env, "status", "acme", "j3").want(t, exitOK, "state queued")
	snapfleet(t, env, "cancel", "acme", "j3").want(t, exitOK, "will be cancelled")
	snapfleet(t, env, "tenant", "remove", "bare").want(t, exitUsage, "give --yes")
	snapfleet(t, env, "tenant", "remove", "bare", "--yes").want(t, exitOK, "Tenant bare is removed.")
}

func record(t *testing.T, env []string, name string) (r contracts.Tenant) {
	t.Helper()
	if err := json.Unmarshal([]byte(snapfleet(t, env, "tenant", "get", name, "--json").out), &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// process is a running worker whose log is read to its end.
type process struct {
	*exec.Cmd
	drained chan struct{}
}

// Wait waits for the log's end first, as [exec.Cmd.StderrPipe] demands.
func (p *process) Wait() error {
	<-p.drained
	return p.Cmd.Wait()
}

// startWorker returns when the worker works, with the address of its probes.
func startWorker(t *testing.T, env []string, args ...string) (cmd *process, probes string) {
	t.Helper()
	worker, _, _ := command(t.Context(), env, append([]string{"worker"}, args...)...)
	worker.Stderr = nil
	log, err := worker.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := worker.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		var event struct{ Message, Listen string }
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
			t.Fatalf("no JSON: %s", lines.Text())
		}
		if event.Message == "worker started" {
			probes = "http://" + event.Listen
			break
		}
	}
	if probes == "" {
		t.Fatal("the worker did not start")
	}
	p := &process{Cmd: worker, drained: make(chan struct{})}
	go func() {
		defer close(p.drained)
		for lines.Scan() {
			if strings.Contains(lines.Text(), secret) || strings.Contains(lines.Text(), "X-Amz-") {
				t.Errorf("the log shows the password, or a link: %s", lines.Text())
			}
		}
	}()
	return p, probes
}

func get(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// brokenRecord puts a record that cannot be read beside acme's: it hides no other, and can be removed.
func brokenRecord(t *testing.T, env []string) {
	t.Helper()
	nc, err := nats.Connect(broker.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	registry, err := js.KeyValue(t.Context(), "snapshot_tenants")
	if err == nil {
		_, err = registry.Put(t.Context(), "broken", []byte(`{"version":1,"name":"broken\u001b[2J"}`))
	}
	if err != nil {
		t.Fatal(err)
	}
	r := snapfleet(t, env, "tenant", "list")
	r.want(t, exitRejected, "acme", "jsonl.gz", "tenant broken:", "snapfleet tenant remove broken")
	if strings.Contains(r.out+r.err, "\x1b") {
		t.Errorf("%q", r.out+r.err)
	}
	snapfleet(t, env, "tenant", "list", "--json").want(t, exitRejected, `"name":"acme"`, "tenant broken:")
	snapfleet(t, env, "tenant", "remove", "broken", "--yes").want(t, exitOK, "Tenant broken is removed.")
	snapfleet(t, env, "tenant", "list").want(t, exitOK, "acme")
}
