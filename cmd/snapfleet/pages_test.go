package main

import (
	"bytes"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// pageCommand is a call of snapfleet at the beginning of a line of a code block, after a prompt or not.
var pageCommand = regexp.MustCompile(`(?m)^(?:\$ )?(?:docker compose -f \S+ run --rm )?(snapfleet(?: [^\n]*)?)$`)

// inlineCommand is a call of snapfleet within a sentence.
var inlineCommand = regexp.MustCompile("`(snapfleet [^`\n]+)`")

// TestEveryCommandOfAPageIsTaken finds the calls of snapfleet on every page, and has each read by the program's own
// grammar: a verb, flag or value that does not exist is an error of the page.
func TestEveryCommandOfAPageIsTaken(t *testing.T) {
	t.Parallel()
	found := 0
	for _, name := range markdownPages(t) {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, call := range callsOf(string(text)) {
			found++
			if err := readByTheGrammar(t, call); err != nil {
				t.Errorf("%s: %s: %v", name, call, err)
			}
		}
	}
	if found < 80 {
		t.Errorf("only %d calls were found", found)
	}
}

func markdownPages(t *testing.T) (pages []string) {
	t.Helper()
	err := filepath.WalkDir(house, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(path) == ".md" && entry.Name() != "CHANGELOG.md" {
			pages = append(pages, path)
		}
		return err
	})
	if err != nil || len(pages) < 8 {
		t.Fatalf("%d pages: %v", len(pages), err)
	}
	return pages
}

// callsOf are complete calls: within sentences a page also speaks of verbs without their arguments.
func callsOf(text string) (calls []string) {
	for i, part := range strings.Split(text, "\n```") {
		if i%2 == 1 { // a code block
			part = strings.ReplaceAll(part, "\\\n", " ")
			for _, m := range pageCommand.FindAllStringSubmatch(part, -1) {
				calls = append(calls, m[1])
			}
			continue
		}
		for _, m := range inlineCommand.FindAllStringSubmatch(part, -1) {
			if !strings.ContainsAny(m[1], "<>|[…") {
				calls = append(calls, m[1])
			}
		}
	}
	return calls
}

// readByTheGrammar parses a call as a shell and then this program would. A verb that is named without its arguments is
// no error, because a sentence may do so.
func readByTheGrammar(t *testing.T, call string) error {
	t.Helper()
	split := exec.CommandContext(t.Context(), "bash", "-c", `printf '%s\0' `+strings.TrimPrefix(strings.TrimSuffix(strings.TrimSpace(call), "&"), "snapfleet"))
	out, err := split.Output()
	if err != nil {
		return err
	}
	args := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
	if len(args) == 1 && args[0] == "" {
		return nil
	}
	var said bytes.Buffer
	parser := newParser(new(cli), newConsole(os.Stdin, os.Stdout, os.Stderr))
	parser.Exit, parser.Stdout, parser.Stderr = func(int) {}, io.Discard, io.Discard // for --help
	_, err = parser.Parse(args)
	if err != nil {
		said.WriteString(err.Error())
	}
	for _, incomplete := range []string{"expected one of", `expected "<`, "missing flags"} {
		if strings.Contains(said.String(), incomplete) {
			return nil
		}
	}
	return err
}
