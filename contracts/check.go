package contracts

import "time"

// CheckVersion is the only version of [Check] that this build writes.
const CheckVersion = 1

// Check is what became of trying everything that a delivery to a tenant's destination needs, and everything that must
// be refused: the answer of a worker that was asked to. Nothing of it stays in the bucket, unless a reason names it.
type Check struct {
	Version int       `json:"version"`
	Tenant  string    `json:"tenant"`
	At      time.Time `json:"at"` // when it began, by the worker's clock
	Worker  string    `json:"worker,omitempty"`
	Bucket  string    `json:"bucket"`
	Region  string    `json:"region"`
	RoleARN string    `json:"role_arn"`
	// Steps are all steps, in the order of [CheckNames], in which they are made. One that was not made because an earlier
	// one was not ok is skipped.
	Steps []CheckStep `json:"steps"`
}

// CheckStep is one thing that was tried.
type CheckStep struct {
	Name   CheckName   `json:"name"`
	Result CheckResult `json:"result"`
	// Reason says what is wrong, unless the result is ok or skipped. Its code is [Inconclusive] exactly when the
	// result is.
	Reason *Reason `json:"reason,omitempty"`
	// Milliseconds is how long it took.
	Milliseconds int64 `json:"ms"`
}

// CheckName names a step. Names are stable: programs compare them.
type CheckName string

// The steps, in order.
const (
	CheckAssume    CheckName = "assume"             // the role lets us in with the external ID
	CheckWithoutID CheckName = "refuse-without"     // and refuses us without one
	CheckRandomID  CheckName = "refuse-random"      // and with a random one
	CheckBucket    CheckName = "bucket"             // the bucket exists, in that region, owned by that account, and we may list the tenant's folder
	CheckWrite     CheckName = "write"              // a test object is written
	CheckRead      CheckName = "read"               // read back, byte for byte
	CheckDelete    CheckName = "delete"             // and deleted
	CheckMultipart CheckName = "multipart"          // an upload of one part is completed, listed, and deleted
	CheckAbort     CheckName = "abort"              // another is listed and aborted, and nothing of it is left
	CheckOutside   CheckName = "outside-the-folder" // nothing outside of the tenant's folder can be written, read or listed
)

// CheckNames are all steps, in order.
var CheckNames = []CheckName{CheckAssume, CheckWithoutID, CheckRandomID, CheckBucket, CheckWrite, CheckRead, CheckDelete, CheckMultipart, CheckAbort, CheckOutside}

// CheckResult is how a step ended.
type CheckResult string

// The results.
const (
	CheckOK           CheckResult = "ok"
	CheckFailed       CheckResult = "failed"       // the customer, or the operator, has something to mend
	CheckInconclusive CheckResult = "inconclusive" // it could not be found out; never a reason to feel safe
	CheckSkipped      CheckResult = "skipped"
)

// Result is the worst of the steps: failed before inconclusive before ok. It is ok only when every step is: what was
// skipped is not proven, and neither is a check without steps.
func (c Check) Result() CheckResult {
	worst := CheckOK
	for _, s := range c.Steps {
		switch s.Result {
		case CheckFailed:
			return CheckFailed
		case CheckOK:
		default:
			worst = CheckInconclusive
		}
	}
	if len(c.Steps) == 0 {
		return CheckInconclusive
	}
	return worst
}

// Failure is the reason of the first step with the check's result, or nil when all is well.
func (c Check) Failure() *Reason {
	for _, s := range c.Steps {
		if r := c.Result(); s.Result == r && r != CheckOK {
			return s.Reason
		}
	}
	return nil
}
