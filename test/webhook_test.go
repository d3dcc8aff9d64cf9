package test

import (
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/cloudevents/sdk-go/v2/event"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/snapfleet/snapfleet/contracts"
)

const webhookSecret = "whsec_c25hcGZsZWV0LXdlYmhvb2stdGVzdC1zZWNyZXQtMQ=="

// receiver is an operator's own service, which the webhook posts to.
type receiver struct {
	t      *testing.T
	server *httptest.Server

	mu    sync.Mutex
	posts map[string][]event.Event // by what they are about
	held  map[string]chan struct{} // who wants to know that such a post has come; it is not answered then
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{t: t, posts: map[string][]event.Event{}, held: map[string]chan struct{}{}}
	r.server = httptest.NewTLSServer(r)
	t.Cleanup(r.server.Close)
	return r
}

func (r *receiver) ServeHTTP(_ http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		r.t.Error(err)
	}
	verifier, err := standardwebhooks.NewWebhook(webhookSecret)
	if err != nil {
		r.t.Error(err)
		return
	}
	if err := verifier.Verify(body, req.Header); err != nil {
		r.t.Errorf("the signature of a post: %v", err)
	}
	var e event.Event
	if err := errors.Join(json.Unmarshal(body, &e), e.Validate()); err != nil {
		r.t.Errorf("%s: %v", body, err)
	}
	r.mu.Lock()
	r.posts[e.Subject()] = append(r.posts[e.Subject()], e)
	held := r.held[e.Subject()]
	delete(r.held, e.Subject())
	r.mu.Unlock()
	if held != nil {
		close(held)
		<-req.Context().Done()
	}
}

// hold does not answer the next post of that job, and tells when it is there.
func (r *receiver) hold(about string) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.held[about] = make(chan struct{})
	return r.held[about]
}

func (r *receiver) got(about string) []event.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.posts[about]
}

// flags are what a worker needs to post here.
func (r *receiver) flags() []string {
	r.t.Helper()
	dir := r.t.TempDir()
	ca, key := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "secret")
	err := errors.Join(
		os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.server.Certificate().Raw}), 0o600),
		os.WriteFile(key, []byte(webhookSecret+"\n"), 0o600))
	if err != nil {
		r.t.Fatal(err)
	}
	return []string{"--webhook-url=" + r.server.URL + "/hook?key=hidden", "--webhook-secret-file=" + key, "--webhook-ca=" + ca, "--webhook-timeout=5s"}
}

// TestWebhook: whoever receives the events learns how every job ended, whatever happens to the worker that tells it,
// and jobs do not wait for a receiver.
func TestWebhook(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "webhook", little("webhook"))
	r := newReceiver(t)
	c := collect(t)
	f.env = append(f.env, c.environ()...)
	w := f.work("first", append(r.flags(), "--listen=127.0.0.1:0")...)
	about := func(job string) string { return f.tenant + "/" + job }
	told := func(job string) (e event.Event) {
		t.Helper()
		f.eventually("the receiver is told of "+job, func() error {
			posts := r.got(about(job))
			if len(posts) == 0 {
				return errors.New("it is not")
			}
			e = posts[len(posts)-1]
			return nil
		})
		return e
	}

	// One that is delivered, and one that fails because the customer has changed the external ID.
	f.submit("delivered", "--only=tables")
	delivered := f.delivered("delivered")
	f.grant("another-external-id-than-ours")
	f.submit("failed", "--only=tables")
	failed := f.await("failed")
	f.grant(f.record().Destination.ExternalID)
	for _, c := range []struct {
		job, kind string
		outcome   *contracts.Outcome
	}{{"delivered", "com.github.snapfleet.snapshot.delivered", delivered.Outcome}, {"failed", "com.github.snapfleet.snapshot.failed", failed.Outcome}} {
		e := told(c.job)
		var o contracts.Outcome
		if err := contracts.DecodeStrict(e.Data(), &o); err != nil {
			t.Fatal(err)
		}
		if e.Type() != c.kind || o.Kind != c.outcome.Kind || !o.EndedAt.Equal(c.outcome.EndedAt) || o.ManifestSHA256 != c.outcome.ManifestSHA256 {
			t.Errorf("%s is told as %s", c.job, e)
		}
		if parent, _ := e.Extensions()["traceparent"].(string); o.TraceID == "" || !strings.Contains(parent, o.TraceID) {
			t.Errorf("%s: traceparent %q, trace %s", c.job, parent, o.TraceID)
		}
	}

	f.eventually("each post has a trace of its own, which names the job's", func() error {
		linked := map[string]bool{}
		for _, s := range c.all() {
			for _, link := range s.Links {
				if s.Name == "post event" && len(s.ParentSpanId) == 0 && attributes(s.Attributes)["http.response.status_code"] == "200" {
					linked[hex.EncodeToString(link.TraceId)] = true
				}
			}
		}
		if len(linked) != 2 || !linked[delivered.TraceID] || !linked[failed.TraceID] {
			return fmt.Errorf("linked are %v", linked)
		}
		return nil
	})

	// The receiver hangs over one event: jobs are delivered and told all the same.
	came := r.hold(about("slow"))
	f.submit("slow", "--only=tables")
	<-came
	f.submit("quick", "--only=tables")
	f.delivered("quick")
	told("quick")
	f.eventually("the slow one is posted again", func() error {
		if n := len(r.got(about("slow"))); n < 2 {
			return fmt.Errorf("it came %d times", n)
		}
		return nil
	})
	f.eventually("the metrics count posts", func() error {
		body, err := metrics(w)
		if err == nil && !strings.Contains(body, `snapfleet_webhook_posts_total{result="accepted"} 4`) || !strings.Contains(body, `snapfleet_webhook_posts_total{result="unanswered"} 1`) {
			err = fmt.Errorf("they say\n%.3000s", body)
		}
		return err
	})

	// The worker is killed between the post and the acknowledgement.
	came = r.hold(about("killed"))
	f.submit("killed", "--only=tables")
	<-came
	if err := w.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	second := f.work("second", r.flags()...)
	f.eventually("another worker posts it again", func() error {
		posts := r.got(about("killed"))
		if len(posts) < 2 {
			return fmt.Errorf("it came %d times", len(posts))
		}
		if posts[0].ID() != posts[1].ID() {
			t.Errorf("under the ids %s and %s", posts[0].ID(), posts[1].ID())
		}
		return nil
	})
	for _, p := range []*process{w, second} {
		for _, secret := range []string{webhookSecret, "key=hidden", f.record().Destination.ExternalID} {
			if strings.Contains(p.said(), secret) {
				t.Errorf("a log tells %s", secret)
			}
		}
	}
	if n := len(r.got(about("delivered"))) + len(r.got(about("failed"))) + len(r.got(about("quick"))); n != 3 {
		t.Errorf("what was accepted at once came %d times instead of 3", n)
	}
}

// metrics are what a worker tells Prometheus.
func metrics(p *process) (string, error) {
	var started struct{ Listen string }
	for line := range strings.Lines(p.said()) {
		if strings.Contains(line, "worker started") {
			if err := json.Unmarshal([]byte(line), &started); err != nil {
				return "", err
			}
		}
	}
	resp, err := http.Get("http://" + started.Listen + "/metrics")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close() //nolint:errcheck // it was read
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}
