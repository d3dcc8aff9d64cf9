package contracts

import (
	"fmt"
	"strings"
	"time"
)

// HouseVersion is the only version of [House] that this build reads and writes.
const HouseVersion = 1

// HouseKey is where the house's record lies beside those of the tenants. No tenant has that name.
const HouseKey = "_house"

// FleetKeyKey is where the [FleetKey] lies beside them, as JSON.
const FleetKeyKey = "_fleet_key"

// HouseDays is how long the house keeps a delivery unless its record says otherwise.
const HouseDays = 30

// ExpiresTag is the tag of an object that no lifecycle rule deletes: the day, in UTC, from which on it may be deleted,
// as 2026-04-30.
const ExpiresTag = "snapfleet-expires"

// House is the operator's own bucket, for tenants without a bucket of their own: the same layout, below the same
// folders, under a role that is assumed as a customer's is. A delivery is kept for some days, and downloaded by [Links].
type House struct {
	Version int `json:"version"`
	// Destination is the bucket, and the role in the operator's account that may write there.
	Destination Destination `json:"destination"`
	// Days is how long a delivery is kept, 1 to 3650.
	Days int `json:"days"`
	// ExpiresBy is what ends it.
	ExpiresBy ExpiresBy `json:"expires_by"`
	// UpdatedAt is when an operator last changed the record.
	UpdatedAt time.Time `json:"updated_at,omitzero"`
}

// ExpiresBy says what deletes a delivery whose days are over.
type ExpiresBy string

// The ways.
const (
	ByLifecycle ExpiresBy = "lifecycle" // a rule of the bucket
	ByTag       ExpiresBy = "tag"       // whoever looks for [ExpiresTag]: the store has no rule of ours
)

// Keep is how long, and by what, a delivery is kept. The zero value is a customer's: for ever, as far as we know.
type Keep struct {
	Days int
	By   ExpiresBy
}

// Validate names the first field that is wrong and what it should look like.
func (h House) Validate() error {
	bad := func(field, value, want string) error {
		return &Rejection{Code: NoDestination, Err: fmt.Errorf("the house's record: %s %.200q is not %s", field, value, want)}
	}
	switch {
	case h.Version != HouseVersion:
		return bad("version", fmt.Sprint(h.Version), fmt.Sprint(HouseVersion))
	case h.Days < 1 || h.Days > 3650:
		return bad("days", fmt.Sprint(h.Days), "between 1 and 3650")
	case h.ExpiresBy != ByLifecycle && h.ExpiresBy != ByTag:
		return bad("expires_by", string(h.ExpiresBy), fmt.Sprintf("%q or %q", ByLifecycle, ByTag))
	}
	d := h.Destination
	d.Keep = Keep{h.Days, h.ExpiresBy}
	if err := d.validate(); err != nil {
		return &Rejection{Code: NoDestination, Err: fmt.Errorf("the house's record: %w", err)}
	}
	return nil
}

// For is the tenant with the house's destination in place of its own, marked as that by [Destination].Keep. A tenant that
// has one of its own is returned as it is.
func (h House) For(t Tenant) Tenant {
	if t.Destination.House() {
		t.Destination = h.Destination
		t.Destination.Keep = Keep{h.Days, h.ExpiresBy}
	}
	return t
}

// Holds reports whether the delivery was made to the house's bucket.
func (h House) Holds(o Outcome) bool {
	return o.Kind.OK() && h.Destination.Bucket != "" &&
		o.Manifest == "s3://"+h.Destination.Bucket+"/"+JobPrefix(o.Tenant, o.Job)+ManifestName
}

// Expires is the midnight, in UTC, from which on a file that was begun at that time may be gone: the one after its days
// are over, as S3 counts.
func (k Keep) Expires(begun time.Time) time.Time {
	return begun.UTC().Truncate(24*time.Hour).AddDate(0, 0, k.Days+1)
}

// LinksVersion is the only version of [Links] that this build writes.
const LinksVersion = 1

// Links are short-lived links to the files of one delivery to the house. Whoever has a link has the file: they belong in
// no log, ticket or chat.
type Links struct {
	Version int    `json:"version"`
	Tenant  string `json:"tenant"`
	Job     string `json:"job"`
	// ManifestSHA256 is of manifest.json as it was delivered, hex.
	ManifestSHA256 string `json:"manifest_sha256"`
	// ValidUntil is when the links end, by the worker's clock.
	ValidUntil time.Time `json:"valid_until"`
	// Expires is the day from which on the files may be gone.
	Expires   time.Time `json:"expires"`
	ExpiresBy ExpiresBy `json:"expires_by"`
	// Files are manifest.json and then every volume, or what follows after what was asked for.
	Files []Link `json:"files"`
	// More says that there are files after these.
	More bool `json:"more,omitempty"`
}

// Link is one file of a delivery.
type Link struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
	// ETag changes whenever the file does, as S3 writes it.
	ETag string `json:"etag"`
	URL  string `json:"url"`
}

// String shows everything but the URL.
func (l Link) String() string { return fmt.Sprintf("%s (%d bytes)", l.Name, l.Size) }

// GoString does, too.
func (l Link) GoString() string { return l.String() }

// IsFileOf reports whether name is one that a delivery of the job may have: manifest.json, or a volume's. Such a name is
// safe on every system.
func IsFileOf(job, name string) bool {
	if name == ManifestName {
		return true
	}
	rest, ok := strings.CutSuffix(name, "_"+job+".tar")
	if !ok || !ValidJob(job) {
		return false
	}
	for _, kind := range []Kind{Tables, Attachments} {
		after, ok := strings.CutPrefix(rest, "snapshot_"+string(kind))
		if !ok {
			continue
		}
		if after == "" {
			return true
		}
		number, ok := strings.CutPrefix(after, "_part")
		return ok && partNumber.MatchString(number)
	}
	return false
}
