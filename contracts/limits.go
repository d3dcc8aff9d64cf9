package contracts

import "unicode/utf8"

// These limits bound what a tenant's data can make a worker hold in memory. They are checked before anything is
// uploaded; a snapshot beyond one of them is a [Rejection] that names it.
const (
	// MaxManifestBytes is the largest manifest that is written, and the largest that is read.
	MaxManifestBytes = 96 << 20
	// MaxAttachments is how many rows of the attachment table a snapshot has. With it, a worker holds some 200 MB
	// for a snapshot's attachments at the most.
	MaxAttachments = 100_000
	// MaxAttachmentBytes is how many bytes the columns of one row of the attachment query have, as text, all together.
	// A key of S3 has 1,024 at the most.
	MaxAttachmentBytes = 8 << 10
	// MaxRelations is how many tables, views and sequences a schema has, and how many pairs of parent and child.
	MaxRelations = 100_000
	// MaxColumns is how many columns the tables of a schema have, all together.
	MaxColumns = 200_000
)

// JSONBytes is how many bytes s has in JSON as this package writes it, without its quotes.
func JSONBytes(s string) int64 {
	n := int64(0)
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1, r == '\u2028', r == '\u2029', r == '<', r == '>', r == '&', r < ' ':
			n += 6 // \u0000
		case r == '"', r == '\\':
			n += 2
		default:
			n += int64(size)
		}
		i += size
	}
	return n
}
