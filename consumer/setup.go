package consumer

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/snapfleet/snapfleet/contracts"
)

// SetupOptions is what operators may choose about the streams. A zero field means its default.
type SetupOptions struct {
	// Replicas of every stream and bucket. Default 1; production has 3.
	Replicas int
	// AckWait is when the queue hands out a message whose worker has gone silent. Default 60 s; it must
	// not be less than the workers' observation time.
	AckWait time.Duration
}

// Setup creates what is missing of the streams, buckets and the queue's consumer, and returns a line for each
// of them. What an earlier release made is brought up to date. Nothing else that exists is changed: what differs is an
// error that names the field, because it is an operator who has to know why.
func Setup(ctx context.Context, js jetstream.JetStream, o SetupOptions) ([]string, error) {
	if o.Replicas == 0 {
		o.Replicas = 1
	}
	if o.AckWait == 0 {
		o.AckWait = 60 * time.Second
	}
	if err := checkPayload(js.Conn()); err != nil {
		return nil, err
	}
	var lines []string
	for _, p := range plan() {
		p.stream.Replicas = o.Replicas
		did, err := p.ensure(ctx, js)
		if err != nil {
			return lines, err
		}
		lines = append(lines, p.what()+": "+did)
	}
	for _, p := range plan() {
		if p.queue == "" {
			continue
		}
		want := p.consumer()
		want.AckWait, want.Replicas = o.AckWait, o.Replicas
		did, err := p.ensureConsumer(ctx, js, want)
		if err != nil {
			return lines, err
		}
		lines = append(lines, p.reader()+": "+did)
	}
	tenants, err := openCells(ctx, js, contracts.TenantBucket)
	if err != nil {
		return lines, err
	}
	did, err := ensureFleetKey(ctx, tenants)
	if err != nil {
		return lines, err
	}
	return append(lines, "fleet key: "+did), nil
}

// What Setup did about a thing.
const (
	made     = "created"
	upgraded = "brought up to date"
	kept     = "as it should be"
)

// verify is Setup without creating: what is missing, or differs in anything but what operators choose, is
// an error.
func verify(ctx context.Context, js jetstream.JetStream) error {
	for _, p := range plan() {
		s, err := js.Stream(ctx, p.stream.Name)
		if err != nil {
			return fmt.Errorf("%s: %w", p.what(), notSetUp(err))
		}
		if err := p.compare(s.CachedInfo().Config); err != nil {
			return err
		}
		if p.queue == "" {
			continue
		}
		q, err := js.Consumer(ctx, p.stream.Name, contracts.WorkersName)
		if err != nil {
			return fmt.Errorf("%s: %w", p.reader(), notSetUp(err))
		}
		if err := p.compareConsumer(q.CachedInfo().Config); err != nil {
			return err
		}
	}
	return nil
}

// notSetUp tells what to do about something that is not there.
func notSetUp(err error) error {
	for _, missing := range []error{jetstream.ErrStreamNotFound, jetstream.ErrBucketNotFound, jetstream.ErrConsumerNotFound} {
		if errors.Is(err, missing) {
			return fmt.Errorf("%w: run `snapfleet setup` first", err)
		}
	}
	return err
}

// place is a stream, or a bucket, which is a stream with a prefix.
type place struct {
	stream  jetstream.StreamConfig
	bucket  string // not empty: created as a key-value bucket
	history uint8
	queue   string // what the fleet consumes of it, if anything
}

// remembered is for how long an end is remembered. A record that is worked on is written every few seconds, and one that
// waits every hour, so only what has ended gets that old. Nothing is begun again by forgetting it: a request is refused
// long before it is that old.
const remembered = 400 * 24 * time.Hour

// What publishers can fill has bounds: requests, and dead letters and answers, of all tenants and of one. The bounds are of
// messages, because the server sets bytes aside as soon as a stream is made, and a small server has fewer. A message has
// at most [contracts.MaxRequestBytes]: 13 GB of requests, and 6.5 GB of dead letters.
const (
	maxRequests      = 200 * contracts.MaxTenantRequests
	maxLetters       = 100_000
	maxTenantLetters = 1000
)

// allRequests is what the fleet consumes of the requests. It is wider than the stream's own subjects: a publisher may write
// on the literal subject "snapshot.request.>", which the stream takes and which the stream's own subject does not match.
const allRequests = "snapshot.request.>"

// maxWaiting is how many messages of a queue may be handed out or delayed at once. Fifty tenants can have all their
// requests delayed before another tenant's requests are held up.
const maxWaiting = 50 * contracts.MaxTenantRequests

// plan is everything that snapfleet keeps in JetStream.
func plan() []place {
	return []place{
		{stream: jetstream.StreamConfig{
			Name: contracts.RequestStream, Subjects: []string{contracts.RequestSubjects}, Description: "snapshot requests",
			Retention: jetstream.WorkQueuePolicy, Discard: jetstream.DiscardNew, Storage: jetstream.FileStorage,
			// The server keeps every message id in memory for so long, and a publisher's may have 60 KB.
			Duplicates: 2 * time.Minute, MaxMsgSize: contracts.MaxRequestBytes,
			// A publisher hears from the server when a tenant has its share of what waits, or when all have.
			MaxMsgsPerSubject: contracts.MaxTenantRequests, DiscardNewPerSubject: true, MaxMsgs: maxRequests,
		}, queue: allRequests},
		// A stream of its own: whoever may publish where schedules are allowed may, by a header, purge all that is there. And
		// the server allows none beside DiscardNew; there is no limit, so nothing is discarded either way.
		{stream: jetstream.StreamConfig{
			Name: contracts.ScheduleStream, Subjects: []string{contracts.ScheduleSubjects, contracts.RunSubjects}, Description: "schedules, and the runs that they make",
			AllowMsgSchedules: true, Retention: jetstream.WorkQueuePolicy, Discard: jetstream.DiscardOld, Storage: jetstream.FileStorage,
			Duplicates: 24 * time.Hour, MaxMsgSize: contracts.MaxRequestBytes,
		}, queue: contracts.RunSubjects},
		{stream: jetstream.StreamConfig{
			Name: contracts.OutcomeStream, Subjects: []string{contracts.OutcomeSubjects}, Description: "how each snapshot job ended, written once",
			// The second outcome of a job is refused by the server, whoever publishes it.
			MaxMsgsPerSubject: 1, Discard: jetstream.DiscardNew, DiscardNewPerSubject: true, DenyDelete: true, DenyPurge: true,
			Storage: jetstream.FileStorage, MaxAge: remembered, Duplicates: 2 * time.Minute,
		}},
		{stream: jetstream.StreamConfig{
			Name: contracts.DeadStream, Subjects: []string{contracts.DeadSubjects}, Description: "requests that were given up, with the reason",
			DenyDelete: true, Storage: jetstream.FileStorage, MaxAge: 90 * 24 * time.Hour, Duplicates: 20 * time.Minute,
			// The oldest letters of a tenant that is asked for again and again go first.
			MaxMsgsPerSubject: maxTenantLetters, MaxMsgs: maxLetters,
		}},
		{stream: jetstream.StreamConfig{
			Name: contracts.RefusedStream, Subjects: []string{contracts.RefusedSubjects}, Description: "answers to requests that never became a job",
			DenyDelete: true, Storage: jetstream.FileStorage, MaxAge: 7 * 24 * time.Hour, Duplicates: 2 * time.Minute,
			MaxMsgsPerSubject: maxTenantLetters, MaxMsgs: maxLetters,
		}},
		{stream: jetstream.StreamConfig{
			Name: contracts.NoticeStream, Subjects: []string{contracts.NoticeSubjects}, Description: "what concerns a tenant and no job",
			DenyDelete: true, Storage: jetstream.FileStorage, MaxAge: 90 * 24 * time.Hour, Duplicates: 2 * time.Minute,
		}},
		{bucket: contracts.JobBucket, history: 5, stream: jetstream.StreamConfig{
			Name: "KV_" + contracts.JobBucket, Description: "the record of each snapshot job", MaxAge: remembered,
		}},
		{bucket: contracts.PieceBucket, history: 1, stream: jetstream.StreamConfig{
			Name: "KV_" + contracts.PieceBucket, Description: "receipts and plans of jobs under way", MaxAge: remembered,
		}},
		{bucket: contracts.TenantBucket, history: 10, stream: jetstream.StreamConfig{Name: "KV_" + contracts.TenantBucket, Description: "the registry of tenants"}},
		{bucket: contracts.FleetBucket, history: 1, stream: jetstream.StreamConfig{Name: "KV_" + contracts.FleetBucket, Description: "what the fleet knows between two jobs"}},
	}
}

func (p place) what() string {
	if p.bucket != "" {
		return "bucket " + p.bucket
	}
	return "stream " + p.stream.Name
}

func (p place) ensure(ctx context.Context, js jetstream.JetStream) (did string, err error) {
	s, err := js.Stream(ctx, p.stream.Name)
	switch {
	case err == nil:
		have := s.CachedInfo().Config
		did = kept
		if p.outgrow(&have) {
			if s, err = js.UpdateStream(ctx, have); err != nil {
				return "", fmt.Errorf("bring %s up to date: %w", p.what(), err)
			}
			have, did = s.CachedInfo().Config, upgraded
		}
		return did, errors.Join(p.compare(have), differs(p.what(), "replicas", have.Replicas, p.stream.Replicas))
	case !errors.Is(err, jetstream.ErrStreamNotFound):
		return "", fmt.Errorf("%s: %w", p.what(), err)
	case p.bucket != "":
		_, err = js.CreateKeyValue(ctx, jetstream.KeyValueConfig{
			Bucket: p.bucket, Description: p.stream.Description, History: p.history, TTL: p.stream.MaxAge, Storage: jetstream.FileStorage, Replicas: p.stream.Replicas,
		})
	default:
		_, err = js.CreateStream(ctx, p.stream)
	}
	if err != nil {
		return "", fmt.Errorf("create %s: %w", p.what(), err)
	}
	return made, nil
}

// outgrow sets the bounds that an earlier release did not set, and reports whether there were any. What an operator has set
// otherwise is left alone.
func (p place) outgrow(have *jetstream.StreamConfig) (changed bool) {
	if p.bucket != "" || p.stream.MaxMsgs == 0 || have.MaxMsgs > 0 || have.MaxMsgsPerSubject > 0 || have.DiscardNewPerSubject {
		return false
	}
	have.MaxMsgs, have.MaxMsgsPerSubject, have.DiscardNewPerSubject = p.stream.MaxMsgs, p.stream.MaxMsgsPerSubject, p.stream.DiscardNewPerSubject
	have.Duplicates = p.stream.Duplicates
	return true
}

// compare looks at every field that a promise rests on.
func (p place) compare(have jetstream.StreamConfig) error {
	want := p.stream
	if p.bucket != "" {
		return errors.Join(
			differs(p.what(), "history", have.MaxMsgsPerSubject, int64(p.history)),
			differs(p.what(), "ttl", have.MaxAge, want.MaxAge),
			differs(p.what(), "storage", have.Storage, jetstream.FileStorage),
			differs(p.what(), "max_bytes", have.MaxBytes, int64(-1)),
		)
	}
	unlimited := func(n int64) int64 { return max(n, 0) }
	return errors.Join(
		differs(p.what(), "subjects", have.Subjects, want.Subjects),
		differs(p.what(), "allow_msg_schedules", have.AllowMsgSchedules, want.AllowMsgSchedules),
		differs(p.what(), "retention", have.Retention, want.Retention),
		differs(p.what(), "discard", have.Discard, want.Discard),
		differs(p.what(), "discard_new_per_subject", have.DiscardNewPerSubject, want.DiscardNewPerSubject),
		differs(p.what(), "max_msgs_per_subject", unlimited(have.MaxMsgsPerSubject), want.MaxMsgsPerSubject),
		differs(p.what(), "max_msgs", unlimited(have.MaxMsgs), want.MaxMsgs),
		differs(p.what(), "max_bytes", unlimited(have.MaxBytes), want.MaxBytes),
		differs(p.what(), "max_msg_size", max(have.MaxMsgSize, 0), want.MaxMsgSize),
		differs(p.what(), "max_age", have.MaxAge, want.MaxAge),
		differs(p.what(), "duplicate_window", have.Duplicates, want.Duplicates),
		differs(p.what(), "storage", have.Storage, want.Storage),
		differs(p.what(), "deny_delete", have.DenyDelete, want.DenyDelete),
		differs(p.what(), "deny_purge", have.DenyPurge, want.DenyPurge),
		differs(p.what(), "no_ack", have.NoAck, false),
		differs(p.what(), "mirror or sources", have.Mirror != nil || len(have.Sources) > 0, false),
	)
}

func differs(what, field string, have, want any) error {
	if reflect.DeepEqual(have, want) {
		return nil
	}
	return fmt.Errorf("%s: %s is %v, and should be %v: change it with the nats command, or remove what stands there", what, field, have, want)
}

// consumer is what the whole fleet takes its work from. BackOff stays empty, because it does not compose with delayed naks;
// MaxDeliver stays -1, because it would strand messages; the fleet counts attempts itself.
func (p place) consumer() jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable: contracts.WorkersName, Description: "the workers of the fleet",
		AckPolicy: jetstream.AckExplicitPolicy, MaxDeliver: -1, MaxAckPending: maxWaiting, FilterSubject: p.queue,
	}
}

func (p place) reader() string { return "consumer " + contracts.WorkersName + " of " + p.stream.Name }

func (p place) ensureConsumer(ctx context.Context, js jetstream.JetStream, want jetstream.ConsumerConfig) (did string, err error) {
	q, err := js.Consumer(ctx, p.stream.Name, want.Durable)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		if _, err := js.CreateConsumer(ctx, p.stream.Name, want); err != nil {
			return "", fmt.Errorf("create %s: %w", p.reader(), err)
		}
		return made, nil
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", p.reader(), err)
	}
	have, did := q.CachedInfo().Config, kept
	if p.earlier(have) {
		have.FilterSubject, have.MaxAckPending = want.FilterSubject, want.MaxAckPending
		q, err := js.UpdateConsumer(ctx, p.stream.Name, have)
		if err != nil {
			return "", fmt.Errorf("bring %s up to date: %w", p.reader(), err)
		}
		have, did = q.CachedInfo().Config, upgraded
	}
	return did, errors.Join(p.compareConsumer(have), differs(p.reader(), "ack_wait", have.AckWait, want.AckWait))
}

// earlier reports whether a consumer is as an earlier release has made it.
func (p place) earlier(have jetstream.ConsumerConfig) bool {
	const pending = 10_000
	return len(have.FilterSubjects) == 0 && (have.FilterSubject == "" || have.FilterSubject == contracts.RequestSubjects && p.queue == allRequests || have.MaxAckPending == pending)
}

func (p place) compareConsumer(have jetstream.ConsumerConfig) error {
	want, what := p.consumer(), p.reader()
	filters := slices.DeleteFunc(append(have.FilterSubjects, have.FilterSubject), func(s string) bool { return s == "" })
	return errors.Join(
		differs(what, "ack_policy", have.AckPolicy, want.AckPolicy),
		differs(what, "deliver_policy", have.DeliverPolicy, want.DeliverPolicy),
		differs(what, "max_deliver", have.MaxDeliver, want.MaxDeliver),
		differs(what, "max_ack_pending", have.MaxAckPending, want.MaxAckPending),
		differs(what, "backoff", len(have.BackOff), 0),
		differs(what, "filter_subjects", strings.Join(filters, " "), want.FilterSubject),
		differs(what, "headers_only", have.HeadersOnly, false),
	)
}
