package bucket_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/snapfleet/snapfleet/test/bucket"
)

// as is an S3 client of a user, which asks once.
func as(u bucket.User) *s3.Client {
	return s3.NewFromConfig(server.AWSConfig(u), once)
}

func once(o *s3.Options) { o.Retryer = aws.NopRetryer{} }

// within is an S3 client under the role and, if there is one, the session policy.
func within(t *testing.T, role, sessionPolicy string) *s3.Client {
	t.Helper()
	out, err := stsClient(worker).AssumeRole(t.Context(), assume(role, func(in *sts.AssumeRoleInput) {
		if sessionPolicy != "" {
			in.Policy = &sessionPolicy
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	return withKeys(*out.Credentials.AccessKeyId, *out.Credentials.SecretAccessKey, *out.Credentials.SessionToken)
}

func withKeys(access, secret, token string) *s3.Client {
	cfg := server.AWSConfig(worker)
	cfg.Credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{AccessKeyID: access, SecretAccessKey: secret, SessionToken: token}, nil
	})
	return s3.NewFromConfig(cfg, once)
}

func put(ctx context.Context, c *s3.Client, name, key, body string) error {
	_, err := c.PutObject(ctx, &s3.PutObjectInput{Bucket: &name, Key: &key, Body: strings.NewReader(body)})
	return err
}

func TestWhoMayDoWhat(t *testing.T) {
	name, role := customer(t)
	admin := server.Admin()
	if err := put(t.Context(), admin, name, "tenant/there", "hello"); err != nil {
		t.Fatal(err)
	}
	if err := put(t.Context(), admin, name, "other/there", "hello"); err != nil {
		t.Fatal(err)
	}
	session := policy(
		`{"Effect":"Allow","Action":["s3:PutObject","s3:GetObject"],"Resource":"arn:aws:s3:::`+name+`/tenant/*"}`,
		`{"Effect":"Allow","Action":"s3:ListBucket","Resource":"arn:aws:s3:::`+name+`","Condition":{"StringLike":{"s3:prefix":"tenant/*"}}}`)
	narrow := within(t, role, session)
	wide := within(t, role, "")
	wrongSecret := worker
	wrongSecret.SecretKey = "something else"
	signedElsewhere := server.AWSConfig(worker)
	signedElsewhere.Region = "eu-west-1"
	elsewhere := s3.NewFromConfig(signedElsewhere, once)

	write := func(c *s3.Client, key string) func(context.Context) error {
		return func(ctx context.Context) error { return put(ctx, c, name, key, "x") }
	}
	head := func(c *s3.Client, key string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := c.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &name, Key: &key})
			return err
		}
	}
	read := func(c *s3.Client, key string) func(context.Context) error {
		return func(ctx context.Context) error {
			out, err := c.GetObject(ctx, &s3.GetObjectInput{Bucket: &name, Key: &key})
			if err != nil {
				return err
			}
			defer out.Body.Close()
			_, err = io.Copy(io.Discard, out.Body)
			return err
		}
	}
	list := func(c *s3.Client, prefix string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := c.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: &name, Prefix: &prefix})
			return err
		}
	}
	owned := func(c *s3.Client, owner string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := c.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &name, ExpectedBucketOwner: &owner})
			return err
		}
	}
	for what, tc := range map[string]struct {
		do   func(context.Context) error
		want string
	}{
		"session policy allows the write":      {write(narrow, "tenant/a"), ""},
		"session policy denies another prefix": {write(narrow, "other/a"), "AccessDenied"},
		"role alone allows the other prefix":   {write(wide, "other/b"), ""},
		"read what is there":                   {read(narrow, "tenant/there"), ""},
		"read below another prefix":            {read(narrow, "other/there"), "AccessDenied"},
		"missing key, may list it":             {read(narrow, "tenant/missing"), "NoSuchKey"},
		"missing key, may not list it":         {read(within(t, role, statement("Allow", "s3:GetObject", "arn:aws:s3:::"+name+"/*")), "tenant/missing"), "AccessDenied"},
		"head of a missing key":                {head(narrow, "tenant/missing"), "NotFound"},
		"head of a missing key, may not list":  {head(within(t, role, statement("Allow", "s3:GetObject", "arn:aws:s3:::"+name+"/*")), "tenant/missing"), "Forbidden"},
		"list the allowed prefix":              {list(narrow, "tenant/x"), ""},
		"list another prefix":                  {list(narrow, "other/"), "AccessDenied"},
		"list everything":                      {list(narrow, ""), "AccessDenied"},
		"our own keys have no right there":     {write(as(worker), "tenant/a"), "AccessDenied"},
		"another account's s3:* has none":      {write(as(stranger), "tenant/a"), "AccessDenied"},
		"wrong secret":                         {write(as(wrongSecret), "tenant/a"), "SignatureDoesNotMatch"},
		"signed for another region":            {write(elsewhere, "tenant/a"), "AuthorizationHeaderMalformed"},
		"the bucket belongs to the customer":   {owned(wide, theirs), ""},
		"the bucket does not belong to us":     {owned(wide, ours), "Forbidden"},
		"a user's key with somebody's token":   {write(withKeys(worker.AccessKey, worker.SecretKey, "token"), "tenant/a"), "InvalidToken"},
		"an unknown temporary key":             {write(withKeys("ASIAUNKNOWN", "secret", "token"), "tenant/a"), "InvalidToken"},
		"a bucket that is not there":           {func(ctx context.Context) error { return put(ctx, admin, "not-there", "a", "b") }, "NoSuchBucket"},
		"head of a bucket signed for elsewhere": {func(ctx context.Context) error {
			_, err := elsewhere.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &name})
			return err
		}, "BadRequest"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			if err := tc.do(t.Context()); code(err) != tc.want {
				t.Fatalf("got %q (%v), want %q", code(err), err, tc.want)
			}
		})
	}
}

func TestSessionsEnd(t *testing.T) {
	name, role := customer(t)
	c := within(t, role, "")
	if err := put(t.Context(), c, name, "a", "x"); err != nil {
		t.Fatal(err)
	}
	keys, err := c.Options().Credentials.Retrieve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	changed := "a"
	if keys.SessionToken[0] == 'a' {
		changed = "b"
	}
	for _, token := range []string{"", changed + keys.SessionToken[1:], keys.SessionToken + "a"} {
		if err := put(t.Context(), withKeys(keys.AccessKeyID, keys.SecretAccessKey, token), name, "a", "x"); code(err) != "InvalidToken" {
			t.Fatalf("with another token: %v", err)
		}
	}
	server.ExpireSessions()
	if err := put(t.Context(), c, name, "a", "x"); code(err) != "ExpiredToken" {
		t.Fatalf("after the session: %v", err)
	}

	// A client that believes what it was told, and one that is told the truth.
	server.SetSessionLife(0, time.Nanosecond)
	defer server.SetSessionLife(0, 0)
	if err := put(t.Context(), within(t, role, ""), name, "a", "x"); code(err) != "ExpiredToken" {
		t.Fatalf("a session of a nanosecond: %v", err)
	}
	server.SetSessionLife(2*time.Hour, 0)
	out, err := stsClient(worker).AssumeRole(t.Context(), assume(role))
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(*out.Credentials.Expiration); left < time.Hour+time.Minute {
		t.Fatalf("told %s, want 2h", left)
	}
}

func TestRevocation(t *testing.T) {
	name, role := customer(t)
	c := within(t, role, "")
	try := func(want string) {
		t.Helper()
		if err := put(t.Context(), c, name, "a", "x"); code(err) != want {
			t.Fatalf("got %v, want %q", err, want)
		}
	}
	try("")
	if err := server.SetRole(bucket.Role{ARN: role, Trust: trust(externalID), Policy: statement("Allow", "s3:GetObject", "*")}); err != nil {
		t.Fatal(err)
	}
	try("AccessDenied")
	if err := server.SetRole(bucket.Role{ARN: role, Trust: trust(externalID), Policy: writer(name)}); err != nil {
		t.Fatal(err)
	}
	try("")
	deny := policy(`{"Effect":"Deny","Principal":{"AWS":"` + role + `"},"Action":"s3:PutObject","Resource":"arn:aws:s3:::` + name + `/*"}`)
	if _, err := server.Admin().PutBucketPolicy(t.Context(), &s3.PutBucketPolicyInput{Bucket: &name, Policy: &deny}); err != nil {
		t.Fatal(err)
	}
	try("AccessDenied")
	allow := policy(`{"Effect":"Allow","Principal":{"AWS":"` + stranger.ARN + `"},"Action":"s3:PutObject","Resource":"arn:aws:s3:::` + name + `/*"}`)
	if _, err := server.Admin().PutBucketPolicy(t.Context(), &s3.PutBucketPolicyInput{Bucket: &name, Policy: &allow}); err != nil {
		t.Fatal(err)
	}
	try("")
	if err := put(t.Context(), as(stranger), name, "a", "x"); err != nil {
		t.Fatalf("another account that the bucket's policy names: %v", err)
	}
	server.RemoveRole(role)
	try("AccessDenied")
}

// upload starts an upload of two parts with CRC64NVME and returns what completes it.
func upload(t *testing.T, c *s3.Client, name, key string, numbers ...int32) *s3.CompleteMultipartUploadInput {
	t.Helper()
	created, err := c.CreateMultipartUpload(t.Context(), &s3.CreateMultipartUploadInput{
		Bucket: &name, Key: &key,
		ChecksumAlgorithm: types.ChecksumAlgorithmCrc64nvme, ChecksumType: types.ChecksumTypeFullObject,
	})
	if err != nil {
		t.Fatal(err)
	}
	in := &s3.CompleteMultipartUploadInput{Bucket: &name, Key: &key, UploadId: created.UploadId, MultipartUpload: &types.CompletedMultipartUpload{}}
	for _, n := range numbers {
		// A body that cannot seek, as a stream is sent: its checksum comes in a trailer.
		body := io.LimitReader(strings.NewReader(strings.Repeat(fmt.Sprint(n%10), 5<<20)), 5<<20)
		out, err := c.UploadPart(t.Context(), &s3.UploadPartInput{
			Bucket: &name, Key: &key, UploadId: created.UploadId,
			PartNumber: &n, Body: body, ContentLength: aws.Int64(5 << 20), ChecksumAlgorithm: types.ChecksumAlgorithmCrc64nvme,
		})
		if err != nil {
			t.Fatal(err)
		}
		in.MultipartUpload.Parts = append(in.MultipartUpload.Parts, types.CompletedPart{PartNumber: &n, ETag: out.ETag, ChecksumCRC64NVME: out.ChecksumCRC64NVME})
	}
	return in
}

func TestMultipart(t *testing.T) {
	name, role := customer(t)
	c := within(t, role, "")
	in := upload(t, c, name, "whole", 1, 2)
	done, err := c.CompleteMultipartUpload(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	if done.ChecksumCRC64NVME == nil || done.ChecksumType != types.ChecksumTypeFullObject {
		t.Errorf("completed with %v checksum %v", done.ChecksumType, done.ChecksumCRC64NVME)
	}
	if _, err := c.CompleteMultipartUpload(t.Context(), in); err != nil {
		t.Errorf("completed again: %v", err)
	}
	got, err := c.GetObject(t.Context(), &s3.GetObjectInput{Bucket: &name, Key: aws.String("whole")})
	if err != nil {
		t.Fatal(err)
	}
	defer got.Body.Close()
	data, err := io.ReadAll(got.Body)
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Join([][]byte{bytes.Repeat([]byte("1"), 5<<20), bytes.Repeat([]byte("2"), 5<<20)}, nil)
	if crc32.ChecksumIEEE(data) != crc32.ChecksumIEEE(want) || len(data) != len(want) {
		t.Errorf("read back %d bytes that differ from the %d written", len(data), len(want))
	}

	again := upload(t, c, name, "whole", 1)
	again.IfNoneMatch = aws.String("*")
	if _, err := c.CompleteMultipartUpload(t.Context(), again); code(err) != "PreconditionFailed" {
		t.Errorf("completed over another object: %v", err)
	}
	if _, err := c.CompleteMultipartUpload(t.Context(), upload(t, c, name, "gaps", 1, 3)); code(err) != "InvalidPartOrder" {
		t.Errorf("completed with a gap in the part numbers: %v", err)
	}
	bare := upload(t, c, name, "late", 2)
	if _, err := c.CompleteMultipartUpload(t.Context(), bare); code(err) != "InvalidPartOrder" {
		t.Errorf("completed from part 2 on: %v", err)
	}
	sized := upload(t, c, name, "sized", 1)
	sized.MpuObjectSize = aws.Int64(5<<20 + 1)
	if _, err := c.CompleteMultipartUpload(t.Context(), sized); code(err) != "InvalidRequest" {
		t.Errorf("completed with the wrong size: %v", err)
	}
	if _, err := c.AbortMultipartUpload(t.Context(), &s3.AbortMultipartUploadInput{Bucket: &name, Key: sized.Key, UploadId: sized.UploadId}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ListParts(t.Context(), &s3.ListPartsInput{Bucket: &name, Key: sized.Key, UploadId: sized.UploadId}); code(err) != "NoSuchUpload" {
		t.Errorf("listed an aborted upload: %v", err)
	}
}

// TestSDKConfiguration: the SDK's own provider works with AWSConfig, refresh and all.
func TestSDKConfiguration(t *testing.T) {
	name, role := customer(t)
	cfg := server.AWSConfig(worker)
	cfg.Credentials = aws.NewCredentialsCache(stscreds.NewAssumeRoleProvider(sts.NewFromConfig(cfg), role, func(o *stscreds.AssumeRoleOptions) {
		o.ExternalID = aws.String(externalID)
	}))
	c := s3.NewFromConfig(cfg, once)
	out, err := c.HeadBucket(t.Context(), &s3.HeadBucketInput{Bucket: &name})
	if err != nil {
		t.Fatal(err)
	}
	if aws.ToString(out.BucketRegion) != server.Region() {
		t.Errorf("region %q, want %q", aws.ToString(out.BucketRegion), server.Region())
	}
}

// TestWrongRegion: a HEAD has no body to name the right region in, so a header does.
func TestWrongRegion(t *testing.T) {
	name, _ := customer(t)
	cfg := server.AWSConfig(worker)
	cfg.Region = "eu-west-1"
	_, err := s3.NewFromConfig(cfg, once).HeadBucket(t.Context(), &s3.HeadBucketInput{Bucket: &name})
	response, ok := errors.AsType[*smithyhttp.ResponseError](err)
	if !ok {
		t.Fatalf("got %v", err)
	}
	if got := response.Response.Header.Get("X-Amz-Bucket-Region"); response.HTTPStatusCode() != http.StatusBadRequest || got != server.Region() {
		t.Errorf("answered %d and region %q, want 400 and %q", response.HTTPStatusCode(), got, server.Region())
	}
}

func TestVersioning(t *testing.T) {
	name, role := customer(t)
	if _, err := server.Admin().PutBucketVersioning(t.Context(), &s3.PutBucketVersioningInput{
		Bucket:                  &name,
		VersioningConfiguration: &types.VersioningConfiguration{Status: types.BucketVersioningStatusEnabled},
	}); err != nil {
		t.Fatal(err)
	}
	c := within(t, role, "")
	for _, body := range []string{"first", "second"} {
		if err := put(t.Context(), c, name, "a", body); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.CompleteMultipartUpload(t.Context(), upload(t, c, name, "a", 1)); err != nil {
		t.Fatal(err)
	}
	out, err := server.Admin().ListObjectVersions(t.Context(), &s3.ListObjectVersionsInput{Bucket: &name})
	if err != nil {
		t.Fatal(err)
	}
	if len(out.Versions) != 3 {
		t.Errorf("%d versions, want 3", len(out.Versions))
	}
}

func TestOnePerProcess(t *testing.T) {
	if _, err := bucket.Start(t.Context(), bucket.Config{Dir: t.TempDir()}); err != bucket.ErrRunning {
		t.Fatalf("a second server: %v", err)
	}
}

// BenchmarkUploadPart is how fast four uploads of 16 MiB parts are at once, client and server together.
func BenchmarkUploadPart(b *testing.B) {
	name := fmt.Sprintf("benchmark-%d", b.N)
	if err := server.CreateBucket(b.Context(), name, theirs); err != nil {
		b.Fatal(err)
	}
	c := server.Admin()
	created, err := c.CreateMultipartUpload(b.Context(), &s3.CreateMultipartUploadInput{
		Bucket: &name, Key: aws.String("a"),
		ChecksumAlgorithm: types.ChecksumAlgorithmCrc64nvme, ChecksumType: types.ChecksumTypeFullObject,
	})
	if err != nil {
		b.Fatal(err)
	}
	part := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
	b.SetBytes(int64(len(part)))
	b.SetParallelism(2)
	var n atomic.Int32
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			_, err := c.UploadPart(b.Context(), &s3.UploadPartInput{
				Bucket: &name, Key: aws.String("a"), UploadId: created.UploadId,
				PartNumber: aws.Int32(1 + n.Add(1)%8), Body: bytes.NewReader(part), ChecksumAlgorithm: types.ChecksumAlgorithmCrc64nvme,
			})
			if err != nil {
				b.Error(err)
				return
			}
		}
	})
}
