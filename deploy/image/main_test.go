package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

const root = "../.."

// made is where the image is made.
var made string

// build makes the image of the real binary, once, for this platform, as `make image` does.
var build = sync.OnceValues(func() (v1.Image, error) {
	var err error
	if made, err = os.MkdirTemp("", "snapfleet-image-"); err != nil {
		return nil, err
	}
	binary := filepath.Join(made, "snapfleet")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -X main.version=1.2.3+test", "-o", binary, "./cmd/snapfleet")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, out)
	}
	c := settings(binary, made)
	if err := errors.Join(os.WriteFile(c.SBOM, []byte(`{"bomFormat":"CycloneDX"}`), 0o600), c.run(io.Discard)); err != nil {
		return nil, err
	}
	tag, err := name.NewTag("snapfleet:1.2.3-test")
	if err != nil {
		return nil, err
	}
	return tarball.ImageFromPath(c.Out+".tar", &tag)
})

func settings(binary, dir string) cli {
	return cli{
		Binary: map[string]string{"linux/" + runtime.GOARCH: binary}, SBOM: filepath.Join(dir, "sbom.cdx.json"),
		Version: "1.2.3+test", Revision: "0123abc", Created: 1_770_000_000, Out: filepath.Join(dir, "image"),
	}
}

func theImage(t *testing.T) v1.Image {
	t.Helper()
	image, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return image
}

func TestMain(m *testing.M) {
	code := m.Run()
	_ = os.RemoveAll(made)
	os.Exit(code)
}

func TestImageIsSmallUnprivilegedAndLabelled(t *testing.T) {
	t.Parallel()
	c, image := settings("", ""), theImage(t)
	if err := validate.Image(image); err != nil {
		t.Error(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if got := config.Config.User; got != nobody {
		t.Errorf("runs as %q", got)
	}
	if got := append(config.Config.Entrypoint, config.Config.Cmd...); !slices.Equal(got, []string{"/snapfleet", "worker"}) {
		t.Errorf("runs %q", got)
	}
	for label, want := range map[string]string{"version": c.Version, "revision": c.Revision, "licenses": "Apache-2.0", "created": "2026-02-02T02:40:00Z"} {
		if got := config.Config.Labels["org.opencontainers.image."+label]; got != want {
			t.Errorf("label %s is %q, want %q", label, got, want)
		}
	}
	var names []string
	size := int64(0)
	files := tar.NewReader(mutate.Extract(image))
	for {
		h, err := files.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if size += h.Size; h.Uid != 0 || h.Mode&0o022 != 0 {
			t.Errorf("%s is of user %d, mode %o: somebody else can write it", h.Name, h.Uid, h.Mode)
		}
		if h.Typeflag == tar.TypeReg {
			names = append(names, strings.TrimPrefix(h.Name, "/"))
		}
	}
	slices.Sort(names)
	if want := []string{"etc/group", "etc/passwd", "snapfleet", "usr/share/doc/snapfleet/sbom.cdx.json"}; !slices.Equal(names, want) {
		t.Errorf("there are %q, want %q", names, want)
	}
	if size > 60<<20 {
		t.Errorf("%d bytes", size)
	}
}

func TestTheSameCommitIsTheSameImage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	binary := filepath.Join(dir, "snapfleet")
	c := settings(binary, dir)
	if err := errors.Join(os.WriteFile(binary, []byte("a program"), 0o700), os.WriteFile(c.SBOM, []byte("{}"), 0o600), c.run(io.Discard)); err != nil {
		t.Fatal(err)
	}
	index := func() []byte {
		data, err := os.ReadFile(filepath.Join(c.Out, "index.json"))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	first := index()
	if err := c.run(io.Discard); err != nil {
		t.Fatal(err)
	}
	if again := index(); !bytes.Equal(first, again) {
		t.Errorf("made again, the index is\n%s\nand was\n%s", again, first)
	}
	path, err := layout.FromPath(c.Out)
	if err != nil {
		t.Fatal(err)
	}
	i, err := path.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(i); err != nil {
		t.Error(err)
	}
	c.Created++
	if err := c.run(io.Discard); err != nil {
		t.Fatal(err)
	}
	if other := index(); bytes.Equal(first, other) {
		t.Error("another commit's image is the same")
	}
}

// The image is all that there is: the binary runs where there is nothing else, as nobody.
func TestBinaryRunsOnNothing(t *testing.T) {
	t.Parallel()
	image := theImage(t)
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	unpack(t, image, dir)
	run := func(args ...string) (string, error) {
		cmd := exec.Command("/snapfleet", args...)
		cmd.Dir, cmd.Env = "/", []string{"TZ=UTC"}
		cmd.SysProcAttr = inside(dir)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := run("version"); err != nil || out != "snapfleet 1.2.3+test\n" {
		t.Errorf("version: %v\n%s", err, out)
	}
	if out, err := run("submit", "--help"); err != nil || !strings.Contains(out, "snapfleet submit") {
		t.Errorf("help: %v\n%s", err, out)
	}
	if _, err := run("status", "--nats-url=nats://127.0.0.1:1"); err == nil {
		t.Error("there is no NATS, and it says there is")
	} else if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 7 {
		t.Errorf("without NATS: %v", err)
	}
}

// inside runs a program in dir as if nothing else were there. Root changes the root; others need a namespace of their own.
func inside(dir string) *syscall.SysProcAttr {
	if os.Getuid() == 0 {
		return &syscall.SysProcAttr{Chroot: dir, Credential: &syscall.Credential{Uid: 65532, Gid: 65532}}
	}
	return &syscall.SysProcAttr{
		Chroot: dir, Cloneflags: syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
}

func unpack(t *testing.T, image v1.Image, dir string) {
	t.Helper()
	files := tar.NewReader(mutate.Extract(image))
	for {
		h, err := files.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, filepath.FromSlash(h.Name))
		switch h.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(path, 0o755)
		default:
			var data []byte
			if data, err = io.ReadAll(files); err == nil {
				err = errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, os.FileMode(h.Mode)))
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestBadInputIsNamed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	sbom := filepath.Join(dir, "sbom")
	if err := os.WriteFile(sbom, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		binary map[string]string
		want   string
	}{
		{map[string]string{"linux/amd64": filepath.Join(dir, "none")}, "none"},
		{map[string]string{"windows/amd64": sbom}, "not linux/"},
		{map[string]string{"amd64": sbom}, "not linux/"},
	} {
		err := cli{Binary: c.binary, SBOM: sbom, Version: "1", Revision: "r", Created: 1, Out: filepath.Join(dir, "out")}.run(io.Discard)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.binary, err, c.want)
		}
	}
}

// The engine's way and ours make the same image: who runs it, what runs, and where things are.
func TestDockerfileAgrees(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile(filepath.Join(root, "deploy/Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	image := theImage(t)
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	entrypoint, _ := json.Marshal(config.Config.Entrypoint)
	cmd, _ := json.Marshal(config.Config.Cmd)
	text := string(data)
	for _, want := range []string{
		"\nFROM scratch\n", "\nUSER " + config.Config.User + "\n", "\nENTRYPOINT " + string(entrypoint) + "\n", "\nCMD " + string(cmd) + "\n", "\nEXPOSE 8080\n",
		"\nSTOPSIGNAL " + config.Config.StopSignal + "\n", " /snapfleet\n", " /usr/share/doc/snapfleet/sbom.cdx.json\n",
		"nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the Dockerfile has no %q", want)
		}
	}
	for label := range config.Config.Labels {
		if short := strings.TrimPrefix(label, "org.opencontainers.image."); short != "created" && !strings.Contains(text, label+`="`) {
			t.Errorf("the Dockerfile has no label %s", label)
		}
	}
}
