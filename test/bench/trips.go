package main

import (
	"bytes"
	"context"
	"errors"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/test/world"
)

// What one job says to whom. A worker talks to NATS and PostgreSQL through a relay that reads along, and the S3 server
// notes its calls by itself.

// filedTenant has tables like any small one's, and ten attachments of 50 kB.
const (
	filedTenant = "filed"
	filedFiles  = 10
	filedSize   = 50e3
)

// settled is how long after the ack a worker has said everything about a job, and has asked for the next one.
const settled = 500 * time.Millisecond

// roundTrips counts what a job says: a small one, and the same with attachments. The worker has done a job of the
// tenant before, so what it remembers is not in it.
func (f *fleet) roundTrips(ctx context.Context) (_ *RoundTrips, err error) {
	if err := f.ground.fillTiny(ctx, filedTenant, tinyTables); err != nil {
		return nil, err
	}
	if err := f.enrolFiled(ctx, filedTenant, filedFiles, filedSize); err != nil {
		return nil, err
	}
	h, err := f.overhear()
	if err != nil {
		return nil, err
	}
	defer h.close()
	w, err := f.work(ctx, h.env, "--slots=1")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.stop()) }()
	var t RoundTrips
	if t.Small, err = f.count(ctx, w, h, tinyTenant(0)); err != nil {
		return nil, err
	}
	t.Attachments, err = f.count(ctx, w, h, filedTenant)
	return &t, err
}

func (f *fleet) count(ctx context.Context, w *process, h *ear, tenant string) (Said, error) {
	if _, _, err := f.one(ctx, w, tenant); err != nil {
		return Said{}, err
	}
	if err := rest(ctx, settled); err != nil {
		return Said{}, err
	}
	f.ground.cloud.Reset()
	h.listen()
	job, _, err := f.await(ctx, w, tenant)
	if err != nil {
		return Said{}, err
	}
	if err := rest(ctx, settled); err != nil {
		return Said{}, err
	}
	heard := h.heard()
	for _, clockwork := range []string{"ping", "pong"} {
		delete(heard.Sent, clockwork)
	}
	s := Said{NATS: heard.Sent, SQL: heard.SQL, SQLTrips: heard.trips, S3: map[string]int{}, STS: map[string]int{}}
	for _, c := range f.ground.cloud.Calls() {
		switch {
		case c.Service == "sts":
			s.STS[c.Operation]++
		case c.Bucket == files:
			s.S3[c.Operation+" of the source"]++
		default:
			s.S3[c.Operation]++
		}
	}
	_, err = f.look(ctx, tenant, job)
	return s, err
}

// ear hears what one worker says to NATS and PostgreSQL.
type ear struct {
	wire *world.Wire
	env  []string // by which a worker speaks through it

	mu   sync.Mutex
	said heard
}

// heard is what was said since somebody began to listen.
type heard struct {
	Sent, SQL map[string]int
	trips     int // to PostgreSQL: what is sent together is one
	received  int // from NATS
}

func (f *fleet) overhear() (_ *ear, err error) {
	h := &ear{wire: &world.Wire{}}
	defer func() {
		if err != nil {
			h.wire.Close()
		}
	}()
	broker, err := h.wire.NATS("nats", f.ground.nats.URL())
	if err != nil {
		return nil, err
	}
	database, err := h.wire.Postgres("postgresql", f.ground.database)
	if err != nil {
		return nil, err
	}
	h.env = []string{"SNAPFLEET_NATS_URL=" + broker.URL(), "SNAPFLEET_DATABASE_URL=" + database.URL()}
	h.wire.Inject(world.Fault{Match: func(m world.Message) bool { h.hear(m); return false }})
	h.listen()
	return h, nil
}

func (h *ear) close() { h.wire.Close() }

// listen forgets what was said before.
func (h *ear) listen() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.said = heard{Sent: map[string]int{}, SQL: map[string]int{}}
}

// heard is what was said. What comes later is not in it.
func (h *ear) heard() heard {
	h.mu.Lock()
	defer h.mu.Unlock()
	said := h.said
	h.said = heard{Sent: map[string]int{}, SQL: map[string]int{}}
	return said
}

func (h *ear) hear(m world.Message) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case m.Via == "nats" && m.ToServer:
		h.said.Sent[natsKind(m)]++
	case m.Via == "nats":
		h.said.received++
	case !m.ToServer:
	case m.Kind == "Q" || m.Kind == "S":
		if h.said.trips++; m.Kind == "Q" {
			h.said.SQL[statement(m.Body)]++
		}
	case m.Kind == "P":
		_, sql, _ := bytes.Cut(m.Body, []byte{0}) // its name comes first
		h.said.SQL[statement(sql)]++
	case m.Kind == "startup":
		h.said.SQL["(connect)"]++
	case m.Kind == "X":
		h.said.SQL["(disconnect)"]++
	}
}

// natsKind is what a worker's message to NATS is for.
func natsKind(m world.Message) string {
	if m.Kind != "PUB" {
		return strings.ToLower(m.Kind)
	}
	bucket := func(subject string) string {
		for _, b := range []string{contracts.JobBucket, contracts.PieceBucket, contracts.TenantBucket} {
			if strings.Contains(subject, "KV_"+b) || strings.HasPrefix(subject, "$KV."+b+".") {
				return b
			}
		}
		return strings.SplitN(subject, ".", 2)[0]
	}
	api, isAPI := strings.CutPrefix(m.Subject, "$JS.API.")
	switch word := string(m.Body); {
	case strings.HasPrefix(m.Subject, "$JS.ACK.") && strings.HasPrefix(word, "+WPI"):
		return "in progress"
	case strings.HasPrefix(m.Subject, "$JS.ACK.") && strings.HasPrefix(word, "-NAK"):
		return "give back"
	case strings.HasPrefix(m.Subject, "$JS.ACK."):
		return "ack"
	case strings.HasPrefix(m.Subject, "$JS.FC."):
		return "flow control"
	case strings.HasPrefix(m.Subject, "$KV."):
		return "put in " + bucket(m.Subject)
	case strings.HasPrefix(api, "CONSUMER.MSG.NEXT."):
		return "fetch the next request"
	case strings.HasPrefix(api, "DIRECT.GET.KV_"), strings.HasPrefix(api, "STREAM.MSG.GET.KV_"):
		return "get from " + bucket(m.Subject)
	case strings.HasPrefix(api, "DIRECT.GET."), strings.HasPrefix(api, "STREAM.MSG.GET."):
		return "get from " + strings.SplitN(api[strings.Index(api, "GET.")+len("GET."):], ".", 2)[0]
	case isAPI:
		words := strings.Split(api, ".")
		return strings.ToLower(strings.Join(words[:min(2, len(words))], " "))
	}
	return "publish " + strings.Join(strings.SplitN(m.Subject, ".", 3)[:min(2, strings.Count(m.Subject, ".")+1)], ".")
}

var (
	blanks = regexp.MustCompile(`\s+`)
	values = regexp.MustCompile(`'[^']*'|"[^"]*"|\b\d+\b`)
)

// statement is SQL, up to the 0 that ends it, without what differs from job to job, and short.
func statement(body []byte) string {
	sql, _, _ := bytes.Cut(body, []byte{0})
	text := strings.TrimSpace(blanks.ReplaceAllString(string(sql), " "))
	if strings.HasPrefix(text, "COPY ") {
		return "COPY"
	}
	const most = 60
	if letters := []rune(values.ReplaceAllString(text, "_")); len(letters) > most {
		return string(letters[:most]) + " ..."
	}
	return values.ReplaceAllString(text, "_")
}
