package exporter

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/snapfleet/snapfleet/contracts"
)

// kept is what an attempt has kept that stopped at a place.
func kept(s *Snapshot, files int, under string, offset int64) contracts.Checkpoint {
	v := contracts.Packed{Kind: contracts.Attachments, Mark: contracts.Mark{Of: under, Offset: offset}}
	for _, f := range s.files {
		if f.stored() && f.gap == "" && len(v.Files) < files {
			v.Files = append(v.Files, contracts.File{Of: f.id()})
		}
	}
	return contracts.Checkpoint{Plan: s.Plan(), Objects: s.Objects(), Gaps: s.LateGaps(), Volumes: []contracts.Packed{v}}
}

// seen are the requests for this tenant's files since a number of calls.
func (f *files) seen(operation string, since int) (ids []string) {
	for _, c := range store.Calls()[since:] {
		if c.Operation == operation && c.Bucket == f.name {
			ids = append(ids, c.Key[strings.LastIndexByte(c.Key, '/')+1:])
		}
	}
	return ids
}

// TestResumedAttachments: whoever goes on asks no database, asks the store for nothing that is delivered, and
// delivers the rest as it was planned.
func TestResumedAttachments(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	bodies := map[string][]byte{}
	for i := range 12 {
		id := fmt.Sprintf("f%02d", i)
		bodies[id] = random(1000 * i * i)
		f.put(id, "näme", bodies[id])
	}
	f.row("external", "elsewhere.txt", "", "", "")
	f.row("f03-missing", "m", f.name, "files/acme/nothing", "")
	first, archive := f.plan()
	whole := write(t, archive, 0)
	want := first.Contents()
	must(t, first.Close())
	f.exec("DROP TABLE file_attachments") // nobody will look at it

	db := f.db.Copy()
	db.Port = 1 // nobody is there
	for _, at := range []struct {
		files  int
		under  string
		offset int64
		gets   int
	}{{0, "", 0, 12}, {1, "f01", 0, 11}, {5, "", 0, 7}, {5, "f05", 7_000, 7}, {11, "f11", 120_999, 1}, {11, "f11", 121_000, 0}, {12, "", 0, 0}} {
		before := len(store.Calls())
		s, err := New(db, f.client, f.cfg).Resume(t.Context(), attempt("acme"), kept(first, at.files, at.under, at.offset))
		must(t, err)
		archive, err := s.Attachments(t.Context())
		must(t, err)
		n := at.files
		for m, err := range archive.Members {
			must(t, err)
			var body bytes.Buffer
			_, err := m.Write(t.Context(), &body, 0)
			must(t, err)
			as := whole[n].member
			offset := int64(0)
			if m.Of == at.under {
				offset = at.offset
			}
			if m.Of != as.Of || m.Name != as.Name || m.Size != as.Size || !m.ModTime.Equal(as.ModTime) || m.Offset != offset || !bytes.Equal(body.Bytes(), bodies[m.Of][offset:]) {
				t.Errorf("%+v: %+v with %d bytes", at, m, body.Len())
			}
			n++
		}
		if n != len(whole) {
			t.Errorf("%+v: it ends at file %d of %d", at, n, len(whole))
		}
		if got := s.Contents(); fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
			t.Errorf("%+v: contents\n%+v, want\n%+v", at, got, want)
		}
		if gets := f.seen("GetObject", before); len(gets) != at.gets {
			t.Errorf("%+v: fetched %q", at, gets)
		}
		if heads := f.seen("HeadObject", before); len(heads) > 0 {
			t.Errorf("%+v: asked again for %q", at, heads)
		}
		if _, err := tryWrite(t.Context(), s.Tables(), 0); err == nil {
			t.Error("it can write tables")
		}
		must(t, s.Close())
	}
}

// TestResumedBeforePlanning: the first checkpoint may be all that is kept.
func TestResumedBeforePlanning(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	f.put("a", "x", []byte("one"))
	f.put("b", "x", []byte("three"))
	first, err := f.try(t.Context())
	must(t, err)
	must(t, first.Release(t.Context()))
	c := contracts.Checkpoint{Plan: first.Plan()}
	must(t, first.Close())
	s, err := New(f.db, f.client, f.cfg).Resume(t.Context(), attempt("acme"), c)
	must(t, err)
	defer s.Close()
	archive, err := s.Attachments(t.Context())
	must(t, err)
	if got := write(t, archive, 0); len(got) != 2 || string(got[1].data) != "three" {
		t.Errorf("%d files", len(got))
	}
}

// TestResumedWithGaps: a gap that an earlier worker has found stays one, and a file that is gone since becomes one,
// also the one in whose middle the archive goes on: it is left out, for the uploader to see.
func TestResumedWithGaps(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	for _, id := range []string{"a", "b", "c", "d"} {
		f.put(id, "x", random(1000))
	}
	first, archive := f.plan()
	remove := func(id string) {
		key := f.key(id)
		_, err := f.client.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &f.name, Key: &key})
		must(t, err)
	}
	remove("a")
	for m, err := range archive.Members { // stops at b
		must(t, err)
		if _, err := m.Write(t.Context(), io.Discard, 0); err != nil || m.Of != "b" {
			t.Fatal(m.Of, err)
		}
		break
	}
	if late := first.LateGaps(); len(late) != 1 || late[0].ID != "a" {
		t.Fatalf("late gaps: %+v", late)
	}
	c := kept(first, 1, "c", 500)
	for i := range c.Objects {
		c.Objects[i].Gap = "" // they were kept before
	}
	f.put("a2", "x", nil)
	remove("c")
	s, err := New(f.db, f.client, f.cfg).Resume(t.Context(), attempt("acme"), c)
	must(t, err)
	defer s.Close()
	rest, err := s.Attachments(t.Context())
	must(t, err)
	if got := write(t, rest, 0); len(got) != 1 || got[0].member.Of != "d" || got[0].member.Offset != 0 {
		t.Errorf("%d files", len(got))
	}
	gaps := ""
	for _, g := range s.Contents().Gaps {
		gaps += g.ID + " " + g.Reason + "; "
	}
	if gaps != "a missing; c missing; " || len(s.LateGaps()) != 2 {
		t.Errorf("gaps: %s", gaps)
	}
}

// TestNoPlanOfOddBytes: in a database without an encoding a key may be anything. What cannot be told exactly is not
// told at all.
func TestNoPlanOfOddBytes(t *testing.T) {
	t.Parallel()
	for text, ok := range map[string]bool{"files/acme/näme": true, "files/acme/n\xe4me": false} {
		s := &Snapshot{files: []file{newFile([][]byte{[]byte("1"), nil, nil, nil, []byte("b"), []byte(text), nil}, inOrder[:])}}
		if (s.Plan() != nil) != ok {
			t.Errorf("%q: %t", text, !ok)
		}
	}
}

// TestResumeRefuses what does not fit, and what this worker may not fetch, whatever was kept.
func TestResumeRefuses(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	f.put("a", "x", []byte("x"))
	first, _ := f.plan()
	for name, harm := range map[string]func(*contracts.Checkpoint){
		"no plan":        func(c *contracts.Checkpoint) { c.Plan = nil },
		"after nobody":   func(c *contracts.Checkpoint) { c.Volumes[0].Files[0].Of = "b" },
		"within nobody":  func(c *contracts.Checkpoint) { c.Volumes[0].Mark.Of = "b" },
		"a gap of none":  func(c *contracts.Checkpoint) { c.Gaps = []contracts.Gap{{ID: "b"}} },
		"before planned": func(c *contracts.Checkpoint) { c.Objects = nil },
		"forbidden":      func(c *contracts.Checkpoint) { c.Plan.Sources[0].Key = "files/other/a" },
	} {
		c := kept(first, 1, "", 0)
		harm(&c)
		_, err := New(f.db, f.client, f.cfg).Resume(t.Context(), attempt("acme"), c)
		if err == nil || isRejected(err, contracts.AttachmentForbidden) != (name == "forbidden") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
