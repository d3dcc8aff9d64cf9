package bucket

import (
	"crypto/hmac"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// amzDate is how X-Amz-Date is written.
const amzDate = "20060102T150405Z"

// maxSkew is how far from the server's clock a signature may be.
const maxSkew = 15 * time.Minute

// Front is another entrance to a server, with the same buckets, roles and faults, and a clock of its own: what a
// client meets whose clock is wrong, or has jumped.
type Front struct {
	server  *Server
	ahead   atomic.Int64
	s3, sts *door
	proxy   *httputil.ReverseProxy
}

// OpenFront opens an entrance whose clock goes right until [Front.Shift].
func (s *Server) OpenFront() (*Front, error) {
	gateway, err := url.Parse(s.endpoint)
	if err != nil {
		return nil, err
	}
	f := &Front{server: s}
	f.proxy = &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(gateway)
			p.Out.Host = gateway.Host
			s.sign(p.Out, time.Now())
		},
		ModifyResponse: func(r *http.Response) error {
			r.Header.Set("Date", f.now().UTC().Format(http.TimeFormat))
			return nil
		},
		Transport: s.client.Transport,
		ErrorLog:  log.New(io.Discard, "", 0),
	}
	if f.s3, err = s.open("", http.HandlerFunc(f.serveS3)); err != nil {
		return nil, err
	}
	if f.sts, err = s.open("", s.serveSTS(f.now)); err != nil {
		f.s3.close()
		return nil, err
	}
	return f, nil
}

// Shift puts the clock ahead of this machine's, or behind it.
func (f *Front) Shift(ahead time.Duration) { f.ahead.Store(int64(ahead)) }

func (f *Front) now() time.Time { return time.Now().Add(time.Duration(f.ahead.Load())) }

// Endpoint is where S3 is.
func (f *Front) Endpoint() string { return f.s3.url }

// STSEndpoint is where STS is.
func (f *Front) STSEndpoint() string { return f.sts.url }

// AWSConfig is [Server.AWSConfig] by this entrance.
func (f *Front) AWSConfig(u User) aws.Config {
	cfg := f.server.AWSConfig(u)
	cfg.ConfigSources = []any{endpoints{s3: f.Endpoint(), sts: f.STSEndpoint()}}
	return cfg
}

// Close closes the entrance, and the connections to it.
func (f *Front) Close() {
	f.s3.close()
	f.sts.close()
}

// serveS3 judges the signature by this entrance's clock, and hands the request on with one by the gateway's. A
// request that cannot be judged is handed on as it is, and refused there.
func (f *Front) serveS3(w http.ResponseWriter, q *http.Request) {
	now := f.now()
	w.Header().Set("Date", now.UTC().Format(http.TimeFormat))
	at, err := time.Parse(amzDate, q.Header.Get("X-Amz-Date"))
	code, message := "", ""
	switch {
	case err != nil:
	case now.Sub(at).Abs() > maxSkew:
		code, message = "RequestTimeTooSkewed", "The difference between the request time and the current time is too large."
	default:
		given := q.Header.Get("Authorization")
		if copied := q.Clone(q.Context()); f.server.sign(copied, at) && !hmac.Equal([]byte(copied.Header.Get("Authorization")), []byte(given)) {
			code, message = "SignatureDoesNotMatch", "The request signature we calculated does not match the signature you provided."
		}
	}
	if code == "" {
		f.proxy.ServeHTTP(w, q)
		return
	}
	io.Copy(io.Discard, q.Body) // the client gave up: nobody to tell
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(http.StatusForbidden)
	w.Write(s3Error(code, message, q.URL.Path)) // the client is gone: nobody to tell
}

// sign signs a request anew, at another time, with the keys that it names and the headers that it signed. False: it
// has none that are known.
func (s *Server) sign(q *http.Request, at time.Time) bool {
	fields := authorization(q.Header.Get("Authorization"))
	scope := strings.Split(fields["Credential"], "/")
	if len(scope) != 5 {
		return false
	}
	token := q.Header.Get("X-Amz-Security-Token")
	secret, err := s.iam.secret(scope[0], token)
	if scope[0] == rootAccess {
		secret, err = s.rootSecret, nil
	}
	if err != nil {
		return false
	}
	names := strings.Split(fields["SignedHeaders"], ";")
	bare := &http.Request{Method: q.Method, URL: q.URL, Host: q.Host, Header: http.Header{}}
	for _, name := range names {
		if values := q.Header.Values(name); len(values) > 0 {
			bare.Header[http.CanonicalHeaderKey(name)] = values
		}
	}
	if slices.Contains(names, "content-length") {
		bare.ContentLength = q.ContentLength
		bare.Header.Del("Content-Length")
	}
	keys := aws.Credentials{AccessKeyID: scope[0], SecretAccessKey: secret, SessionToken: token}
	err = v4.NewSigner().SignHTTP(q.Context(), keys, bare, q.Header.Get("X-Amz-Content-Sha256"), scope[3], scope[2], at,
		func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
	if err != nil {
		return false
	}
	for _, name := range []string{"Authorization", "X-Amz-Date"} {
		q.Header.Set(name, bare.Header.Get(name))
	}
	return true
}
