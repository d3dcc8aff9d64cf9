package uploader

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/minio/crc64nvme"

	"github.com/snapfleet/snapfleet/contracts"
)

// folder is a job's folder on a local file system. It implements store with the same promises: nothing
// under its final name before complete, nothing overwritten, what is reported done is on the disk. Files and folders are
// for their owner alone: they hold a tenant's data.
type folder struct {
	dir     string
	attempt contracts.Attempt
}

// An upload is the file ".<name>.<id>.partial".
const partialSuffix = ".partial"

func openFolder(dir string, a contracts.Attempt) (*folder, error) {
	if !contracts.ValidTenant(a.Tenant.Name) || !contracts.ValidJob(a.Request.Job) {
		return nil, contracts.Reject(contracts.InvalidRequest, "tenant %.80q or job %.80q is not a valid name", a.Tenant.Name, a.Request.Job)
	}
	return &folder{dir: filepath.Join(dir, a.Tenant.Name, a.Request.Job), attempt: a}, nil
}

func (f *folder) path(name string) string { return filepath.Join(f.dir, name) }

func (f *folder) partial(u contracts.Upload) string {
	return f.path("." + u.Name + "." + u.ID + partialSuffix)
}

func (f *folder) preflight(ctx context.Context, keep []contracts.Upload) error {
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return fmt.Errorf("make the job's folder: %w", err)
	}
	switch found, err := f.delivered(ctx); {
	case err != nil:
		return err
	case found != nil:
		return ErrDelivered
	}
	names, err := f.list(ctx)
	if err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasPrefix(name, "snapshot_") {
			return taken(f.attempt, name)
		}
	}
	return abortListed(ctx, f, keep)
}

func (f *folder) create(_ context.Context, name string) (string, error) {
	u := contracts.Upload{Name: name, ID: strings.ToLower(rand.Text()[:12])}
	file, err := os.OpenFile(f.partial(u), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	return u.ID, file.Close()
}

func (f *folder) put(ctx context.Context, u contracts.Upload, number int, offset int64, body []byte, crc uint64) (contracts.Part, error) {
	if ctx.Err() != nil {
		return contracts.Part{}, context.Cause(ctx)
	}
	err := f.edit(u, func(file *os.File) error {
		_, err := file.WriteAt(body, offset)
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %w", ErrUploadLost, err)
	}
	return contracts.Part{ETag: fmt.Sprint(number), CRC64NVME: crcText(crc)}, err
}

// edit opens an upload, changes it, and closes it.
func (f *folder) edit(u contracts.Upload, change func(*os.File) error) error {
	file, err := os.OpenFile(f.partial(u), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(change(file), file.Close())
}

func (f *folder) complete(_ context.Context, u contracts.Upload, over string) error {
	err := f.edit(u, (*os.File).Sync)
	if errors.Is(err, fs.ErrNotExist) {
		return errGone
	}
	if err != nil {
		return err
	}
	return f.reveal(f.partial(u), u.Name)
}

// reveal gives a file its final name, unless that is taken.
func (f *folder) reveal(from, name string) error {
	err := os.Link(from, f.path(name))
	if errors.Is(err, fs.ErrExist) {
		return errTaken
	}
	if err == nil {
		err = os.Remove(from)
	} else if _, missing := os.Lstat(f.path(name)); errors.Is(missing, fs.ErrNotExist) {
		err = os.Rename(from, f.path(name)) // a file system without links
	}
	if err != nil {
		return err
	}
	return f.sync()
}

// sync makes the folder's names durable.
func (f *folder) sync() error {
	d, err := os.Open(f.dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (f *folder) abort(_ context.Context, u contracts.Upload) error {
	if strings.ContainsAny(u.Name+u.ID, `/\`) {
		return fmt.Errorf("abort an upload of %.200q: not a name in the job's folder", u.Name)
	}
	if err := os.Remove(f.partial(u)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// parts reads the file: a file system keeps no checksum of what was written.
func (f *folder) parts(ctx context.Context, u contracts.Upload, partBytes int) (found []arrived, err error) {
	file, err := os.Open(f.partial(u))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errGone
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	for number := 1; ; number++ {
		sum := crc64nvme.New()
		n, err := io.CopyN(sum, reading{ctx, file}, int64(partBytes))
		if n > 0 {
			found = append(found, arrived{number: number, size: n, tag: fmt.Sprint(number), crc: crcText(sum.Sum64())})
		}
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", u.Name, err)
		}
	}
}

func (f *folder) uploads(context.Context) (found []contracts.Upload, err error) {
	entries, err := f.entries()
	for _, e := range entries {
		rest, ok := strings.CutSuffix(e.Name(), partialSuffix)
		dot := strings.LastIndexByte(rest, '.')
		if ok && strings.HasPrefix(rest, ".") && dot > 0 {
			found = append(found, contracts.Upload{Name: rest[1:dot], ID: rest[dot+1:]})
		}
	}
	return found, err
}

func (f *folder) list(context.Context) (names []string, err error) {
	entries, err := f.entries()
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	return names, err
}

func (f *folder) entries() ([]os.DirEntry, error) {
	entries, err := os.ReadDir(f.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return entries, err
}

// stat reads the whole file: a file system keeps no checksum, nor whose a file is.
func (f *folder) stat(ctx context.Context, name string) (*stored, error) {
	file, err := os.Open(f.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	sum := crc64nvme.New()
	n, err := io.CopyBuffer(sum, reading{ctx, file}, make([]byte, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file.Name(), err)
	}
	return &stored{size: n, crc: crcText(sum.Sum64()), mute: true}, nil
}

// reading is a reader that stops when ctx does.
type reading struct {
	ctx context.Context
	r   io.Reader
}

func (r reading) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(p)
}

// delivered implements store. A file system keeps no metadata, so nothing proves who wrote the manifest.
func (f *folder) delivered(ctx context.Context) (*contracts.FoundDelivery, error) {
	file, err := os.Open(f.path(contracts.ManifestName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	sum := sha256.New()
	m, err := contracts.ReadManifestSummary(io.TeeReader(io.LimitReader(reading{ctx, file}, contracts.MaxManifestBytes), sum))
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, noProof(f.attempt, "%w", err)
	}
	if m.Tenant != f.attempt.Tenant.Name || m.Job != f.attempt.Request.Job {
		return nil, noProof(f.attempt, "it is of %s", contracts.JobPrefix(m.Tenant, m.Job))
	}
	if wrong := nameVolumes(m); len(wrong) > 0 {
		return nil, noProof(f.attempt, "%s", wrong[0])
	}
	for _, v := range m.Volumes {
		info, err := os.Stat(f.path(v.Name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if err != nil || info.Size() != v.Size {
			return nil, noProof(f.attempt, "volume %s is not there with its %d bytes", v.Name, v.Size)
		}
	}
	return &contracts.FoundDelivery{Manifest: m, SHA256: hex.EncodeToString(sum.Sum(nil))}, nil
}

func (f *folder) read(_ context.Context, name string, most int) ([]byte, error) {
	file, err := os.Open(f.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, int64(most)+1))
	if err == nil && len(data) > most {
		err = errTooLarge
	}
	return data, err
}

func (f *folder) write(_ context.Context, name string, body []byte) (err error) {
	u := contracts.Upload{Name: name, ID: strings.ToLower(rand.Text()[:12])}
	defer func() {
		if err != nil {
			os.Remove(f.partial(u))
		}
	}()
	if err := os.WriteFile(f.partial(u), body, 0o600); err != nil {
		return err
	}
	if err := f.edit(u, (*os.File).Sync); err != nil {
		return err
	}
	return f.reveal(f.partial(u), name)
}

func (f *folder) remove(_ context.Context, name string) error { return os.Remove(f.path(name)) }

func (f *folder) handOn() {} // a folder is found at once
