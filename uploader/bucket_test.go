package uploader

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/snapfleet/snapfleet/contracts"
	testbucket "github.com/snapfleet/snapfleet/test/bucket"
)

const mib = 1 << 20

// quick is a Config whose parts S3 takes and whose patience is a test's.
var quick = Config{
	PartBytes: 5 * mib, Buffers: 4, RetryFirst: time.Millisecond, RetryMost: 20 * time.Millisecond,
	RetryFor: 20 * time.Second, RequestTimeout: 30 * time.Second,
}

const (
	ourAccount   = "111111111111"
	theirAccount = "222222222222"
)

// customer is one customer's account, with a bucket and a role that trusts us, and our worker.
type customer struct {
	t       *testing.T
	worker  testbucket.User
	role    testbucket.Role
	attempt contracts.Attempt
	cfg     Config
}

var customers atomic.Int32

// permissions is what the customer's setup page asks for.
func permissions(bucket string, without ...string) string {
	objects, whole := []string{"s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"},
		[]string{"s3:ListBucket", "s3:ListBucketMultipartUploads"}
	list := func(actions []string) string {
		actions = slices.DeleteFunc(slices.Clone(actions), func(a string) bool { return slices.Contains(without, a) })
		if len(actions) == 0 {
			actions = []string{"s3:GetBucketLocation"}
		}
		return `"` + strings.Join(actions, `","`) + `"`
	}
	return fmt.Sprintf(`{"Version":"2012-10-17","Statement":[
		{"Effect":"Allow","Action":[%s],"Resource":"arn:aws:s3:::%s/*"},
		{"Effect":"Allow","Action":[%s],"Resource":"arn:aws:s3:::%s"}]}`, list(objects), bucket, list(whole), bucket)
}

func trust(principal, externalID string) string {
	condition := ""
	if externalID != "" {
		condition = fmt.Sprintf(`,"Condition":{"StringEquals":{"sts:ExternalId":%q}}`, externalID)
	}
	return fmt.Sprintf(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":%q},"Action":"sts:AssumeRole"%s}]}`, principal, condition)
}

func newCustomer(t *testing.T) *customer {
	t.Helper()
	n := customers.Add(1)
	name := fmt.Sprintf("acme-%d", n)
	c := &customer{t: t, cfg: quick}
	c.cfg.AllowEndpoints = []string{server.Endpoint()}
	c.worker = testbucket.User{
		ARN: fmt.Sprintf("arn:aws:iam::%s:user/worker-%d", ourAccount, n), AccessKey: fmt.Sprintf("AKIAWORKER%010d", n), SecretKey: "secret-" + name,
		Policy: `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"sts:AssumeRole","Resource":"*"}]}`,
	}
	c.attempt = contracts.Attempt{
		Request: contracts.Request{Version: 1, Tenant: "acme", Job: "2026-03-31-143022", RequestedAt: time.Unix(1_774_967_422, 0).UTC()},
		Tenant: contracts.Tenant{Version: 1, Name: "acme", Schema: "acme", Destination: contracts.Destination{
			Bucket: name, Region: server.Region(), Endpoint: server.Endpoint(),
			RoleARN: fmt.Sprintf("arn:aws:iam::%s:role/snapshots-%d", theirAccount, n), ExternalID: "external-id-of-" + name + "-0123456789",
		}}.WithDefaults(),
		Number: 1, ID: "1-9f86d081884c7d65",
	}
	c.role = testbucket.Role{ARN: c.to().RoleARN, Policy: permissions(name), Trust: trust("arn:aws:iam::"+ourAccount+":root", c.to().ExternalID)}
	for _, err := range []error{server.AddUser(c.worker), server.AddRole(c.role), server.CreateBucket(t.Context(), name, theirAccount)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func (c *customer) to() *contracts.Destination { return &c.attempt.Tenant.Destination }

func (c *customer) uploader() *Uploader { return New(server.AWSConfig(c.worker), c.cfg) }

// inject disturbs requests to this customer's bucket, for the length of the test.
func (c *customer) inject(operation string, f testbucket.Fault) *testbucket.Injected {
	match := f.Match
	f.Match = func(call testbucket.Call) bool {
		return call.Bucket == c.to().Bucket && call.Operation == operation && (match == nil || match(call))
	}
	i := server.Inject(f)
	c.t.Cleanup(i.Remove)
	return i
}

func volumes(call testbucket.Call) bool { return strings.HasSuffix(call.Key, ".tar") }

// calls are the requests to this customer's bucket.
func (c *customer) calls(operations ...string) (found []testbucket.Call) {
	for _, call := range server.Calls() {
		if call.Bucket == c.to().Bucket && (len(operations) == 0 || slices.Contains(operations, call.Operation)) {
			found = append(found, call)
		}
	}
	return found
}

func (c *customer) keys() (keys []string) {
	c.t.Helper()
	out, err := server.Admin().ListObjectsV2(context.Background(), &s3.ListObjectsV2Input{Bucket: &c.to().Bucket})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, o := range out.Contents {
		keys = append(keys, *o.Key)
	}
	return keys
}

func (c *customer) uploads() (keys []string) {
	c.t.Helper()
	out, err := server.Admin().ListMultipartUploads(context.Background(), &s3.ListMultipartUploadsInput{Bucket: &c.to().Bucket})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, u := range out.Uploads {
		keys = append(keys, *u.Key)
	}
	return keys
}

func (c *customer) put(key, body string, metadata map[string]string) {
	c.t.Helper()
	_, err := server.Admin().PutObject(context.Background(), &s3.PutObjectInput{Bucket: &c.to().Bucket, Key: &key, Body: strings.NewReader(body), Metadata: metadata})
	if err != nil {
		c.t.Fatal(err)
	}
}

// archives are two tables and three attachments, of more than two parts.
func archives() (contracts.Manifest, []contracts.Archive) {
	list, files := attachments(10, 6*mib, 0)
	tabs, rows := tables(3, 1000)
	return contracts.Manifest{Tables: tabs, Attachments: list}, []contracts.Archive{rows, files}
}

func (c *customer) prepare() contracts.Receipt {
	c.t.Helper()
	m, a := archives()
	return deliver(c.t, c.uploader(), c.attempt, m, a...)
}

func (c *customer) source() Source {
	return BucketSource(server.Admin(), c.to().Bucket, c.attempt.Prefix())
}

// whole checks the world after a delivery: proven, nothing besides, nothing under way, and no request
// that was not ours to send.
func (c *customer) whole() {
	c.t.Helper()
	report, err := Verify(c.t.Context(), c.source(), VerifyOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, p := range report.Problems {
		c.t.Error(p)
	}
	if left := c.uploads(); len(left) > 0 {
		c.t.Errorf("uploads left: %q", left)
	}
	c.behaved()
}

// behaved checks every request that was sent to the bucket under the customer's role.
func (c *customer) behaved() {
	c.t.Helper()
	for _, call := range c.calls() {
		if !strings.Contains(call.Principal, ":assumed-role/") {
			continue // the test itself
		}
		where := call.Key
		if where == "" {
			where = call.Query.Get("prefix")
		}
		if !strings.HasPrefix(where, c.attempt.Prefix()) {
			c.t.Errorf("%s outside the job's folder: %q", call.Operation, where)
		}
		if !call.SessionPolicy {
			c.t.Errorf("%s without a session policy", call.Operation)
		}
		if got := call.Header.Get("X-Amz-Expected-Bucket-Owner"); got != c.to().Account() {
			c.t.Errorf("%s expects owner %q", call.Operation, got)
		}
	}
}

func TestDeliverToBucket(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	r := c.prepare()
	if keys := c.keys(); len(keys) != 0 {
		t.Fatalf("visible before commit: %q", keys)
	}
	if got, err := c.uploader().Delivered(t.Context(), c.attempt); got != nil || err != nil {
		t.Fatalf("delivered before commit: %q, %v", got, err)
	}
	for range 2 { // another worker, and again
		if err := c.uploader().Commit(t.Context(), c.attempt, r); err != nil {
			t.Fatal(err)
		}
		c.whole()
	}
	got, err := c.uploader().Delivered(t.Context(), c.attempt)
	if err != nil || !bytes.Equal(got, r.Manifest) {
		t.Fatalf("delivered: %q, %v", got, err)
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

// Every request of a delivery fails once, in both ways and some more; the delivery does not.
func TestEveryRequestMayFail(t *testing.T) {
	t.Parallel()
	replies := map[string]testbucket.Fault{
		"SlowDown":           {Reply: testbucket.Reply{Status: 503, Code: "SlowDown"}},
		"500 but applied":    {Apply: true, Reply: testbucket.Reply{Status: 500, Code: "InternalError"}},
		"reply lost":         {Apply: true, Reply: testbucket.Reply{Lost: true}},
		"request lost":       {Reply: testbucket.Reply{Lost: true}},
		"200 with an error":  {Reply: testbucket.Reply{Status: 200, Code: "InternalError"}},
		"credentials expire": {Reply: testbucket.Reply{Status: 400, Code: "ExpiredToken"}},
	}
	operations := []string{
		"ListObjectsV2", "ListMultipartUploads", "CreateMultipartUpload", "UploadPart", "ListParts",
		"AbortMultipartUpload", "CompleteMultipartUpload", "HeadObject", "PutObject",
	}
	for _, op := range operations {
		for _, name := range slices.Sorted(maps.Keys(replies)) {
			if name == "200 with an error" && op != "CompleteMultipartUpload" {
				continue
			}
			t.Run(op+"/"+name, func(t *testing.T) {
				t.Parallel()
				c := newCustomer(t)
				f := replies[name]
				f.Times = 1
				fault := c.inject(op, f)
				m, a := archives()
				u := c.uploader()
				r := deliver(t, u, c.attempt, m, a...)
				if err := u.Commit(t.Context(), c.attempt, r); err != nil {
					t.Fatal(err)
				}
				if fault.Hits() != 1 {
					t.Fatalf("the fault was met %d times", fault.Hits())
				}
				// An upload that S3 began and we never heard of is found by listing, as a successor does.
				if err := u.Abort(t.Context(), c.attempt, nil); err != nil {
					t.Fatal(err)
				}
				c.whole()
			})
		}
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

func TestRejections(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		bend func(*testing.T, *customer)
		code contracts.Code
		text string
	}{
		"wrong external ID": {func(_ *testing.T, c *customer) { c.to().ExternalID = "another-external-id-0123456789" }, contracts.RoleDenied, "snapshots"},
		"trust revoked": {func(_ *testing.T, c *customer) {
			c.role.Trust = trust("arn:aws:iam::333333333333:root", "")
			server.SetRole(c.role)
		}, contracts.RoleDenied, ""},
		"no such role": {func(_ *testing.T, c *customer) { server.RemoveRole(c.role.ARN) }, contracts.RoleDenied, ""},
		"no external ID asked": {func(_ *testing.T, c *customer) {
			c.role.Trust = trust("arn:aws:iam::"+ourAccount+":root", "")
			server.SetRole(c.role)
		}, contracts.InsecureTrust, ""},
		"any external ID will do": {func(_ *testing.T, c *customer) {
			c.role.Trust = strings.ReplaceAll(trust("arn:aws:iam::"+ourAccount+":root", "*"), "StringEquals", "StringLike")
			server.SetRole(c.role)
		}, contracts.InsecureTrust, "random"},
		"no such bucket": {func(_ *testing.T, c *customer) {
			c.to().Bucket += "-not"
			c.role.Policy = permissions(c.to().Bucket)
			server.SetRole(c.role)
		}, contracts.BucketNotFound, ""},
		"no right to list": {func(_ *testing.T, c *customer) {
			c.role.Policy = permissions(c.to().Bucket, "s3:ListBucket")
			server.SetRole(c.role)
		}, contracts.BucketDenied, ""},
		"no right to list uploads": {func(_ *testing.T, c *customer) {
			c.role.Policy = permissions(c.to().Bucket, "s3:ListBucketMultipartUploads")
			server.SetRole(c.role)
		}, contracts.BucketDenied, ""},
		"no right to write": {func(_ *testing.T, c *customer) {
			c.role.Policy = permissions(c.to().Bucket, "s3:PutObject")
			server.SetRole(c.role)
		}, contracts.WriteDenied, ""},
		"no right to read": {func(_ *testing.T, c *customer) {
			c.role.Policy = permissions(c.to().Bucket, "s3:GetObject")
			server.SetRole(c.role)
		}, contracts.WriteDenied, "manifest.json"},
		"no right to abort": {func(_ *testing.T, c *customer) {
			c.role.Policy = permissions(c.to().Bucket, "s3:AbortMultipartUpload")
			server.SetRole(c.role)
		}, contracts.WriteDenied, ""},
		"no right to list parts": {func(_ *testing.T, c *customer) {
			c.role.Policy = permissions(c.to().Bucket, "s3:ListMultipartUploadParts")
			server.SetRole(c.role)
		}, contracts.WriteDenied, ""},
		"KMS": {func(_ *testing.T, c *customer) {
			c.inject("CreateMultipartUpload", testbucket.Fault{Reply: testbucket.Reply{
				Status: 403, Code: "AccessDenied",
				Message: "User: x is not authorized to perform: kms:GenerateDataKey on resource: y",
			}})
		}, contracts.KMSDenied, ""},
		"wrong region": {func(_ *testing.T, c *customer) { c.to().Region = "eu-west-1" }, contracts.WrongRegion, "us-east-1"},
		"redirected": {func(_ *testing.T, c *customer) {
			c.inject("ListObjectsV2", testbucket.Fault{Apply: true, Reply: testbucket.Reply{Status: 301, Code: "PermanentRedirect"}})
		}, contracts.WrongRegion, ""},
		"somebody else's bucket": {func(t *testing.T, c *customer) { c.to().Owner = "444444444444" }, contracts.WrongOwner, "444444444444"},
		"endpoint":               {func(_ *testing.T, c *customer) { c.cfg.AllowEndpoints = nil }, contracts.EndpointNotAllowed, server.Endpoint()},
		"metadata endpoint":      {func(_ *testing.T, c *customer) { c.to().Endpoint = "https://169.254.169.254" }, contracts.EndpointNotAllowed, "169.254"},
		"plain endpoint":         {func(_ *testing.T, c *customer) { c.to().Endpoint = "http://example.com" }, contracts.InvalidTenant, ""},
		"job outside":            {func(_ *testing.T, c *customer) { c.attempt.Request.Job = "../x" }, contracts.InvalidRequest, ""},
		"foreign manifest":       {func(_ *testing.T, c *customer) { c.put(c.attempt.Prefix()+contracts.ManifestName, "{}", nil) }, contracts.DestinationTaken, "manifest.json"},
		"foreign volume": {func(_ *testing.T, c *customer) {
			c.put(c.attempt.Prefix()+"snapshot_tables_2026-03-31-143022.tar", "x", nil)
		}, contracts.DestinationTaken, "snapshot_tables"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cust := newCustomer(t)
			c.bend(t, cust)
			_, err := cust.uploader().Begin(t.Context(), cust.attempt, &journal{})
			r, ok := contracts.AsRejection(err)
			if !ok || r.Code != c.code || !strings.Contains(err.Error(), c.text) {
				t.Fatalf("got %v, want %s with %q", err, c.code, c.text)
			}
			if strings.Contains(err.Error(), cust.to().ExternalID) {
				t.Errorf("the external ID is in the error: %v", err)
			}
			for _, call := range cust.calls("CreateMultipartUpload", "UploadPart") {
				if call.Key != cust.attempt.Prefix()+contracts.ProbeName {
					t.Errorf("wrote %s", call.Key)
				}
			}
		})
	}
}

// Where S3 hides which keys exist, that a key is denied says nothing about the right to read.
func TestHiddenKeysAreNoRejection(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	c.inject("GetObject", testbucket.Fault{Reply: testbucket.Reply{
		Status: 403, Code: "AccessDenied",
		Message: "User: x is not authorized to perform: s3:ListBucket on resource: y because no identity-based policy allows the s3:ListBucket action",
	}})
	if _, err := c.uploader().Begin(t.Context(), c.attempt, &journal{}); err != nil {
		t.Error(err)
	}
}

// A role is asked once a day whether it lets us in without the external ID.
func TestTrustIsCheckedOnce(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	u := c.uploader()
	for range 3 {
		if _, err := u.Begin(t.Context(), c.attempt, &journal{}); err != nil {
			t.Fatal(err)
		}
	}
	without, wrong := 0, 0
	for _, call := range server.Calls() {
		switch {
		case call.Operation != "AssumeRole" || call.Query.Get("RoleArn") != c.role.ARN:
		case !call.Query.Has("ExternalId"):
			without++
		case call.Query.Get("ExternalId") != c.to().ExternalID:
			wrong++
		}
	}
	if without != 1 || wrong != 1 {
		t.Fatalf("asked %d times without and %d times with a random external ID", without, wrong)
	}
}

func TestBeginAbortsWhatOlderAttemptsLeft(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	c.prepare() // an attempt that died with everything uploaded
	foreign := "acme/another-job/snapshot_tables_another-job.tar"
	if _, err := server.Admin().CreateMultipartUpload(t.Context(), &s3.CreateMultipartUploadInput{Bucket: &c.to().Bucket, Key: &foreign}); err != nil {
		t.Fatal(err)
	}
	if got := c.uploads(); len(got) != 3 {
		t.Fatalf("%q", got)
	}
	c.attempt.Number, c.attempt.ID = 2, "2-0011223344556677"
	if _, err := c.uploader().Begin(t.Context(), c.attempt, &journal{}); err != nil {
		t.Fatal(err)
	}
	if got := c.uploads(); !slices.Equal(got, []string{foreign}) {
		t.Fatalf("left: %q", got)
	}
	c.behaved()
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

// A Complete that is under way when the worker's patience ends is not sent elsewhere, and a hanging
// request is cut off and repeated.
func TestHangingRequest(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	c.cfg.RequestTimeout = 2 * time.Second
	r := c.prepare()
	hold := make(chan struct{})
	defer close(hold)
	c.inject("CompleteMultipartUpload", testbucket.Fault{Match: volumes, Times: 1, Hold: hold})
	if err := c.uploader().Commit(t.Context(), c.attempt, r); err != nil {
		t.Fatal(err)
	}
	c.whole()
}

func TestOutageEnds(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	c.cfg.RetryFor = 300 * time.Millisecond
	c.inject("CreateMultipartUpload", testbucket.Fault{Match: volumes, Reply: testbucket.Reply{Status: 503, Code: "SlowDown"}})
	d, err := c.uploader().Begin(t.Context(), c.attempt, &journal{})
	if err != nil {
		t.Fatal(err)
	}
	_, files := attachments(1)
	err = d.Write(t.Context(), files)
	if _, rejected := contracts.AsRejection(err); err == nil || rejected || !strings.Contains(err.Error(), "SlowDown") {
		t.Fatalf("got %v", err)
	}
	if n := len(c.calls("CreateMultipartUpload")); n < 5 {
		t.Errorf("tried %d times", n)
	}
}

func TestFencedWorkerGetsNoCredentials(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	lost := errors.New("lease lost")
	ctx, fence := context.WithCancelCause(t.Context())
	s, err := c.uploader().open(ctx, c.attempt)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.list(t.Context()); err != nil {
		t.Fatal(err)
	}
	fence(lost)
	b := s.(*bucket)
	b.creds.Invalidate()
	if _, err := s.list(t.Context()); !errors.Is(err, lost) {
		t.Fatalf("got %v", err)
	}
}

// Sessions of seconds: not parallel, because they are the server's, and everybody's.
func TestCredentialsExpireUnderWay(t *testing.T) {
	c := newCustomer(t)
	d, err := c.uploader().Begin(t.Context(), c.attempt, &journal{})
	if err != nil {
		t.Fatal(err)
	}
	m, a := archives()
	if err := d.Write(t.Context(), a[0]); err != nil {
		t.Fatal(err)
	}
	server.ExpireSessions()
	if err := d.Write(t.Context(), a[1]); err != nil {
		t.Fatal(err)
	}
	server.ExpireSessions()
	r, err := d.Receipt(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.uploader().Commit(t.Context(), c.attempt, r); err != nil {
		t.Fatal(err)
	}
	c.whole()
	if n := len(slices.DeleteFunc(c.calls(), func(c testbucket.Call) bool { return c.Status != http.StatusBadRequest })); n == 0 {
		t.Error("no request met an expired token: nothing was tested")
	}
}

func TestTrustRevokedUnderWay(t *testing.T) {
	c := newCustomer(t)
	d, err := c.uploader().Begin(t.Context(), c.attempt, &journal{})
	if err != nil {
		t.Fatal(err)
	}
	c.role.Trust = trust("arn:aws:iam::333333333333:root", "")
	if err := server.SetRole(c.role); err != nil {
		t.Fatal(err)
	}
	_, a := archives()
	if err := d.Write(t.Context(), a[0]); err != nil {
		t.Fatalf("credentials that are still valid were not used: %v", err)
	}
	server.ExpireSessions()
	err = d.Write(t.Context(), a[1])
	if r, ok := contracts.AsRejection(err); !ok || r.Code != contracts.RoleDenied {
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
