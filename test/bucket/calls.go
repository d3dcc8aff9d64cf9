package bucket

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Call is one request as the server saw it.
type Call struct {
	Time    time.Time
	Service string // "s3", "sts" or "iam"
	// Operation is AWS's own name for it: "UploadPart", "AssumeRole". Empty: something unknown.
	Operation   string
	Bucket, Key string
	// Part is the number of the part of an UploadPart; UploadID is of any multipart operation.
	Part     int
	UploadID string
	// Query holds the query of an S3 request, the form of a request to STS or IAM.
	Query url.Values
	// Header is the request's, without Authorization and X-Amz-Security-Token.
	Header http.Header
	// Bytes is the length of the request's body, -1 where it was not announced.
	Bytes int64
	// Principal is the ARN that the access key belongs to; whether the signature is right is not known
	// yet. SessionPolicy: it is a session with an inline policy, and Policy is that, as AssumeRole had it.
	Principal     string
	SessionPolicy bool
	Policy        string
	// Status is what was answered; 0 means that the connection was reset on purpose. A [Fault]'s Match
	// always sees 0.
	Status int
	// Faulted: a [Fault] disturbed it.
	Faulted bool
}

// maxCalls bounds what is remembered, for servers that run all day.
const maxCalls = 200_000

type journal struct {
	mu    sync.Mutex
	calls []Call
}

func (j *journal) add(c Call) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.calls) >= maxCalls {
		j.calls = append(j.calls[:0], j.calls[maxCalls/2:]...)
	}
	j.calls = append(j.calls, c)
}

// Calls returns the requests that were answered since the start or the last [Server.Reset], in the order
// of their answers. Health checks of the server itself are not among them.
func (s *Server) Calls() []Call {
	s.journal.mu.Lock()
	defer s.journal.mu.Unlock()
	return append([]Call(nil), s.journal.calls...)
}

// Reset forgets the calls and removes every fault.
func (s *Server) Reset() {
	s.faults.clear()
	s.journal.mu.Lock()
	defer s.journal.mu.Unlock()
	s.journal.calls = nil
}

// s3Call names an S3 request in path style. escaped is the path as it was sent.
func s3Call(method, escaped string, query url.Values, header http.Header) Call {
	bucket, key, _ := strings.Cut(strings.TrimPrefix(escaped, "/"), "/")
	if k, err := url.PathUnescape(key); err == nil {
		key = k
	}
	c := Call{Time: time.Now(), Service: "s3", Bucket: bucket, Key: key, Query: query, Header: header, UploadID: query.Get("uploadId")}
	c.Part, _ = strconv.Atoi(query.Get("partNumber"))
	c.Operation = operation(method, bucket, key, query, header)
	return c
}

// subresources are the query keys that make another operation of a method on a bucket or an object.
var subresources = []struct{ key, noun string }{
	{"policy", "BucketPolicy"},
	{"versioning", "BucketVersioning"},
	{"acl", "Acl"},
	{"tagging", "Tagging"},
	{"lifecycle", "BucketLifecycleConfiguration"},
	{"encryption", "BucketEncryption"},
	{"publicAccessBlock", "PublicAccessBlock"},
	{"cors", "BucketCors"},
	{"location", "BucketLocation"},
	{"attributes", "ObjectAttributes"},
}

func operation(method, bucket, key string, query url.Values, header http.Header) string {
	verbs := map[string]string{http.MethodGet: "Get", http.MethodPut: "Put", http.MethodDelete: "Delete", http.MethodHead: "Head"}
	for _, sub := range subresources {
		if query.Has(sub.key) {
			return verbs[method] + sub.noun
		}
	}
	uploads, upload := query.Has("uploads"), query.Has("uploadId")
	copied := header.Get("X-Amz-Copy-Source") != ""
	switch {
	case bucket == "":
		return "ListBuckets"
	case key == "" && method == http.MethodPost:
		return "DeleteObjects"
	case key == "" && method == http.MethodPut:
		return "CreateBucket"
	case key == "" && method != http.MethodGet:
		return verbs[method] + "Bucket"
	case key == "" && uploads:
		return "ListMultipartUploads"
	case key == "" && query.Has("versions"):
		return "ListObjectVersions"
	case key == "" && query.Get("list-type") == "2":
		return "ListObjectsV2"
	case key == "":
		return "ListObjects"
	case method == http.MethodPost && uploads:
		return "CreateMultipartUpload"
	case method == http.MethodPost && upload:
		return "CompleteMultipartUpload"
	case method == http.MethodDelete && upload:
		return "AbortMultipartUpload"
	case method == http.MethodGet && upload:
		return "ListParts"
	case method == http.MethodPut && upload && copied:
		return "UploadPartCopy"
	case method == http.MethodPut && upload:
		return "UploadPart"
	case method == http.MethodPut && copied:
		return "CopyObject"
	case method == http.MethodPost:
		return ""
	}
	return verbs[method] + "Object"
}
