package factory_test

import (
	"context"
	"flag"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/snapfleet/snapfleet/test/world"
	"github.com/snapfleet/snapfleet/test/world/factory"
)

var full = flag.Bool("full", false, "load a million rows")

func TestLoad(t *testing.T) {
	p, err := world.FindPostgres(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	}()
	url, err := p.CreateDatabase(t.Context(), "factory")
	if err != nil {
		t.Fatal(err)
	}
	defer p.DropDatabase(context.Background(), "factory") // mostly the server's end, too
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	scale := 0.01
	if *full {
		scale = 1
	}
	for _, schema := range []string{"acme", `Odd "tenant"`} {
		if err := factory.Load(t.Context(), conn, schema, scale); err != nil {
			t.Fatal(err)
		}
		if err := factory.Load(t.Context(), conn, schema, scale); err == nil {
			t.Fatalf("loaded %s twice", schema)
		}
		scale = 0.001
	}
	const roots = `SELECT count(*) FROM pg_class WHERE relnamespace = 'acme'::regnamespace AND (relkind = 'r' AND NOT relispartition OR relkind = 'p' AND NOT relispartition)`
	var tables, files, stored int
	var rows int64
	if err := conn.QueryRow(t.Context(), roots).Scan(&tables); err != nil {
		t.Fatal(err)
	}
	if err := conn.QueryRow(t.Context(), "SELECT count(*), count(s3_key) FROM acme.file_attachments").Scan(&files, &stored); err != nil {
		t.Fatal(err)
	}
	if err := conn.QueryRow(t.Context(), "SELECT sum(reltuples)::bigint FROM pg_class WHERE relnamespace = 'acme'::regnamespace AND relkind = 'r'").Scan(&rows); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d tables, about %d rows", tables, rows)
	if tables < 30 || stored != 200 || files != stored+factory.External || rows < 10_000 {
		t.Errorf("%d tables, %d rows, %d of %d files stored", tables, rows, stored, files)
	}
}
