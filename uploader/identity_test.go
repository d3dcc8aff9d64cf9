package uploader

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/snapfleet/snapfleet/contracts"
	testbucket "github.com/snapfleet/snapfleet/test/bucket"
)

// A worker without a valid AWS identity says so at once: nothing is tried again, the customer is not accused, and a check
// is inconclusive.
func TestFaultOfTheWorkersIdentity(t *testing.T) {
	t.Parallel()
	for name, bend := range map[string]func(c *customer, base *aws.Config){
		"no credentials": func(_ *customer, base *aws.Config) { base.Credentials = nil },
		"anonymous":      func(_ *customer, base *aws.Config) { base.Credentials = aws.AnonymousCredentials{} },
		"a provider that has none": func(_ *customer, base *aws.Config) {
			base.Credentials = aws.NewCredentialsCache(aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
				return aws.Credentials{}, errors.New("no EC2 IMDS role found")
			}))
		},
		"an unknown key": func(_ *customer, base *aws.Config) {
			base.Credentials = credentials.NewStaticCredentialsProvider("AKIANOBODY0000000000", "secret", "")
		},
		"a wrong secret": func(c *customer, base *aws.Config) {
			base.Credentials = credentials.NewStaticCredentialsProvider(c.worker.AccessKey, "another secret", "")
		},
		"expired": func(c *customer, _ *aws.Config) {
			for _, operation := range []string{"AssumeRole", "GetCallerIdentity"} {
				i := server.Inject(testbucket.Fault{
					Match: func(call testbucket.Call) bool { return call.Operation == operation && call.Principal == c.worker.ARN },
					Reply: testbucket.Reply{Status: http.StatusForbidden, Code: "ExpiredToken"},
				})
				c.t.Cleanup(i.Remove)
			}
		},
		"a certificate of an unknown authority": func(_ *customer, base *aws.Config) { base.HTTPClient = &http.Client{} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCustomer(t)
			base := server.AWSConfig(c.worker)
			bend(c, &base)
			cfg := c.cfg
			cfg.RetryFor = time.Hour // the test ends before
			u := New(base, cfg)
			ctx, stop := context.WithTimeout(t.Context(), time.Minute)
			defer stop()
			_, asked := u.Identity(ctx)
			_, looked := u.Delivered(ctx, c.attempt)
			for what, err := range map[string]error{"identity": asked, "delivered": looked} {
				if f, ok := contracts.AsWorkerFault(err); !ok || f.Part != contracts.FaultIdentity {
					t.Errorf("%s: %v is no fault of the worker's identity", what, err)
				}
				if _, rejected := contracts.AsRejection(err); rejected {
					t.Errorf("%s: %v accuses the customer", what, err)
				}
			}
			if report := u.Check(t.Context(), c.attempt.Tenant); report.Result() != contracts.CheckInconclusive {
				t.Errorf("the check says %s: %+v", report.Result(), report.Steps[0])
			} else if reason := report.Steps[0].Reason; reason == nil || reason.Fix == contracts.Inconclusive.Advice().Fix {
				t.Errorf("the check does not say what to do: %+v", reason)
			}
		})
	}
	c := newCustomer(t)
	if arn, err := c.uploader().Identity(t.Context()); err != nil || arn != c.worker.ARN {
		t.Errorf("a worker with an identity: %q, %v", arn, err)
	}
}

// The house's role is the operator's: that it refuses us accuses no customer, and ends no job.
func TestHouseRoleIsTheOperators(t *testing.T) {
	t.Parallel()
	c := newHouse(t, contracts.ByLifecycle)
	server.RemoveRole(c.role.ARN)
	_, err := c.uploader().Delivered(t.Context(), c.attempt)
	if f, ok := contracts.AsWorkerFault(err); !ok || f.Part != contracts.FaultHouseRole {
		t.Errorf("%v is no fault of the house's role", err)
	}
	if _, rejected := contracts.AsRejection(err); rejected {
		t.Errorf("%v ends the job", err)
	}
}
