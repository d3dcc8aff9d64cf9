// Command bench measures what a delivery costs, next to what people use instead and next to the least that it could
// cost on the same machine, with the same data, in the same minutes.
//
//	make bench GB=2.3 ROUNDS=3
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
// and then small jobs: tenants of 50 tiny tables, one job of each at a time, through one worker with as many slots.
//
// Wall time is of the whole, CPU time that of the client's processes: PostgreSQL's and S3's are not in it. Memory is
// the largest process's. All deliver to one S3 server over TLS, which runs in this process, as do the rooflines.
// report.go documents the keys of bench.json.
package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/alecthomas/kong"
)

type options struct {
	GB      float64 `name:"gb" default:"2.3" placeholder:"N" help:"Size of the data as CSV, in GB. It takes some four times that of disk. Default: 2.3."`
	Rounds  int     `default:"3" placeholder:"N" help:"How often everything runs. Default: 3."`
	Jobs    int     `default:"100" placeholder:"N" help:"Small jobs in each round. Default: 100."`
	Slots   int     `default:"4" placeholder:"N" help:"Slots of the worker that does the small jobs. Default: 4."`
	Install bool    `help:"Where there is no aws command, let pip install awscli into a folder that goes away."`
	Dir     string  `type:"existingdir" placeholder:"DIR" help:"Where to put the databases and files, which go away. Default: the system's temporary folder."`
	JSON    string  `name:"json" type:"path" default:"bench.json" placeholder:"FILE" help:"Where to write the figures. Default: bench.json."`
	SVG     string  `name:"svg" type:"path" placeholder:"FILE" help:"Where to draw the comparison. Default: nowhere."`
}

// Validate is kong's.
func (o *options) Validate() error {
	if o.GB <= 0 || o.Rounds < 1 || o.Jobs < 1 || o.Slots < 1 {
		return errors.New("--gb, --rounds, --jobs and --slots must be more than 0")
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
	say("making %.3g GB", o.GB)
	if err := g.fill(ctx, o.GB); err != nil {
		return err
	}
	peers, uploads, err := g.peers(ctx, o.Install)
	if err != nil {
		return err
	}
	f, err := openFleet(ctx, g, o.Slots)
	if err != nil {
		return err
	}
	defer f.close()

	warm := g.roofline(false)
	if _, err := warm.run(ctx); err != nil { // everybody finds the tables in memory
		return err
	}
	r := Report{Asked: o.GB, GB: float64(g.csv) / 1e9, Slots: o.Slots, Machine: thisMachine(), Versions: g.versions(ctx, uploads)}
	contenders := append(peers, warm, g.roofline(true), contender{"snapfleet", f.deliver})
	for n := range o.Rounds {
		rand.Shuffle(len(contenders), func(i, j int) { contenders[i], contenders[j] = contenders[j], contenders[i] })
		round := Round{Costs: map[string]Cost{}}
		for _, c := range contenders {
			cost, err := c.run(ctx)
			if err == nil {
				err = g.sweep(ctx)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			say("round %d of %d: %-12s %7.2f s", n+1, o.Rounds, c.name, cost.Wall)
			round.Costs[c.name] = cost
			round.Order = append(round.Order, c.name)
		}
		if round.Small, err = f.smallJobs(ctx, o.Jobs); err != nil {
			return fmt.Errorf("small jobs: %w", err)
		}
		say("round %d of %d: small jobs   %7.1f a second", n+1, o.Rounds, round.Small.PerSecond)
		if err := g.sweep(ctx); err != nil {
			return err
		}
		r.Rounds = append(r.Rounds, round)
	}
	r.conclude()
	r.print(os.Stdout)
	return r.write(o.JSON, o.SVG)
}

// say prints a line of progress.
func say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
