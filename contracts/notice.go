package contracts

import "time"

// NoticeVersion is the only version of [Notice] that this build writes.
const NoticeVersion = 1

// Notice tells what concerns a tenant and belongs to no job, on [NoticeSubject]. It is told when something changes, not
// for as long as it lasts.
type Notice struct {
	Version int        `json:"version"`
	Tenant  string     `json:"tenant"`
	Kind    NoticeKind `json:"kind"`
	At      time.Time  `json:"at"` // the worker's clock
	// Reason says what is wrong. Absent from good news.
	Reason *Reason `json:"reason,omitempty"`
	// Since is when it began: the last time that it was well, as far as is known.
	Since time.Time `json:"since,omitzero"`
}

// NoticeKind is what a notice tells. It is a token of its subject, too.
type NoticeKind string

// The kinds.
const (
	DestinationBroken NoticeKind = "destination-broken" // a check of the destination failed that succeeded before
	DestinationMended NoticeKind = "destination-mended" // it succeeds again
	// DestinationChanged: the tenant's record is not what it was at the delivery before: its schema, its bucket, its role.
	DestinationChanged NoticeKind = "destination-changed"
	DeliveryOverdue    NoticeKind = "delivery-overdue"   // no delivery for one and a half times the schedule's interval
	DeliveryCaughtUp   NoticeKind = "delivery-caught-up" // there is one again
)

// NoticeKinds are all there are.
var NoticeKinds = []NoticeKind{DestinationBroken, DestinationMended, DestinationChanged, DeliveryOverdue, DeliveryCaughtUp}
