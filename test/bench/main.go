// Command bench measures what a delivery costs, next to what people use instead and next to the least that it could
// cost on the same machine, with the same data, in the same minutes.
//
//	make bench GB=2.3 ROUNDS=3             figures in bin/bench.json
//	make bench SVG=deploy/bench.svg        and a picture
//	make bench-growth                      growth and attachments alone
//	go run ./test/bench --gb=0.05 --rounds=1
//
// The data is made from row numbers, so it is the same on every machine: three tables, half of the bytes in wide
// rows of words (notes), a quarter in narrow numbers (readings), a quarter in jsonb and bytea (events). See data.go.
//
// In each round run once, in random order:
//
//	script        for each table psql COPY | gzip > file, then tar, then aws s3 cp
//	script_tuned  the same with two tables at a time, gzip -1, and tar streamed into aws s3 cp
//	pg_dump       pg_dump -Fd -j2 -Z1, then tar, then aws s3 cp
//	copy          as many connections as there are cores COPY to nowhere, in chunks of 16 MiB
//	copy_deflate  the same, compressed with deflate level 2
//	snapfleet     one worker, one job, from submit to ack: NATS, STS, PostgreSQL, S3 over TLS
//
// and then small jobs: tenants of 50 tiny tables, one job of each at a time, through one worker with as many slots,
// for each number of slots. After the rounds a worker with nothing to do is watched, and it is counted what one job
// says to S3, STS, NATS and PostgreSQL. --growth and --attachments measure more; see growth.go and files.go.
//
// Wall time is of the whole, CPU time that of the client's processes: PostgreSQL's and S3's are not in it. Memory is
// the largest process's. All deliver to one S3 server over TLS, which runs in this process, as do the rooflines.
//
// The keys of bench.json that are compared from release to release, all medians over the rounds:
//
//	wall_ratio_roofline      wall time of snapfleet by that of copy_deflate
//	wall_ratio_script        by that of script
//	wall_ratio_script_tuned  by that of script_tuned
//	wall_ratio_pg_dump       by that of pg_dump
//	worker_cpu_s_per_gb      CPU seconds of the worker for each 1e9 bytes of CSV
//	database_cpu_s_per_gb    CPU seconds of PostgreSQL meanwhile, for each 1e9 bytes of CSV
//	peak_rss_mib             the most memory that the worker had
//	small_jobs_per_s         small jobs in a second, by one worker with 4 slots
//
// report.go documents the others: small_jobs, idle, round_trips, growth, attachments and rounds among them.
package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
)

type options struct {
	GB     float64       `name:"gb" default:"2.3" placeholder:"N" help:"Size of the data as CSV, in GB. It takes some four times that of disk. Default: 2.3."`
	Rounds int           `default:"3" placeholder:"N" help:"How often everything runs. 0: nothing but what the flags below ask for. Default: 3."`
	Jobs   int           `default:"100" placeholder:"N" help:"Small jobs in each round, for each number of slots. Default: 100."`
	Slots  []int         `default:"1,4,16" placeholder:"N,..." help:"Slots of the workers that do the small jobs. Default: 1,4,16."`
	Idle   time.Duration `default:"20s" placeholder:"TIME" help:"How long a worker is watched that has nothing to do. Default: 20s."`

	Growth       bool      `help:"Measure how wall time, CPU and memory grow with bytes and with tables, too."`
	GrowthGB     []float64 `name:"growth-gb" default:"0.1,1,4" placeholder:"N,..." help:"Sizes, from the smallest to the largest. Default: 0.1,1,4."`
	GrowthTables []int     `default:"1,100,1000,10000" placeholder:"N,..." help:"Numbers of tables: below 500 of the smallest size together, from there on of 10 rows each. Default: 1,100,1000,10000."`

	Attachments bool `help:"Measure attachments, too: many small ones and a few large ones."`
	SmallFiles  int  `default:"10000" placeholder:"N" help:"Attachments of 50 kB. Default: 10000."`
	LargeFiles  int  `default:"4" placeholder:"N" help:"Large attachments. Default: 4."`
	LargeMB     int  `name:"large-mb" default:"1000" placeholder:"N" help:"Size of each of these, in MB; three times all of them is needed of disk. Default: 1000."`

	Install bool   `help:"Where there is no aws command, let pip install awscli into a folder that goes away."`
	Dir     string `type:"existingdir" placeholder:"DIR" help:"Where to put the databases and files, which go away. Default: the system's temporary folder."`
	JSON    string `name:"json" type:"path" default:"bench.json" placeholder:"FILE" help:"Where to write the figures. Default: bench.json."`
	SVG     string `name:"svg" type:"path" placeholder:"FILE" help:"Where to draw the comparison. Default: nowhere."`
}

// mostSlots is what PostgreSQL's 200 connections are enough for.
const mostSlots = 32

// Validate is kong's.
func (o *options) Validate() error {
	least := func(n int) bool { return n < 1 }
	switch {
	case o.GB <= 0 || least(o.Jobs) || o.Rounds < 0 || o.Idle <= 0:
		return errors.New("--gb, --jobs and --idle must be more than 0, and --rounds not less")
	case len(o.Slots) == 0 || slices.ContainsFunc(o.Slots, least) || slices.Max(o.Slots) > mostSlots:
		return fmt.Errorf("--slots must be from 1 to %d", mostSlots)
	case len(o.GrowthGB) == 0 || slices.ContainsFunc(o.GrowthGB, func(gb float64) bool { return gb <= 0 }) || !slices.IsSorted(o.GrowthGB):
		return errors.New("--growth-gb must be more than 0, and go up")
	case slices.ContainsFunc(o.GrowthTables, least):
		return errors.New("--growth-tables must be more than 0")
	case least(o.SmallFiles) || least(o.LargeFiles) || least(o.LargeMB):
		return errors.New("--small-files, --large-files and --large-mb must be more than 0")
	case o.Rounds == 0 && o.SVG != "":
		return errors.New("--svg is of the rounds, and --rounds is 0")
	}
	return nil
}

// Exit codes, as snapfleet's own.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

var errInterrupted = errors.New("interrupted")

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	caught := make(chan os.Signal, 2)
	signal.Notify(caught, os.Interrupt, syscall.SIGTERM)
	go func() { // ends with the process
		<-caught
		cancel(errInterrupted)
		<-caught
		os.Exit(exitInterrupted) // whoever asks twice does not want to wait: the servers die with us
	}()

	if len(args) > 1 && args[0] == meter {
		return runMetered(args[1:])
	}
	if len(args) == 3 && args[0] == standIn {
		return conclude(ctx, upload(ctx, args[1], args[2]))
	}
	var o options
	parser := kong.Must(&o, kong.Name("bench"), kong.Description("Measure a delivery next to scripts, pg_dump and the least that it could cost."))
	if _, err := parser.Parse(args); err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		return exitUsage
	}
	return conclude(ctx, measureAll(ctx, o))
}

// conclude makes an error an exit code.
func conclude(ctx context.Context, err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(context.Cause(ctx), errInterrupted):
		fmt.Fprintln(os.Stderr, "bench: interrupted: everything is stopped and removed")
		return exitInterrupted
	default:
		fmt.Fprintln(os.Stderr, "bench:", err)
		return exitFailed
	}
}

// startedIn is the working directory that we had: the S3 server has another.
var startedIn string

// A contender is something that is measured.
type contender struct {
	name string
	run  func(ctx context.Context) (Cost, error)
}

// measureAll is the whole story.
func measureAll(ctx context.Context, o options) (err error) {
	temp, err := os.MkdirTemp(o.Dir, "snapfleet-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp)) }()
	if err := os.Chmod(temp, 0o755); err != nil { // PostgreSQL is another user, and has to get to its data
		return err
	}
	if temp, err = filepath.Abs(temp); err != nil {
		return err
	}

	if startedIn, err = os.Getwd(); err != nil {
		return err
	}
	say("starting PostgreSQL, NATS, S3 and STS")
	g, err := openGround(ctx, temp)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.close()) }()
	if err := g.prepare(ctx); err != nil {
		return err
	}
	f, err := openFleet(ctx, g)
	if err != nil {
		return err
	}
	defer f.close()

	r := Report{Machine: thisMachine(), Versions: g.versions(ctx)}
	if o.Rounds > 0 {
		if err := f.compare(ctx, o, &r); err != nil {
			return err
		}
	}
	if o.Growth {
		if r.Growth, err = f.grow(ctx, o.GrowthGB, o.GrowthTables); err != nil {
			return fmt.Errorf("growth: %w", err)
		}
	}
	if o.Attachments {
		if r.Attachments, err = f.attachments(ctx, o); err != nil {
			return fmt.Errorf("attachments: %w", err)
		}
	}
	r.print(os.Stdout)
	return r.write(o.JSON, o.SVG)
}

// compare is the rounds, and what small jobs and no jobs at all cost.
func (f *fleet) compare(ctx context.Context, o options, r *Report) error {
	g := f.ground
	peers, uploads, err := g.peers(ctx, o.Install)
	if err != nil {
		return err
	}
	r.Versions["upload"] = uploads
	say("making %.3g GB", o.GB)
	if err := g.fill(ctx, "bench", o.GB); err != nil {
		return err
	}
	if err := g.fillTiny(ctx, "tiny", tinyTables); err != nil {
		return err
	}
	if err := f.enrol(ctx, "bench", "bench"); err != nil {
		return err
	}
	if err := f.enrolTiny(ctx, o.Slots); err != nil {
		return err
	}
	_, csv, err := g.copyAll(ctx, "bench", runtime.NumCPU(), nil) // everybody finds the tables in memory
	if err != nil {
		return err
	}
	c := &Comparison{Asked: o.GB, GB: float64(csv) / 1e9}
	contenders := slices.Concat(peers, g.rooflines("bench"), []contender{{"snapfleet", func(ctx context.Context) (Cost, error) { return f.deliver(ctx, "bench") }}})
	for n := range o.Rounds {
		what := fmt.Sprintf("round %d of %d", n+1, o.Rounds)
		round, err := g.round(ctx, contenders, what)
		if err != nil {
			return err
		}
		for _, slots := range o.Slots {
			small, err := f.smallJobs(ctx, slots, o.Jobs)
			if err != nil {
				return fmt.Errorf("small jobs in %d slots: %w", slots, err)
			}
			say("%s: small jobs in %2d slots %6.1f a second", what, slots, small.PerSecond)
			round.Small = append(round.Small, small)
			if err := g.sweep(ctx); err != nil {
				return err
			}
		}
		c.Rounds = append(c.Rounds, round)
	}
	say("watching an idle worker for %v", o.Idle)
	if c.Idle, err = f.watch(ctx, o.Idle); err != nil {
		return fmt.Errorf("an idle worker: %w", err)
	}
	say("counting what a job says")
	if r.RoundTrips, err = f.roundTrips(ctx); err != nil {
		return fmt.Errorf("round trips: %w", err)
	}
	c.conclude()
	r.Comparison = c
	return g.sweep(ctx)
}

// round measures everybody once, in random order.
func (g *ground) round(ctx context.Context, contenders []contender, what string) (Round, error) {
	rand.Shuffle(len(contenders), func(i, j int) { contenders[i], contenders[j] = contenders[j], contenders[i] })
	round := Round{Costs: map[string]Cost{}}
	for _, c := range contenders {
		before, err := g.databaseCPU(ctx)
		if err != nil {
			return Round{}, err
		}
		cost, err := c.run(ctx)
		if err == nil {
			cost.Database, err = g.databaseCPU(ctx)
			cost.Database -= before
		}
		if err == nil {
			err = g.sweep(ctx)
		}
		if err != nil {
			return Round{}, fmt.Errorf("%s: %w", c.name, err)
		}
		say("%s: %-12s %7.2f s", what, c.name, cost.Wall)
		round.Costs[c.name] = cost
		round.Order = append(round.Order, c.name)
	}
	return round, nil
}

// attachments measures many small ones and few large ones.
func (f *fleet) attachments(ctx context.Context, o options) (all []Attachment, err error) {
	for _, of := range []struct {
		tenant string
		count  int
		size   int64
	}{{"files_small", o.SmallFiles, 50e3}, {"files_large", o.LargeFiles, int64(o.LargeMB) * 1e6}} {
		a, err := f.measureFiles(ctx, of.tenant, of.count, of.size, max(1, o.Rounds))
		if err != nil {
			return nil, err
		}
		all = append(all, a)
	}
	return all, nil
}

// say prints a line of progress.
func say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
