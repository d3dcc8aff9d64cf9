package exporter

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/snapfleet/snapfleet/contracts"
)

// The default query's table may be of an owner who would gain by code that runs as our role: see listExposed. Or an index
// of it calls a function that a query would run. Then no query is planned: the rows come by COPY of the table itself, and are sorted, and chosen by their age, here.

// attachmentColumns are those of the default query.
var attachmentColumns = []string{"id", "entity_id", "filename", "content_type", "s3_bucket", "s3_key", "s3_etag"}

// plainAttachments are the relations with rows of the default query, and whether they may only be copied plain.
func (s *Snapshot) plainAttachments(c *catalog) (leaves []*relation, plain bool) {
	if root := c.find(defaultAttachments); s.exporter.cfg.Attachments.Query != DefaultAttachmentsQuery || !root.isTable() {
		return nil, false
	}
	read := map[uint32]bool{c.find(defaultAttachments).oid: true}
	for more := true; more; {
		more = false
		for _, e := range c.edges {
			if read[e.parent] && !read[e.child] {
				read[e.child], more = true, true
			}
		}
	}
	for _, r := range c.relations {
		if read[r.oid] && r.kind == "r" {
			leaves = append(leaves, r)
		}
		plain = plain || read[r.oid] && r.plain()
	}
	return leaves, plain
}

// copyAttachments is queryAttachments without a query.
func (s *Snapshot) copyAttachments(c *catalog, leaves []*relation) error {
	since, names := s.filter.AttachmentsSince, attachmentColumns
	if !since.IsZero() {
		names = append(slices.Clone(names), createdColumn)
	}
	t := &table{Table: contracts.Table{Name: defaultAttachments}, null: "null"}
	var idType uint32
	var columns []column
	for _, name := range names {
		columns = append(columns, column{Column: contracts.Column{Name: name, Type: "text"}})
		for _, col := range c.find(defaultAttachments).columns {
			if col.Name == "id" {
				idType = col.typeOID
			}
			if ages := []uint32{pgtype.DateOID, pgtype.TimestampOID, pgtype.TimestamptzOID}; name == createdColumn && col.Name == name && !slices.Contains(ages, col.typeOID) {
				return contracts.Reject(contracts.AttachmentsUnreadable, "%s", withoutCreated)
			}
		}
	}
	t.fields, t.after = fieldsOf(columns, contracts.JSONL)
	for _, leaf := range leaves {
		rows := &attachmentRows{snapshot: s, since: since}
		sink := &lines{w: rows}
		sql := chunk{table: t, from: leaf.quoted(c.schema), oid: leaf.oid, plain: true, way: fromText}
		r := &reader{conn: s.holder, lines: *sink}
		_, same, err := r.receive(s.ctx, sql)
		if err == nil {
			err = r.lines.end()
		}
		if err == nil && !same {
			err = fmt.Errorf("%w: the attachment table", errMoved)
		}
		if err != nil {
			return err
		}
	}
	sortFiles(s.files, idType)
	return nil
}

// sortFiles sorts by id: numbers as numbers, anything else by its bytes.
func sortFiles(files []file, idType uint32) {
	number := func(f *file) int64 {
		n, _ := strconv.ParseInt(f.id(), 10, 64)
		return n
	}
	slices.SortStableFunc(files, func(a, b file) int {
		if slices.Contains([]uint32{pgtype.Int2OID, pgtype.Int4OID, pgtype.Int8OID}, idType) {
			return cmp.Compare(number(&a), number(&b))
		}
		return strings.Compare(a.id(), b.id())
	})
}

// attachmentRows takes rows of JSON, one a line, and keeps those that are young enough. It holds one row at a time.
type attachmentRows struct {
	snapshot *Snapshot
	since    time.Time
	row      []byte
}

// Write takes some rows, the last of which may go on.
func (w *attachmentRows) Write(p []byte) (n int, err error) {
	for rest := p; len(rest) > 0; {
		line, after, whole := bytes.Cut(rest, []byte("\n"))
		// A byte of a text has six of JSON at the most.
		if w.row = append(w.row, line...); len(w.row) > 6*contracts.MaxAttachmentBytes+1000 {
			return 0, contracts.Reject(contracts.AttachmentTooLong, "row %d of the attachment table, which begins with %.80q, is longer than %d bytes",
				len(w.snapshot.files)+1, w.row, contracts.MaxAttachmentBytes)
		}
		rest = after
		if whole {
			if err := w.take(); err != nil {
				return 0, err
			}
			w.row = w.row[:0]
		}
	}
	return len(p), nil
}

func (w *attachmentRows) take() error {
	var row map[string]string // null is ""
	if err := json.Unmarshal(w.row, &row); err != nil {
		return fmt.Errorf("%w: a row of the attachment table", errText)
	}
	if !w.since.IsZero() && older(row[createdColumn], w.since) {
		w.snapshot.filter.AttachmentsLeftOut++
		return nil
	}
	values := make([][]byte, len(attachmentColumns))
	places := make([]int, len(attachmentColumns))
	for i, name := range attachmentColumns {
		values[i], places[i] = []byte(row[name]), i
	}
	return w.snapshot.keepFile(newFile(values, places))
}

// older reports whether a date or a timestamp, as the server writes it in UTC, is before since. One that is not known,
// NULL, or after the year 9999 is not.
func older(created string, since time.Time) bool {
	if created == "-infinity" || strings.HasSuffix(created, " BC") {
		return true
	}
	for _, layout := range []string{time.DateOnly, time.DateTime, "2006-01-02 15:04:05-07"} { // each with a fraction, or without
		if at, err := time.Parse(layout, created); err == nil {
			return at.Before(since)
		}
	}
	return false
}
