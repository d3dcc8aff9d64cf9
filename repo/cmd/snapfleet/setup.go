package main

import (
	"context"
	"fmt"
	"time"

	"github.com/snapfleet/snapfleet/consumer"
)

type setupCmd struct {
	Replicas int           `default:"1" help:"Copies that JetStream keeps of everything. 3 in production, with three NATS servers or more."`
	AckWait  time.Duration `default:"1m" help:"Time after which the queue hands a request out again whose worker has gone silent. Not less than the workers' --observe."`

	natsFlags
}

func (setupCmd) manual() page {
	return page{
		about: `
Creates the streams, the key-value buckets and the consumer that the fleet lives on, in the NATS account that it
logs in to. It may be run again at any time, and is part of every upgrade: what is as it should be is left alone.
What exists with other settings is not changed; the difference is named, and the exit status is 1.

JetStream acknowledges a write before it is on the disk. Run the servers with "sync_interval: always", or with
three replicas, or both.`,
		examples: []example{
			{"A single server.", "snapfleet setup"},
			{"A cluster of three.", "snapfleet setup --nats-url=nats://nats-0:4222,nats://nats-1:4222 --replicas=3"},
		},
		exits: []int{exitOK, exitFailed, exitUsage, exitUnreachable, exitInterrupted},
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
	nc, js, err := s.jetStream("setup")
	if err != nil {
		return err
	}
	defer nc.Close()
	did, err := consumer.Setup(ctx, js, consumer.SetupOptions{Replicas: s.Replicas, AckWait: s.AckWait})
	for _, line := range did {
		fmt.Fprintln(c.out, line)
	}
	return err
}
