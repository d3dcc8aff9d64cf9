package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const root = "../.."

// TestEveryBugApplies finds bugs whose text is no longer in the code, or which cannot be told apart, before a campaign
// of half an hour does.
func TestEveryBugApplies(t *testing.T) {
	names := map[string]bool{}
	for _, b := range allBugs() {
		if names[b.name] {
			t.Errorf("two bugs are called %s", b.name)
		}
		names[b.name] = true
		if _, err := b.overlay(root, t.TempDir()); err != nil {
			t.Errorf("%s: %v", b.name, err)
		}
		if pkg, _ := b.test(); !isFolder(filepath.Join(root, pkg)) {
			t.Errorf("%s: there is no package %s", b.name, pkg)
		}
	}
	if len(names) < 25 {
		t.Errorf("there are only %d bugs", len(names))
	}
}

// TestEveryPromiseHasABug also holds the table of TESTING.md against the bugs.
func TestEveryPromiseHasABug(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root, "TESTING.md"))
	if err != nil {
		t.Fatal(err)
	}
	for n, p := range promises {
		if want := fmt.Sprintf("I%d", n+1); p.invariant != want || len(p.bugs) == 0 {
			t.Errorf("%s stands where %s and its bugs should", p.invariant, want)
		}
		var names []string
		for _, b := range p.bugs {
			names = append(names, b.name)
		}
		_, row, _ := strings.Cut(string(page), "\n| "+p.invariant+" | ")
		row, _, _ = strings.Cut(row, "\n")
		if want := "| " + strings.Join(names, "; ") + " |"; !strings.HasSuffix(row, want) {
			t.Errorf("in TESTING.md the row of %s does not end with %s, but: %s", p.invariant, want, row)
		}
	}
	if len(promises) != 15 {
		t.Errorf("there are %d promises", len(promises))
	}
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
