package test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/snapfleet/snapfleet/consumer"
	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/test/bucket"
	"github.com/snapfleet/snapfleet/test/world"
)

const (
	ourAccount   = "111111111111"
	theirAccount = "222222222222"
)

// worker is who we are on AWS; auditor is the customer, who looks at everything.
var (
	worker = bucket.User{
		ARN: "arn:aws:iam::" + ourAccount + ":user/worker", AccessKey: "AKIATESTWORKER000000", SecretKey: "test/worker/secret/test/worker/secret/00",
		Policy: `{"Version":"2012-10-17","Statement":[
			{"Effect":"Allow","Action":"sts:AssumeRole","Resource":"*"},
			{"Effect":"Allow","Action":["s3:GetObject","s3:ListBucket"],"Resource":"*"}]}`,
	}
	auditor = bucket.User{
		ARN: "arn:aws:iam::" + theirAccount + ":user/auditor", AccessKey: "AKIATESTAUDITOR00000", SecretKey: "test/auditor/secret/test/auditor/secret0",
		Policy: `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":"*"}]}`,
	}
)

// A fleet is one operator's installation: a broker, a database, one tenant with a customer's bucket, and workers
// that are processes of their own. A copy of it may have another tenant: see [fleet.enrol].
type fleet struct {
	t        *testing.T
	nats     *world.NATS
	js       jetstream.JetStream
	jobs     *consumer.Jobs
	tenant   string
	bucket   string
	role     string
	database string
	env      []string // of every snapfleet process
}

// newFleet makes a tenant of that name. Its schema is the tenant's name, in a database of its own that load
// fills. The broker is started as the options say.
func newFleet(t *testing.T, tenant string, load func(ctx context.Context, url string) error, opts ...world.NATSOption) *fleet {
	t.Helper()
	ctx := t.Context()
	f := &fleet{t: t}
	var err error
	if f.nats, err = world.StartNATS(t.TempDir(), opts...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.nats.Stop)
	if f.database, err = postgres.CreateDatabase(ctx, tenant); err != nil {
		t.Fatal(err)
	}
	if err := load(ctx, f.database); err != nil {
		t.Fatal(err)
	}
	f.env = append(cloud.Environ(worker), "SNAPFLEET_NATS_URL="+f.nats.URL(), "SNAPFLEET_DATABASE_URL="+f.database, "HOME="+t.TempDir(), "PATH="+os.Getenv("PATH"))
	f.run("setup", "--ack-wait=3s")
	f.enrol(tenant)

	nc, err := consumer.Connect(f.nats.URL(), nats.ReconnectWait(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	if f.js, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	if f.jobs, err = consumer.OpenJobs(ctx, f.js); err != nil {
		t.Fatal(err)
	}
	return f
}

// enrol makes a customer, with a bucket and a role, and registers them as the tenant.
func (f *fleet) enrol(tenant string, set ...string) {
	f.t.Helper()
	f.tenant, f.role = tenant, "arn:aws:iam::"+theirAccount+":role/"+tenant
	f.bucket = "customer-" + strings.ToLower(strings.ReplaceAll(tenant, "_", "-"))
	if err := cloud.CreateBucket(f.t.Context(), f.bucket, theirAccount); err != nil {
		f.t.Fatal(err)
	}
	f.set(append([]string{"--bucket=" + f.bucket, "--region=" + cloud.Region(), "--role-arn=" + f.role, "--endpoint=" + cloud.Endpoint()}, set...)...)
	f.grant(f.record().Destination.ExternalID)
}

// set changes the tenant's record.
func (f *fleet) set(flags ...string) {
	f.t.Helper()
	f.run(append([]string{"tenant", "set", f.tenant}, flags...)...)
}

// actions are what the customer's page asks for, on the bucket's objects and on the bucket.
var (
	objectActions = []string{"s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"}
	bucketActions = []string{"s3:ListBucket", "s3:ListBucketMultipartUploads"}
)

// grant makes the customer's role, as the customer's page says, but forgets the actions in without.
func (f *fleet) grant(externalID string, without ...string) {
	f.t.Helper()
	list := func(actions []string) string {
		kept := slices.DeleteFunc(slices.Clone(actions), func(a string) bool { return slices.Contains(without, a) })
		return `["` + strings.Join(kept, `","`) + `"]`
	}
	err := cloud.SetRole(bucket.Role{
		ARN: f.role,
		Trust: `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::` + ourAccount + `:root"},
			"Action":"sts:AssumeRole","Condition":{"StringEquals":{"sts:ExternalId":"` + externalID + `"}}}]}`,
		Policy: `{"Version":"2012-10-17","Statement":[
			{"Effect":"Allow","Action":` + list(objectActions) + `,"Resource":"arn:aws:s3:::` + f.bucket + `/*"},
			{"Effect":"Allow","Action":` + list(bucketActions) + `,"Resource":"arn:aws:s3:::` + f.bucket + `"}]}`,
	})
	if err != nil {
		f.t.Fatal(err)
	}
}

// record is the tenant as `tenant get --json` prints it.
func (f *fleet) record() (t contracts.Tenant) {
	f.t.Helper()
	if err := json.Unmarshal([]byte(f.run("tenant", "get", f.tenant, "--json")), &t); err != nil {
		f.t.Fatal(err)
	}
	return t
}

// run is a verb that must succeed. It returns what was printed.
func (f *fleet) run(args ...string) string {
	f.t.Helper()
	out, code := f.try(f.env, args...)
	if code != 0 {
		f.t.Fatalf("snapfleet %s ends with %d:\n%s", strings.Join(args, " "), code, out)
	}
	return out
}

// try is a verb that may fail.
func (f *fleet) try(env []string, args ...string) (out string, code int) {
	f.t.Helper()
	cmd := exec.CommandContext(f.t.Context(), binary, args...)
	cmd.Env = env
	b, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return string(b), exit.ExitCode()
	}
	if err != nil {
		f.t.Fatal(err)
	}
	return string(b), 0
}

// process is a running worker.
type process struct {
	*exec.Cmd
	mu   sync.Mutex
	log  bytes.Buffer
	over chan error
}

// quick are the protocol's constants for tests: a successor takes over within some three seconds.
var quick = []string{"--heartbeat=300ms", "--fence=1200ms", "--observe=3s", "--retry-base=200ms", "--retry-max=2s", "--sweep-every=2s", "--grace=20s", "--listen=", "--log-format=json", "--check-every=0", "--check-ahead=0"}

// work starts a worker, and returns when it takes jobs. It is stopped, kindly, at the end of the test.
func (f *fleet) work(name string, args ...string) *process {
	f.t.Helper()
	return f.workWithout(name, append([]string{"--allow-endpoint=" + cloud.Endpoint()}, args...)...)
}

// workWithout is work for a worker that may not talk to the customers' store, unless args say so.
func (f *fleet) workWithout(name string, args ...string) *process {
	f.t.Helper()
	args = append(append([]string{"worker", "--name=" + name}, quick...), args...)
	p := &process{Cmd: exec.Command(binary, args...), over: make(chan error, 1)}
	p.Env = f.env
	stderr, err := p.StderrPipe()
	if err != nil {
		f.t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		f.t.Fatal(err)
	}
	started := make(chan struct{})
	go func() {
		lines := bufio.NewScanner(stderr)
		lines.Buffer(nil, 1<<20)
		for first := true; lines.Scan(); {
			p.mu.Lock()
			p.log.WriteString(lines.Text() + "\n")
			p.mu.Unlock()
			if first && strings.Contains(lines.Text(), "worker started") {
				close(started) // after the line is kept: it says where the worker listens
				first = false
			}
		}
		p.over <- p.Wait()
	}()
	f.t.Cleanup(func() {
		p.stop(os.Interrupt)
		if f.t.Failed() {
			f.t.Logf("%s said:\n%s", name, p.said())
		}
	})
	select {
	case <-started:
	case err := <-p.over:
		f.t.Fatalf("%s did not start: %v\n%s", name, err, p.said())
	case <-time.After(30 * time.Second):
		f.t.Fatalf("%s did not start:\n%s", name, p.said())
	}
	return p
}

func (p *process) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// stop sends a signal and waits for the end. A process that has ended stays ended.
func (p *process) stop(sig os.Signal) error {
	_ = p.Process.Signal(sig)
	err := <-p.over
	p.over <- err
	return err
}

// submit asks for a snapshot.
func (f *fleet) submit(job string, args ...string) {
	f.t.Helper()
	f.run(append([]string{"submit", f.tenant, "--job=" + job}, args...)...)
}

// await returns the job's last status.
func (f *fleet) await(job string) (last consumer.Status) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), 3*time.Minute)
	defer cancel()
	for !last.Ended() && ctx.Err() == nil {
		for s, err := range f.jobs.Watch(ctx, f.tenant, job) {
			if err != nil {
				break
			}
			last = s
		}
	}
	if !last.Ended() {
		f.t.Fatalf("job %s has not ended: %+v", job, last)
	}
	return last
}

// delivered waits for the job, and proves what was delivered with the customer's own means.
func (f *fleet) delivered(job string) consumer.Status {
	f.t.Helper()
	s := f.await(job)
	if !s.Outcome.Kind.OK() {
		f.t.Fatalf("job %s: %s: %+v", job, s.Outcome.Kind, s.Outcome.Reason)
	}
	env := append(cloud.Environ(auditor), "AWS_REGION="+cloud.Region(), "HOME="+f.t.TempDir())
	if out, code := f.try(env, "verify", "s3://"+f.bucket+"/"+contracts.JobPrefix(f.tenant, job)); code != 0 {
		f.t.Fatalf("verify ends with %d:\n%s", code, out)
	}
	return s
}

// download copies the delivery into a folder.
func (f *fleet) download(job string) string {
	f.t.Helper()
	dir := f.t.TempDir()
	for name := range f.objects(job) {
		out, err := cloud.Admin().GetObject(f.t.Context(), &s3.GetObjectInput{Bucket: &f.bucket, Key: aws.String(contracts.JobPrefix(f.tenant, job) + name)})
		if err != nil {
			f.t.Fatal(err)
		}
		w, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			f.t.Fatal(err)
		}
		_, err = w.ReadFrom(out.Body)
		if err := errors.Join(err, out.Body.Close(), w.Close()); err != nil {
			f.t.Fatal(err)
		}
	}
	return dir
}

// objects is what stands in the job's folder, with sizes.
func (f *fleet) objects(job string) map[string]int64 {
	f.t.Helper()
	prefix, found := contracts.JobPrefix(f.tenant, job), map[string]int64{}
	pages := s3.NewListObjectsV2Paginator(cloud.Admin(), &s3.ListObjectsV2Input{Bucket: &f.bucket, Prefix: &prefix})
	for pages.HasMorePages() {
		page, err := pages.NextPage(f.t.Context())
		if err != nil {
			f.t.Fatal(err)
		}
		for _, o := range page.Contents {
			found[strings.TrimPrefix(*o.Key, prefix)] = *o.Size
		}
	}
	return found
}

// eventually waits, 30 seconds at most, for what must come true by itself.
func (f *fleet) eventually(what string, ok func() error) {
	f.t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(30 * time.Second); ; <-tick.C {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			f.t.Errorf("not true: %s: %v", what, err)
			return
		}
	}
}
