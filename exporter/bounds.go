package exporter

import (
	"fmt"
	"strings"

	"github.com/snapfleet/snapfleet/contracts"
)

// What a manifest has for an entry besides its texts: keys, numbers, quotes and indentation, at the most.
const (
	attachmentBytes = 150
	storedBytes     = 460 // of an attachment and its file, or its gap
	tableBytes      = 420 // of a table and its file
	columnBytes     = 180
	listBytes       = 16
)

// checkManifest refuses a snapshot whose manifest would be too large, before anything of it is uploaded.
func (s *Snapshot) checkManifest() error {
	size := s.manifestBytes()
	if size > contracts.MaxManifestBytes {
		return contracts.Reject(contracts.ManifestTooLarge, "the manifest of %d tables and %d attachments would have up to %d bytes, the limit is %d",
			len(s.tables), len(s.files), size, contracts.MaxManifestBytes)
	}
	return nil
}

// manifestBytes is how many bytes the manifest will have at the most. What is kept for a worker that takes over counts,
// too: it has each attachment's bucket and key.
func (s *Snapshot) manifestBytes() (size int64) {
	for _, t := range s.tables {
		size += tableBytes + 2*contracts.JSONBytes(t.Name) + contracts.JSONBytes(t.file)
		for _, c := range t.Columns {
			size += columnBytes + contracts.JSONBytes(c.Name) + contracts.JSONBytes(c.Type)
		}
		for _, p := range t.Parents {
			size += contracts.JSONBytes(p) + listBytes
		}
	}
	for _, list := range [][]string{s.excluded, s.filter.ExcludeTables, s.filter.Tables, s.filter.Unmatched} {
		for _, text := range list {
			size += contracts.JSONBytes(text) + listBytes
		}
	}
	for i := range s.files {
		f := &s.files[i]
		size += contracts.JSONBytes(f.text)
		if f.stored() {
			size += storedBytes + contracts.JSONBytes(f.id()) + 2*max(contracts.JSONBytes(f.path()), contracts.JSONBytes(f.filename())/2)
		} else {
			size += attachmentBytes
		}
	}
	return size
}

// tooMany refuses a schema of which a list has n entries or more, where most are allowed. To read one more is enough.
func tooMany(schema string, n, most int, what string) error {
	if n <= most {
		return nil
	}
	return contracts.Reject(contracts.SchemaTooLarge, "schema %q has more than %d %s", schema, most, what)
}

// A manifest names so many relations of a kind that are not in it, and so many in one sentence: a reader in bounded memory
// has bounds for a sentence, and for all of them.
const (
	namesInNote  = 100
	namesInNotes = 1000
	leftOutNames = 5000
)

// notes are sentences that name relations.
func notes(what string, names []string) (all []string) {
	more := ""
	if n := len(names) - namesInNotes; n > 0 {
		names, more = names[:namesInNotes], fmt.Sprintf(" and %d more", n)
	}
	for len(names) > 0 {
		n := min(namesInNote, len(names))
		all = append(all, what+strings.Join(names[:n], ", "))
		names = names[n:]
	}
	if more != "" {
		all[len(all)-1] += more
	}
	return all
}
