package exporter

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/snapfleet/snapfleet/contracts"
)

// table is one file of the snapshot: a table, or a partitioned one with all its leaves.
type table struct {
	contracts.Table
	file   string
	chunks []chunk

	// How its rows are written.
	fields []field
	after  string // ends a row
	null   string // stands for NULL
	json   bool
}

// chunk is what one COPY reads: a range of pages of one relation.
type chunk struct {
	table *table
	oid   uint32
	from  string // the relation, quoted
	// Pages first to last-1. A last of 0 means all from first on: the pages that a table grows by while it
	// is read hold nothing of our instant, but nobody has to believe that.
	first, last int64
	// plain: the relation is copied as it stands, without a query, which would have to be planned.
	plain bool
	way   way
}

// sql copies the chunk, and looks in the same round trip whether the name still means the relation: a table's lock
// does not keep its schema from being renamed, and another from taking the name.
func (c chunk) sql() string {
	return c.copySQL() + "; SELECT coalesce(to_regclass('" + strings.ReplaceAll(c.from, "'", "''") + "')::oid = " + fmt.Sprint(c.oid) + ", false)"
}

func (c chunk) copySQL() string {
	format := "csv"
	if c.way == inBinary || c.way == inJSON {
		format = "binary"
	}
	if !c.plain {
		return fmt.Sprintf("COPY (%s) TO STDOUT (FORMAT %s)", c.query(), format)
	}
	names := ""
	if len(c.table.fields) > 0 {
		names = " (" + selected(c.table.fields, func(f field) string { return f.name }) + ")"
	}
	return fmt.Sprintf("COPY %s%s TO STDOUT (FORMAT %s)", c.from, names, format)
}

// query reads the chunk's rows. Columns are named because COPY leaves out generated ones, and ONLY keeps the rows of
// inheriting tables in their own files.
func (c chunk) query() string {
	what := func(f field) string { return f.name }
	switch c.way {
	case inBinary:
		what = func(f field) string { return f.expr }
	case inJSON:
		what = func(f field) string { return f.document }
	case fromText:
		what = func(f field) string { return f.text }
	}
	var where string
	switch {
	case c.last > 0:
		where = fmt.Sprintf(" WHERE ctid >= '(%d,0)' AND ctid < '(%d,0)'", c.first, c.last)
	case c.first > 0:
		where = fmt.Sprintf(" WHERE ctid >= '(%d,0)'", c.first)
	}
	query := fmt.Sprintf("SELECT %s FROM ONLY %s%s", selected(c.table.fields, what), c.from, where)
	if c.way == inJSON {
		return `SELECT pg_catalog.row_to_json("a row".*) FROM (` + query + `) AS "a row"`
	}
	return query
}

// sink is where the chunk's rows go on their way to l.
func (c chunk) sink(l *lines) rowSink {
	switch c.way {
	case inBinary:
		return &tuples{binaryRows: binaryRows{lines: l}, table: c.table}
	case inJSON:
		return &documents{binaryRows: binaryRows{lines: l}}
	case fromText:
		return &textRows{lines: l, table: c.table}
	default:
		return verbatim{l}
	}
}

// storage is how much room a relation takes, in bytes.
type storage struct{ heap, toast int64 }

// How many bytes of .csv.gz come of a byte of heap, and of TOAST: what the estimate of the archive's size is
// made of. Measured at level 2, heap: repetitive texts 0.09, a shop's database 0.16, numbers and times 0.28,
// a test bench's steps with a hash each 0.33, random uuids 0.63. TOAST, which is compressed already: texts and
// jsonb 0.75, random bytea 1.1. The estimate decides whether an archive is split, and nothing else: one that
// is too high costs a "_part1_" in a name, one that is too low a volume beyond its soft limit.
const (
	heapRatio  = 0.35
	toastRatio = 1.0
)

func (s storage) compressed() int64 {
	return int64(float64(s.heap)*heapRatio + float64(s.toast)*toastRatio)
}

// ranges is how chunks are cut.
type ranges struct {
	pageBytes  int64
	chunkBytes int64 // 0: not at all
}

// plan turns the catalog into files, sorted by the tables' names, and every file into chunks.
func (c *catalog) plan(sizes map[uint32]storage, cut ranges, format contracts.Format) (tables []*table, bytes int64) {
	byOID := make(map[uint32]*relation, len(c.relations))
	for _, r := range c.relations {
		byOID[r.oid] = r
	}
	leafOf := make(map[uint32]bool) // partitions of a root of ours
	children := make(map[uint32][]*relation)
	parents := make(map[uint32][]string)
	for _, e := range c.kept() {
		child := byOID[e.child]
		if child == nil || !child.isTable() {
			continue
		}
		if e.partition {
			leafOf[e.child] = true
			children[e.parent] = append(children[e.parent], child)
		} else {
			parents[e.child] = append(parents[e.child], byOID[e.parent].name)
		}
	}
	var leaves func(r *relation) []*relation
	leaves = func(r *relation) (all []*relation) {
		if r.kind == "r" {
			return []*relation{r}
		}
		for _, child := range children[r.oid] {
			all = append(all, leaves(child)...)
		}
		slices.SortFunc(all, func(a, b *relation) int { return cmp.Compare(a.name, b.name) })
		return all
	}
	for _, r := range c.tables() {
		if leafOf[r.oid] {
			continue
		}
		all := leaves(r)
		plain := slices.ContainsFunc(all, (*relation).plain)
		t := &table{Table: contracts.Table{Name: r.name, Columns: []contracts.Column{}, Parents: parents[r.oid]}}
		var columns []column
		for _, col := range r.columns {
			if !plain || !col.Generated { // a plain COPY has none of those
				t.Columns, columns = append(t.Columns, col.Column), append(columns, col)
			}
		}
		t.fields, t.after = fieldsOf(columns, format)
		if format == contracts.JSONL {
			t.null, t.json = "null", true
		}
		if r.kind == "p" {
			t.Partitions = len(all)
		}
		for _, leaf := range all {
			whole := chunk{table: t, oid: leaf.oid, from: leaf.quoted(c.schema), plain: leaf.plain(), way: wayOf(format, t.fields, leaf, sizes[leaf.oid].toast)}
			t.chunks = append(t.chunks, cut.chunks(whole, leaf, sizes[leaf.oid])...)
			bytes += sizes[leaf.oid].compressed()
		}
		tables = append(tables, t)
	}
	names := make([]string, len(tables))
	for i, t := range tables {
		names[i] = t.Name
	}
	for i, file := range contracts.TableFiles(names, format) {
		tables[i].file = file
	}
	return tables, bytes
}

// chunks cuts a relation. TOAST is counted with the pages that refer to it, as if evenly.
func (cut ranges) chunks(whole chunk, r *relation, size storage) []chunk {
	pages := size.heap / cut.pageBytes
	if cut.chunkBytes <= 0 || !r.heap || r.plain() || pages == 0 {
		return []chunk{whole}
	}
	perPage := float64(size.heap+size.toast) / float64(pages)
	step := max(1, int64(float64(cut.chunkBytes)/perPage))
	var chunks []chunk
	for first := int64(0); first < pages; first += step {
		c := whole
		c.first, c.last = first, first+step
		chunks = append(chunks, c)
	}
	chunks[len(chunks)-1].last = 0
	return chunks
}

// copied is what a chunk turned out to hold.
type copied struct {
	sum
	rows      int64
	deflated  int64         // bytes that are left of it
	deflating time.Duration // with the time in which nobody took what was deflated
}

// reader copies chunks over one connection. It is not safe for concurrent use.
type reader struct {
	conn    *pgx.Conn
	deflate *deflater
	lines   lines
	standby bool
}

// copy writes the chunk to w as deflate blocks that end on a byte.
func (r *reader) copy(ctx context.Context, c chunk, w io.Writer) (done copied, err error) {
	r.deflate.reset(w)
	r.lines = lines{w: r.deflate, out: r.lines.out[:0]}
	if c.table.json {
		r.lines.json = c.table.Name
	}
	tag, same, err := r.receive(ctx, c)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return done, cause // another table's failure, or the end of the job: not of this table
		}
		silent := sqlstate(err) == ""
		err = inEncoding(r.conn, failed(ctx, err, "copy table %q", c.table.Name))
		if r.standby && silent { // who is ended while it waits for us to read cannot say why
			err = fmt.Errorf("%w: perhaps %s", err, standbyRemedy)
		}
		return done, err
	}
	if err := r.lines.end(); err != nil {
		return done, inEncoding(r.conn, err)
	}
	if done.rows = tag.RowsAffected(); done.rows != r.lines.rows {
		return done, fmt.Errorf("copy table %q: the server says that it sent %d rows, and %d came", c.table.Name, done.rows, r.lines.rows)
	}
	if !same {
		return done, fmt.Errorf("copy table %q: its schema was renamed meanwhile", c.table.Name)
	}
	done.sum, err = r.deflate.end()
	done.deflated, done.deflating = r.deflate.w.n, r.deflate.took
	return done, err
}

// receive runs the chunk's COPY, whose rows the connection's wire puts into r.lines, and says whether it was of the
// right relation.
func (r *reader) receive(ctx context.Context, c chunk) (tag pgconn.CommandTag, same bool, err error) {
	wire := wireOf(r.conn)
	wire.to = c.sink(&r.lines)
	defer func() { wire.to = nil }()
	results, err := r.conn.PgConn().Exec(ctx, c.sql()).ReadAll()
	switch {
	case wire.err != nil:
		return tag, false, wire.err
	case err != nil:
		return tag, false, err
	case len(results) != 2 || len(results[1].Rows) != 1:
		return tag, false, fmt.Errorf("%d results of a COPY and a question", len(results))
	}
	return results[0].CommandTag, string(results[1].Rows[0][0]) == "t", nil
}

// header is the first row of a file: the columns' names, quoted as PostgreSQL's COPY quotes them.
func header(columns []contracts.Column) []byte {
	var b []byte
	for i, c := range columns {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendCSV(b, c.Name, len(columns) == 1)
	}
	return append(b, '\n')
}

// appendCSV appends one field. alone: it is the only one of its row, where \. would end the data.
func appendCSV(b []byte, s string, alone bool) []byte {
	if s != "" && !strings.ContainsAny(s, ",\"\r\n") && !(alone && s == `\.`) {
		return append(b, s...)
	}
	b = append(b, '"')
	b = append(b, strings.ReplaceAll(s, `"`, `""`)...)
	return append(b, '"')
}
