package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/contrib/processors/baggagecopy"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/baggage"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
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
}

// startTraces installs a tracer. It exports where the OTEL_ variables say; without them it still gives every
// job a trace id, which ties the lines of the log together.
//
// Each span of a job has its tenant and job, by the baggage that the job has, and so is found by them.
func startTraces(ctx context.Context, who ...attribute.KeyValue) (*telemetry, error) {
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
	if tracesWanted() {
		exporter, err := autoexport.NewSpanExporter(ctx)
		if err != nil {
			return nil, fmt.Errorf("set up the traces that the OTEL_ variables ask for: %w", err)
		}
		opts = append(opts, trace.WithBatcher(exporter))
	}
	t := &telemetry{traces: trace.NewTracerProvider(opts...), resource: res}
	otel.SetTracerProvider(t.traces)
	otel.SetTextMapPropagator(propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}))
	return t, nil
}

// startTelemetry is a worker's: it installs a meter, too, which Prometheus scrapes.
func startTelemetry(ctx context.Context, worker string) (*telemetry, error) {
	t, err := startTraces(ctx, attribute.String("service.instance.id", worker))
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
	if err != nil {
		return fmt.Errorf("flush telemetry: %w", err)
	}
	return nil
}
