package consumer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/snapfleet/snapfleet/contracts"
)

// Connect opens a connection with the settings that the protocol needs: it never gives up reconnecting, also when the
// server refuses the login for a while, and it never buffers what is sent while it is disconnected, because an ack or a
// heartbeat that fires minutes later is a lie.
func Connect(url string, opts ...nats.Option) (*nats.Conn, error) {
	nc, err := nats.Connect(url, append([]nats.Option{
		nats.Name("snapfleet"),
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(), // else two refused logins in a row close the connection for good
		nats.ReconnectBufSize(-1),
		nats.PingInterval(20 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.ReconnectWait(time.Second),
	}, opts...)...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	rightsOf(nc)
	return nc, nil
}

// JetStream opens the API of a domain, or of the account's own JetStream when the domain is empty.
func JetStream(nc *nats.Conn, domain string) (js jetstream.JetStream, err error) {
	if domain == "" {
		js, err = jetstream.New(nc)
	} else {
		js, err = jetstream.NewWithDomain(nc, domain)
	}
	if err != nil {
		return nil, fmt.Errorf("open JetStream: %w", err)
	}
	return js, nil
}

// pull is one consumer that the fleet shares.
type pull struct {
	nc       *nats.Conn
	consumer jetstream.Consumer
}

// nextWait is how long one pull waits.
const nextWait = 10 * time.Second

// next waits, nextWait at most, and gives up as soon as ctx is done. A message that is on its way at that very moment
// comes again after the ack wait; nobody has begun it.
func (p pull) next(ctx context.Context) (*delivered, error) { return p.nextWithin(ctx, nextWait) }

func (p pull) nextWithin(ctx context.Context, wait time.Duration) (*delivered, error) {
	round, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	m, err := p.consumer.Next(jetstream.FetchContext(round))
	switch {
	case ctx.Err() != nil && err != nil:
		return nil, nil
	case errors.Is(err, nats.ErrTimeout), errors.Is(err, jetstream.ErrNoMessages), errors.Is(err, context.DeadlineExceeded):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("next request: %w", err)
	}
	return p.take(m)
}

// now does not wait.
func (p pull) now() (*delivered, error) {
	batch, err := p.consumer.FetchNoWait(1)
	if err != nil {
		return nil, fmt.Errorf("next request: %w", err)
	}
	for m := range batch.Messages() {
		return p.take(m)
	}
	if err := batch.Error(); err != nil && !errors.Is(err, nats.ErrTimeout) && !errors.Is(err, jetstream.ErrNoMessages) {
		return nil, fmt.Errorf("next request: %w", err)
	}
	return nil, nil
}

// some does not wait, and takes what is there, n messages at most.
func (p pull) some(n int) (all []*delivered, err error) {
	batch, err := p.consumer.FetchNoWait(n)
	if err != nil {
		return nil, fmt.Errorf("next request: %w", err)
	}
	for m := range batch.Messages() {
		if d, err := p.take(m); err == nil { // what is no delivery of JetStream's is nothing to settle
			all = append(all, d)
		}
	}
	if err := batch.Error(); err != nil && len(all) == 0 && !errors.Is(err, nats.ErrTimeout) && !errors.Is(err, jetstream.ErrNoMessages) {
		return nil, fmt.Errorf("next request: %w", err)
	}
	return all, nil
}

func (p pull) take(m jetstream.Msg) (*delivered, error) {
	meta, err := m.Metadata()
	if err != nil {
		return nil, fmt.Errorf("next request: %w", err)
	}
	return &delivered{p.nc, m, meta}, nil
}

// queues are where work comes from: what somebody asks for, and what schedules make. Only one goroutine takes from them.
type queues struct {
	requests, runs pull
	// every is how often runs are looked for while nothing else comes. A request does not wait for that.
	every time.Duration

	turn int
	busy bool // the last look found something
	// held are requests that were taken at once, because the one before them could not be read.
	held []*delivered
	// unreadable: the last request could not be read.
	unreadable bool
}

// openQueues opens what [Setup] has made. The shorter ack wait of both is told.
func openQueues(ctx context.Context, nc *nats.Conn, js jetstream.JetStream, every time.Duration) (q *queues, ackWait time.Duration, err error) {
	q = &queues{every: min(every, nextWait)}
	for stream, p := range map[string]*pull{contracts.RequestStream: &q.requests, contracts.ScheduleStream: &q.runs} {
		c, err := js.Consumer(ctx, stream, contracts.WorkersName)
		if err != nil {
			return nil, 0, fmt.Errorf("open consumer %s of %s: %w", contracts.WorkersName, stream, err)
		}
		*p = pull{nc, c}
		if wait := c.CachedInfo().Config.AckWait; ackWait == 0 || wait < ackWait {
			ackWait = wait
		}
	}
	return q, ackWait, nil
}

// Next looks into both, the one and the other first by turns, so that neither holds up the other; then it waits for a
// request.
func (q *queues) Next(ctx context.Context) (message, error) {
	// The connection may have come back at a server with another configuration.
	if err := checkPayload(q.requests.nc); err != nil {
		q.busy = false
		return nil, err
	}
	m, err := q.next(ctx)
	q.busy = m != nil
	if m == nil {
		return nil, err
	}
	return *m, nil
}

// manyAtOnce is how many requests are taken at once when the last one could not be read. They take no slot, and other
// requests should not wait behind them.
const manyAtOnce = 100

func (q *queues) next(ctx context.Context) (m *delivered, err error) {
	if len(q.held) == 0 && q.unreadable {
		if q.held, err = q.requests.some(manyAtOnce); err != nil {
			return nil, err
		}
	}
	if len(q.held) > 0 {
		m, q.held = q.held[0], q.held[1:]
	} else {
		m, err = q.nextOfBoth(ctx)
	}
	q.unreadable = m != nil && unreadable(m)
	return m, err
}

// Return gives back what is held: it would wait inside a worker that is busy.
func (q *queues) Return() {
	for _, m := range q.held {
		_ = m.Nak(0)
	}
	q.held = nil
}

func (q *queues) nextOfBoth(ctx context.Context) (*delivered, error) {
	if q.turn++; q.busy && q.turn%2 == 0 {
		if m, err := q.requests.now(); m != nil || err != nil {
			return m, err
		}
	}
	if m, err := q.runs.now(); m != nil || err != nil {
		return m, err
	}
	return q.requests.nextWithin(ctx, q.every)
}

// delivered is a message of the queue.
type delivered struct {
	nc   *nats.Conn
	msg  jetstream.Msg
	meta *jetstream.MsgMetadata
}

func (d delivered) Data() []byte             { return d.msg.Data() }
func (d delivered) Subject() string          { return d.msg.Subject() }
func (d delivered) Header() contracts.Header { return contracts.Header(d.msg.Headers()) }
func (d delivered) Published() time.Time     { return d.meta.Timestamp }
func (d delivered) Sequence() uint64         { return d.meta.Sequence.Stream }
func (d delivered) Delivered() uint64        { return d.meta.NumDelivered }
func (d delivered) InProgress() error        { return d.msg.InProgress() }

func (d delivered) Tenant() string {
	return d.msg.Subject()[strings.LastIndexByte(d.msg.Subject(), '.')+1:]
}

func (d delivered) Nak(delay time.Duration) error {
	if delay <= 0 {
		return d.msg.Nak()
	}
	return d.msg.NakWithDelay(delay)
}

func (d delivered) Ack(ctx context.Context) error {
	err := d.msg.DoubleAck(ctx)
	if errors.Is(err, jetstream.ErrMsgAlreadyAckd) {
		return nil
	}
	return err
}

// Term asks for a reply, which the library's own method does not.
func (d delivered) Term(ctx context.Context, reason string) error {
	_, err := d.nc.RequestWithContext(ctx, d.msg.Reply(), []byte("+TERM "+reason))
	return err
}

// bucketCells is a key-value bucket as [cells].
type bucketCells struct {
	js jetstream.JetStream
	kv jetstream.KeyValue
}

func openCells(ctx context.Context, js jetstream.JetStream, bucket string) (bucketCells, error) {
	kv, err := js.KeyValue(ctx, bucket)
	if err != nil {
		return bucketCells{}, fmt.Errorf("open bucket %s: %w", bucket, notSetUp(err))
	}
	return bucketCells{js, kv}, nil
}

// readTimeout bounds one read: a question that was under way when the broker restarted is never answered.
const readTimeout = 5 * time.Second

func (b bucketCells) Get(ctx context.Context, key string) ([]byte, uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	e, err := b.kv.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) || errors.Is(err, jetstream.ErrKeyDeleted) {
		return nil, 0, errNoCell
	}
	if err != nil {
		return nil, 0, err
	}
	return e.Value(), e.Revision(), nil
}

func (b bucketCells) Create(ctx context.Context, key string, value []byte) (rev uint64, err error) {
	err = b.permitted(ctx, key, func(ctx context.Context) (err error) {
		rev, err = b.kv.Create(ctx, key, value)
		return err
	})
	return rev, swapError(err)
}

func (b bucketCells) Update(ctx context.Context, key string, value []byte, revision uint64) (rev uint64, err error) {
	err = b.permitted(ctx, key, func(ctx context.Context) (err error) {
		rev, err = b.kv.Update(ctx, key, value, revision)
		return err
	})
	return rev, swapError(err)
}

// permitted writes, and returns a [NoRight] as soon as NATS says that this user may not. The server sends no answer then.
func (b bucketCells) permitted(ctx context.Context, key string, write func(context.Context) error) error {
	ctx, cancel := untilRefused(ctx, b.js.Conn(), errRefused, "$KV."+b.kv.Bucket()+"."+key)
	defer cancel()
	err := write(ctx)
	if refusal, ok := AsNoRight(context.Cause(ctx)); ok && err != nil {
		return refusal
	}
	return err
}

// errRefused is what a missing right is called where its subject says the rest.
var errRefused = errors.New("refused")

// swapError recognises a lost compare-and-swap. The server's code differs between single and replicated
// streams; the library's two sentinels cover both.
func swapError(err error) error {
	if errors.Is(err, jetstream.ErrKeyExists) || errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
		return fmt.Errorf("%w: %w", errSwapped, err)
	}
	return err
}

func (b bucketCells) Put(ctx context.Context, key string, value []byte) error {
	_, err := b.kv.Put(ctx, key, value)
	return err
}

func (b bucketCells) Delete(ctx context.Context, key string) error { return b.kv.Purge(ctx, key) }

func (b bucketCells) DeleteIf(ctx context.Context, key string, revision uint64) error {
	return swapError(b.kv.Purge(ctx, key, jetstream.LastRevision(revision)))
}

func (b bucketCells) Keys(ctx context.Context, filter string) ([]string, error) {
	var keys []string
	for c, err := range b.newest(ctx, filter) {
		if err != nil {
			return nil, err
		}
		keys = append(keys, c.key)
	}
	return keys, ctx.Err()
}

func (b bucketCells) Changes(ctx context.Context, filter string, seen func(string, uint64)) error {
	w, err := b.kv.Watch(ctx, filter, jetstream.UpdatesOnly(), jetstream.MetaOnly())
	if err != nil {
		return err
	}
	defer func() { _ = w.Stop() }()
	for {
		select {
		case e, ok := <-w.Updates():
			if !ok {
				return watchEnded(ctx)
			}
			if e != nil {
				seen(e.Key(), e.Revision())
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func (b bucketCells) Follow(ctx context.Context, filter string, seen func(string, []byte), all func()) error {
	w, err := b.kv.Watch(ctx, filter)
	if err != nil {
		return err
	}
	defer func() { _ = w.Stop() }()
	for {
		select {
		case e, ok := <-w.Updates():
			switch {
			case !ok:
				return watchEnded(ctx)
			case e == nil:
				all()
			case e.Operation() == jetstream.KeyValuePut:
				seen(e.Key(), e.Value())
			default:
				seen(e.Key(), nil)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// watchEnded is why there are no more updates: whoever watches has had enough, which may close them before he sees that
// himself, or they ended without that.
func watchEnded(ctx context.Context) error {
	if ctx.Err() != nil {
		return nil
	}
	return errors.New("the watch ended")
}

// streams is the ledger.
type streams struct {
	js       jetstream.JetStream
	outcomes jetstream.Stream
}

func openLedger(ctx context.Context, js jetstream.JetStream) (streams, error) {
	outcomes, err := js.Stream(ctx, contracts.OutcomeStream)
	if err != nil {
		return streams{}, fmt.Errorf("open stream %s: %w", contracts.OutcomeStream, notSetUp(err))
	}
	return streams{js, outcomes}, nil
}

func (s streams) Publish(ctx context.Context, o contracts.Outcome) (_ contracts.Outcome, err error) {
	ctx, span := startSend(ctx, contracts.OutcomeSubjects)
	defer func() { endStep(span, err) }()
	body, err := json.Marshal(o)
	if err != nil {
		return o, err
	}
	subject := contracts.OutcomeSubject(o.Tenant, o.Job)
	_, err = s.js.PublishMsg(ctx, &nats.Msg{Subject: subject, Data: body, Header: traceHeader(ctx)}, jetstream.WithExpectLastSequencePerSubject(0))
	if err == nil {
		return o, nil
	}
	// Refused because one stands, or unanswered: what stands decides.
	stands, readErr := s.Outcome(ctx, o.Tenant, o.Job)
	if readErr != nil {
		return o, fmt.Errorf("%w (and reading the outcome: %w)", err, readErr)
	}
	if stands == nil {
		return o, err
	}
	return *stands, nil
}

// Endings listens as a plain subscriber: what is published to a stream is heard by whoever listens.
func (s streams) Endings(ctx context.Context, ended func(string)) error {
	prefix := strings.TrimSuffix(contracts.OutcomeSubjects, "*.*")
	sub, err := s.js.Conn().Subscribe(contracts.OutcomeSubjects, func(m *nats.Msg) { ended(strings.TrimPrefix(m.Subject, prefix)) })
	if err != nil {
		return err
	}
	<-ctx.Done()
	return sub.Unsubscribe()
}

// Outcome reads a job's outcome from the stream's leader.
func (s streams) Outcome(ctx context.Context, tenant, job string) (*contracts.Outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	m, err := s.outcomes.GetLastMsgForSubject(ctx, contracts.OutcomeSubject(tenant, job))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, notSetUp(err)
	}
	var o contracts.Outcome
	if err := json.Unmarshal(m.Data, &o); err != nil {
		return nil, fmt.Errorf("the outcome of job %s: %w", job, err)
	}
	return &o, nil
}

func (s streams) Notify(ctx context.Context, n contracts.Notice) (err error) {
	ctx, span := startSend(ctx, contracts.NoticeSubjects)
	defer func() { endStep(span, err) }()
	n.Version = contracts.NoticeVersion
	body, err := json.Marshal(n)
	if err != nil {
		return err
	}
	if _, err := s.js.PublishMsg(ctx, &nats.Msg{Subject: contracts.NoticeSubject(n.Tenant, n.Kind), Data: body, Header: traceHeader(ctx)}); err != nil {
		return fmt.Errorf("tell of tenant %s that %s: %w", n.Tenant, n.Kind, notSetUp(err))
	}
	return nil
}
