package uploader

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"testing"

	"github.com/snapfleet/snapfleet/contracts"
	testbucket "github.com/snapfleet/snapfleet/test/bucket"
)

func TestFencedWorkerGetsNoCredentials(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	lost := errors.New("lease lost")
	ctx, fence := context.WithCancelCause(t.Context())
	s, err := c.uploader().open(ctx, c.attempt)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.list(t.Context()); err != nil {
		t.Fatal(err)
	}
	fence(lost)
	b := s.(*bucket)
	b.creds.Invalidate()
	if _, err := s.list(t.Context()); !errors.Is(err, lost) {
		t.Fatalf("got %v", err)
	}
}

// Sessions of seconds: not parallel, because they are the server's, and everybody's.
func TestCredentialsExpireUnderWay(t *testing.T) {
	c := newCustomer(t)
	d, err := c.uploader().Begin(t.Context(), c.attempt, &journal{})
	if err != nil {
		t.Fatal(err)
	}
	m, a := archives()
	if err := d.Write(t.Context(), a[0]); err != nil {
		t.Fatal(err)
	}
	server.ExpireSessions()
	if err := d.Write(t.Context(), a[1]); err != nil {
		t.Fatal(err)
	}
	server.ExpireSessions()
	r, err := d.Receipt(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.uploader().Commit(t.Context(), c.attempt, r); err != nil {
		t.Fatal(err)
	}
	c.whole()
	if n := len(slices.DeleteFunc(c.calls(), func(c testbucket.Call) bool { return c.Status != http.StatusBadRequest })); n == 0 {
		t.Error("no request met an expired token: nothing was tested")
	}
}

func TestTrustRevokedUnderWay(t *testing.T) {
	c := newCustomer(t)
	d, err := c.uploader().Begin(t.Context(), c.attempt, &journal{})
	if err != nil {
		t.Fatal(err)
	}
	c.role.Trust = trust("arn:aws:iam::333333333333:root", "")
	if err := server.SetRole(c.role); err != nil {
		t.Fatal(err)
	}
	_, a := archives()
	if err := d.Write(t.Context(), a[0]); err != nil {
		t.Fatalf("credentials that are still valid were not used: %v", err)
	}
	server.ExpireSessions()
	err = d.Write(t.Context(), a[1])
	if r, ok := contracts.AsRejection(err); !ok || r.Code != contracts.RoleDenied {
		t.Fatal(err)
	}
}
