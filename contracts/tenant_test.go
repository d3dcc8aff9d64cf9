package contracts_test

import (
	"path"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/snapfleet/snapfleet/contracts"
)

// tenantCase is a full tenant with one thing changed, and the word by which the error names it.
type tenantCase struct {
	name   string
	change func(*contracts.Tenant)
	names  string // empty: a good tenant
	beyond bool   // what is wrong is outside what the JSON Schema says
}

func (c tenantCase) tenant() contracts.Tenant {
	t := fullTenant()
	c.change(&t)
	return t
}

func tenantCases() []tenantCase {
	type T = contracts.Tenant
	return []tenantCase{
		{name: "full", change: func(*T) {}},
		{name: "schema with umlaut and quote", change: func(t *T) { t.Schema = `Müller "prod"` }},
		{name: "schema of 63 bytes", change: func(t *T) { t.Schema = strings.Repeat("s", 63) }},
		{name: "bucket with dots", change: func(t *T) { t.Destination.Bucket = "a.b-c.d" }},
		{name: "role in GovCloud", change: func(t *T) { t.Destination.RoleARN = "arn:aws-us-gov:iam::222222222222:role/r" }},
		{name: "no owner, no key, no endpoint", change: func(t *T) {
			t.Destination.Owner, t.Destination.KMSKeyARN, t.Destination.Endpoint = "", "", ""
		}},
		{name: "key alias", change: func(t *T) { t.Destination.KMSKeyARN = "arn:aws:kms:us-west-2:222222222222:alias/snap/shots" }},
		{name: "endpoint with slash", change: func(t *T) { t.Destination.Endpoint = "https://s3.example.com/" }},
		{name: "endpoint on loopback", change: func(t *T) { t.Destination.Endpoint = "http://127.0.0.1:7070" }},
		{name: "endpoint on IPv6 loopback", change: func(t *T) { t.Destination.Endpoint = "http://[::1]:7070" }},
		{name: "smallest volume", change: func(t *T) { t.Limits.VolumeBytes = 32 << 20 }},
		{name: "jsonl.gz", change: func(t *T) { t.Format = contracts.JSONL }},
		{name: "largest volume", change: func(t *T) { t.Limits.VolumeBytes = 1 << 40 }},

		{name: "no destination", change: func(t *T) { t.Destination = contracts.Destination{ExternalID: t.Destination.ExternalID} }},
		{name: "no destination, no external ID", change: func(t *T) { t.Destination = contracts.Destination{} }, names: "external ID"},
		{name: "a bucket alone", change: func(t *T) {
			t.Destination = contracts.Destination{Bucket: "acme", ExternalID: t.Destination.ExternalID}
		}, names: "region"},
		{name: "a region alone", change: func(t *T) {
			t.Destination = contracts.Destination{Region: "us-west-2", ExternalID: t.Destination.ExternalID}
		}, names: "bucket"},
		{name: "a role alone", change: func(t *T) {
			t.Destination = contracts.Destination{RoleARN: t.Destination.RoleARN, ExternalID: t.Destination.ExternalID}
		}, names: "bucket"},
		{name: "an owner of no bucket", change: func(t *T) {
			t.Destination = contracts.Destination{Owner: t.Destination.Owner, ExternalID: t.Destination.ExternalID}
		}, names: "owner"},
		{name: "a key for no bucket", change: func(t *T) {
			t.Destination = contracts.Destination{KMSKeyARN: t.Destination.KMSKeyARN, ExternalID: t.Destination.ExternalID}
		}, names: "KMS key ARN"},
		{name: "an endpoint of no bucket", change: func(t *T) {
			t.Destination = contracts.Destination{Endpoint: t.Destination.Endpoint, ExternalID: t.Destination.ExternalID}
		}, names: "endpoint"},

		{name: "version", change: func(t *T) { t.Version = 2 }, names: "version"},
		{name: "no name", change: func(t *T) { t.Name = "" }, names: "name"},
		{name: "name with slash", change: func(t *T) { t.Name = "a/b" }, names: "name"},
		{name: "name with dot", change: func(t *T) { t.Name = "a.b" }, names: "name"},
		{name: "name with line feed", change: func(t *T) { t.Name = "a\n" }, names: "name"},
		{name: "name too long", change: func(t *T) { t.Name = strings.Repeat("a", 64) }, names: "name"},
		{name: "no schema", change: func(t *T) { t.Schema = "" }, names: "schema"},
		{name: "schema of 64 bytes", change: func(t *T) { t.Schema = strings.Repeat("s", 64) }, names: "schema"},
		{name: "schema of 63 letters, 126 bytes", change: func(t *T) { t.Schema = strings.Repeat("ü", 63) }, names: "schema", beyond: true},
		{name: "schema with NUL", change: func(t *T) { t.Schema = "a\x00" }, names: "schema"},
		{name: "schema not UTF-8", change: func(t *T) { t.Schema = "a\xff" }, names: "schema", beyond: true},
		{name: "no bucket", change: func(t *T) { t.Destination.Bucket = "" }, names: "bucket"},
		{name: "bucket in capitals", change: func(t *T) { t.Destination.Bucket = "Acme" }, names: "bucket"},
		{name: "bucket with two dots", change: func(t *T) { t.Destination.Bucket = "a..b" }, names: "bucket"},
		{name: "bucket as URL", change: func(t *T) { t.Destination.Bucket = "s3://acme" }, names: "bucket"},
		{name: "no region", change: func(t *T) { t.Destination.Region = "" }, names: "region"},
		{name: "region in words", change: func(t *T) { t.Destination.Region = "US West (Oregon)" }, names: "region"},
		{name: "no role", change: func(t *T) { t.Destination.RoleARN = "" }, names: "role ARN"},
		{name: "role's name only", change: func(t *T) { t.Destination.RoleARN = "snapfleet-delivery" }, names: "role ARN"},
		{name: "a user", change: func(t *T) { t.Destination.RoleARN = "arn:aws:iam::222222222222:user/x" }, names: "role ARN"},
		{name: "role with space", change: func(t *T) { t.Destination.RoleARN += " " }, names: "role ARN"},
		{name: "no external ID", change: func(t *T) { t.Destination.ExternalID = "" }, names: "external ID"},
		{name: "external ID too short", change: func(t *T) { t.Destination.ExternalID = "secret" }, names: "external ID"},
		{name: "longest external ID", change: func(t *T) { t.Destination.ExternalID = strings.Repeat("x", 1224) }},
		{name: "external ID too long", change: func(t *T) { t.Destination.ExternalID = strings.Repeat("x", 1225) }, names: "external ID"},
		{name: "external ID with space", change: func(t *T) { t.Destination.ExternalID += " x" }, names: "external ID"},
		{name: "no rotation", change: func(t *T) { t.Destination.NextExternalID = "" }},
		{name: "next external ID too short", change: func(t *T) { t.Destination.NextExternalID = "secret" }, names: "next external ID"},
		{name: "next external ID is the present one", change: func(t *T) { t.Destination.NextExternalID = t.Destination.ExternalID }, names: "next external ID", beyond: true},
		{name: "default database", change: func(t *T) { t.Database = "" }},
		{name: "database as URL", change: func(t *T) { t.Database = "postgres://db" }, names: "database"},
		{name: "no filter", change: func(t *T) { t.Filter = contracts.Filter{} }},
		{name: "filters", change: func(t *T) { t.Filter.ExcludeTables = []string{"a*", "[b-d]?", "Ünits"} }},
		{name: "attachments since a day", change: func(t *T) { t.Filter.AttachmentsNewerThan = "2026-01-31" }},
		{name: "attachments since an instant", change: func(t *T) { t.Filter.AttachmentsNewerThan = "2026-01-31T10:00:00+02:00" }},
		{name: "empty pattern", change: func(t *T) { t.Filter.ExcludeTables = []string{""} }, names: "filter"},
		{name: "bad pattern", change: func(t *T) { t.Filter.ExcludeTables = []string{"a["} }, names: "filter", beyond: true},
		{name: "too many patterns", change: func(t *T) { t.Filter.ExcludeTables = slices.Repeat([]string{"a"}, 101) }, names: "filter"},
		{name: "attachments since yesterday", change: func(t *T) { t.Filter.AttachmentsNewerThan = "yesterday" }, names: "filter"},
		{name: "attachments of no days", change: func(t *T) { t.Filter.AttachmentsNewerThan = "0d" }, names: "filter"},
		{name: "attachments since no day", change: func(t *T) { t.Filter.AttachmentsNewerThan = "2026-02-30" }, names: "filter", beyond: true},
		{name: "owner", change: func(t *T) { t.Destination.Owner = "12345" }, names: "owner"},
		{name: "key's id only", change: func(t *T) { t.Destination.KMSKeyARN = "0d4c3f0e" }, names: "KMS key ARN"},
		{name: "endpoint without scheme", change: func(t *T) { t.Destination.Endpoint = "s3.example.com" }, names: "endpoint"},
		{name: "endpoint in clear", change: func(t *T) { t.Destination.Endpoint = "http://s3.example.com" }, names: "endpoint", beyond: true},
		{name: "endpoint that looks like loopback", change: func(t *T) { t.Destination.Endpoint = "http://127.0.0.1.example.com" }, names: "endpoint", beyond: true},
		{name: "endpoint with path", change: func(t *T) { t.Destination.Endpoint = "https://s3.example.com/x" }, names: "endpoint"},
		{name: "endpoint with query", change: func(t *T) { t.Destination.Endpoint = "https://s3.example.com?x" }, names: "endpoint"},
		{name: "endpoint with empty query", change: func(t *T) { t.Destination.Endpoint = "https://s3.example.com?" }, names: "endpoint"},
		{name: "endpoint with empty fragment", change: func(t *T) { t.Destination.Endpoint = "https://s3.example.com#" }, names: "endpoint"},
		{name: "endpoint with user", change: func(t *T) { t.Destination.Endpoint = "https://u:p@s3.example.com" }, names: "endpoint"},
		{name: "endpoint with port only", change: func(t *T) { t.Destination.Endpoint = "https://:443" }, names: "endpoint", beyond: true},
		{name: "endpoint on disk", change: func(t *T) { t.Destination.Endpoint = "file:///etc/passwd" }, names: "endpoint"},
		{name: "format", change: func(t *T) { t.Format = "xlsx" }, names: "format"},
		{name: "format without gz", change: func(t *T) { t.Format = "jsonl" }, names: "format"},
		{name: "no format", change: func(t *T) { t.Format = "" }, names: "format"},
		{name: "volume too small", change: func(t *T) { t.Limits.VolumeBytes = 32<<20 - 1 }, names: "volume_bytes"},
		{name: "volume too large", change: func(t *T) { t.Limits.VolumeBytes = 1<<40 + 1 }, names: "volume_bytes"},
		{name: "volume negative", change: func(t *T) { t.Limits.VolumeBytes = -1 }, names: "volume_bytes"},
		{name: "gaps", change: func(t *T) { t.Limits.Gaps = "ignore" }, names: "gaps"},
	}
}

func TestTenantValidate(t *testing.T) {
	t.Parallel()
	for _, c := range tenantCases() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			tenant := c.tenant()
			err := tenant.Validate()
			if c.names == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			rejection, ok := contracts.AsRejection(err)
			if !ok || rejection.Code != contracts.InvalidTenant {
				t.Fatalf("error is %v, want a rejection %s", err, contracts.InvalidTenant)
			}
			if what := rejection.Reason().What; !strings.Contains(what, ": "+c.names+" ") && !strings.Contains(what, ": "+c.names+": ") && !strings.Contains(what, "the "+c.names+" ") {
				t.Errorf("the error does not name %q: %s", c.names, what)
			}
			if id := tenant.Destination.ExternalID; id != "" && strings.Contains(err.Error(), id) {
				t.Error("the error shows the external ID")
			}
		})
	}
}

func TestTenantDefaults(t *testing.T) {
	t.Parallel()
	full := fullTenant()
	if !reflect.DeepEqual(full.WithDefaults(), full) {
		t.Error("defaults change a full record")
	}
	bare := contracts.Tenant{Name: "acme", Destination: contracts.Destination{
		Bucket: "bucket", Region: "eu-central-1", RoleARN: "arn:aws:iam::222222222222:role/r", ExternalID: full.Destination.ExternalID,
	}}.WithDefaults()
	if err := bare.Validate(); err != nil {
		t.Fatal(err)
	}
	if bare.Schema != "acme" || bare.Format != contracts.CSV || bare.Limits.VolumeBytes != 50<<30 || bare.Limits.Gaps != contracts.DeliverGaps {
		t.Errorf("defaults are %+v", bare)
	}
}

func TestDestinationAccount(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ role, owner, want string }{
		{"arn:aws:iam::222222222222:role/r", "", "222222222222"},
		{"arn:aws:iam::222222222222:role/r", "333333333333", "333333333333"},
		{"nonsense", "", ""},
	} {
		if got := (contracts.Destination{RoleARN: c.role, Owner: c.owner}).Account(); got != c.want {
			t.Errorf("account of %q, %q is %q", c.role, c.owner, got)
		}
	}
}

// TestPatterns: a pattern means every character of a table's name.
func TestPatterns(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"audit_*", "audit_2024/q1", true},
		{"audit_*", "audit_", true},
		{"*", "", true},
		{"*", "a/b\nc", true},
		{"?", "/", true},
		{"a?b", "a/b", true},
		{"[!-9]", "/", true},
		{"[^a]", "/", true},
		{"[^a-c]x", "bx", false},
		{"[^a-c]x", "dx", true},
		{"*a*b*c", "xxaxxbxxcc", true},
		{"*a*b*c", "xxaxxbxxcd", false},
		{"**", "anything", true},
		{"a*", "ba", false},
		{`a\*`, "a*", true},
		{`a\*`, "ab", false},
		{`\[x\]`, "[x]", true},
		{`one,two`, "one,two", true},
		{`[\]a]`, "]", true},
		{"größe_?", "größe_é", true},
		{"a?", "a\xff", true},
		{"A*", "a", false},
		{"", "", false},
		{"[", "[", false},
		{"[]", "]", false},
		{"[a", "a", false},
		{"[a-]", "a", false},
		{"[-a]", "a", false},
		{`a\`, "a", false},
		{"\xff", "\xff", false},
	} {
		p, err := contracts.ParsePattern(c.pattern)
		if got := err == nil && p.Match(c.name); got != c.want {
			t.Errorf("%q matches %q: %t, %v", c.pattern, c.name, got, err)
		}
		if got := (contracts.Filter{ExcludeTables: []string{c.pattern}}).Excludes(c.name); got != c.want {
			t.Errorf("%q excludes %q: %t", c.pattern, c.name, got)
		}
	}
}

// FuzzPatterns: where no slash is, a pattern means what it means to path.Match.
func FuzzPatterns(f *testing.F) {
	for _, seed := range [][2]string{{"audit_*", "audit_log"}, {"[^a-c]?*", "dxy"}, {`\*[\]]`, "*]"}, {"*a*b", "xaxb"}, {"[]a]", "a"}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, pattern, name string) {
		p, err := contracts.ParsePattern(pattern)
		want, bad := path.Match(pattern, name)
		if strings.Contains(pattern+name, "/") || pattern == "" || !utf8.ValidString(pattern) || !utf8.ValidString(name) {
			return
		}
		if err != nil {
			if want && bad == nil {
				t.Fatalf("%q is refused, and matches %q", pattern, name)
			}
			return
		}
		if got := p.Match(name); bad == nil && got != want {
			t.Fatalf("%q matches %q: %t", pattern, name, got)
		}
	})
}

func TestFilter(t *testing.T) {
	t.Parallel()
	f := contracts.Filter{ExcludeTables: []string{"audit_*", "[st]taging", "part?"}}
	for table, want := range map[string]bool{
		"audit_2026": true, "audit_": true, "Audit_2026": false, "my_audit_1": false,
		"staging": true, "xtaging": false, "parts": true, "part": false, "": false,
	} {
		if got := f.Excludes(table); got != want {
			t.Errorf("%q is excluded: %t", table, got)
		}
	}
	at := time.Date(2026, 3, 31, 12, 0, 0, 0, time.UTC)
	for since, want := range map[string]time.Time{
		"": {}, "90d": at.AddDate(0, 0, -90), "1d": at.AddDate(0, 0, -1),
		"2026-01-31": time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC), "2026-01-31T10:00:00+02:00": time.Date(2026, 1, 31, 8, 0, 0, 0, time.UTC),
	} {
		got, err := contracts.Filter{AttachmentsNewerThan: since}.AttachmentsSince(at)
		if err != nil || !got.Equal(want) {
			t.Errorf("newer than %q is since %v, want %v: %v", since, got, want, err)
		}
	}
}
