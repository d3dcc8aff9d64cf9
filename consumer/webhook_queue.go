package consumer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/snapfleet/snapfleet/contracts"
)

// poster posts what is published to the streams that a webhook tells of. Each stream has one durable consumer, which
// all workers with a webhook share: an event is acknowledged when the receiver has said that it has it, and comes again
// otherwise, here or elsewhere. It takes nothing from the jobs but a few goroutines.
type poster struct {
	hook   *Webhook
	log    zerolog.Logger
	queues []pull
	posts  metric.Int64Counter
	late   metric.Float64Histogram
}

// postsAtOnce is how many posts of one stream are under way in one worker.
const postsAtOnce = 4

// openPoster opens the consumers. The first worker with a webhook makes them, and what was told before is not told again.
func openPoster(ctx context.Context, nc *nats.Conn, js jetstream.JetStream, hook *Webhook, log zerolog.Logger) (*poster, error) {
	p := &poster{hook: hook, log: log}
	m := otel.Meter(scope)
	p.posts, _ = m.Int64Counter("snapfleet.webhook.posts", metric.WithDescription("Posts of events, by result: accepted, refused, unanswered; and events that were given up."), metric.WithUnit("{post}"))
	p.late, _ = m.Float64Histogram("snapfleet.webhook.delay", metric.WithDescription("From the publishing of an outcome or a notice to its acceptance by the webhook's receiver."), metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 14400, 86400, 259200))
	for _, result := range []string{"accepted", "refused", "unanswered", "given_up"} {
		p.posts.Add(ctx, 0, labels("result", result))
	}
	for _, stream := range []string{contracts.OutcomeStream, contracts.NoticeStream} {
		q, err := ensureWebhook(ctx, js, stream, 2*hook.cfg.Timeout)
		if err != nil {
			return nil, fmt.Errorf("consumer %s of stream %s: %w", contracts.WebhookName, stream, notSetUp(err))
		}
		p.queues = append(p.queues, pull{nc, q})
	}
	return p, nil
}

// ensureWebhook opens a stream's consumer, or makes it. ackWait is what this worker needs; another one may need more.
func ensureWebhook(ctx context.Context, js jetstream.JetStream, stream string, ackWait time.Duration) (jetstream.Consumer, error) {
	want := jetstream.ConsumerConfig{
		Durable: contracts.WebhookName, Description: "the webhook of the fleet",
		DeliverPolicy: jetstream.DeliverNewPolicy, AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait,
		MaxDeliver: -1, MaxAckPending: 10_000, // what waits to be posted again is counted, too
	}
	q, err := js.Consumer(ctx, stream, contracts.WebhookName)
	switch {
	case errors.Is(err, jetstream.ErrConsumerNotFound):
		q, err = js.CreateConsumer(ctx, stream, want)
		if errors.Is(err, jetstream.ErrConsumerExists) { // another worker's was faster, and needs something else
			q, err = js.Consumer(ctx, stream, contracts.WebhookName)
		}
	case err == nil && q.CachedInfo().Config.AckWait < ackWait:
		have := q.CachedInfo().Config
		have.AckWait = ackWait
		q, err = js.UpdateConsumer(ctx, stream, have)
	}
	return q, err
}

// run posts until ctx is done. What is under way then is given back.
func (p *poster) run(ctx context.Context) {
	var feeds sync.WaitGroup
	for _, q := range p.queues {
		feeds.Go(func() { p.feed(ctx, q) })
	}
	feeds.Wait()
	p.hook.client.CloseIdleConnections()
}

// feed takes a free slot first and an event second, as [Consumer.feed] does.
func (p *poster) feed(ctx context.Context, q pull) {
	var busy sync.WaitGroup
	defer busy.Wait()
	slots := make(chan struct{}, postsAtOnce)
	broken := false
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		m, err := q.next(ctx)
		if ctx.Err() != nil {
			if m != nil {
				_ = m.Nak(0)
			}
			return
		}
		switch {
		case err != nil && !broken:
			p.log.Warn().Err(err).Msg("the webhook's events cannot be read, trying on")
		case err == nil && broken:
			p.log.Info().Msg("the webhook's events can be read again")
		}
		broken = err != nil
		if m == nil {
			<-slots
			if err != nil {
				pause(ctx, time.Second)
			}
			continue
		}
		busy.Go(func() {
			defer func() { <-slots }()
			p.tell(ctx, *m)
		})
	}
}

// tell posts one event, and settles it.
func (p *poster) tell(ctx context.Context, m delivered) {
	e, err := p.hook.event(m.Subject(), m.Data(), m.Published(), m.Header())
	if err != nil { // nobody else can make an event of it either
		p.log.Error().Err(err).Msg("not an event: the webhook leaves it out")
		p.settle(ctx, func(ctx context.Context) error { return m.Term(ctx, "not an event") })
		return
	}
	answer, err := p.post(ctx, e, m)
	if ctx.Err() != nil {
		_ = m.Nak(0) // the worker stops: somebody else's, at once
		return
	}
	line := func(l *zerolog.Event) *zerolog.Event {
		return l.Err(err).Int("status", answer.Status).Str("event", e.ID()).Str("type", e.Type()).Str("about", e.Subject()).Uint64("posts", m.Delivered())
	}
	result := "refused"
	switch {
	case err != nil:
		result = "unanswered"
	case answer.Accepted():
		// From here on the receiver has the event. If the ack is lost, it gets it again, under the same id.
		p.count(ctx, "accepted")
		p.late.Record(ctx, max(0, time.Since(m.Published()).Seconds()))
		line(p.log.Debug()).Msg("event posted")
		p.settle(ctx, m.Ack)
		return
	}
	p.count(ctx, result)
	if p.hook.over(time.Since(m.Published()), m.Delivered()) {
		p.count(ctx, "given_up")
		line(p.log.Error()).Msg("event given up: the webhook's receiver has not taken it for three days")
		p.settle(ctx, func(ctx context.Context) error { return m.Term(ctx, "given up") })
		return
	}
	delay := p.hook.delay(m.Delivered(), answer.RetryAfter, rand.Float64())
	level, what := zerolog.WarnLevel, "the webhook's receiver has not taken an event: it is posted again"
	if answer.refused() {
		level, what = zerolog.ErrorLevel, "the webhook's receiver refuses an event, which is its own fault or the configuration's: it is posted again all the same"
	}
	line(p.log.WithLevel(level)).Dur("delay", delay).Msg(what)
	_ = m.Nak(delay)
}

// refused reports whether the receiver says that it does not want the event, now or later.
func (a Answer) refused() bool {
	return a.Status >= 300 && a.Status < 500 && a.Status != 408 && a.Status != 425 && a.Status != 429
}

func (p *poster) count(ctx context.Context, result string) {
	p.posts.Add(ctx, 1, labels("result", result))
}

// post is one post with its span: a trace of its own, because it may be days after the job's, and linked to that.
func (p *poster) post(ctx context.Context, e event.Event, m delivered) (a Answer, err error) {
	options := []trace.SpanStartOption{
		trace.WithNewRoot(), trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(
			attribute.String("http.request.method", "POST"), attribute.String("server.address", p.hook.host),
			attribute.String("cloudevents.event_id", e.ID()), attribute.String("cloudevents.event_type", e.Type()), attribute.String("cloudevents.event_subject", e.Subject()),
			attribute.Int64("http.request.resend_count", int64(min(m.Delivered(), 1<<62))-1),
		),
	}
	if job := trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), m.Header())); job.IsValid() {
		options = append(options, trace.WithLinks(trace.Link{SpanContext: job, Attributes: []attribute.KeyValue{attribute.String("snapfleet.link", "job")}}))
	}
	ctx, span := tracer().Start(ctx, "post event", options...)
	defer span.End()
	a, err = p.hook.post(ctx, e)
	switch {
	case err != nil:
		span.SetStatus(codes.Error, firstLine(err))
	default:
		span.SetAttributes(attribute.Int("http.response.status_code", a.Status))
		if !a.Accepted() {
			span.SetStatus(codes.Error, "")
		}
	}
	return a, err
}

// settle tells the queue. If it cannot be told, the event comes again.
func (p *poster) settle(ctx context.Context, tell func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
	defer cancel()
	if err := tell(ctx); err != nil {
		p.log.Warn().Err(err).Msg("an event was settled, and the queue did not hear it: it is posted again")
	}
}
