package uploader

import (
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/snapfleet/snapfleet/contracts"
	testbucket "github.com/snapfleet/snapfleet/test/bucket"
)

// everything is the policy of a role that may do everything.
const everything = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}`

// checks are the requests to the bucket that a check has sent.
func (c *customer) checks(operations ...string) []testbucket.Call {
	return slices.DeleteFunc(c.calls(operations...), func(call testbucket.Call) bool {
		return !strings.HasSuffix(call.Principal, ":assumed-role/"+c.role.ARN[strings.LastIndex(c.role.ARN, "/")+1:]+"/snapfleet-check")
	})
}

// The customer's page is enough: its two policies, with the bucket's name and the external ID filled in and nothing else.
func TestCheckNeedsNoMoreThanThePage(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	for _, m := range regexp.MustCompile("(?s)<!-- policy: (trust|permissions) -->\n```json\n(.*?)```").FindAllStringSubmatch(customersPage(t), -1) {
		filled := strings.NewReplacer("acme-snapshots", c.to().Bucket, "YOUR-EXTERNAL-ID-FROM-US", c.to().ExternalID).Replace(m[2])
		if filled == m[2] {
			t.Fatalf("nothing to fill in: %s", m[2])
		}
		if m[1] == "trust" {
			c.role.Trust = filled
		} else {
			c.role.Policy = filled
		}
	}
	if strings.Count(c.role.Policy, `"s3:`) != 7 || !strings.Contains(c.role.Trust, c.to().ExternalID) {
		t.Fatalf("these are not the page's: %s, %s", c.role.Policy, c.role.Trust)
	}
	if err := server.SetRole(c.role); err != nil {
		t.Fatal(err)
	}
	report := c.checked()
	c.sound(report)
	if report.Result() != contracts.CheckOK {
		t.Error(told(report))
	}
}

// Whatever a check does it does under names of its own, and could do nowhere else than in the tenant's folder, though the
// role may do everything. What it must not be able to do it is refused.
func TestCheckConduct(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	c.role.Policy = everything
	if err := server.SetRole(c.role); err != nil {
		t.Fatal(err)
	}
	c.put("acme/2026-01-01-000000/manifest.json", "a delivery's", nil)
	report := c.checked()
	c.sensible(report)
	if report.Result() != contracts.CheckOK {
		t.Fatal(told(report))
	}
	if keys := c.keys(); !slices.Equal(keys, []string{"acme/2026-01-01-000000/manifest.json"}) || len(c.uploads()) > 0 {
		t.Errorf("in the bucket: %q, %q", keys, c.uploads())
	}
	name := regexp.MustCompile(`^acme(/?)\.snapfleet-check-[0-9a-f]{32}(/(object|upload|aborted)?)?$`)
	seen := map[string]bool{}
	for _, call := range c.checks() {
		where := call.Key
		if where == "" {
			where = call.Query.Get("prefix")
		}
		m := name.FindStringSubmatch(where)
		if m == nil {
			t.Fatalf("%s of %q", call.Operation, where)
		}
		if out := m[1] == ""; out != (call.Status == http.StatusForbidden) {
			t.Errorf("%s of %q was answered with %d", call.Operation, where, call.Status)
		}
		if got := call.Header.Get("X-Amz-Expected-Bucket-Owner"); got != theirAccount {
			t.Errorf("%s expects owner %q", call.Operation, got)
		}
		if content := call.Operation == "PutObject" || call.Operation == "UploadPart"; content && call.Bytes > 100 {
			t.Errorf("%s sent %d bytes", call.Operation, call.Bytes)
		}
		c.discreet(call)
		seen[call.Operation] = true
		seen[call.Policy] = true
	}
	for _, op := range []string{
		"ListObjectsV2", "ListMultipartUploads", "CreateMultipartUpload", "UploadPart", "ListParts", "AbortMultipartUpload",
		"CompleteMultipartUpload", "GetObject", "PutObject", "DeleteObject",
	} {
		if !seen[op] {
			t.Errorf("no %s", op)
		}
		delete(seen, op)
	}
	for policy := range maps.Keys(seen) {
		if beyond := c.beyondTenant(policy); len(seen) != 1 || len(policy) > maxPolicy || len(beyond) > 0 {
			t.Errorf("a session may do more than the tenant's folder needs: %q; its policy: %s", beyond, policy)
		}
	}
	if got := c.beyondTenant(everything); len(got) < 30 {
		t.Errorf("no objection to a session that may do everything: %q", got)
	}
}

// beyondTenant lists what a session policy allows outside of the tenant's folder.
func (c *customer) beyondTenant(policy string) (allowed []string) {
	bucket := "arn:aws:s3:::" + c.to().Bucket
	for _, where := range []string{"", "x", "acme", "acmex", "acme2/x", "ACME/x", "x/acme/y", ".snapfleet-check-x", "other/2026-01-01-000000/manifest.json"} {
		for _, action := range []string{"s3:PutObject", "s3:GetObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"} {
			if allows(policy, action, bucket+"/"+where, nil) {
				allowed = append(allowed, action+" "+where)
			}
		}
		for _, action := range []string{"s3:ListBucket", "s3:ListBucketMultipartUploads"} {
			if allows(policy, action, bucket, map[string][]string{"s3:prefix": {where}}) {
				allowed = append(allowed, action+" "+where)
			}
		}
	}
	for _, action := range []string{"s3:PutObjectAcl", "s3:DeleteObjectVersion", "s3:PutObjectTagging", "s3:GetObjectVersion"} {
		if allows(policy, action, bucket+"/acme/x", nil) {
			allowed = append(allowed, action)
		}
	}
	return allowed
}

// How a check presents itself to the role: three times, by its own name, once with the external ID, once without one, and
// once with one that nobody has seen before. It holds nothing for longer than STS makes it.
func TestCheckIntroducesItself(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	for range 2 {
		if report := c.checked(); report.Result() != contracts.CheckOK {
			t.Fatal(told(report))
		}
	}
	ids := map[string]int{}
	for _, call := range c.assumptions() {
		ids[call.Query.Get("ExternalId")]++
		if call.Query.Get("RoleSessionName") != "snapfleet-check" || call.Query.Get("DurationSeconds") != "900" || call.Query.Get("Policy") == "" {
			t.Errorf("asked for %v", call.Query)
		}
		if (call.Status == http.StatusOK) != (call.Query.Get("ExternalId") == c.to().ExternalID) {
			t.Errorf("%v was answered with %d", call.Query, call.Status)
		}
		for field, values := range call.Query {
			if field != "ExternalId" && strings.Contains(fmt.Sprint(values), c.to().ExternalID) {
				t.Errorf("%s tells the external ID", field)
			}
		}
	}
	if len(ids) != 4 || ids[""] != 2 || ids[c.to().ExternalID] != 2 {
		t.Errorf("asked with %d external IDs", len(ids))
	}
}

// The test objects are written exactly as a delivery's are: under the same key, with the same checksums and conditions.
func TestCheckWritesAsADeliveryDoes(t *testing.T) {
	t.Parallel()
	for _, none := range []bool{false, true} {
		t.Run(fmt.Sprintf("without checksums %t", none), func(t *testing.T) {
			t.Parallel()
			c := newCustomer(t)
			c.cfg.NoChecksum = none
			c.encrypt("arn:aws:kms:us-east-1:" + theirAccount + ":key/0d4c3f0e-52a1-4c9f-9a37-2f2b6a0b9c11")
			if report := c.checked(); report.Result() != contracts.CheckOK {
				t.Fatal(told(report))
			}
			if err := c.uploader().Commit(t.Context(), c.attempt, c.prepareSmall()); err != nil {
				t.Fatal(err)
			}
			for _, op := range []string{"CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "PutObject"} {
				delivery := slices.DeleteFunc(c.calls(op), func(call testbucket.Call) bool {
					return !strings.HasPrefix(call.Key, c.attempt.Prefix()) || strings.HasSuffix(call.Key, contracts.ProbeName)
				})
				check := slices.DeleteFunc(c.checks(op), outside)
				if len(delivery) == 0 || len(check) == 0 {
					t.Fatalf("%s: %d by a delivery, %d by a check", op, len(delivery), len(check))
				}
				for _, call := range check {
					if got, want := manners(call), manners(delivery[0]); !maps.Equal(got, want) {
						t.Errorf("%s\nof a check:    %v\nof a delivery: %v", op, got, want)
					}
				}
				if kms := op == "CreateMultipartUpload" || op == "PutObject"; kms && manners(check[0])["X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id"] != c.to().KMSKeyARN {
					t.Errorf("%s names no key", op)
				}
			}
		})
	}
}

// manners are the headers by which a request says how it is to be carried out; values that differ from object to object
// are only counted.
func manners(call testbucket.Call) map[string]string {
	said := map[string]string{}
	for name, values := range call.Header {
		name = http.CanonicalHeaderKey(name)
		switch {
		case name == "X-Amz-Date" || name == "X-Amz-Decoded-Content-Length":
		case name == "X-Amz-Checksum-Crc64nvme", name == "X-Amz-Mp-Object-Size", strings.HasPrefix(name, "X-Amz-Meta-"):
			said[name] = fmt.Sprint(len(values))
		case name == "X-Amz-Content-Sha256" && call.Operation == "CompleteMultipartUpload": // of its body
		case strings.HasPrefix(name, "X-Amz-"), strings.HasPrefix(name, "If-"), name == "Content-Type":
			said[name] = fmt.Sprint(strings.Join(values, ", "))
		}
	}
	return said
}

// Checks of one tenant, and a delivery to it, do not disturb each other.
func TestChecksAtTheSameTime(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	u := c.uploader()
	reports := make([]contracts.Check, 4)
	err := together(
		func() error { reports[0] = u.Check(t.Context(), c.attempt.Tenant); return nil },
		func() error { reports[1] = u.Check(t.Context(), c.attempt.Tenant); return nil },
		func() error { reports[2] = c.checked(); return nil },
		func() error { reports[3] = c.checked(); return nil },
		func() error {
			d, err := u.Begin(t.Context(), c.attempt, &journal{})
			if err != nil {
				return err
			}
			m, archives := archives()
			for _, a := range archives {
				if err := d.Write(t.Context(), a); err != nil {
					return err
				}
			}
			r, err := d.Receipt(m)
			if err != nil {
				return err
			}
			return u.Commit(t.Context(), c.attempt, r)
		},
	)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range reports {
		c.sensible(r)
		if r.Result() != contracts.CheckOK {
			t.Error(told(r))
		}
	}
	verified, err := Verify(t.Context(), c.source(), VerifyOptions{})
	if err != nil || !verified.OK() || len(c.uploads()) > 0 {
		t.Errorf("%v, %v, left: %q", verified.Problems, err, c.uploads())
	}
	for _, key := range c.keys() {
		if !strings.HasPrefix(key, c.attempt.Prefix()) {
			t.Errorf("left: %s", key)
		}
	}
}
