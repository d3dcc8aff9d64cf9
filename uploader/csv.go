package uploader

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/snapfleet/snapfleet/contracts"
)

// maxHeader is the longest header row that is kept: 1,600 columns of 63 bytes are 100 kB.
const maxHeader = 1 << 20

// csvCounter counts the records of PostgreSQL's CSV as they are written to it, and keeps the first. A
// record ends at a line feed outside quotes; a quote inside a field is doubled, which reads as leaving
// and entering again.
type csvCounter struct {
	records int64
	header  []byte
	quoted  bool // inside quotes
	open    bool // bytes have come since the last record ended
}

// Write implements io.Writer.
func (c *csvCounter) Write(p []byte) (int, error) {
	n := len(p)
	for c.records == 0 && len(p) > 0 { // byte by byte: it is one row
		b := p[0]
		p = p[1:]
		c.open = true
		switch {
		case b == '"':
			c.quoted = !c.quoted
		case b == '\n' && !c.quoted:
			c.records, c.open = 1, false
			continue
		}
		if len(c.header) == maxHeader {
			return 0, errHeaderRow
		}
		c.header = append(c.header, b)
	}
	for len(p) > 0 {
		quote := bytes.IndexByte(p, '"')
		run := p
		if quote >= 0 {
			run = p[:quote]
		}
		if !c.quoted {
			c.records += int64(bytes.Count(run, newline))
		}
		if len(run) > 0 {
			c.open = c.quoted || run[len(run)-1] != '\n'
		}
		if quote < 0 {
			break
		}
		c.quoted, c.open = !c.quoted, true
		p = p[quote+1:]
	}
	return n, nil
}

var newline = []byte{'\n'}

// errHeaderRow says that there is no end of the first row where one has to be.
var errHeaderRow = fmt.Errorf("its header row does not end within %d bytes", maxHeader)

// counted is how many rows have ended after the header.
func (c *csvCounter) counted() int64 { return max(c.records-1, 0) }

// broken is never known before the end.
func (c *csvCounter) broken() bool { return false }

// csvTable is a csvCounter that knows whose rows it counts.
type csvTable struct {
	csvCounter
	table contracts.Table
}

// rows looks at the header row, too.
func (c *csvTable) rows() (int64, error) {
	rows, err := c.csvCounter.rows()
	named := func(name string, column contracts.Column) bool { return name == column.Name }
	if err == nil && !slices.EqualFunc(c.columns(), c.table.Columns, named) {
		err = fmt.Errorf("its header row does not have the columns of table %q", c.table.Name)
	}
	return rows, err
}

// rows returns the number of records after the header row.
func (c *csvCounter) rows() (int64, error) {
	switch {
	case c.quoted:
		return 0, errors.New("it ends inside a quoted field")
	case c.open:
		return 0, errors.New("its last row does not end in a line feed")
	case c.records == 0:
		return 0, errors.New("it has no header row")
	}
	return c.records - 1, nil
}

// columns returns the fields of the header row. A table without columns has an empty one.
func (c *csvCounter) columns() []string {
	if len(c.header) == 0 {
		return nil
	}
	var fields []string
	var field strings.Builder
	quoted := false
	for i := 0; i < len(c.header); i++ {
		switch b := c.header[i]; {
		case b == '"' && quoted && i+1 < len(c.header) && c.header[i+1] == '"':
			field.WriteByte('"')
			i++
		case b == '"':
			quoted = !quoted
		case b == ',' && !quoted:
			fields = append(fields, field.String())
			field.Reset()
		default:
			field.WriteByte(b)
		}
	}
	return append(fields, field.String())
}
