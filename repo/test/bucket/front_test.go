package bucket_test

import (
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

// TestFront: an entrance whose clock is off refuses what is signed by a right one, and takes it once the SDK has
// seen the Date of an answer.
func TestFront(t *testing.T) {
	name, role := customer(t)
	front, err := server.OpenFront()
	if err != nil {
		t.Fatal(err)
	}
	defer front.Close()
	stsClient := sts.NewFromConfig(front.AWSConfig(worker), func(o *sts.Options) { o.Retryer = aws.NopRetryer{} })
	var c *s3.Client
	for _, ahead := range []time.Duration{0, 14 * time.Minute, 3 * time.Hour, -3 * time.Hour, 26 * time.Hour, 0} {
		front.Shift(ahead)
		skewed := ahead.Abs() > 15*time.Minute
		out, err := stsClient.AssumeRole(t.Context(), assume(role))
		if skewed {
			if code(err) != "SignatureDoesNotMatch" || !strings.Contains(err.Error(), "Signature expired or not yet current") {
				t.Fatalf("%s ahead: STS: %v", ahead, err)
			}
			out, err = stsClient.AssumeRole(t.Context(), assume(role))
		} else if err != nil { // the correction is of the entrance's last clock
			out, err = stsClient.AssumeRole(t.Context(), assume(role))
		}
		if err != nil {
			t.Fatalf("%s ahead: STS, corrected: %v", ahead, err)
		}
		if left := time.Until(*out.Credentials.Expiration) - ahead; left < 59*time.Minute || left > 61*time.Minute {
			t.Errorf("%s ahead: an hour's session ends in %s", ahead, left)
		}
		if c == nil {
			cfg := front.AWSConfig(worker)
			cfg.Credentials = aws.CredentialsProviderFunc(withKeys(*out.Credentials.AccessKeyId, *out.Credentials.SecretAccessKey, *out.Credentials.SessionToken).Options().Credentials.Retrieve)
			c = s3.NewFromConfig(cfg, once)
		}
		key := "a key/of " + ahead.String()
		if err = put(t.Context(), c, name, key, "x"); skewed && code(err) != "RequestTimeTooSkewed" {
			t.Fatalf("%s ahead: S3: %v", ahead, err)
		}
		if err != nil {
			if err = put(t.Context(), c, name, key, "x"); err != nil {
				t.Fatalf("%s ahead: S3, corrected: %v", ahead, err)
			}
		}
	}
	forged := front.AWSConfig(worker)
	forged.Credentials = aws.CredentialsProviderFunc(withKeys(worker.AccessKey, "another secret", "").Options().Credentials.Retrieve)
	if err := put(t.Context(), s3.NewFromConfig(forged, once), name, "forged", "x"); code(err) != "SignatureDoesNotMatch" {
		t.Errorf("a wrong signature: %v", err)
	}
}
