package consumer

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
)

// recordVersion is the only version of record that this build reads and writes. A record of another version
// belongs to workers of another release: it is left alone until they end it.
const recordVersion = 1

// state is where a job stands; see the package documentation.
type state string

const (
	running    state = "running"
	committing state = "committing"
	sealing    state = "sealing"
	committed  state = "committed"
	done       state = "done"
	failing    state = "failing"
	failed     state = "failed"
)

func (s state) ended() bool { return s == done || s == failed }

// visible reports whether volumes of the attempt may be visible by now.
func (s state) visible() bool { return s == committing || s == sealing }

func (s state) known() bool {
	return slices.Contains([]state{running, committing, sealing, committed, done, failing, failed}, s)
}

// record is the one truth about a job. Whoever changes it does so by compare-and-swap.
type record struct {
	Version int    `json:"version"`
	State   state  `json:"state"`
	Write   string `json:"write"` // who wrote this revision: fresh for every write, so that a writer knows its own again

	// Ownership. Epoch only grows; Owner is the holder's nonce, empty when it let go by itself.
	Epoch  uint64 `json:"epoch"`
	Owner  string `json:"owner,omitempty"`
	Worker string `json:"worker,omitempty"` // the owner's name, for people

	Request contracts.Request `json:"request"`
	Digest  string            `json:"digest"` // of the request; empty when cancelled before it was seen
	// Schedule says which run of the tenant's schedule the job is. Nil: nobody's.
	Schedule *contracts.ScheduledRun `json:"schedule,omitempty"`

	// The attempt under way, or the one that the receipt belongs to.
	Attempt   int    `json:"attempt"`
	AttemptID string `json:"attempt_id"`
	// Uploads of this attempt, and of earlier ones that nobody has aborted yet.
	Uploads []contracts.Upload `json:"uploads,omitempty"`
	// Plan counts the checkpoints of this attempt, by owner; see [Journal]. Vain is how often the attempt has
	// failed, or its owner gone silent, since the last of them.
	Plan []planned `json:"plan,omitempty"`
	Vain int       `json:"vain,omitempty"`
	// Delivery is set with COMMITTING and does not change before the job is over or begins again.
	Delivery *delivery `json:"delivery,omitempty"`

	Errors    int       `json:"errors,omitempty"`    // attempts that ended in an error
	Crashes   int       `json:"crashes,omitempty"`   // owners that went silent
	Conflicts int       `json:"conflicts,omitempty"` // of the errors, those that are a RecoveryConflict
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
	NotBefore time.Time `json:"not_before,omitzero"` // the next attempt waits for this
	Deadline  time.Time `json:"deadline"`
	EndedAt   time.Time `json:"ended_at,omitzero"`

	Progress  contracts.Progress `json:"progress,omitzero"`
	LastError string             `json:"last_error,omitempty"`
	Cancel    bool               `json:"cancel,omitempty"`
	Reason    *contracts.Reason  `json:"reason,omitempty"` // why FAILING

	Trace   string `json:"trace,omitempty"` // traceparent of the first attempt
	TraceID string `json:"trace_id,omitempty"`
}

// delivery is what a successor needs besides the receipt's pieces.
type delivery struct {
	AttemptID      string           `json:"attempt_id"`
	Pieces         int              `json:"pieces"` // of the receipt; 0: the manifest was found in the bucket
	Digest         string           `json:"digest,omitempty"`
	Manifest       string           `json:"manifest"` // s3://...
	ManifestSHA256 string           `json:"manifest_sha256"`
	Totals         contracts.Totals `json:"totals"`
}

func recordKey(tenant, job string) string { return tenant + "." + job }

// recordKeys matches records and nothing else in the bucket.
const recordKeys = "*.*"

// receiptKey has the digest, because two owners of one attempt may each have a receipt.
func receiptKey(r record, d *delivery, n int) string {
	return fmt.Sprintf("%s.%s.receipt.%s.%.16s.%d", r.Request.Tenant, r.Request.Job, d.AttemptID, d.Digest, n)
}

// sweepKey marks a job that the janitor has to look after.
func sweepKey(tenant, job string) string { return "sweep." + tenant + "." + job }

// nonce is 64 random bits in hex.
func nonce() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // crypto/rand does not fail
	return fmt.Sprintf("%016x", binary.BigEndian.Uint64(b[:]))
}

func attemptID(n int) string { return fmt.Sprintf("%d-%s", n, nonce()) }

var errForeignVersion = errors.New("the job's record is of another release")

// records reads and writes job records in a bucket, and what jobs under way keep besides in another one: receipts and
// plans name files, and so hold contents of a tenant's rows. Users who may read the records may not read the pieces.
type records struct {
	cells
	pieces cells
}

// piece reads one piece. Workers of an earlier release have kept pieces beside the records.
func (s records) piece(ctx context.Context, key string) ([]byte, error) {
	p, _, err := s.pieces.Get(ctx, key)
	if errors.Is(err, errNoCell) {
		p, _, err = s.Get(ctx, key)
	}
	return p, err
}

// get is a hint: the value may be stale, and only a swap decides.
func (s records) get(ctx context.Context, key string) (record, uint64, error) {
	value, revision, err := s.Get(ctx, key)
	if err != nil {
		return record{}, 0, fmt.Errorf("read job record %s: %w", key, err)
	}
	var r record
	if err := json.Unmarshal(value, &r); err != nil {
		return record{}, 0, fmt.Errorf("read job record %s: %w", key, err)
	}
	if r.Version != recordVersion || !r.State.known() {
		return record{}, 0, fmt.Errorf("read job record %s: %w: version %d, state %.20q", key, errForeignVersion, r.Version, r.State)
	}
	return r, revision, nil
}

// swap writes r if the record still has the given revision, 0 meaning that there is none, and returns the new
// one. It repeats itself until it knows the answer or ctx is done: a write whose reply was lost is recognised
// by its nonce, and repeating it is harmless, because both carry the same expected revision. errSwapped
// means that another write came first; a [NoRight], that this user may not write.
func (s records) swap(ctx context.Context, key string, r record, revision uint64) (uint64, error) {
	r.Version, r.Write, r.UpdatedAt = recordVersion, nonce(), time.Now().UTC()
	value, err := json.Marshal(r)
	if err != nil {
		return 0, fmt.Errorf("write job record %s: %w", key, err)
	}
	for {
		written, err := s.write(ctx, key, value, revision)
		if err == nil {
			return written, nil
		}
		if permanent(err) { // it was not sent, and never will be
			return 0, fmt.Errorf("write job record %s of %d bytes: %w", key, len(value), err)
		}
		if _, refused := AsNoRight(err); refused { // and would be again
			return 0, fmt.Errorf("write job record %s: %w", key, err)
		}
		now, at, readErr := s.get(ctx, key)
		switch {
		case readErr == nil && now.Write == r.Write:
			return at, nil // it was us, and the reply was lost
		case errors.Is(err, errSwapped) && (readErr == nil && at > revision || errors.Is(readErr, errNoCell) || errors.Is(readErr, errForeignVersion)):
			return 0, fmt.Errorf("write job record %s: %w", key, errSwapped)
		}
		select { // refused or unanswered, and the read was stale or failed: not known yet
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return 0, fmt.Errorf("write job record %s: %w: %w", key, context.Cause(ctx), err)
		}
	}
}

func (s records) write(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if revision == 0 {
		return s.Create(ctx, key, value)
	}
	return s.Update(ctx, key, value, revision)
}

// keepReceipt writes the pieces of a receipt. They are never changed, and only the record makes them matter.
func (s records) keepReceipt(ctx context.Context, r record, d *delivery, pieces [][]byte) error {
	for n, p := range pieces {
		if err := s.pieces.Put(ctx, receiptKey(r, d, n), p); err != nil {
			return fmt.Errorf("record receipt piece %d of %d: %w", n+1, len(pieces), err)
		}
	}
	return nil
}

// receipt reads what keepReceipt wrote.
func (s records) receipt(ctx context.Context, r record) (contracts.Receipt, error) {
	pieces := make([][]byte, r.Delivery.Pieces)
	for n := range pieces {
		p, err := s.piece(ctx, receiptKey(r, r.Delivery, n))
		if err != nil {
			return contracts.Receipt{}, fmt.Errorf("read receipt piece %d of %d: %w", n+1, len(pieces), err)
		}
		pieces[n] = p
	}
	return contracts.JoinReceipt(pieces, r.Delivery.Digest)
}

// digestOf is the SHA-256 of b in hex.
func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
