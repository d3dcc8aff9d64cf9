package uploader

import (
	"bytes"
	"testing"

	"github.com/minio/crc64nvme"
)

func TestCRCIsTheNVMEOne(t *testing.T) {
	t.Parallel()
	// The check value of the catalogue of CRC algorithms.
	if got := crc64nvme.Checksum([]byte("123456789")); got != 0xae8b14860a799888 {
		t.Fatalf("got %x", got)
	}
	if got := crcText(0xae8b14860a799888); got != "rosUhgp5mIg=" {
		t.Fatalf("got %s", got)
	}
}

func TestCombineOfHugeLengths(t *testing.T) {
	t.Parallel()
	// 5 TiB of zeros behind "a", without 5 TiB of zeros: doubling what 1 MiB of them does.
	a := crc64nvme.Checksum([]byte("a"))
	zeros := crc64nvme.Checksum(make([]byte, 1<<20))
	n := int64(1 << 20)
	for n < 5<<40 {
		zeros = combine(zeros, zeros, n)
		n *= 2
	}
	half := combine(combine(a, zeros, n), zeros, n)
	if whole := combine(a, combine(zeros, zeros, n), 2*n); half != whole {
		t.Fatalf("%x, %x: not associative", half, whole)
	}
}

func FuzzCombine(f *testing.F) {
	f.Add([]byte("123456789"), uint16(4))
	f.Add([]byte{}, uint16(0))
	f.Add(bytes.Repeat([]byte{0}, 1000), uint16(999))
	f.Fuzz(func(t *testing.T, b []byte, at uint16) {
		i := int(at) % (len(b) + 1)
		got := combine(crc64nvme.Checksum(b[:i]), crc64nvme.Checksum(b[i:]), int64(len(b)-i))
		if want := crc64nvme.Checksum(b); got != want {
			t.Fatalf("cut at %d of %d: %x, want %x", i, len(b), got, want)
		}
	})
}
