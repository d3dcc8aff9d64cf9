package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/snapfleet/snapfleet/consumer"
	"github.com/snapfleet/snapfleet/contracts"
)

type deadCmd struct {
	List   deadListCmd   `cmd:"" help:"List the requests that were given up."`
	Show   deadShowCmd   `cmd:"" help:"Show one of them: headers, body, cause and fix."`
	Replay deadReplayCmd `cmd:"" help:"Publish requests that were given up once more."`
}

func (deadCmd) manual() page {
	return page{about: `
A dead letter is a request that never became a job (malformed, too old, a job id that was used for another request), or
whose job was given up. It is kept for 90 days, byte for byte, with the code and the reason.`}
}

type deadListCmd struct {
	Tenant string `arg:"" optional:"" help:"Only this tenant's."`
	Limit  int    `placeholder:"N" help:"Only the newest N."`
	JSON   bool   `name:"json" help:"Print one JSON object a line."`

	verbFlags
}

func (deadListCmd) manual() page {
	return page{
		about: `Lists dead letters, the newest first: their number, when, whose, why, and what they were replayed as, if they were.`,
		examples: []example{
			{"Those that nobody has dealt with.", "snapfleet dead list --json | jq 'select(.replay == null)'"},
		},
		exits: []int{exitOK, exitFailed, exitUsage, exitNotFound, exitRejected, exitUnreachable, exitInterrupted},
	}
}

// Run prints the table.
func (d *deadListCmd) Run(ctx context.Context, c *console) error {
	if d.Tenant != "" {
		if err := checkNames(d.Tenant, ""); err != nil {
			return err
		}
	}
	if d.Limit < 0 {
		return usagef("--limit=%d is less than nothing", d.Limit)
	}
	o, done, err := openOperator(ctx, d.verbFlags, "dead")
	if err != nil {
		return err
	}
	defer done()
	letters, err := o.letters(ctx, d.Tenant)
	if err != nil {
		return err
	}
	slices.Reverse(letters)
	if d.Limit > 0 {
		letters = letters[:min(len(letters), d.Limit)]
	}
	if d.JSON {
		for _, l := range letters {
			if err := c.json(l, false); err != nil {
				return err
			}
		}
		return nil
	}
	if len(letters) == 0 {
		fmt.Fprintln(c.err, "No dead letters.")
		return nil
	}
	rows := make([]table.Row, 0, len(letters))
	for _, l := range letters {
		rows = append(rows, table.Row{
			l.Seq, when(l.At), printable(l.Tenant), printable(l.Job), printable(string(l.Reason.Code)), shortened(printable(redact(l.Reason.What))), replayedAs(l),
		})
	}
	c.table(table.Row{"seq", "when", "tenant", "job", "code", "reason", "replayed as"}, rows, right(1))
	return nil
}

// letters are the dead letters of a tenant, or all. A tenant that has none has to be known.
func (o operator) letters(ctx context.Context, tenant string) (all []consumer.Letter, err error) {
	for l, err := range o.jobs.Letters(ctx, tenant) {
		if err != nil {
			return nil, err
		}
		all = append(all, l)
	}
	if tenant != "" && len(all) == 0 {
		_, err = o.tenants.Get(ctx, tenant)
	}
	return all, err
}

func replayedAs(l consumer.Letter) string {
	if l.Replay == nil {
		return ""
	}
	return printable(l.Replay.Job)
}

// shortened keeps a table's rows to a screen.
func shortened(s string) string {
	const most = 60
	if utf8.RuneCountInString(s) <= most {
		return s
	}
	return string([]rune(s)[:most-3]) + "..."
}

type deadShowCmd struct {
	Seq  uint64 `arg:"" help:"Number of the dead letter, as \"snapfleet dead list\" shows it."`
	JSON bool   `name:"json" help:"Print it as JSON."`

	verbFlags
}

func (deadShowCmd) manual() page {
	return page{
		about: `
Shows one dead letter: why it was given up, what to do about it, its headers, and its body. Whatever could not be
printed is written as \x1b or \u202e: a letter was written by whoever may publish requests.`,
		exits: []int{exitOK, exitFailed, exitUsage, exitNotFound, exitRejected, exitUnreachable, exitInterrupted},
	}
}

// shown is what --json prints.
type shown struct {
	consumer.Letter
	Header contracts.Header `json:"header,omitempty"`
	// Text is the body when it is text, Body is it in any case.
	Text string `json:"text,omitempty"`
	Body []byte `json:"body_base64"`
	// Replayable says whether "dead replay" can publish it again; Hint what to do instead.
	Replayable bool   `json:"replayable"`
	Hint       string `json:"hint,omitempty"`
}

// Run prints the letter.
func (d *deadShowCmd) Run(ctx context.Context, c *console) error {
	jobs, done, err := openJobs(ctx, d.verbFlags, "dead")
	if err != nil {
		return err
	}
	defer done()
	l, err := jobs.Letter(ctx, d.Seq)
	if err != nil {
		return noLetter(err)
	}
	s := shown{Letter: l, Header: l.Header, Body: l.Body}
	if utf8.Valid(l.Body) {
		s.Text = string(l.Body)
	}
	_, err = l.Wish()
	if s.Replayable = err == nil; err != nil {
		s.Hint = instead(l)
	}
	if d.JSON {
		return c.json(s, true)
	}
	c.letter(s)
	return nil
}

// letter prints a letter for people. Nothing of it reaches the terminal unescaped.
func (c *console) letter(s shown) {
	replay := ""
	if s.Replay != nil {
		replay = fmt.Sprintf("job %s, at %s", printable(s.Replay.Job), when(s.Replay.At))
	}
	c.facts(
		[2]string{"letter", c.bold(strconv.FormatUint(s.Seq, 10))},
		[2]string{"given up", when(s.At)},
		[2]string{"tenant", printable(s.Tenant)},
		[2]string{"job", printable(s.Job)},
		[2]string{"replayed as", replay},
	)
	fmt.Fprintln(c.out)
	what := printable(s.Reason.What) + " (" + printable(string(s.Reason.Code)) + ")"
	printReason(c.out, c.width, "", what, s.Reason.Cause, s.Reason.Fix)
	fmt.Fprintln(c.out)
	var pairs [][2]string
	for _, key := range slices.Sorted(slices.Values(s.Header.Keys())) {
		for _, value := range s.Header[key] {
			pairs = append(pairs, [2]string{printable(key), printable(value)})
		}
	}
	c.facts(pairs...)
	fmt.Fprintf(c.out, "\n%s\n", printable(string(s.Body)))
	switch {
	case s.Hint != "":
		fmt.Fprintf(c.out, "\n%s\n", wrap("It cannot be replayed: "+s.Hint+".", c.width))
	case s.Replay == nil:
		fmt.Fprintf(c.out, "\nWhen that is mended: snapfleet dead replay %d\n", s.Seq)
	}
}

// instead is what to do about a letter that cannot be replayed.
func instead(l consumer.Letter) string {
	switch l.Reason.Code {
	case contracts.UnsupportedVersion:
		return "upgrade snapfleet to a release that reads it, or ask for what it meant with `snapfleet submit`"
	default:
		return "have its publisher mended, and ask for what it meant with `snapfleet submit`"
	}
}

type deadReplayCmd struct {
	Seq    uint64 `arg:"" optional:"" help:"Number of the dead letter."`
	All    bool   `help:"Replay every dead letter that can be and was not yet."`
	Tenant string `placeholder:"NAME" help:"With --all: only this tenant's."`
	Job    string `placeholder:"ID" help:"Id of the job that it becomes. Default: its own if that is not used up, else the present second in UTC, as 2026-03-31-143022."`
	Again  bool   `help:"Also replay what was replayed before."`
	Yes    bool   `short:"y" help:"Do not ask."`
	JSON   bool   `name:"json" help:"Print one JSON object a line: the letter's number, the tenant and the job that it became."`

	verbFlags
}

func (deadReplayCmd) manual() page {
	return page{
		about: `
Publishes the request that a dead letter holds once more: for the same tenant, with the same --only and --format, asked
for now. Mend first what it was refused for ("snapfleet dead show").

A request that never became a job keeps its id. The id of a job that has failed is used up, because its outcome stands
for ever, so the request becomes another job. Each letter is replayed once, unless --again is given; "snapfleet dead
list" shows as what. Of several that ask for the same, --all replays one. A body that is no request cannot be replayed, nor can one that was published for another tenant.`,
		examples: []example{
			{"One, and wait for it.", "snapfleet status acme $(snapfleet dead replay 17) --watch"},
			{"All of a tenant whose role is mended.", "snapfleet dead replay --all --tenant=acme --yes"},
		},
		env:   [][2]string{envOTEL},
		exits: []int{exitOK, exitFailed, exitUsage, exitNotFound, exitRejected, exitUnreachable, exitInterrupted},
	}
}

// replayed is what --json prints.
type replayed struct {
	Seq    uint64 `json:"seq"`
	Tenant string `json:"tenant"`
	Job    string `json:"job"`
	// Own reports whether the job has the id that the request always had.
	Own bool `json:"own_id"`
}

// Run replays one, or all.
func (d *deadReplayCmd) Run(ctx context.Context, c *console) error {
	if err := d.check(); err != nil {
		return err
	}
	o, done, err := openOperator(ctx, d.verbFlags, "dead")
	if err != nil {
		return err
	}
	defer done()
	stop, err := c.tracing(ctx)
	if err != nil {
		return err
	}
	defer stop()
	if d.All {
		return d.all(ctx, c, o)
	}
	l, err := o.jobs.Letter(ctx, d.Seq)
	if err != nil {
		return noLetter(err)
	}
	if err := d.replay(ctx, c, o, l); err != nil {
		return d.explained(l, err)
	}
	return nil
}

func (d *deadReplayCmd) check() error {
	switch {
	case d.All && d.Seq != 0:
		return usagef("give the number of a dead letter or --all, not both")
	case !d.All && d.Seq == 0:
		return usagef("give the number of a dead letter, or --all")
	case d.All && d.Job != "":
		return usagef("--job names one job: it goes with the number of one dead letter")
	case !d.All && d.Tenant != "":
		return usagef("--tenant goes with --all")
	case d.Tenant != "":
		return checkNames(d.Tenant, "")
	case d.Job != "" && !contracts.ValidJob(d.Job):
		return usagef("job %.80q is not 1 to 64 of A-Z a-z 0-9 _ -", d.Job)
	}
	return nil
}

// all replays what can be replayed, oldest first, and says what cannot. What goes wrong with one keeps no other back.
func (d *deadReplayCmd) all(ctx context.Context, c *console, o operator) error {
	letters, err := o.letters(ctx, d.Tenant)
	if err != nil {
		return err
	}
	due, out := dueOf(letters, d.Again)
	for _, why := range out {
		fmt.Fprintln(c.err, wrap("Left out: "+why+".", c.width))
	}
	if len(due) == 0 {
		fmt.Fprintln(c.err, "No dead letter to replay.")
		return nil
	}
	if !d.Yes {
		if err := c.confirm(ctx, "Replay "+plural(len(due), "dead letter"), "replay"); err != nil {
			return err
		}
	}
	failed := 0
	var last error
	for _, l := range due {
		goesOn(ctx)
		if err := d.replay(ctx, c, o, l); err != nil {
			if ctx.Err() != nil || unreachable(err) {
				return err
			}
			failed, last = failed+1, d.explained(l, err)
			printError(c.err, c.width, last)
		}
	}
	if failed > 0 {
		return fmt.Errorf("%s of %d could not be replayed", plural(failed, "dead letter"), len(due))
	}
	return nil
}

// dueOf are the letters that --all replays, and why others are left out. Of letters that ask for the same, one is
// replayed: a publisher that has repeated itself wants one delivery.
func dueOf(letters []consumer.Letter, again bool) (due []consumer.Letter, out []string) {
	asked := map[string]uint64{} // the letter that was replayed, or will be, by the digest of its wish
	for _, l := range letters {
		if wish, err := l.Wish(); err == nil && l.Replay != nil {
			asked[wish.Digest()] = l.Seq
		}
	}
	for _, l := range letters {
		if l.Replay != nil && !again {
			continue
		}
		wish, err := l.Wish()
		if err != nil {
			out = append(out, printable(err.Error())+"; "+instead(l))
			continue
		}
		if first, known := asked[wish.Digest()]; known && first != l.Seq {
			out = append(out, fmt.Sprintf("dead letter %d asks for the same as %d", l.Seq, first))
			continue
		}
		asked[wish.Digest()] = l.Seq
		due = append(due, l)
	}
	return due, out
}

func (d *deadReplayCmd) replay(ctx context.Context, c *console, o operator, l consumer.Letter) error {
	wish, err := l.Wish()
	if err != nil {
		return err
	}
	if _, err := o.tenants.Get(ctx, wish.Tenant); err != nil { // told now, rather than by another dead letter
		return err
	}
	req, err := o.jobs.Replay(ctx, l, consumer.ReplayOptions{Job: d.Job, Again: d.Again}, func(ctx context.Context, req contracts.Request) error {
		repeated, err := publish(ctx, o.jobs, "replay", req)
		if err == nil && repeated {
			err = contracts.Reject(contracts.JobConflict, "job %s of tenant %s was asked for meanwhile", req.Job, req.Tenant)
		}
		return err
	})
	if err != nil {
		return err
	}
	if d.JSON {
		return c.json(replayed{Seq: l.Seq, Tenant: req.Tenant, Job: req.Job, Own: req.Job == wish.Job}, false)
	}
	if d.All {
		fmt.Fprintf(c.out, "%d %s %s\n", l.Seq, req.Tenant, req.Job)
	} else {
		fmt.Fprintln(c.out, req.Job)
	}
	if req.Job != wish.Job {
		fmt.Fprintf(c.err, "Job %s/%s is used up: dead letter %d becomes job %s.\n", wish.Tenant, wish.Job, l.Seq, req.Job)
	}
	return nil
}

// explained adds what to do.
func (d *deadReplayCmd) explained(l consumer.Letter, err error) error {
	rejection, rejected := contracts.AsRejection(err)
	switch {
	case errors.Is(err, consumer.ErrNotReplayable):
		return explain(exitRejected, errors.New(printable(err.Error())), "only a request of version 1, published for its own tenant, can be published again", instead(l))
	case errors.Is(err, consumer.ErrReplayed):
		return explain(exitRejected, err, "each dead letter is replayed once, so that nobody gets two deliveries unasked", "look at it with `snapfleet status`, or give --again")
	case rejected && rejection.Code == contracts.UnknownTenant:
		return explain(exitNotFound, fmt.Errorf("replay dead letter %d: %w", l.Seq, rejection.Err), rejection.Code.Advice().Cause,
			"register it with `snapfleet tenant set`, then replay the dead letter")
	case rejected && rejection.Code == contracts.JobConflict:
		return explain(exitRejected, fmt.Errorf("replay dead letter %d: %w", l.Seq, rejection.Err), "that job id was used before", "give another --job, or none")
	}
	return err
}

// noLetter tells where the numbers are.
func noLetter(err error) error {
	if errors.Is(err, consumer.ErrNoLetter) {
		return explain(exitNotFound, err, "there never was one of that number, or it is older than 90 days", "see `snapfleet dead list`")
	}
	return err
}

// operator is what the verbs that look after a fleet work with.
type operator struct {
	jobs     *consumer.Jobs
	tenants  *consumer.Registry
	pauses   *consumer.Pauses
	checkups *consumer.Checkups
}

// openOperator connects; done disconnects.
func openOperator(ctx context.Context, f verbFlags, verb string) (o operator, done func(), err error) {
	nc, js, err := f.jetStream(ctx, verb)
	if err != nil {
		return o, nil, err
	}
	if o, err = operatorOn(ctx, js); err != nil {
		nc.Close()
		return o, nil, notSetUp(err)
	}
	return o, nc.Close, nil
}

// operatorOn opens everything that an operator's verbs use.
func operatorOn(ctx context.Context, js jetstream.JetStream) (o operator, err error) {
	if o.jobs, err = consumer.OpenJobs(ctx, js); err == nil {
		o.tenants, err = consumer.OpenRegistry(ctx, js)
	}
	if err == nil {
		o.pauses, err = consumer.OpenPauses(ctx, js)
	}
	if err == nil {
		o.checkups, err = consumer.OpenCheckups(ctx, js)
	}
	return o, err
}
