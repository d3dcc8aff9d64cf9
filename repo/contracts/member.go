package contracts

import (
	"context"
	"io"
	"iter"
	"time"
)

// Archive is everything of one kind that goes into a delivery, in the order in which it is written.
type Archive struct {
	Kind Kind
	// Bytes is the size to expect: exact for attachments, an estimate for tables. It decides, before
	// the first byte is written, whether the archive is split, because a key in S3 cannot be renamed.
	Bytes int64
	// Members yields each member once. A member is written before the next one is asked for.
	Members iter.Seq2[Member, error]
}

// Member is one file of a snapshot, not yet written anywhere.
type Member struct {
	// Name is the path inside the .tar, safe for every extractor; see [TableFiles] and [AttachmentFile].
	Name string
	// Of is what the file holds: a table's name, or an attachment's id.
	Of string
	// Size in bytes, or -1 when only writing will tell.
	Size int64
	// Offset is how many bytes of it somebody has written before: Write leaves them out. 0 for all but the
	// file in whose middle a delivery goes on; see [Checkpoint.Place].
	Offset  int64
	ModTime time.Time

	// Write writes the content to w and says what it wrote. It is called from one goroutine, and until
	// it returns the member holds whatever it reads from.
	//
	// room is how many bytes the volume would still like to take; 0 means no limit. A member whose
	// Size is -1 may stop at a convenient place once it has written that much, and return More: it is
	// then called again, with another w, for a file of its own that stands alone (header row and all).
	// A member that fails is not called again.
	Write func(ctx context.Context, w io.Writer, room int64) (Piece, error)
}

// Piece is what one call of [Member].Write wrote.
type Piece struct {
	Rows int64 // rows of a table; 0 for an attachment
	More bool  // the member goes on in another file
}
