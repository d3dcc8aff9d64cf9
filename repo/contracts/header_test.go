package contracts_test

import (
	"slices"
	"testing"

	"github.com/snapfleet/snapfleet/contracts"
)

func TestHeader(t *testing.T) {
	t.Parallel()
	for _, spelling := range []string{"traceparent", "Traceparent", "TraceParent"} {
		h := contracts.Header{spelling: {"first", "second"}, "Other": {"x"}, "Empty": {}}
		if got := h.Get("traceparent"); got != "first" {
			t.Errorf("%s: Get(traceparent) is %q", spelling, got)
		}
		if got := h.Get("TRACEPARENT"); got != "first" {
			t.Errorf("%s: Get(TRACEPARENT) is %q", spelling, got)
		}
		h.Set("traceparent", "new")
		keys := h.Keys()
		slices.Sort(keys)
		if h.Get("Traceparent") != "new" || len(h["traceparent"]) != 1 || !slices.Equal(keys, []string{"Empty", "Other", "traceparent"}) {
			t.Errorf("%s: after Set: %v", spelling, h)
		}
	}
	var none contracts.Header
	if none.Get("x") != "" || len(none.Keys()) != 0 {
		t.Error("a nil header is not empty")
	}
	if (contracts.Header{"x": nil}).Get("X") != "" {
		t.Error("a key without values has a value")
	}
}
