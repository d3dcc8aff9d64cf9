package uploader

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
	testbucket "github.com/snapfleet/snapfleet/test/bucket"
)

// Every request of a delivery fails once, in both ways and some more; the delivery does not.
func TestEveryRequestMayFail(t *testing.T) {
	t.Parallel()
	refuse := func(status int, code string) testbucket.Fault {
		return testbucket.Fault{Reply: testbucket.Reply{Status: status, Code: code}}
	}
	applied := func(f testbucket.Fault) testbucket.Fault {
		f.Apply = true
		return f
	}
	lost := testbucket.Fault{Reply: testbucket.Reply{Lost: true}}
	any := []string{
		"ListObjectsV2", "ListMultipartUploads", "CreateMultipartUpload", "UploadPart", "ListParts",
		"AbortMultipartUpload", "CompleteMultipartUpload", "HeadObject", "GetObject", "PutObject", "AssumeRole",
	}
	of := func(operations ...string) []string { return operations }
	const complete, put = "CompleteMultipartUpload", "PutObject"
	for name, c := range map[string]struct {
		fault      testbucket.Fault
		operations []string
	}{
		"SlowDown":               {refuse(503, "SlowDown"), any},
		"500 but applied":        {applied(refuse(500, "InternalError")), any},
		"request lost":           {lost, any}, // a part's in the middle of its body
		"reply lost":             {applied(lost), any},
		"credentials expire":     {refuse(400, "ExpiredToken"), any[:len(any)-1]},
		"throttled":              {refuse(400, "Throttling"), of("AssumeRole")},
		"200 with an error":      {refuse(200, "InternalError"), of(complete)},
		"200, error, applied":    {applied(refuse(200, "InternalError")), of(complete)},
		"NoSuchUpload, applied":  {applied(refuse(404, "NoSuchUpload")), of(complete, "AbortMultipartUpload")},
		"412 but applied":        {applied(refuse(412, "PreconditionFailed")), of(complete, put)},
		"conflict":               {refuse(409, "ConditionalRequestConflict"), of(complete, put)},
		"conflict, but applied":  {applied(refuse(409, "ConditionalRequestConflict")), of(complete, put)},
		"OperationAborted":       {refuse(409, "OperationAborted"), of("CreateMultipartUpload", complete, put)},
		"no space":               {refuse(507, "XMinioStorageFull"), of("CreateMultipartUpload", "UploadPart", complete, put)},
		"too slow":               {refuse(400, "RequestTimeout"), of("UploadPart", put)},
		"not there for a moment": {refuse(404, "NotFound"), of("HeadObject")},
	} {
		for _, op := range c.operations {
			t.Run(op+"/"+name, func(t *testing.T) {
				t.Parallel()
				cust := newCustomer(t)
				once := c.fault // which the other operations share
				once.Times = 1
				fault := cust.inject(op, once)
				prepare := cust.prepareSmall
				if op == "UploadPart" {
					prepare = cust.prepare
				}
				r := prepare()
				u := cust.uploader()
				if err := u.Commit(t.Context(), cust.attempt, r); err != nil {
					t.Fatal(err)
				}
				if fault.Hits() != 1 {
					t.Fatalf("the fault was met %d times", fault.Hits())
				}
				// An upload that S3 began and we never heard of is found by listing, as a successor does.
				if err := u.Abort(t.Context(), cust.attempt, nil); err != nil {
					t.Fatal(err)
				}
				cust.whole()
			})
		}
	}
}

// A storm: every request of every kind is refused three times before it is heard.
func TestStorm(t *testing.T) {
	t.Parallel()
	for _, code := range []string{"SlowDown", "InternalError"} {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			c := newCustomer(t)
			met := map[string]int{} // asked by one goroutine at a time
			storm := server.Inject(testbucket.Fault{Reply: testbucket.Reply{Status: 503, Code: code}, Match: func(call testbucket.Call) bool {
				if !c.concerns(call) {
					return false
				}
				request := fmt.Sprint(call.Operation, call.Key, call.Part, call.UploadID, call.Query.Get("ExternalId"))
				met[request]++
				return met[request] <= 3
			}})
			t.Cleanup(storm.Remove)
			if err := c.uploader().Commit(t.Context(), c.attempt, c.prepareSmall()); err != nil {
				t.Fatal(err)
			}
			storm.Remove()
			if storm.Hits() < 40 {
				t.Errorf("only %d requests were refused", storm.Hits())
			}
			c.whole()
		})
	}
}

// A store that is full says so until somebody makes room, to everything that it has to write down.
func TestNoSpace(t *testing.T) {
	t.Parallel()
	for _, reply := range []testbucket.Reply{{Status: 507, Code: "XMinioStorageFull"}, {Status: 500, Code: "InternalError"}} {
		t.Run(reply.Code, func(t *testing.T) {
			t.Parallel()
			c := newCustomer(t)
			var full []*testbucket.Injected
			for _, op := range []string{"CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "PutObject"} {
				full = append(full, c.inject(op, testbucket.Fault{Times: 6, Reply: reply}))
			}
			if err := c.uploader().Commit(t.Context(), c.attempt, c.prepareSmall()); err != nil {
				t.Fatal(err)
			}
			for _, f := range full {
				if f.Hits() != 6 {
					t.Errorf("%d requests found no space", f.Hits())
				}
			}
			c.whole()
		})
	}
}

// A request that is never answered, whether it took effect or not, is given up and sent again.
func TestHangingRequest(t *testing.T) {
	t.Parallel()
	for _, apply := range []bool{false, true} {
		t.Run(fmt.Sprintf("took effect %t", apply), func(t *testing.T) {
			t.Parallel()
			c := newCustomer(t)
			c.cfg.RequestTimeout = 500 * time.Millisecond // too short for a slow machine only means another try
			hold := make(chan struct{})
			defer close(hold)
			held := map[string]*testbucket.Injected{}
			for _, op := range []string{"ListObjectsV2", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "HeadObject", "PutObject"} {
				held[op] = c.inject(op, testbucket.Fault{Times: 1, Hold: hold, Apply: apply})
			}
			if err := c.uploader().Commit(t.Context(), c.attempt, c.prepareSmall()); err != nil {
				t.Fatal(err)
			}
			for op, h := range held {
				if h.Hits() != 1 {
					t.Errorf("%s: %d requests hung", op, h.Hits())
				}
			}
			if err := c.uploader().Abort(t.Context(), c.attempt, nil); err != nil {
				t.Fatal(err)
			}
			c.whole()
		})
	}
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
