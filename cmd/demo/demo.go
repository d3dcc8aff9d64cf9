package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"al.essio.dev/pkg/shellescape"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/dustin/go-humanize"
	"github.com/jackc/pgx/v5"
	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"

	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/test/bucket"
	"github.com/snapfleet/snapfleet/test/world"
	"github.com/snapfleet/snapfleet/test/world/factory"
)

// demo is one demonstration. What it starts it stops, in the opposite order.
type demo struct {
	options
	*stages

	dir      string
	closers  []func() error
	tenant   string
	job      string
	database string // what the workers connect to
	nats     *world.NATS
	store    *bucket.Server
	worker   bucket.User
	reader   bucket.User
	fleet    *fleet
	workers  []*workerProcess
	jaeger   *world.Jaeger // nil: nobody wants traces
}

// run is the whole story.
func (d *demo) run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, d.close()) }()
	if err := d.makeDir(); err != nil {
		return err
	}
	d.tenant, d.job = d.Schema, time.Now().UTC().Format(contracts.JobLayout)
	if !contracts.ValidTenant(d.tenant) {
		d.tenant = "demo"
	}
	d.worker, d.reader = worker(), reader()
	fmt.Fprintf(d.w, "%s, in %s\n\n", d.paint("snapfleet on one machine", text.Bold), d.dir)

	built := d.startBuild(ctx) // compiles while the servers start
	for _, step := range []struct {
		name string
		do   func(context.Context) (string, error)
	}{
		{"NATS", d.startNATS},
		{"S3 and STS", d.startStore},
		{"PostgreSQL", d.startPostgres},
		{"a tenant", d.loadTenant},
		{"Jaeger", d.startJaeger},
		{"snapfleet", func(context.Context) (string, error) { return d.awaitBuild(built) }},
	} {
		if step.name == "Jaeger" && d.Jaeger == "" {
			continue
		}
		if err := d.do(step.name, func() (string, error) { return step.do(ctx) }); err != nil {
			return err
		}
	}
	for _, step := range []func(context.Context) error{d.setUp, d.register, d.startWorkers, d.deliver, d.list, d.verify, d.trace} {
		if err := step(ctx); err != nil {
			return d.explain(err)
		}
	}
	if err := d.lookFurther(); err != nil {
		return err
	}
	if *d.Keep {
		return d.wait(ctx)
	}
	return nil
}

func (d *demo) makeDir() (err error) {
	if d.Dir != "" {
		d.dir = d.Dir
		return os.MkdirAll(d.dir, 0o755)
	}
	if d.dir, err = os.MkdirTemp("", "snapfleet-demo-"); err != nil {
		return err
	}
	d.onClose(func() error { return os.RemoveAll(d.dir) })
	return nil
}

func (d *demo) onClose(f func() error) { d.closers = append(d.closers, f) }

func (d *demo) close() (err error) {
	for len(d.closers) > 0 {
		last := len(d.closers) - 1
		err = errors.Join(err, d.closers[last]())
		d.closers = d.closers[:last]
	}
	return err
}

// binary is what the build ends in.
type binary struct {
	path string
	err  error
}

func (d *demo) startBuild(ctx context.Context) <-chan binary {
	built := make(chan binary, 1)
	if d.Snapfleet != "" {
		built <- binary{path: d.Snapfleet}
		return built
	}
	source, err := os.Getwd() // now: the S3 server changes the folder of the whole process
	if err != nil {
		built <- binary{err: err}
		return built
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		path, err := build(ctx, source, d.dir)
		built <- binary{path, err}
	}()
	d.onClose(func() error { cancel(); <-ended; return nil })
	return built
}

func (d *demo) awaitBuild(built <-chan binary) (string, error) {
	b := <-built
	if b.err != nil {
		return "", b.err
	}
	keep := []string{"SNAPFLEET_LOG"}
	if d.DatabaseURL != "" {
		keep = append(keep, "PG")
	}
	d.fleet = &fleet{binary: b.path, dir: d.dir, out: d.w, env: append(cleanEnviron(keep...), "SNAPFLEET_NATS_URL="+d.nats.URL())}
	if d.jaeger != nil {
		d.fleet.env = append(d.fleet.env, d.jaeger.Environ()...)
	}
	return b.path, nil
}

func (d *demo) startNATS(context.Context) (_ string, err error) {
	if d.nats, err = world.StartNATS(filepath.Join(d.dir, "nats"), world.WithMonitoring(), world.WithSync()); err != nil {
		return "", err
	}
	d.onClose(func() error { d.nats.Stop(); return nil })
	return "JetStream at " + d.nats.URL(), nil
}

func (d *demo) startJaeger(ctx context.Context) (_ string, err error) {
	if d.jaeger, err = world.StartJaeger(ctx, d.Jaeger, d.dir); err != nil {
		return "", err
	}
	d.onClose(func() error { d.jaeger.Stop(); return nil })
	return "traces at " + d.jaeger.URL(), nil
}

// startStore starts the cloud: our account with the files, and the customer's with an empty bucket.
func (d *demo) startStore(ctx context.Context) (_ string, err error) {
	// Not under ctx: what is interrupted is stopped in order, the workers first.
	if d.store, err = bucket.Start(context.WithoutCancel(ctx), bucket.Config{Dir: filepath.Join(d.dir, "s3"), Region: region}); err != nil {
		return "", err
	}
	d.onClose(d.store.Close)
	if err := errors.Join(d.store.AddUser(d.worker), d.store.AddUser(d.reader)); err != nil {
		return "", err
	}
	if err := d.store.CreateBucket(ctx, customersBucket, customersAccount); err != nil {
		return "", err
	}
	if err := d.store.CreateBucket(ctx, factory.Bucket, ourAccount); err != nil {
		return "", err
	}
	return d.store.Endpoint() + " and " + d.store.STSEndpoint(), nil
}

func (d *demo) startPostgres(ctx context.Context) (_ string, err error) {
	if d.DatabaseURL != "" {
		d.database = d.DatabaseURL
		return d.version(ctx, "yours: ")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = d.dir
	}
	p, err := world.ProvidePostgres(ctx, filepath.Join(cache, "snapfleet"), d.w)
	if err != nil {
		return "", err
	}
	d.onClose(p.Stop)
	if d.database, err = p.CreateDatabase(ctx, "demo"); err != nil {
		return "", err
	}
	return d.version(ctx, "")
}

func (d *demo) version(ctx context.Context, lead string) (string, error) {
	conn, err := pgx.Connect(ctx, d.database)
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx) // it has served
	cfg := conn.Config()
	return fmt.Sprintf("%s%s at %s:%d", lead, conn.PgConn().ParameterStatus("server_version"), cfg.Host, cfg.Port), nil
}

// loadTenant makes up a tenant, and a role that may read it and nothing else.
func (d *demo) loadTenant(ctx context.Context) (string, error) {
	if d.DatabaseURL != "" {
		return "yours: " + d.Schema, nil
	}
	stored := make(chan error, 1)
	go func() { stored <- factory.Upload(ctx, d.store.Admin(), d.Schema) }()
	rows, tables, err := d.loadRows(ctx)
	if err := errors.Join(err, <-stored); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s: about %s rows in %d tables, %d files", d.tenant, humanize.Comma(rows), tables, len(factory.Files(d.Schema))), nil
}

func (d *demo) loadRows(ctx context.Context) (rows, tables int64, err error) {
	conn, err := pgx.Connect(ctx, d.database)
	if err != nil {
		return 0, 0, err
	}
	defer conn.Close(context.WithoutCancel(ctx)) // it has served
	if err := factory.Load(ctx, conn, d.Schema, d.Rows); err != nil {
		return 0, 0, err
	}
	schema := pgx.Identifier{d.Schema}.Sanitize()
	if _, err := conn.Exec(ctx, "CREATE ROLE exporter LOGIN; GRANT USAGE ON SCHEMA "+schema+" TO exporter; GRANT SELECT ON ALL TABLES IN SCHEMA "+schema+" TO exporter"); err != nil {
		return 0, 0, err
	}
	u, err := url.Parse(d.database)
	if err != nil {
		return 0, 0, err
	}
	u.User = url.User("exporter")
	d.database = u.String()
	err = conn.QueryRow(ctx, `SELECT (sum(reltuples) FILTER (WHERE relkind = 'r'))::bigint, count(*) FILTER (WHERE NOT relispartition) FROM pg_class
		WHERE relnamespace = $1::regnamespace AND relkind IN ('r', 'p')`, schema).Scan(&rows, &tables)
	return rows, tables, err
}

func (d *demo) setUp(ctx context.Context) error {
	return d.command("streams", d.fleet.show, ctx, nil, "setup")
}

// register is the conversation with the customer: they name bucket and role, we answer with the external
// ID, and they make the role so that it demands it.
func (d *demo) register(ctx context.Context) error {
	args := []string{
		"tenant", "set", d.tenant, "--bucket=" + customersBucket, "--region=" + region,
		"--role-arn=" + customersRole, "--endpoint=" + d.store.Endpoint(), "--json",
	}
	if d.tenant != d.Schema {
		args = append(args, "--schema="+d.Schema)
	}
	return d.act("register the tenant", d.typed(args), func() error {
		out, err := d.fleet.output(ctx, nil, args...)
		if err != nil {
			return err
		}
		var tenant contracts.Tenant
		if err := json.Unmarshal(out, &tenant); err != nil {
			return fmt.Errorf("read what tenant set printed: %w", err)
		}
		role, err := customerRole(tenant.Destination.ExternalID)
		if err != nil {
			return err
		}
		if err := d.store.SetRole(role); err != nil {
			return err
		}
		fmt.Fprintf(d.w, "The customer makes the role. Its trust policy demands our external ID of %d characters.\n", len(tenant.Destination.ExternalID))
		return nil
	})
}

func (d *demo) startWorkers(ctx context.Context) error {
	args := []string{"--allow-endpoint=" + d.store.Endpoint(), "--attachments-source=" + factory.Bucket + "={tenant}/", "--slots=1"}
	env := append(d.store.Environ(d.worker), "SNAPFLEET_DATABASE_URL="+d.database)
	d.onClose(d.memory)
	return d.act("start two workers", d.typed(append([]string{"worker"}, args...)), func() error {
		for _, name := range []string{"worker-1", "worker-2"} {
			w, err := d.fleet.work(ctx, name, env, args...)
			if err != nil {
				return err
			}
			d.workers = append(d.workers, w)
			d.onClose(w.stop)
			fmt.Fprintf(d.w, "%s takes jobs: process %d, http://%s/metrics, %s\n", name, w.cmd.Process.Pid, w.address, w.log)
		}
		return nil
	})
}

func (d *demo) deliver(ctx context.Context) error {
	submit := []string{"submit", d.tenant, "--job=" + d.job}
	if d.DatabaseURL != "" {
		submit = append(submit, "--only=tables") // whose files they are, and where, we cannot know
	}
	if err := d.command("submit", d.fleet.show, ctx, nil, submit...); err != nil {
		return err
	}
	return d.command("deliver", d.fleet.show, ctx, nil, "status", d.tenant, d.job, "--watch")
}

// list shows what the customer sees.
func (d *demo) list(ctx context.Context) error {
	prefix := contracts.JobPrefix(d.tenant, d.job)
	return d.act("list the delivery", []string{"aws", "s3", "ls", "--recursive", "s3://" + customersBucket + "/" + prefix}, func() error {
		t := d.newTable()
		t.AppendHeader(table.Row{"object", "size", "modified"})
		t.SetColumnConfigs([]table.ColumnConfig{{Number: 2, Align: text.AlignRight, AlignHeader: text.AlignRight}})
		name, found := customersBucket, 0
		pages := s3.NewListObjectsV2Paginator(s3.NewFromConfig(d.store.AWSConfig(d.reader)), &s3.ListObjectsV2Input{Bucket: &name, Prefix: &prefix})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				return err
			}
			for _, o := range page.Contents {
				t.AppendRow(table.Row{*o.Key, humanize.IBytes(uint64(*o.Size)), o.LastModified.UTC().Format(time.DateTime)})
				found++
			}
		}
		t.Render()
		if found == 0 {
			return errors.New("the bucket is empty")
		}
		return nil
	})
}

func (d *demo) verify(ctx context.Context) error {
	return d.command("verify", d.fleet.show, ctx, d.store.Environ(d.reader), "verify", d.delivery())
}

// trace says where the job's trace is to be seen.
func (d *demo) trace(ctx context.Context) error {
	if d.jaeger == nil {
		return nil
	}
	if err := d.command("trace", d.fleet.show, ctx, nil, "status", d.tenant, d.job, "--trace-url="+d.jaeger.Trace("{trace_id}")); err != nil {
		return err
	}
	fmt.Fprintln(d.w, "That page is the demo's own, and draws what the real Jaeger answers: Jaeger's interface is not in its Go module.")
	if !*d.Keep {
		fmt.Fprintln(d.w, "It ends with the demo. To look at it: ./bin/demo --keep --jaeger="+shellescape.Quote(d.Jaeger))
	}
	return nil
}

// delivery is the customer's address of the job.
func (d *demo) delivery() string {
	return "s3://" + customersBucket + "/" + contracts.JobPrefix(d.tenant, d.job)
}

// command is a verb of snapfleet as a stage.
func (d *demo) command(name string, run func(context.Context, []string, ...string) error, ctx context.Context, env []string, args ...string) error {
	return d.act(name, d.typed(args), func() error { return run(ctx, env, args...) })
}

// typed is a verb as a person types it.
func (d *demo) typed(args []string) []string {
	words := []string{"snapfleet"}
	for _, a := range args {
		words = append(words, shellescape.Quote(a))
	}
	return words
}

// explain adds what the workers said last, because they are gone when the person reads it.
func (d *demo) explain(err error) error {
	for _, w := range d.workers {
		err = fmt.Errorf("%w\n%s said last:%s", err, w.name, w.lastWords())
	}
	return err
}

// wait keeps everything running until somebody has seen enough.
func (d *demo) wait(ctx context.Context) error {
	fmt.Fprint(d.w, "\nEverything keeps running. Press Enter or Ctrl-C to stop it. ")
	enter := make(chan struct{})
	go func() { // ends with the process: a read from a terminal cannot be cancelled
		defer close(enter)
		b := make([]byte, 1)
		for {
			if n, err := os.Stdin.Read(b); err != nil || n == 1 && b[0] == '\n' {
				return
			}
		}
	}()
	select {
	case <-enter:
	case <-ctx.Done():
		fmt.Fprintln(d.w)
	}
	return nil // it was to be seen, and was
}
