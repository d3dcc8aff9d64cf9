package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
)

// fetching is a fetch of one file from a store that answers as it likes.
func fetching(t *testing.T, file []byte, store http.HandlerFunc) (f *fetch, dir string, asked *atomic.Int64) {
	t.Helper()
	server := httptest.NewServer(store)
	t.Cleanup(server.Close)
	dir, asked = t.TempDir(), new(atomic.Int64)
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	client, err := plainClient(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.CloseIdleConnections)
	f = &fetch{root: root, client: client, moved: func(int64) {}, ask: func(context.Context) (contracts.Links, error) {
		url := fmt.Sprintf("%s/%d?X-Amz-Signature=s3cr3t", server.URL, asked.Add(1))
		return contracts.Links{Files: []contracts.Link{{Name: contracts.ManifestName, Size: int64(len(file)), ETag: `"tag"`, URL: url}}}, nil
	}}
	if _, err := f.renew(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	return f, dir, asked
}

func TestFetchFromAStoreThatAnswersAsItLikes(t *testing.T) {
	t.Parallel()
	file := bytes.Repeat([]byte("0123456789abcdef"), 1000)
	serve := func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Etag", `"tag"`)
		http.ServeContent(w, q, "", time.Time{}, bytes.NewReader(file))
	}
	half := func(w http.ResponseWriter) { // and then the line is dead
		w.Header().Set("Content-Length", fmt.Sprint(len(file)))
		w.Write(file[:len(file)/2])
		panic(http.ErrAbortHandler)
	}
	code := func(err error) contracts.Code {
		if r, ok := contracts.AsRejection(err); ok {
			return r.Code
		}
		return ""
	}
	for _, c := range []struct {
		name  string
		first http.HandlerFunc // answers the first request of the file
		then  http.HandlerFunc // and the others; nil: as it should be
		fails string
		code  contracts.Code
		asks  int64
	}{
		{"as it should be", serve, nil, "", "", 1},
		{"the line is cut", func(w http.ResponseWriter, _ *http.Request) { half(w) }, nil, "", "", 1},
		{"the line is cut, and ranges are unknown", func(w http.ResponseWriter, _ *http.Request) { half(w) }, func(w http.ResponseWriter, _ *http.Request) { w.Write(file) }, "", "", 1},
		{"the line is cut, and another range comes", func(w http.ResponseWriter, _ *http.Request) { half(w) }, func(w http.ResponseWriter, q *http.Request) {
			q.Header.Set("Range", "bytes=1-")
			serve(w, q)
		}, "another range", "", 1},
		{"it is busy", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }, nil, "", "", 1},
		{"it is busy for good", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }, "status 503", "", 1},
		{"the link is over", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }, nil, "", "", 2},
		{"no link is taken", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }, "does not take the link", "", 1 + fetchTries},
		{"it has another file", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusPreconditionFailed) }, nil, "was changed", contracts.DeliveryChanged, 1},
		{"it has more", func(w http.ResponseWriter, _ *http.Request) { w.Write(append(bytes.Clone(file), 'x')) }, func(w http.ResponseWriter, _ *http.Request) { w.Write(append(bytes.Clone(file), 'x')) }, "more than 16000 bytes", "", 1},
		{"it sends on to somewhere else", func(w http.ResponseWriter, q *http.Request) {
			http.Redirect(w, q, "/elsewhere", http.StatusTemporaryRedirect)
		}, func(w http.ResponseWriter, q *http.Request) {
			if q.URL.Path == "/elsewhere" {
				panic("the client has followed")
			}
			http.Redirect(w, q, "/elsewhere", http.StatusTemporaryRedirect)
		}, "status 307", "", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var requests atomic.Int64
			f, dir, asked := fetching(t, file, func(w http.ResponseWriter, q *http.Request) {
				if q.Header.Get("If-Match") != `"tag"` {
					t.Error("a request does not say which file it means")
				}
				switch {
				case requests.Add(1) == 1:
					c.first(w, q)
				case c.then != nil:
					c.then(w, q)
				default:
					serve(w, q)
				}
			})
			err := f.file(t.Context(), contracts.ManifestName)
			got, missing := os.ReadFile(filepath.Join(dir, contracts.ManifestName))
			switch {
			case c.fails == "" && (err != nil || !bytes.Equal(got, file)):
				t.Errorf("%v, and %d bytes", err, len(got))
			case c.fails != "" && (err == nil || !strings.Contains(err.Error(), c.fails) || code(err) != c.code || !errors.Is(missing, fs.ErrNotExist)):
				t.Errorf("%v, want %q; the file: %v", err, c.fails, missing)
			case err != nil && (strings.Contains(err.Error(), "s3cr3t") || strings.Contains(err.Error(), "://")):
				t.Errorf("the link is told: %v", err)
			}
			if asked.Load() != c.asks {
				t.Errorf("links were asked for %d times, want %d", asked.Load(), c.asks)
			}
		})
	}
}

func TestFetchDoesNotSayTheLink(t *testing.T) {
	t.Parallel()
	for _, link := range []string{"https://127.0.0.1:1/?X-Amz-Signature=s3cr3t", "http://s3.example.com/?X-Amz-Signature=s3cr3t", "file:///etc/passwd?s3cr3t", "https://s3cr3t\x7f/"} {
		f, dir, _ := fetching(t, []byte("x"), nil)
		f.links.Files[0].URL = link
		p, err := f.open(f.links.Files[0])
		if err != nil {
			t.Fatal(err)
		}
		err = p.pull(t.Context(), link)
		if p.Close(); err == nil || strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%q: %v", link, err)
		}
		if found, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(found) != 1 || !strings.HasSuffix(found[0], ".part") {
			t.Errorf("there is %q, %v", found, err)
		}
	}
	if said := redact("Get \"https://x/y?X-Amz-Credential=A%2F1&X-Amz-Security-Token=s3cr3t&X-Amz-Signature=s3cr3t\": EOF"); strings.Contains(said, "s3cr3t") {
		t.Errorf("redacted: %s", said)
	}
}

// A part of another object is not gone on with.
func TestFetchNeverMixesTwoFiles(t *testing.T) {
	t.Parallel()
	file := []byte("the file as it is now")
	f, dir, _ := fetching(t, file, func(w http.ResponseWriter, q *http.Request) {
		if q.Header.Get("Range") != "" {
			t.Errorf("it goes on at %s", q.Header.Get("Range"))
		}
		w.Write(file)
	})
	former := f.links.Files[0]
	former.ETag = `"another"`
	p, err := f.open(former)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Write([]byte("something")); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.file(t.Context(), contracts.ManifestName); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, contracts.ManifestName)); err != nil || !bytes.Equal(got, file) {
		t.Errorf("%q, %v", got, err)
	}
	if found, err := filepath.Glob(filepath.Join(dir, "*.part")); err != nil || len(found) > 0 {
		t.Errorf("left: %q, %v", found, err)
	}
}

func TestAFullDiskIsExplained(t *testing.T) {
	t.Parallel()
	for err, cause := range map[error]string{
		syscall.ENOSPC: "the disk is full", syscall.EDQUOT: "quota", syscall.EROFS: "read-only", syscall.EACCES: "may not write",
		syscall.ENOTDIR: "is a file", errors.New("odd"): "cannot be written",
	} {
		got, ok := errors.AsType[*failure](unwritable(fmt.Errorf("write x: %w", err)))
		if !ok || !strings.Contains(got.cause, cause) || got.fix == "" || got.code != exitFailed {
			t.Errorf("%v: %+v", err, got)
		}
	}
}

func TestLinksOfAnotherDeliveryAreNotTaken(t *testing.T) {
	t.Parallel()
	o := contracts.Outcome{Tenant: "acme", Job: "j", ManifestSHA256: "sum"}
	good := func() contracts.Links {
		return contracts.Links{Version: contracts.LinksVersion, Tenant: "acme", Job: "j", ManifestSHA256: "sum", Files: []contracts.Link{{Name: "manifest.json"}, {Name: "snapshot_tables_j.tar"}}}
	}
	if err := agrees(good(), o); err != nil {
		t.Error(err)
	}
	for what, change := range map[string]func(*contracts.Links){
		"another release":     func(l *contracts.Links) { l.Version++ },
		"another tenant":      func(l *contracts.Links) { l.Tenant = "beta" },
		"another job":         func(l *contracts.Links) { l.Job = "k" },
		"another manifest":    func(l *contracts.Links) { l.ManifestSHA256 = "other" },
		"nothing":             func(l *contracts.Links) { l.Files = nil },
		"no manifest":         func(l *contracts.Links) { l.Files = l.Files[1:] },
		"a file twice":        func(l *contracts.Links) { l.Files = append(l.Files, l.Files[1]) },
		"a file outside":      func(l *contracts.Links) { l.Files[1].Name = "../../.ssh/authorized_keys" },
		"a file of its own":   func(l *contracts.Links) { l.Files[1].Name = "run.sh" },
		"a file of no length": func(l *contracts.Links) { l.Files[1].Size = -1 },
	} {
		l := good()
		change(&l)
		if err := agrees(l, o); exitCode(t.Context(), err) != exitUnproven {
			t.Errorf("%s: %v", what, err)
		}
	}
}
