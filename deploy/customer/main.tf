# The bucket that snapshots of acme are delivered to, and the role that may write there.
#
#   terraform init && terraform apply

terraform {
  required_version = ">= 1.3"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}

provider "aws" {
  region              = "us-west-2"
  allowed_account_ids = ["222222222222"]
}

resource "aws_s3_bucket" "snapshots" {
  bucket = "acme-snapshots"
}

resource "aws_s3_bucket_public_access_block" "snapshots" {
  bucket = aws_s3_bucket.snapshots.id

  block_public_acls       = true
  ignore_public_acls      = true
  block_public_policy     = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_server_side_encryption_configuration" "snapshots" {
  bucket = aws_s3_bucket.snapshots.id

  rule {
    apply_server_side_encryption_by_default {
      sse_algorithm = "AES256"
    }
  }
}

resource "aws_s3_bucket_versioning" "snapshots" {
  bucket = aws_s3_bucket.snapshots.id

  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "snapshots" {
  bucket     = aws_s3_bucket.snapshots.id
  depends_on = [aws_s3_bucket_versioning.snapshots]

  rule {
    id     = "unfinished-uploads"
    status = "Enabled"

    filter {}

    abort_incomplete_multipart_upload {
      days_after_initiation = 7
    }
  }
}

resource "aws_iam_role" "delivery" {
  name = "snapfleet-delivery"
  path = "/"

  assume_role_policy = jsonencode({
    "Version" : "2012-10-17",
    "Statement" : [
      {
        "Effect" : "Allow",
        "Principal" : { "AWS" : "arn:aws:iam::111111111111:root" },
        "Action" : "sts:AssumeRole",
        "Condition" : { "StringEquals" : { "sts:ExternalId" : "YOUR-EXTERNAL-ID-FROM-US" } }
      }
    ]
  })
}

resource "aws_iam_role_policy" "delivery" {
  name = "delivery"
  role = aws_iam_role.delivery.id

  policy = jsonencode({
    "Version" : "2012-10-17",
    "Statement" : [
      {
        "Effect" : "Allow",
        "Action" : ["s3:ListBucket", "s3:ListBucketMultipartUploads"],
        "Resource" : "arn:aws:s3:::acme-snapshots"
      },
      {
        "Effect" : "Allow",
        "Action" : [
          "s3:PutObject",
          "s3:GetObject",
          "s3:DeleteObject",
          "s3:AbortMultipartUpload",
          "s3:ListMultipartUploadParts"
        ],
        "Resource" : "arn:aws:s3:::acme-snapshots/*"
      }
    ]
  })
}

output "bucket" {
  value = aws_s3_bucket.snapshots.id
}

output "region" {
  value = "us-west-2"
}

output "role_arn" {
  value = aws_iam_role.delivery.arn
}
