package bucket_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/snapfleet/snapfleet/test/bucket"
)

func operation(name, in string) func(bucket.Call) bool {
	return func(c bucket.Call) bool { return c.Operation == name && (in == "" || c.Bucket == in) }
}

// TestFaults crosses every kind of failure with whether it took effect.
func TestFaults(t *testing.T) {
	name, role := customer(t)
	c := within(t, role, "")
	big := strings.Repeat("0123456789abcdef", 1<<20)
	for what, tc := range map[string]struct {
		fault bucket.Fault
		want  string // error code; "lost" for a broken connection
		there bool   // the object is there afterwards
	}{
		"refused":                {bucket.Fault{Reply: bucket.Reply{Status: 503, Code: "SlowDown"}}, "SlowDown", false},
		"took effect, then 500":  {bucket.Fault{Apply: true, Reply: bucket.Reply{Status: 500, Code: "InternalError"}}, "InternalError", true},
		"connection reset":       {bucket.Fault{Reply: bucket.Reply{Lost: true}}, "lost", false},
		"took effect, no reply":  {bucket.Fault{Apply: true, Reply: bucket.Reply{Lost: true}}, "lost", true},
		"only late":              {bucket.Fault{Delay: time.Millisecond}, "", true},
		"took effect, late":      {bucket.Fault{Apply: true, Delay: time.Millisecond}, "", true},
		"second call only":       {bucket.Fault{Skip: 1, Reply: bucket.Reply{Lost: true}}, "", true},
		"no call of this bucket": {bucket.Fault{Match: operation("PutObject", "another"), Reply: bucket.Reply{Lost: true}}, "", true},
	} {
		t.Run(what, func(t *testing.T) {
			key := strings.ReplaceAll(what, " ", "-")
			if tc.fault.Match == nil {
				tc.fault.Match = func(c bucket.Call) bool { return c.Operation == "PutObject" && c.Key == key }
			}
			fault := server.Inject(tc.fault)
			defer fault.Remove()
			err := put(t.Context(), c, name, key, big)
			if tc.want == "lost" && (err == nil || strings.Contains(code(err), "PutObject") == false) || tc.want != "lost" && code(err) != tc.want {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			_, err = server.Admin().HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: &name, Key: &key})
			if there := err == nil; there != tc.there {
				t.Errorf("object there: %t, want %t", there, tc.there)
			}
			fault.Remove()
			if err := put(t.Context(), c, name, key, "afterwards"); err != nil {
				t.Errorf("after the fault: %v", err)
			}
		})
	}
}

// TestFaultWithoutBody: requests that send nothing can be disturbed, too.
func TestFaultWithoutBody(t *testing.T) {
	name, role := customer(t)
	c := within(t, role, "")
	for _, reply := range []bucket.Reply{{Status: 503, Code: "SlowDown"}, {Lost: true}} {
		fault := server.Inject(bucket.Fault{Match: func(c bucket.Call) bool { return c.Bucket == name }, Reply: reply})
		if _, err := c.ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{Bucket: &name}); err == nil || reply.Code != "" && code(err) != reply.Code {
			t.Errorf("list, %+v: %v", reply, err)
		}
		if _, err := c.HeadBucket(t.Context(), &s3.HeadBucketInput{Bucket: &name}); err == nil {
			t.Errorf("head, %+v: no error", reply)
		}
		fault.Remove()
	}
}

func TestFaultInAnError200(t *testing.T) {
	name, role := customer(t)
	c := within(t, role, "")
	in := upload(t, c, name, "late", 1)
	fault := server.Inject(bucket.Fault{
		Match: operation("CompleteMultipartUpload", name), Times: 1,
		Reply: bucket.Reply{Status: 200, Code: "InternalError", Message: "We encountered an internal error. Please try again."},
	})
	defer fault.Remove()
	if _, err := c.CompleteMultipartUpload(t.Context(), in); code(err) != "InternalError" {
		t.Fatalf("an error in a 200: %v", err)
	}
	if _, err := c.CompleteMultipartUpload(t.Context(), in); err != nil {
		t.Fatalf("again: %v", err)
	}
	if fault.Hits() != 1 {
		t.Errorf("disturbed %d calls, want 1", fault.Hits())
	}
}

func TestFaultCut(t *testing.T) {
	name, role := customer(t)
	c := within(t, role, "")
	big := strings.Repeat("0123456789abcdef", 1<<16)
	if err := put(t.Context(), c, name, "a", big); err != nil {
		t.Fatal(err)
	}
	defer server.Inject(bucket.Fault{Match: operation("GetObject", name), Times: 1, Reply: bucket.Reply{Cut: 100_000}}).Remove()
	read := func() (int, error) {
		out, err := c.GetObject(t.Context(), &s3.GetObjectInput{Bucket: &name, Key: aws.String("a")})
		if err != nil {
			return 0, err
		}
		defer out.Body.Close()
		data, err := io.ReadAll(out.Body)
		return len(data), err
	}
	if n, err := read(); !errors.Is(err, io.ErrUnexpectedEOF) || n > 100_000 || n < 90_000 {
		t.Errorf("read %d bytes, %v", n, err)
	}
	if n, err := read(); err != nil || n != len(big) {
		t.Errorf("read again %d bytes, %v", n, err)
	}
}

// TestFlips: one bit, on its way in, on its way out and where it lies. A checksum finds the first; nothing but
// reading finds the last.
func TestFlips(t *testing.T) {
	name, role := customer(t)
	c := within(t, role, "")
	body := strings.Repeat("0123456789abcdef", 1<<16)
	on := func(operation string, f bucket.Fault) {
		t.Helper()
		f.Times, f.Match = 1, func(c bucket.Call) bool { return c.Bucket == name && c.Operation == operation }
		t.Cleanup(server.Inject(f).Remove)
	}
	read := func() string {
		t.Helper()
		out, err := server.Admin().GetObject(t.Context(), &s3.GetObjectInput{Bucket: &name, Key: aws.String("a")})
		if err != nil {
			t.Fatal(err)
		}
		defer out.Body.Close()
		data, err := io.ReadAll(out.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	write := func(options ...func(*s3.Options)) error {
		_, err := c.PutObject(t.Context(), &s3.PutObjectInput{Bucket: &name, Key: aws.String("a"), Body: strings.NewReader(body)}, options...)
		return err
	}
	unguarded := func(o *s3.Options) {
		o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		o.APIOptions = append(o.APIOptions, v4.SwapComputePayloadSHA256ForUnsignedPayloadMiddleware)
	}

	on("PutObject", bucket.Fault{Flip: true})
	if err := write(); code(err) != "XAmzContentChecksumMismatch" && code(err) != "BadDigest" {
		t.Errorf("a body that changed on its way: %v", err)
	}
	on("PutObject", bucket.Fault{Flip: true})
	if err := write(unguarded); err != nil || read() == body {
		t.Errorf("without a checksum nobody notices: %v", err)
	}
	if err := write(); err != nil || read() != body {
		t.Fatalf("undisturbed: %v", err)
	}

	on("GetObject", bucket.Fault{Reply: bucket.Reply{Flip: true}})
	out, err := c.GetObject(t.Context(), &s3.GetObjectInput{Bucket: &name, Key: aws.String("a")}, func(o *s3.Options) {
		o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
	})
	if err != nil {
		t.Fatal(err)
	}
	defer out.Body.Close()
	if data, err := io.ReadAll(out.Body); err != nil || string(data) == body || len(data) != len(body) {
		t.Errorf("an answer that changed on its way: %d bytes, %v", len(data), err)
	}

	if err := server.Rot(name, "a", 7); err != nil {
		t.Fatal(err)
	}
	head, err := c.HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: &name, Key: aws.String("a"), ChecksumMode: types.ChecksumModeEnabled})
	if err != nil || aws.ToInt64(head.ContentLength) != int64(len(body)) {
		t.Errorf("S3 says of it: %+v, %v", head, err)
	}
	got, err := server.Admin().GetObject(t.Context(), &s3.GetObjectInput{Bucket: &name, Key: aws.String("a")}, func(o *s3.Options) {
		o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
	})
	if err != nil {
		t.Fatal(err)
	}
	defer got.Body.Close()
	if data, err := io.ReadAll(got.Body); err != nil || string(data[:8]) != "01234566" || string(data[8:]) != body[8:] {
		t.Errorf("what lies there: %q, %v", data[:8], err)
	}
	if err := server.Rot(name, "b", 0); err == nil {
		t.Error("what is not there cannot rot")
	}
}

// TestHold: a request that the client gave up is carried out when it arrives at last.
func TestHold(t *testing.T) {
	name, role := customer(t)
	c := within(t, role, "")
	hold := make(chan struct{})
	fault := server.Inject(bucket.Fault{Match: operation("PutObject", name), Hold: hold})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- put(ctx, c, name, "late", "x") }()
	<-fault.Reached
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled: %v", err)
	}
	if _, err := server.Admin().HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: &name, Key: aws.String("late")}); code(err) != "NotFound" {
		t.Fatalf("while it was held: %v", err)
	}
	close(hold)
	eventually(t, "the late request took effect", func() bool {
		_, err := server.Admin().HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: &name, Key: aws.String("late")})
		return err == nil
	})
	fault.Remove()
	fault.Remove()
}

// eventually polls, because what is waited for has no event.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within 10s: %s", what)
		}
	}
}

func TestFaultsOfSTS(t *testing.T) {
	_, role := customer(t)
	for _, tc := range []struct {
		reply bucket.Reply
		want  string
	}{
		{bucket.Reply{Status: 503, Code: "ServiceUnavailable"}, "ServiceUnavailable"},
		{bucket.Reply{Status: 400, Code: "Throttling", Message: "Rate exceeded"}, "Throttling"},
		{bucket.Reply{Lost: true}, "lost"},
	} {
		for _, apply := range []bool{false, true} {
			fault := server.Inject(bucket.Fault{Match: operation("AssumeRole", ""), Apply: apply, Reply: tc.reply})
			_, err := stsClient(worker).AssumeRole(t.Context(), assume(role))
			fault.Remove()
			if err == nil || tc.want != "lost" && code(err) != tc.want {
				t.Errorf("%+v: got %v", tc.reply, err)
			}
		}
	}
	if _, err := stsClient(worker).AssumeRole(t.Context(), assume(role)); err != nil {
		t.Fatal(err)
	}
}

func TestCalls(t *testing.T) {
	name, role := customer(t)
	server.Reset()
	c := within(t, role, writer(name))
	in := upload(t, c, name, "a key/with spaces+é", 1)
	if _, err := c.CompleteMultipartUpload(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	if _, err := c.AbortMultipartUpload(t.Context(), &s3.AbortMultipartUploadInput{Bucket: &name, Key: in.Key, UploadId: aws.String("unknown")}); err == nil {
		t.Fatal("aborted an unknown upload")
	}
	var seen []string
	for _, call := range server.Calls() {
		seen = append(seen, call.Operation)
		if call.Header.Get("Authorization") != "" || call.Header.Get("X-Amz-Security-Token") != "" {
			t.Errorf("%s: recorded a secret", call.Operation)
		}
		switch call.Operation {
		case "AssumeRole":
			if call.Service != "sts" || call.Principal != worker.ARN || call.Query.Get("RoleArn") != role || call.Status != http.StatusOK {
				t.Errorf("unexpected %+v", call)
			}
		case "UploadPart":
			if call.Key != *in.Key || call.Part != 1 || call.UploadID != *in.UploadId || call.Bytes != 5<<20 {
				t.Errorf("unexpected %+v", call)
			}
			fallthrough
		default:
			if call.Bucket != name || !call.SessionPolicy || !strings.HasSuffix(call.Principal, "/snapshot-job") {
				t.Errorf("unexpected %+v", call)
			}
		}
		if want := call.Operation != "AbortMultipartUpload"; (call.Status == http.StatusOK) != want {
			t.Errorf("%s answered %d", call.Operation, call.Status)
		}
	}
	if want := []string{"AssumeRole", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "AbortMultipartUpload"}; !slices.Equal(seen, want) {
		t.Errorf("saw %v, want %v", seen, want)
	}
}
