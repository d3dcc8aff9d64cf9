package exporter

import (
	"context"
	"fmt"
	"io"
	"runtime/debug"
	"sync"
	"time"
)

// ahead is a sequential face over jobs that several goroutines work on at once: pieces come out in the order
// of the jobs, each as a stream of bytes and a result.
//
// Jobs are begun in order, each writes into a window of its own, and a piece whose window is full waits. So
// the piece whose turn it is never waits for another, memory has a bound, and nothing can deadlock.
type ahead[J, R any] struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	window int
	do     func(ctx context.Context, worker int, job J, w io.Writer) (R, error)

	order chan *piece[J, R] // for who reads
	todo  chan *piece[J, R] // for who works
	done  sync.WaitGroup
}

// piece is what becomes of one job.
type piece[J, R any] struct {
	job    J
	blocks chan *block // closed when the job is done
	first  *block      // a block that wait has taken

	// Written by the worker before blocks is closed, read by others after it.
	result R
	err    error
	work   work
}

// block is the unit in which bytes change goroutines.
type block struct {
	n int
	b [64 << 10]byte
}

var blocks = sync.Pool{New: func() any { return new(block) }}

// lookAhead begins to work. Whoever calls it calls next once for each job, in order, and stop.
func lookAhead[J, R any](ctx context.Context, workers, window int, jobs []J,
	do func(ctx context.Context, worker int, job J, w io.Writer) (R, error),
) *ahead[J, R] {
	workers = min(workers, len(jobs))
	a := &ahead[J, R]{window: max(1, window/len(block{}.b)), do: do, order: make(chan *piece[J, R], workers), todo: make(chan *piece[J, R])}
	a.ctx, a.cancel = context.WithCancelCause(ctx)
	a.done.Go(func() { a.feed(jobs) })
	for worker := range workers {
		a.done.Go(func() {
			for p := range a.todo {
				a.run(worker, p)
			}
		})
	}
	return a
}

// feed puts each job into the line, once there is room, and then into somebody's hands.
func (a *ahead[J, R]) feed(jobs []J) {
	defer close(a.todo)
	for _, job := range jobs {
		p := &piece[J, R]{job: job, blocks: make(chan *block, a.window)}
		for _, to := range []chan<- *piece[J, R]{a.order, a.todo} {
			select {
			case to <- p:
			case <-a.ctx.Done():
				p.err = context.Cause(a.ctx)
				close(p.blocks) // somebody may have it already, and wait
				return
			}
		}
	}
}

func (a *ahead[J, R]) run(worker int, p *piece[J, R]) {
	defer close(p.blocks)
	defer func() {
		if r := recover(); r != nil {
			p.err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	w := &blockWriter{ctx: a.ctx, to: p.blocks}
	p.work.began = time.Now()
	p.result, p.err = a.do(a.ctx, worker, p.job, w)
	p.work.ended, p.work.stalled = time.Now(), w.stalled
	if p.err == nil {
		p.err = w.flush()
	}
}

// next waits until a worker has begun the next job.
func (a *ahead[J, R]) next(ctx context.Context) (*piece[J, R], error) {
	select {
	case p := <-a.order:
		return p, nil
	case <-a.ctx.Done():
		return nil, context.Cause(a.ctx)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// stop ends the work, if it has not ended, and waits for it.
func (a *ahead[J, R]) stop(cause error) {
	a.cancel(cause)
	a.done.Wait()
}

// wait returns once there is a first byte, or the job is done, and then with its error.
func (p *piece[J, R]) wait(ctx context.Context) error {
	b, err := p.receive(ctx)
	p.first = b
	return err
}

// writeTo writes the piece to w while it is made, and returns the job's result.
func (p *piece[J, R]) writeTo(ctx context.Context, w io.Writer) (result R, err error) {
	for {
		b, err := p.receive(ctx)
		if err != nil {
			return result, err
		}
		if b == nil {
			return p.result, nil
		}
		_, err = w.Write(b.b[:b.n])
		blocks.Put(b)
		if err != nil {
			return result, err
		}
	}
}

// receive returns no block when the job is done.
func (p *piece[J, R]) receive(ctx context.Context) (*block, error) {
	if b := p.first; b != nil {
		p.first = nil
		return b, nil
	}
	select {
	case b, ok := <-p.blocks:
		if !ok {
			return nil, p.err
		}
		return b, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// blockWriter fills blocks and sends them when they are full.
type blockWriter struct {
	ctx context.Context
	to  chan<- *block
	b   *block

	stalled time.Duration // nobody took what was written
}

func (w *blockWriter) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		if w.b == nil {
			w.b = blocks.Get().(*block)
			w.b.n = 0
		}
		n := copy(w.b.b[w.b.n:], rest)
		w.b.n, rest = w.b.n+n, rest[n:]
		if w.b.n == len(w.b.b) {
			if err := w.flush(); err != nil {
				return 0, err
			}
		}
	}
	return len(p), nil
}

func (w *blockWriter) flush() error {
	if w.b == nil {
		return nil
	}
	select {
	case w.to <- w.b:
		w.b = nil
		return nil
	default:
	}
	began := time.Now()
	defer func() { w.stalled += time.Since(began) }()
	select {
	case w.to <- w.b:
		w.b = nil
		return nil
	case <-w.ctx.Done():
		return context.Cause(w.ctx)
	}
}
