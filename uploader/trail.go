package uploader

import (
	"context"
	"encoding"
	"sync"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
)

// trail follows an archive part by part. The parts that the store has, up to the first that it has not, are
// proven: they need not be read or sent again, by whoever goes on. Once in a while the trail keeps a checkpoint
// of them. One that fails is not missed: the next says what it said, too.
//
// A checkpoint is always at the end of a part, so that nothing which is proven is ever written again.
type trail struct {
	journal   Journal
	every     time.Duration
	partBytes int
	ended     chan struct{} // a volume has

	mu    sync.Mutex
	parts []*part // full, in the order of their bytes, and not yet kept
}

// mark is where the packer stood when a part was full.
type mark struct {
	volume *volume
	files  []contracts.File // that had ended
	closed bool             // the part was the volume's last
	at     contracts.Mark
}

func newTrail(j Journal, cfg Config) *trail {
	return &trail{journal: j, every: cfg.CheckpointEvery, partBytes: cfg.PartBytes, ended: make(chan struct{}, 1)}
}

// cut is told of each part when it is full, in order.
func (t *trail) cut(p *part, m mark) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p.mark = m
	t.parts = append(t.parts, p)
}

// end is told of each volume when all of it has arrived.
func (t *trail) end() {
	select {
	case t.ended <- struct{}{}:
	default:
	}
}

// follow keeps checkpoints until stop is closed, or ctx is done. It does not break off in the middle of one for less
// than that: then nobody would know whether it is kept.
func (t *trail) follow(ctx context.Context, stop <-chan struct{}) {
	tick := time.NewTicker(t.every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-t.ended:
		case <-stop:
			return
		case <-ctx.Done():
			return
		}
		_ = t.keep(ctx)
	}
}

// lastWords is how long an archive that has failed may take to keep how far it came.
const lastWords = 5 * time.Second

// close keeps what a failed archive has come to, also when it was told to stop: a worker that is shut down kindly
// loses only the parts that were under way.
func (t *trail) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
	defer cancel()
	_ = t.keep(ctx)
}

// keep says what has arrived since it last succeeded.
func (t *trail) keep(ctx context.Context) error {
	parts := t.proven()
	if len(parts) == 0 {
		return nil
	}
	c := contracts.Checkpoint{PartBytes: t.partBytes}
	for _, p := range parts {
		v := p.mark.volume
		if n := len(c.Volumes); n == 0 || c.Volumes[n-1].Index != v.index {
			to := v.packed()
			to.FirstPart, to.FirstFile = p.number-1, v.kept
			c.Volumes = append(c.Volumes, to)
		}
		to := &c.Volumes[len(c.Volumes)-1]
		to.Files, to.Mark, to.Closed = p.mark.files[v.kept:], p.mark.at, p.mark.closed
		to.Upload.Parts = append(to.Upload.Parts, p.sent)
		to.Upload.Size = p.offset + p.size
		if to.Closed {
			to.Upload.CRC64NVME = v.receipt().CRC64NVME
		}
	}
	if err := t.journal.Checkpoint(ctx, c); err != nil {
		return err
	}
	// From here on whoever goes on with the attempt goes on after these parts.
	t.mu.Lock()
	defer t.mu.Unlock()
	t.parts = t.parts[len(parts):]
	for _, p := range parts {
		p.mark.volume.kept = len(p.mark.files)
		p.mark = mark{}
	}
	return nil
}

// proven are the parts that are there, up to the first that is not.
func (t *trail) proven() []*part {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for n < len(t.parts) && t.parts[n].there.Load() {
		n++
	}
	return t.parts[:n:n]
}

// mark is where the packer stands now, in the middle of a write that has filled a part.
func (v *volume) mark() mark {
	m := mark{volume: v, files: v.files, at: contracts.Mark{Skip: v.size - v.start}}
	if v.ending && m.at.Skip == trailer {
		return mark{volume: v, files: v.files, closed: true}
	}
	if v.body != nil {
		m.at.Of, m.at.Offset = v.body.of, v.body.n
		if state, ok := v.body.sum.(encoding.BinaryMarshaler); ok && m.at.Offset > 0 {
			m.at.Digest, _ = state.MarshalBinary() // a successor without it says that it cannot go on
		}
	}
	return m
}

// packed is the volume as a checkpoint names it, without what it holds.
func (v *volume) packed() contracts.Packed {
	return contracts.Packed{
		Index: v.index, Kind: v.kind, Limit: v.limit, Upload: contracts.Upload{Name: v.upload.Name, ID: v.upload.ID},
	}
}
