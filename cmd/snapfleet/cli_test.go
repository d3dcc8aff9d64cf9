package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/snapfleet/snapfleet/contracts"
)

// model is the command line as kong knows it.
func model(t *testing.T) *kong.Application {
	t.Helper()
	return newParser(new(cli), newConsole(os.Stdin, os.Stdout, os.Stderr)).Model
}

// verbs are all commands that do something.
func verbs(t *testing.T) []*kong.Node { return model(t).Leaves(false) }

func TestEveryVerbHasAPageOfTheManual(t *testing.T) {
	t.Parallel()
	for _, node := range verbs(t) {
		if node.Hidden {
			continue
		}
		t.Run(node.Path(), func(t *testing.T) {
			t.Parallel()
			var args []string
			for n := node; n.Parent != nil; n = n.Parent {
				args = append([]string{n.Name}, args...)
			}
			r := snapfleet(t, nil, append(args, "--help")...)
			r.want(t, exitOK, "NAME snapfleet "+strings.Join(args, " ")+" - ", "USAGE", "EXIT STATUS", "0 done")
			if r.err != "" {
				t.Errorf("help writes to stderr: %s", r.err)
			}
			for line := range strings.Lines(r.out) {
				if len([]rune(line)) > plainWidth+1 && !strings.Contains(line, " $ ") {
					t.Errorf("line of %d columns: %s", len(line), line)
				}
			}
		})
	}
	snapfleet(t, nil).want(t, exitOK, "THE FLEET", "EXIT STATUS", "130 interrupted")
	snapfleet(t, nil, "tenant", "--help").want(t, exitOK, "COMMANDS", "set <tenant>")
}

func TestEveryFlagIsAVariable(t *testing.T) {
	t.Parallel()
	for _, node := range verbs(t) {
		for _, f := range node.Flags {
			if f.Name == "help" {
				continue
			}
			want := "SNAPFLEET_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
			if len(f.Envs) != 1 || f.Envs[0] != want {
				t.Errorf("%s --%s: variables %v, want %s", node.Path(), f.Name, f.Envs, want)
			}
			if f.Help == "" || !strings.HasSuffix(f.Help, ".") {
				t.Errorf("%s --%s: help %q is no sentence", node.Path(), f.Name, f.Help)
			}
		}
	}
}

// The fixes that rejections name are flags and verbs of this program.
func TestAdviceNamesFlagsThatExist(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	for _, node := range verbs(t) {
		known[node.FullPath()] = true
		for _, f := range node.Flags {
			known["--"+f.Name] = true
		}
	}
	found := 0
	for _, code := range contracts.Codes() {
		fix := strings.NewReplacer(",", " ", ";", " ", "`", " ").Replace(code.Advice().Fix)
		words := strings.Fields(fix)
		for i, word := range words {
			if strings.HasPrefix(word, "--") {
				found++
				if !known[word] {
					t.Errorf("%s: no verb has the flag %s", code, word)
				}
			}
			if word == "snapfleet" {
				found++
				if !known[strings.Join(words[i:min(i+2, len(words))], " ")] && !known[strings.Join(words[i:min(i+3, len(words))], " ")] {
					t.Errorf("%s: no such verb: %q", code, words[i:])
				}
			}
		}
	}
	if found < 5 {
		t.Errorf("only %d flags and verbs found in all advice", found)
	}
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	dsn := "SNAPFLEET_DATABASE_URL=postgres://u:" + secret + "@127.0.0.1:1/db"
	for _, c := range []struct {
		name  string
		env   []string
		args  []string
		code  int
		texts []string
	}{
		{"no such verb", nil, []string{"deliver"}, exitUsage, []string{"snapfleet: unexpected argument deliver", "try: snapfleet --help"}},
		{"no such flag", nil, []string{"submit", "acme", "--now"}, exitUsage, []string{"unknown flag --now", "try: snapfleet submit --help"}},
		{"argument missing", nil, []string{"submit"}, exitUsage, []string{"expected \"<tenant>\""}},
		{"flag missing", nil, []string{"export", "acme"}, exitUsage, []string{"missing flags: --to=DIR"}},
		{"not a number", nil, []string{"worker", "--slots=many"}, exitUsage, []string{"--slots"}},
		{"not a number in the environment", []string{"SNAPFLEET_SLOTS=many"}, []string{"worker"}, exitUsage, []string{"SNAPFLEET_SLOTS"}},
		{"not a size", nil, []string{"export", "acme", "--to=.", "--chunk-size=huge"}, exitUsage, []string{`"huge" is not a size such as 64MiB`}},
		{"not a choice", nil, []string{"submit", "acme", "--only=views"}, exitUsage, []string{"--only must be one of"}},
		{"no such format of a tenant", nil, []string{"tenant", "set", "acme", "--format=parquet"}, exitUsage, []string{`--format must be one of "csv.gz","jsonl.gz","" but got "parquet"`}},
		{"no such format of a request", nil, []string{"submit", "acme", "--format=jsonl"}, exitUsage, []string{`--format must be one of "csv.gz","jsonl.gz","" but got "jsonl"`}},
		{"no such format of an export", nil, []string{"export", "acme", "--to=.", "--format=csv"}, exitUsage, []string{`--format must be one of "csv.gz","jsonl.gz" but got "csv"`}},
		{"parts too small", []string{dsn}, []string{"worker", "--part-size=1MiB"}, exitUsage, []string{"--part-size is 1048576 bytes, S3 takes parts of 5MiB to 5GiB"}},
		{"not a source", nil, []string{"worker", "--attachments-source=files"}, exitUsage, []string{"is not BUCKET=PREFIX/"}},
		{"source without a folder", []string{dsn}, []string{"worker", "--attachments-source=files=x"}, exitUsage, []string{"a prefix that ends in a slash"}},
		{"replicas", nil, []string{"setup", "--replicas=7"}, exitUsage, []string{"JetStream takes 1 to 5"}},
		{"watch without a job", nil, []string{"status", "acme", "--watch"}, exitUsage, []string{"give a tenant and a job"}},
		{"job that is no job", nil, []string{"cancel", "acme", "a/b"}, exitUsage, []string{`job "a/b" is not 1 to 64 of`}},
		{"tenant that is no tenant", nil, []string{"tenant", "get", "../x"}, exitUsage, []string{`tenant "../x" is not`}},
		{"submit for no tenant", nil, []string{"submit", "../x"}, exitRejected, []string{`snapfleet: tenant "../x" is not`, "cause:", "fix:"}},
		{"job with a slash", nil, []string{"submit", "acme", "--job=a/b"}, exitRejected, []string{`job "a/b" is not`, "fix:"}},
		{"no NATS", nil, []string{"submit", "acme"}, exitUnreachable, []string{"snapfleet: nats://127.0.0.1:1: connect to NATS", "cause:", "fix:"}},
		{"no NATS, with a password", []string{"SNAPFLEET_NATS_URL=nats://u:" + secret + "@127.0.0.1:1"}, []string{"status"}, exitUnreachable, []string{"nats://***@127.0.0.1:1"}},
		{"no NATS for a worker", []string{dsn}, []string{"worker", "--listen="}, exitUnreachable, []string{"connect to NATS"}},
		{"no database", []string{dsn}, []string{"export", "acme", "--to=" + t.TempDir()}, exitUnreachable, nil},
		{"not a URL", []string{"SNAPFLEET_DATABASE_URL=postgres://u:" + secret + "@[::1/db"}, []string{"export", "acme", "--to=."}, exitUsage, []string{"--database-url"}},
		{"not a port", []string{"SNAPFLEET_DATABASE_URL=host=db password=" + secret + " port=many"}, []string{"export", "acme", "--to=."}, exitUsage, []string{"--database-url"}},
		{"schema that is no folder", []string{dsn}, []string{"export", "a b", "--to=."}, exitUsage, []string{"give --tenant"}},
		{"verify nothing", nil, []string{"verify", "/nonexistent/delivery"}, exitNotFound, []string{"cause: there is no such folder", "fix:"}},
		{"verify an empty folder", nil, []string{"verify", t.TempDir()}, exitUnproven, []string{"wrong: manifest.json: it is missing", "fix:"}},
		{"verify a bucket's root", nil, []string{"verify", "s3://bucket"}, exitUsage, []string{"is not s3://bucket/tenant/job/"}},
		{"verify without a region", nil, []string{"verify", "s3://bucket/t/j/"}, exitUsage, []string{"give --region"}},
		{"completion for no shell", nil, []string{"completion", "csh"}, exitUsage, []string{"bash"}},
		{"bash", nil, []string{"completion", "bash"}, exitOK, []string{"complete -o default -o bashdefault -C '" + binary + "' snapfleet"}},
		{"zsh", nil, []string{"completion", "zsh"}, exitOK, []string{"bashcompinit"}},
		{"what the shell asks", []string{"COMP_LINE=snapfleet tenant s", "COMP_POINT=18"}, nil, exitOK, []string{"set"}},
		{"version", nil, []string{"version"}, exitOK, []string{"snapfleet "}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			snapfleet(t, c.env, c.args...).want(t, c.code, c.texts...)
		})
	}
}

func TestConfigTable(t *testing.T) {
	t.Parallel()
	r := snapfleet(t, nil, "config-table")
	r.want(t, exitOK, "| Flag | Variable | Default | What |", "| `--slots=N` | `SNAPFLEET_SLOTS` | `2` | Jobs that are worked on at once. |")
	for line := range strings.Lines(r.out) {
		if n := strings.Count(strings.ReplaceAll(line, `\|`, ""), "|"); n != 5 {
			t.Errorf("a row of %d columns: %s", n-1, line)
		}
	}
}

func TestReadmeHasTheConfigTable(t *testing.T) {
	t.Parallel()
	want := configTable(model(t))
	readme, err := os.ReadFile(filepath.Join(house, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, begun := strings.Cut(string(readme), "<!-- config:begin -->\n")
	have, _, ended := strings.Cut(rest, "<!-- config:end -->")
	if !begun || !ended {
		t.Fatal("README.md has no <!-- config:begin --> and <!-- config:end -->")
	}
	if strings.TrimSpace(have) != strings.TrimSpace(want) {
		t.Error("README.md's configuration table is not what `go run ./cmd/snapfleet config-table` prints: put that between its markers")
	}
}
