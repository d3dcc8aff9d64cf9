package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"al.essio.dev/pkg/shellescape"
	"golang.org/x/sync/errgroup"

	"github.com/snapfleet/snapfleet/consumer"
	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/uploader"
)

type downloadCmd struct {
	Tenant   string `arg:"" help:"Name of the tenant."`
	Job      string `arg:"" help:"Id of a job that was delivered to the house bucket."`
	To       string `type:"path" placeholder:"DIR" help:"Folder to write to; <tenant>/<job>/ is made below it. Default: the present one."`
	Parallel int    `default:"4" help:"Files that are downloaded at once."`

	verbFlags
}

func (downloadCmd) manual() page {
	return page{
		about: `
Downloads a delivery to the house bucket by links that a worker makes (see "snapfleet links"), several files at once,
and then proves it as "snapfleet verify" does. Only what is proven is whole.

A file has a name ending in .part until all of it is there, and manifest.json comes last. Interrupted, everything stays
where it is: the same command goes on with the byte after the last. Links that end in between are asked for anew.
Nothing that is there already is overwritten, and nothing is written outside of the folder. Files are for this user
alone to read (0600, folders 0700).`,
		examples: []example{
			{"Into the present folder.", "snapfleet download beta 2026-03-31-143022"},
			{"Elsewhere.", "snapfleet download beta 2026-03-31-143022 --to=/var/snapshots"},
		},
		env:   [][2]string{{"AWS_CA_BUNDLE", "PEM file with the authorities to trust, for a store whose certificate is not publicly signed."}, envColor},
		exits: []int{exitOK, exitFailed, exitUsage, exitNotFound, exitRejected, exitUnproven, exitJobFailed, exitUnreachable, exitInterrupted},
	}
}

// linkTime is how long the links are good for that a download asks for. A file that has begun goes on for longer.
const linkTime = 15 * time.Minute

// Run downloads, and proves.
func (d *downloadCmd) Run(ctx context.Context, c *console) error {
	if err := checkNames(d.Tenant, d.Job); err != nil {
		return err
	}
	if d.Parallel < 1 || d.Parallel > 64 {
		return usagef("--parallel is %d, it must be 1 to 64", d.Parallel)
	}
	nc, outcome, err := d.delivered(ctx, d.Tenant, d.Job)
	if err != nil {
		return err
	}
	defer nc.Close()
	waits(ctx) // for files, from now on
	client, err := plainClient(ctx)
	if err != nil {
		return err
	}
	f := &fetch{client: client, ask: func(ctx context.Context) (contracts.Links, error) {
		links, err := consumer.AskLinks(ctx, nc, d.Tenant, d.Job, linkTime)
		if err != nil {
			return links, nobodyAnswers(err)
		}
		return links, agrees(links, outcome)
	}}
	links, err := f.renew(ctx, 0)
	if err != nil {
		return err
	}
	if f.root, err = d.folder(); err != nil {
		return unwritable(err)
	}
	defer f.root.Close()
	if err := d.fetch(ctx, c, f, links.Files); err != nil {
		if _, hopeless := contracts.AsRejection(err); !hopeless {
			fmt.Fprintf(c.err, "What has arrived is kept. To go on: snapfleet download %s %s --to=%s\n", d.Tenant, d.Job, shellescape.Quote(d.To))
		}
		return err
	}
	return d.prove(ctx, c, f.root, outcome)
}

// folder makes the job's folder, and opens it so that nothing outside of it can be reached, by no link either.
func (d *downloadCmd) folder() (*os.Root, error) {
	if d.To == "" {
		d.To = "."
	}
	if err := os.MkdirAll(d.To, 0o700); err != nil {
		return nil, err
	}
	to, err := os.OpenRoot(d.To)
	if err != nil {
		return nil, err
	}
	defer to.Close()
	below := filepath.Join(d.Tenant, d.Job)
	if err := to.MkdirAll(below, 0o700); err != nil {
		return nil, err
	}
	return to.OpenRoot(below)
}

// fetch downloads the volumes, several at once, and the manifest when they are all there.
func (d *downloadCmd) fetch(ctx context.Context, c *console, f *fetch, files []contracts.Link) (err error) {
	var total int64
	for _, l := range files {
		total += l.Size
	}
	view := c.progress(c.err, c.errTTY, "download "+d.Tenant+"/"+d.Job)
	defer func() { view.end(err == nil) }()
	var done atomic.Int64
	f.moved = func(n int64) {
		if n != 0 {
			view.show("", contracts.Progress{Bytes: done.Add(n), BytesTotal: total})
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(d.Parallel)
	for _, l := range files {
		if l.Name != contracts.ManifestName {
			g.Go(func() error { return f.file(gctx, l.Name) })
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return f.file(ctx, contracts.ManifestName)
}

// prove verifies what is there now, and that it is the delivery that the outcome tells of.
func (d *downloadCmd) prove(ctx context.Context, c *console, root *os.Root, o contracts.Outcome) error {
	folder := root.Name()
	again := fmt.Sprintf("remove %s and download it again; if it is the same then, ask for a snapshot under a new job id", shellescape.Quote(folder))
	manifest, err := root.Open(contracts.ManifestName)
	if err != nil {
		return err
	}
	defer manifest.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, manifest); err != nil {
		return err
	}
	if hex.EncodeToString(sum.Sum(nil)) != o.ManifestSHA256 {
		return explain(exitUnproven, fmt.Errorf("%s is not the manifest that was delivered", filepath.Join(folder, contracts.ManifestName)),
			"it was there before, or was changed in the house bucket, or damaged on its way", again)
	}
	report, err := c.verify(ctx, uploader.FolderSource(folder), 0)
	if err != nil {
		return unreadable(err)
	}
	c.report(report, false)
	return unproven(report, "something was changed in the house bucket, or in this folder, or damaged on its way", again)
}

// unwritable says what to do when a file cannot be written.
func unwritable(err error) error {
	for _, w := range writeTroubles {
		if errors.Is(err, w.err) {
			return explain(exitFailed, err, w.cause, w.fix)
		}
	}
	return explain(exitFailed, err, "the file cannot be written there", "look at the folder and its disk, or choose another --to")
}
