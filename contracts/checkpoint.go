package contracts

import (
	"encoding/json"
	"errors"
	"fmt"
)

// CheckpointVersion is the only version of [Checkpoint] that this build reads and writes.
const CheckpointVersion = 1

// Checkpoint is what an attempt keeps for whoever goes on with it, once its tables are uploaded and the database
// is free of it. It is kept in pieces, one after another: each says what is new, and [JoinCheckpoints] puts them
// together. What is said twice counts once, so a piece may be kept again when nobody knows whether it was.
//
// It holds what a manifest holds, where the files are, and how far they have come. It holds no secret.
type Checkpoint struct {
	Version int `json:"version"`
	// Attempt is the [Attempt].ID.
	Attempt string `json:"attempt"`
	// Plan is what there is to read. It is in the first piece.
	Plan *Plan `json:"plan,omitempty"`
	// Objects are what the store has said of the plan's sources, in their order; none before it was asked.
	Objects []Object `json:"objects,omitempty"`
	// Gaps are files that were there when the store was asked, and gone when they were fetched.
	Gaps []Gap `json:"gaps,omitempty"`
	// Format is what the tables are written in; the tenant's record may name another since. It comes with the plan.
	// Empty, as an earlier release left it: [CSV].
	Format Format `json:"format,omitempty"`
	// PartBytes is the size of every part but a volume's last.
	PartBytes int `json:"part_bytes,omitempty"`
	// Volumes are what is written, in order. All are closed but the last.
	Volumes []Packed `json:"volumes,omitempty"`
}

// Plan is what the reading side knows when the database is released.
type Plan struct {
	Snapshot Snapshot `json:"snapshot"`
	Tables   []Table  `json:"tables,omitempty"`
	Sources  []Source `json:"sources,omitempty"`
	Excluded []string `json:"excluded,omitempty"`
	Filter   Filtered `json:"filter,omitzero"`
	// AttachmentsExcluded is [Totals].AttachmentsExcluded.
	AttachmentsExcluded string `json:"attachments_excluded,omitempty"`
}

// Source is one row of the attachment table.
type Source struct {
	ID          string `json:"id"`
	EntityID    string `json:"entity_id,omitempty"`
	Filename    string `json:"filename,omitempty"`
	ContentType string `json:"content_type,omitempty"`
	Bucket      string `json:"bucket,omitempty"`
	Key         string `json:"key,omitempty"` // empty: kept elsewhere, not fetched
	ETag        string `json:"etag,omitempty"`
}

// Object is what the store says of a [Source]. The zero Object belongs to one that is not fetched.
type Object struct {
	ETag     string `json:"etag,omitempty"` // what is fetched must have it
	Size     int64  `json:"size,omitempty"`
	Modified int64  `json:"modified,omitempty"` // seconds since 1970
	Gap      string `json:"gap,omitempty"`      // why there is none; see [Gap]
}

// Packed is a volume as far as it is proven to be in the bucket: its first parts, without a gap.
type Packed struct {
	// Index is the volume's place among all volumes of the attempt, from 0.
	Index int  `json:"index"`
	Kind  Kind `json:"kind"`
	// Limit is where the archive is split, in bytes; 0: it is one volume.
	Limit int64 `json:"limit,omitempty"`
	// Upload has the parts from FirstPart on, and the Size of all of them. Its checksum is there when the
	// volume is closed.
	Upload    Upload `json:"upload"`
	FirstPart int    `json:"first_part,omitempty"`
	// Files are those that have ended, from FirstFile on.
	Files     []File `json:"files,omitempty"`
	FirstFile int    `json:"first_file,omitempty"`
	// Closed: the volume is whole. Else Mark says where it goes on.
	Closed bool `json:"closed,omitempty"`
	Mark   Mark `json:"mark,omitzero"`
}

// Mark is where an open volume goes on: the writer's state after the last part.
type Mark struct {
	// Of is the file that is under way; empty between two files, and within the volume's end.
	Of string `json:"of,omitempty"`
	// Skip is how many bytes of it are there, header and padding included.
	Skip int64 `json:"skip,omitempty"`
	// Offset is how many bytes of its content are there.
	Offset int64 `json:"offset,omitempty"`
	// Digest is the state of its SHA-256 after these.
	Digest []byte `json:"digest,omitempty"`
}

// Place is where the attachments go on.
type Place struct {
	After  string // the id of the last file that is whole; empty: none is
	Of     string // the id of the file under way; empty: none is
	Offset int64  // how many bytes of its content are there
}

// Place is where the attachments go on.
func (c Checkpoint) Place() (p Place) {
	for _, v := range c.Volumes {
		if v.Kind != Attachments {
			continue
		}
		if n := len(v.Files); n > 0 {
			p.After = v.Files[n-1].Of
		}
		p.Of, p.Offset = v.Mark.Of, v.Mark.Offset
	}
	return p
}

// Encode writes one piece.
func (c Checkpoint) Encode() ([]byte, error) {
	c.Version = CheckpointVersion
	data, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode checkpoint: %w", err)
	}
	return data, nil
}

// JoinCheckpoints puts together what an attempt has kept. It refuses what does not fit: a piece of another
// attempt or version, or one that goes on where none before it has ended.
func JoinCheckpoints(attempt string, kept [][]byte) (whole Checkpoint, err error) {
	for i, data := range kept {
		piece, err := decodeCheckpoint(data)
		if err == nil {
			err = whole.add(attempt, piece)
		}
		if err != nil {
			return Checkpoint{}, fmt.Errorf("checkpoint %d of %d: %w", i+1, len(kept), err)
		}
	}
	if whole.Plan == nil {
		return Checkpoint{}, errors.New("checkpoint: there is no plan")
	}
	return whole, nil
}

func decodeCheckpoint(data []byte) (c Checkpoint, err error) {
	if len(data) > MaxManifestBytes {
		return c, fmt.Errorf("%d bytes, the limit is %d", len(data), MaxManifestBytes)
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return c, fmt.Errorf("not the expected JSON: %w", err)
	}
	if c.Version != CheckpointVersion {
		return c, fmt.Errorf("version %d, this build reads %d", c.Version, CheckpointVersion)
	}
	return c, nil
}

// add takes in one more piece.
func (c *Checkpoint) add(attempt string, piece Checkpoint) error {
	switch {
	case piece.Attempt != attempt:
		return fmt.Errorf("it is of attempt %.80q, not of %s", piece.Attempt, attempt)
	case c.Plan != nil && piece.PartBytes != 0 && piece.PartBytes != c.PartBytes:
		return fmt.Errorf("parts of %d bytes, not %d", piece.PartBytes, c.PartBytes)
	}
	c.Version, c.Attempt = piece.Version, attempt
	if piece.Plan != nil {
		if piece.PartBytes <= 0 || piece.PartBytes > 5<<30 {
			return fmt.Errorf("parts of %d bytes", piece.PartBytes)
		}
		if piece.Format != "" && !piece.Format.valid() {
			return fmt.Errorf("tables in %.80q", piece.Format)
		}
		c.Plan, c.PartBytes, c.Format = piece.Plan, piece.PartBytes, piece.Format
	}
	if c.Plan == nil {
		return errors.New("there is no plan before it")
	}
	if piece.Objects != nil {
		if len(piece.Objects) != len(c.Plan.Sources) {
			return fmt.Errorf("%d objects for %d sources", len(piece.Objects), len(c.Plan.Sources))
		}
		c.Objects = piece.Objects
	}
	c.Gaps = append(c.Gaps, piece.Gaps...)
	for _, v := range piece.Volumes {
		if err := c.addVolume(v); err != nil {
			return fmt.Errorf("volume %.200q: %w", v.Upload.Name, err)
		}
	}
	return nil
}

func (c *Checkpoint) addVolume(v Packed) error {
	last := len(c.Volumes) - 1
	if v.Index == len(c.Volumes) && (last < 0 || c.Volumes[last].Closed) {
		c.Volumes = append(c.Volumes, Packed{Index: v.Index, Kind: v.Kind, Limit: v.Limit, Upload: Upload{Name: v.Upload.Name, ID: v.Upload.ID}})
		last++
	}
	if v.Index < 0 || v.Index > last {
		return fmt.Errorf("it is the %d., after %d", v.Index+1, last+1)
	}
	to := &c.Volumes[v.Index]
	switch {
	case v.Kind != to.Kind || v.Limit != to.Limit || v.Upload.Name != to.Upload.Name || v.Upload.ID != to.Upload.ID:
		return errors.New("it is another than before")
	case v.FirstPart < 0 || v.FirstPart > len(to.Upload.Parts) || v.FirstFile < 0 || v.FirstFile > len(to.Files):
		return fmt.Errorf("it goes on at part %d and file %d, after %d and %d", v.FirstPart, v.FirstFile, len(to.Upload.Parts), len(to.Files))
	case v.FirstPart+len(v.Upload.Parts) < len(to.Upload.Parts) || v.FirstFile+len(v.Files) < len(to.Files) || to.Closed && !v.Closed:
		return errors.New("it takes back what was there")
	}
	for _, f := range v.Files {
		if f.Volume != v.Upload.Name || f.Size < 0 {
			return fmt.Errorf("file %.200q is not of it", f.Name)
		}
	}
	to.Upload.Parts = append(to.Upload.Parts[:v.FirstPart], v.Upload.Parts...)
	to.Files = append(to.Files[:v.FirstFile], v.Files...)
	to.Upload.Size, to.Upload.CRC64NVME, to.Closed, to.Mark = v.Upload.Size, v.Upload.CRC64NVME, v.Closed, v.Mark
	return c.checkVolume(*to)
}

// checkVolume holds a volume's numbers against each other.
func (c *Checkpoint) checkVolume(v Packed) error {
	parts, size := int64(len(v.Upload.Parts)), int64(c.PartBytes)
	whole := v.Upload.Size > (parts-1)*size && v.Upload.Size <= parts*size
	switch {
	case parts > 10_000, parts == 0, !whole, !v.Closed && v.Upload.Size != parts*size:
		return fmt.Errorf("%d bytes in %d parts", v.Upload.Size, parts)
	case v.Closed && v.Mark.Skip != 0, !v.Closed && v.Kind != Attachments:
		return errors.New("it is neither closed nor open")
	case v.Mark.Skip < 0 || v.Mark.Skip > v.Upload.Size || v.Mark.Offset < 0 || v.Mark.Offset > v.Mark.Skip, v.Limit < 0:
		return fmt.Errorf("it goes on after %d bytes of a file, %d of its content", v.Mark.Skip, v.Mark.Offset)
	}
	return nil
}
