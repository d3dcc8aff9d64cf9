package consumer

import (
	"context"
	"errors"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
)

// Work is what the consumer drives. The composition root implements it over exporter and uploader.
//
// All methods may be called again, by this worker or by another, after any of them failed, or succeeded
// without anybody learning of it. They retry single requests, for minutes at most; trying an attempt again is the
// consumer's part. An error with a [contracts.Rejection] in its chain means that no retry helps.
// Cancelling ctx stops them soon; what they leave behind is what Abort removes.
type Work interface {
	Answers
	// Prepare uploads everything that the attempt asks for and shows nothing. When it returns, all that
	// the receipt names is durable. It goes on after the attempt's checkpoints, if there are any.
	Prepare(ctx context.Context, a contracts.Attempt, j Journal) (contracts.Receipt, error)
	// Complete makes a receipt's volumes visible, Seal verifies them and writes the manifest. Both are idempotent,
	// and any worker may call them with a receipt that another one prepared. An error that Is a lost upload (see
	// [LostUpload]) means that they never can.
	Complete(ctx context.Context, a contracts.Attempt, r contracts.Receipt) error
	Seal(ctx context.Context, a contracts.Attempt, r contracts.Receipt) error
	// Abort leaves no upload of the job behind: neither those given nor any other below its prefix.
	Abort(ctx context.Context, a contracts.Attempt, uploads []contracts.Upload) error
	// Delivered returns the delivery that is in the job's folder, or nil when there is no manifest. It reads no more of
	// what is there than it can bound. A manifest that does not prove a whole delivery of this job is a
	// [contracts.Rejection] of DestinationTaken.
	Delivered(ctx context.Context, a contracts.Attempt) (*contracts.FoundDelivery, error)
}

// Answers is what operators ask a worker, beside its jobs. Several may be asked at once. An error with a
// [contracts.Rejection] in its chain is told to whoever asked as that.
type Answers interface {
	// Check tries everything that a delivery to the tenant's destination needs, and everything that must be refused.
	// What goes wrong is in the check.
	Check(ctx context.Context, t contracts.Tenant) contracts.Check
	// Links makes links to the files of a delivery to the house, see [AskLinks]: to those that its manifest names, and only
	// while that has the SHA-256 that the outcome tells.
	Links(ctx context.Context, a contracts.Attempt, manifestSHA256 string, expires time.Duration, skip int) (contracts.Links, error)
}

// LostUpload is the behaviour of an error that says: an upload that the receipt or a checkpoint names is gone, and its
// object is not there, or it is not what they say. The job goes on, or back, in RUNNING with a new attempt.
type LostUpload interface{ LostUpload() bool }

// Unreachable is the behaviour of an error of Work that says: the destination does not answer. Other jobs for it
// then wait in the queue, while one tries.
type Unreachable interface{ Unreachable() bool }

// Busy is the behaviour of an error of Prepare that says: the source serves as many of us as it may, or this worker does
// not know it. Nobody is to blame; the job waits in the queue, for any worker, until its deadline.
type Busy interface{ Busy() bool }

// RecoveryConflict is the behaviour of an error of Prepare that says: a standby was read, and did not let us end. The
// job's next attempts are told how often that was; see [contracts.Attempt].
type RecoveryConflict interface{ RecoveryConflict() bool }

// Journal is where an attempt in progress writes what its successor, or a watcher, needs to know.
type Journal interface {
	// Upload records an upload. Only when it has returned nil may the first part leave.
	Upload(ctx context.Context, u contracts.Upload) error
	// Checkpoint keeps data, of any size, for whoever goes on with this attempt: when it has returned nil, a
	// successor finds it. From the first one on, a successor goes on with the same attempt, and nobody aborts its
	// uploads, until one of them is lost (see [LostUpload]).
	Checkpoint(ctx context.Context, data []byte) error
	// Checkpoints returns what this attempt's owners have kept so far, in order: nothing when it is new.
	Checkpoints(ctx context.Context) ([][]byte, error)
	// Progress changes the report that the next heartbeat carries. It never blocks on the network. A
	// report that does not move for [Config].Stall ends the attempt.
	Progress(change func(*contracts.Progress))
}

// The ports to NATS. jetstream.go is the real thing; the orchestration knows only these, so that the same
// code runs in virtual time against memory.

// message is one delivery of one request.
type message interface {
	Data() []byte
	Subject() string
	Tenant() string // last token of the subject
	Header() contracts.Header
	Published() time.Time
	Sequence() uint64  // in the stream
	Delivered() uint64 // how often the queue has handed it out; no count of attempts

	// InProgress and Nak are fire and forget, and prove nothing about ownership.
	InProgress() error
	Nak(delay time.Duration) error
	// Ack and Term return nil when the server has said that the message is gone.
	Ack(ctx context.Context) error
	Term(ctx context.Context, reason string) error
}

// queue hands out one message at a time.
type queue interface {
	// Next waits a few seconds at most and returns nil, nil when there was nothing.
	Next(ctx context.Context) (message, error)
	// Return gives back the messages that the queue has taken and Next has not returned yet. It is called before the
	// caller waits for something else than a message.
	Return()
}

// cells is a compare-and-swap store: one value and one growing revision for each key. Reads may be stale.
type cells interface {
	Get(ctx context.Context, key string) (value []byte, revision uint64, err error) // errNoCell
	Create(ctx context.Context, key string, value []byte) (uint64, error)           // errSwapped
	Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error)
	Put(ctx context.Context, key string, value []byte) error
	Delete(ctx context.Context, key string) error
	DeleteIf(ctx context.Context, key string, revision uint64) error // errSwapped
	Keys(ctx context.Context, filter string) ([]string, error)
	// Changes calls seen for every change from now on until ctx is done.
	Changes(ctx context.Context, filter string, seen func(key string, revision uint64)) error
}

// board is cells that can be read as a whole and followed.
type board interface {
	cells
	// Follow calls seen for every key that matches the filter, as it stands, then all, then seen again for every change
	// until ctx is done. A key that was removed has no value.
	Follow(ctx context.Context, filter string, seen func(key string, value []byte), all func()) error
}

// ledger takes outcomes, one for each job, requests that were given up, and notices.
type ledger interface {
	// Publish writes the outcome unless there is one; it returns the one that stands.
	Publish(ctx context.Context, o contracts.Outcome) (contracts.Outcome, error)
	// Outcome reads the one that stands, or nil.
	Outcome(ctx context.Context, tenant, job string) (*contracts.Outcome, error)
	// Endings calls ended, with the record's key, for every outcome that is published from now on until ctx
	// is done. Some may be missed.
	Endings(ctx context.Context, ended func(key string)) error
	// Bury keeps the message with the reason. The same message and code are kept once. An error that is a
	// [permanentError] means that no retry helps.
	Bury(ctx context.Context, m message, job string, why *contracts.Rejection) error
	// Refuse answers the publisher of a request that is no job. The same message is answered once.
	Refuse(ctx context.Context, r contracts.Refusal) error
	// Notify tells what concerns a tenant and no job.
	Notify(ctx context.Context, n contracts.Notice) error
}

// registry knows the tenants, and where they are delivered to.
type registry interface {
	Get(ctx context.Context, name string) (contracts.Tenant, error) // a Rejection unknown_tenant or no_destination
	Names(ctx context.Context) ([]string, error)
	House(ctx context.Context) (contracts.House, error) // a Rejection no_destination
}

var (
	errNoCell  = errors.New("no such record")
	errSwapped = errors.New("the record was changed by somebody else")
)
