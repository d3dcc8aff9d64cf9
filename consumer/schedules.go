package consumer

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/snapfleet/snapfleet/contracts"
)

// Schedules keeps the tenants' schedules, each as one message that JetStream itself publishes as a request at the times
// that it names: there is no scheduler to run. It is safe for concurrent use.
type Schedules struct {
	js    jetstream.JetStream
	jobs  *Jobs
	fleet cells
}

// OpenSchedules opens what [Setup] has made.
func OpenSchedules(ctx context.Context, js jetstream.JetStream) (*Schedules, error) {
	jobs, err := OpenJobs(ctx, js)
	if err != nil {
		return nil, err
	}
	fleet, err := openCells(ctx, js, contracts.FleetBucket)
	if err != nil {
		return nil, err
	}
	return &Schedules{js: js, jobs: jobs, fleet: fleet}, nil
}

// Set checks a schedule and puts it in the place of the tenant's earlier one, if there is one: runs that have fired are
// still made. What [CheckSchedule], or the server, refuses is a [contracts.Rejection], and changes nothing.
func (s *Schedules) Set(ctx context.Context, schedule contracts.Schedule) (contracts.Schedule, error) {
	schedule.Cron = plainCron(schedule.Cron)
	schedule.Version, schedule.UpdatedAt = contracts.ScheduleVersion, time.Now().UTC().Truncate(time.Millisecond)
	if err := CheckSchedule(schedule); err != nil {
		return schedule, err
	}
	if err := s.Restore(ctx, schedule); err != nil {
		return schedule, err
	}
	// From here on the schedule fires. The copy is for the day on which its message is gone: see [Consumer.restoreSchedules].
	body, err := json.Marshal(schedule)
	if err == nil {
		err = s.fleet.Put(ctx, scheduleKey(schedule.Tenant), body)
	}
	if err != nil {
		return schedule, fmt.Errorf("keep a copy of the schedule of tenant %s, which is set: %w", schedule.Tenant, err)
	}
	return schedule, nil
}

func scheduleKey(tenant string) string { return "schedule." + tenant }

// Restore publishes a schedule as it is.
func (s *Schedules) Restore(ctx context.Context, schedule contracts.Schedule) error {
	table, err := readTimetable(schedule)
	if err != nil {
		return err
	}
	body, err := json.Marshal(schedule)
	if err != nil {
		return fmt.Errorf("encode the schedule: %w", err)
	}
	// To publish on the subject again is to replace it: the server keeps one schedule on a subject. The message must have
	// no Nats-Msg-Id: the server would acknowledge a second one within the stream's 24 hours, and drop it. And no trace:
	// every header of it but the schedule's own comes with each run.
	_, err = s.js.PublishMsg(ctx, &nats.Msg{Subject: contracts.ScheduleSubject(schedule.Tenant), Data: body},
		jetstream.WithExpectStream(contracts.ScheduleStream), jetstream.WithScheduleCron(table.pattern()),
		jetstream.WithScheduleTimeZone(schedule.TimeZone), jetstream.WithScheduleTarget(contracts.RunSubject(schedule.Tenant)))
	if err != nil {
		return fmt.Errorf("set the schedule of tenant %s: %w", schedule.Tenant, misread(schedule, notSetUp(err)))
	}
	return nil
}

// Clear removes a tenant's schedule, or is [ErrNoSchedule]. Runs that have fired are still made.
func (s *Schedules) Clear(ctx context.Context, tenant string) error {
	if _, err := s.Get(ctx, tenant); err != nil {
		if _, unreadable := contracts.AsRejection(err); !unreadable {
			return err
		}
	}
	return clearSchedule(ctx, s.js, tenant)
}

// clearSchedule does no harm where there is none. The copy goes first: a worker that finds one without its message
// brings the message back.
func clearSchedule(ctx context.Context, js jetstream.JetStream, tenant string) error {
	fleet, err := openCells(ctx, js, contracts.FleetBucket)
	if err == nil {
		err = fleet.Delete(ctx, scheduleKey(tenant))
	}
	if err != nil {
		return fmt.Errorf("clear the schedule of tenant %s: %w", tenant, err)
	}
	stream, err := js.Stream(ctx, contracts.ScheduleStream)
	if err == nil {
		err = stream.Purge(ctx, jetstream.WithPurgeSubject(contracts.ScheduleSubject(tenant)))
	}
	if err != nil {
		return fmt.Errorf("clear the schedule of tenant %s: %w", tenant, notSetUp(err))
	}
	return nil
}

// Get returns a tenant's schedule, or [ErrNoSchedule]. One that cannot be read is a [contracts.Rejection].
func (s *Schedules) Get(ctx context.Context, tenant string) (contracts.Schedule, error) {
	if !contracts.ValidTenant(tenant) {
		return contracts.Schedule{}, fmt.Errorf("tenant %.80q: %w", tenant, ErrNoSchedule)
	}
	stream, err := s.js.Stream(ctx, contracts.ScheduleStream)
	if err != nil {
		return contracts.Schedule{}, fmt.Errorf("read the schedule of tenant %s: %w", tenant, notSetUp(err))
	}
	m, err := stream.GetLastMsgForSubject(ctx, contracts.ScheduleSubject(tenant))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return contracts.Schedule{}, fmt.Errorf("tenant %s: %w", tenant, ErrNoSchedule)
	}
	if err != nil {
		return contracts.Schedule{}, fmt.Errorf("read the schedule of tenant %s: %w", tenant, err)
	}
	return decodeSchedule(m)
}

func decodeSchedule(m *jetstream.RawStreamMsg) (contracts.Schedule, error) {
	schedule, err := contracts.DecodeSchedule(m.Data)
	if err == nil && m.Subject != contracts.ScheduleSubject(schedule.Tenant) {
		err = contracts.Reject(contracts.InvalidRequest, "it is of tenant %s", schedule.Tenant)
	}
	if err != nil {
		return schedule, fmt.Errorf("the schedule on %s: %w", m.Subject, err)
	}
	return schedule, nil
}

// All returns all schedules, by tenant. Those that cannot be read are left out, and are the error.
func (s *Schedules) All(ctx context.Context) (all []contracts.Schedule, err error) {
	var unreadable []error
	for m, err := range s.jobs.messages(ctx, contracts.ScheduleStream, contracts.ScheduleSubjects) {
		if err != nil {
			return nil, fmt.Errorf("list schedules: %w", err)
		}
		schedule, err := decodeSchedule(m)
		if err != nil {
			unreadable = append(unreadable, err)
			continue
		}
		all = append(all, schedule)
	}
	slices.SortFunc(all, func(a, b contracts.Schedule) int { return cmp.Compare(a.Tenant, b.Tenant) })
	return all, errors.Join(unreadable...)
}

// Ask publishes a message on a tenant's runs, as JetStream does when a schedule fires.
func (s *Schedules) Ask(ctx context.Context, tenant string, body []byte, id string) error {
	_, err := s.js.PublishMsg(ctx, &nats.Msg{Subject: contracts.RunSubject(tenant), Data: body},
		jetstream.WithExpectStream(contracts.ScheduleStream), jetstream.WithMsgID(id))
	if err != nil {
		return fmt.Errorf("ask for a run of tenant %s: %w", tenant, notSetUp(err))
	}
	return nil
}

// Upcoming is the next run of every tenant that has a schedule.
func (s *Schedules) Upcoming(ctx context.Context) (map[string]time.Time, error) {
	all, err := s.All(ctx)
	next := make(map[string]time.Time, len(all))
	for _, schedule := range all {
		table, readErr := readTimetable(schedule)
		if readErr != nil {
			err = errors.Join(err, readErr)
		} else if at := table.next(time.Now()); !at.IsZero() {
			next[schedule.Tenant] = at
		}
	}
	return next, err
}

// NextRuns are the next n times of a schedule after at, in its time zone.
func NextRuns(s contracts.Schedule, at time.Time, n int) ([]time.Time, error) {
	table, err := readTimetable(s)
	if err != nil {
		return nil, err
	}
	var runs []time.Time
	for range n {
		if at = table.next(at); at.IsZero() {
			break
		}
		runs = append(runs, at.In(table.zone))
	}
	return runs, nil
}

// Punctuality is how a tenant's deliveries keep to its schedule.
type Punctuality struct {
	contracts.Schedule
	// NextRun is the next time that the schedule names, in UTC.
	NextRun time.Time `json:"next_run,omitzero"`
	// Interval is how far apart the runs are, in seconds: the longest gap around now.
	Interval int64 `json:"interval_seconds"`
	// LastRun is the run that was begun last, or will be; nil before the first one.
	LastRun *Status `json:"last_run,omitempty"`
	// LastDelivery is when everything that the schedule asks for was delivered last, by whatever job.
	LastDelivery time.Time `json:"last_delivery,omitzero"`
	// Overdue: there has been no delivery for one and a half intervals, as of OverdueSince.
	Overdue      bool      `json:"overdue"`
	OverdueSince time.Time `json:"overdue_since,omitzero"`
}

// Punctuality looks at the schedule of one tenant, or, when tenant is empty, at all.
func (s *Schedules) Punctuality(ctx context.Context, tenant string) (all []Punctuality, err error) {
	var schedules []contracts.Schedule
	if tenant == "" {
		schedules, err = s.All(ctx)
	} else {
		var one contracts.Schedule
		one, err = s.Get(ctx, tenant)
		schedules = []contracts.Schedule{one}
	}
	if err != nil && (tenant != "" || len(schedules) == 0) {
		return nil, err
	}
	for _, schedule := range schedules {
		p, lookErr := s.punctuality(ctx, schedule)
		if lookErr != nil {
			return nil, errors.Join(err, lookErr)
		}
		all = append(all, p)
	}
	return all, err
}

func (s *Schedules) punctuality(ctx context.Context, schedule contracts.Schedule) (Punctuality, error) {
	p := Punctuality{Schedule: schedule}
	table, err := readTimetable(schedule)
	if err != nil {
		return p, err
	}
	now := time.Now()
	p.NextRun, p.Interval = table.next(now), int64(table.interval(now).Seconds())
	var last lastRun
	if rev, err := readCell(ctx, s.fleet, runKey(schedule.Tenant), &last); err != nil {
		return p, err
	} else if rev > 0 {
		status, err := s.jobs.Status(ctx, schedule.Tenant, last.Job)
		if errors.Is(err, ErrNoJob) {
			status, err = Status{Tenant: schedule.Tenant, Job: last.Job, State: "queued", RequestedAt: last.FiredAt}, nil
		}
		if err != nil {
			return p, err
		}
		p.LastRun = &status
	}
	var delivered success
	if _, err := readCell(ctx, s.fleet, successKey(schedule.Tenant), &delivered); err != nil {
		return p, err
	}
	p.LastDelivery = delivered.At
	if since, overdue := table.overdueSince(delivered.At, now); overdue {
		p.Overdue, p.OverdueSince = true, since
	}
	return p, nil
}
