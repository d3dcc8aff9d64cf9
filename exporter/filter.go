package exporter

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/snapfleet/snapfleet/contracts"
)

// What a tenant's filter leaves out is neither locked nor read, and need not be readable. Only the attachment query
// may read a table that is not delivered as one: such a table is locked like the others, because a TRUNCATE between
// the instant and the query would show it empty.

// leaveOut marks the tables that f excludes, and the patterns of f that exclude none. query is the attachments' that will
// be read, too, or "".
func (c *catalog) leaveOut(f contracts.Filter, query string) {
	patterns := f.Patterns()
	if len(patterns) == 0 {
		return
	}
	names, parents := map[uint32]string{}, map[uint32]uint32{}
	for _, r := range c.relations {
		names[r.oid] = r.name
	}
	for _, e := range c.edges {
		if e.partition {
			parents[e.child] = e.parent
		}
	}
	c.out = map[uint32]bool{}
	matched := make([]bool, len(patterns))
	for _, r := range c.relations {
		root := r.oid // a partition follows the table that it is delivered with
		for parents[root] != 0 {
			root = parents[root]
		}
		if !r.isTable() && !r.foreignSub {
			continue
		}
		for i, p := range patterns {
			if p.Match(names[root]) {
				c.out[r.oid], matched[i] = true, true
			}
		}
		if c.out[r.oid] && r.isTable() && root == r.oid {
			c.leftOut = append(c.leftOut, r.name)
		}
	}
	for i, p := range patterns {
		if !matched[i] {
			c.unmatched = append(c.unmatched, p.String())
		}
	}
	if query != "" {
		c.asked, _ = c.readBy(query)
	}
}

// locked are the relations that are locked: those that are delivered, and those that the attachment query reads. One
// that we may not read is left for the query to be refused.
func (c *catalog) locked() []*relation {
	var tables []*relation
	for _, r := range c.relations {
		if r.isTable() && (!c.out[r.oid] || c.asked[r.oid] && r.readable) {
			tables = append(tables, r)
		}
	}
	return tables
}

// kept are the edges between tables that are delivered.
func (c *catalog) kept() []edge {
	var edges []edge
	for _, e := range c.edges {
		if !c.out[e.parent] && !c.out[e.child] {
			edges = append(edges, e)
		}
	}
	return edges
}

// empty says why there is nothing to deliver.
func (c *catalog) empty() error {
	if n := len(c.leftOut); n > 0 {
		noun := "the only table"
		if n > 1 {
			noun = fmt.Sprintf("all %d tables", n)
		}
		return contracts.Reject(contracts.SchemaEmpty, "the tenant's filter leaves out %s of schema %q", noun, c.schema)
	}
	return contracts.Reject(contracts.SchemaEmpty, "schema %q has no tables", c.schema)
}

// createdColumn is the column of the attachment query that says how old a row is.
const createdColumn = "created_at"

// attachmentsSince is the instant before which attachments are left out. It is counted from the snapshot's own, by
// the database's clock, so that all who work on the attempt mean the same.
func (s *Snapshot) attachmentsSince() (time.Time, error) {
	since, err := s.attempt.Tenant.Filter.AttachmentsSince(s.taken.At)
	if err != nil {
		return since, &contracts.Rejection{Code: contracts.InvalidTenant, Err: fmt.Errorf("attachments newer than: %w", err)}
	}
	return since, nil
}

// columnsOf are the places of the file's columns among those that the query gives: all but the one that says when the
// row was created, which may be anywhere, and need not be there.
func columnsOf(fields []pgconn.FieldDescription) (places []int, created *pgconn.FieldDescription, err error) {
	for i := range fields {
		if len(fields) > fileColumns && created == nil && fields[i].Name == createdColumn {
			created = &fields[i]
		} else {
			places = append(places, i)
		}
	}
	if len(places) != fileColumns {
		return nil, nil, contracts.Reject(contracts.AttachmentsUnreadable,
			"the attachment query gives %d columns, not %d, and one more that is called %s where tenants leave out old attachments", len(fields), fileColumns, createdColumn)
	}
	return places, created, nil
}

// queryRecent is queryAttachments for a tenant that leaves out what was created before since. A row that does not say
// when it was is delivered: better too much than too little.
func (s *Snapshot) queryRecent(query string, since time.Time) error {
	ctx, conn := s.ctx, s.holder.PgConn()
	from, older := "FROM (\n"+strings.TrimRight(query, "; \t\r\n")+"\n) AS q", "q."+createdColumn+" < $1"
	// What the comparison means depends on the column's type, which may be a tenant's own, with a cast that runs
	// the tenant's code. So look at it before anything runs.
	described, err := conn.Prepare(ctx, "", query, nil)
	if err != nil {
		return err
	}
	places, created, err := columnsOf(described.Fields)
	if err != nil {
		return err
	}
	if created == nil || !slices.Contains([]uint32{pgtype.DateOID, pgtype.TimestampOID, pgtype.TimestamptzOID}, created.DataTypeOID) {
		return contracts.Reject(contracts.AttachmentsUnreadable, "%s", withoutCreated)
	}
	arg := [][]byte{[]byte(since.UTC().Format("2006-01-02 15:04:05.999999Z07:00"))}
	oid := []uint32{pgtype.TimestamptzOID}
	// PostgreSQL filters the rows of a subquery in their order.
	rows := conn.ExecParams(ctx, "SELECT q.* "+from+" WHERE ("+older+") IS NOT TRUE", arg, oid, nil, nil)
	if err := s.readFiles(rows, places); err != nil {
		return err
	}
	if _, err := rows.Close(); err != nil {
		return err
	}
	count := conn.ExecParams(ctx, "SELECT count(*) "+from+" WHERE "+older, arg, oid, nil, nil).Read()
	if count.Err != nil {
		return count.Err
	}
	_, err = fmt.Sscan(string(count.Rows[0][0]), &s.filter.AttachmentsLeftOut)
	return err
}

// withoutCreated is for whoever leaves out attachments by an age that they do not have.
const withoutCreated = "the tenant leaves out old attachments, and the attachment query gives no column " + createdColumn +
	" of type timestamptz, timestamp or date: add one to what it reads, or take back the tenant's --attachments-newer-than"
