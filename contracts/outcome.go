package contracts

import "time"

// OutcomeVersion is the only version of [Outcome] that this build writes.
const OutcomeVersion = 1

// Outcome is how a job ended. There is exactly one for each job, on [OutcomeSubject], and it never changes.
type Outcome struct {
	Version int         `json:"version"`
	Tenant  string      `json:"tenant"`
	Job     string      `json:"job"`
	Kind    OutcomeKind `json:"kind"`
	// Attempt is the [Attempt].ID that was delivered, or the last one that was tried.
	Attempt  string    `json:"attempt,omitempty"`
	Attempts int       `json:"attempts"`
	EndedAt  time.Time `json:"ended_at"` // the worker's clock, for people
	// Manifest is where the delivery is, s3://bucket/tenant/job/manifest.json. Empty unless delivered.
	Manifest       string  `json:"manifest,omitempty"`
	ManifestSHA256 string  `json:"manifest_sha256,omitempty"`
	Totals         *Totals `json:"totals,omitempty"`
	// Reason says why the job was not delivered.
	Reason  *Reason `json:"reason,omitempty"`
	TraceID string  `json:"trace_id,omitempty"`
	// Schedule says which run of the tenant's [Schedule] the job is. Nil: nobody's.
	Schedule *ScheduledRun `json:"schedule,omitempty"`
}

// ScheduledRun is one run of a schedule.
type ScheduledRun struct {
	// FiredAt is the time that the schedule names; the job's id is made of it.
	FiredAt time.Time `json:"fired_at"`
	// LateSeconds is how long after that a worker first took the run on, by the worker's clock.
	LateSeconds int64 `json:"late_seconds,omitempty"`
	// Missed are the times between the run before and this one for which no snapshot was begun, the last [MaxMissed]
	// of them: nobody worked, or the run before went on. This run makes up for all of them.
	Missed []time.Time `json:"missed,omitempty"`
	// MissedTotal is how many there were.
	MissedTotal int `json:"missed_total,omitempty"`
}

// MaxMissed is how many missed times an outcome names.
const MaxMissed = 20

// OutcomeKind is one of the five ways in which a job ends.
type OutcomeKind string

// The ways.
const (
	Delivered         OutcomeKind = "delivered"
	DeliveredWithGaps OutcomeKind = "delivered-with-gaps"
	Failed            OutcomeKind = "failed"
	Cancelled         OutcomeKind = "cancelled"
	Skipped           OutcomeKind = "skipped" // a run of a schedule that was not begun, because another one stands for it
)

// OK reports whether the customer has the data.
func (k OutcomeKind) OK() bool { return k == Delivered || k == DeliveredWithGaps }

// Reason is a [Rejection] as people and programs outside the process read it.
type Reason struct {
	Code  Code   `json:"code"`
	What  string `json:"what"`            // what happened
	Cause string `json:"cause,omitempty"` // what usually is behind it
	Fix   string `json:"fix,omitempty"`   // what to do about it
}
