package exporter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"
	"go.opentelemetry.io/otel/attribute"
	"golang.org/x/sync/errgroup"

	"github.com/snapfleet/snapfleet/contracts"
)

// file is one row of the tenant's attachment table. Rows are kept in memory from the snapshot to the
// manifest, some 300 bytes each: 100,000 attachments take 30 MB.
type file struct {
	text string // all columns, one after another
	ends [fileColumns]uint32

	// Set by planning, and only for a stored file.
	size     int64
	modified int64 // seconds since 1970
	etag     string
	gap      string // why it cannot be delivered, or ""
	known    bool   // a list has told all of it
}

// The columns, as [Attachments].Query lists them.
const (
	idColumn = iota
	entityColumn
	filenameColumn
	typeColumn
	bucketColumn
	keyColumn
	etagColumn
	fileColumns
)

// newFile is the row whose columns are at these places.
func newFile(values [][]byte, places []int) (f file) {
	var b strings.Builder
	for i, at := range places {
		b.Write(values[at])
		f.ends[i] = uint32(b.Len())
	}
	f.text = b.String()
	f.etag = strings.Trim(strings.TrimPrefix(f.column(etagColumn), "W/"), `"`)
	return f
}

func (f *file) column(i int) string {
	if i == 0 {
		return f.text[:f.ends[0]]
	}
	return f.text[f.ends[i-1]:f.ends[i]]
}

func (f *file) id() string       { return f.column(idColumn) }
func (f *file) filename() string { return f.column(filenameColumn) }
func (f *file) bucket() string   { return f.column(bucketColumn) }
func (f *file) key() string      { return f.column(keyColumn) }

// stored reports whether there is a file to fetch. Rows without one are an integration's, kept elsewhere.
func (f *file) stored() bool { return f.key() != "" }

// path is where the file is in the archive: as the manifest's id and file name say, which readers compare it with.
func (f *file) path() string { return contracts.AttachmentFile(asUTF8(f.id()), asUTF8(f.filename())) }

// asUTF8 is s as JSON has it: what is not UTF-8, as in a database without an encoding, is replaced there.
func asUTF8(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return string([]rune(s))
}

// attachment is the row as the manifest shows it.
func (f *file) attachment() contracts.Attachment {
	a := contracts.Attachment{
		ID: f.id(), EntityID: f.column(entityColumn), Filename: f.filename(), ContentType: f.column(typeColumn),
		ETag: f.etag, External: !f.stored(),
	}
	if f.stored() && f.gap == "" {
		a.File = f.path()
	}
	return a
}

// defaultAttachments is the table that the default query reads.
const defaultAttachments = "file_attachments"

// noAttachmentTable is why a snapshot has no attachments.
const noAttachmentTable = "the schema has no attachment table"

// readAttachments reads the rows within the snapshot, and refuses those that no tenant may have. A tenant without the
// table that the default query reads has no attachments. A query of the operator's own has to fit every tenant: what it
// does not find is misspelt, or was renamed.
func (s *Snapshot) readAttachments(c *catalog) error {
	since, err := s.attachmentsSince()
	if err != nil {
		return err
	}
	s.filter.AttachmentsSince = since
	if s.exporter.cfg.Attachments.Query == DefaultAttachmentsQuery && c.find(defaultAttachments) == nil {
		if !s.attempt.Request.Wants(contracts.Tables) {
			return contracts.Reject(contracts.AttachmentsUnreadable, "schema %q has no table %s, and only attachments are asked for", c.schema, defaultAttachments)
		}
		s.attachmentsExcluded = noAttachmentTable
		s.excluded = append(s.excluded, "attachments: "+noAttachmentTable)
	} else if err := s.askForAttachments(c); err != nil {
		return err
	}
	if err := s.checkAttachments(); err != nil {
		return err
	}
	return s.checkManifest()
}

// askForAttachments runs the query.
func (s *Snapshot) askForAttachments(c *catalog) error {
	ctx, conn := s.ctx, s.holder
	if err := exec(ctx, conn, "SAVEPOINT attachments"); err != nil {
		return failed(ctx, err, "read the attachment table")
	}
	var err error
	if leaves, plain := s.plainAttachments(c); plain {
		err = withoutText(s.copyAttachments(c, leaves))
	} else if err = withoutText(s.queryAttachments()); err == nil {
		err = s.checkRead()
	}
	if _, rejected := contracts.AsRejection(err); rejected {
		return err
	}
	if long, ok := errors.AsType[*tooLongError](wireOf(conn).err); ok {
		return s.tooLong(long)
	}
	code := sqlstate(err)
	switch {
	case code == undefinedColumn && s.withoutCreated(c):
		return contracts.Reject(contracts.AttachmentsUnreadable, "%s (SQLSTATE %s)", withoutCreated, code)
	case strings.HasPrefix(code, "42"), code == undefinedSchema:
		return &contracts.Rejection{Code: contracts.AttachmentsUnreadable, Err: failed(ctx, err, "read the attachment table")}
	case err != nil:
		return failed(ctx, err, "read the attachment table")
	}
	// Released, too: in a subtransaction a standby's conflict would end the session, and say nothing.
	if err := exec(ctx, conn, "ROLLBACK TO attachments; RELEASE attachments"); err != nil {
		return failed(ctx, err, "read the attachment table")
	}
	return nil
}

// withoutCreated reports whether the default query was to tell the age of rows that have none.
func (s *Snapshot) withoutCreated(c *catalog) bool {
	return !s.filter.AttachmentsSince.IsZero() && s.exporter.cfg.Attachments.Query == DefaultAttachmentsQuery &&
		!slices.ContainsFunc(c.find(defaultAttachments).columns, func(c column) bool { return c.Name == createdColumn })
}

// checkRead looks whether the query has met a relation that is newer than the snapshot, such as an index that was made
// after the schema was looked at: whose function the query may have run. The transaction has a lock on each.
func (s *Snapshot) checkRead() error {
	var newer bool
	err := s.holder.QueryRow(s.ctx, `SELECT EXISTS (SELECT FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'relation'
		AND relation NOT IN (SELECT oid FROM pg_class))`).Scan(&newer)
	if err == nil && newer {
		err = fmt.Errorf("%w: the attachment table", errMoved)
	}
	return err
}

// queryAttachments streams the rows in text form, whatever their types.
func (s *Snapshot) queryAttachments() error {
	query := s.exporter.cfg.Attachments.forSchema(s.attempt.Tenant.Schema)
	if since := s.filter.AttachmentsSince; !since.IsZero() {
		if s.exporter.cfg.Attachments.Query == DefaultAttachmentsQuery {
			query = strings.Replace(query, " FROM ", ", "+createdColumn+" FROM ", 1)
		}
		return s.queryRecent(query, since)
	}
	result := s.holder.PgConn().Exec(s.ctx, query)
	for result.NextResult() {
		rows := result.ResultReader()
		places, _, err := columnsOf(rows.FieldDescriptions())
		if err != nil {
			result.Close()
			return err
		}
		if err := s.readFiles(rows, places); err != nil {
			return err // and the session is closed: the rest of the rows may be long
		}
	}
	return result.Close()
}

// readFiles keeps the rows, as far as a snapshot may have so many, of that length.
func (s *Snapshot) readFiles(rows *pgconn.ResultReader, places []int) error {
	for rows.NextRow() {
		if err := s.keepFile(newFile(rows.Values(), places)); err != nil {
			return err
		}
	}
	return nil
}

// keepFile keeps a row.
func (s *Snapshot) keepFile(f file) error {
	if len(f.text) > contracts.MaxAttachmentBytes {
		return contracts.Reject(contracts.AttachmentTooLong, "attachment %.80q has %d bytes in its columns, the limit is %d",
			f.id(), len(f.text), contracts.MaxAttachmentBytes)
	}
	if len(s.files) == contracts.MaxAttachments {
		return contracts.Reject(contracts.TooManyAttachments, "the attachment query gives more than %d rows", contracts.MaxAttachments)
	}
	s.files = append(s.files, f)
	return nil
}

// tooLong refuses what the attachment query gave and pgx was spared.
func (s *Snapshot) tooLong(e *tooLongError) error {
	if e.kind != dataRow {
		return &contracts.Rejection{Code: contracts.AttachmentsUnreadable, Err: fmt.Errorf("read the attachment table: %w", e)}
	}
	return contracts.Reject(contracts.AttachmentTooLong, "row %d of the attachment query, which begins with %.80q, has %d bytes, the limit is %d",
		len(s.files)+1, e.first, e.bytes, contracts.MaxAttachmentBytes)
}

// named is how many rows a rejection names.
const named = 10

// checkAttachments looks at all rows before anything is fetched. Files are named, and work is taken up again, by ids: so
// no two may be equal, not even once they are in a manifest, and no two may have one folder.
func (s *Snapshot) checkAttachments() error {
	cfg := s.exporter.cfg.Attachments
	seen := make(map[string]bool, len(s.files))
	folders := make(map[string]string, len(s.files))
	var forbidden []string
	stored := false
	for i := range s.files {
		f := &s.files[i]
		id := asUTF8(f.id())
		folder := path.Dir(contracts.AttachmentFile(id, ""))
		folded := strings.ToLower(folder)
		switch other, taken := folders[folded]; {
		case id == "":
			return contracts.Reject(contracts.AttachmentsUnreadable, "an attachment, %.80q, has no id", f.filename())
		case seen[id]:
			return contracts.Reject(contracts.AttachmentsUnreadable, "two attachments have the id %.80q", f.id())
		case taken:
			return contracts.Reject(contracts.AttachmentsUnreadable, "attachments %.80q and %.80q would be in one folder, %s", other, f.id(), folder)
		}
		seen[id], folders[folded] = true, f.id()
		if !f.stored() {
			continue
		}
		stored = true
		if !cfg.allow(s.attempt.Tenant.Name, f.bucket(), f.key()) {
			forbidden = append(forbidden, f.id())
		}
	}
	if len(forbidden) > 0 {
		return contracts.Reject(contracts.AttachmentForbidden, "%s", some(forbidden, "point to files that are not this tenant's"))
	}
	if stored && s.exporter.source == nil {
		return contracts.Reject(contracts.AttachmentsUnreadable, "this worker has no store to fetch attachments from")
	}
	s.sources = sources{client: s.exporter.source, patience: cfg.Patience, silence: cfg.Silence}
	return nil
}

// some says something of a number of attachments, and names the first of them.
func some(ids []string, what string) string {
	quoted := make([]string, min(named, len(ids)))
	for i := range quoted {
		quoted[i] = fmt.Sprintf("%.80q", ids[i])
	}
	more := ""
	if len(ids) > named {
		more = ", ..."
	}
	return fmt.Sprintf("%d attachments %s: %s%s", len(ids), what, strings.Join(quoted, ", "), more)
}

// Attachments asks the store for the size of every file, and returns those that are there. A file that is not,
// or is no longer the one that the database knows, is a gap; the tenant's record says whether that is allowed.
// Files are fetched ahead of the member that is being written, at most [Config].Window bytes of each.
func (s *Snapshot) Attachments(ctx context.Context) (_ contracts.Archive, err error) {
	ctx, span := tracer.Start(ctx, "plan attachments")
	defer func() { endSpan(span, err) }()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.ctx, func() { cancel(context.Cause(s.ctx)) })()

	if !s.planned {
		if err := s.listFiles(ctx); err != nil {
			return contracts.Archive{}, fmt.Errorf("plan attachments: %w", err)
		}
	}
	group, heads := errgroup.WithContext(ctx)
	group.SetLimit(s.exporter.cfg.Attachments.Fetch)
	for i := range s.files {
		if f := &s.files[i]; f.stored() && !f.known && !s.planned && heads.Err() == nil {
			group.Go(func() error { return s.sources.plan(heads, f) })
		}
	}
	if err := group.Wait(); err != nil {
		return contracts.Archive{}, err
	}
	if cause := context.Cause(ctx); cause != nil {
		return contracts.Archive{}, fmt.Errorf("plan attachments: %w", cause)
	}
	s.planned = true

	archive := contracts.Archive{Kind: contracts.Attachments, Bytes: tarEnd, Members: s.fetched}
	var gaps []string
	planned := 0
	for i := range s.files {
		f := &s.files[i]
		switch {
		case f.gap != "":
			gaps = append(gaps, f.id())
		case f.stored():
			planned++
			archive.Bytes += tarBytes(f.path(), f.size)
		}
	}
	span.SetAttributes(attribute.Int("snapfleet.attachments", planned), attribute.Int("snapfleet.gaps", len(gaps)),
		attribute.Int64("snapfleet.bytes", archive.Bytes))
	if len(gaps) > 0 && s.failOnGaps() {
		return archive, contracts.Reject(contracts.AttachmentsMissing, "%s", some(gaps, "have no file any more"))
	}
	return archive, nil
}

func (s *Snapshot) failOnGaps() bool { return s.attempt.Tenant.Limits.Gaps == contracts.FailOnGaps }

// fetched yields the files in order. One that turns out to be gone only now becomes a gap, too, also when an
// earlier worker has delivered its beginning: then the archive does not go on as it was begun, and who writes
// it sees that.
func (s *Snapshot) fetched(yield func(contracts.Member, error) bool) {
	files := s.pending()
	pieces := lookAhead(s.ctx, s.exporter.cfg.Attachments.Fetch, s.exporter.cfg.Window, files,
		func(ctx context.Context, _ int, f fetch, w io.Writer) (struct{}, error) {
			return struct{}{}, s.sources.fetch(ctx, f, w)
		})
	defer pieces.stop(errClosed)
	s.sessions.Lock()
	s.running = append(s.running, pieces)
	s.sessions.Unlock()

	for _, f := range files {
		piece, err := pieces.next(s.ctx)
		if err == nil {
			err = piece.wait(s.ctx)
		}
		if gap, ok := errors.AsType[gapError](err); ok {
			f.gap = string(gap)
			s.late.add(f.file)
			if !s.failOnGaps() {
				continue
			}
			err = contracts.Reject(contracts.AttachmentsMissing, "%s", some([]string{f.id()}, "have no file any more"))
		}
		if err != nil {
			yield(contracts.Member{}, fmt.Errorf("fetch attachment %.80q: %w", f.id(), err))
			return
		}
		write := func(ctx context.Context, w io.Writer, _ int64) (contracts.Piece, error) {
			if _, err := piece.writeTo(ctx, w); err != nil {
				return contracts.Piece{}, fmt.Errorf("fetch attachment %.80q: %w", f.id(), err)
			}
			return contracts.Piece{}, nil
		}
		m := contracts.Member{
			Name: f.path(), Of: f.id(), Size: f.size, Offset: f.offset, ModTime: time.Unix(f.modified, 0).UTC(), Write: write,
		}
		if !yield(m, nil) {
			return
		}
	}
}

// A tar is made of blocks, and ends in two that are empty.
const (
	tarBlock = 512
	tarEnd   = 2 * tarBlock
)

// tarBytes is the room that a file takes in a PAX tar: a header, the content, and where the path or the size does
// not fit a plain header, a header and a block of records for them.
func tarBytes(path string, size int64) int64 {
	blocks := func(n int64) int64 { return (n + tarBlock - 1) / tarBlock * tarBlock }
	n := tarBlock + blocks(size)
	const record = 40 // more than its length, its keyword, and a size take
	if plain := len(path) <= 100 && size < 8<<30 && !strings.ContainsFunc(path, func(r rune) bool { return r >= utf8.RuneSelf }); !plain {
		n += tarBlock + blocks(int64(len(path))+record)
	}
	return n
}
