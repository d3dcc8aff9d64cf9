package exporter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestAheadKeepsTheOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		jobs := make([]int, 100)
		for i := range jobs {
			jobs[i] = i
		}
		a := lookAhead(t.Context(), 7, 3*len(block{}.b), jobs, func(ctx context.Context, _, job int, w io.Writer) (int, error) {
			for range job % 11 {
				time.Sleep(time.Duration(job*7919%13) * time.Millisecond) // virtual
				w.Write(bytes.Repeat([]byte{byte(job)}, 50_000))
			}
			return job * job, nil
		})
		for i := range jobs {
			p, err := a.next(t.Context())
			must(t, err)
			if i%3 == 0 {
				must(t, p.wait(t.Context()))
			}
			var b bytes.Buffer
			r, err := p.writeTo(t.Context(), &b)
			must(t, err)
			if r != i*i || !bytes.Equal(b.Bytes(), bytes.Repeat([]byte{byte(i)}, i%11*50_000)) {
				t.Fatalf("job %d: result %d, %d bytes", i, r, b.Len())
			}
		}
		a.stop(nil)
	})
}

// TestAheadIsBounded: while nobody reads, the work stands still within its windows.
func TestAheadIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const workers, window = 3, 5 * len(block{}.b)
		var made atomic.Int64
		a := lookAhead(t.Context(), workers, window, make([]int, 1000), func(ctx context.Context, _, _ int, w io.Writer) (int, error) {
			for {
				n, err := w.Write(make([]byte, 10_000))
				if made.Add(int64(n)); err != nil {
					return 0, err
				}
			}
		})
		synctest.Wait()
		first := made.Load()
		if most := int64(workers * (window + len(block{}.b))); first > most || first < int64(workers*window) {
			t.Errorf("%d bytes were made ahead, the bound is %d", first, most)
		}
		a.stop(errors.New("enough"))
		if made.Load() > first+workers*10_000 {
			t.Error("work went on after the stop")
		}
	})
}

func TestAheadTellsOfErrors(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		boom := errors.New("boom")
		a := lookAhead(t.Context(), 2, 1, []string{"fine", "error", "panic", "late"}, func(ctx context.Context, _ int, job string, w io.Writer) (int, error) {
			switch job {
			case "error":
				return 0, boom
			case "panic":
				panic("oh")
			case "late":
				w.Write(make([]byte, 1_000_000))
				return 0, boom
			}
			return 1, nil
		})
		defer a.stop(nil)
		for _, want := range []string{"", "boom", "panic: oh", "boom"} {
			p, err := a.next(t.Context())
			must(t, err)
			_, err = p.writeTo(t.Context(), io.Discard)
			if got := fmt.Sprint(err); want == "" && err != nil || !strings.Contains(got, want) {
				t.Errorf("%q, not %q", got, want)
			}
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(boom)
		if _, err := a.next(ctx); !errors.Is(err, boom) {
			t.Errorf("a cancelled wait: %v", err)
		}
	})
}
