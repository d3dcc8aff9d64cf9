package uploader

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/minio/crc64nvme"

	"github.com/snapfleet/snapfleet/contracts"
	testbucket "github.com/snapfleet/snapfleet/test/bucket"
)

// delivered is a committed delivery in a folder: tables split over volumes, and attachments.
func delivered(t *testing.T) (dir string, m contracts.Manifest) {
	t.Helper()
	return deliveredIn(t, contracts.CSV)
}

func deliveredIn(t *testing.T, format contracts.Format) (dir string, m contracts.Manifest) {
	t.Helper()
	list, files := attachments(10, 5000, 0)
	tabs, rows := tablesIn(format, 3, 1000, 0)
	const limit = 16 << 10
	rows.Bytes = limit + 1
	u, dir := inFolder(t, small, nil)
	a := attempt(limit)
	a.Request.Format = format
	r := deliver(t, u, a, contracts.Manifest{Tables: tabs, Attachments: list}, rows, files)
	if err := u.Commit(t.Context(), a, r); err != nil {
		t.Fatal(err)
	}
	m, err := contracts.DecodeManifest(r.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	return dir, m
}

func edit(t *testing.T, dir, name string, change func([]byte) []byte) {
	t.Helper()
	path := filepath.Join(dir, name)
	data, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, change(data), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// rewrite stores another manifest, whose sums are made right again where fix says so.
func rewrite(t *testing.T, dir string, m contracts.Manifest) {
	t.Helper()
	data, err := m.Encode()
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, contracts.ManifestName), data, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// forge changes a volume and makes the manifest agree with its size and checksum: only what is inside can
// tell.
func forge(t *testing.T, dir string, m contracts.Manifest, i int, change func([]byte) []byte) {
	t.Helper()
	m.Volumes = slices.Clone(m.Volumes)
	edit(t, dir, m.Volumes[i].Name, func(b []byte) []byte {
		b = change(b)
		m.Totals.Bytes += int64(len(b)) - m.Volumes[i].Size
		m.Volumes[i].Size, m.Volumes[i].CRC64NVME = int64(len(b)), crcText(crc64nvme.Checksum(b))
		return b
	})
	rewrite(t, dir, m)
}

func TestVerifyFindsEveryLie(t *testing.T) {
	t.Parallel()
	last := func(m contracts.Manifest) int { return len(m.Volumes) - 1 } // the attachments'
	flip := func(at int) func([]byte) []byte {
		return func(b []byte) []byte { b[at] ^= 1; return b }
	}
	for name, c := range map[string]struct {
		bend func(t *testing.T, dir string, m contracts.Manifest)
		want []string
	}{
		"nothing": {func(*testing.T, string, contracts.Manifest) {}, nil},
		"a dot file": {func(t *testing.T, dir string, _ contracts.Manifest) {
			os.WriteFile(filepath.Join(dir, ".DS_Store"), nil, 0o644)
		}, nil},
		"no manifest": {func(t *testing.T, dir string, _ contracts.Manifest) {
			os.Remove(filepath.Join(dir, contracts.ManifestName))
		}, []string{"not a whole delivery"}},
		"broken manifest": {func(t *testing.T, dir string, _ contracts.Manifest) {
			edit(t, dir, contracts.ManifestName, func(b []byte) []byte { return b[:len(b)/2] })
		}, []string{"JSON"}},
		"newer manifest": {func(t *testing.T, dir string, m contracts.Manifest) { m.Version = 2; rewrite(t, dir, m) }, []string{"version 2"}},
		"missing volume": {func(t *testing.T, dir string, m contracts.Manifest) { os.Remove(filepath.Join(dir, m.Volumes[0].Name)) }, []string{"it is missing"}},
		"extra file": {func(t *testing.T, dir string, _ contracts.Manifest) {
			os.WriteFile(filepath.Join(dir, "x.tar"), nil, 0o644)
		}, []string{"x.tar: the manifest does not name it"}},
		"flip in a header": {func(t *testing.T, dir string, m contracts.Manifest) { edit(t, dir, m.Volumes[last(m)].Name, flip(3)) }, []string{"CRC64NVME", "cannot be unpacked"}},
		"flip in a file":   {func(t *testing.T, dir string, m contracts.Manifest) { edit(t, dir, m.Volumes[last(m)].Name, flip(515)) }, []string{"CRC64NVME", "SHA-256"}},
		"flip in a table":  {func(t *testing.T, dir string, m contracts.Manifest) { edit(t, dir, m.Volumes[0].Name, flip(600)) }, []string{"CRC64NVME", "SHA-256", "decompressed"}},
		"flip in padding": {func(t *testing.T, dir string, m contracts.Manifest) {
			edit(t, dir, m.Volumes[last(m)].Name, flip(1000))
		}, []string{"CRC64NVME"}},
		"cut in a file": {func(t *testing.T, dir string, m contracts.Manifest) {
			edit(t, dir, m.Volumes[last(m)].Name, func(b []byte) []byte { return b[:3000] })
		}, []string{"bytes, not", "unpacked", "CRC64NVME"}},
		"cut before the end": {func(t *testing.T, dir string, m contracts.Manifest) {
			edit(t, dir, m.Volumes[last(m)].Name, func(b []byte) []byte { return b[:len(b)-trailer] })
		}, []string{"bytes, not", "does not end"}},
		"empty volume": {func(t *testing.T, dir string, m contracts.Manifest) {
			edit(t, dir, m.Volumes[0].Name, func([]byte) []byte { return nil })
		}, []string{"bytes, not", "does not end", "it is missing"}},
		"something behind": {func(t *testing.T, dir string, m contracts.Manifest) {
			forge(t, dir, m, last(m), func(b []byte) []byte { return append(b, "hidden"...) })
		}, []string{"does not end"}},
		"forged: no end": {func(t *testing.T, dir string, m contracts.Manifest) {
			forge(t, dir, m, last(m)-1, func(b []byte) []byte { return b[:len(b)-trailer] })
		}, []string{"does not end"}},
		"forged: a file twice": {func(t *testing.T, dir string, m contracts.Manifest) {
			forge(t, dir, m, last(m), func(b []byte) []byte { return append(bytes.Clone(b[:1024]), b...) })
		}, []string{"twice"}},
		"forged: a file more": {func(t *testing.T, dir string, m contracts.Manifest) {
			forge(t, dir, m, last(m), func(b []byte) []byte {
				more, _ := header("more", 0, m.RequestedAt, 0)
				return append(more, b...)
			})
		}, []string{"more: the manifest does not name it"}},
		"forged: a way out": {func(t *testing.T, dir string, m contracts.Manifest) {
			forge(t, dir, m, last(m), func(b []byte) []byte {
				more, _ := header("../../.ssh/authorized_keys", 0, m.RequestedAt, 0)
				return append(more, b...)
			})
		}, []string{"leaves the folder"}},
		"forged: a file less": {func(t *testing.T, dir string, m contracts.Manifest) {
			forge(t, dir, m, last(m), func(b []byte) []byte { return b[1024:] })
		}, []string{"it is missing"}},
		"lie: a file's digest": {func(t *testing.T, dir string, m contracts.Manifest) {
			m.Files[0].SHA256 = strings.Repeat("0", 64)
			rewrite(t, dir, m)
		}, []string{"SHA-256"}},
		"lie: a file's size": {func(t *testing.T, dir string, m contracts.Manifest) { m.Files[0].Size++; rewrite(t, dir, m) }, []string{"bytes, not"}},
		"lie: rows of a file and its table": {func(t *testing.T, dir string, m contracts.Manifest) {
			m.Files[0].Rows++
			m.Tables[0].Rows++
			m.Totals.Rows++
			rewrite(t, dir, m)
		}, []string{"it has 3 rows, not 4"}},
		"lie: rows of a table": {func(t *testing.T, dir string, m contracts.Manifest) {
			m.Tables[0].Rows++
			m.Totals.Rows++
			rewrite(t, dir, m)
		}, []string{"has 4 rows, its files have 3"}},
		"lie: a column": {func(t *testing.T, dir string, m contracts.Manifest) {
			m.Tables[0].Columns[0].Name = "di"
			rewrite(t, dir, m)
		}, []string{"header row"}},
		"lie: a column less": {func(t *testing.T, dir string, m contracts.Manifest) {
			m.Tables[2].Columns = m.Tables[2].Columns[:1]
			rewrite(t, dir, m)
		}, []string{"header row"}},
		"lie: another format":    {func(t *testing.T, dir string, m contracts.Manifest) { m.Format = contracts.JSONL; rewrite(t, dir, m) }, []string{"not called as a file in jsonl.gz is"}},
		"lie: no format of ours": {func(t *testing.T, dir string, m contracts.Manifest) { m.Format = "xlsx"; rewrite(t, dir, m) }, []string{`its format is "xlsx"`}},
		"lie: the totals":        {func(t *testing.T, dir string, m contracts.Manifest) { m.Totals.Bytes++; rewrite(t, dir, m) }, []string{"totals"}},
		"lie: a table less":      {func(t *testing.T, dir string, m contracts.Manifest) { m.Tables = m.Tables[1:]; rewrite(t, dir, m) }, []string{"no table"}},
		"lie: a volume less": {func(t *testing.T, dir string, m contracts.Manifest) {
			m.Volumes = m.Volumes[1:]
			rewrite(t, dir, m)
		}, []string{"does not name", "is named"}},
		"lie: volumes swapped": {func(t *testing.T, dir string, m contracts.Manifest) {
			m.Volumes[0].Name, m.Volumes[1].Name = m.Volumes[1].Name, m.Volumes[0].Name
			rewrite(t, dir, m)
		}, []string{"is named", "CRC64NVME"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, m := delivered(t)
			c.bend(t, dir, m)
			r, err := Verify(t.Context(), FolderSource(dir), VerifyOptions{Parallel: 3})
			if err != nil {
				t.Fatal(err)
			}
			var all strings.Builder
			for _, p := range r.Problems {
				all.WriteString(p.String() + "\n")
			}
			if r.OK() != (c.want == nil) {
				t.Fatalf("OK is %t:\n%s", r.OK(), &all)
			}
			for _, w := range c.want {
				if !strings.Contains(all.String(), w) {
					t.Errorf("no %q in:\n%s", w, &all)
				}
			}
		})
	}
}

func TestVerifyJSONL(t *testing.T) {
	t.Parallel()
	swap := func(t *contracts.Table) { slices.Reverse(t.Columns) }
	for name, c := range map[string]struct {
		lie  func(m *contracts.Manifest)
		want string
	}{
		"nothing":           {func(*contracts.Manifest) {}, ""},
		"rows":              {func(m *contracts.Manifest) { m.Files[0].Rows++; m.Tables[0].Rows++; m.Totals.Rows++ }, "it has 3 rows, not 4"},
		"order of columns":  {func(m *contracts.Manifest) { swap(&m.Tables[0]) }, `row 1 is not an object with the columns of table "table 0"`},
		"a column less":     {func(m *contracts.Manifest) { m.Tables[1].Columns = m.Tables[1].Columns[:1] }, `row 1 is not an object with the columns of table "table 1"`},
		"of an empty table": {func(m *contracts.Manifest) { swap(&m.Tables[2]) }, ""}, // whose text says nothing of them
		"format":            {func(m *contracts.Manifest) { m.Format = contracts.CSV }, "not called as a file in csv.gz is"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, m := deliveredIn(t, contracts.JSONL)
			if last := m.Files[len(m.Files)-1]; m.Format != contracts.JSONL || !strings.HasSuffix(m.Files[0].Name, ".jsonl.gz") || last.Rows != 0 {
				t.Fatalf("%s, %+v", m.Format, m.Files)
			}
			c.lie(&m)
			rewrite(t, dir, m)
			r, err := Verify(t.Context(), FolderSource(dir), VerifyOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if c.want == "" {
				check(t, dir)
			} else if r.OK() || !slices.ContainsFunc(r.Problems, func(p Problem) bool { return strings.Contains(p.What, c.want) }) {
				t.Errorf("no %q in %v", c.want, r.Problems)
			}
		})
	}
}

// Any single bit of any volume is missed by nobody.
func TestVerifyFindsAnyFlip(t *testing.T) {
	t.Parallel()
	dir, m := delivered(t)
	v := m.Volumes[len(m.Volumes)-1]
	for at := 0; at < int(v.Size); at += 97 {
		edit(t, dir, v.Name, func(b []byte) []byte { b[at] ^= 0x10; return b })
		r, err := Verify(t.Context(), FolderSource(dir), VerifyOptions{})
		if err != nil || r.OK() {
			t.Fatalf("byte %d: %v, %v", at, r.Problems, err)
		}
		edit(t, dir, v.Name, func(b []byte) []byte { b[at] ^= 0x10; return b })
	}
}

func TestVerifyReports(t *testing.T) {
	t.Parallel()
	dir, m := delivered(t)
	var last, total int64
	r, err := Verify(t.Context(), FolderSource(dir), VerifyOptions{Progress: func(done, of int64) {
		if done <= last || of != m.Totals.Bytes {
			t.Errorf("progress %d of %d after %d", done, of, last)
		}
		last, total = done, of
	}})
	if err != nil || !r.OK() || last != total || r.Bytes != total || r.Took <= 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	if len(r.Files) != len(m.Files) || len(r.Volumes) != len(m.Volumes) {
		t.Fatalf("%d files, %d volumes", len(r.Files), len(r.Volumes))
	}
	rows := map[string]int64{}
	for _, f := range r.Files {
		rows[f.Of] += f.Rows
		if !f.OK {
			t.Errorf("%+v", f)
		}
	}
	if want := map[string]int64{"table 0": 3, "table 1": 1000, "table 2": 0, "0000": 0, "0001": 0, "0002": 0}; !maps.Equal(rows, want) {
		t.Errorf("%v", rows)
	}
}

func TestVerifyCannotRead(t *testing.T) {
	t.Parallel()
	if _, err := Verify(t.Context(), FolderSource(filepath.Join(t.TempDir(), "none")), VerifyOptions{}); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if _, err := Verify(t.Context(), FolderSource(t.TempDir()), VerifyOptions{}); !errors.Is(err, ErrNothingThere) {
		t.Error(err)
	}
	dir, _ := delivered(t)
	stop := errors.New("stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(stop)
	if _, err := Verify(ctx, FolderSource(dir), VerifyOptions{}); !errors.Is(err, stop) {
		t.Error(err)
	}
}

// A download that is cut off goes on where it was, unless the object has changed.
func TestVerifyOverABadLine(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	if err := c.uploader().Commit(t.Context(), c.attempt, c.prepare()); err != nil {
		t.Fatal(err)
	}
	client := s3.NewFromConfig(serverAdmin(), func(o *s3.Options) { o.Retryer = aws.NopRetryer{} })
	cut := c.inject("GetObject", testbucket.Fault{Match: volumes, Times: 6, Reply: testbucket.Reply{Cut: 3 * mib}})
	r, err := Verify(t.Context(), BucketSource(client, c.to().Bucket, c.attempt.Prefix()), VerifyOptions{})
	if err != nil || !r.OK() || cut.Hits() == 0 {
		t.Fatalf("%v, %v after %d cuts", r.Problems, err, cut.Hits())
	}
	resumed := slices.ContainsFunc(c.calls("GetObject"), func(call testbucket.Call) bool {
		return call.Header.Get("Range") != "" && call.Header.Get("If-Match") != ""
	})
	if !resumed {
		t.Error("no download was resumed")
	}
}

func TestVerifyMissingInBucket(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	if r, err := Verify(t.Context(), c.source(), VerifyOptions{}); !errors.Is(err, ErrNothingThere) {
		t.Fatalf("%+v, %v", r, err)
	}
}

func serverAdmin() aws.Config {
	o := server.Admin().Options()
	return aws.Config{Region: o.Region, Credentials: o.Credentials, HTTPClient: o.HTTPClient, BaseEndpoint: o.BaseEndpoint}
}

func TestFolderCommit(t *testing.T) {
	t.Parallel()
	list, files := attachments(10_000)
	a := attempt(0)
	a.Request.Only = contracts.Attachments
	prepare := func(t *testing.T) (*Uploader, string, contracts.Receipt) {
		u, dir := inFolder(t, small, nil)
		return u, dir, deliver(t, u, a, contracts.Manifest{Attachments: list}, files)
	}
	t.Run("again", func(t *testing.T) {
		u, dir, r := prepare(t)
		for range 3 {
			if err := u.Commit(t.Context(), a, r); err != nil {
				t.Fatal(err)
			}
		}
		check(t, dir)
		if _, err := u.Begin(t.Context(), a, &journal{}); !errors.Is(err, ErrDelivered) {
			t.Fatal(err)
		}
		got, err := u.Delivered(t.Context(), a)
		if err != nil || got == nil || got.SHA256 != sha256Of(r.Manifest) {
			t.Fatal(err)
		}
	})
	t.Run("lost", func(t *testing.T) {
		u, _, r := prepare(t)
		if err := u.Abort(t.Context(), a, r.Uploads); err != nil {
			t.Fatal(err)
		}
		if err := u.Commit(t.Context(), a, r); !errors.Is(err, ErrUploadLost) {
			t.Fatal(err)
		}
	})
	t.Run("taken", func(t *testing.T) {
		u, dir, r := prepare(t)
		if err := os.WriteFile(filepath.Join(dir, r.Uploads[0].Name), []byte("theirs"), 0o644); err != nil {
			t.Fatal(err)
		}
		err := u.Commit(t.Context(), a, r)
		if j, ok := contracts.AsRejection(err); !ok || j.Code != contracts.DestinationTaken {
			t.Fatal(err)
		}
		if got, _ := os.ReadFile(filepath.Join(dir, r.Uploads[0].Name)); string(got) != "theirs" {
			t.Fatal("overwritten")
		}
	})
	t.Run("another job's receipt", func(t *testing.T) {
		u, _, r := prepare(t)
		other := a
		other.Request.Job = "other"
		if err := u.Commit(t.Context(), other, r); err == nil {
			t.Fatal("committed")
		}
	})
}
