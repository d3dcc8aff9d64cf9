package uploader

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"github.com/snapfleet/snapfleet/contracts"
)

// Write packs an archive into one volume, or into several when its expected size is over the tenant's
// limit. Members are written one after another; parts leave while more is written. Write returns when
// every part has been acknowledged. An archive without members makes one empty .tar.
//
// A single volume may grow beyond the limit, up to MaxParts parts, because its name cannot be changed any
// more. A numbered volume takes no member that would carry it over the limit, and a member of unknown
// size is continued in the next volume under a numbered name.
//
// After an error the delivery can only be aborted. Write is called once for each kind, from one goroutine.
func (d *Delivery) Write(ctx context.Context, a contracts.Archive) (err error) {
	if d.failed != nil {
		return fmt.Errorf("this delivery has failed before: %w", d.failed)
	}
	if d.kinds[a.Kind] {
		return fmt.Errorf("the %s of this delivery are already written", a.Kind)
	}
	d.kinds[a.Kind] = true

	group, gctx := errgroup.WithContext(ctx)
	p := &packer{Delivery: d, kind: a.Kind, group: group, ctx: gctx, names: map[string]bool{}}
	if limit := d.volumeLimit(); a.Bytes > limit {
		p.limit = limit
	}
	if a.Kind == contracts.Attachments {
		p.trail = newTrail(d.journal, d.cfg)
		defer p.follow(ctx, &err)()
		p.reopen(d.begun)
	}
	err = p.all(a)
	if v := p.volume; v != nil { // it failed: parts under way are pointless now, or one of them is the reason
		v.group.Go(func() error { return err })
		err = v.finish()
	}
	group.Go(func() error { return err })
	if err := group.Wait(); err != nil {
		d.failed = fmt.Errorf("write %s: %w", a.Kind, err)
		return d.failed
	}
	for _, v := range p.done {
		d.uploads = append(d.uploads, v.receipt())
		d.volumes = append(d.volumes, v)
	}
	return nil
}

// follow keeps checkpoints until the function that it returns is called, and then, should the archive have failed,
// how far it came.
func (p *packer) follow(ctx context.Context, failed *error) (stop func()) {
	over := make(chan struct{})
	var followed sync.WaitGroup
	followed.Go(func() { p.trail.follow(ctx, over) })
	return func() {
		close(over)
		followed.Wait()
		if _, rejected := contracts.AsRejection(*failed); *failed != nil && !rejected && !errors.Is(*failed, ErrUploadLost) {
			p.trail.close(ctx)
		}
	}
}

// volumeLimit is where a volume is split: what the tenant's record says, unless the store's limit of
// parts comes first.
func (d *Delivery) volumeLimit() int64 {
	return min(d.attempt.Tenant.WithDefaults().Limits.VolumeBytes, d.cfg.maxVolume()/10*9)
}

// volume is one .tar under way.
type volume struct {
	object
	kind  contracts.Kind
	index int   // among all volumes of the delivery
	limit int64 // of the archive
	files []contracts.File
	moved func(int64) // is told how many bytes of members have passed
	span  trace.Span

	// Where the packer stands, for marks.
	start  int64  // where the present member began, or the trailer
	body   *meter // of the present member; nil between two
	ending bool   // the trailer is being written

	begun  *contracts.Mark // what an earlier worker has begun and not ended; nil once it is taken up
	closed bool            // by an earlier worker
	kept   int             // files that a checkpoint has; the trail's
}

// packer is one call of Write.
type packer struct {
	*Delivery
	kind  contracts.Kind
	ctx   context.Context // the group's: done when a closed volume has failed
	group *errgroup.Group // the volumes that are closed and wait for their last parts
	limit int64           // bytes at which a volume is full; 0: one volume takes all
	names map[string]bool
	trail *trail // nil when nobody could go on with the archive

	volume *volume // open; nil before the first, and between two
	done   []*volume
	unsaid int64 // bytes written that the journal has not heard of
}

func (p *packer) all(a contracts.Archive) error {
	for m, err := range a.Members {
		if err != nil {
			return err
		}
		if err := p.member(m); err != nil {
			return fmt.Errorf("%s: %w", m.Name, err)
		}
	}
	if p.volume == nil && len(p.done) == 0 { // nobody came
		if err := p.next(); err != nil {
			return err
		}
	}
	return p.close()
}

// member writes one member: one file, or several when it is continued in the next volume.
func (p *packer) member(m contracts.Member) error {
	if !fs.ValidPath(m.Name) || m.Name == "." { // names are made safe elsewhere; nothing else may pass here
		return fmt.Errorf("not a path inside a .tar: %q", m.Name)
	}
	if p.kind == contracts.Tables {
		p.journal.Progress(func(g *contracts.Progress) { g.Current = m.Of })
	}
	for n := 1; ; n++ {
		room, err := p.roomFor(m)
		if err != nil {
			return err
		}
		piece, err := p.volume.pack(m, room, func(piece contracts.Piece) string {
			if n == 1 && !piece.More {
				return m.Name
			}
			return contracts.PartFile(m.Name, n)
		})
		if err != nil {
			return err
		}
		name := p.volume.files[len(p.volume.files)-1].Name
		if p.names[name] {
			return fmt.Errorf("a second file named %q", name)
		}
		p.names[name] = true
		p.journal.Progress(func(g *contracts.Progress) {
			p.sayBytes(g)
			g.Rows += piece.Rows
			switch {
			case piece.More:
			case p.kind == contracts.Tables:
				g.Tables++
			default:
				g.Files++
			}
		})
		if !piece.More {
			return nil
		}
		if p.limit == 0 {
			return fmt.Errorf("it wants to go on in another volume, but there is only one")
		}
		if err := p.close(); err != nil {
			return err
		}
	}
}

// roomFor makes sure that there is a volume that m may be written to, and returns how many bytes of m it
// would like to take; 0 means no limit.
func (p *packer) roomFor(m contracts.Member) (room int64, err error) {
	if p.volume != nil && p.volume.begun != nil { // it is in there
		return 0, nil
	}
	if p.volume != nil && p.limit > 0 && len(p.volume.files) > 0 && p.full(m) {
		if err := p.close(); err != nil {
			return 0, err
		}
	}
	if p.volume == nil {
		if err := p.next(); err != nil {
			return 0, err
		}
	}
	if need := p.volume.size + m.Size; need > p.cfg.maxVolume() { // before the first byte is fetched
		return 0, tooLarge(p.volume.upload.Name, p.cfg.MaxParts)
	}
	if p.limit == 0 || m.Size >= 0 {
		return 0, nil
	}
	return max(1, p.limit-p.volume.size-block-trailer), nil
}

// full reports whether m has to go into the next volume. A member of unknown size does when so little is
// left that it would not be worth a file.
func (p *packer) full(m contracts.Member) bool {
	left := p.limit - p.volume.size - block - trailer
	if m.Size < 0 {
		return left < p.limit/64
	}
	return m.Size+padding(m.Size) > left
}

// next begins a volume.
func (p *packer) next() error {
	n := 0
	if p.limit > 0 {
		n = len(p.done) + 1
	}
	name := contracts.VolumeName(p.kind, p.attempt.Request.Job, n)
	ctx, span := p.startVolume(name)
	id, err := p.store.create(ctx, name)
	if err == nil {
		if err = p.journal.Upload(ctx, contracts.Upload{Name: name, ID: id}); err != nil {
			// It is not aborted: the record may have it all the same, and a successor go on with it. If not, whoever
			// begins the next attempt finds it in the folder, or else the janitor does.
			err = fmt.Errorf("record the upload of %s: %w", name, err)
		}
	}
	if err != nil {
		endSpan(span, err)
		return err
	}
	// From here on the record holds the upload's id: whoever comes after us can abort it, so a part may
	// leave.
	v := &volume{kind: p.kind, index: len(p.volumes) + len(p.done), limit: p.limit}
	v.upload = contracts.Upload{Name: name, ID: id}
	p.open(ctx, span, v)
	return nil
}

func (p *packer) startVolume(name string) (context.Context, trace.Span) {
	return tracer.Start(p.ctx, "upload volume", trace.WithAttributes(attribute.String("snapfleet.volume", name)))
}

// open makes v the volume that is written to.
func (p *packer) open(ctx context.Context, span trace.Span, v *volume) {
	v.group, v.ctx = errgroup.WithContext(ctx)
	v.span, v.moved = span, p.moved
	v.batches.first = len(v.parts) + 1
	v.store, v.free, v.partBytes, v.maxParts = p.store, p.free, p.cfg.PartBytes, p.cfg.MaxParts
	if t := p.trail; t != nil {
		v.full = func(part *part) { t.cut(part, v.mark()) }
	}
	p.volume = v
}

// close ends the open volume, if there is one. The next one may begin while its last parts are under way.
func (p *packer) close() error {
	v := p.volume
	if v == nil { // an earlier worker has closed the last one
		return nil
	}
	if err := v.end(); err != nil {
		return err
	}
	p.volume = nil
	p.done = append(p.done, v)
	p.group.Go(func() error {
		err := v.finish()
		if err == nil && p.trail != nil {
			p.trail.end()
		}
		return err
	})
	return nil
}

// finish waits until every part of the volume has been acknowledged, or one has failed.
func (v *volume) finish() error {
	err := v.group.Wait()
	v.batches.end()
	v.span.SetAttributes(attribute.Int64("snapfleet.bytes", v.size), attribute.Int("snapfleet.parts", len(v.parts)),
		attribute.Int("snapfleet.files", len(v.files)), attribute.Float64("snapfleet.waited.seconds", v.waited.Seconds()))
	endSpan(v.span, err)
	return err
}

// moved is told of every member's bytes. The journal hears of them once in a while.
func (p *packer) moved(n int64) {
	if p.unsaid += n; p.unsaid >= 1<<20 {
		p.journal.Progress(p.sayBytes)
	}
}

func (p *packer) sayBytes(g *contracts.Progress) {
	g.Bytes += p.unsaid
	p.unsaid = 0
}
