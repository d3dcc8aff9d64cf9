package exporter

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/snapfleet/snapfleet/contracts"
)

// TestRefusalIsLookedAtAgain: a refusal of what a migration is about to change is not final. One that a later look
// confirms is, and says so at the second look.
func TestRefusalIsLookedAtAgain(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, ddl, cure string
		grants          []string
		code            contracts.Code
		schema          string
	}{
		{name: "a GRANT follows its CREATE", ddl: "CREATE TABLE a (x int)", cure: "GRANT SELECT ON a TO {role}", grants: []string{"GRANT USAGE ON SCHEMA acme TO {role}"}, code: contracts.TableDenied},
		{name: "USAGE follows", ddl: "CREATE TABLE a (x int)", cure: "GRANT USAGE ON SCHEMA acme TO {role}", grants: []string{"GRANT SELECT ON a TO {role}"}, code: contracts.SchemaNotFound},
		{
			name: "a partition is moved", ddl: "CREATE SCHEMA other; CREATE TABLE a (x int) PARTITION BY LIST (x); CREATE TABLE other.one PARTITION OF a FOR VALUES IN (1); GRANT ALL ON ALL TABLES IN SCHEMA other TO public",
			cure: "ALTER TABLE other.one SET SCHEMA acme", grants: []string{grantAll}, code: contracts.ForeignRelation,
		},
		{
			name: "row-level security is taken off", ddl: "CREATE TABLE a (x int); ALTER TABLE a ENABLE ROW LEVEL SECURITY", cure: "ALTER TABLE a DISABLE ROW LEVEL SECURITY",
			grants: []string{grantAll}, code: contracts.RowSecurity,
		},
		{name: "the tables follow the schema", ddl: "", cure: "CREATE TABLE a (x int); GRANT SELECT ON a TO {role}", grants: []string{grantAll}, code: contracts.SchemaEmpty},
		{name: "the schema is made", schema: "late", cure: "CREATE SCHEMA late; CREATE TABLE late.a (x int)", code: contracts.SchemaNotFound},
		{
			name: "the attachment table gets its columns", ddl: "CREATE TABLE a (x int); CREATE TABLE file_attachments (id text)", code: contracts.AttachmentsUnreadable,
			cure: "ALTER TABLE file_attachments ADD entity_id text, ADD filename text, ADD content_type text, ADD s3_bucket text, ADD s3_key text, ADD s3_etag text",
		},
	} {
		for _, cured := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s: %v", c.name, cured), func(t *testing.T) {
				t.Parallel()
				tn := newTenant(t, c.ddl)
				if c.grants != nil {
					tn.as(c.grants...)
				}
				if c.schema != "" {
					tn.schema = c.schema
				}
				a := attempt(tn.schema)
				looks := 0
				e := New(tn.db, nil, Config{SecondLook: time.Millisecond})
				e.looked = func(error) {
					if looks++; cured && looks == 1 {
						tn.exec(strings.ReplaceAll(c.cure, "{role}", tn.db.User))
					}
				}
				s, err := e.Open(t.Context(), a)
				if err == nil {
					defer s.Close()
				}
				if cured && err != nil {
					t.Errorf("refused for good: %v", err)
				}
				if !cured && (!isRejected(err, c.code) || looks != 2) {
					t.Errorf("%d looks: %v", looks, err)
				}
			})
		}
	}
}

// TestOtherTablesAreRefusedEachTime: refusals that name no table in common confirm nothing, and end no job.
func TestOtherTablesAreRefusedEachTime(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, "CREATE TABLE t0 (x int)")
	tn.as("GRANT USAGE ON SCHEMA acme TO {role}")
	e := New(tn.db, nil, Config{SecondLook: time.Millisecond, LockTimeout: time.Millisecond})
	n := 0
	e.looked = func(error) {
		tn.exec(fmt.Sprintf("DROP TABLE t%d; CREATE TABLE t%d (x int)", n, n+1))
		n++
	}
	_, err := e.Open(t.Context(), attempt("acme"))
	retryable(t, err)
	if n < openTries || !strings.Contains(fmt.Sprint(err), "no right to SELECT") {
		t.Errorf("%d looks: %v", n, err)
	}
}

// TestTablesThatComeAndGo: tables, partitions and temporary children that others make and drop all the time refuse
// nothing, and what stays is delivered.
func TestTablesThatComeAndGo(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, `CREATE TABLE keep (x int); INSERT INTO keep VALUES (1); CREATE TABLE parts (x int) PARTITION BY LIST (x);
		CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1); INSERT INTO parts VALUES (1)`)
	ctx, cancel := context.WithCancel(t.Context())
	var churn sync.WaitGroup
	for i, statements := range [][]string{
		{"CREATE TABLE acme.tmp_{i} (x int)", "DROP TABLE acme.tmp_{i}"},
		{"CREATE TABLE acme.tmp_{i} (x int)", "DROP TABLE acme.tmp_{i}"},
		{"CREATE TABLE acme.parts_2 PARTITION OF acme.parts FOR VALUES IN (2)", "DROP TABLE acme.parts_2"},
		{"CREATE TEMP TABLE child () INHERITS (acme.keep)", "INSERT INTO child VALUES (666)", "DROP TABLE child"},
		{"CREATE VIEW acme.seen AS SELECT 1 AS x", "DROP VIEW acme.seen"},
	} {
		conn := tn.connect()
		churn.Go(func() {
			for ctx.Err() == nil {
				for _, s := range statements {
					conn.Exec(context.Background(), strings.ReplaceAll(s, "{i}", fmt.Sprint(i)), pgx.QueryExecModeSimpleProtocol) // a deadlock is no fault here
				}
			}
		})
	}
	defer churn.Wait()
	defer cancel()
	delivered := 0
	for range 3 {
		csv, err := tn.exportQuietly(t.Context())
		if _, rejected := contracts.AsRejection(err); rejected {
			t.Fatalf("refused for good: %v", err)
		}
		if err != nil {
			t.Logf("to be tried again: %v", err)
			continue
		}
		delivered++
		if csv["keep"] != "1\n" || csv["parts"] != "1\n" {
			t.Fatalf("delivered %q", csv)
		}
	}
	if delivered == 0 {
		t.Error("nothing was delivered")
	}
}

// TestReasonsAreShort: a reason names ten relations and the number of the others.
func TestReasonsAreShort(t *testing.T) {
	t.Parallel()
	c := &catalog{schema: "acme"}
	for i := range 5000 {
		name := strings.Repeat("\x01", 60) + fmt.Sprintf("%03d", i%1000)
		c.relations = append(c.relations, &relation{oid: uint32(i + 1), name: name, kind: "r", persists: "u"})
		c.edges = append(c.edges, edge{parent: 1, child: uint32(i + 1), childSchema: "other." + strings.Repeat("x", 63)})
	}
	check := func(err error) {
		t.Helper()
		if err == nil || len(err.Error()) > 4000 || !strings.Contains(err.Error(), "and 4990 more") {
			t.Errorf("%d bytes: %.200q", len(fmt.Sprint(err)), fmt.Sprint(err))
		}
	}
	check(c.check(false))
	for _, r := range c.relations {
		r.readable = true
	}
	check(c.check(false))
	c.edges = nil
	check(c.check(true))
	var tables []*table
	for _, r := range c.relations {
		r.secured = true
		tables = append(tables, &table{Table: contracts.Table{Name: r.name}, fields: []field{{label: "x", typ: "odd"}}, chunks: []chunk{{way: fromText}}})
	}
	check(c.check(false))
	check(checkJSON(tables))
}
