package test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/test/bucket"
	"github.com/snapfleet/snapfleet/test/world"
)

// TestFairness has tenants who are in each other's way, on two real workers.
func TestFairness(t *testing.T) {
	t.Parallel()
	sideBySide(t, map[string]func(*testing.T){
		"a large tenant before a small one": smallIsNotLast,
		"a bucket that hangs":               func(t *testing.T) { deadBucket(t, "hanging", (*world.Link).Cut) },
		"a bucket that resets":              func(t *testing.T) { deadBucket(t, "resetting", (*world.Link).Tear) },
	})
}

// crowd are two workers of two slots.
var crowd = append([]string{"--slots=2"}, sweeping...)

// order is the jobs that have ended, in the order of their outcomes.
func (f *fleet) order() (jobs []string) {
	f.t.Helper()
	for line := range strings.Lines(f.messages(contracts.OutcomeStream)) {
		subject, _, _ := strings.Cut(line, " ")
		jobs = append(jobs, strings.TrimPrefix(subject, strings.TrimSuffix(contracts.OutcomeSubjects, "*.*")))
	}
	return jobs
}

// smallIsNotLast: a tenant with one request waits for what has begun, and not for all that another tenant asked for
// before it.
func smallIsNotLast(t *testing.T) {
	const requests, most = 12, 6
	f := newFleet(t, "large", little("large"))
	small := f.customer(t, "small", "--schema=large")
	// Every part of the large tenant takes its time, so that the order is not a matter of luck.
	slow := cloud.Inject(bucket.Fault{Match: func(c bucket.Call) bool { return c.Bucket == f.bucket && c.Operation == "UploadPart" }, Delay: 500 * time.Millisecond})
	defer slow.Remove()
	for n := range requests {
		f.submit(fmt.Sprint("job-", n), "--only=tables")
	}
	small.submit("job", "--only=tables")
	f.work("one", crowd...)
	f.work("two", crowd...)
	small.await("job")
	slow.Remove()
	for n := range requests {
		f.await(fmt.Sprint("job-", n))
	}
	if before := slices.Index(f.order(), "small.job"); before > most {
		t.Errorf("the small tenant came after %d of the %d that the large one had asked for: %v", before, requests, f.order())
	}
	small.allDelivered("job")
	f.allDelivered()
}

// deadBucket: a customer's bucket does not answer. Others are served meanwhile, on the same workers, and when it is
// back its jobs are delivered, too.
func deadBucket(t *testing.T, tenant string, end func(*world.Link)) {
	f := newFleet(t, tenant, little(tenant))
	link, err := world.NewLink(strings.TrimPrefix(cloud.Endpoint(), "https://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = link.Close() })
	endpoint := "https://" + link.Address()
	f.set("--endpoint=" + endpoint)
	others := []*fleet{f.customer(t, tenant+"-a", "--schema="+tenant), f.customer(t, tenant+"-b", "--schema="+tenant)}
	end(link)
	jobs := []string{"1", "2", "3", "4", "5", "6"} // more than there are slots
	for _, job := range jobs {
		f.submit(job, "--only=tables")
	}
	f.work("one", append([]string{"--allow-endpoint=" + endpoint}, crowd...)...)
	f.work("two", append([]string{"--allow-endpoint=" + endpoint}, crowd...)...)
	for _, other := range others {
		for _, job := range []string{"1", "2", "3"} {
			other.submit(job, "--only=tables")
		}
	}
	for _, other := range others {
		for _, job := range []string{"1", "2", "3"} {
			other.delivered(job)
		}
	}
	for _, j := range f.order() {
		if strings.HasPrefix(j, tenant+".") {
			t.Errorf("%s has ended while its bucket was away", j)
		}
	}
	link.Mend()
	f.allDelivered(jobs...)
	for _, other := range others {
		other.allDelivered()
	}
}
