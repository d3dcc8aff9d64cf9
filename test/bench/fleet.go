package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/snapfleet/snapfleet/consumer"
	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/test/bucket"
	"github.com/snapfleet/snapfleet/test/world"
)

// fleet runs the snapfleet binary, with its defaults, as an operator would.
type fleet struct {
	ground *ground
	binary string
	env    []string
	nc     *nats.Conn
	jobs   *consumer.Jobs
	filed  map[string]bool // tenants that have attachments
	number int             // of the last job

	mu      sync.Mutex
	last    uint64 // the sequence of the last request
	waiting map[uint64]chan struct{}
}

// openFleet builds the binary, and sets NATS up.
func openFleet(ctx context.Context, g *ground) (f *fleet, err error) {
	f = &fleet{ground: g, binary: filepath.Join(g.temp, "snapfleet"), filed: map[string]bool{}, waiting: map[uint64]chan struct{}{}}
	f.env = append(g.cloud.Environ(worker), "SNAPFLEET_NATS_URL="+g.nats.URL(), "SNAPFLEET_DATABASE_URL="+g.database, "HOME="+g.temp, "PATH="+os.Getenv("PATH"))
	say("building snapfleet")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", f.binary, "github.com/snapfleet/snapfleet/cmd/snapfleet")
	build.Dir = startedIn
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if _, err := execute(ctx, build); err != nil {
		return nil, fmt.Errorf("go build (run this in the source's folder): %w", err)
	}
	if _, err := f.run(ctx, "setup"); err != nil {
		return nil, err
	}
	if f.nc, err = consumer.Connect(g.nats.URL(), nats.Name("bench")); err != nil {
		return nil, err
	}
	return f, f.listen(ctx)
}

func (f *fleet) close() { f.nc.Close() }

// run is a verb of snapfleet's.
func (f *fleet) run(ctx context.Context, args ...string) (string, error) {
	var out strings.Builder
	cmd := exec.Command(f.binary, args...)
	cmd.Env, cmd.Stdout = f.env, &out
	if _, err := execute(ctx, cmd); err != nil {
		return "", fmt.Errorf("snapfleet %s: %w", args[0], err)
	}
	return out.String(), nil
}

// enrol registers a tenant, and makes the customer's role as the customer's page says.
func (f *fleet) enrol(ctx context.Context, tenant, schema string) error {
	cloud, role := f.ground.cloud, "arn:aws:iam::"+theirAccount+":role/"+tenant
	if _, err := f.run(ctx, "tenant", "set", tenant, "--schema="+schema, "--bucket="+store, "--region="+cloud.Region(), "--role-arn="+role, "--endpoint="+cloud.Endpoint()); err != nil {
		return err
	}
	out, err := f.run(ctx, "tenant", "get", tenant, "--json")
	if err != nil {
		return err
	}
	var record contracts.Tenant
	if err := json.Unmarshal([]byte(out), &record); err != nil {
		return err
	}
	return cloud.SetRole(bucket.Role{
		ARN: role,
		Trust: `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::` + ourAccount + `:root"},
			"Action":"sts:AssumeRole","Condition":{"StringEquals":{"sts:ExternalId":"` + record.Destination.ExternalID + `"}}}]}`,
		Policy: `{"Version":"2012-10-17","Statement":[
			{"Effect":"Allow","Action":["s3:GetObject","s3:PutObject","s3:DeleteObject","s3:AbortMultipartUpload","s3:ListMultipartUploadParts"],"Resource":"arn:aws:s3:::` + store + `/*"},
			{"Effect":"Allow","Action":["s3:ListBucket","s3:ListBucketMultipartUploads"],"Resource":"arn:aws:s3:::` + store + `"}]}`,
	})
}

// listen hears the acks themselves: they are messages like any other, and name the request by its sequence.
func (f *fleet) listen(ctx context.Context) error {
	js, err := jetstream.New(f.nc)
	if err != nil {
		return err
	}
	if f.jobs, err = consumer.OpenJobs(ctx, js); err != nil {
		return err
	}
	requests, err := js.Stream(ctx, contracts.RequestStream)
	if err != nil {
		return err
	}
	f.last = requests.CachedInfo().State.LastSeq
	_, err = f.nc.Subscribe("$JS.ACK."+contracts.RequestStream+".>", func(m *nats.Msg) {
		of, err := (&nats.Msg{Reply: m.Subject, Sub: m.Sub}).Metadata()
		if word := string(m.Data); err != nil || !strings.HasPrefix(word, "+ACK") && !strings.HasPrefix(word, "+TERM") {
			return
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		if acked := f.waiting[of.Sequence.Stream]; acked != nil {
			close(acked)
			delete(f.waiting, of.Sequence.Stream)
		}
	})
	return errors.Join(err, f.nc.Flush())
}

// submit asks for a snapshot. The channel is closed at the ack.
func (f *fleet) submit(ctx context.Context, tenant string) (job string, acked chan struct{}, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.number++
	job = fmt.Sprintf("job-%d", f.number)
	f.last++ // nobody else asks for anything
	acked = make(chan struct{})
	f.waiting[f.last] = acked
	only := contracts.Tables
	if f.filed[tenant] {
		only = ""
	}
	_, err = f.jobs.Submit(ctx, contracts.Request{
		Version: contracts.RequestVersion, Tenant: tenant, Job: job, Only: only, RequestedAt: time.Now().UTC().Truncate(time.Millisecond),
	}, nil)
	return job, acked, err
}

// one takes one job from submit to ack, and looks whether it was delivered, at the first try.
func (f *fleet) one(ctx context.Context, w *process, tenant string) (took time.Duration, delivered int64, err error) {
	job, took, err := f.await(ctx, w, tenant)
	if err != nil {
		return 0, 0, err
	}
	delivered, err = f.look(ctx, tenant, job)
	return took, delivered, err
}

// await takes one job from submit to ack.
func (f *fleet) await(ctx context.Context, w *process, tenant string) (job string, took time.Duration, err error) {
	began := time.Now()
	job, acked, err := f.submit(ctx, tenant)
	if err != nil {
		return "", 0, err
	}
	select {
	case <-acked:
		return job, time.Since(began), nil
	case <-w.ended:
		return "", 0, fmt.Errorf("the worker ended by itself: %s", w.said.String())
	case <-ctx.Done():
		return "", 0, context.Cause(ctx)
	}
}

// look says how many bytes a job has delivered.
func (f *fleet) look(ctx context.Context, tenant, job string) (delivered int64, err error) {
	s, err := f.jobs.Status(ctx, tenant, job)
	if err != nil {
		return 0, err
	}
	if s.Outcome == nil || !s.Outcome.Kind.OK() || s.Outcome.Totals.Gaps > 0 || s.Errors+s.Crashes > 0 {
		return 0, fmt.Errorf("job %s/%s was not delivered at once, and whole: %s, %d errors, last: %s", tenant, job, s.State, s.Errors, s.LastError)
	}
	return s.Outcome.Totals.Bytes, nil
}

// deliver is one large delivery, by a worker that does nothing else in its life.
func (f *fleet) deliver(ctx context.Context, tenant string) (Cost, error) {
	w, err := f.work(ctx, nil)
	if err != nil {
		return Cost{}, err
	}
	took, delivered, err := f.one(ctx, w, tenant)
	most, unknown := memoryOf(w.cmd.Process.Pid, "VmHWM")
	if err := errors.Join(err, unknown, w.stop()); err != nil {
		return Cost{}, err
	}
	cost := costOf(w.cmd.ProcessState, took)
	cost.Delivered, cost.RSS = delivered, most
	return cost, nil
}

// process is a worker.
type process struct {
	cmd   *exec.Cmd
	said  lines
	ended chan struct{}
	err   error // once it has ended
}

// work starts a worker, and returns when it takes jobs. Its flags are the defaults, but for those that are given.
func (f *fleet) work(ctx context.Context, env []string, flags ...string) (*process, error) {
	p := &process{ended: make(chan struct{}), said: lines{ready: make(chan struct{})}}
	p.cmd = exec.Command(f.binary, slices.Concat([]string{
		"worker", "--name=bench", "--listen=", "--log-format=json",
		"--allow-endpoint=" + f.ground.cloud.Endpoint(), "--attachments-source=" + files + "={tenant}/",
	}, flags)...)
	p.cmd.Env, p.cmd.Stderr = slices.Concat(f.env, env), &p.said
	done, err := world.Spawn(p.cmd, syscall.SIGKILL)
	if err != nil {
		return nil, err
	}
	go func() {
		p.err = <-done
		close(p.ended)
	}()
	select {
	case <-p.said.ready:
		return p, nil
	case <-p.ended:
		return nil, fmt.Errorf("the worker did not start: %w: %s", p.err, p.said.String())
	case <-ctx.Done():
		return nil, errors.Join(context.Cause(ctx), p.stop())
	}
}

// stop lets the worker end. It has nothing to do any more, or nobody who waits for it.
func (p *process) stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(10 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
	return p.err
}

// lines keeps the end of what a worker says, and hears when it is ready.
type lines struct {
	mu    sync.Mutex
	last  []byte
	once  sync.Once
	ready chan struct{}
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = append(l.last, p...)
	if strings.Contains(string(l.last), "worker started") {
		l.once.Do(func() { close(l.ready) })
	}
	l.last = l.last[max(0, len(l.last)-4096):]
	return len(p), nil
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.last)
}
