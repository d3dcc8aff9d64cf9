package consumer

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"go.opentelemetry.io/otel/propagation"

	"github.com/snapfleet/snapfleet/contracts"
)

// WebhookConfig is where outcomes and notices are posted to. URL and Secrets are required.
type WebhookConfig struct {
	// URL takes POST: https, or http on loopback. It may hold what only the receiver shall know, so it is in no log.
	URL string
	// Secrets sign each post, "whsec_" and 24 to 64 random bytes in base64. A second one is for as long as the receiver
	// may know only one of the two.
	Secrets []string
	// Source tells this fleet's events from those of another. Default [contracts.EventSource].
	Source string
	// Timeout bounds one post. Default 15 s, at most a minute.
	Timeout time.Duration
	// Roots are the authorities that may have signed the receiver's certificate. Default: the system's.
	Roots *x509.CertPool
}

// Webhook posts events. It is safe for concurrent use, and retries nothing: the queue does. Make it with [NewWebhook].
type Webhook struct {
	cfg     WebhookConfig
	host    string // the part of the URL that may be told
	signers []*standardwebhooks.Webhook
	client  *http.Client
	resending
}

// ErrWebhookURL: nothing can be posted to the URL.
var ErrWebhookURL = errors.New("the webhook's URL cannot be meant")

// NewWebhook checks cfg. The error names the field, and never a secret or the URL.
func NewWebhook(cfg WebhookConfig) (*Webhook, error) {
	if cfg.Source == "" {
		cfg.Source = contracts.EventSource
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 15 * time.Second
	}
	u, err := url.Parse(cfg.URL)
	switch {
	case err != nil || u.Hostname() == "" || u.User != nil || u.Fragment != "" || u.Scheme != "https" && u.Scheme != "http":
		return nil, fmt.Errorf("%w: it is not https://host/path, without user and fragment", ErrWebhookURL)
	case u.Scheme == "http" && !loopback(u.Hostname()):
		return nil, fmt.Errorf("%w: it is http, which anybody on the way to %s can read: only https is taken, and http on loopback", ErrWebhookURL, u.Hostname())
	case cfg.Timeout < 100*time.Millisecond || cfg.Timeout > time.Minute:
		return nil, fmt.Errorf("the webhook's timeout (%v) must be 100ms to 1m", cfg.Timeout)
	case len(cfg.Secrets) < 1 || len(cfg.Secrets) > 2:
		return nil, fmt.Errorf("a webhook needs a secret to sign with, or two while it is being changed, not %d", len(cfg.Secrets))
	}
	if s, err := url.Parse(cfg.Source); err != nil || s.String() == "" {
		return nil, fmt.Errorf("the webhook's source %.200q is no URI", cfg.Source)
	}
	w := &Webhook{cfg: cfg, host: u.Host, resending: threeDays}
	for i, secret := range cfg.Secrets {
		signer, err := newSigner(secret)
		if err != nil {
			return nil, fmt.Errorf("the webhook's secret %d of %d: %w", i+1, len(cfg.Secrets), err)
		}
		w.signers = append(w.signers, signer)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: cfg.Roots}
	transport.MaxIdleConnsPerHost, transport.MaxResponseHeaderBytes = postsAtOnce, 64<<10
	w.client = &http.Client{
		Transport: transport, Timeout: cfg.Timeout,
		// Wherever else an event shall go, the operator says so.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return w, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// newSigner is stricter than the library, which signs with an empty secret, too.
func newSigner(secret string) (*standardwebhooks.Webhook, error) {
	encoded, ok := strings.CutPrefix(secret, "whsec_")
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if !ok || err != nil || len(raw) < 24 || len(raw) > 64 {
		return nil, errors.New("it is not whsec_ followed by 24 to 64 bytes in base64")
	}
	return standardwebhooks.NewWebhookRaw(raw)
}

// Answer is what a receiver said.
type Answer struct {
	Status     int           // of HTTP
	RetryAfter time.Duration // how long it asks to be left alone
	Body       []byte        // how it begins
	Took       time.Duration
}

// Accepted reports whether the receiver has the event.
func (a Answer) Accepted() bool { return a.Status >= 200 && a.Status < 300 }

// Test posts an event that tells nothing, and returns its id with the answer.
func (w *Webhook) Test(ctx context.Context) (id string, a Answer, err error) {
	e := w.newEvent("evt_"+nonce()+nonce(), contracts.TestEvent, time.Now(), []byte(`{"message":"This is a test."}`))
	defer w.client.CloseIdleConnections()
	a, err = w.post(ctx, e)
	return e.ID(), a, err
}

func (w *Webhook) newEvent(id, kind string, at time.Time, data []byte) event.Event {
	e := event.New(event.CloudEventsVersionV1)
	e.SetID(id)
	e.SetSource(w.cfg.Source)
	e.SetType(kind)
	e.SetTime(at)
	e.SetDataContentType(event.ApplicationJSON)
	e.DataEncoded = data // SetData would make base64 of bytes
	return e
}

// schemas is where the schemas of an event's data are.
const schemas = "https://raw.githubusercontent.com/snapfleet/snapfleet/main/contracts/schemas/"

// kinds are what a later release may tell, too.
var kinds = regexp.MustCompile(`^[a-z][a-z-]{0,62}$`)

// event is the event that tells what was published. It depends on nothing else, so that it is the same however often
// it is made.
func (w *Webhook) event(subject string, body []byte, published time.Time, header contracts.Header) (event.Event, error) {
	var told struct { // what outcomes and notices have in common
		Tenant string `json:"tenant"`
		Job    string `json:"job"`
		Kind   string `json:"kind"`
	}
	if err := json.Unmarshal(body, &told); err != nil {
		return event.Event{}, fmt.Errorf("what was published on %s: %w", subject, err)
	}
	if !contracts.ValidTenant(told.Tenant) || !kinds.MatchString(told.Kind) {
		return event.Event{}, fmt.Errorf("what was published on %s is neither an outcome nor a notice", subject)
	}
	kind, about, schema := contracts.OutcomeKind(told.Kind).EventType(), told.Tenant+"/"+told.Job, "outcome.schema.json"
	if told.Job == "" {
		kind, about, schema = contracts.NoticeKind(told.Kind).EventType(), told.Tenant, "notice.schema.json"
	}
	e := w.newEvent(contracts.EventID(subject, body), kind, published, body)
	e.SetSubject(about)
	e.SetDataSchema(schemas + schema)
	// https://github.com/cloudevents/spec/blob/main/cloudevents/extensions/distributed-tracing.md
	for _, name := range (propagation.TraceContext{}).Fields() {
		if v := header.Get(name); v != "" {
			e.SetExtension(name, v)
		}
	}
	return e, e.Validate()
}

// bodyBytes is how much of an answer is read. The rest is not worth keeping a connection for.
const bodyBytes = 4 << 10

// post sends e once. An error means that there was no answer; it does not have the URL.
func (w *Webhook) post(ctx context.Context, e event.Event) (a Answer, err error) {
	body, err := e.MarshalJSON()
	if err != nil {
		return a, fmt.Errorf("encode event %s: %w", e.ID(), err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.cfg.URL, bytes.NewReader(body))
	if err != nil {
		return a, errors.New("the webhook's URL cannot be used")
	}
	began := time.Now()
	signature, err := w.sign(e.ID(), began, body)
	if err != nil {
		return a, fmt.Errorf("sign event %s: %w", e.ID(), err)
	}
	propagation.TraceContext{}.Inject(ctx, propagation.HeaderCarrier(req.Header))
	for name, value := range map[string]string{
		"Content-Type": contracts.EventContentType, "User-Agent": "snapfleet", contracts.HeaderWebhookID: e.ID(),
		contracts.HeaderWebhookTimestamp: strconv.FormatInt(began.Unix(), 10), contracts.HeaderWebhookSignature: signature,
	} {
		req.Header.Set(name, value)
	}
	resp, err := w.client.Do(req)
	if err != nil {
		if wrapped, ok := errors.AsType[*url.Error](err); ok {
			err = wrapped.Err // without the URL
		}
		return a, fmt.Errorf("post to %s: %w", w.host, err)
	}
	defer resp.Body.Close() //nolint:errcheck // it was read
	a.Status, a.RetryAfter = resp.StatusCode, retryAfter(resp.Header.Get("Retry-After"), time.Now())
	a.Body, _ = io.ReadAll(io.LimitReader(resp.Body, bodyBytes)) // the status is the answer
	a.Took = time.Since(began)
	return a, nil
}

// sign signs with every secret: a receiver that knows one of them is content.
func (w *Webhook) sign(id string, at time.Time, body []byte) (string, error) {
	signatures := make([]string, len(w.signers))
	for i, s := range w.signers {
		signature, err := s.Sign(id, at, body)
		if err != nil {
			return "", err
		}
		signatures[i] = signature
	}
	return strings.Join(signatures, " "), nil
}

// retryAfter reads the header, which is of seconds or an instant. What cannot be read asks for nothing.
func retryAfter(header string, now time.Time) time.Duration {
	if s, err := strconv.ParseUint(header, 10, 31); err == nil {
		return time.Duration(s) * time.Second
	}
	if at, err := http.ParseTime(header); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}

// resending is how an event is posted again: after a delay that doubles from the first to the longest, or for as long as
// the receiver asks to be left alone. It is given up when it is old, but not before it was posted so many times: it may
// have got old while nobody could post.
type resending struct {
	first, longest, alone, old time.Duration
	fewest                     uint64
}

var threeDays = resending{first: 5 * time.Second, longest: time.Hour, alone: 24 * time.Hour, old: 3 * 24 * time.Hour, fewest: 12}

// delay is how long after the n-th failed post the next one is made. random is in [0, 1): it takes up to half of the
// delay away, so that what failed together does not come again together.
func (p resending) delay(n uint64, asked time.Duration, random float64) time.Duration {
	delay := p.longest
	if n < 20 {
		delay = min(p.first<<max(0, int(n)-1), p.longest)
	}
	delay -= time.Duration(random * float64(delay) / 2)
	return max(delay, min(asked, p.alone))
}

// over reports whether an event of that age is given up after its n-th failed post.
func (p resending) over(age time.Duration, n uint64) bool { return age > p.old && n >= p.fewest }
