package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/zerolog"
	"github.com/snapfleet/snapfleet/consumer"
	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/exporter"
	"github.com/snapfleet/snapfleet/uploader"
)

func (workerCmd) manual() page {
	return page{
		about: `
Takes snapshot requests from NATS JetStream and delivers them, until it is told to stop. Run as many as you like:
they share one queue, and no two ever work on the same job.

SIGTERM or SIGINT: no new job is taken, those under way may go on for --grace, and what is left then is given back
without blame. A second signal gives back at once. A third one, or SIGKILL, ends the process where it stands;
another worker finds and finishes whatever it leaves behind.

Events go to standard error. /metrics is for Prometheus; /healthz says that the process is alive; /readyz says that
it can take jobs.

The database role needs USAGE on the tenants' schemas and SELECT on their tables, and nothing else. The AWS
identity needs sts:AssumeRole on the customers' roles, and s3:GetObject on the attachments' source buckets; with
s3:ListBucket there, too, many attachments take half the requests.
` + aboutDatabases,
		examples: []example{
			{
				"With a database, and attachments that are stored per tenant.",
				"export SNAPFLEET_DATABASE_URL='postgres://exporter@db.internal/ion?sslmode=verify-full'\nexport PGPASSWORD=...\nsnapfleet worker --nats-url=nats://nats.internal:4222 --attachments-source='ion-files={tenant}/'",
			},
			{"With several databases.", "snapfleet worker --databases=/etc/snapfleet/databases.json"},
			{"With traces.", "OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318 snapfleet worker"},
		},
		env:   [][2]string{envWebhook, envPG, envAWS, envOTEL, envColor},
		exits: []int{exitOK, exitFailed, exitUsage, exitRejected, exitUnreachable, exitInterrupted},
	}
}

// Run is the composition root: everything that the worker is made of is made here, and nowhere else.
func (w *workerCmd) Run(ctx context.Context, c *console, signals *signals) (err error) {
	signal.Ignore(syscall.SIGPIPE) // whoever reads the log may leave; the jobs go on
	log := w.logger(raw(c.err), c.errTTY)
	for _, warning := range c.warnings {
		log.Warn().Msg(warning)
	}
	telemetry, err := startTelemetry(ctx, w.name(), lossLog(log))
	if err != nil {
		return err
	}
	defer func() {
		if flush := telemetry.close(); flush != nil {
			log.Warn().Err(flush).Msg("some traces or metrics are lost")
		}
	}()

	story, err := w.story(ctx, log)
	if err != nil {
		return err
	}
	hook, err := w.webhook()
	if err != nil {
		return err
	}
	w.limitMemory()
	nc, err := w.connect("worker " + w.name())
	if err != nil {
		return err
	}
	defer nc.Close()
	nc.SetErrorHandler(consumer.OnError(nc, func(err error) { // such as a subscriber that is too slow
		log.Warn().Err(err).Msg("NATS reports an error")
	}))
	fleet, err := w.join(ctx, nc, story, hook, log)
	if err != nil {
		return err
	}
	address, stop, err := w.serve(telemetry, fleet, log)
	if err != nil {
		return err
	}
	defer stop()

	log.Info().Str("worker", w.name()).Str("version", buildVersion()).Int("slots", w.Slots).Str("listen", address).Msg("worker started")
	signals.onSecond(fleet.Interrupt)
	context.AfterFunc(ctx, func() { log.Info().Dur("grace", w.Grace).Msg("stopping: no new job is taken") })
	if err := fleet.Run(ctx); err != nil {
		return err
	}
	log.Info().Msg("worker stopped")
	return nil
}

// lossLog logs traces and metrics that are lost.
func lossLog(log zerolog.Logger) func(what string, count int64, err error) {
	return func(what string, count int64, err error) {
		event := log.Warn().Int64("count", count)
		if err != nil {
			event = event.Err(redacted(err))
		}
		event.Msg(what)
	}
}

// limitMemory sets the garbage collector's limits, unless GOGC or GOMEMLIMIT does. What is held is buffers, which make no
// garbage: it need not have as much room again.
func (w *workerCmd) limitMemory() {
	if was := debug.SetGCPercent(50); was != 100 {
		debug.SetGCPercent(was) // GOGC is set
	}
	if debug.SetMemoryLimit(-1) == math.MaxInt64 { // GOMEMLIMIT is not set
		debug.SetMemoryLimit(w.memory())
	}
}

// join makes the worker a member of the fleet. A right that its NATS user lacks ends it at once.
func (w *workerCmd) join(ctx context.Context, nc *nats.Conn, story *deliver, hook *consumer.Webhook, log zerolog.Logger) (*consumer.Consumer, error) {
	cfg := w.consumerConfig(hook, log)
	cfg.Probes, cfg.Databases, cfg.Endpoints = story.probes(log), story.exporter.Databases(), w.AllowEndpoint
	starting, started := consumer.WithRights(ctx, nc)
	defer started()
	fleet, err := consumer.New(starting, nc, story, cfg)
	if right, refused := consumer.AsNoRight(context.Cause(starting)); err != nil && refused {
		return nil, missing(right, w.NATSInbox+".", right)
	}
	if err != nil {
		return nil, notSetUp(err)
	}
	return fleet, nil
}

// story puts exporter and uploader together.
func (w *workerCmd) story(ctx context.Context, log zerolog.Logger) (*deliver, error) {
	read, err := w.readFlags.config()
	if err != nil {
		return nil, err
	}
	databases, exposed, err := w.databases(w.databaseFlags)
	if err != nil {
		return nil, err
	}
	for _, file := range exposed {
		log.Warn().Str("file", file).Msg("other users of this machine can read a file with a database login in it")
	}
	read.Databases = databases
	read.Fallback = func(ctx context.Context, database string, err error) {
		log.Warn().Ctx(ctx).Str("database", database).Err(err).Msg("the replica cannot be read: the primary is")
	}
	// https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html: whoever cuts smaller parts learns it when
	// everything has been read and sent.
	if w.PartSize < 5<<20 || w.PartSize > 5<<30 {
		return nil, usagef("--part-size is %d bytes, S3 takes parts of 5MiB to 5GiB", w.PartSize)
	}
	write := uploader.Config{
		PartBytes: int(w.PartSize), Buffers: w.Buffers, MaxParts: w.MaxParts, AllowEndpoints: w.AllowEndpoint,
		NoChecksum: w.NoChecksum, SessionDuration: w.SessionDuration, TrustCheck: w.TrustCheck,
	}
	if err := write.Validate(); err != nil {
		return nil, usagef("%w", err)
	}
	cloud, err := loadAWS(ctx)
	if err != nil {
		return nil, err
	}
	return &deliver{
		exporter: exporter.New(databases[contracts.DefaultDatabase].Primary, sourceClient(cloud, w.AttachmentsRegion), read),
		uploader: uploader.New(cloud, write),
	}, nil
}

func (w *workerCmd) consumerConfig(hook *consumer.Webhook, log zerolog.Logger) consumer.Config {
	return consumer.Config{
		Worker: w.name(), Version: buildVersion(), Slots: w.Slots, PerTenant: w.PerTenant, Grace: w.Grace,
		Heartbeat: w.Heartbeat, Fence: w.Fence, Observe: w.Observe, Stall: w.Stall,
		Attempts: w.Attempts, Crashes: w.Crashes, Deadline: w.Deadline, MaxAge: w.MaxAge,
		RetryBase: w.RetryBase, RetryMax: w.RetryMax,
		SweepEvery: w.SweepEvery, SweepAfter: w.SweepAfter, SweepAgain: w.SweepAgain, ScheduleEvery: w.ScheduleEvery,
		CheckEvery: orNever(w.CheckEvery), CheckAhead: orNever(w.CheckAhead), Domain: w.NATSDomain, Webhook: hook, Log: log,
		MeasureEvery: w.MeasureEvery, TenantMetrics: w.TenantMetrics,
	}
}

// orNever is a flag's duration, of which 0 means never, for a field of which 0 means its default.
func orNever(d time.Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return d
}

// memory is what this worker needs, in bytes. The buffers of its jobs are most of it, and they are used again and
// again: a collector that waits until the heap has doubled, as Go's does, would only let garbage pile up beside them.
func (w *workerCmd) memory() int64 {
	const window, rest = 4 << 20, 32 << 20 // of exporter.Config; and of everything else
	ahead := max(w.Connections, w.AttachmentsFetch) + 2
	return int64(w.Slots)*(int64(w.Buffers)*int64(w.PartSize)+int64(ahead)*window) + rest
}

func (w *workerCmd) name() string {
	if w.Name != "" {
		return w.Name
	}
	if host, err := os.Hostname(); err == nil {
		return host
	}
	return "worker"
}

// loadAWS reads who we are from where the AWS SDK looks.
func loadAWS(ctx context.Context) (aws.Config, error) {
	cfg, err := awsconfig.LoadDefaultConfig(ctx)
	if err != nil {
		return cfg, fmt.Errorf("read the AWS configuration: %w", err)
	}
	return cfg, nil
}

// explicit addresses an endpoint other than AWS's own by paths, if there is one. Of such an endpoint no FIPS or dual-stack
// variant is known: the SDK refuses both together.
func explicit(o *s3.Options) {
	if o.BaseEndpoint != nil {
		o.UsePathStyle = true
		o.EndpointOptions.UseFIPSEndpoint, o.EndpointOptions.UseDualStackEndpoint = 0, 0
	}
}

// sourceClient reads attachments, with our own identity. An endpoint other than AWS is addressed by paths,
// because it seldom has a host name for each bucket.
func sourceClient(cfg aws.Config, region string) *s3.Client {
	return s3.NewFromConfig(cfg, func(o *s3.Options) {
		explicit(o)
		if region != "" {
			o.Region = region
		}
	})
}

// serve answers probes and Prometheus until stop is called.
func (w *workerCmd) serve(t *telemetry, fleet *consumer.Consumer, log zerolog.Logger) (address string, stop func(), err error) {
	if w.Listen == "" {
		return "", func() {}, nil
	}
	listener, err := net.Listen("tcp", w.Listen)
	if err != nil {
		return "", nil, explain(0, fmt.Errorf("listen for probes: %w", err), "another process listens there", "choose another --listen, or an empty one for none")
	}
	server := probeServer(routes(t, fleet))
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Error().Err(err).Msg("probes are not answered any more")
		}
	}()
	return listener.Addr().String(), func() { _ = server.Close() }, nil
}

// readiness is what probes ask a worker.
type readiness interface {
	Ready() error
	Degraded() []*contracts.WorkerFault
}

func routes(t *telemetry, fleet readiness) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(t.scrape, promhttp.HandlerOpts{Registry: t.scrape, EnableOpenMetrics: true, MaxRequestsInFlight: 4}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "alive") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := fleet.Ready(); err != nil {
			http.Error(w, redact(err.Error()), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
		for _, fault := range fleet.Degraded() {
			fmt.Fprintln(w, "degraded: "+redact(fault.Error()))
		}
	})
	return mux
}
