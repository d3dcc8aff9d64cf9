package contracts_test

import (
	"strings"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
)

// The documents below have every field set; a test asserts it.

var instant = time.Date(2026, 3, 31, 14, 30, 22, 482913000, time.UTC)

func fullTenant() contracts.Tenant {
	return contracts.Tenant{
		Version: contracts.TenantVersion,
		Name:    "acme",
		Schema:  "acme_prod",
		Destination: contracts.Destination{
			Bucket:     "acme-snapshots",
			Region:     "us-west-2",
			RoleARN:    "arn:aws:iam::222222222222:role/teams/snapfleet-delivery",
			ExternalID: "7f3c1b1e9d0a4c5f8e2d6a7b",
			Owner:      "333333333333",
			KMSKeyARN:  "arn:aws:kms:us-west-2:222222222222:key/0d4c3f0e-52a1-4c9f-9a37-2f2b6a0b9c11",
			Endpoint:   "https://s3.example.com:9000",

			NextExternalID: "VXK7PNQ2ZJ4M6RTB3WDYH5AECS",
		},
		Database:  "eu-1",
		Filter:    contracts.Filter{ExcludeTables: []string{"audit_*"}, AttachmentsNewerThan: "90d"},
		Format:    contracts.CSV,
		Limits:    contracts.Limits{VolumeBytes: 1 << 30, Gaps: contracts.FailOnGaps},
		UpdatedAt: instant,
	}
}

func fullManifest() contracts.Manifest {
	const tables, files = "snapshot_tables_2026-03-31-143022.tar", "snapshot_attachments_part2_2026-03-31-143022.tar"
	return contracts.Manifest{
		Version:     contracts.ManifestVersion,
		Tenant:      "acme",
		Job:         "2026-03-31-143022",
		Attempt:     "3-9f86d081884c7d65",
		Only:        contracts.Tables,
		Format:      contracts.CSV,
		RequestedAt: instant,
		Snapshot:    contracts.Snapshot{At: instant, XID: "812:815:813", ServerVersion: "15.18", Standby: true},
		Tables: []contracts.Table{
			{
				Name:    `Größe "x"`,
				Columns: []contracts.Column{{Name: "id", Type: "numeric(12,4)", NotNull: true, Generated: true, Identity: true}},
				Rows:    7,
				Parents: []string{"base"}, Partitions: 3,
			},
			{Name: "no columns"},
		},
		Attachments: []contracts.Attachment{{
			ID: "a1", EntityID: "e1", Filename: "<a>.pdf", ContentType: "application/pdf", ETag: `"abc"`, File: "a1/%3Ca%3E.pdf", External: true,
		}},
		Gaps:     []contracts.Gap{{ID: "a2", Filename: "b.pdf", Reason: "missing"}},
		Excluded: []string{"view v"},
		Filter:   contracts.Filtered{ExcludeTables: []string{"audit_*", "stagin"}, Unmatched: []string{"stagin"}, Tables: []string{"audit_log"}, TablesTotal: 2, AttachmentsSince: instant, AttachmentsLeftOut: 4},
		Volumes: []contracts.Volume{
			{Name: tables, Kind: contracts.Tables, Size: 10240, CRC64NVME: "rosUhgp5mIM=", Files: 1},
			{Name: files, Kind: contracts.Attachments, Size: 10240, CRC64NVME: "rosUhgp5mIM=", Files: 1},
		},
		Files: []contracts.File{
			{Name: "t.csv.gz", Volume: tables, Of: `Größe "x"`, Size: 99, SHA256: strings.Repeat("9f", 32), Rows: 7},
			{Name: "a1/%3Ca%3E.pdf", Volume: files, Of: "a1", SHA256: strings.Repeat("00", 32)},
		},
		Totals:   contracts.Totals{Tables: 2, Rows: 7, Attachments: 1, Gaps: 1, Volumes: 2, Bytes: 20480, AttachmentsExcluded: "the schema has no attachment table", UnmatchedPatterns: 1},
		Producer: contracts.Producer{Name: "snapfleet", Version: "v0.1.0"},
		TraceID:  "4bf92f3577b34da6a3ce929d0e0e4736",
	}
}

func fullOutcome() contracts.Outcome {
	return contracts.Outcome{
		Version:        contracts.OutcomeVersion,
		Tenant:         "acme",
		Job:            "2026-03-31-143022",
		Kind:           contracts.DeliveredWithGaps,
		Attempt:        "3-9f86d081884c7d65",
		Attempts:       3,
		EndedAt:        instant,
		Manifest:       "s3://acme-snapshots/acme/2026-03-31-143022/manifest.json",
		ManifestSHA256: strings.Repeat("9f", 32),
		Totals:         &contracts.Totals{Tables: 2, Rows: 7, Attachments: 1, Gaps: 1, Volumes: 2, Bytes: 20480, AttachmentsExcluded: "the schema has no attachment table", UnmatchedPatterns: 1},
		Reason:         &contracts.Reason{Code: contracts.KMSDenied, What: "what", Cause: "cause", Fix: "fix"},
		TraceID:        "4bf92f3577b34da6a3ce929d0e0e4736",
		Schedule:       &contracts.ScheduledRun{FiredAt: instant, LateSeconds: 8220, Missed: []time.Time{instant}, MissedTotal: 1},
	}
}

func fullSchedule() contracts.Schedule {
	return contracts.Schedule{
		Version: contracts.ScheduleVersion, Tenant: "acme", Cron: "0 2 * * *", TimeZone: "America/Los_Angeles",
		Only: contracts.Tables, Format: contracts.JSONL, UpdatedAt: instant,
	}
}

func fullNotice() contracts.Notice {
	return contracts.Notice{
		Version: contracts.NoticeVersion, Tenant: "acme", Kind: contracts.DestinationBroken, At: instant, Since: instant,
		Reason: &contracts.Reason{Code: contracts.BucketNotFound, What: "what", Cause: "cause", Fix: "fix"},
	}
}

func fullRefusal() contracts.Refusal {
	return contracts.Refusal{
		Version: contracts.RefusalVersion, Tenant: "acme", Sequence: 4711, Digest: strings.Repeat("0", 64), Job: "j", MsgID: "acme.j", At: instant,
		Reason: contracts.Reason{Code: contracts.JobConflict, What: "what", Cause: "cause", Fix: "fix"},
	}
}

func fullHouse() contracts.House {
	return contracts.House{
		Version: contracts.HouseVersion, Days: 30, ExpiresBy: contracts.ByLifecycle, UpdatedAt: instant,
		Destination: contracts.Destination{
			Bucket: "our-snapshots", Region: "eu-central-1", RoleARN: "arn:aws:iam::111111111111:role/house",
			ExternalID: "c1b1e9d0a4c5f8e2d6a7b7f3", KMSKeyARN: "arn:aws:kms:eu-central-1:111111111111:key/1", Endpoint: "https://s3.example.com",
			Owner: "333333333333", NextExternalID: "VXK7PNQ2ZJ4M6RTB3WDYH5AECS",
		},
	}
}

func fullCheck() contracts.Check {
	return contracts.Check{
		Version: contracts.CheckVersion, Tenant: "acme", At: instant, Worker: "w1", Bucket: "acme-snapshots", Region: "us-west-2",
		RoleARN: "arn:aws:iam::222222222222:role/snapfleet-delivery",
		Steps: []contracts.CheckStep{
			{
				Name: contracts.CheckAssume, Result: contracts.CheckFailed, Milliseconds: 84,
				Reason: &contracts.Reason{Code: contracts.RoleDenied, What: "what", Cause: "cause", Fix: "fix"},
			},
			{Name: contracts.CheckWithoutID, Result: contracts.CheckSkipped},
		},
	}
}

func fullCheckQuestion() contracts.CheckQuestion {
	return contracts.CheckQuestion{Tenant: "acme", Next: true}
}

func fullLinks() contracts.Links {
	return contracts.Links{
		Version: contracts.LinksVersion, Tenant: "acme", Job: "2026-03-31-143022", ManifestSHA256: strings.Repeat("9f", 32),
		ValidUntil: instant, Expires: instant, ExpiresBy: contracts.ByTag, More: true,
		Files: []contracts.Link{{Name: contracts.ManifestName, Size: 7, ETag: `"9f"`, URL: "https://s3.example.com/our-snapshots/acme/2026-03-31-143022/manifest.json?X-Amz-Signature=9f"}},
	}
}

func fullLinksQuestion() contracts.LinksQuestion {
	return contracts.LinksQuestion{Tenant: "acme", Job: "2026-03-31-143022", Seconds: 900, Skip: 200}
}
