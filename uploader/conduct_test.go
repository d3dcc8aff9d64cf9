package uploader

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	testbucket "github.com/snapfleet/snapfleet/test/bucket"
)

// behaved checks every request that was sent to the bucket under the customer's role: it names the job's folder and
// the bucket's owner, no secret, and comes from a session that could not have done anything else.
func (c *customer) behaved() {
	c.t.Helper()
	policies := map[string]bool{}
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
		if got := call.Header.Get("X-Amz-Expected-Bucket-Owner"); got != c.to().Account() {
			c.t.Errorf("%s expects owner %q", call.Operation, got)
		}
		c.discreet(call)
		policies[call.Policy] = true
	}
	for p := range policies {
		if beyond := c.beyond(p); len(beyond) > 0 {
			c.t.Errorf("a session may do more than its job: %q; its policy: %s", beyond, p)
		}
	}
	for _, call := range c.assumptions() {
		c.introduced(call)
	}
}

// discreet checks that a request to S3 carries nothing that only STS may hear. (The server keeps no signatures and
// no session tokens.)
func (c *customer) discreet(call testbucket.Call) {
	c.t.Helper()
	all := fmt.Sprint(call.Key, call.Query, call.Header)
	for what, secret := range map[string]string{"external ID": c.to().ExternalID, "worker's secret key": c.worker.SecretKey, "worker's access key": c.worker.AccessKey} {
		if strings.Contains(all, secret) {
			c.t.Errorf("%s tells the %s", call.Operation, what)
		}
	}
}

var introduction = regexp.MustCompile(`^snapshot-[A-Za-z0-9._-]+$`)

// introduced checks how the worker presents itself to the customer's role: CloudTrail keeps the session's name and
// tags for whoever reads it there.
func (c *customer) introduced(call testbucket.Call) {
	c.t.Helper()
	name := call.Query.Get("RoleSessionName")
	if !introduction.MatchString(name) || strings.Contains(name, c.to().ExternalID) || strings.Contains(name, c.to().Bucket) {
		c.t.Errorf("a session named %q", name)
	}
	known := []string{"Action", "Version", "RoleArn", "RoleSessionName", "ExternalId", "DurationSeconds", "Policy"}
	for field, values := range call.Query {
		if !slices.Contains(known, field) {
			c.t.Errorf("AssumeRole sends %s", field)
		}
		if field != "ExternalId" && strings.Contains(fmt.Sprint(values), c.to().ExternalID) {
			c.t.Errorf("%s tells the external ID", field)
		}
	}
}

// beyond lists what a session policy allows, of all that a delivery has no business with.
func (c *customer) beyond(policy string) (allowed []string) {
	if policy == "" {
		return []string{"everything that the role may"}
	}
	bucket := "arn:aws:s3:::" + c.to().Bucket
	try := func(action, resource string, cond map[string][]string) {
		if allows(policy, action, resource, cond) {
			allowed = append(allowed, fmt.Sprint(action, " on ", resource, " ", cond))
		}
	}
	job, tenant := strings.TrimSuffix(c.attempt.Prefix(), "/"), c.attempt.Tenant.Name
	strange := []string{
		"", "x", tenant, tenant + "/", tenant + "/x", tenant + "/another/manifest.json", job, job + "x", job + "x/manifest.json", "x" + c.attempt.Prefix(),
		"x/" + c.attempt.Prefix() + "y", tenant + "2/" + c.attempt.Request.Job + "/manifest.json", strings.ToUpper(c.attempt.Prefix()),
	}
	for _, action := range []string{"s3:PutObject", "s3:GetObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"} {
		for _, key := range strange {
			try(action, bucket+"/"+key, nil)
		}
		try(action, bucket+"2/"+c.attempt.Prefix()+"x", nil)
		try(action, bucket+"x/"+c.attempt.Prefix()+"x", nil)
		try(action, bucket, nil)
	}
	for _, action := range []string{"s3:ListBucket", "s3:ListBucketMultipartUploads"} {
		for _, prefix := range strange {
			try(action, bucket, map[string][]string{"s3:prefix": {prefix}})
		}
		try(action, bucket+"2", map[string][]string{"s3:prefix": {c.attempt.Prefix()}})
	}
	try("s3:ListBucket", bucket, nil)
	for _, action := range []string{
		"s3:PutObjectAcl", "s3:GetObjectVersion", "s3:DeleteObjectVersion", "s3:BypassGovernanceRetention", "s3:PutObjectRetention",
		"s3:RestoreObject", "s3:PutObjectTagging", "s3:GetObjectAcl", "kms:Decrypt", "sts:AssumeRole", "iam:PassRole",
	} {
		try(action, bucket+"/"+c.attempt.Prefix()+"x", nil)
	}
	for _, action := range []string{"s3:PutBucketPolicy", "s3:DeleteBucket", "s3:GetBucketPolicy", "s3:PutLifecycleConfiguration", "s3:ListBucketVersions", "s3:PutBucketAcl", "s3:PutEncryptionConfiguration"} {
		try(action, bucket, nil)
	}
	for _, action := range []string{"s3:ListAllMyBuckets", "s3:CreateBucket", "kms:Decrypt", "kms:GenerateDataKey", "sts:AssumeRole"} {
		try(action, "*", nil)
	}
	return allowed
}

// Whatever is done for a job is done in its folder and could be done nowhere else, though the customer's role may do
// everything with the bucket.
func TestConduct(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	c.role.Policy = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}`
	if err := server.SetRole(c.role); err != nil {
		t.Fatal(err)
	}
	u := c.uploader()
	lost := c.prepare() // by a worker that dies: its successor aborts it
	c.attempt.Number, c.attempt.ID = 2, "2-0011223344556677"
	r := c.prepareSmall()
	if err := u.Abort(t.Context(), c.attempt, lost.Uploads); err != nil {
		t.Fatal(err)
	}
	c.attempt.Number, c.attempt.ID = 3, "3-0011223344556677"
	// A volume of an attempt that is no more, and one under a name that is not used any more.
	for _, name := range []string{r.Uploads[0].Name, "snapshot_tables_part7_2026-03-31-143022.tar"} {
		c.put(c.attempt.Prefix()+name, "x", map[string]string{metaJob: c.attempt.Prefix(), metaAttempt: "1-9f86d081884c7d65"})
	}
	r = c.prepareSmall()
	if _, err := u.Delivered(t.Context(), c.attempt); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := u.Commit(t.Context(), c.attempt, r); err != nil {
			t.Fatal(err)
		}
	}
	if err := u.Abort(t.Context(), c.attempt, r.Uploads); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Begin(t.Context(), c.attempt, &journal{}); err == nil {
		t.Fatal("begun again")
	}
	c.whole()

	// All of a delivery's requests, or this has seen less than it says.
	for _, op := range []string{
		"ListObjectsV2", "ListMultipartUploads", "CreateMultipartUpload", "UploadPart", "ListParts", "AbortMultipartUpload",
		"CompleteMultipartUpload", "HeadObject", "GetObject", "PutObject", "DeleteObject",
	} {
		seen := slices.ContainsFunc(c.calls(op), func(call testbucket.Call) bool { return strings.Contains(call.Principal, ":assumed-role/") })
		if !seen {
			t.Errorf("no %s", op)
		}
	}

	// Verify asks for nothing that this session may not.
	policy := c.assumptions()[0].Query.Get("Policy")
	cfg := server.AWSConfig(c.worker)
	cfg.Credentials = aws.NewCredentialsCache(stscreds.NewAssumeRoleProvider(sts.NewFromConfig(cfg), c.role.ARN, func(o *stscreds.AssumeRoleOptions) {
		o.ExternalID, o.Policy, o.RoleSessionName = aws.String(c.to().ExternalID), aws.String(policy), "snapshot-verify"
	}))
	report, err := Verify(t.Context(), BucketSource(s3.NewFromConfig(cfg), c.to().Bucket, c.attempt.Prefix()), VerifyOptions{})
	if err != nil || !report.OK() || report.Manifest.Job != c.attempt.Request.Job {
		t.Errorf("%v, %v", report.Problems, err)
	}
	for _, call := range c.calls() {
		if strings.Contains(call.Principal, "/snapshot-verify") && call.Operation != "GetObject" && call.Operation != "ListObjectsV2" {
			t.Errorf("verify sent %s", call.Operation)
		}
	}
}

// The check itself: what it must object to.
func TestConductOfOthers(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	own, err := policyOf(*c.to(), c.attempt.Prefix(), delivering(*c.to()))
	if err != nil || len(c.beyond(own)) > 0 {
		t.Fatal(err, c.beyond(own))
	}
	for what, p := range map[string]string{
		"none":             "",
		"the tenant's":     strings.ReplaceAll(own, c.attempt.Prefix(), "acme/"),
		"the bucket's":     strings.ReplaceAll(own, "/"+c.attempt.Prefix()+"*", "/*"),
		"jobs begin alike": strings.ReplaceAll(own, c.attempt.Prefix()+"*", strings.TrimSuffix(c.attempt.Prefix(), "/")+"*"),
		"every action":     strings.Replace(own, `"s3:PutObject"`, `"s3:*"`, 1),
		"every list":       regexp.MustCompile(`,"Condition":\{"StringLike":\{"s3:prefix":"[^"]*"\}\}`).ReplaceAllString(own, ""),
		"every bucket":     strings.ReplaceAll(own, c.to().Bucket, c.to().Bucket+"*"),
	} {
		if p == own || len(c.beyond(p)) == 0 {
			t.Errorf("%s: no objection to %s", what, p)
		}
	}
}
