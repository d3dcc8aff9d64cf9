package uploader

import (
	"encoding/json"
	"errors"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/versity/versitygw/iamapi/policy"
	"github.com/versity/versitygw/iamapi/types"

	"github.com/snapfleet/snapfleet/contracts"
)

func TestSessionName(t *testing.T) {
	t.Parallel()
	valid := regexp.MustCompile(`^[\w+=,.@-]{2,64}$`)
	long := strings.Repeat("j", 63)
	for _, job := range []string{"a", "2026-03-31-143022", long + "1", long + "2", strings.Repeat("_", 55), strings.Repeat("-", 56)} {
		if name := sessionName(job); !valid.MatchString(name) || !strings.HasPrefix(name, "snapshot-"+job[:1]) {
			t.Errorf("%s: %s", job, name)
		}
	}
	if sessionName(long+"1") == sessionName(long+"2") {
		t.Error("two jobs, one name")
	}
}

func TestSessionPolicyOfTheLongestNames(t *testing.T) {
	t.Parallel()
	account := "123456789012"
	d := contracts.Destination{
		Bucket: strings.Repeat("b", 63), RoleARN: "arn:aws-us-gov:iam::" + account + ":role/x",
		KMSKeyARN: "arn:aws-us-gov:kms:us-gov-west-1:" + account + ":key/mrk-" + strings.Repeat("0", 32),
	}
	p, err := policyOf(d, contracts.JobPrefix(strings.Repeat("t", 63), strings.Repeat("j", 64)), delivering(d))
	if err != nil || len(p) > 1536 {
		t.Fatalf("%d characters, %v", len(p), err)
	}
	if !strings.Contains(p, "arn:aws-us-gov:s3:::bbb") {
		t.Error("the partition is not the role's")
	}
}

// allows asks the policy engine of the S3 server what a session policy lets through.
func allows(doc, action, resource string, cond map[string][]string) bool {
	return policy.EvaluateIdentityPolicies([]types.PolicyEntry{{PolicyDocument: doc}},
		policy.RequestContext{Action: action, Resource: resource, Condition: cond}) == policy.DecisionAllow
}

func TestSessionPolicyAllowsOneFolder(t *testing.T) {
	t.Parallel()
	d := contracts.Destination{Bucket: "cust", RoleARN: "arn:aws:iam::123456789012:role/x"}
	p, err := policyOf(d, "acme/job/", delivering(d))
	if err != nil {
		t.Fatal(err)
	}
	const bucket = "arn:aws:s3:::cust"
	prefix := func(s string) map[string][]string { return map[string][]string{"s3:prefix": {s}} }
	for _, c := range []struct {
		action, resource string
		cond             map[string][]string
		want             bool
	}{
		{"s3:PutObject", bucket + "/acme/job/manifest.json", nil, true},
		{"s3:PutObject", bucket + "/acme/job2/manifest.json", nil, false},
		{"s3:PutObject", bucket + "/acme/manifest.json", nil, false},
		{"s3:PutObject", bucket + "/other/job/x", nil, false},
		{"s3:PutObject", "arn:aws:s3:::cust2/acme/job/x", nil, false},
		{"s3:GetObject", bucket + "/acme/job/x", nil, true},
		{"s3:GetObject", bucket + "/acme/other/x", nil, false},
		{"s3:PutObjectAcl", bucket + "/acme/job/x", nil, false},
		{"s3:ListBucket", bucket, prefix("acme/job/"), true},
		{"s3:ListBucket", bucket, prefix("acme/"), false},
		{"s3:ListBucket", bucket, prefix(""), false},
		{"s3:ListBucket", bucket, nil, false},
		{"s3:ListBucketMultipartUploads", bucket, prefix("acme/job/"), true},
		{"s3:ListBucketMultipartUploads", bucket, prefix("acme/"), false},
		{"s3:ListBucketMultipartUploads", bucket, nil, true},
		{"s3:DeleteBucket", bucket, nil, false},
		{"kms:Decrypt", "arn:aws:kms:us-east-1:123456789012:key/1", map[string][]string{"kms:ViaService": {"s3.us-east-1.amazonaws.com"}}, true},
		{"kms:Decrypt", "arn:aws:kms:us-east-1:123456789012:key/1", nil, false},
		{"sts:AssumeRole", "*", nil, false},
	} {
		if got := allows(p, c.action, c.resource, c.cond); got != c.want {
			t.Errorf("%s on %s with %v: %t", c.action, c.resource, c.cond, got)
		}
	}
	d.KMSKeyARN = "arn:aws:kms:us-east-1:123456789012:key/1"
	if p, _ = policyOf(d, "acme/job/", delivering(d)); allows(p, "kms:Decrypt", "arn:aws:kms:us-east-1:123456789012:key/2", map[string][]string{"kms:ViaService": {"s3.x"}}) {
		t.Error("another key than the tenant's")
	}
}

func FuzzSessionPolicy(f *testing.F) {
	f.Add("acme-bucket", "acme", "2026-03-31-143022", "acme/2026-03-31-143022/x")
	f.Add("b", `"},{"Effect":"Allow`, "*", "*")
	f.Add("b", "a", "job", "a/job2/x")
	f.Fuzz(func(t *testing.T, bucket, tenant, job, key string) {
		a := contracts.Tenant{Version: 1, Name: tenant, Schema: "s", Destination: contracts.Destination{
			Bucket: bucket, Region: "us-east-1",
			RoleARN: "arn:aws:iam::123456789012:role/x", ExternalID: "0123456789012345678901",
		}}.WithDefaults()
		if a.Validate() != nil || !contracts.ValidJob(job) { // openBucket refuses these before it asks
			return
		}
		prefix := contracts.JobPrefix(tenant, job)
		p, err := policyOf(a.Destination, prefix, delivering(a.Destination))
		if err != nil || !json.Valid([]byte(p)) || policy.Parse(p) != nil {
			t.Fatalf("%q: %v", p, err)
		}
		if allows(p, "s3:PutObject", "arn:aws:s3:::"+bucket+"/"+key, nil) != strings.HasPrefix(key, prefix) {
			t.Fatalf("key %q, folder %q: %s", key, prefix, p)
		}
	})
}

// The cache's arithmetic, in virtual time.
func TestRefreshIsEarlyAndForgiving(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		r := &role{attempt: t.Context(), expires: now.Add(time.Hour)}
		fresh := aws.Credentials{AccessKeyID: "a", SecretAccessKey: "b", CanExpire: true, Expires: r.expires}
		adjusted, _ := r.AdjustExpiresBy(fresh, -expiryWindow)
		if got := r.expires.Sub(adjusted.Expires); got != expiryWindow {
			t.Errorf("refreshed %s early", got)
		}
		time.Sleep(56 * time.Minute) // virtual
		kept, err := r.HandleFailToRefresh(t.Context(), adjusted, errors.New("STS is down"))
		if err != nil || kept.Expired() || time.Until(kept.Expires) != staleFor {
			t.Errorf("%v, %v", kept.Expires, err)
		}
		if again, _ := r.AdjustExpiresBy(kept, -expiryWindow); again.Expired() {
			t.Error("what was kept is adjusted away")
		}
		if _, err := r.HandleFailToRefresh(t.Context(), aws.Credentials{}, errors.New("after Invalidate")); err == nil {
			t.Error("there was nothing to keep")
		}
		if _, err := r.HandleFailToRefresh(t.Context(), adjusted, errFenced); !errors.Is(err, errFenced) {
			t.Error("a fenced attempt keeps its power")
		}
		time.Sleep(4 * time.Minute) // virtual
		down := errors.New("STS is down")
		if _, err := r.HandleFailToRefresh(t.Context(), kept, down); !errors.Is(err, down) {
			t.Errorf("expired credentials were kept: %v", err)
		}
		r.expires = time.Now().Add(time.Minute) // a session shorter than the window
		if got, _ := r.AdjustExpiresBy(aws.Credentials{CanExpire: true, Expires: r.expires}, -expiryWindow); time.Until(got.Expires) != 45*time.Second {
			t.Errorf("a session of a minute is used for %s", time.Until(got.Expires))
		}
	})
}
