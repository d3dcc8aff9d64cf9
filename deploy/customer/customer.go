// Package customer makes what a customer sets up in their own AWS account: the role's trust policy and permission
// policy, the statement for a key's policy, and the whole of it, with the bucket, for CloudFormation, Terraform and the
// AWS CLI. Whatever anybody prints, or finds in this folder, is made from the templates here.
package customer

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"text/template"

	"github.com/snapfleet/snapfleet/contracts"
)

// Document is one of the texts.
type Document string

// The documents.
const (
	// Trust is the role's trust policy: our account, and only with the external ID.
	Trust Document = "trust"
	// Permissions is the role's permission policy: seven actions on the bucket, and two on the key.
	Permissions Document = "permissions"
	// Key is a statement for the KMS key's own policy.
	Key Document = "key"
	// CloudFormation, Terraform and AWSCLI create the bucket, the role and its policies. They create the same.
	CloudFormation Document = "cloudformation"
	Terraform      Document = "terraform"
	AWSCLI         Document = "aws-cli"
)

// KeyPermission is the statement that a key adds to Permissions, for a role that is there already.
const KeyPermission Document = "kms"

// Documents are all that stand for themselves, in the order in which a person reads them.
var Documents = []Document{Trust, Permissions, Key, CloudFormation, Terraform, AWSCLI}

// files are what documents are called where they are kept.
var files = map[Document]string{
	Trust: "trust.json", Permissions: "permissions.json", Key: "key.json", KeyPermission: "kms.json",
	CloudFormation: "cloudformation.yaml", Terraform: "main.tf", AWSCLI: "aws-cli.sh",
}

// File is the name of the file that holds the document.
func (d Document) File() string { return files[d] }

// Policy reports whether the document is JSON for IAM or KMS.
func (d Document) Policy() bool { return strings.HasSuffix(files[d], ".json") }

// NeedsAccount reports whether the document names our account.
func (d Document) NeedsAccount() bool { return d == Trust || !d.Policy() }

// Values are what differs between one customer and another. What a document does not need may be empty.
type Values struct {
	// Tenant is the customer's name with us. Required.
	Tenant string
	// Account is ours, 12 digits.
	Account string
	// ExternalIDs are what the role accepts: one, and during a rotation two.
	ExternalIDs []string
	// Bucket and Region are the bucket's.
	Bucket, Region string
	// CustomerAccount is the one that role and bucket are in, 12 digits. Empty: the templates do not check whose
	// credentials they run with.
	CustomerAccount string
	// RoleName is the name of the role. Empty: [DefaultRoleName].
	RoleName string
	// Path is where the role is in its account: "/", or "/a/path/". Empty: "/".
	Path string
	// KMSKeyARN is the key that the bucket encrypts with. Empty: S3's own.
	KMSKeyARN string
}

// DefaultRoleName is what we call a role that nobody has named.
const DefaultRoleName = "snapfleet-delivery"

//go:embed templates
var sources embed.FS

// Needs says which values the document cannot do without, and v does not have, by the names of Values' fields.
func (d Document) Needs(v Values) (missing []string) {
	need := func(field string, there bool) {
		if !there {
			missing = append(missing, field)
		}
	}
	if d.NeedsAccount() {
		need("Account", v.Account != "")
		need("ExternalIDs", len(v.ExternalIDs) > 0)
	}
	if d == Permissions || !d.Policy() {
		need("Bucket", v.Bucket != "")
	}
	if !d.Policy() {
		need("Region", v.Region != "")
	}
	if d == Key {
		need("CustomerAccount", v.CustomerAccount != "")
	}
	if d == Key || d == KeyPermission {
		need("KMSKeyARN", v.KMSKeyARN != "")
	}
	return missing
}

// Render writes a document. Values that are not what they should be are refused, all of them and whatever the document
// needs: nothing but letters, digits and a few signs that mean nothing in JSON, YAML, HCL or a shell comes into a text.
func (d Document) Render(v Values) (string, error) {
	if files[d] == "" {
		return "", fmt.Errorf("there is no document %.80q", string(d))
	}
	v = v.withDefaults()
	if err := v.validate(); err != nil {
		return "", err
	}
	if missing := d.Needs(v); len(missing) > 0 {
		return "", fmt.Errorf("%s: not given: %s", d.File(), strings.Join(missing, ", "))
	}
	return d.execute(v)
}

// execute fills the template in; it may ask for other documents.
func (d Document) execute(v Values) (string, error) {
	document := func(name string) (string, error) { return Document(name).execute(v) }
	t, err := template.New(d.File()+".tmpl").Option("missingkey=error").Funcs(template.FuncMap{
		"quote": quote, "indent": indent, "hcl": asHCL, "trim": strings.TrimSpace, "document": document,
	}).ParseFS(sources, "templates/"+d.File()+".tmpl")
	if err != nil {
		return "", fmt.Errorf("template of %s: %w", d.File(), err)
	}
	var b bytes.Buffer
	if err := t.Execute(&b, v); err != nil {
		return "", fmt.Errorf("fill in %s: %w", d.File(), err)
	}
	return b.String(), nil
}

// quote writes a string of JSON, which is one of YAML and of HCL, too, where nothing in it means more there; validate
// sees to that.
func quote(s string) (string, error) {
	b, err := json.Marshal(s)
	return string(b), err
}

// indent moves a text to the right.
func indent(n int, text string) string {
	lead := strings.Repeat(" ", n)
	return lead + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n"+lead)
}

// asHCL is an object of JSON as Terraform formats it. No value holds a quotation mark.
func asHCL(n int, object string) string {
	return strings.TrimSpace(indent(n, strings.ReplaceAll(object, `": `, `" : `)))
}

// Principal is our account as policies name it.
func (v Values) Principal() string { return "arn:" + v.Partition() + ":iam::" + v.Account + ":root" }

// ExternalID is the external ID as a condition names it, or the list of both.
func (v Values) ExternalID() (string, error) {
	var list []string
	for _, id := range v.ExternalIDs {
		q, err := quote(id)
		if err != nil {
			return "", err
		}
		list = append(list, q)
	}
	if len(list) == 1 {
		return list[0], nil
	}
	return "[" + strings.Join(list, ", ") + "]", nil
}

// BucketARN is the bucket as policies name it.
func (v Values) BucketARN() string { return "arn:" + v.Partition() + ":s3:::" + v.Bucket }

// RoleARN is the role as policies name it.
func (v Values) RoleARN() string {
	return "arn:" + v.Partition() + ":iam::" + v.CustomerAccount + ":role" + v.Path + v.RoleName
}

// Partition is the part of AWS that the region is in. Nobody reaches from one into another.
func (v Values) Partition() string {
	for prefix, partition := range map[string]string{"cn-": "aws-cn", "us-gov-": "aws-us-gov", "eusc-": "aws-eusc"} {
		if strings.HasPrefix(v.Region, prefix) {
			return partition
		}
	}
	return "aws"
}

func (v Values) withDefaults() Values {
	if v.RoleName == "" {
		v.RoleName = DefaultRoleName
	}
	if v.Path == "" {
		v.Path = "/"
	}
	return v
}

var (
	accountID = regexp.MustCompile(`^[0-9]{12}$`)
	roleName  = regexp.MustCompile(`^[A-Za-z0-9+=,.@_][A-Za-z0-9+=,.@_-]{0,63}$`) // as IAM has it, but for a leading -, which would be a flag
	rolePath  = regexp.MustCompile(`^/([A-Za-z0-9+=,.@_-]+/)*$`)
)

// validate holds what is given against what a tenant's record may hold, and against what IAM takes.
func (v Values) validate() error {
	switch {
	case v.Account != "" && !accountID.MatchString(v.Account):
		return fmt.Errorf("our account %.80q is not 12 digits", v.Account)
	case v.CustomerAccount != "" && !accountID.MatchString(v.CustomerAccount):
		return fmt.Errorf("the customer's account %.80q is not 12 digits", v.CustomerAccount)
	case !roleName.MatchString(v.RoleName):
		return fmt.Errorf("role name %.80q is not 1 to 64 of A-Z a-z 0-9 + = , . @ _ -", v.RoleName)
	case !rolePath.MatchString(v.Path) || len(v.Path) > 512:
		return fmt.Errorf("role path %.80q is not /, or /a/path/", v.Path)
	case len(v.ExternalIDs) > 2:
		return errors.New("more than two external IDs")
	case strings.Contains(v.KMSKeyARN, ":alias/"):
		return fmt.Errorf("KMS key %.200q is an alias, which no policy can name: it must be the ARN of the key", v.KMSKeyARN)
	}
	if key := strings.Split(v.KMSKeyARN, ":"); len(key) > 3 && v.Region != "" && key[3] != v.Region {
		return fmt.Errorf("KMS key %.200q is not in the bucket's region, %.80s", v.KMSKeyARN, v.Region)
	}
	return v.record().Validate()
}

// record is the tenant's record that would hold these values, with something harmless in place of what is not given.
func (v Values) record() contracts.Tenant {
	or := func(s, harmless string) string {
		if s == "" {
			return harmless
		}
		return s
	}
	v.CustomerAccount = or(v.CustomerAccount, "000000000000")
	d := contracts.Destination{
		Bucket: or(v.Bucket, "bucket"), Region: or(v.Region, "us-east-1"), RoleARN: v.RoleARN(),
		ExternalID: "0000000000000000000000", KMSKeyARN: v.KMSKeyARN,
	}
	if len(v.ExternalIDs) > 0 {
		d.ExternalID = v.ExternalIDs[0]
	}
	if len(v.ExternalIDs) > 1 {
		d.NextExternalID = v.ExternalIDs[1]
	}
	return contracts.Tenant{Name: v.Tenant, Destination: d}.WithDefaults()
}
