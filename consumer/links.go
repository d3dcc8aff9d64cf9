package consumer

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/snapfleet/snapfleet/contracts"
)

// How long a link may be good for: no longer than the session that signs it.
const (
	ShortestLink = time.Minute
	LongestLink  = time.Hour
)

// mostFiles is more than a delivery has.
const mostFiles = 100_000

// answerLinks has links made, if the outcome says that the job was delivered, and that to the house.
func (c *Consumer) answerLinks(ctx context.Context, q contracts.LinksQuestion) (links contracts.Links, err error) {
	expires := time.Duration(q.Seconds) * time.Second
	switch {
	case !contracts.ValidTenant(q.Tenant) || !contracts.ValidJob(q.Job):
		return links, contracts.Reject(contracts.InvalidQuestion, "tenant %.80q or job %.80q is not a valid name", q.Tenant, q.Job)
	case q.Seconds < int(ShortestLink/time.Second) || q.Seconds > int(LongestLink/time.Second) || q.Skip < 0:
		return links, contracts.Reject(contracts.InvalidQuestion, "links are good for %v to %v", ShortestLink, LongestLink)
	}
	t, err := c.tenants.Get(ctx, q.Tenant)
	if err != nil {
		return links, err
	}
	o, err := c.ledger.Outcome(ctx, q.Tenant, q.Job)
	switch {
	case err != nil:
		return links, err
	case o == nil:
		return links, contracts.Reject(contracts.NotDelivered, "job %s of tenant %s has not ended, or there is no such job", q.Job, q.Tenant)
	case !o.Kind.OK():
		return links, contracts.Reject(contracts.NotDelivered, "job %s of tenant %s is %s", q.Job, q.Tenant, o.Kind)
	}
	h, err := c.tenants.House(ctx)
	if err == nil && !h.Holds(*o) {
		err = contracts.Reject(contracts.NotInHouse, "%s is in the customer's own bucket", o.Manifest)
		if t.Destination.House() {
			err = contracts.Reject(contracts.NotInHouse, "%s is not in the bucket that the house has now, %s", o.Manifest, h.Destination.Bucket)
		}
	}
	if err != nil {
		return links, err
	}
	t.Destination = contracts.Destination{} // also of a tenant that has a bucket of its own by now
	request := contracts.Request{Version: contracts.RequestVersion, Tenant: q.Tenant, Job: q.Job}
	return c.work.Links(ctx, contracts.Attempt{Request: request, Tenant: h.For(t)}, o.ManifestSHA256, expires, q.Skip)
}

// AskLinks asks a worker for links to the files of a delivery to the house, that are good for a while, from
// [ShortestLink] to [LongestLink] and no longer than a session of the worker's. The links of all files come from as many
// answers as it takes, and all end at the same time or later than ValidUntil. The error may be a [contracts.Rejection],
// [ErrNobodyAnswers] or [ErrMayNotAsk].
func AskLinks(ctx context.Context, nc *nats.Conn, tenant, job string, expires time.Duration) (all contracts.Links, err error) {
	q := contracts.LinksQuestion{Tenant: tenant, Job: job, Seconds: int(expires / time.Second)}
	for {
		some, err := ask[contracts.Links](ctx, nc, "links", q)
		if err != nil {
			return all, err
		}
		if len(all.Files) == 0 {
			all = some
		} else {
			all.Files = append(all.Files, some.Files...)
		}
		if !some.More || len(some.Files) == 0 || len(all.Files) > mostFiles {
			all.More = false
			return all, nil
		}
		q.Skip = len(all.Files)
	}
}
