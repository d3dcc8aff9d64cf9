package uploader

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
	testbucket "github.com/snapfleet/snapfleet/test/bucket"
)

func TestDeliverToBucket(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	r := c.prepare()
	if keys := c.keys(); len(keys) != 0 {
		t.Fatalf("visible before commit: %q", keys)
	}
	if got, err := c.uploader().Delivered(t.Context(), c.attempt); got != nil || err != nil {
		t.Fatalf("delivered before commit: %v, %v", got, err)
	}
	for range 2 { // another worker, and again
		if err := c.uploader().Commit(t.Context(), c.attempt, r); err != nil {
			t.Fatal(err)
		}
		c.whole()
	}
	got, err := c.uploader().Delivered(t.Context(), c.attempt)
	if err != nil || got == nil || got.SHA256 != sha256Of(r.Manifest) || got.Manifest.Attempt != c.attempt.ID {
		t.Fatalf("delivered: %v, %v", got, err)
	}
	if _, err := c.uploader().Begin(t.Context(), c.attempt, &journal{}); !errors.Is(err, ErrDelivered) {
		t.Fatalf("begin again: %v", err)
	}
	// Abort after the fact harms nothing.
	if err := c.uploader().Abort(t.Context(), c.attempt, r.Uploads); err != nil {
		t.Fatal(err)
	}
	c.whole()

	for _, call := range c.calls("UploadPart") {
		if call.Header.Get("X-Amz-Checksum-Crc64nvme") == "" || call.Header.Get("X-Amz-Content-Sha256") != "UNSIGNED-PAYLOAD" {
			t.Fatalf("a part's headers: %v", call.Header)
		}
	}
	if calls := c.calls("CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "PutObject"); len(calls) != 3+4+2*2+2*1 {
		// Three uploads, one of them the probe's; four parts; and, for each Commit, two volumes and a manifest.
		t.Errorf("it took %d writes", len(calls))
	}
}

func TestPartsInAnyOrder(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	// The first part of each object comes last.
	c.inject("UploadPart", testbucket.Fault{Match: func(call testbucket.Call) bool { return call.Part == 1 && volumes(call) }, Delay: 300 * time.Millisecond})
	if err := c.uploader().Commit(t.Context(), c.attempt, c.prepare()); err != nil {
		t.Fatal(err)
	}
	c.whole()
}

func TestAbortLeavesNothing(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	j := &journal{}
	d, err := c.uploader().Begin(t.Context(), c.attempt, j)
	if err != nil {
		t.Fatal(err)
	}
	_, files := attachments(11 * mib)
	if err := d.Write(t.Context(), files); err != nil {
		t.Fatal(err)
	}
	if len(j.uploads) != 1 || len(c.uploads()) != 1 {
		t.Fatalf("%v, %v", j.uploads, c.uploads())
	}
	for range 2 {
		if err := c.uploader().Abort(t.Context(), c.attempt, j.uploads); err != nil {
			t.Fatal(err)
		}
	}
	if left := c.uploads(); len(left) != 0 || len(c.keys()) != 0 {
		t.Fatalf("left: %q, %q", left, c.keys())
	}
	if err := c.uploader().Abort(t.Context(), c.attempt, []contracts.Upload{{Name: "../other/x.tar", ID: "x"}}); err == nil {
		t.Error("aborted outside the folder")
	}
}

func TestPartOfALostUpload(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	d, err := c.uploader().Begin(t.Context(), c.attempt, &journal{})
	if err != nil {
		t.Fatal(err)
	}
	c.inject("UploadPart", testbucket.Fault{Reply: testbucket.Reply{Status: 404, Code: "NoSuchUpload"}})
	_, files := attachments(6 * mib)
	if err := d.Write(t.Context(), files); !errors.Is(err, ErrUploadLost) {
		t.Fatal(err)
	}
}

// A part that reaches S3 after the upload was aborted. One that is being stored just then may survive: that
// is why uploads are listed and aborted again, by the next attempt and long after the end of the job.
func TestAbortWhileAPartIsUnderWay(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	j := &journal{}
	d, err := c.uploader().Begin(t.Context(), c.attempt, j)
	if err != nil {
		t.Fatal(err)
	}
	hold := make(chan struct{})
	held := c.inject("UploadPart", testbucket.Fault{Match: volumes, Times: 1, Hold: hold})
	done := make(chan error)
	go func() {
		_, files := attachments(4 * mib)
		done <- d.Write(t.Context(), files)
	}()
	<-held.Reached
	if err := c.uploader().Abort(t.Context(), c.attempt, nil); err != nil {
		t.Error(err)
	}
	close(hold)
	if err := <-done; !errors.Is(err, ErrUploadLost) {
		t.Errorf("a zombie's part: %v", err)
	}
	if left := c.uploads(); len(left) != 0 {
		t.Errorf("left: %q", left)
	}
}

func TestStoreWithoutChecksums(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	c.cfg.NoChecksum = true
	if err := c.uploader().Commit(t.Context(), c.attempt, c.prepare()); err != nil {
		t.Fatal(err)
	}
	c.whole()
	for _, call := range c.calls("UploadPart", "CreateMultipartUpload", "CompleteMultipartUpload") {
		for name := range call.Header {
			if strings.Contains(strings.ToLower(name), "checksum") {
				t.Fatalf("%s sent %s", call.Operation, name)
			}
		}
	}
}

// The store's limit of parts splits an archive, too.
func TestSplitByTheStoresLimit(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	c.cfg.MaxParts = 2
	d, err := c.uploader().Begin(t.Context(), c.attempt, &journal{})
	if err != nil {
		t.Fatal(err)
	}
	// 9 of 10 MiB at most: split by what the store can hold, though the tenant's limit is far away.
	list, files := attachments(4*mib, 4*mib, 4*mib)
	if err := d.Write(t.Context(), files); err != nil {
		t.Fatal(err)
	}
	_, none := tables()
	if err := d.Write(t.Context(), none); err != nil {
		t.Fatal(err)
	}
	r, err := d.Receipt(contracts.Manifest{Attachments: list})
	if err != nil || len(r.Uploads) != 3 {
		t.Fatalf("%d volumes, %v", len(r.Uploads), err)
	}
	if err := c.uploader().Commit(t.Context(), c.attempt, r); err != nil {
		t.Fatal(err)
	}
	c.whole()
}
