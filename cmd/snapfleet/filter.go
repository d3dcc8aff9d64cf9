package main

import (
	"fmt"
	"strings"

	"github.com/snapfleet/snapfleet/contracts"
)

// filterFlags are what of a tenant is not delivered. They are [contracts.Filter], field by field.
type filterFlags struct {
	ExcludeTables        *string `group:"filter" placeholder:"PATTERN,..." help:"Tables that are not delivered: names, or patterns such as audit_*, separated by commas. * is any number of characters, ? is one, [a-z] is one of them; a backslash takes the next character as it is, also a comma. Case counts. The manifest and the outcome say when a pattern matches no table. They are neither locked nor read, and need not be readable. A partitioned table is left out with its partitions, by its own name. Attachments are delivered all the same."`
	AttachmentsNewerThan *string `group:"filter" placeholder:"AGE" help:"Attachments that are older are not delivered: an age in days when the snapshot is taken, such as 90d, or an instant, such as 2026-01-01. What counts is the column created_at of the attachment table, or of what --attachments-query gives; a row where it is NULL is delivered."`
}

// change lays the flags that were given over a filter.
func (f filterFlags) change(r contracts.Filter) contracts.Filter {
	if f.ExcludeTables != nil {
		r.ExcludeTables = nil
		for _, pattern := range splitPatterns(*f.ExcludeTables) {
			if pattern = strings.TrimSpace(pattern); pattern != "" {
				r.ExcludeTables = append(r.ExcludeTables, pattern)
			}
		}
	}
	if f.AttachmentsNewerThan != nil {
		r.AttachmentsNewerThan = *f.AttachmentsNewerThan
	}
	return r
}

// splitPatterns cuts at every comma that no backslash is in front of.
func splitPatterns(s string) []string {
	var patterns []string
	begin := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++ // with the pattern, which knows it, too
		case ',':
			patterns, begin = append(patterns, s[begin:i]), i+1
		}
	}
	return append(patterns, s[begin:])
}

// leftOut is what a manifest says of a filter, for people: nothing where there was none.
func leftOut(f contracts.Filtered) [][2]string {
	var facts [][2]string
	if len(f.ExcludeTables) > 0 {
		names := "none"
		if len(f.Tables) > 0 {
			names = strings.Join(f.Tables, ", ")
		}
		facts = append(facts, [2]string{"left out", fmt.Sprintf("tables: %s (%s)", names, strings.Join(f.ExcludeTables, ", "))})
	}
	if len(f.Unmatched) > 0 {
		facts = append(facts, [2]string{"unmatched", "no table is called " + strings.Join(f.Unmatched, ", ")})
	}
	if !f.AttachmentsSince.IsZero() {
		facts = append(facts, [2]string{"left out", fmt.Sprintf("%s from before %s", plural(f.AttachmentsLeftOut, "attachment"), when(f.AttachmentsSince))})
	}
	return facts
}
