package contracts_test

import (
	"testing"

	"github.com/snapfleet/snapfleet/contracts"
)

func TestCheckResult(t *testing.T) {
	t.Parallel()
	why := &contracts.Reason{Code: contracts.WriteDenied, What: "no"}
	for _, c := range []struct {
		steps []contracts.CheckResult
		want  contracts.CheckResult
	}{
		{nil, contracts.CheckInconclusive},
		{[]contracts.CheckResult{contracts.CheckOK, contracts.CheckOK}, contracts.CheckOK},
		{[]contracts.CheckResult{contracts.CheckOK, contracts.CheckSkipped}, contracts.CheckInconclusive},
		{[]contracts.CheckResult{contracts.CheckOK, contracts.CheckInconclusive, contracts.CheckOK}, contracts.CheckInconclusive},
		{[]contracts.CheckResult{contracts.CheckInconclusive, contracts.CheckFailed, contracts.CheckSkipped}, contracts.CheckFailed},
		{[]contracts.CheckResult{"of a later release"}, contracts.CheckInconclusive},
	} {
		var check contracts.Check
		for _, r := range c.steps {
			s := contracts.CheckStep{Result: r}
			if r == c.want {
				s.Reason = why
			}
			check.Steps = append(check.Steps, s)
		}
		if got := check.Result(); got != c.want {
			t.Errorf("%v is %s, want %s", c.steps, got, c.want)
		}
		if got := check.Failure(); c.want == contracts.CheckFailed && got != why || c.want == contracts.CheckOK && got != nil {
			t.Errorf("%v fails because of %v", c.steps, got)
		}
	}
}
