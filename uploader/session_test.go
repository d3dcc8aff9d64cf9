package uploader

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"testing"
	"time"

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

// Parts that were under way when the session ended are sent again with one new session for all of them.
func TestOneSessionReplacesAnother(t *testing.T) {
	c := newCustomer(t)
	c.cfg.Buffers = 5
	d, err := c.uploader().Begin(t.Context(), c.attempt, &journal{})
	if err != nil {
		t.Fatal(err)
	}
	hold := make(chan struct{})
	held := c.inject("UploadPart", testbucket.Fault{Match: volumes, Times: 4, Hold: hold})
	done := make(chan error, 1)
	list, files := attachments(21 * mib)
	go func() { done <- d.Write(t.Context(), files) }()
	eventually(t, "four parts under way", func() bool { return held.Hits() == 4 })
	before := c.sessions()
	server.ExpireSessions()
	close(hold)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n := c.sessions() - before; n != 1 {
		t.Errorf("%d sessions were opened, want 1", n)
	}
	sent := map[int]bool{}
	for _, call := range c.calls("UploadPart") {
		if volumes(call) && call.Status == http.StatusOK {
			sent[call.Part] = true
		}
	}
	if len(sent) != 5 {
		t.Errorf("%d of 5 parts were sent", len(sent))
	}
	_, none := tables()
	if err := d.Write(t.Context(), none); err != nil {
		t.Fatal(err)
	}
	r, err := d.Receipt(contracts.Manifest{Attachments: list})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.uploader().Commit(t.Context(), c.attempt, r); err != nil {
		t.Fatal(err)
	}
	c.whole()
}

// A customer who changes the trust policy between the last part and the commit is told so, and finds the delivery
// whole once it is mended.
func TestTrustRevokedBeforeTheCommit(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	r := c.prepare()
	for what, bend := range map[contracts.Code]func(*testbucket.Role){
		contracts.RoleDenied:  func(r *testbucket.Role) { r.Trust = trust("arn:aws:iam::333333333333:root", "") },
		contracts.WriteDenied: func(r *testbucket.Role) { r.Policy = permissions(c.to().Bucket, "s3:PutObject", "s3:GetObject") },
	} {
		bent := c.role
		bend(&bent)
		if err := server.SetRole(bent); err != nil {
			t.Fatal(err)
		}
		err := c.uploader().Commit(t.Context(), c.attempt, r)
		if j, ok := contracts.AsRejection(err); !ok || j.Code != what {
			t.Fatalf("%v, want %s", err, what)
		}
		if keys := c.keys(); len(keys) != 0 {
			t.Fatalf("visible: %q", keys)
		}
	}
	if err := server.SetRole(c.role); err != nil {
		t.Fatal(err)
	}
	if err := c.uploader().Commit(t.Context(), c.attempt, r); err != nil {
		t.Fatal(err)
	}
	c.whole()
}

// An outage of STS that outlasts the session is waited for, as one of S3. Not parallel, because sessions of a second
// are the server's, and everybody's.
func TestSTSIsDownAtRefresh(t *testing.T) {
	c := newCustomer(t)
	server.SetSessionLife(time.Second, time.Second)
	defer server.SetSessionLife(0, 0)
	d, err := c.uploader().Begin(t.Context(), c.attempt, &journal{})
	if err != nil {
		t.Fatal(err)
	}
	down := c.inject("AssumeRole", testbucket.Fault{Reply: testbucket.Reply{Status: 503, Code: "ServiceUnavailable"}})
	ended := time.After(2 * time.Second)
	list, files := attachments(10)
	tabs, rows := tables(3)
	done := make(chan error, 1)
	go func() {
		<-ended
		done <- errors.Join(d.Write(t.Context(), rows), d.Write(t.Context(), files))
	}()
	eventually(t, "a request wanted a session", func() bool { return down.Hits() >= 5 })
	select {
	case err := <-done:
		t.Fatalf("nobody waited for STS: %v", err)
	default:
	}
	server.SetSessionLife(0, 0)
	down.Remove()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	r, err := d.Receipt(contracts.Manifest{Tables: tabs, Attachments: list})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.uploader().Commit(t.Context(), c.attempt, r); err != nil {
		t.Fatal(err)
	}
	c.whole()
}
