package uploader

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/snapfleet/snapfleet/contracts"
)

func answer(status int, code, message string, header ...string) error {
	h := http.Header{}
	if len(header) > 0 {
		h.Set(header[0], header[1])
	}
	var err error = &smithy.GenericAPIError{Code: code, Message: message}
	err = &smithyhttp.ResponseError{Response: &smithyhttp.Response{Response: &http.Response{StatusCode: status, Header: h}}, Err: err}
	return &smithy.OperationError{ServiceID: "S3", OperationName: "X", Err: err}
}

// late is an answer to a request that was signed that long before it was answered.
func late(by time.Duration, status int, code string) error {
	now := time.Now()
	err := answer(status, code, "", "Date", now.UTC().Format(http.TimeFormat))
	e, _ := errors.AsType[*smithyhttp.ResponseError](err)
	e.Response.Request = &http.Request{Header: http.Header{"X-Amz-Date": {now.Add(-by).UTC().Format("20060102T150405Z")}}}
	return err
}

func TestJudge(t *testing.T) {
	t.Parallel()
	refusal := contracts.Reject(contracts.RoleDenied, "no")
	for _, c := range []struct {
		p    purpose
		err  error
		v    verdict
		want any // nil: unchanged; an error: errors.Is; a code: a Rejection
	}{
		{writing, io.ErrUnexpectedEOF, again, nil},
		{writing, answer(503, "SlowDown", ""), again, nil},
		{writing, answer(500, "", ""), again, nil},
		{writing, answer(429, "TooManyRequests", ""), again, nil},
		{finishing, answer(409, "ConditionalRequestConflict", ""), again, nil},
		{writing, answer(400, "BadDigest", ""), again, nil},
		{finishing, answer(400, "BadDigest", ""), final, errGone},
		{finishing, answer(400, "InvalidPart", ""), final, errGone},
		{finishing, answer(404, "NoSuchUpload", ""), final, errGone},
		{finishing, answer(412, "PreconditionFailed", ""), final, errTaken},
		{finishing, answer(400, "EntityTooSmall", ""), final, errGone},
		{finishing, answer(400, "InvalidPartOrder", ""), final, errGone},
		{finishing, answer(409, "OperationAborted", ""), again, nil},
		{finishing, answer(200, "InternalError", ""), again, nil},
		{finishing, answer(400, "XAmzContentSHA256Mismatch", ""), again, nil},
		{writing, answer(412, "PreconditionFailed", ""), final, errTaken},
		{writing, answer(409, "ConditionalRequestConflict", ""), again, nil},
		{writing, answer(400, "XAmzContentChecksumMismatch", ""), again, nil},
		{writing, answer(400, "RequestTimeout", ""), again, nil},
		{writing, answer(507, "XMinioStorageFull", ""), again, nil},
		{writing, answer(404, "NoSuchUpload", ""), final, errGone},
		{writing, answer(404, "NotFound", ""), final, errAbsent},
		{writing, answer(404, "NoSuchKey", ""), final, errAbsent},
		{writing, answer(400, "ExpiredToken", ""), stale, nil},
		{writing, answer(400, "InvalidToken", ""), stale, nil},
		{writing, answer(400, "BadRequest", "Bad Request"), stale, nil},
		{writing, answer(403, "SignatureDoesNotMatch", ""), stale, nil},
		{assuming, answer(403, "SignatureDoesNotMatch", ""), final, nil}, // our own keys
		{assuming, late(16*time.Minute, 403, "SignatureDoesNotMatch"), again, nil},
		{writing, late(16*time.Minute, 403, "RequestTimeTooSkewed"), again, nil},
		{writing, late(-3*time.Hour, 403, "Forbidden"), again, nil}, // to HEAD
		{writing, late(3*time.Hour, 400, "RequestExpired"), again, nil},
		{writing, late(5*time.Minute, 403, "Forbidden"), final, contracts.WriteDenied},
		{writing, answer(403, "RequestTimeTooSkewed", ""), again, nil},
		{assuming, answer(403, "AccessDenied", ""), final, contracts.RoleDenied},
		{assuming, answer(403, "InvalidClientTokenId", ""), final, nil}, // our own keys: no customer can mend it
		{assuming, answer(400, "ValidationError", ""), final, nil},
		{assuming, answer(400, "Throttling", ""), again, nil},
		{listing, answer(403, "AccessDenied", ""), final, contracts.BucketDenied},
		{listing, answer(404, "NoSuchBucket", ""), final, contracts.BucketNotFound},
		{writing, answer(404, "NoSuchBucket", ""), final, contracts.BucketNotFound},
		{writing, answer(403, "AccessDenied", ""), final, contracts.WriteDenied},
		{writing, answer(403, "Forbidden", ""), final, contracts.WriteDenied},
		{writing, answer(403, "AccessDenied", "not authorized to perform: kms:Decrypt"), final, contracts.KMSDenied},
		{writing, answer(400, "KMS.DisabledException", ""), final, contracts.KMSDenied},
		{listing, answer(301, "PermanentRedirect", "", "X-Amz-Bucket-Region", "eu-west-1"), final, contracts.WrongRegion},
		{listing, answer(301, "MovedPermanently", ""), final, contracts.WrongRegion},
		{listing, answer(307, "TemporaryRedirect", ""), final, contracts.WrongRegion},
		{writing, answer(301, "MovedPermanently", "", "X-Amz-Bucket-Region", "eu-west-1"), final, contracts.WrongRegion}, // to HEAD
		{writing, answer(400, "BadRequest", "", "X-Amz-Bucket-Region", "eu-west-1"), final, contracts.WrongRegion},       // to HEAD
		{listing, answer(400, "AuthorizationHeaderMalformed", "the region 'a' is wrong; expecting 'eu-west-1'"), final, contracts.WrongRegion},
		{writing, fmt.Errorf("get credentials: %w", refusal), final, contracts.RoleDenied},
		{writing, fmt.Errorf("get credentials: %w", errFenced), final, errFenced},
		{writing, answer(400, "InvalidRequest", ""), final, nil},
		{finishing, answer(400, "InvalidRequest", ""), final, errGone},
	} {
		v, err := judge(c.p, c.err)
		r, rejected := contracts.AsRejection(err)
		ok := v == c.v
		switch want := c.want.(type) {
		case nil:
			ok = ok && errors.Is(err, c.err) && !rejected
		case error:
			ok = ok && errors.Is(err, want)
		case contracts.Code:
			ok = ok && rejected && r.Code == want
		}
		if !ok {
			t.Errorf("purpose %d, %v: verdict %d, %v; want %d, %v", c.p, c.err, v, err, c.v, c.want)
		}
	}
}

// A customer reads what the service calls the matter, and the id to ask it about, and nothing of the SDK.
func TestRefusalIsShort(t *testing.T) {
	t.Parallel()
	with := answer(403, "AccessDenied", "User: arn:aws:iam::111111111111:user/worker is not authorized to perform: sts:AssumeRole")
	e, ok := errors.AsType[*smithyhttp.ResponseError](with)
	if !ok {
		t.Fatal(with)
	}
	e.Err = &awshttp.ResponseError{ResponseError: &smithyhttp.ResponseError{Response: e.Response, Err: e.Err}, RequestID: "4711"}
	for want, err := range map[string]error{
		"S3 answers AccessDenied to X (request id 4711)": with,
		"S3 answers AccessDenied to X":                   answer(403, "AccessDenied", "whatever"),
		"S3 answers 403 to X":                            answer(403, "", ""),
	} {
		_, judged := judge(assuming, err)
		r, ok := contracts.AsRejection(judged)
		if !ok || r.Reason().What != want || !errors.Is(judged, err) {
			t.Errorf("%v, want %s", judged, want)
		}
	}
}

// Retry in virtual time: how long, how often, how far apart.
func TestTry(t *testing.T) {
	t.Parallel()
	cfg := Config{}.withDefaults()
	slow := answer(503, "SlowDown", "")
	synctest.Test(t, func(t *testing.T) {
		began, n := time.Now(), 0
		_, err := try(t.Context(), cfg, writing, time.Minute, nil, func(context.Context) (int, error) { n++; return 0, slow })
		if took := time.Since(began); !errors.Is(err, slow) || took > cfg.RetryFor || took < cfg.RetryFor/2 || n < 15 || n > 60 {
			t.Errorf("%d tries in %s: %v", n, time.Since(began), err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		n := 0
		got, err := try(t.Context(), cfg, writing, time.Minute, nil, func(ctx context.Context) (int, error) {
			if n++; n < 3 {
				<-ctx.Done() // hangs
				return 0, ctx.Err()
			}
			return 7, nil
		})
		if got != 7 || err != nil || n != 3 {
			t.Errorf("%d, %v after %d tries", got, err, n)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		n, renewed := 0, 0
		_, err := try(t.Context(), cfg, writing, time.Minute, func(time.Time) { renewed++ }, func(context.Context) (int, error) {
			n++
			return 0, answer(400, "ExpiredToken", "")
		})
		if err == nil || n != 2 || renewed != 1 {
			t.Errorf("%d tries, renewed %d times, %v", n, renewed, err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		lost := errors.New("lease lost")
		ctx, cancel := context.WithCancelCause(t.Context())
		_, err := try(ctx, cfg, writing, time.Minute, nil, func(context.Context) (int, error) { cancel(lost); return 0, slow })
		if !errors.Is(err, lost) {
			t.Error(err)
		}
	})
	// Whoever is gone by the time of the answer is told so, and nothing is asked again. A request that is under way is
	// broken off, or goes on to its end where that is wanted.
	for _, wanted := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			gone := errors.New("nobody waits any more")
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, gone)
			defer cancel()
			if wanted {
				ctx = context.WithValue(ctx, toItsEnd{}, true)
			}
			began, n := time.Now(), 0
			request := func(ctx context.Context) (int, error) {
				n++
				<-ctx.Done()
				return 0, ctx.Err()
			}
			for range 2 {
				_, err := try(ctx, cfg, writing, time.Minute, nil, request)
				if want := map[bool]time.Duration{false: time.Second, true: time.Minute}[wanted]; !errors.Is(err, gone) || time.Since(began) != want {
					t.Errorf("after %s: %v", time.Since(began), err)
				}
			}
			if wanted && n != 1 {
				t.Errorf("%d requests were begun", n)
			}
		})
	}
}
