package uploader

import (
	"context"
	"io"
	"runtime"
	"testing"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
)

// 4 GiB through the default buffers, into a store that keeps nothing: the heap does not know how much it
// was. Not parallel: it looks at the whole heap.
func TestMemoryDoesNotGrowWithTheSnapshot(t *testing.T) {
	u := newUploader(Config{})
	u.open = func(context.Context, contracts.Attempt) (store, error) { return nowhere{}, nil }
	d, err := u.Begin(t.Context(), attempt(0), &journal{})
	if err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	var before, now runtime.MemStats
	runtime.ReadMemStats(&before)
	peak := uint64(0)
	chunk := make([]byte, 1<<20)
	member := contracts.Member{Name: "a", Size: -1, ModTime: time.Unix(0, 0), Write: func(_ context.Context, w io.Writer, _ int64) (contracts.Piece, error) {
		for i := range 4 << 10 {
			if _, err := w.Write(chunk); err != nil {
				return contracts.Piece{}, err
			}
			if i%256 == 0 {
				runtime.ReadMemStats(&now)
				peak = max(peak, now.HeapAlloc-min(now.HeapAlloc, before.HeapAlloc))
			}
		}
		return contracts.Piece{}, nil
	}}
	if err := d.Write(t.Context(), only(contracts.Tables, member)); err != nil {
		t.Fatal(err)
	}
	if limit := uint64(d.cfg.Buffers*d.cfg.PartBytes + 16<<20); peak > limit {
		t.Errorf("%d MiB of heap, expected at most %d", peak>>20, limit>>20)
	}
}
