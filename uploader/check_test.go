package uploader

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"

	"github.com/snapfleet/snapfleet/contracts"
)

// checked is a check of this customer's destination.
func (c *customer) checked() contracts.Check {
	c.t.Helper()
	return c.checker().Check(c.t.Context(), c.attempt.Tenant)
}

// checker is an uploader whose checks have the power that the customer has given them.
func (c *customer) checker() *Uploader {
	u := c.uploader()
	if c.power != nil {
		own := u.try
		u.try = func(ctx context.Context, cfg Config, a contracts.Attempt) (*bucket, error) {
			b, err := own(ctx, cfg, a)
			if err == nil {
				b.role.input.Policy = aws.String(c.power(*b.role.input.Policy))
			}
			return b, err
		}
	}
	return u
}

// told is a report as a test's failure shows it.
func told(report contracts.Check) string {
	var b strings.Builder
	for _, s := range report.Steps {
		fmt.Fprintf(&b, "\n  %-20s %-13s", s.Name, s.Result)
		if s.Reason != nil {
			fmt.Fprintf(&b, " %s: %s", s.Reason.Code, s.Reason.What)
		}
	}
	return b.String()
}

// sound checks what is true of every report and of the world after it: the steps in order, a reason for each that is not
// ok, a code that fits, nothing left in the bucket, and no secret told.
func (c *customer) sound(report contracts.Check) {
	c.t.Helper()
	c.sensible(report)
	if keys, uploads := c.keys(), c.uploads(); len(keys)+len(uploads) > 0 {
		c.t.Errorf("left in the bucket: %q, %q%s", keys, uploads, told(report))
	}
}

// sensible is sound but for what is left in the bucket.
func (c *customer) sensible(report contracts.Check) {
	c.t.Helper()
	var names []contracts.CheckName
	for _, s := range report.Steps {
		names = append(names, s.Name)
		explained := s.Reason != nil && s.Reason.What != "" && s.Reason.Cause != "" && s.Reason.Fix != ""
		unclear := s.Reason != nil && s.Reason.Code == contracts.Inconclusive
		if wants := s.Result == contracts.CheckFailed || s.Result == contracts.CheckInconclusive; explained != wants || (s.Reason != nil) != wants || unclear != (s.Result == contracts.CheckInconclusive) {
			c.t.Errorf("%s is %s because of %v", s.Name, s.Result, s.Reason)
		}
		if s.Reason != nil && strings.Contains(s.Reason.What, c.to().ExternalID) {
			c.t.Errorf("%s tells the external ID: %s", s.Name, s.Reason.What)
		}
	}
	if !slices.Equal(names, contracts.CheckNames) {
		c.t.Errorf("the steps are %v", names)
	}
	if r := report; r.Version != 1 || r.Tenant != "acme" || r.Bucket != c.to().Bucket || r.Region != c.to().Region || r.RoleARN != c.to().RoleARN || r.At.IsZero() {
		c.t.Errorf("of what is it: %+v", r)
	}
}

func TestCheckOfASoundDestination(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	report := c.checked()
	c.sound(report)
	if report.Result() != contracts.CheckOK {
		t.Fatal(told(report))
	}
}

// A check always asks the role anew, and what it has found out holds for the deliveries after it.
func TestCheckAndTheTrustOfDeliveries(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	u := c.uploader()
	knocks := func() (n int) {
		for _, call := range c.assumptions() {
			if call.Query.Get("ExternalId") != c.to().ExternalID {
				n++
			}
		}
		return n
	}
	for _, want := range []int{2, 4} {
		if report := u.Check(t.Context(), c.attempt.Tenant); report.Result() != contracts.CheckOK || knocks() != want {
			t.Fatalf("asked %d times, want %d%s", knocks(), want, told(report))
		}
	}
	if _, err := u.Begin(t.Context(), c.attempt, &journal{}); err != nil || knocks() != 4 {
		t.Fatalf("%v; a delivery after a check that was passed has asked %d times", err, knocks()-4)
	}
	bend(func(c *customer) { c.role.Trust = trust("arn:aws:iam::"+ourAccount+":root", "") })(c)
	if report := u.Check(t.Context(), c.attempt.Tenant); report.Failure() == nil || report.Failure().Code != contracts.InsecureTrust {
		t.Fatal(told(report))
	}
	_, err := u.Begin(t.Context(), c.attempt, &journal{})
	if r, ok := contracts.AsRejection(err); !ok || r.Code != contracts.InsecureTrust {
		t.Errorf("a delivery trusts a role that a check has just found insecure: %v", err)
	}
}

// With TrustCheck off deliveries do not ask; a check does.
func TestCheckAsksThoughDeliveriesDoNot(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	c.cfg.TrustCheck = -1
	bend(func(c *customer) { c.role.Trust = trust("arn:aws:iam::"+ourAccount+":root", "") })(c)
	if report := c.checked(); shape(report) != "+xx......." {
		t.Error(told(report))
	}
}

// An external ID that is to come is checked by a record that has it.
func TestCheckOfTheNextExternalID(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	const next = "the-next-external-id-0123456789"
	c.to().NextExternalID = next
	if report := c.checked(); report.Result() != contracts.CheckOK { // it is not looked at
		t.Fatal(told(report))
	}
	tenant := c.attempt.Tenant
	tenant.Destination.ExternalID = next
	if report := c.uploader().Check(t.Context(), tenant); shape(report) != "x........." || report.Failure().Code != contracts.RoleDenied {
		t.Fatal(told(report))
	}
	bend(func(c *customer) {
		c.role.Trust = strings.Replace(c.role.Trust, fmt.Sprintf("%q", c.to().ExternalID), fmt.Sprintf("[%q,%q]", c.to().ExternalID, next), 1)
	})(c)
	for _, tenant := range []contracts.Tenant{tenant, c.attempt.Tenant} {
		if report := c.uploader().Check(t.Context(), tenant); report.Result() != contracts.CheckOK {
			t.Fatal(told(report))
		}
	}
}

// A record that cannot work is told as such, and nobody is asked anything.
func TestCheckOfARecordThatCannotWork(t *testing.T) {
	t.Parallel()
	for code, bend := range map[contracts.Code]func(*customer){
		contracts.EndpointNotAllowed: func(c *customer) { c.cfg.AllowEndpoints = nil },
		contracts.InvalidTenant:      func(c *customer) { c.to().Region = "" },
	} {
		c := newCustomer(t)
		bend(c)
		report := c.checked()
		c.sound(report)
		if shape(report) != "x........." || report.Failure().Code != code {
			t.Error(told(report))
		}
		if n := len(c.assumptions()); n > 0 {
			t.Errorf("the role was asked %d times", n)
		}
	}
}

func TestCheckOfAFolderIsInconclusive(t *testing.T) {
	t.Parallel()
	report := NewFolder(t.TempDir(), small).Check(t.Context(), attempt(0).Tenant)
	if shape(report) != "?........." || report.Result() != contracts.CheckInconclusive || !strings.Contains(report.Failure().What, "no bucket to check") {
		t.Error(told(report))
	}
}

// One trace tells what a check did, and no secret. What had to be refused and was is no error.
func TestCheckIsTraced(t *testing.T) {
	t.Parallel()
	for result, b := range map[contracts.CheckResult]func(*customer){
		contracts.CheckOK:     func(*customer) {},
		contracts.CheckFailed: lacking("s3:GetObject"),
	} {
		c := newCustomer(t)
		b(c)
		ctx, root := otel.Tracer("test").Start(t.Context(), "check of "+string(result))
		c.uploader().Check(ctx, c.attempt.Tenant)
		root.End()
		names, failures := map[string]int{}, 0
		for _, s := range spans.Ended() {
			if s.SpanContext().TraceID() != root.SpanContext().TraceID() {
				continue // another test's
			}
			names[s.Name()]++
			all := fmt.Sprint(s.Attributes(), s.Events(), s.Status())
			if strings.Contains(all, c.to().ExternalID) || strings.Contains(all, c.worker.SecretKey) {
				t.Errorf("%s holds a secret: %s", s.Name(), all)
			}
			if s.Status().Code == codes.Error {
				failures++
			}
			if s.Name() == "check" && !strings.Contains(all, fmt.Sprintf(`{"snapfleet.tenant":"acme"} {"snapfleet.check.result":%q}`, result)) {
				t.Errorf("the check says of itself: %s", all)
			}
		}
		if names["check"] != 1 || names["STS.AssumeRole"] != 3 || names["S3.CompleteMultipartUpload"] != 1 {
			t.Errorf("spans: %v", names)
		}
		if (failures > 0) != (result == contracts.CheckFailed) {
			t.Errorf("%s: %d spans are errors", result, failures)
		}
	}
}
