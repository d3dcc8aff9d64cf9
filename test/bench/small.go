package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// A small job is all overhead: 50 tables of 10 rows, and no attachments.

// workerConnections is snapfleet's default of --connections. A job has one more, which holds the instant.
const workerConnections = 4

func tinyTenant(i int) string { return fmt.Sprintf("tiny_%d", i) }

// enrolTiny enrols as many tenants as there are slots: the fleet gives one tenant two slots at the most, and never a
// worker's last one, so a job for each is what keeps them all busy.
func (f *fleet) enrolTiny(ctx context.Context, slots []int) error {
	for i := range slices.Max(slots) {
		if err := f.enrol(ctx, tinyTenant(i), "tiny"); err != nil {
			return err
		}
	}
	return nil
}

// smallJobs keeps every slot of a worker busy until that many jobs are done, two for each slot at the least. The first
// job in each slot is not counted: in it a worker meets the tenant, and asks for things that it remembers.
func (f *fleet) smallJobs(ctx context.Context, slots, jobs int) (_ Small, err error) {
	jobs = max(jobs, 2*slots)
	// The fleet reads a database with 20 connections by default, which four slots use up: more would wait for each
	// other, and that is not what is measured.
	flags := []string{fmt.Sprintf("--slots=%d", slots), fmt.Sprintf("--fleet-connections=%d", max(20, slots*(workerConnections+1)))}
	w, err := f.work(ctx, nil, flags...)
	if err != nil {
		return Small{}, err
	}
	defer func() { err = errors.Join(err, w.stop()) }()
	if err := f.meet(ctx, w, slots); err != nil {
		return Small{}, err
	}
	before, err := cpuOf(w.cmd.Process.Pid)
	if err != nil {
		return Small{}, err
	}
	began := time.Now()
	latencies, err := f.keepBusy(ctx, w, slots, jobs)
	if err != nil {
		return Small{}, err
	}
	took := time.Since(began)
	after, err := cpuOf(w.cmd.Process.Pid)
	if err != nil {
		return Small{}, err
	}
	most, err := memoryOf(w.cmd.Process.Pid, "VmHWM")
	if err != nil {
		return Small{}, err
	}
	return Small{
		Slots: slots, Flags: flags, Jobs: jobs, PerSecond: float64(jobs) / took.Seconds(), Latency: median(latencies),
		CPU: (after - before) / float64(jobs), RSS: most,
	}, nil
}

// meet has one job of each tenant done.
func (f *fleet) meet(ctx context.Context, w *process, slots int) error {
	group, ctx := errgroup.WithContext(ctx)
	for i := range slots {
		group.Go(func() error {
			_, _, err := f.one(ctx, w, tinyTenant(i))
			return err
		})
	}
	return group.Wait()
}

// keepBusy has a job of each tenant under way, until all are done. It returns how long each took.
func (f *fleet) keepBusy(ctx context.Context, w *process, slots, jobs int) (latencies []float64, err error) {
	next := make(chan struct{}, jobs)
	for range jobs {
		next <- struct{}{}
	}
	close(next)
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	for i := range slots {
		group.Go(func() error {
			for range next {
				took, _, err := f.one(ctx, w, tinyTenant(i))
				if err != nil {
					return err
				}
				mu.Lock()
				latencies = append(latencies, took.Seconds())
				mu.Unlock()
			}
			return nil
		})
	}
	err = group.Wait()
	return latencies, err
}

// watch measures a worker that has nothing to do, for that long, through a wire that knows every message.
func (f *fleet) watch(ctx context.Context, window time.Duration) (_ *Idle, err error) {
	h, err := f.overhear()
	if err != nil {
		return nil, err
	}
	defer h.close()
	w, err := f.work(ctx, h.env)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.stop()) }()
	if err := rest(ctx, 2*time.Second); err != nil { // what it does once has been done
		return nil, err
	}
	before, err := cpuOf(w.cmd.Process.Pid)
	if err != nil {
		return nil, err
	}
	h.listen()
	began := time.Now()
	if err := rest(ctx, window); err != nil {
		return nil, err
	}
	heard := h.heard()
	minutes := time.Since(began).Minutes()
	after, err := cpuOf(w.cmd.Process.Pid)
	if err != nil {
		return nil, err
	}
	i := &Idle{Seconds: 60 * minutes, CPU: (after - before) / minutes, Messages: heard.Sent}
	for _, n := range heard.Sent {
		i.Sent += float64(n) / minutes
	}
	i.Received = float64(heard.received) / minutes
	i.RSS, err = memoryOf(w.cmd.Process.Pid, "VmRSS")
	return i, err
}

// rest waits.
func rest(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
