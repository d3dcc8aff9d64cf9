package exporter

import (
	"bufio"
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

// messages cuts a stream, joins CopyData that follows CopyData, and drops what holds no byte, which is all that reframe
// may change.
func messages(t *testing.T, stream []byte) (out [][]byte, largest int) {
	for len(stream) > 0 {
		n := 1 + int(binary.BigEndian.Uint32(stream[1:5]))
		m := stream[:n:n]
		stream = stream[n:]
		if m[0] == copyData {
			largest = max(largest, n)
			if n == headBytes {
				continue
			}
			if len(out) > 0 && out[len(out)-1][0] == copyData {
				out[len(out)-1] = append(out[len(out)-1], m[5:]...)
				continue
			}
			m = append([]byte("d...."), m[5:]...)
		}
		out = append(out, m)
	}
	return out, largest
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

func FuzzReframe(f *testing.F) {
	f.Add(uint64(1), uint16(3), false)
	f.Add(uint64(2), uint16(30000), true)
	f.Add(uint64(3), uint16(0), false) // a stream that ends in CopyData without data
	f.Fuzz(func(t *testing.T, seed uint64, size uint16, oneByte bool) {
		r := rand.New(rand.NewPCG(seed, 1))
		var in []byte
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
		}
		var source io.Reader = stubborn{bytes.NewReader(in), r}
		if oneByte {
			source = iotest.OneByteReader(source)
		}
		reader := &reframe{r: bufio.NewReaderSize(source, 1<<12)}
		var out []byte
		for buf := make([]byte, frameBytes); ; {
			n, err := reader.Read(buf[:1+r.IntN(len(buf))])
			out = append(out, buf[:n]...)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal(err)
			}
		}
		want, _ := messages(t, in)
		got, largest := messages(t, out)
		if len(got) != len(want) {
			t.Fatalf("%d messages, not %d", len(got), len(want))
		}
		for i := range want {
			if !bytes.Equal(got[i], want[i]) {
				t.Fatalf("message %d differs", i)
			}
		}
		if largest > frameBytes {
			t.Fatalf("a message of %d bytes", largest)
		}
	})
}

func TestReframeJoinsAndCuts(t *testing.T) {
	t.Parallel()
	var in []byte
	for range 1000 {
		in = append(in, message('d', []byte("a row\n"))...)
	}
	in = append(in, message('d', make([]byte, 1<<20))...)
	in = append(in, message('c', nil)...)
	out, err := io.ReadAll(&reframe{r: bufio.NewReaderSize(bytes.NewReader(in), readBuffer)})
	must(t, err)
	n := 0
	for rest := out; len(rest) > 0; n++ {
		rest = rest[1+binary.BigEndian.Uint32(rest[1:5]):]
	}
	if most := (1<<20+6000)/(frameBytes-headBytes) + 6; n > most {
		t.Errorf("%d messages, at most %d are needed", n, most)
	}
}

func BenchmarkReframe(b *testing.B) {
	var in []byte
	for len(in) < 8<<20 {
		in = append(in, message('d', bytes.Repeat([]byte("x"), 100))...)
	}
	b.SetBytes(int64(len(in)))
	for b.Loop() {
		io.Copy(io.Discard, &reframe{r: bufio.NewReaderSize(bytes.NewReader(in), readBuffer)})
	}
}
