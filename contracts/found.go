package contracts

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
)

// FleetKey is the secret with which a fleet signs the manifests that it writes, 32 random bytes. The zero key signs and
// proves nothing. It prints as its kind and never as its bytes.
type FleetKey [32]byte

// String implements [fmt.Stringer] without the secret.
func (FleetKey) String() string { return "fleet key" }

// GoString implements [fmt.GoStringer] without the secret.
func (FleetKey) GoString() string { return "contracts.FleetKey{...}" }

// MarshalJSON implements [json.Marshaler] without the secret.
func (FleetKey) MarshalJSON() ([]byte, error) { return []byte(`"fleet key"`), nil }

// ManifestMAC is the HMAC-SHA256, in hex, of a manifest.json of size bytes whose SHA-256, in hex, is given: of this job,
// written by this attempt. It is kept in the object's metadata, so that a HEAD of it shows whether this fleet wrote it.
// It is empty for the zero key.
func (k FleetKey) ManifestMAC(tenant, job, attempt, manifestSHA256 string, size int64) string {
	if k == (FleetKey{}) {
		return ""
	}
	mac := hmac.New(sha256.New, k[:])
	for _, field := range []string{"snapfleet manifest 1", tenant, job, attempt, manifestSHA256, strconv.FormatInt(size, 10)} {
		// The length in front keeps two lists of fields from reading the same.
		fmt.Fprintf(mac, "%d:%s", len(field), field)
	}
	return hex.EncodeToString(mac.Sum(nil))
}

// ProvesManifest reports whether mac is the [FleetKey.ManifestMAC] of the rest. Nothing is proven with the zero key.
func (k FleetKey) ProvesManifest(mac, tenant, job, attempt, manifestSHA256 string, size int64) bool {
	want := k.ManifestMAC(tenant, job, attempt, manifestSHA256, size)
	return want != "" && hmac.Equal([]byte(mac), []byte(want))
}

// FoundDelivery is a delivery that was found in its job's folder, and proven.
type FoundDelivery struct {
	// Manifest has no tables, attachments, gaps, files and exclusions: see [ReadManifestSummary].
	Manifest Manifest
	// SHA256 is of manifest.json, in hex.
	SHA256 string
}

// Bounds of what [ReadManifestSummary] holds in memory at a time.
const (
	maxSummaryToken = 64 << 10 // bytes of one string, number or volume
	maxSummaryDepth = 32
	// MaxVolumes is more than a delivery has: they would hold 5 PB of the default size.
	MaxVolumes = 100_000
)

// ReadManifestSummary reads a manifest of this version, but leaves out its lists of tables, attachments, gaps, files and
// exclusions. It never holds more of the text than 192 KiB, and the volumes; what is longer, or deeper, is an error. It
// checks that the totals are not negative, and that those of volumes and bytes are right.
func ReadManifestSummary(r io.Reader) (Manifest, error) {
	var m Manifest
	s := summary{limited: &limitedReader{r: r}}
	s.d = json.NewDecoder(s.limited)
	if err := s.read(&m); err != nil {
		return m, fmt.Errorf("manifest: %w", err)
	}
	if m.Version != ManifestVersion {
		return m, fmt.Errorf("manifest: version %d, this build reads %d", m.Version, ManifestVersion)
	}
	if !ValidTenant(m.Tenant) || !ValidJob(m.Job) {
		return m, fmt.Errorf("manifest: tenant %.80q or job %.80q is not a valid name", m.Tenant, m.Job)
	}
	return m, m.checkTotals()
}

// checkTotals compares the totals with what a summary has.
func (m Manifest) checkTotals() error {
	t, bytes := m.Totals, int64(0)
	for _, v := range m.Volumes {
		if v.Size < 0 || v.Files < 0 || bytes+v.Size < bytes {
			return fmt.Errorf("manifest: volume %.80q has %d bytes and %d files", v.Name, v.Size, v.Files)
		}
		bytes += v.Size
	}
	switch {
	case t.Tables < 0 || t.Rows < 0 || t.Attachments < 0 || t.Gaps < 0:
		return fmt.Errorf("manifest: a total is negative: %+v", t)
	case t.Volumes != len(m.Volumes) || t.Bytes != bytes:
		return fmt.Errorf("manifest: the totals say %d volumes of %d bytes, it names %d of %d bytes", t.Volumes, t.Bytes, len(m.Volumes), bytes)
	}
	return nil
}

// summary reads a manifest token by token.
type summary struct {
	d       *json.Decoder
	limited *limitedReader
}

func (s summary) read(m *Manifest) error {
	fields := map[string]any{
		"version": &m.Version, "tenant": &m.Tenant, "job": &m.Job, "attempt": &m.Attempt, "only": &m.Only, "format": &m.Format,
		"requested_at": &m.RequestedAt, "snapshot": &m.Snapshot, "totals": &m.Totals, "producer": &m.Producer, "trace_id": &m.TraceID,
	}
	if err := s.expect('{'); err != nil {
		return err
	}
	seen := make([]string, 0, 32)
	for s.more() {
		t, err := s.token()
		if err != nil {
			return err
		}
		name, _ := t.(string)
		if slices.Contains(seen, name) || len(seen) == cap(seen) {
			return fmt.Errorf("field %.80q is given twice, or there are more than %d fields", name, cap(seen))
		}
		seen = append(seen, name)
		switch field, ok := fields[name]; {
		case ok:
			err = s.value(field)
		case name == "volumes":
			err = s.volumes(m)
		default:
			err = s.skip()
		}
		if err != nil {
			return fmt.Errorf("field %.80q: %w", name, err)
		}
	}
	if err := s.expect('}'); err != nil {
		return err
	}
	if _, err := s.token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one JSON value")
	}
	return nil
}

func (s summary) volumes(m *Manifest) error {
	if err := s.expect('['); err != nil {
		return err
	}
	for s.more() {
		var v Volume
		if err := s.value(&v); err != nil {
			return err
		}
		if m.Volumes = append(m.Volumes, v); len(m.Volumes) > MaxVolumes {
			return fmt.Errorf("more than %d volumes", MaxVolumes)
		}
	}
	return s.expect(']')
}

// skip passes over one value.
func (s summary) skip() error {
	for depth := 0; ; {
		t, err := s.token()
		if err != nil {
			return err
		}
		switch t {
		case json.Delim('{'), json.Delim('['):
			depth++
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
		if depth > maxSummaryDepth {
			return fmt.Errorf("nested more than %d deep", maxSummaryDepth)
		}
		if depth == 0 {
			return nil
		}
	}
}

func (s summary) expect(d json.Delim) error {
	t, err := s.token()
	if err == nil && t != d {
		err = fmt.Errorf("%.40v where %v should be", t, d)
	}
	return err
}

func (s summary) more() bool {
	s.limited.left = maxSummaryToken
	return s.d.More()
}

func (s summary) token() (json.Token, error) {
	s.limited.left = maxSummaryToken
	return s.d.Token()
}

func (s summary) value(v any) error {
	s.limited.left = maxSummaryToken
	return s.d.Decode(v)
}

// limitedReader ends with an error when one token needs too much.
type limitedReader struct {
	r    io.Reader
	left int
}

func (l *limitedReader) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, fmt.Errorf("a value of more than %d bytes", maxSummaryToken)
	}
	n, err := l.r.Read(p[:min(len(p), l.left)])
	l.left -= n
	return n, err
}
