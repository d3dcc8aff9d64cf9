package exporter

import (
	"bufio"
	"encoding/binary"
	"io"

	"github.com/jackc/pgx/v5/pgproto3"
)

const (
	// readBuffer is how much is taken from a connection at once: PostgreSQL sends 8 KiB at a time, and a
	// system call for each is dear.
	readBuffer = 256 << 10
	// frameBytes is the largest CopyData message that pgx gets to see, header included. It is the size of
	// pgx's own read buffer, which therefore never grows.
	frameBytes = 8 << 10
)

// reframe hands on what a PostgreSQL server sends, except that it cuts the data of COPY anew. The server puts
// each row into a message of its own, and pgx holds a whole message in memory: short rows would cost a call
// each, and a row of a gigabyte a gigabyte. Where rows end does not matter to whoever streams them.
type reframe struct {
	r    *bufio.Reader
	pass int    // bytes left of a message that is none of ours
	data int    // bytes left of a CopyData message whose header has been read
	out  []byte // bytes left of a message that was made anew, in buf
	buf  [frameBytes]byte
}

// newFrontend is a pgconn.BuildFrontendFunc.
func newFrontend(r io.Reader, w io.Writer) *pgproto3.Frontend {
	return pgproto3.NewFrontend(&reframe{r: bufio.NewReaderSize(r, readBuffer)}, w)
}

const (
	copyData  = 'd'
	headBytes = 5 // a type, and a length that counts itself
)

// Read may be called again after an error, as pgx does after a deadline: nothing is lost.
func (f *reframe) Read(p []byte) (int, error) {
	if len(f.out) == 0 && f.pass == 0 {
		if err := f.message(); err != nil {
			return 0, err
		}
	}
	if len(f.out) > 0 {
		n := copy(p, f.out)
		f.out = f.out[n:]
		return n, nil
	}
	n, err := f.r.Read(p[:min(len(p), f.pass)])
	f.pass -= n
	return n, err
}

// message finds out what to hand on next.
func (f *reframe) message() error {
	if f.data > 0 {
		return f.gather()
	}
	head, err := f.r.Peek(headBytes)
	if err != nil {
		return err
	}
	if head[0] == copyData && length(head) >= 4 {
		return f.gather()
	}
	f.pass = max(1+length(head), headBytes) // a length that cannot be is for pgx to refuse
	return nil
}

// gather makes one message of what there is of CopyData. It waits for the first byte only.
func (f *reframe) gather() error {
	out := f.buf[:headBytes]
	for len(out) < len(f.buf) {
		if f.data > 0 {
			if len(out) > headBytes && f.r.Buffered() == 0 {
				break
			}
			n, err := f.r.Read(f.buf[len(out):min(len(f.buf), len(out)+f.data)])
			if err != nil {
				return err // nothing is in hand: Buffered was 0
			}
			out, f.data = f.buf[:len(out)+n], f.data-n
			continue
		}
		if len(out) > headBytes && f.r.Buffered() < headBytes {
			break
		}
		head, err := f.r.Peek(headBytes)
		if err != nil {
			return err // likewise
		}
		if head[0] != copyData || length(head) < 4 {
			break
		}
		f.data = length(head) - 4
		f.r.Discard(headBytes)
	}
	f.buf[0] = copyData
	binary.BigEndian.PutUint32(f.buf[1:], uint32(len(out)-1))
	f.out = out
	return nil
}

func length(head []byte) int { return int(int32(binary.BigEndian.Uint32(head[1:]))) }
