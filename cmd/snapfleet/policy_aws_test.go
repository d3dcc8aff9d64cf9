package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

// Called as aws, this program is as much of the AWS CLI as the printed script needs: exactly its commands with exactly
// its flags, and what they say sent as the CLI sends it. So the script runs on machines that have no CLI.
func init() {
	if filepath.Base(os.Args[0]) != "aws" {
		return
	}
	if err := cliOf(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "aws:", err)
		os.Exit(254)
	}
	os.Exit(0)
}

// awsCommands are the commands, each with the flags that it must have, and those that it may have.
var awsCommands = map[string]struct {
	must, may []string
	run       func(awsCall, context.Context) error
}{
	"sts get-caller-identity":                  {[]string{"query", "output"}, nil, awsCall.identity},
	"s3api head-bucket":                        {[]string{"bucket", "region"}, nil, awsCall.headBucket},
	"s3api create-bucket":                      {[]string{"bucket", "region"}, []string{"create-bucket-configuration"}, awsCall.createBucket},
	"s3api put-public-access-block":            {[]string{"bucket", "region", "public-access-block-configuration"}, nil, awsCall.putPublicAccessBlock},
	"s3api put-bucket-encryption":              {[]string{"bucket", "region", "server-side-encryption-configuration"}, nil, awsCall.putEncryption},
	"s3api put-bucket-versioning":              {[]string{"bucket", "region", "versioning-configuration"}, nil, awsCall.putVersioning},
	"s3api put-bucket-lifecycle-configuration": {[]string{"bucket", "region", "lifecycle-configuration"}, nil, awsCall.putLifecycle},
	"iam create-role":                          {[]string{"role-name", "path", "query", "output", "assume-role-policy-document"}, nil, awsCall.createRole},
	"iam get-role":                             {[]string{"role-name"}, nil, awsCall.getRole},
	"iam put-role-policy":                      {[]string{"role-name", "policy-name", "policy-document"}, nil, awsCall.putRolePolicy},
}

// awsCall is one of them.
type awsCall struct {
	cfg   aws.Config
	flags map[string]string
}

func cliOf(ctx context.Context, args []string) error {
	if len(args) < 2 {
		return errors.New("a service and a command are needed")
	}
	name := args[0] + " " + args[1]
	command, known := awsCommands[name]
	if !known {
		return fmt.Errorf("unknown command %q", name)
	}
	if _, set := os.LookupEnv("AWS_PAGER"); !set {
		return errors.New("the answer would wait in a pager")
	}
	flags := map[string]string{}
	for args = args[2:]; len(args) > 0; args = args[2:] {
		flag, ok := strings.CutPrefix(args[0], "--")
		if _, twice := flags[flag]; !ok || twice || len(args) == 1 || !slices.Contains(slices.Concat(command.must, command.may), flag) {
			return fmt.Errorf("%s: unexpected %q", name, args[0])
		}
		flags[flag] = args[1]
	}
	for _, flag := range command.must {
		if flags[flag] == "" {
			return fmt.Errorf("%s: --%s is missing", name, flag)
		}
	}
	cfg, err := awsconfig.LoadDefaultConfig(ctx)
	if err != nil {
		return err
	}
	return command.run(awsCall{cfg, flags}, ctx)
}

// shorthand takes Key=value,Key=value apart.
func shorthand(s string, keys ...string) (map[string]string, error) {
	values := map[string]string{}
	for pair := range strings.SplitSeq(s, ",") {
		key, value, ok := strings.Cut(pair, "=")
		if !ok || !slices.Contains(keys, key) || values[key] != "" {
			return nil, fmt.Errorf("%q is not %q", pair, keys)
		}
		values[key] = value
	}
	return values, nil
}

// document reads JSON with the names that the API has, and no others.
func document(s string, into any) error {
	d := json.NewDecoder(strings.NewReader(s))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("more than one document")
	}
	return nil
}

func (c awsCall) identity(ctx context.Context) error {
	if c.flags["query"] != "Account" || c.flags["output"] != "text" {
		return errors.New("only --query Account --output text")
	}
	who, err := sts.NewFromConfig(c.cfg).GetCallerIdentity(ctx, nil)
	if err != nil {
		return err
	}
	fmt.Println(*who.Account)
	return nil
}

func (c awsCall) s3() *s3.Client {
	return s3.NewFromConfig(c.cfg, func(o *s3.Options) { o.UsePathStyle, o.Region = true, c.flags["region"] })
}

func (c awsCall) bucket() *string { return aws.String(c.flags["bucket"]) }

func (c awsCall) headBucket(ctx context.Context) error {
	_, err := c.s3().HeadBucket(ctx, &s3.HeadBucketInput{Bucket: c.bucket()})
	return err
}

func (c awsCall) createBucket(ctx context.Context) error {
	in := &s3.CreateBucketInput{Bucket: c.bucket()}
	if given := c.flags["create-bucket-configuration"]; given != "" {
		v, err := shorthand(given, "LocationConstraint")
		if err != nil {
			return err
		}
		in.CreateBucketConfiguration = &types.CreateBucketConfiguration{LocationConstraint: types.BucketLocationConstraint(v["LocationConstraint"])}
	}
	_, err := c.s3().CreateBucket(ctx, in)
	return err
}

func (c awsCall) putPublicAccessBlock(ctx context.Context) error {
	v, err := shorthand(c.flags["public-access-block-configuration"], "BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
	if err != nil {
		return err
	}
	var config types.PublicAccessBlockConfiguration
	for key, field := range map[string]**bool{
		"BlockPublicAcls": &config.BlockPublicAcls, "IgnorePublicAcls": &config.IgnorePublicAcls,
		"BlockPublicPolicy": &config.BlockPublicPolicy, "RestrictPublicBuckets": &config.RestrictPublicBuckets,
	} {
		b, err := strconv.ParseBool(v[key])
		if err != nil {
			return err
		}
		*field = &b
	}
	_, err = c.s3().PutPublicAccessBlock(ctx, &s3.PutPublicAccessBlockInput{Bucket: c.bucket(), PublicAccessBlockConfiguration: &config})
	return err
}

func (c awsCall) putEncryption(ctx context.Context) error {
	var config types.ServerSideEncryptionConfiguration
	if err := document(c.flags["server-side-encryption-configuration"], &config); err != nil {
		return err
	}
	_, err := c.s3().PutBucketEncryption(ctx, &s3.PutBucketEncryptionInput{Bucket: c.bucket(), ServerSideEncryptionConfiguration: &config})
	return err
}

func (c awsCall) putVersioning(ctx context.Context) error {
	v, err := shorthand(c.flags["versioning-configuration"], "Status")
	if err != nil {
		return err
	}
	_, err = c.s3().PutBucketVersioning(ctx, &s3.PutBucketVersioningInput{
		Bucket: c.bucket(), VersioningConfiguration: &types.VersioningConfiguration{Status: types.BucketVersioningStatus(v["Status"])},
	})
	return err
}

func (c awsCall) putLifecycle(ctx context.Context) error {
	var config types.BucketLifecycleConfiguration
	if err := document(c.flags["lifecycle-configuration"], &config); err != nil {
		return err
	}
	_, err := c.s3().PutBucketLifecycleConfiguration(ctx, &s3.PutBucketLifecycleConfigurationInput{Bucket: c.bucket(), LifecycleConfiguration: &config})
	return err
}

func (c awsCall) getRole(ctx context.Context) error {
	_, err := c.iam(ctx, "GetRole", map[string]string{"RoleName": c.flags["role-name"]})
	return err
}

func (c awsCall) createRole(ctx context.Context) error {
	if c.flags["query"] != "Role.Arn" || c.flags["output"] != "text" {
		return errors.New("only --query Role.Arn --output text")
	}
	answer, err := c.iam(ctx, "CreateRole", map[string]string{
		"RoleName": c.flags["role-name"], "Path": c.flags["path"], "AssumeRolePolicyDocument": c.flags["assume-role-policy-document"],
	})
	if err != nil {
		return err
	}
	var created struct {
		ARN string `xml:"CreateRoleResult>Role>Arn"`
	}
	if err := xml.Unmarshal(answer, &created); err != nil {
		return err
	}
	fmt.Println(created.ARN)
	return nil
}

func (c awsCall) putRolePolicy(ctx context.Context) error {
	_, err := c.iam(ctx, "PutRolePolicy", map[string]string{
		"RoleName": c.flags["role-name"], "PolicyName": c.flags["policy-name"], "PolicyDocument": c.flags["policy-document"],
	})
	return err
}

// iam calls IAM as the CLI does: a form, signed for us-east-1.
func (c awsCall) iam(ctx context.Context, action string, fields map[string]string) ([]byte, error) {
	form := url.Values{"Action": {action}, "Version": {"2010-05-08"}}
	for k, v := range fields {
		form.Set(k, v)
	}
	body := form.Encode()
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, os.Getenv("AWS_ENDPOINT_URL_IAM")+"/", strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	q.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	keys, err := c.cfg.Credentials.Retrieve(ctx)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(body))
	if err := v4.NewSigner().SignHTTP(ctx, keys, q, hex.EncodeToString(sum[:]), "iam", "us-east-1", time.Now()); err != nil {
		return nil, err
	}
	client, ok := c.cfg.HTTPClient.(interface {
		Do(*http.Request) (*http.Response, error)
	})
	if !ok {
		return nil, errors.New("no HTTP client")
	}
	r, err := client.Do(q)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	answer, err := io.ReadAll(r.Body)
	if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("an error occurred when calling the %s operation: %s", action, answer)
	}
	return answer, err
}
