package uploader

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
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
	var fill func([]byte)
	if m.Size < 0 {
		if _, err := reservedHeader(m.Name, 0, m.ModTime); err != nil { // now rather than at its end
			return contracts.Piece{}, err
		}
		f, err := v.reserve(block)
		if err != nil {
			return contracts.Piece{}, err
		}
		fill = f
	} else {
		h, err := knownHeader(m)
		if err != nil {
			return contracts.Piece{}, err
		}
		if _, err := v.Write(h); err != nil {
			return contracts.Piece{}, err
		}
	}

	body := &meter{w: v, limit: m.Size, sum: sha256.New(), moved: v.moved}
	piece, err := m.Write(v.ctx, body, room)
	switch {
	case err != nil:
		return piece, err
	case m.Size >= 0 && body.n != m.Size:
		return piece, fmt.Errorf("it wrote %d bytes and had promised %d", body.n, m.Size)
	case m.Size >= 0 && piece.More:
		return piece, fmt.Errorf("it wants to go on in another file, though its size was known")
	}
	if _, err := v.Write(zeros[:padding(body.n)]); err != nil {
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
	return piece, nil
}

// end writes the trailer and lets the last part leave.
func (v *volume) end() error {
	_, err := v.Write(zeros[:trailer])
	v.cut()
	return err
}

var zeros [trailer]byte

// meter counts and digests what passes.
type meter struct {
	w     io.Writer
	limit int64 // -1: none
	n     int64
	sum   hash.Hash
	moved func(int64)
}

func (m *meter) Write(p []byte) (int, error) {
	if m.limit >= 0 && m.n+int64(len(p)) > m.limit {
		return 0, fmt.Errorf("more than the promised %d bytes", m.limit)
	}
	n, err := m.w.Write(p)
	m.sum.Write(p[:n])
	m.n += int64(n)
	m.moved(int64(n))
	return n, err
}
