package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/snapfleet/snapfleet/consumer"
	"github.com/snapfleet/snapfleet/contracts"
)

type tenantRotateCmd struct {
	Tenant  string `arg:"" help:"Name of the tenant."`
	Abandon bool   `help:"Forget the next external ID, and keep the one in use."`
	JSON    bool   `name:"json" help:"Print the record as JSON; or, when the next external ID does not work yet, the check."`

	verbFlags
}

func (tenantRotateCmd) manual() page {
	return page{
		about: `
Replaces a tenant's external ID in two steps, so that no delivery fails in between.

The first call makes the next external ID, and prints both: the customer's trust policy has to name both from now
on. Only the one in use is used.

The second call asks a worker to check the destination with the next one, as "snapfleet tenant check --next" does.
Only when every step is ok it becomes the external ID, and the customer may take the old one out of the trust
policy. Otherwise the check is printed, nothing is changed, and the exit status is 4 when a step failed and 1 when
something could not be found out.`,
		examples: []example{
			{"Begin, and print the trust policy that names both.", "snapfleet tenant rotate acme && snapfleet policy acme --as=trust"},
			{"Once the customer says that the trust policy names both.", "snapfleet tenant rotate acme"},
			{"Change one's mind.", "snapfleet tenant rotate acme --abandon"},
		},
		exits: []int{exitOK, exitFailed, exitUsage, exitNotFound, exitRejected, exitUnreachable, exitInterrupted},
	}
}

// Run takes the next step.
func (t *tenantRotateCmd) Run(ctx context.Context, c *console) error {
	if err := checkNames(t.Tenant, ""); err != nil {
		return err
	}
	nc, registry, err := t.verbFlags.registry(ctx)
	if err != nil {
		return err
	}
	defer nc.Close()
	if t.Abandon {
		return t.abandon(ctx, c, registry)
	}
	record, begun, err := registry.Rotate(ctx, t.Tenant)
	switch {
	case err != nil:
		return err
	case begun:
		return t.begin(c, record)
	default:
		return t.finish(ctx, c, nc, registry, record)
	}
}

// begin says what the customer has to do.
func (t *tenantRotateCmd) begin(c *console, record contracts.Tenant) error {
	if t.JSON {
		return c.json(record, true)
	}
	c.facts(
		[2]string{"tenant", c.bold(record.Name)},
		[2]string{"external ID", record.Destination.ExternalID},
		[2]string{"next external ID", record.Destination.NextExternalID},
	)
	fmt.Fprintf(c.out, "\n%s\n", wrap(fmt.Sprintf("Send the next external ID to the customer: the trust policy of their role has to name both as sts:ExternalId. `snapfleet policy %[1]s --as=trust` prints that policy. Then call `snapfleet tenant rotate %[1]s` again: it checks the next one, and only when that works it takes the other's place.", record.Name), c.width))
	return nil
}

// finish switches when the next external ID works.
func (t *tenantRotateCmd) finish(ctx context.Context, c *console, nc *nats.Conn, registry *consumer.Registry, record contracts.Tenant) error {
	check, err := c.askCheck(ctx, nc, t.Tenant, true)
	if err != nil {
		return err
	}
	if result := check.Result(); result != contracts.CheckOK {
		if t.JSON {
			err = c.json(check, true)
		} else {
			c.check(check)
			fmt.Fprintf(c.out, "\n%s\n", wrap(fmt.Sprintf("Nothing is changed: the external ID in use stays in use, and the next one is still waiting. Once this is mended, call `snapfleet tenant rotate %s` again, or with --abandon to give it up.", record.Name), c.width))
		}
		return errors.Join(err, outcomeOf(result))
	}
	now, err := registry.Switch(ctx, record)
	if errors.Is(err, consumer.ErrRecordChanged) {
		return explain(exitFailed, err, "somebody else has changed it while a worker checked, so the check says nothing of the record as it is now", "look at it with `snapfleet tenant get "+t.Tenant+"`, and call this again")
	}
	if err != nil {
		return err
	}
	if t.JSON {
		return c.json(now, true)
	}
	c.facts(
		[2]string{"tenant", c.bold(now.Name)},
		[2]string{"external ID", now.Destination.ExternalID},
		[2]string{"until now", record.Destination.ExternalID},
	)
	fmt.Fprintf(c.out, "\n%s\n", wrap(fmt.Sprintf("All %s of the check are ok, and the external ID is switched. The customer may remove the old one from the trust policy, as soon as no job of the tenant is under way that began before: see `snapfleet status %s`.", plural(len(check.Steps), "step"), now.Name), c.width))
	return nil
}

// abandon forgets the next external ID.
func (t *tenantRotateCmd) abandon(ctx context.Context, c *console, registry *consumer.Registry) error {
	record, ended, err := registry.Abandon(ctx, t.Tenant)
	switch {
	case err != nil:
		return err
	case !ended:
		return noRotation(t.Tenant)
	case t.JSON:
		return c.json(record, true)
	}
	fmt.Fprintf(c.err, "The next external ID of tenant %s is forgotten. The customer may take it out of the trust policy; the one in use stays.\n", record.Name)
	return nil
}
