package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
	"github.com/zclconf/go-cty/cty/function/stdlib"
	"github.com/zclconf/go-cty/cty/gocty"
	"gopkg.in/yaml.v3"

	"github.com/snapfleet/snapfleet/test/bucket"
)

// setup is what a template creates, or a script has created.
type setup struct {
	Bucket     string
	Blocked    [4]bool // public ACLs refused and ignored, public policies refused and restricted
	Algorithm  string
	Key        string
	BucketKey  bool
	Versioning string
	Rule       string
	RuleStatus string
	AbortAfter int // days
	Role, Path string
	PolicyName string
	// The policies as JSON, compact and in the order of their keys.
	Trust, Permissions string
}

// compact is a document in one form, whatever it looked like.
func compact(t *testing.T, document any) string {
	t.Helper()
	if text, ok := document.(string); ok {
		if err := json.Unmarshal([]byte(text), &document); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
	}
	b, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// stackSetup reads a CloudFormation template. Whatever it holds that is not named here is an error: each name is a
// property that AWS::S3::Bucket or AWS::IAM::Role has.
func stackSetup(t *testing.T, template string) setup {
	t.Helper()
	var stack struct {
		Version     string `yaml:"AWSTemplateFormatVersion"`
		Description string `yaml:"Description"`
		Resources   struct {
			Bucket struct {
				Type                string `yaml:"Type"`
				DeletionPolicy      string `yaml:"DeletionPolicy"`
				UpdateReplacePolicy string `yaml:"UpdateReplacePolicy"`
				Properties          struct {
					BucketName                     string `yaml:"BucketName"`
					PublicAccessBlockConfiguration struct {
						BlockPublicAcls       bool `yaml:"BlockPublicAcls"`
						IgnorePublicAcls      bool `yaml:"IgnorePublicAcls"`
						BlockPublicPolicy     bool `yaml:"BlockPublicPolicy"`
						RestrictPublicBuckets bool `yaml:"RestrictPublicBuckets"`
					} `yaml:"PublicAccessBlockConfiguration"`
					BucketEncryption struct {
						ServerSideEncryptionConfiguration []struct {
							BucketKeyEnabled              bool `yaml:"BucketKeyEnabled"`
							ServerSideEncryptionByDefault struct {
								SSEAlgorithm   string `yaml:"SSEAlgorithm"`
								KMSMasterKeyID string `yaml:"KMSMasterKeyID"`
							} `yaml:"ServerSideEncryptionByDefault"`
						} `yaml:"ServerSideEncryptionConfiguration"`
					} `yaml:"BucketEncryption"`
					VersioningConfiguration struct {
						Status string `yaml:"Status"`
					} `yaml:"VersioningConfiguration"`
					LifecycleConfiguration struct {
						Rules []struct {
							ID                             string `yaml:"Id"`
							Status                         string `yaml:"Status"`
							AbortIncompleteMultipartUpload struct {
								DaysAfterInitiation int `yaml:"DaysAfterInitiation"`
							} `yaml:"AbortIncompleteMultipartUpload"`
						} `yaml:"Rules"`
					} `yaml:"LifecycleConfiguration"`
				} `yaml:"Properties"`
			} `yaml:"Bucket"`
			Role struct {
				Type       string `yaml:"Type"`
				Properties struct {
					RoleName                 string `yaml:"RoleName"`
					Path                     string `yaml:"Path"`
					AssumeRolePolicyDocument any    `yaml:"AssumeRolePolicyDocument"`
					Policies                 []struct {
						PolicyName     string `yaml:"PolicyName"`
						PolicyDocument any    `yaml:"PolicyDocument"`
					} `yaml:"Policies"`
				} `yaml:"Properties"`
			} `yaml:"Role"`
		} `yaml:"Resources"`
		Outputs map[string]struct {
			Value yaml.Node `yaml:"Value"`
		} `yaml:"Outputs"`
	}
	d := yaml.NewDecoder(strings.NewReader(template))
	d.KnownFields(true)
	if err := d.Decode(&stack); err != nil {
		t.Fatal(err)
	}
	b, r := stack.Resources.Bucket, stack.Resources.Role
	if stack.Version != "2010-09-09" || b.Type != "AWS::S3::Bucket" || r.Type != "AWS::IAM::Role" || b.DeletionPolicy != "Retain" || b.UpdateReplacePolicy != "Retain" {
		t.Errorf("the stack is %+v", stack)
	}
	for name, want := range map[string]string{"Bucket": "!Ref Bucket", "Region": "!Ref AWS::Region", "RoleARN": "!GetAtt Role.Arn"} {
		if v := stack.Outputs[name].Value; v.Tag+" "+v.Value != want {
			t.Errorf("output %s is %s %s, want %s", name, v.Tag, v.Value, want)
		}
	}
	p := b.Properties
	if len(p.BucketEncryption.ServerSideEncryptionConfiguration) != 1 || len(p.LifecycleConfiguration.Rules) != 1 || len(r.Properties.Policies) != 1 {
		t.Fatalf("one rule of each kind, and one policy: %+v", stack)
	}
	block, rule := p.PublicAccessBlockConfiguration, p.LifecycleConfiguration.Rules[0]
	sse, policy := p.BucketEncryption.ServerSideEncryptionConfiguration[0], r.Properties.Policies[0]
	return setup{
		Bucket: p.BucketName, Blocked: [4]bool{block.BlockPublicAcls, block.IgnorePublicAcls, block.BlockPublicPolicy, block.RestrictPublicBuckets},
		Algorithm: sse.ServerSideEncryptionByDefault.SSEAlgorithm, Key: sse.ServerSideEncryptionByDefault.KMSMasterKeyID, BucketKey: sse.BucketKeyEnabled,
		Versioning: p.VersioningConfiguration.Status,
		Rule:       rule.ID, RuleStatus: rule.Status, AbortAfter: rule.AbortIncompleteMultipartUpload.DaysAfterInitiation,
		Role: r.Properties.RoleName, Path: r.Properties.Path, PolicyName: policy.PolicyName,
		Trust: compact(t, r.Properties.AssumeRolePolicyDocument), Permissions: compact(t, policy.PolicyDocument),
	}
}

// module is a Terraform module, evaluated.
type module struct {
	t       *testing.T
	context *hcl.EvalContext
	values  map[string]cty.Value // by "type.name.block.attribute"
}

// moduleSetup reads a Terraform module as terraform does. Whatever it holds that is not named here is an error.
func moduleSetup(t *testing.T, text, region, account string) (s setup) {
	t.Helper()
	file, diagnostics := hclsyntax.ParseConfig([]byte(text), "main.tf", hcl.InitialPos)
	if diagnostics.HasErrors() {
		t.Fatal(diagnostics)
	}
	object := func(name string, attributes ...string) cty.Value {
		o := map[string]cty.Value{}
		for _, a := range attributes {
			o[a] = cty.StringVal("the " + a + " of " + name)
		}
		return cty.ObjectVal(map[string]cty.Value{name: cty.ObjectVal(o)})
	}
	m := &module{t: t, values: map[string]cty.Value{}, context: &hcl.EvalContext{
		Functions: map[string]function.Function{"jsonencode": stdlib.JSONEncodeFunc},
		Variables: map[string]cty.Value{
			"aws_s3_bucket":            object("snapshots", "id"),
			"aws_s3_bucket_versioning": object("snapshots", "id"),
			"aws_iam_role":             object("delivery", "id", "arn"),
		},
	}}
	m.read("", file.Body.(*hclsyntax.Body))

	const block, sse, rule = "aws_s3_bucket_public_access_block.snapshots.", "aws_s3_bucket_server_side_encryption_configuration.snapshots.", "aws_s3_bucket_lifecycle_configuration.snapshots."
	for _, of := range []string{block, sse, rule, "aws_s3_bucket_versioning.snapshots."} {
		m.is(of+"bucket", "the id of snapshots")
	}
	m.is("aws_iam_role_policy.delivery.role", "the id of delivery")
	m.is("output.bucket.value", "the id of snapshots")
	m.is("output.region.value", region)
	m.is("output.role_arn.value", "the arn of delivery")
	m.is("provider.aws.region", region)
	m.is("terraform.required_version", ">= 1.3")
	if allowed := m.take("provider.aws.allowed_account_ids"); allowed.LengthInt() != 1 || allowed.Index(cty.Zero).AsString() != account {
		t.Errorf("the module runs for %v, want account %s", allowed, account)
	}
	if from := m.take("terraform.required_providers.aws"); from.GetAttr("source").AsString() != "hashicorp/aws" || from.GetAttr("version").AsString() != ">= 5.0" {
		t.Errorf("the provider is %v", from)
	}
	m.take(rule + "depends_on")

	for field, name := range map[any]string{
		&s.Bucket:     "aws_s3_bucket.snapshots.bucket",
		&s.Blocked[0]: block + "block_public_acls", &s.Blocked[1]: block + "ignore_public_acls",
		&s.Blocked[2]: block + "block_public_policy", &s.Blocked[3]: block + "restrict_public_buckets",
		&s.Algorithm:  sse + "rule.apply_server_side_encryption_by_default.sse_algorithm",
		&s.Versioning: "aws_s3_bucket_versioning.snapshots.versioning_configuration.status",
		&s.Rule:       rule + "rule.id", &s.RuleStatus: rule + "rule.status", &s.AbortAfter: rule + "rule.abort_incomplete_multipart_upload.days_after_initiation",
		&s.Role: "aws_iam_role.delivery.name", &s.Path: "aws_iam_role.delivery.path", &s.Trust: "aws_iam_role.delivery.assume_role_policy",
		&s.PolicyName: "aws_iam_role_policy.delivery.name", &s.Permissions: "aws_iam_role_policy.delivery.policy",
	} {
		if err := gocty.FromCtyValue(m.take(name), field); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if s.Algorithm == "aws:kms" {
		for field, name := range map[any]string{
			&s.Key: sse + "rule.apply_server_side_encryption_by_default.kms_master_key_id", &s.BucketKey: sse + "rule.bucket_key_enabled",
		} {
			if err := gocty.FromCtyValue(m.take(name), field); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	for name, v := range m.values {
		t.Errorf("unexpected %s = %#v", name, v)
	}
	s.Trust, s.Permissions = compact(t, s.Trust), compact(t, s.Permissions)
	return s
}

// read evaluates every attribute. A resource is named without the word resource.
func (m *module) read(prefix string, body *hclsyntax.Body) {
	m.t.Helper()
	for name, attribute := range body.Attributes {
		v, diagnostics := attribute.Expr.Value(m.context)
		if diagnostics.HasErrors() {
			m.t.Fatal(diagnostics)
		}
		m.values[prefix+name] = v
	}
	for _, b := range body.Blocks {
		name := append([]string{b.Type}, b.Labels...)
		if b.Type == "resource" {
			name = b.Labels
		}
		m.read(prefix+strings.Join(name, ".")+".", b.Body)
	}
}

// take is an attribute that is then accounted for.
func (m *module) take(name string) cty.Value {
	m.t.Helper()
	v, ok := m.values[name]
	if !ok {
		m.t.Fatalf("the module has no %s", name)
	}
	delete(m.values, name)
	return v
}

func (m *module) is(name, want string) {
	m.t.Helper()
	if v := m.take(name); v.AsString() != want {
		m.t.Errorf("%s is %#v, want %q", name, v, want)
	}
}

// madeSetup asks the emulator what is there.
func madeSetup(t *testing.T, cloud *bucket.Server, name, arn string) (s setup) {
	t.Helper()
	ctx, admin := t.Context(), cloud.Admin()
	block, err := admin.GetPublicAccessBlock(ctx, &s3.GetPublicAccessBlockInput{Bucket: &name})
	if err != nil {
		t.Fatal(err)
	}
	for i, b := range []*bool{
		block.PublicAccessBlockConfiguration.BlockPublicAcls, block.PublicAccessBlockConfiguration.IgnorePublicAcls,
		block.PublicAccessBlockConfiguration.BlockPublicPolicy, block.PublicAccessBlockConfiguration.RestrictPublicBuckets,
	} {
		s.Blocked[i] = aws.ToBool(b)
	}
	sse, err := admin.GetBucketEncryption(ctx, &s3.GetBucketEncryptionInput{Bucket: &name})
	if err != nil {
		t.Fatal(err)
	}
	encryption := sse.ServerSideEncryptionConfiguration.Rules[0]
	s.Algorithm = string(encryption.ApplyServerSideEncryptionByDefault.SSEAlgorithm)
	s.Key, s.BucketKey = aws.ToString(encryption.ApplyServerSideEncryptionByDefault.KMSMasterKeyID), aws.ToBool(encryption.BucketKeyEnabled)
	versioning, err := admin.GetBucketVersioning(ctx, &s3.GetBucketVersioningInput{Bucket: &name})
	if err != nil {
		t.Fatal(err)
	}
	s.Versioning = string(versioning.Status)
	lifecycle, err := admin.GetBucketLifecycleConfiguration(ctx, &s3.GetBucketLifecycleConfigurationInput{Bucket: &name})
	if err != nil {
		t.Fatal(err)
	}
	if len(lifecycle.Rules) != 1 {
		t.Fatalf("%d lifecycle rules", len(lifecycle.Rules))
	}
	rule := lifecycle.Rules[0]
	s.Rule, s.RuleStatus, s.AbortAfter = aws.ToString(rule.ID), string(rule.Status), int(aws.ToInt32(rule.AbortIncompleteMultipartUpload.DaysAfterInitiation))
	role, exists := cloud.Role(arn)
	if !exists {
		t.Fatalf("there is no %s", arn)
	}
	_, path, _ := strings.Cut(role.ARN, ":role")
	cut := strings.LastIndex(path, "/") + 1
	s.Bucket, s.Path, s.Role, s.PolicyName = name, path[:cut], path[cut:], role.PolicyName
	s.Trust, s.Permissions = compact(t, role.Trust), compact(t, role.Policy)
	return s
}
