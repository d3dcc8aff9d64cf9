package test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/test/bucket"
)

// eavesdrop stands before STS, and learns the credentials that it gives.
func eavesdrop(t *testing.T) (endpoint string, secrets func() []string) {
	t.Helper()
	sts, err := url.Parse(cloud.STSEndpoint())
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var heard []string
	given := regexp.MustCompile(`<(?:SecretAccessKey|SessionToken)>([^<]+)<`)
	server := httptest.NewServer(&httputil.ReverseProxy{
		Transport: cloud.HTTPClient().Transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(sts)
			r.Out.Host = r.In.Host // it is signed
		},
		ModifyResponse: func(r *http.Response) error {
			body, err := io.ReadAll(r.Body)
			r.Body = io.NopCloser(bytes.NewReader(body))
			mu.Lock()
			defer mu.Unlock()
			for _, m := range given.FindAllSubmatch(body, -1) {
				heard = append(heard, string(m[1]))
			}
			return err
		},
	})
	t.Cleanup(server.Close)
	return server.URL, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return append([]string(nil), heard...)
	}
}

// TestNothingSecretIsTold plants secrets wherever a delivery meets one, lets it succeed and fail in every way that
// has a secret at hand, and looks for them in all that snapfleet says.
func TestNothingSecretIsTold(t *testing.T) {
	const canary, password, login = "c4n4ry", "p4ssw0rd-c4n4ry", "l0gin-c4n4ry"
	spans := collect(t)
	f := newFleet(t, "secretive", traced("secretive", "secretive-files", canary))
	sts, sessions := eavesdrop(t)
	f.env = append(f.env, spans.environ()...)
	f.env = append(f.env, "AWS_ENDPOINT_URL_STS="+sts)
	database, err := url.Parse(f.database)
	if err != nil {
		t.Fatal(err)
	}
	externalID := f.record().Destination.ExternalID

	told := map[string]string{} // by who told it
	query := func(id string) string {
		return "--attachments-query=SELECT " + id + ", entity_id, filename, content_type, s3_bucket, s3_key, s3_etag FROM {schema}.file_attachments"
	}
	refuse := func(operation, code string) *bucket.Fault {
		return &bucket.Fault{
			Reply: bucket.Reply{Status: http.StatusForbidden, Code: code},
			Match: func(c bucket.Call) bool { return c.Operation == operation && c.Bucket == f.bucket },
		}
	}
	for _, tt := range []struct {
		job   string
		code  contracts.Code // empty: it is delivered
		args  []string
		login string // default postgres
		host  string // default the right one
		fault *bucket.Fault
		trust string // the external ID that the customer's role wants; default ours
	}{
		{job: "delivered"},
		{job: "value-in-a-cast", code: contracts.AttemptsExhausted, args: []string{query("filename::int")}},
		{job: "value-in-an-exception", code: contracts.AttemptsExhausted, args: []string{query("public.complain(filename)")}},
		{job: "wrong-query", code: contracts.AttachmentsUnreadable, args: []string{query("nothing")}},
		{job: "forbidden-source", code: contracts.AttachmentForbidden, args: []string{"--attachments-query=SELECT id, entity_id, filename, content_type, s3_bucket, 'other/' || filename, s3_etag FROM {schema}.file_attachments"}},
		{job: "unknown-login", code: contracts.DeadlineExceeded, login: login, args: []string{"--deadline=8s"}},
		{job: "database-away", code: contracts.AttemptsExhausted, login: login, host: "127.0.0.1:1"},
		{job: "refused-token", code: contracts.AttemptsExhausted, fault: refuse("UploadPart", "InvalidAccessKeyId")},
		{job: "refused-write", code: contracts.WriteDenied, fault: refuse("CreateMultipartUpload", "AccessDenied")},
		{job: "refused-role", code: contracts.RoleDenied, trust: "another-external-id-0123456789"},
	} {
		t.Run(tt.job, func(t *testing.T) {
			f := *f
			f.t = t
			if tt.trust != "" {
				f.grant(tt.trust)
			}
			if tt.fault != nil {
				defer cloud.Inject(*tt.fault).Remove()
			}
			dsn := *database
			dsn.User, dsn.Host = url.UserPassword(cmp.Or(tt.login, "postgres"), password), cmp.Or(tt.host, dsn.Host)
			f.env = append(slices.Clone(f.env), "SNAPFLEET_DATABASE_URL="+dsn.String())
			w := f.work(tt.job, append([]string{"--log-level=debug", "--listen=127.0.0.1:0", "--attempts=2", "--attachments-source=secretive-files={tenant}/"}, tt.args...)...)
			f.submit(tt.job)
			s := f.await(tt.job)
			if code := s.Outcome.Reason; tt.code == "" && !s.Outcome.Kind.OK() || tt.code != "" && (code == nil || code.Code != tt.code) {
				t.Errorf("it ends as %s: %+v", s.Outcome.Kind, s.Outcome.Reason)
			}
			check, code := f.try(f.env, "tenant", "check", f.tenant)
			if well := tt.fault == nil && tt.trust == ""; well != (code == 0) {
				t.Errorf("the check ends with %d:\n%s", code, check)
			}
			told["check of "+tt.job] = check
			told["metrics of "+tt.job] = f.metrics(w)
			told["status of "+tt.job] = f.run("status", f.tenant, tt.job, "--json") + f.run("status", f.tenant, tt.job)
			_ = w.stop(syscall.SIGTERM)
			told["log of "+tt.job] = w.said()
		})
	}
	told["list"] = f.run("status") + f.run("status", "--json")
	told["spans"] = spans.raw.String()
	told["tenants"] = f.run("tenant", "list") + f.run("tenant", "list", "--json")
	for _, stream := range []string{contracts.OutcomeStream, contracts.DeadStream, contracts.NoticeStream, "KV_" + contracts.FleetBucket} {
		told[stream] = f.messages(stream)
	}
	manifest, err := json.Marshal(f.manifest("delivered"))
	if err != nil {
		t.Fatal(err)
	}
	told["manifest"] = string(manifest)

	secrets := append([]string{password, login, canary, externalID, worker.SecretKey}, sessions()...)
	if len(secrets) < 10 {
		t.Errorf("only %d secrets were planted", len(secrets))
	}
	for who, what := range told {
		if !strings.Contains(what, f.tenant) && !strings.Contains(what, "snapfleet_") {
			t.Errorf("the %s says nothing: %q", who, what)
		}
		if who == "manifest" { // it is the customer's: names of files belong there, and nothing else
			what = regexp.MustCompile(`"(filename|name|file|entity_id)":"[^"]*"`).ReplaceAllString(what, "")
		}
		for _, secret := range secrets {
			if at := strings.Index(what, secret); at >= 0 {
				t.Errorf("the %s tells a secret: %q", who, what[max(0, at-200):min(len(what), at+200)])
			}
		}
	}
}

// metrics is what Prometheus scrapes.
func (f *fleet) metrics(p *process) string {
	f.t.Helper()
	for _, line := range p.lines(f.t) {
		address, ok := line["listen"].(string)
		if !ok {
			continue
		}
		out, err := http.Get("http://" + address + "/metrics")
		if err != nil {
			f.t.Fatal(err)
		}
		defer out.Body.Close() //nolint:errcheck // it was read
		body, err := io.ReadAll(out.Body)
		if err != nil {
			f.t.Fatal(err)
		}
		return string(body)
	}
	f.t.Fatal("the worker does not say where it listens")
	return ""
}

// messages is everything in a stream.
func (f *fleet) messages(stream string) string {
	f.t.Helper()
	s, err := f.js.Stream(f.t.Context(), stream)
	if err != nil {
		f.t.Fatal(err)
	}
	info, err := s.Info(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	var b bytes.Buffer
	for seq := info.State.FirstSeq; seq <= info.State.LastSeq; seq++ {
		m, err := s.GetMsg(f.t.Context(), seq)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue // another has taken its place
		}
		if err != nil {
			f.t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s %v %s\n", m.Subject, m.Header, m.Data)
	}
	return b.String()
}
