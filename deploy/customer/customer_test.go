package customer

import (
	"encoding/json"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"gopkg.in/yaml.v3"

	"github.com/snapfleet/snapfleet/contracts"
)

var update = flag.Bool("update", false, "write the examples in this folder")

// example is the customer of the page.
var example = Values{
	Tenant: "acme", Account: "111111111111", ExternalIDs: []string{"YOUR-EXTERNAL-ID-FROM-US"},
	Bucket: "acme-snapshots", Region: "us-west-2", CustomerAccount: "222222222222",
}

// withKey is the same one, with a KMS key.
func withKey() Values {
	v := example
	v.KMSKeyARN = "arn:aws:kms:us-west-2:222222222222:key/YOUR-KEY-ID"
	return v
}

func render(t *testing.T, d Document, v Values) string {
	t.Helper()
	text, err := d.Render(v)
	if err != nil {
		t.Fatalf("%s: %v", d, err)
	}
	return text
}

// TestExamples compares the files beside the page with what the templates say, and the folder with the files.
func TestExamples(t *testing.T) {
	want := map[string]string{}
	for _, d := range Documents {
		if d != Key {
			want[d.File()] = render(t, d, example)
			if d != Trust {
				want[filepath.Join("with-kms-key", d.File())] = render(t, d, withKey())
			}
		}
	}
	want[Key.File()] = render(t, Key, withKey())
	for name, text := range want {
		if *update {
			if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if have, err := os.ReadFile(name); err != nil || string(have) != text {
			t.Errorf("%s is not what the templates say; make generate writes it (%v)", name, err)
		}
	}
	for _, pattern := range []string{"*", "with-kms-key/*"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if _, ok := want[name]; !ok && !slices.Contains([]string{"README.md", "templates", "with-kms-key"}, name) && filepath.Ext(name) != ".go" {
				t.Errorf("%s belongs to nothing", name)
			}
		}
	}
}

func TestEveryTemplateIsADocument(t *testing.T) {
	t.Parallel()
	var known []string
	for d, file := range files {
		known = append(known, "templates/"+file+".tmpl")
		if d != KeyPermission && !slices.Contains(Documents, d) {
			t.Errorf("%s is not listed", d)
		}
	}
	names, err := fs.Glob(sources, "templates/*")
	if err != nil {
		t.Fatal(err)
	}
	if slices.Sort(known); !slices.Equal(names, known) {
		t.Errorf("templates %q, want %q", names, known)
	}
}

func TestTerraformIsFormatted(t *testing.T) {
	t.Parallel()
	alone := example
	alone.CustomerAccount = ""
	rotated := withKey()
	rotated.ExternalIDs = []string{"0123456789abcdefghijkl-old", "0123456789abcdefghijkl-new"}
	for name, v := range map[string]Values{"plain": example, "with a key, in a rotation": rotated, "without the customer's account": alone} {
		text := render(t, Terraform, v)
		if formatted := string(hclwrite.Format([]byte(text))); formatted != text {
			t.Errorf("%s: terraform fmt would make of it:\n%s", name, formatted)
		}
	}
}

func TestNothingOfAValueBreaksOutOfADocument(t *testing.T) {
	t.Parallel()
	hostile := []string{
		`"`, `'`, "`", `\`, "\n", "\r", "\x00", "$(id)", "${var.x}", "%{ if true }", "{{.Account}}", "$HOME", ";id", "&id", "|id",
		"*", "a b", "# x", ": x", "- x", "!Ref X", "ä", "\u2028", "<script>", `","Effect":"Deny`, "' ; rm -rf / #", "x\nResources: {}",
	}
	set := map[string]func(*Values, string){
		"Tenant":     func(v *Values, s string) { v.Tenant = "acme" + s },
		"Account":    func(v *Values, s string) { v.Account = "111111111111" + s },
		"ExternalID": func(v *Values, s string) { v.ExternalIDs = []string{"0123456789abcdefghijkl" + s} },
		"NextExternalID": func(v *Values, s string) {
			v.ExternalIDs = append(slices.Clone(v.ExternalIDs), "0123456789abcdefghijkl"+s)
		},
		"Bucket":          func(v *Values, s string) { v.Bucket = "acme" + s + "snapshots" },
		"Region":          func(v *Values, s string) { v.Region = "us-west-2" + s },
		"CustomerAccount": func(v *Values, s string) { v.CustomerAccount = "222222222222" + s },
		"RoleName":        func(v *Values, s string) { v.RoleName = "snapfleet" + s },
		"Path":            func(v *Values, s string) { v.Path = "/a" + s + "/" },
		"KMSKeyARN":       func(v *Values, s string) { v.KMSKeyARN += s },
	}
	for field, set := range set {
		for _, s := range hostile {
			for _, d := range Documents {
				v := withKey()
				set(&v, s)
				if text, err := d.Render(v); err == nil || text != "" {
					t.Errorf("%s with %q comes into %s:\n%s", field, s, d, text)
				}
			}
		}
	}
}

func TestValuesThatCannotBeMeantAreRefused(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(*Values)
		want   string
	}{
		"no tenant":                     {func(v *Values) { v.Tenant = "" }, `name "" is not`},
		"an account of 11 digits":       {func(v *Values) { v.Account = "11111111111" }, "our account"},
		"the same external ID twice":    {func(v *Values) { v.ExternalIDs = append(v.ExternalIDs, v.ExternalIDs[0]) }, "the next external ID is not another one"},
		"three external IDs":            {func(v *Values) { v.ExternalIDs = []string{"a", "b", "c"} }, "more than two"},
		"a short external ID":           {func(v *Values) { v.ExternalIDs = []string{"short"} }, "the external ID is not 22"},
		"a key's alias":                 {func(v *Values) { v.KMSKeyARN = "arn:aws:kms:us-west-2:222222222222:alias/mine" }, "is an alias"},
		"a key of another region":       {func(v *Values) { v.KMSKeyARN = "arn:aws:kms:eu-west-1:222222222222:key/K" }, "is not in the bucket's region"},
		"a role that looks like a flag": {func(v *Values) { v.RoleName = "-role" }, "role name"},
		"a role of 65":                  {func(v *Values) { v.RoleName = strings.Repeat("r", 65) }, "role name"},
		"a path without an end":         {func(v *Values) { v.Path = "/a" }, "role path"},
	} {
		v := withKey()
		tc.change(&v)
		for _, d := range Documents {
			if _, err := d.Render(v); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s: %s: error %v, want %q", name, d, err, tc.want)
			}
		}
	}
	if _, err := Document("kustomize").Render(example); err == nil {
		t.Error("a document that nobody knows is written")
	}
}

func TestWhatADocumentNeedsIsNamed(t *testing.T) {
	t.Parallel()
	for d, want := range map[Document][]string{
		Trust:          {"Account", "ExternalIDs"},
		Permissions:    {"Bucket"},
		Key:            {"CustomerAccount", "KMSKeyARN"},
		CloudFormation: {"Account", "ExternalIDs", "Bucket", "Region"},
		Terraform:      {"Account", "ExternalIDs", "Bucket", "Region"},
		AWSCLI:         {"Account", "ExternalIDs", "Bucket", "Region"},
	} {
		_, err := d.Render(Values{Tenant: "acme"})
		if got := d.Needs(Values{Tenant: "acme"}); !slices.Equal(got, want) || err == nil || !strings.Contains(err.Error(), strings.Join(want, ", ")) {
			t.Errorf("%s needs %q (%v), want %q", d, got, err, want)
		}
		if got := d.Needs(withKey()); len(got) > 0 {
			t.Errorf("%s: with everything there, it needs %q", d, got)
		}
	}
}

func TestTheRegionDecidesThePartition(t *testing.T) {
	t.Parallel()
	for region, partition := range map[string]string{"eu-central-1": "aws", "cn-north-1": "aws-cn", "us-gov-west-1": "aws-us-gov", "us-east-1": "aws", "eusc-de-east-1": "aws-eusc"} {
		v := example
		v.Region = region
		if text := render(t, Trust, v); !strings.Contains(text, `"arn:`+partition+`:iam::111111111111:root"`) {
			t.Errorf("%s: %s", region, text)
		}
		if text := render(t, Permissions, v); !strings.Contains(text, `"arn:`+partition+`:s3:::acme-snapshots/*"`) {
			t.Errorf("%s: %s", region, text)
		}
	}
}

// harmless is all that may come into a document.
var harmless = regexp.MustCompile(`^[A-Za-z0-9+=,.@:/_-]*$`)

// Whatever is not refused stands in every document as it is, and as nothing more.
func FuzzRender(f *testing.F) {
	f.Add("acme", "111111111111", "YOUR-EXTERNAL-ID-FROM-US", "", "acme-snapshots", "us-west-2", "222222222222", "snapfleet-delivery", "/", "")
	f.Add("a_B-9", "000000000000", "0123456789012345678901=,.@:/-+", "x123456789012345678901", "a.b-c", "cn-north-1", "", "a+=,.@_-", "/a/b@c/", "arn:aws-cn:kms:cn-north-1:222222222222:key/K/_-")
	f.Fuzz(func(t *testing.T, tenant, account, id, next, bucket, region, theirs, role, path, key string) {
		v := Values{
			Tenant: tenant, Account: account, ExternalIDs: []string{id}, Bucket: bucket, Region: region,
			CustomerAccount: theirs, RoleName: role, Path: path, KMSKeyARN: key,
		}
		if next != "" {
			v.ExternalIDs = append(v.ExternalIDs, next)
		}
		trust, err := Trust.Render(v)
		if err != nil {
			return
		}
		for _, s := range []string{tenant, account, id, next, bucket, region, theirs, role, path, key} {
			if !harmless.MatchString(s) || strings.HasPrefix(s, "-") {
				t.Errorf("%q is let in", s)
			}
		}
		var policies struct{ trust, permissions any }
		if err := json.Unmarshal([]byte(trust), &policies.trust); err != nil {
			t.Errorf("%v:\n%s", err, trust)
		}
		condition := policies.trust.(map[string]any)["Statement"].([]any)[0].(map[string]any)["Condition"].(map[string]any)["StringEquals"].(map[string]any)["sts:ExternalId"]
		var want any = id
		if next != "" {
			want = []any{id, next}
		}
		if !reflect.DeepEqual(condition, want) {
			t.Errorf("the trust policy accepts %v, want %v", condition, want)
		}
		if len(Permissions.Needs(v)) > 0 || len(CloudFormation.Needs(v)) > 0 {
			return
		}
		if err := json.Unmarshal([]byte(render(t, Permissions, v)), &policies.permissions); err != nil {
			t.Error(err)
		}
		var stack struct {
			Resources map[string]struct {
				Properties map[string]any `yaml:"Properties"`
			} `yaml:"Resources"`
		}
		if err := yaml.Unmarshal([]byte(render(t, CloudFormation, v)), &stack); err != nil {
			t.Fatal(err)
		}
		made := stack.Resources["Role"].Properties
		if made["RoleName"] != v.withDefaults().RoleName || stack.Resources["Bucket"].Properties["BucketName"] != bucket ||
			!reflect.DeepEqual(made["AssumeRolePolicyDocument"], policies.trust) ||
			!reflect.DeepEqual(made["Policies"].([]any)[0].(map[string]any)["PolicyDocument"], policies.permissions) {
			t.Errorf("CloudFormation makes %v", stack)
		}
		module := []byte(render(t, Terraform, v))
		if _, diagnostics := hclsyntax.ParseConfig(module, "main.tf", hcl.InitialPos); diagnostics.HasErrors() {
			t.Error(diagnostics)
		}
		if !slices.Equal(hclwrite.Format(module), module) {
			t.Errorf("Terraform is not formatted:\n%s", module)
		}
		render(t, AWSCLI, v)
	})
}

func TestARefusedValueIsARejectionOfTheRecord(t *testing.T) {
	t.Parallel()
	v := example
	v.Bucket = "No_Bucket"
	_, err := Permissions.Render(v)
	if r, ok := contracts.AsRejection(err); !ok || r.Code != contracts.InvalidTenant {
		t.Errorf("got %v", err)
	}
}
