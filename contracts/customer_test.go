package contracts_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/snapfleet/snapfleet/contracts"
	templates "github.com/snapfleet/snapfleet/deploy/customer"
)

var update = flag.Bool("update", false, "write the generated parts of the customer's page")

const customerPage = "../deploy/customer/README.md"

// policyBlock is a policy on the customer's page: its name, and the text.
var policyBlock = regexp.MustCompile("(?s)<!-- policy: ([a-z]+) -->\n```json\n(.*?)```")

// TestCustomerPage compares the customer's troubleshooting table with the advice that rejections give, and the policies
// with what `snapfleet policy` prints for the customer of the page.
func TestCustomerPage(t *testing.T) {
	const begin, end = "<!-- troubleshooting:begin -->\n", "<!-- troubleshooting:end -->\n"
	data, err := os.ReadFile(customerPage)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(data), begin)
	_, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		t.Fatalf("%s has no markers %s%s", customerPage, begin, end)
	}
	want := policies(t, before) + begin + troubleshooting() + end + policies(t, after)
	if *update {
		if err := os.WriteFile(customerPage, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if want != string(data) {
		t.Errorf("%s is not what the codes say; make generate writes it", customerPage)
	}
}

// policies is the page with every policy as the templates have it.
func policies(t *testing.T, page string) string {
	t.Helper()
	return policyBlock.ReplaceAllStringFunc(page, func(block string) string {
		document := templates.Document(policyBlock.FindStringSubmatch(block)[1])
		v := templates.Values{
			Tenant: "acme", Account: "111111111111", ExternalIDs: []string{"YOUR-EXTERNAL-ID-FROM-US"},
			Bucket: "acme-snapshots", Region: "us-west-2", CustomerAccount: "222222222222",
		}
		switch document {
		case templates.Key, templates.KeyPermission:
			v.KMSKeyARN = "arn:aws:kms:us-west-2:222222222222:key/YOUR-KEY-ID"
		case "rotation":
			document, v.ExternalIDs = templates.Trust, []string{"YOUR-EXTERNAL-ID-FROM-US", "YOUR-NEXT-EXTERNAL-ID-FROM-US"}
		}
		text, err := document.Render(v)
		if err != nil {
			t.Fatal(err)
		}
		return block[:strings.Index(block, "{")] + text + "```"
	})
}

func troubleshooting() string {
	var b strings.Builder
	b.WriteString("| Code | Likely cause | What to do |\n|---|---|---|\n")
	cell := strings.NewReplacer("<", `\<`, "*", `\*`).Replace
	for _, code := range contracts.Codes() {
		if a := code.Advice(); a.Customer {
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", code, cell(sentence(a.Cause)), cell(sentence(a.Fix)))
		}
	}
	return b.String()
}

func sentence(s string) string { return strings.ToUpper(s[:1]) + s[1:] + "." }

// TestCustomerPolicies reads the policies that customers copy, and holds them against what was agreed:
// these actions and no others, and never without the external ID.
func TestCustomerPolicies(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(customerPage)
	if err != nil {
		t.Fatal(err)
	}
	type statement struct {
		Effect    string
		Principal struct{ AWS string }
		Action    any
		Resource  string
		Condition map[string]map[string]any
	}
	statements := map[string][]statement{}
	for _, m := range policyBlock.FindAllStringSubmatch(string(page), -1) {
		var p struct {
			Version   string
			Statement []statement
		}
		body := m[2]
		if !strings.Contains(body, `"Statement"`) { // one to be added
			body = `{"Version": "2012-10-17", "Statement": [` + body + `]}`
		}
		if err := json.Unmarshal([]byte(body), &p); err != nil {
			t.Fatalf("policy %s: %v", m[1], err)
		}
		if p.Version != "2012-10-17" {
			t.Errorf("policy %s has version %q", m[1], p.Version)
		}
		statements[m[1]] = p.Statement
	}
	for name, want := range map[string][]string{
		"trust":    {"sts:AssumeRole"},
		"rotation": {"sts:AssumeRole"},
		"permissions": {
			"s3:AbortMultipartUpload", "s3:DeleteObject", "s3:GetObject", "s3:ListBucket", "s3:ListBucketMultipartUploads",
			"s3:ListMultipartUploadParts", "s3:PutObject",
		},
		"kms": {"kms:Decrypt", "kms:GenerateDataKey"},
		"key": {"kms:Decrypt", "kms:GenerateDataKey"},
	} {
		var got []string
		for _, s := range statements[name] {
			if s.Effect != "Allow" {
				t.Errorf("policy %s: effect is %q", name, s.Effect)
			}
			switch a := s.Action.(type) {
			case string:
				got = append(got, a)
			case []any:
				for _, v := range a {
					got = append(got, v.(string))
				}
			}
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("policy %s allows %q, want %q", name, got, want)
		}
	}
	for _, s := range slices.Concat(statements["trust"], statements["rotation"]) {
		if s.Condition["StringEquals"]["sts:ExternalId"] == nil || !strings.HasPrefix(s.Principal.AWS, "arn:aws:iam::") {
			t.Errorf("the trust policy lets in %q with %v", s.Principal.AWS, s.Condition)
		}
	}
}
