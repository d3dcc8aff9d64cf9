package uploader

import (
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/snapfleet/snapfleet/contracts"
)

// addsUp checks a manifest against itself: every table and attachment has its files, every file belongs
// to one, and the sums are right. The writer asks before it signs, and the reader before it believes.
func addsUp(m contracts.Manifest) (bad []Problem) {
	say := func(volume, file, format string, args ...any) {
		if len(bad) == 2*maxProblems { // of a manifest that says what it likes
			return
		}
		bad = append(bad, Problem{Volume: volume, File: file, What: fmt.Sprintf(format, args...)})
	}

	volumes := make(map[string]contracts.Volume, len(m.Volumes))
	bytes := int64(0)
	for _, v := range m.Volumes {
		if _, twice := volumes[v.Name]; twice {
			say(v.Name, "", "the manifest names the volume twice")
		}
		if m.Only != "" && v.Kind != m.Only {
			say(v.Name, "", "a volume of %s, though only %s were asked for", v.Kind, m.Only)
		}
		if !fs.ValidPath(v.Name) || v.Name == contracts.ManifestName {
			say(v.Name, "", "not the name of a volume")
		}
		volumes[v.Name] = v
		bytes += v.Size
	}
	for _, why := range nameVolumes(m) {
		say("", "", "%s", why)
	}

	rows := make(map[string]int64)      // of a table
	pieces := make(map[string]int)      // files of a table
	attached := make(map[string]string) // attachment's id -> file
	inside := make(map[string]int)      // files of a volume
	names := make(map[contracts.Kind]map[string]bool)
	attachments := 0
	for _, f := range m.Files {
		v, known := volumes[f.Volume]
		if !known {
			say(f.Volume, f.Name, "the file is in a volume that the manifest does not name")
			continue
		}
		inside[f.Volume]++
		if names[v.Kind] == nil {
			names[v.Kind] = map[string]bool{}
		}
		if names[v.Kind][f.Name] {
			say(f.Volume, f.Name, "the manifest names the file twice")
		}
		names[v.Kind][f.Name] = true
		if v.Kind == contracts.Tables {
			if !strings.HasSuffix(f.Name, "."+string(m.Format)) {
				say(f.Volume, f.Name, "it is not called as a file in %s is", m.Format)
			}
			rows[f.Of] += f.Rows
			pieces[f.Of]++
			continue
		}
		attachments++
		attached[f.Of] = f.Name
		if f.Rows != 0 {
			say(f.Volume, f.Name, "an attachment with rows")
		}
	}
	for _, v := range m.Volumes {
		if inside[v.Name] != v.Files {
			say(v.Name, "", "the manifest gives it %d files and lists %d", v.Files, inside[v.Name])
		}
	}

	total := int64(0)
	for _, t := range m.Tables {
		switch n, found := pieces[t.Name]; {
		case !found && m.Only != contracts.Attachments:
			say("", "", "table %q has no file", t.Name)
		case n > 0 && rows[t.Name] != t.Rows:
			say("", "", "table %q has %d rows, its files have %d", t.Name, t.Rows, rows[t.Name])
		}
		delete(pieces, t.Name)
		total += t.Rows
	}
	for _, name := range slices.Sorted(maps.Keys(pieces)) {
		say("", "", "there are files of %q, which is no table of the manifest, or is named twice", name)
	}
	for _, at := range m.Attachments {
		if at.File == "" {
			continue
		}
		if attached[at.ID] != at.File {
			say("", at.File, "attachment %q has no such file", at.ID)
		}
		delete(attached, at.ID)
	}
	for _, id := range slices.Sorted(maps.Keys(attached)) {
		say("", attached[id], "a file of %q, which is no attachment of the manifest, or is named twice", id)
	}

	want := contracts.Totals{
		Tables: len(m.Tables), Rows: total, Attachments: attachments,
		Gaps: len(m.Gaps), Volumes: len(m.Volumes), Bytes: bytes,
	}
	want.AttachmentsExcluded, want.UnmatchedPatterns = m.Totals.AttachmentsExcluded, m.Totals.UnmatchedPatterns // sums of nothing
	if m.Totals != want {
		say("", "", "the totals are %+v, they should be %+v", m.Totals, want)
	}
	return bad
}

// nameVolumes says what is wrong with the names of the volumes: of each kind that was asked for there is
// one without a number, or 1, 2, 3 ...
func nameVolumes(m contracts.Manifest) (wrong []string) {
	of := map[contracts.Kind][]string{}
	for _, v := range m.Volumes {
		of[v.Kind] = append(of[v.Kind], v.Name)
	}
	request := contracts.Request{Only: m.Only}
	for _, kind := range []contracts.Kind{contracts.Tables, contracts.Attachments} {
		names := of[kind]
		if request.Wants(kind) && len(names) == 0 {
			wrong = append(wrong, fmt.Sprintf("there is no volume of %s", kind))
		}
		for i, name := range names {
			if name == contracts.VolumeName(kind, m.Job, 0) && len(names) == 1 {
				continue
			}
			if want := contracts.VolumeName(kind, m.Job, i+1); name != want {
				wrong = append(wrong, fmt.Sprintf("volume %d of %s is named %q, not %q", i+1, kind, name, want))
			}
		}
		delete(of, kind)
	}
	for _, kind := range slices.Sorted(maps.Keys(of)) {
		wrong = append(wrong, fmt.Sprintf("volumes of %q: no such kind", kind))
	}
	return wrong
}
