package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/snapfleet/snapfleet/consumer"
	"github.com/snapfleet/snapfleet/contracts"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

type submitCmd struct {
	Tenant string           `arg:"" help:"Name of the tenant."`
	Job    string           `placeholder:"ID" help:"Id of the job, and its folder in the bucket: 1 to 64 of A-Z a-z 0-9 _ -. Default: the present second in UTC, as 2026-03-31-143022."`
	Only   contracts.Kind   `enum:"tables,attachments," default:"" help:"Deliver only the tables, or only the attachments."`
	Format contracts.Format `enum:"csv.gz,jsonl.gz," default:"" help:"How the rows of a table are written. Default: as the tenant's record says."`
	Wait   bool             `short:"w" help:"Show the job's progress and wait for its end."`

	verbFlags
}

func (submitCmd) manual() page {
	return page{
		about: `
Publishes a snapshot request, and prints the id of the job on standard output. From then on the request is kept by
JetStream until a worker has delivered it or said why it cannot be.

The id makes the request safe to repeat: the same id with the same content is the same wish and is delivered once;
the same id with other content (--only, --format) is refused.

With --wait the progress goes to standard error, and the exit status is 0 only when the customer has the data.
Interrupting the wait does not stop the job; "snapfleet cancel" does.`,
		examples: []example{
			{"Ask and go on.", "job=$(snapfleet submit acme)"},
			{"Ask, watch, and know how it ended.", "snapfleet submit acme --job=before-migration --wait && ./migrate"},
		},
		env:   [][2]string{envOTEL},
		exits: []int{exitOK, exitFailed, exitUsage, exitNotFound, exitRejected, exitJobFailed, exitUnreachable, exitInterrupted},
	}
}

// Run publishes the request.
func (s *submitCmd) Run(ctx context.Context, c *console) error {
	request := contracts.Request{
		Version: contracts.RequestVersion, Tenant: s.Tenant, Job: s.Job, Only: s.Only, Format: s.Format,
		RequestedAt: time.Now().UTC().Truncate(time.Millisecond),
	}
	if request.Job == "" {
		request.Job = request.RequestedAt.Format(contracts.JobLayout)
	}
	if err := request.Validate(); err != nil {
		return err
	}
	nc, js, err := s.jetStream(ctx, "submit")
	if err != nil {
		return err
	}
	defer nc.Close()
	reading, stopReading := consumer.MayRead(ctx, nc)
	o, err := operatorOn(reading, js)
	right, blind := consumer.AsNoRight(context.Cause(reading))
	stopReading()
	if blind && ctx.Err() == nil {
		return s.publishBlind(ctx, c, js, request, right)
	}
	if err != nil {
		return notSetUp(err)
	}
	jobs := o.jobs
	if _, err := o.tenants.Resolve(ctx, s.Tenant); err != nil { // told now, rather than by a dead letter
		return err
	}
	stop, err := c.tracing(ctx)
	if err != nil {
		return err
	}
	repeated, err := publish(ctx, jobs, "submit", request)
	stop()
	if err != nil {
		return err
	}
	if repeated {
		fmt.Fprintf(c.err, "Job %s/%s was asked for before: nothing new is published.\n", request.Tenant, request.Job)
	}
	fmt.Fprintln(c.out, request.Job)
	if paused, err := o.pauses.Of(ctx, request.Tenant); err == nil && paused != nil { // or status tells
		c.pauses([]consumer.Pause{*paused}, request.Tenant)
	}
	if !s.Wait {
		return nil
	}
	status, err := c.follow(ctx, c.err, c.errTTY, jobs, request.Tenant, request.Job)
	if err != nil {
		if ctx.Err() != nil {
			fmt.Fprintf(c.err, "The job goes on. See: snapfleet status %s %s --watch\n", request.Tenant, request.Job)
		}
		return err
	}
	return c.conclude(c.err, status)
}

// tracing starts what sends traces, if anybody wants them; stop sends the last ones.
func (c *console) tracing(ctx context.Context) (stop func(), err error) {
	t, err := startTraces(ctx, func(what string, count int64, err error) {
		if err != nil {
			what = fmt.Sprintf("%s (%d): %s", what, count, redact(err.Error()))
		}
		fmt.Fprintf(c.err, "snapfleet: warning: %s\n", printable(what))
	})
	if err != nil {
		return nil, err
	}
	return func() {
		if flush := t.close(); flush != nil { // what is published is published: that counts
			fmt.Fprintf(c.err, "snapfleet: %s\n", redact(flush.Error()))
		}
	}, nil
}

// publishBlind publishes for a user who may read nothing, such as the publisher of deploy/nats.
func (s *submitCmd) publishBlind(ctx context.Context, c *console, js jetstream.JetStream, request contracts.Request, right *consumer.NoRight) error {
	if s.Wait {
		return explain(exitRejected, fmt.Errorf("--wait: %w", right), "this user may publish requests, and not read how jobs are doing: with deploy/nats it is the publisher",
			"leave out --wait, and listen to snapshot.outcome."+request.Tenant+"."+request.Job+"; or log in as the operator with --nats-nkey and --nats-inbox=_INBOX_operator")
	}
	stop, err := c.tracing(ctx)
	if err != nil {
		return err
	}
	submit := func(ctx context.Context, r contracts.Request, h contracts.Header) (bool, error) {
		return consumer.Publish(ctx, js, r, h)
	}
	_, err = publishBy(ctx, submit, "submit", request)
	stop()
	if err != nil {
		return err
	}
	fmt.Fprintf(c.err, "Published. This user may not read the registry and the jobs: a worker says whether tenant %s is registered.\n", request.Tenant)
	fmt.Fprintln(c.out, request.Job)
	return nil
}

// publish starts the trace that follows the job to its end: its root span is ours. repeated says that the job was asked
// for before, and that nothing was published.
func publish(ctx context.Context, jobs *consumer.Jobs, verb string, request contracts.Request) (repeated bool, err error) {
	return publishBy(ctx, jobs.Submit, verb, request)
}

// publishBy is publish by one of the ways to submit.
func publishBy(ctx context.Context, submit func(context.Context, contracts.Request, contracts.Header) (bool, error), verb string, request contracts.Request) (repeated bool, err error) {
	ctx = consumer.WithBaggage(ctx, request)
	ctx, span := otel.Tracer("github.com/snapfleet/snapfleet/cmd/snapfleet").Start(ctx, verb+" "+contracts.RequestSubjects,
		trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(
			attribute.String("messaging.system", "nats"),
			attribute.String("messaging.operation.type", "send"),
			attribute.String("messaging.destination.name", contracts.RequestSubject(request.Tenant)),
			attribute.String("snapfleet.tenant", request.Tenant),
			attribute.String("snapfleet.job", request.Job)))
	defer func() {
		if err != nil {
			span.SetStatus(codes.Error, redact(err.Error()))
		}
		span.End()
	}()
	header := contracts.Header{}
	otel.GetTextMapPropagator().Inject(ctx, header)
	repeated, err = submit(ctx, request, header)
	if errors.Is(err, consumer.ErrQueueFull) {
		return false, explain(exitRejected, fmt.Errorf("submit job %s/%s: %w", request.Tenant, request.Job, err),
			fmt.Sprintf("NATS keeps %d requests of a tenant that wait, and the tenant has as many; or all tenants together fill the queue", contracts.MaxTenantRequests),
			"wait until some of the tenant's jobs have ended; `snapfleet status "+request.Tenant+"` shows them")
	}
	if err != nil {
		return false, fmt.Errorf("submit job %s/%s: %w", request.Tenant, request.Job, err)
	}
	return repeated, nil
}

// openJobs connects; done disconnects.
func openJobs(ctx context.Context, f verbFlags, verb string) (j *consumer.Jobs, done func(), err error) {
	nc, js, err := f.jetStream(ctx, verb)
	if err != nil {
		return nil, nil, err
	}
	if j, err = consumer.OpenJobs(ctx, js); err != nil {
		nc.Close()
		return nil, nil, notSetUp(err)
	}
	return j, nc.Close, nil
}
