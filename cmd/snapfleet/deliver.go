package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"github.com/snapfleet/snapfleet/consumer"
	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/exporter"
	"github.com/snapfleet/snapfleet/uploader"
	"go.opentelemetry.io/otel/trace"
)

// deliver is [consumer.Work] over an exporter and an uploader.
type deliver struct {
	exporter *exporter.Exporter
	uploader *uploader.Uploader
}

// probes try what a worker needs for itself: its AWS identity, and its login at each database.
func (d *deliver) probes(log zerolog.Logger) []consumer.Probe {
	var said atomic.Pointer[string]
	probes := []consumer.Probe{{Part: contracts.FaultIdentity, Try: func(ctx context.Context) error {
		arn, err := d.uploader.Identity(ctx)
		if was := said.Swap(&arn); err == nil && (was == nil || *was != arn) {
			log.Info().Str("arn", arn).Msg("AWS knows this worker")
		}
		return err
	}}}
	for _, name := range d.exporter.Databases() {
		probes = append(probes, consumer.Probe{Part: contracts.FaultDatabase, Name: name, Try: func(ctx context.Context) error {
			return d.exporter.Probe(ctx, name)
		}})
	}
	return probes
}

// Prepare does what one request asks for, up to the point where everything is durable and nothing is visible. It
// begins, or goes on where another worker has stopped.
func (d *deliver) Prepare(ctx context.Context, a contracts.Attempt, j consumer.Journal) (r contracts.Receipt, err error) {
	kept, err := j.Checkpoints(ctx)
	switch {
	case err != nil:
		return r, fmt.Errorf("look for checkpoints: %w", err)
	case len(kept) == 0:
		r, err = d.tell(ctx, a, &notes{Journal: j, attempt: a.ID})
	default:
		r, err = d.resume(ctx, a, &notes{Journal: j, attempt: a.ID}, kept)
	}
	if errors.Is(err, uploader.ErrUploadLost) {
		err = lost{err}
	}
	return r, err
}

// tell tells the whole story of one request.
func (d *deliver) tell(ctx context.Context, a contracts.Attempt, j *notes) (r contracts.Receipt, err error) {
	if err := d.exporter.Knows(a.Tenant.Database); err != nil {
		return r, err
	}
	delivery, err := d.uploader.Begin(ctx, a, j) // a refusal here costs the database nothing
	if err != nil {
		return r, err
	}
	j.Progress(func(p *contracts.Progress) { p.Phase = contracts.Opening })
	snapshot, err := d.exporter.Open(ctx, a)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, snapshot.Close()) }()
	// From here on every table, and the list of attachments, is read as of one instant.
	j.Progress(expect(snapshot))
	if a.Request.Wants(contracts.Tables) {
		if err := write(ctx, delivery, snapshot.Tables(), contracts.WritingTables, j); err != nil {
			return r, err
		}
	}
	if err := snapshot.Release(ctx); err != nil {
		return r, err
	}
	// From here on the database is free of us.
	if a.Request.Wants(contracts.Attachments) {
		if err := j.begin(ctx, snapshot, delivery); err != nil {
			return r, err
		}
		// From here on whoever takes over goes on with this attempt, and reads no table again.
		if err := attach(ctx, delivery, snapshot, j); err != nil {
			return r, err
		}
	}
	return delivery.Receipt(manifest(ctx, snapshot.Contents()))
}

// attach delivers the attachments, or what is left of them.
func attach(ctx context.Context, to *uploader.Delivery, s *exporter.Snapshot, j *notes) error {
	files, err := s.Attachments(ctx)
	if err != nil {
		return err
	}
	if err := j.planned(ctx); err != nil {
		return err
	}
	return write(ctx, to, files, contracts.WritingAttachment, j)
}

// write delivers one archive, and reports what is to be expected of it.
func write(ctx context.Context, to *uploader.Delivery, archive contracts.Archive, phase contracts.Phase, j uploader.Journal) error {
	j.Progress(func(p *contracts.Progress) { p.Phase, p.Current, p.BytesTotal = phase, "", p.Bytes+archive.Bytes })
	if err := to.Write(ctx, archive); err != nil {
		return err
	}
	j.Progress(func(p *contracts.Progress) { p.Current, p.BytesTotal = "", p.Bytes }) // no longer an estimate
	return nil
}

// expect reports how much there is to do.
func expect(s *exporter.Snapshot) func(*contracts.Progress) {
	tables, files := s.Totals()
	return func(p *contracts.Progress) { p.TablesTotal, p.FilesTotal = tables, files }
}

// manifest is what the reading side knows; the uploader adds what it wrote.
func manifest(ctx context.Context, c contracts.Contents) contracts.Manifest {
	m := contracts.Manifest{
		Snapshot: c.Snapshot, Tables: c.Tables, Attachments: c.Attachments, Gaps: c.Gaps, Excluded: c.Excluded, Filter: c.Filter,
		Totals:   contracts.Totals{AttachmentsExcluded: c.AttachmentsExcluded, UnmatchedPatterns: len(c.Filter.Unmatched)},
		Producer: contracts.Producer{Name: "snapfleet", Version: buildVersion()},
	}
	if span := trace.SpanContextFromContext(ctx); span.HasTraceID() {
		m.TraceID = span.TraceID().String()
	}
	return m
}

// Complete makes the receipt's volumes visible.
func (d *deliver) Complete(ctx context.Context, a contracts.Attempt, r contracts.Receipt) error {
	return orLost(d.uploader.Complete(ctx, a, r))
}

// Seal verifies them, and writes the manifest.
func (d *deliver) Seal(ctx context.Context, a contracts.Attempt, r contracts.Receipt) error {
	return orLost(d.uploader.Seal(ctx, a, r))
}

func orLost(err error) error {
	if errors.Is(err, uploader.ErrUploadLost) {
		return lost{err}
	}
	return err
}

// lost tells the consumer, which does not know the uploader, that this receipt can never be committed.
type lost struct{ error }

func (l lost) Unwrap() error    { return l.error }
func (l lost) LostUpload() bool { return true }

// Abort leaves no upload of the job behind.
func (d *deliver) Abort(ctx context.Context, a contracts.Attempt, uploads []contracts.Upload) error {
	return d.uploader.Abort(ctx, a, uploads)
}

// Check tries the tenant's destination.
func (d *deliver) Check(ctx context.Context, t contracts.Tenant) contracts.Check {
	return d.uploader.Check(ctx, t)
}

// Delivered returns the delivery that is in the customer's bucket, or nil.
func (d *deliver) Delivered(ctx context.Context, a contracts.Attempt) (*contracts.FoundDelivery, error) {
	return d.uploader.Delivered(ctx, a)
}

// Links makes links to the files of a delivery to the house.
func (d *deliver) Links(ctx context.Context, a contracts.Attempt, manifestSHA256 string, expires time.Duration, skip int) (contracts.Links, error) {
	return d.uploader.Links(ctx, a, manifestSHA256, expires, skip)
}
