package exporter

import (
	"encoding/binary"
	"hash/crc32"
	"io"
	"math"
	"time"

	"github.com/klauspost/compress/flate"
)

// A gzip member is a header, deflate blocks, and a trailer with the CRC and the length of what they unfold
// to. Deflate blocks that end on a byte and look back on nothing before them can be made apart and joined:
// that is how one table is compressed by many goroutines and still is the plainest gzip there is.

// gzipHeader says deflate, no name, no time, no particular system: the same rows make the same bytes.
const gzipHeader = "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"

// lastBlock is an empty deflate block that says that there are no more.
const lastBlock = "\x03\x00"

// sum is what a piece of deflate unfolds to.
type sum struct {
	crc  uint32
	size int64
}

func (s sum) then(next sum) sum {
	return sum{crc: combineCRC(s.crc, next.crc, next.size), size: s.size + next.size}
}

// joiner writes one gzip member from pieces. Whoever writes a piece calls Write for its bytes and add for
// what they unfold to.
type joiner struct {
	w       io.Writer
	sum     sum
	written int64
}

func newJoiner(w io.Writer) (*joiner, error) {
	j := &joiner{w: w}
	_, err := io.WriteString(j, gzipHeader)
	return j, err
}

// Write writes bytes of a piece.
func (j *joiner) Write(p []byte) (int, error) {
	n, err := j.w.Write(p)
	j.written += int64(n)
	return n, err
}

// add takes account of a piece that has been written.
func (j *joiner) add(s sum) { j.sum = j.sum.then(s) }

// text writes a short piece of its own, stored as it is: a compressor would take more to set up than it saves.
func (j *joiner) text(p []byte) error {
	for len(p) > 0 {
		n := min(len(p), math.MaxUint16) // what one block can hold
		head := []byte{0, byte(n), byte(n >> 8), ^byte(n), ^byte(n >> 8)}
		if _, err := j.Write(append(head, p[:n]...)); err != nil {
			return err
		}
		j.add(sum{crc: crc32.ChecksumIEEE(p[:n]), size: int64(n)})
		p = p[n:]
	}
	return nil
}

// finish ends the member.
func (j *joiner) finish() error {
	b := append([]byte(lastBlock), make([]byte, 8)...)
	binary.LittleEndian.PutUint32(b[len(lastBlock):], j.sum.crc)
	binary.LittleEndian.PutUint32(b[len(lastBlock)+4:], uint32(j.sum.size)) // modulo 2^32, says RFC 1952
	_, err := j.Write(b)
	return err
}

// deflater makes pieces, one after another, that do not look back on each other. It is not safe for
// concurrent use, and holds about 1 MiB.
//
// The fast levels of deflate store what has no repetitions as it is, which doubles binary data, because COPY
// writes it as hexadecimal digits. So a segment that did not shrink is followed by some that are only
// Huffman-coded, which halves digits and is faster still, and then the level is tried again.
type deflater struct {
	level, huffman *flate.Writer
	w              outCounter // where the piece goes
	sum            sum
	took           time.Duration

	plain bool  // the current segment is only Huffman-coded
	in    int   // bytes of the current segment
	out   int64 // w.n at its beginning
	rest  int   // segments to go until the level is tried again
}

const (
	segmentBytes  = 4 * 65_535 // the compressor makes a block of each 65,535 bytes: no segment ends in a crumb of one
	plainSegments = 8
)

type outCounter struct {
	w io.Writer
	n int64
}

func (c *outCounter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

func newDeflater(level int) (*deflater, error) {
	z, err := flate.NewWriter(io.Discard, level)
	if err != nil {
		return nil, err
	}
	h, err := flate.NewWriter(io.Discard, flate.HuffmanOnly)
	return &deflater{level: z, huffman: h}, err
}

// reset begins a piece.
func (d *deflater) reset(w io.Writer) {
	*d = deflater{level: d.level, huffman: d.huffman, w: outCounter{w: w}}
	d.level.Reset(&d.w)
}

func (d *deflater) Write(p []byte) (int, error) {
	began := time.Now()
	defer func() { d.took += time.Since(began) }()
	d.sum.crc = crc32.Update(d.sum.crc, crc32.IEEETable, p)
	d.sum.size += int64(len(p))
	for rest := p; len(rest) > 0; {
		n := min(len(rest), segmentBytes-d.in)
		if _, err := d.current().Write(rest[:n]); err != nil {
			return 0, err
		}
		d.in, rest = d.in+n, rest[n:]
		if d.in == segmentBytes {
			if err := d.nextSegment(); err != nil {
				return 0, err
			}
		}
	}
	return len(p), nil
}

func (d *deflater) current() *flate.Writer {
	if d.plain {
		return d.huffman
	}
	return d.level
}

// nextSegment decides how to go on.
func (d *deflater) nextSegment() error {
	if err := d.current().Flush(); err != nil {
		return err
	}
	shrunk := d.w.n-d.out < segmentBytes*9/10
	d.in, d.out = 0, d.w.n
	switch {
	case !d.plain && !shrunk:
		d.plain, d.rest = true, plainSegments
		d.huffman.Reset(&d.w)
	case d.plain && d.rest == 1:
		d.plain = false
		d.level.Reset(&d.w) // what it remembers is no longer what comes before
	default:
		d.rest--
	}
	return nil
}

// end brings the piece to a byte boundary and says what it unfolds to.
func (d *deflater) end() (sum, error) { return d.sum, d.current().Flush() }

// combineCRC is the CRC-32 of two texts, one after the other, from theirs and the length of the second.
//
// A CRC is the remainder of a polynomial over GF(2), so appending n bytes multiplies it by x^(8n). As in
// zlib's crc32_combine, the power is built from the squares x^(2^k).
func combineCRC(first, second uint32, n int64) uint32 {
	power := uint32(1) << 31 // x^0: the highest bit is the lowest coefficient
	for k := 3; n > 0; n, k = n>>1, k+1 {
		if n&1 != 0 {
			power = timesCRC(squares[k&31], power)
		}
	}
	return timesCRC(power, first) ^ second
}

// timesCRC multiplies two polynomials modulo that of CRC-32.
func timesCRC(a, b uint32) uint32 {
	var product uint32
	for bit := uint32(1) << 31; ; bit >>= 1 {
		if a&bit != 0 {
			product ^= b
			if a&(bit-1) == 0 {
				return product
			}
		}
		if bit == 0 {
			return product
		}
		b = b>>1 ^ crc32.IEEE&-(b&1)
	}
}

// squares holds x^(2^k) for k = 0..31. The polynomial's order divides 2^32-1, so they repeat from there.
var squares = func() (s [32]uint32) {
	s[0] = 1 << 30 // x^1
	for k := 1; k < 32; k++ {
		s[k] = timesCRC(s[k-1], s[k-1])
	}
	return s
}()
