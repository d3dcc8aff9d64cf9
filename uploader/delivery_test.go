package uploader

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
)

// small parts make borders frequent: a part is eight blocks.
var small = Config{PartBytes: 8 * block, Buffers: 4, RetryFirst: time.Millisecond, RetryMost: 5 * time.Millisecond, RetryFor: 20 * time.Second}

func attempt(volume int64) contracts.Attempt {
	return contracts.Attempt{
		Request: contracts.Request{Version: 1, Tenant: "acme", Job: "2026-03-31-143022", RequestedAt: time.Unix(1_774_967_422, 0).UTC()},
		Tenant:  contracts.Tenant{Name: "acme", Limits: contracts.Limits{VolumeBytes: volume}},
		Number:  1, ID: "1-9f86d081884c7d65",
	}
}

// journal remembers what it is told.
type journal struct {
	mu       sync.Mutex
	uploads  []contracts.Upload
	progress contracts.Progress
	kept     [][]byte // checkpoints
	refuse   error
}

// Checkpoint adds what the reading side would, as far as it is needed.
func (j *journal) Checkpoint(_ context.Context, c contracts.Checkpoint) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.refuse != nil {
		return j.refuse
	}
	c.Attempt = attempt(0).ID
	if len(j.kept) == 0 {
		c.Plan = &contracts.Plan{}
	}
	data, err := c.Encode()
	if err == nil {
		j.kept = append(j.kept, data)
	}
	return err
}

func (j *journal) Upload(_ context.Context, u contracts.Upload) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.refuse != nil {
		return j.refuse
	}
	j.uploads = append(j.uploads, u)
	return nil
}

func (j *journal) Progress(f func(*contracts.Progress)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	f(&j.progress)
}

// fail makes every record fail, or none.
func (j *journal) fail(err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.refuse = err
}

// noise is n bytes that depend on the seed only.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)})
	r.Read(b)
	return b
}

// attachments are files of known size.
func attachments(sizes ...int) ([]contracts.Attachment, contracts.Archive) {
	var list []contracts.Attachment
	total := int64(0)
	for i, n := range sizes {
		id := fmt.Sprintf("%04d", i)
		list = append(list, contracts.Attachment{ID: id, Filename: "f", File: contracts.AttachmentFile(id, "f")})
		total += int64(n)
	}
	return list, contracts.Archive{Kind: contracts.Attachments, Bytes: total, Members: func(yield func(contracts.Member, error) bool) {
		for i, n := range sizes {
			m := contracts.Member{Name: list[i].File, Of: list[i].ID, Size: int64(n), ModTime: time.Unix(1e9, 5e8)}
			m.Write = func(_ context.Context, w io.Writer, _ int64) (contracts.Piece, error) {
				_, err := io.CopyBuffer(struct{ io.Writer }{w}, bytes.NewReader(noise(uint64(i), n)), make([]byte, 777))
				return contracts.Piece{}, err
			}
			if !yield(m, nil) {
				return
			}
		}
	}}
}

// tables are tables of so many rows each, with rows that do not compress.
func tables(counts ...int64) ([]contracts.Table, contracts.Archive) {
	return tablesIn(contracts.CSV, counts...)
}

func tablesIn(format contracts.Format, counts ...int64) ([]contracts.Table, contracts.Archive) {
	var list []contracts.Table
	var names []string
	for i, n := range counts {
		name := fmt.Sprintf("table %d", i)
		names = append(names, name)
		list = append(list, contracts.Table{Name: name, Rows: n, Columns: []contracts.Column{{Name: "id", Type: "bigint"}, {Name: "a \"b\",\n", Type: "text"}}})
	}
	files := contracts.TableFiles(names, format)
	return list, contracts.Archive{Kind: contracts.Tables, Bytes: 1, Members: func(yield func(contracts.Member, error) bool) {
		for i, n := range counts {
			if !yield(tableMember(files[i], names[i], n), nil) {
				return
			}
		}
	}}
}

func tableMember(file, name string, rows int64) contracts.Member {
	header, row := "id,\"a \"\"b\"\",\n\"\n", "%d,\"%x\n\"\"\"\n"
	if strings.HasSuffix(file, "."+string(contracts.JSONL)) {
		header, row = "", "{\"id\":%d,\"a \\\"b\\\",\\n\":\"%x\\n\\\"\"}\n"
	}
	next := int64(0)
	return contracts.Member{
		Name: file, Of: name, Size: -1, ModTime: time.Unix(1e9, 0),
		Write: func(_ context.Context, w io.Writer, room int64) (contracts.Piece, error) {
			count := &tally{}
			z := gzip.NewWriter(io.MultiWriter(w, count))
			fmt.Fprint(z, header)
			piece := contracts.Piece{}
			for next < rows && (room == 0 || count.n < room) {
				if _, err := fmt.Fprintf(z, row, next, noise(uint64(next), 20)); err != nil {
					return piece, err
				}
				next++
				piece.Rows++
				if room > 0 {
					z.Flush()
				}
			}
			piece.More = next < rows
			return piece, z.Close()
		},
	}
}

// odd wraps a store: parts arrive late and in any order, some fail, in both ways.
type odd struct {
	store
	mu       sync.Mutex
	arrived  []int
	inflight int
	peak     int
	before   func(ctx context.Context, number int) error // may fail the part before it is stored
	after    func(number int) error                      // ... or after
}

func (o *odd) put(ctx context.Context, u contracts.Upload, number int, offset int64, body []byte, crc uint64) (contracts.Part, error) {
	o.mu.Lock()
	o.inflight++
	o.peak = max(o.peak, o.inflight)
	o.mu.Unlock()
	defer func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.inflight--
		o.arrived = append(o.arrived, number)
	}()
	if o.before != nil {
		if err := o.before(ctx, number); err != nil {
			return contracts.Part{}, err
		}
	}
	p, err := o.store.put(ctx, u, number, offset, body, crc)
	if err == nil && o.after != nil {
		err = o.after(number)
	}
	return p, err
}

// latency is a network: every part takes its own time.
func latency(ctx context.Context, _ int) error {
	select {
	case <-time.After(time.Duration(rand.IntN(500)) * time.Microsecond):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// inFolder returns an uploader to a fresh folder whose store is wrapped, and the job's folder.
func inFolder(t *testing.T, cfg Config, o *odd) (*Uploader, string) {
	t.Helper()
	dir := t.TempDir()
	u := NewFolder(dir, cfg)
	open := u.open
	u.open = func(ctx context.Context, a contracts.Attempt) (store, error) {
		s, err := open(ctx, a)
		if o == nil || err != nil {
			return s, err
		}
		o.store = s
		return o, nil
	}
	return u, filepath.Join(dir, "acme", "2026-03-31-143022")
}

// deliver does all that a worker does, and returns the receipt.
func deliver(t *testing.T, u *Uploader, a contracts.Attempt, m contracts.Manifest, archives ...contracts.Archive) contracts.Receipt {
	t.Helper()
	d, err := u.Begin(t.Context(), a, &journal{})
	if err != nil {
		t.Fatal(err)
	}
	for _, ar := range archives {
		if err := d.Write(t.Context(), ar); err != nil {
			t.Fatal(err)
		}
	}
	r, err := d.Receipt(m)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// check verifies a committed folder with our own verifier, and with tools that know nothing of us.
func check(t *testing.T, dir string) Report {
	t.Helper()
	report, err := Verify(t.Context(), FolderSource(dir), VerifyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range report.Problems {
		t.Error(p)
	}
	for _, v := range report.Manifest.Volumes {
		listed, err := exec.Command("tar", "-tf", filepath.Join(dir, v.Name)).CombinedOutput()
		if err != nil {
			t.Fatalf("GNU tar: %v\n%s", err, listed)
		}
		if n := strings.Count(string(listed), "\n"); n != v.Files {
			t.Errorf("GNU tar lists %d files in %s, the manifest has %d", n, v.Name, v.Files)
		}
	}
	return report
}

func TestSizesAroundEveryBorder(t *testing.T) {
	t.Parallel()
	sizes := []int{0, 1, 511, 512, 513, 3583, 3584, 3585, 4095, 4096, 4097, 8192, 100_000, 7, 0, 33_333}
	r := rand.New(rand.NewPCG(1, 2))
	for range 60 {
		sizes = append(sizes, r.IntN(12*block))
	}
	list, files := attachments(sizes...)
	o := &odd{before: latency}
	u, dir := inFolder(t, small, o)
	tabs, rows := tables(0, 1, 100, 3, 1000, 0, 57)
	receipt := deliver(t, u, attempt(0), contracts.Manifest{Tables: tabs, Attachments: list}, rows, files)

	if there, _ := filepath.Glob(filepath.Join(dir, "[a-z]*")); len(there) != 0 {
		t.Errorf("visible before commit: %q", there)
	}
	if err := u.Commit(t.Context(), attempt(0), receipt); err != nil {
		t.Fatal(err)
	}
	check(t, dir)
	if slices.IsSorted(o.arrived) {
		t.Error("every part arrived in order: nothing was tested")
	}

	out := t.TempDir()
	for _, v := range []contracts.Kind{contracts.Tables, contracts.Attachments} {
		volume := filepath.Join(dir, contracts.VolumeName(v, "2026-03-31-143022", 0))
		if said, err := exec.Command("tar", "-xf", volume, "-C", out).CombinedOutput(); err != nil || len(said) > 0 {
			t.Fatalf("GNU tar: %v: %s", err, said)
		}
	}
	for i, n := range sizes {
		if got, err := os.ReadFile(filepath.Join(out, list[i].File)); err != nil || !bytes.Equal(got, noise(uint64(i), n)) {
			t.Fatalf("GNU tar gives %d bytes of %s, want %d (%v)", len(got), list[i].File, n, err)
		}
	}
	packed, _ := filepath.Glob(filepath.Join(out, "*.csv.gz"))
	if said, err := exec.Command("gzip", append([]string{"-t"}, packed...)...).CombinedOutput(); err != nil || len(packed) != len(tabs) {
		t.Fatalf("gzip: %d files, %v: %s", len(packed), err, said)
	}

	f, err := os.Open(filepath.Join(dir, contracts.VolumeName(contracts.Attachments, "2026-03-31-143022", 0)))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tr := tar.NewReader(f)
	for i, n := range sizes {
		h, err := tr.Next()
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(tr)
		if err != nil || !bytes.Equal(got, noise(uint64(i), n)) {
			t.Fatalf("%s: %d bytes, want %d (%v)", h.Name, len(got), n, err)
		}
		if h.Mode != 0o644 || h.Uid != 0 || h.Gid != 0 || !h.ModTime.Equal(time.Unix(1e9, 0)) || h.Typeflag != tar.TypeReg {
			t.Fatalf("header %+v", h)
		}
	}
	if _, err := tr.Next(); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
}

func TestPartsAreEqualAndConsecutive(t *testing.T) {
	t.Parallel()
	list, files := attachments(100_000)
	u, _ := inFolder(t, small, nil)
	a := attempt(0)
	a.Request.Only = contracts.Attachments
	up := deliver(t, u, a, contracts.Manifest{Attachments: list}, files).Uploads[0]
	if want := (up.Size + int64(small.PartBytes) - 1) / int64(small.PartBytes); int64(len(up.Parts)) != want {
		t.Fatalf("%d parts for %d bytes, want %d", len(up.Parts), up.Size, want)
	}
}

func TestEmptyArchives(t *testing.T) {
	t.Parallel()
	u, dir := inFolder(t, small, nil)
	_, none := attachments()
	_, no := tables()
	no.Bytes = 0
	r := deliver(t, u, attempt(0), contracts.Manifest{}, no, none)
	if err := u.Commit(t.Context(), attempt(0), r); err != nil {
		t.Fatal(err)
	}
	report := check(t, dir)
	if len(report.Volumes) != 2 || report.Volumes[0].Size != trailer {
		t.Fatalf("%+v", report.Volumes)
	}
	if !bytes.Contains(r.Manifest, []byte(`"tables": []`)) {
		t.Error("an empty list is null in the manifest")
	}
}

func TestSplit(t *testing.T) {
	t.Parallel()
	const limit = 40 << 10
	var sizes []int
	r := rand.New(rand.NewPCG(3, 4))
	for range 40 {
		sizes = append(sizes, r.IntN(16<<10))
	}
	list, files := attachments(sizes...)
	tabs, rows := tables(3, 1000, 0, 10_000, 8)
	rows.Bytes = limit + 1
	u, dir := inFolder(t, small, nil)
	a := attempt(limit)
	if err := u.Commit(t.Context(), a, deliver(t, u, a, contracts.Manifest{Tables: tabs, Attachments: list}, rows, files)); err != nil {
		t.Fatal(err)
	}
	report := check(t, dir)

	kinds := map[contracts.Kind]int{}
	for _, v := range report.Manifest.Volumes {
		kinds[v.Kind]++
		// A table stops at a convenient place: a row and what gzip holds.
		if v.Size > limit+4<<10 || v.Kind == contracts.Attachments && v.Size > limit {
			t.Errorf("%s has %d bytes, the limit is %d", v.Name, v.Size, limit)
		}
	}
	if kinds[contracts.Tables] < 3 || kinds[contracts.Attachments] < 3 {
		t.Fatalf("volumes: %v", kinds)
	}
	pieces := map[string][]string{}
	for _, f := range report.Manifest.Files {
		pieces[f.Of] = append(pieces[f.Of], f.Name)
	}
	if got := pieces["table 0"]; !slices.Equal(got, []string{"table 0.csv.gz"}) {
		t.Errorf("a table that fits: %q", got)
	}
	if got := pieces["table 3"]; len(got) < 3 || got[0] != "table 3_part1.csv.gz" || got[2] != "table 3_part3.csv.gz" {
		t.Errorf("a table that does not fit: %q", got)
	}
}

func TestOneVolumeMayOutgrowItsLimit(t *testing.T) {
	t.Parallel()
	tabs, rows := tables(5000)
	rows.Bytes = 10 // the estimate was wrong
	u, dir := inFolder(t, small, nil)
	a := attempt(4096)
	a.Request.Only = contracts.Tables
	if err := u.Commit(t.Context(), a, deliver(t, u, a, contracts.Manifest{Tables: tabs}, rows)); err != nil {
		t.Fatal(err)
	}
	if r := check(t, dir); len(r.Volumes) != 1 || r.Volumes[0].Size < 4096 {
		t.Fatalf("%+v", r.Volumes)
	}
}

func only(kind contracts.Kind, m ...contracts.Member) contracts.Archive {
	return contracts.Archive{Kind: kind, Members: func(yield func(contracts.Member, error) bool) {
		for _, m := range m {
			if !yield(m, nil) {
				return
			}
		}
	}}
}

func writes(n int) func(context.Context, io.Writer, int64) (contracts.Piece, error) {
	return func(_ context.Context, w io.Writer, _ int64) (contracts.Piece, error) {
		_, err := w.Write(make([]byte, n))
		return contracts.Piece{}, err
	}
}

func TestMembersThatLie(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	for name, c := range map[string]struct {
		archive contracts.Archive
		want    string
	}{
		"too short": {only(contracts.Attachments, contracts.Member{Name: "a", Size: 10, Write: writes(9)}), "promised 10"},
		"too long":  {only(contracts.Attachments, contracts.Member{Name: "a", Size: 10, Write: writes(11)}), "more than the promised 10"},
		"twice":     {only(contracts.Attachments, contracts.Member{Name: "a", Size: 1, Write: writes(1)}, contracts.Member{Name: "a", Size: 1, Write: writes(1)}), "second file"},
		"leaves":    {only(contracts.Attachments, contracts.Member{Name: "../a", Size: 1, Write: writes(1)}), "not a path"},
		"absolute":  {only(contracts.Attachments, contracts.Member{Name: "/a", Size: 1, Write: writes(1)}), "not a path"},
		"NUL":       {only(contracts.Attachments, contracts.Member{Name: "a\x00", Size: 1, Write: writes(1)}), "tar header"},
		"long":      {only(contracts.Tables, contracts.Member{Name: strings.Repeat("a", 101), Size: -1, Write: writes(1)}), "too long"},
		"fails":     {only(contracts.Tables, contracts.Member{Name: "a", Size: -1, Write: func(context.Context, io.Writer, int64) (contracts.Piece, error) { return contracts.Piece{}, boom }}), "boom"},
		"goes on": {only(contracts.Tables, contracts.Member{Name: "a", Size: -1, Write: func(context.Context, io.Writer, int64) (contracts.Piece, error) {
			return contracts.Piece{More: true}, nil
		}}), "only one"},
		"does not come":  {contracts.Archive{Kind: contracts.Tables, Members: func(yield func(contracts.Member, error) bool) { yield(contracts.Member{}, boom) }}, "boom"},
		"too many parts": {only(contracts.Attachments, contracts.Member{Name: "a", Size: -1, Write: writes(10 * 8 * block)}), string(contracts.VolumeTooLarge)},
		"far too large":  {only(contracts.Attachments, contracts.Member{Name: "a", Size: 1 << 40, Write: writes(0)}), string(contracts.VolumeTooLarge)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := small
			cfg.MaxParts = 9
			u, dir := inFolder(t, cfg, nil)
			j := &journal{}
			d, err := u.Begin(t.Context(), attempt(0), j)
			if err != nil {
				t.Fatal(err)
			}
			err = d.Write(t.Context(), c.archive)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			if _, err := d.Receipt(contracts.Manifest{}); err == nil {
				t.Error("a receipt for a failed delivery")
			}
			if err := u.Abort(t.Context(), attempt(0), j.uploads); err != nil {
				t.Fatal(err)
			}
			if left, _ := os.ReadDir(dir); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// Memory is bounded by the buffers whatever the store does: with every part stuck, the writer stops after
// Buffers parts.
func TestSlowStoreSlowsTheWriter(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	full := make(chan struct{})
	o := &odd{}
	var stuck sync.WaitGroup
	stuck.Add(small.Buffers - 1) // one holds the header of the member
	o.before = func(ctx context.Context, number int) error {
		select {
		case <-release:
		default:
			stuck.Done()
			<-release
		}
		return nil
	}
	go func() { stuck.Wait(); close(full) }()
	u, dir := inFolder(t, small, o)
	var written int
	member := contracts.Member{Name: "a/f", Of: "a", Size: -1, Write: func(_ context.Context, w io.Writer, _ int64) (contracts.Piece, error) {
		for range 100 * 8 {
			n, err := w.Write(make([]byte, block))
			written += n
			if err != nil {
				return contracts.Piece{}, err
			}
		}
		return contracts.Piece{}, nil
	}}
	a := attempt(0)
	a.Request.Only = contracts.Attachments
	d, err := u.Begin(t.Context(), a, &journal{})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- d.Write(t.Context(), only(contracts.Attachments, member)) }()
	<-full
	select {
	case err := <-done:
		t.Fatalf("the writer did not wait: %v", err)
	case <-time.After(20 * time.Millisecond): // it is waiting, as far as one can tell
	}
	close(release)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if o.peak > small.Buffers-1 {
		t.Errorf("%d parts under way, %d buffers", o.peak, small.Buffers)
	}
	if first := slices.Index(o.arrived, 1); first < len(o.arrived)-small.Buffers {
		t.Errorf("the part that owed its header left %dth of %d", first+1, len(o.arrived))
	}
	r, err := d.Receipt(contracts.Manifest{Attachments: []contracts.Attachment{{ID: "a", Filename: "f", File: "a/f"}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := u.Commit(t.Context(), a, r); err != nil {
		t.Fatal(err)
	}
	check(t, dir)
}

func TestPartThatFails(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	for name, o := range map[string]*odd{
		"failed":                 {before: func(_ context.Context, n int) error { return map[bool]error{true: boom}[n == 7] }},
		"failed but took effect": {after: func(n int) error { return map[bool]error{true: boom}[n == 7] }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u, dir := inFolder(t, small, o)
			j := &journal{}
			d, err := u.Begin(t.Context(), attempt(0), j)
			if err != nil {
				t.Fatal(err)
			}
			var cause error
			err = d.Write(t.Context(), only(contracts.Tables, contracts.Member{
				Name: "a", Size: -1,
				Write: func(ctx context.Context, w io.Writer, _ int64) (contracts.Piece, error) {
					for {
						if _, err := w.Write(make([]byte, 1000)); err != nil {
							cause = context.Cause(ctx)
							return contracts.Piece{}, err
						}
					}
				},
			}))
			if !errors.Is(err, boom) || !errors.Is(cause, boom) {
				t.Fatalf("got %v; the member saw %v", err, cause)
			}
			if err := u.Abort(t.Context(), attempt(0), nil); err != nil { // what the record forgot is listed
				t.Fatal(err)
			}
			if left, _ := os.ReadDir(dir); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestCancelHasACause(t *testing.T) {
	t.Parallel()
	lost := errors.New("lease lost")
	ctx, cancel := context.WithCancelCause(t.Context())
	u, _ := inFolder(t, small, nil)
	d, err := u.Begin(ctx, attempt(0), &journal{})
	if err != nil {
		t.Fatal(err)
	}
	err = d.Write(ctx, only(contracts.Tables, contracts.Member{
		Name: "a", Size: -1,
		Write: func(ctx context.Context, w io.Writer, _ int64) (contracts.Piece, error) {
			cancel(lost)
			for {
				if _, err := w.Write(make([]byte, 1000)); err != nil {
					return contracts.Piece{}, err
				}
			}
		},
	}))
	if !errors.Is(err, lost) {
		t.Fatal(err)
	}
}

// No part leaves before the record holds the upload. One that may not be recorded is the next attempt's to remove, or to
// go on with.
func TestUploadIsRecordedFirst(t *testing.T) {
	t.Parallel()
	o := &odd{}
	u, dir := inFolder(t, small, o)
	j := &journal{refuse: errors.New("fenced")}
	d, err := u.Begin(t.Context(), attempt(0), j)
	if err != nil {
		t.Fatal(err)
	}
	_, rows := tables(10)
	if err := d.Write(t.Context(), rows); !errors.Is(err, j.refuse) {
		t.Fatal(err)
	}
	if len(o.arrived) != 0 {
		t.Error("parts left without a record")
	}
	// An answer may be lost, and the record have the upload all the same: only who knows better may take it away.
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
	if _, err := u.Begin(t.Context(), attempt(0), &journal{}); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left by the next attempt: %v", left)
	}
}

func TestReceiptAddsUp(t *testing.T) {
	t.Parallel()
	tabs, rows := tables(3, 4)
	wrong := slices.Clone(tabs)
	wrong[1].Rows = 5
	list, files := attachments(10)
	for name, c := range map[string]struct {
		m    contracts.Manifest
		want string
	}{
		"rows":             {contracts.Manifest{Tables: wrong, Attachments: list}, "has 5 rows, its files have 4"},
		"no such table":    {contracts.Manifest{Tables: tabs[:1], Attachments: list}, "no table"},
		"table twice":      {contracts.Manifest{Tables: append(slices.Clone(tabs), tabs[0]), Attachments: list}, "has no file"},
		"no such file":     {contracts.Manifest{Tables: tabs, Attachments: []contracts.Attachment{{ID: "0000", File: "else"}}}, "no such file"},
		"file of no one":   {contracts.Manifest{Tables: tabs}, "no attachment"},
		"table without":    {contracts.Manifest{Tables: append(slices.Clone(tabs), contracts.Table{Name: "x"}), Attachments: list}, "has no file"},
		"everything right": {contracts.Manifest{Tables: tabs, Attachments: list}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			u, _ := inFolder(t, small, nil)
			d, err := u.Begin(t.Context(), attempt(0), &journal{})
			if err != nil {
				t.Fatal(err)
			}
			_, rows = tables(3, 4)
			if err := errors.Join(d.Write(t.Context(), rows), d.Write(t.Context(), files)); err != nil {
				t.Fatal(err)
			}
			_, err = d.Receipt(c.m)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestProgress(t *testing.T) {
	t.Parallel()
	list, files := attachments(10, 3<<20)
	tabs, rows := tables(3, 4)
	u, _ := inFolder(t, Config{PartBytes: 1 << 20}, nil)
	j := &journal{}
	d, err := u.Begin(t.Context(), attempt(0), j)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.Write(t.Context(), rows), d.Write(t.Context(), files)); err != nil {
		t.Fatal(err)
	}
	r, err := d.Receipt(contracts.Manifest{Tables: tabs, Attachments: list})
	if err != nil {
		t.Fatal(err)
	}
	m, _ := contracts.DecodeManifest(r.Manifest)
	bytes := int64(0)
	for _, f := range m.Files {
		bytes += f.Size
	}
	p := j.progress
	if p.Tables != 2 || p.Rows != 7 || p.Files != 2 || p.Bytes != bytes {
		t.Fatalf("%+v, want %d bytes", p, bytes)
	}
}

func FuzzTarHeader(f *testing.F) {
	f.Add("a", int64(0), int64(0))
	f.Add("täble_part1.csv.gz", int64(1)<<40, int64(1e9))
	f.Add(strings.Repeat("x", 100), int64(8<<30), int64(-1))
	f.Add("a\x00b", int64(-1), int64(1)<<60)
	f.Fuzz(func(t *testing.T, name string, size, seconds int64) {
		modified := time.Unix(seconds%(1<<40), 0)
		h, err := reservedHeader(name, size, modified)
		if err != nil {
			if len(name) > 0 && len(name) <= 100 && !strings.Contains(name, "\x00") && size >= 0 && name[len(name)-1] != '/' {
				t.Fatalf("%q of %d bytes at %s: %v", name, size, modified, err)
			}
			return
		}
		got, err := tar.NewReader(bytes.NewReader(h)).Next()
		if err != nil || got.Name != name || got.Size != size || !got.ModTime.Equal(modified) || got.Typeflag != tar.TypeReg {
			t.Fatalf("%q of %d at %s came back as %+v, %v", name, size, modified, got, err)
		}
	})
}
