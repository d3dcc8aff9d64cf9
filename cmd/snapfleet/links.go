package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/nats-io/nats.go"

	"github.com/snapfleet/snapfleet/consumer"
	"github.com/snapfleet/snapfleet/contracts"
)

type linksCmd struct {
	Tenant  string        `arg:"" help:"Name of the tenant."`
	Job     string        `arg:"" help:"Id of a job that was delivered to the house bucket."`
	Expires time.Duration `default:"15m" help:"How long the links are good for, 1m to 1h."`
	JSON    bool          `name:"json" help:"Print one JSON document."`

	verbFlags
}

func (linksCmd) manual() page {
	return page{
		about: `
Asks a worker for links to the files of a delivery to the house bucket: manifest.json, and each volume. Whoever has a
link downloads the file, until the link ends; nothing else is needed, and nothing else can be done with it. So a link
is a secret: send it to the customer, and put it in no ticket, log or chat.

A link is a GET of HTTP, understands ranges, and saves the file under its own name. "snapfleet download" does all of
it, and proves what has arrived. A delivery to a customer's own bucket has no links: the customer has the bucket.`,
		examples: []example{
			{"For a person.", "snapfleet links beta 2026-03-31-143022 --expires=1h"},
			{"The addresses alone.", "snapfleet links beta 2026-03-31-143022 --json | jq -r '.files[].url'"},
		},
		exits: []int{exitOK, exitFailed, exitUsage, exitNotFound, exitRejected, exitUnproven, exitJobFailed, exitUnreachable, exitInterrupted},
	}
}

// Run asks, and prints the links.
func (l *linksCmd) Run(ctx context.Context, c *console) error {
	if err := checkNames(l.Tenant, l.Job); err != nil {
		return err
	}
	if l.Expires < consumer.ShortestLink || l.Expires > consumer.LongestLink {
		return usagef("--expires is %v, links are good for %v to %v", l.Expires, consumer.ShortestLink, consumer.LongestLink)
	}
	nc, outcome, err := l.delivered(ctx, l.Tenant, l.Job)
	if err != nil {
		return err
	}
	defer nc.Close()
	defer waits(ctx)() // for a worker
	links, err := consumer.AskLinks(ctx, nc, l.Tenant, l.Job, l.Expires)
	if err == nil {
		err = agrees(links, outcome)
	}
	if err != nil {
		return nobodyAnswers(err)
	}
	if l.JSON {
		return c.json(links, true)
	}
	rows := make([]table.Row, 0, len(links.Files))
	for _, f := range links.Files {
		rows = append(rows, table.Row{f.Name, size(f.Size), when(links.ValidUntil)})
	}
	c.table(table.Row{"file", "size", "link ends"}, rows, right(2))
	fmt.Fprintln(c.out)
	for _, f := range links.Files {
		fmt.Fprintln(c.out, f.URL)
	}
	fmt.Fprintf(c.out, "\n%s\n", expires(links))
	return nil
}

// expires says when the files themselves may be gone.
func expires(l contracts.Links) string {
	return fmt.Sprintf("delivery %s/%s expires %s", l.Tenant, l.Job, l.Expires.UTC().Format(time.DateOnly))
}

// delivered is the outcome of a job that was delivered; whoever gets it has to close the connection. The worker looks at
// it, too: this is to say at once what is the matter.
func (f verbFlags) delivered(ctx context.Context, tenant, job string) (nc *nats.Conn, o contracts.Outcome, err error) {
	nc, js, err := f.jetStream(ctx, "links")
	if err != nil {
		return nil, o, err
	}
	defer func() {
		if err != nil {
			nc.Close()
		}
	}()
	jobs, err := consumer.OpenJobs(ctx, js)
	if err != nil {
		return nil, o, notSetUp(err)
	}
	s, err := jobs.Status(ctx, tenant, job)
	switch {
	case err != nil:
		return nil, o, err
	case !over(s) || s.Outcome == nil && s.State == "done":
		return nil, o, explain(exitRejected, fmt.Errorf("job %s/%s is %s: there is nothing to download yet", tenant, job, stateWord(s)),
			"a delivery is visible when all of it is", fmt.Sprintf("wait for its end: snapfleet status %s %s --watch", tenant, job))
	case s.Outcome == nil || !s.Outcome.Kind.OK():
		return nil, o, explain(exitJobFailed, fmt.Errorf("job %s/%s is %s: nothing was delivered", tenant, job, stateWord(s)),
			"", fmt.Sprintf("see why: snapfleet status %s %s", tenant, job))
	}
	return nc, *s.Outcome, nil
}

// agrees makes sure that a worker speaks of the delivery that the outcome tells of, and of files that one can have.
func agrees(l contracts.Links, o contracts.Outcome) error {
	if l.Version != contracts.LinksVersion || l.Tenant != o.Tenant || l.Job != o.Job || l.ManifestSHA256 != o.ManifestSHA256 {
		return contracts.Reject(contracts.DeliveryChanged, "the worker's links are not to the delivery of job %s/%s", o.Tenant, o.Job)
	}
	if len(l.Files) == 0 || l.Files[0].Name != contracts.ManifestName {
		return contracts.Reject(contracts.DeliveryChanged, "the worker's links lack %s", contracts.ManifestName)
	}
	seen := map[string]bool{}
	for _, f := range l.Files {
		if !contracts.IsFileOf(o.Job, f.Name) || seen[f.Name] || f.Size < 0 {
			return contracts.Reject(contracts.DeliveryChanged, "the worker links to %.80q, which is no file of the delivery, or twice", f.Name)
		}
		if f.Name == contracts.ManifestName && f.Size > contracts.MaxManifestBytes {
			return contracts.Reject(contracts.DeliveryChanged, "the manifest has %d bytes, the limit is %d", f.Size, contracts.MaxManifestBytes)
		}
		seen[f.Name] = true
	}
	return nil
}
