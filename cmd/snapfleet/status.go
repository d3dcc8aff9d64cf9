package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/snapfleet/snapfleet/consumer"
	"github.com/snapfleet/snapfleet/contracts"
)

type statusCmd struct {
	Tenant string `arg:"" optional:"" help:"Only this tenant's jobs."`
	Job    string `arg:"" optional:"" help:"Only this job, in detail."`
	Watch  bool   `short:"w" help:"Follow one job to its end."`
	JSON   bool   `name:"json" help:"Print JSON: one document, or one object a line when there are several or when watching."`

	natsFlags
}

func (statusCmd) manual() page {
	return page{
		about: `
Shows the jobs of the fleet, of a tenant, or one job in detail: how far it is, which attempt it is in, what its
last error was, and how it ended. Instants are UTC.

States: queued (no worker has begun), running (an attempt uploads, nothing is visible), waiting (for the next
attempt), committing (past the point of no return: everything is durable, the volumes are being made visible),
sealing (the manifest is being written), committed, done (the customer has the data), failing, failed (given up, cancelled, or refused).

With --watch, bars on a terminal, else a line for each change. The exit status of --watch is 0 only when the
customer has the data.`,
		examples: []example{
			{"Everything there is.", "snapfleet status"},
			{"One job, to its end.", "snapfleet status acme 2026-03-31-143022 --watch"},
			{"The jobs that failed.", "snapfleet status --json | jq 'select(.state == \"failed\")'"},
		},
		exits: []int{exitOK, exitFailed, exitUsage, exitNotFound, exitJobFailed, exitUnreachable, exitInterrupted},
	}
}

// Run shows one job, or a table.
func (s *statusCmd) Run(ctx context.Context, c *console) error {
	if s.Tenant != "" {
		if err := checkNames(s.Tenant, s.Job); err != nil {
			return err
		}
	}
	if s.Watch && s.Job == "" {
		return usagef("--watch follows one job: give a tenant and a job")
	}
	jobs, done, err := openJobs(ctx, s.natsFlags, "status")
	if err != nil {
		return err
	}
	defer done()
	switch {
	case s.Watch && s.JSON:
		return s.stream(ctx, c, jobs)
	case s.Watch:
		status, err := c.follow(ctx, c.out, c.outTTY, jobs, s.Tenant, s.Job)
		if err != nil {
			return err
		}
		return c.conclude(c.out, status)
	case s.Job != "":
		status, err := jobs.Status(ctx, s.Tenant, s.Job)
		if err != nil {
			return err
		}
		if s.JSON {
			return c.json(status, true)
		}
		c.job(status)
		return c.retention(ctx, jobs, status)
	default:
		return s.list(ctx, c, jobs)
	}
}

// stream prints one object a change.
func (s *statusCmd) stream(ctx context.Context, c *console, jobs *consumer.Jobs) error {
	var last consumer.Status
	for status, err := range jobs.Watch(ctx, s.Tenant, s.Job) {
		if err != nil {
			return err
		}
		if err := c.json(status, false); err != nil {
			return err
		}
		last = status
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return verdict(last)
}

func (s *statusCmd) list(ctx context.Context, c *console, jobs *consumer.Jobs) error {
	all, err := jobs.List(ctx, s.Tenant)
	if err != nil {
		return err
	}
	slices.SortFunc(all, func(a, b consumer.Status) int { // the newest last: next to the prompt
		return cmp.Or(begun(a).Compare(begun(b)), strings.Compare(a.Tenant, b.Tenant), strings.Compare(a.Job, b.Job))
	})
	if s.JSON {
		for _, status := range all {
			if err := c.json(status, false); err != nil {
				return err
			}
		}
		return nil
	}
	if len(all) == 0 {
		fmt.Fprintln(c.err, "No jobs yet. See: snapfleet submit --help")
		return nil
	}
	rows := make([]table.Row, 0, len(all))
	for _, st := range all {
		rows = append(rows, table.Row{st.Tenant, st.Job, c.state(st), attempts(st), done(st.Progress), amount(st), when(st.UpdatedAt)})
	}
	c.table(table.Row{"tenant", "job", "state", "attempt", "done", "bytes", "updated"}, rows, right(4), right(6))
	return nil
}

// retention says how long a delivery to the house bucket is kept.
func (c *console) retention(ctx context.Context, jobs *consumer.Jobs, s consumer.Status) error {
	if s.Outcome == nil || !s.Outcome.Kind.OK() {
		return nil
	}
	k, err := jobs.Kept(ctx, *s.Outcome)
	if err != nil || k.Days == 0 {
		return err
	}
	begun := s.CreatedAt
	if begun.IsZero() {
		begun = s.Outcome.EndedAt
	}
	fmt.Fprintf(c.out, "kept in the house bucket, expires %s\n", k.Expires(begun).Format(time.DateOnly))
	return nil
}

// state is the job's state in a colour that says whether somebody has to look.
func (c *console) state(s consumer.Status) string {
	word := stateWord(s)
	switch {
	case s.State == "failed", s.State == "failing":
		return c.paint(word, text.FgRed)
	case s.Outcome != nil && s.Outcome.Kind == contracts.DeliveredWithGaps, s.State == "waiting", s.CancelRequested:
		return c.paint(word, text.FgYellow)
	case s.State == "done":
		return c.paint(word, text.FgGreen)
	case s.State == "queued":
		return word
	default:
		return c.paint(word, text.FgCyan)
	}
}

// stateWord prefers how a job ended to the fact that it did.
func stateWord(s consumer.Status) string {
	switch {
	case s.Outcome != nil:
		return string(s.Outcome.Kind)
	case s.Reason != nil && s.Reason.Code == contracts.CancelledByUser && s.State == "failed":
		return string(contracts.Cancelled)
	case s.CancelRequested && !over(s):
		return s.State + ", cancelling"
	default:
		return s.State
	}
}

// begun is when a worker took the job, or, as long as none has, when it was asked for.
func begun(s consumer.Status) time.Time {
	if s.CreatedAt.IsZero() {
		return s.RequestedAt
	}
	return s.CreatedAt
}

// over also knows the jobs that ended without an outcome: requests that were refused.
func over(s consumer.Status) bool { return s.Ended() || s.State == "done" || s.State == "failed" }

func attempts(s consumer.Status) string {
	if s.Attempt == 0 {
		return ""
	}
	return strconv.Itoa(s.Attempt)
}

// done is how far the job is, in tables and files.
func done(p contracts.Progress) string {
	var words []string
	if p.TablesTotal > 0 {
		words = append(words, fmt.Sprintf("%d/%d tables", p.Tables, p.TablesTotal))
	}
	if p.FilesTotal > 0 {
		words = append(words, fmt.Sprintf("%d/%d files", p.Files, p.FilesTotal))
	}
	return strings.Join(words, ", ")
}

func amount(s consumer.Status) string {
	switch {
	case s.Outcome != nil && s.Outcome.Totals != nil:
		return size(s.Outcome.Totals.Bytes)
	case s.Progress.Bytes > 0:
		return size(s.Progress.Bytes)
	default:
		return ""
	}
}

// job prints everything about one job.
func (c *console) job(s consumer.Status) {
	var m meter
	m.see(s.UpdatedAt, s.Progress.Bytes)
	blame := ""
	if s.Errors+s.Crashes > 0 {
		blame = fmt.Sprintf("%d errors, %d workers lost", s.Errors, s.Crashes)
	}
	next := ""
	if !over(s) && s.NotBefore.After(time.Now()) {
		next = fmt.Sprintf("%s, in %s", when(s.NotBefore), took(time.Until(s.NotBefore)))
	}
	data := ""
	if s.Progress.Bytes > 0 && !over(s) {
		data = m.volume(s.Progress)
	}
	c.facts(
		[2]string{"job", c.bold(s.Tenant + "/" + s.Job)},
		[2]string{"state", c.state(s)},
		[2]string{"phase", phase(s)},
		[2]string{"attempt", attempts(s)},
		[2]string{"so far", blame},
		[2]string{"worker", s.Worker},
		[2]string{"done", done(s.Progress)},
		[2]string{"data", data},
		[2]string{"last error", lastError(s)},
		[2]string{"next try", next},
		[2]string{"requested", when(s.RequestedAt)},
		[2]string{"begun", when(s.CreatedAt)},
		[2]string{"updated", when(s.UpdatedAt)},
		[2]string{"ended", when(s.EndedAt)},
		[2]string{"trace", s.TraceID},
	)
	if over(s) {
		fmt.Fprintln(c.out)
		c.ending(c.out, s)
	}
}

func phase(s consumer.Status) string {
	switch {
	case over(s) || s.Worker == "":
		return ""
	case s.Progress.Current != "" && s.Progress.Phase == contracts.WritingTables:
		return string(s.Progress.Phase) + ": " + s.Progress.Current
	default:
		return string(s.Progress.Phase)
	}
}

// lastError is left out when the end says the same.
func lastError(s consumer.Status) string {
	if s.Reason != nil || s.Ended() {
		return ""
	}
	return redact(s.LastError)
}

// follow shows a job until it ends, and returns its last status.
func (c *console) follow(ctx context.Context, w io.Writer, terminal bool, jobs *consumer.Jobs, tenant, job string) (consumer.Status, error) {
	view := c.progress(w, terminal, tenant+"/"+job)
	var last consumer.Status
	defer func() { view.end(last.Outcome != nil && last.Outcome.Kind.OK()) }()
	for status, err := range jobs.Watch(ctx, tenant, job) {
		if err != nil {
			return last, err
		}
		last = status
		view.show(stateWord(status), status.Progress)
	}
	if ctx.Err() != nil {
		return last, context.Cause(ctx)
	}
	return last, nil
}

// conclude prints how a job ended, and makes it the verb's own end.
func (c *console) conclude(w io.Writer, s consumer.Status) error {
	c.ending(w, s)
	return verdict(s)
}

// verdict is the error that a job's end means. It has been told.
func verdict(s consumer.Status) error {
	if s.Outcome != nil && s.Outcome.Kind.OK() {
		return nil
	}
	return &failure{code: exitJobFailed, err: errTold}
}

// ending prints the end of a job: what was delivered and where, or why not.
func (c *console) ending(w io.Writer, s consumer.Status) {
	kind, reason := contracts.Failed, s.Reason
	if o := s.Outcome; o != nil {
		if o.Kind.OK() {
			fmt.Fprintf(w, "%s%s\n%s\n", o.Kind, totals(o.Totals), o.Manifest)
			return
		}
		kind, reason = o.Kind, o.Reason
	}
	if reason == nil {
		fmt.Fprintf(w, "%s after %d attempts\n", kind, s.Attempt)
		return
	}
	what := reason.What
	if what == "" {
		what = string(reason.Code)
	} else {
		what += " (" + string(reason.Code) + ")"
	}
	printReason(w, c.width, string(kind)+": ", what, reason.Cause, reason.Fix)
}

func totals(t *contracts.Totals) string {
	if t == nil {
		return ""
	}
	s := fmt.Sprintf(": %s, %s rows, %s, %s in %s", plural(t.Tables, "table"), count(t.Rows), plural(t.Attachments, "attachment"), size(t.Bytes), plural(t.Volumes, "volume"))
	if t.Gaps > 0 {
		s += fmt.Sprintf("; %s could not be had, the manifest names them", plural(t.Gaps, "attachment"))
	}
	return s
}
