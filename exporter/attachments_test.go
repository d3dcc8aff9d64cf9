package exporter

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/test/bucket"
)

const attachmentTable = `CREATE TABLE file_attachments (id text PRIMARY KEY, entity_id bigint, filename text, content_type text, s3_bucket text, s3_key text, s3_etag text)`

// files is a tenant with an attachment table and a source bucket of its own, called name.
type files struct {
	*tenant
	name   string
	client *s3.Client
	cfg    Config
}

func newFiles(t testing.TB) *files {
	t.Helper()
	f := &files{tenant: newTenant(t, attachmentTable), client: store.Admin()}
	f.name = "b-" + strings.ReplaceAll(f.db.Database, "_", "-")
	must(t, store.CreateBucket(t.Context(), f.name, "111111111111"))
	f.cfg.Attachments = Attachments{Sources: []Source{{Bucket: f.name, Prefix: "files/{tenant}/"}}, Patience: 3 * time.Second}
	return f
}

// put stores an object and a row that names it.
func (f *files) put(id, filename string, body []byte) (etag string) {
	f.t.Helper()
	key := "files/acme/" + id
	out, err := f.client.PutObject(f.t.Context(), &s3.PutObjectInput{Bucket: &f.name, Key: &key, Body: bytes.NewReader(body)})
	must(f.t, err)
	f.row(id, filename, f.name, key, aws.ToString(out.ETag))
	return aws.ToString(out.ETag)
}

func (f *files) row(id, filename, bucket, key, etag string) {
	f.t.Helper()
	_, err := f.conn.Exec(f.t.Context(), `INSERT INTO acme.file_attachments VALUES ($1, 7, $2, 'text/plain', nullif($3, ''), nullif($4, ''), nullif($5, ''))`, id, filename, bucket, key, etag)
	must(f.t, err)
}

func (f *files) try(ctx context.Context, change ...func(*contracts.Attempt)) (*Snapshot, error) {
	a := attempt("acme")
	for _, c := range change {
		c(&a)
	}
	return New(f.db, f.client, f.cfg).Open(ctx, a)
}

// plan opens a snapshot and plans its attachments.
func (f *files) plan() (*Snapshot, contracts.Archive) {
	f.t.Helper()
	s, err := f.try(f.t.Context())
	must(f.t, err)
	f.t.Cleanup(func() { s.Close() })
	must(f.t, s.Release(f.t.Context()))
	archive, err := s.Attachments(f.t.Context())
	must(f.t, err)
	return s, archive
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func onCall(operation string, key string) func(bucket.Call) bool {
	return func(c bucket.Call) bool { return c.Operation == operation && strings.HasSuffix(c.Key, key) }
}

func TestAttachments(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	bodies := map[string][]byte{
		"a1": []byte("hello"), "a2": {}, "a3": random(3 << 20), "a4": random(64 << 10), "a5": random(513), "a6": []byte("x"),
	}
	names := map[string]string{"a1": "plain.txt", "a2": "", "a3": "../../etc/passwd", "a4": strings.Repeat("lång", 60) + ".pdf", "a5": "new\nline", "a6": "plain.txt"}
	for id, body := range bodies {
		f.put(id, names[id], body)
	}
	f.row("external", "elsewhere.txt", "", "", "")
	f.exec(`UPDATE file_attachments SET s3_etag = NULL WHERE id = 'a4'; UPDATE file_attachments SET s3_etag = replace(s3_etag, '"', '') WHERE id = 'a1'`)

	s, archive := f.plan()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	n := 0
	for m, err := range archive.Members {
		must(t, err)
		must(t, w.WriteHeader(&tar.Header{Name: m.Name, Size: m.Size, ModTime: m.ModTime, Mode: 0o600, Format: tar.FormatGNU}))
		var body bytes.Buffer
		_, err := m.Write(t.Context(), io.MultiWriter(&body, w), 1)
		must(t, err)
		if !bytes.Equal(body.Bytes(), bodies[m.Of]) {
			t.Errorf("%s: %d bytes, not %d", m.Of, body.Len(), len(bodies[m.Of]))
		}
		if m.Name != contracts.AttachmentFile(m.Of, names[m.Of]) || m.ModTime.IsZero() {
			t.Errorf("%s: %s at %s", m.Of, m.Name, m.ModTime)
		}
		n++
	}
	must(t, w.Close())
	if n != len(bodies) || archive.Bytes != int64(b.Len()) {
		t.Errorf("%d files; %d bytes planned, %d written", n, archive.Bytes, b.Len())
	}
	if tables, files := s.Totals(); tables != 1 || files != len(bodies) {
		t.Errorf("%d tables, %d files", tables, files)
	}
	c := s.Contents()
	if len(c.Attachments) != 7 || len(c.Gaps) != 0 || !c.Attachments[6].External || c.Attachments[6].File != "" || c.Attachments[0].ETag == "" || c.Attachments[0].EntityID != "7" {
		t.Errorf("contents: %+v", c)
	}
}

func TestGaps(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	f.put("here", "x", []byte("x"))
	f.row("missing", "m", f.name, "files/acme/nothing", `"d41d8cd98f00b204e9800998ecf8427e"`)
	f.put("changed", "c", []byte("before"))
	f.exec(`UPDATE file_attachments SET s3_etag = '"d41d8cd98f00b204e9800998ecf8427e"' WHERE id = 'changed'`)
	f.put("denied", "d", []byte("secret"))
	f.put("archived", "a", []byte("cold"))
	f.put("late", "l", []byte("goes between HEAD and GET"))
	for _, op := range []string{"HeadObject", "GetObject"} {
		defer store.Inject(bucket.Fault{Match: onCall(op, f.key("denied")), Reply: bucket.Reply{Status: 403, Code: "AccessDenied"}}).Remove()
		defer store.Inject(bucket.Fault{Match: onCall(op, f.key("archived")), Reply: bucket.Reply{Status: 403, Code: "InvalidObjectState"}}).Remove()
	}

	s, archive := f.plan()
	_, err := f.client.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &f.name, Key: aws.String(f.key("late"))})
	must(t, err)
	if got := write(t, archive, 0); len(got) != 1 || got[0].member.Of != "here" {
		t.Errorf("%d files were delivered", len(got))
	}
	reasons := map[string]string{}
	for _, g := range s.Contents().Gaps {
		reasons[g.ID] = g.Reason
	}
	if want := "map[archived:archived changed:changed denied:denied late:missing missing:missing]"; fmt.Sprint(reasons) != want {
		t.Errorf("gaps: %v", reasons)
	}
	for _, a := range s.Contents().Attachments {
		if (a.File != "") != (a.ID == "here") {
			t.Errorf("%s is in %q", a.ID, a.File)
		}
	}

	strict, err := f.try(t.Context(), func(a *contracts.Attempt) { a.Tenant.Limits.Gaps = contracts.FailOnGaps })
	must(t, err)
	defer strict.Close()
	if _, err := strict.Attachments(t.Context()); !isRejected(err, contracts.AttachmentsMissing) || !strings.Contains(err.Error(), "changed") {
		t.Errorf("gaps that the tenant does not want: %v", err)
	}
}

// key is where an id's object is.
func (f *files) key(id string) string { return "files/acme/" + id }

// TestBrokenStore: what concerns every file fails the attempt, and never makes gaps.
func TestBrokenStore(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	f.cfg.Attachments.Patience = time.Millisecond
	f.put("broken-store", "x", []byte("x"))
	for _, c := range []struct {
		status int
		code   string
	}{{403, "ExpiredToken"}, {403, "InvalidAccessKeyId"}, {403, "SignatureDoesNotMatch"}, {503, "SlowDown"}, {500, "InternalError"}} {
		fault := store.Inject(bucket.Fault{Match: onCall("HeadObject", "broken-store"), Reply: bucket.Reply{Status: c.status, Code: c.code}})
		get := store.Inject(bucket.Fault{Match: onCall("GetObject", "broken-store"), Reply: bucket.Reply{Status: c.status, Code: c.code}})
		s, err := f.try(t.Context())
		must(t, err)
		_, err = s.Attachments(t.Context())
		if _, rejected := contracts.AsRejection(err); err == nil || rejected {
			t.Errorf("%s: %v", c.code, err)
		}
		if strings.Contains(fmt.Sprint(err), "files/acme") || strings.Contains(fmt.Sprint(err), "127.0.0.1") {
			t.Errorf("tells where: %v", err)
		}
		s.Close()
		fault.Remove()
		get.Remove()
	}
}

// TestSourceIsNotFound: a bucket that is not there, or is elsewhere, is for a person to mend.
func TestSourceIsNotFound(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	f.cfg.Attachments.Sources = append(f.cfg.Attachments.Sources, Source{Bucket: "no-such-bucket", Prefix: "files/{tenant}/"})
	f.put("source-not-found", "x", []byte("x"))
	refused := func(err error) {
		t.Helper()
		if !isRejected(err, contracts.SourceNotFound) || strings.Contains(err.Error(), "files/acme") || strings.Contains(err.Error(), "127.0.0.1") {
			t.Errorf("error: %v", err)
		}
	}
	for _, c := range []struct {
		status int
		code   string
	}{{301, "PermanentRedirect"}, {400, "AuthorizationHeaderMalformed"}} {
		fault := store.Inject(bucket.Fault{Match: func(call bucket.Call) bool { return strings.HasSuffix(call.Key, "/source-not-found") }, Reply: bucket.Reply{Status: c.status, Code: c.code}})
		s, err := f.try(t.Context())
		must(t, err)
		_, err = s.Attachments(t.Context())
		refused(err)
		s.Close()
		fault.Remove()
	}

	_, archive := f.plan()
	defer store.Inject(bucket.Fault{Match: onCall("GetObject", "source-not-found"), Reply: bucket.Reply{Status: 404, Code: "NoSuchBucket"}}).Remove()
	_, err := tryWrite(t.Context(), archive, 0) // it was there a moment ago
	refused(err)

	f.row("elsewhere", "x", "no-such-bucket", "files/acme/x", "")
	s, err := f.try(t.Context())
	must(t, err)
	defer s.Close()
	_, err = s.Attachments(t.Context())
	refused(err)
	if !strings.Contains(err.Error(), "no-such-bucket") {
		t.Errorf("does not name the bucket: %v", err)
	}
}

// TestCutAndRefused: hiccups of the store are mended within the request.
func TestCutAndRefused(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	f.cfg.Window = 1 << 20
	body := random(2 << 20)
	f.put("cut-and-refused", "x", body)
	match := onCall("GetObject", "cut-and-refused")
	for _, fault := range []bucket.Fault{
		{Match: onCall("HeadObject", "cut-and-refused"), Times: 2, Reply: bucket.Reply{Status: 503, Code: "SlowDown"}},
		{Match: match, Times: 1, Reply: bucket.Reply{Status: 500, Code: "InternalError"}},
		{Match: match, Times: 1, Reply: bucket.Reply{Lost: true}},
		{Match: match, Times: 3, Reply: bucket.Reply{Cut: 300_000}},
	} {
		defer store.Inject(fault).Remove()
	}
	_, archive := f.plan()
	if got := write(t, archive, 0); len(got) != 1 || !bytes.Equal(got[0].data, body) {
		t.Error("the file is not what was stored")
	}
}

// TestChangedMidway: a file that is replaced after a cut is never put together from two.
func TestChangedMidway(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	f.put("changed-midway", "x", random(2<<20))
	defer store.Inject(bucket.Fault{Match: onCall("GetObject", "changed-midway"), Times: 1, Reply: bucket.Reply{Cut: 300_000}}).Remove()
	again := make(chan struct{})
	hold := store.Inject(bucket.Fault{Match: onCall("GetObject", "changed-midway"), Times: 1, Hold: again})
	defer hold.Remove()
	_, archive := f.plan()
	go func() {
		<-hold.Reached
		key := "files/acme/changed-midway"
		f.client.PutObject(context.Background(), &s3.PutObjectInput{Bucket: &f.name, Key: &key, Body: bytes.NewReader(random(2 << 20))})
		close(again)
	}()
	_, err := tryWrite(t.Context(), archive, 0)
	if _, rejected := contracts.AsRejection(err); err == nil || rejected {
		t.Errorf("error: %v", err)
	}
}

func TestForbiddenAttachments(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	f.put("fine", "x", nil)
	for i, row := range []struct{ bucket, key string }{
		{"another-bucket", "files/acme/x"},
		{f.name, "files/acme2/x"},
		{f.name, "files/acm"},
		{f.name, "files/acme/"},
		{f.name, "files/acme"},
		{f.name, "files/acme/../other/x"},
		{f.name, "/files/acme/x"},
		{"", "files/acme/x"},
		{f.name, "files/acme/./x"},
		{f.name, "files/acme/.."},
		{f.name, "files/{tenant}/x"},
		{f.name, "other/x"},
	} {
		f.row(fmt.Sprintf("bad%02d", i), "x", row.bucket, row.key, "")
	}
	before := len(store.Calls())
	_, err := f.try(t.Context())
	if !isRejected(err, contracts.AttachmentForbidden) || !strings.Contains(err.Error(), "12 attachments") ||
		!strings.Contains(err.Error(), "bad09") || strings.Contains(err.Error(), "bad10") || strings.Contains(err.Error(), "other/") {
		t.Errorf("error: %v", err)
	}
	for _, c := range store.Calls()[before:] {
		if c.Bucket == f.name {
			t.Errorf("%s was asked for", c.Key)
		}
	}
	f.cfg.Attachments.Sources[0].Prefix = "files" // would let t1 into t10: matches nothing
	if f.cfg.Validate() == nil {
		t.Error("a prefix without a slash is valid")
	}
	if _, err := f.try(t.Context()); !isRejected(err, contracts.AttachmentForbidden) || !strings.Contains(err.Error(), "13 attachments") {
		t.Errorf("error: %v", err)
	}
}

func TestUnreadableAttachments(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	f.put("one", "x", nil)
	onlyThem := func(a *contracts.Attempt) { a.Request.Only = contracts.Attachments }
	for _, query := range []string{
		"SELECT nonsense FROM {schema}.file_attachments", "SELECT 1", "syntax error",
		"SELECT 'twice', 1, '', '', '', '', '' FROM generate_series(1, 2)", "SELECT NULL, 1, '', '', '', '', ''",
	} {
		f.cfg.Attachments.Query = query
		if _, err := f.try(t.Context()); !isRejected(err, contracts.AttachmentsUnreadable) {
			t.Errorf("%s: %v", query, err)
		}
	}
	f.cfg.Attachments.Query = ""
	if _, err := New(f.db, nil, f.cfg).Open(t.Context(), attempt("acme")); !isRejected(err, contracts.AttachmentsUnreadable) {
		t.Errorf("no store: %v", err)
	}
	f.exec("DROP TABLE file_attachments; CREATE TABLE other (x int)")
	if _, err := f.try(t.Context(), onlyThem); !isRejected(err, contracts.AttachmentsUnreadable) {
		t.Errorf("no table: %v", err)
	}
	s, archive := f.plan()
	if got := write(t, archive, 0); len(got) != 0 || archive.Bytes != 1024 || !strings.Contains(strings.Join(s.Contents().Excluded, "\n"), "no attachment table") {
		t.Errorf("%d files, %d bytes, excluded: %q", len(got), archive.Bytes, s.Contents().Excluded)
	}
}

// TestManyFilesInOrder: however the fetches end, files come in the order of the query.
func TestManyFilesInOrder(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	for i := range 120 {
		f.put(fmt.Sprintf("f%03d", i), "x", random(i*700))
	}
	f.cfg.Attachments.Query = "SELECT id, entity_id, filename, content_type, s3_bucket, s3_key, s3_etag FROM {schema}.file_attachments ORDER BY id DESC"
	_, archive := f.plan()
	got := write(t, archive, 0)
	for i, w := range got {
		if want := fmt.Sprintf("f%03d", 119-i); w.member.Of != want || int64(len(w.data)) != w.member.Size || len(w.data) != (119-i)*700 {
			t.Fatalf("file %d is %s with %d bytes", i, w.member.Of, len(w.data))
		}
	}
	if len(got) != 120 {
		t.Errorf("%d files", len(got))
	}
}

// TestClosedWhileFetching: who stops in the middle leaves no request behind; goleak looks at the end.
func TestClosedWhileFetching(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	for i := range 10 {
		f.put(fmt.Sprintf("f%d", i), "x", random(2<<20))
	}
	f.cfg.Window = 1
	s, archive := f.plan()
	for m, err := range archive.Members {
		must(t, err)
		_, err = m.Write(t.Context(), writerFunc(func(p []byte) (int, error) { go s.Close(); <-s.ctx.Done(); return len(p), nil }), 0)
		if !errors.Is(err, errClosed) {
			t.Errorf("error: %v", err)
		}
		break
	}
	must(t, s.Close())
}
