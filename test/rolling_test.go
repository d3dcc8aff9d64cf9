package test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/snapfleet/snapfleet/test/bucket"
)

// rolling is how long the job of TestRollingDeploys takes when nobody disturbs it. There are ten restarts in that
// time: with -rolling=10m, one a minute. Give `go test` a -timeout of three times as much.
var rolling = flag.Duration("rolling", 8*time.Second, "length of the job during which workers are restarted again and again")

// album is a tenant with a table, and with attachments whose source is slow.
type album struct {
	*fleet
	source string
	files  int
	each   int64 // bytes of a file
}

// newAlbum makes such a tenant.
func newAlbum(t *testing.T, tenant string, files int, each int64) *album {
	t.Helper()
	a := &album{source: tenant + "-files", files: files, each: each}
	if err := cloud.CreateBucket(t.Context(), a.source, ourAccount); err != nil {
		t.Fatal(err)
	}
	script := `CREATE SCHEMA {s}; CREATE TABLE {s}.parts AS SELECT n AS id, md5(n::text) AS name FROM generate_series(1, 20000) n;
		CREATE TABLE {s}.file_attachments (id text PRIMARY KEY, entity_id text, filename text, content_type text, s3_bucket text, s3_key text, s3_etag text)`
	a.fleet = newFleet(t, tenant, sql(strings.ReplaceAll(script, "{s}", quoted(tenant))))
	conn := connect(t, a.database)
	random, body := rand.NewChaCha8([32]byte{7}), make([]byte, each)
	for i := range files {
		_, _ = random.Read(body) // never fails
		id := fmt.Sprintf("%05d", i)
		out, err := cloud.Admin().PutObject(t.Context(), &s3.PutObjectInput{Bucket: &a.source, Key: aws.String(tenant + "/" + id), Body: strings.NewReader(string(body))})
		if err == nil {
			_, err = conn.Exec(t.Context(), "INSERT INTO "+quoted(tenant, "file_attachments")+" VALUES ($1, 'e', $1 || '.bin', 'image/jpeg', $2, $3, $4)",
				id, a.source, tenant+"/"+id, out.ETag)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return a
}

// start starts a worker that has no patience when it is told to stop.
func (a *album) start(name string, args ...string) *process {
	return a.work(name, append([]string{"--part-size=5MiB", "--attachments-source=" + a.source + "={tenant}/", "--attachments-fetch=1", "--grace=100ms"}, args...)...)
}

// seen counts the calls of an operation on an object whose name has that in it, which were answered well.
func (a *album) seen(operation, name string) (n int) {
	for _, c := range cloud.Calls() {
		if c.Bucket == a.bucket && c.Operation == operation && strings.Contains(c.Key, name) && c.Status == 200 {
			n++
		}
	}
	return n
}

var fromOffset = regexp.MustCompile(`^bytes=(\d+)-$`)

// fetched is how many bytes of files were asked for.
func (a *album) fetched() (n int64) {
	for _, c := range cloud.Calls() {
		if c.Bucket != a.source || c.Operation != "GetObject" || c.Status/100 != 2 {
			continue
		}
		n += a.each
		if m := fromOffset.FindStringSubmatch(c.Header.Get("Range")); m != nil {
			offset, _ := strconv.ParseInt(m[1], 10, 64)
			n -= offset
		}
	}
	return n
}

// TestRollingDeploys restarts two workers in turn, again and again, while a job runs that takes much longer than any
// of them lives. One of them is killed once, and one is paused until the other has taken over, and goes on at the
// same upload for a moment then. The job is delivered all the same, by its first attempt, with the tables of its
// first instant, and what is fetched twice is little.
func TestRollingDeploys(t *testing.T) {
	t.Parallel()
	const files, each, part = 96, 512 << 10, 5 << 20
	a := newAlbum(t, "rolling", files, each)
	slow := cloud.Inject(bucket.Fault{
		Match: func(c bucket.Call) bool { return c.Bucket == a.source && c.Operation == "GetObject" },
		Delay: *rolling / files,
	})
	defer slow.Remove()
	workers := []*process{a.start("one"), a.start("two")}
	a.submit("job")
	select {
	case <-slow.Reached: // the tables are there
	case <-time.After(time.Minute):
		t.Fatal("no file was fetched")
	}

	ctx, cancel := context.WithTimeout(t.Context(), 3**rolling+3*time.Minute)
	defer cancel()
	delivered := 0 // parts of attachments, when the last worker was restarted
	// calm waits for a tenth of the job, and until something was delivered, however slow this machine is.
	calm := func() (ended bool) {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for began := time.Now(); ; {
			s, err := a.jobs.Status(ctx, a.tenant, "job")
			if err == nil && s.Ended() {
				return true
			}
			if n := a.seen("UploadPart", "attachments"); time.Since(began) > *rolling/10 && n > delivered {
				delivered = n
				return false
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				t.Fatalf("the job has not ended: %+v, %v", s, err)
			}
		}
	}
	owner := func() string {
		s, _ := a.jobs.Status(ctx, a.tenant, "job")
		return s.Worker
	}
	restarts, handovers, pauses, crashes := 0, 0, 0, 0
	for ; !calm(); restarts++ {
		i := restarts % 2
		name, sig := []string{"one", "two"}[i], os.Signal(syscall.SIGTERM)
		owns := owner() == name
		if owns {
			handovers++
		}
		switch owns = owns && handovers > 1; { // it has taken over an upload that is under way
		case owns && pauses == 0:
			pauses++
			_ = workers[i].Process.Signal(syscall.SIGSTOP)
			a.eventually("somebody else has taken over", func() error {
				if now := owner(); now == name {
					return fmt.Errorf("%s has the job", now)
				}
				return nil
			})
			_ = workers[i].Process.Signal(syscall.SIGCONT)
		case owns && crashes == 0:
			crashes++
			sig = syscall.SIGKILL
		}
		if err := workers[i].stop(sig); err != nil && sig == syscall.SIGTERM {
			t.Errorf("worker %s ends with %v", name, err)
		}
		workers[i] = a.start(name)
	}

	s := a.delivered("job")
	if s.Outcome.Attempts != 1 || s.Errors != 0 || s.Crashes > crashes+pauses {
		t.Errorf("%d attempts, %d errors, %d crashes", s.Outcome.Attempts, s.Errors, s.Crashes)
	}
	if n := a.seen("CreateMultipartUpload", "snapshot_tables"); n != 1 {
		t.Errorf("the tables were exported %d times", n)
	}
	if n := a.seen("CreateMultipartUpload", "snapshot_attachments"); n != 1 {
		t.Errorf("the attachments were begun %d times", n)
	}
	if restarts < 5 || crashes != 1 || pauses != 1 {
		t.Errorf("%d restarts, %d crashes, %d pauses", restarts, crashes, pauses)
	}
	// Whoever is restarted kindly loses the part that it fills, one that is on the way, and the files it has asked
	// for; whoever is killed or paused also what came in since the last checkpoint, ten seconds before.
	again := a.fetched() - files*each
	lost := int64(handovers)*(2*part+3*each) + int64(crashes+pauses)*files*each*int64(10*time.Second)/int64(max(*rolling, 10*time.Second))
	t.Logf("%d restarts, %d handovers, %d crashes, %d pauses: %d MiB delivered, %d MiB fetched again, of at most %d",
		restarts, handovers, crashes, pauses, files*each>>20, again>>20, lost>>20)
	if again > lost {
		t.Errorf("%d MiB were fetched again, at most %d should be", again>>20, lost>>20)
	}
	a.check()
}

// TestTablesFinishWithinTheGracePeriod stops a worker kindly while it exports tables: it goes on with them, and
// whoever takes over has only attachments to deliver.
func TestTablesFinishWithinTheGracePeriod(t *testing.T) {
	t.Parallel()
	a := newAlbum(t, "graceful", 8, 1<<20)
	hold, fetch := make(chan struct{}), make(chan struct{})
	tables := cloud.Inject(bucket.Fault{
		Match: func(c bucket.Call) bool {
			return c.Bucket == a.bucket && c.Operation == "UploadPart" && strings.Contains(c.Key, "snapshot_tables")
		},
		Hold: hold,
	})
	defer tables.Remove()
	source := cloud.Inject(bucket.Fault{
		Match: func(c bucket.Call) bool { return c.Bucket == a.source && c.Operation == "GetObject" }, Skip: 6, Hold: fetch,
	})
	defer source.Remove()
	first := a.start("first", "--grace=1m")
	a.submit("job")
	select {
	case <-tables.Reached:
	case <-time.After(time.Minute):
		t.Fatal("no table was exported")
	}
	if err := first.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	a.eventually("it is stopping", func() error {
		if !strings.Contains(first.said(), "stopping") {
			return errors.New("it has not said so")
		}
		return nil
	})
	close(hold)
	select {
	case <-source.Reached:
	case <-time.After(30 * time.Second):
		t.Fatal("it has not come to the attachments")
	}
	if err := first.stop(syscall.SIGTERM); err != nil { // a second time: whatever is left is given back at once
		t.Errorf("the worker ends with %v", err)
	}
	close(fetch)
	a.start("second")
	s := a.delivered("job")
	if n := a.seen("CreateMultipartUpload", "snapshot_tables"); n != 1 || s.Outcome.Attempts != 1 || s.Crashes+s.Errors != 0 {
		t.Errorf("the tables were exported %d times, in %d attempts: %+v", n, s.Outcome.Attempts, s)
	}
	a.check()
}
