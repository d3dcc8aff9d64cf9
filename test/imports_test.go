// Package test holds what concerns more than one package.
package test

import (
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/snapfleet/snapfleet"

// list is what `go list` prints for the packages, one a line.
func list(t *testing.T, format string, packages ...string) []string {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-f", format}, packages...)...)
	cmd.Dir = root // the S3 server changes the working directory
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", cmd, err)
	}
	return strings.Fields(string(out))
}

// The house: cmd -> consumer, exporter, uploader, deploy/customer -> contracts -> the standard library. Tests may look
// wherever they need to, production code may not.
func TestImports(t *testing.T) {
	t.Parallel()
	allowed := map[string][]string{
		"contracts":       {},
		"consumer":        {"contracts"},
		"exporter":        {"contracts"},
		"uploader":        {"contracts"},
		"deploy/customer": {"contracts"},
		// Programs that only the Makefile runs.
		"deploy/image":              {},
		"deploy/kubernetes/schemas": {},
		"cmd/snapfleet":             {"contracts", "consumer", "exporter", "uploader", "deploy/customer"},
	}
	for name, may := range allowed {
		imports := list(t, `{{join .Imports "\n"}}`, "./"+name)
		if len(imports) == 0 {
			t.Errorf("%s imports nothing: is this the right package?", name)
		}
		for _, path := range imports {
			inside, ours := strings.CutPrefix(path, module+"/")
			ok := !ours
			for _, m := range may {
				ok = ok || inside == m
			}
			if !ok {
				t.Errorf("%s imports %s", name, path)
			}
			if first, _, _ := strings.Cut(path, "/"); (name == "contracts" || name == "deploy/customer") && !ours && strings.Contains(first, ".") {
				t.Errorf("%s imports %s, which is not of the standard library", name, path)
			}
		}
	}
	// Folders that hold only tests import what they like. The binary is elsewhere.
	if found := list(t, "{{if .GoFiles}}{{.ImportPath}}{{end}}", "./consumer/...", "./exporter/...", "./uploader/...", "./contracts/...", "./deploy/..."); len(found) != len(allowed)-1 {
		t.Errorf("packages that this test does not know: %v", found)
	}
}

// What only demo and tests need is not linked into the binary that customers' auditors read.
func TestBinaryDoesNotLinkTheEmulator(t *testing.T) {
	t.Parallel()
	deps := list(t, "{{join .Deps \"\\n\"}}", "./cmd/snapfleet")
	if len(deps) < 100 {
		t.Fatalf("only %d dependencies: is this the right package?", len(deps))
	}
	for _, path := range deps {
		for _, no := range []string{"github.com/versity/versitygw", "github.com/nats-io/nats-server", "github.com/fergusstrange/embedded-postgres", module + "/test", "testing"} {
			if path == no || strings.HasPrefix(path, no+"/") {
				t.Errorf("cmd/snapfleet links %s", path)
			}
		}
	}
}
