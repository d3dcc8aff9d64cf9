package consumer

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
)

// Every cell is listed as it is now, however many there are and however large, and none that is gone.
func TestNewestCellsOfABucket(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	_, js, _ := broker(t)
	kv := must(js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "cells", History: 5}))
	cells := must(openCells(ctx, js, "cells"))
	list := func(filter string) map[string]string {
		t.Helper()
		found := map[string]string{}
		for c, err := range cells.newest(ctx, filter) {
			if err != nil {
				t.Fatal(err)
			}
			if e := must(kv.Get(ctx, c.key)); e.Revision() != c.revision {
				t.Errorf("%s is listed as of revision %d, and is of %d", c.key, c.revision, e.Revision())
			}
			if _, twice := found[c.key]; twice {
				t.Errorf("%s is listed twice", c.key)
			}
			found[c.key] = string(c.value)
		}
		return found
	}
	if found := list(">"); len(found) != 0 {
		t.Errorf("an empty bucket has %v", found)
	}
	const many = 3*cellsAtOnce + 1
	for i := range many {
		for _, value := range []string{"old", "new"} {
			must(kv.PutString(ctx, fmt.Sprintf("many.k%d", i), value))
		}
	}
	const large = 3*bytesAtOnce/(1<<20) + 1 // more than one answer has
	megabyte := bytes.Repeat([]byte("x"), 1<<20-1<<10)
	for i := range large {
		must(kv.Put(ctx, fmt.Sprintf("large.k%d", i), megabyte))
	}
	must(kv.PutString(ctx, "many.deleted", "x"))
	must(kv.PutString(ctx, "many.purged", "x"))
	if err := kv.Delete(ctx, "many.deleted"); err != nil {
		t.Fatal(err)
	}
	if err := kv.Purge(ctx, "many.purged"); err != nil {
		t.Fatal(err)
	}
	found := list("many.*")
	if len(found) != many {
		t.Errorf("%d cells are listed, there are %d", len(found), many)
	}
	for key, value := range found {
		if value != "new" {
			t.Errorf("%s is %q", key, value)
		}
	}
	if found := list("large.*"); len(found) != large || len(found["large.k0"]) != len(megabyte) {
		t.Errorf("%d large cells are listed", len(found))
	}
	if keys := must(cells.Keys(ctx, ">")); len(keys) != many+large || slices.Contains(keys, "many.deleted") {
		t.Errorf("%d keys", len(keys))
	}
	if keys, err := cells.Keys(ctx, "many.k0"); err != nil || !slices.Equal(keys, []string{"many.k0"}) {
		t.Errorf("%v, %v", keys, err)
	}
}
