package exporter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/test/bucket"
)

// TestStoreThatNeverAnswers: a request that is accepted and never answered is tried again, and then given up in words.
func TestStoreThatNeverAnswers(t *testing.T) {
	t.Parallel()
	for _, operation := range []string{"HeadObject", "GetObject"} {
		for _, times := range []int{1, 0} {
			t.Run(fmt.Sprintf("%s %d", operation, times), func(t *testing.T) {
				t.Parallel()
				f := newFiles(t)
				f.cfg.Attachments.Silence, f.cfg.Attachments.Patience = 100*time.Millisecond, time.Minute
				if times == 0 { // for ever
					f.cfg.Attachments.Patience = 300 * time.Millisecond
				}
				id := fmt.Sprintf("silent-%s-%d", operation, times)
				f.put(id, "x", []byte("x"))
				hold := make(chan struct{})
				defer close(hold)
				fault := store.Inject(bucket.Fault{Match: onCall(operation, id), Times: times, Hold: hold})
				defer fault.Remove()
				s, err := f.try(t.Context())
				must(t, err)
				defer s.Close()
				archive, err := s.Attachments(t.Context())
				if err == nil {
					_, err = tryWrite(t.Context(), archive, 0)
				}
				_, rejected := contracts.AsRejection(err)
				switch {
				case times == 1 && err != nil:
					t.Errorf("not tried again: %v", err)
				case times == 0 && (rejected || !strings.Contains(fmt.Sprint(err), "the store accepted a request and sent no answer")):
					t.Errorf("error: %v", err)
				}
				if times == 0 && fault.Hits() < 2 {
					t.Errorf("tried %d times", fault.Hits())
				}
			})
		}
	}
}

// TestSilentList: a list that is never answered leaves the files to be asked for one by one.
func TestSilentList(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	f.cfg.Attachments.Silence, f.cfg.Attachments.Patience = 100*time.Millisecond, 300*time.Millisecond
	for i := range listFrom {
		f.put(fmt.Sprint(i), "x", []byte("x"))
	}
	hold := make(chan struct{})
	defer close(hold)
	defer store.Inject(bucket.Fault{Match: func(c bucket.Call) bool { return c.Bucket == f.name && c.Operation == "ListObjectsV2" }, Hold: hold}).Remove()
	f.cfg.Attachments.Fetch = 1
	_, archive := f.plan()
	if got := write(t, archive, 0); len(got) != listFrom {
		t.Errorf("%d files", len(got))
	}
}

// oddStore is a store whose answers are chosen by a test.
func oddStore(t *testing.T, answer http.HandlerFunc) sources {
	t.Helper()
	server := httptest.NewServer(answer)
	t.Cleanup(server.Close)
	client := s3.New(s3.Options{
		Region: "us-east-1", BaseEndpoint: &server.URL, UsePathStyle: true, HTTPClient: server.Client(),
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "a", SecretAccessKey: "s"}, nil
		}),
	})
	return sources{client: client, patience: 200 * time.Millisecond, silence: time.Minute}
}

func oddFiles(n int) map[string][]*file {
	files := map[string][]*file{}
	for i := range n {
		key := fmt.Sprintf("files/acme/%d", i)
		files[key] = []*file{{}}
	}
	return files
}

// TestListWithoutAnEnd: a list that says that there is more, and not how to go on, or always the same, is read once.
func TestListWithoutAnEnd(t *testing.T) {
	t.Parallel()
	for name, token := range map[string]string{
		"no token":       "",
		"empty token":    "<NextContinuationToken></NextContinuationToken>",
		"the same token": "<NextContinuationToken>same</NextContinuationToken>",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			asked := 0
			s := oddStore(t, func(w http.ResponseWriter, _ *http.Request) {
				asked++
				fmt.Fprintf(w, `<?xml version="1.0"?><ListBucketResult><IsTruncated>true</IsTruncated>%s<Contents><Key>files/acme/0</Key><Size>1</Size><ETag>"e"</ETag><LastModified>2026-01-01T00:00:00Z</LastModified></Contents></ListBucketResult>`, token)
			})
			files := oddFiles(5000)
			must(t, s.list(t.Context(), place{"bucket", "files/acme/"}, files))
			if most := strings.Count(token, "same")*1 + 1; asked > most {
				t.Errorf("the list is read %d times", asked)
			}
			if !files["files/acme/0"][0].known {
				t.Error("what the list says is not used")
			}
		})
	}
}

// TestAnswersOfTheStoreAreBounded: what is no file is never read whole when it has no end.
func TestAnswersOfTheStoreAreBounded(t *testing.T) {
	t.Parallel()
	endless := func(w http.ResponseWriter, status int, head string) {
		w.WriteHeader(status)
		fmt.Fprint(w, head)
		for {
			if _, err := w.Write(bytes.Repeat([]byte("x"), 64<<10)); err != nil {
				return
			}
		}
	}
	s := oddStore(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("list-type") {
			endless(w, 200, `<?xml version="1.0"?><ListBucketResult><Name>`)
			return
		}
		endless(w, 404, `<?xml version="1.0"?><Error><Code>NoSuchKey</Code><Message>`)
	})
	must(t, s.list(t.Context(), place{"bucket", "files/acme/"}, oddFiles(20)))
	f := newFile([][]byte{[]byte("id"), nil, nil, nil, []byte("bucket"), []byte("files/acme/x"), []byte("e")}, inOrder[:])
	f.size = 1
	if err := s.fetch(t.Context(), fetch{file: &f}, io.Discard); err == nil || len(err.Error()) > 1000 {
		t.Errorf("error: %.1000v", err)
	}
}

// TestWatchdog: a body has to bring 64 KiB within the time that it is waited for. Who reads it slowly is given the time.
func TestWatchdog(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name          string
		every         time.Duration // the store sends a piece
		piece, pieces int
		pause         time.Duration // the reader takes after each
		cut           bool
	}{
		{"quick", time.Second, 32 << 10, 100, 0, false},
		{"as slow as may be", 13 * time.Second, 32 << 10, 100, 0, false},
		{"a trickle", 10 * time.Second, 1, 100, 0, true},
		{"an end without a size worth a name", time.Second, 1, 5, 0, false},
		{"silent after the beginning", 31 * time.Second, 32 << 10, 2, 0, true},
		{"read slowly", time.Second, 32 << 10, 10, time.Hour, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := sources{silence: 30 * time.Second}
				err := s.tryOnce(t.Context(), func(ctx context.Context, w *watchdog) error {
					body := w.body(paced{ctx, c.every, c.piece, &c.pieces})
					for {
						_, err := body.Read(make([]byte, 64<<10))
						if errors.Is(err, io.EOF) {
							return nil
						}
						if err != nil {
							return err
						}
						time.Sleep(c.pause)
					}
				})
				if _, silent := errors.AsType[silentError](err); silent != c.cut || err != nil != c.cut {
					t.Errorf("error: %v", err)
				}
			})
		})
	}
}

// paced is a body that comes piece by piece.
type paced struct {
	ctx   context.Context
	every time.Duration
	piece int
	left  *int
}

func (p paced) Read(b []byte) (int, error) {
	if *p.left == 0 {
		return 0, io.EOF
	}
	select {
	case <-time.After(p.every):
		*p.left--
		return min(p.piece, len(b)), nil
	case <-p.ctx.Done():
		return 0, p.ctx.Err()
	}
}
