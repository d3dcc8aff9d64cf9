package contracts

import (
	"errors"
	"fmt"
	"slices"
)

// Rejection is a failure that no retry cures: somebody has to change something first. Any error that has
// one in its chain ends the job; every other error is tried again.
type Rejection struct {
	Code Code
	Err  error // what happened, to what
}

// Reject makes a [Rejection]. The text says what happened and to what; cause and fix come from the code.
func Reject(code Code, format string, args ...any) error {
	return &Rejection{Code: code, Err: fmt.Errorf(format, args...)}
}

// Error is one line: code, what, fix. Like [Rejection.Reason] it has at most [MaxReasonBytes] of what happened.
func (r *Rejection) Error() string {
	what := CutText(r.Err.Error(), MaxReasonBytes)
	if fix := r.Code.Advice().Fix; fix != "" {
		return fmt.Sprintf("%s: %s; fix: %s", r.Code, what, fix)
	}
	return fmt.Sprintf("%s: %s", r.Code, what)
}

// Unwrap returns what happened.
func (r *Rejection) Unwrap() error { return r.Err }

// Reason is the rejection as others read it. What happened is valid UTF-8 of at most [MaxReasonBytes].
func (r *Rejection) Reason() *Reason {
	a := r.Code.Advice()
	return &Reason{Code: r.Code, What: CutText(r.Err.Error(), MaxReasonBytes), Cause: a.Cause, Fix: a.Fix}
}

// AsRejection finds the rejection in err's chain.
func AsRejection(err error) (*Rejection, bool) { return errors.AsType[*Rejection](err) }

// Code names a kind of rejection. Codes are stable: programs compare them.
type Code string

// The codes. What each means, and how it is mended, is in [Code.Advice].
const (
	InvalidRequest     Code = "invalid_request"
	RequestTooLarge    Code = "request_too_large"
	UnsupportedVersion Code = "unsupported_version"
	RequestExpired     Code = "request_expired"
	UnknownTenant      Code = "unknown_tenant"
	InvalidTenant      Code = "invalid_tenant"
	JobConflict        Code = "job_conflict"
	InvalidQuestion    Code = "invalid_question"
	NoDestination      Code = "no_destination"
	NotInHouse         Code = "not_in_house"
	NotDelivered       Code = "not_delivered"
	DeliveryExpired    Code = "delivery_expired"
	DeliveryChanged    Code = "delivery_changed"

	RoleDenied         Code = "role_denied"
	InsecureTrust      Code = "insecure_trust"
	EndpointNotAllowed Code = "endpoint_not_allowed"
	BucketNotFound     Code = "bucket_not_found"
	BucketDenied       Code = "bucket_denied"
	WrongRegion        Code = "wrong_region"
	WrongOwner         Code = "wrong_owner"
	WriteDenied        Code = "write_denied"
	KMSDenied          Code = "kms_denied"
	DestinationTaken   Code = "destination_taken"
	VolumeTooLarge     Code = "volume_too_large"
	TooManyVolumes     Code = "too_many_volumes"
	StoreUnusable      Code = "store_unusable"
	// These are found by a check of the destination, and end no job.
	InsecureBucket Code = "insecure_bucket"
	WriteLost      Code = "write_lost"
	Inconclusive   Code = "inconclusive" // nothing is known to be wrong

	SchemaNotFound        Code = "schema_not_found"
	SchemaEmpty           Code = "schema_empty"
	TableDenied           Code = "table_denied"
	RowSecurity           Code = "row_security"
	ForeignRelation       Code = "foreign_relation"
	TooManyTables         Code = "too_many_tables"
	FormatImpossible      Code = "format_impossible"
	ValueTooLarge         Code = "value_too_large"
	EncodingInvalid       Code = "encoding_invalid"
	DatabaseDenied        Code = "database_denied"
	DataCorrupted         Code = "data_corrupted"
	AttachmentsUnreadable Code = "attachments_unreadable"
	AttachmentForbidden   Code = "attachment_forbidden"
	AttachmentsMissing    Code = "attachments_missing"
	TooManyAttachments    Code = "too_many_attachments"
	AttachmentTooLong     Code = "attachment_too_long"
	SchemaTooLarge        Code = "schema_too_large"
	ManifestTooLarge      Code = "manifest_too_large"
	SourceNotFound        Code = "source_not_found"

	DeadlineExceeded  Code = "deadline_exceeded"
	AttemptsExhausted Code = "attempts_exhausted"
	CrashLoop         Code = "crash_loop"
	CancelledByUser   Code = "cancelled"

	RunUnderWay    Code = "run_under_way"
	RunMissed      Code = "run_missed"
	DeliveryIsLate Code = "delivery_overdue"
	// RecordChanged is the reason of a notice, and ends no job.
	RecordChanged Code = "record_changed"
)

// Advice is what usually is behind a rejection, and what to do about it. The customer's page of
// troubleshooting rows is made of these.
type Advice struct {
	Cause, Fix string
	// Customer: it is the customer who can mend it, in their AWS account.
	Customer bool
}

var advice = map[Code]Advice{
	InvalidRequest: {
		Cause: "the publisher's message is not a snapshot request of version 1",
		Fix:   "compare it with contracts/schemas/request.schema.json and publish it again under a new job id",
	},
	RequestTooLarge: {
		Cause: "a request is a few hundred bytes; this is something else",
		Fix:   "publish only the fields of contracts/schemas/request.schema.json",
	},
	UnsupportedVersion: {
		Cause: "publisher and fleet are of different releases",
		Fix:   "publish version 1, or upgrade the workers first",
	},
	RequestExpired: {
		Cause: "the request waited longer than the fleet allows (7 days unless configured)",
		Fix:   "ask again under a new job id, or with `snapfleet dead replay`",
	},
	UnknownTenant: {
		Cause: "no tenant of that name is registered, or its record was removed",
		Fix:   "register it with `snapfleet tenant set`, then ask again under a new job id, or with `snapfleet dead replay`",
	},
	InvalidTenant: {
		Cause: "the tenant's record has a field that cannot work",
		Fix:   "correct it with `snapfleet tenant set`",
	},
	JobConflict: {
		Cause: "that job id was used before, for a request with other content",
		Fix:   "ask again under a new job id",
	},
	InvalidQuestion: {
		Cause: "a worker was asked something that it does not understand, or that makes no sense for this tenant as it is registered now",
		Fix:   "read what is said above; if the worker is of another release than whoever asked, ask with the workers' release",
	},
	NoDestination: {
		Cause: "the tenant has no bucket of its own, and the fleet has no house bucket, or one whose record cannot work",
		Fix:   "set up a house bucket with `snapfleet setup --house-bucket --house-region --house-role-arn`, or give the tenant a bucket with `snapfleet tenant set --bucket --region --role-arn`; then ask again under a new job id",
	},
	NotInHouse: {
		Cause: "links are for deliveries to the house bucket; to any other bucket its owner gives access",
		Fix:   "download it from that bucket, with its owner's credentials",
	},
	NotDelivered: {
		Cause: "the job has not ended, or has ended without a delivery",
		Fix:   "see how it stands with `snapfleet status`",
	},
	DeliveryExpired: {
		Cause: "the house bucket keeps a delivery for a number of days only, or somebody has deleted it",
		Fix:   "ask for a snapshot under a new job id",
	},
	DeliveryChanged: {
		Cause: "something was changed in the house bucket after the delivery, or damaged there",
		Fix:   "trust nothing in that folder; ask for a snapshot under a new job id, and find out who writes to the house bucket",
	},

	RoleDenied: {
		Customer: true,
		Cause:    "either the role's trust policy does not name our account as principal, or its sts:ExternalId is not the one we gave you, or the role does not exist; AWS answers AccessDenied to all three",
		Fix:      "compare in the role's trust policy, character by character, (1) the principal with our account, (2) the sts:ExternalId with the one you were sent, and (3) the role ARN that you sent us with the one in IAM",
	},
	InsecureTrust: {
		Customer: true,
		Cause:    "the role lets us in without the external ID, so it would let anybody in who persuades us",
		Fix:      "add the condition StringEquals sts:ExternalId to the role's trust policy",
	},
	EndpointNotAllowed: {
		Cause: "the tenant's record names an S3 endpoint that this fleet may not talk to",
		Fix:   "add it to the workers' --allow-endpoint, or remove it from the tenant's record",
	},
	BucketNotFound: {
		Customer: true, Cause: "the bucket's name or its region is wrong, or the bucket was deleted",
		Fix: "compare the bucket's name and region in the S3 console with what you sent us",
	},
	BucketDenied: {
		Customer: true, Cause: "the role's permission policy does not cover the bucket, or the bucket's name is wrong, or a bucket policy denies",
		Fix: "grant s3:ListBucket and s3:ListBucketMultipartUploads on arn:aws:s3:::<bucket>, and look for a Deny in the bucket policy",
	},
	WrongRegion: {
		Customer: true, Cause: "the bucket is in another region than the one you sent us",
		Fix: "send us the region that the S3 console shows for the bucket",
	},
	WrongOwner: {
		Customer: true, Cause: "the bucket of that name belongs to another AWS account than the role",
		Fix: "check the bucket's name; if the bucket really is in another account, tell us that account",
	},
	WriteDenied: {
		Customer: true, Cause: "the role's permission policy lacks s3:PutObject (or s3:AbortMultipartUpload, s3:ListMultipartUploadParts, s3:GetObject, s3:DeleteObject) on the bucket's objects, or a bucket policy denies it",
		Fix: "grant these actions on arn:aws:s3:::<bucket>/*",
	},
	KMSDenied: {
		Customer: true, Cause: "the bucket encrypts with a KMS key that the role may not use; multipart uploads need both actions even where a single PUT does not",
		Fix: "grant the role kms:GenerateDataKey and kms:Decrypt on the key, in its permission policy and in the key policy",
	},
	DestinationTaken: {
		Customer: true, Cause: "the delivery's folder already holds files of that name which this job did not write",
		Fix: "look at the folder named above; move the files away, then ask for a snapshot under a new job id",
	},
	VolumeTooLarge: {
		Cause: "one .tar would need more than 10,000 parts",
		Fix:   "lower the tenant's volume size with `snapfleet tenant set --volume-size`",
	},
	TooManyVolumes: {
		Cause: "the job's record would not fit into one message of NATS: it names every upload of the delivery",
		Fix:   "raise the tenant's volume size with `snapfleet tenant set --volume-size`",
	},

	StoreUnusable: {
		Cause: "what answers at the bucket's endpoint does not speak S3 as AWS does: an answer is larger than any of S3, or a list has no end",
		Fix:   "find out which program answers there, the store or a proxy in front of it; then ask for a snapshot under a new job id",
	},

	InsecureBucket: {
		Customer: true, Cause: "a session that was narrowed to the tenant's folder gets at other names as well: the bucket policy lets in everybody, or our sessions by their name; or the store does not know session policies",
		Fix: "let the bucket policy allow nothing to \"*\" and nothing to assumed-role sessions, and block public access to the bucket; the role's permission policy is enough",
	},
	WriteLost: {
		Customer: true, Cause: "what S3 has acknowledged does not stand a moment later: something in the account moves, changes or removes new objects at once, such as a function, a sync or a lifecycle rule",
		Fix: "let it leave the tenant's folder alone, or wait for a delivery's manifest.json",
	},
	Inconclusive: {
		Cause: "STS or S3 did not answer in time, or what they answered says nothing about the destination: nothing is known to be wrong, and nothing is proven",
		Fix:   "check again in a few minutes; if it stays so, look at what is said above, at the workers' network and at their AWS credentials",
	},

	SchemaNotFound: {
		Cause: "the database has no schema of that name, or the exporter's role cannot see it",
		Fix:   "correct the schema with `snapfleet tenant set --schema`, or grant USAGE on it",
	},
	SchemaEmpty: {
		Cause: "the schema has no tables, which for a tenant usually means that it is the wrong one; or its filter leaves out all of them",
		Fix:   "correct the schema with `snapfleet tenant set --schema`, or the filter with --exclude-tables",
	},
	TableDenied: {
		Cause: "the exporter's database role may not read the tables named above",
		Fix:   "GRANT SELECT ON ALL TABLES IN SCHEMA to the role, and ALTER DEFAULT PRIVILEGES for tables to come",
	},
	RowSecurity: {
		Cause: "row-level security would hide rows from the exporter without an error",
		Fix:   "give the exporter's role BYPASSRLS, or take row-level security off the tables named above",
	},
	ForeignRelation: {
		Cause: "a table has partitions or inheriting tables in another schema, which is not the tenant's",
		Fix:   "move each relation named above into the tenant's schema with ALTER TABLE ... SET SCHEMA, which its owner may do without a superuser, or leave the parent table out with `snapfleet tenant set --exclude-tables`",
	},
	TooManyTables: {
		Cause: "the database's lock table is too small to lock every table at once",
		Fix:   "raise max_locks_per_transaction on the database",
	},
	FormatImpossible: {
		Cause: "a value cannot be made JSON of: its type has a cast to json of an extension's in a table whose owner's code a query would run, or it is an array or a record of more than 16 MiB",
		Fix:   "ask for the format csv.gz; or leave the table out with `snapfleet tenant set --exclude-tables`; or read the tenant with a database login of its own, as deploy/database.md shows",
	},
	ValueTooLarge: {
		Cause: "a row of the table named above is larger than the 1 GB that PostgreSQL can send: text doubles a bytea, and CSV and JSON make quotation marks and control characters longer",
		Fix:   "make the value smaller, or leave the table out with `snapfleet tenant set --exclude-tables`",
	},
	EncodingInvalid: {
		Cause: "a value of the table, or the name, that is named above is not valid UTF-8, and deliveries are UTF-8; the table itself is not damaged. A database of encoding SQL_ASCII takes any bytes, and so do some functions and casts",
		Fix:   "find the rows or names that are not UTF-8 and write them as UTF-8, or leave the table out with `snapfleet tenant set --exclude-tables`; in a database of encoding UTF8 the format csv.gz delivers such values as they are",
	},
	DatabaseDenied: {
		Cause: "the database refuses the exporter's login, or the worker's database URL is wrong",
		Fix:   "check the user, password and database in the worker's --database-url, or in the file that its --databases names",
	},
	DataCorrupted: {
		Cause: "PostgreSQL cannot read a page or a value of the table named above",
		Fix:   "repair the table; the server's log has the block",
	},
	AttachmentsUnreadable: {
		Cause: "the attachment query does not fit the tenant's schema, or was not allowed",
		Fix:   "correct the workers' --attachments-query, or grant SELECT on the table that it reads",
	},
	AttachmentForbidden: {
		Cause: "a row of the attachment table points to a bucket or a key that this tenant's files cannot have",
		Fix:   "look at the rows named above; if they are right, extend the workers' --attachments-source",
	},
	AttachmentsMissing: {
		Cause: "files that the attachment table names are gone from the source store, and the tenant's record says to fail then",
		Fix:   "restore the files, or set the tenant's --gaps to deliver",
	},
	TooManyAttachments: {
		Cause: "a snapshot lists 100,000 attachments at the most, because a worker holds the list in memory",
		Fix:   "leave old attachments out with `snapfleet tenant set --attachments-newer-than`, or let the workers' --attachments-query give fewer rows",
	},
	AttachmentTooLong: {
		Cause: "the columns of one row of the attachment query have 8 KiB at the most, because a worker holds the list in memory",
		Fix:   "shorten the row named above; usually its file name, or another of its columns, holds something else",
	},
	SchemaTooLarge: {
		Cause: "a schema has 100,000 tables, views and sequences and 200,000 columns at the most, because a worker holds the list in memory",
		Fix:   "move what is not to be delivered into another schema",
	},
	ManifestTooLarge: {
		Cause: "manifest.json has 96 MiB at the most, because a worker holds it in memory; every table, column and attachment is in it",
		Fix:   "leave tables or old attachments out with `snapfleet tenant set --exclude-tables --attachments-newer-than`",
	},
	SourceNotFound: {
		Cause: "a bucket that attachments are fetched from does not exist, or is in another region",
		Fix:   "correct the workers' --attachments-source and --attachments-region, or the rows that name the bucket",
	},

	DeadlineExceeded: {
		Cause: "the job did not end within the fleet's deadline",
		Fix:   "read the last error above and in `snapfleet status`, mend it, ask again under a new job id",
	},
	AttemptsExhausted: {
		Cause: "every attempt failed; the last error is the one above",
		Fix:   "mend what it says, then ask again under a new job id",
	},
	CrashLoop: {
		Cause: "workers died over this job again and again",
		Fix:   "look at the workers' last lines before they died (out of memory?), then ask again under a new job id",
	},
	RunUnderWay: {
		Cause: "the run of the schedule before this one has not ended; one tenant's runs never overlap",
		Fix:   "nothing, if it happens now and then; else see in `snapfleet status` what holds the run before up, or make the schedule wider with `snapfleet schedule set`",
	},
	RunMissed: {
		Cause: "no worker looked at the run before the schedule's next one was due: the workers, or NATS, were away",
		Fix:   "nothing: the run named above stands for all that were missed",
	},
	DeliveryIsLate: {
		Cause: "runs of the schedule fail, are skipped or wait, or there is no worker",
		Fix:   "see how the last jobs ended with `snapfleet status <tenant>`, and whether workers run",
	},
	RecordChanged: {
		Cause: "an operator has changed the tenant's record with `snapfleet tenant set` or `tenant rotate`, or another user who can write the registry has",
		Fix:   "compare the record with `snapfleet tenant get`; if no operator meant it, pause the tenant with `snapfleet pause` and find out who can write the registry",
	},
	CancelledByUser: {Cause: "somebody cancelled the job", Fix: "ask again under a new job id if that was a mistake"},
}

// Advice explains the code; it is empty for a code of another release.
func (c Code) Advice() Advice { return advice[c] }

// Codes lists every code of this release, sorted.
func Codes() []Code {
	codes := make([]Code, 0, len(advice))
	for c := range advice {
		codes = append(codes, c)
	}
	slices.Sort(codes)
	return codes
}
