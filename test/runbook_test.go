package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestRunbookCommands runs every command of the runbook as it is written, against a fleet in which a job was delivered, one
// was refused and one waits.
func TestRunbookCommands(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(root, "deploy", "runbook.md"))
	if err != nil {
		t.Fatal(err)
	}
	f := newFleet(t, "runbook", little("runbook"))
	f.set("--format=jsonl.gz")
	f.run("schedule", "set", f.tenant, "--cron=0 2 * * *", "--timezone=UTC")
	f.work("worker")
	f.submit("2026-03-31-143022", "--only=tables")
	f.delivered("2026-03-31-143022")
	dir := t.TempDir()
	if err := os.Symlink(binary, filepath.Join(dir, "snapfleet")); err != nil {
		t.Fatal(err)
	}
	blocks := fencedBlocks(string(text))["sh"]
	if len(blocks) < 15 {
		t.Fatalf("the runbook has %d blocks for a shell", len(blocks))
	}
	// In the order of the page, but each pause of the fleet is ended at once.
	for _, block := range blocks {
		for line := range strings.Lines(strings.ReplaceAll(block, "acme", f.tenant)) {
			line = strings.TrimSpace(line)
			if line == "" {
				continue
			}
			cmd := exec.CommandContext(t.Context(), "bash", "-c", line)
			cmd.Dir, cmd.Env = dir, append(slices.Clone(f.env), "PATH="+dir+":"+os.Getenv("PATH"))
			out, _ := cmd.CombinedOutput()
			// 1: a schedule is overdue. 3, 4: there is no such letter, or it cannot be replayed. 2 would be a command that is
			// not taken, and 7 one that does not get through.
			if code := cmd.ProcessState.ExitCode(); !slices.Contains([]int{0, 1, 3, 4}, code) {
				t.Errorf("%s: exit status %d\n%s", line, code, out)
			}
		}
	}
	f.run("resume", "--fleet")
}
