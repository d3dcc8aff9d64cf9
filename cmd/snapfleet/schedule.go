package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/snapfleet/snapfleet/consumer"
	"github.com/snapfleet/snapfleet/contracts"
)

type scheduleCmd struct {
	Set   scheduleSetCmd   `cmd:"" help:"Ask for a tenant's snapshots again and again."`
	List  scheduleListCmd  `cmd:"" help:"List the schedules, with the next and the last run of each."`
	Next  scheduleNextCmd  `cmd:"" help:"Show when a tenant's next runs are."`
	Check scheduleCheckCmd `cmd:"" help:"Say whose deliveries are overdue."`
	Clear scheduleClearCmd `cmd:"" help:"Stop asking."`
}

func (scheduleCmd) manual() page {
	return page{about: `
A schedule is one message that NATS JetStream keeps, and publishes as a request whenever it is time: there is no
scheduler to run, and none that could be down. The id of each job is the time of its run in UTC, as
2026-03-31-143022.

Runs of one tenant never overlap: one that is due while the run before goes on is skipped, with an outcome that says
so. After an outage one run is made for all that were missed; its outcome names them.`}
}

type scheduleSetCmd struct {
	Tenant   string           `arg:"" help:"Name of the tenant."`
	Cron     string           `required:"" placeholder:"CRON" help:"Minute, hour, day of the month, month and day of the week (0, 7 or SUN, to 6 or SAT), as in crontab; or @hourly, @daily, @weekly, @monthly, @yearly. A sixth field before them is the second."`
	Timezone string           `default:"UTC" placeholder:"ZONE" help:"Where the clock of --cron hangs: an IANA name such as America/Los_Angeles."`
	Only     contracts.Kind   `enum:"tables,attachments," default:"" help:"Deliver only the tables, or only the attachments."`
	Format   contracts.Format `enum:"csv.gz,jsonl.gz," default:"" help:"How the rows of a table are written. Default: as the tenant's record says."`
	JSON     bool             `name:"json" help:"Print the schedule as JSON."`

	verbFlags
}

func (scheduleSetCmd) manual() page {
	return page{
		about: `
Sets a tenant's schedule, in the place of the one before if there is one, and prints its next runs. Runs that are
under way or in the queue are not touched.

A cron that names hours, such as '0 2 * * *', has one run for each local time on each local day that it names. When the
clocks go forward, a time that is skipped has its run at the first instant after it, within --schedule-every; when
they go back, a time that comes twice has its run the first time. A cron for every hour, such as '*/15 * * * *', goes by
elapsed time: it goes on while an hour comes twice, and makes up for none that is skipped. "snapfleet schedule next"
shows it.`,
		examples: []example{
			{"Every night at two in Los Angeles.", "snapfleet schedule set acme --cron='0 2 * * *' --timezone=America/Los_Angeles"},
			{"The tables alone, every six hours.", "snapfleet schedule set acme --cron='0 */6 * * *' --only=tables"},
		},
		exits: []int{exitOK, exitFailed, exitUsage, exitNotFound, exitRejected, exitUnreachable, exitInterrupted},
	}
}

// Run publishes the schedule.
func (s *scheduleSetCmd) Run(ctx context.Context, c *console) error {
	if err := checkNames(s.Tenant, ""); err != nil {
		return err
	}
	schedule := contracts.Schedule{
		Version: contracts.ScheduleVersion, Tenant: s.Tenant, Cron: s.Cron, TimeZone: s.Timezone, Only: s.Only, Format: s.Format, UpdatedAt: time.Now(),
	}
	if err := consumer.CheckSchedule(schedule); err != nil {
		return misread(err)
	}
	registry, done, err := openRegistry(ctx, s.verbFlags)
	if err != nil {
		return err
	}
	defer done()
	if _, err := registry.Get(ctx, s.Tenant); err != nil { // told now, rather than by the first run
		return err
	}
	schedules, done, err := openSchedules(ctx, s.verbFlags)
	if err != nil {
		return err
	}
	defer done()
	if schedule, err = schedules.Set(ctx, schedule); err != nil {
		return misread(err)
	}
	if s.JSON {
		return c.json(schedule, true)
	}
	return c.nextRuns(schedule, 3)
}

// misread makes a schedule that is refused a matter of flags.
func misread(err error) error {
	rejection, ok := contracts.AsRejection(err)
	if !ok {
		return err
	}
	return explain(exitUsage, rejection.Err, "", "see `snapfleet schedule set --help`; nothing was changed")
}

// nextRuns prints when a schedule fires.
func (c *console) nextRuns(s contracts.Schedule, n int) error {
	runs, err := consumer.NextRuns(s, time.Now(), n)
	if err != nil {
		return err
	}
	rows := make([]table.Row, 0, len(runs))
	for _, at := range runs {
		rows = append(rows, table.Row{at.Format("Mon 2006-01-02 15:04:05 MST"), when(at), s.Request(at).Job})
	}
	c.table(table.Row{"next run, " + s.TimeZone, "in UTC", "job"}, rows)
	return nil
}

type scheduleListCmd struct {
	JSON bool `name:"json" help:"Print one JSON object a line."`

	verbFlags
}

func (scheduleListCmd) manual() page {
	return page{
		about: `
Lists the schedules by tenant: when the next run is, which one was begun last and how it ended, when everything was
last delivered, and who is overdue: see "snapfleet schedule check --help".`,
		examples: []example{{"The next run of each.", "snapfleet schedule list --json | jq -r '[.tenant, .next_run] | @tsv'"}},
		exits:    []int{exitOK, exitFailed, exitUsage, exitRejected, exitUnreachable, exitInterrupted},
	}
}

// Run prints the table.
func (s *scheduleListCmd) Run(ctx context.Context, c *console) error {
	all, err := punctuality(ctx, s.verbFlags, "")
	if s.JSON {
		for _, p := range all {
			if err := c.json(p, false); err != nil {
				return err
			}
		}
		return err
	}
	if err == nil && len(all) == 0 {
		fmt.Fprintln(c.err, "No schedule is set yet. See: snapfleet schedule set --help")
		return nil
	}
	rows := make([]table.Row, 0, len(all))
	for _, p := range all {
		last := ""
		if r := p.LastRun; r != nil {
			last = r.Job + " " + c.state(*r)
		}
		rows = append(rows, table.Row{p.Tenant, p.Cron, p.TimeZone, when(p.NextRun), last, when(p.LastDelivery), c.overdue(p)})
	}
	if len(rows) > 0 {
		c.table(table.Row{"tenant", "cron", "time zone", "next run", "last run", "last delivery", ""}, rows)
	}
	return err
}

func (c *console) overdue(p consumer.Punctuality) string {
	if !p.Overdue {
		return ""
	}
	return c.paint("OVERDUE", text.FgRed)
}

type scheduleNextCmd struct {
	Tenant string `arg:"" help:"Name of the tenant."`
	N      int    `short:"n" default:"5" help:"How many runs, 1 to 1000."`

	verbFlags
}

func (scheduleNextCmd) manual() page {
	return page{
		about: `Shows when a tenant's next runs are, in the schedule's time zone and in UTC, and the jobs that they will be.`,
		exits: []int{exitOK, exitFailed, exitUsage, exitNotFound, exitRejected, exitUnreachable, exitInterrupted},
	}
}

// Run prints the runs.
func (s *scheduleNextCmd) Run(ctx context.Context, c *console) error {
	if err := checkNames(s.Tenant, ""); err != nil {
		return err
	}
	if s.N < 1 || s.N > 1000 {
		return usagef("-n is %d, it must be 1 to 1000", s.N)
	}
	schedules, done, err := openSchedules(ctx, s.verbFlags)
	if err != nil {
		return err
	}
	defer done()
	schedule, err := schedules.Get(ctx, s.Tenant)
	if err != nil {
		return noSchedule(err)
	}
	return c.nextRuns(schedule, s.N)
}

type scheduleCheckCmd struct {
	Tenant string `arg:"" optional:"" help:"Only this tenant."`
	JSON   bool   `name:"json" help:"Print one JSON object a line: those that are overdue."`

	verbFlags
}

func (scheduleCheckCmd) manual() page {
	return page{
		about: `
Says whose deliveries are overdue: nothing was delivered for one and a half times the interval of the schedule, which
is the longest gap between two of its runs around now. A delivery counts, whoever asked for it, when it is all that the
tenant has or all that the schedule asks for.

The exit status is 0 when nobody is overdue, and 1 when somebody is. The workers tell the same as the gauge
snapfleet_tenants_overdue and, when it changes, as the notices delivery-overdue and delivery-caught-up.`,
		examples: []example{{"As a check of a monitoring system.", "snapfleet schedule check || page-somebody"}},
		exits:    []int{exitOK, exitFailed, exitUsage, exitNotFound, exitRejected, exitUnreachable, exitInterrupted},
	}
}

// Run prints those that are late.
func (s *scheduleCheckCmd) Run(ctx context.Context, c *console) error {
	if s.Tenant != "" {
		if err := checkNames(s.Tenant, ""); err != nil {
			return err
		}
	}
	all, err := punctuality(ctx, s.verbFlags, s.Tenant)
	if err != nil {
		return noSchedule(err)
	}
	late := 0
	for _, p := range all {
		if !p.Overdue {
			continue
		}
		late++
		if s.JSON {
			if err := c.json(p, false); err != nil {
				return err
			}
			continue
		}
		last := "never delivered to since the schedule was set on " + when(p.UpdatedAt)
		if !p.LastDelivery.IsZero() {
			last = "last delivered to on " + when(p.LastDelivery)
		}
		fmt.Fprintf(c.out, "%s is %s since %s: %s, every %v\n", c.bold(p.Tenant), c.overdue(p), when(p.OverdueSince), last, time.Duration(p.Interval)*time.Second)
	}
	if late > 0 {
		return &failure{code: exitFailed, err: errTold}
	}
	fmt.Fprintf(c.err, "Nobody is overdue: %s.\n", plural(len(all), "schedule"))
	return nil
}

type scheduleClearCmd struct {
	Tenant string `arg:"" help:"Name of the tenant."`

	verbFlags
}

func (scheduleClearCmd) manual() page {
	return page{
		about: `Removes a tenant's schedule. Runs that are under way or in the queue end as they would have.`,
		exits: []int{exitOK, exitFailed, exitUsage, exitNotFound, exitRejected, exitUnreachable, exitInterrupted},
	}
}

// Run removes the schedule.
func (s *scheduleClearCmd) Run(ctx context.Context, c *console) error {
	if err := checkNames(s.Tenant, ""); err != nil {
		return err
	}
	schedules, done, err := openSchedules(ctx, s.verbFlags)
	if err != nil {
		return err
	}
	defer done()
	if err := schedules.Clear(ctx, s.Tenant); err != nil {
		return noSchedule(err)
	}
	fmt.Fprintf(c.err, "Tenant %s has no schedule any more.\n", s.Tenant)
	return nil
}

// noSchedule says what to do about a schedule that is not there.
func noSchedule(err error) error {
	if errors.Is(err, consumer.ErrNoSchedule) {
		return explain(exitNotFound, err, "", "see `snapfleet schedule list`, or set one with `snapfleet schedule set`")
	}
	return err
}

// punctuality connects, and looks at one tenant's schedule or at all.
func punctuality(ctx context.Context, f verbFlags, tenant string) ([]consumer.Punctuality, error) {
	schedules, done, err := openSchedules(ctx, f)
	if err != nil {
		return nil, err
	}
	defer done()
	return schedules.Punctuality(ctx, tenant)
}

// openSchedules connects; done disconnects.
func openSchedules(ctx context.Context, f verbFlags) (s *consumer.Schedules, done func(), err error) {
	nc, js, err := f.jetStream(ctx, "schedule")
	if err != nil {
		return nil, nil, err
	}
	if s, err = consumer.OpenSchedules(ctx, js); err != nil {
		nc.Close()
		return nil, nil, notSetUp(err)
	}
	return s, nc.Close, nil
}
