package main

import (
	"context"
	"errors"
	"testing"

	"github.com/snapfleet/snapfleet/consumer"
	"github.com/snapfleet/snapfleet/contracts"
)

// remembered is a journal in which others have written.
type remembered struct {
	notebook
	kept [][]byte
	err  error
}

func (r *remembered) Checkpoints(context.Context) ([][]byte, error) { return r.kept, r.err }

// TestCheckpointsThatAreNotUnderstood: whoever cannot read what another release has kept begins anew; whoever cannot
// reach it tries again.
func TestCheckpointsThatAreNotUnderstood(t *testing.T) {
	a := contracts.Attempt{ID: "1-a"}
	var story deliver // it comes to nothing that it would need
	for _, kept := range []string{`{"version":2,"attempt":"1-a","plan":{}}`, `{"version":1,"attempt":"2-b","part_bytes":512,"plan":{}}`, "nonsense"} {
		_, err := story.Prepare(t.Context(), a, &remembered{kept: [][]byte{[]byte(kept)}})
		var lost consumer.LostUpload
		if !errors.As(err, &lost) || !lost.LostUpload() {
			t.Errorf("%s: %v", kept, err)
		}
	}
	away := errors.New("the broker is away")
	_, err := story.Prepare(t.Context(), a, &remembered{err: away})
	var lost consumer.LostUpload
	if !errors.Is(err, away) || errors.As(err, &lost) {
		t.Errorf("error: %v", err)
	}
}
