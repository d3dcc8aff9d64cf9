package main

import (
	"crypto/rand"

	templates "github.com/snapfleet/snapfleet/deploy/customer"
	"github.com/snapfleet/snapfleet/test/bucket"
	"github.com/snapfleet/snapfleet/test/world/factory"
)

// The accounts. The numbers are AWS's own examples.
const (
	ourAccount       = "111111111111"
	customersAccount = "222222222222"
	region           = "us-west-2"
	customersBucket  = "acme-snapshots"
	customersRole    = "arn:aws:iam::" + customersAccount + ":role/snapfleet-delivery"
)

// worker is who the fleet is: it may assume customers' roles and read our own files, and nothing else.
func worker() bucket.User {
	return bucket.User{
		ARN: "arn:aws:iam::" + ourAccount + ":user/snapfleet-worker", AccessKey: "AKIA" + rand.Text()[:16], SecretKey: rand.Text(),
		Policy: `{"Version":"2012-10-17","Statement":[
			{"Effect":"Allow","Action":"sts:AssumeRole","Resource":"arn:aws:iam::*:role/snapfleet-delivery"},
			{"Effect":"Allow","Action":["s3:GetObject","s3:ListBucket"],"Resource":["arn:aws:s3:::` + factory.Bucket + `","arn:aws:s3:::` + factory.Bucket + `/*"]},
			{"Effect":"Allow","Action":"s3:ListBucket","Resource":"arn:aws:s3:::` + factory.Bucket + `"}]}`,
	}
}

// reader is somebody of the customer's, who looks at what arrived.
func reader() bucket.User {
	return bucket.User{
		ARN: "arn:aws:iam::" + customersAccount + ":user/alice", AccessKey: "AKIA" + rand.Text()[:16], SecretKey: rand.Text(),
		Policy: `{"Version":"2012-10-17","Statement":[
			{"Effect":"Allow","Action":["s3:GetObject","s3:ListBucket"],"Resource":["arn:aws:s3:::` + customersBucket + `","arn:aws:s3:::` + customersBucket + `/*"]}]}`,
	}
}

// customerRole is the role as the customer makes it, once they have our external ID: with what "snapfleet policy" prints.
func customerRole(externalID string) (role bucket.Role, err error) {
	v := templates.Values{
		Tenant: "acme", Account: ourAccount, ExternalIDs: []string{externalID},
		Bucket: customersBucket, Region: region, CustomerAccount: customersAccount,
	}
	role.ARN = customersRole
	if role.Trust, err = templates.Trust.Render(v); err != nil {
		return role, err
	}
	role.Policy, err = templates.Permissions.Render(v)
	return role, err
}
