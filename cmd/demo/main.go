// Command demo shows the whole of snapfleet on one machine: a real NATS JetStream, a real PostgreSQL with a
// manufacturer's million rows, a real S3 server with a strict STS in front, a customer's account that demands
// an external ID, and the snapfleet binary itself, run as its operators run it. `make demo` starts it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
	"golang.org/x/term"
)

// options are the flags. The defaults make a demonstration that needs nothing and leaves nothing behind.
type options struct {
	DatabaseURL string  `name:"database-url" env:"DATABASE_URL" placeholder:"URL" help:"Deliver from this PostgreSQL instead of a throw-away one with made-up data. Nothing is written to it. Needs --schema; tables only."`
	Schema      string  `env:"SCHEMA" placeholder:"NAME" help:"The tenant's schema. Default: acme."`
	Rows        float64 `default:"1" placeholder:"FACTOR" help:"How much to make up: 1 is 1.2 million rows, 0.01 is 12,000."`
	Dir         string  `type:"path" placeholder:"DIR" help:"Folder for everything, which stays. Default: a temporary one, which does not."`
	Snapfleet   string  `type:"existingfile" placeholder:"FILE" help:"The snapfleet binary. Default: it is built."`
	Jaeger      string  `type:"existingfile" placeholder:"FILE" help:"A Jaeger binary, which \"make bin/jaeger\" builds. The job's trace is sent to it, and shown."`
	Keep        *bool   `negatable:"" help:"At the end, keep everything running until Enter or Ctrl-C. Default: on a terminal, except under CI."`
}

func main() { os.Exit(run(os.Args[1:])) }

// Exit codes, as snapfleet's own.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

var errInterrupted = errors.New("interrupted")

func run(args []string) int {
	var o options
	parser := kong.Must(&o, kong.Name("demo"), kong.Description("snapfleet on one machine: two workers deliver a tenant of a million rows into a customer's bucket. Everything is real but the cloud."))
	_, err := parser.Parse(args)
	if err == nil && o.DatabaseURL != "" && o.Schema == "" {
		err = errors.New("--database-url needs --schema (make demo DATABASE_URL=... SCHEMA=...)")
	}
	if err == nil && o.Rows <= 0 {
		err = errors.New("--rows must be more than 0")
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		return exitUsage
	}
	if o.Schema == "" {
		o.Schema = "acme"
	}
	if o.Keep == nil {
		keep := term.IsTerminal(int(os.Stdout.Fd())) && term.IsTerminal(int(os.Stdin.Fd())) && os.Getenv("CI") == ""
		o.Keep = &keep
	}

	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	caught := make(chan os.Signal, 2)
	signal.Notify(caught, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	go func() { // ends with the process
		<-caught
		cancel(errInterrupted)
		<-caught
		os.Exit(exitInterrupted) // whoever asks twice does not want to wait: the servers die with us
	}()

	d := &demo{options: o, stages: newStages(os.Stdout)}
	err = d.run(ctx)
	switch {
	case err == nil:
		return 0
	case errors.Is(context.Cause(ctx), errInterrupted):
		fmt.Fprintln(os.Stderr, "\ninterrupted: everything is stopped")
		return exitInterrupted
	default:
		fmt.Fprintf(os.Stderr, "\ndemo: %v\n", err)
		return exitFailed
	}
}
