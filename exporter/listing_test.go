package exporter

import (
	"fmt"
	"testing"

	"github.com/snapfleet/snapfleet/test/bucket"
)

// asked counts what the store was asked for in the files' bucket since then.
func (f *files) asked(since int) (lists, heads int) {
	f.t.Helper()
	for _, c := range store.Calls()[since:] {
		switch {
		case c.Bucket != f.name:
		case c.Operation == "ListObjectsV2":
			lists++
			if prefix := c.Query.Get("prefix"); prefix != "files/acme/" {
				f.t.Errorf("a list of %q", prefix)
			}
		case c.Operation == "HeadObject":
			heads++
		}
	}
	return lists, heads
}

// TestListsSpareHeads: many files are planned by a list; what it leaves open is asked for, and who may not list asks
// for every file. The archive is the same.
func TestListsSpareHeads(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	for i := range 30 {
		f.put(fmt.Sprintf("%c%d", 'a'+i%7, i), "x", random(100+i))
	}
	f.exec("UPDATE file_attachments SET s3_etag = NULL WHERE id = 'a0'")
	f.put("changed", "x", []byte("old"))
	f.exec("UPDATE file_attachments SET s3_etag = 'another' WHERE id = 'changed'")
	f.row("missing", "x", f.name, "files/acme/missing", "")

	var bytes int64
	for _, c := range []struct {
		name         string
		fault        *bucket.Fault
		lists, heads int
	}{
		{"by a list", nil, 1, 2},
		{"without the right to list", &bucket.Fault{Match: func(c bucket.Call) bool { return c.Bucket == f.name && c.Operation == "ListObjectsV2" }, Reply: bucket.Reply{Status: 403, Code: "AccessDenied"}}, 1, 32},
		{"by a list at the second try", &bucket.Fault{
			Match: func(c bucket.Call) bool { return c.Bucket == f.name && c.Operation == "ListObjectsV2" },
			Times: 1, Reply: bucket.Reply{Status: 503, Code: "SlowDown"},
		}, 2, 2},
	} {
		since := len(store.Calls())
		var fault *bucket.Injected
		if c.fault != nil {
			fault = store.Inject(*c.fault)
		}
		s, archive := f.plan()
		if fault != nil {
			fault.Remove()
		}
		lists, heads := f.asked(since)
		if lists != c.lists || heads != c.heads {
			t.Errorf("%s: %d lists and %d HEADs", c.name, lists, heads)
		}
		gaps := map[string]string{}
		for _, g := range s.Contents().Gaps {
			gaps[g.ID] = g.Reason
		}
		if len(gaps) != 2 || gaps["changed"] != string(gapChanged) || gaps["missing"] != string(gapMissing) {
			t.Errorf("%s: gaps: %v", c.name, gaps)
		}
		if bytes == 0 {
			bytes = archive.Bytes
		}
		if n := len(write(t, archive, 0)); n != 30 || archive.Bytes != bytes {
			t.Errorf("%s: %d files, %d bytes, not %d", c.name, n, archive.Bytes, bytes)
		}
	}
}
