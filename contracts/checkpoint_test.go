package contracts_test

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
)

const kept = "3-9f86d081884c7d65"

func parts(from, to int) (list []contracts.Part) {
	for n := from; n < to; n++ {
		list = append(list, contracts.Part{ETag: fmt.Sprint(n), CRC64NVME: "AAAAAAAAAAA="})
	}
	return list
}

func files(volume string, from, to int) (list []contracts.File) {
	for n := from; n < to; n++ {
		list = append(list, contracts.File{Name: fmt.Sprintf("%d/f", n), Volume: volume, Of: fmt.Sprint(n), Size: 700, SHA256: "00"})
	}
	return list
}

// checkpoints are what an attempt keeps that delivers tables in one volume and attachments in two, and what they
// are together.
func checkpoints() (pieces []contracts.Checkpoint, whole contracts.Checkpoint) {
	plan := &contracts.Plan{
		Snapshot: contracts.Snapshot{At: time.Unix(1e9, 0).UTC(), XID: "1:2:"}, Excluded: []string{"views"},
		Filter:  contracts.Filtered{Tables: []string{"left"}, AttachmentsSince: time.Unix(9e8, 0).UTC(), AttachmentsLeftOut: 5},
		Tables:  []contracts.Table{{Name: "t", Rows: 3, Columns: []contracts.Column{{Name: "a", Type: "text"}}}},
		Sources: []contracts.Source{{ID: "0", Bucket: "b", Key: "k", Filename: "f"}, {ID: "1", Bucket: "b", Key: "k2"}, {ID: "2"}},
	}
	objects := []contracts.Object{{ETag: "e", Size: 700, Modified: 1e9}, {ETag: "e2", Size: 700}, {}}
	tables := contracts.Packed{
		Kind: contracts.Tables, Closed: true, Files: []contracts.File{{Name: "t.jsonl.gz", Volume: "tables", Of: "t", Size: 9, Rows: 3}},
		Upload: contracts.Upload{Name: "tables", ID: "i", Size: 1536, CRC64NVME: "c", Parts: parts(0, 2)},
	}
	first := contracts.Packed{Index: 1, Kind: contracts.Attachments, Limit: 4096, Upload: contracts.Upload{Name: "one", ID: "j"}}
	second := contracts.Packed{Index: 2, Kind: contracts.Attachments, Limit: 4096, Upload: contracts.Upload{Name: "two", ID: "k"}}

	begun, ended, next := first, first, second
	begun.Upload.Parts, begun.Upload.Size, begun.Files = parts(0, 2), 2048, files("one", 0, 1)
	begun.Mark = contracts.Mark{Of: "1", Skip: 800, Offset: 288, Digest: []byte("state")}
	ended.FirstPart, ended.Upload.Parts, ended.Upload.Size, ended.Upload.CRC64NVME = 2, parts(2, 4), 3500, "d"
	ended.FirstFile, ended.Files, ended.Closed = 1, files("one", 1, 3), true
	next.Upload.Parts, next.Upload.Size, next.Mark = parts(0, 1), 1024, contracts.Mark{Of: "3", Skip: 1024, Offset: 512, Digest: []byte("more")}

	pieces = []contracts.Checkpoint{
		{Attempt: kept, Plan: plan, Format: contracts.JSONL, PartBytes: 1024, Volumes: []contracts.Packed{tables}},
		{Attempt: kept, Objects: objects},
		{Attempt: kept, PartBytes: 1024, Volumes: []contracts.Packed{begun}, Gaps: []contracts.Gap{{ID: "9", Reason: "missing"}}},
		{Attempt: kept, PartBytes: 1024, Volumes: []contracts.Packed{ended, next}},
	}
	ended.FirstPart, ended.Upload.Parts, ended.FirstFile, ended.Files = 0, parts(0, 4), 0, files("one", 0, 3)
	whole = contracts.Checkpoint{
		Version: contracts.CheckpointVersion, Attempt: kept, Plan: plan, Objects: objects, Format: contracts.JSONL, PartBytes: 1024,
		Gaps: pieces[2].Gaps, Volumes: []contracts.Packed{tables, ended, next},
	}
	return pieces, whole
}

func encoded(t testing.TB, pieces ...contracts.Checkpoint) (all [][]byte) {
	t.Helper()
	for _, p := range pieces {
		data, err := p.Encode()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, data)
	}
	return all
}

func TestCheckpointsAddUp(t *testing.T) {
	pieces, want := checkpoints()
	got, err := contracts.JoinCheckpoints(kept, encoded(t, pieces...))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v\n%+v, want\n%+v", err, got, want)
	}
	for n, place := range []contracts.Place{{}, {}, {After: "0", Of: "1", Offset: 288}, {After: "2", Of: "3", Offset: 512}} {
		got, err := contracts.JoinCheckpoints(kept, encoded(t, pieces[:n+1]...))
		if err != nil || got.Place() != place {
			t.Errorf("after %d pieces it goes on at %+v, not %+v (%v)", n+1, got.Place(), place, err)
		}
	}
}

// TestCheckpointSaidTwice: a piece whose keeper never learned that it was kept is said again, with more.
func TestCheckpointSaidTwice(t *testing.T) {
	pieces, want := checkpoints()
	again := pieces[3]
	again.Volumes = slices.Clone(again.Volumes)
	v := &again.Volumes[0]
	v.FirstPart, v.Upload.Parts, v.FirstFile, v.Files = 0, parts(0, 4), 0, files("one", 0, 3)
	for name, kept3 := range map[string][]contracts.Checkpoint{
		"each twice":          {pieces[0], pieces[0], pieces[1], pieces[1], pieces[2], pieces[2], pieces[3], pieces[3]},
		"with what came then": {pieces[0], pieces[1], pieces[2], again},
		"never before":        {pieces[0], pieces[1], again},
	} {
		got, err := contracts.JoinCheckpoints(kept, encoded(t, kept3...))
		got.Gaps = want.Gaps
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v\n%+v, want\n%+v", name, err, got, want)
		}
	}
}

func TestCheckpointsThatDoNotFit(t *testing.T) {
	for name, change := range map[string]func([]contracts.Checkpoint) []contracts.Checkpoint{
		"none":            func([]contracts.Checkpoint) []contracts.Checkpoint { return nil },
		"no plan":         func(p []contracts.Checkpoint) []contracts.Checkpoint { return p[1:] },
		"another attempt": func(p []contracts.Checkpoint) []contracts.Checkpoint { p[3].Attempt = "4-x"; return p },
		"a piece missing": func(p []contracts.Checkpoint) []contracts.Checkpoint { return append(p[:2], p[3]) },
		"other order":     func(p []contracts.Checkpoint) []contracts.Checkpoint { p[2], p[3] = p[3], p[2]; return p },
		"taken back":      func(p []contracts.Checkpoint) []contracts.Checkpoint { return append(p, p[2]) },
		"another part":    func(p []contracts.Checkpoint) []contracts.Checkpoint { p[3].PartBytes = 512; return p },
		"no such format":  func(p []contracts.Checkpoint) []contracts.Checkpoint { p[0].Format = "xlsx"; return p },
		"no part size":    func(p []contracts.Checkpoint) []contracts.Checkpoint { p[0].PartBytes = 0; return p },
		"a huge part":     func(p []contracts.Checkpoint) []contracts.Checkpoint { p[0].PartBytes = 6 << 30; return p },
		"too few objects": func(p []contracts.Checkpoint) []contracts.Checkpoint { p[1].Objects = p[1].Objects[1:]; return p },
		"another upload":  func(p []contracts.Checkpoint) []contracts.Checkpoint { p[3].Volumes[0].Upload.ID = "z"; return p },
		"another limit":   func(p []contracts.Checkpoint) []contracts.Checkpoint { p[3].Volumes[0].Limit = 0; return p },
		"open tables":     func(p []contracts.Checkpoint) []contracts.Checkpoint { p[0].Volumes[0].Closed = false; return p },
		"two open":        func(p []contracts.Checkpoint) []contracts.Checkpoint { p[3].Volumes[0].Closed = false; return p },
		"half a part":     func(p []contracts.Checkpoint) []contracts.Checkpoint { p[2].Volumes[0].Upload.Size--; return p },
		"too large":       func(p []contracts.Checkpoint) []contracts.Checkpoint { p[3].Volumes[0].Upload.Size = 5000; return p },
		"no bytes":        func(p []contracts.Checkpoint) []contracts.Checkpoint { p[3].Volumes[0].Upload.Size = 0; return p },
		"before the file": func(p []contracts.Checkpoint) []contracts.Checkpoint { p[2].Volumes[0].Mark.Skip = -1; return p },
		"more than there": func(p []contracts.Checkpoint) []contracts.Checkpoint { p[2].Volumes[0].Mark.Offset = 900; return p },
		"another's file": func(p []contracts.Checkpoint) []contracts.Checkpoint {
			p[3].Volumes[0].Files[0].Volume = "two"
			return p
		},
		"a volume jumped": func(p []contracts.Checkpoint) []contracts.Checkpoint { p[2].Volumes[0].Index = 2; return p },
		"before the first": func(p []contracts.Checkpoint) []contracts.Checkpoint {
			p[2].Volumes[0].Index, p[2].Volumes[0].FirstPart = -1, -1
			return p
		},
	} {
		pieces, _ := checkpoints()
		if got, err := contracts.JoinCheckpoints(kept, encoded(t, change(pieces)...)); err == nil {
			t.Errorf("%s: accepted as %+v", name, got)
		}
	}
	pieces, _ := checkpoints()
	data := encoded(t, pieces[0])
	for _, damaged := range []string{"", "null", "[]", "{", strings.Replace(string(data[0]), `"version":1`, `"version":2`, 1)} {
		if _, err := contracts.JoinCheckpoints(kept, [][]byte{[]byte(damaged)}); err == nil {
			t.Errorf("accepted: %.80s", damaged)
		}
	}
}

// FuzzJoinCheckpoints gives any two pieces. What is accepted adds up, and says the same when it is one piece.
func FuzzJoinCheckpoints(f *testing.F) {
	pieces, _ := checkpoints()
	all := encoded(f, pieces...)
	f.Add(all[0], all[1])
	f.Add(encoded(f, func() contracts.Checkpoint { _, whole := checkpoints(); return whole }())[0], all[3])
	f.Add([]byte("{}"), []byte(""))
	f.Fuzz(func(t *testing.T, first, second []byte) {
		c, err := contracts.JoinCheckpoints(kept, [][]byte{first, second})
		if err != nil {
			return
		}
		for i, v := range c.Volumes {
			if parts := int64(len(v.Upload.Parts)); v.Index != i || v.Upload.Size > parts*int64(c.PartBytes) || v.Upload.Size <= (parts-1)*int64(c.PartBytes) ||
				i < len(c.Volumes)-1 && !v.Closed {
				t.Fatalf("volume %d: %+v", i, v)
			}
		}
		if p := c.Place(); p.Offset < 0 {
			t.Fatalf("%+v", p)
		}
		again, err := contracts.JoinCheckpoints(kept, encoded(t, c))
		if err != nil {
			t.Fatalf("accepted, written again, refused: %v", err)
		}
		if again.Place() != c.Place() || len(again.Volumes) != len(c.Volumes) {
			t.Fatalf("%+v\n%+v", again, c)
		}
	})
}
