package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/exporter"
	"github.com/snapfleet/snapfleet/uploader"
)

type exportCmd struct {
	Schema string         `arg:"" help:"PostgreSQL schema to read."`
	To     string         `required:"" type:"path" placeholder:"DIR" help:"Folder to write to; <tenant>/<job>/ is made below it."`
	Tenant string         `placeholder:"NAME" help:"First folder below --to. Default: the schema's name."`
	Job    string         `placeholder:"ID" help:"Second folder below --to, and part of every file's name. Default: the present second in UTC, as 2026-03-31-143022."`
	Only   contracts.Kind `enum:"tables,attachments," default:"" help:"Write only the tables, or only the attachments. Default: both when there is an --attachments-source, else the tables."`

	Format     contracts.Format `enum:"csv.gz,jsonl.gz" default:"csv.gz" help:"How the rows of a table are written: PostgreSQL's CSV, or one JSON object a line."`
	VolumeSize byteSize         `default:"50GiB" help:"Size at which a .tar is split."`

	filterFlags
	databaseFlags
	readFlags
}

func (exportCmd) manual() page {
	return page{
		about: `
Reads a schema as of one instant, and writes the same volumes and manifest that a delivery has into a local folder.
It needs no NATS and no bucket. Attachments are fetched from S3 when their places are given; without, the
snapshot is of the tables.

The folder appears whole or not at all: what is written has a temporary name until everything is there. Interrupted,
it removes what it wrote.`,
		examples: []example{
			{"A schema of a local database.", "snapfleet export acme --database-url=postgres:///ion --to=/var/backups\nsnapfleet verify /var/backups/acme/2026-03-31-143022"},
			{"Not all of it.", "snapfleet export acme --to=. --exclude-tables='audit_*,staging'"},
			{"With attachments.", "snapfleet export acme --to=. --attachments-source='ion-files={tenant}/'"},
		},
		env:   [][2]string{envPG, envAWS, envColor},
		exits: []int{exitOK, exitFailed, exitUsage, exitRejected, exitUnreachable, exitInterrupted},
	}
}

// Run does what a worker does, with a folder for a bucket and without a queue.
func (e *exportCmd) Run(ctx context.Context, c *console) (err error) {
	a, err := e.attempt(time.Now().UTC())
	if err != nil {
		return err
	}
	story, err := e.story(ctx)
	if err != nil {
		return err
	}
	folder := filepath.Join(e.To, filepath.FromSlash(a.Prefix()))
	if there, err := story.Delivered(ctx, a); err != nil {
		return err
	} else if there != nil {
		return usagef("%s holds a delivery already: choose another --job", folder)
	}

	view := c.progress(c.err, c.errTTY, a.Tenant.Name+"/"+a.Request.Job)
	notes := &notebook{view: view}
	receipt, err := story.Prepare(ctx, a, notes)
	if err == nil {
		notes.Progress(func(p *contracts.Progress) { p.Phase = contracts.Committing })
		err = story.Complete(ctx, a, receipt)
	}
	if err == nil {
		err = story.Seal(ctx, a, receipt)
	}
	view.end(err == nil)
	if err != nil {
		// The folder is ours alone, so nothing of a failed export stays.
		return errors.Join(err, e.clean(context.WithoutCancel(ctx), story, a, notes.uploads))
	}
	m, err := contracts.ReadManifestSummary(bytes.NewReader(receipt.Manifest))
	if err != nil {
		return err
	}
	fmt.Fprintf(c.err, "%s\n", totals(&m.Totals)[len(": "):])
	fmt.Fprintln(c.out, folder)
	return nil
}

// attempt is the one attempt of a job that no queue knows.
func (e *exportCmd) attempt(now time.Time) (contracts.Attempt, error) {
	a := contracts.Attempt{Number: 1, ID: "1-export", Request: contracts.Request{
		Version: contracts.RequestVersion, Tenant: e.Tenant, Job: e.Job, Only: e.Only, RequestedAt: now.Truncate(time.Millisecond),
	}}
	if a.Request.Tenant == "" {
		a.Request.Tenant = e.Schema
		if !contracts.ValidTenant(e.Schema) {
			return a, usagef("schema %.80q cannot be a folder's name: give --tenant", e.Schema)
		}
	}
	if a.Request.Job == "" {
		a.Request.Job = now.Format(contracts.JobLayout)
	}
	if a.Request.Only == "" && len(e.AttachmentsSource) == 0 {
		a.Request.Only = contracts.Tables
	}
	if err := checkNames(a.Request.Tenant, a.Request.Job); err != nil {
		return a, err
	}
	filter := e.filterFlags.change(contracts.Filter{})
	if err := filter.Validate(); err != nil {
		return a, usagef("--exclude-tables or --attachments-newer-than: %w", err)
	}
	limits := contracts.Limits{VolumeBytes: int64(e.VolumeSize)}
	a.Tenant = contracts.Tenant{Name: a.Request.Tenant, Schema: e.Schema, Format: e.Format, Limits: limits, Filter: filter}.WithDefaults()
	return a, nil
}

func (e *exportCmd) story(ctx context.Context) (*deliver, error) {
	db, err := e.databaseFlags.config()
	if err != nil {
		return nil, err
	}
	read, err := e.readFlags.config()
	if err != nil {
		return nil, err
	}
	var source *s3.Client
	if len(e.AttachmentsSource) > 0 {
		cloud, err := loadAWS(ctx)
		if err != nil {
			return nil, err
		}
		source = sourceClient(cloud, e.AttachmentsRegion)
	}
	return &deliver{exporter: exporter.New(db, source, read), uploader: uploader.NewFolder(e.To, uploader.Config{})}, nil
}

// clean removes what a failed export wrote: the folder was free of volumes when it began, so those in it that
// no manifest vouches for are ours. Folders go as far as they are empty.
func (e *exportCmd) clean(ctx context.Context, story *deliver, a contracts.Attempt, uploads []contracts.Upload) error {
	if whole, err := story.Delivered(ctx, a); err != nil || whole != nil {
		return err
	}
	err := story.Abort(ctx, a, uploads)
	job := filepath.Join(e.To, filepath.FromSlash(a.Prefix()))
	for _, u := range uploads {
		if gone := os.Remove(filepath.Join(job, u.Name)); gone != nil && !errors.Is(gone, os.ErrNotExist) {
			err = errors.Join(err, fmt.Errorf("remove what the export left: %w", gone))
		}
	}
	for _, dir := range []string{job, filepath.Dir(job)} {
		if os.Remove(dir) != nil { // not empty: somebody else's
			break
		}
	}
	return err
}

// notebook is a journal for work that nobody will take over.
type notebook struct {
	view progressView

	mu       sync.Mutex
	progress contracts.Progress
	uploads  []contracts.Upload
}

// Upload remembers what has to be removed should the export fail.
func (n *notebook) Upload(_ context.Context, u contracts.Upload) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.uploads = append(n.uploads, u)
	return nil
}

// Checkpoint keeps nothing.
func (n *notebook) Checkpoint(context.Context, []byte) error { return nil }

// Checkpoints has kept nothing.
func (n *notebook) Checkpoints(context.Context) ([][]byte, error) { return nil, nil }

// Progress shows it.
func (n *notebook) Progress(change func(*contracts.Progress)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change(&n.progress)
	n.view.show("", n.progress)
}
