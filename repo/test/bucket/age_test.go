package bucket_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/snapfleet/snapfleet/test/bucket"
)

// TestRequestsGrowOld: S3 takes a signature for 15 minutes. A worker that was stopped after it had signed a request,
// and let go when another has its job, does nothing with that request from then on. What counts is when the request
// arrives, and not when it was sent.
func TestRequestsGrowOld(t *testing.T) {
	name, role := customer(t)
	credentials, err := within(t, role, "").Options().Credentials.Retrieve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// A second for the test itself, on either side.
	const limit = 15 * time.Minute
	for what, tc := range map[string]struct {
		method, query string
		age, delay    time.Duration
		want          string
	}{
		"young":                   {http.MethodPut, "", limit - time.Minute, 0, ""},
		"old":                     {http.MethodPut, "", limit + 2*time.Second, 0, "RequestTimeTooSkewed"},
		"from the future":         {http.MethodPut, "", -limit - time.Minute, 0, "RequestTimeTooSkewed"},
		"old when it arrives":     {http.MethodPut, "", limit - time.Second, 3 * time.Second, "RequestTimeTooSkewed"},
		"a part":                  {http.MethodPut, "partNumber=1&uploadId=x", limit + time.Minute, 0, "RequestTimeTooSkewed"},
		"the end of an upload":    {http.MethodPost, "uploadId=x", limit + time.Minute, 0, "RequestTimeTooSkewed"},
		"the beginning of one":    {http.MethodPost, "uploads=", limit + time.Minute, 0, "RequestTimeTooSkewed"},
		"an upload that is ended": {http.MethodDelete, "uploadId=x", limit + time.Minute, 0, "RequestTimeTooSkewed"},
		"an object that is gone":  {http.MethodDelete, "", limit + time.Minute, 0, "RequestTimeTooSkewed"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			key := strings.ReplaceAll(what, " ", "-")
			defer server.Inject(bucket.Fault{Match: func(c bucket.Call) bool { return c.Bucket == name && c.Key == key }, Delay: tc.delay, Times: 1}).Remove()
			const body = "hello"
			q, err := http.NewRequestWithContext(t.Context(), tc.method, fmt.Sprintf("%s/%s/%s?%s", server.Endpoint(), name, key, tc.query), strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			sum := sha256.Sum256([]byte(body))
			hash := hex.EncodeToString(sum[:])
			q.Header.Set("X-Amz-Content-Sha256", hash)
			if err := v4.NewSigner().SignHTTP(t.Context(), credentials, q, hash, "s3", server.Region(), time.Now().Add(-tc.age)); err != nil {
				t.Fatal(err)
			}
			r, err := server.HTTPClient().Do(q)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Body.Close()
			answer, err := io.ReadAll(r.Body)
			if err != nil {
				t.Fatal(err)
			}
			if tc.want == "" && r.StatusCode != http.StatusOK || tc.want != "" && (r.StatusCode != http.StatusForbidden || !strings.Contains(string(answer), "<Code>"+tc.want+"</Code>")) {
				t.Fatalf("answered %d %s, want %q", r.StatusCode, answer, tc.want)
			}
			_, err = server.Admin().HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: aws.String(name), Key: &key})
			if there := err == nil; there != (tc.want == "") {
				t.Errorf("object there: %t", there)
			}
		})
	}
}
