package contracts_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/snapfleet/snapfleet/contracts"
)

// receipt has about size bytes that gzip cannot make fewer.
func receipt(size int) contracts.Receipt {
	random := rand.New(rand.NewPCG(1, uint64(size)))
	noise := make([]byte, size*3/4) // base64 makes 4 bytes of 3
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	return contracts.Receipt{
		Version: contracts.ReceiptVersion,
		Attempt: "1-9f86d081884c7d65",
		Uploads: []contracts.Upload{{
			Name: "snapshot_tables_j.tar", ID: "upload", Size: 3 << 20, CRC64NVME: "rosUhgp5mIM=",
			Parts: []contracts.Part{{ETag: `"a"`, CRC64NVME: "rosUhgp5mIM="}, {ETag: `"b"`}},
		}},
		Manifest: noise,
	}
}

// TestReceiptIsPlainJSON: releases that hold the whole of a receipt at once read and write the same.
func TestReceiptIsPlainJSON(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, 2, 3, 100_000} {
		r := receipt(size)
		pieces, _, err := r.Pieces()
		if err != nil {
			t.Fatal(err)
		}
		z, err := gzip.NewReader(bytes.NewReader(bytes.Join(pieces, nil)))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(z)
		if err != nil {
			t.Fatal(err)
		}
		want, _ := json.Marshal(r)
		if string(got) != string(want)+"\n" {
			t.Errorf("a manifest of %d bytes: not what encoding/json writes", size)
		}
	}
}

func TestReceiptPieces(t *testing.T) {
	t.Parallel()
	const piece = contracts.ReceiptPieceBytes
	for _, size := range []int{0, 1, 1000, piece, 2 * piece, 4 * piece} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			r := receipt(size)
			pieces, digest, err := r.Pieces()
			if err != nil {
				t.Fatal(err)
			}
			for i, p := range pieces {
				if last := i == len(pieces)-1; len(p) == 0 || len(p) > piece || !last && len(p) != piece {
					t.Errorf("piece %d of %d has %d bytes", i+1, len(pieces), len(p))
				}
			}
			again, err := contracts.JoinReceipt(pieces, digest)
			if err != nil {
				t.Fatal(err)
			}
			if size == 0 {
				again.Manifest = r.Manifest // nil or empty: nothing
			}
			if !reflect.DeepEqual(again, r) {
				t.Error("the receipt changed")
			}
			second, digest2, _ := r.Pieces()
			if digest2 != digest || !slices.EqualFunc(second, pieces, bytes.Equal) {
				t.Error("other pieces the second time")
			}
		})
	}
}

// TestReceiptPiecesAtTheBoundary walks byte by byte over the size at which a second piece begins.
func TestReceiptPiecesAtTheBoundary(t *testing.T) {
	t.Parallel()
	const piece = contracts.ReceiptPieceBytes
	size := piece
	total := func() (bytes, pieces int) {
		cut, digest, err := receipt(size).Pieces()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := contracts.JoinReceipt(cut, digest); err != nil {
			t.Fatal(err)
		}
		for _, p := range cut {
			bytes += len(p)
		}
		return bytes, len(cut)
	}
	for range 8 { // gzip's output grows about as its input does
		bytes, _ := total()
		size -= bytes - piece
	}
	seen := map[int]bool{}
	for size -= 12; !seen[2]; size += 4 {
		bytes, pieces := total()
		if want := (bytes + piece - 1) / piece; pieces != want {
			t.Fatalf("%d bytes in %d pieces", bytes, pieces)
		}
		seen[pieces] = true
	}
	if !seen[1] {
		t.Error("the walk began too late")
	}
}

func TestJoinReceiptRefuses(t *testing.T) {
	t.Parallel()
	pieces, digest, err := receipt(3 * contracts.ReceiptPieceBytes).Pieces()
	if err != nil || len(pieces) < 3 {
		t.Fatal(len(pieces), err)
	}
	flipped := func(i, at int) [][]byte {
		p := slices.Clone(pieces)
		p[i] = bytes.Clone(p[i])
		p[i][at] ^= 1
		return p
	}
	for name, damaged := range map[string][][]byte{
		"nothing":          nil,
		"empty pieces":     {{}, {}},
		"first missing":    pieces[1:],
		"last missing":     pieces[:len(pieces)-1],
		"one twice":        slices.Concat(pieces, pieces[:1]),
		"other order":      append([][]byte{pieces[1], pieces[0]}, pieces[2:]...),
		"first bit":        flipped(0, 0),
		"a bit in between": flipped(1, 100),
		"last bit":         flipped(len(pieces)-1, len(pieces[len(pieces)-1])-1),
		"a byte more":      slices.Concat(pieces, [][]byte{{0}}),
	} {
		if _, err := contracts.JoinReceipt(damaged, digest); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for _, wrong := range []string{"", "00", digest[1:]} {
		if _, err := contracts.JoinReceipt(pieces, wrong); err == nil {
			t.Errorf("digest %q: accepted", wrong)
		}
	}
	future := receipt(10)
	future.Version = 2
	later, laterDigest, err := future.Pieces()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := contracts.JoinReceipt(later, laterDigest); err == nil {
		t.Error("a receipt of version 2 was accepted")
	}
}

// FuzzJoinReceipt gives any bytes with the digest that they have.
func FuzzJoinReceipt(f *testing.F) {
	pieces, _, err := receipt(100).Pieces()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(bytes.Join(pieces, nil))
	f.Add([]byte{})
	f.Add([]byte{0x1f, 0x8b})
	f.Fuzz(func(t *testing.T, data []byte) {
		sum := sha256.Sum256(data)
		r, err := contracts.JoinReceipt([][]byte{data}, hex.EncodeToString(sum[:]))
		if err != nil {
			return
		}
		again, digest, err := r.Pieces()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := contracts.JoinReceipt(again, digest); err != nil {
			t.Fatalf("accepted, written again, refused: %v", err)
		}
	})
}
