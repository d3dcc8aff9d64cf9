package contracts

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// ManifestVersion is the only version of [Manifest] that this build writes.
const ManifestVersion = 1

// Manifest is the last object of a delivery, and the only one that a customer needs to trust: when it is
// there, every file that it names is there, with the size and the digest that it gives.
type Manifest struct {
	Version int    `json:"version"`
	Tenant  string `json:"tenant"`
	Job     string `json:"job"`
	// Attempt is the [Attempt].ID whose bytes these are.
	Attempt string `json:"attempt"`
	Only    Kind   `json:"only,omitempty"` // what the request was restricted to
	Format  Format `json:"format"`         // of every table's file, and its suffix

	RequestedAt time.Time `json:"requested_at"`
	// Snapshot is the instant that every table, and the list of attachments, was read at.
	Snapshot Snapshot `json:"snapshot"`

	Tables      []Table      `json:"tables"`
	Attachments []Attachment `json:"attachments"`
	// Gaps are attachments that the database names and the source store could not give.
	Gaps []Gap `json:"gaps"`
	// Excluded says, in words, what of the schema is not part of a snapshot.
	Excluded []string `json:"excluded,omitempty"`
	// Filter says what the tenant's own record leaves out. Absent: nothing.
	Filter Filtered `json:"filter,omitzero"`

	Volumes []Volume `json:"volumes"`
	Files   []File   `json:"files"`

	Totals   Totals   `json:"totals"`
	Producer Producer `json:"producer"`
	TraceID  string   `json:"trace_id,omitempty"`
}

// Contents is the part of a manifest that the exporter knows.
type Contents struct {
	Snapshot    Snapshot
	Tables      []Table
	Attachments []Attachment
	Gaps        []Gap
	Excluded    []string
	Filter      Filtered
	// AttachmentsExcluded is [Totals].AttachmentsExcluded.
	AttachmentsExcluded string
}

// Filtered is what a [Filter] has left out of one snapshot, as far as the snapshot was asked for it: with only
// attachments, nothing is said of tables.
type Filtered struct {
	// ExcludeTables are the patterns of the record.
	ExcludeTables []string `json:"exclude_tables,omitempty"`
	// Unmatched are those patterns that no table of the tenant matches: perhaps they are misspelt.
	Unmatched []string `json:"unmatched,omitempty"`
	// Tables are those that a pattern matched, sorted. Partitions are left out with their table, and not named.
	Tables []string `json:"tables,omitempty"`
	// TablesTotal is how many they are, when Tables does not name all.
	TablesTotal int `json:"tables_total,omitempty"`
	// AttachmentsSince: attachments whose row was created before this instant are left out, and AttachmentsLeftOut is
	// how many there were. One whose row does not say when it was created is delivered. The attachment table is among
	// the tables as it is.
	AttachmentsSince   time.Time `json:"attachments_since,omitzero"`
	AttachmentsLeftOut int       `json:"attachments_left_out,omitempty"`
}

// Snapshot is one instant of a database.
type Snapshot struct {
	At            time.Time `json:"at"`             // the database's clock
	XID           string    `json:"xid_snapshot"`   // pg_current_snapshot(), for those who audit it
	ServerVersion string    `json:"server_version"` // PostgreSQL's own
	Standby       bool      `json:"standby,omitempty"`
}

// Table is one table of the snapshot. Rows are found in the files whose Of is its name.
type Table struct {
	Name    string   `json:"name"`
	Columns []Column `json:"columns"`
	Rows    int64    `json:"rows"`
	// Parents are the tables that this one inherits from. Its rows are not repeated there.
	Parents []string `json:"parents,omitempty"`
	// Partitions is how many leaves a partitioned table has. All of them are in its one file.
	Partitions int `json:"partitions,omitempty"`
}

// Column is one column, in the order of the file.
type Column struct {
	Name      string `json:"name"`
	Type      string `json:"type"` // as format_type() writes it
	NotNull   bool   `json:"not_null,omitempty"`
	Generated bool   `json:"generated,omitempty"` // computed by the database: leave it out when loading
	Identity  bool   `json:"identity,omitempty"`
}

// Attachment is one row of the tenant's attachment table.
type Attachment struct {
	ID          string `json:"id"`
	EntityID    string `json:"entity_id,omitempty"`
	Filename    string `json:"filename"`
	ContentType string `json:"content_type,omitempty"`
	ETag        string `json:"etag,omitempty"`
	// File is the member that holds it. Empty: External, or a gap.
	File string `json:"file,omitempty"`
	// External: the row has no stored file (an integration keeps it elsewhere). It is listed, not fetched.
	External bool `json:"external,omitempty"`
}

// Gap is an attachment that could not be delivered.
type Gap struct {
	ID       string `json:"id"`
	Filename string `json:"filename"`
	Reason   string `json:"reason"` // "missing", "changed", "denied", "archived"
}

// Volume is one .tar of the delivery.
type Volume struct {
	Name      string `json:"name"`
	Kind      Kind   `json:"kind"`
	Size      int64  `json:"size"`
	CRC64NVME string `json:"crc64nvme"` // of the whole object, base64 as S3 writes it
	Files     int    `json:"files"`
}

// File is one member of a volume.
type File struct {
	Name   string `json:"name"`
	Volume string `json:"volume"`
	Of     string `json:"of"` // the table's name, or the attachment's id
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"` // hex
	Rows   int64  `json:"rows,omitempty"`
}

// Totals sums the manifest up.
type Totals struct {
	Tables      int   `json:"tables"`
	Rows        int64 `json:"rows"`
	Attachments int   `json:"attachments"` // delivered files
	Gaps        int   `json:"gaps"`
	Volumes     int   `json:"volumes"`
	Bytes       int64 `json:"bytes"` // of all volumes
	// AttachmentsExcluded says why attachments, which were asked for, are not part of the snapshot. Empty: they are.
	AttachmentsExcluded string `json:"attachments_excluded,omitempty"`
	// UnmatchedPatterns is how many patterns of the tenant's filter matched no table, see [Filtered].Unmatched.
	UnmatchedPatterns int `json:"unmatched_patterns,omitempty"`
}

// Producer is the program that made the delivery.
type Producer struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// Encode writes the manifest as it stands in the bucket: indented, ending in a newline. A list without
// entries is written [], not null.
func (m Manifest) Encode() ([]byte, error) {
	m.Tables = slices.Clone(m.Tables)
	for i := range m.Tables { // a table may have no columns
		m.Tables[i].Columns = orEmpty(m.Tables[i].Columns)
	}
	m.Tables, m.Attachments, m.Gaps = orEmpty(m.Tables), orEmpty(m.Attachments), orEmpty(m.Gaps)
	m.Volumes, m.Files = orEmpty(m.Volumes), orEmpty(m.Files)
	return m.encode()
}

// encode writes the long lists entry by entry into one buffer: [json.MarshalIndent] would hold all of them three times.
func (m Manifest) encode() ([]byte, error) {
	lists := []struct {
		name  string
		count int
		entry func(int) any
	}{
		{"tables", len(m.Tables), func(i int) any { return m.Tables[i] }},
		{"attachments", len(m.Attachments), func(i int) any { return m.Attachments[i] }},
		{"gaps", len(m.Gaps), func(i int) any { return m.Gaps[i] }},
		{"files", len(m.Files), func(i int) any { return m.Files[i] }},
	}
	rest := m
	rest.Tables, rest.Attachments, rest.Gaps, rest.Files = []Table{}, []Attachment{}, []Gap{}, []File{}
	frame, err := json.MarshalIndent(rest, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode manifest: %w", err)
	}
	size := len(frame) + 1
	for _, list := range lists {
		size += list.count * manifestEntry
	}
	out := bytes.NewBuffer(make([]byte, 0, size))
	for _, list := range lists {
		head, tail, _ := bytes.Cut(frame, []byte("\n  \""+list.name+"\": []")) // a line break is in no string of JSON
		fmt.Fprintf(out, "%s\n  %q: [", head, list.name)
		for i := range list.count {
			entry, err := json.MarshalIndent(list.entry(i), "    ", "  ")
			if err != nil {
				return nil, fmt.Errorf("encode manifest: %w", err)
			}
			if i > 0 {
				out.WriteByte(',')
			}
			out.WriteString("\n    ")
			out.Write(entry)
		}
		if list.count > 0 {
			out.WriteString("\n  ")
		}
		out.WriteByte(']')
		frame = tail
	}
	out.Write(frame)
	out.WriteByte('\n')
	return out.Bytes(), nil
}

// manifestEntry is how many bytes an attachment, or its file, usually has in a manifest.
const manifestEntry = 384

func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// DecodeManifest reads a manifest of this version. Unknown fields are allowed: a customer's old
// `verify` must read what a newer worker wrote as long as the version is the same.
func DecodeManifest(data []byte) (Manifest, error) {
	var m Manifest
	if len(data) > MaxManifestBytes {
		return m, fmt.Errorf("manifest: %d bytes, the limit is %d", len(data), MaxManifestBytes)
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return m, fmt.Errorf("manifest: not the expected JSON: %w", err)
	}
	if m.Version != ManifestVersion {
		return m, fmt.Errorf("manifest: version %d, this build reads %d", m.Version, ManifestVersion)
	}
	if !ValidTenant(m.Tenant) || !ValidJob(m.Job) {
		return m, fmt.Errorf("manifest: tenant %.80q or job %.80q is not a valid name", m.Tenant, m.Job)
	}
	return m, nil
}
