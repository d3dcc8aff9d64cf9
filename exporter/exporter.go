package exporter

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"github.com/snapfleet/snapfleet/contracts"
)

var tracer = otel.Tracer("github.com/snapfleet/snapfleet/exporter")

// Exporter opens snapshots of the schemas of one database. It is safe for concurrent use, and holds nothing
// open itself.
type Exporter struct {
	db     *pgx.ConnConfig
	source *s3.Client
	cfg    Config
}

// New makes an exporter. db must come from [pgx.ParseConfig]. source is asked for attachments, with its own
// credentials and never with a customer's; without one, a tenant that has stored attachments is rejected.
func New(db *pgx.ConnConfig, source *s3.Client, cfg Config) *Exporter {
	return &Exporter{db: db.Copy(), source: source, cfg: cfg.withDefaults()}
}

// openTries is how often Open looks at a schema whose tables are altered under its eyes.
const openTries = 5

// Open takes a snapshot of the attempt's tenant: it ends what older attempts of the job left in the database,
// locks every table, takes the instant, and reads the list of attachments. It refuses, with a rejection that
// names all of them, what could not be read whole. An error with a method Busy() bool that says true means that
// the database has no room for one more session now. ctx is the life of the snapshot, not only of the call;
// whoever opens a snapshot also closes it.
func (e *Exporter) Open(ctx context.Context, a contracts.Attempt) (_ *Snapshot, err error) {
	_, span := tracer.Start(ctx, "open snapshot", trace.WithAttributes(
		attribute.String("db.system.name", "postgresql"), attribute.String("db.namespace", a.Tenant.Schema)))
	defer func() { endSpan(span, err) }()

	for try := 1; ; try++ {
		s := &Snapshot{exporter: e, attempt: a}
		s.ctx, s.cancel = context.WithCancelCause(ctx)
		if err = s.open(); err == nil {
			span.SetAttributes(attribute.Int("snapfleet.tables", len(s.tables)), attribute.Int("snapfleet.attachments", len(s.files)),
				attribute.Int("snapfleet.connections", len(s.siblings)), attribute.Int("snapfleet.tries", try))
			return s, nil
		}
		s.Close()
		if !errors.Is(err, errMoved) || try == openTries {
			return nil, fmt.Errorf("open a snapshot of %s: %w", a.Tenant.Name, err)
		}
	}
}

func endSpan(span trace.Span, err error) {
	if err != nil {
		span.RecordError(err)
		span.SetStatus(codes.Error, "")
	}
	span.End()
}

// open is one try. What it leaves behind when it fails is closed by the caller.
func (s *Snapshot) open() (err error) {
	e, ctx := s.exporter, s.ctx
	if s.holder, err = e.connect(ctx, sessionName(s.attempt)); err != nil {
		return err
	}
	if err := e.evict(ctx, s.holder, s.attempt); err != nil {
		return err
	}
	if s.attempt.Request.Wants(contracts.Tables) {
		return s.openTables()
	}
	if _, err := s.begin(nil); err != nil {
		return err
	}
	c, err := listCatalog(ctx, s.holder, s.attempt.Tenant.Schema)
	if err != nil {
		return err
	}
	if err := c.checkQuery(s.exporter.cfg.Attachments.Query); err != nil {
		return err
	}
	if err := s.readAttachments(); err != nil {
		return err
	}
	return s.Release(ctx)
}

// openTables takes the instant and everything that depends on it.
func (s *Snapshot) openTables() error {
	ctx := s.ctx

	// The tables have to be known to be locked, but whoever looks at a catalog has taken their snapshot. So
	// look in a transaction of its own, lock, take the snapshot, and look again.
	before, err := s.look()
	if err != nil {
		return err
	}
	id, err := s.begin(before)
	if err != nil {
		return err
	}
	after, err := listCatalog(ctx, s.holder, s.attempt.Tenant.Schema)
	if err != nil {
		return err
	}
	if !before.equal(after) {
		return errMoved
	}
	// From here on the tables can be neither truncated nor rewritten, dropped or renamed, and everything that
	// is read within this snapshot is of one instant.

	sizes, cut, capacity, err := s.measure(after)
	if err != nil {
		return err
	}
	s.tables, s.estimate = after.plan(sizes, cut, s.attempt.Format())
	if err := checkJSON(s.tables); err != nil {
		return err
	}
	s.excluded = after.excluded()
	if s.attempt.Request.Wants(contracts.Attachments) {
		if err := after.checkQuery(s.exporter.cfg.Attachments.Query); err != nil {
			return err
		}
		if err := s.readAttachments(); err != nil {
			return err
		}
	}
	if err := s.openSiblings(id, after, capacity); err != nil {
		return err
	}
	if len(s.siblings) > 0 {
		s.startWatch()
	}
	return nil
}

// look lists and checks the schema in a transaction that is over when it returns.
func (s *Snapshot) look() (*catalog, error) {
	ctx := s.ctx
	if err := exec(ctx, s.holder, begin+s.exporter.settings()); err != nil {
		return nil, failed(ctx, err, "begin to look at the tables")
	}
	if err := s.exporter.takeSlot(ctx, s.holder); err != nil {
		return nil, err // before anything is locked for nothing
	}
	c, err := listCatalog(ctx, s.holder, s.attempt.Tenant.Schema)
	if err != nil {
		return nil, err
	}
	var standby bool
	if err := s.holder.QueryRow(ctx, "SELECT pg_is_in_recovery()").Scan(&standby); err != nil {
		return nil, failed(ctx, err, "ask whether the server is a standby")
	}
	if err := exec(ctx, s.holder, "COMMIT"); err != nil {
		return nil, failed(ctx, err, "look at the tables")
	}
	return c, c.check(standby)
}

// begin begins the transaction of the snapshot, locks the tables of c if there is one, takes the instant and
// exports it. Nothing in it may look at a table or a catalog before the locks are held.
func (s *Snapshot) begin(c *catalog) (id string, err error) {
	ctx := s.ctx
	if err := exec(ctx, s.holder, begin+s.exporter.settings()); err != nil {
		return "", failed(ctx, err, "begin the snapshot")
	}
	if c != nil {
		if err := lockTables(ctx, s.holder, c.schema, c.tables(), ""); err != nil {
			return "", lockFailed(ctx, err)
		}
	}
	err = s.holder.QueryRow(ctx, `SELECT pg_export_snapshot(), clock_timestamp(), current_setting('server_version'), `+instantColumns).
		Scan(append([]any{&id, &s.taken.At, &s.taken.ServerVersion}, s.instant.fields()...)...)
	if err != nil {
		return "", failed(ctx, err, "export the snapshot")
	}
	s.taken.At, s.taken.XID, s.taken.Standby = s.taken.At.UTC(), s.instant.XID, s.instant.Standby
	return id, s.exporter.takeSlot(ctx, s.holder) // not before the instant: it is a query, which would take it
}

// lockFailed tells apart why a table could not be locked.
func lockFailed(ctx context.Context, err error) error {
	switch sqlstate(err) {
	case undefinedTable, undefinedSchema, deadlockDetected, insufficientPrivilege:
		return fmt.Errorf("%w (SQLSTATE %s)", errMoved, sqlstate(err)) // looking again tells what it is now
	case outOfMemory:
		return &contracts.Rejection{Code: contracts.TooManyTables, Err: failed(ctx, err, "lock the tables")}
	}
	return failed(ctx, err, "lock the tables")
}

// lockCapacity is how many locks the server's shared table has room for, by its settings.
const lockCapacity = `current_setting('max_locks_per_transaction')::int8 *
	(current_setting('max_connections')::int8 + current_setting('max_prepared_transactions')::int8)`

// measure asks for what planning needs beyond the catalog.
func (s *Snapshot) measure(c *catalog) (sizes map[uint32]storage, cut ranges, lockRoom int64, err error) {
	var version int
	err = s.holder.QueryRow(s.ctx, `SELECT current_setting('block_size')::int8, current_setting('server_version_num')::int4, `+lockCapacity).
		Scan(&cut.pageBytes, &version, &lockRoom)
	if err != nil {
		return nil, cut, 0, failed(s.ctx, err, "ask for the server's settings")
	}
	if version >= 14_00_00 { // since then a range of ctids is not a scan of the whole table
		cut.chunkBytes = s.exporter.cfg.ChunkBytes
	}
	rows, err := s.holder.Query(s.ctx, `
		SELECT oid, coalesce(pg_relation_size(oid), 0), coalesce(pg_relation_size(nullif(reltoastrelid, 0)), 0)
		FROM pg_class WHERE relnamespace = $1 AND relkind = 'r'`, c.schemaOID)
	if err != nil {
		return nil, cut, 0, failed(s.ctx, err, "measure the tables")
	}
	sizes = make(map[uint32]storage)
	var oid uint32
	var size storage
	_, err = pgx.ForEachRow(rows, []any{&oid, &size.heap, &size.toast}, func() error { sizes[oid] = size; return nil })
	return sizes, cut, lockRoom, failed(s.ctx, err, "measure the tables")
}

// openSiblings opens the connections that read, as many as the database has room for. Each locks every table at once, although the holder has: a
// lock that is asked for later would queue behind somebody who waits to alter the table, who waits for us.
func (s *Snapshot) openSiblings(id string, c *catalog, lockRoom int64) error {
	if !regexp.MustCompile(`^[0-9A-Fa-f-]+$`).MatchString(id) {
		return errors.New("the server calls its snapshot by a strange name")
	}
	tables := c.tables()
	wanted := int64(s.exporter.cfg.Connections)
	if fit := lockRoom*3/2/int64(len(tables)) - 1; fit < wanted { // there is room for two holders of each lock
		wanted = max(1, fit)
	}
	siblings := make([]*pgx.Conn, wanted)
	group, ctx := errgroup.WithContext(s.ctx)
	for i := range siblings {
		group.Go(func() (err error) {
			siblings[i], err = s.openSibling(ctx, id, c.schema, tables)
			if isBusy(err) {
				if siblings[i] != nil {
					disconnect(siblings[i])
				}
				siblings[i], err = nil, nil
			}
			return err
		})
	}
	err := group.Wait()
	s.siblings = slices.DeleteFunc(siblings, func(conn *pgx.Conn) bool { return conn == nil })
	return err
}

func (s *Snapshot) openSibling(ctx context.Context, id, schema string, tables []*relation) (*pgx.Conn, error) {
	conn, err := s.exporter.connect(ctx, sessionName(s.attempt))
	if err != nil {
		return nil, err
	}
	if err := exec(ctx, conn, begin+"SET TRANSACTION SNAPSHOT '"+id+"'; "+s.exporter.settings()); err != nil {
		return conn, failed(ctx, err, "join the snapshot")
	}
	var here instant
	if err := conn.QueryRow(ctx, "SELECT "+instantColumns).Scan(here.fields()...); err != nil {
		return conn, failed(ctx, err, "join the snapshot")
	}
	if !here.equal(s.instant) {
		return conn, errors.New("join the snapshot: a connection to the same address led to another server")
	}
	if err := s.exporter.takeSlot(ctx, conn); err != nil {
		return conn, err
	}
	if err := lockTables(ctx, conn, schema, tables, " NOWAIT"); err != nil {
		if sqlstate(err) == lockNotAvailable {
			return conn, fmt.Errorf("%w: somebody waits to alter one", errMoved)
		}
		return conn, lockFailed(ctx, err)
	}
	return conn, nil
}
