package contracts_test

import (
	"encoding/json"
	"reflect"
	"slices"
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

// The report as programs read it.
func TestCheckJSON(t *testing.T) {
	t.Parallel()
	c := contracts.Check{
		Version: contracts.CheckVersion, Tenant: "acme", At: instant, Worker: "w1", Bucket: "acme-snapshots", Region: "us-west-2",
		RoleARN: "arn:aws:iam::222222222222:role/x",
		Steps: []contracts.CheckStep{
			{Name: contracts.CheckAssume, Result: contracts.CheckOK, Milliseconds: 42},
			{Name: contracts.CheckBucket, Result: contracts.CheckFailed, Reason: &contracts.Reason{Code: contracts.WrongRegion, What: "w", Cause: "c", Fix: "f"}},
			{Name: contracts.CheckOutside, Result: contracts.CheckSkipped},
		},
	}
	const want = `{"version":1,"tenant":"acme","at":"2026-03-31T14:30:22.482913Z","worker":"w1","bucket":"acme-snapshots","region":"us-west-2",` +
		`"role_arn":"arn:aws:iam::222222222222:role/x","steps":[{"name":"assume","result":"ok","ms":42},` +
		`{"name":"bucket","result":"failed","reason":{"code":"wrong_region","what":"w","cause":"c","fix":"f"},"ms":0},` +
		`{"name":"outside-the-folder","result":"skipped","ms":0}]}`
	got, err := json.Marshal(c)
	if err != nil || string(got) != want {
		t.Errorf("%v\n%s\nwant\n%s", err, got, want)
	}
	var back contracts.Check
	if err := json.Unmarshal(got, &back); err != nil || !reflect.DeepEqual(back, c) {
		t.Errorf("%v, %+v", err, back)
	}
}

// The names are told apart, and the order is that of the report.
func TestCheckNames(t *testing.T) {
	t.Parallel()
	names := slices.Clone(contracts.CheckNames)
	slices.Sort(names)
	if len(slices.Compact(names)) != 10 || contracts.CheckNames[0] != contracts.CheckAssume || contracts.CheckNames[9] != contracts.CheckOutside {
		t.Errorf("%q", contracts.CheckNames)
	}
}

// No delivery can have a check's names: what is in its folder, and what must not be written.
func TestCheckFolderIsNoDeliverys(t *testing.T) {
	t.Parallel()
	if name := contracts.CheckFolder + "0123456789abcdef"; contracts.ValidJob(name) || contracts.ValidTenant("acme"+name) {
		t.Errorf("%s is a name for a job or a tenant", name)
	}
	if got := contracts.JobPrefix("acme", "j"); got != contracts.TenantPrefix("acme")+"j/" {
		t.Error(got)
	}
}
