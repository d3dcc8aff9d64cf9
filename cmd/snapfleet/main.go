// Command snapfleet delivers a tenant's PostgreSQL data and attachments into the tenant's own S3 bucket.
//
// One binary holds everything: the worker, the operators' verbs and the customers' verbs. main.go turns an
// error into an exit code, config.go reads flags and environment, worker.go puts the pieces together and
// deliver.go tells the whole story of one request. `snapfleet --help` is the manual.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	_ "time/tzdata" // a container of nothing but this binary has no time zones

	"github.com/alecthomas/kong"
	kongcompletion "github.com/jotaen/kong-completion"
	_ "golang.org/x/crypto/x509roots/fallback" // nor certificate authorities; where there are any, those count
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	c := newConsole(os.Stdin, os.Stdout, os.Stderr)
	parser := newParser(new(cli), c)
	kongcompletion.Register(parser)

	signals := new(signals)
	ctx, stop := signals.listen(context.Background())
	defer stop()

	if len(args) == 0 { // the manual, but nothing was asked for
		args = []string{"--help"}
	}
	parsed, err := parser.Parse(args)
	if err != nil {
		fmt.Fprintf(c.err, "snapfleet: %s\n", redact(err.Error()))
		fmt.Fprintf(c.err, "    try:   %s --help\n", commandOf(err))
		return exitUsage
	}
	c.warnings = environmentWarnings(parser.Model)
	if parsed.Selected() == nil || parsed.Selected().Name != "worker" { // which logs them
		for _, w := range c.warnings {
			fmt.Fprintf(c.err, "snapfleet: warning: %s\n", w)
		}
	}
	verb, patience := withPatience(ctx)
	parsed.BindTo(verb, (*context.Context)(nil))
	parsed.Bind(c, signals, parser.Model)
	err = patience.explain(verb, parsed.Run())
	if code := exitCode(ctx, err); err != nil {
		switch {
		case code == exitInterrupted:
			fmt.Fprintln(c.err, "snapfleet: interrupted")
		case !errors.Is(err, errTold):
			printError(c.err, c.width, err)
		}
		return code
	}
	return exitOK
}

func newParser(grammar *cli, c *console) *kong.Kong {
	return kong.Must(grammar, append(kongOptions(), kong.Writers(c.out, c.err), kong.Help(c.printHelp))...)
}

// commandOf is the command whose help answers a parse error.
func commandOf(err error) string {
	parse, ok := errors.AsType[*kong.ParseError](err)
	if !ok || parse.Context == nil || parse.Context.Selected() == nil {
		return "snapfleet"
	}
	return parse.Context.Selected().FullPath()
}

// signals is what SIGINT and SIGTERM mean. The first one cancels the context, with a cause: a worker drains
// then, everybody else cleans up. The second one hurries the worker, and ends everybody else at once. The third
// ends the process where it stands, which is always safe: whatever a worker leaves behind, another one finds and
// finishes.
type signals struct {
	mu    sync.Mutex
	hurry func() // nil: exit
}

// onSecond gives a verb something better to do at the second signal than to exit.
func (s *signals) onSecond(hurry func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hurry = hurry
}

func (s *signals) second() (hurried bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hurry == nil {
		return false
	}
	s.hurry()
	s.hurry = nil
	return true
}

// listen gives a context that lives until the first signal. stop ends the listening.
func (s *signals) listen(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	caught := make(chan os.Signal, 3)
	signal.Notify(caught, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		if _, ok := <-caught; !ok {
			return
		}
		cancel(errInterrupted)
		for range caught {
			if !s.second() {
				os.Exit(exitInterrupted)
			}
		}
	}()
	return ctx, func() {
		signal.Stop(caught)
		close(caught)
		cancel(nil)
	}
}
