package uploader

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
	testbucket "github.com/snapfleet/snapfleet/test/bucket"
)

// Every request of a delivery fails once, in both ways and some more; the delivery does not.
func TestEveryRequestMayFail(t *testing.T) {
	t.Parallel()
	replies := map[string]testbucket.Fault{
		"SlowDown":           {Reply: testbucket.Reply{Status: 503, Code: "SlowDown"}},
		"500 but applied":    {Apply: true, Reply: testbucket.Reply{Status: 500, Code: "InternalError"}},
		"reply lost":         {Apply: true, Reply: testbucket.Reply{Lost: true}},
		"request lost":       {Reply: testbucket.Reply{Lost: true}},
		"200 with an error":  {Reply: testbucket.Reply{Status: 200, Code: "InternalError"}},
		"credentials expire": {Reply: testbucket.Reply{Status: 400, Code: "ExpiredToken"}},
	}
	operations := []string{
		"ListObjectsV2", "ListMultipartUploads", "CreateMultipartUpload", "UploadPart", "ListParts",
		"AbortMultipartUpload", "CompleteMultipartUpload", "HeadObject", "PutObject",
	}
	for _, op := range operations {
		for _, name := range slices.Sorted(maps.Keys(replies)) {
			if name == "200 with an error" && op != "CompleteMultipartUpload" {
				continue
			}
			t.Run(op+"/"+name, func(t *testing.T) {
				t.Parallel()
				c := newCustomer(t)
				f := replies[name]
				f.Times = 1
				fault := c.inject(op, f)
				m, a := archives()
				u := c.uploader()
				r := deliver(t, u, c.attempt, m, a...)
				if err := u.Commit(t.Context(), c.attempt, r); err != nil {
					t.Fatal(err)
				}
				if fault.Hits() != 1 {
					t.Fatalf("the fault was met %d times", fault.Hits())
				}
				// An upload that S3 began and we never heard of is found by listing, as a successor does.
				if err := u.Abort(t.Context(), c.attempt, nil); err != nil {
					t.Fatal(err)
				}
				c.whole()
			})
		}
	}
}

// A Complete that is under way when the worker's patience ends is not sent elsewhere, and a hanging
// request is cut off and repeated.
func TestHangingRequest(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	c.cfg.RequestTimeout = 2 * time.Second
	r := c.prepare()
	hold := make(chan struct{})
	defer close(hold)
	c.inject("CompleteMultipartUpload", testbucket.Fault{Match: volumes, Times: 1, Hold: hold})
	if err := c.uploader().Commit(t.Context(), c.attempt, r); err != nil {
		t.Fatal(err)
	}
	c.whole()
}

func TestOutageEnds(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	c.cfg.RetryFor = 300 * time.Millisecond
	c.inject("CreateMultipartUpload", testbucket.Fault{Match: volumes, Reply: testbucket.Reply{Status: 503, Code: "SlowDown"}})
	d, err := c.uploader().Begin(t.Context(), c.attempt, &journal{})
	if err != nil {
		t.Fatal(err)
	}
	_, files := attachments(1)
	err = d.Write(t.Context(), files)
	if _, rejected := contracts.AsRejection(err); err == nil || rejected || !strings.Contains(err.Error(), "SlowDown") {
		t.Fatalf("got %v", err)
	}
	if n := len(c.calls("CreateMultipartUpload")); n < 5 {
		t.Errorf("tried %d times", n)
	}
}
