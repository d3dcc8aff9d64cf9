#!/bin/sh
# Creates the bucket that snapshots of acme are delivered to, and the role that may write there. Nothing that
# exists is changed. Where it stops, mend what it says, and run the rest by hand.
set -eu
export AWS_PAGER=

account=$(aws sts get-caller-identity --query Account --output text)
if [ "$account" != 222222222222 ]; then
  echo "these credentials are of account $account, not of 222222222222" >&2
  exit 1
fi
if aws s3api head-bucket --bucket acme-snapshots --region us-west-2 >/dev/null 2>&1; then
  echo "bucket acme-snapshots exists: nothing was done" >&2
  exit 1
fi

aws s3api create-bucket --bucket acme-snapshots --region us-west-2 \
  --create-bucket-configuration LocationConstraint=us-west-2
aws s3api put-public-access-block --bucket acme-snapshots --region us-west-2 \
  --public-access-block-configuration \
  BlockPublicAcls=true,IgnorePublicAcls=true,BlockPublicPolicy=true,RestrictPublicBuckets=true
aws s3api put-bucket-encryption --bucket acme-snapshots --region us-west-2 \
  --server-side-encryption-configuration '{
    "Rules": [
      {
        "ApplyServerSideEncryptionByDefault": { "SSEAlgorithm": "AES256" }
      }
    ]
  }'
aws s3api put-bucket-versioning --bucket acme-snapshots --region us-west-2 \
  --versioning-configuration Status=Enabled
aws s3api put-bucket-lifecycle-configuration --bucket acme-snapshots --region us-west-2 \
  --lifecycle-configuration '{
    "Rules": [
      {
        "ID": "unfinished-uploads",
        "Status": "Enabled",
        "Filter": {},
        "AbortIncompleteMultipartUpload": { "DaysAfterInitiation": 7 }
      }
    ]
  }'

aws iam create-role --role-name snapfleet-delivery --path / --query Role.Arn --output text \
  --assume-role-policy-document '{
    "Version": "2012-10-17",
    "Statement": [
      {
        "Effect": "Allow",
        "Principal": { "AWS": "arn:aws:iam::111111111111:root" },
        "Action": "sts:AssumeRole",
        "Condition": { "StringEquals": { "sts:ExternalId": "YOUR-EXTERNAL-ID-FROM-US" } }
      }
    ]
  }'
aws iam put-role-policy --role-name snapfleet-delivery --policy-name delivery \
  --policy-document '{
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
  }'
