package exporter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"unicode/utf8"

	"github.com/snapfleet/snapfleet/contracts"
)

// An attempt whose tables are delivered needs the database no more. What it still has to do is a list, and so
// another worker can do it: Plan, Objects and LateGaps tell the list, and Resume goes on with it.

// Plan is what there is to know of the snapshot once its tables are written. It is nil when a row holds what JSON
// cannot, as it may in a database without an encoding: a key that is not the same afterwards names another file,
// or none, and so nobody goes on with such an attempt.
func (s *Snapshot) Plan() *contracts.Plan {
	p := &contracts.Plan{
		Snapshot: s.taken, Excluded: s.excluded, Filter: s.filter, AttachmentsExcluded: s.attachmentsExcluded,
		Sources: make([]contracts.Source, len(s.files)),
	}
	for _, t := range s.tables {
		p.Tables = append(p.Tables, t.Table)
	}
	for i := range s.files {
		f := &s.files[i]
		for column := range fileColumns {
			if !utf8.ValidString(f.column(column)) {
				return nil
			}
		}
		p.Sources[i] = contracts.Source{
			ID: f.id(), EntityID: f.column(entityColumn), Filename: f.filename(), ContentType: f.column(typeColumn),
			Bucket: f.bucket(), Key: f.key(), ETag: f.column(etagColumn),
		}
	}
	return p
}

// Objects is what the store has said of the plan's sources, in their order. Call it after Attachments.
func (s *Snapshot) Objects() []contracts.Object {
	objects := make([]contracts.Object, len(s.files))
	for i := range s.files {
		if f := &s.files[i]; f.stored() {
			objects[i] = contracts.Object{ETag: f.etag, Size: f.size, Modified: f.modified, Gap: f.gap}
		}
	}
	return objects
}

// LateGaps are the files that were there when the store was asked, and gone when they were fetched, so far. It
// may be called at any time.
func (s *Snapshot) LateGaps() []contracts.Gap { return s.late.all() }

// lateGaps is a list that one goroutine adds to while others look.
type lateGaps struct {
	mu   sync.Mutex
	gaps []contracts.Gap
}

func (l *lateGaps) add(f *file) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gaps = append(l.gaps, contracts.Gap{ID: f.id(), Filename: f.filename(), Reason: f.gap})
}

func (l *lateGaps) all() []contracts.Gap {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clip(l.gaps)
}

// Resume is [Exporter.Open] for whoever goes on with an attempt: it asks no database, has no tables to write,
// and its attachments begin where c says. An error that is no rejection says that c does not fit.
func (e *Exporter) Resume(ctx context.Context, a contracts.Attempt, c contracts.Checkpoint) (*Snapshot, error) {
	s := &Snapshot{exporter: e, attempt: a, place: c.Place()}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	if err := s.restore(c); err != nil {
		s.Close()
		return nil, fmt.Errorf("resume the snapshot of %s: %w", a.Tenant.Name, err)
	}
	return s, nil
}

// inOrder are the places of a file's columns in a row of nothing else.
var inOrder = [fileColumns]int{idColumn, entityColumn, filenameColumn, typeColumn, bucketColumn, keyColumn, etagColumn}

func (s *Snapshot) restore(c contracts.Checkpoint) error {
	if c.Plan == nil {
		return errors.New("there is no plan")
	}
	s.taken, s.excluded, s.filter, s.planned = c.Plan.Snapshot, c.Plan.Excluded, c.Plan.Filter, len(c.Objects) > 0
	s.attachmentsExcluded = c.Plan.AttachmentsExcluded
	for _, t := range c.Plan.Tables {
		s.tables = append(s.tables, &table{Table: t})
	}
	at := make(map[string]*file, len(c.Plan.Sources))
	s.files = make([]file, len(c.Plan.Sources))
	for i, src := range c.Plan.Sources {
		var row [fileColumns][]byte
		for column, text := range map[int]string{
			idColumn: src.ID, entityColumn: src.EntityID, filenameColumn: src.Filename, typeColumn: src.ContentType,
			bucketColumn: src.Bucket, keyColumn: src.Key, etagColumn: src.ETag,
		} {
			row[column] = []byte(text)
		}
		f := &s.files[i]
		*f = newFile(row[:], inOrder[:])
		at[src.ID] = f
		if s.planned && f.stored() {
			o := c.Objects[i]
			f.etag, f.size, f.modified, f.gap = o.ETag, o.Size, o.Modified, o.Gap
		}
	}
	for _, g := range c.Gaps {
		f := at[g.ID]
		if f == nil {
			return fmt.Errorf("a gap of %.80q, which is no attachment", g.ID)
		}
		if f.gap == "" {
			f.gap = g.Reason
			s.late.add(f)
		}
	}
	for _, id := range []string{s.place.After, s.place.Of} {
		if id != "" && (at[id] == nil || !s.planned) {
			return fmt.Errorf("it goes on at %.80q, which is no attachment", id)
		}
	}
	return s.checkAttachments() // what may be fetched is this worker's to say, whatever was kept
}

// fetch is a file that is still to be delivered, from an offset on.
type fetch struct {
	*file
	offset int64
}

// pending are the files that are still to be delivered, in order. Only the first may be partly there.
func (s *Snapshot) pending() (rest []fetch) {
	begin := 0
	if s.place.After != "" {
		begin = 1 + slices.IndexFunc(s.files, func(f file) bool { return f.id() == s.place.After })
	}
	for i := range s.files[begin:] {
		if f := &s.files[begin+i]; f.stored() && f.gap == "" {
			rest = append(rest, fetch{file: f})
		}
	}
	if len(rest) > 0 && rest[0].id() == s.place.Of {
		rest[0].offset = s.place.Offset
	}
	return rest
}
