package main

import (
	"context"
	"fmt"
)

type cancelCmd struct {
	verbFlags

	Tenant string `arg:"" help:"Name of the tenant."`
	Job    string `arg:"" help:"Id of the job."`
	JSON   bool   `name:"json" help:"Print where the job stands now, as \"snapfleet status\" does."`
}

func (cancelCmd) manual() page {
	return page{
		about: `
Asks the job's worker to stop. It is heard within a heartbeat (10 seconds): the attempt ends, what it uploaded is
aborted, and the job's outcome is "cancelled". A job that waits for a worker, or for its next attempt, is
cancelled when its turn comes.

A job past its point of no return cannot be cancelled: everything is already durable in the customer's bucket, and
the delivery is finished. The exit status is then 4.`,
		examples: []example{{"", "snapfleet cancel acme 2026-03-31-143022"}},
		exits:    []int{exitOK, exitFailed, exitUsage, exitNotFound, exitRejected, exitUnreachable, exitInterrupted},
	}
}

// Run marks the job.
func (k *cancelCmd) Run(ctx context.Context, c *console) error {
	if err := checkNames(k.Tenant, k.Job); err != nil {
		return err
	}
	jobs, done, err := openJobs(ctx, k.verbFlags, "cancel")
	if err != nil {
		return err
	}
	defer done()
	if err := jobs.Cancel(ctx, k.Tenant, k.Job); err != nil {
		return fmt.Errorf("cancel job %s/%s: %w", k.Tenant, k.Job, err)
	}
	if k.JSON {
		status, err := jobs.Status(ctx, k.Tenant, k.Job)
		if err != nil {
			return fmt.Errorf("job %s/%s will be cancelled; see how it stands: %w", k.Tenant, k.Job, err)
		}
		return c.json(told(status, ""), true)
	}
	fmt.Fprintf(c.err, "Job %s/%s will be cancelled. See: snapfleet status %s %s --watch\n", k.Tenant, k.Job, k.Tenant, k.Job)
	return nil
}
