package main

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/snapfleet/snapfleet/consumer"
)

type pauseCmd struct {
	Tenant string        `arg:"" optional:"" help:"Name of the tenant that is paused."`
	Fleet  bool          `help:"Pause everybody, instead of one tenant."`
	Reason string        `placeholder:"TEXT" help:"Why, for those who wonder: one line."`
	For    time.Duration `placeholder:"TIME" help:"End the pause by itself after this time, such as 2h. Default: it lasts until it is ended."`
	JSON   bool          `name:"json" help:"Print the pause as JSON."`

	verbFlags
}

func (pauseCmd) manual() page {
	return page{
		about: `
From now on no job, and no further attempt of a job, is begun for the tenant, or with --fleet for anybody. Workers hear
of it within a second or so.

Jobs under way go on to their end, and what is past its point of no return is finished by whoever can. If a worker dies
over a job meanwhile, the job waits. Requests are taken as ever and wait in the queue; nothing is lost, no attempt is
used up, and the time of a pause counts neither towards the age at which a request is refused (--max-age) nor towards
the deadline of a job that waits.

Pausing what is paused changes its reason and its end. The fleet and a tenant are paused apart from each other: a job
begins when neither of them is.`,
		examples: []example{
			{"While a database is moved.", "snapfleet pause --fleet --reason='database moves, OPS-1234' --for=2h"},
			{"One tenant, until further notice.", "snapfleet pause acme --reason='their KMS key is replaced'"},
		},
		exits: []int{exitOK, exitFailed, exitUsage, exitNotFound, exitRejected, exitUnreachable, exitInterrupted},
	}
}

// longestReason keeps a reason to what fits a terminal.
const longestReason = 300

// Run writes the pause.
func (p *pauseCmd) Run(ctx context.Context, c *console) error {
	if err := p.check(); err != nil {
		return err
	}
	o, done, err := openOperator(ctx, p.verbFlags, "pause")
	if err != nil {
		return err
	}
	defer done()
	if p.Tenant != "" {
		if _, err := o.tenants.Get(ctx, p.Tenant); err != nil {
			return err
		}
	}
	wish := consumer.Pause{Tenant: p.Tenant, By: userName(), Reason: p.Reason}
	if p.For > 0 {
		wish.Until = time.Now().UTC().Add(p.For).Truncate(time.Second)
	}
	was, err := o.pauses.Pause(ctx, wish)
	if err != nil {
		return err
	}
	if p.JSON {
		wish.At = time.Now().UTC()
		if was != nil {
			wish.At = was.At
		}
		return c.json(wish, true)
	}
	word := "is paused"
	if was != nil {
		word = "was paused already, since " + when(was.At) + ", and stays so"
	}
	until := "until `snapfleet resume " + cmp.Or(p.Tenant, "--fleet") + "`"
	if !wish.Until.IsZero() {
		until = "until " + when(wish.Until)
	}
	fmt.Fprintln(c.err, wrap(fmt.Sprintf("%s %s, %s. Nothing new is begun; jobs under way go on to their end, and requests wait.", whom(p.Tenant), word, until), c.width))
	return nil
}

func (p *pauseCmd) check() error {
	switch {
	case p.Tenant != "" && p.Fleet:
		return usagef("give a tenant or --fleet, not both")
	case p.Tenant == "" && !p.Fleet:
		return usagef("give a tenant, or --fleet to pause everybody")
	case p.For < 0:
		return usagef("--for=%v is in the past", p.For)
	case p.For > 0 && p.For < time.Second:
		return usagef("--for=%v is too short, a second is the least", p.For)
	case utf8.RuneCountInString(p.Reason) > longestReason || strings.ContainsFunc(p.Reason, func(r rune) bool { return !unicode.IsPrint(r) }):
		return usagef("--reason is one line of at most %d letters", longestReason)
	case p.Tenant != "":
		return checkNames(p.Tenant, "")
	}
	return nil
}

// whom names who a pause is about, at the beginning of a sentence.
func whom(tenant string) string {
	if tenant == "" {
		return "The fleet"
	}
	return "Tenant " + tenant
}

// pausedLine is a pause in a sentence without a full stop, safe to print.
func pausedLine(p consumer.Pause) string {
	s := "since " + when(p.At)
	if p.By != "" {
		s += " by " + printable(p.By)
	}
	if !p.Until.IsZero() {
		s += ", until " + when(p.Until)
	}
	if p.Reason != "" {
		s += ": " + printable(p.Reason)
	}
	return s
}

// pausedFact is a pause, if there is one, as [console.facts] prints it.
func pausedFact(p *consumer.Pause) [2]string {
	switch {
	case p == nil:
		return [2]string{}
	case p.Tenant == "":
		return [2]string{"paused", "the fleet, " + pausedLine(*p)}
	default:
		return [2]string{"paused", pausedLine(*p)}
	}
}

type resumeCmd struct {
	Tenant string `arg:"" optional:"" help:"Name of the tenant whose pause ends."`
	Fleet  bool   `help:"End the pause of the fleet, instead of one tenant's."`
	JSON   bool   `name:"json" help:"Print what was ended as JSON."`

	verbFlags
}

func (resumeCmd) manual() page {
	return page{
		about: `
Ends a pause. What waits is begun within half a minute (three heartbeats), in the order in which the queue hands it out.
When nothing was paused, that is said, and nothing is wrong.

Ending the pause of the fleet does not end those of single tenants, and the other way round.`,
		examples: []example{
			{"The fleet.", "snapfleet resume --fleet"},
			{"One tenant.", "snapfleet resume acme"},
		},
		exits: []int{exitOK, exitFailed, exitUsage, exitNotFound, exitRejected, exitUnreachable, exitInterrupted},
	}
}

// resumed is what --json prints.
type resumed struct {
	Tenant  string          `json:"tenant,omitempty"`
	Resumed bool            `json:"resumed"` // false: it was not paused
	Was     *consumer.Pause `json:"was,omitempty"`
	// Paused are the pauses that go on.
	Paused []consumer.Pause `json:"paused"`
}

// Run ends the pause.
func (r *resumeCmd) Run(ctx context.Context, c *console) error {
	switch {
	case r.Tenant != "" && r.Fleet:
		return usagef("give a tenant or --fleet, not both")
	case r.Tenant == "" && !r.Fleet:
		return usagef("give a tenant, or --fleet to end the pause of the fleet")
	case r.Tenant != "":
		if err := checkNames(r.Tenant, ""); err != nil {
			return err
		}
	}
	o, done, err := openOperator(ctx, r.verbFlags, "resume")
	if err != nil {
		return err
	}
	defer done()
	was, err := o.pauses.Resume(ctx, r.Tenant)
	if err != nil {
		return err
	}
	if was == nil && r.Tenant != "" {
		if _, err := o.tenants.Get(ctx, r.Tenant); err != nil {
			return err
		}
	}
	left, err := o.pauses.List(ctx)
	if err != nil {
		return err
	}
	if r.JSON {
		return c.json(resumed{Tenant: r.Tenant, Resumed: was != nil, Was: was, Paused: append([]consumer.Pause{}, left...)}, true)
	}
	if was == nil {
		fmt.Fprintf(c.err, "%s was not paused.\n", whom(r.Tenant))
	} else {
		fmt.Fprintf(c.err, "%s is no longer paused; it was %s.\n", whom(r.Tenant), pausedLine(*was))
	}
	c.pauses(left, r.Tenant)
	return nil
}

// pauses tells what is paused, as far as it concerns the tenant, or all of it when tenant is empty.
func (c *console) pauses(all []consumer.Pause, tenant string) {
	for _, p := range all {
		if tenant == "" || p.Tenant == "" || p.Tenant == tenant {
			fmt.Fprintln(c.err, wrap(fmt.Sprintf("%s is paused %s.", whom(p.Tenant), pausedLine(p)), c.width))
		}
	}
}
