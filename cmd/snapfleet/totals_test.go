package main

import (
	"testing"

	"github.com/snapfleet/snapfleet/contracts"
)

// TestTotals: what was asked for and is not in a delivery is shown beside what is.
func TestTotals(t *testing.T) {
	t.Parallel()
	const all = ": 2 tables, 7 rows, 0 attachments, 1.0 KiB in 1 volume"
	of := contracts.Totals{Tables: 2, Rows: 7, Volumes: 1, Bytes: 1024}
	for want, change := range map[string]func(*contracts.Totals){
		all: func(*contracts.Totals) {},
		all + "; 1 attachment could not be had, the manifest names them":                   func(t *contracts.Totals) { t.Gaps = 1 },
		all + "; attachments are not in it: the schema has no attachment table":            func(t *contracts.Totals) { t.AttachmentsExcluded = "the schema has no attachment table" },
		all + "; 2 patterns of --exclude-tables matched no table, the manifest names them": func(t *contracts.Totals) { t.UnmatchedPatterns = 2 },
	} {
		o := of
		change(&o)
		if got := totals(&o); got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
	}
}
