package bucket_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/snapfleet/snapfleet/test/bucket"
)

// One server serves every test of the package, as one process can have only one.
var server *bucket.Server

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "snapfleet-bucket-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if server, err = bucket.Start(context.Background(), bucket.Config{Dir: dir, Region: "us-west-2", Versioning: true}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if err := server.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := goleak.Find(bucket.LeftBehind()...); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

const (
	ours       = "111111111111"
	theirs     = "222222222222"
	strangers  = "333333333333"
	externalID = "ext-42-0123456789abcdefgh"
)

var (
	worker = bucket.User{
		ARN: "arn:aws:iam::" + ours + ":user/worker", AccessKey: "AKIAWORKER0000000001", SecretKey: "worker-secret",
		Policy: statement("Allow", "sts:AssumeRole", "arn:aws:iam::*:role/*"),
	}
	stranger = bucket.User{
		ARN: "arn:aws:iam::" + strangers + ":user/stranger", AccessKey: "AKIASTRANGER00000002", SecretKey: "stranger-secret",
		Policy: policy(`{"Effect":"Allow","Action":["sts:AssumeRole","s3:*"],"Resource":"*"}`),
	}
	powerless = bucket.User{
		ARN: "arn:aws:iam::" + ours + ":user/powerless", AccessKey: "AKIAPOWERLESS0000003", SecretKey: "powerless-secret",
	}
)

func policy(statements ...string) string {
	return `{"Version":"2012-10-17","Statement":[` + strings.Join(statements, ",") + `]}`
}

func statement(effect, action, resource string) string {
	return policy(fmt.Sprintf(`{"Effect":%q,"Action":%q,"Resource":%q}`, effect, action, resource))
}

// trust lets our account in, with the external ID.
func trust(external string) string {
	return policy(`{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::` + ours + `:root"},"Action":"sts:AssumeRole","Condition":{"StringEquals":{"sts:ExternalId":"` + external + `"}}}`)
}

// writer is what the customer's permission policy gives.
func writer(name string) string {
	return policy(
		`{"Effect":"Allow","Action":["s3:GetObject","s3:PutObject","s3:DeleteObject","s3:AbortMultipartUpload","s3:ListMultipartUploadParts"],"Resource":"arn:aws:s3:::`+name+`/*"}`,
		`{"Effect":"Allow","Action":["s3:ListBucket","s3:ListBucketMultipartUploads"],"Resource":"arn:aws:s3:::`+name+`"}`)
}

// customer is a customer's account with a bucket and a role of its own for one test.
func customer(t *testing.T) (name, role string) {
	t.Helper()
	name = strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))
	if len(name) > 50 {
		name = name[:50]
	}
	name = strings.Trim(name, "-")
	role = "arn:aws:iam::" + theirs + ":role/" + name
	if err := server.CreateBucket(t.Context(), name, theirs); err != nil {
		t.Fatal(err)
	}
	if err := server.AddRole(bucket.Role{ARN: role, Trust: trust(externalID), Policy: writer(name)}); err != nil {
		t.Fatal(err)
	}
	for _, u := range []bucket.User{worker, stranger, powerless} {
		if err := server.AddUser(u); err != nil {
			t.Fatal(err)
		}
	}
	return name, role
}
