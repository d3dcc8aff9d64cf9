package uploader

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/snapfleet/snapfleet/contracts"
)

const (
	// maxEntry is the largest table, attachment, file or other entry of a manifest, in bytes. A table of 1,600 columns
	// takes less than 1 MiB.
	maxEntry = 4 << 20
	// maxColumns is PostgreSQL's own limit for the columns of a row.
	maxColumns = 1664
	// maxTables is more than a server with its usual settings can lock for one snapshot.
	maxTables = 1_000_000
	// maxDepth is how deep an unknown field may be nested.
	maxDepth = 1000
)

// readManifest reads a manifest entry by entry. It keeps of it what [Verify] compares: everything but the attachments
// without a file, and the descriptions of the others. An entry that lacks what every entry has ends the reading, so memory
// is a small multiple of the bytes read. An attachment whose file is not called as the layout calls it is not kept: it
// is a problem.
func readManifest(ctx context.Context, r io.Reader) (contracts.Manifest, []Problem, error) {
	in := &entryReader{r: io.LimitReader(reading{ctx, r}, contracts.MaxManifestBytes+1)}
	p := &manifestParser{in: in, json: json.NewDecoder(in), small: map[string]json.RawMessage{}, seen: map[string]bool{}}
	err := p.object()
	switch {
	case in.err != nil && !errors.Is(in.err, errEntrySize): // the source's own
		return p.m, nil, in.err
	case in.total > contracts.MaxManifestBytes:
		return p.m, nil, badManifest{fmt.Errorf("it has more than %d bytes, the limit", contracts.MaxManifestBytes)}
	case err == nil:
		err = p.head()
	}
	if err != nil {
		return p.m, nil, badManifest{err}
	}
	return p.m, p.misnamed, nil
}

// badManifest is what is wrong with a manifest, as opposed to an error of reading it.
type badManifest struct{ error }

func (b badManifest) Unwrap() error { return b.error }

var errEntrySize = fmt.Errorf("one of its entries has more than %d bytes", maxEntry)

// entryReader bounds what the JSON decoder reads, and so holds in memory, for one entry.
type entryReader struct {
	r     io.Reader
	total int64
	since int64 // bytes since the last entry began
	err   error // of r, or errEntrySize
}

// begin says that an entry begins.
func (e *entryReader) begin() { e.since = 0 }

// Read implements io.Reader.
func (e *entryReader) Read(p []byte) (int, error) {
	if e.since > maxEntry {
		e.err = errEntrySize
		return 0, e.err
	}
	n, err := e.r.Read(p)
	e.total += int64(n)
	e.since += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		e.err = err
	}
	return n, err
}

type manifestParser struct {
	in    *entryReader
	json  *json.Decoder
	m     contracts.Manifest
	small map[string]json.RawMessage // the fields that are no lists
	seen  map[string]bool            // fields

	misnamed []Problem // attachments
}

// object reads the one object that a manifest is.
func (p *manifestParser) object() error {
	if err := p.expect('{'); err != nil {
		return err
	}
	for p.json.More() {
		p.in.begin()
		token, err := p.json.Token()
		if err != nil {
			return notJSON(err)
		}
		name, _ := token.(string)
		if p.seen[name] {
			return fmt.Errorf("field %.80q is given twice", name)
		}
		if err := p.field(name); err != nil {
			return err
		}
	}
	if err := p.expect('}'); err != nil {
		return err
	}
	switch _, err := p.json.Token(); {
	case err == nil:
		return errors.New("there is more than one JSON value")
	case !errors.Is(err, io.EOF):
		return notJSON(err)
	}
	return nil
}

// field reads the value of one field.
func (p *manifestParser) field(name string) error {
	switch name {
	case "tables":
		p.seen[name] = true
		return p.tables()
	case "attachments":
		p.seen[name] = true
		return list(p, name, func(a contracts.Attachment) error {
			switch {
			case a.File == "": // compared with nothing
			case a.File == contracts.AttachmentFile(a.ID, a.Filename):
				p.m.Attachments = append(p.m.Attachments, contracts.Attachment{ID: a.ID, File: a.File})
			case len(p.misnamed) < maxProblems:
				p.misnamed = append(p.misnamed, notNameOf(a.File, a.ID))
			}
			return nil
		})
	case "gaps":
		p.seen[name] = true
		return list(p, name, func(g contracts.Gap) error {
			if g.Reason == "" {
				return errors.New("a gap without a reason")
			}
			p.m.Gaps = append(p.m.Gaps, g)
			return nil
		})
	case "volumes":
		p.seen[name] = true
		return list(p, name, func(v contracts.Volume) error {
			if v.Name == "" || v.CRC64NVME == "" || v.Size < 0 {
				return errors.New("a volume without a name, a size or a checksum")
			}
			if len(p.m.Volumes) == maxObjects {
				return fmt.Errorf("more than %d volumes", maxObjects)
			}
			p.m.Volumes = append(p.m.Volumes, v)
			return nil
		})
	case "files":
		p.seen[name] = true
		return p.files()
	case "version", "tenant", "job", "attempt", "only", "format", "requested_at", "snapshot", "excluded", "filter", "totals", "producer", "trace_id":
		p.seen[name] = true
		var value json.RawMessage
		if err := p.json.Decode(&value); err != nil {
			return notJSON(err)
		}
		p.small[name] = value
		return nil
	}
	return p.skip()
}

func (p *manifestParser) tables() error {
	names := map[string]bool{}
	return list(p, "tables", func(t contracts.Table) error {
		switch {
		case t.Name == "":
			return errors.New("a table without a name")
		case names[t.Name]:
			return fmt.Errorf("table %.80q is named twice", t.Name)
		case len(t.Columns) > maxColumns:
			return fmt.Errorf("table %.80q has %d columns, PostgreSQL allows %d", t.Name, len(t.Columns), maxColumns)
		case t.Rows < 0:
			return fmt.Errorf("table %.80q has %d rows", t.Name, t.Rows)
		case len(names) == maxTables:
			return fmt.Errorf("more than %d tables", maxTables)
		}
		names[t.Name] = true
		for i := range t.Columns { // only the names are compared
			t.Columns[i].Type = ""
		}
		p.m.Tables = append(p.m.Tables, t)
		return nil
	})
}

func (p *manifestParser) files() error {
	volumes := map[string]string{} // so that a name is in memory once
	return list(p, "files", func(f contracts.File) error {
		if f.Name == "" || f.Volume == "" || len(f.SHA256) != 64 || f.Size < 0 || f.Rows < 0 {
			return fmt.Errorf("file %.80q lacks a name, a volume, a size or a digest", f.Name)
		}
		if _, known := volumes[f.Volume]; !known {
			volumes[f.Volume] = f.Volume
		}
		f.Volume = volumes[f.Volume]
		p.m.Files = append(p.m.Files, f)
		return nil
	})
}

// list reads an array, one entry after another.
func list[T any](p *manifestParser, name string, keep func(T) error) error {
	token, err := p.json.Token()
	if err != nil {
		return notJSON(err)
	}
	if token == nil { // null
		return nil
	}
	if token != json.Delim('[') {
		return fmt.Errorf("not the expected JSON: %s is no list", name)
	}
	for p.json.More() {
		p.in.begin()
		var entry T
		if err := p.json.Decode(&entry); err != nil {
			return notJSON(fmt.Errorf("%s: %w", name, err))
		}
		if err := keep(entry); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return p.expect(']')
}

// skip reads the value of a field that a later release may write.
func (p *manifestParser) skip() error {
	for depth := 0; ; {
		p.in.begin()
		token, err := p.json.Token()
		if err != nil {
			return notJSON(err)
		}
		switch token {
		case json.Delim('['), json.Delim('{'):
			depth++
		case json.Delim(']'), json.Delim('}'):
			depth--
		}
		switch {
		case depth == 0:
			return nil
		case depth > maxDepth:
			return fmt.Errorf("it is nested deeper than %d levels", maxDepth)
		}
	}
}

func (p *manifestParser) expect(want json.Delim) error {
	token, err := p.json.Token()
	if err != nil {
		return notJSON(err)
	}
	if token != want {
		return fmt.Errorf("not the expected JSON: %q is missing", want)
	}
	return nil
}

// head decodes the fields that are no lists, as [contracts.DecodeManifest] does.
func (p *manifestParser) head() error {
	data, err := json.Marshal(p.small)
	if err != nil {
		return err
	}
	head, err := contracts.DecodeManifest(data)
	if err != nil {
		return err
	}
	head.Tables, head.Attachments, head.Gaps, head.Volumes, head.Files = p.m.Tables, p.m.Attachments, p.m.Gaps, p.m.Volumes, p.m.Files
	p.m = head
	return nil
}

func notJSON(err error) error {
	if errors.Is(err, errEntrySize) {
		return errEntrySize
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("not the expected JSON: %w", err)
}
