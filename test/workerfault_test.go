package test

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
)

// unready is what a worker answers to a probe when it is not ready.
func (f *fleet) unready(p *process) (status int, body string) {
	f.t.Helper()
	address := regexp.MustCompile(`"listen":"([^"]+)"`).FindStringSubmatch(p.said())
	if address == nil {
		f.t.Fatalf("it does not listen:\n%s", p.said())
	}
	resp, err := http.Get("http://" + address[1] + "/readyz")
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // it is read
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// TestWorkerFault: three workers, one of which has something wrong that is its own. The other two deliver everything, no
// job has blame in its record, nothing is published against a customer, and the one says why it is not ready.
func TestWorkerFault(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "ours", little("ours"))
	for _, name := range []string{"good-1", "good-2"} {
		f.work(name, sweeping...)
	}
	stranger := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: httptest.NewTLSServer(nil).Certificate().Raw})
	wrongCA := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(wrongCA, stranger, 0o600); err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile(`/[^/?]+(\?|$)`)
	for _, tt := range []struct {
		name string
		env  []string
		args []string // default: as the other workers
		part contracts.FaultPart
		fix  string
	}{
		{"password", []string{"SNAPFLEET_DATABASE_URL=" + as(f.database, "mallory")}, nil, contracts.FaultDatabase, "--database-url"},
		{"database", []string{"SNAPFLEET_DATABASE_URL=" + name.ReplaceAllString(f.database, "/nowhere$1")}, nil, contracts.FaultDatabase, "--database-url"},
		{"keys", []string{"AWS_ACCESS_KEY_ID=", "AWS_SECRET_ACCESS_KEY="}, nil, contracts.FaultIdentity, "get-caller-identity"},
		{"secret", []string{"AWS_SECRET_ACCESS_KEY=another"}, nil, contracts.FaultIdentity, "get-caller-identity"},
		{"authority", []string{"AWS_CA_BUNDLE=" + wrongCA}, nil, contracts.FaultIdentity, "AWS_CA_BUNDLE"},
		{"endpoint", nil, []string{"--allow-endpoint=https://s3.example.com"}, contracts.FaultEndpoint, "--allow-endpoint"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := *f
			f.t, f.env = t, append(slices.Clone(f.env), tt.env...)
			if tt.args == nil {
				tt.args = []string{"--allow-endpoint=" + cloud.Endpoint()}
			}
			bad := f.workWithout("bad-"+tt.name, append(append([]string{"--listen=127.0.0.1:0"}, sweeping...), tt.args...)...)
			var jobs []string
			submit := func() {
				job := fmt.Sprintf("%s-%d", tt.name, len(jobs))
				f.submit(job, "--only=tables")
				jobs = append(jobs, job)
			}
			f.eventually("it is not ready, and says why", func() error {
				if tt.part == contracts.FaultEndpoint {
					submit() // nothing but a job shows what it lacks
				}
				status, body := f.unready(bad)
				if status != http.StatusServiceUnavailable || !strings.Contains(body, tt.fix) || !strings.Contains(body, "cause: ") {
					return fmt.Errorf("%d: %s", status, body)
				}
				return nil
			})
			for range 6 {
				submit()
			}
			for _, job := range jobs {
				if s := f.await(job); !s.Outcome.Kind.OK() || s.Errors != 0 || s.Crashes != 0 || strings.HasPrefix(s.Worker, "bad") {
					t.Errorf("%s: %+v", job, s)
				}
			}
			metrics := f.probe(bad, "/metrics")
			for _, want := range []string{"snapfleet_worker_ready 0", fmt.Sprintf(`snapfleet_worker_faults{part=%q} 1`, tt.part)} {
				if !strings.Contains(metrics, want) {
					t.Errorf("the metrics do not say %s", want)
				}
			}
			if err := bad.stop(syscall.SIGTERM); err != nil {
				t.Errorf("it ends with %v", err)
			}
			if n := strings.Count(bad.said(), "this worker has a fault"); n != 1 {
				t.Errorf("it says so %d times", n)
			}
		})
	}
	notices, err := f.js.Stream(t.Context(), contracts.NoticeStream)
	if err != nil {
		t.Fatal(err)
	}
	if n := notices.CachedInfo().State.Msgs; n > 0 {
		t.Errorf("%d notices: a customer is accused", n)
	}
	if letters := f.run("dead", "list", "--json"); strings.TrimSpace(letters) != "" {
		t.Errorf("dead letters:\n%s", letters)
	}
	f.check()
}

// TestCheckOfAWorkerWithoutIdentity: `tenant check` calls the worker's fault the worker's.
func TestCheckOfAWorkerWithoutIdentity(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "faulty", little("faulty"))
	f.env = append(f.env, "AWS_ACCESS_KEY_ID=", "AWS_SECRET_ACCESS_KEY=")
	bad := f.work("bad", "--check-every=1s", "--grace=10m")
	out, code := f.try(f.env, "tenant", "check", f.tenant, "--json")
	var check contracts.Check
	if err := json.Unmarshal([]byte(out[max(0, strings.IndexByte(out, '{')):]), &check); err != nil || code != 1 || check.Result() != contracts.CheckInconclusive || !strings.Contains(out, "the worker's AWS identity") {
		t.Errorf("it ends with %d, %v:\n%s", code, err, out)
	}
	// The job waits with its reason in the table, the detail and the JSON. A worker that stops does not wait for AWS.
	f.submit("job", "--only=tables")
	f.eventually("status says why it waits", func() error {
		for _, args := range [][]string{{"status", "--json"}, {"status", f.tenant, "job"}, {"status", f.tenant, "job", "--json"}} {
			if out := f.run(args...); !strings.Contains(out, "AWS identity") {
				return fmt.Errorf("snapfleet %s says\n%s", strings.Join(args, " "), out)
			}
		}
		return nil
	})
	if out := strings.Join(strings.Fields(f.run("status")), " "); !strings.Contains(out, "AWS") {
		t.Errorf("the table does not say why:\n%s", out)
	}
	f.run("cancel", f.tenant, "job")
	began := time.Now()
	if err := bad.stop(syscall.SIGTERM); err != nil {
		t.Errorf("it ends with %v", err)
	}
	if took := time.Since(began); took > time.Minute {
		t.Errorf("it took %v to stop, with nothing left but to give back", took)
	}
}

// TestRolesSayWhatIsMissing: each verb as each wrong role of deploy/nats, and without its inbox, ends at once and says
// which role, which flags.
func TestRolesSayWhatIsMissing(t *testing.T) {
	t.Parallel()
	g := newGuarded(t, "roles")
	for _, tt := range []struct {
		name, role, inbox string
		args              []string
	}{
		{"status without the inbox", "operator", "_INBOX", []string{"status"}},
		{"cancel without the inbox", "operator", "_INBOX", []string{"cancel", "roles", "job"}},
		{"tenant check without the inbox", "operator", "_INBOX", []string{"tenant", "check", "roles"}},
		{"worker without the inbox", "worker", "_INBOX", []string{"worker", "--listen="}},
		{"setup as the publisher", "publisher", "", []string{"setup"}},
		{"tenant set as the worker", "worker", "", []string{"tenant", "set", "roles", "--format=jsonl.gz"}},
		{"cancel as the reader", "reader", "", []string{"cancel", "roles", "waits"}},
		{"pause as the reader", "reader", "", []string{"pause", "roles", "--reason=x"}},
		{"status as the publisher", "publisher", "", []string{"status"}},
		{"submit as the reader", "reader", "", []string{"submit", "roles"}},
		{"submit and wait as the publisher", "publisher", "", []string{"submit", "roles", "--wait"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.args[0] == "cancel" && tt.role == "reader" {
				g.run("submit", "roles", "--job=waits", "--only=tables")
			}
			env := g.as(tt.role)
			if tt.inbox != "" {
				env = append(env, "SNAPFLEET_NATS_INBOX="+tt.inbox)
			}
			began := time.Now()
			out, code := g.try(env, tt.args...)
			text := strings.Join(strings.Fields(out), " ")
			for _, want := range []string{"NATS does not let this user", "cause: ", "fix: ", "--nats-inbox"} {
				if !strings.Contains(text, want) {
					t.Errorf("it does not say %q:\n%s", want, out)
				}
			}
			if code != 4 || strings.Contains(out, "on connection [") || strings.Contains(out, "deadline exceeded") {
				t.Errorf("it ends with %d:\n%s", code, out)
			}
			if took := time.Since(began); took > 20*time.Second { // 30 s is --timeout, 5 s the library's own
				t.Errorf("it took %v", took)
			}
		})
	}
	// A publisher publishes.
	out, code := g.try(g.as("publisher"), "submit", "roles", "--job=by-publisher", "--only=tables")
	if code != 0 || !strings.Contains(out, "by-publisher") {
		t.Errorf("submit as the publisher ends with %d:\n%s", code, out)
	}
	if s, err := g.jobs.Status(t.Context(), "roles", "by-publisher"); err != nil || s.State != "queued" {
		t.Errorf("%+v, %v", s, err)
	}
	// A worker with the operator's key starts, and is not ready.
	g.env = g.as("operator")
	p := g.work("operator", "--listen=127.0.0.1:0")
	g.eventually("it is not ready, and says why", func() error {
		status, body := g.unready(p)
		if status != http.StatusServiceUnavailable || !strings.Contains(body, "--nats-nkey") || !strings.Contains(body, "--nats-inbox") {
			return fmt.Errorf("%d: %s", status, body)
		}
		return nil
	})
}
