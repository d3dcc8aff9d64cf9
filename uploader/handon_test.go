package uploader

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/snapfleet/snapfleet/contracts"
	testbucket "github.com/snapfleet/snapfleet/test/bucket"
)

// upTo runs the verbs of a small delivery by one worker, and returns what the next one needs.
func (c *customer) upTo(u *Uploader) contracts.Receipt {
	c.t.Helper()
	if data, err := u.Delivered(c.t.Context(), c.attempt); err != nil || data != nil {
		c.t.Fatal(data, err)
	}
	list, files := attachments(10, 0)
	tabs, rows := tables(3)
	return deliver(c.t, u, c.attempt, contracts.Manifest{Tables: tabs, Attachments: list}, rows, files)
}

// opened is how many sessions do opens.
func (c *customer) opened(do func() error) (int, error) {
	before := c.sessions()
	err := do()
	return c.sessions() - before, err
}

func TestOneSessionForOneJob(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	u := c.uploader()
	n, err := c.opened(func() error { return u.Commit(t.Context(), c.attempt, c.upTo(u)) })
	if n != 1 || err != nil {
		t.Errorf("%d sessions, %v", n, err)
	}
	if len(u.kept.kept) > 0 {
		t.Errorf("the job has ended, and kept is %v", u.kept.kept)
	}
	c.whole()
}

// Another worker, another attempt, and a tenant's record that has changed do not get the session.
func TestSessionIsOfOneAttemptAndRecord(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*customer){
		"attempt": func(c *customer) { c.attempt.ID = "2-0011223344556677" },
		"job":     func(c *customer) { c.attempt.Request.Job = "another" },
		"region":  func(c *customer) { c.to().Region = "eu-west-1" },
		"owner":   func(c *customer) { c.to().Owner = "333333333333" },
		"key":     func(c *customer) { c.to().KMSKeyARN = "arn:aws:kms:us-east-1:222222222222:key/1" },
		"bucket":  func(c *customer) { c.to().Bucket += "-2" },
		// These do not let us in any more, which only who asks for a session of their own finds out.
		"role":        func(c *customer) { c.to().RoleARN += "-2" },
		"external ID": func(c *customer) { c.to().ExternalID += "x" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCustomer(t)
			u := c.uploader()
			if _, err := u.Delivered(t.Context(), c.attempt); err != nil {
				t.Fatal(err)
			}
			change(c)
			if refused := name == "role" || name == "external ID"; refused {
				_, err := u.Delivered(t.Context(), c.attempt)
				if r, ok := contracts.AsRejection(err); !ok || r.Code != contracts.RoleDenied {
					t.Errorf("it got in: %v", err)
				}
				return
			}
			if n, _ := c.opened(func() error { _, err := u.Delivered(t.Context(), c.attempt); return err }); n != 1 {
				t.Errorf("%d sessions", n)
			}
		})
	}
}

// A verb that fails hands nothing on: whoever tries again asks whether the role still lets us in.
func TestNoSessionAfterAFailure(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	u := c.uploader()
	r := c.upTo(u)
	denied := c.inject("CompleteMultipartUpload", testbucket.Fault{Times: 1, Reply: testbucket.Reply{Status: 403, Code: "AccessDenied"}})
	n, err := c.opened(func() error { return u.Complete(t.Context(), c.attempt, r) })
	if j, ok := contracts.AsRejection(err); n != 0 || !ok || j.Code != contracts.WriteDenied || denied.Hits() != 1 {
		t.Fatal(n, err)
	}
	server.RemoveRole(c.role.ARN)
	err = u.Complete(t.Context(), c.attempt, r)
	if j, ok := contracts.AsRejection(err); !ok || j.Code != contracts.RoleDenied {
		t.Fatal(err)
	}
	if err := server.SetRole(c.role); err != nil {
		t.Fatal(err)
	}
	n, err = c.opened(func() error { return u.Complete(t.Context(), c.attempt, r) })
	if n != 1 || err != nil {
		t.Fatal(n, err)
	}
	// A role that is broken between two verbs is found out by the first request.
	server.RemoveRole(c.role.ARN)
	if _, rejected := contracts.AsRejection(u.Seal(t.Context(), c.attempt, r)); !rejected {
		t.Fatal("sealed under a role that is no more")
	}
	if err := server.SetRole(c.role); err != nil {
		t.Fatal(err)
	}
	n, err = c.opened(func() error { return u.Seal(t.Context(), c.attempt, r) })
	if n != 1 || err != nil {
		t.Fatal(n, err)
	}
	c.whole()
}

// A session that was handed on and has ended since is replaced once.
func TestHandedSessionExpires(t *testing.T) {
	c := newCustomer(t)
	u := c.uploader()
	r := c.upTo(u)
	server.ExpireSessions(c.role.ARN)
	n, err := c.opened(func() error { return u.Complete(t.Context(), c.attempt, r) })
	if n != 1 || err != nil {
		t.Fatal(n, err)
	}
	n, err = c.opened(func() error { return u.Seal(t.Context(), c.attempt, r) })
	if n != 0 || err != nil {
		t.Fatal(n, err)
	}
	c.whole()
}

// A worker that was fenced neither hands a session on nor is handed one, though another verb of the same attempt, by
// the same worker under a new lease, has left one.
func TestFencedWorkerIsHandedNothing(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	u := c.uploader()
	lost := errors.New("lease lost")
	ctx, fence := context.WithCancelCause(t.Context())
	s, err := u.open(ctx, c.attempt)
	if err != nil {
		t.Fatal(err)
	}
	fence(lost)
	s.handOn()
	if len(u.kept.kept) > 0 {
		t.Error("it has handed its session on")
	}
	if _, err := u.Delivered(t.Context(), c.attempt); err != nil {
		t.Fatal(err)
	}
	if len(u.kept.kept) != 1 {
		t.Fatal("nothing was left")
	}
	s.(*bucket).creds.Invalidate()
	if _, err := s.list(t.Context()); !errors.Is(err, lost) {
		t.Errorf("got %v", err)
	}
	if _, err := u.open(ctx, c.attempt); !errors.Is(err, lost) {
		t.Errorf("it opened the folder again: %v", err)
	}
}

// A session that S3 has refused is nobody's any more, also when no other has come in its place.
func TestRefusedSessionIsNotHandedOn(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	u := c.uploader()
	s, err := u.open(t.Context(), c.attempt)
	if err != nil {
		t.Fatal(err)
	}
	s.(*bucket).renew(time.Now())
	if s.handOn(); len(u.kept.kept) > 0 {
		t.Error("it was handed on")
	}
	if _, err := s.list(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s.handOn(); len(u.kept.kept) != 1 {
		t.Error("the one that came in its place was not handed on")
	}
}

func TestSessionsAreKeptForAMinute(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &sessions{kept: map[sessionOf]*keptSession{}}
		of := func(n int) sessionOf { return sessionOf{prefix: fmt.Sprint(n)} }
		fresh := func() session {
			return session{credentials: aws.Credentials{AccessKeyID: "a", Expires: time.Now().Add(time.Hour)}, opened: time.Now()}
		}
		s.put(of(1), fresh())
		if s.take(of(2)) != nil || s.take(of(1)) == nil || s.take(of(1)) != nil {
			t.Error("a session is taken once, by whom it is for")
		}
		old := fresh()
		old.opened = time.Now().Add(-handedOnFor)
		s.put(of(1), old)
		short := fresh()
		short.credentials.Expires = time.Now().Add(expiryWindow - 1)
		s.put(of(2), short)
		if len(s.kept) > 0 {
			t.Error("what is old, or ends soon, is kept")
		}
		for n := range 2 * keptSessions {
			s.put(of(n), fresh())
		}
		if len(s.kept) != keptSessions {
			t.Errorf("%d are kept", len(s.kept))
		}
		time.Sleep(handedOnFor / 2) // virtual
		s.put(of(0), fresh())       // in the place of the older one
		time.Sleep(handedOnFor / 2) // virtual
		synctest.Wait()
		if len(s.kept) != 1 || s.take(of(0)) == nil {
			t.Errorf("%d are kept", len(s.kept))
		}
	})
}
