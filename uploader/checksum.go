package uploader

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"

	"github.com/minio/crc64nvme"
)

// S3's CRC64NVME is the one checksum of a multipart object that does not depend on how it was cut into
// parts, so the customer can compute it from the file alone. Parts are summed where they are, in any
// order, and combined: nothing is read twice.

// combine returns the CRC-64/NVME of a and b in sequence, given the checksum of each and b's length.
func combine(a, b uint64, lengthB int64) uint64 {
	return multiply(shift(lengthB), a) ^ b
}

// In this file a uint64 is a polynomial over GF(2) modulo NVME's, in reflected order: the highest bit is
// the coefficient of x^0.
const one = uint64(1) << 63

// multiply returns a*b.
func multiply(a, b uint64) uint64 {
	var product uint64
	for bit := one; bit != 0; bit >>= 1 {
		if a&bit != 0 {
			product ^= b
		}
		carry := b & 1
		b >>= 1
		if carry != 0 {
			b ^= crc64nvme.NVME
		}
	}
	return product
}

// shift returns x^(8n): what n more bytes do to a checksum.
func shift(n int64) uint64 {
	result, square := one, one>>8
	for ; n > 0; n >>= 1 {
		if n&1 != 0 {
			result = multiply(result, square)
		}
		square = multiply(square, square)
	}
	return result
}

// crcText is a checksum as S3 writes it: base64 of 8 bytes, most significant first.
func crcText(crc uint64) string {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], crc)
	return base64.StdEncoding.EncodeToString(b[:])
}

// parseCRC is crcText backwards.
func parseCRC(text string) (uint64, error) {
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(b) != 8 {
		return 0, fmt.Errorf("%.40q is no CRC-64", text)
	}
	return binary.BigEndian.Uint64(b), nil
}
