package main

import (
	"bytes"
	"context"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	compose "github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"

	"github.com/snapfleet/snapfleet/test/world"
)

// A server with a configuration file is this program, started once more.
func init() { world.ServeNATS() }

// composed is deploy/compose.yaml, read as docker compose reads it.
func composed(t *testing.T) *types.Project {
	t.Helper()
	// The S3 server of a test before has changed the working folder to one that is gone.
	if err := os.Chdir(house); err != nil {
		t.Fatal(err)
	}
	options, err := compose.NewProjectOptions([]string{filepath.Join(house, "deploy", "compose.yaml")}, compose.WithProfiles([]string{"*"}), compose.WithWorkingDirectory(filepath.Join(house, "deploy")))
	if err != nil {
		t.Fatal(err)
	}
	p, err := options.LoadProject(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// ours are the services that are snapfleet, by their image.
func ours(p *types.Project) (names []string) {
	for _, name := range slices.Sorted(maps.Keys(p.Services)) {
		if p.Services[name].Image == "snapfleet:compose" {
			names = append(names, name)
		}
	}
	return names
}

var pinned = regexp.MustCompile(`^[a-z0-9./-]+:v?[0-9]+\.[0-9]+(\.[0-9]+)?(-[a-z]+)?$`)

// TestCompose: what the file names is there, is pinned, and reachable from this machine alone.
func TestCompose(t *testing.T) {
	p := composed(t)
	if len(ours(p)) < 9 {
		t.Fatalf("only %q are snapfleet", ours(p))
	}
	for name, s := range p.Services {
		switch {
		case s.Build != nil:
			if _, err := os.Stat(filepath.Join(s.Build.Context, s.Build.Dockerfile)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if s.Build.Context != house || !strings.HasSuffix(s.Image, ":compose") {
				t.Errorf("%s is built in %s as %s", name, s.Build.Context, s.Image)
			}
		case !pinned.MatchString(s.Image):
			t.Errorf("%s: image %s is not pinned", name, s.Image)
		}
		for _, v := range s.Volumes {
			if v.Type == types.VolumeTypeBind {
				if _, err := os.Stat(v.Source); err != nil || !v.ReadOnly {
					t.Errorf("%s mounts %s, read only: %t, %v", name, v.Source, v.ReadOnly, err)
				}
			}
		}
		for _, port := range s.Ports {
			if port.HostIP != "127.0.0.1" {
				t.Errorf("%s: port %s is for everybody", name, port.Published)
			}
		}
		for other, d := range s.DependsOn {
			on := p.Services[other]
			if healthy := d.Condition == types.ServiceConditionHealthy; healthy && on.HealthCheck == nil {
				t.Errorf("%s waits for the health of %s, which has no check", name, other)
			}
			if once := d.Condition == types.ServiceConditionCompletedSuccessfully; once && on.Restart != "" {
				t.Errorf("%s waits for the end of %s, which is started again", name, other)
			}
		}
	}
	for _, v := range p.Volumes {
		if v.External {
			t.Errorf("volume %s has to be there before", v.Name)
		}
	}
}

// TestComposedCommandsAreKnown: each flag and each variable of a service is one that snapfleet has.
func TestComposedCommandsAreKnown(t *testing.T) {
	p := composed(t)
	variable := regexp.MustCompile(`\[\$(SNAPFLEET_[A-Z0-9_]+)\]`)
	for _, name := range ours(p) {
		s := p.Services[name]
		words := slices.Concat(s.Entrypoint[min(1, len(s.Entrypoint)):], s.Command)
		verb := slices.DeleteFunc(slices.Clone(words), func(w string) bool { return strings.HasPrefix(w, "-") })
		r := snapfleet(t, nil, append(verb, "--help")...)
		r.want(t, exitOK)
		for _, w := range words {
			if flag, _, _ := strings.Cut(w, "="); strings.HasPrefix(w, "-") && !strings.Contains(r.out, " "+flag) {
				t.Errorf("%s: %q has no %s", name, verb, flag)
			}
		}
		known := map[string]bool{}
		for _, m := range variable.FindAllStringSubmatch(r.out, -1) {
			known[m[1]] = true
		}
		for v := range s.Environment {
			if strings.HasPrefix(v, "SNAPFLEET_") && !known[v] {
				t.Errorf("%s: %q does not know %s", name, verb, v)
			}
		}
	}
}

// composition runs the services of the file as processes of this machine: their commands, with their environment, after
// what they depend on. Hosts are ports of the loopback, and volumes are folders.
type composition struct {
	t     *testing.T
	p     *types.Project
	dir   string
	where map[string]string // host:port in the file, and here
	aws   string            // a folder with the AWS CLI's double
	store string            // the S3 double's program
}

// here is a text of the service with the file's hosts and paths as they are on this machine.
func (c *composition) here(s types.ServiceConfig, text string) string {
	var pairs []string
	for _, there := range slices.Backward(slices.Sorted(maps.Keys(c.where))) {
		pairs = append(pairs, there, c.where[there])
	}
	for _, v := range s.Volumes {
		source := v.Source
		if v.Type == types.VolumeTypeVolume {
			source = filepath.Join(c.dir, v.Source)
		}
		pairs = append(pairs, v.Target, source)
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

// process is the service's command. Only what the file says is in its environment.
func (c *composition) process(ctx context.Context, s types.ServiceConfig, args ...string) *exec.Cmd {
	program := map[string]string{"snapfleet:compose": binary, "snapfleet-s3:compose": c.store, "": ""}[s.Image]
	words := slices.Clone(args)
	if words == nil {
		words = slices.Clone(s.Command)
	}
	if len(s.Entrypoint) > 0 {
		words = slices.Concat(s.Entrypoint[1:], words)
		if program == "" {
			program = s.Entrypoint[0]
		}
	}
	for i, w := range words {
		words[i] = c.here(s, w)
	}
	cmd := exec.CommandContext(ctx, program, words...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	cmd.Env = []string{"PATH=" + c.aws + ":" + os.Getenv("PATH"), "HOME=/nonexistent"}
	for name, value := range s.Environment {
		if value != nil {
			cmd.Env = append(cmd.Env, name+"="+c.here(s, *value))
		}
	}
	return cmd
}

// once runs a service that ends, which it has to do well.
func (c *composition) once(name string, args ...string) string {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 2*time.Minute)
	defer cancel()
	out, err := c.process(ctx, c.p.Services[name], args...).CombinedOutput()
	if err != nil {
		c.t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out)
}

// start runs a service until the test is over, or stop is called.
func (c *composition) start(name string) (stop func()) {
	c.t.Helper()
	var said bytes.Buffer
	cmd := c.process(context.WithoutCancel(c.t.Context()), c.p.Services[name])
	cmd.Stdout, cmd.Stderr = &said, &said
	ended, err := world.Spawn(cmd, syscall.SIGKILL)
	if err != nil {
		c.t.Fatal(err)
	}
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		if err := <-ended; err != nil || c.t.Failed() {
			c.t.Errorf("%s: %v\n%s", name, err, said.String())
		}
	}
	c.t.Cleanup(stop)
	return stop
}

// healthy asks as the service's health check does.
func (c *composition) healthy(name string) {
	c.t.Helper()
	s := c.p.Services[name]
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	for {
		out, err := c.process(ctx, s, s.HealthCheck.Test[2:]...).CombinedOutput()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			c.t.Fatalf("%s is not healthy: %v\n%s", name, err, out)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func newComposition(t *testing.T) *composition {
	t.Helper()
	c := &composition{t: t, p: composed(t), dir: t.TempDir(), aws: t.TempDir()}
	for name := range c.p.Volumes {
		if err := os.Mkdir(filepath.Join(c.dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	c.store = filepath.Join(c.dir, "serve")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", c.store, "./test/bucket/serve")
	build.Dir = house
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	self, err := os.Executable()
	if err == nil {
		err = os.Symlink(self, filepath.Join(c.aws, "aws"))
	}
	if err != nil {
		t.Fatal(err)
	}

	// NATS with the file that is mounted, and PostgreSQL with the script.
	n, err := world.StartNATS(filepath.Join(c.dir, "jetstream"), world.WithConfig(filepath.Join(house, "deploy", "compose", "nats.conf")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Stop)
	ports, err := world.FreeAddresses(3)
	if err != nil {
		t.Fatal(err)
	}
	c.where = map[string]string{"nats:4222": n.Address()}
	for i, port := range []string{"9000", "9001", "9002"} {
		c.where["0.0.0.0:"+port], c.where["127.0.0.1:"+port] = ports[i], ports[i]
		c.where["s3:"+port] = strings.Replace(ports[i], "127.0.0.1", "localhost", 1) // a name, as there
	}
	script, err := os.ReadFile(filepath.Join(house, "deploy", "compose", "tenant.sql"))
	if err != nil {
		t.Fatal(err)
	}
	database := strings.TrimPrefix(source(t, "composed", string(script))[0], "SNAPFLEET_DATABASE_URL=")
	t.Cleanup(func() {
		if err := world.Load(context.Background(), database, strings.NewReader("DROP SCHEMA acme CASCADE; DROP ROLE exporter")); err != nil {
			t.Error(err)
		}
	})
	address := strings.TrimPrefix(database[strings.Index(database, "@"):], "@")
	address = strings.TrimSuffix(strings.SplitN(address, "?", 2)[0], "/composed")
	c.where["postgres:5432/app"] = address + "/composed"
	return c
}

// TestComposedServicesDeliver runs what `docker compose up` runs, in its order, but for the engine: a customer's role is
// made by the script that policy writes, the job is delivered, and it is proven by somebody of the customer's. Then the
// store is started again, which still knows the customer, and so is everything that runs once.
func TestComposedServicesDeliver(t *testing.T) {
	c := newComposition(t)
	stop := c.start("s3")
	c.healthy("s3")
	before := []string{"setup", "tenant", "policy", "customer", "schedule"}
	for _, name := range before {
		c.once(name)
	}
	for _, name := range []string{"worker-1", "worker-2"} {
		s := c.p.Services[name]
		s.Command = append(s.Command, "--listen=") // one machine has each port once
		s.Environment["OTEL_TRACES_EXPORTER"], s.Environment["OTEL_METRICS_EXPORTER"] = new("none"), new("none")
		c.p.Services[name] = s
		c.start(name)
	}
	if out := c.once("submit"); !strings.Contains(out, "delivered: 4 tables") {
		t.Errorf("submit says:\n%s", out)
	}
	if out := c.once("verify"); !strings.Contains(out, "proven: 4 tables") {
		t.Errorf("verify says:\n%s", out)
	}
	if out := c.once("snapfleet"); !strings.Contains(out, "first") {
		t.Errorf("status says:\n%s", out)
	}

	stop()
	c.start("s3")
	c.healthy("s3")
	for _, name := range append(before, "submit") { // up once more
		c.once(name)
	}
	if out := c.once("submit", "submit", "acme", "--job=second", "--wait"); !strings.Contains(out, "delivered: 4 tables") {
		t.Errorf("submit says:\n%s", out)
	}
	c.once("verify", "s3://acme-snapshots/acme/first/")
	c.once("verify", "s3://acme-snapshots/acme/second/")
}
