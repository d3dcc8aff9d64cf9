package consumer

import (
	"testing"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
)

// A delivery whose record is lost answers a request for the same format, or for none in particular, and no other.
func TestRecordOfADeliveryInAFormatIsLost(t *testing.T) {
	for _, c := range []struct {
		name             string
		delivered, asked contracts.Format
		conflict         bool
	}{
		{name: "none", asked: ""},
		{name: "the tenant's", asked: contracts.CSV},
		{name: "another", asked: contracts.JSONL, conflict: true},
		{name: "the same", delivered: contracts.JSONL, asked: contracts.JSONL},
		{name: "none any more", delivered: contracts.JSONL, asked: ""},
		{name: "the tenant's now", delivered: contracts.JSONL, asked: contracts.CSV, conflict: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, w *memory) {
				w.node("w1").employ(exports{part: time.Second}, Config{})
				req := request("job")
				req.Format = c.delivered
				w.publish(req)
				within(t, w, time.Minute, "settled", w.settled)
				w.change("the bucket of records is purged", func() { clear(w.cells); clear(w.outcomes); clear(w.messages); w.messages = nil })
				req.Format = c.asked
				w.publish(req)
				within(t, w, time.Minute, "settled", w.settled)
				if c.conflict {
					if len(w.dead) != 1 || w.dead[0] != "acme.job job_conflict" {
						t.Errorf("dead letters %q", w.dead)
					}
				} else if w.outcome("job") != contracts.Delivered || len(w.dead) > 0 {
					t.Errorf("not found delivered: %q, dead letters %q", w.outcome("job"), w.dead)
				}
			})
		})
	}
}
