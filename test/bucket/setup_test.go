package bucket_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/snapfleet/snapfleet/test/bucket"
)

var (
	// administrator may do everything in the customer's account.
	administrator = bucket.User{
		ARN: "arn:aws:iam::" + theirs + ":user/administrator", AccessKey: "AKIAADMINISTRATOR004", SecretKey: "administrator-secret",
		Policy: policy(`{"Effect":"Allow","Action":["s3:*","iam:*"],"Resource":"*"}`),
	}
	// reader may look at buckets and roles, and change none.
	reader = bucket.User{
		ARN: "arn:aws:iam::" + theirs + ":user/reader", AccessKey: "AKIAREADER0000000005", SecretKey: "reader-secret",
		Policy: policy(`{"Effect":"Allow","Action":["s3:Get*","s3:List*","iam:Get*"],"Resource":"*"}`),
	}
)

func s3As(t *testing.T, u bucket.User) *s3.Client {
	t.Helper()
	if err := server.AddUser(u); err != nil {
		t.Fatal(err)
	}
	return s3.NewFromConfig(server.AWSConfig(u), func(o *s3.Options) { o.UsePathStyle, o.Retryer = true, aws.NopRetryer{} })
}

// signed sends a request of one's own making, signed as AWS wants it.
func signed(t *testing.T, u bucket.User, method, target, service, region, body string, header map[string]string) (status int, answer string) {
	t.Helper()
	q, err := http.NewRequestWithContext(t.Context(), method, target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(body))
	digest := hex.EncodeToString(sum[:])
	q.Header.Set("X-Amz-Content-Sha256", digest)
	for k, v := range header {
		q.Header.Set(k, v)
	}
	keys := aws.Credentials{AccessKeyID: u.AccessKey, SecretAccessKey: u.SecretKey}
	if err := v4.NewSigner().SignHTTP(t.Context(), keys, q, digest, service, region, time.Now()); err != nil {
		t.Fatal(err)
	}
	r, err := server.HTTPClient().Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(text)
}

// iam calls IAM, and returns the code of its error, or "".
func iam(t *testing.T, u bucket.User, fields ...string) (code, answer string) {
	t.Helper()
	form := url.Values{"Version": {"2010-05-08"}}
	for i := 0; i < len(fields); i += 2 {
		if form.Has(fields[i]) && fields[i] == "Version" {
			form.Del("Version")
		}
		form.Add(fields[i], fields[i+1])
	}
	status, answer := signed(t, u, http.MethodPost, server.IAMEndpoint()+"/", "iam", "us-east-1", form.Encode(), map[string]string{"Content-Type": "application/x-www-form-urlencoded"})
	if status == http.StatusOK {
		return "", answer
	}
	var refusal struct {
		Code string `xml:"Error>Code"`
	}
	if err := xml.Unmarshal([]byte(answer), &refusal); err != nil || refusal.Code == "" {
		t.Fatalf("%d: %v: %s", status, err, answer)
	}
	return refusal.Code, answer
}

func TestABucketBelongsToTheAccountThatMakesIt(t *testing.T) {
	name := "made-by-its-account"
	constraint := func(region string) *types.CreateBucketConfiguration {
		return &types.CreateBucketConfiguration{LocationConstraint: types.BucketLocationConstraint(region)}
	}
	create := func(u bucket.User, c *types.CreateBucketConfiguration) error {
		_, err := s3As(t, u).CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &name, CreateBucketConfiguration: c})
		return err
	}
	for _, tc := range []struct {
		who  bucket.User
		at   *types.CreateBucketConfiguration
		want string
	}{
		{reader, constraint("us-west-2"), "AccessDenied"},
		{administrator, nil, "IllegalLocationConstraintException"},
		{administrator, constraint("eu-west-1"), "InvalidLocationConstraint"},
		{administrator, constraint("us-west-2"), ""},
	} {
		if err := create(tc.who, tc.at); code(err) != tc.want {
			t.Errorf("%s in %v: %v, want %q", tc.who.ARN, tc.at, err, tc.want)
		}
	}
	for owner, want := range map[string]string{theirs: "", ours: "AccessDenied"} {
		if _, err := s3As(t, administrator).ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{Bucket: &name, ExpectedBucketOwner: &owner}); code(err) != want {
			t.Errorf("owner %s: %v, want %q", owner, err, want)
		}
	}
	if _, err := s3As(t, stranger).ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{Bucket: &name}); code(err) != "AccessDenied" {
		t.Errorf("another account lists it: %v", err)
	}
}

func TestABucketsSettingsAreReadStrictlyAndToldAgain(t *testing.T) {
	name, _ := customer(t)
	const (
		kms      = `<ServerSideEncryptionConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Rule><ApplyServerSideEncryptionByDefault><KMSMasterKeyID>K</KMSMasterKeyID><SSEAlgorithm>aws:kms</SSEAlgorithm></ApplyServerSideEncryptionByDefault><BucketKeyEnabled>true</BucketKeyEnabled></Rule></ServerSideEncryptionConfiguration>`
		abort    = `<LifecycleConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Rule><ID>r</ID><Status>Enabled</Status><Filter></Filter><AbortIncompleteMultipartUpload><DaysAfterInitiation>7</DaysAfterInitiation></AbortIncompleteMultipartUpload></Rule></LifecycleConfiguration>`
		blocked  = `<PublicAccessBlockConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><BlockPublicAcls>true</BlockPublicAcls><IgnorePublicAcls>true</IgnorePublicAcls><BlockPublicPolicy>true</BlockPublicPolicy><RestrictPublicBuckets>true</RestrictPublicBuckets></PublicAccessBlockConfiguration>`
		checksum = "X-Amz-Checksum-Sha256"
	)
	s3As(t, administrator)
	s3As(t, reader)
	put := func(u bucket.User, kind, body string, header map[string]string) (int, string) {
		return signed(t, u, http.MethodPut, server.Endpoint()+"/"+name+"?"+kind+"=", "s3", "us-west-2", body, header)
	}
	right := func(body string) map[string]string {
		return map[string]string{checksum: base64SHA256(body)}
	}
	for kind, body := range map[string]string{"encryption": kms, "lifecycle": abort, "publicAccessBlock": blocked} {
		get := func() (int, string) {
			return signed(t, reader, http.MethodGet, server.Endpoint()+"/"+name+"?"+kind+"=", "s3", "us-west-2", "", nil)
		}
		if status, answer := get(); status != http.StatusNotFound {
			t.Errorf("%s before anything was said: %d %s", kind, status, answer)
		}
		for _, tc := range []struct {
			want   string
			who    bucket.User
			header map[string]string
			sent   string
		}{
			{"AccessDenied", reader, right(body), body},
			{"AccessDenied", administrator, map[string]string{checksum: base64SHA256(body), "X-Amz-Expected-Bucket-Owner": ours}, body},
			{"neither Content-MD5", administrator, nil, body},
			{"BadDigest", administrator, right(body + " "), body},
			{"unexpected element Surprise", administrator, right(surprise(body)), surprise(body)},
			{"MalformedXML", administrator, right("<x>"), "<x>"},
			{"more than one document", administrator, right(body + body), body + body},
			{"text behind", administrator, right(body + "x"), body + "x"},
		} {
			if status, answer := put(tc.who, kind, tc.sent, tc.header); status/100 != 4 || !strings.Contains(answer, tc.want) {
				t.Errorf("%s: %d %s, want %s", kind, status, answer, tc.want)
			}
		}
		if status, answer := get(); status != http.StatusNotFound {
			t.Errorf("%s: what was refused is kept: %d %s", kind, status, answer)
		}
		if status, answer := put(administrator, kind, body, right(body)); status != http.StatusOK {
			t.Errorf("%s: %d %s", kind, status, answer)
		}
		if status, answer := get(); status != http.StatusOK || answer != body {
			t.Errorf("%s: %d %s", kind, status, answer)
		}
	}
	expire := strings.NewReplacer("AbortIncompleteMultipartUpload", "Expiration", "DaysAfterInitiation", "Days").Replace(abort)
	if status, answer := put(administrator, "lifecycle", expire, right(expire)); status != http.StatusOK {
		t.Errorf("a rule that removes: %d %s", status, answer)
	}
	for kind, bad := range map[string][]string{
		"encryption": {
			strings.Replace(kms, "aws:kms", "AES128", 1), strings.Replace(kms, "aws:kms", "AES256", 1), // S3's own has no key
			strings.Replace(kms, "<Rule>", "<Rule><ApplyServerSideEncryptionByDefault><SSEAlgorithm>AES256</SSEAlgorithm></ApplyServerSideEncryptionByDefault>", 1),
			`<ServerSideEncryptionConfiguration></ServerSideEncryptionConfiguration>`,
		},
		"lifecycle": {
			strings.Replace(abort, "Enabled", "On", 1), strings.Replace(abort, ">7<", ">0<", 1), strings.Replace(abort, "<Filter></Filter>", "", 1),
			strings.Replace(abort, "r</ID>", strings.Repeat("r", 256)+"</ID>", 1), `<LifecycleConfiguration></LifecycleConfiguration>`,
			strings.ReplaceAll(abort, "DaysAfterInitiation", "Days"), strings.ReplaceAll(abort, "AbortIncompleteMultipartUpload", "Expiration"),
			strings.ReplaceAll(abort, "AbortIncompleteMultipartUpload", "Transition"),
		},
		"publicAccessBlock": {strings.Replace(blocked, "true", "yes", 1)},
	} {
		for _, body := range bad {
			if status, answer := put(administrator, kind, body, right(body)); status != http.StatusBadRequest || !strings.Contains(answer, "MalformedXML") {
				t.Errorf("%s: %d %s:\n%s", kind, status, answer, body)
			}
		}
	}
	if _, err := s3As(t, administrator).PutBucketAccelerateConfiguration(t.Context(), &s3.PutBucketAccelerateConfigurationInput{
		Bucket: &name, AccelerateConfiguration: &types.AccelerateConfiguration{Status: types.BucketAccelerateStatusEnabled},
	}); code(err) != "NotImplemented" {
		t.Errorf("what nobody needs: %v", err)
	}
}

// What a key encrypts needs the right to use the key, whether the request names it or the bucket does.
func TestAKeyIsUsedOnlyByThoseWhoMay(t *testing.T) {
	name, _ := customer(t)
	const key, another = "arn:aws:kms:us-west-2:" + theirs + ":key/1", "arn:aws:kms:us-west-2:" + theirs + ":key/2"
	user := func(n string, rights ...string) bucket.User {
		statements := []string{`{"Effect":"Allow","Action":"s3:*","Resource":"*"}`}
		for _, right := range rights {
			statements = append(statements, `{"Effect":"Allow","Action":"`+right+`","Resource":"`+key+`","Condition":{"StringEquals":{"kms:ViaService":"s3.us-west-2.amazonaws.com"}}}`)
		}
		return bucket.User{ARN: "arn:aws:iam::" + theirs + ":user/key-" + n, AccessKey: "AKIAKEY" + n, SecretKey: "secret", Policy: policy(statements...)}
	}
	nobody, writes, reads, both := user("nobody"), user("writes", "kms:GenerateDataKey"), user("reads", "kms:Decrypt"), user("both", "kms:GenerateDataKey", "kms:Decrypt")
	// Each as who, with the key that the request names: "" is the bucket's.
	put := func(who bucket.User, key string) error {
		in := &s3.PutObjectInput{Bucket: &name, Key: aws.String("o"), Body: strings.NewReader("body")}
		if key != "" {
			in.ServerSideEncryption, in.SSEKMSKeyId = types.ServerSideEncryptionAwsKms, &key
		}
		_, err := s3As(t, who).PutObject(t.Context(), in)
		return err
	}
	get := func(who bucket.User) error {
		out, err := s3As(t, who).GetObject(t.Context(), &s3.GetObjectInput{Bucket: &name, Key: aws.String("o")})
		if err == nil {
			out.Body.Close()
		}
		return err
	}
	upload := func(begins, sends, ends bucket.User) error {
		c, err := s3As(t, begins).CreateMultipartUpload(t.Context(), &s3.CreateMultipartUploadInput{
			Bucket: &name, Key: aws.String("u"), ChecksumAlgorithm: types.ChecksumAlgorithmCrc64nvme, ChecksumType: types.ChecksumTypeFullObject,
		})
		if err != nil {
			return err
		}
		p, err := s3As(t, sends).UploadPart(t.Context(), &s3.UploadPartInput{
			Bucket: &name, Key: aws.String("u"), UploadId: c.UploadId, PartNumber: aws.Int32(1), Body: strings.NewReader("part"),
			ChecksumAlgorithm: types.ChecksumAlgorithmCrc64nvme,
		})
		if err != nil {
			return err
		}
		_, err = s3As(t, ends).CompleteMultipartUpload(t.Context(), &s3.CompleteMultipartUploadInput{
			Bucket: &name, Key: aws.String("u"), UploadId: c.UploadId,
			MultipartUpload: &types.CompletedMultipartUpload{Parts: []types.CompletedPart{{PartNumber: aws.Int32(1), ETag: p.ETag, ChecksumCRC64NVME: p.ChecksumCRC64NVME}}},
		})
		return err
	}
	check := func(what string, err error, want string) {
		t.Helper()
		if want == "" && err != nil || want != "" && (code(err) != "AccessDenied" || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", what, err, want)
		}
	}
	check("no key, no right", put(nobody, ""), "")
	check("no key to read with", get(nobody), "")
	check("a key without a right", put(nobody, key), "not authorized to perform: kms:GenerateDataKey on resource: "+key)
	check("a key with the other right", put(reads, key), "kms:GenerateDataKey")
	check("another key", put(both, another), "kms:GenerateDataKey on resource: "+another)
	check("a key", put(writes, key), "")
	check("read without the right", get(writes), "kms:Decrypt")
	check("read", get(reads), "")
	_, err := s3As(t, administrator).PutBucketEncryption(t.Context(), &s3.PutBucketEncryptionInput{Bucket: &name, ServerSideEncryptionConfiguration: &types.ServerSideEncryptionConfiguration{
		Rules: []types.ServerSideEncryptionRule{{ApplyServerSideEncryptionByDefault: &types.ServerSideEncryptionByDefault{SSEAlgorithm: types.ServerSideEncryptionAwsKms, KMSMasterKeyID: aws.String(key)}}},
	}})
	check("the bucket's key", err, "")
	check("the bucket's key without a right", put(nobody, ""), "kms:GenerateDataKey")
	check("the bucket's key", put(writes, ""), "")
	check("begin without the right", upload(reads, both, both), "kms:GenerateDataKey")
	check("send without the right", upload(writes, writes, both), "kms:Decrypt")
	check("end without the right", upload(writes, both, writes), "kms:Decrypt")
	check("an upload", upload(both, both, reads), "")
}

func surprise(body string) string {
	i := strings.Index(body, ">") + 1
	return body[:i] + "<Surprise>1</Surprise>" + body[i:]
}

func TestARoleIsMadeByTheQueryProtocol(t *testing.T) {
	s3As(t, administrator)
	s3As(t, reader)
	s3As(t, worker)
	const arn = "arn:aws:iam::" + theirs + ":role/vendors/made"
	create := func(edits ...string) []string {
		fields := []string{"Action", "CreateRole", "RoleName", "made", "Path", "/vendors/", "AssumeRolePolicyDocument", trust(externalID)}
		for i := 0; i < len(edits); i += 2 {
			for j := 0; j < len(fields); j += 2 {
				if fields[j] == edits[i] {
					fields[j+1] = edits[i+1]
					edits[i] = ""
				}
			}
			if edits[i] != "" {
				fields = append(fields, edits[i], edits[i+1])
			}
		}
		return fields
	}
	grant := func(name, doc string) []string {
		return []string{"Action", "PutRolePolicy", "RoleName", "made", "PolicyName", name, "PolicyDocument", doc}
	}
	long := strings.Replace(trust(externalID), externalID, strings.Repeat("x", 2048), 1)
	for _, tc := range []struct {
		what string
		who  bucket.User
		call []string
		want string
	}{
		{"no right", reader, create(), "AccessDenied"},
		{"no such action", administrator, []string{"Action", "DeleteEverything"}, "InvalidAction"},
		{"another version", administrator, create("Version", "2011-06-15"), "InvalidAction"},
		{"a field too many", administrator, create("PermissionsBoundary", "arn:aws:iam::aws:policy/x"), "ValidationError"},
		{"a field twice", administrator, append(create(), "RoleName", "made"), "ValidationError"},
		{"a name with a slash", administrator, create("RoleName", "a/b"), "ValidationError"},
		{"a name of 65", administrator, create("RoleName", strings.Repeat("n", 65)), "ValidationError"},
		{"a path without an end", administrator, create("Path", "/vendors"), "ValidationError"},
		{"too short a session", administrator, create("MaxSessionDuration", "60"), "ValidationError"},
		{"no trust policy", administrator, create("AssumeRolePolicyDocument", ""), "MalformedPolicyDocument"},
		{"a trust policy with a resource", administrator, create("AssumeRolePolicyDocument", writer("made")), "MalformedPolicyDocument"},
		{"an account that is none", administrator, create("AssumeRolePolicyDocument", strings.ReplaceAll(trust(externalID), ours, "999999999999")), "MalformedPolicyDocument"},
		{"too long a trust policy", administrator, create("AssumeRolePolicyDocument", long), "LimitExceeded"},
		{"a policy for no role", administrator, grant("delivery", writer("made")), "NoSuchEntity"},
		{"as it should be", administrator, create(), ""},
		{"the same again", administrator, create(), "EntityAlreadyExists"},
		{"the same elsewhere", administrator, create("Path", "/"), "EntityAlreadyExists"},
		{"a policy without a right", reader, grant("delivery", writer("made")), "AccessDenied"},
		{"a policy that is none", administrator, grant("delivery", `{"Version":"2012-10-17"}`), "MalformedPolicyDocument"},
		{"a policy that names a principal", administrator, grant("delivery", trust(externalID)), "MalformedPolicyDocument"},
		{"a policy without a name", administrator, grant("a b", writer("made")), "ValidationError"},
		{"too long a policy", administrator, grant("delivery", policy(`{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::`+strings.Repeat("x", 10240)+`"}`)), "LimitExceeded"},
		{"a policy", administrator, grant("delivery", writer("made")), ""},
		{"the policy again", administrator, grant("delivery", writer("made")), ""},
		{"a second policy", administrator, grant("another", writer("made")), "LimitExceeded"},
		{"another trust", administrator, []string{"Action", "UpdateAssumeRolePolicy", "RoleName", "made", "PolicyDocument", trust("another-" + externalID)}, ""},
		{"a trust that is none", administrator, []string{"Action", "UpdateAssumeRolePolicy", "RoleName", "made", "PolicyDocument", "{}"}, "MalformedPolicyDocument"},
		{"a trust for no role", administrator, []string{"Action", "UpdateAssumeRolePolicy", "RoleName", "none", "PolicyDocument", trust(externalID)}, "NoSuchEntity"},
		{"another account's role", stranger, []string{"Action", "GetRole", "RoleName", "made"}, "AccessDenied"},
	} {
		if err := server.AddUser(tc.who); err != nil {
			t.Fatal(err)
		}
		if got, answer := iam(t, tc.who, tc.call...); got != tc.want {
			t.Errorf("%s: %q, want %q: %s", tc.what, got, tc.want, answer)
		}
	}
	_, answer := iam(t, reader, "Action", "GetRole", "RoleName", "made")
	var got struct {
		ARN   string `xml:"GetRoleResult>Role>Arn"`
		Path  string `xml:"GetRoleResult>Role>Path"`
		Trust string `xml:"GetRoleResult>Role>AssumeRolePolicyDocument"`
	}
	if err := xml.Unmarshal([]byte(answer), &got); err != nil {
		t.Fatal(err)
	}
	if doc, err := url.PathUnescape(got.Trust); err != nil || got.ARN != arn || got.Path != "/vendors/" || doc != trust("another-"+externalID) {
		t.Errorf("the role is %+v", got)
	}
	role, exists := server.Role(arn)
	if !exists || role.Policy != writer("made") || role.PolicyName != "delivery" || role.MaxSession != time.Hour {
		t.Errorf("the role is %+v", role)
	}
	for id, want := range map[string]string{externalID: "AccessDenied", "another-" + externalID: ""} {
		in := assume(arn)
		in.ExternalId = &id
		if _, err := stsClient(worker).AssumeRole(t.Context(), in); code(err) != want {
			t.Errorf("with %s: %v, want %q", id, err, want)
		}
	}
	wrong := administrator
	wrong.SecretKey = "something else"
	if got, _ := iam(t, wrong, "Action", "GetRole", "RoleName", "made"); got != "SignatureDoesNotMatch" {
		t.Errorf("with a wrong secret: %q", got)
	}
	if status, answer := signed(t, administrator, http.MethodPost, server.IAMEndpoint()+"/", "sts", "us-west-2", "Action=GetCallerIdentity&Version=2011-06-15", nil); status != http.StatusForbidden {
		t.Errorf("a signature for STS: %d %s", status, answer)
	}
}

func TestWhoAmI(t *testing.T) {
	_, role := customer(t)
	for name, tc := range map[string]struct {
		user bucket.User
		want string
	}{
		"a user":                  {worker, worker.ARN},
		"a user without a policy": {powerless, powerless.ARN},
	} {
		who, err := stsClient(tc.user).GetCallerIdentity(t.Context(), nil)
		if err != nil || *who.Arn != tc.want || *who.Account != ours || !strings.HasPrefix(*who.UserId, "AIDA") {
			t.Errorf("%s: %+v, %v", name, who, err)
		}
	}
	out, err := stsClient(worker).AssumeRole(t.Context(), assume(role))
	if err != nil {
		t.Fatal(err)
	}
	cfg := server.AWSConfig(worker)
	cfg.Credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		c := out.Credentials
		return aws.Credentials{AccessKeyID: *c.AccessKeyId, SecretAccessKey: *c.SecretAccessKey, SessionToken: *c.SessionToken}, nil
	})
	who, err := sts.NewFromConfig(cfg).GetCallerIdentity(t.Context(), nil)
	if err != nil || *who.Account != theirs || *who.Arn != *out.AssumedRoleUser.Arn || *who.UserId != *out.AssumedRoleUser.AssumedRoleId {
		t.Errorf("a session: %+v, %v", who, err)
	}
	for body, want := range map[string]string{
		"Action=GetCallerIdentity&Version=2010-05-08":        "InvalidAction",
		"Action=GetCallerIdentity":                           "InvalidAction",
		"Action=GetCallerIdentity&Version=2011-06-15&Name=x": "ValidationError",
		"Action=GetSessionToken&Version=2011-06-15":          "InvalidAction",
	} {
		status, answer := signed(t, worker, http.MethodPost, server.STSEndpoint()+"/", "sts", "us-west-2", body, nil)
		if status != http.StatusBadRequest || !bytes.Contains([]byte(answer), []byte(want)) {
			t.Errorf("%s: %d %s, want %s", body, status, answer, want)
		}
	}
}

func base64SHA256(s string) string {
	sum := sha256.Sum256([]byte(s))
	return base64.StdEncoding.EncodeToString(sum[:])
}
