package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/snapfleet/snapfleet/consumer"
	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/uploader"
)

// houseFlags are the house's record, as `snapfleet setup` takes it.
type houseFlags struct {
	Bucket   *string `group:"house" placeholder:"NAME" help:"Our own bucket, for tenants without one of their own. It must hold nothing but deliveries: whatever it holds is deleted after --house-days."`
	Region   *string `group:"house" placeholder:"REGION" help:"Region of that bucket, such as eu-central-1."`
	RoleARN  *string `name:"role-arn" group:"house" placeholder:"ARN" help:"Role in our own account that may write there: arn:aws:iam::<account>:role/<name>. Workers assume it as they do a customer's, with an external ID."`
	KMSKey   *string `name:"kms-key" group:"house" placeholder:"ARN" help:"KMS key to encrypt with. Without it the bucket's own encryption applies."`
	Endpoint *string `group:"house" placeholder:"URL" help:"S3-compatible store other than AWS, https://host[:port]. The workers must --allow-endpoint it."`
	Days     *int    `group:"house" placeholder:"DAYS" help:"Days that a delivery is kept, 1 to 3650. Default: 30."`
}

func (f houseFlags) given() bool { return f != houseFlags{} }

// lay lays the flags over the record. A house that is new gets an external ID, which never changes from here on.
func (f houseFlags) lay(was contracts.House, known bool) (contracts.House, error) {
	h := was
	if !known {
		if f.Bucket == nil || f.Region == nil || f.RoleARN == nil {
			return h, usagef("there is no house bucket yet: --house-bucket, --house-region and --house-role-arn come together")
		}
		h = contracts.House{Version: contracts.HouseVersion, Days: contracts.HouseDays}
		h.Destination.ExternalID = rand.Text()
	}
	d := &h.Destination
	for field, flag := range map[*string]*string{&d.Bucket: f.Bucket, &d.Region: f.Region, &d.RoleARN: f.RoleARN, &d.KMSKeyARN: f.KMSKey, &d.Endpoint: f.Endpoint} {
		if flag != nil {
			*field = *flag
		}
	}
	if f.Days != nil {
		h.Days = *f.Days
	}
	check := h
	check.ExpiresBy = contracts.ByTag // not known yet
	if r, ok := contracts.AsRejection(check.Validate()); ok {
		return h, usagef("%w", r.Err)
	}
	return h, nil
}

// plan is the house as it will be, before anything is changed.
func (f houseFlags) plan(ctx context.Context, registry *consumer.Registry) (was, will contracts.House, err error) {
	if registry != nil {
		was, err = registry.House(ctx)
		if r, ok := contracts.AsRejection(err); err != nil && (!ok || r.Code != contracts.NoDestination) {
			return was, will, err
		}
	}
	will, err = f.lay(was, was.Destination.ExternalID != "")
	return was, will, err
}

// settle sets the bucket's rule where that is possible, writes the record, and shows what came of it.
func (f houseFlags) settle(ctx context.Context, c *console, registry *consumer.Registry, was, will contracts.House) error {
	cloud, err := loadAWS(ctx)
	if err != nil {
		return err
	}
	will.ExpiresBy = contracts.ByLifecycle
	err = uploader.SetExpiry(ctx, cloud, will.Destination, will.Days)
	without := errors.Is(err, uploader.ErrNoRule)
	same := was.Destination.Bucket == will.Destination.Bucket && was.Destination.Endpoint == will.Destination.Endpoint
	switch {
	case without && same && was.ExpiresBy == contracts.ByLifecycle:
		return explain(exitRejected, err, fmt.Sprintf("the bucket's rule was set before, to %d days, and these AWS credentials may not change it", was.Days),
			"use credentials that are allowed s3:GetLifecycleConfiguration and s3:PutLifecycleConfiguration on the bucket")
	case without:
		will.ExpiresBy = contracts.ByTag
	case err != nil:
		return ruleUnset(err)
	}
	if err := registry.SetHouse(ctx, will); err != nil {
		return err
	}
	c.house(will)
	trust, permission := housePolicies(will)
	fmt.Fprintf(c.out, "\nTrust policy of the role:\n%s\n\nPermission policy of the role:\n%s\n", trust, permission)
	if without {
		fmt.Fprintln(c.err)
		fmt.Fprintln(c.err, wrap(fmt.Sprintf("Nothing is deleted by itself: %s. Objects are tagged with %s=<day> instead; delete those whose day has come, or set a lifecycle rule and run this again.", redact(err.Error()), contracts.ExpiresTag), c.width))
	}
	if was.Destination.Bucket != "" && !same {
		fmt.Fprintln(c.err)
		fmt.Fprintln(c.err, wrap(fmt.Sprintf("Deliveries in bucket %s stay there; no links are made to them any more.", was.Destination.Bucket), c.width))
	}
	return nil
}

// ruleUnset says what to do when the bucket could not even be asked.
func ruleUnset(err error) error {
	if r, ok := contracts.AsRejection(err); ok {
		fixes := map[contracts.Code]string{
			contracts.DestinationTaken: "create a bucket for the house alone and name that, or take away what is named above",
			contracts.BucketNotFound:   "create the bucket first, in that region, or correct --house-bucket and --house-region",
			contracts.WrongRegion:      "give the bucket's own --house-region",
		}
		if fix, ok := fixes[r.Code]; ok {
			return explain(exitRejected, errors.New(r.Err.Error()), "the bucket is not one that the house can have", fix)
		}
		return err
	}
	return explain(0, err, "the bucket's lifecycle rule is set with your own AWS credentials, and the store did not answer to them",
		"check AWS_PROFILE, AWS_CA_BUNDLE and --house-endpoint, then run this again")
}

// house prints the record for people.
func (c *console) house(h contracts.House) {
	d := h.Destination
	c.facts(
		[2]string{"house bucket", c.bold(d.Bucket)},
		[2]string{"region", d.Region},
		[2]string{"role", d.RoleARN},
		[2]string{"external ID", d.ExternalID},
		[2]string{"KMS key", d.KMSKeyARN},
		[2]string{"endpoint", d.Endpoint},
		[2]string{"kept", kept(contracts.Keep{Days: h.Days, By: h.ExpiresBy})},
	)
}

// kept says for how long, and what happens then.
func kept(k contracts.Keep) string {
	days := plural(k.Days, "day")
	if k.By == contracts.ByLifecycle {
		return days + ", then deleted by the bucket's lifecycle rule"
	}
	return days + ", as the tag " + contracts.ExpiresTag + " of each object says; no rule of the bucket deletes them"
}

// grant is a statement of a policy.
type grant struct {
	Effect    string
	Principal map[string]string            `json:",omitempty"`
	Action    []string                     `json:",omitempty"`
	Resource  string                       `json:",omitempty"`
	Condition map[string]map[string]string `json:",omitempty"`
}

// housePolicies are what the house's role needs.
func housePolicies(h contracts.House) (trust, permission string) {
	d := h.Destination
	partition := strings.Split(d.RoleARN, ":")[1]
	bucket := "arn:" + partition + ":s3:::" + d.Bucket
	objects := []string{"s3:PutObject", "s3:GetObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"}
	if h.ExpiresBy == contracts.ByTag {
		objects = append(objects, "s3:PutObjectTagging")
	}
	may := []grant{
		{Effect: "Allow", Action: []string{"s3:ListBucket", "s3:ListBucketMultipartUploads"}, Resource: bucket},
		{Effect: "Allow", Action: objects, Resource: bucket + "/*"},
	}
	if d.KMSKeyARN != "" {
		may = append(may, grant{Effect: "Allow", Action: []string{"kms:GenerateDataKey", "kms:Decrypt"}, Resource: d.KMSKeyARN})
	}
	return policy(grant{
		Effect: "Allow", Principal: map[string]string{"AWS": "arn:" + partition + ":iam::" + d.Account() + ":root"}, Action: []string{"sts:AssumeRole"},
		Condition: map[string]map[string]string{"StringEquals": {"sts:ExternalId": d.ExternalID}},
	}), policy(may...)
}

func policy(statements ...grant) string {
	text, err := json.MarshalIndent(struct {
		Version   string
		Statement []grant
	}{"2012-10-17", statements}, "", "  ")
	if err != nil {
		panic("strings always marshal: " + err.Error())
	}
	return string(text)
}
