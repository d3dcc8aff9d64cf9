package uploader

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
)

// block is tar's unit.
const block = 512

// trailer is what ends a tar: two blocks of zeros.
const trailer = 2 * block

// padding is how many zeros follow a member of n bytes.
func padding(n int64) int64 { return -n & (block - 1) }

// header encodes the blocks that stand before a member's content. Every member is a plain file of nobody
// in particular: extracting one can set no owner, no device, no link and no right to execute.
func header(name string, size int64, modified time.Time, format tar.Format) ([]byte, error) {
	if modified.IsZero() {
		modified = time.Unix(0, 0)
	}
	var b bytes.Buffer
	err := tar.NewWriter(&b).WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644,
		ModTime: modified.Truncate(time.Second), Format: format,
	})
	if err != nil {
		return nil, fmt.Errorf("tar header of %q: %w", name, err)
	}
	return b.Bytes(), nil
}

// reservedHeader encodes a header that always takes one block: GNU's format holds any size, and names of
// up to 100 bytes.
func reservedHeader(name string, size int64, modified time.Time) ([]byte, error) {
	h, err := header(name, size, modified, tar.FormatGNU)
	if err == nil && len(h) != block {
		err = fmt.Errorf("tar header of %q takes %d bytes, %d were reserved: the name is too long", name, len(h), block)
	}
	return h, err
}

// knownHeader encodes a header for a size that is known: PAX, which writes extra blocks only for names
// and sizes that need them.
func knownHeader(m contracts.Member) ([]byte, error) {
	return header(m.Name, m.Size, m.ModTime, tar.FormatPAX)
}

// pack appends one piece of a member to the volume. The piece's name is decided when it has ended.
func (v *volume) pack(m contracts.Member, room int64, name func(contracts.Piece) string) (contracts.Piece, error) {
	body := &meter{w: &v.object, of: m.Of, limit: m.Size, sum: sha256.New(), moved: v.moved}
	v.start, v.body = v.size, body
	header, fill, err := v.head(m, body)
	if err != nil {
		return contracts.Piece{}, err
	}
	piece, err := m.Write(v.ctx, body, room)
	switch {
	case err != nil:
		return piece, err
	case m.Size >= 0 && body.n != m.Size:
		return piece, fmt.Errorf("it wrote %d bytes and had promised %d", body.n, m.Size)
	case m.Size >= 0 && piece.More:
		return piece, fmt.Errorf("it wants to go on in another file, though its size was known")
	}
	end := v.start + header + body.n + padding(body.n)
	if _, err := v.Write(zeros[:end-v.size]); err != nil {
		return piece, err
	}
	final := name(piece)
	if fill != nil {
		h, err := reservedHeader(final, body.n, m.ModTime)
		if err != nil {
			return piece, err
		}
		fill(h)
	}
	v.files = append(v.files, contracts.File{
		Name: final, Volume: v.upload.Name, Of: m.Of, Size: body.n,
		SHA256: hex.EncodeToString(body.sum.Sum(nil)), Rows: piece.Rows,
	})
	v.start, v.body = v.size, nil
	return piece, nil
}

// head writes the header of a member, or reserves room for it: then fill is to be called when the member has
// ended.
func (v *volume) head(m contracts.Member, body *meter) (size int64, fill func([]byte), err error) {
	switch {
	case v.begun != nil:
		size, err = v.goOn(m, body)
		return size, nil, err
	case m.Offset != 0:
		return 0, nil, fmt.Errorf("it goes on after %d bytes, and none are there", m.Offset)
	case m.Size < 0:
		if _, err := reservedHeader(m.Name, 0, m.ModTime); err != nil { // now rather than at its end
			return 0, nil, err
		}
		fill, err = v.reserve(block)
		return block, fill, err
	}
	h, err := knownHeader(m)
	if err == nil {
		_, err = v.Write(h)
	}
	return int64(len(h)), nil, err
}

// end writes the trailer, or what is missing of it, and lets the last part leave.
func (v *volume) end() error {
	there := int64(0)
	if at := v.begun; at != nil {
		if at.Of != "" || at.Skip > trailer {
			return fmt.Errorf("the archive was begun with %.80q in this place, which is gone: %w", at.Of, ErrUploadLost)
		}
		there, v.begun = at.Skip, nil
	}
	v.start, v.ending = v.size-there, true
	_, err := v.Write(zeros[:trailer-there])
	v.cut()
	return err
}

var zeros [trailer]byte

// meter counts and digests what passes. Whenever a part is full it has done so exactly up to there.
type meter struct {
	w     *object
	of    string
	limit int64 // -1: none
	n     int64
	sum   hash.Hash
	moved func(int64)
}

func (m *meter) Write(p []byte) (int, error) {
	if m.limit >= 0 && m.n+int64(len(p)) > m.limit {
		return 0, fmt.Errorf("more than the promised %d bytes", m.limit)
	}
	for rest := p; len(rest) > 0; {
		n := min(len(rest), m.w.untilCut())
		m.sum.Write(rest[:n])
		m.n += int64(n)
		if _, err := m.w.Write(rest[:n]); err != nil {
			return len(p) - len(rest), err
		}
		rest = rest[n:]
	}
	m.moved(int64(len(p)))
	return len(p), nil
}
