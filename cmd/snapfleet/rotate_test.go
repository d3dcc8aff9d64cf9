package main

import (
	"strings"
	"testing"

	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/test/bucket"
)

// TestTenantRotate goes all the way from one external ID to the next one, with a role that means it.
func TestTenantRotate(t *testing.T) {
	s := newSite(t, "cmd_rotate")
	rotate := func(args ...string) result {
		t.Helper()
		return snapfleet(t, s.env, append([]string{"tenant", "rotate"}, args...)...)
	}
	// unchanged fails if the record is another one than before.
	unchanged := func(before checkedTenant) {
		t.Helper()
		if now := s.record("acme"); now.Destination != before.Destination || !now.UpdatedAt.Equal(before.UpdatedAt) {
			t.Errorf("the record was %+v and is %+v", before.Tenant, now.Tenant)
		}
	}
	old := s.record("acme").Destination.ExternalID
	s.trusts(old)

	rotate("nobody").want(t, exitNotFound, "tenant nobody is not registered")
	rotate("../x").want(t, exitUsage, "is not 1 to 63 of")
	rotate("acme", "--abandon").want(t, exitRejected, "no rotation", "fix:")

	rotate("acme").want(t, exitOK, "external ID "+old, "next external ID", "has to name both", "snapfleet policy acme --as=trust")
	begun := s.record("acme")
	next := begun.Destination.NextExternalID
	if begun.Destination.ExternalID != old || len(next) < 26 {
		t.Fatalf("begun: %+v", begun.Destination)
	}
	snapfleet(t, s.env, "tenant", "get", "acme").want(t, exitOK, "external ID "+old, "next external ID "+next)
	for _, args := range [][]string{{"tenant", "list"}, {"tenant", "list", "--json"}} {
		if r := snapfleet(t, s.env, args...); strings.Contains(r.out+r.err, next) || strings.Contains(r.out+r.err, old) {
			t.Errorf("the list shows an external ID:\n%s", r)
		}
	}
	rotate("acme").want(t, exitUnreachable, "no worker answers", "fix: start one")
	unchanged(begun)

	s.employ("--check-every=0", "--check-ahead=0")
	// The customer has not added the next one yet: nothing is changed, and deliveries go on.
	rotate("acme").want(t, exitRejected, "failed assume", "fix:", "Nothing is changed")
	unchanged(begun)
	snapfleet(t, s.env, "tenant", "check", "acme", "--next").want(t, exitRejected, "failed assume")
	snapfleet(t, s.env, "tenant", "check", "acme").want(t, exitOK)
	snapfleet(t, s.env, "submit", "acme", "--job=before", "--wait", "--only=tables").want(t, exitOK, "delivered: 2 tables")
	// The customer has added it, and forgotten the condition: the next one works, as any other does.
	s.trusts()
	rotate("acme").want(t, exitRejected, "failed refuse-without", "Nothing is changed")
	unchanged(begun)
	// Whether it works cannot be found out.
	s.trusts(old, next)
	snapfleet(t, s.env, "tenant", "set", "acme", "--endpoint=https://127.0.0.1:1").want(t, exitOK)
	elsewhere := s.record("acme")
	rotate("acme").want(t, exitFailed, "inconclusive bucket", "Nothing is changed")
	unchanged(elsewhere)
	snapfleet(t, s.env, "tenant", "set", "acme", "--endpoint="+s.aws.Endpoint()).want(t, exitOK)

	// Both are valid: it is switched, while a job is under way that began before.
	held := s.aws.Inject(bucket.Fault{Match: func(c bucket.Call) bool {
		return c.Operation == "UploadPart" && strings.HasPrefix(c.Key, "acme/during/")
	}, Hold: t.Context().Done()})
	snapfleet(t, s.env, "submit", "acme", "--job=during", "--only=tables").want(t, exitOK)
	<-held.Reached
	rotate("acme").want(t, exitOK, "All 10 steps of the check are ok", "external ID "+next, "until now "+old, "may remove the old one")
	if d := s.record("acme").Destination; d.ExternalID != next || d.NextExternalID != "" {
		t.Errorf("switched to %+v", d)
	}
	held.Remove()
	snapfleet(t, s.env, "status", "acme", "during", "--watch").want(t, exitOK, "delivered: 2 tables")
	if attempts := snapfleet(t, s.env, "status", "acme", "during", "--json").out; !strings.Contains(attempts, `"attempt": 1`) {
		t.Errorf("the job under way was begun again: %s", attempts)
	}

	// With only the new one in the trust policy deliveries go on.
	s.trusts(next)
	snapfleet(t, s.env, "submit", "acme", "--job=after", "--wait", "--only=tables").want(t, exitOK, "delivered: 2 tables")
	snapfleet(t, s.env, "tenant", "check", "acme").want(t, exitOK)

	// A rotation that is given up changes nothing.
	var another contracts.Tenant
	rotate("acme", "--json").want(t, exitOK, `"next_external_id"`)
	if another = s.record("acme").Tenant; another.Destination.NextExternalID == next || another.Destination.ExternalID != next {
		t.Errorf("begun again: %+v", another.Destination)
	}
	if r := rotate("acme", "--abandon"); strings.Contains(r.err, next) || r.code != exitOK {
		t.Errorf("abandoned:\n%s", r)
	}
	if d := s.record("acme").Destination; d.ExternalID != next || d.NextExternalID != "" {
		t.Errorf("abandoned: %+v", d)
	}
}
