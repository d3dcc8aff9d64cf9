package uploader

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/snapfleet/snapfleet/contracts"
)

// unpackedNames are the files and folders that unpacking the volumes makes, and unpacking the tables, too.
func unpackedNames(m contracts.Manifest) map[string]bool {
	names := make(map[string]bool, 2*len(m.Files))
	for _, f := range m.Files {
		first, _, _ := strings.Cut(f.Name, "/")
		names[first] = true
		if plain, zipped := strings.CutSuffix(first, ".gz"); zipped {
			names[plain] = true
		}
	}
	return names
}

func notNameOf(file, of string) Problem {
	return Problem{File: file, What: fmt.Sprintf("it is not the name of a file of %.80q", of)}
}

// misnamed are the tables' files whose names are not those that the layout gives them.
func misnamed(m contracts.Manifest) (bad []Problem) {
	kinds := make(map[string]contracts.Kind, len(m.Volumes))
	for _, v := range m.Volumes {
		kinds[v.Name] = v.Kind
	}
	names := make([]string, len(m.Tables))
	for i, t := range m.Tables {
		names[i] = t.Name
	}
	of := make(map[string]string, len(names))
	for i, name := range contracts.TableFiles(names, m.Format) {
		of[names[i]] = name
	}
	for _, f := range m.Files {
		if name, known := of[f.Of]; known && kinds[f.Volume] == contracts.Tables && f.Name != name && !partOf(name, f.Name) {
			bad = append(bad, notNameOf(f.Name, f.Of))
		}
		if len(bad) == maxProblems {
			break
		}
	}
	return bad
}

// partOf reports whether part is the name of some piece of the file that is called name.
func partOf(name, part string) bool {
	before, after, _ := strings.Cut(contracts.PartFile(name, 7), "_part7")
	middle, ok := strings.CutPrefix(part, before+"_part")
	n, err := strconv.Atoi(strings.TrimSuffix(middle, after))
	return ok && err == nil && n > 0 && contracts.PartFile(name, n) == part
}
