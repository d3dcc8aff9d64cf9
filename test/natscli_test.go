//go:build natscli

package test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/snapfleet/snapfleet/test/world"
)

// natsPage is deploy/nats/README.md, with a copy of the folder whose servers listen on loopback. test/natscli.sh brings
// the programs nats-server, nats and nk.
type natsPage struct {
	t       *testing.T
	dir     string
	address string
	blocks  map[string][]string
	env     []string
	server  *exec.Cmd
	ended   chan error
}

// TestNATSPage runs the page's commands, as they are written there but for addresses, paths and the number of replicas:
// keys, the server, setup, streams for other tools, a key that is changed, a backup, and its restore into an empty server.
func TestNATSPage(t *testing.T) {
	p := newNATSPage(t)
	p.start()
	p.shell(p.theOne("sh", "export SNAPFLEET_NATS_URL"))
	p.shell("snapfleet tenant set acme")

	backupKey := p.key(p.theOne("sh backup-key", "nk -gen user"))
	p.edit("accounts.conf", "jetstream: enabled\n\n    users: [\n", "jetstream: enabled\n\n    users: [\n      { nkey: "+backupKey+", permissions: { publish: { deny: [\"$JS.API.STREAM.SNAPSHOT.KV_snapshot_pieces\", \"$JS.API.STREAM.MSG.GET.KV_snapshot_pieces\", \"$JS.API.DIRECT.GET.KV_snapshot_pieces\", \"$JS.API.DIRECT.GET.KV_snapshot_pieces.>\", \"$JS.API.CONSUMER.*.KV_snapshot_pieces\", \"$JS.API.CONSUMER.*.KV_snapshot_pieces.>\", \"$JS.API.CONSUMER.*.*.KV_snapshot_pieces.>\"] } } }\n")
	p.reload()
	p.shell(p.theOne("sh backup", "backup stream"))

	t.Run("a key is changed", p.changesAKey)

	p.stop()
	if err := os.RemoveAll(p.store()); err != nil {
		t.Fatal(err)
	}
	p.start()
	p.shell(p.theOne("sh restore", "restore"))
	if out := p.shell("snapfleet setup; snapfleet tenant list"); !strings.Contains(out, "acme") {
		t.Errorf("the tenant is not in the restored registry:\n%s", out)
	}

	p.stop()
	if err := os.RemoveAll(p.store()); err != nil {
		t.Fatal(err)
	}
	p.start()
	streams := strings.ReplaceAll(p.theOne("sh", "nats stream add"), "setup --replicas=3", "setup --replicas=1")
	p.shell("nats() { command nats --server " + p.url() + " --nkey backup.nk --tlsca ca.pem \"$@\"; }\n" + streams)
}

// TestRunIt runs the README's lines from a nats-server to a delivery. The ports are others than on the page, and between
// two lines the tenant's bucket is one of the test's.
func TestRunIt(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## Run it\n")
	block := strings.TrimSpace(fencedBlocks(section)["sh"][0])
	lines := strings.Split(block, "\n")
	if len(lines) < 6 || !strings.HasPrefix(lines[0], "go install github.com/nats-io/nats-server/v2@") || !strings.HasPrefix(lines[1], "make build && export PATH=") {
		t.Fatalf("the README begins with other commands: %s", block)
	}
	script := strings.Join(lines[2:], "\n")
	addresses, err := world.FreeAddresses(1)
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(addresses[0])
	if err != nil {
		t.Fatal(err)
	}
	f := &fleet{t: t, tenant: "acme"}
	if f.database, err = postgres.CreateDatabase(t.Context(), "run_it"); err != nil {
		t.Fatal(err)
	}
	if err := little("acme")(t.Context(), f.database); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(binary, filepath.Join(dir, "snapfleet")); err != nil {
		t.Fatal(err)
	}
	f.env = append(cloud.Environ(worker), "HOME="+dir, "PATH="+dir+":"+os.Getenv("SNAPFLEET_TEST_NATSCLI")+":"+os.Getenv("PATH"),
		"SNAPFLEET_NATS_URL=nats://"+addresses[0], "SNAPFLEET_ALLOW_ENDPOINT="+cloud.Endpoint(), "SNAPFLEET_LISTEN=127.0.0.1:0")
	before, after, found := strings.Cut(script, "export SNAPFLEET_DATABASE_URL=")
	_, after, _ = strings.Cut(after, "\n")
	if !found {
		t.Fatalf("the README names no database: %s", script)
	}
	bash := func(script string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), "bash", "-eu", "-c", `nats-server() { exec nats-server --addr=127.0.0.1 --port=`+port+` "$@"; }
			trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT
			`+script)
		cmd.Dir, cmd.Env = dir, append(f.env, "SNAPFLEET_DATABASE_URL="+f.database)
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // so that it ends what it has started
		cmd.WaitDelay = 20 * time.Second
		return cmd
	}
	// The server of the first half has to be there for the second: both are one script, which waits in between.
	ready := `for i in $(seq 300); do bash -c ': </dev/tcp/127.0.0.1/` + port + `' 2>/dev/null && break; sleep 0.1; done` + "\n"
	first, rest, _ := strings.Cut(before, "\n")
	enrolled, go_ := filepath.Join(dir, "enrolled"), filepath.Join(dir, "go")
	cmd := bash(first + "\n" + ready + rest + "touch " + enrolled + "; until [ -e " + go_ + " ]; do sleep 0.1; done\n" + after)
	out := new(strings.Builder)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		if _, err := os.Stat(enrolled); err == nil {
			break
		}
		select {
		case err := <-ended:
			t.Fatalf("%v\n%s", err, out)
		case <-t.Context().Done():
			t.Fatal(out)
		case <-time.After(50 * time.Millisecond):
		}
	}
	f.enrol("acme")
	if err := os.WriteFile(go_, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil || !strings.Contains(out.String(), "delivered") {
		t.Errorf("%v\n%s", err, out)
	}
}

// changesAKey follows the page's four steps with the reader.
func (p *natsPage) changesAKey(t *testing.T) {
	old, second := p.reader("reader.nk"), p.reader("reader-2.nk")
	public := p.key("nk -gen user > reader-2.nk; nk -inkey reader-2.nk -pubout")
	if out := p.shell(old); strings.Contains(out, "Authorization") {
		t.Fatalf("before: %s", out)
	}
	text := p.read("accounts.conf")
	_, account, _ := strings.Cut(text, "\n  READER {")
	_, users, _ := strings.Cut(account, "users: [")
	user, _, found := strings.Cut(users, "\n    ]")
	if !found || !strings.Contains(user, "$SNAPFLEET_READER_NKEY") {
		t.Fatalf("accounts.conf has no reader's user where the test looks for it: %q", user)
	}
	twin := strings.ReplaceAll(user, "$SNAPFLEET_READER_NKEY", public)
	p.edit("accounts.conf", user, user+twin)
	p.reload()
	p.shell(old)
	p.shell(second)
	p.edit("accounts.conf", user+twin, twin)
	p.reload()
	p.shell(second)
	if out, err := p.try(old); err == nil {
		t.Errorf("the old key still works:\n%s", out)
	}
}

// reader asks for what a reader may see.
func (p *natsPage) reader(seed string) string {
	return "SNAPFLEET_NATS_NKEY=" + seed + " SNAPFLEET_NATS_INBOX=_INBOX SNAPFLEET_NATS_DOMAIN=snapfleet snapfleet status --limit=1"
}

func newNATSPage(t *testing.T) *natsPage {
	t.Helper()
	programs := os.Getenv("SNAPFLEET_TEST_NATSCLI")
	if programs == "" {
		t.Fatal("SNAPFLEET_TEST_NATSCLI is the folder with nats-server, nats and nk: run make test-natscli")
	}
	source := filepath.Join(root, "deploy", "nats")
	text, err := os.ReadFile(filepath.Join(source, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	addresses, err := world.FreeAddresses(2)
	if err != nil {
		t.Fatal(err)
	}
	p := &natsPage{t: t, dir: t.TempDir(), address: addresses[0], blocks: fencedBlocks(string(text))}
	if err := errors.Join(os.CopyFS(p.dir, os.DirFS(source)), os.Symlink(binary, filepath.Join(p.dir, "snapfleet"))); err != nil {
		t.Fatal(err)
	}
	p.edit("server.conf", "listen: 0.0.0.0:4222", "listen: "+p.address)
	p.edit("nats.conf", "http: 127.0.0.1:8222", "http: "+addresses[1])
	certificate, key := loopbackCertificate(t)
	for name, content := range map[string][]byte{"tls.crt": certificate, "ca.pem": certificate, "tls.key": key} {
		if err := os.WriteFile(filepath.Join(p.dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	configs, err := filepath.Glob(filepath.Join(p.dir, "streams", "*.json"))
	if err != nil || len(configs) == 0 {
		t.Fatalf("no streams: %v", err)
	}
	for _, name := range configs {
		name = filepath.Join("streams", filepath.Base(name))
		if config := p.read(name); strings.Contains(config, `"num_replicas": 3`) {
			p.edit(name, `"num_replicas": 3`, `"num_replicas": 1`)
		}
	}
	p.env = []string{
		"HOME=" + p.dir, "PATH=" + p.dir + ":" + programs + ":" + os.Getenv("PATH"), "SNAPFLEET_NATS_CA=ca.pem",
		"SNAPFLEET_NATS_URL=" + p.url(), "SNAPFLEET_NATS_NKEY=operator.nk", "SNAPFLEET_NATS_INBOX=_INBOX_operator",
	}
	t.Cleanup(p.stop)
	return p
}

func (p *natsPage) url() string   { return "tls://" + p.address }
func (p *natsPage) store() string { return filepath.Join(p.dir, "store") }

// theOne is the page's block of that kind which has the text.
func (p *natsPage) theOne(info, text string) string {
	p.t.Helper()
	for _, block := range p.blocks[info] {
		if strings.Contains(block, text) {
			return block
		}
	}
	p.t.Fatalf("the page has no block %q with %q", info, text)
	return ""
}

func (p *natsPage) read(name string) string {
	p.t.Helper()
	text, err := os.ReadFile(filepath.Join(p.dir, name))
	if err != nil {
		p.t.Fatal(err)
	}
	return string(text)
}

// edit replaces text that is in a file once.
func (p *natsPage) edit(name, before, after string) {
	p.t.Helper()
	text := p.read(name)
	if n := strings.Count(text, before); n != 1 {
		p.t.Fatalf("%s has %d times %q", name, n, before)
	}
	if err := os.WriteFile(filepath.Join(p.dir, name), []byte(strings.Replace(text, before, after, 1)), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

// here puts this test's addresses and folders in place of the page's.
func (p *natsPage) here(script string) string {
	return strings.NewReplacer(
		"nats://nats.internal:4222", p.url(), "tls://nats.internal:4222", p.url(), "/etc/nats/", p.dir+"/",
		"/var/lib/nats", p.store(), "/var/backups/nats", filepath.Join(p.dir, "backups"),
	).Replace(script)
}

func (p *natsPage) command(script string) *exec.Cmd {
	cmd := exec.CommandContext(p.t.Context(), "bash", "-euo", "pipefail", "-c", p.here(script))
	cmd.Dir, cmd.Env = p.dir, p.env
	return cmd
}

func (p *natsPage) try(script string) (string, error) {
	out, err := p.command(script).CombinedOutput()
	return string(out), err
}

// shell runs what has to succeed.
func (p *natsPage) shell(script string) string {
	p.t.Helper()
	out, err := p.try(script)
	if err != nil {
		p.t.Fatalf("%s\n%v\n%s", script, err, out)
	}
	return out
}

// key is the public key that a script prints.
func (p *natsPage) key(script string) string {
	p.t.Helper()
	out := strings.TrimSpace(p.shell(script))
	if !strings.HasPrefix(out, "U") || strings.ContainsAny(out, " \n") {
		p.t.Fatalf("a public key is %q", out)
	}
	return out
}

// start runs the page's first block, whose last command is the server. Later starts keep the keys of the first.
func (p *natsPage) start() {
	p.t.Helper()
	block := p.theOne("sh", "nats-server -c nats.conf")
	if p.ended != nil {
		for line := range strings.Lines(block) {
			if strings.Contains(line, "nk -gen user") {
				block = strings.Replace(block, line, "", 1)
			}
		}
	}
	block = strings.Replace(block, "nats-server -c nats.conf", "exec nats-server -c nats.conf", 1)
	p.server = p.command(block)
	log, err := os.Create(filepath.Join(p.dir, "server.log"))
	if err != nil {
		p.t.Fatal(err)
	}
	p.server.Stdout, p.server.Stderr = log, log
	if err := p.server.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.ended = make(chan error, 1)
	go func() { p.ended <- p.server.Wait(); _ = log.Close() }()
	p.await("Server is ready", 1)
}

// await waits until the server's log has the text that many times. The log is a file, which nothing reports about.
func (p *natsPage) await(text string, times int) {
	p.t.Helper()
	for strings.Count(p.read("server.log"), text) < times {
		if log := p.read("server.log"); strings.Contains(log, "Failed to reload") {
			p.t.Fatalf("the server does not take the page's change:\n%s", log)
		}
		select {
		case err := <-p.ended:
			p.ended <- err
			p.t.Fatalf("the server ended: %v\n%s", err, p.read("server.log"))
		case <-p.t.Context().Done():
			p.t.Fatalf("the server never said %q:\n%s", text, p.read("server.log"))
		case <-time.After(20 * time.Millisecond):
		}
	}
	if conn, err := net.Dial("tcp", p.address); err != nil {
		p.t.Fatal(err)
	} else {
		_ = conn.Close()
	}
}

// reload is the page's `nats-server --signal reload`, for this server among others of this machine.
func (p *natsPage) reload() {
	p.t.Helper()
	const reloaded = "Reloaded server configuration"
	before := strings.Count(p.read("server.log"), reloaded)
	p.shell(fmt.Sprintf("nats-server --signal reload=%d", p.server.Process.Pid))
	p.await(reloaded, before+1)
}

func (p *natsPage) stop() {
	if p.server == nil {
		return
	}
	_ = p.server.Process.Signal(syscall.SIGTERM)
	<-p.ended
	p.server = nil
}
