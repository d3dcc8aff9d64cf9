package uploader

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/minio/crc64nvme"

	"github.com/snapfleet/snapfleet/contracts"
	testbucket "github.com/snapfleet/snapfleet/test/bucket"
)

// oneByOne wraps a store: a part leaves only when the part before it is in a checkpoint.
type oneByOne struct {
	store
	j *journal

	mu    sync.Mutex
	known int // checkpoints that whole is made of
	whole contracts.Checkpoint
}

func (o *oneByOne) put(ctx context.Context, u contracts.Upload, number int, offset int64, body []byte, crc uint64) (contracts.Part, error) {
	if strings.Contains(u.Name, "attachments") {
		for !o.is(u, number-1) {
			select {
			case <-time.After(200 * time.Microsecond):
			case <-ctx.Done():
				return contracts.Part{}, context.Cause(ctx)
			}
		}
	}
	return o.store.put(ctx, u, number, offset, body, crc)
}

// is reports whether that many parts of the upload, and all volumes before it, are kept.
func (o *oneByOne) is(u contracts.Upload, parts int) bool {
	o.j.mu.Lock()
	kept := o.j.kept
	o.j.mu.Unlock()
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(kept) > o.known {
		o.whole, _ = contracts.JoinCheckpoints(attempt(0).ID, kept)
		o.known = len(kept)
	}
	if o.known == 0 {
		return false
	}
	last := o.whole.Volumes[len(o.whole.Volumes)-1]
	if last.Upload.ID == u.ID {
		return len(last.Upload.Parts) >= parts
	}
	return parts == 0 && last.Closed
}

// borders are sizes and names that put the border of a part everywhere in a tar: in headers of one and of three
// blocks, in content, in padding, between files, and in the two blocks at the end.
func borders(t *testing.T) *album {
	a := &album{t: t}
	for i, n := range []int{0, 1, 511, 512, 513, 3072, 3584, 4096, 0, 0, 0, 9000, 40_000, 100, 512, 4095, 4097, 1024, 1, 1, 1, 20_480, 0} {
		a.sizes = append(a.sizes, n)
		name := "f"
		if i%3 == 1 {
			name = strings.Repeat("é", 90) // a header of three blocks
		}
		a.names = append(a.names, name)
	}
	return a
}

// TestResumeAtEveryPart dies after every single part, in one volume and in several, and goes on in another
// uploader: what becomes of it is, byte for byte, what would have become without.
func TestResumeAtEveryPart(t *testing.T) {
	t.Parallel()
	for _, limit := range []int64{0, 9 * 8 * block} {
		t.Run(fmt.Sprintf("limit %d", limit), func(t *testing.T) {
			t.Parallel()
			for extra := range 3 { // moves every border
				a := borders(t)
				a.sizes[0] = 3 * extra * block
				a.everyPart(limit)
			}
		})
	}
}

func (a *album) everyPart(limit int64) {
	t := a.t
	cfg := small
	cfg.CheckpointEvery = time.Millisecond
	j := &journal{}
	dir := t.TempDir()
	u := NewFolder(dir, cfg)
	open := u.open
	u.open = func(ctx context.Context, at contracts.Attempt) (store, error) {
		s, err := open(ctx, at)
		return &oneByOne{store: s, j: j}, err
	}
	at := attempt(limit)
	d, err := a.begin(u, at, j, -1)
	if err != nil {
		t.Fatal(err)
	}
	m, _ := a.manifest()
	want, err := d.Receipt(m)
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(dir, "acme", at.Request.Job)
	whole := partials(t, folder)
	if len(j.kept) < len(whole) {
		t.Fatalf("%d checkpoints of %d volumes", len(j.kept), len(whole))
	}

	for k := 2; k <= len(j.kept); k++ {
		kept := j.kept[:k]
		c, err := contracts.JoinCheckpoints(at.ID, kept)
		if err != nil {
			t.Fatal(err)
		}
		// What no checkpoint names is not there, or is something else.
		for _, v := range want.Uploads {
			i := slices.IndexFunc(c.Volumes, func(p contracts.Packed) bool { return p.Upload.ID == v.ID })
			path := filepath.Join(folder, "."+v.Name+"."+v.ID+partialSuffix)
			if i < 0 {
				_ = os.Remove(path)
				continue
			}
			if err := os.WriteFile(path, append(bytes.Clone(whole[v.Name][:c.Volumes[i].Upload.Size]), "left by somebody who was slow"...), 0o644); err != nil {
				t.Fatal(err)
			}
			if c.Volumes[i].Closed {
				if err := os.Truncate(path, c.Volumes[i].Upload.Size); err != nil {
					t.Fatal(err)
				}
			}
		}
		got, err := a.goOn(NewFolder(dir, cfg), at, &journal{kept: slices.Clone(kept)}, kept, -1)
		if err != nil {
			t.Fatalf("after %d of %d checkpoints: %v", k, len(j.kept), err)
		}
		if !bytes.Equal(got.Manifest, want.Manifest) {
			t.Fatalf("after %d of %d checkpoints the manifest is another:\n%s\nwant\n%s", k, len(j.kept), got.Manifest, want.Manifest)
		}
		proven, all := int64(0), int64(0)
		for _, v := range c.Volumes {
			for _, f := range v.Files {
				if v.Kind == contracts.Attachments {
					proven += f.Size
				}
			}
			proven += v.Mark.Offset
		}
		for _, n := range a.sizes {
			all += int64(n)
		}
		if a.read != all-proven {
			t.Fatalf("after %d of %d checkpoints %d bytes were read, of %d that were not proven", k, len(j.kept), a.read, all-proven)
		}
		now := partials(t, folder)
		for name, body := range whole {
			if !bytes.Equal(now[name][:min(len(body), len(now[name]))], body) {
				t.Fatalf("after %d of %d checkpoints %s is another", k, len(j.kept), name)
			}
		}
	}
}

// partials are the uploads under way in a folder, by the name that they will have.
func partials(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	found := map[string][]byte{}
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, partialSuffix) {
			return err
		}
		name := strings.TrimPrefix(strings.TrimSuffix(path, partialSuffix), ".")
		name = name[:strings.LastIndexByte(name, '.')]
		found[name], err = os.ReadFile(filepath.Join(dir, path))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestResumeAgainAndAgain: each worker goes on for a little while, over the border of a volume, and dies.
func TestResumeAgainAndAgain(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	c.attempt.Tenant.Limits.VolumeBytes = 32 << 20
	c.cfg.CheckpointEvery = time.Millisecond
	a := &album{t: t, sizes: []int{6 * mib, 17 * mib, 100, 3 * mib, 12 * mib, 0, 2 * mib}}
	j := &journal{}
	_, err := a.begin(c.uploader(), c.attempt, j, 3*mib)
	workers := 1
	var r contracts.Receipt
	for ; err != nil; workers++ {
		if !errors.Is(err, errDied) || workers > 20 {
			t.Fatalf("worker %d: %v", workers, err)
		}
		// What was begun goes on as it was begun, whatever has been changed since.
		c.cfg.PartBytes = (5 + 3*(workers%2)) * mib
		c.attempt.Tenant.Limits.VolumeBytes = int64(32+workers) << 20
		r, err = a.goOn(c.uploader(), c.attempt, j, slices.Clone(j.kept), 9*mib)
	}
	if workers < 4 {
		t.Errorf("%d workers were enough", workers)
	}
	creates := 0
	for _, call := range c.calls("CreateMultipartUpload") {
		if volumes(call) {
			creates++
		}
	}
	if creates > 5 { // tables, two volumes, and what may be begun and not yet kept
		t.Errorf("%d uploads were begun", creates)
	}
	if err := c.uploader().Commit(t.Context(), c.attempt, r); err != nil {
		t.Fatal(err)
	}
	c.whole()

	c.attempt.Tenant.Limits.VolumeBytes = 32 << 20
	m, rows := a.manifest()
	u, _ := inFolder(t, quick, nil)
	same := deliver(t, u, c.attempt, m, rows, a.from(contracts.Place{}, -1))
	if !bytes.Equal(same.Manifest, r.Manifest) {
		t.Errorf("the manifest is another:\n%s\nwant\n%s", r.Manifest, same.Manifest)
	}
}

// TestResumeWhatIsGone: an upload that is not there any more, or holds other parts, is not gone on with.
func TestResumeWhatIsGone(t *testing.T) {
	t.Parallel()
	for name, harm := range map[string]func(c *customer, d *Delivery, open contracts.Upload){
		"aborted": func(c *customer, d *Delivery, open contracts.Upload) { _ = d.store.abort(c.t.Context(), open) },
		"tables aborted": func(c *customer, d *Delivery, open contracts.Upload) {
			_ = d.store.abort(c.t.Context(), d.uploads[0])
		},
		"another part": func(c *customer, d *Delivery, open contracts.Upload) { other(c, d, open, 5*mib) },
		"a short part": func(c *customer, d *Delivery, open contracts.Upload) { other(c, d, open, 7) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCustomer(t)
			c.cfg.CheckpointEvery = time.Millisecond
			a := &album{t: t, sizes: []int{6 * mib, 7 * mib}}
			j := &journal{}
			d, err := a.begin(c.uploader(), c.attempt, j, 12*mib)
			if !errors.Is(err, errDied) {
				t.Fatal(err)
			}
			harm(c, d, openUpload(t, j))
			if _, err := a.goOn(c.uploader(), c.attempt, j, j.kept, -1); !errors.Is(err, ErrUploadLost) {
				t.Errorf("error: %v", err)
			}
		})
	}
}

// openUpload is the attachments' upload of the last checkpoint, which has to have a part.
func openUpload(t *testing.T, j *journal) contracts.Upload {
	t.Helper()
	c, err := contracts.JoinCheckpoints(attempt(0).ID, j.kept)
	if err != nil || len(c.Volumes) != 2 || len(c.Volumes[1].Upload.Parts) == 0 {
		t.Fatalf("kept: %+v, %v", c.Volumes, err)
	}
	return c.Volumes[1].Upload
}

// other puts a first part of other bytes, as somebody may who sees the source in another state.
func other(c *customer, d *Delivery, u contracts.Upload, size int) {
	c.t.Helper()
	body := noise(99, size)
	if _, err := d.store.put(c.t.Context(), u, 1, 0, body, crc64nvme.Checksum(body)); err != nil {
		c.t.Fatal(err)
	}
}

// TestPausedOwnerOverwritesAPart: whatever a former owner still puts into the upload, the object is the one that
// the receipt describes, or there is none.
func TestPausedOwnerOverwritesAPart(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	c.cfg.CheckpointEvery = time.Millisecond
	a := &album{t: t, sizes: []int{6 * mib, 7 * mib}}
	j := &journal{}
	paused, err := a.begin(c.uploader(), c.attempt, j, 12*mib)
	if !errors.Is(err, errDied) {
		t.Fatal(err)
	}
	r, err := a.goOn(c.uploader(), c.attempt, j, j.kept, -1)
	if err != nil {
		t.Fatal(err)
	}
	other(c, paused, openUpload(t, j), 5*mib)
	if err := c.uploader().Commit(t.Context(), c.attempt, r); !errors.Is(err, ErrUploadLost) {
		t.Errorf("commit: %v", err)
	}
	for _, key := range c.keys() {
		if strings.Contains(key, "attachments") || strings.HasSuffix(key, contracts.ManifestName) {
			t.Errorf("visible: %s", key)
		}
	}
}

// TestFileVanishesInItsMiddle: a file of which the beginning is written cannot become a gap.
func TestFileVanishesInItsMiddle(t *testing.T) {
	t.Parallel()
	cfg := small
	cfg.CheckpointEvery = time.Millisecond
	for _, vanished := range [][]int{{1}, {1, 2}} { // another comes in its place, or none
		u, _ := inFolder(t, cfg, nil)
		a := &album{t: t, sizes: []int{100, 50_000, 100}}
		j := &journal{}
		if _, err := a.begin(u, attempt(0), j, 30_000); !errors.Is(err, errDied) {
			t.Fatal(err)
		}
		a.gone = map[int]bool{}
		for _, i := range vanished {
			a.gone[i] = true
		}
		if _, err := a.goOn(u, attempt(0), j, j.kept, -1); !errors.Is(err, ErrUploadLost) {
			t.Errorf("error: %v", err)
		}
	}
}

// TestResumeKeepsItsOwn: what an attempt has kept stays, and what others began goes.
func TestResumeKeepsItsOwn(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	c.cfg.CheckpointEvery = time.Millisecond
	a := &album{t: t, sizes: []int{6 * mib, 7 * mib}}
	j := &journal{}
	d, err := a.begin(c.uploader(), c.attempt, j, 12*mib)
	if !errors.Is(err, errDied) {
		t.Fatal(err)
	}
	name := contracts.VolumeName(contracts.Attachments, c.attempt.Request.Job, 0)
	if _, err := d.store.create(t.Context(), name); err != nil { // begun, and never recorded
		t.Fatal(err)
	}
	before := len(c.uploads())
	if _, err := a.goOn(c.uploader(), c.attempt, j, j.kept, -1); err != nil {
		t.Fatal(err)
	}
	if after := len(c.uploads()); before != 3 || after != 2 {
		t.Errorf("%d uploads before, %d after", before, after)
	}
}

// TestCheckpointThatFails is not missed: the next one says what it said.
func TestCheckpointThatFails(t *testing.T) {
	t.Parallel()
	a, j := &album{t: t, sizes: []int{100_000}}, &journal{}
	a.dies(j, time.Millisecond, func() { j.fail(errors.New("not now")) }, func() { j.fail(nil) })
}

// TestLastWords: a worker that fails keeps how far it came, however short it is since it last did.
func TestLastWords(t *testing.T) {
	t.Parallel()
	a, j := &album{t: t, sizes: []int{100_000}}, &journal{}
	a.dies(j, time.Hour, func() {}, func() {})
}

// dies writes half of the album's one file, and wants to find in the journal how far it came.
func (a *album) dies(j *journal, every time.Duration, before, after func()) {
	cfg := small
	cfg.CheckpointEvery = every
	o := &odd{}
	u, _ := inFolder(a.t, cfg, o)
	arrived := func() int { o.mu.Lock(); defer o.mu.Unlock(); return len(o.arrived) }
	tables := 0 // parts
	a.woke = func() { tables = arrived(); before() }
	_, err := a.begin(u, attempt(0), j, 50_000, func() {
		for tick := time.Tick(time.Millisecond); arrived() < tables+50_000/small.PartBytes; {
			<-tick
		}
		after()
	})
	if !errors.Is(err, errDied) {
		a.t.Fatal(err)
	}
	c, err := contracts.JoinCheckpoints(attempt(0).ID, j.kept)
	if err != nil || len(c.Volumes) != 2 || c.Volumes[1].Mark.Offset < 40_000 {
		a.t.Errorf("kept: %+v, %v", c, err)
	}
}

// TestResumeKeepsTheFormat: the tenant's record names another by then, and the tables are written.
func TestResumeKeepsTheFormat(t *testing.T) {
	t.Parallel()
	for _, earlier := range []bool{false, true} { // an earlier release kept none
		u, dir := inFolder(t, small, nil)
		a, j, at := &album{t: t, sizes: []int{20_000}}, &journal{}, attempt(0)
		if _, err := a.begin(u, at, j, 0); !errors.Is(err, errDied) {
			t.Fatal(err)
		}
		c, err := contracts.JoinCheckpoints(at.ID, j.kept)
		if err != nil || c.Format != contracts.CSV {
			t.Fatalf("kept: %+v, %v", c, err)
		}
		if earlier {
			c.Format = ""
		}
		kept, err := c.Encode()
		if err != nil {
			t.Fatal(err)
		}
		at.Tenant.Format = contracts.JSONL
		r, err := a.goOn(u, at, j, [][]byte{kept}, -1)
		if err != nil {
			t.Fatal(err)
		}
		if err := u.Commit(t.Context(), at, r); err != nil {
			t.Fatal(err)
		}
		if m := check(t, dir).Manifest; m.Format != contracts.CSV {
			t.Errorf("the manifest says %s", m.Format)
		}
	}
}

// TestResumeAttachmentsOnly: there is no table to keep.
func TestResumeAttachmentsOnly(t *testing.T) {
	t.Parallel()
	cfg := small
	cfg.CheckpointEvery = time.Millisecond
	u, dir := inFolder(t, cfg, nil)
	at := attempt(0)
	at.Request.Only = contracts.Attachments
	a, j := &album{t: t, sizes: []int{20_000, 30_000}}, &journal{}
	if _, err := a.begin(u, at, j, 30_000); !errors.Is(err, errDied) {
		t.Fatal(err)
	}
	c, err := contracts.JoinCheckpoints(at.ID, j.kept)
	if err != nil || c.Place().After != a.id(0) {
		t.Fatalf("kept: %+v, %v", c, err)
	}
	d, err := u.Resume(t.Context(), at, j, c)
	if err != nil {
		t.Fatal(err)
	}
	a.settle(j, small.PartBytes)
	if err := d.Write(t.Context(), a.from(c.Place(), -1)); err != nil {
		t.Fatal(err)
	}
	m, _ := a.manifest()
	m.Tables = nil
	r, err := d.Receipt(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := u.Commit(t.Context(), at, r); err != nil {
		t.Fatal(err)
	}
	if report := check(t, dir); len(report.Volumes) != 1 {
		t.Errorf("%d volumes", len(report.Volumes))
	}
}

// TestListManyParts: a list of parts comes in pages.
func TestListManyParts(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	s, err := c.uploader().open(t.Context(), c.attempt)
	if err != nil {
		t.Fatal(err)
	}
	u := contracts.Upload{Name: "many.tar"}
	if u.ID, err = s.create(t.Context(), u.Name); err != nil {
		t.Fatal(err)
	}
	const many = 1005
	var puts sync.WaitGroup
	for worker := range 8 {
		puts.Go(func() {
			for n := worker; n < many; n += 8 {
				body := []byte(fmt.Sprint(n))
				if _, err := s.put(t.Context(), u, n+1, 0, body, crc64nvme.Checksum(body)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	puts.Wait()
	found, err := s.parts(t.Context(), u, 0)
	if err != nil || len(found) != many {
		t.Fatalf("%d parts, %v", len(found), err)
	}
	for i, p := range found {
		if body := fmt.Sprint(i); p.number != i+1 || p.size != int64(len(body)) || p.crc != crcText(crc64nvme.Checksum([]byte(body))) || p.tag == "" {
			t.Fatalf("part %d: %+v", i+1, p)
		}
	}
	if pages := len(c.calls("ListParts")); pages != 2 {
		t.Errorf("%d pages", pages)
	}
	if err := s.abort(t.Context(), u); err != nil {
		t.Error(err)
	}
	_, err = server.Admin().ListParts(t.Context(), &s3.ListPartsInput{Bucket: &c.to().Bucket, Key: aws.String(c.attempt.Prefix() + u.Name), UploadId: &u.ID})
	if err == nil {
		t.Error("it is still there")
	}
}

// An upload that is not seen for a moment is not lost: whoever goes on with it finds its parts.
func TestResumeWhatIsNotSeenAtOnce(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	d, err := c.uploader().Begin(t.Context(), c.attempt, &journal{})
	if err != nil {
		t.Fatal(err)
	}
	tabs, rows := tables(3)
	if err := d.Write(t.Context(), rows); err != nil {
		t.Fatal(err)
	}
	unseen := c.inject("ListParts", testbucket.Fault{Match: volumes, Times: 2, Reply: testbucket.Reply{Status: 404, Code: "NoSuchUpload"}})
	d, err = c.uploader().Resume(t.Context(), c.attempt, &journal{}, d.Checkpoint())
	if err != nil || unseen.Hits() != 2 {
		t.Fatalf("%v, after it was not seen %d times", err, unseen.Hits())
	}
	list, files := attachments(10)
	if err := d.Write(t.Context(), files); err != nil {
		t.Fatal(err)
	}
	r, err := d.Receipt(contracts.Manifest{Tables: tabs, Attachments: list})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.uploader().Commit(t.Context(), c.attempt, r); err != nil {
		t.Fatal(err)
	}
	c.whole()
}
