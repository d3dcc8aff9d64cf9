package uploader

import (
	"fmt"
	"testing"

	"github.com/snapfleet/snapfleet/contracts"
)

// What is wrong with a manifest is named in the same order in every run, so that the same manifest has the same error.
func TestProblemsOfAManifestHaveAnOrder(t *testing.T) {
	t.Parallel()
	m := contracts.Manifest{Job: "j", Format: contracts.CSV, Volumes: []contracts.Volume{
		{Name: "snapshot_tables_j.tar", Kind: contracts.Tables, Files: 3},
		{Name: "snapshot_attachments_j.tar", Kind: contracts.Attachments, Files: 3},
		{Name: "x.tar", Kind: "x"},
		{Name: "y.tar", Kind: "y"},
		{Name: "z.tar", Kind: "z"},
	}}
	for _, name := range []string{"c", "a", "b"} {
		m.Files = append(m.Files,
			contracts.File{Name: name + ".csv.gz", Volume: "snapshot_tables_j.tar", Of: name},
			contracts.File{Name: name + "/f", Volume: "snapshot_attachments_j.tar", Of: name})
	}
	want := fmt.Sprint(addsUp(m))
	for range 50 {
		if got := fmt.Sprint(addsUp(m)); got != want {
			t.Fatalf("once\n%s\nthen\n%s", want, got)
		}
	}
}
