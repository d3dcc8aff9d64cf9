package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/snapfleet/snapfleet/consumer"
	"github.com/snapfleet/snapfleet/contracts"
)

type setupCmd struct {
	Replicas int           `default:"1" help:"Copies that JetStream keeps of everything. 3 in production, with three NATS servers or more."`
	AckWait  time.Duration `default:"1m" help:"Time after which the queue hands a request out again whose worker has gone silent. Not less than the workers' --observe."`

	House houseFlags `embed:"" prefix:"house-"`

	verbFlags
}

func (setupCmd) manual() page {
	return page{
		about: `
Creates the streams, the key-value buckets and the consumer that the fleet lives on, in the NATS account that it
logs in to. It may be run again at any time, and is part of every upgrade: what is as it should be is left alone.
What exists with other settings is not changed; the difference is named, and the exit status is 1.

With --house-bucket, --house-region and --house-role-arn it also sets up the house bucket: our own, for tenants
without a bucket of their own. The bucket must exist and hold nothing else; the role is printed with its policies,
and may be created before or after. Deliveries there are kept for --house-days. A lifecycle rule of the bucket
deletes them, which is set here, with your own AWS credentials, beside the rules that are there; where the store or
its policies do not let us, objects are tagged with the day from which on they may be deleted, and that is said.
Given again, these flags change what they name and keep the rest.

JetStream acknowledges a write before it is on the disk. Run the servers with "sync_interval: always", or with
three replicas, or both.`,
		examples: []example{
			{"A single server.", "snapfleet setup"},
			{"A cluster of three.", "snapfleet setup --nats-url=nats://nats-0:4222,nats://nats-1:4222 --replicas=3"},
			{"A house bucket.", "snapfleet setup --house-bucket=our-snapshots --house-region=eu-central-1 \\\n      --house-role-arn=arn:aws:iam::111111111111:role/snapfleet-house"},
		},
		env:   [][2]string{envAWS},
		exits: []int{exitOK, exitFailed, exitUsage, exitRejected, exitUnreachable, exitInterrupted},
	}
}

// Run creates what is missing and prints one line for each thing.
func (s *setupCmd) Run(ctx context.Context, c *console) error {
	if s.Replicas < 1 || s.Replicas > 5 {
		return usagef("--replicas is %d, JetStream takes 1 to 5", s.Replicas)
	}
	if s.AckWait < time.Second {
		return usagef("--ack-wait is %v, it must be a second or more", s.AckWait)
	}
	nc, js, err := s.jetStream(ctx, "setup")
	if err != nil {
		return err
	}
	defer nc.Close()
	was, will, err := s.house(ctx, js)
	if err != nil {
		return err
	}
	did, err := consumer.Setup(ctx, js, consumer.SetupOptions{Replicas: s.Replicas, AckWait: s.AckWait})
	for _, line := range did {
		fmt.Fprintln(c.out, line)
	}
	if err != nil {
		return err
	}
	if s.House.given() {
		registry, err := consumer.OpenRegistry(ctx, js)
		if err != nil {
			return err
		}
		fmt.Fprintln(c.out)
		return s.House.settle(ctx, c, registry, was, will)
	}
	if was.Destination.Bucket != "" {
		fmt.Fprintf(c.out, "house bucket %s: %s\n", was.Destination.Bucket, kept(contracts.Keep{Days: was.Days, By: was.ExpiresBy}))
	}
	return nil
}

// house is the house's record as it is, and as the flags would have it. Before the first setup there is none.
func (s *setupCmd) house(ctx context.Context, js jetstream.JetStream) (was, will contracts.House, err error) {
	registry, err := consumer.OpenRegistry(ctx, js)
	if err != nil && !errors.Is(err, jetstream.ErrBucketNotFound) {
		return was, will, err
	}
	if s.House.given() {
		return s.House.plan(ctx, registry)
	}
	if registry != nil {
		was, err = registry.House(ctx)
		if r, ok := contracts.AsRejection(err); ok && r.Code == contracts.NoDestination {
			err = nil
		}
		return was, will, err
	}
	return was, will, nil
}
