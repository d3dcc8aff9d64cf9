package main

import (
	"testing"

	"github.com/nats-io/nkeys"
)

// Who cannot be who they say they are is told so before anybody is asked.
func TestNATSFlagsThatCannotBeMeant(t *testing.T) {
	t.Parallel()
	account, err := nkeys.CreateAccount()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := account.Seed()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ flag, text string }{
		"no file":            {"--nats-nkey=/nonexistent/key", "/nonexistent/key"},
		"no seed":            {"--nats-nkey=" + file(t, "hunter"), "--nats-nkey: nkeys: no nkey seed found"},
		"an account's seed":  {"--nats-nkey=" + file(t, string(seed)), "--nats-nkey:"},
		"inbox of all":       {"--nats-inbox=_INBOX.>", `--nats-inbox: "_INBOX.>" is no prefix of subjects`},
		"inbox without name": {"--nats-inbox=", "is no prefix of subjects"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := snapfleet(t, nil, "status", c.flag)
			r.want(t, exitUsage, c.text)
		})
	}
	// A domain that is not there holds nothing.
	snapfleet(t, []string{"SNAPFLEET_NATS_URL=" + broker.URL()}, "status", "--nats-domain=nowhere").want(t, exitUnreachable, "no responders")
}
