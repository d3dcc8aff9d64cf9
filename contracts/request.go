package contracts

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"time"
)

// RequestVersion is the only version of [Request] that this build reads and writes.
const RequestVersion = 1

// MaxRequestBytes is the largest request that is looked at. It is also the stream's MaxMsgSize.
const MaxRequestBytes = 64 << 10

// Request asks for one snapshot of one tenant. It is what a publisher puts on [RequestSubject], as JSON.
//
// A request says whose data and which job, never where to: bucket, role and external ID come from the
// tenant's own record, so a forged request can at worst deliver a customer's data to that same customer.
type Request struct {
	// Version is 1.
	Version int `json:"version"`
	// Tenant is the name under which the tenant is registered; it is the last token of the subject, too.
	Tenant string `json:"tenant"`
	// Job names the delivery: the folder in the bucket, and the key under which a repeated request is
	// recognised. 1 to 64 of A-Z a-z 0-9 _ -. Schedules use the UTC fire time, 2026-03-31-143022: a request
	// with an id of that form is refused when the time lies ahead, or is that of a run that was not begun yet.
	Job string `json:"job"`
	// Only restricts the snapshot to "tables" or "attachments". Empty: both.
	Only Kind `json:"only,omitempty"`
	// Format of the table files, instead of the tenant's own. Empty: the tenant's.
	Format Format `json:"format,omitempty"`
	// RequestedAt is when the publisher asked, RFC 3339. A request older than the fleet's limit
	// (7 days) is refused, so a forgotten message cannot become a second delivery.
	RequestedAt time.Time `json:"requested_at"`
}

// Kind is one of the two things a snapshot is made of.
type Kind string

// The kinds, in the order in which they are delivered.
const (
	Tables      Kind = "tables"
	Attachments Kind = "attachments"
)

// Wants reports whether the request asks for kind.
func (r Request) Wants(kind Kind) bool { return r.Only == "" || r.Only == kind }

// Digest identifies the content of the request: two requests with the same job and different digests
// are two different wishes, and the second is refused. RequestedAt is not part of it, because a
// publisher that repeats itself repeats the wish and not the clock.
func (r Request) Digest() string {
	r.RequestedAt = time.Time{}
	b, err := json.Marshal(r)
	if err != nil {
		panic("contracts: a request of strings and numbers always marshals: " + err.Error())
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// Validate returns a [Rejection] that names the first field that is wrong.
func (r Request) Validate() error {
	switch {
	case r.Version != RequestVersion:
		return Reject(UnsupportedVersion, "version is %d, this fleet reads %d", r.Version, RequestVersion)
	case !ValidTenant(r.Tenant):
		return Reject(InvalidRequest, "tenant %.80q is not 1 to 63 of A-Z a-z 0-9 _ -, starting with a letter or digit", r.Tenant)
	case !ValidJob(r.Job):
		return Reject(InvalidRequest, "job %.80q is not 1 to 64 of A-Z a-z 0-9 _ -", r.Job)
	case r.Only != "" && r.Only != Tables && r.Only != Attachments:
		return Reject(InvalidRequest, "only %.80q is neither %q nor %q", r.Only, Tables, Attachments)
	case r.Format != "" && !r.Format.valid():
		return Reject(InvalidRequest, "format %.80q is neither %q nor %q", r.Format, CSV, JSONL)
	case r.RequestedAt.IsZero():
		return Reject(InvalidRequest, "requested_at is missing")
	case r.RequestedAt.Year() < 2000 || r.RequestedAt.Year() > 2999:
		return Reject(InvalidRequest, "requested_at is in the year %d", r.RequestedAt.Year())
	}
	return nil
}

// DecodeRequest reads a request strictly: at most [MaxRequestBytes], one JSON object, no unknown,
// repeated or differently spelled field, nothing after it, every field valid. The error is a [Rejection].
func DecodeRequest(data []byte) (Request, error) {
	var r Request
	if len(data) > MaxRequestBytes {
		return r, Reject(RequestTooLarge, "%d bytes, the limit is %d", len(data), MaxRequestBytes)
	}
	wire := struct {
		*Request
		Version     wholeNumber `json:"version"`
		RequestedAt instant     `json:"requested_at"`
	}{Request: &r}
	if err := DecodeStrict(data, &wire); err != nil {
		// A request of a later version probably has fields that this one lacks: what is wrong
		// with it is its version.
		var head struct {
			Version wholeNumber `json:"version"`
		}
		if json.Unmarshal(data, &head) == nil && head.Version > RequestVersion {
			return r, Reject(UnsupportedVersion, "version is %d, this fleet reads %d", head.Version, RequestVersion)
		}
		return r, &Rejection{Code: InvalidRequest, Err: err}
	}
	r.Version, r.RequestedAt = int(wire.Version), wire.RequestedAt.Time
	return r, r.Validate()
}

// MaxClockSkew is how far the clock of a publisher may be ahead of the server's.
const MaxClockSkew = 15 * time.Minute

// ValidateAt returns a [Rejection] of a request that was stored before it was made, by more than [MaxClockSkew]: it would
// never be too old. stored is when the server took it.
func (r Request) ValidateAt(stored time.Time) error {
	if ahead := r.RequestedAt.Sub(stored); ahead > MaxClockSkew {
		return Reject(InvalidRequest, "requested_at is %s, %v after the request was received: give the present instant in UTC", r.RequestedAt.UTC().Format(time.RFC3339), ahead.Round(time.Second))
	}
	return nil
}

// instant reads RFC 3339 to the letter. time.Time is lenient: it reads the zone +24:00, for one, which it
// then refuses to write.
type instant struct{ time.Time }

var rfc3339 = regexp.MustCompile(`^[0-9]{4}(-[0-9]{2}){2}T[0-9]{2}(:[0-9]{2}){2}(\.[0-9]+)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$`)

func (i *instant) UnmarshalJSON(data []byte) error {
	var s *string
	if err := json.Unmarshal(data, &s); err != nil || s == nil {
		return err
	}
	if !rfc3339.MatchString(*s) {
		return fmt.Errorf("%.80q is not RFC 3339, 2026-03-31T14:30:22Z", *s)
	}
	t, err := time.Parse(time.RFC3339, *s)
	i.Time = t
	return err
}
