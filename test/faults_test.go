package test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/test/bucket"
	"github.com/snapfleet/snapfleet/test/world"
)

// A moment is the n-th time that a delivery says something to a store, to the broker or to the database.
type moment struct {
	name string
	skip int

	operation string // of a store
	source    bool   // of our own one, not the customer's
	says      says   // where it is no store: the message to or from a server

	reads bool  // nothing takes effect: that it failed, and that its answer was lost, is the same
	slow  bool  // it comes only in deliveries that take their time
	late  bool  // it comes after the job's end
	after *blow // without which it does not come
}

// says makes what chooses a message of a job. It may remember what it has been asked about.
type says func(l *lane, job string) func(world.Message) bool

// match chooses a request to a store that is made for a job: the janitor makes others, for jobs that have ended.
func (m moment) match(l *lane, job string) func(bucket.Call) bool {
	folder := contracts.JobPrefix(l.tenant, job)
	return func(c bucket.Call) bool {
		switch {
		case c.Operation != m.operation:
			return false
		case m.operation == "AssumeRole":
			return c.Query.Get("RoleArn") == l.role && c.Query.Get("RoleSessionName") == "snapshot-"+job
		case m.source:
			return c.Bucket == l.source && c.Principal == worker.ARN
		}
		return c.Bucket == l.bucket && strings.Contains(c.Principal, ":assumed-role/") && strings.HasPrefix(cmp.Or(c.Key, c.Query.Get("prefix")), folder)
	}
}

// moments are those of a delivery, in their order. FPnn are the fault points by which the catalogue of failures
// knows them; those that are missing are named in TESTING.md.
var moments = slices.Concat([]moment{
	{name: "pull", says: pulled, reads: true},                             // FP01
	{name: "read-tenant", says: asks(tenantCell), reads: true},            // FP03
	{name: "read-record", says: asks(recordCell), reads: true},            // FP04
	{name: "assume", operation: "AssumeRole"},                             // FP09
	{name: "look-for-manifest", operation: "GetObject"},                   // FP11, as all up to list-probe
	{name: "mark-for-janitor", says: puts(sweepCell, nil)},                // FP05
	{name: "create-record", says: puts(recordCell, nil)},                  // FP05
	{name: "list-folder", operation: "ListObjectsV2"},                     //
	{name: "heartbeat", says: puts(recordCell, nil), skip: 1, slow: true}, // FP07
	{name: "in-progress", says: settles("+WPI"), slow: true},              // FP08
	{name: "list-uploads", operation: "ListMultipartUploads"},             //
	{name: "create-probe", operation: create},                             //
	{name: "put-probe", operation: "UploadPart"},                          //
	{name: "abort-probe", operation: "AbortMultipartUpload"},              // FP39
	{name: "list-probe", operation: "ListParts"},                          // FP29
}, queries, []moment{
	{name: "create-tables", operation: create, skip: 1},                                                   // FP27
	{name: "record-upload", says: puts(recordCell, func(r jobRecord) bool { return len(r.Uploads) > 0 })}, // FP27
	{name: "part-tables", operation: "UploadPart", skip: 1},                                               // FP28
	{name: "source-head", operation: "HeadObject", source: true},                                          // FP25
	{name: "create-attachments", operation: create, skip: 2},                                              // FP27
	{name: "source-get", operation: "GetObject", source: true},                                            // FP25; with cut: FP26
	{name: "part-attachments", operation: "UploadPart", skip: 2},                                          // FP28
	{name: "receipt", says: puts(receiptCell, nil)},                                                       // FP30
	{name: "committing", says: puts(recordCell, in("committing"))},                                        // FP31
	{name: "complete-first", operation: complete},                                                         // FP32
	{name: "complete-second", operation: complete, skip: 1},                                               // FP32
	{name: "head-volume", operation: "HeadObject"},                                                        // FP33
	{name: "sealing", says: puts(recordCell, in("sealing"))},                                              // FP35
	{name: "put-manifest", operation: "PutObject"},                                                        // FP34
	{name: "committed", says: puts(recordCell, in("committed"))},                                          // FP35
	{name: "outcome", says: publishes("snapshot.outcome.")},                                               // FP36
	{name: "done", says: puts(recordCell, in("done"))},                                                    // FP37
	{name: "ack", says: settles("+ACK"), late: true},                                                      // FP38
	{name: "janitor-list", operation: "ListMultipartUploads", skip: 1, late: true},                        // FP40
	{name: "janitor-note", says: puts(sweepCell, nil), skip: 1, late: true},                               // FP40
}, consequences)

// queries are what the exporter says to PostgreSQL, and what it hears.
var queries = []moment{
	{name: "pg-connect", says: told("startup", ""), reads: true},               // FP12
	{name: "pg-lock", says: told("", "LOCK TABLE"), reads: true},               // FP13
	{name: "pg-export", says: told("", "pg_export_snapshot"), reads: true},     // FP14
	{name: "pg-relist", says: relists, reads: true},                            // FP15
	{name: "pg-join", says: told("", "SET TRANSACTION SNAPSHOT"), reads: true}, // FP16
	{name: "pg-copy", says: told("", "COPY ("), reads: true},                   // FP17
	{name: "pg-rows", says: heard("d"), skip: 500, reads: true},                // FP18
	{name: "pg-copied", says: heard("c"), reads: true},                         // FP19
}

// consequences are the moments that come only after something else went wrong.
var consequences = []moment{
	{name: "assume-for-attempt", after: hits("assume", "denied"), operation: "AssumeRole"},                                           // FP09
	{name: "takeover", after: hits("create-tables", "kill"), says: puts(recordCell, func(r jobRecord) bool { return r.Epoch > 1 })},  // FP06
	{name: "refresh", after: hits("create-tables", "sessions-expire"), operation: "AssumeRole", skip: 1},                             // FP10
	{name: "release", after: hits("create-tables", "term"), says: puts(recordCell, func(r jobRecord) bool { return r.Owner == "" })}, // FP41
	{name: "failing", after: hits("assume", "denied-twice"), says: puts(recordCell, in("failing"))},
	{name: "dead-letter", after: hits("assume", "denied-twice"), says: publishes("snapshot.dead.")}, // FP42
	{name: "failed", after: hits("assume", "denied-twice"), says: puts(recordCell, in("failed"))},
	{name: "term-request", after: hits("assume", "denied-twice"), says: settles("+TERM"), late: true}, // FP43
}

// hits is a kind of fault at one of a store's moments.
func hits(at, what string) *blow {
	m := map[string]moment{
		"create-tables": {name: "create-tables", operation: create, skip: 1},
		"assume":        {name: "assume", operation: "AssumeRole"},
	}[at]
	k := map[string]kind{
		"kill":            {name: "kill", strike: strikeKill},
		"term":            {name: "term", strike: strikeTerm},
		"sessions-expire": {name: "sessions-expire", strike: expireSessions},
		// Once is when it is looked whether the job is delivered: the attempt finds out for itself.
		"denied":       {name: "denied", fault: bucket.Fault{Times: 1, Reply: answer(403, "AccessDenied")}, ends: []contracts.Code{contracts.RoleDenied}},
		"denied-twice": {name: "denied", fault: bucket.Fault{Times: 2, Reply: answer(403, "AccessDenied")}, ends: []contracts.Code{contracts.RoleDenied}},
	}[what]
	return &blow{m, k}
}

// jobRecord is what is looked at of a job's record.
type jobRecord struct {
	State     string             `json:"state"`
	Epoch     uint64             `json:"epoch"`
	Owner     string             `json:"owner"`
	AttemptID string             `json:"attempt_id"`
	Uploads   []contracts.Upload `json:"uploads"`
}

func in(state string) func(jobRecord) bool {
	return func(r jobRecord) bool { return r.State == state }
}

// A cell is a place in a key-value bucket, given a job's tenant and name. One that ends in a dot is a folder.
type cell func(tenant, job string) (bucket, key string)

func recordCell(tenant, job string) (string, string) { return contracts.JobBucket, tenant + "." + job }

func receiptCell(tenant, job string) (string, string) {
	return contracts.PieceBucket, tenant + "." + job + ".receipt."
}

func sweepCell(tenant, job string) (string, string) {
	return contracts.JobBucket, "sweep." + tenant + "." + job
}
func tenantCell(tenant, _ string) (string, string) { return contracts.TenantBucket, tenant }

// puts is a write to a cell.
func puts(at cell, when func(jobRecord) bool) says {
	return func(l *lane, job string) func(world.Message) bool {
		bucket, key := at(l.tenant, job)
		subject := "$KV." + bucket + "." + key
		return func(m world.Message) bool {
			if !m.ToServer || m.Kind != "PUB" || m.Subject != subject && (!strings.HasSuffix(subject, ".") || !strings.HasPrefix(m.Subject, subject)) {
				return false
			}
			var r jobRecord
			return when == nil || json.Unmarshal(m.Body, &r) == nil && when(r)
		}
	}
}

// asks is a read of a cell.
func asks(at cell) says {
	return func(l *lane, job string) func(world.Message) bool {
		bucket, key := at(l.tenant, job)
		return func(m world.Message) bool {
			return m.ToServer && strings.HasPrefix(m.Subject, "$JS.API.") && strings.Contains(m.Subject, "KV_"+bucket) &&
				(strings.HasSuffix(m.Subject, "."+key) || bytes.Contains(m.Body, []byte("."+key+`"`)))
		}
	}
}

func publishes(prefix string) says {
	return func(*lane, string) func(world.Message) bool {
		return func(m world.Message) bool {
			return m.ToServer && m.Kind == "PUB" && strings.HasPrefix(m.Subject, prefix)
		}
	}
}

// acks is where a message of the queue is settled.
const acks = "$JS.ACK."

// settles is what is said of a message of the queue.
func settles(word string) says {
	return func(*lane, string) func(world.Message) bool {
		return func(m world.Message) bool {
			return m.ToServer && strings.HasPrefix(m.Subject, acks) && bytes.HasPrefix(m.Body, []byte(word))
		}
	}
}

// pulled is a request on its way to a worker.
func pulled(*lane, string) func(world.Message) bool {
	return func(m world.Message) bool { return !m.ToServer && m.Kind == "MSG" && strings.HasPrefix(m.Reply, acks) }
}

// told is a message to PostgreSQL.
func told(kind, text string) says {
	return func(*lane, string) func(world.Message) bool {
		return func(m world.Message) bool {
			return m.ToServer && m.Subject == "" && (kind == "" || m.Kind == kind) && bytes.Contains(m.Body, []byte(text))
		}
	}
}

// heard is a message from PostgreSQL.
func heard(kind string) says {
	return func(*lane, string) func(world.Message) bool {
		return func(m world.Message) bool { return !m.ToServer && m.Kind == kind }
	}
}

// relists is the second statement after the instant was taken: it was prepared before, so its text is not repeated.
func relists(*lane, string) func(world.Message) bool {
	after := map[string]int{}
	return func(m world.Message) bool {
		switch {
		case !m.ToServer || m.Subject != "":
			return false
		case bytes.Contains(m.Body, []byte("pg_export_snapshot")):
			after[m.Via] = 1
		case m.Kind == "B" && after[m.Via] > 0:
			after[m.Via]++
		}
		return m.Kind == "B" && after[m.Via] == 3
	}
}

// A kind is what goes wrong.
type kind struct {
	name  string
	fault bucket.Fault // but for Match and Skip
	// strike acts while the moment is held, before or (with fault.Apply) after it took effect. who is the worker whose
	// moment it is, empty where that is not known.
	strike func(ctx context.Context, l *lane, job, who string) error
	// mend undoes what strike has done, after its time; 0: when the job has ended.
	mend func(l *lane) error
	wait time.Duration
	// ends are the rejections that the job may end with, besides being delivered.
	ends []contracts.Code
	own  bool // only on a database server of its own
	// only are the operations that it fits; none: all.
	only []string
}

// fits tells whether a kind and a moment make a case.
func (k kind) fits(m moment) bool {
	switch {
	case m.reads && k.fault.Apply:
		return false
	case m.says != nil: // a broker or a database gives no answers in a store's words
		return len(k.only) == 0 && k.fault.Reply.Status == 0 && !k.own
	case m.source && slices.Contains(k.only, "source"):
		return true
	}
	return len(k.only) == 0 || !m.source && (slices.Contains(k.only, m.operation) || slices.Contains(k.only, m.name))
}

func answer(status int, code string) bucket.Reply { return bucket.Reply{Status: status, Code: code} }

// Of a lane's workers: what they are told, and how long a hang and a pause are, so that others think them dead.
const (
	heartbeat = 400 * time.Millisecond
	fence     = 2 * time.Second
	observe   = 3 * time.Second
	ackWait   = 3 * time.Second
	tooLong   = 4 * time.Second
)

// replies are what a server or the network may do to anything that is said.
var replies = []kind{
	{name: "503", fault: bucket.Fault{Times: 1, Reply: answer(503, "SlowDown")}},
	{name: "storm", fault: bucket.Fault{Times: 4, Reply: answer(503, "SlowDown")}},
	{name: "500-but-done", fault: bucket.Fault{Times: 1, Apply: true, Reply: answer(500, "InternalError")}},
	{name: "lost", fault: bucket.Fault{Times: 2, Reply: bucket.Reply{Lost: true}}},
	{name: "lost-but-done", fault: bucket.Fault{Times: 2, Apply: true, Reply: bucket.Reply{Lost: true}}},
	{name: "delay", fault: bucket.Fault{Times: 1, Delay: heartbeat}},
	{name: "hang", fault: bucket.Fault{Times: 1, Delay: tooLong}},
	{name: "hang-after", fault: bucket.Fault{Times: 1, Apply: true, Delay: tooLong, Reply: bucket.Reply{Lost: true}}},
}

// deaths happen to whoever says it. Where it is not known who that is (the janitor), they cannot.
var deaths = []kind{
	{name: "kill", strike: strikeKill, fault: bucket.Fault{Reply: bucket.Reply{Lost: true}}},
	{name: "kill-after", strike: strikeKill, fault: bucket.Fault{Apply: true}},
	{name: "stop", strike: strikeStop},
	{name: "stop-after", strike: strikeStop, fault: bucket.Fault{Apply: true}},
}

const (
	create   = "CreateMultipartUpload"
	complete = "CompleteMultipartUpload"
)

// peculiar are the faults of some operations.
var peculiar = []kind{
	{
		name: "expired", fault: bucket.Fault{Times: 1, Reply: answer(400, "ExpiredToken")},
		only: []string{"GetObject", "ListObjectsV2", create, "UploadPart", complete, "HeadObject", "PutObject", "AbortMultipartUpload"},
	},
	{name: "409", fault: bucket.Fault{Times: 1, Reply: answer(409, "ConditionalRequestConflict")}, only: []string{complete, "PutObject"}},
	{name: "412-but-done", fault: bucket.Fault{Times: 1, Apply: true, Reply: answer(412, "PreconditionFailed")}, only: []string{complete, "PutObject"}},
	{name: "200-error", fault: bucket.Fault{Times: 1, Reply: answer(200, "InternalError")}, only: []string{complete}},
	{name: "200-error-but-done", fault: bucket.Fault{Times: 1, Apply: true, Reply: answer(200, "InternalError")}, only: []string{complete}},
	{name: "no-such-upload", fault: bucket.Fault{Times: 1, Reply: answer(404, "NoSuchUpload")}, only: []string{complete}},
	{name: "no-such-upload-but-done", fault: bucket.Fault{Times: 1, Apply: true, Reply: answer(404, "NoSuchUpload")}, only: []string{complete}},
	{name: "no-such-upload-for-part", fault: bucket.Fault{Times: 1, Reply: answer(404, "NoSuchUpload")}, only: []string{"UploadPart", "ListParts"}},
	{name: "bad-digest", fault: bucket.Fault{Times: 1, Reply: answer(400, "BadDigest")}, only: []string{"UploadPart"}},
	{name: "aborted-by-hand", strike: strikeUploads, only: []string{"UploadPart", complete, create}},
	{name: "sessions-expire", strike: expireSessions, only: []string{create, "UploadPart", complete, "PutObject"}},
	{
		name: "revoked", strike: strikeTrust, mend: (*lane).mendTrust, wait: 1500 * time.Millisecond, only: []string{"AssumeRole", create, "UploadPart", complete, "HeadObject", "PutObject"},
		ends: []contracts.Code{contracts.RoleDenied, contracts.WriteDenied, contracts.BucketDenied},
	},
	{ // the uploads cannot be aborted until the job has failed: the janitor has to
		name: "locked-out", strike: strikeTrust, mend: (*lane).mendTrust, only: []string{"part-tables", "part-attachments"},
		ends: []contracts.Code{contracts.RoleDenied, contracts.WriteDenied, contracts.BucketDenied},
	},
	{name: "cut", fault: bucket.Fault{Times: 1, Reply: bucket.Reply{Cut: 1000}}, only: []string{"GetObject", "source"}},
	{name: "vanishes", strike: strikeSource(nil), mend: (*lane).mendSource, only: []string{"source"}},
	{name: "changes", strike: strikeSource(changed), mend: (*lane).mendSource, only: []string{"source"}},
}

// accidents happen to servers and processes while a request is under way.
var accidents = []kind{
	{name: "term", strike: strikeTerm},
	{name: "nats-restart", strike: func(ctx context.Context, l *lane, _, _ string) error { return l.nats.Restart(ctx) }},
	{name: "consumer-gone", strike: strikeConsumer},
	{name: "record-purged", strike: strikeRecord},
	{name: "postgres-restart", own: true, strike: func(ctx context.Context, l *lane, _, _ string) error { return l.server.Restart(ctx, world.Immediate) }},
	{name: "session-terminated", strike: strikeSession("ASC"), only: []string{"create-tables"}}, // FP20
	{name: "sibling-terminated", strike: strikeSession("DESC"), only: []string{"create-tables"}},
}

// landmarks are the moments at which accidents are tried one by one: one in each stretch of a delivery.
var landmarks = []string{"create-probe", "create-tables", "part-tables", "source-get", "part-attachments", "complete-first", "complete-second", "head-volume", "put-manifest"}

// bulky are the moments of an attachment that does not fit into a part.
var bulky = []string{"source-head", "create-attachments", "source-get", "part-attachments", "receipt", "complete-second"}
