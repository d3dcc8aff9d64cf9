package exporter

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"github.com/snapfleet/snapfleet/contracts"
)

// Exporter opens snapshots of the schemas of some databases. It is safe for concurrent use, and holds nothing
// open itself.
type Exporter struct {
	databases map[string]Database
	source    *s3.Client
	cfg       Config

	looked func(err error) // for tests: called after each look that ended in an error
}

// New makes an exporter. db is the default database, unless the configuration has one of that name, and must come
// from [pgx.ParseConfig]. source is asked for attachments, with its own
// credentials and never with a customer's; without one, a tenant that has stored attachments is rejected.
func New(db *pgx.ConnConfig, source *s3.Client, cfg Config) *Exporter {
	cfg = cfg.withDefaults()
	return &Exporter{databases: withDefault(cfg.Databases, db, cfg.FleetConnections), source: source, cfg: cfg}
}

// openTries is how often Open looks, at the least, at a schema whose tables are altered under its eyes. It goes on for as
// long as it would wait for a lock.
const openTries = 5

// Open takes a snapshot of the attempt's tenant: it ends what older attempts of the job left in the database,
// locks every table, takes the instant, and reads the list of attachments. It refuses, with a rejection that
// names all of them, what could not be read whole. An error with a method Busy() bool that says true means that
// the database has no room for one more session now, or that this worker does not know it; one with RecoveryConflict()
// bool that a standby could not be read in peace, here or in whatever is read of the snapshot later. ctx is the life of the snapshot, not only of the call;
// whoever opens a snapshot also closes it.
func (e *Exporter) Open(ctx context.Context, a contracts.Attempt) (_ *Snapshot, err error) {
	outer := trace.SpanFromContext(ctx)
	ctx, span := tracer.Start(ctx, "open snapshot", trace.WithAttributes(ofDatabase(a)...))
	defer func() { endSpan(span, err) }()

	s, err := e.openSomewhere(ctx, a)
	if err != nil {
		return nil, fmt.Errorf("open a snapshot of %s: %w", a.Tenant.Name, err)
	}
	span.SetAttributes(attribute.Int("snapfleet.tables", len(s.tables)), attribute.Int("snapfleet.attachments", len(s.files)),
		attribute.Int("snapfleet.connections", len(s.siblings)), attribute.Int("snapfleet.tries", s.tries))
	s.ctx = trace.ContextWithSpan(s.ctx, outer) // what is read of it later is no part of this
	return s, nil
}

// openOn opens a snapshot on one server.
func (e *Exporter) openOn(ctx context.Context, a contracts.Attempt, on *server) (*Snapshot, error) {
	began := time.Now()
	var before error          // the last refusal
	var known map[uint32]bool // what the last look saw
	for try := 1; ; try++ {
		s := &Snapshot{exporter: e, server: on, attempt: a, tries: try, known: known, seen: map[uint32]bool{}}
		s.ctx, s.cancel = context.WithCancelCause(ctx)
		err := s.open()
		if err == nil {
			return s, nil
		}
		err = s.asConflict(s.ctx, err, standbyConflicts)
		s.Close()
		if len(s.seen) > 0 {
			known = s.seen
		}
		if e.looked != nil {
			e.looked(err)
		}
		pause := min(time.Duration(try-1)*5*time.Millisecond, 100*time.Millisecond)
		if provisional(err) && !on.replica {
			if confirms(before, err) {
				return nil, err
			}
			before, pause = err, e.cfg.SecondLook
		} else if !errors.Is(err, errMoved) {
			return nil, err
		}
		if try >= openTries && time.Since(began) > e.cfg.LockTimeout {
			return nil, fmt.Errorf("%w: the last look said: %s", errMoved, err.Error()) // its text alone: it is no rejection any more
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// provisional reports whether err is a rejection of what the database was at one moment: another session may just be granting
// a right, moving a partition or restoring a schema. Such a one is final when a later look, with a snapshot of its own, says
// the same. A refused login is looked at elsewhere.
func provisional(err error) bool {
	r, rejected := contracts.AsRejection(err)
	return rejected && r.Code != contracts.DatabaseDenied && r.Code != contracts.InvalidTenant
}

// confirms reports whether the rejection err says what the one before it said: the same code, of at least one relation
// that both name.
func confirms(before, err error) bool {
	first, ok := contracts.AsRejection(before)
	second, _ := contracts.AsRejection(err)
	if !ok || first.Code != second.Code {
		return false
	}
	a, _ := errors.AsType[refused](before)
	b, _ := errors.AsType[refused](err)
	return len(a.names) == 0 || slices.ContainsFunc(a.names, func(name string) bool { return slices.Contains(b.names, name) })
}

// open is one try. What it leaves behind when it fails is closed by the caller.
func (s *Snapshot) open() (err error) {
	ctx := s.ctx
	span := s.ask("connect")
	s.holder, err = s.server.connect(ctx, sessionName(s.attempt))
	endSpan(span, err)
	if err != nil {
		return err
	}
	if s.attempt.Request.Wants(contracts.Tables) {
		return s.openTables()
	}
	if err := s.beginLook(); err != nil {
		return err
	}
	if err := evict(ctx, s.holder, s.attempt); err != nil {
		return err
	}
	if err := exec(ctx, s.holder, "COMMIT"); err != nil {
		return failed(ctx, err, "look for older sessions of the job")
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
	if err := s.readAttachments(c); err != nil {
		return err
	}
	return s.Release(ctx)
}

// openTables takes the instant and everything that depends on it.
func (s *Snapshot) openTables() error {
	// The tables have to be known to be locked, but whoever looks at a catalog has taken their snapshot. So
	// look in a transaction of its own, lock, take the snapshot, and look again.
	before, err := s.look()
	if err != nil {
		return err
	}
	server, err := s.begin(before)
	if err != nil {
		return err
	}
	after, err := s.list()
	if err != nil {
		return err
	}
	if !before.equal(after) {
		return errMoved // a table that is not locked, or one that is not what it was
	}
	// From here on the tables can be neither truncated nor rewritten, dropped or renamed, and everything that
	// is read within this snapshot is of one instant.

	if err := s.probe(after); err != nil {
		return err
	}
	sizes, err := s.measure(after)
	if err != nil {
		return err
	}
	s.tables, s.estimate = after.plan(sizes, server.cut, s.attempt.Format())
	if s.attempt.Format() == contracts.JSONL {
		if err := checkJSON(s.tables); err != nil {
			return err
		}
	}
	s.excluded = after.excluded()
	s.filter.ExcludeTables, s.filter.Tables, s.filter.Unmatched = s.attempt.Tenant.Filter.ExcludeTables, after.leftOut, after.unmatched
	if n := len(after.leftOut); n > leftOutNames {
		s.filter.Tables, s.filter.TablesTotal = after.leftOut[:leftOutNames], n
	}
	if s.attempt.Request.Wants(contracts.Attachments) {
		if err := after.checkQuery(s.exporter.cfg.Attachments.Query); err != nil {
			return err
		}
		if err := s.readAttachments(after); err != nil {
			return err
		}
	} else if err := s.checkManifest(); err != nil {
		return err
	}
	if err := s.openSiblings(server, after, s.worthwhile(sizes)); err != nil {
		return err
	}
	if len(s.siblings) > 0 {
		s.startWatch()
	}
	return nil
}

// list reads the catalog, and marks what the tenant leaves out.
func (s *Snapshot) list() (*catalog, error) {
	c, err := listCatalog(s.ctx, s.holder, s.attempt.Tenant.Schema)
	if err != nil {
		return nil, err
	}
	query := ""
	if s.attempt.Request.Wants(contracts.Attachments) {
		query = s.exporter.cfg.Attachments.Query
	}
	c.leaveOut(s.attempt.Tenant.Filter, query)
	return c, nil
}

// holderWait is how long the first transaction may take to begin. A pooler keeps a session waiting that long when all
// of its connections to the server are in use.
const holderWait = time.Minute

// beginLook begins the first transaction, and learns which of the optional settings the server takes.
func (s *Snapshot) beginLook() (err error) {
	ctx, cancel := context.WithTimeout(s.ctx, holderWait)
	defer cancel()
	err = beginWith(ctx, s.holder, s.exporter.settings(), func(before string) error { return exec(ctx, s.holder, before) })
	if err != nil {
		return noAnswer(s.ctx, ctx, failed(ctx, err, "begin to look at the database"))
	}
	s.optional, err = trySettings(s.ctx, s.holder, optionalSettings)
	return err
}

// settings are those of each transaction, with the optional ones that the server takes.
func (s *Snapshot) settings() string { return s.exporter.settings() + s.optional }

// look ends what older attempts have left, and lists and checks the schema, in a transaction that is over when it
// returns.
func (s *Snapshot) look() (_ *catalog, err error) {
	ctx, span := s.ctx, s.ask("look at tables")
	defer func() { endSpan(span, err) }()
	if err := s.beginLook(); err != nil {
		return nil, err
	}
	if err := evict(ctx, s.holder, s.attempt); err != nil {
		return nil, err
	}
	if err := s.server.takeSlot(ctx, s.holder); err != nil {
		return nil, err // before anything is locked for nothing
	}
	c, err := s.list()
	if err != nil {
		return nil, err
	}
	c.leave(func(r *relation) bool { return r.gone })
	results, err := s.holder.PgConn().Exec(ctx, "SELECT pg_is_in_recovery(); COMMIT").ReadAll()
	if err != nil {
		return nil, failed(ctx, err, "look at the tables")
	}
	if err := c.check(string(results[0].Rows[0][0]) == "t"); err != nil {
		return nil, err
	}
	for _, r := range c.relations {
		s.seen[r.oid] = true
	}
	if s.known != nil {
		c.leave(func(r *relation) bool { return !s.known[r.oid] })
	}
	return c, nil
}

// origin is what the server says of itself and of the instant that was taken.
type origin struct {
	snapshot string // by which others join
	cut      ranges
	locks    int64 // that its shared table has room for, by its settings
}

// lockCapacity is how many locks the server's shared table has room for.
const lockCapacity = `current_setting('max_locks_per_transaction')::int8 *
	(current_setting('max_connections')::int8 + current_setting('max_prepared_transactions')::int8)`

// begin begins the transaction of the snapshot, locks the tables of c if there is one, takes the instant and
// exports it. Nothing in it may look at a table or a catalog before the locks are held.
func (s *Snapshot) begin(c *catalog) (o origin, err error) {
	ctx := s.ctx
	err = beginWith(ctx, s.holder, s.settings(), func(before string) error {
		if c == nil {
			return failed(ctx, exec(ctx, s.holder, before), "begin the snapshot")
		}
		return s.lock(c, before)
	})
	if err != nil {
		return o, err
	}
	span := s.ask("take snapshot")
	defer func() { endSpan(span, err) }()
	var version int
	var slot *int32 // not before the instant: to ask for it is a query, which would take it
	err = s.holder.QueryRow(ctx, `SELECT pg_export_snapshot(), clock_timestamp(), current_setting('server_version'), current_setting('server_version_num')::int4,
		current_setting('block_size')::int8, `+lockCapacity+`, `+s.server.slotColumn()+`, `+instantColumns).
		Scan(append([]any{&o.snapshot, &s.taken.At, &s.taken.ServerVersion, &version, &o.cut.pageBytes, &o.locks, &slot}, s.instant.fields()...)...)
	if err != nil {
		return o, failed(ctx, err, "export the snapshot")
	}
	if version >= 14_00_00 { // since then a range of ctids is not a scan of the whole table
		o.cut.chunkBytes = s.exporter.cfg.ChunkBytes
	}
	s.taken.At, s.taken.XID, s.taken.Standby = s.taken.At.UTC(), s.instant.XID, s.instant.Standby
	return o, s.server.taken(ctx, s.holder, slot)
}

// lock begins the transaction of the snapshot, and locks the tables of c.
func (s *Snapshot) lock(c *catalog, start string) (err error) {
	span := s.ask("lock tables")
	defer func() { endSpan(span, err) }()
	if err := lockTables(s.ctx, s.holder, start+"; ", c.schema, c.locked(), ""); err != nil {
		return lockFailed(s.ctx, err)
	}
	return nil
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

// probe plans a query of each table that has a compiled function of an extension's in an index or statistics. Such a
// function may fail under our search_path, or in this session. Then the table is copied plain.
func (s *Snapshot) probe(c *catalog) error {
	for _, r := range c.tables() {
		if r.kind != "r" || !r.compiled || r.plain() {
			continue
		}
		err := exec(s.ctx, s.holder, "SAVEPOINT plan; EXPLAIN SELECT FROM ONLY "+r.quoted(c.schema))
		if r.code = sqlstate(err) != ""; err != nil && !r.code {
			return failed(s.ctx, err, "plan a query of table %q", r.name)
		}
		if err := exec(s.ctx, s.holder, "ROLLBACK TO plan; RELEASE plan"); err != nil {
			return failed(s.ctx, err, "plan a query of table %q", r.name)
		}
	}
	return nil
}

// measure asks how large the tables are. To ask that of a table is to lock it for a moment.
func (s *Snapshot) measure(c *catalog) (map[uint32]storage, error) {
	rows, err := s.holder.Query(s.ctx, `
		SELECT oid, coalesce(pg_relation_size(oid), 0), coalesce(pg_relation_size(nullif(reltoastrelid, 0)), 0)
		FROM pg_class WHERE relnamespace = $1 AND relkind = 'r' AND oid <> ALL ($2::oid[])`, c.schemaOID, slices.AppendSeq([]uint32{}, maps.Keys(c.out)))
	if err != nil {
		return nil, failed(s.ctx, err, "measure the tables")
	}
	sizes := make(map[uint32]storage)
	var oid uint32
	var size storage
	_, err = pgx.ForEachRow(rows, []any{&oid, &size.heap, &size.toast}, func() error { sizes[oid] = size; return nil })
	return sizes, failed(s.ctx, err, "measure the tables")
}

// A sibling costs the server a process, with the locks and caches of every table. It is worth that for a chunk of its
// own, and so many tables count as one, because even an empty one takes its time.
const tablesPerSibling = 128

// worthwhile is how many siblings have enough to do, none where one connection would do: the holder reads then.
func (s *Snapshot) worthwhile(sizes map[uint32]storage) int64 {
	chunk := s.exporter.cfg.ChunkBytes
	if chunk < 0 { // whole tables
		chunk = 16 << 20
	}
	work := int64(len(sizes)) * chunk / tablesPerSibling
	for _, size := range sizes {
		work += size.heap + size.toast
	}
	if work <= chunk {
		return 0
	}
	return min(int64(s.exporter.cfg.Connections), (work+chunk-1)/chunk)
}

// openSiblings opens the connections that read: as many as have enough to do, and as the database has room for. Each
// locks every table at once, although the holder has: a lock that is asked for later would queue behind somebody who
// waits to alter the table, who waits for us.
func (s *Snapshot) openSiblings(from origin, c *catalog, wanted int64) (err error) {
	if !regexp.MustCompile(`^[0-9A-Fa-f-]+$`).MatchString(from.snapshot) {
		return errors.New("the server calls its snapshot by a strange name")
	}
	if wanted == 0 {
		return nil
	}
	span := s.ask("open readers")
	defer func() { endSpan(span, err) }()
	tables := c.tables()
	if fit := from.locks*3/2/int64(len(tables)) - 1; fit < wanted { // there is room for two holders of each lock
		wanted = max(1, fit)
	}
	siblings := make([]*pgx.Conn, wanted)
	group, ctx := errgroup.WithContext(s.ctx)
	for i := range siblings {
		group.Go(func() (err error) {
			siblings[i], err = s.openSibling(ctx, from.snapshot, c.schema, tables)
			if isBusy(err) {
				if siblings[i] != nil {
					abandon(siblings[i])
				}
				siblings[i], err = nil, nil
			}
			return err
		})
	}
	err = group.Wait()
	s.siblings = slices.DeleteFunc(siblings, func(conn *pgx.Conn) bool { return conn == nil })
	return err
}

// siblingWait is how long a sibling may take to join the snapshot. A pooler with fewer connections than we want keeps it
// waiting for one that is the holder's, until the job has ended: so the job does without it.
const siblingWait = 5 * time.Second

// joinSnapshot opens a session in the snapshot.
func (s *Snapshot) joinSnapshot(parent context.Context, id string) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(parent, siblingWait)
	defer cancel()
	conn, err := s.server.connect(ctx, sessionName(s.attempt))
	if err != nil {
		return nil, noAnswer(parent, ctx, err)
	}
	err = beginWith(ctx, conn, "SET TRANSACTION SNAPSHOT '"+id+"'; "+s.settings(), func(before string) error { return exec(ctx, conn, before) })
	if err != nil {
		return conn, noAnswer(parent, ctx, failed(ctx, err, "join the snapshot"))
	}
	return conn, nil
}

func (s *Snapshot) openSibling(ctx context.Context, id, schema string, tables []*relation) (*pgx.Conn, error) {
	conn, err := s.joinSnapshot(ctx, id)
	if err != nil {
		return conn, err
	}
	var here instant
	var slot *int32
	if err := conn.QueryRow(ctx, "SELECT "+s.server.slotColumn()+", "+instantColumns).Scan(append([]any{&slot}, here.fields()...)...); err != nil {
		return conn, failed(ctx, err, "join the snapshot")
	}
	if !here.equal(s.instant) {
		return conn, errors.New("join the snapshot: a connection to the same address led to another server")
	}
	if err := s.server.taken(ctx, conn, slot); err != nil {
		return conn, err
	}
	if err := lockTables(ctx, conn, "", schema, tables, " NOWAIT"); err != nil {
		if sqlstate(err) == lockNotAvailable && s.tries >= openTries {
			return conn, busy{errors.New("another session always waits to alter a table: read with fewer connections")}
		}
		if sqlstate(err) == lockNotAvailable {
			return conn, fmt.Errorf("%w: somebody waits to alter one", errMoved)
		}
		return conn, lockFailed(ctx, err)
	}
	return conn, nil
}
