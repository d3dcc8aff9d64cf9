package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/snapfleet/snapfleet/consumer"
	"github.com/snapfleet/snapfleet/contracts"
)

type statusCmd struct {
	Tenant   string   `arg:"" optional:"" help:"Only this tenant's jobs."`
	Job      string   `arg:"" optional:"" help:"Only this job, in detail."`
	Watch    bool     `short:"w" help:"Follow one job to its end."`
	State    []string `sep:"," enum:"queued,running,waiting,committing,sealing,committed,done,failing,failed,skipped,cancelled" placeholder:"STATE" help:"Of several jobs, only those in one of these states: queued, running, waiting, committing, sealing, committed, done, failing, failed, skipped, cancelled."`
	Limit    int      `default:"50" placeholder:"N" help:"Of several jobs, only the N that changed last. 0: all."`
	TraceURL string   `name:"trace-url" placeholder:"URL" env:"SNAPFLEET_TRACE_URL" help:"Where your tracing system shows a trace: an address with {trace_id} in it, such as https://jaeger.internal/trace/{trace_id}. Without it the trace's id is shown."`
	JSON     bool     `name:"json" help:"Print JSON: one document, or one object a line when there are several or when watching."`

	verbFlags
}

func (statusCmd) manual() page {
	return page{
		about: `
Shows the jobs of the fleet or of a tenant, the newest first, or one job in detail: how far it is, which attempt it is
in, what its last error was, and how it ended. Jobs that have ended are shown for 400 days. Rows and bytes are of the
delivery; the time is from the first attempt to the end. Instants are UTC.

States: queued (no worker has begun), running (an attempt uploads, nothing is visible), waiting (for the next
attempt), committing (past the point of no return: everything is durable, the volumes are being made visible),
sealing (the manifest is being written), committed, done (the customer has the data), failing, failed (given up, cancelled, refused; or skipped,
which is a run of a schedule that another run stands for).

With --watch, bars on a terminal, else a line for each change. The exit status of --watch is 0 only when the
customer has the data.`,
		examples: []example{
			{"What happened last, in the whole fleet.", "snapfleet status"},
			{"One job, to its end.", "snapfleet status acme 2026-03-31-143022 --watch"},
			{"What failed lately, with links to the traces.", "snapfleet status --state=failed --limit=20 --trace-url=https://jaeger.internal/trace/{trace_id}"},
			{"Bytes delivered to a tenant.", "snapfleet status acme --state=done --limit=0 --json | jq -s 'map(.totals.bytes) | add'"},
		},
		exits: []int{exitOK, exitFailed, exitUsage, exitNotFound, exitRejected, exitJobFailed, exitUnreachable, exitInterrupted},
	}
}

// defaultLimit is how many of several jobs are shown unless a limit is given.
const defaultLimit = 50

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
	if s.Job != "" && (s.Limit != defaultLimit || len(s.State) > 0) {
		return usagef("--limit and --state are for several jobs, and %s is one", s.Job)
	}
	if s.Limit < 0 {
		return usagef("--limit=%d is less than nothing", s.Limit)
	}
	if err := checkTraceURL(s.TraceURL); err != nil {
		return err
	}
	nc, js, err := s.jetStream(ctx, "status")
	if err != nil {
		return err
	}
	defer nc.Close()
	jobs, err := consumer.OpenJobs(ctx, js)
	if err != nil {
		return notSetUp(err)
	}
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
			return c.json(told(status, s.TraceURL), true)
		}
		c.job(status, s.TraceURL)
		return c.retention(ctx, jobs, status)
	default:
		return s.list(ctx, c, js, jobs)
	}
}

// traceID stands for a trace's id in --trace-url.
const traceID = "{trace_id}"

func checkTraceURL(template string) error {
	if template == "" {
		return nil
	}
	u, err := url.Parse(strings.ReplaceAll(template, traceID, "0"))
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || !strings.Contains(template, traceID) || u.User != nil {
		return usagef("--trace-url is no http or https address with %s in it, such as https://jaeger.internal/trace/%s", traceID, traceID)
	}
	return nil
}

// link is where a trace is shown, or its id.
func link(template, id string) string {
	if template == "" || id == "" {
		return id
	}
	return strings.ReplaceAll(template, traceID, id)
}

// statusJSON is a status as programs read it.
type statusJSON struct {
	consumer.Status
	TookMS   int64  `json:"took_ms,omitempty"` // from the first attempt to the end, or to the last sign of life
	TraceURL string `json:"trace_url,omitempty"`
}

func told(s consumer.Status, template string) statusJSON {
	j := statusJSON{Status: s, TookMS: s.Took().Milliseconds()}
	if template != "" {
		j.TraceURL = link(template, s.TraceID)
	}
	return j
}

// stream prints one object a change.
func (s *statusCmd) stream(ctx context.Context, c *console, jobs *consumer.Jobs) error {
	var last consumer.Status
	defer waits(ctx)()
	for status, err := range jobs.Watch(ctx, s.Tenant, s.Job) {
		if err != nil {
			return err
		}
		if err := c.json(told(status, s.TraceURL), false); err != nil {
			return err
		}
		last = status
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return verdict(last)
}

func (s *statusCmd) list(ctx context.Context, c *console, js jetstream.JetStream, jobs *consumer.Jobs) error {
	all, more, err := s.read(ctx, jobs)
	if err != nil {
		return err
	}
	if more {
		fmt.Fprintf(c.err, "These are the %d that changed last. All: --limit=0\n", s.Limit)
	}
	if s.Tenant != "" && len(all) == 0 { // the jobs of a tenant that was removed are still to be seen
		registry, err := consumer.OpenRegistry(ctx, js)
		if err == nil {
			_, err = registry.Get(ctx, s.Tenant)
		}
		if err != nil && !errors.Is(err, consumer.ErrMayNotSee) {
			return err
		}
	}
	pauses, err := consumer.OpenPauses(ctx, js)
	if err != nil {
		return notSetUp(err)
	}
	paused, err := pauses.List(ctx)
	if err != nil {
		return err
	}
	some := s.chosen(all)
	if s.JSON {
		for _, status := range some {
			if err := c.json(told(status, s.TraceURL), false); err != nil {
				return err
			}
		}
		return nil
	}
	switch {
	case len(all) == 0 && len(s.State) > 0:
		fmt.Fprintln(c.err, "No job is in that state.")
	case len(all) == 0:
		fmt.Fprintln(c.err, "No jobs yet. See: snapfleet submit --help")
	case len(some) == 0:
		fmt.Fprintf(c.err, "None of %s is in that state.\n", plural(len(all), "job"))
	default:
		c.jobs(some, s.TraceURL)
	}
	c.pauses(paused, s.Tenant)
	return nil
}

// read are the jobs that changed last, in the states that were asked for, or all jobs when there is no limit. more reports
// that there may be others.
func (s *statusCmd) read(ctx context.Context, jobs *consumer.Jobs) (all []consumer.Status, more bool, err error) {
	if s.Limit == 0 {
		all, err = jobs.List(ctx, s.Tenant)
		return all, false, err
	}
	var match func(consumer.Status) bool
	if len(s.State) > 0 {
		match = func(st consumer.Status) bool { return slices.Contains(s.State, stateName(st)) }
	}
	return jobs.Newest(ctx, s.Tenant, s.Limit, match)
}

// chosen are the newest jobs, in the states that were asked for.
func (s *statusCmd) chosen(all []consumer.Status) []consumer.Status {
	if len(s.State) > 0 {
		all = slices.DeleteFunc(slices.Clone(all), func(st consumer.Status) bool { return !slices.Contains(s.State, stateName(st)) })
	}
	slices.SortFunc(all, func(a, b consumer.Status) int {
		return cmp.Or(begun(b).Compare(begun(a)), strings.Compare(a.Tenant, b.Tenant), strings.Compare(a.Job, b.Job))
	})
	if s.Limit > 0 {
		all = all[:min(len(all), s.Limit)]
	}
	return all
}

// jobs prints a table of jobs.
func (c *console) jobs(all []consumer.Status, template string) {
	rows := make([]table.Row, 0, len(all))
	for _, st := range all {
		rows = append(rows, table.Row{
			st.Tenant, st.Job, c.state(st), attempts(st), done(st.Progress), rowsOf(st), amount(st), lasted(st), printable(st.Worker), when(changed(st)), why(st), link(template, st.TraceID),
		})
	}
	c.table(table.Row{"tenant", "job", "state", "attempt", "done", "rows", "bytes", "took", "worker", "updated", "reason", "trace"}, rows,
		right(4), right(6), right(7), right(8))
}

// changed is when something last happened to the job.
func changed(s consumer.Status) time.Time {
	if s.UpdatedAt.IsZero() {
		return s.RequestedAt
	}
	return s.UpdatedAt
}

func lasted(s consumer.Status) string {
	if s.Took() == 0 {
		return ""
	}
	return took(s.Took())
}

// why is what a row of the table says about how the job stands.
func why(s consumer.Status) string {
	switch {
	case s.Reason != nil:
		return printable(string(s.Reason.Code))
	case s.Totals != nil && s.Totals.Gaps > 0:
		return plural(s.Totals.Gaps, "gap")
	case s.Totals != nil && s.Totals.AttachmentsExcluded != "":
		return "attachments excluded"
	case s.Totals != nil && s.Totals.UnmatchedPatterns > 0:
		return plural(s.Totals.UnmatchedPatterns, "unmatched pattern")
	case s.State == "waiting":
		return briefly(lastError(s))
	default:
		return ""
	}
}

// briefly is as much of an error as a table has room for.
func briefly(text string) string {
	const room = 60
	text, _, _ = strings.Cut(text, "; cause: ")
	if r := []rune(text); len(r) > room {
		text = string(r[:room]) + "..."
	}
	return text
}

// rowsOf is the number of rows delivered, or written so far.
func rowsOf(s consumer.Status) string {
	switch {
	case s.Totals != nil:
		return count(s.Totals.Rows)
	case s.Progress.Rows > 0:
		return count(s.Progress.Rows)
	default:
		return ""
	}
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
	case skipped(s):
		return word
	case s.State == "failed", s.State == "failing":
		return c.paint(word, text.FgRed)
	case s.Totals != nil && s.Totals.Gaps > 0, s.State == "waiting", s.Paused != nil, s.CancelRequested:
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
	case s.CancelRequested && !over(s):
		return s.State + ", cancelling"
	case s.Paused != nil:
		return s.State + ", paused"
	default:
		return stateName(s)
	}
}

// stateName is the state, but tells the cancelled and the skipped from the failed.
func stateName(s consumer.Status) string {
	switch {
	case s.State == "failed" && s.Reason != nil && s.Reason.Code == contracts.CancelledByUser:
		return string(contracts.Cancelled)
	case skipped(s):
		return string(contracts.Skipped)
	}
	return s.State
}

// skipped knows a run of a schedule that was not made without its outcome, too.
func skipped(s consumer.Status) bool {
	return s.Reason != nil && (s.Reason.Code == contracts.RunMissed || s.Reason.Code == contracts.RunUnderWay)
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
	case s.Totals != nil:
		return size(s.Totals.Bytes)
	case s.Progress.Bytes > 0:
		return size(s.Progress.Bytes)
	default:
		return ""
	}
}

// job prints everything about one job.
func (c *console) job(s consumer.Status, template string) {
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
	switch {
	case s.Totals != nil:
		data = count(s.Totals.Rows) + " rows, " + size(s.Totals.Bytes)
	case s.Progress.Bytes > 0 && !over(s):
		data = m.volume(s.Progress)
	}
	c.facts(
		[2]string{"job", c.bold(s.Tenant + "/" + s.Job)},
		[2]string{"state", c.state(s)},
		[2]string{"phase", phase(s)},
		[2]string{"attempt", attempts(s)},
		[2]string{"so far", blame},
		pausedFact(s.Paused),
		[2]string{"worker", printable(s.Worker)},
		[2]string{"done", done(s.Progress)},
		[2]string{"data", data},
		[2]string{"last error", lastError(s)},
		[2]string{"next try", next},
		[2]string{"requested", when(s.RequestedAt)},
		[2]string{"scheduled", scheduled(s.Schedule)},
		[2]string{"begun", when(s.CreatedAt)},
		[2]string{"updated", when(s.UpdatedAt)},
		[2]string{"ended", when(s.EndedAt)},
		[2]string{"took", lasted(s)},
		[2]string{"trace", link(template, s.TraceID)},
	)
	if over(s) {
		fmt.Fprintln(c.out)
		c.ending(c.out, s)
	}
}

// scheduled says which run of the tenant's schedule a job is.
func scheduled(r *contracts.ScheduledRun) string {
	if r == nil {
		return ""
	}
	words := "for " + when(r.FiredAt)
	if r.LateSeconds > 0 {
		words += ", begun " + took(time.Duration(r.LateSeconds)*time.Second) + " late"
	}
	if r.MissedTotal > 0 {
		words += "; makes up for " + plural(r.MissedTotal, "run") + " since " + when(r.Missed[0])
		if r.MissedTotal > len(r.Missed) {
			words += " and before"
		}
	}
	return words
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
	return printable(redact(s.LastError))
}

// follow shows a job until it ends, and returns its last status.
func (c *console) follow(ctx context.Context, w io.Writer, terminal bool, jobs *consumer.Jobs, tenant, job string) (consumer.Status, error) {
	view := c.progress(w, terminal, tenant+"/"+job)
	var last consumer.Status
	defer func() { view.end(last.Outcome != nil && last.Outcome.Kind.OK()) }()
	defer waits(ctx)()
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
	if skipped(s) {
		kind = contracts.Skipped
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
	if t.AttachmentsExcluded != "" {
		s += "; attachments are not in it: " + printable(t.AttachmentsExcluded)
	}
	if t.UnmatchedPatterns > 0 {
		s += fmt.Sprintf("; %s of --exclude-tables matched no table, the manifest names them", plural(t.UnmatchedPatterns, "pattern"))
	}
	return s
}
