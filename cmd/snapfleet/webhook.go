package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
)

type webhookCmd struct {
	Test webhookTestCmd `cmd:"" help:"Post a signed test event, and show what came back."`
}

func (webhookCmd) manual() page {
	return page{about: `
The workers post how each job ended, and what concerns a tenant, to --webhook-url. contracts/webhook.yaml describes
the events for whoever receives them.`}
}

type webhookTestCmd struct {
	JSON bool `name:"json" help:"Print the answer as JSON."`

	webhookFlags
}

func (webhookTestCmd) manual() page {
	return page{
		about: `
Posts one event of type ` + contracts.TestEvent + `, signed as the workers sign, and shows what the receiver
answered. It needs no NATS.

Every post is a CloudEvent 1.0 in JSON, signed as Standard Webhooks has it: webhook-signature is the HMAC-SHA256 of
"webhook-id.webhook-timestamp.body" in base64. A receiver has to compare the signature and the timestamp before it
trusts anything, to answer with 2xx when it has kept the event, and to drop an id that it has had.

The workers post again what was not answered with 2xx, for three days, after 5 seconds at first and every hour at last, or when
Retry-After says.`,
		examples: []example{
			{"Make a secret, and try it.", "echo whsec_$(openssl rand -base64 32) > webhook.secret\nsnapfleet webhook test --webhook-url=https://ops.example.com/snapfleet --webhook-secret-file=webhook.secret"},
		},
		env:   [][2]string{envWebhook, {"HTTPS_PROXY, NO_PROXY", "A proxy on the way to the receiver. The workers take it, too."}},
		exits: []int{exitOK, exitFailed, exitUsage, exitUnreachable, exitInterrupted},
	}
}

// Run posts.
func (w *webhookTestCmd) Run(ctx context.Context, c *console) error {
	hook, err := w.webhook()
	if err == nil && hook == nil {
		err = explain(exitUsage, errors.New("--webhook-url is missing"), "there is nowhere to post to", "give --webhook-url or SNAPFLEET_WEBHOOK_URL")
	}
	if err != nil {
		return err
	}
	id, answer, err := hook.Test(ctx)
	if err != nil {
		return explain(exitUnreachable, err, "the receiver does not answer, or its certificate is of an authority that is not known here", "compare --webhook-url with the receiver's, and see --webhook-ca and --webhook-timeout")
	}
	said := firstWords(answer.Body)
	if w.JSON {
		err = c.json(struct {
			Event        string `json:"event"`
			Status       int    `json:"status"`
			Milliseconds int64  `json:"ms"`
			Body         string `json:"body,omitempty"`
		}{id, answer.Status, answer.Took.Milliseconds(), said}, true)
	} else {
		c.facts(
			[2]string{"event", id},
			[2]string{"answer", fmt.Sprintf("%d after %v", answer.Status, answer.Took.Round(time.Millisecond))},
			[2]string{"body", said},
		)
	}
	if err == nil && !answer.Accepted() {
		err = explain(exitFailed, fmt.Errorf("the receiver answered with status %d, which does not say that it has the event", answer.Status),
			"401 and 403: it does not accept the signature; 404: the URL's path is another; 3xx: redirects are not followed; 5xx: its log says why",
			"give both sides the same secret, and let the receiver answer with 2xx")
	}
	return err
}

// firstWords is what a stranger says, on one line of a terminal.
func firstWords(b []byte) string {
	return strings.Join(strings.Fields(printable(string(b[:min(len(b), 500)]))), " ")
}
