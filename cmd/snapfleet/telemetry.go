package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.opentelemetry.io/contrib/processors/baggagecopy"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/exporters/stdout/stdouttrace"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"

	"github.com/snapfleet/snapfleet/consumer"
)

// telemetry is the process's traces and metrics. The packages below find both through OpenTelemetry's
// globals, and know nothing of where they go.
type telemetry struct {
	resource *resource.Resource
	traces   *trace.TracerProvider
	metrics  *metric.MeterProvider // nil unless asked for
	scrape   *prometheus.Registry  // what /metrics shows

	throttles []*throttle
}

// startTraces installs a tracer. It exports where the OTEL_ variables say; without them it still gives every
// job a trace id, which ties the lines of the log together.
//
// Each span of a job has its tenant and job, by the baggage that the job has, and so is found by them.
func startTraces(ctx context.Context, warn warning, who ...attribute.KeyValue) (*telemetry, error) {
	losses := &throttle{warn: warn, what: "traces are lost"}
	others := &throttle{warn: warn, what: "OpenTelemetry reports an error"}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { others.add(1, err) }))
	otel.SetLogger(logr.New(&sdkLog{losses: losses, others: others}))
	res, err := resource.New(ctx,
		resource.WithAttributes(attribute.String("service.name", "snapfleet"), attribute.String("service.version", buildVersion())),
		resource.WithAttributes(who...),
		resource.WithTelemetrySDK(), resource.WithHost(), resource.WithProcessPID(),
		resource.WithFromEnv()) // last: OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win
	if err != nil && !errors.Is(err, resource.ErrPartialResource) && !errors.Is(err, resource.ErrSchemaURLConflict) {
		return nil, fmt.Errorf("describe this process to OpenTelemetry: %w", err)
	}
	whose := baggagecopy.NewSpanProcessor(func(m baggage.Member) bool {
		return m.Key() == consumer.BaggageTenant || m.Key() == consumer.BaggageJob
	})
	opts := []trace.TracerProviderOption{trace.WithResource(res), trace.WithSpanProcessor(whose)}
	wanted, grpc, ignored := traceExporters()
	for _, why := range ignored {
		warn(why, 1, nil)
	}
	for _, name := range wanted {
		exporter, err := newExporter(ctx, name, grpc)
		if err != nil {
			return nil, fmt.Errorf("set up the traces that the OTEL_ variables ask for: %w", err)
		}
		opts = append(opts, trace.WithBatcher(&watchedExporter{exporter, losses}))
	}
	t := &telemetry{traces: trace.NewTracerProvider(opts...), resource: res, throttles: []*throttle{losses, others}}
	otel.SetTracerProvider(t.traces)
	otel.SetTextMapPropagator(propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}))
	return t, nil
}

func newExporter(ctx context.Context, name string, grpc bool) (trace.SpanExporter, error) {
	switch {
	case name == "console":
		return stdouttrace.New()
	case grpc:
		return otlptracegrpc.New(ctx)
	default:
		return otlptracehttp.New(ctx)
	}
}

// warning says what happened, how often since it was said last, and the last error, which may be nil.
type warning func(what string, count int64, err error)

// throttle says at once that something happens, and from then on once a period how often it did.
type throttle struct {
	warn warning
	what string

	mu    sync.Mutex
	said  time.Time
	count int64
	last  error
}

// warnPeriod is how often the same trouble is said.
const warnPeriod = 5 * time.Minute

func (t *throttle) add(n int64, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.count += n
	t.last = err
	if t.said.IsZero() || time.Since(t.said) >= warnPeriod {
		t.say()
	}
}

// flush says what was not said yet.
func (t *throttle) flush() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.count > 0 {
		t.say()
	}
}

func (t *throttle) say() {
	t.warn(t.what, t.count, t.last)
	t.said, t.count = time.Now(), 0
}

// watchedExporter counts the spans that could not be exported.
type watchedExporter struct {
	trace.SpanExporter
	losses *throttle
}

// ExportSpans implements trace.SpanExporter.
func (w *watchedExporter) ExportSpans(ctx context.Context, spans []trace.ReadOnlySpan) error {
	if err := w.SpanExporter.ExportSpans(ctx, spans); err != nil {
		w.losses.add(int64(len(spans)), err)
	}
	return nil // it is said
}

// sdkLog takes the lines that the SDK would write to standard error, in a form of its own.
type sdkLog struct {
	losses, others *throttle

	mu      sync.Mutex
	dropped int64 // spans for which the SDK's queue had no room
}

// The SDK's levels: 1 is a warning, 4 information, 8 for the SDK's developers.
const sdkWarning = 1

// Init implements logr.LogSink.
func (*sdkLog) Init(logr.RuntimeInfo) {}

// Enabled implements logr.LogSink.
func (*sdkLog) Enabled(int) bool { return true }

// Info implements logr.LogSink.
func (l *sdkLog) Info(level int, message string, pairs ...any) {
	if level <= sdkWarning {
		l.others.add(1, errors.New(message))
	}
	for i := 0; i+1 < len(pairs); i += 2 {
		total, ok := pairs[i+1].(uint32)
		if pairs[i] != "total_dropped" || !ok {
			continue
		}
		l.mu.Lock()
		lost := int64(total) - l.dropped
		l.dropped = max(l.dropped, int64(total))
		l.mu.Unlock()
		if lost > 0 {
			l.losses.add(lost, errors.New("spans end faster than they can be sent"))
		}
	}
}

// Error implements logr.LogSink.
func (l *sdkLog) Error(err error, message string, _ ...any) {
	l.others.add(1, fmt.Errorf("%s: %w", message, err))
}

// WithValues implements logr.LogSink.
func (l *sdkLog) WithValues(...any) logr.LogSink { return l }

// WithName implements logr.LogSink.
func (l *sdkLog) WithName(string) logr.LogSink { return l }

// startTelemetry is a worker's: it installs a meter, too, which Prometheus scrapes.
func startTelemetry(ctx context.Context, worker string, warn warning) (*telemetry, error) {
	t, err := startTraces(ctx, warn, attribute.String("service.instance.id", worker))
	if err != nil {
		return nil, err
	}
	t.scrape = prometheus.NewRegistry()
	t.scrape.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	reader, err := otelprometheus.New(otelprometheus.WithRegisterer(t.scrape), otelprometheus.WithoutScopeInfo())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set up metrics: %w", err), t.close())
	}
	t.metrics = metric.NewMeterProvider(metric.WithReader(reader), metric.WithResource(t.resource))
	otel.SetMeterProvider(t.metrics)
	return t, nil
}

// flushTime bounds what the end of a process waits for a collector that does not answer.
const flushTime = 5 * time.Second

// close sends what is left. It has its own time, because what ends a process has usually been cancelled.
func (t *telemetry) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), flushTime)
	defer cancel()
	err := t.traces.Shutdown(ctx)
	if t.metrics != nil {
		err = errors.Join(err, t.metrics.Shutdown(ctx))
	}
	for _, t := range t.throttles {
		t.flush()
	}
	if err != nil {
		return fmt.Errorf("flush telemetry: %w", err)
	}
	return nil
}
