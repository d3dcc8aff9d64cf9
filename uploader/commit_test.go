package uploader

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/snapfleet/snapfleet/contracts"
	testbucket "github.com/snapfleet/snapfleet/test/bucket"
)

// The receipt survives what the consumer does with it.
func TestCommitFromARecordedReceipt(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	pieces, digest, err := c.prepare().Pieces()
	if err != nil {
		t.Fatal(err)
	}
	r, err := contracts.JoinReceipt(pieces, digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.uploader().Commit(t.Context(), c.attempt, r); err != nil {
		t.Fatal(err)
	}
	c.whole()
}

func TestUploadAbortedFromOutside(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	r := c.prepare()
	up := r.Uploads[1]
	if _, err := server.Admin().AbortMultipartUpload(t.Context(), &s3.AbortMultipartUploadInput{
		Bucket: &c.to().Bucket, Key: aws.String(c.attempt.Prefix() + up.Name), UploadId: &up.ID,
	}); err != nil {
		t.Fatal(err)
	}
	s, err := c.uploader().open(t.Context(), c.attempt) // a worker that dies after the first of two
	if err == nil {
		err = s.complete(t.Context(), r.Uploads[0], "")
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := c.uploader().Commit(t.Context(), c.attempt, r); !errors.Is(err, ErrUploadLost) {
		t.Fatalf("got %v", err)
	}
	if slices.Contains(c.keys(), c.attempt.Prefix()+contracts.ManifestName) {
		t.Fatal("a manifest of a delivery that is not whole")
	}
	if len(c.keys()) != 1 { // else the next lines test nothing
		t.Fatalf("visible: %q", c.keys())
	}

	// The next attempt takes the place of what the lost one made visible, under whatever names.
	c.put(c.attempt.Prefix()+"snapshot_tables_part7_2026-03-31-143022.tar", "x", map[string]string{metaJob: c.attempt.Prefix(), metaAttempt: c.attempt.ID})
	c.put(c.attempt.Prefix()+"README", "the customer's", nil)
	c.attempt.Number, c.attempt.ID = 2, "2-0011223344556677"
	if err := c.uploader().Commit(t.Context(), c.attempt, c.prepare()); err != nil {
		t.Fatal(err)
	}
	if got, err := server.Admin().DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &c.to().Bucket, Key: aws.String(c.attempt.Prefix() + "README")}); err != nil {
		t.Fatal(got, err)
	}
	c.whole()
}

// What a store may answer to a Complete that has taken effect before.
func TestCompleteAfterALostReply(t *testing.T) {
	t.Parallel()
	for name, second := range map[string]testbucket.Reply{
		"as AWS: 412":            {Status: 412, Code: "PreconditionFailed"},
		"as MinIO: NoSuchUpload": {Status: 404, Code: "NoSuchUpload"},
		"409, then 200":          {Status: 409, Code: "ConditionalRequestConflict"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCustomer(t)
			r := c.prepare()
			only := func(call testbucket.Call) bool { return strings.Contains(call.Key, "attachments") }
			lost := c.inject("CompleteMultipartUpload", testbucket.Fault{Match: only, Times: 1, Apply: true, Reply: testbucket.Reply{Lost: true}})
			then := c.inject("CompleteMultipartUpload", testbucket.Fault{Match: only, Times: 1, Reply: second})
			if err := c.uploader().Commit(t.Context(), c.attempt, r); err != nil {
				t.Fatal(err)
			}
			if lost.Hits() != 1 || then.Hits() != 1 {
				t.Fatalf("the faults were met %d and %d times", lost.Hits(), then.Hits())
			}
			c.whole()
		})
	}
}

func TestNeverOverwritesOthers(t *testing.T) {
	t.Parallel()
	stranger := map[string]map[string]string{
		"no metadata":       nil,
		"another job":       {metaJob: "acme/another/", metaAttempt: "1-9f86d081884c7d65"},
		"our own, other":    {metaJob: "acme/2026-03-31-143022/", metaAttempt: "1-9f86d081884c7d65"}, // the size differs
		"a successor's":     {metaJob: "acme/2026-03-31-143022/", metaAttempt: "2-0011223344556677"},
		"a lost one's":      {metaJob: "acme/2026-03-31-143022/", metaAttempt: "0-0011223344556677"},
		"a forgotten one's": {metaJob: "acme/2026-03-31-143022/", metaAttempt: "1-0011223344556677"},
	}
	for name, metadata := range stranger {
		t.Run("volume/"+name, func(t *testing.T) {
			t.Parallel()
			c := newCustomer(t)
			r := c.prepare()
			key := c.attempt.Prefix() + r.Uploads[0].Name
			c.put(key, "theirs", metadata)
			err := c.uploader().Commit(t.Context(), c.attempt, r)
			j, rejected := contracts.AsRejection(err)
			switch {
			case name == "a lost one's" || name == "a forgotten one's": // of this job, without a manifest: it is replaced
				if err != nil {
					t.Fatal(err)
				}
				c.whole()
				return
			case name == "a successor's" && errors.Is(err, ErrUploadLost):
			case !rejected || j.Code != contracts.DestinationTaken:
				t.Fatal(err)
			}
			got, err := server.Admin().GetObject(t.Context(), &s3.GetObjectInput{Bucket: &c.to().Bucket, Key: &key})
			if err != nil {
				t.Fatal(err)
			}
			if body, _ := io.ReadAll(got.Body); string(body) != "theirs" {
				t.Fatalf("overwritten: %q", body)
			}
			if slices.Contains(c.keys(), c.attempt.Prefix()+contracts.ManifestName) {
				t.Fatal("a manifest of a delivery that is not whole")
			}
		})
	}
	t.Run("manifest", func(t *testing.T) {
		t.Parallel()
		c := newCustomer(t)
		r := c.prepare()
		c.put(c.attempt.Prefix()+contracts.ManifestName, "theirs", nil)
		err := c.uploader().Commit(t.Context(), c.attempt, r)
		if j, ok := contracts.AsRejection(err); !ok || j.Code != contracts.DestinationTaken {
			t.Fatal(err)
		}
	})
}

// What a lost attempt left is replaced only as it was seen: not when somebody was faster.
func TestLeftoverIsReplacedAsSeen(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	r := c.prepare()
	key := c.attempt.Prefix() + r.Uploads[0].Name
	c.put(key, "a lost attempt's", map[string]string{metaJob: c.attempt.Prefix(), metaAttempt: "0-0011223344556677"})
	hold := make(chan struct{})
	held := c.inject("CompleteMultipartUpload", testbucket.Fault{Match: func(call testbucket.Call) bool { return call.Key == key && call.Header.Get("If-Match") != "" }, Hold: hold})
	done := make(chan error, 1)
	go func() { done <- c.uploader().Commit(t.Context(), c.attempt, r) }()
	select {
	case <-held.Reached:
	case err := <-done:
		t.Fatalf("it was not replaced on condition: %v", err)
	}
	c.put(key, "theirs", nil)
	close(hold)
	if j, ok := contracts.AsRejection(<-done); !ok || j.Code != contracts.DestinationTaken {
		t.Fatalf("%v", j)
	}
	got, err := server.Admin().GetObject(t.Context(), &s3.GetObjectInput{Bucket: &c.to().Bucket, Key: &key})
	if err != nil {
		t.Fatal(err)
	}
	if body, _ := io.ReadAll(got.Body); string(body) != "theirs" {
		t.Fatalf("overwritten: %d bytes", len(body))
	}
}

// A volume that somebody deletes between its completion and the manifest.
func TestVolumeVanishesBeforeTheManifest(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	r := c.prepare()
	key := c.attempt.Prefix() + r.Uploads[0].Name
	hold := make(chan struct{})
	held := c.inject("HeadObject", testbucket.Fault{Match: func(call testbucket.Call) bool { return call.Key == key }, Times: 1, Hold: hold})
	done := make(chan error, 1)
	go func() { done <- c.uploader().Commit(t.Context(), c.attempt, r) }()
	select {
	case <-held.Reached:
	case err := <-done:
		t.Fatalf("nobody looked at the volume: %v", err)
	}
	if _, err := server.Admin().DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &c.to().Bucket, Key: &key}); err != nil {
		t.Error(err)
	}
	close(hold)
	if err := <-done; !errors.Is(err, ErrUploadLost) {
		t.Fatal(err)
	}
	if slices.Contains(c.keys(), c.attempt.Prefix()+contracts.ManifestName) {
		t.Fatal("a manifest of a delivery that is not whole")
	}
}

func TestTwoWorkersCommitAtOnce(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	r := c.prepare()
	done := make(chan error)
	for range 4 {
		go func() { done <- c.uploader().Commit(t.Context(), c.attempt, r) }()
	}
	for range 4 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	c.whole()
}

// A store that is not read-after-write for a moment: a volume that was completed is not seen at first, whatever the
// store answered to the Complete. That is no reason to think it lost, which would cost the whole attempt.
func TestCompletedVolumeIsNotSeenAtOnce(t *testing.T) {
	t.Parallel()
	lost := testbucket.Fault{Apply: true, Reply: testbucket.Reply{Lost: true}}
	then := func(status int, code string) testbucket.Fault {
		return testbucket.Fault{Reply: testbucket.Reply{Status: status, Code: code}}
	}
	for name, answers := range map[string][]testbucket.Fault{
		"the answer came":          nil,
		"lost, then 412":           {lost, then(412, "PreconditionFailed")},
		"lost, then NoSuchUpload":  {lost, then(404, "NoSuchUpload")},
		"lost, then InvalidPart":   {lost, then(400, "InvalidPart")},
		"lost, then conflict, 412": {lost, then(409, "ConditionalRequestConflict"), then(412, "PreconditionFailed")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCustomer(t)
			r := c.prepareSmall()
			one := func(call testbucket.Call) bool { return strings.Contains(call.Key, "snapshot_tables") }
			for _, f := range answers {
				f.Match, f.Times = one, 1
				c.inject("CompleteMultipartUpload", f)
			}
			unseen := c.inject("HeadObject", testbucket.Fault{Match: one, Times: 3, Reply: testbucket.Reply{Status: 404, Code: "NotFound"}})
			if err := c.uploader().Commit(t.Context(), c.attempt, r); err != nil {
				t.Fatal(err)
			}
			if unseen.Hits() != 3 {
				t.Errorf("it was not seen %d times", unseen.Hits())
			}
			c.whole()
		})
	}
}

// A look that is refused says nothing about the volume: the next commit finds it.
func TestLookIsRefused(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	r := c.prepareSmall()
	refused := c.inject("HeadObject", testbucket.Fault{Times: 2, Reply: testbucket.Reply{Status: 403, Code: "AccessDenied"}})
	err := c.uploader().Commit(t.Context(), c.attempt, r)
	if j, ok := contracts.AsRejection(err); !ok || j.Code != contracts.WriteDenied || errors.Is(err, ErrUploadLost) {
		t.Fatalf("got %v", err)
	}
	refused.Remove()
	if err := c.uploader().Commit(t.Context(), c.attempt, r); err != nil {
		t.Fatal(err)
	}
	c.whole()
}

// A manifest whose answer was lost, and which is not seen for a moment: neither lost nor anybody else's.
func TestManifestIsNotSeenAtOnce(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	r := c.prepareSmall()
	c.inject("PutObject", testbucket.Fault{Times: 1, Apply: true, Reply: testbucket.Reply{Lost: true}})
	unseen := c.inject("GetObject", testbucket.Fault{Match: manifest, Times: 1, Reply: testbucket.Reply{Status: 404, Code: "NoSuchKey"}})
	err := c.uploader().Commit(t.Context(), c.attempt, r)
	if unseen.Hits() != 1 {
		t.Fatal("nobody looked")
	}
	if err != nil {
		t.Errorf("it stands: %v", err)
	}
	c.whole()
}

// S3's rule for parts with checksums: numbered 1, 2, 3 ... And its rule for their size.
func TestPartsAsS3WantsThem(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	if err := c.uploader().Commit(t.Context(), c.attempt, c.prepare()); err != nil {
		t.Fatal(err)
	}
	parts := map[string][]int{}
	for _, call := range c.calls("UploadPart") {
		if volumes(call) {
			parts[call.Key] = append(parts[call.Key], call.Part)
		}
	}
	for key, numbers := range parts {
		slices.Sort(numbers)
		for i, n := range numbers {
			if n != i+1 {
				t.Errorf("%s has parts %v", key, numbers)
				break
			}
		}
	}

	c = newCustomer(t)
	c.cfg.PartBytes = mib // S3 finds out at the end, and whoever set it reads why
	err := c.uploader().Commit(t.Context(), c.attempt, c.prepare())
	if !errors.Is(err, ErrUploadLost) || !strings.Contains(err.Error(), "EntityTooSmall") || slices.Contains(c.keys(), c.attempt.Prefix()+contracts.ManifestName) {
		t.Errorf("got %v, %q", err, c.keys())
	}
}

// A refusal that is not true: something of that name is said to stand, and nothing does. Nothing is lost and nobody
// is blamed; the next commit goes through.
func TestTakenByNobody(t *testing.T) {
	t.Parallel()
	for _, op := range []string{"CompleteMultipartUpload", "PutObject"} {
		t.Run(op, func(t *testing.T) {
			t.Parallel()
			c := newCustomer(t)
			r := c.prepareSmall()
			c.inject(op, testbucket.Fault{Times: 1, Reply: testbucket.Reply{Status: 412, Code: "PreconditionFailed"}})
			err := c.uploader().Commit(t.Context(), c.attempt, r)
			if _, rejected := contracts.AsRejection(err); err == nil || rejected || errors.Is(err, ErrUploadLost) {
				t.Fatalf("got %v", err)
			}
			if err := c.uploader().Commit(t.Context(), c.attempt, r); err != nil {
				t.Fatal(err)
			}
			c.whole()
		})
	}
}
