package consumer

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"

	"github.com/snapfleet/snapfleet/contracts"
)

// A plan is what an attempt keeps for whoever goes on with it: checkpoints, each gzipped and cut into pieces that
// never change. Only those count that the record counts, so that a fenced owner can add nothing: every owner writes
// under its own epoch.

// planned is one owner's share of a plan.
type planned struct {
	Epoch  uint64 `json:"epoch"`
	Pieces int    `json:"pieces"`
}

func planKey(r record, epoch uint64, n int) string {
	return fmt.Sprintf("%s.%s.plan.%s.%d.%d", r.Request.Tenant, r.Request.Job, r.AttemptID, epoch, n)
}

// Every piece begins with one of these.
const (
	more = 'm' // the checkpoint goes on in the next piece
	last = 'e'
)

// vainErrors is how often in a row an attempt may be taken up again without a further checkpoint. After that
// whatever stands in its way is looked for in the plan itself, and the job begins anew.
const vainErrors = 3

// Checkpoint implements [Journal].
func (l *lease) Checkpoint(ctx context.Context, data []byte) error {
	l.keeping.Lock() // one at a time: the pieces are numbered
	defer l.keeping.Unlock()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = z.Write(data) // into memory
	if err := z.Close(); err != nil {
		return fmt.Errorf("encode a checkpoint: %w", err)
	}
	r := l.record()
	mine := planned{Epoch: r.Epoch}
	if n := len(r.Plan); n > 0 && r.Plan[n-1].Epoch == r.Epoch {
		mine = r.Plan[n-1]
	}
	for b.Len() > 0 {
		piece := append([]byte{last}, b.Next(contracts.ReceiptPieceBytes-1)...)
		if b.Len() > 0 {
			piece[0] = more
		}
		if err := l.records.pieces.Put(ctx, planKey(r, mine.Epoch, mine.Pieces), piece); err != nil {
			return fmt.Errorf("keep a checkpoint: %w", err)
		}
		mine.Pieces++
	}
	return l.update(ctx, func(r *record) {
		// From here on a successor goes on with this attempt, from here.
		if n := len(r.Plan); n > 0 && r.Plan[n-1].Epoch == mine.Epoch {
			r.Plan = r.Plan[:n-1]
		}
		r.Plan = append(r.Plan[:len(r.Plan):len(r.Plan)], mine)
		r.Vain = 0
	})
}

// Checkpoints implements [Journal].
func (l *lease) Checkpoints(ctx context.Context) ([][]byte, error) {
	return l.records.plan(ctx, l.record())
}

// plan reads the checkpoints that r counts.
func (s records) plan(ctx context.Context, r record) (checkpoints [][]byte, err error) {
	var packed bytes.Buffer
	for _, p := range r.Plan {
		for n := range p.Pieces {
			piece, err := s.piece(ctx, planKey(r, p.Epoch, n))
			if err != nil {
				return nil, fmt.Errorf("read piece %d of the plan of epoch %d: %w", n+1, p.Epoch, err)
			}
			if len(piece) == 0 {
				return nil, fmt.Errorf("read piece %d of the plan of epoch %d: it is empty", n+1, p.Epoch)
			}
			packed.Write(piece[1:])
			if piece[0] == more {
				continue
			}
			z, err := gzip.NewReader(&packed)
			if err != nil {
				return nil, fmt.Errorf("read a checkpoint: %w", err)
			}
			data, err := io.ReadAll(z)
			if err != nil {
				return nil, fmt.Errorf("read a checkpoint: %w", err)
			}
			packed.Reset()
			checkpoints = append(checkpoints, data)
		}
	}
	return checkpoints, nil
}

// resumable reports whether the next owner goes on with r's attempt.
func (r record) resumable() bool { return r.State == running && len(r.Plan) > 0 && r.Vain < vainErrors }
