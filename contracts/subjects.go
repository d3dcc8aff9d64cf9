package contracts

// Everything that snapfleet owns in JetStream. Operators see these names in `nats stream ls`.
const (
	RequestStream  = "SNAPSHOT_REQUESTS"  // work queue of [Request]
	ScheduleStream = "SNAPSHOT_SCHEDULES" // each tenant's [Schedule], and work queue of the runs that JetStream makes of them
	OutcomeStream  = "SNAPSHOT_OUTCOMES"  // one [Outcome] per job, written once
	DeadStream     = "SNAPSHOT_DEAD"      // requests that were given up, with the reason
	RefusedStream  = "SNAPSHOT_REFUSED"   // answers to requests that never became a job, [Refusal]
	NoticeStream   = "SNAPSHOT_NOTICES"   // what concerns a tenant and no job, [Notice]
	JobBucket      = "snapshot_jobs"      // key-value: the record of each job
	PieceBucket    = "snapshot_pieces"    // key-value: receipts, and plans of attachments, of jobs under way
	TenantBucket   = "snapshot_tenants"   // key-value: the registry, [Tenant]
	FleetBucket    = "snapshot_fleet"     // key-value: what the fleet knows between two jobs
	WorkersName    = "workers"            // the durable pull consumer that the fleet shares
	WebhookName    = "webhook"            // the same of outcomes, and of notices, for what posts them
)

// Subject spaces, as streams subscribe to them.
const (
	RequestSubjects  = "snapshot.request.*"
	ScheduleSubjects = "snapshot.schedule.*"
	RunSubjects      = "snapshot.run.*"
	OutcomeSubjects  = "snapshot.outcome.*.*"
	DeadSubjects     = "snapshot.dead.*"
	RefusedSubjects  = "snapshot.refused.*"
	NoticeSubjects   = "snapshot.notice.*.*"
	AskSubjects      = "snapshot.ask.*" // questions, in no stream: one of the workers answers at once
)

// ServiceName is what the workers' service is called in `nats micro ls`.
const ServiceName = "snapfleet"

// RequestSubject is where a publisher asks for a snapshot of tenant.
func RequestSubject(tenant string) string { return "snapshot.request." + tenant }

// ScheduleSubject is where a tenant's schedule is kept, as one message that JetStream publishes on [RunSubject] again and
// again. Publishers of requests have nothing to do with either: whoever may publish in a stream with schedules may, by a
// header, purge it.
func ScheduleSubject(tenant string) string { return "snapshot.schedule." + tenant }

// RunSubject is where JetStream publishes a tenant's schedule whenever it is time.
func RunSubject(tenant string) string { return "snapshot.run." + tenant }

// OutcomeSubject is where the end of a job is told, exactly once.
func OutcomeSubject(tenant, job string) string { return "snapshot.outcome." + tenant + "." + job }

// NoTenant replaces, in a subject, a name that no tenant can have. A publisher chooses the last token of a
// request's subject, and it may have 4,000 bytes.
const NoTenant = "_"

// subjectTenant is tenant as the last token of a subject.
func subjectTenant(tenant string) string {
	if ValidTenant(tenant) {
		return tenant
	}
	return NoTenant
}

// DeadSubject is where requests of a tenant go that were given up. A name that no tenant can have is [NoTenant].
func DeadSubject(tenant string) string { return "snapshot.dead." + subjectTenant(tenant) }

// RefusedSubject is where publishers hear that a request for tenant was refused, see [Refusal]. A name that no tenant can
// have is [NoTenant].
func RefusedSubject(tenant string) string { return "snapshot.refused." + subjectTenant(tenant) }

// AskSubject is where the workers are asked something. Whoever may publish there may ask.
func AskSubject(question string) string { return "snapshot.ask." + question }

// NoticeSubject is where what concerns a tenant is told.
func NoticeSubject(tenant string, kind NoticeKind) string {
	return "snapshot.notice." + tenant + "." + string(kind)
}

// RequestMsgID is the Nats-Msg-Id of a request, which spares the fleet most repeated messages.
// Correctness does not depend on it: the job record does that.
func RequestMsgID(tenant, job string) string { return tenant + "." + job }

// MaxTenantRequests is how many requests of one tenant wait at once in [RequestStream]. The server refuses the next one.
const MaxTenantRequests = 1000

// Headers of a message on [DeadStream]; the body is the original one, byte for byte, or the request that was made of a
// schedule's. The publisher's own headers that begin with HeaderPrefix or "Nats-" are not kept.
const (
	HeaderPrefix = "Snapfleet-"

	HeaderCode   = "Snapfleet-Code"   // a [Code]
	HeaderReason = "Snapfleet-Reason" // what was wrong, in one line
	HeaderJob    = "Snapfleet-Job"    // the job, when the request could be read that far
	HeaderDigest = "Snapfleet-Digest" // SHA-256 of the original body
	HeaderCut    = "Snapfleet-Cut"    // how many bytes the original body had, when it could not be kept whole
)
