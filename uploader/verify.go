package uploader

import (
	"archive/tar"
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/minio/crc64nvme"
	"golang.org/x/sync/errgroup"

	"github.com/snapfleet/snapfleet/contracts"
)

// VerifyOptions says how to verify.
type VerifyOptions struct {
	// Parallel is how many volumes are read at once. Default 2: each takes a core to decompress.
	Parallel int
	// Progress, when set, is called with how many bytes of volumes have been read, of how many in all.
	// It is called often, by several goroutines, and never twice at the same time.
	Progress func(done, total int64)
}

// Report is what [Verify] found.
type Report struct {
	Source   string
	Manifest contracts.Manifest // empty when there is none that can be read
	Volumes  []VolumeResult     // in the manifest's order
	Files    []FileResult       // in the manifest's order
	Problems []Problem          // every one that was found; empty: the delivery is proven
	Bytes    int64              // read
	Took     time.Duration
}

// OK reports whether the delivery is proven: whole, and exactly what its manifest says.
func (r Report) OK() bool { return len(r.Problems) == 0 }

// VolumeResult is a volume as it was read. Size and checksum are what is there, not what should be.
type VolumeResult struct {
	Name      string
	Size      int64
	CRC64NVME string
	Files     int
	OK        bool
}

// FileResult is a file as it was read.
type FileResult struct {
	Name, Volume, Of string
	Size             int64
	SHA256           string
	Rows             int64
	OK               bool
}

// Problem is one thing that is not as the manifest says. It holds names and numbers, never data.
type Problem struct {
	Volume string // empty: not of one volume
	File   string // empty: not of one file
	What   string
}

// String is one line.
func (p Problem) String() string {
	where := strings.Trim(p.Volume+": "+p.File, ": ")
	return strings.TrimPrefix(where+": "+p.What, ": ")
}

// Verify reads a delivery back, in one pass and little memory, and proves it against its manifest: every
// volume with its size and CRC64NVME, every file with its size and SHA-256, every table with its rows,
// counted in the decompressed text, and its columns; nothing missing, nothing twice, nothing besides. It
// trusts nobody who wrote the delivery, and nothing but the manifest.
//
// Everything that is wrong with the delivery is a [Problem]; an error means that it could not be read.
func Verify(ctx context.Context, src Source, opt VerifyOptions) (Report, error) {
	began := time.Now()
	v := &verification{src: src, opt: opt, report: Report{Source: src.String()}}
	if err := v.run(ctx); err != nil {
		return v.report, fmt.Errorf("verify %s: %w", src, err)
	}
	slices.SortStableFunc(v.report.Problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Volume, b.Volume), cmp.Compare(a.File, b.File))
	})
	v.report.Took = time.Since(began)
	return v.report, nil
}

// verification is one call of Verify.
type verification struct {
	src   Source
	opt   VerifyOptions
	total int64

	mu     sync.Mutex // guards report while volumes are read
	report Report
}

func (v *verification) say(volume, file, format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.report.Problems = append(v.report.Problems, Problem{volume, file, fmt.Sprintf(format, args...)})
}

func (v *verification) run(ctx context.Context) error {
	there, err := v.src.Objects(ctx)
	if err != nil {
		return err
	}
	m, found, err := v.manifest(ctx)
	if err != nil || !found {
		return err
	}
	v.report.Manifest = m
	v.report.Problems = append(v.report.Problems, addsUp(m)...)

	files := make(map[string][]contracts.File) // by volume
	for _, f := range m.Files {
		files[f.Volume] = append(files[f.Volume], f)
	}
	for _, vol := range m.Volumes {
		size, ok := there[vol.Name]
		if ok {
			v.total += size
		} else {
			v.say(vol.Name, "", "it is missing")
		}
	}
	for name := range there {
		if name != contracts.ManifestName && !slices.ContainsFunc(m.Volumes, func(vol contracts.Volume) bool { return vol.Name == name }) {
			v.say(name, "", "the manifest does not name it")
		}
	}

	v.report.Volumes = make([]VolumeResult, len(m.Volumes))
	results := make([][]FileResult, len(m.Volumes))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(cmp.Or(max(v.opt.Parallel, 0), 2))
	for i, vol := range m.Volumes {
		if _, ok := there[vol.Name]; !ok {
			v.report.Volumes[i] = VolumeResult{Name: vol.Name}
			continue
		}
		g.Go(func() (err error) {
			v.report.Volumes[i], results[i], err = v.volume(ctx, m, vol, files[vol.Name])
			return err
		})
	}
	err = g.Wait()
	v.report.Files = slices.Concat(results...)
	return err
}

func (v *verification) manifest(ctx context.Context) (m contracts.Manifest, found bool, err error) {
	r, err := v.src.Open(ctx, contracts.ManifestName)
	if errors.Is(err, fs.ErrNotExist) {
		v.say("", contracts.ManifestName, "it is missing: this is not a whole delivery")
		return m, false, nil
	}
	if err != nil {
		return m, false, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, contracts.MaxManifestBytes+1))
	if err != nil {
		return m, false, err
	}
	m, err = contracts.DecodeManifest(data)
	if err != nil {
		v.say("", contracts.ManifestName, "%v", err)
		return m, false, nil
	}
	if counterOf("."+string(m.Format), contracts.Table{}) == nil {
		v.say("", contracts.ManifestName, "its format is %q, which this build cannot count", m.Format)
	}
	return m, true, nil
}

// volume reads one volume to its end, whatever is wrong with it.
func (v *verification) volume(ctx context.Context, m contracts.Manifest, want contracts.Volume, files []contracts.File) (VolumeResult, []FileResult, error) {
	got := VolumeResult{Name: want.Name}
	ok := true
	say := func(file, format string, args ...any) {
		ok = false
		v.say(want.Name, file, format, args...)
	}
	src, err := v.src.Open(ctx, want.Name)
	if err != nil {
		return got, nil, fmt.Errorf("open %s: %w", want.Name, err)
	}
	defer src.Close()
	w := &witness{r: reading{ctx, src}, moved: v.moved}
	in := bufio.NewReaderSize(w, 256<<10)

	results, err := v.walk(m, want, files, in, say)
	if err == nil {
		var rest int64
		if rest, err = io.Copy(io.Discard, in); err == nil && rest > 0 && !w.zeros() {
			say("", "there is something behind its end")
		}
	}
	if w.err != nil { // not the volume's fault, or not for certain
		return got, results, fmt.Errorf("read %s: %w", want.Name, w.err)
	}
	if err != nil {
		say("", "it cannot be unpacked: %v", err)
		if _, err := io.Copy(io.Discard, in); err != nil {
			return got, results, fmt.Errorf("read %s: %w", want.Name, err)
		}
	}

	got.Size, got.CRC64NVME, got.Files = w.n, crcText(w.crc), len(results)
	if !w.zeros() {
		say("", "it does not end as a .tar does")
	}
	if got.Size != want.Size {
		say("", "it has %d bytes, not %d", got.Size, want.Size)
	}
	if got.CRC64NVME != want.CRC64NVME {
		say("", "its CRC64NVME is %s, not %s", got.CRC64NVME, want.CRC64NVME)
	}
	seen := make(map[string]bool, len(results))
	for _, f := range results {
		seen[f.Name] = true
	}
	for _, f := range files {
		if !seen[f.Name] {
			say(f.Name, "it is missing")
		}
	}
	got.OK = ok
	return got, results, nil
}

// walk reads the members of a volume. Its error is what is wrong with the .tar.
func (v *verification) walk(m contracts.Manifest, vol contracts.Volume, files []contracts.File, in io.Reader, say func(file, format string, args ...any)) (results []FileResult, err error) {
	want := make(map[string]contracts.File, len(files))
	for _, f := range files {
		want[f.Name] = f
	}
	tables := make(map[string]contracts.Table, len(m.Tables))
	for _, t := range m.Tables {
		tables[t.Name] = t
	}
	seen := make(map[string]bool, len(files))
	for r := tar.NewReader(in); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return results, nil
		}
		if err != nil {
			return results, err
		}
		f, expected := want[h.Name]
		switch {
		case h.Typeflag != tar.TypeReg:
			say(h.Name, "it is no plain file")
			continue
		case !fs.ValidPath(h.Name):
			say(h.Name, "its name leaves the folder that it is unpacked to")
			continue
		case seen[h.Name]:
			say(h.Name, "it is in the .tar twice")
			continue
		case !expected:
			say(h.Name, "the manifest does not name it")
			continue
		}
		seen[h.Name] = true
		got, err := v.file(f, vol.Kind, tables[f.Of], r, say)
		results = append(results, got)
		if err != nil {
			return results, err
		}
	}
}

// file reads one file. Its error is what is wrong with the .tar around it.
func (v *verification) file(want contracts.File, kind contracts.Kind, table contracts.Table, r io.Reader, complain func(file, format string, args ...any)) (FileResult, error) {
	got := FileResult{Name: want.Name, Volume: want.Volume, Of: want.Of, OK: true}
	say := func(format string, args ...any) {
		got.OK = false
		complain(want.Name, format, args...)
	}
	sum := sha256.New()
	size := &tally{}
	body := io.TeeReader(r, io.MultiWriter(sum, size))

	if text := counterOf(want.Name, table); text != nil && kind == contracts.Tables {
		err := gunzip(text, body)
		rows, bad := text.rows()
		got.Rows = rows
		switch {
		case err != nil:
			say("it cannot be decompressed: %v", err)
		case bad != nil:
			say("%v", bad)
		case rows != want.Rows:
			say("it has %d rows, not %d", rows, want.Rows)
		}
	}
	if _, err := io.Copy(io.Discard, body); err != nil {
		return got, err
	}
	got.Size, got.SHA256 = size.n, hex.EncodeToString(sum.Sum(nil))
	if got.Size != want.Size {
		say("it has %d bytes, not %d", got.Size, want.Size)
	}
	if got.SHA256 != want.SHA256 {
		say("its SHA-256 is %s, not %s", got.SHA256, want.SHA256)
	}
	return got, nil
}

// counter counts the rows of a table in the text that is written to it.
type counter interface {
	io.Writer
	// rows is called when all is written. The error says what is wrong with the text, or with its columns.
	rows() (int64, error)
}

// counterOf returns the counter for a file of that name, or nil when its format is not known.
func counterOf(name string, t contracts.Table) counter {
	switch {
	case strings.HasSuffix(name, "."+string(contracts.CSV)):
		return &csvTable{table: t}
	case strings.HasSuffix(name, "."+string(contracts.JSONL)):
		return newJSONLTable(t)
	}
	return nil
}

// gunzip decompresses all of r.
func gunzip(w io.Writer, r io.Reader) error {
	z, err := gzip.NewReader(r)
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{z}, make([]byte, 128<<10))
	return errors.Join(err, z.Close())
}

func (v *verification) moved(n int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.report.Bytes += n
	if v.opt.Progress != nil {
		v.opt.Progress(v.report.Bytes, v.total)
	}
}

// tally counts what is written to it.
type tally struct{ n int64 }

func (t *tally) Write(p []byte) (int, error) {
	t.n += int64(len(p))
	return len(p), nil
}

// witness sees every byte of a volume on its way to the reader.
type witness struct {
	r     io.Reader
	moved func(int64)
	n     int64
	crc   uint64
	tail  [trailer]byte // the last bytes
	err   error         // of r, other than io.EOF
}

func (w *witness) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	w.n += int64(n)
	w.crc = crc64nvme.Update(w.crc, p[:n])
	if n >= trailer {
		copy(w.tail[:], p[n-trailer:n])
	} else if n > 0 {
		copy(w.tail[:], w.tail[n:])
		copy(w.tail[trailer-n:], p[:n])
	}
	if n > 0 {
		w.moved(int64(n))
	}
	if err != nil && !errors.Is(err, io.EOF) {
		w.err = err
	}
	return n, err
}

// zeros reports whether the volume ends, so far, as a .tar has to.
func (w *witness) zeros() bool { return w.n >= trailer && bytes.Equal(w.tail[:], zeros[:]) }
