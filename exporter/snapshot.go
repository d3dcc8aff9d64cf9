package exporter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/snapfleet/snapfleet/contracts"
)

// Snapshot is one tenant at one instant. Its methods are called from one goroutine, one after another, except
// Close, which may be called at any time.
type Snapshot struct {
	exporter *Exporter
	server   *server // nil: none is asked any more
	attempt  contracts.Attempt
	tries    int    // that it took to open it
	optional string // settings that not every server takes, as statements

	// Relations that the last try saw, nil at the first, and that this one sees. Tables that others make and drop all the
	// time are often gone before they can be locked: so a later try locks only what the one before it saw, too. That is
	// enough as soon as the snapshot has no others.
	known, seen map[uint32]bool

	// ctx ends when the snapshot is closed or lost, with the cause.
	ctx    context.Context
	cancel context.CancelCauseFunc

	// Set by open.
	taken    contracts.Snapshot
	instant  instant
	tables   []*table
	estimate int64
	files    []file
	sources  sources
	excluded []string
	filter   contracts.Filtered

	attachmentsExcluded string // why there are none, or ""

	// Of the attachments.
	planned bool            // the store has been asked for every file
	place   contracts.Place // where they begin: an earlier worker may have delivered some
	late    lateGaps        // found since they were planned

	// sessions guards what Release and Close both end.
	sessions  sync.Mutex
	holder    *pgx.Conn   // holds the snapshot and the locks
	siblings  []*pgx.Conn // read within it; where there are none, the holder does
	stopWatch context.CancelFunc
	watched   sync.WaitGroup
	running   []interface{ stop(error) } // look-aheads, to be waited for
}

// pingEvery is how often the idle session that holds the snapshot is asked whether it is there, which also
// keeps firewalls from forgetting it.
const pingEvery = 15 * time.Second

// startWatch makes the loss of the holder the end of the snapshot: with the session its locks are gone, and
// somebody may truncate a table that is still to be read.
func (s *Snapshot) startWatch() {
	ctx, cancel := context.WithCancel(s.ctx)
	s.stopWatch = cancel
	s.watched.Go(func() {
		if err := watch(ctx, s.holder); err != nil && ctx.Err() == nil {
			s.cancel(s.asConflict(ctx, fmt.Errorf("%w: %w", ErrSnapshotLost, failed(ctx, err, "watch it")), standbyEnds))
		}
	})
}

// watch returns when the session fails or ctx is done. It learns of a killed session at once, because the
// server says so, and of a silent one at the next ping.
func watch(ctx context.Context, conn *pgx.Conn) error {
	for {
		quiet, cancel := context.WithTimeout(ctx, pingEvery)
		err := conn.PgConn().WaitForNotification(quiet)
		silent := quiet.Err() != nil
		cancel()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil && !silent {
			return err
		}
		ping, cancel := context.WithTimeout(ctx, pingEvery)
		err = exec(ping, conn, "SELECT 1")
		cancel()
		if err != nil {
			return err
		}
	}
}

// Tables are the tenant's tables, one file for each, sorted by name. Members may be iterated over once.
// Several connections read and compress ahead of the member that is being written, within a bound of memory
// that does not depend on the tables.
func (s *Snapshot) Tables() contracts.Archive {
	return contracts.Archive{Kind: contracts.Tables, Bytes: s.estimate, Members: func(yield func(contracts.Member, error) bool) {
		if len(s.tables) == 0 {
			return
		}
		ctx, span := tracer.Start(s.ctx, "read tables", trace.WithAttributes(attribute.Int("snapfleet.tables", len(s.tables))))
		pieces, err := s.readTables()
		if err != nil {
			endSpan(span, err)
			yield(contracts.Member{}, err)
			return
		}
		defer span.End()
		defer pieces.stop(errClosed)
		for _, t := range s.tables {
			w := &tableWriter{snapshot: s, table: t, pieces: pieces, left: len(t.chunks), trace: ctx}
			if !yield(contracts.Member{Name: t.file, Of: t.Name, Size: -1, ModTime: s.taken.At, Write: w.write}, nil) {
				return
			}
			if !w.done {
				yield(contracts.Member{}, fmt.Errorf("table %q was not written to its end", t.Name))
				return
			}
		}
	}}
}

// readTables sends the siblings ahead, or the holder where it is alone. It needs no watch then: it is heard of
// with every chunk.
func (s *Snapshot) readTables() (*ahead[chunk, copied], error) {
	s.sessions.Lock()
	defer s.sessions.Unlock()
	if s.ctx.Err() != nil {
		return nil, context.Cause(s.ctx)
	}
	if s.holder == nil {
		return nil, errors.New("the database transaction has ended: the tables cannot be read any more")
	}
	conns := s.siblings
	if len(conns) == 0 {
		conns = []*pgx.Conn{s.holder}
	}
	var chunks []chunk
	for _, t := range s.tables {
		chunks = append(chunks, t.chunks...)
	}
	readers := make([]*reader, len(conns))
	for i, conn := range conns {
		d, err := newDeflater(s.exporter.cfg.Level)
		if err != nil {
			return nil, err
		}
		readers[i] = &reader{conn: conn, deflate: d, standby: s.taken.Standby}
	}
	pieces := lookAhead(s.ctx, len(readers), s.exporter.cfg.Window, chunks,
		func(ctx context.Context, worker int, c chunk, w io.Writer) (copied, error) {
			done, err := readers[worker].copy(ctx, c, w)
			if err != nil {
				err = s.asConflict(ctx, err, standbyEnds)
				s.cancel(err) // the first failure is the snapshot's
			}
			return done, err
		})
	s.running = append(s.running, pieces)
	return pieces, nil
}

// tableWriter writes one table, in as many files as it is asked to.
type tableWriter struct {
	snapshot *Snapshot
	table    *table
	pieces   *ahead[chunk, copied]
	left     int // chunks not yet written
	done     bool

	trace context.Context // has the span that the table's is a part of
	spent copying
}

func (t *tableWriter) write(ctx context.Context, w io.Writer, room int64) (p contracts.Piece, err error) {
	defer func() {
		if err != nil || !p.More {
			t.spent.tell(t.trace, t.table, t.snapshot.attempt, err)
		}
	}()
	gz, err := newJoiner(w)
	if err == nil && t.snapshot.attempt.Format() == contracts.CSV {
		err = gz.text(header(t.table.Columns))
	}
	if err != nil {
		return p, t.named(err)
	}
	for ; t.left > 0; t.left-- {
		if p.More = p.Rows > 0 && room > 0 && gz.written >= room; p.More {
			break
		}
		piece, err := t.pieces.next(ctx)
		if err != nil {
			return p, err
		}
		done, err := piece.writeTo(ctx, gz)
		if err != nil {
			return p, t.named(err)
		}
		gz.add(done.sum)
		p.Rows += done.rows
		t.spent.add(piece.work, done)
	}
	if err := gz.finish(); err != nil {
		return p, t.named(err)
	}
	// From here on this file is a whole gzip member whose rows are counted.
	t.table.Rows += p.Rows
	t.done = !p.More
	return p, nil
}

// named says which table an error is of. A failure that has ended the whole snapshot names its own table.
func (t *tableWriter) named(err error) error {
	if cause := context.Cause(t.snapshot.ctx); cause != nil && errors.Is(err, cause) {
		return cause
	}
	return fmt.Errorf("write table %q: %w", t.table.Name, err)
}

// Release ends the database's part of the snapshot: transactions, locks and sessions. Call it as soon as the
// tables are written, because until then the database keeps every row version that they could need.
func (s *Snapshot) Release(context.Context) error {
	s.sessions.Lock()
	defer s.sessions.Unlock()
	err := context.Cause(s.ctx)
	for _, r := range s.running {
		r.stop(errReleased)
	}
	if s.stopWatch != nil {
		s.stopWatch()
	}
	s.watched.Wait()
	var ended sync.WaitGroup
	for _, conn := range append(s.siblings, s.holder) {
		if conn != nil {
			ended.Go(func() { disconnect(conn) })
		}
	}
	ended.Wait()
	s.running, s.siblings, s.holder = nil, nil, nil
	// From here on the database holds nothing for this snapshot.
	return err
}

// Close ends everything that is left of the snapshot, waits for it, and may be called again.
func (s *Snapshot) Close() error {
	s.cancel(errClosed)
	s.Release(context.Background()) // its error is the cancellation above
	return nil
}

// Totals is how many tables and attachments there are to write.
func (s *Snapshot) Totals() (tables, files int) {
	for _, f := range s.files {
		if f.stored() {
			files++
		}
	}
	return len(s.tables), files
}

// Contents is the exporter's part of the manifest. It is complete once both archives have been written.
func (s *Snapshot) Contents() contracts.Contents {
	c := contracts.Contents{Snapshot: s.taken, Excluded: s.excluded, Filter: s.filter, AttachmentsExcluded: s.attachmentsExcluded}
	c.Attachments = slices.Grow(c.Attachments, len(s.files))
	for _, t := range s.tables {
		c.Tables = append(c.Tables, t.Table)
	}
	for i := range s.files {
		f := &s.files[i]
		c.Attachments = append(c.Attachments, f.attachment())
		if f.gap != "" {
			c.Gaps = append(c.Gaps, contracts.Gap{ID: f.id(), Filename: f.filename(), Reason: f.gap})
		}
	}
	return c
}
