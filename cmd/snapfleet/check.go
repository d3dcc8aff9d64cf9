package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/snapfleet/snapfleet/consumer"
	"github.com/snapfleet/snapfleet/contracts"
)

type tenantCheckCmd struct {
	Tenant string `arg:"" optional:"" help:"Name of the tenant."`
	All    bool   `help:"Check every tenant, and print a table."`
	Next   bool   `help:"Check with the next external ID of the rotation that is under way."`
	JSON   bool   `name:"json" help:"Print the check as JSON; with --all, one object a line."`

	verbFlags
}

func (tenantCheckCmd) manual() page {
	return page{
		about: `
Asks a worker to try everything that a delivery to the tenant's bucket needs, and everything that must be refused: to
assume the role with the external ID, and to be refused without it and with another one; to find the bucket; to
write, read, list and delete below the tenant's folder; and to be refused outside of it. Test objects are removed.

The workers do the same by themselves, see --check-every and --check-ahead of "snapfleet worker".

The exit status is 0 when every step is ok, 4 when one failed, and 1 when something could not be found out. With
--all it is the worst of all tenants'.`,
		examples: []example{
			{"After the customer has changed something.", "snapfleet tenant check acme"},
			{"What fails, for a program.", `snapfleet tenant check acme --json | jq '.steps[] | select(.result == "failed")'`},
		},
		exits: []int{exitOK, exitFailed, exitUsage, exitNotFound, exitRejected, exitUnreachable, exitInterrupted},
	}
}

// Run asks, and prints what was found.
func (t *tenantCheckCmd) Run(ctx context.Context, c *console) error {
	if t.All {
		if t.Tenant != "" || t.Next {
			return usagef("--all is about every tenant, and about the external IDs in use: leave the tenant and --next out")
		}
		return t.everybody(ctx, c)
	}
	if t.Tenant == "" {
		return usagef("give a tenant, or --all")
	}
	if err := checkNames(t.Tenant, ""); err != nil {
		return err
	}
	nc, registry, err := t.verbFlags.registry(ctx)
	if err != nil {
		return err
	}
	defer nc.Close()
	record, err := registry.Get(ctx, t.Tenant)
	if err != nil {
		return err
	}
	if t.Next && record.Destination.NextExternalID == "" {
		return noRotation(t.Tenant)
	}
	check, err := c.askCheck(ctx, nc, t.Tenant, t.Next)
	if err != nil {
		return err
	}
	if t.JSON {
		err = c.json(check, true)
	} else {
		c.check(check)
	}
	return cmp.Or(err, outcomeOf(check.Result()))
}

// registry connects, for somebody who has questions to the workers, too.
func (f verbFlags) registry(ctx context.Context) (*nats.Conn, *consumer.Registry, error) {
	nc, js, err := f.jetStream(ctx, "tenant")
	if err != nil {
		return nil, nil, err
	}
	r, err := consumer.OpenRegistry(ctx, js)
	if err != nil {
		nc.Close()
		return nil, nil, notSetUp(err)
	}
	return nc, r, nil
}

// askCheck asks a worker, and shows that it takes its time.
func (c *console) askCheck(ctx context.Context, nc *nats.Conn, tenant string, next bool) (contracts.Check, error) {
	with := "the external ID"
	if next {
		with = "the next external ID"
	}
	done := c.wait(ctx, tenant, "a worker checks the destination with "+with)
	check, err := consumer.AskCheck(ctx, nc, tenant, next)
	done(err == nil && check.Result() == contracts.CheckOK)
	return check, nobodyAnswers(err)
}

// wait shows, until done is called, what is waited for: on a terminal with the seconds that it has taken.
func (c *console) wait(ctx context.Context, title, what string) (done func(ok bool)) {
	over := waits(ctx) // a worker takes its time, and has a limit of its own
	view := c.progress(c.err, c.errTTY, title)
	view.show(what, contracts.Progress{})
	ctx, cancel := context.WithCancel(ctx)
	var ticking sync.WaitGroup
	if c.errTTY {
		ticking.Go(func() {
			began, tick := time.Now(), time.NewTicker(time.Second)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					view.show(fmt.Sprintf("%s, %s", what, took(time.Since(began).Round(time.Second))), contracts.Progress{})
				case <-ctx.Done():
					return
				}
			}
		})
	}
	return func(ok bool) {
		cancel()
		ticking.Wait()
		view.end(ok)
		over()
	}
}

// nobodyAnswers says what to do when the question reached no worker.
func nobodyAnswers(err error) error {
	switch {
	case errors.Is(err, consumer.ErrNobodyAnswers):
		return explain(exitUnreachable, err, "no worker of this fleet is connected to this NATS account, or it does not come to answering", "start one with `snapfleet worker`, or look at the workers' logs; `nats micro ls` lists those that answer")
	case errors.Is(err, consumer.ErrMayNotAsk):
		return explain(exitRejected, err, "the NATS account's permissions leave it out", "log in as the operator of deploy/nats with --nats-nkey and --nats-inbox=_INBOX_operator, or let this user publish on "+contracts.AskSubjects+" and subscribe to --nats-inbox")
	}
	return err
}

func noRotation(tenant string) error {
	return explain(exitRejected, fmt.Errorf("no rotation of tenant %s's external ID is under way", tenant), "it has one external ID, and no next one", "begin one with `snapfleet tenant rotate "+tenant+"`")
}

// outcomeOf is the exit status of a check that has been printed.
func outcomeOf(r contracts.CheckResult) error {
	switch r {
	case contracts.CheckOK:
		return nil
	case contracts.CheckFailed:
		return &failure{code: exitRejected, err: errTold}
	default:
		return &failure{code: exitFailed, err: errTold}
	}
}

// checkWords say what each step is about.
var checkWords = map[contracts.CheckName]string{
	contracts.CheckAssume:    "the role lets us in with the external ID",
	contracts.CheckWithoutID: "the role refuses us without an external ID",
	contracts.CheckRandomID:  "the role refuses us with another external ID",
	contracts.CheckBucket:    "the bucket is there, and is the one meant",
	contracts.CheckWrite:     "we may write an object",
	contracts.CheckRead:      "it reads back as it was written",
	contracts.CheckDelete:    "we may delete it",
	contracts.CheckMultipart: "we may upload in parts",
	contracts.CheckAbort:     "we may abort an upload, and nothing is left",
	contracts.CheckOutside:   "we may not write outside of the tenant's folder",
}

// check prints a line for each step, and below those that are not well why, and what to do.
func (c *console) check(check contracts.Check) {
	c.facts(
		[2]string{"tenant", c.bold(check.Tenant)},
		[2]string{"bucket", check.Bucket},
		[2]string{"region", check.Region},
		[2]string{"role", check.RoleARN},
		[2]string{"checked", when(check.At)},
		[2]string{"worker", check.Worker},
	)
	fmt.Fprintln(c.out)
	tally := map[contracts.CheckResult]int{}
	for _, s := range check.Steps {
		tally[s.Result]++
		line := fmt.Sprintf("%s  %-18s  %-52s", c.checked(s.Result), s.Name, cmp.Or(checkWords[s.Name], "a step of another release"))
		if s.Result != contracts.CheckSkipped {
			line += c.faint(took(time.Duration(s.Milliseconds) * time.Millisecond))
		}
		fmt.Fprintln(c.out, strings.TrimRight(line, " "))
		if s.Reason != nil {
			printReason(c.out, c.width, "    ", s.Reason.What, s.Reason.Cause, s.Reason.Fix)
		}
	}
	if len(check.Steps) > 0 {
		fmt.Fprintln(c.out)
	}
	fmt.Fprintf(c.out, "%s: %d of %d steps are ok\n", c.paint(string(check.Result()), text.Bold, checkColors[check.Result()]), tally[contracts.CheckOK], len(check.Steps))
}

var checkColors = map[contracts.CheckResult]text.Color{
	contracts.CheckOK: text.FgGreen, contracts.CheckFailed: text.FgRed, contracts.CheckInconclusive: text.FgYellow, contracts.CheckSkipped: text.Faint,
}

// checked is a result in a column of its own.
func (c *console) checked(r contracts.CheckResult) string {
	return c.paint(fmt.Sprintf("%-12s", r), checkColors[r])
}

// manyAtOnce is how many tenants --all asks about at the same time. A worker answers as many.
const manyAtOnce = 4

// asked is a tenant's check, or why there is none.
type asked struct {
	tenant string
	check  contracts.Check
	err    error
}

// everybody checks all tenants.
func (t *tenantCheckCmd) everybody(ctx context.Context, c *console) error {
	nc, registry, err := t.verbFlags.registry(ctx)
	if err != nil {
		return err
	}
	defer nc.Close()
	names, err := registry.Names(ctx)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		fmt.Fprintln(c.err, "No tenant is registered yet. See: snapfleet tenant set --help")
		return nil
	}
	answers, err := c.askAll(ctx, nc, names)
	if err != nil {
		return err
	}
	var rows []table.Row
	var worst error
	for _, a := range answers {
		worst = worse(worst, a.error())
		if !t.JSON {
			rows = append(rows, a.row(c))
			continue
		}
		if a.err != nil {
			printError(c.err, c.width, a.err)
			continue
		}
		if err := c.json(a.check, false); err != nil {
			return err
		}
	}
	if !t.JSON {
		c.table(table.Row{"tenant", "result", "step", "why"}, rows, table.ColumnConfig{Number: 4, WidthMax: max(30, c.width-50), WidthMaxEnforcer: text.WrapSoft})
	}
	return worst
}

// askAll asks about a few at once. That nobody answers is said once, and not for every tenant.
func (c *console) askAll(ctx context.Context, nc *nats.Conn, names []string) ([]asked, error) {
	done := c.wait(ctx, plural(len(names), "tenant"), "the workers check the destinations")
	answers := make([]asked, len(names))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(manyAtOnce)
	for i, name := range names {
		group.Go(func() error {
			check, err := consumer.AskCheck(ctx, nc, name, false)
			answers[i] = asked{name, check, err}
			if nobody, ok := errors.AsType[*failure](nobodyAnswers(err)); ok {
				return nobody
			}
			return context.Cause(ctx)
		})
	}
	err := group.Wait()
	done(err == nil)
	return answers, err
}

func (a asked) error() error {
	if a.err != nil {
		return &failure{err: fmt.Errorf("%w: %w", errTold, a.err)}
	}
	return outcomeOf(a.check.Result())
}

// row shows the first step that is not well.
func (a asked) row(c *console) table.Row {
	result, reason, step := a.check.Result(), a.check.Failure(), ""
	if a.err != nil {
		result, reason = contracts.CheckInconclusive, &contracts.Reason{What: redact(a.err.Error())}
		if r, ok := contracts.AsRejection(a.err); ok {
			reason = r.Reason()
		}
	}
	for _, s := range a.check.Steps {
		if s.Result == result && result != contracts.CheckOK {
			step = string(s.Name)
			break
		}
	}
	why := ""
	if reason != nil {
		why = redact(reason.What)
	}
	return table.Row{a.tenant, c.paint(string(result), checkColors[result]), step, why}
}

// worse is the error whose exit code says more: that something is broken before that something is not known.
func worse(a, b error) error {
	severity := func(err error) int {
		switch exitCode(context.Background(), err) {
		case exitOK:
			return 0
		case exitFailed:
			return 1
		case exitNotFound:
			return 2
		case exitRejected:
			return 3
		default:
			return 4
		}
	}
	if severity(b) > severity(a) {
		return b
	}
	return a
}
