package uploader

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/snapfleet/snapfleet/contracts"
)

// purpose is what a request was for; it decides what a refusal means.
type purpose int

const (
	assuming  purpose = iota // a role
	listing                  // the bucket: ListObjectsV2, ListMultipartUploads
	writing                  // objects and uploads, and reading our own
	finishing                // CompleteMultipartUpload
)

// verdict is what a failed request means to whoever sent it.
type verdict int

const (
	again verdict = iota // the same request may succeed in a moment
	stale                // the same request may succeed with fresh credentials, once
	final                // the same request will not succeed
)

// errAbsent says that there is no object of that name.
var errAbsent = errors.New("no such object")

// judge turns what an SDK call returned into a verdict and the error to go on with: a Rejection, a WorkerFault, one of
// the store's errors, or err itself. It is the only place that knows what S3 and STS call things.
func judge(p purpose, err error) (verdict, error) {
	if _, ok := contracts.AsRejection(err); ok { // the role, refused while a request wanted credentials
		return final, err
	}
	if _, ok := contracts.AsWorkerFault(err); ok {
		return final, err
	}
	if p == assuming {
		if fault := identityFault(err); fault != nil {
			return final, fault
		}
	}
	if errors.Is(err, errAnswerTooLong) { // of whatever status: what it says is not believed
		return final, contracts.Reject(contracts.StoreUnusable, "%w", refused(err))
	}
	err = bounded(err)
	code, status := errorCode(err), errorStatus(err)
	message := errorMessage(err)
	reject := func(c contracts.Code) (verdict, error) {
		return final, &contracts.Rejection{Code: c, Err: refused(err)}
	}
	elsewhere := func() (verdict, error) {
		if region := namedRegion(err, message); region != "" {
			return final, contracts.Reject(contracts.WrongRegion, "S3 says that the bucket is in %s: %w", region, refused(err))
		}
		return reject(contracts.WrongRegion)
	}

	switch {
	case errors.Is(err, errFenced):
		return final, err
	case status == 0 && code == "": // no answer at all: network, timeout, a cut body
		return again, err
	case skewed(err): // whatever they call it: to HEAD it is a 403 like any other. The SDK signs by their clock now
		return again, err
	case strings.HasPrefix(code, "KMS.") || isDenied(code, status) && strings.Contains(message, "kms:"):
		return reject(contracts.KMSDenied)
	}

	switch code {
	case "ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired":
		return stale, err
	case "InvalidToken", "InvalidAccessKeyId", // IAM and STS are eventually consistent
		"BadRequest": // what an expired token looks like to HEAD, whose answer has no body to say more
		if namedRegion(err, "") != "" { // but for this
			return elsewhere()
		}
		if p != assuming {
			return stale, err
		}
	case "SignatureDoesNotMatch": // something changed it on the way, unless it is our own keys that are wrong
		if p != assuming {
			return stale, err
		}
	case "NoSuchUpload":
		return final, errGone
	case "NoSuchBucket":
		return reject(contracts.BucketNotFound)
	case "PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException":
		return elsewhere()
	case "SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "Throttling", "ThrottlingException",
		"RequestLimitExceeded", "RequestTimeTooSkewed", "RequestExpired", "OperationAborted", "ConditionalRequestConflict", "IncompleteBody",
		"XAmzContentSHA256Mismatch": // flipped on the way, even when it finishes: the request, not what it speaks of
		return again, err
	case "BadDigest", "XAmzContentChecksumMismatch", "InvalidPart", "InvalidPartOrder", "EntityTooSmall":
		if p == finishing {
			// What we uploaded is not there in full any more: as good as gone, and the caller looks at
			// what is visible before it believes that.
			return final, fmt.Errorf("%w: %w", errGone, refused(err))
		}
		return again, err // flipped on the way
	case "InvalidRequest":
		if p == finishing { // the upload is not the one that we began: somebody aborted it while a part was under way
			return final, fmt.Errorf("%w: %w", errGone, refused(err))
		}
	}

	switch {
	case status == http.StatusPreconditionFailed:
		return final, errTaken
	case status == http.StatusConflict, status == http.StatusTooManyRequests, status == http.StatusRequestTimeout, status >= 500:
		return again, err
	case status == http.StatusMovedPermanently, status == http.StatusTemporaryRedirect:
		return elsewhere()
	case status == http.StatusNotFound && p != assuming:
		return final, errAbsent
	case isDenied(code, status):
		switch p {
		case assuming:
			return reject(contracts.RoleDenied)
		case listing:
			return reject(contracts.BucketDenied)
		}
		return reject(contracts.WriteDenied)
	}
	return final, err
}

// refusal is the answer of a service as a customer reads it: what it calls the matter, and the id by which CloudTrail
// and AWS's support find the request. The SDK's own text is for programmers; whoever asks finds it below.
type refusal struct{ err error }

func refused(err error) error {
	if _, ok := errors.AsType[*smithy.OperationError](err); !ok {
		return err // not the SDK's: it says what it means
	}
	return &refusal{err}
}

func (r *refusal) Unwrap() error { return r.err }

func (r *refusal) Error() string {
	op, _ := errors.AsType[*smithy.OperationError](r.err)
	code := printable(errorCode(r.err), maxName)
	switch {
	case errors.Is(r.err, errAnswerTooLong):
		code = strconv.Quote(errAnswerTooLong.Error())
	case code == "":
		code = strconv.Itoa(errorStatus(r.err))
	}
	text := op.Service() + " answers " + code + " to " + op.Operation()
	if e, ok := errors.AsType[interface {
		error
		ServiceRequestID() string
	}](r.err); ok && e.ServiceRequestID() != "" {
		text += " (request id " + printable(e.ServiceRequestID(), maxName) + ")"
	}
	return text
}

// Bounds of what a service's answer adds to an error's text, in bytes.
const (
	maxName = 64  // a code, a request id, a region
	maxText = 500 // the whole
)

// printable is s as far as it is printable ASCII, and no longer than that.
func printable(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s[:min(len(s), most)])
	return s
}

// boundedError is the SDK's error, whose text has whatever the service has answered.
type boundedError struct{ error }

// bounded gives an error of the SDK a text of bounded length.
func bounded(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*smithy.OperationError](err); !ok {
		return err
	}
	return boundedError{err}
}

// Error implements error.
func (b boundedError) Error() string {
	text := b.error.Error()
	if len(text) > maxText {
		return printable(text, maxText) + " ..."
	}
	return printable(text, maxText)
}

// Unwrap returns the SDK's error.
func (b boundedError) Unwrap() error { return b.error }

func isDenied(code string, status int) bool {
	return code == "AccessDenied" || code == "AllAccessDisabled" || code == "AccountProblem" ||
		status == http.StatusForbidden && (code == "" || code == "Forbidden")
}

// denied reports whether the service itself has refused for want of a right, and said so. Where a refusal is the proof of
// something, no other will do: a proxy answers 403, too, and knows nothing of roles.
func denied(err error) bool { return errorCode(err) == "AccessDenied" }

// maxSkew is how far the time in a signature and the service's clock may be apart, less the rounding.
const maxSkew = 15*time.Minute - 2*time.Second

// skewed reports whether the request was signed at a time that the service, by the Date of its answer, does not
// take: our clock is wrong or has jumped, or we slept on a request that was signed.
func skewed(err error) bool {
	e, ok := errors.AsType[*smithyhttp.ResponseError](err)
	if !ok || e.Response == nil || e.Response.Response == nil {
		return false
	}
	date, err := http.ParseTime(e.Response.Header.Get("Date"))
	if err != nil {
		return false
	}
	signed, err := time.Parse("20060102T150405Z", signature(e, "X-Amz-Date"))
	return err == nil && date.Sub(signed).Abs() >= maxSkew
}

// signature is what a header of the request said, as it was sent.
func signature(e *smithyhttp.ResponseError, header string) string {
	if e.Response.Request == nil {
		return ""
	}
	return e.Response.Request.Header.Get(header)
}

// errorCode is the service's own name for what went wrong; empty when the service did not speak.
func errorCode(err error) string {
	if e, ok := errors.AsType[smithy.APIError](err); ok && e.ErrorCode() != "UnknownError" {
		return e.ErrorCode()
	}
	return ""
}

func errorMessage(err error) string {
	if e, ok := errors.AsType[smithy.APIError](err); ok {
		return e.ErrorMessage()
	}
	return ""
}

func errorStatus(err error) int {
	if e, ok := errors.AsType[*smithyhttp.ResponseError](err); ok {
		return e.HTTPStatusCode()
	}
	return 0
}

var expectingRegion = regexp.MustCompile(`expecting ['"]([a-z0-9-]{1,64})['"]`)

// namedRegion is where S3 says that the bucket is, if that is not where we asked for it.
func namedRegion(err error, message string) string {
	if e, ok := errors.AsType[*smithyhttp.ResponseError](err); ok && e.Response != nil && e.Response.Response != nil {
		r := e.Response.Header.Get("X-Amz-Bucket-Region")
		if r != "" && len(r) <= maxName && !strings.Contains(signature(e, "Authorization"), "/"+r+"/s3/aws4_request") {
			return printable(r, maxName)
		}
	}
	if m := expectingRegion.FindStringSubmatch(message); m != nil {
		return m[1]
	}
	return ""
}
