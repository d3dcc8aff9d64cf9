package contracts

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// ReceiptVersion is the only version of [Receipt] that this build reads and writes.
const ReceiptVersion = 1

// Receipt is plain data that makes a delivery visible. Everything that it names is durable in the
// customer's bucket and nothing is visible yet; whoever holds it can finish the job with the same function
// as the worker that made it.
type Receipt struct {
	Version int `json:"version"`
	// Attempt is the [Attempt].ID that uploaded it.
	Attempt string   `json:"attempt"`
	Uploads []Upload `json:"uploads"`
	// Manifest is manifest.json byte for byte, so that every successor writes the same one.
	Manifest []byte `json:"manifest"`
}

// Upload is one S3 multipart upload.
type Upload struct {
	Name      string `json:"name"` // the object's name within the job's folder
	ID        string `json:"id"`   // S3's UploadId
	Size      int64  `json:"size,omitempty"`
	CRC64NVME string `json:"crc64nvme,omitempty"` // of the whole object, base64
	Parts     []Part `json:"parts,omitempty"`     // numbered 1, 2, 3 ... without gaps
}

// Part is one uploaded part.
type Part struct {
	ETag      string `json:"etag"`
	CRC64NVME string `json:"crc64nvme,omitempty"` // base64
}

// ReceiptPieceBytes is the size of one piece of an encoded receipt: well below NATS' max_payload.
const ReceiptPieceBytes = 240_000

// maxReceiptBytes bounds what a decoded receipt may unfold to.
const maxReceiptBytes = 2 * MaxManifestBytes

// Pieces encodes the receipt and cuts it, and returns the SHA-256 of the whole, in hex. The manifest, which may be
// large, is encoded on its way into the compressor.
func (r Receipt) Pieces() (pieces [][]byte, digest string, err error) {
	frame := r
	frame.Manifest = []byte{}
	data, err := json.Marshal(frame)
	if err != nil {
		return nil, "", fmt.Errorf("encode receipt: %w", err)
	}
	head, tail, _ := bytes.Cut(data, []byte(manifestField))
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	manifest := base64.NewEncoder(base64.StdEncoding, z)
	for _, write := range []func() error{
		func() error { _, err := fmt.Fprintf(z, "%s%s", head, manifestField); return err },
		func() error { _, err := manifest.Write(r.Manifest); return err },
		manifest.Close,
		func() error { _, err := fmt.Fprintf(z, "%s\n", tail); return err },
		z.Close,
	} {
		if err := write(); err != nil {
			return nil, "", fmt.Errorf("encode receipt: %w", err)
		}
	}
	sum := sha256.Sum256(b.Bytes())
	for b.Len() > 0 {
		pieces = append(pieces, bytes.Clone(b.Next(ReceiptPieceBytes)))
	}
	return pieces, hex.EncodeToString(sum[:]), nil
}

// manifestField is in front of the manifest in an encoded receipt. No string of JSON has it: its quotes would be escaped.
const manifestField = `"manifest":"`

// JoinReceipt puts the pieces together again and refuses anything but what Pieces made.
func JoinReceipt(pieces [][]byte, digest string) (Receipt, error) {
	var r Receipt
	sum := sha256.New()
	all := make([]io.Reader, len(pieces))
	for i, p := range pieces {
		sum.Write(p)
		all[i] = bytes.NewReader(p)
	}
	if hex.EncodeToString(sum.Sum(nil)) != digest {
		return r, fmt.Errorf("receipt: %d pieces do not have the recorded digest", len(pieces))
	}
	z, err := gzip.NewReader(io.MultiReader(all...))
	if err != nil {
		return r, fmt.Errorf("receipt: %w", err)
	}
	in := bufio.NewReaderSize(&bounded{r: z, left: maxReceiptBytes}, 64<<10)
	var frame []byte
	for !bytes.HasSuffix(frame, []byte(manifestField)) {
		some, err := in.ReadBytes('"')
		if frame = append(frame, some...); err != nil {
			return r, fmt.Errorf("receipt: its manifest is missing: %w", err)
		}
	}
	manifest, err := readManifest(in, manifestRoom(pieces))
	if err != nil {
		return r, fmt.Errorf("receipt: its manifest: %w", err)
	}
	rest, err := io.ReadAll(in)
	if err != nil {
		return r, fmt.Errorf("receipt: %w", err)
	}
	if err := json.Unmarshal(append(append(frame, '"'), rest...), &r); err != nil {
		return r, fmt.Errorf("receipt: %w", err)
	}
	if r.Version != ReceiptVersion {
		return r, fmt.Errorf("receipt: version %d, this build reads %d", r.Version, ReceiptVersion)
	}
	r.Manifest = manifest
	return r, nil
}

// readManifest reads base64 to the quote that ends it, in pieces: only the bytes of the manifest are held whole.
func readManifest(in *bufio.Reader, room int) ([]byte, error) {
	manifest := make([]byte, 0, room)
	decode := base64.StdEncoding
	for carried := []byte(nil); ; {
		some, err := in.ReadSlice('"')
		end := err == nil
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err
		}
		carried = append(carried, bytes.TrimSuffix(some, []byte{'"'})...)
		whole := len(carried) / 4 * 4
		if end {
			whole = len(carried)
		}
		if manifest, err = decode.AppendDecode(manifest, carried[:whole]); err != nil {
			return nil, err
		}
		if end {
			return manifest, nil
		}
		carried = append(carried[:0], carried[whole:]...)
	}
}

// manifestRoom is how many bytes the manifest has at the most, by what gzip says at its end of the bytes that it has
// compressed: not more than a thousand times what there is, whatever it says.
func manifestRoom(pieces [][]byte) int {
	all := 0
	for _, p := range pieces {
		all += len(p)
	}
	if len(pieces) == 0 || len(pieces[len(pieces)-1]) < 4 {
		return 0
	}
	last := pieces[len(pieces)-1]
	said := int64(binary.LittleEndian.Uint32(last[len(last)-4:]))
	return int(min(said, 1000*int64(all), maxReceiptBytes) * 3 / 4)
}

// bounded is a reader that fails after so many bytes.
type bounded struct {
	r    io.Reader
	left int
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= n; b.left < 0 {
		return 0, fmt.Errorf("over %d bytes", maxReceiptBytes)
	}
	return n, err
}
