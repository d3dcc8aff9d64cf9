package exporter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"unicode/utf8"

	"github.com/snapfleet/snapfleet/contracts"
)

// lines is where the rows of a chunk come together, on their way to be compressed.
type lines struct {
	w    io.Writer
	out  []byte
	rows int64
	json string // the table, where the rows are JSON, which has to be UTF-8: a server of that encoding does not check
}

// linesBytes is how much is compressed at once.
const linesBytes = 64 << 10

func (l *lines) end() error { return l.flush(len(l.out)) }

// flush passes on the first n bytes of out.
func (l *lines) flush(n int) error {
	if l.json != "" && !utf8.Valid(l.out[:n]) {
		return contracts.Reject(contracts.EncodingInvalid, "table %q holds a value that is not valid UTF-8, which JSON cannot hold", l.json)
	}
	_, err := l.w.Write(l.out[:n])
	l.out = l.out[:copy(l.out, l.out[n:])]
	return err
}

// row counts a row that stands in out.
func (l *lines) row() error {
	l.rows++
	return l.spill()
}

func (l *lines) spill() error {
	if len(l.out) < linesBytes {
		return nil
	}
	if l.json == "" {
		return l.end()
	}
	return l.flush(wholeRunes(l.out))
}

// wholeRunes is the length of p without the beginning of a character at its end, whose rest comes with the next piece.
func wholeRunes(p []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(p); n++ {
		if start := len(p) - n; utf8.RuneStart(p[start]) {
			if !utf8.FullRune(p[start:]) {
				return start
			}
			break
		}
	}
	return len(p)
}

// verbatim is the sink of rows that the server has written as they are to be.
type verbatim struct{ *lines }

func (v verbatim) message(p []byte, left int) error {
	v.out = append(v.out, p...)
	if left > 0 {
		return v.spill()
	}
	return v.row()
}

// errBinary says that a server's binary form is not what PostgreSQL's has been since version 7.4.
var errBinary = errors.New("the server sends rows in a form that is not known")

// binaryHeader begins the binary form: a signature, flags, and the length of an extension. All of it is known,
// because no server has yet set a flag or extended anything.
const binaryHeader = "PGCOPY\n\xff\r\n\x00" + "\x00\x00\x00\x00" + "\x00\x00\x00\x00"

// binaryEnd is what stands in the place of a row's number of fields after the last row.
const binaryEnd = "\xff\xff"

// binaryRows is what is common to the sinks of binary rows.
type binaryRows struct {
	*lines
	begun, ended bool
}

// begin takes the header off the first message.
func (b *binaryRows) begin(p []byte) ([]byte, error) {
	switch {
	case b.ended:
		return nil, fmt.Errorf("%w: a row after the last one", errBinary)
	case b.begun:
		return p, nil
	case len(p) < len(binaryHeader) || string(p[:len(binaryHeader)]) != binaryHeader:
		return nil, fmt.Errorf("%w: it begins otherwise", errBinary)
	}
	b.begun = true
	return p[len(binaryHeader):], nil
}

// tuples is the sink of binary rows, which it writes as CSV or JSON.
type tuples struct {
	binaryRows
	table   *table
	partial []byte // of a row that does not fit the connection's buffer
}

// maxRow is how large a row may be that is held in memory as a whole. What fits a page unfolds to some 2 MiB at the most.
// Rows with TOAST, which may have a gigabyte, are not held, but for those whose JSON the server cannot be asked for.
const maxRow = 16 << 20

func (t *tuples) message(p []byte, left int) error {
	if left > 0 || len(t.partial) > 0 {
		if size := len(t.partial) + len(p) + left; size > maxRow {
			return contracts.Reject(contracts.FormatImpossible, "a row of table %q has %d bytes", t.table.Name, size)
		}
		t.partial = append(t.partial, p...)
		if left > 0 {
			return nil
		}
		p, t.partial = t.partial, t.partial[:0]
	}
	p, err := t.begin(p)
	switch {
	case err != nil:
		return err
	case string(p) == binaryEnd:
		t.ended = true
		return nil
	case len(p) == 0: // the header alone
		return nil
	}
	if err := t.write(p); err != nil {
		return err
	}
	return t.row()
}

// write appends one row.
func (t *tuples) write(p []byte) error {
	fields := t.table.fields
	if len(p) < 2 || int(binary.BigEndian.Uint16(p)) != len(fields) {
		return fmt.Errorf("%w: another number of columns", errBinary)
	}
	p = p[2:]
	out := t.out
	for i := range fields {
		f := &fields[i]
		if len(f.before) == 1 {
			out = append(out, f.before[0])
		} else {
			out = append(out, f.before...)
		}
		if len(p) < 4 {
			return errBinary
		}
		size := int32(binary.BigEndian.Uint32(p))
		p = p[4:]
		if size < 0 {
			out = append(out, t.table.null...)
			continue
		}
		if int(size) > len(p) {
			return errBinary
		}
		v := p[:size:size]
		if p = p[size:]; f.kind.size > 0 && f.kind.size != len(v) || f.kind.valid != nil && !f.kind.valid(v) {
			return fmt.Errorf("%w: %d bytes of %s", errBinary, len(v), f.typ)
		}
		out = f.write(out, v)
	}
	if len(p) > 0 {
		return errBinary
	}
	t.out = append(out, t.table.after...)
	return nil
}

// documents is the sink of binary rows of one column, which is the JSON of a whole row. It holds no row as a whole.
type documents struct {
	binaryRows
	left int // bytes of the present one that are to come
}

func (d *documents) message(p []byte, left int) (err error) {
	if d.left == 0 {
		if p, err = d.begin(p); err != nil {
			return err
		}
		switch {
		case string(p) == binaryEnd:
			d.ended = true
			return nil
		case len(p) == 0 && left == 0:
			return nil
		case len(p) < 6 || binary.BigEndian.Uint16(p) != 1 || int64(binary.BigEndian.Uint32(p[2:])) > math.MaxInt32:
			return errBinary
		}
		d.left = int(binary.BigEndian.Uint32(p[2:]))
		p = p[6:]
	}
	if d.left -= len(p); d.left != left {
		return errBinary
	}
	d.out = jsonRaw(d.out, p)
	if left > 0 {
		return d.spill()
	}
	d.out = append(d.out, '\n')
	return d.row()
}
