package exporter

import (
	"context"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/snapfleet/snapfleet/contracts"
)

var tracer = otel.Tracer("github.com/snapfleet/snapfleet/exporter")

// endSpan ends a span with what became of it. Our errors hold no row.
func endSpan(span trace.Span, err error, at ...trace.SpanEndOption) {
	if err != nil {
		span.RecordError(err)
		span.SetStatus(codes.Error, "")
	}
	span.End(at...)
}

// ask is a span of one thing that the database is asked for while a snapshot is opened.
func (s *Snapshot) ask(what string) trace.Span {
	_, span := tracer.Start(s.ctx, what, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(ofDatabase(s.attempt)...))
	return span
}

func ofDatabase(a contracts.Attempt) []attribute.KeyValue {
	return []attribute.KeyValue{attribute.String("db.system.name", "postgresql"), attribute.String("db.namespace", a.Tenant.Schema)}
}

// work is when a piece was made, and how long whoever made it waited for whoever takes it.
type work struct {
	began, ended time.Time
	stalled      time.Duration
}

// copying sums up the COPYs of one table, which are one span: a large table has thousands. They run ahead of the file
// that the table is written to, so the span is made when all of them are known.
type copying struct {
	work
	chunks    int
	rows      int64
	read      int64 // bytes of rows
	left      int64 // of them, when they are deflated
	deflating time.Duration
	copying   time.Duration
}

func (c *copying) add(w work, done copied) {
	if c.chunks == 0 || w.began.Before(c.began) {
		c.began = w.began
	}
	if w.ended.After(c.ended) {
		c.ended = w.ended
	}
	c.chunks++
	c.stalled += w.stalled
	c.copying += w.ended.Sub(w.began) - w.stalled
	c.deflating += max(0, done.deflating-w.stalled) // it waits while it writes
	c.rows += done.rows
	c.read += done.size
	c.left += done.deflated
}

// tell makes the table's span.
func (c *copying) tell(ctx context.Context, t *table, a contracts.Attempt, err error) {
	if c.chunks == 0 || err != nil {
		c.ended = time.Now()
	}
	if c.chunks == 0 {
		c.began = c.ended
	}
	_, span := tracer.Start(ctx, "copy table", trace.WithTimestamp(c.began), trace.WithSpanKind(trace.SpanKindClient),
		trace.WithAttributes(ofDatabase(a)...), trace.WithAttributes(
			attribute.String("db.operation.name", "COPY"),
			attribute.String("db.collection.name", t.Name),
			attribute.Int("snapfleet.chunks", c.chunks),
			attribute.Int64("snapfleet.rows", c.rows),
			attribute.Float64("snapfleet.copy.seconds", c.copying.Seconds()),
			attribute.Float64("snapfleet.stalled.seconds", c.stalled.Seconds()),
			attribute.Float64("snapfleet.deflate.seconds", c.deflating.Seconds()),
			attribute.Int64("snapfleet.deflate.bytes.in", c.read),
			attribute.Int64("snapfleet.deflate.bytes.out", c.left)))
	endSpan(span, err, trace.WithTimestamp(c.ended))
}
