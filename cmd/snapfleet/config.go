package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/user"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"github.com/dustin/go-humanize"
	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/snapfleet/snapfleet/consumer"
	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/exporter"
)

// This file is the only one that reads flags and the environment. Flags that say where servers are
// and how a worker works have a variable each, SNAPFLEET_SOME_NAME for --some-name; the flag wins. Flags that say what one
// call is to do have none: what is left in a shell must not change a record, nor agree in place of a person. PG*, AWS_* and OTEL_* are read by pgx, the AWS SDK and
// the OpenTelemetry SDK, which own them.

// envPrefix begins the name of every variable of ours.
const envPrefix = "SNAPFLEET"

// cli is the whole command line.
type cli struct {
	Worker workerCmd `cmd:"" group:"fleet" help:"Take snapshot requests and deliver them."`
	Setup  setupCmd  `cmd:"" group:"fleet" help:"Create the streams and buckets that the fleet lives on."`
	Tenant tenantCmd `cmd:"" group:"operator" help:"Keep the registry of tenants: whose data, and which bucket."`

	Policy   policyCmd   `cmd:"" group:"operator" help:"Print what a customer sets up: policies, CloudFormation, Terraform, AWS CLI."`
	Schedule scheduleCmd `cmd:"" group:"operator" help:"Keep the tenants' schedules, and see who is overdue."`

	Submit submitCmd `cmd:"" group:"operator" help:"Ask for a snapshot of a tenant."`
	Status statusCmd `cmd:"" group:"operator" help:"Show how jobs are doing."`
	Cancel cancelCmd `cmd:"" group:"operator" help:"Stop a job that is not yet past its point of no return."`
	Pause  pauseCmd  `cmd:"" group:"operator" help:"Begin no job, for a tenant or for the fleet, for a while."`
	Resume resumeCmd `cmd:"" group:"operator" help:"End a pause."`
	Dead   deadCmd   `cmd:"" group:"operator" help:"Look at requests that were given up, and publish them again."`

	Links    linksCmd    `cmd:"" group:"operator" help:"Make short-lived links to a delivery in the house bucket."`
	Download downloadCmd `cmd:"" group:"operator" help:"Download a delivery from the house bucket, and prove it."`

	Webhook webhookCmd `cmd:"" group:"operator" help:"Try the webhook that tells how jobs ended."`

	Export exportCmd `cmd:"" group:"local" help:"Write a snapshot of a schema into a local folder: no NATS, no S3."`
	Verify verifyCmd `cmd:"" group:"local" help:"Read a delivery back and prove it against its manifest."`

	Completion completionCmd `cmd:"" group:"other" help:"Print the code that makes a shell complete snapfleet's commands."`
	Version    versionCmd    `cmd:"" group:"other" help:"Print the version."`

	ConfigTable configTableCmd `cmd:"" hidden:"" help:"Print the worker's configuration as a table in Markdown."`
}

// natsFlags say where NATS is and who we are there.
type natsFlags struct {
	NATSURL    string `name:"nats-url" group:"nats" default:"${nats_url}" placeholder:"URL" env:"SNAPFLEET_NATS_URL" help:"NATS servers, separated by commas."`
	NATSCreds  string `name:"nats-creds" group:"nats" type:"path" placeholder:"FILE" env:"SNAPFLEET_NATS_CREDS" help:"Credentials file (JWT and seed) to log in to NATS with."`
	NATSNKey   string `name:"nats-nkey" group:"nats" type:"path" placeholder:"FILE" env:"SNAPFLEET_NATS_NKEY" help:"File with the seed of an NKey to log in to NATS with, where the server's configuration knows users by their public keys: see deploy/nats."`
	NATSInbox  string `name:"nats-inbox" group:"nats" default:"_INBOX" placeholder:"PREFIX" env:"SNAPFLEET_NATS_INBOX" help:"Subjects on which answers are heard begin with this. Users of one account who may not hear each other's answers have one each: see deploy/nats."`
	NATSDomain string `name:"nats-domain" group:"nats" placeholder:"NAME" env:"SNAPFLEET_NATS_DOMAIN" help:"Domain of the JetStream that holds the streams, where it is not this account's own: see deploy/nats."`
	NATSCA     string `name:"nats-ca" group:"nats" type:"path" placeholder:"FILE" env:"SNAPFLEET_NATS_CA" help:"PEM file with the authority that signed the NATS servers' certificates. Default: the system's authorities."`
}

// connect dials NATS once: an operator's verb that cannot reach it says so at once, and a worker is
// started again by whoever supervises it.
func (f natsFlags) connect(name string) (*nats.Conn, error) {
	secrets.addNATS(f.NATSURL)
	for _, server := range strings.Split(f.NATSURL, ",") {
		server = strings.TrimSpace(server)
		if !strings.Contains(server, "://") { // nats.go takes it so
			server = "nats://" + server
		}
		if _, err := url.Parse(server); err != nil { // whose text may hold a part of the password
			return nil, explain(exitUsage, errors.New("--nats-url: not a list of URLs"),
				"special characters of the user and the password, such as @ : / ? # % and spaces, have to be written %40 %3A %2F %3F %23 %25 %20",
				"write it as nats://HOST:4222, or use --nats-creds or --nats-nkey in place of a password")
		}
	}
	if err := nats.CustomInboxPrefix(f.NATSInbox)(new(nats.Options)); err != nil {
		return nil, usagef("--nats-inbox: %q is no prefix of subjects", f.NATSInbox)
	}
	quiet := func(*nats.Conn, *nats.Subscription, error) {} // the library's own handler prints on the terminal
	opts := []nats.Option{nats.Name("snapfleet " + name), nats.CustomInboxPrefix(f.NATSInbox), nats.ErrorHandler(quiet)}
	if f.NATSCreds != "" {
		opts = append(opts, nats.UserCredentials(f.NATSCreds))
	}
	if f.NATSNKey != "" {
		nkey, err := nats.NkeyOptionFromSeed(f.NATSNKey)
		if err != nil {
			return nil, explain(exitUsage, fmt.Errorf("--nats-nkey: %w", err), "the file cannot be read, or holds no seed of an NKey, which begins with SU", "make one with `nats auth nkey gen user` or `nk -gen user`, and tell the server its public half")
		}
		opts = append(opts, nkey)
	}
	if f.NATSCA != "" {
		opts = append(opts, nats.RootCAs(f.NATSCA), nats.Secure(&tls.Config{MinVersion: tls.VersionTLS12}))
	}
	nc, err := consumer.Connect(f.NATSURL, opts...)
	if err != nil {
		return nil, explain(exitUnreachable, fmt.Errorf("%s: %w", redact(f.NATSURL), err),
			"no NATS server listens there, or it refuses these credentials",
			"check --nats-url (SNAPFLEET_NATS_URL), --nats-creds, --nats-nkey and --nats-ca")
	}
	return nc, nil
}

// verbFlags are those of the verbs that ask NATS something.
type verbFlags struct {
	natsFlags
	Timeout time.Duration `group:"nats" default:"30s" env:"SNAPFLEET_TIMEOUT" help:"How long to wait for NATS. Following a job, a question to a worker and a download have limits of their own. 0: for ever."`
}

// jetStream dials, and from then on ctx, a verb's, ends when NATS does not answer in time, or refuses a right.
func (f verbFlags) jetStream(ctx context.Context, name string) (*nats.Conn, jetstream.JetStream, error) {
	if f.Timeout < 0 {
		return nil, nil, usagef("--timeout is %v, less than nothing", f.Timeout)
	}
	nc, err := f.connect(name)
	if err != nil {
		return nil, nil, err
	}
	if p, ok := ctx.Value(patienceKey{}).(*patience); ok {
		p.watch(ctx, nc, f.Timeout, f.NATSInbox+".")
	}
	js, err := consumer.JetStream(nc, f.NATSDomain)
	if err != nil {
		nc.Close()
		return nil, nil, err
	}
	return nc, js, nil
}

// notSetUp explains what is missing on a server that nobody has set up.
func notSetUp(err error) error {
	for _, missing := range []error{jetstream.ErrBucketNotFound, jetstream.ErrStreamNotFound, jetstream.ErrConsumerNotFound} {
		if errors.Is(err, missing) {
			return explain(0, err, "this NATS account holds nothing of snapfleet, or not all of it", "run `snapfleet setup`, or check --nats-url, --nats-creds and --nats-nkey")
		}
	}
	return err
}

// databaseVariable is a PG* variable that pgx does not read.
func databaseVariable(name string) string { return os.Getenv(name) }

// databaseFlags say which PostgreSQL is read.
type databaseFlags struct {
	DatabaseURL string `name:"database-url" group:"postgres" placeholder:"URL" env:"SNAPFLEET_DATABASE_URL" help:"PostgreSQL to read: a postgres:// URL or libpq's key=value string. What it leaves out comes from the PG* variables (PGHOST, PGUSER, PGPASSWORD, PGSSLMODE ...) and ~/.pgpass. {tenant} in the user is replaced by the tenant's name: see deploy/database.md. Prefer the variable to the flag: other users of the machine can read command lines."`
}

// config parses the URL. The error never holds it.
func (f databaseFlags) config() (*pgx.ConnConfig, error) {
	cfg, err := parseDatabase(f.DatabaseURL)
	if err == nil {
		secrets.add(cfg.Password)
		return cfg, nil
	}
	return nil, explain(exitUsage, fmt.Errorf("--database-url or the PG* variables: %w", err),
		"the connection string cannot be parsed",
		"write it as "+databaseHint)
}

// databasesFlags say which PostgreSQL servers a worker reads besides.
type databasesFlags struct {
	ReplicaURL string `name:"replica-url" group:"postgres" placeholder:"URL" env:"SNAPFLEET_REPLICA_URL" help:"Hot standby of --database-url, to read in its place. The primary is read when it cannot be read, or has ended two attempts of a job."`
	Databases  string `group:"postgres" type:"path" placeholder:"FILE" env:"SNAPFLEET_DATABASES" help:"JSON file with further PostgreSQL servers, by the names that tenants' records have for them; the help page shows one. It holds logins: give no other user the right to read it."`
}

// readFlags are how a database is read. They are [exporter.Config], field by field.
type readFlags struct {
	Connections      int           `group:"postgres" default:"4" env:"SNAPFLEET_CONNECTIONS" help:"Connections that read one snapshot's tables at once, next to the one that holds the instant. They come with the work: a small tenant needs none."`
	FleetConnections int           `group:"postgres" default:"20" env:"SNAPFLEET_FLEET_CONNECTIONS" help:"Connections that the whole fleet reads one database server with, a replica being one of its own, as far as its workers have the same setting; --databases may say otherwise for each. A job takes what is free, and waits in the queue when nothing is. 0: without a bound, that is slots x (connections + 1) for each worker."`
	ChunkSize        byteSize      `group:"postgres" default:"16MiB" env:"SNAPFLEET_CHUNK_SIZE" help:"How much of a table one COPY reads. One giant table keeps every connection busy; 0 reads whole tables."`
	Level            int           `group:"postgres" default:"2" env:"SNAPFLEET_LEVEL" help:"Deflate level, 1 to 9. With 1 the files grow by 2 to 8 %, with 6 they take two to three times as long."`
	LockTimeout      time.Duration `group:"postgres" default:"10s" env:"SNAPFLEET_LOCK_TIMEOUT" help:"How long to wait for a table that another session alters before the attempt ends, to be tried again later."`

	AttachmentsQuery  string       `group:"attachments" placeholder:"SQL" env:"SNAPFLEET_ATTACHMENTS_QUERY" help:"Query that lists a tenant's attachments, in the order of delivery: id, entity_id, filename, content_type, s3_bucket, s3_key, s3_etag; and created_at where tenants leave out old attachments. {schema} is replaced by the tenant's schema, quoted. Default: these columns of {schema}.file_attachments, ordered by id."`
	AttachmentsSource []sourceFlag `group:"attachments" sep:"," placeholder:"BUCKET=PREFIX/" env:"SNAPFLEET_ATTACHMENTS_SOURCE" help:"A place that attachments may be fetched from: keys below PREFIX/ in BUCKET. {tenant} in the prefix is replaced by the tenant's name, so that no row can name another tenant's file. Without any, a row with a stored file is refused."`
	AttachmentsRegion string       `group:"attachments" placeholder:"REGION" env:"SNAPFLEET_ATTACHMENTS_REGION" help:"Region of these buckets. Default: AWS_REGION."`
	AttachmentsFetch  int          `group:"attachments" default:"8" env:"SNAPFLEET_ATTACHMENTS_FETCH" help:"Attachments that are fetched at once."`
}

func (f readFlags) config() (exporter.Config, error) {
	c := exporter.Config{
		Connections: f.Connections, FleetConnections: f.FleetConnections, ChunkBytes: int64(f.ChunkSize), Level: f.Level, LockTimeout: f.LockTimeout,
		Attachments: exporter.Attachments{Query: f.AttachmentsQuery, Fetch: f.AttachmentsFetch},
	}
	if c.ChunkBytes == 0 {
		c.ChunkBytes = -1 // whole tables
	}
	if c.FleetConnections == 0 {
		c.FleetConnections = -1 // no bound
	}
	for _, s := range f.AttachmentsSource {
		c.Attachments.Sources = append(c.Attachments.Sources, exporter.Source(s))
	}
	if err := c.Validate(); err != nil {
		return c, usagef("%w", err)
	}
	return c, nil
}

// sourceFlag is BUCKET=PREFIX/.
type sourceFlag exporter.Source

// UnmarshalText splits at the first "=", which no bucket's name has.
func (s *sourceFlag) UnmarshalText(text []byte) error {
	bucket, prefix, ok := strings.Cut(string(text), "=")
	if !ok {
		return fmt.Errorf("%q is not BUCKET=PREFIX/", text)
	}
	*s = sourceFlag{Bucket: bucket, Prefix: prefix}
	return nil
}

// writeFlags are how volumes are cut into parts. They are [uploader.Config], as far as it is everybody's.
type writeFlags struct {
	PartSize byteSize `group:"s3" default:"16MiB" env:"SNAPFLEET_PART_SIZE" help:"Size of an S3 part, a multiple of 512 bytes, 5MiB to 5GiB. A volume has at most --max-parts of them."`
	Buffers  int      `group:"s3" default:"5" env:"SNAPFLEET_BUFFERS" help:"Parts that one job holds in memory, at least 3. A worker's memory is about slots x buffers x part size."`
}

// workerCmd is the worker's configuration: this struct is its manual.
type workerCmd struct {
	Name      string        `group:"work" placeholder:"NAME" env:"SNAPFLEET_NAME" help:"This worker's name in records and logs. Default: the host's name."`
	Slots     int           `group:"work" default:"2" env:"SNAPFLEET_SLOTS" help:"Jobs that are worked on at once."`
	PerTenant int           `group:"work" default:"2" env:"SNAPFLEET_PER_TENANT" help:"Jobs of one tenant that the whole fleet works on at once, more or less. One tenant never has a worker's last free slot."`
	Grace     time.Duration `group:"work" default:"10m" env:"SNAPFLEET_GRACE" help:"How long jobs under way may go on after SIGTERM, before they are given back to the queue. Whatever stops the process must allow a little more."`
	Attempts  int           `group:"work" default:"8" env:"SNAPFLEET_ATTEMPTS" help:"How often a job may end in an error before it is given up."`
	Crashes   int           `group:"work" default:"20" env:"SNAPFLEET_CRASHES" help:"How often a worker may go silent over one job before it is given up."`
	Deadline  time.Duration `group:"work" default:"72h" env:"SNAPFLEET_DEADLINE" help:"Time after which a job is given up, counted from its first attempt."`
	MaxAge    time.Duration `group:"work" default:"168h" env:"SNAPFLEET_MAX_AGE" help:"Age at which a request that no worker has begun is refused."`
	Stall     time.Duration `group:"work" default:"10m" env:"SNAPFLEET_STALL" help:"Time without a single byte of progress after which an attempt is ended."`

	RetryBase time.Duration `group:"work" default:"30s" env:"SNAPFLEET_RETRY_BASE" help:"Bound of the random delay before the first retry, doubled for each one after it."`
	RetryMax  time.Duration `group:"work" default:"1h" env:"SNAPFLEET_RETRY_MAX" help:"Most that this bound grows to."`

	Heartbeat time.Duration `group:"lease" default:"10s" env:"SNAPFLEET_HEARTBEAT" help:"How often a worker renews its hold on a job. Twice this must be less than --fence."`
	Fence     time.Duration `group:"lease" default:"30s" env:"SNAPFLEET_FENCE" help:"Time without a renewal after which a worker stops by itself. Must be less than --observe."`
	Observe   time.Duration `group:"lease" default:"1m" env:"SNAPFLEET_OBSERVE" help:"How long a job's record must stand still before another worker takes over. No more than the queue's ack wait."`

	SweepEvery    time.Duration `group:"round" default:"5m" env:"SNAPFLEET_SWEEP_EVERY" help:"How often the fleet looks for uploads that ended jobs have left behind."`
	SweepAfter    time.Duration `group:"round" default:"15m" env:"SNAPFLEET_SWEEP_AFTER" help:"How long after its end a job is looked after for the first time."`
	SweepAgain    time.Duration `group:"round" default:"24h" env:"SNAPFLEET_SWEEP_AGAIN" help:"How long after its end a job is looked after for the last time. Longer than assumed credentials live, because a paused worker may wake up until then."`
	CheckEvery    time.Duration `group:"round" default:"24h" env:"SNAPFLEET_CHECK_EVERY" help:"How often a tenant's destination is checked without a request, as \"snapfleet tenant check\" does. 0 or negative: never."`
	CheckAhead    time.Duration `group:"round" default:"12h" env:"SNAPFLEET_CHECK_AHEAD" help:"How long before a scheduled snapshot its tenant's destination is checked, so that a customer can fix it in time. 0 or negative: never."`
	ScheduleEvery time.Duration `group:"round" default:"1m" env:"SNAPFLEET_SCHEDULE_EVERY" help:"How often the fleet looks for runs of schedules that JetStream has not fired, and for tenants whose deliveries are overdue."`

	databaseFlags
	databasesFlags
	readFlags
	writeFlags
	MaxParts        int           `group:"s3" default:"10000" env:"SNAPFLEET_MAX_PARTS" help:"Parts that the store takes for one object."`
	AllowEndpoint   []string      `group:"s3" sep:"," placeholder:"URL" env:"SNAPFLEET_ALLOW_ENDPOINT" help:"S3 endpoint other than AWS that a tenant's record may name, exactly as it names it."`
	NoChecksum      bool          `group:"s3" env:"SNAPFLEET_NO_CHECKSUM" help:"Leave CRC64NVME out of requests, for stores that do not know it."`
	SessionDuration time.Duration `group:"s3" default:"1h" env:"SNAPFLEET_SESSION_DURATION" help:"How long assumed credentials live, 15m to 12h. They are refreshed in time. Not more than 1h when the worker's own credentials are a role's."`
	TrustCheck      time.Duration `group:"s3" default:"24h" env:"SNAPFLEET_TRUST_CHECK" help:"How often a customer's role is asked to let us in without its external ID, which it must refuse. Negative: never."`

	webhookFlags
	natsFlags
	logFlags
	Listen        string        `group:"observe" default:":8080" placeholder:"ADDRESS" env:"SNAPFLEET_LISTEN" help:"Address of /metrics, /healthz and /readyz. Empty: none."`
	MeasureEvery  time.Duration `group:"observe" default:"30s" env:"SNAPFLEET_MEASURE_EVERY" help:"How often one worker of the fleet measures the queue, for the metrics that are of the whole fleet."`
	TenantMetrics int           `group:"observe" default:"0" placeholder:"N" env:"SNAPFLEET_TENANT_METRICS" help:"For how many tenants with a schedule, those whose last delivery is oldest, its age is a metric of their own, with the tenant's name as a label; at most 1000."`
}

// webhookFlags are where outcomes and notices are posted, and how they are signed.
type webhookFlags struct {
	WebhookURL        string        `name:"webhook-url" group:"webhook" placeholder:"URL" env:"SNAPFLEET_WEBHOOK_URL" help:"Where the fleet posts how jobs ended, and what concerns a tenant, as signed CloudEvents: https, or http on loopback. Empty: nowhere. Give it to all workers or to some; each event is posted by one of them."`
	WebhookSecretFile string        `group:"webhook" type:"path" placeholder:"FILE" env:"SNAPFLEET_WEBHOOK_SECRET_FILE" help:"File with the secret that signs, whsec_ and 24 to 64 random bytes in base64; while it is being changed, the old one and the new one, a line each. Or the same in the variable SNAPFLEET_WEBHOOK_SECRET; there is no flag for it, because other users of the machine can read command lines."`
	WebhookSource     string        `group:"webhook" default:"${webhook_source}" placeholder:"URI" env:"SNAPFLEET_WEBHOOK_SOURCE" help:"Source of the events, to tell several fleets apart."`
	WebhookTimeout    time.Duration `group:"webhook" default:"15s" env:"SNAPFLEET_WEBHOOK_TIMEOUT" help:"Time that one post may take, 100ms to 1m."`
	WebhookCA         string        `name:"webhook-ca" group:"webhook" type:"path" placeholder:"FILE" env:"SNAPFLEET_WEBHOOK_CA" help:"PEM file with the authority that signed the receiver's certificate. Default: the system's authorities."`
}

// secretVariable has the webhook's secrets, as a file would.
const secretVariable = envPrefix + "_WEBHOOK_SECRET"

// webhook is nil when none is wanted.
func (f webhookFlags) webhook() (*consumer.Webhook, error) {
	const fix = "put whsec_ and 32 random bytes in base64 into a file, `echo whsec_$(openssl rand -base64 32)`, name it with --webhook-secret-file or put the secret into " + secretVariable + ", and give it to the receiver"
	if f.WebhookURL == "" {
		if f.WebhookSecretFile != "" {
			return nil, explain(exitUsage, errors.New("--webhook-secret-file is given, and no --webhook-url"), "nothing is posted without a URL", "give --webhook-url, too, or neither")
		}
		return nil, nil
	}
	secrets := os.Getenv(secretVariable)
	if f.WebhookSecretFile != "" {
		content, err := os.ReadFile(f.WebhookSecretFile)
		if err != nil {
			return nil, explain(exitUsage, fmt.Errorf("--webhook-secret-file: %w", err), "the secret that signs the webhook's posts cannot be read", fix)
		}
		secrets = string(content)
	}
	var roots *x509.CertPool
	if f.WebhookCA != "" {
		content, err := os.ReadFile(f.WebhookCA)
		if err != nil {
			return nil, usagef("--webhook-ca: %w", err)
		}
		if roots = x509.NewCertPool(); !roots.AppendCertsFromPEM(content) {
			return nil, usagef("--webhook-ca: %s has no certificate in PEM", f.WebhookCA)
		}
	}
	hook, err := consumer.NewWebhook(consumer.WebhookConfig{
		URL: f.WebhookURL, Secrets: strings.Fields(secrets), Source: f.WebhookSource, Timeout: f.WebhookTimeout, Roots: roots,
	})
	if err != nil {
		if len(strings.Fields(secrets)) == 0 && !errors.Is(err, consumer.ErrWebhookURL) {
			return nil, explain(exitUsage, err, "neither --webhook-secret-file nor "+secretVariable+" has a secret", fix)
		}
		return nil, explain(exitUsage, err, "the webhook's flags, or its secret, cannot be meant", "see `snapfleet webhook test --help`; a secret is made by `echo whsec_$(openssl rand -base64 32)`")
	}
	return hook, nil
}

// logFlags say what a worker writes to stderr.
type logFlags struct {
	LogLevel  string `group:"observe" default:"info" enum:"debug,info,warn,error" env:"SNAPFLEET_LOG_LEVEL" help:"Least serious event that is logged."`
	LogFormat string `group:"observe" default:"auto" enum:"auto,json,text" env:"SNAPFLEET_LOG_FORMAT" help:"How events are written: json for machines, text for people, auto chooses text on a terminal."`
}

// byteSize is a number of bytes, written 64MiB, 1.5GB or 67108864.
type byteSize int64

// UnmarshalText reads what people write.
func (b *byteSize) UnmarshalText(text []byte) error {
	n, err := humanize.ParseBytes(string(text))
	if err != nil || n > 1<<62 {
		return fmt.Errorf("%q is not a size such as 64MiB or 50GiB", text)
	}
	*b = byteSize(n)
	return nil
}

// tenantSize is a byteSize that an empty value takes back.
type tenantSize int64

// UnmarshalText reads what people write.
func (s *tenantSize) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*s = 0
		return nil
	}
	return (*byteSize)(s).UnmarshalText(text)
}

// checkNames refuses names that cannot exist before anything is asked over the network. An empty job is
// no job given.
func checkNames(tenant, job string) error {
	if !contracts.ValidTenant(tenant) {
		return usagef("tenant %.80q is not 1 to 63 of A-Z a-z 0-9 _ -, starting with a letter or digit", tenant)
	}
	if job != "" && !contracts.ValidJob(job) {
		return usagef("job %.80q is not 1 to 64 of A-Z a-z 0-9 _ -", job)
	}
	return nil
}

// traceExporters are those that the OTEL_ variables name: otlp and console; grpc says how otlp speaks. Without a variable
// that names a place nothing is sent: the SDK's own default would be a collector on localhost, and few hosts run one.
//
// A value that cannot be meant is ignored, as the specification demands, and ignored says so. It is taken out of the
// environment, because the SDK would make something else of it.
func traceExporters() (names []string, grpc bool, ignored []string) {
	ignore := func(variable, why string) {
		ignored = append(ignored, fmt.Sprintf("%s=%.100q is ignored: %s", variable, redact(os.Getenv(variable)), why))
		_ = os.Unsetenv(variable)
	}
	switch disabled := strings.TrimSpace(os.Getenv("OTEL_SDK_DISABLED")); {
	case strings.EqualFold(disabled, "true"):
		return nil, false, nil
	case disabled != "" && !strings.EqualFold(disabled, "false"):
		ignore("OTEL_SDK_DISABLED", "it is neither true nor false")
	}
	for _, variable := range []string{"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"} {
		if v := os.Getenv(variable); v != "" && v != "grpc" && v != "http/protobuf" {
			ignore(variable, "known are http/protobuf and grpc")
		}
	}
	grpc = cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"), os.Getenv("OTEL_EXPORTER_OTLP_PROTOCOL")) == "grpc"
	somewhere := false
	for _, variable := range []string{"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"} {
		v := os.Getenv(variable)
		u, err := url.Parse(v)
		switch {
		case v == "":
		case !grpc && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == ""):
			ignore(variable, "it is no URL with a scheme and a host, such as http://collector:4318")
		default:
			somewhere = true
		}
	}
	const variable = "OTEL_TRACES_EXPORTER"
	for _, name := range strings.Split(os.Getenv(variable), ",") {
		switch name = strings.TrimSpace(name); name {
		case "":
		case "none":
			return nil, false, ignored
		case "otlp", "console":
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		default:
			ignored = append(ignored, fmt.Sprintf("%s: the exporter %.80q is unknown, and is ignored: known are otlp, console and none", variable, name))
		}
	}
	if len(names) == 0 && somewhere {
		names = []string{"otlp"}
	}
	return names, grpc, ignored
}

// variablesOfOthers begin with our prefix, and are for others: NATS's configuration in deploy/nats, and the variables that
// Kubernetes makes of a Service called snapfleet.
var variablesOfOthers = regexp.MustCompile(`^SNAPFLEET_(.*_SERVICE_(HOST|PORT).*|SERVICE_(HOST|PORT).*|(.*_)?PORT(_[0-9]+_(TCP|UDP|SCTP).*)?|.*_PORT_[0-9]+_(TCP|UDP|SCTP).*` +
	`|(WORKER|OPERATOR|READER|PUBLISHER|BACKUP)_NKEY|NATS_(STORE|NAME|CERT|KEY|ROUTES|ROUTE_CA|ROUTE_CERT|ROUTE_KEY|MAX_FILE)|TEST_.*)$`)

// environmentWarnings are those of the environment of this process.
func environmentWarnings(model *kong.Application) []string {
	return unknownVariables(model, os.Environ())
}

// unknownVariables says of each variable that begins as ours do, and that nothing reads, what was probably meant. It
// names variables, and never their values.
func unknownVariables(model *kong.Application, environ []string) (warnings []string) {
	known, flags := []string{secretVariable}, map[string]string{}
	var collect func(*kong.Node)
	collect = func(n *kong.Node) {
		for _, f := range n.Flags {
			known = append(known, f.Envs...)
			flags[envPrefix+"_"+strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))] = "--" + f.Name
		}
		for _, child := range n.Children {
			collect(child)
		}
	}
	collect(model.Node)
	for _, v := range environ {
		name, _, _ := strings.Cut(v, "=")
		if !strings.HasPrefix(name, envPrefix+"_") || slices.Contains(known, name) || variablesOfOthers.MatchString(name) {
			continue
		}
		meant := "see `snapfleet worker --help`"
		if flag, ok := flags[name]; ok {
			meant = "give " + flag + " on the command line"
		} else if near := nearest(name, known); near != "" {
			meant = "did you mean " + near + "?"
		}
		warnings = append(warnings, fmt.Sprintf("%.100q is no variable of snapfleet, and is ignored: %s", name, meant))
	}
	slices.Sort(warnings)
	return warnings
}

// nearest is the name that differs from s in the fewest letters, and in no more than a third of them; else it is empty.
func nearest(s string, names []string) (best string) {
	least := (len(s)-len(envPrefix))/3 + 1
	for _, name := range names {
		if d := distance(s, name); d < least {
			best, least = name, d
		}
	}
	return best
}

// distance is how many letters have to be changed, added or removed to make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// userName is who runs this, as far as the system knows; empty when it does not.
func userName() string {
	u, err := user.Current()
	if err != nil {
		return ""
	}
	return u.Username
}

// colorsWanted honours no-color.org and terminals that cannot.
func colorsWanted() bool { return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" }

// version is set by the linker (-X main.version=1.2.3); without that it is what Go knows of the build.
var version = ""

func buildVersion() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return strings.TrimPrefix(v, "v")
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return "0.0.0-" + s.Value[:12]
		}
	}
	return "0.0.0"
}

// kongOptions are what parsing, help and completion share.
func kongOptions() []kong.Option {
	return []kong.Option{
		kong.Name("snapfleet"),
		kong.Description("Deliver a tenant's PostgreSQL data and attachments into the tenant's own S3 bucket."),
		kong.Vars{"nats_url": nats.DefaultURL, "webhook_source": contracts.EventSource},
		kong.UsageOnError(),
		kong.ExplicitGroups([]kong.Group{
			{Key: "fleet", Title: "The fleet"},
			{Key: "operator", Title: "Operating it"},
			{Key: "local", Title: "Without the fleet"},
			{Key: "other", Title: "More"},
			{Key: "work", Title: "Work"},
			{Key: "lease", Title: "Leases"},
			{Key: "round", Title: "Rounds"},
			{Key: "postgres", Title: "PostgreSQL"},
			{Key: "attachments", Title: "Attachments"},
			{Key: "filter", Title: "What is left out"},
			{Key: "s3", Title: "S3"},
			{Key: "house", Title: "The house bucket"},
			{Key: "webhook", Title: "Webhook"},
			{Key: "nats", Title: "NATS"},
			{Key: "observe", Title: "Observing"},
		}),
	}
}
