package exporter

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
)

// readBuffer is how much is taken from a connection at once: PostgreSQL sends 8 KiB at a time, and a system call
// for each is dear. A row that fits is handed on where it lies.
const readBuffer = 256 << 10

// wire is what pgx reads of a PostgreSQL connection. pgx connects, encrypts, logs in, asks and hears of errors; the
// data of a COPY never gets to it, but goes to a rowSink, straight from the buffer that it was received in. pgx would
// make a message of each row, and hold a whole row of up to a gigabyte in memory.
type wire struct {
	r    *bufio.Reader
	pass int // bytes left of a message that is pgx's

	err error

	// Of the COPY that is under way.
	to   rowSink // nil: there is none
	data int     // bytes left of a CopyData message
}

// A rowSink takes the CopyData messages of one COPY. PostgreSQL makes one of each row.
type rowSink interface {
	// message takes a message, or the next piece of one that is larger than the buffer; left is how many bytes of
	// it are to come. p belongs to the caller again when it returns. After an error the connection is of no use.
	message(p []byte, left int) error
}

// maxMessage is the longest message of the server that pgx gets: it holds each whole. The rows that it is asked for have
// a few kilobytes, and so has an error that does not quote a value.
const maxMessage = 1 << 20

// tooLongError is a message of the server that would take too much memory.
type tooLongError struct {
	kind  byte   // the protocol's letter
	bytes int    // of the message
	first string // of a row: the beginning of its first column
}

func (e *tooLongError) Error() string {
	return fmt.Sprintf("the server sent a message %q of %d bytes, the limit is %d", e.kind, e.bytes, maxMessage)
}

const (
	copyData  = 'd'
	dataRow   = 'D'
	headBytes = 5 // a type, and a length that counts itself
)

func newWire(r io.Reader) *wire { return &wire{r: bufio.NewReaderSize(r, readBuffer)} }

// wireKey is under which pgx keeps our wire with the connection.
const wireKey = "snapfleet.wire"

// tap makes pgx read every connection that c opens through a wire.
func tap(c *pgx.ConnConfig) (keep func(*pgx.Conn)) {
	var last *wire // of the connection that is being tried
	c.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		last = newWire(r)
		return pgproto3.NewFrontend(last, w)
	}
	return func(conn *pgx.Conn) { conn.PgConn().CustomData()[wireKey] = last }
}

// wireOf is the wire of a connection that was opened with tap.
func wireOf(conn *pgx.Conn) *wire { return conn.PgConn().CustomData()[wireKey].(*wire) }

// Read is pgx's. It may be called again after an error, as pgx does after a deadline: nothing is lost.
func (w *wire) Read(p []byte) (int, error) {
	for w.pass == 0 {
		if err := w.next(); err != nil {
			return 0, err
		}
	}
	n, err := w.r.Read(p[:min(len(p), w.pass)])
	w.pass -= n
	return n, err
}

// next leaves the next message to pgx, or hands some of COPY's data to the sink.
func (w *wire) next() error {
	if w.err != nil {
		return w.err
	}
	if w.data == 0 {
		head, err := w.r.Peek(headBytes)
		if err != nil {
			return err
		}
		if head[0] != copyData || length(head) < 4 || w.to == nil {
			if length(head) > maxMessage {
				w.err = &tooLongError{kind: head[0], bytes: length(head), first: w.firstColumn()}
				return w.err
			}
			w.pass = max(1+length(head), headBytes) // a length that cannot be is for pgx to refuse
			return nil
		}
		if found, err := w.whole(); found || err != nil {
			return err
		}
		w.data = length(head) - 4
		w.r.Discard(headBytes)
	}
	n := min(w.data, w.r.Size())
	p, err := w.r.Peek(n)
	if err != nil {
		return err
	}
	if w.err = w.to.message(p, w.data-n); w.err != nil {
		return w.err
	}
	w.data -= n
	w.r.Discard(n)
	return nil
}

// firstColumn is the beginning of the first value of the row that comes next, as far as it is of use in a sentence.
func (w *wire) firstColumn() string {
	const count, size, most = 2, 4, 80
	p, err := w.r.Peek(headBytes + count + size + most)
	if err != nil || p[0] != dataRow {
		return ""
	}
	value := p[headBytes+count+size:]
	n := int(int32(binary.BigEndian.Uint32(p[headBytes+count:])))
	return string(value[:max(0, min(n, len(value)))])
}

// whole hands on every message of data that is in the buffer as a whole, and reports whether there was one.
func (w *wire) whole() (found bool, err error) {
	buf, _ := w.r.Peek(w.r.Buffered())
	n := 0
	for rest := buf; len(rest) >= headBytes && rest[0] == copyData; rest = buf[n:] {
		end := 1 + length(rest)
		if end < headBytes || end > len(rest) {
			break
		}
		if w.err = w.to.message(rest[headBytes:end], 0); w.err != nil {
			return true, w.err
		}
		n += end
	}
	w.r.Discard(n)
	return n > 0, nil
}

func length(head []byte) int { return int(int32(binary.BigEndian.Uint32(head[1:]))) }
