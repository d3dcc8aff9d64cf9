package consumer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/snapfleet/snapfleet/contracts"
)

// The workers' service answers questions about a tenant that only a worker can answer, because only workers have our
// identity. A question is a NATS request with a JSON body on [contracts.AskSubject]; any one worker answers it, beside
// its jobs. An answer is JSON, or a micro service's error.

const (
	// turns is how many questions one worker answers at once.
	turns = 4
	// answerTime bounds one answer.
	answerTime = 2 * time.Minute
)

// endpoint is one thing that workers can be asked.
type endpoint struct {
	name string // of its subject
	// read checks a question, and returns what answers it.
	read func(body []byte) (answer, error)
}

// answer is what becomes of a question: what it returns is sent as JSON.
type answer func(ctx context.Context) (any, error)

// endpoints are all of them.
func (c *Consumer) endpoints() []endpoint {
	return []endpoint{
		{"check", question(c.answerCheck)},
		{"links", question(c.answerLinks)},
	}
}

// question reads questions of one kind.
func question[Q, A any](reply func(context.Context, Q) (A, error)) func([]byte) (answer, error) {
	return func(body []byte) (answer, error) {
		var q Q
		if len(body) > contracts.MaxRequestBytes {
			return nil, contracts.Reject(contracts.InvalidQuestion, "the question has %d bytes, the limit is %d", len(body), contracts.MaxRequestBytes)
		}
		if err := contracts.DecodeStrict(body, &q); err != nil {
			return nil, contracts.Reject(contracts.InvalidQuestion, "the question: %w", err)
		}
		return func(ctx context.Context) (any, error) { return reply(ctx, q) }, nil
	}
}

func (c *Consumer) answerCheck(ctx context.Context, q contracts.CheckQuestion) (contracts.Check, error) {
	t, err := c.tenants.Get(ctx, q.Tenant)
	if err != nil {
		return contracts.Check{}, err
	}
	if q.Next {
		if t.Destination.NextExternalID == "" {
			return contracts.Check{}, contracts.Reject(contracts.InvalidQuestion, "no rotation of the external ID of tenant %s is under way", q.Tenant)
		}
		t.Destination.ExternalID = t.Destination.NextExternalID
	}
	found := c.check(ctx, t)
	if !q.Next {
		if err := c.keep(ctx, t, found); err != nil {
			c.cfg.Log.Warn().Err(err).Str("tenant", q.Tenant).Msg("what a check found could not be kept")
		}
	}
	return found, nil
}

// desk is where questions arrive.
type desk struct {
	c     *Consumer
	turns chan struct{}

	mu     sync.Mutex
	closed bool
	tally  map[string]tally // by endpoint
	busy   sync.WaitGroup
}

// tally is what the service's statistics say of an endpoint besides the library's own, which end where an answer begins.
type tally struct {
	Answered int     `json:"answered"`
	Failed   int     `json:"failed"`  // with an error
	Seconds  float64 `json:"seconds"` // all of them took
}

// offer is the workers' service, until ctx is done; then it waits for the answers that are under way. A worker that
// cannot offer it works its jobs off all the same.
func (c *Consumer) offer(ctx context.Context) {
	if c.nc == nil {
		return
	}
	d := &desk{c: c, turns: make(chan struct{}, turns), tally: map[string]tally{}}
	service, err := d.addService()
	if err != nil {
		c.cfg.Log.Warn().Err(err).Msg("this worker cannot be asked anything")
		return
	}
	for _, e := range c.endpoints() {
		if err := service.AddEndpoint(e.name, d.handler(e), micro.WithEndpointSubject(contracts.AskSubject(e.name))); err != nil {
			c.cfg.Log.Warn().Err(err).Str("question", e.name).Msg("this worker cannot be asked one thing")
		}
	}
	<-ctx.Done()
	_ = service.Stop() // fails only when there is no connection, and nobody can ask
	d.close()
}

// addService makes the service. Its version has to be a semantic one, which a build's need not be.
func (d *desk) addService() (micro.Service, error) {
	c := d.c
	cfg := micro.Config{
		Name: contracts.ServiceName, Version: c.cfg.Version, QueueGroup: contracts.WorkersName,
		Description: "asks one of the workers about a tenant",
		Metadata:    map[string]string{"worker": c.cfg.Worker, "version": c.cfg.Version},
		ErrorHandler: func(_ micro.Service, err *micro.NATSError) {
			c.cfg.Log.Warn().Err(err).Msg("this worker may not hear some of the questions")
		},
		StatsHandler: func(e *micro.Endpoint) any {
			d.mu.Lock()
			defer d.mu.Unlock()
			return d.tally[e.Name]
		},
	}
	service, err := micro.AddService(c.nc, cfg)
	if errors.Is(err, micro.ErrConfigValidation) {
		cfg.Version = "0.0.0"
		service, err = micro.AddService(c.nc, cfg)
	}
	return service, err
}

// handler takes questions of one kind. It never waits: while it did, nobody would hear the next one.
func (d *desk) handler(e endpoint) micro.HandlerFunc {
	return func(req micro.Request) {
		reply, err := e.read(req.Data())
		if err == nil {
			err = d.begin(func() { d.send(req.Reply(), e.name, reply) })
		}
		if err != nil {
			code, text := problem(err)
			_ = req.Error(code, text, nil)
		}
	}
}

// busyError is a worker's that cannot answer now.
type busyError string

func (e busyError) Error() string { return string(e) }

// begin runs f beside the others, if there is room.
func (d *desk) begin(f func()) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return busyError("this worker is stopping")
	}
	select {
	case d.turns <- struct{}{}:
	default:
		return busyError(fmt.Sprintf("this worker answers %d questions already", turns))
	}
	d.busy.Go(func() {
		defer func() { <-d.turns }()
		f()
	})
	return nil
}

// close waits for what is under way.
func (d *desk) close() {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.busy.Wait()
}

// send answers. It outlives the handler, so it does not use the handler's request.
func (d *desk) send(to, name string, reply answer) {
	ctx, cancel := context.WithTimeout(d.c.jobs, answerTime)
	defer cancel()
	ctx, span := tracer().Start(ctx, "answer "+name)
	m, began := nats.NewMsg(to), time.Now()
	got, err := reply(ctx)
	if err == nil {
		m.Data, err = json.Marshal(got)
	}
	endStep(span, err)
	d.count(name, time.Since(began), err)
	if err != nil {
		code, text := problem(err)
		m.Header.Set(micro.ErrorCodeHeader, code)
		m.Header.Set(micro.ErrorHeader, text)
		d.c.cfg.Log.Info().Err(err).Str("question", name).Msg("a question could not be answered")
	}
	if err := d.c.nc.PublishMsg(m); err != nil {
		d.c.cfg.Log.Warn().Err(err).Str("question", name).Msg("an answer could not be sent")
	}
}

func (d *desk) count(name string, took time.Duration, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	t := d.tally[name]
	if t.Seconds += took.Seconds(); err == nil {
		t.Answered++
	} else {
		t.Failed++
	}
	d.tally[name] = t
}

// problem is an error as a micro service tells it.
func problem(err error) (code, text string) {
	if r, ok := contracts.AsRejection(err); ok {
		return string(r.Code), oneLine(r.Err.Error())
	}
	if _, ok := errors.AsType[busyError](err); ok {
		return contracts.AnswerUnavailable, err.Error()
	}
	return contracts.AnswerFailed, oneLine(err.Error())
}

// What becomes of questions that no worker has answered.
var (
	// ErrNobodyAnswers says that no worker listens, or that none has answered in time.
	ErrNobodyAnswers = errors.New("no worker answers")
	// ErrMayNotAsk says that NATS does not let us ask.
	ErrMayNotAsk = errors.New("NATS does not let this user ask the workers")
)

// AskCheck asks a worker to try a tenant's destination, with the next external ID of a rotation if next is true. It waits
// for the answer, a few minutes at most. The error may be a [contracts.Rejection], [ErrNobodyAnswers] or [ErrMayNotAsk].
func AskCheck(ctx context.Context, nc *nats.Conn, tenant string, next bool) (contracts.Check, error) {
	return ask[contracts.Check](ctx, nc, "check", contracts.CheckQuestion{Tenant: tenant, Next: next})
}

// ask asks until a worker has room to answer.
func ask[A any](ctx context.Context, nc *nats.Conn, name string, question any) (a A, err error) {
	body, err := json.Marshal(question)
	if err != nil {
		return a, fmt.Errorf("ask for %s: %w", name, err)
	}
	patience, cancel := context.WithTimeoutCause(ctx, answerTime+30*time.Second, ErrNobodyAnswers)
	defer cancel()
	for {
		m, err := exchange(patience, nc, contracts.AskSubject(name), body)
		if err != nil {
			return a, fmt.Errorf("ask for %s: %w", name, err)
		}
		code, text := m.Header.Get(micro.ErrorCodeHeader), m.Header.Get(micro.ErrorHeader)
		switch {
		case code == "":
			if err := json.Unmarshal(m.Data, &a); err != nil {
				return a, fmt.Errorf("ask for %s: the answer: %w", name, err)
			}
			return a, nil
		case code == contracts.AnswerUnavailable:
			pause(patience, 500*time.Millisecond)
		case slices.Contains(contracts.Codes(), contracts.Code(code)):
			return a, contracts.Reject(contracts.Code(code), "%s", text)
		default:
			return a, fmt.Errorf("ask for %s: the worker says %s: %s", name, code, text)
		}
	}
}

// exchange sends one question, and waits for its answer.
func exchange(ctx context.Context, nc *nats.Conn, subject string, body []byte) (*nats.Msg, error) {
	ctx, cancel := untilRefused(ctx, nc, ErrMayNotAsk, subject)
	defer cancel()
	m, err := nc.RequestWithContext(ctx, subject, body)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return nil, fmt.Errorf("%w: %w", ErrNobodyAnswers, err)
	case err != nil && ctx.Err() != nil:
		return nil, context.Cause(ctx)
	}
	return m, err
}
