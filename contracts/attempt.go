package contracts

import "cmp"

// Attempt is one try at one job: what was asked, for whom, and which try it is. The consumer makes it,
// from a decoded request and the tenant's own record; everything that acts is given one.
type Attempt struct {
	Request Request `json:"request"`
	Tenant  Tenant  `json:"tenant"`
	// Number counts the tries of this job from 1.
	Number int `json:"number"`
	// ID tells this try's uploads from every other's, also after a record was lost and Number
	// started again: the number and 64 random bits, "3-9f86d081884c7d65".
	ID string `json:"id"`
	// Conflicts is how many attempts of this job a standby has ended because its primary's changes were in their
	// way. Whoever reads a database chooses by it which server to read.
	Conflicts int `json:"conflicts,omitempty"`
	// FleetKey signs the manifest, and proves one that is found. The zero key does neither.
	FleetKey FleetKey `json:"-"`
}

// Prefix is the folder in the bucket that this attempt, and nothing else, may write to: "tenant/job/".
func (a Attempt) Prefix() string { return JobPrefix(a.Tenant.Name, a.Request.Job) }

// Format is how this attempt writes tables: as its request says, else as the tenant's record does. Who goes on with
// an attempt keeps the format in which its tables are written; see [Checkpoint.Format].
func (a Attempt) Format() Format { return cmp.Or(a.Request.Format, a.Tenant.Format, CSV) }

// Progress is how far an attempt has come. It is a report, not a record: it may lag and it may be lost.
type Progress struct {
	Phase       Phase  `json:"phase,omitempty"`
	Tables      int    `json:"tables,omitempty"`       // tables written
	TablesTotal int    `json:"tables_total,omitempty"` // tables there are
	Files       int    `json:"files,omitempty"`        // attachments written
	FilesTotal  int    `json:"files_total,omitempty"`  // attachments there are
	Rows        int64  `json:"rows,omitempty"`         // rows written
	Bytes       int64  `json:"bytes,omitempty"`        // bytes of archives written
	BytesTotal  int64  `json:"bytes_total,omitempty"`  // bytes of archives expected, an estimate
	Current     string `json:"current,omitempty"`      // the table being written
}

// Phase is the stage of an attempt.
type Phase string

// The phases, in order.
const (
	Preflight         Phase = "preflight"
	Opening           Phase = "opening"
	WritingTables     Phase = "tables"
	WritingAttachment Phase = "attachments"
	Committing        Phase = "committing"
)
