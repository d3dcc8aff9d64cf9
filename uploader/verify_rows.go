package uploader

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/gzip"

	"github.com/snapfleet/snapfleet/contracts"
)

// countRows decompresses a table's file and counts its rows. It stops when there are more than there should be, or
// when the text is wrong: how much text follows then may be anything.
func countRows(ctx context.Context, text counter, body io.Reader, want int64) (int64, error) {
	err := gunzip(&boundedText{ctx: ctx, counter: text, most: want}, body)
	rows, bad := text.rows()
	switch {
	case errors.Is(err, errTooManyRows):
		return text.counted(), fmt.Errorf("it has more rows than %d", want)
	case errors.Is(err, errHeaderRow):
		return rows, err
	case err != nil && !errors.Is(err, errWrongText):
		return rows, fmt.Errorf("it cannot be decompressed: %w", err)
	case bad != nil:
		return rows, bad
	case rows != want:
		return rows, fmt.Errorf("it has %d rows, not %d", rows, want)
	}
	return rows, nil
}

var (
	errTooManyRows = errors.New("more rows than expected")
	errWrongText   = errors.New("the text is wrong")
)

// boundedText passes text on to a counter as long as that makes sense.
type boundedText struct {
	ctx     context.Context
	counter counter
	most    int64
}

// Write implements io.Writer.
func (b *boundedText) Write(p []byte) (int, error) {
	if b.ctx.Err() != nil {
		return 0, context.Cause(b.ctx)
	}
	n, err := b.counter.Write(p)
	switch {
	case err != nil:
		return n, err
	case b.counter.broken():
		return n, errWrongText
	case b.counter.counted() > b.most:
		return n, errTooManyRows
	}
	return n, nil
}

// counter counts the rows of a table in the text that is written to it.
type counter interface {
	io.Writer
	// rows is called when all is written. The error says what is wrong with the text, or with its columns.
	rows() (int64, error)
	// counted is how many rows have ended so far.
	counted() int64
	// broken reports whether the text is known to be wrong already.
	broken() bool
}

// counterOf returns the counter for a file of that name, or nil when its format is not known.
func counterOf(name string, t contracts.Table) counter {
	switch {
	case strings.HasSuffix(name, "."+string(contracts.CSV)):
		return &csvTable{table: t}
	case strings.HasSuffix(name, "."+string(contracts.JSONL)):
		return newJSONLTable(t)
	}
	return nil
}

// gunzip decompresses all of r.
func gunzip(w io.Writer, r io.Reader) error {
	z, err := gzip.NewReader(r)
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{z}, make([]byte, 128<<10))
	return cmp.Or(err, z.Close())
}
