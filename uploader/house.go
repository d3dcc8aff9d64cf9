package uploader

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/snapfleet/snapfleet/contracts"
)

// houseRule is the ID of our rule. A rule of any other ID is somebody else's.
const houseRule = "snapfleet-house"

// uploadDays is when a rule of ours ends an upload that was never completed; we end our own long before.
const uploadDays = 7

// ErrNoRule says that a bucket has no lifecycle rule of ours, and will not get one: the store knows none, or we may not
// set it.
var ErrNoRule = errors.New("no lifecycle rule can be set")

// SetExpiry gives the house's bucket a lifecycle rule that deletes everything in it after so many days, and uploads that
// were never completed after seven. It uses base's own credentials, and not the house's role, which may not do that. The
// rules of others are kept as they are. The rule is read back: what a store has not kept is not believed.
//
// The error Is [ErrNoRule], with a text that says why, where the store or its policies do not let us. A bucket that holds
// anything but deliveries gets no rule, because the rule would delete that, too: that is a [contracts.Rejection], as is a
// bucket that is not there.
func SetExpiry(ctx context.Context, base aws.Config, d contracts.Destination, days int) error {
	e := expiry{bucket: aws.String(d.Bucket), owner: aws.String(d.Account())}
	e.client = s3.New(s3.Options{
		Region: d.Region, Credentials: base.Credentials, HTTPClient: direct(base.HTTPClient), Retryer: aws.NopRetryer{},
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenRequired,
		ResponseChecksumValidation: aws.ResponseChecksumValidationWhenRequired,
	}, func(o *s3.Options) {
		if d.Endpoint != "" {
			o.BaseEndpoint, o.UsePathStyle = aws.String(d.Endpoint), true
			return
		}
		o.EndpointOptions.UseFIPSEndpoint, o.EndpointOptions.UseDualStackEndpoint = endpointVariants(ctx, base)
	})
	rule := ruleOf(days)
	stands := func(r types.LifecycleRule) bool { return essence(r) == essence(rule) }
	was, err := e.rules(ctx)
	if err == nil {
		err = sooner(was.Rules, days)
	}
	if err == nil && slices.ContainsFunc(was.Rules, stands) {
		return nil
	}
	if err == nil && !slices.ContainsFunc(was.Rules, isOurs) {
		err = e.onlyDeliveries(ctx)
	}
	if err == nil {
		err = e.set(ctx, merged(was.Rules, rule), was.TransitionDefaultMinimumObjectSize)
	}
	if err == nil {
		was, err = e.rules(ctx)
		if err == nil && !slices.ContainsFunc(was.Rules, stands) {
			err = fmt.Errorf("%w: the store has taken it, and does not have it", ErrNoRule)
		}
	}
	if err != nil {
		return fmt.Errorf("lifecycle of bucket %s: %w", d.Bucket, err)
	}
	return nil
}

// expiry sets the lifecycle of one bucket.
type expiry struct {
	client        *s3.Client
	bucket, owner *string
}

// ruleOf covers everything in the bucket. In one with versions, what it deletes is gone a day later.
func ruleOf(days int) types.LifecycleRule {
	return types.LifecycleRule{
		ID: aws.String(houseRule), Status: types.ExpirationStatusEnabled, Filter: &types.LifecycleRuleFilter{Prefix: aws.String("")},
		Expiration:                     &types.LifecycleExpiration{Days: aws.Int32(int32(days))},
		NoncurrentVersionExpiration:    &types.NoncurrentVersionExpiration{NoncurrentDays: aws.Int32(1)},
		AbortIncompleteMultipartUpload: &types.AbortIncompleteMultipartUpload{DaysAfterInitiation: aws.Int32(uploadDays)},
	}
}

func isOurs(r types.LifecycleRule) bool { return aws.ToString(r.ID) == houseRule }

// merged is theirs, and ours once.
func merged(rules []types.LifecycleRule, ours types.LifecycleRule) []types.LifecycleRule {
	return append(slices.DeleteFunc(slices.Clone(rules), isOurs), ours)
}

// sooner makes sure that no rule of others deletes everything before its days are over.
func sooner(rules []types.LifecycleRule, days int) error {
	for _, r := range rules {
		if isOurs(r) || r.Status != types.ExpirationStatusEnabled || r.Expiration == nil || narrow(r) {
			continue
		}
		if r.Expiration.Date != nil || aws.ToInt32(r.Expiration.Days) > 0 && int(aws.ToInt32(r.Expiration.Days)) < days {
			return contracts.Reject(contracts.DestinationTaken, "its lifecycle rule %.80q deletes everything before %d days are over", aws.ToString(r.ID), days)
		}
	}
	return nil
}

// narrow reports whether a rule is about some objects only.
func narrow(r types.LifecycleRule) bool {
	f := r.Filter
	//lint:ignore SA1019 others may have written their rules in the old form
	return aws.ToString(r.Prefix) != "" || f != nil && (aws.ToString(f.Prefix) != "" || f.And != nil || f.Tag != nil || f.ObjectSizeGreaterThan != nil || f.ObjectSizeLessThan != nil)
}

// essence is what of a rule decides; stores write the rest in their own ways.
func essence(r types.LifecycleRule) [6]any {
	var days, versions, uploads int32
	if e := r.Expiration; e != nil {
		days = aws.ToInt32(e.Days)
	}
	if v := r.NoncurrentVersionExpiration; v != nil {
		versions = aws.ToInt32(v.NoncurrentDays)
	}
	if u := r.AbortIncompleteMultipartUpload; u != nil {
		uploads = aws.ToInt32(u.DaysAfterInitiation)
	}
	return [6]any{aws.ToString(r.ID), r.Status, narrow(r), days, versions, uploads}
}

func (e expiry) rules(ctx context.Context) (*s3.GetBucketLifecycleConfigurationOutput, error) {
	out, err := ask(ctx, func(ctx context.Context) (*s3.GetBucketLifecycleConfigurationOutput, error) {
		out, err := e.client.GetBucketLifecycleConfiguration(ctx, &s3.GetBucketLifecycleConfigurationInput{Bucket: e.bucket, ExpectedBucketOwner: e.owner})
		if errorCode(err) == "NoSuchLifecycleConfiguration" {
			return &s3.GetBucketLifecycleConfigurationOutput{}, nil
		}
		return out, err
	})
	return out, err
}

func (e expiry) set(ctx context.Context, rules []types.LifecycleRule, least types.TransitionDefaultMinimumObjectSize) error {
	_, err := ask(ctx, func(ctx context.Context) (*s3.PutBucketLifecycleConfigurationOutput, error) {
		return e.client.PutBucketLifecycleConfiguration(ctx, &s3.PutBucketLifecycleConfigurationInput{
			Bucket: e.bucket, ExpectedBucketOwner: e.owner, TransitionDefaultMinimumObjectSize: least,
			LifecycleConfiguration: &types.BucketLifecycleConfiguration{Rules: rules},
		})
	})
	return err
}

// onlyDeliveries looks at the first thousand objects: whoever names a bucket that is used for something else would lose
// all of that to the rule.
func (e expiry) onlyDeliveries(ctx context.Context) error {
	out, err := ask(ctx, func(ctx context.Context) (*s3.ListObjectsV2Output, error) {
		return e.client.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: e.bucket, ExpectedBucketOwner: e.owner})
	})
	if err != nil {
		return err
	}
	for _, o := range out.Contents {
		parts := strings.Split(aws.ToString(o.Key), "/")
		if len(parts) != 3 || !contracts.ValidTenant(parts[0]) || !contracts.ValidJob(parts[1]) || !contracts.IsFileOf(parts[1], parts[2]) {
			return contracts.Reject(contracts.DestinationTaken, "it holds %.200q, which is no delivery, and the house's rule would delete that, too: give the house a bucket of its own", aws.ToString(o.Key))
		}
	}
	return nil
}

// ask sends one request, once: somebody waits, and can repeat it.
func ask[T any](ctx context.Context, request func(context.Context) (T, error)) (T, error) {
	out, err := once(ctx, stsTimeout, request)
	if err == nil {
		return out, nil
	}
	code, status := errorCode(err), errorStatus(err)
	if code == "NotImplemented" || status == http.StatusNotImplemented || status == http.StatusMethodNotAllowed || isDenied(code, status) {
		return out, fmt.Errorf("%w: %w", ErrNoRule, refused(err))
	}
	_, err = judge(listing, err)
	if errors.Is(err, errAbsent) {
		err = contracts.Reject(contracts.BucketNotFound, "S3 knows no such bucket")
	}
	return out, err
}
