package uploader

import (
	"fmt"
	"testing"

	"go.opentelemetry.io/otel"
)

// TestBatches: the spans of a volume's parts are few, and leave none out.
func TestBatches(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ first, parts, spans int }{{1, 1, 1}, {1, 16, 1}, {1, 17, 2}, {1, 33, 3}, {1, 10_000, 11}, {20, 40, 2}, {9_000, 10_000, 1}} {
		t.Run(fmt.Sprintf("parts %d to %d", c.first, c.parts), func(t *testing.T) {
			t.Parallel()
			ctx, root := otel.Tracer("test").Start(t.Context(), "volume")
			b := batches{first: c.first}
			for number := c.first; number <= c.parts; number++ {
				_, sent := b.leaves(ctx, number)
				sent(5, nil)
			}
			b.end()
			root.End()
			var count int
			var parts, bytes int64
			for _, s := range spans.Ended() {
				if s.Parent().SpanID() != root.SpanContext().SpanID() {
					continue
				}
				count++
				for _, a := range s.Attributes() {
					switch a.Key {
					case "snapfleet.parts":
						parts += a.Value.AsInt64()
					case "snapfleet.bytes":
						bytes += a.Value.AsInt64()
					}
				}
			}
			if want := int64(c.parts - c.first + 1); count != c.spans || parts != want || bytes != 5*want {
				t.Errorf("%d spans of %d parts and %d bytes, want %d of %d", count, parts, bytes, c.spans, want)
			}
		})
	}
}
