package test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/jackc/pgx/v5"

	"github.com/snapfleet/snapfleet/contracts"
)

// members are the files in the job's volumes, in their order.
func (f *fleet) members(job string) (names []string) {
	f.t.Helper()
	dir := f.download(job)
	for _, v := range f.manifest(job).Volumes {
		volume, err := os.Open(filepath.Join(dir, v.Name))
		if err != nil {
			f.t.Fatal(err)
		}
		defer volume.Close() //nolint:errcheck // it was read
		for r := tar.NewReader(volume); ; {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				f.t.Fatal(err)
			}
			names = append(names, h.Name)
		}
	}
	return names
}

// aged is a tenant with tables to leave out, and two attachments of which one is old.
func aged(tenant string) func(context.Context, string) error {
	return func(ctx context.Context, url string) error {
		if err := cloud.CreateBucket(ctx, tenant+"-files", ourAccount); err != nil {
			return err
		}
		script := strings.ReplaceAll(`CREATE SCHEMA {s};
			CREATE TABLE {s}.parts AS SELECT n FROM generate_series(1, 100) n; CREATE TABLE {s}.staging AS SELECT 1 AS x;
			CREATE TABLE {s}.audit_log (x int) PARTITION BY LIST (x); CREATE TABLE {s}.recent PARTITION OF {s}.audit_log FOR VALUES IN (1);
			CREATE TABLE {s}.file_attachments (id text PRIMARY KEY, entity_id text, filename text, content_type text, s3_bucket text, s3_key text, s3_etag text, created_at timestamptz);`, "{s}", quoted(tenant))
		if err := sql(script)(ctx, url); err != nil {
			return err
		}
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			return err
		}
		defer conn.Close(ctx) //nolint:errcheck // it has served
		for id, days := range map[string]int{"new": 10, "old": 100} {
			key := tenant + "/" + id
			if _, err := cloud.Admin().PutObject(ctx, &s3.PutObjectInput{Bucket: aws.String(tenant + "-files"), Key: &key, Body: strings.NewReader(id)}); err != nil {
				return err
			}
			if _, err := conn.Exec(ctx, "INSERT INTO "+quoted(tenant, "file_attachments")+" VALUES ($1, 'e', $1 || '.txt', 'text/plain', $2, $3, NULL, now() - make_interval(days => $4))", id, tenant+"-files", key, days); err != nil {
				return err
			}
		}
		return nil
	}
}

// TestFilter: what a tenant's record leaves out is in no volume, the manifest says what it was, and verify prints it;
// what the record does not leave out any more is there again, and nothing is said.
func TestFilter(t *testing.T) {
	t.Parallel()
	var database string
	f := newFleet(t, "choosy", func(ctx context.Context, url string) error {
		database = url
		return aged("choosy")(ctx, url)
	})
	f.work("w", "--attachments-source=choosy-files={tenant}/")
	for _, bad := range []string{"--exclude-tables=[", "--attachments-newer-than=soon"} {
		if out, code := f.try(f.env, "tenant", "set", "choosy", bad); code != 4 || !strings.Contains(out, "filter") {
			t.Errorf("%s ends with %d: %s", bad, code, out)
		}
	}

	before := time.Now().AddDate(0, 0, -90)
	f.set("--exclude-tables=audit_*, staging", "--attachments-newer-than=90d")
	if out := f.run("tenant", "get", "choosy"); !strings.Contains(out, "audit_*, staging") || !strings.Contains(out, "newer than 90d") {
		t.Errorf("tenant get says\n%s", out)
	}
	f.submit("some")
	f.delivered("some")
	m := f.manifest("some")
	if got := f.members("some"); !slices.Equal(got, []string{"file_attachments.csv.gz", "parts.csv.gz", "new/new.txt"}) {
		t.Errorf("delivered: %q", got)
	}
	left := m.Filter
	if !slices.Equal(left.ExcludeTables, []string{"audit_*", "staging"}) || !slices.Equal(left.Tables, []string{"audit_log", "staging"}) || left.AttachmentsLeftOut != 1 {
		t.Errorf("the manifest says %+v", left)
	}
	if since := left.AttachmentsSince; !since.Equal(m.Snapshot.At.AddDate(0, 0, -90)) || since.Before(before.Add(-time.Minute)) {
		t.Errorf("attachments since %v, of a snapshot at %v", since, m.Snapshot.At)
	}
	if len(m.Tables) != 2 || len(m.Attachments) != 1 || m.Totals.Attachments != 1 {
		t.Errorf("the manifest has %d tables and %d attachments", len(m.Tables), len(m.Attachments))
	}
	out, code := f.try(nil, "verify", f.download("some"))
	if flat := strings.Join(strings.Fields(out), " "); code != 0 || !strings.Contains(flat, "left out tables: audit_log, staging (audit_*, staging)") || !strings.Contains(flat, "left out 1 attachment from before 20") {
		t.Errorf("verify ends with %d:\n%s", code, out)
	}

	f.set("--exclude-tables=", "--attachments-newer-than=")
	f.submit("all")
	f.delivered("all")
	m = f.manifest("all")
	if got := f.members("all"); !slices.Equal(got, []string{"audit_log.csv.gz", "file_attachments.csv.gz", "parts.csv.gz", "staging.csv.gz", "new/new.txt", "old/old.txt"}) {
		t.Errorf("delivered: %q", got)
	}
	if text, err := os.ReadFile(filepath.Join(f.download("all"), contracts.ManifestName)); err != nil || bytes.Contains(text, []byte(`"filter"`)) {
		t.Errorf("without a filter the manifest says %+v, %v", m.Filter, err)
	}

	// Nothing that was meant and did not happen is silent: a misspelt pattern, and attachments of a tenant without the table.
	f.set("--exclude-tables=stagin,file_attachments")
	if err := sql("ALTER TABLE choosy.file_attachments RENAME TO kept_elsewhere")(t.Context(), database); err != nil {
		t.Fatal(err)
	}
	f.submit("odd")
	o := f.delivered("odd").Outcome
	if o.Totals.UnmatchedPatterns != 2 || o.Totals.AttachmentsExcluded != "the schema has no attachment table" {
		t.Errorf("the outcome says %+v", *o.Totals)
	}
	if m := f.manifest("odd"); !slices.Equal(m.Filter.Unmatched, []string{"stagin", "file_attachments"}) || m.Totals != *o.Totals {
		t.Errorf("the manifest says %+v, %+v", m.Filter, m.Totals)
	}
	if out := f.run("status", "choosy", "odd"); !strings.Contains(out, "attachments") || !strings.Contains(out, "no attachment table") {
		t.Errorf("status says\n%s", out)
	}

	f.set("--exclude-tables=*")
	f.submit("none")
	f.refused("none", contracts.SchemaEmpty, "filter leaves out all 4 tables")
}
