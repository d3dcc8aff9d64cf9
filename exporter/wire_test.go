package exporter

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"testing"
	"testing/iotest"
)

// message is a message of the protocol.
func message(kind byte, body []byte) []byte {
	b := binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(body)+4))
	return append(b, body...)
}

// stubborn fails with a deadline now and then, and goes on afterwards, as a connection of pgx does.
type stubborn struct {
	r io.Reader
	n *rand.Rand
}

func (s stubborn) Read(p []byte) (int, error) {
	if s.n.IntN(4) == 0 {
		return 0, os.ErrDeadlineExceeded
	}
	return s.r.Read(p[:1+s.n.IntN(min(len(p), 3000))])
}

// heard keeps the messages that a sink is given, and fails at one of them.
type heard struct {
	t        *testing.T
	messages [][]byte
	open     bool // the last one is not yet whole
	expected int  // bytes of it that are to come
	failAt   int
}

var errFull = errors.New("no more room")

func (h *heard) message(p []byte, left int) error {
	if len(h.messages) == h.failAt {
		return errFull
	}
	if !h.open {
		h.messages = append(h.messages, nil)
	} else if h.expected != len(p)+left {
		h.t.Fatalf("%d bytes were to come, not %d", h.expected, len(p)+left)
	}
	last := &h.messages[len(h.messages)-1]
	*last = append(*last, p...)
	h.open, h.expected = left > 0, left
	return nil
}

func FuzzWire(f *testing.F) {
	f.Add(uint64(1), uint16(3), false, uint16(50000))
	f.Add(uint64(2), uint16(30000), true, uint16(50000))
	f.Add(uint64(3), uint16(0), false, uint16(2))
	f.Fuzz(func(t *testing.T, seed uint64, size uint16, oneByte bool, failAt uint16) {
		r := rand.New(rand.NewPCG(seed, 1))
		var in, others []byte
		var data [][]byte
		for range 1 + r.IntN(200) {
			kind := byte('d')
			if r.IntN(10) == 0 {
				kind = "TDCZNc"[r.IntN(6)]
			}
			body := make([]byte, r.IntN(1+int(size)))
			for i := range body {
				body[i] = byte(r.Uint32())
			}
			in = append(in, message(kind, body)...)
			if kind == copyData {
				data = append(data, body)
			} else {
				others = append(others, message(kind, body)...)
			}
		}
		var source io.Reader = stubborn{bytes.NewReader(in), r}
		if oneByte {
			source = iotest.OneByteReader(source)
		}
		to := &heard{t: t, failAt: int(failAt)}
		w := newWire(source)
		w.to = to
		out, err := drain(w, r)
		if fails := int(failAt) < len(data); fails {
			if !errors.Is(err, errFull) || !bytes.HasPrefix(others, out) || !equalMessages(to.messages, data[:failAt]) {
				t.Fatalf("after a sink that failed at %d of %d: %v", failAt, len(data), err)
			}
			if _, again := w.Read(make([]byte, 10)); !errors.Is(again, errFull) {
				t.Fatalf("a connection whose sink failed goes on: %v", again)
			}
			return
		}
		if !errors.Is(err, io.EOF) || !bytes.Equal(out, others) || !equalMessages(to.messages, data) || to.open {
			t.Fatalf("%v; %d bytes of %d for pgx, %d messages of %d for the sink", err, len(out), len(others), len(to.messages), len(data))
		}
	})
}

func equalMessages(a, b [][]byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !bytes.Equal(a[i], b[i]) {
			return false
		}
	}
	return true
}

// drain reads to the end, or to an error that is not a deadline.
func drain(w *wire, r *rand.Rand) (out []byte, err error) {
	for buf := make([]byte, 8<<10); ; {
		n, err := w.Read(buf[:1+r.IntN(len(buf))])
		out = append(out, buf[:n]...)
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return out, err
		}
	}
}

// TestWireWithoutSink: whoever does not copy, or copies with pgx's own means, sees every message.
func TestWireWithoutSink(t *testing.T) {
	t.Parallel()
	in := append(message('d', bytes.Repeat([]byte("x"), 2*readBuffer)), message('Z', []byte("I"))...)
	out, err := io.ReadAll(newWire(bytes.NewReader(in)))
	if err != nil || !bytes.Equal(out, in) {
		t.Errorf("%d bytes of %d: %v", len(out), len(in), err)
	}
}

func BenchmarkWire(b *testing.B) {
	var in []byte
	for len(in) < 8<<20 {
		in = append(in, message('d', bytes.Repeat([]byte("x"), 100))...)
	}
	l := lines{w: io.Discard}
	b.SetBytes(int64(len(in)))
	for b.Loop() {
		w := newWire(bytes.NewReader(in))
		w.to = verbatim{&l}
		if _, err := w.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			b.Fatal(err)
		}
	}
}
