package uploader

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/snapfleet/snapfleet/contracts"
	testbucket "github.com/snapfleet/snapfleet/test/bucket"
)

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

// Everything is asked at the same time; of several refusals the same one is told, whichever came first.
func TestOneOfSeveralRefusals(t *testing.T) {
	t.Parallel()
	for _, first := range []string{"ListObjectsV2", "ListMultipartUploads", "CreateMultipartUpload"} {
		t.Run(first+" last", func(t *testing.T) {
			t.Parallel()
			c := newCustomer(t)
			u := c.uploader()
			if _, err := u.Delivered(t.Context(), c.attempt); err != nil {
				t.Fatal(err)
			}
			c.role.Policy = permissions(c.to().Bucket, "s3:ListBucket", "s3:ListBucketMultipartUploads", "s3:PutObject")
			if err := server.SetRole(c.role); err != nil {
				t.Fatal(err)
			}
			c.inject(first, testbucket.Fault{Delay: 300 * time.Millisecond})
			_, err := u.Begin(t.Context(), c.attempt, &journal{})
			if r, ok := contracts.AsRejection(err); !ok || r.Code != contracts.BucketDenied || !strings.Contains(err.Error(), "ListObjectsV2") {
				t.Fatalf("got %v", err)
			}
			if n := len(c.calls("CreateMultipartUpload")); n != 1 {
				t.Errorf("the probe was begun %d times: nothing was asked at the same time", n)
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
