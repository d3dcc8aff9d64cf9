package uploader

import (
	"fmt"
	"slices"

	"github.com/snapfleet/snapfleet/contracts"
)

// Delivery is what one attempt uploads. Nothing of it is visible before [Uploader.Commit]. It is used by
// one goroutine: Write once for each kind, then Receipt. It needs no closing; what it has uploaded stays
// until Commit or [Uploader.Abort].
type Delivery struct {
	cfg     Config
	attempt contracts.Attempt
	format  contracts.Format // of the tables
	store   store
	journal Journal
	free    chan []byte // the part buffers, shared by all volumes

	kinds   map[contracts.Kind]bool // written, or begun
	failed  error
	volumes []*volume
	uploads []contracts.Upload // of volumes, in the same order
	begun   []*volume          // attachments of an earlier worker
}

// Receipt closes the books. It fills in what the manifest says about the request, the volumes, the files
// and the totals but for what only the reading side knows, and refuses a manifest whose tables or attachments do not add up to what was written.
//
// From here on everything is durable and nothing is visible, and whoever holds the receipt can complete
// the delivery.
func (d *Delivery) Receipt(m contracts.Manifest) (contracts.Receipt, error) {
	a := d.attempt
	if d.failed != nil {
		return contracts.Receipt{}, d.failed
	}
	for _, kind := range []contracts.Kind{contracts.Tables, contracts.Attachments} {
		if a.Request.Wants(kind) != d.kinds[kind] {
			return contracts.Receipt{}, fmt.Errorf("receipt: %s: asked for: %t, written: %t", kind, a.Request.Wants(kind), d.kinds[kind])
		}
	}

	m.Version, m.Tenant, m.Job, m.Attempt = contracts.ManifestVersion, a.Tenant.Name, a.Request.Job, a.ID
	m.Only, m.Format, m.RequestedAt = a.Request.Only, d.format, a.Request.RequestedAt
	m.Volumes, m.Files = []contracts.Volume{}, []contracts.File{}
	m.Totals = contracts.Totals{AttachmentsExcluded: m.Totals.AttachmentsExcluded, UnmatchedPatterns: m.Totals.UnmatchedPatterns}
	for i, v := range d.volumes {
		u := d.uploads[i]
		m.Volumes = append(m.Volumes, contracts.Volume{
			Name: u.Name, Kind: v.kind, Size: u.Size, CRC64NVME: u.CRC64NVME, Files: len(v.files),
		})
		m.Files = append(m.Files, v.files...)
		m.Totals.Bytes += u.Size
		if v.kind == contracts.Attachments {
			m.Totals.Attachments += len(v.files)
		}
	}
	m.Totals.Volumes = len(m.Volumes)
	m.Totals.Tables = len(m.Tables)
	m.Totals.Gaps = len(m.Gaps)
	for _, t := range m.Tables {
		m.Totals.Rows += t.Rows
	}
	if bad := addsUp(m); len(bad) > 0 {
		return contracts.Receipt{}, fmt.Errorf("receipt: the manifest does not add up: %s", bad[0].What)
	}

	// Lists, not null: other people's programs read this.
	m.Tables = slices.Concat([]contracts.Table{}, m.Tables)
	m.Attachments = slices.Concat([]contracts.Attachment{}, m.Attachments)
	m.Gaps = slices.Concat([]contracts.Gap{}, m.Gaps)
	data, err := m.Encode()
	if err != nil {
		return contracts.Receipt{}, err
	}
	if len(data) > contracts.MaxManifestBytes {
		return contracts.Receipt{}, contracts.Reject(contracts.ManifestTooLarge, "the manifest has %d bytes, the limit is %d", len(data), contracts.MaxManifestBytes)
	}
	d.store.handOn()
	return contracts.Receipt{Version: contracts.ReceiptVersion, Attempt: a.ID, Uploads: d.uploads, Manifest: data}, nil
}
