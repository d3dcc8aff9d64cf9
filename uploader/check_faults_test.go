package uploader

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
	testbucket "github.com/snapfleet/snapfleet/test/bucket"
)

// request is one of those that a check sends: the n-th of its operation, from 0.
type request struct {
	operation string
	n         int
}

// requests are those of a check that finds nothing.
func requests(t *testing.T) (all []request) {
	t.Helper()
	c := newCustomer(t)
	if report := c.checked(); report.Result() != contracts.CheckOK {
		t.Fatal(told(report))
	}
	count := map[string]int{}
	for _, call := range append(c.assumptions(), c.checks()...) {
		all = append(all, request{call.Operation, count[call.Operation]})
		count[call.Operation]++
	}
	if count["AssumeRole"] != 3 || count["PutObject"] != 2 || len(all) < 25 {
		t.Fatalf("a check sends %v", count)
	}
	return all
}

// both kinds of each failure: it failed, and it failed but took effect.
var bothKinds = map[string]testbucket.Fault{
	"SlowDown":         {Reply: testbucket.Reply{Status: 503, Code: "SlowDown"}},
	"500, but it was":  {Reply: testbucket.Reply{Status: 500, Code: "InternalError"}, Apply: true},
	"lost":             {Reply: testbucket.Reply{Lost: true}},
	"lost, but it was": {Reply: testbucket.Reply{Lost: true}, Apply: true},
}

// Every request of a check fails once, in both ways; the check finds nothing, and leaves nothing.
func TestEveryRequestOfACheckMayFail(t *testing.T) {
	t.Parallel()
	for _, r := range requests(t) {
		for name, fault := range bothKinds {
			t.Run(fmt.Sprintf("%s %d/%s", r.operation, r.n, name), func(t *testing.T) {
				t.Parallel()
				c := newCustomer(t)
				fault.Skip, fault.Times = r.n, 1
				met := c.inject(r.operation, fault)
				report := c.checked()
				if met.Hits() != 1 {
					t.Fatalf("the fault was met %d times", met.Hits())
				}
				c.sound(report)
				if report.Result() != contracts.CheckOK {
					t.Error(told(report))
				}
			})
		}
	}
}

// From some request on every request of its kind fails, in both ways. Then nothing is proven: the check says so, is never
// ok, and blames nobody; and what it cannot remove it names.
func TestNoCheckIsOKThatWasNotAnswered(t *testing.T) {
	t.Parallel()
	all := requests(t)
	for _, r := range all {
		for name, fault := range bothKinds {
			t.Run(fmt.Sprintf("%s %d/%s", r.operation, r.n, name), func(t *testing.T) {
				t.Parallel()
				c := newCustomer(t)
				c.cfg.RetryFor = 50 * time.Millisecond
				fault.Skip = r.n
				met := c.inject(r.operation, fault)
				report := c.checked()
				met.Remove()
				if met.Hits() == 0 {
					t.Fatal("the fault was not met")
				}
				if left := c.unnamed(report); len(left) > 0 {
					t.Errorf("left, and not named: %q%s", left, told(report))
				}
				want := contracts.CheckInconclusive
				if r.operation == "ListObjectsV2" && !slices.Contains(all, request{r.operation, r.n + 1}) {
					want = contracts.CheckOK // the last list is to tidy up by, and the names are known: they were deleted
				}
				if got := report.Result(); got != want {
					t.Errorf("it is %s%s", got, told(report))
				}
				c.sensible(report)
			})
		}
	}
}

// unnamed is what is left in the bucket and in no reason.
func (c *customer) unnamed(report contracts.Check) []string {
	c.t.Helper()
	return slices.DeleteFunc(append(c.keys(), c.uploads()...), func(key string) bool {
		return slices.ContainsFunc(report.Steps, func(s contracts.CheckStep) bool {
			return s.Reason != nil && (strings.Contains(s.Reason.What, key+" could not be ") || strings.Contains(s.Reason.What, "whether "+key+" was written is not known") ||
				strings.Contains(s.Reason.What, "whether an upload is left below acme/.snapfleet-check-"))
		})
	})
}

// What STS says when a role ought to refuse us proves something only if it is that refusal.
func TestNothingButARefusalMakesATrustPolicySecure(t *testing.T) {
	t.Parallel()
	without := func(call testbucket.Call) bool { return !call.Query.Has("ExternalId") }
	random := func(call testbucket.Call) bool {
		return call.Query.Has("ExternalId") && !strings.HasPrefix(call.Query.Get("ExternalId"), "external-id-of-")
	}
	answers := map[string]testbucket.Reply{"lost": {Lost: true}}
	for status, codes := range map[int][]string{
		400: {"Throttling", "ValidationError", "ExpiredToken", "PackedPolicyTooLarge", "RequestExpired"},
		403: {"Forbidden", "InvalidClientTokenId", "SignatureDoesNotMatch", "RegionDisabledException", "AccountProblem", ""},
		404: {"NotFound"}, 429: {"TooManyRequestsException"}, 500: {"InternalFailure", ""}, 503: {"ServiceUnavailable"}, 307: {"TemporaryRedirect"},
	} {
		for _, code := range codes {
			answers[fmt.Sprint(status, " ", code)] = testbucket.Reply{Status: status, Code: code}
		}
	}
	for name, answer := range answers {
		for _, took := range []bool{false, true} {
			for _, open := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/took effect %t/of an open role %t", name, took, open), func(t *testing.T) {
					t.Parallel()
					c := newCustomer(t)
					c.cfg.RetryFor = 50 * time.Millisecond
					c.role.Policy = permissions(c.to().Bucket)
					if open {
						c.role.Trust = trust("arn:aws:iam::"+ourAccount+":root", "")
					}
					if err := server.SetRole(c.role); err != nil {
						t.Fatal(err)
					}
					for match, want := range map[*func(testbucket.Call) bool]string{&without: "+?+", &random: "++?"} {
						if open {
							want = strings.Replace(want[1:], "+", "x", 1)
							want = "+" + want
						}
						met := c.inject("AssumeRole", testbucket.Fault{Match: *match, Apply: took, Reply: answer})
						report := c.checked()
						met.Remove()
						c.sound(report)
						if got := shape(report); met.Hits() == 0 || got[:3] != want || report.Result() == contracts.CheckOK {
							t.Errorf("want %s%s", want, told(report))
						}
					}
				})
			}
		}
	}
}

// An open role is found though STS fails first, in both ways.
func TestAnOpenRoleIsFoundInTheEnd(t *testing.T) {
	t.Parallel()
	for name, fault := range bothKinds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCustomer(t)
			bend(func(c *customer) { c.role.Trust = trust("arn:aws:iam::"+ourAccount+":root", "") })(c)
			fault.Times = 3
			fault.Match = func(call testbucket.Call) bool { return call.Query.Get("ExternalId") != c.to().ExternalID }
			c.inject("AssumeRole", fault)
			if report := c.checked(); shape(report) != "+xx......." {
				t.Error(told(report))
			}
		})
	}
}

// A check is broken off while a request is under way that takes effect. Whichever it is, nothing is left, what was not
// found out is not claimed, and no step is begun after it.
func TestCheckIsBrokenOff(t *testing.T) {
	t.Parallel()
	for _, r := range requests(t) {
		t.Run(fmt.Sprintf("%s %d", r.operation, r.n), func(t *testing.T) {
			t.Parallel()
			c := newCustomer(t)
			c.cfg.RequestTimeout = time.Second // for what is sent to tidy up, and held; nobody waits for the rest
			hold := make(chan struct{})
			defer close(hold)
			held := c.inject(r.operation, testbucket.Fault{Skip: r.n, Times: 1, Apply: true, Hold: hold})
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			go func() {
				select {
				case <-held.Reached:
					cancel(errors.New("nobody waits any more"))
				case <-ctx.Done():
				}
			}()
			report := c.checker().Check(ctx, c.attempt.Tenant)
			c.sound(report)
			before, after, broken := strings.Cut(shape(report), "?")
			if strings.Trim(before, "+") != "" || strings.Trim(after, ".") != "" {
				t.Error(told(report))
			}
			// The last two are to tidy up.
			if broken != (len(before) < len(contracts.CheckNames)) || broken && !strings.Contains(report.Failure().What, "nobody waits any more") {
				t.Error(told(report))
			}
		})
	}
}

// Nobody waits for a store that does not answer, or is not there.
func TestCheckEndsInTime(t *testing.T) {
	t.Parallel()
	hang := func(operation string, apply bool) func(*customer) {
		return func(c *customer) {
			c.hanging = c.inject(operation, testbucket.Fault{Hold: make(chan struct{}), Apply: apply})
		}
	}
	gone := func(s3, sts bool) func(*customer) {
		return func(c *customer) {
			front, err := server.OpenFront()
			if err != nil {
				c.t.Fatal(err)
			}
			if s3 {
				c.to().Endpoint = front.Endpoint()
				c.cfg.AllowEndpoints = []string{front.Endpoint()}
			}
			if sts {
				c.front = front
			}
			front.Close()
		}
	}
	for name, b := range map[string]struct {
		bend func(*customer)
		want string
	}{
		"STS hangs":      {hang("AssumeRole", false), "?........."},
		"S3 hangs":       {hang("ListObjectsV2", false), "+++?......"},
		"a write hangs":  {hang("PutObject", true), "++++?....."},
		"S3 is not here": {gone(true, false), "+++?......"},
		"STS is not":     {gone(false, true), "?........."},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCustomer(t)
			c.cfg.CheckTimeout = 2 * time.Second
			b.bend(c)
			began := time.Now()
			report := c.checked()
			if took := time.Since(began); took > c.cfg.CheckTimeout+tidyTimeout {
				t.Errorf("it took %s", took)
			}
			if c.hanging != nil {
				c.hanging.Remove()
			}
			c.sensible(report)
			if left := c.unnamed(report); len(left) > 0 || shape(report) != b.want {
				t.Errorf("left: %q; want %s%s", left, b.want, told(report))
			}
		})
	}
}

// A bit that was turned over on the way is noticed, and where the store knows no checksums it is not called a success.
func TestCheckReadsBackByteForByte(t *testing.T) {
	t.Parallel()
	for _, none := range []bool{false, true} {
		c := newCustomer(t)
		c.cfg.NoChecksum = none
		c.inject("GetObject", testbucket.Fault{Match: inside, Times: 1, Reply: testbucket.Reply{Flip: true}})
		report := c.checked()
		c.sound(report)
		if want := map[bool]string{false: "++++++++++", true: "+++++x++++"}[none]; shape(report) != want {
			t.Errorf("without checksums %t: want %s%s", none, want, told(report))
		}
		if none && (report.Failure().Code != contracts.WriteLost || !strings.Contains(report.Failure().What, "other bytes are read back")) {
			t.Error(told(report))
		}
	}
}

// What was written outside of the folder is found and removed though the answer to it failed, in both ways, and to its
// removal, too.
func TestWhatIsWrittenOutsideIsRemoved(t *testing.T) {
	t.Parallel()
	for name, fault := range bothKinds {
		for _, op := range []string{"PutObject", "DeleteObject"} {
			t.Run(op+"/"+name, func(t *testing.T) {
				t.Parallel()
				c := newCustomer(t)
				withPower("s3:PutObject", "/*", "s3:DeleteObject", "/*")(c)
				fault.Match, fault.Times = outside, 1
				met := c.inject(op, fault)
				report := c.checked()
				c.sound(report)
				if why := report.Failure(); met.Hits() != 1 || shape(report) != "+++++++++x" || why.Code != contracts.InsecureBucket || strings.Contains(why.What, ";") {
					t.Errorf("met %d times%s", met.Hits(), told(report))
				}
			})
		}
	}
}
