package bucket_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"

	"github.com/snapfleet/snapfleet/test/bucket"
)

// code is the API's error code, "" for nil, the error's text for anything else.
func code(err error) string {
	var api smithy.APIError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &api):
		return api.ErrorCode()
	}
	return err.Error()
}

func stsClient(u bucket.User) *sts.Client {
	return sts.NewFromConfig(server.AWSConfig(u), func(o *sts.Options) { o.Retryer = aws.NopRetryer{} })
}

func assume(role string, edits ...func(*sts.AssumeRoleInput)) *sts.AssumeRoleInput {
	in := &sts.AssumeRoleInput{RoleArn: &role, RoleSessionName: aws.String("snapshot-job"), ExternalId: aws.String(externalID)}
	for _, edit := range edits {
		edit(in)
	}
	return in
}

func TestAssumeRole(t *testing.T) {
	_, role := customer(t)
	long := "arn:aws:iam::" + theirs + ":role/long-sessions"
	if err := server.SetRole(bucket.Role{ARN: long, Trust: trust(externalID), MaxSession: 12 * time.Hour}); err != nil {
		t.Fatal(err)
	}
	external := func(id *string) func(*sts.AssumeRoleInput) {
		return func(in *sts.AssumeRoleInput) { in.ExternalId = id }
	}
	seconds := func(n int32) func(*sts.AssumeRoleInput) {
		return func(in *sts.AssumeRoleInput) { in.DurationSeconds = &n }
	}
	named := func(name string) func(*sts.AssumeRoleInput) {
		return func(in *sts.AssumeRoleInput) { in.RoleSessionName = &name }
	}
	doc := func(p string) func(*sts.AssumeRoleInput) {
		return func(in *sts.AssumeRoleInput) { in.Policy = &p }
	}
	wrongSecret := worker
	wrongSecret.SecretKey = "something else"
	unknown := worker
	unknown.AccessKey = "AKIAUNKNOWN000000009"
	fits := statement("Allow", "s3:PutObject", "arn:aws:s3:::b/*")
	fits += strings.Repeat(" ", 2048-len(fits))

	for name, tc := range map[string]struct {
		user bucket.User
		in   *sts.AssumeRoleInput
		want string
	}{
		"as agreed":                {worker, assume(role), ""},
		"without external ID":      {worker, assume(role, external(nil)), "AccessDenied"},
		"wrong external ID":        {worker, assume(role, external(aws.String("ext-43-0123456789abcdefgh"))), "AccessDenied"},
		"malformed external ID":    {worker, assume(role, external(aws.String("not valid!"))), "ValidationError"},
		"another account":          {stranger, assume(role), "AccessDenied"},
		"caller may not assume":    {powerless, assume(role), "AccessDenied"},
		"role does not exist":      {worker, assume(role + "x"), "AccessDenied"},
		"wrong secret":             {wrongSecret, assume(role), "SignatureDoesNotMatch"},
		"unknown key":              {unknown, assume(role), "InvalidClientTokenId"},
		"shorter than 15 minutes":  {worker, assume(role, seconds(899)), "ValidationError"},
		"15 minutes":               {worker, assume(role, seconds(900)), ""},
		"longer than the role":     {worker, assume(role, seconds(3601)), "ValidationError"},
		"12 hours":                 {worker, assume(long, seconds(43200)), ""},
		"longer than any role":     {worker, assume(long, seconds(43201)), "ValidationError"},
		"session name too short":   {worker, assume(role, named("x")), "ValidationError"},
		"session name with spaces": {worker, assume(role, named("a b")), "ValidationError"},
		"session name too long":    {worker, assume(role, named(strings.Repeat("n", 65))), "ValidationError"},
		"policy of 2048":           {worker, assume(role, doc(fits)), ""},
		"policy of 2049":           {worker, assume(role, doc(fits+" ")), "ValidationError"},
		"policy is no policy":      {worker, assume(role, doc(`{"Version":"2012-10-17"}`)), "MalformedPolicyDocument"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, err := stsClient(tc.user).AssumeRole(t.Context(), tc.in)
			if code(err) != tc.want {
				t.Fatalf("got %q (%v), want %q", code(err), err, tc.want)
			}
			if err != nil {
				return
			}
			wantARN := strings.Replace(strings.Replace(*tc.in.RoleArn, ":iam:", ":sts:", 1), ":role/", ":assumed-role/", 1) + "/snapshot-job"
			if *out.AssumedRoleUser.Arn != wantARN {
				t.Errorf("assumed %s, want %s", *out.AssumedRoleUser.Arn, wantARN)
			}
			life := time.Hour
			if tc.in.DurationSeconds != nil {
				life = time.Duration(*tc.in.DurationSeconds) * time.Second
			}
			if left := time.Until(*out.Credentials.Expiration); left > life || left < life-time.Minute {
				t.Errorf("expires in %s, want %s", left, life)
			}
		})
	}
}

func TestTrustChangesAtRunTime(t *testing.T) {
	_, role := customer(t)
	client := stsClient(worker)
	try := func(want string) {
		t.Helper()
		if _, err := client.AssumeRole(t.Context(), assume(role)); code(err) != want {
			t.Fatalf("got %v, want %q", err, want)
		}
	}
	try("")
	set := func(trust string) {
		t.Helper()
		if err := server.SetRole(bucket.Role{ARN: role, Trust: trust}); err != nil {
			t.Fatal(err)
		}
	}
	set(trust("ext-99-0123456789abcdefgh"))
	try("AccessDenied")
	set(policy(`{"Effect":"Allow","Principal":{"AWS":"` + worker.ARN + `"},"Action":"sts:AssumeRole"}`))
	try("")
	set(policy(`{"Effect":"Allow","Principal":{"AWS":"*"},"Action":"sts:AssumeRole"}`,
		`{"Effect":"Deny","Principal":{"AWS":"`+ours+`"},"Action":"sts:AssumeRole"}`))
	try("AccessDenied")
	// Without an external ID the condition key is absent, and not empty.
	set(policy(`{"Effect":"Allow","Principal":{"AWS":"` + ours + `"},"Action":"sts:AssumeRole","Condition":{"Null":{"sts:ExternalId":"true"}}}`))
	try("AccessDenied")
	if _, err := client.AssumeRole(t.Context(), assume(role, func(in *sts.AssumeRoleInput) { in.ExternalId = nil })); err != nil {
		t.Fatalf("a trust that wants no external ID: %v", err)
	}
	server.RemoveRole(role)
	try("AccessDenied")
}

func TestRoleChaining(t *testing.T) {
	_, customers := customer(t)
	pod := "arn:aws:iam::" + ours + ":role/pod"
	err := server.SetRole(bucket.Role{
		ARN: pod, MaxSession: 12 * time.Hour,
		Trust:  policy(`{"Effect":"Allow","Principal":{"AWS":"` + worker.ARN + `"},"Action":"sts:AssumeRole"}`),
		Policy: statement("Allow", "sts:AssumeRole", "*"),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := server.SetRole(bucket.Role{
		ARN: customers, MaxSession: 12 * time.Hour,
		Trust: policy(`{"Effect":"Allow","Principal":{"AWS":"` + pod + `"},"Action":"sts:AssumeRole"}`),
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := stsClient(worker).AssumeRole(t.Context(), assume(customers)); code(err) != "AccessDenied" {
		t.Fatalf("the trust names the pod's role, and the user got in: %v", err)
	}
	first, err := stsClient(worker).AssumeRole(t.Context(), assume(pod))
	if err != nil {
		t.Fatal(err)
	}
	cfg := server.AWSConfig(worker)
	cfg.Credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{AccessKeyID: *first.Credentials.AccessKeyId, SecretAccessKey: *first.Credentials.SecretAccessKey, SessionToken: *first.Credentials.SessionToken}, nil
	})
	chained := sts.NewFromConfig(cfg)
	who, err := chained.GetCallerIdentity(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := "arn:aws:sts::" + ours + ":assumed-role/pod/snapshot-job"; *who.Arn != want || *who.Account != ours {
		t.Errorf("caller is %s of %s, want %s", *who.Arn, *who.Account, want)
	}
	if _, err := chained.AssumeRole(t.Context(), assume(customers)); err != nil {
		t.Errorf("an hour by chaining: %v", err)
	}
	if _, err := chained.AssumeRole(t.Context(), assume(customers, func(in *sts.AssumeRoleInput) { in.DurationSeconds = aws.Int32(3601) })); code(err) != "ValidationError" {
		t.Errorf("more than an hour by chaining: %v", err)
	}
}

// TestSignatures signs by hand what the SDK would not.
func TestSignatures(t *testing.T) {
	_, role := customer(t)
	form := url.Values{"Action": {"AssumeRole"}, "Version": {"2011-06-15"}, "RoleArn": {role}, "RoleSessionName": {"by-hand"}, "ExternalId": {externalID}}.Encode()
	for name, tc := range map[string]struct {
		region, service string
		skew            time.Duration
		tamper          bool
		want            string
	}{
		"as it should be":    {server.Region(), "sts", 0, false, "<AssumeRoleResult>"},
		"slow clock":         {server.Region(), "sts", -14 * time.Minute, false, "<AssumeRoleResult>"},
		"too old":            {server.Region(), "sts", -16 * time.Minute, false, "<Code>SignatureDoesNotMatch</Code>"},
		"not yet":            {server.Region(), "sts", 16 * time.Minute, false, "<Code>SignatureDoesNotMatch</Code>"},
		"another region":     {"eu-west-1", "sts", 0, false, "<Code>SignatureDoesNotMatch</Code>"},
		"another service":    {server.Region(), "s3", 0, false, "<Code>SignatureDoesNotMatch</Code>"},
		"changed afterwards": {server.Region(), "sts", 0, true, "<Code>SignatureDoesNotMatch</Code>"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sum := sha256.Sum256([]byte(form))
			body := form
			if tc.tamper {
				body += "&DurationSeconds=900"
			}
			q, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.STSEndpoint()+"/", strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			credentials := aws.Credentials{AccessKeyID: worker.AccessKey, SecretAccessKey: worker.SecretKey}
			if err := v4.NewSigner().SignHTTP(t.Context(), credentials, q, hex.EncodeToString(sum[:]), tc.service, tc.region, time.Now().Add(tc.skew)); err != nil {
				t.Fatal(err)
			}
			r, err := server.HTTPClient().Do(q)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Body.Close()
			answer, err := io.ReadAll(r.Body)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(answer), tc.want) {
				t.Errorf("answered %s, want %s", answer, tc.want)
			}
		})
	}
}
