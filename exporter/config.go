package exporter

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/snapfleet/snapfleet/contracts"
)

// Config is how snapshots are read. The zero value means the defaults.
type Config struct {
	// Connections is how many sibling connections read chunks of tables for one snapshot, next to the one
	// that holds the instant. Default 4: enough to keep two cores compressing while PostgreSQL reads. A
	// schema of thousands of tables gets fewer, because each connection locks every table, and one that is
	// no more than a chunk is read by the connection that holds the instant.
	Connections int

	// Databases are the PostgreSQL servers that tenants' records name. That of [contracts.DefaultDatabase] is for
	// those who name none. Default: only the one that [New] is given.
	Databases map[string]Database

	// Fallback is told of each replica that could not be read, so that its primary is. Default: nobody is.
	Fallback func(ctx context.Context, database string, err error)

	// FleetConnections is how many sessions the whole fleet reads a database with, all snapshots together;
	// those that only ask whether there is room are not counted. Default 20: two workers with two snapshots
	// each, and a fifth of what PostgreSQL lets in unless told otherwise. A snapshot begins with one and
	// takes up to Connections more that are free. Negative: as many as there are.
	FleetConnections int

	// ChunkBytes is how much of a table, in bytes of its heap and TOAST, one COPY reads. Default 16 MiB: some
	// 4 MiB compressed, so that a chunk fits its Window and one giant table keeps every connection busy.
	// Negative: whole tables, as for servers before PostgreSQL 14, which cannot scan a range of pages.
	ChunkBytes int64

	// Window is how many compressed bytes a chunk, or an attachment, may be ahead of its turn. Default
	// 4 MiB. A snapshot holds at most (Connections + 2) windows, whatever its size.
	Window int

	// Level is the deflate level, 1 to 9. Default 2: with 1 the files grow by 2 to 8 %, with 6 the time more than
	// doubles.
	Level int

	// LockTimeout is how long to wait for a lock on a table that somebody alters. Default 10 s: whoever
	// waits for a lock makes others wait behind it.
	LockTimeout time.Duration

	// SecondLook is how long after a refusal, such as a table that may not be read, Open looks again, with a snapshot of
	// its own. The refusal is final when both say the same. Default 2 s: a migration that creates a table and grants
	// the right to read it in two transactions has ended by then.
	SecondLook time.Duration

	// Attachments says where the tenant's files are.
	Attachments Attachments
}

// Attachments is how a tenant's files are found and fetched.
type Attachments struct {
	// Query lists the attachments, in the order in which they are delivered: id, entity_id, filename,
	// content_type, s3_bucket, s3_key, s3_etag, each of any type, all but id nullable. {schema} stands for
	// the tenant's schema, quoted. It runs in the snapshot's own read-only transaction, with an empty
	// search_path, and may read tables but not views. Default: [DefaultAttachmentsQuery].
	//
	// Where a tenant leaves out old attachments it has to give a created_at, too, a timestamptz, timestamp or date,
	// anywhere among the others; the default query does. A row where it is NULL is delivered.
	Query string

	// Sources are the only places that files are fetched from. A row that names another bucket or key ends
	// the job. Default: none.
	Sources []Source

	// Fetch is how many files are asked for at once. Default 8. Each may be a Window ahead of its turn.
	Fetch int

	// Patience is how long one request to the store is tried again before the attempt fails. Default 1 min.
	Patience time.Duration

	// Silence is how long the store may leave one request without an answer, or send less than 64 KiB of a file, before
	// the request is given up and tried again. Default 30 s.
	Silence time.Duration
}

// Source is one place that a tenant's files may be in.
type Source struct {
	Bucket string
	// Prefix begins every key that the tenant may name, and ends in a slash, so that tenant t1 cannot name a
	// file of t10. {tenant} stands for the tenant's name.
	Prefix string
}

// DefaultAttachmentsQuery reads ION's table. The order makes two snapshots of the same rows the same.
const DefaultAttachmentsQuery = `SELECT id, entity_id, filename, content_type, s3_bucket, s3_key, s3_etag FROM {schema}.file_attachments ORDER BY id`

// Validate names the first setting that cannot work.
func (c Config) Validate() error {
	for name, d := range c.Databases {
		if !contracts.ValidDatabase(name) || d.Primary == nil {
			return fmt.Errorf("database %.80q: a name of 1 to 32 of a-z 0-9 _ - and a primary are needed", name)
		}
		for _, db := range []*pgx.ConnConfig{d.Primary, d.Replica} {
			if db == nil {
				continue
			}
			if err := CheckLogin(db); err != nil {
				return fmt.Errorf("database %.80q: %w", name, err)
			}
		}
	}
	for _, s := range c.Attachments.Sources {
		if s.Bucket == "" || len(s.Prefix) < 2 || !strings.HasSuffix(s.Prefix, "/") {
			return fmt.Errorf("attachments source %q/%q: a bucket and a prefix that ends in a slash are needed", s.Bucket, s.Prefix)
		}
	}
	if err := c.Attachments.validate(); err != nil {
		return err
	}
	if c.Level < 0 || c.Level > 9 {
		return fmt.Errorf("deflate level %d is not 1 to 9", c.Level)
	}
	return nil
}

// validate refuses a query that would read the same rows, or none, for every tenant.
func (a Attachments) validate() error {
	const schema = "{schema}"
	before, after, found := strings.Cut(a.Query, schema)
	switch {
	case a.Query == "":
		return nil
	case !found:
		return fmt.Errorf("attachments query: it has no %s, so it would list the same rows for every tenant", schema)
	}
	for ; found; before, after, found = strings.Cut(after, schema) {
		if quote := strings.TrimRight(before, " "); strings.HasSuffix(quote, "'") || strings.HasSuffix(quote, `"`) {
			return fmt.Errorf("attachments query: %s is a quoted identifier already: write %s.table, without quotes", schema, schema)
		}
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.Connections <= 0 {
		c.Connections = 4
	}
	if c.FleetConnections == 0 {
		c.FleetConnections = 20
	}
	if c.ChunkBytes == 0 {
		c.ChunkBytes = 16 << 20
	}
	if c.Window <= 0 {
		c.Window = 4 << 20
	}
	if c.Level == 0 {
		c.Level = 2
	}
	if c.LockTimeout <= 0 {
		c.LockTimeout = 10 * time.Second
	}
	if c.SecondLook <= 0 {
		c.SecondLook = 2 * time.Second
	}
	if c.Attachments.Query == "" {
		c.Attachments.Query = DefaultAttachmentsQuery
	}
	if c.Attachments.Fetch <= 0 {
		c.Attachments.Fetch = 8
	}
	if c.Attachments.Patience <= 0 {
		c.Attachments.Patience = time.Minute
	}
	if c.Attachments.Silence <= 0 {
		c.Attachments.Silence = 30 * time.Second
	}
	return c
}

// forSchema is the query as it reads one tenant's schema.
func (a Attachments) forSchema(schema string) string {
	return strings.ReplaceAll(a.Query, "{schema}", pgx.Identifier{schema}.Sanitize())
}

// allow reports whether a tenant's row may name that file.
func (a Attachments) allow(tenant, bucket, key string) bool {
	_, ok := a.prefixOf(tenant, bucket, key)
	return ok
}

// prefixOf is the source that allows a tenant's row to name that file.
func (a Attachments) prefixOf(tenant, bucket, key string) (prefix string, ok bool) {
	for segment := range strings.SplitSeq(key, "/") {
		if segment == "." || segment == ".." {
			return "", false
		}
	}
	for _, s := range a.Sources {
		prefix := strings.ReplaceAll(s.Prefix, "{tenant}", tenant)
		if s.Bucket == bucket && len(prefix) > 1 && strings.HasSuffix(prefix, "/") && strings.HasPrefix(key, prefix) && key != prefix {
			return prefix, true
		}
	}
	return "", false
}
