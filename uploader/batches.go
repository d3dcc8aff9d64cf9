package uploader

import (
	"context"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
)

// firstBatch is how many parts the first span of a volume stands for.
const firstBatch = 16

// batches are the spans of a volume's parts. Each stands for as many parts as all before it together, but for the first:
// a volume of 10,000 parts has eleven, and a small one says as much as it can. The zero value is ready.
type batches struct {
	first int // part to leave; 0: 1

	mu   sync.Mutex
	open map[int]*batch // by their last part
}

// batch is the parts from first to last.
type batch struct {
	first, last int
	ctx         context.Context
	span        trace.Span
	sent        int
	bytes       int64
	err         error // of the part that failed first
}

// batchOf is the batch of a part.
func batchOf(number int) (first, last int) {
	last = firstBatch
	for last < number {
		first, last = last, 2*last
	}
	return first + 1, last
}

// leaves is told of each part that leaves for the store. The context has its batch's span; sent is to be called with
// what became of it.
func (b *batches) leaves(ctx context.Context, number int) (_ context.Context, sent func(bytes int64, err error)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	first, last := batchOf(number)
	one := b.open[last]
	if one == nil {
		one = &batch{first: max(first, b.first), last: last}
		one.ctx, one.span = tracer.Start(ctx, "upload parts")
		if b.open == nil {
			b.open = map[int]*batch{}
		}
		b.open[last] = one
	}
	return one.ctx, func(bytes int64, err error) { b.note(one, bytes, err) }
}

func (b *batches) note(one *batch, bytes int64, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		if one.err == nil {
			one.err = err
		}
		return
	}
	one.sent++
	one.bytes += bytes
	if one.sent == one.last-one.first+1 {
		b.close(one)
	}
}

// close ends a batch's span; mu is held.
func (b *batches) close(one *batch) {
	delete(b.open, one.last)
	one.span.SetAttributes(attribute.Int("snapfleet.parts.first", one.first), attribute.Int("snapfleet.parts", one.sent), attribute.Int64("snapfleet.bytes", one.bytes))
	endSpan(one.span, one.err)
}

// end is called when no part is under way any more.
func (b *batches) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, one := range b.open {
		b.close(one)
	}
}
