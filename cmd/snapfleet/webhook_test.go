package main

import (
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/snapfleet/snapfleet/contracts"
)

const (
	oneSigning   = "whsec_c25hcGZsZWV0LXdlYmhvb2stdGVzdC1zZWNyZXQtMQ=="
	hidden       = "whsec_hidden"
	otherSigning = "whsec_c25hcGZsZWV0LXdlYmhvb2stdGVzdC1zZWNyZXQtMg=="
)

// file is one with that content.
func file(t *testing.T, content string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// A worker and a test refuse the same flags, before anything is done, and say what to do.
func TestWebhookFlagsThatCannotBeMeant(t *testing.T) {
	t.Parallel()
	const url = "--webhook-url=https://ops.example.com/hook"
	given := []string{"SNAPFLEET_WEBHOOK_SECRET=" + oneSigning}
	for name, c := range map[string]struct {
		env, args []string
		texts     []string
	}{
		"no secret":              {nil, []string{url}, []string{"needs a secret to sign with", "neither --webhook-secret-file nor SNAPFLEET_WEBHOOK_SECRET has a secret", "openssl rand -base64 32"}},
		"empty secret":           {[]string{"SNAPFLEET_WEBHOOK_SECRET= "}, []string{url}, []string{"needs a secret to sign with", "fix:"}},
		"no file":                {nil, []string{url, "--webhook-secret-file=/nonexistent/secret"}, []string{"--webhook-secret-file: open /nonexistent/secret", "fix:"}},
		"empty file":             {given, []string{url, "--webhook-secret-file=" + file(t, "\n")}, []string{"needs a secret to sign with", "fix:"}},
		"secret that is none":    {[]string{"SNAPFLEET_WEBHOOK_SECRET=" + hidden}, []string{url}, []string{"secret 1 of 1: it is not whsec_", "fix:"}},
		"second that is none":    {nil, []string{url, "--webhook-secret-file=" + file(t, oneSigning+"\n"+hidden+"\n")}, []string{"secret 2 of 2"}},
		"three secrets":          {nil, []string{url, "--webhook-secret-file=" + file(t, strings.Repeat(oneSigning+"\n", 3))}, []string{"not 3"}},
		"http":                   {given, []string{"--webhook-url=http://ops.example.com/hook"}, []string{"only https is taken", "fix:"}},
		"not a URL":              {given, []string{"--webhook-url=ops.example.com"}, []string{"https://host/path", "fix:"}},
		"not a time":             {given, []string{url, "--webhook-timeout=1h"}, []string{"100ms to 1m"}},
		"not a URI":              {given, []string{url, "--webhook-source=%"}, []string{"no URI"}},
		"no authority":           {given, []string{url, "--webhook-ca=/nonexistent/ca"}, []string{"--webhook-ca: open /nonexistent/ca"}},
		"authority that is none": {given, []string{url, "--webhook-ca=" + file(t, "x")}, []string{"has no certificate in PEM"}},
		"secret without URL":     {nil, []string{"--webhook-secret-file=" + file(t, oneSigning)}, []string{"no --webhook-url", "fix:"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, verb := range [][]string{{"worker"}, {"webhook", "test"}} {
				env := append([]string{"SNAPFLEET_DATABASE_URL=postgres://u:" + secret + "@127.0.0.1:1/db"}, c.env...)
				r := snapfleet(t, env, append(verb, c.args...)...)
				r.want(t, exitUsage, c.texts...)
				if strings.Contains(r.out+r.err, hidden) || strings.Contains(r.out+r.err, oneSigning) {
					t.Errorf("a secret is shown:\n%s", r)
				}
			}
		})
	}
	snapfleet(t, nil, "webhook", "test").want(t, exitUsage, "--webhook-url is missing", "fix:")
}

// An operator tries the webhook, and sees what came back.
func TestWebhookIsTried(t *testing.T) {
	t.Parallel()
	verifier, err := standardwebhooks.NewWebhook(otherSigning)
	if err != nil {
		t.Fatal(err)
	}
	receiver := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if err := verifier.Verify(body, r.Header); err != nil {
			http.Error(w, "\x1b[31mwho are you?", http.StatusUnauthorized)
			return
		}
		var e struct{ ID, Type, Source string }
		if err := json.Unmarshal(body, &e); err != nil || e.Type != contracts.TestEvent || e.ID != r.Header.Get(contracts.HeaderWebhookID) || e.Source != "urn:example:fleet" {
			t.Errorf("%s: %v", body, err)
		}
		_, _ = io.WriteString(w, "thank you")
	}))
	t.Cleanup(receiver.Close)
	ca := file(t, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: receiver.Certificate().Raw})))
	args := []string{"webhook", "test", "--webhook-url=" + receiver.URL + "/hook?key=hidden", "--webhook-source=urn:example:fleet"}
	trusting := append(args, "--webhook-ca="+ca)

	both := file(t, oneSigning+"\n"+otherSigning+"\n")
	snapfleet(t, nil, append(trusting, "--webhook-secret-file="+both)...).want(t, exitOK, "event evt_", "answer 200 after", "body thank you")
	r := snapfleet(t, []string{"SNAPFLEET_WEBHOOK_SECRET=" + oneSigning + " " + otherSigning}, append(trusting, "--json")...)
	r.want(t, exitOK)
	var answer struct {
		Event  string
		Status int
		Body   string
	}
	if err := json.Unmarshal([]byte(r.out), &answer); err != nil || answer.Status != 200 || answer.Body != "thank you" {
		t.Errorf("%s: %v", r, err)
	}
	// The wrong secret; the file wins over the variable.
	r = snapfleet(t, []string{"SNAPFLEET_WEBHOOK_SECRET=" + otherSigning}, append(trusting, "--webhook-secret-file="+file(t, oneSigning))...)
	r.want(t, exitFailed, "answer 401 after", `body \x1b[31mwho are you?`, "status 401", "cause:", "fix: give both sides the same secret")
	if strings.Contains(r.out+r.err, "\x1b") || strings.Contains(r.out+r.err, "key=hidden") {
		t.Errorf("a stranger writes on the terminal, or the URL is shown:\n%q", r.out+r.err)
	}
	env := []string{"SNAPFLEET_WEBHOOK_SECRET=" + otherSigning}
	r = snapfleet(t, env, args...)
	r.want(t, exitUnreachable, "certificate", "fix:", "--webhook-ca")
	receiver.Close()
	r = snapfleet(t, env, trusting...)
	r.want(t, exitUnreachable, "connection refused", "fix:")
	if strings.Contains(r.err, "key=hidden") {
		t.Errorf("the URL is shown:\n%s", r.err)
	}
}
