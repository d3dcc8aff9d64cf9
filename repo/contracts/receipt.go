package contracts

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
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

// Pieces encodes the receipt and cuts it, and returns the SHA-256 of the whole, in hex.
func (r Receipt) Pieces() (pieces [][]byte, digest string, err error) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if err := json.NewEncoder(z).Encode(r); err != nil {
		return nil, "", fmt.Errorf("encode receipt: %w", err)
	}
	if err := z.Close(); err != nil {
		return nil, "", fmt.Errorf("encode receipt: %w", err)
	}
	sum := sha256.Sum256(b.Bytes())
	for b.Len() > 0 {
		pieces = append(pieces, bytes.Clone(b.Next(ReceiptPieceBytes)))
	}
	return pieces, hex.EncodeToString(sum[:]), nil
}

// JoinReceipt puts the pieces together again and refuses anything but what Pieces made.
func JoinReceipt(pieces [][]byte, digest string) (Receipt, error) {
	var r Receipt
	all := bytes.Join(pieces, nil)
	if sum := sha256.Sum256(all); hex.EncodeToString(sum[:]) != digest {
		return r, fmt.Errorf("receipt: %d pieces do not have the recorded digest", len(pieces))
	}
	z, err := gzip.NewReader(bytes.NewReader(all))
	if err != nil {
		return r, fmt.Errorf("receipt: %w", err)
	}
	data, err := io.ReadAll(io.LimitReader(z, maxReceiptBytes+1))
	if err != nil {
		return r, fmt.Errorf("receipt: %w", err)
	}
	if len(data) > maxReceiptBytes {
		return r, fmt.Errorf("receipt: over %d bytes", maxReceiptBytes)
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fmt.Errorf("receipt: %w", err)
	}
	if r.Version != ReceiptVersion {
		return r, fmt.Errorf("receipt: version %d, this build reads %d", r.Version, ReceiptVersion)
	}
	return r, nil
}
