package uploader

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/snapfleet/snapfleet/contracts"
)

// hostile is a store, or an STS, that means no good.
type hostile struct {
	t      *testing.T
	server *httptest.Server
	s3     func(w http.ResponseWriter, r *http.Request)
	sts    func(w http.ResponseWriter, r *http.Request) // nil: it lets us in
	most   atomic.Int64                                 // bytes that one answer got rid of
	asked  atomic.Int64
}

func newHostile(t *testing.T) *hostile {
	h := &hostile{t: t}
	h.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.asked.Add(1)
		if r.URL.Path == "/" && r.Method == http.MethodPost {
			_ = r.ParseForm() // reads the body, without which the server does not see that the client has gone
			if h.sts != nil {
				h.sts(w, r)
				return
			}
			if r.Form.Get("ExternalId") != "the-external-id-of-acme" {
				w.WriteHeader(http.StatusForbidden)
				fmt.Fprint(w, `<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>`)
				return
			}
			fmt.Fprintf(w, `<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>A</AccessKeyId><SecretAccessKey>S</SecretAccessKey><SessionToken>T</SessionToken><Expiration>%s</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>`,
				time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		h.s3(w, r)
	}))
	t.Cleanup(func() { h.server.CloseClientConnections(); h.server.Close() })
	return h
}

// endless writes text until the other side has enough.
func (h *hostile) endless(w io.Writer, text string) {
	chunk := []byte(strings.Repeat(text, 1+16_000/len(text)))
	for sent := int64(0); ; {
		n, err := w.Write(chunk)
		sent += int64(n)
		for {
			most := h.most.Load()
			if sent <= most || h.most.CompareAndSwap(most, sent) {
				break
			}
		}
		if err != nil {
			return
		}
		if sent > 128*mib {
			h.t.Error("128 MiB of an answer are read")
			return
		}
	}
}

// body is what an answer's body goes to: to HEAD there is none, and the server discards it without an error.
func body(w http.ResponseWriter, r *http.Request) io.Writer {
	if r.Method == http.MethodHead {
		return nothing{}
	}
	return w
}

type nothing struct{}

func (nothing) Write([]byte) (int, error) { return 0, http.ErrBodyNotAllowed }

// raw takes the connection over.
func raw(w http.ResponseWriter, do func(io.Writer)) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	do(conn)
}

func (h *hostile) attempt() contracts.Attempt {
	return contracts.Attempt{
		Request: contracts.Request{Version: 1, Tenant: "acme", Job: "j1", RequestedAt: time.Now()},
		Tenant: contracts.Tenant{Version: 1, Name: "acme", Schema: "acme", Destination: contracts.Destination{
			Bucket: "acme-snapshots", Region: "us-east-1", Endpoint: h.server.URL,
			RoleARN: "arn:aws:iam::222222222222:role/snapshots", ExternalID: "the-external-id-of-acme",
		}}.WithDefaults(),
		Number: 1, ID: "1-9f86d081884c7d65", FleetKey: contracts.FleetKey{1},
	}
}

func (h *hostile) uploader() *Uploader {
	return New(aws.Config{
		Region: "us-east-1", BaseEndpoint: aws.String(h.server.URL), Credentials: credentials.NewStaticCredentialsProvider("A", "S", ""),
	}, Config{
		PartBytes: 5 * mib, Buffers: 3, AllowEndpoints: []string{h.server.URL}, RetryFirst: time.Millisecond, RetryMost: 2 * time.Millisecond,
		RetryFor: 50 * time.Millisecond, RequestTimeout: 200 * time.Millisecond, CheckTimeout: time.Second,
	})
}

// verbs are all that an uploader does with a bucket.
func (h *hostile) verbs() map[string]func(context.Context) error {
	a, u := h.attempt(), h.uploader()
	up := contracts.Upload{Name: contracts.VolumeName(contracts.Tables, "j1", 0), ID: "u1", Size: 1, CRC64NVME: "AAAAAAAAAAA=", Parts: []contracts.Part{{ETag: "e"}}}
	m := contracts.Manifest{
		Version: 1, Tenant: "acme", Job: "j1", Attempt: a.ID, Format: contracts.CSV, Only: contracts.Tables,
		Volumes: []contracts.Volume{{Name: up.Name, Kind: contracts.Tables, Size: up.Size, CRC64NVME: up.CRC64NVME}},
	}
	data, err := m.Encode()
	if err != nil {
		h.t.Fatal(err)
	}
	receipt := contracts.Receipt{Version: 1, Attempt: a.ID, Uploads: []contracts.Upload{up}, Manifest: data}
	kept := a
	kept.Tenant.Destination.Keep = contracts.Keep{Days: 1, By: contracts.ByTag}
	return map[string]func(context.Context) error{
		"Delivered": func(ctx context.Context) error { _, err := u.Delivered(ctx, a); return err },
		"Begin":     func(ctx context.Context) error { _, err := u.Begin(ctx, a, &journal{}); return err },
		"Complete":  func(ctx context.Context) error { return u.Complete(ctx, a, receipt) },
		"Seal":      func(ctx context.Context) error { return u.Seal(ctx, a, receipt) },
		"Abort":     func(ctx context.Context) error { return u.Abort(ctx, a, []contracts.Upload{up}) },
		"Links": func(ctx context.Context) error {
			_, err := u.Links(ctx, kept, strings.Repeat("a", 64), time.Minute, 0)
			return err
		},
		"Check": func(ctx context.Context) error {
			if why := u.Check(ctx, a.Tenant).Failure(); why != nil {
				return fmt.Errorf("%s: %s", why.Code, why.What)
			}
			return fmt.Errorf("%s", u.Check(ctx, a.Tenant).Result())
		},
		"SetExpiry": func(ctx context.Context) error {
			return SetExpiry(ctx, aws.Config{Credentials: credentials.NewStaticCredentialsProvider("A", "S", "")}, a.Tenant.Destination, 30)
		},
	}
}

// modes are what may be answered. What an answer says again and again grows for ever.
func (h *hostile) modes() map[string]func(w http.ResponseWriter, r *http.Request) {
	head := func(w http.ResponseWriter, status int) { w.WriteHeader(status) }
	return map[string]func(w http.ResponseWriter, r *http.Request){
		"endless headers": func(w http.ResponseWriter, _ *http.Request) {
			raw(w, func(conn io.Writer) {
				fmt.Fprint(conn, "HTTP/1.1 200 OK\r\n")
				h.endless(conn, "X-Amz-Meta-A: "+strings.Repeat("a", 1000)+"\r\n")
			})
		},
		"one endless header": func(w http.ResponseWriter, _ *http.Request) {
			raw(w, func(conn io.Writer) {
				fmt.Fprint(conn, "HTTP/1.1 200 OK\r\nX-Amz-Request-Id: ")
				h.endless(conn, "a")
			})
		},
		"endless informational answers": func(w http.ResponseWriter, _ *http.Request) {
			raw(w, func(conn io.Writer) { h.endless(conn, "HTTP/1.1 103 Early Hints\r\nX-A: b\r\n\r\n") })
		},
		"an endless error": func(w http.ResponseWriter, r *http.Request) {
			head(w, http.StatusNotFound)
			fmt.Fprint(w, "<Error><Code>NoSuchKey</Code><Message>")
			h.endless(body(w, r), "x")
		},
		"an endless refusal": func(w http.ResponseWriter, r *http.Request) {
			head(w, http.StatusForbidden)
			h.endless(body(w, r), "<Error>")
		},
		"an endless answer": func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, "<A>")
			h.endless(body(w, r), "<Contents/><Upload/><Part/><Rule/>")
		},
		"endless values": func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, "<A><UploadId>")
			h.endless(body(w, r), "u")
		},
		"lists that go on nowhere": func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, "<A><IsTruncated>true</IsTruncated><Contents><Key>acme/j1/x</Key></Contents><Part><PartNumber>1</PartNumber></Part></A>")
		},
		"lists that go on where they began": func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, "<A><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken><NextKeyMarker>acme/j1/a</NextKeyMarker><NextUploadIdMarker>u</NextUploadIdMarker><Part><PartNumber>1</PartNumber></Part></A>")
		},
		"lists without an end": func(w http.ResponseWriter, _ *http.Request) {
			n := h.asked.Load()
			fmt.Fprintf(w, "<A><IsTruncated>true</IsTruncated><NextContinuationToken>%d</NextContinuationToken><NextKeyMarker>acme/j1/%d</NextKeyMarker><Part><PartNumber>%d</PartNumber></Part></A>", n, n, n)
		},
		"redirects to itself": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", r.URL.String())
			head(w, http.StatusTemporaryRedirect)
		},
		"a request id and a code of 60 KB": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Amz-Request-Id", strings.Repeat("\tid\u009b", 15_000))
			w.Header().Set("X-Amz-Bucket-Region", strings.Repeat("r", 100))
			head(w, http.StatusForbidden)
			fmt.Fprintf(w, "<Error><Code>%s</Code><Message>%s</Message></Error>", strings.Repeat("C\u009b", 10_000), strings.Repeat("M\u009b", 10_000))
		},
		"one byte at a time": func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				fmt.Fprint(w, " ")
				_ = http.NewResponseController(w).Flush()
				select {
				case <-r.Context().Done():
				case <-time.After(20 * time.Millisecond):
				}
			}
		},
		"silence": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
	}
}

// No answer of a store or of STS costs more than is stated: bytes, pages and time of each are bounded, for every verb.
func TestHostileStore(t *testing.T) {
	for mode := range (&hostile{}).modes() {
		for _, side := range []string{"s3", "sts"} {
			if side == "sts" && strings.HasPrefix(mode, "lists") {
				continue
			}
			t.Run(side+"/"+mode, func(t *testing.T) {
				t.Parallel()
				h := newHostile(t)
				h.s3 = h.modes()[mode]
				if side == "sts" {
					h.sts = h.s3
				}
				for verb, do := range h.verbs() {
					// It asks for no role, and its time limit is stsTimeout, which is too long for a test.
					if verb == "SetExpiry" && (side == "sts" || mode == "silence" || mode == "one byte at a time") {
						continue
					}
					if t.Failed() { // each further verb may take as much
						break
					}
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					err := do(ctx)
					if ctx.Err() != nil {
						t.Errorf("%s does not end", verb)
					}
					cancel()
					// Where a part of a list is all that a verb asks for, and the list has none, it has what it needs.
					if err == nil && !(verb == "Abort" || verb == "Complete" || verb == "Delivered") {
						t.Errorf("%s believes it", verb)
					}
					if err != nil {
						sober(t, verb, err)
					}
				}
				// What the kernel holds for the connection counts, too.
				if n := h.most.Load(); n > 32*mib {
					t.Errorf("%d bytes of one answer are taken", n)
				}
			})
		}
	}
}

// sober makes sure that an error has nothing of what was answered beyond some letters.
func sober(t *testing.T, verb string, err error) {
	t.Helper()
	text := err.Error()
	if r, ok := contracts.AsRejection(err); ok {
		text = r.Err.Error()
	}
	if len(text) > 3000 || strings.ContainsFunc(strings.ReplaceAll(text, "\n", ""), func(r rune) bool { return r < ' ' || r > '~' && r < 0xa0 }) {
		t.Errorf("%s says, in %d bytes: %.200q", verb, len(text), text)
	}
}
