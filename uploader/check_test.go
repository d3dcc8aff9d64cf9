package uploader

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"

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

// step is one step of a check.
func step(t *testing.T, report contracts.Check, name contracts.CheckName) contracts.CheckStep {
	t.Helper()
	i := slices.IndexFunc(report.Steps, func(s contracts.CheckStep) bool { return s.Name == name })
	if i < 0 {
		t.Fatalf("no step %s in %v", name, report.Steps)
	}
	return report.Steps[i]
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
