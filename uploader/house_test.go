package uploader

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/snapfleet/snapfleet/contracts"
	testbucket "github.com/snapfleet/snapfleet/test/bucket"
)

// landlord is who sets up a house: its user may set the bucket's rules, and list it.
func landlord(t *testing.T) (*customer, testbucket.User) {
	t.Helper()
	c := newHouse(t, contracts.ByLifecycle)
	u := testbucket.User{
		ARN: fmt.Sprintf("arn:aws:iam::%s:user/landlord-%s", theirAccount, c.to().Bucket), AccessKey: "AKIALANDLORD" + strings.ToUpper(c.to().Bucket), SecretKey: "secret-of-" + c.to().Bucket,
		Policy: `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:GetLifecycleConfiguration","s3:PutLifecycleConfiguration","s3:ListBucket"],"Resource":"arn:aws:s3:::` + c.to().Bucket + `"}]}`,
	}
	if err := server.AddUser(u); err != nil {
		t.Fatal(err)
	}
	return c, u
}

func (c *customer) setRules(rules ...types.LifecycleRule) {
	c.t.Helper()
	_, err := server.Admin().PutBucketLifecycleConfiguration(c.t.Context(), &s3.PutBucketLifecycleConfigurationInput{
		Bucket: &c.to().Bucket, LifecycleConfiguration: &types.BucketLifecycleConfiguration{Rules: rules},
	})
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *customer) rules() []types.LifecycleRule {
	c.t.Helper()
	out, err := server.Admin().GetBucketLifecycleConfiguration(c.t.Context(), &s3.GetBucketLifecycleConfigurationInput{Bucket: &c.to().Bucket})
	if err != nil {
		c.t.Fatal(err)
	}
	return out.Rules
}

func TestExpiryIsARuleBesideTheOthers(t *testing.T) {
	t.Parallel()
	c, u := landlord(t)
	theirs := types.LifecycleRule{
		ID: aws.String("archive"), Status: types.ExpirationStatusEnabled, Filter: &types.LifecycleRuleFilter{Prefix: aws.String("archive/")},
		Expiration: &types.LifecycleExpiration{Days: aws.Int32(3650)},
	}
	c.setRules(theirs)
	c.put("acme/j/manifest.json", "{}", nil)
	for _, days := range []int{30, 30, 7} {
		if err := SetExpiry(t.Context(), server.AWSConfig(u), *c.to(), days); err != nil {
			t.Fatal(err)
		}
		rules := c.rules()
		i := slices.IndexFunc(rules, isOurs)
		if len(rules) != 2 || i < 0 || essence(rules[i]) != essence(ruleOf(days)) {
			t.Fatalf("%d days: the rules are %+v", days, rules)
		}
		if other := rules[1-i]; essence(other) != essence(theirs) || *other.Filter.Prefix != "archive/" {
			t.Errorf("somebody's rule has become %+v", other)
		}
	}
	if n := len(c.calls("PutBucketLifecycleConfiguration")); n != 3 {
		t.Errorf("the rules were written %d times, want once by the other and twice by us", n)
	}
}

func TestNoRuleWhereTheStoreOrItsPoliciesHaveNone(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]struct {
		operation string
		fault     testbucket.Fault
	}{
		"it knows no rules":       {"GetBucketLifecycleConfiguration", testbucket.Fault{Reply: testbucket.Reply{Status: http.StatusNotImplemented, Code: "NotImplemented"}}},
		"it takes no rules":       {"PutBucketLifecycleConfiguration", testbucket.Fault{Reply: testbucket.Reply{Status: http.StatusMethodNotAllowed, Code: "MethodNotAllowed"}}},
		"we may not read them":    {"GetBucketLifecycleConfiguration", testbucket.Fault{Reply: testbucket.Reply{Status: http.StatusForbidden, Code: "AccessDenied"}}},
		"we may not list":         {"ListObjectsV2", testbucket.Fault{Reply: testbucket.Reply{Status: http.StatusForbidden, Code: "AccessDenied"}}},
		"we may not set them":     {"PutBucketLifecycleConfiguration", testbucket.Fault{Reply: testbucket.Reply{Status: http.StatusForbidden, Code: "AccessDenied"}}},
		"it takes and forgets it": {"GetBucketLifecycleConfiguration", testbucket.Fault{Skip: 1, Reply: testbucket.Reply{Status: http.StatusNotFound, Code: "NoSuchLifecycleConfiguration"}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, u := landlord(t)
			c.inject(f.operation, f.fault)
			if err := SetExpiry(t.Context(), server.AWSConfig(u), *c.to(), 30); !errors.Is(err, ErrNoRule) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestNoRuleForABucketThatIsNotTheHouses(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"photos/cat.jpg", "manifest.json", "acme/j/notes.txt", "acme/j/k/manifest.json", "a b/j/manifest.json", "acme/j/snapshot_tables_k.tar"} {
		c, u := landlord(t)
		c.put(key, "x", nil)
		err := SetExpiry(t.Context(), server.AWSConfig(u), *c.to(), 30)
		if r, ok := contracts.AsRejection(err); !ok || r.Code != contracts.DestinationTaken || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: %v", key, err)
		}
		if n := len(c.calls("PutBucketLifecycleConfiguration")); n != 0 {
			t.Errorf("%s: a rule was set", key)
		}
	}
	c, u := landlord(t)
	c.to().Bucket = "nobody-has-this-one"
	err := SetExpiry(t.Context(), server.AWSConfig(u), *c.to(), 30)
	if r, ok := contracts.AsRejection(err); !errors.Is(err, ErrNoRule) && (!ok || r.Code != contracts.BucketNotFound) {
		t.Errorf("no such bucket: %v", err)
	}
}

func TestNoRuleBesideOneThatDeletesSooner(t *testing.T) {
	t.Parallel()
	c, u := landlord(t)
	theirs := types.LifecycleRule{ID: aws.String("tidy"), Status: types.ExpirationStatusEnabled, Filter: &types.LifecycleRuleFilter{Prefix: aws.String("")}, Expiration: &types.LifecycleExpiration{Days: aws.Int32(7)}}
	for _, w := range []struct {
		what   string
		change func(*types.LifecycleRule)
		days   int
		ok     bool
	}{
		{"everything after 7 days", func(*types.LifecycleRule) {}, 30, false},
		{"everything after 7 days, of 7", func(*types.LifecycleRule) {}, 7, true},
		{"not at present", func(r *types.LifecycleRule) { r.Status = types.ExpirationStatusDisabled }, 30, true},
		{"not everything", func(r *types.LifecycleRule) { r.Filter = &types.LifecycleRuleFilter{Prefix: aws.String("tmp/")} }, 30, true},
	} {
		rule := theirs
		w.change(&rule)
		c.setRules(rule)
		err := SetExpiry(t.Context(), server.AWSConfig(u), *c.to(), w.days)
		if _, rejected := contracts.AsRejection(err); rejected == w.ok || w.ok && err != nil {
			t.Errorf("%s: %v", w.what, err)
		}
		c.setRules(rule, ruleOf(w.days))
		err = SetExpiry(t.Context(), server.AWSConfig(u), *c.to(), w.days)
		if _, rejected := contracts.AsRejection(err); rejected == w.ok {
			t.Errorf("%s, beside ours: %v", w.what, err)
		}
	}
}

// What is not the store's word is nobody's reason to do without a rule.
func TestAnUnansweredQuestionIsNoAnswer(t *testing.T) {
	t.Parallel()
	c, u := landlord(t)
	c.inject("GetBucketLifecycleConfiguration", testbucket.Fault{Reply: testbucket.Reply{Status: http.StatusServiceUnavailable, Code: "SlowDown"}})
	if err := SetExpiry(t.Context(), server.AWSConfig(u), *c.to(), 30); err == nil || errors.Is(err, ErrNoRule) {
		t.Errorf("%v", err)
	}
}
