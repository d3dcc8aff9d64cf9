package uploader

import (
	"slices"
	"strings"
	"testing"

	"github.com/snapfleet/snapfleet/contracts"
	testbucket "github.com/snapfleet/snapfleet/test/bucket"
)

// A bit that turns over on its way to S3 is found by a checksum, and what it was in is sent again.
func TestBitsFlipOnTheWayThere(t *testing.T) {
	t.Parallel()
	for _, op := range []string{"UploadPart", "CompleteMultipartUpload", "PutObject"} {
		t.Run(op, func(t *testing.T) {
			t.Parallel()
			c := newCustomer(t)
			flipped := c.inject(op, testbucket.Fault{Match: func(call testbucket.Call) bool { return !strings.Contains(call.Key, contracts.ProbeName) }, Times: 1, Flip: true})
			r := c.prepare()
			if err := c.uploader().Commit(t.Context(), c.attempt, r); err != nil {
				t.Fatal(err)
			}
			if flipped.Hits() != 1 {
				t.Fatal("nothing was flipped")
			}
			for _, call := range c.calls(op) {
				if call.Faulted && call.Status < 400 {
					t.Errorf("it was taken: %d", call.Status)
				}
			}
			c.whole()
		})
	}
}

// A store that is asked for no checksums takes whatever comes. Where it tells one all the same, nothing is sealed.
func TestBitFlipsWithoutChecksums(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	c.cfg.NoChecksum = true
	flipped := c.inject("UploadPart", testbucket.Fault{Match: volumes, Times: 1, Flip: true})
	err := c.uploader().Commit(t.Context(), c.attempt, c.prepareSmall())
	if err == nil || flipped.Hits() != 1 || slices.Contains(c.keys(), c.attempt.Prefix()+contracts.ManifestName) {
		t.Fatalf("%v, %q", err, c.keys())
	}
}

// spoiled checks that a delivery is not proven, and why.
func (c *customer) spoiled(want string) {
	c.t.Helper()
	report, err := Verify(c.t.Context(), c.source(), VerifyOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, p := range report.Problems {
		if strings.Contains(p.What, want) {
			return
		}
	}
	c.t.Errorf("no %q among %d problems: %v", want, len(report.Problems), report.Problems)
}

// A bit that turns over where an object lies is in nothing that S3 tells of it: only who reads it finds it.
func TestBitsFlipAtRest(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	r := c.prepare()
	if err := c.uploader().Commit(t.Context(), c.attempt, r); err != nil {
		t.Fatal(err)
	}
	c.whole()
	if err := server.Rot(c.to().Bucket, c.attempt.Prefix()+r.Uploads[1].Name, 3*mib); err != nil {
		t.Fatal(err)
	}
	if err := c.uploader().Commit(t.Context(), c.attempt, r); err != nil {
		t.Errorf("S3 says that nothing has changed, and so do we: %v", err)
	}
	c.spoiled("CRC64NVME")
}

// A bit of an answer: the manifest is read until it is what was written, and is nobody else's for that.
func TestBitsFlipOnTheWayBack(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	r := c.prepare()
	if err := c.uploader().Commit(t.Context(), c.attempt, r); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		flipped := c.inject("GetObject", testbucket.Fault{Match: manifest, Times: 1, Reply: testbucket.Reply{Flip: true}})
		if err := c.uploader().Commit(t.Context(), c.attempt, r); err != nil {
			t.Error(err)
		}
		if flipped.Hits() != 1 {
			t.Error("nobody read the manifest back")
		}
	}
	flipped := c.inject("GetObject", testbucket.Fault{Match: manifest, Times: 1, Reply: testbucket.Reply{Flip: true}})
	got, err := c.uploader().Delivered(t.Context(), c.attempt)
	if err != nil || got == nil || got.SHA256 != sha256Of(r.Manifest) || flipped.Hits() != 1 {
		t.Errorf("%v, %v", got, err)
	}
	flipped = c.inject("GetObject", testbucket.Fault{Match: volumes, Times: 1, Reply: testbucket.Reply{Flip: true}})
	c.spoiled("CRC64NVME") // the reader cannot know whether it was the line, and proves nothing
	if flipped.Hits() != 1 {
		t.Error("nobody read the volumes")
	}
	c.whole()
}

// An answer that breaks off is no answer: the request is sent again, whether it took effect or not.
func TestAnswersBreakOff(t *testing.T) {
	t.Parallel()
	for _, op := range []string{"ListObjectsV2", "ListMultipartUploads", "CreateMultipartUpload", "ListParts", "CompleteMultipartUpload", "GetObject"} {
		t.Run(op, func(t *testing.T) {
			t.Parallel()
			c := newCustomer(t)
			r := c.prepareSmall()
			cut := c.inject(op, testbucket.Fault{Times: 2, Reply: testbucket.Reply{Cut: 60}})
			if op == "GetObject" {
				if err := c.uploader().Commit(t.Context(), c.attempt, r); err != nil {
					t.Fatal(err)
				}
				if got, err := c.uploader().Delivered(t.Context(), c.attempt); err != nil || got == nil || got.SHA256 != sha256Of(r.Manifest) {
					t.Fatalf("%v, %v", got, err)
				}
			} else {
				if op != "CompleteMultipartUpload" {
					c.attempt.Number, c.attempt.ID = 2, "2-0011223344556677"
					r = c.prepareSmall()
				}
				if err := c.uploader().Commit(t.Context(), c.attempt, r); err != nil {
					t.Fatal(err)
				}
			}
			if cut.Hits() != 2 {
				t.Fatalf("%d answers were cut", cut.Hits())
			}
			if err := c.uploader().Abort(t.Context(), c.attempt, nil); err != nil { // what S3 began and we never heard of
				t.Fatal(err)
			}
			c.whole()
		})
	}
}
