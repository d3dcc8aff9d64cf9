package main

import (
	"path"
	"strings"
)

// bug is a deliberate mistake: a substitution in one file, and the test that has to notice. It is applied by an
// overlay; the tree is never touched. The tests are tested with them: every rule that is easily forgotten is broken, one at
// a time.
type bug struct {
	name     string
	file     string // from the repository's root
	old, new string // old stands in the file exactly once
	// run is the narrowest and fastest test that notices: of the file's package, or of another one that stands before
	// it ("./test ^TestX$"), or cases of the campaign over real processes ("case ^undisturbed$").
	run string
}

// inCampaign begins what is run as cases of the campaign.
const inCampaign = "case "

// test is the package whose tests have to notice, and which.
func (b bug) test() (pkg, run string) {
	if strings.HasPrefix(b.run, inCampaign) {
		return "./test", b.run
	}
	if pkg, run, elsewhere := strings.Cut(b.run, " "); elsewhere {
		return pkg, run
	}
	return "./" + path.Dir(b.file), b.run
}
