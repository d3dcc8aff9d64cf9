package uploader

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding"
	"errors"
	"fmt"
	"hash"
	"strings"

	"go.opentelemetry.io/otel/attribute"

	"github.com/snapfleet/snapfleet/contracts"
)

// Checkpoint is what whoever goes on with the delivery has to know of the archives that are written.
func (d *Delivery) Checkpoint() contracts.Checkpoint {
	c := contracts.Checkpoint{Format: d.format, PartBytes: d.cfg.PartBytes}
	for i, v := range d.volumes {
		p := v.packed()
		p.Upload, p.Files, p.Closed = d.uploads[i], v.files, true
		c.Volumes = append(c.Volumes, p)
	}
	return c
}

// Resume is [Uploader.Begin] for whoever goes on with an attempt: it aborts every upload in the folder but the
// attempt's, and proves by what S3 lists that all parts are there that the checkpoint names. The delivery then
// has written what c says; the attachments are to be written from [contracts.Checkpoint.Place] on.
//
// It returns [ErrUploadLost] when the bucket holds something else: then only a new attempt helps.
func (u *Uploader) Resume(ctx context.Context, a contracts.Attempt, j Journal, c contracts.Checkpoint) (*Delivery, error) {
	var keep []contracts.Upload
	for _, v := range c.Volumes {
		keep = append(keep, v.Upload)
	}
	d, err := u.begin(ctx, a, j, keep)
	if err != nil {
		return nil, err
	}
	d.format = cmp.Or(c.Format, contracts.CSV) // whatever the tenant's record says by now
	// The parts are of the size that they were begun with, and take no more memory than ours would.
	d.free = buffers(max(1, d.cfg.Buffers*d.cfg.PartBytes/max(1, c.PartBytes)))
	d.cfg.PartBytes = c.PartBytes
	if c.PartBytes < block || c.PartBytes%block != 0 {
		return nil, fmt.Errorf("resume: parts of %d bytes: %w", c.PartBytes, ErrUploadLost)
	}
	for _, kept := range c.Volumes {
		v, err := d.restore(kept)
		if err != nil {
			return nil, fmt.Errorf("resume %.200q: %w: %w", kept.Upload.Name, ErrUploadLost, err)
		}
		if err := d.prove(ctx, v); err != nil {
			return nil, fmt.Errorf("resume %s: %w", v.upload.Name, err)
		}
	}
	return d, nil
}

// restore takes over a volume of an earlier worker.
func (d *Delivery) restore(kept contracts.Packed) (*volume, error) {
	v := &volume{kind: kept.Kind, index: kept.Index, limit: kept.Limit, files: kept.Files, kept: len(kept.Files)}
	v.upload = contracts.Upload{Name: kept.Upload.Name, ID: kept.Upload.ID}
	for i, sent := range kept.Upload.Parts {
		crc, err := parseCRC(sent.CRC64NVME)
		if err != nil {
			return nil, err
		}
		p := &part{number: i + 1, offset: v.size, size: min(int64(d.cfg.PartBytes), kept.Upload.Size-v.size), crc: crc, sent: sent}
		p.there.Store(true)
		v.parts = append(v.parts, p)
		v.size += p.size
	}
	same := 0 // volumes of the kind before this one
	for _, before := range d.volumes {
		if before.kind == v.kind {
			same++
		}
	}
	if v.kind == contracts.Attachments {
		same = len(d.begun)
	}
	plain, numbered := contracts.VolumeName(v.kind, d.attempt.Request.Job, 0), contracts.VolumeName(v.kind, d.attempt.Request.Job, same+1)
	switch {
	case v.upload.Name != numbered && (same > 0 || v.upload.Name != plain):
		return nil, errors.New("that is not the name of the next volume")
	case v.kind == contracts.Attachments && (v.limit == 0) != (v.upload.Name == plain):
		return nil, fmt.Errorf("it is split at %d bytes", v.limit)
	case v.size != kept.Upload.Size:
		return nil, fmt.Errorf("%d bytes do not fit into %d parts", kept.Upload.Size, len(v.parts))
	case kept.Closed && v.receipt().CRC64NVME != kept.Upload.CRC64NVME:
		return nil, errors.New("its parts have another checksum")
	}
	switch {
	case v.kind == contracts.Attachments:
		if !kept.Closed && kept.Mark.Skip > 0 {
			v.begun = &kept.Mark
		}
		v.closed = kept.Closed
		d.begun = append(d.begun, v)
	case kept.Closed:
		d.kinds[v.kind] = true
		d.volumes, d.uploads = append(d.volumes, v), append(d.uploads, v.receipt())
	default:
		return nil, fmt.Errorf("%s cannot go on", v.kind)
	}
	return v, nil
}

// prove compares what is kept of a volume with what the store has.
func (d *Delivery) prove(ctx context.Context, v *volume) error {
	var list []arrived
	var gone bool
	err := insist(ctx, func() (_ bool, err error) { // to begin again costs every byte that is there
		list, err = d.store.parts(ctx, v.upload, d.cfg.PartBytes)
		if gone = errors.Is(err, errGone) || errors.Is(err, errAbsent); gone {
			return false, nil
		}
		return true, err
	})
	if err != nil {
		return err
	}
	if gone {
		return ErrUploadLost
	}
	found := make(map[int]arrived, len(list))
	for _, a := range list {
		found[a.number] = a
	}
	bare := func(tag string) string { return strings.Trim(tag, `"`) }
	for _, p := range v.parts {
		a, there := found[p.number]
		if !there || a.size != p.size || bare(a.tag) != bare(p.sent.ETag) || a.crc != "" && a.crc != p.sent.CRC64NVME {
			return fmt.Errorf("part %d is not the one that was kept: %w", p.number, ErrUploadLost)
		}
	}
	// From here on these parts need not be read again.
	return nil
}

// reopen makes the packer go on where an earlier worker stopped.
func (p *packer) reopen(begun []*volume) {
	files := 0
	for _, v := range begun {
		p.limit = v.limit
		for _, f := range v.files {
			p.names[f.Name] = true
			p.unsaid += f.Size
		}
		files += len(v.files)
		if v.closed {
			p.done = append(p.done, v)
			continue
		}
		if v.begun != nil {
			p.unsaid += v.begun.Offset
		}
		ctx, span := p.startVolume(v.upload.Name)
		span.SetAttributes(attribute.Int("snapfleet.parts.resumed", len(v.parts)))
		p.open(ctx, span, v)
	}
	p.journal.Progress(func(g *contracts.Progress) {
		p.sayBytes(g)
		g.Files += files
	})
}

// goOn writes what is missing of the header of a member whose beginning is there, and makes body go on with the
// content.
func (v *volume) goOn(m contracts.Member, body *meter) (header int64, err error) {
	at := v.begun
	v.begun = nil
	if m.Of != at.Of || m.Size < 0 {
		return 0, fmt.Errorf("the archive was begun with %.80q in this place, which is gone: %w", at.Of, ErrUploadLost)
	}
	h, err := knownHeader(m)
	if err != nil {
		return 0, err
	}
	header = int64(len(h))
	if content := max(0, min(m.Size, at.Skip-header)); content != at.Offset || m.Offset != at.Offset || at.Skip > header+m.Size+padding(m.Size) {
		return 0, fmt.Errorf("it goes on after %d bytes, and %d are there: %w", m.Offset, content, ErrUploadLost)
	}
	if at.Offset > 0 {
		if body.sum, err = digestAfter(at.Digest); err != nil {
			return 0, fmt.Errorf("the state of its digest: %w: %w", ErrUploadLost, err)
		}
	}
	v.start, body.n = v.size-at.Skip, at.Offset
	_, err = v.Write(h[min(header, at.Skip):])
	return header, err
}

// digestAfter is a SHA-256 that goes on from a state.
func digestAfter(state []byte) (hash.Hash, error) {
	sum := sha256.New()
	to, ok := sum.(encoding.BinaryUnmarshaler)
	if !ok {
		return nil, errors.New("this build cannot go on with one")
	}
	return sum, to.UnmarshalBinary(state)
}
