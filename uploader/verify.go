package uploader

import (
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
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

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
	Problems []Problem          // the first 100 that were found; empty: the delivery is proven
	More     int                // how many problems there are besides
	// Unpacked is how many files and folders beside the archives were unpacked from them, by their names. They are
	// not looked at. In a bucket there are none: there they are problems.
	Unpacked int
	Bytes    int64 // read
	Took     time.Duration
}

// maxProblems is how many problems are kept.
const maxProblems = 100

// OK reports whether the delivery is proven: whole, and exactly what its manifest says.
func (r Report) OK() bool { return len(r.Problems) == 0 }

// Intact reports whether nothing was changed, removed or added on the way: all that is wrong is what some files hold,
// while each byte of them is the one that the manifest names.
func (r Report) Intact() bool {
	return r.More == 0 && !slices.ContainsFunc(r.Problems, func(p Problem) bool { return !p.Content })
}

// ErrNothingThere says that the source holds no object at all.
var ErrNothingThere = errors.New("nothing is there")

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

// Problem is one thing that is not as the manifest says. It holds names and numbers, never data. A name that is longer
// than 200 characters is cut.
type Problem struct {
	Volume string // empty: not of one volume
	File   string // empty: not of one file
	What   string
	// Content: it is about what the file holds, whose size and SHA-256 are right.
	Content bool
}

// String is one line. What a terminal would obey is escaped.
func (p Problem) String() string {
	where := strings.Trim(visible(p.Volume)+": "+visible(p.File), ": ")
	return strings.TrimPrefix(where+": "+visible(p.What), ": ")
}

// visible escapes what has no shape of its own: control characters, invisible formatting, invalid UTF-8.
func visible(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsPrint(r) || r == utf8.RuneError }) {
		return s
	}
	quoted := strconv.Quote(s)
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}

// cutName shortens a name to 200 characters.
func cutName(s string) string {
	if len(s) <= 200 {
		return s
	}
	return fmt.Sprintf("%.200s...", s)
}

// Verify reads a delivery back, in one pass, and proves it against its manifest: every volume with its size and
// CRC64NVME, every file with its size and SHA-256, every table with its rows, counted in the decompressed text, and its
// columns; nothing missing, nothing twice, nothing besides. It trusts nothing but the manifest. A volume must be what
// this package writes, header by header: what another program would unpack differently is a problem.
//
// Memory is a few MiB and at most some twenty times the manifest, whatever the volumes hold. Verify ends soon after ctx does, also in
// the midst of a file.
//
// Everything that is wrong with the delivery is a [Problem]; an error means that it could not be read. The error is
// [ErrNothingThere] where there is nothing at all.
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
	v.add(Problem{Volume: volume, File: file, What: fmt.Sprintf(format, args...)})
}

func (v *verification) add(problems ...Problem) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, p := range problems {
		if len(v.report.Problems) == maxProblems {
			v.report.More++
			continue
		}
		p.Volume, p.File = cutName(p.Volume), cutName(p.File)
		v.report.Problems = append(v.report.Problems, p)
	}
}

func (v *verification) run(ctx context.Context) error {
	there, err := v.src.Objects(ctx)
	if err != nil {
		return err
	}
	if len(there) == 0 {
		return ErrNothingThere
	}
	m, found, err := v.manifest(ctx)
	if err != nil || !found {
		return err
	}
	v.report.Manifest = m
	v.books(m)
	v.objects(m, there)

	files := make(map[string][]contracts.File) // by volume
	for from := 0; from < len(m.Files); {      // those of one volume follow each other, but for a lie
		to := from + 1
		for to < len(m.Files) && m.Files[to].Volume == m.Files[from].Volume {
			to++
		}
		if volume := m.Files[from].Volume; files[volume] == nil {
			files[volume] = m.Files[from:to:to]
		} else {
			files[volume] = append(files[volume], m.Files[from:to]...)
		}
		from = to
	}
	tables := make(map[string]contracts.Table, len(m.Tables))
	for _, t := range m.Tables {
		tables[t.Name] = t
	}
	v.report.Volumes = make([]VolumeResult, len(m.Volumes))
	results := make([][]FileResult, len(m.Volumes))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(cmp.Or(max(v.opt.Parallel, 0), 2))
	for i, vol := range m.Volumes {
		if size, ok := there[vol.Name]; !ok || size > vol.Size {
			v.report.Volumes[i] = VolumeResult{Name: vol.Name, Size: size}
			continue
		}
		g.Go(func() (err error) {
			v.report.Volumes[i], results[i], err = v.volume(ctx, tables, vol, files[vol.Name])
			return err
		})
	}
	err = g.Wait()
	v.report.Files = slices.Concat(results...)
	return err
}

// books looks at the manifest alone.
func (v *verification) books(m contracts.Manifest) {
	v.report.Problems = append(v.report.Problems, addsUp(m)...)
	if n := len(v.report.Problems); n > maxProblems {
		v.report.Problems, v.report.More = v.report.Problems[:maxProblems], n-maxProblems
	}
	if v.report.OK() {
		v.add(misnamed(m)...)
	}
}

// objects compares what the source lists with what the manifest names. A volume that is larger than it should be is not
// read: how much larger it is may be anything.
func (v *verification) objects(m contracts.Manifest, there map[string]int64) {
	named := map[string]bool{contracts.ManifestName: true}
	for _, vol := range m.Volumes {
		named[vol.Name] = true
		switch size, ok := there[vol.Name]; {
		case !ok:
			v.say(vol.Name, "", "it is missing")
		case size > vol.Size:
			v.say(vol.Name, "", "it has %d bytes, not %d", size, vol.Size)
		default:
			v.total += size
		}
	}
	var unpacked map[string]bool
	for _, name := range slices.Sorted(maps.Keys(there)) {
		if named[name] {
			continue
		}
		if _, local := v.src.(folderSource); local && unpacked == nil {
			unpacked = unpackedNames(m)
		}
		if unpacked[name] {
			v.report.Unpacked++
			continue
		}
		v.say(name, "", "the manifest does not name it")
	}
}

func (v *verification) manifest(ctx context.Context) (m contracts.Manifest, found bool, err error) {
	r, err := v.src.Open(ctx, contracts.ManifestName)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		v.say("", contracts.ManifestName, "it is missing: this is not a whole delivery")
		return m, false, nil
	case errors.Is(err, errNotPlain):
		v.say("", contracts.ManifestName, "%v", errNotPlain)
		return m, false, nil
	case err != nil:
		return m, false, err
	}
	defer r.Close()
	m, misnamed, err := readManifest(ctx, r)
	if bad, ok := errors.AsType[badManifest](err); ok {
		v.say("", contracts.ManifestName, "%v", bad)
		return m, false, nil
	}
	if err != nil {
		return m, false, fmt.Errorf("read %s: %w", contracts.ManifestName, err)
	}
	v.add(misnamed...)
	if counterOf("."+string(m.Format), contracts.Table{}) == nil {
		v.say("", contracts.ManifestName, "its format is %.80q, which this build cannot count", m.Format)
	}
	return m, true, nil
}

// volume reads one volume to its end, whatever is wrong with it.
func (v *verification) volume(ctx context.Context, tables map[string]contracts.Table, want contracts.Volume, files []contracts.File) (VolumeResult, []FileResult, error) {
	got := VolumeResult{Name: want.Name, OK: true}
	say := func(p Problem) {
		got.OK = false
		p.Volume = want.Name
		v.add(p)
	}
	sayf := func(format string, args ...any) { say(Problem{What: fmt.Sprintf(format, args...)}) }
	src, err := v.src.Open(ctx, want.Name)
	if errors.Is(err, errNotPlain) {
		sayf("%v", errNotPlain)
		return got, nil, nil
	}
	if err != nil {
		return got, nil, fmt.Errorf("open %s: %w", want.Name, err)
	}
	defer src.Close()
	w := &witness{r: io.LimitReader(reading{ctx, src}, want.Size+1), moved: v.moved}
	in := bufio.NewReaderSize(w, 256<<10)

	c := &content{ctx: ctx, kind: want.Kind, tables: tables, in: &untar{in: in}, say: say}
	results, err := c.walk(files)
	rest, drained := io.Copy(io.Discard, in)
	if cause := errors.Join(w.err, context.Cause(ctx)); cause != nil { // not the volume's fault, or not for certain
		return got, results, fmt.Errorf("read %s: %w", want.Name, cause)
	}
	if drained != nil {
		return got, results, fmt.Errorf("read %s: %w", want.Name, drained)
	}
	foreign, isForeign := errors.AsType[alien](err)
	switch {
	case isForeign:
		say(Problem{File: foreign.name, What: foreign.what})
	case err != nil:
		sayf("it cannot be unpacked: %v", err)
	case rest > 0 || !w.zeros():
		sayf("it does not end as a .tar does")
	}
	got.Size, got.CRC64NVME, got.Files = w.n, crcText(w.crc), len(results)
	if got.Size != want.Size {
		sayf("it has %d bytes, not %d", got.Size, want.Size)
	}
	if got.CRC64NVME != want.CRC64NVME {
		sayf("its CRC64NVME is %s, not %.80q", got.CRC64NVME, want.CRC64NVME)
	}
	if err == nil { // else what comes later was not looked for
		for _, f := range files {
			if !c.seen[f.Name] {
				say(Problem{File: f.Name, What: "it is missing"})
			}
		}
	}
	return got, results, nil
}

// content is what is in one volume.
type content struct {
	ctx    context.Context
	kind   contracts.Kind
	tables map[string]contracts.Table
	in     *untar
	say    func(Problem)
	seen   map[string]bool // members
}

// walk reads the members of a volume. Its error is what is wrong with the .tar.
func (c *content) walk(files []contracts.File) (results []FileResult, err error) {
	want := make(map[string]int, len(files))
	for i, f := range files {
		want[f.Name] = i
	}
	c.seen = make(map[string]bool, len(files))
	for {
		name, _, err := c.in.next()
		if errors.Is(err, io.EOF) {
			return results, nil
		}
		if err != nil {
			return results, err
		}
		i, expected := want[name]
		switch {
		case !fs.ValidPath(name):
			c.say(Problem{File: name, What: "its name leaves the folder that it is unpacked to"})
			continue
		case c.seen[name]:
			c.say(Problem{File: name, What: "it is in the .tar twice"})
			continue
		case !expected:
			c.say(Problem{File: name, What: "the manifest does not name it"})
			continue
		}
		c.seen[name] = true
		got, err := c.file(files[i])
		results = append(results, got)
		if err != nil {
			return results, err
		}
	}
}

// file reads one file. Its error is what is wrong with the .tar around it.
func (c *content) file(want contracts.File) (FileResult, error) {
	got := FileResult{Name: want.Name, Volume: want.Volume, Of: want.Of, OK: true}
	say := func(content bool, format string, args ...any) {
		got.OK = false
		c.say(Problem{File: want.Name, What: fmt.Sprintf(format, args...), Content: content})
	}
	sum := sha256.New()
	size := &tally{}
	body := io.TeeReader(c.in, io.MultiWriter(sum, size))

	var wrong error // with what is in it
	if text := counterOf(want.Name, c.tables[want.Of]); text != nil && c.kind == contracts.Tables {
		got.Rows, wrong = countRows(c.ctx, text, body, want.Rows)
	}
	if _, err := io.Copy(io.Discard, body); err != nil {
		return got, err
	}
	got.Size, got.SHA256 = size.n, hex.EncodeToString(sum.Sum(nil))
	if got.Size != want.Size {
		say(false, "it has %d bytes, not %d", got.Size, want.Size)
	}
	if got.SHA256 != want.SHA256 {
		say(false, "its SHA-256 is %s, not %.80q", got.SHA256, want.SHA256)
	}
	if wrong != nil {
		say(got.OK, "%v", wrong)
	}
	return got, nil
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
