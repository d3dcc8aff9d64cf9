package main

import (
	"crypto/rand"
	"fmt"
	"strings"

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

// trustPolicy and permissionPolicy are what deploy/customer/README.md tells customers to write, word for
// word: a test compares them.
const trustPolicy = `{
  "Version": "2012-10-17",
  "Statement": [
    {
      "Effect": "Allow",
      "Principal": { "AWS": "arn:aws:iam::111111111111:root" },
      "Action": "sts:AssumeRole",
      "Condition": { "StringEquals": { "sts:ExternalId": "YOUR-EXTERNAL-ID" } }
    }
  ]
}`

const permissionPolicy = `{
  "Version": "2012-10-17",
  "Statement": [
    {
      "Effect": "Allow",
      "Action": ["s3:ListBucket", "s3:ListBucketMultipartUploads"],
      "Resource": "arn:aws:s3:::acme-snapshots"
    },
    {
      "Effect": "Allow",
      "Action": [
        "s3:PutObject",
        "s3:GetObject",
        "s3:DeleteObject",
        "s3:AbortMultipartUpload",
        "s3:ListMultipartUploadParts"
      ],
      "Resource": "arn:aws:s3:::acme-snapshots/*"
    }
  ]
}`

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

// customerRole is the role as the customer makes it, once they have our external ID.
func customerRole(externalID string) bucket.Role {
	return bucket.Role{ARN: customersRole, Trust: strings.ReplaceAll(trustPolicy, "YOUR-EXTERNAL-ID", externalID), Policy: permissionPolicy}
}

// shellQuote is a word as a shell reads it.
func shellQuote(s string) string {
	if s != "" && !strings.ContainsAny(s, " \t\n'\"\\$`&|;<>()*?[]#~!{}") {
		return s
	}
	return fmt.Sprintf("'%s'", strings.ReplaceAll(s, "'", `'\''`))
}
