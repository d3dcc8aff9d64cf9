// Command image makes the container image of snapfleet without a container engine: a static binary, who runs it, and
// what it is made of (a CycloneDX SBOM), on nothing. The same inputs give the same bytes.
//
// It writes an OCI image layout with every platform, which `skopeo copy oci:bin/image ...` and `crane push bin/image ...`
// take, and for one platform an archive for `docker load` and `podman load`. `make image` calls it; deploy/Dockerfile makes
// the same image with an engine.
package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"github.com/dustin/go-humanize"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// nobody is the user that the image runs as, the one that distroless images call nonroot.
const nobody = "65532:65532"

type cli struct {
	Binary   map[string]string `required:"" placeholder:"OS/ARCH=FILE" help:"Static binary of each platform."`
	SBOM     string            `required:"" type:"existingfile" help:"What the binaries are made of, CycloneDX as JSON."`
	Version  string            `required:"" help:"Version of the image, its label and tag."`
	Revision string            `required:"" help:"Commit that the binaries are built from."`
	Created  int64             `required:"" help:"When it was made, in seconds since 1970: the commit's time, so that the image is reproducible."`
	Out      string            `default:"bin/image" help:"Folder of the OCI layout; it is replaced. The archive for docker load is beside it, FOLDER.tar."`
}

func main() {
	var c cli
	kong.Parse(&c, kong.Name("image"), kong.Description("Make the container image, without a container engine."))
	if err := c.run(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func (c cli) run(out io.Writer) error {
	if err := os.RemoveAll(c.Out); err != nil {
		return err
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, platform := range slices.Sorted(maps.Keys(c.Binary)) {
		image, err := c.image(platform)
		if err != nil {
			return fmt.Errorf("%s: %w", platform, err)
		}
		config, err := image.ConfigFile()
		if err != nil {
			return err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: config.Platform()}})
		size, err := image.Size()
		if err != nil {
			return err
		}
		layers, err := image.Layers()
		if err != nil {
			return err
		}
		for _, l := range layers {
			n, err := l.Size()
			if err != nil {
				return err
			}
			size += n
		}
		digest, err := image.Digest()
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%-12s %s   %s to pull\n", platform, digest, humanize.IBytes(uint64(size)))
		if platform == "linux/"+runtime.GOARCH {
			tag, err := name.NewTag("snapfleet:" + c.tag())
			if err != nil {
				return err
			}
			if err := tarball.WriteToFile(c.Out+".tar", tag, image); err != nil {
				return fmt.Errorf("write %s.tar: %w", c.Out, err)
			}
			fmt.Fprintf(out, "%-12s docker load -i %s.tar   # %s\n", "", c.Out, tag)
		}
	}
	if _, err := layout.Write(c.Out, index); err != nil {
		return fmt.Errorf("write %s: %w", c.Out, err)
	}
	digest, err := index.Digest()
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%-12s %s   %s\n", "all", digest, c.Out)
	return nil
}

// tag is the version as a tag can have it: a + is semver's and not a registry's.
func (c cli) tag() string { return strings.ReplaceAll(c.Version, "+", "-") }

// image is the image of one platform.
func (c cli) image(platform string) (v1.Image, error) {
	system, arch, ok := strings.Cut(platform, "/")
	if !ok || system != "linux" {
		return nil, errors.New("not linux/<architecture>")
	}
	created := time.Unix(c.Created, 0).UTC()
	binary, err := os.ReadFile(c.Binary[platform])
	if err != nil {
		return nil, err
	}
	sbom, err := os.ReadFile(c.SBOM)
	if err != nil {
		return nil, err
	}
	// The one that changes with every build comes last.
	base, err := layer(created,
		file{"etc/passwd", 0o644, []byte("nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n")},
		file{"etc/group", 0o644, []byte("nonroot:x:65532:\n")})
	if err != nil {
		return nil, err
	}
	program, err := layer(created, file{"snapfleet", 0o755, binary}, file{"usr/share/doc/snapfleet/sbom.cdx.json", 0o644, sbom})
	if err != nil {
		return nil, err
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	if image, err = mutate.Append(image,
		mutate.Addendum{Layer: base, History: v1.History{Created: v1.Time{Time: created}, CreatedBy: "a user"}},
		mutate.Addendum{Layer: program, History: v1.History{Created: v1.Time{Time: created}, CreatedBy: "snapfleet " + c.Version}},
	); err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = system, arch, v1.Time{Time: created}
	config.Config = v1.Config{
		User: nobody, Entrypoint: []string{"/snapfleet"}, Cmd: []string{"worker"}, WorkingDir: "/",
		ExposedPorts: map[string]struct{}{"8080/tcp": {}},
		StopSignal:   "SIGTERM",
		// https://github.com/opencontainers/image-spec/blob/main/annotations.md
		Labels: map[string]string{
			"org.opencontainers.image.title":       "snapfleet",
			"org.opencontainers.image.description": "Delivers a tenant's data into the tenant's own S3 bucket",
			"org.opencontainers.image.licenses":    "Apache-2.0",
			"org.opencontainers.image.source":      "https://github.com/snapfleet/snapfleet",
			"org.opencontainers.image.version":     c.Version,
			"org.opencontainers.image.revision":    c.Revision,
			"org.opencontainers.image.created":     created.Format(time.RFC3339),
		},
	}
	return mutate.ConfigFile(image, config)
}

type file struct {
	name string
	mode int64
	data []byte
}

// layer is files, with the folders above them, all of root's and of one instant.
func layer(created time.Time, files ...file) (v1.Layer, error) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	made := map[string]bool{}
	for _, f := range files {
		for dir := range parents(f.name) {
			if made[dir] {
				continue
			}
			made[dir] = true
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, ModTime: created}); err != nil {
				return nil, err
			}
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: f.mode, Size: int64(len(f.data)), ModTime: created}); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive.Bytes())), nil },
		tarball.WithMediaType(types.OCILayer), tarball.WithCompressedCaching, tarball.WithCompressionLevel(gzip.BestCompression))
}

// parents yields the folders above a name, outermost first.
func parents(name string) func(func(string) bool) {
	return func(yield func(string) bool) {
		parts := strings.Split(filepath.ToSlash(filepath.Dir(name)), "/")
		for i := range parts {
			if dir := strings.Join(parts[:i+1], "/"); dir != "." && !yield(dir) {
				return
			}
		}
	}
}
