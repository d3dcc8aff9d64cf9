package uploader

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/snapfleet/snapfleet/contracts"
	testbucket "github.com/snapfleet/snapfleet/test/bucket"
)

// bend changes the customer's role.
func bend(change func(c *customer)) func(*customer) {
	return func(c *customer) {
		c.t.Helper()
		change(c)
		if err := server.SetRole(c.role); err != nil {
			c.t.Fatal(err)
		}
	}
}

// lacking takes one action out of the role's permission policy.
func lacking(action string) func(*customer) {
	return bend(func(c *customer) { c.role.Policy = permissions(c.to().Bucket, action) })
}

// denying gives the bucket a policy that denies the role one action.
func denying(action, below string) func(*customer) {
	return func(c *customer) {
		c.t.Helper()
		p := fmt.Sprintf(`{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Principal":{"AWS":%q},"Action":%q,"Resource":"arn:aws:s3:::%s"}]}`,
			c.role.ARN, action, c.to().Bucket+below)
		if _, err := server.Admin().PutBucketPolicy(c.t.Context(), &s3.PutBucketPolicyInput{Bucket: &c.to().Bucket, Policy: &p}); err != nil {
			c.t.Fatal(err)
		}
	}
}

// withoutKey makes S3 answer an operation as it does when the role may not use the key.
func withoutKey(operation, action string) func(*customer) {
	return func(c *customer) {
		c.inject(operation, testbucket.Fault{Match: inside, Reply: testbucket.Reply{
			Status: 403, Code: "AccessDenied", Message: "User: x is not authorized to perform: " + action + " on resource: y",
		}})
	}
}

func inside(call testbucket.Call) bool { return strings.HasPrefix(call.Key, "acme/") }

func outside(call testbucket.Call) bool { return call.Key != "" && !inside(call) }

// withPower has the check's session do more than its own policy says, as a bucket policy can that names the session, and
// a store that does not know session policies. (Our S3 server applies them without exception.)
func withPower(actionsBelow ...string) func(*customer) {
	return func(c *customer) {
		c.power = func(own string) string {
			for i := 0; i < len(actionsBelow); i += 2 {
				own = strings.Replace(own, `"Statement":[`, fmt.Sprintf(`"Statement":[{"Effect":"Allow","Action":[%q],"Resource":"arn:aws:s3:::%s"},`,
					actionsBelow[i], c.to().Bucket+actionsBelow[i+1]), 1)
			}
			return own
		}
	}
}

// snatched has something in the customer's account remove each new object before S3 has answered.
func snatched(operation string) func(*customer) {
	return func(c *customer) {
		hold := make(chan struct{})
		i := c.inject(operation, testbucket.Fault{Match: inside, Apply: true, Times: 1, Hold: hold})
		go func() {
			<-i.Reached
			defer close(hold)
			for _, key := range c.removeAll() {
				c.t.Logf("removed %s", key)
			}
		}()
	}
}

// removeAll waits for an object and removes what there is.
func (c *customer) removeAll() (keys []string) {
	eventually(c.t, "there is an object", func() bool { keys = c.keys(); return len(keys) > 0 })
	for _, key := range keys {
		if _, err := server.Admin().DeleteObject(c.t.Context(), &s3.DeleteObjectInput{Bucket: &c.to().Bucket, Key: &key}); err != nil {
			c.t.Error(err)
		}
	}
	return keys
}

// broken are accounts that a customer has set up wrongly, in every way that the table of the customer's page knows, and
// what a check finds. The results are those of the steps in order: + ok, x failed, . skipped.
var broken = map[string]struct {
	bend    func(*customer)
	results string
	code    contracts.Code
	text    string
	left    bool // something could not be removed, and is named
}{
	"the trust policy names another account": {
		bend: bend(func(c *customer) {
			c.role.Trust = trust("arn:aws:iam::333333333333:root", c.to().ExternalID)
		}), results: "x.........", code: contracts.RoleDenied, text: "STS answers AccessDenied to AssumeRole (request id ",
	},
	"the trust policy has another external ID": {
		bend: bend(func(c *customer) {
			c.role.Trust = trust("arn:aws:iam::"+ourAccount+":root", "another-external-id-0123456789")
		}), results: "x.........", code: contracts.RoleDenied, text: "request id ",
	},
	"there is no such role": {
		bend: func(c *customer) { server.RemoveRole(c.role.ARN) }, results: "x.........", code: contracts.RoleDenied, text: "request id ",
	},
	"the trust policy wants no external ID": {
		bend: bend(func(c *customer) {
			c.role.Trust = trust("arn:aws:iam::"+ourAccount+":root", "")
		}), results: "+xx.......", code: contracts.InsecureTrust, text: "let us in without the external ID",
	},
	"any external ID will do": {
		bend: bend(func(c *customer) {
			c.role.Trust = strings.ReplaceAll(trust("arn:aws:iam::"+ourAccount+":root", "*"), "StringEquals", "StringLike")
		}), results: "++x.......", code: contracts.InsecureTrust, text: "let us in with a random external ID",
	},
	"an external ID is wanted only where there is one": {
		bend: bend(func(c *customer) {
			c.role.Trust = strings.ReplaceAll(trust("arn:aws:iam::"+ourAccount+":root", c.to().ExternalID), "StringEquals", "StringEqualsIfExists")
		}), results: "+x+.......", code: contracts.InsecureTrust, text: "without",
	},
	"there is no such bucket": {
		bend: bend(func(c *customer) {
			c.to().Bucket += "-not"
			c.role.Policy = permissions(c.to().Bucket)
		}), results: "+++x......", code: contracts.BucketNotFound, text: "S3 answers NoSuchBucket to ListObjectsV2",
	},
	"the bucket is in another region": {
		bend: func(c *customer) { c.to().Region = "eu-west-1" }, results: "+++x......", code: contracts.WrongRegion, text: "us-east-1",
	},
	"the bucket is another account's": {
		bend: func(c *customer) { c.to().Owner = "444444444444" }, results: "+++x......", code: contracts.WrongOwner, text: "444444444444",
	},
	"no s3:ListBucket":                 {bend: lacking("s3:ListBucket"), results: "+++x......", code: contracts.BucketDenied, text: "ListObjectsV2"},
	"no s3:ListBucketMultipartUploads": {bend: lacking("s3:ListBucketMultipartUploads"), results: "+++x......", code: contracts.BucketDenied, text: "ListMultipartUploads"},
	"no s3:PutObject":                  {bend: lacking("s3:PutObject"), results: "++++x.....", code: contracts.WriteDenied, text: "S3 answers AccessDenied to PutObject (request id "},
	"no s3:GetObject":                  {bend: lacking("s3:GetObject"), results: "+++++x++++", code: contracts.WriteDenied, text: "GetObject"},
	"no s3:DeleteObject":               {bend: lacking("s3:DeleteObject"), results: "++++++x.+.", code: contracts.WriteDenied, text: "DeleteObject", left: true},
	"no s3:AbortMultipartUpload":       {bend: lacking("s3:AbortMultipartUpload"), results: "++++++++x+", code: contracts.WriteDenied, text: "AbortMultipartUpload", left: true},
	"no s3:ListMultipartUploadParts":   {bend: lacking("s3:ListMultipartUploadParts"), results: "++++++++x+", code: contracts.WriteDenied, text: "ListParts"},
	"a bucket policy denies the list":  {bend: denying("s3:ListBucket", ""), results: "+++x......", code: contracts.BucketDenied, text: "ListObjectsV2"},
	"a bucket policy denies to write":  {bend: denying("s3:PutObject", "/*"), results: "++++x.....", code: contracts.WriteDenied, text: "PutObject"},
	"a bucket policy denies to read":   {bend: denying("s3:GetObject", "/acme/*"), results: "+++++x++++", code: contracts.WriteDenied, text: "GetObject"},
	"the key is denied":                {bend: withoutKey("PutObject", "kms:GenerateDataKey"), results: "++++x.....", code: contracts.KMSDenied, text: "PutObject"},
	"the key is denied to read":        {bend: withoutKey("GetObject", "kms:Decrypt"), results: "+++++x++++", code: contracts.KMSDenied, text: "GetObject"},
	"the key is denied to uploads":     {bend: withoutKey("CreateMultipartUpload", "kms:GenerateDataKey"), results: "+++++++xx+", code: contracts.KMSDenied, text: "CreateMultipartUpload"},
	"the key is denied to parts":       {bend: withoutKey("UploadPart", "kms:Decrypt"), results: "+++++++xx+", code: contracts.KMSDenied, text: "UploadPart"},
	"the key is denied at the end":     {bend: withoutKey("CompleteMultipartUpload", "kms:Decrypt"), results: "+++++++x++", code: contracts.KMSDenied, text: "CompleteMultipartUpload"},
	"the key is disabled": {bend: func(c *customer) {
		c.inject("PutObject", testbucket.Fault{Reply: testbucket.Reply{Status: 400, Code: "KMS.DisabledException"}})
	}, results: "++++x.....", code: contracts.KMSDenied, text: "KMS.DisabledException"},
	"everything can be reached":        {bend: withPower("s3:*", "/*", "s3:*", ""), results: "+++++++++x", code: contracts.InsecureBucket, text: "over acme/ alone can write and list and read acme.snapfleet-check-"},
	"everything can be written":        {bend: withPower("s3:PutObject", "/*", "s3:DeleteObject", "/*"), results: "+++++++++x", code: contracts.InsecureBucket, text: "over acme/ alone can write acme.snapfleet-check-"},
	"everything can be listed":         {bend: withPower("s3:ListBucket", ""), results: "+++++++++x", code: contracts.InsecureBucket, text: "can list acme.snapfleet-check-"},
	"everything can be read":           {bend: withPower("s3:GetObject", "/*", "s3:ListBucket", ""), results: "+++++++++x", code: contracts.InsecureBucket, text: "can list and read acme.snapfleet-check-"},
	"what begins alike can be written": {bend: withPower("s3:*", "/acme*"), results: "+++++++++x", code: contracts.InsecureBucket, text: "can write acme.snapfleet-check-"},
	"everything can be written and not deleted": {
		bend: withPower("s3:PutObject", "/*"), results: "+++++++++x", code: contracts.InsecureBucket,
		text: "could not be removed: S3 answers AccessDenied to DeleteObject", left: true,
	},
	"S3 tells that it would have let us read": {
		bend: func(c *customer) {
			c.inject("GetObject", testbucket.Fault{Match: outside, Reply: testbucket.Reply{
				Status: 403, Code: "AccessDenied", Message: "User: x is not authorized to perform: s3:ListBucket on resource: y because no session policy allows the s3:ListBucket action",
			}})
		}, results: "+++++++++x", code: contracts.InsecureBucket, text: "can read",
	},
	"something removes new objects":  {bend: snatched("PutObject"), results: "+++++x++++", code: contracts.WriteLost, text: "/object was written and is not there"},
	"something removes new archives": {bend: snatched("CompleteMultipartUpload"), results: "+++++++x++", code: contracts.WriteLost, text: "/upload was written and is not listed"},
}

// shape writes the results of a check in one character each.
func shape(report contracts.Check) string {
	var b strings.Builder
	for _, s := range report.Steps {
		b.WriteString(map[contracts.CheckResult]string{
			contracts.CheckOK: "+", contracts.CheckFailed: "x", contracts.CheckInconclusive: "?", contracts.CheckSkipped: ".",
		}[s.Result])
	}
	return b.String()
}

// A check finds what the customer has to mend, in the step that it belongs to, whatever it is.
func TestCheckFindsWhatIsBroken(t *testing.T) {
	t.Parallel()
	for name, b := range broken {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCustomer(t)
			b.bend(c)
			report := c.checked()
			if got := shape(report); got != b.results {
				t.Fatalf("got %s, want %s%s", got, b.results, told(report))
			}
			why := report.Failure()
			if report.Result() != contracts.CheckFailed || why.Code != b.code || !strings.Contains(why.What, b.text) {
				t.Errorf("got %+v, want %s with %q", why, b.code, b.text)
			}
			if why.Cause != b.code.Advice().Cause || why.Fix != b.code.Advice().Fix {
				t.Errorf("the advice is not the code's: %+v", why)
			}
			for _, s := range report.Steps {
				if s.Reason != nil && s.Reason.Code != b.code {
					t.Errorf("%s has another reason: %+v", s.Name, s.Reason)
				}
			}
			if b.code == contracts.InsecureTrust || b.code == contracts.RoleDenied {
				if calls := c.calls(); len(calls) > 1 {
					t.Errorf("the bucket of a role that is not to be used was asked: %v", calls)
				}
			}
			if strings.HasSuffix(c.to().Bucket, "-not") {
				c.sensible(report)
				return
			}
			if b.left {
				c.named(report)
			} else {
				c.sound(report)
			}
		})
	}
}

// named is sound for a check that could not remove everything: some reason names what is left.
func (c *customer) named(report contracts.Check) {
	c.t.Helper()
	c.sensible(report)
	left := append(c.keys(), c.uploads()...)
	for _, key := range left {
		if !slices.ContainsFunc(report.Steps, func(s contracts.CheckStep) bool {
			return s.Reason != nil && (strings.Contains(s.Reason.What, key+" could not be ") || strings.Contains(s.Reason.What, "known"))
		}) {
			c.t.Errorf("%s is left, and not named%s", key, told(report))
		}
	}
	if len(left) == 0 {
		c.t.Error("nothing is left: nothing was tested")
	}
}

// page is read before the S3 server of this process changes its directory.
var page, pageErr = os.ReadFile("../deploy/customer/README.md")

func customersPage(t *testing.T) string {
	t.Helper()
	if pageErr != nil {
		t.Fatal(pageErr)
	}
	return string(page)
}

// Each row of the customer's table comes true in a test: most in a check, and the one that only a job can meet in Begin.
func TestEveryRowOfTheCustomersTable(t *testing.T) {
	t.Parallel()
	_, table, begun := strings.Cut(customersPage(t), "<!-- troubleshooting:begin -->")
	table, _, ended := strings.Cut(table, "<!-- troubleshooting:end -->")
	if !begun || !ended {
		t.Fatal("the page has no table")
	}
	var rows []contracts.Code
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\|").FindAllStringSubmatch(table, -1) {
		rows = append(rows, contracts.Code(m[1]))
	}
	shown := []contracts.Code{contracts.DestinationTaken} // below
	for _, b := range broken {
		shown = append(shown, b.code)
	}
	slices.Sort(shown)
	if shown = slices.Compact(shown); !slices.Equal(rows, shown) {
		t.Errorf("the table has\n%q\nand these are shown:\n%q", rows, shown)
	}
	actions := regexp.MustCompile(`"(s3:[A-Za-z]+)"`).FindAllStringSubmatch(customersPage(t), -1)
	for _, m := range actions {
		if _, shown := broken["no "+m[1]]; !shown {
			t.Errorf("nobody lacks %s", m[1])
		}
	}
	if len(actions) != 7 {
		t.Errorf("the page grants %d actions", len(actions))
	}

	c := newCustomer(t)
	c.put(c.attempt.Prefix()+contracts.ManifestName, "{}", nil)
	_, err := c.uploader().Begin(t.Context(), c.attempt, &journal{})
	if r, ok := contracts.AsRejection(err); !ok || r.Code != contracts.DestinationTaken {
		t.Errorf("got %v, want %s", err, contracts.DestinationTaken)
	}
	if report := c.checked(); report.Result() != contracts.CheckOK { // another's files are nothing to a check
		t.Error(told(report))
	}
}
