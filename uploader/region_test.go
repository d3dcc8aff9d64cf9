package uploader

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"

	"github.com/snapfleet/snapfleet/contracts"
	testbucket "github.com/snapfleet/snapfleet/test/bucket"
)

// However S3 says that a bucket is in another region, and whenever, it ends in one rejection that names the region.
func TestWrongRegionIsNamed(t *testing.T) {
	t.Parallel()
	named := map[string]string{"X-Amz-Bucket-Region": "eu-west-1"}
	for what, reply := range map[string]testbucket.Reply{
		"addressed elsewhere": {
			Status: 301, Code: "PermanentRedirect", Header: named,
			Message: "The bucket you are attempting to access must be addressed using the specified endpoint. Please send all future requests to this endpoint.",
		},
		"a new bucket":    {Status: 307, Code: "TemporaryRedirect", Header: named, Message: "Please re-send this request to the specified temporary endpoint. Continue to use the original request endpoint for future requests."},
		"signed for ours": {Status: 400, Code: "AuthorizationHeaderMalformed", Message: "The authorization header is malformed; the region 'us-east-1' is wrong; expecting 'eu-west-1'"},
	} {
		for _, op := range []string{"ListObjectsV2", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "HeadObject"} {
			t.Run(what+"/"+op, func(t *testing.T) {
				t.Parallel()
				if op == "HeadObject" && reply.Header == nil {
					reply.Header = named // it has no body to say it in, as S3 knows
				}
				c := newCustomer(t)
				var moved *testbucket.Injected
				var err error
				if op == "ListObjectsV2" || op == "CreateMultipartUpload" || op == "UploadPart" {
					moved = c.inject(op, testbucket.Fault{Reply: reply})
					_, err = c.uploader().Begin(t.Context(), c.attempt, &journal{})
				} else {
					r := c.prepareSmall()
					moved = c.inject(op, testbucket.Fault{Reply: reply})
					err = c.uploader().Commit(t.Context(), c.attempt, r)
				}
				if r, ok := contracts.AsRejection(err); !ok || r.Code != contracts.WrongRegion || !strings.Contains(err.Error(), "eu-west-1") {
					t.Fatalf("got %v", err)
				}
				if n := moved.Hits(); n > 2 { // two volumes at once
					t.Errorf("asked %d times", n)
				}
			})
		}
	}
}

// A redirect is no place to go: a delivery goes where the tenant's record says, or nowhere.
func TestRedirectIsNotFollowed(t *testing.T) {
	t.Parallel()
	var visits atomic.Int32
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { visits.Add(1) }))
	t.Cleanup(elsewhere.Close)
	for _, client := range []aws.HTTPClient{
		server.HTTPClient(),
		// What the SDK makes of the environment, as the worker has it.
		awshttp.NewBuildableClient().WithTransportOptions(func(tr *http.Transport) {
			tr.TLSClientConfig = server.HTTPClient().Transport.(*http.Transport).TLSClientConfig.Clone()
			tr.DisableKeepAlives = true
		}),
	} {
		for _, status := range []int{301, 302, 303, 307, 308} {
			c := newCustomer(t)
			cfg := server.AWSConfig(c.worker)
			cfg.HTTPClient = client
			u := New(cfg, c.cfg)
			for _, op := range []string{"UploadPart", "GetObject", "ListObjectsV2"} {
				moved := c.inject(op, testbucket.Fault{Reply: testbucket.Reply{
					Status: status, Code: "TemporaryRedirect", Header: map[string]string{"Location": elsewhere.URL + "/" + c.to().Bucket},
				}})
				_, err := u.Begin(t.Context(), c.attempt, &journal{})
				if r, ok := contracts.AsRejection(err); err == nil || status == 307 && (!ok || r.Code != contracts.WrongRegion) || errors.Is(err, ErrDelivered) {
					t.Errorf("%d to %s: %v", status, op, err)
				}
				moved.Remove()
			}
			if n := visits.Swap(0); n > 0 {
				t.Errorf("%T, %d: %d requests went elsewhere", client, status, n)
			}
		}
	}
}
