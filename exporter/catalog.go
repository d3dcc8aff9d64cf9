package exporter

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/snapfleet/snapfleet/contracts"
)

// catalog is what a schema is made of. Two of them are equal when nothing that matters to a copy was altered
// in between; sizes are not compared.
type catalog struct {
	schema    string
	schemaOID uint32
	relations []*relation     // sorted by name, as bytes
	edges     []edge          // who inherits from whom, where the parent is one of relations
	functions map[string]bool // the names of the schema's functions, aggregates and procedures

	// Set by leaveOut.
	out     map[uint32]bool // what the tenant's filter excludes
	leftOut []string        // the tables of it, sorted
	asked   map[uint32]bool // what the attachment query reads

	unmatched []string // the filter's patterns that exclude nothing
}

// relation is a row of pg_class.
type relation struct {
	oid        uint32
	name       string
	kind       string // pg_class.relkind
	persists   string // pg_class.relpersistence
	filenode   uint32 // changes whenever the table is rewritten or truncated
	heap       bool   // stored as PostgreSQL's own heap: pages and ctids mean what we think
	foreignSub bool   // is a foreign table and a partition
	gone       bool   // dropped since the snapshot that it is listed in was taken
	readable   bool
	secured    bool // row-level security would hide rows from us
	code       bool // planning a query of it may run functions that are not the server's: see listCode
	tenants    bool // and one of them is not a superuser's, or is in a partition key
	compiled   bool // planning a query of it may run compiled functions that are not the server's own: see probe
	exposed    bool // its owner may make such functions, and gains by running them: see listExposed
	columns    []column
}

// plain reports whether the relation's rows may be read in no other way than by COPY of the relation itself, which
// plans no query.
func (r *relation) plain() bool { return r.code || r.exposed }

type column struct {
	contracts.Column
	number int16
	transport
}

// edge is a row of pg_inherits.
type edge struct {
	parent, child uint32
	childSchema   string // as it stands, for people
	partition     bool
}

// quoted is the relation's name in SQL.
func (r *relation) quoted(schema string) string { return pgx.Identifier{schema, r.name}.Sanitize() }

// isTable reports whether the relation's rows, or its partitions' rows, belong into a snapshot.
func (r *relation) isTable() bool { return r.kind == "r" || r.kind == "p" }

// leave takes relations out of the catalog, and those edges that lead to them.
func (c *catalog) leave(out func(*relation) bool) {
	left := map[uint32]bool{}
	c.relations = slices.DeleteFunc(c.relations, func(r *relation) bool {
		left[r.oid] = out(r)
		return left[r.oid]
	})
	c.edges = slices.DeleteFunc(c.edges, func(e edge) bool { return left[e.parent] || left[e.child] })
}

// find is the relation of that name, or nil.
func (c *catalog) find(name string) *relation {
	for _, r := range c.relations {
		if r.name == name {
			return r
		}
	}
	return nil
}

// tables are the relations that are read.
func (c *catalog) tables() []*relation {
	var tables []*relation
	for _, r := range c.relations {
		if r.isTable() && !c.out[r.oid] {
			tables = append(tables, r)
		}
	}
	return tables
}

func (c *catalog) equal(other *catalog) bool {
	return c.schemaOID == other.schemaOID && slices.Equal(c.kept(), other.kept()) &&
		slices.EqualFunc(c.locked(), other.locked(), func(a, b *relation) bool {
			x, y := *a, *b
			x.columns, y.columns = nil, nil
			return x.same(y) && slices.EqualFunc(a.columns, b.columns, func(a, b column) bool {
				a.value, b.value = nil, nil
				return a == b
			})
		})
}

func (r relation) same(other relation) bool {
	return r.oid == other.oid && r.name == other.name && r.kind == other.kind && r.persists == other.persists &&
		r.filenode == other.filenode && r.heap == other.heap && r.readable == other.readable && r.secured == other.secured
}

// findSchema returns the schema's oid, if it is one that a tenant can have.
func findSchema(ctx context.Context, conn *pgx.Conn, schema string) (oid uint32, err error) {
	var usable *bool // NULL: the schema was dropped since the transaction's snapshot
	err = conn.QueryRow(ctx, `SELECT oid, has_schema_privilege(oid, 'USAGE') FROM pg_namespace
		WHERE nspname = $1 AND nspname !~ '^pg_' AND nspname <> 'information_schema'`, schema).Scan(&oid, &usable)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return 0, contracts.Reject(contracts.SchemaNotFound, "schema %q does not exist", schema)
	case err != nil:
		return 0, failed(ctx, err, "look for schema %q", schema)
	case usable == nil:
		return 0, fmt.Errorf("%w: schema %q was dropped meanwhile", errMoved, schema)
	case !*usable:
		return 0, contracts.Reject(contracts.SchemaNotFound, "schema %q is not open to the exporter's role", schema)
	}
	return oid, nil
}

// listCatalog reads the schema in the transaction that conn is in.
func listCatalog(ctx context.Context, conn *pgx.Conn, schema string) (*catalog, error) {
	oid, err := findSchema(ctx, conn, schema)
	if err != nil {
		return nil, err
	}
	c := &catalog{schema: schema, schemaOID: oid}
	for _, list := range []func(context.Context, *pgx.Conn) error{c.listRelations, c.listColumns, c.listEdges, c.listCode, c.listExposed, c.listFunctions} {
		if err := list(ctx, conn); err != nil {
			return nil, inEncoding(conn, failed(ctx, err, "list the tables of schema %q", schema))
		}
	}
	return c, c.checkNames()
}

// checkNames refuses names that are not UTF-8. A database of encoding UTF8 does not check what it sends, and the manifest,
// which is JSON, cannot hold them.
func (c *catalog) checkNames() error {
	for _, r := range c.relations {
		bad := !utf8.ValidString(r.name)
		for _, col := range r.columns {
			bad = bad || !utf8.ValidString(col.Name) || !utf8.ValidString(col.Type)
		}
		if bad && r.isTable() {
			return contracts.Reject(contracts.EncodingInvalid, "the name of table %q, or of a column or type of it, is not valid UTF-8", r.name)
		}
	}
	return nil
}

// listRelations lists what the transaction's snapshot has. Privileges are those of now, and unknown of what is gone by now.
func (c *catalog) listRelations(ctx context.Context, conn *pgx.Conn) error {
	rows, err := conn.Query(ctx, `
		SELECT c.oid, c.relname::text, c.relkind::text, c.relpersistence::text, c.relfilenode,
			coalesce(m.amname = 'heap', false), c.relkind = 'f' AND c.relispartition,
			readable IS NULL, c.relkind IN ('r', 'p') AND coalesce(readable, false),
			c.relkind IN ('r', 'p') AND coalesce(row_security_active(c.oid), false)
		FROM pg_class c LEFT JOIN pg_am m ON m.oid = c.relam CROSS JOIN LATERAL has_table_privilege(c.oid, 'SELECT') readable
		WHERE c.relnamespace = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
		ORDER BY c.relname COLLATE "C" LIMIT $2`, c.schemaOID, contracts.MaxRelations+1)
	if err != nil {
		return err
	}
	c.relations, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (*relation, error) {
		var r relation
		return &r, row.Scan(&r.oid, &r.name, &r.kind, &r.persists, &r.filenode, &r.heap, &r.foreignSub, &r.gone, &r.readable, &r.secured)
	})
	if err != nil {
		return err
	}
	return tooMany(c.schema, len(c.relations), contracts.MaxRelations, "tables, views and sequences")
}

// listColumns finds the columns, and how their values may be asked for. A function is the server's own when it is
// compiled into it.
func (c *catalog) listColumns(ctx context.Context, conn *pgx.Conn) error {
	types, err := listTypes(ctx, conn, c.schemaOID)
	if err != nil {
		return err
	}
	rows, err := conn.Query(ctx, `
		WITH function AS (SELECT oid, proname::text AS name, prosrc AS symbol, pronamespace = 'pg_catalog'::regnamespace AS own FROM pg_proc
			WHERE prolang = (SELECT oid FROM pg_language WHERE lanname = 'internal'))
		SELECT a.attrelid, a.attnum, a.attname::text, format_type(a.atttypid, a.atttypmod),
			a.attnotnull AND NOT EXISTS (SELECT FROM pg_constraint n WHERE n.conrelid = a.attrelid AND n.contype = 'n' AND NOT n.convalidated AND a.attnum = ANY (n.conkey)),
			a.attgenerated <> '', a.attidentity <> '',
			coalesce(send.symbol, ''), coalesce(output.name, ''), t.oid
		FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_type t ON t.oid = a.atttypid
			LEFT JOIN function send ON send.oid = t.typsend LEFT JOIN function output ON output.oid = t.typoutput AND output.own
		WHERE c.relnamespace = $1 AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped
		ORDER BY a.attrelid, a.attnum LIMIT $2`, c.schemaOID, contracts.MaxColumns+1)
	if err != nil {
		return err
	}
	byOID := make(map[uint32]*relation, len(c.relations))
	for _, r := range c.relations {
		byOID[r.oid] = r
	}
	var oid uint32
	var col column
	columns := 0
	_, err = pgx.ForEachRow(rows, []any{
		&oid, &col.number, &col.Name, &col.Type, &col.NotNull, &col.Generated, &col.Identity,
		&col.send, &col.output, &col.typeOID,
	}, func() error {
		columns++
		if r := byOID[oid]; r != nil {
			col.value = types.value(col.typeOID)
			r.columns = append(r.columns, col)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return tooMany(c.schema, columns, contracts.MaxColumns, "columns")
}

func (c *catalog) listEdges(ctx context.Context, conn *pgx.Conn) error {
	rows, err := conn.Query(ctx, `
		SELECT i.inhparent, i.inhrelid,
			CASE WHEN c.relnamespace = p.relnamespace THEN '' ELSE quote_ident(n.nspname) || '.' || quote_ident(c.relname) END,
			p.relkind = 'p'
		FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent JOIN pg_class c ON c.oid = i.inhrelid
			JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE p.relnamespace = $1 AND p.relkind IN ('r', 'p') AND c.relpersistence <> 't' -- of another session
		ORDER BY i.inhrelid, i.inhseqno LIMIT $2`, c.schemaOID, contracts.MaxRelations+1)
	if err != nil {
		return err
	}
	c.edges, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (edge, error) {
		var e edge
		return e, row.Scan(&e.parent, &e.child, &e.childSchema, &e.partition)
	})
	if err != nil {
		return err
	}
	return tooMany(c.schema, len(c.edges), contracts.MaxRelations, "pairs of a table and one that inherits from it")
}

// listCode finds the relations that bring code of their owner along. To plan a query is to look at the relation's
// indexes, statistics and partition key, and to work out what is constant in their expressions: there and then, as
// our role. COPY of the relation itself plans nothing.
//
// Code is each function that is not compiled: what a function in SQL or in a procedural language calls, no list shows,
// and names in it that have no schema are not found under our empty search_path. So its owner does not matter.
// Compiled functions are a superuser's. A domain counts as code, because its checks may call any function.
func (c *catalog) listCode(ctx context.Context, conn *pgx.Conn) error {
	rows, err := conn.Query(ctx, `
		WITH expression AS (
			SELECT 'pg_class'::regclass AS class, indexrelid AS oid, indrelid AS relation, false AS key FROM pg_index
			UNION ALL SELECT 'pg_statistic_ext'::regclass, oid, stxrelid, false FROM pg_statistic_ext
			UNION ALL SELECT 'pg_class'::regclass, partrelid, partrelid, true FROM pg_partitioned_table
		)
		SELECT e.relation, bool_or(l.lanname NOT IN ('internal', 'c') OR t.typtype = 'd'),
			bool_or(e.key OR NOT coalesce(r.rolsuper, false)) FILTER (WHERE l.lanname NOT IN ('internal', 'c') OR t.typtype = 'd')
		FROM expression e JOIN pg_class c ON c.oid = e.relation JOIN pg_depend d ON d.classid = e.class AND d.objid = e.oid AND d.objsubid = 0
			LEFT JOIN pg_operator o ON d.refclassid = 'pg_operator'::regclass AND o.oid = d.refobjid
			LEFT JOIN pg_proc f ON f.oid = CASE d.refclassid WHEN 'pg_proc'::regclass THEN d.refobjid ELSE o.oprcode END
			LEFT JOIN pg_language l ON l.oid = f.prolang
			LEFT JOIN pg_type t ON d.refclassid = 'pg_type'::regclass AND t.oid = d.refobjid
			LEFT JOIN pg_roles r ON r.oid = coalesce(f.proowner, t.typowner)
		WHERE c.relnamespace = $1 AND (l.lanname NOT IN ('internal', 'c') OR t.typtype = 'd' OR f.oid >= $2)
		GROUP BY e.relation`, c.schemaOID, firstUserOID)
	if err != nil {
		return err
	}
	code, tenants, compiled := map[uint32]bool{}, map[uint32]bool{}, map[uint32]bool{}
	var oid uint32
	var isCode, tenant *bool
	if _, err := pgx.ForEachRow(rows, []any{&oid, &isCode, &tenant}, func() error {
		code[oid], tenants[oid], compiled[oid] = isCode != nil && *isCode, tenant != nil && *tenant, true
		return nil
	}); err != nil {
		return err
	}
	c.inherit(code)
	c.inherit(tenants)
	for _, r := range c.relations {
		r.code, r.tenants, r.compiled = code[r.oid], tenants[r.oid], compiled[r.oid]
	}
	return nil
}

// inherit marks the partitions of what is marked: to plan a query of a partition may be to look at its parent's key.
func (c *catalog) inherit(marked map[uint32]bool) {
	for more := true; more; {
		more = false
		for _, e := range c.edges {
			if e.partition && marked[e.parent] && !marked[e.child] {
				marked[e.child], more = true, true
			}
		}
	}
}

// listExposed finds the relations whose owner gains by running code as our role: who owns a table may give it an
// index or statistics at any moment, and no lock that a reader may take keeps them from it. An owner who may SELECT
// from all that we may SELECT from, and has each of our powers, gains nothing. Where each tenant has a login of its
// own, or where one application owns all tenants' tables, no relation is exposed.
func (c *catalog) listExposed(ctx context.Context, conn *pgx.Conn) error {
	rows, err := conn.Query(ctx, `
		WITH us AS MATERIALIZED (SELECT * FROM pg_roles WHERE rolname = current_user),
		reachable AS MATERIALIZED (SELECT oid FROM pg_namespace WHERE has_schema_privilege(oid, 'USAGE')),
		owner AS MATERIALIZED (SELECT * FROM pg_roles r WHERE NOT r.rolsuper
			AND r.oid IN (SELECT relowner FROM pg_class WHERE relnamespace = $1 AND relkind IN ('r', 'p', 'm'))),
		gains AS (SELECT o.oid FROM owner o CROSS JOIN us WHERE us.rolsuper
			OR us.rolreplication AND NOT o.rolreplication OR us.rolcreaterole AND NOT o.rolcreaterole
			OR EXISTS (SELECT FROM pg_roles p WHERE p.rolname ~ '^pg_' AND pg_has_role(us.oid, p.oid, 'MEMBER') AND NOT pg_has_role(o.oid, p.oid, 'MEMBER'))
			OR EXISTS (SELECT FROM pg_class c WHERE c.relnamespace IN (SELECT oid FROM reachable) AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
				AND (c.relowner <> o.oid OR c.relforcerowsecurity) AND has_any_column_privilege(c.oid, 'SELECT')
				AND (NOT has_schema_privilege(o.oid, c.relnamespace, 'USAGE') OR c.relrowsecurity AND us.rolbypassrls AND NOT o.rolbypassrls
					OR NOT has_table_privilege(o.oid, c.oid, 'SELECT') AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0
						AND has_column_privilege(c.oid, a.attnum, 'SELECT') AND NOT has_column_privilege(o.oid, c.oid, a.attnum, 'SELECT')))))
		SELECT c.oid FROM pg_class c WHERE c.relnamespace = $1 AND c.relkind IN ('r', 'p', 'm') AND c.relowner IN (SELECT oid FROM gains)`, c.schemaOID)
	if err != nil {
		return err
	}
	oids, err := pgx.CollectRows(rows, pgx.RowTo[uint32])
	if err != nil {
		return err
	}
	exposed := make(map[uint32]bool, len(oids))
	for _, oid := range oids {
		exposed[oid] = true
	}
	c.inherit(exposed)
	for _, r := range c.relations {
		r.exposed = exposed[r.oid]
	}
	return nil
}

// listFunctions finds what a query could call of the schema.
func (c *catalog) listFunctions(ctx context.Context, conn *pgx.Conn) error {
	rows, err := conn.Query(ctx, `SELECT DISTINCT proname::text FROM pg_proc WHERE pronamespace = $1`, c.schemaOID)
	if err != nil {
		return err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	c.functions = make(map[string]bool, len(names))
	for _, name := range names {
		c.functions[name] = true
	}
	return err
}

// qualified finds what stands after a dot in a query, quoted or not: with an empty search_path, a tenant's relation
// is named in no other way.
var qualified = regexp.MustCompile(`\.\s*(?:"((?:[^"]|"")+)"|([\pL_][\pL\pN_$]*))`)

// readBy finds the relations that a query names, with their children, and those children of them that are in another
// schema.
func (c *catalog) readBy(sql string) (read map[uint32]bool, foreign []string) {
	named := map[string]bool{}
	for _, m := range qualified.FindAllStringSubmatch(sql, -1) {
		named[strings.ReplaceAll(m[1], `""`, `"`)], named[strings.ToLower(m[2])] = true, true
	}
	read = map[uint32]bool{}
	for _, r := range c.relations {
		read[r.oid] = named[r.name]
	}
	for more := true; more; { // whoever reads a table reads its children, and theirs
		more = false
		for _, e := range c.edges {
			if read[e.parent] && !read[e.child] {
				read[e.child], more = true, true
				if e.childSchema != "" {
					foreign = append(foreign, e.childSchema)
				}
			}
		}
	}
	return read, foreign
}

// called finds what a query calls, or uses as an operator or a type, by a name of a schema's: {schema}.f(),
// OPERATOR({schema}.=), x::{schema}.t.
var called = regexp.MustCompile(`\.\s*(?:"((?:[^"]|"")+)"|([\pL_][\pL\pN_$]*))\s*\(`)

var operated = regexp.MustCompile(`(?i)\{schema\}\s*\.\s*[^\s"\pL_]|(?:::|\bas)\s*\{schema\}\s*\.`)

// checkQuery refuses a query that names a relation whose owner's code it would run, as our role, with our rights to
// all tenants' tables; or one that calls such code itself; or one with rows in another schema.
func (c *catalog) checkQuery(sql string) error {
	read, foreign := c.readBy(sql)
	if len(foreign) > 0 {
		return c.foreign(foreign)
	}
	for _, r := range c.relations {
		// The default query's table is copied, and not queried, where a superuser's function is in an index of it.
		if planned := sql != DefaultAttachmentsQuery || r.kind == "m"; read[r.oid] && (r.kind == "v" || r.kind == "f" || r.tenants || r.code && planned) {
			return contracts.Reject(contracts.AttachmentsUnreadable,
				"%.80q of schema %q would run its owner's code when it is queried: it is a view or a foreign table, or an index, statistics or a partition key of it call a function; "+
					"fix: query a table instead, or drop the index or statistics", r.name, c.schema)
		}
		for _, col := range r.columns {
			if read[r.oid] && col.value.casts {
				return contracts.Reject(contracts.AttachmentsUnreadable,
					"column %.80q of %.80q of schema %q is of a type with a cast that is a function of its owner's: a query could run it; fix: drop the cast, or change the column's type",
					col.Name, r.name, c.schema)
			}
		}
	}
	for _, m := range called.FindAllStringSubmatch(sql, -1) {
		if name := strings.ReplaceAll(m[1], `""`, `"`) + strings.ToLower(m[2]); c.functions[name] {
			return contracts.Reject(contracts.AttachmentsUnreadable, "the attachment query calls function %.80q of schema %q, which would run with our rights; "+
				"fix: write the query without it", name, c.schema)
		}
	}
	if operated.MatchString(sql) {
		return contracts.Reject(contracts.AttachmentsUnreadable, "the attachment query uses an operator or a type of the tenant's schema, whose functions would run with our rights; "+
			"fix: write the query without it")
	}
	return nil
}

// check refuses what cannot be read whole, in one message that names all of it.
func (c *catalog) check(standby bool) error {
	var denied, secured, unlogged, foreign []string
	tables := c.tables()
	for _, r := range tables {
		if !r.readable {
			denied = append(denied, r.name)
		}
		if r.secured {
			secured = append(secured, r.name)
		}
		if r.persists == "u" && standby {
			unlogged = append(unlogged, r.name)
		}
	}
	for _, e := range c.kept() {
		if e.childSchema != "" {
			foreign = append(foreign, e.childSchema)
		}
	}
	switch {
	case len(tables) == 0:
		return c.empty()
	case len(denied) > 0:
		return refuse(contracts.TableDenied, denied, "no right to SELECT from %s of schema %q", list(denied), c.schema)
	case len(secured) > 0:
		return refuse(contracts.RowSecurity, secured, "row-level security applies to %s of schema %q", list(secured), c.schema)
	case len(foreign) > 0:
		return c.foreign(foreign)
	case len(unlogged) > 0:
		return fmt.Errorf("a standby has no rows of the unlogged %s of schema %q: read them from the primary", list(unlogged), c.schema)
	}
	return nil
}

func (c *catalog) foreign(children []string) error {
	return refuse(contracts.ForeignRelation, children, "tables of schema %q have partitions or inheriting tables in another schema: %s", c.schema, firstOf(children))
}

// refused is what a rejection is about: some relations of the schema.
type refused struct {
	error
	names []string
}

func (r refused) Unwrap() error { return r.error }

// refuse rejects because of these relations.
func refuse(code contracts.Code, names []string, format string, args ...any) error {
	return &contracts.Rejection{Code: code, Err: refused{fmt.Errorf(format, args...), names}}
}

// maxListed is how many names a reason holds. Reasons are in records, messages and logs, which are bounded.
const maxListed = 10

// firstOf joins the first names, and says how many more there are.
func firstOf(names []string) string {
	if more := len(names) - maxListed; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:maxListed], ", "), more)
	}
	return strings.Join(names, ", ")
}

// list names tables in a sentence.
func list(names []string) string {
	quoted := make([]string, min(len(names), maxListed+1))
	for i := range quoted {
		quoted[i] = fmt.Sprintf("%q", names[i])
	}
	noun := "table "
	if len(names) > 1 {
		noun = "tables "
	}
	if more := len(names) - maxListed; more > 0 {
		return fmt.Sprintf("%s%s and %d more", noun, strings.Join(quoted[:maxListed], ", "), more)
	}
	return noun + strings.Join(quoted, ", ")
}

// excluded says what of the schema is not in a snapshot.
func (c *catalog) excluded() []string {
	kinds := []struct{ kind, what string }{
		{"v", "views (they hold no rows of their own): "},
		{"m", "materialized views (they hold no rows of their own): "},
		{"f", "foreign tables (their rows are in another database): "},
		{"S", "sequences (they are not part of a transaction): "},
	}
	var excluded []string
	for _, k := range kinds {
		var names []string
		for _, r := range c.relations {
			if r.kind == k.kind && !r.foreignSub {
				names = append(names, r.name)
			}
		}
		excluded = append(excluded, notes(k.what, names)...)
	}
	var code, exposed, foreign []string
	for _, r := range c.tables() {
		switch {
		case !slices.ContainsFunc(r.columns, func(c column) bool { return c.Generated }):
		case r.code:
			code = append(code, r.name)
		case r.exposed:
			exposed = append(exposed, r.name)
		}
	}
	for _, r := range c.relations {
		if r.foreignSub && !c.out[r.oid] {
			foreign = append(foreign, r.name)
		}
	}
	for _, n := range []struct {
		what  string
		names []string
	}{
		{"generated columns of a table with an index, statistics or a partition key that call a function: ", code},
		{"generated columns of a table whose owner could run code with the rights of the exporter's login: ", exposed},
		{"the rows of a partition that is a foreign table: ", foreign},
	} {
		excluded = append(excluded, notes(n.what, n.names)...)
	}
	return excluded
}
