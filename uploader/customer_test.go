package uploader

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

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
	front   *testbucket.Front    // by which it is reached; nil: directly
	hanging *testbucket.Injected // a fault to be removed before the bucket can be looked at
	power   func(string) string  // what a check's session policy comes to; nil: what it says
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
		Number: 1, ID: "1-9f86d081884c7d65", FleetKey: contracts.FleetKey{42},
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

func (c *customer) uploader() *Uploader {
	if c.front != nil {
		return New(c.front.AWSConfig(c.worker), c.cfg)
	}
	return New(server.AWSConfig(c.worker), c.cfg)
}

// concerns reports whether a request is to this customer's bucket, or for its role.
func (c *customer) concerns(call testbucket.Call) bool {
	return call.Bucket == c.to().Bucket || call.Service == "sts" && call.Query.Get("RoleArn") == c.role.ARN
}

// inject disturbs requests that concern this customer, for the length of the test.
func (c *customer) inject(operation string, f testbucket.Fault) *testbucket.Injected {
	match := f.Match
	f.Match = func(call testbucket.Call) bool {
		return c.concerns(call) && call.Operation == operation && (match == nil || match(call))
	}
	i := server.Inject(f)
	c.t.Cleanup(i.Remove)
	return i
}

func volumes(call testbucket.Call) bool { return strings.HasSuffix(call.Key, ".tar") }

func manifest(call testbucket.Call) bool {
	return strings.HasSuffix(call.Key, "/"+contracts.ManifestName)
}

// calls are the requests to this customer's bucket.
func (c *customer) calls(operations ...string) (found []testbucket.Call) {
	for _, call := range server.Calls() {
		if call.Bucket == c.to().Bucket && (len(operations) == 0 || slices.Contains(operations, call.Operation)) {
			found = append(found, call)
		}
	}
	return found
}

// assumptions are the requests to assume this customer's role.
func (c *customer) assumptions() (found []testbucket.Call) {
	for _, call := range server.Calls() {
		if call.Operation == "AssumeRole" && call.Query.Get("RoleArn") == c.role.ARN {
			found = append(found, call)
		}
	}
	return found
}

// sessions is how many sessions were opened on this customer's role.
func (c *customer) sessions() (n int) {
	for _, call := range c.assumptions() {
		if call.Status == http.StatusOK {
			n++
		}
	}
	return n
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

// prepareSmall is prepare with volumes of one part.
func (c *customer) prepareSmall() contracts.Receipt {
	c.t.Helper()
	list, files := attachments(10, 0)
	tabs, rows := tables(3)
	return deliver(c.t, c.uploader(), c.attempt, contracts.Manifest{Tables: tabs, Attachments: list}, rows, files)
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

// eventually polls, because what is waited for has no event.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within 30s: %s", what)
		}
	}
}
