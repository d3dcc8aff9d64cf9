package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/snapfleet/snapfleet/consumer"
	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/exporter"
	"github.com/snapfleet/snapfleet/uploader"
)

// resume goes on with an attempt whose tables another worker has delivered. It needs no database.
func (d *deliver) resume(ctx context.Context, a contracts.Attempt, j *notes, kept [][]byte) (r contracts.Receipt, err error) {
	c, err := contracts.JoinCheckpoints(a.ID, kept)
	if err != nil {
		return r, lost{err}
	}
	delivery, err := d.uploader.Resume(ctx, a, j, c)
	if err != nil {
		return r, err
	}
	snapshot, err := d.exporter.Resume(ctx, a, c)
	if _, rejected := contracts.AsRejection(err); err != nil && !rejected {
		err = lost{err}
	}
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, snapshot.Close()) }()
	j.resume(snapshot, c)
	if err := attach(ctx, delivery, snapshot, j); err != nil {
		return r, err
	}
	return delivery.Receipt(manifest(ctx, snapshot.Contents()))
}

// notes is the uploader's journal: it makes one checkpoint of what the uploader and the exporter know, each of
// their own. It is begun or resumed before the attachments are written.
type notes struct {
	consumer.Journal
	attempt  string
	snapshot *exporter.Snapshot
	silent   bool // nobody can go on with the attempt
	objects  bool // are kept
	gaps     int  // that are kept
}

// begin keeps the first checkpoint.
func (n *notes) begin(ctx context.Context, s *exporter.Snapshot, d *uploader.Delivery) error {
	n.snapshot = s
	c := d.Checkpoint()
	c.Plan = s.Plan()
	n.silent = c.Plan == nil
	return n.keep(ctx, c)
}

// resume goes on after c, and reports how far it has come but for the attachments.
func (n *notes) resume(s *exporter.Snapshot, c contracts.Checkpoint) {
	n.snapshot, n.objects, n.gaps = s, len(c.Objects) > 0, len(s.LateGaps())
	done := contracts.Progress{Phase: contracts.WritingAttachment}
	done.TablesTotal, done.FilesTotal = s.Totals()
	for _, v := range c.Volumes {
		if v.Kind != contracts.Tables {
			continue
		}
		done.Bytes += v.Upload.Size
		for _, f := range v.Files {
			done.Rows += f.Rows
		}
		done.Tables = done.TablesTotal
	}
	n.Progress(func(p *contracts.Progress) { *p = done })
}

// planned keeps what the store has said of the attachments.
func (n *notes) planned(ctx context.Context) error {
	if n.objects {
		return nil
	}
	n.objects = true
	return n.keep(ctx, contracts.Checkpoint{Objects: n.snapshot.Objects()})
}

// Checkpoint implements [uploader.Journal]. A gap is kept no later than the files after it.
func (n *notes) Checkpoint(ctx context.Context, c contracts.Checkpoint) error {
	gaps := n.snapshot.LateGaps()
	c.Gaps = gaps[n.gaps:]
	if err := n.keep(ctx, c); err != nil {
		return err
	}
	n.gaps = len(gaps)
	return nil
}

func (n *notes) keep(ctx context.Context, c contracts.Checkpoint) error {
	if n.silent {
		return nil
	}
	c.Attempt = n.attempt
	data, err := c.Encode()
	if err == nil {
		err = n.Journal.Checkpoint(ctx, data)
	}
	if err != nil {
		return fmt.Errorf("keep how far the attempt has come: %w", err)
	}
	return nil
}
