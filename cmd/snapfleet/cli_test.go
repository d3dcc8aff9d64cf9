package main

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
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

// TestVariables has every variable there is. Flags that say what one call is to do have none: what is left in a shell
// would change a record, or agree in place of a person.
func TestVariables(t *testing.T) {
	t.Parallel()
	want := strings.Fields(`
		ACCOUNT ALLOW_ENDPOINT ATTACHMENTS_FETCH ATTACHMENTS_QUERY ATTACHMENTS_REGION ATTACHMENTS_SOURCE ATTEMPTS
		BUFFERS CHECK_AHEAD CHECK_EVERY CHUNK_SIZE CONNECTIONS CRASHES DATABASES DATABASE_URL DEADLINE FENCE
		FLEET_CONNECTIONS GRACE HEARTBEAT LEVEL LISTEN LOCK_TIMEOUT LOG_FORMAT LOG_LEVEL MAX_AGE MAX_PARTS
		MEASURE_EVERY NAME NATS_CA NATS_CREDS NATS_DOMAIN NATS_INBOX NATS_NKEY NATS_URL NO_CHECKSUM OBSERVE
		PART_SIZE PER_TENANT REPLICA_URL RETRY_BASE RETRY_MAX SCHEDULE_EVERY SESSION_DURATION SLOTS STALL
		SWEEP_AFTER SWEEP_AGAIN SWEEP_EVERY TENANT_METRICS TIMEOUT TRACE_URL TRUST_CHECK WEBHOOK_CA WEBHOOK_SECRET_FILE WEBHOOK_SOURCE
		WEBHOOK_TIMEOUT WEBHOOK_URL`)
	found := map[string]bool{}
	for _, node := range verbs(t) {
		for _, f := range node.Flags {
			if f.Name == "help" {
				continue
			}
			name := strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
			switch {
			case len(f.Envs) == 0 && node.Name == "worker":
				t.Errorf("%s --%s has no variable", node.Path(), f.Name)
			case len(f.Envs) > 1 || len(f.Envs) == 1 && f.Envs[0] != "SNAPFLEET_"+name:
				t.Errorf("%s --%s: variables %v, want SNAPFLEET_%s", node.Path(), f.Name, f.Envs, name)
			case len(f.Envs) == 1:
				found[name] = true
			}
			if f.Help == "" || !strings.HasSuffix(f.Help, ".") {
				t.Errorf("%s --%s: help %q is no sentence", node.Path(), f.Name, f.Help)
			}
		}
	}
	if got := slices.Sorted(maps.Keys(found)); !slices.Equal(got, want) {
		t.Errorf("the variables are\n%q, want\n%q", got, want)
	}
}

// TestUnknownVariableIsTold: a misspelt variable is warned of once, with what was probably meant and without its value.
func TestUnknownVariableIsTold(t *testing.T) {
	t.Parallel()
	for variable, want := range map[string]string{
		"SNAPFLEET_SLOT=s3cr3t":                 "did you mean SNAPFLEET_SLOTS?",
		"SNAPFLEET_DATABSE_URL=s3cr3t":          "did you mean SNAPFLEET_DATABASE_URL?",
		"SNAPFLEET_WEBHOOK_SECRT=s3cr3t":        "did you mean SNAPFLEET_WEBHOOK_SECRET?",
		"SNAPFLEET_FORMAT=jsonl.gz":             "give --format on the command line",
		"SNAPFLEET_YES=1":                       "give --yes on the command line",
		"SNAPFLEET_BUCKET=theirs":               "give --bucket on the command line",
		"SNAPFLEET_WHATEVER_IT_IS=1":            "see `snapfleet worker --help`",
		"SNAPFLEET_SLOTS=2":                     "",
		"SNAPFLEET_WEBHOOK_SECRET=x":            "",
		"SNAPFLEET_SERVICE_HOST=10.0.0.1":       "",
		"SNAPFLEET_PORT=tcp://10.0.0.1:9090":    "",
		"SNAPFLEET_PORT_9090_TCP_ADDR=10.0.0.1": "",
		"SNAPFLEET_METRICS_SERVICE_PORT_HTTP=1": "",
		"SNAPFLEET_WORKER_NKEY=U":               "",
		"SNAPFLEETS=1":                          "",
		"PGHOST=x":                              "",
	} {
		got := unknownVariables(newParser(new(cli), &console{}).Model, []string{variable})
		name, value, _ := strings.Cut(variable, "=")
		switch {
		case want == "" && len(got) > 0, want != "" && (len(got) != 1 || !strings.Contains(got[0], name) || !strings.HasSuffix(got[0], want)):
			t.Errorf("%s: %q, want %q", variable, got, want)
		case want != "" && strings.Contains(got[0], "s3cr3t"):
			t.Errorf("%q has the value %q", got, value)
		}
	}
	r := snapfleet(t, []string{"SNAPFLEET_SLOT=4", "SNAPFLEET_FORMAT=jsonl.gz"}, "version")
	r.want(t, exitOK, "SNAPFLEET_SLOT", "SNAPFLEET_FORMAT")
	if n := strings.Count(r.err, "warning:"); n != 2 || strings.Contains(r.out, "SNAPFLEET") {
		t.Errorf("%d warnings:\n%s", n, r)
	}
	r = snapfleet(t, []string{"SNAPFLEET_SLOT=4"}, "worker", "--log-format=json", "--listen=")
	for line := range strings.Lines(r.err) {
		if strings.Contains(line, "SNAPFLEET_SLOT") && !strings.HasPrefix(line, `{"level":"warn"`) {
			t.Errorf("not of the log: %s", line)
		}
	}
	if strings.Count(r.err, "SNAPFLEET_SLOT\\\" is no variable") != 1 {
		t.Error(r)
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
		{"verify an empty folder", nil, []string{"verify", t.TempDir()}, exitNotFound, []string{"nothing is there", "fix:"}},
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
