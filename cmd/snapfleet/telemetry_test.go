package main

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
)

// TestTraceExporters: what the OTEL_ variables mean, and what is ignored with a warning because it cannot be meant.
func TestTraceExporters(t *testing.T) {
	const (
		exporter, endpoint, traces = "OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
		protocol, disabled         = "OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_SDK_DISABLED"
		collector                  = "http://collector:4318"
	)
	for name, c := range map[string]struct {
		env     map[string]string
		want    []string
		grpc    bool
		ignored []string
	}{
		"nothing":                    {},
		"an endpoint":                {env: map[string]string{endpoint: collector}, want: []string{"otlp"}},
		"an endpoint of traces":      {env: map[string]string{traces: "https://collector/v1/traces"}, want: []string{"otlp"}},
		"disabled":                   {env: map[string]string{endpoint: collector, disabled: "TRUE"}},
		"disabled, and an exporter":  {env: map[string]string{exporter: "otlp", disabled: "true"}},
		"not disabled":               {env: map[string]string{endpoint: collector, disabled: "false"}, want: []string{"otlp"}},
		"perhaps disabled":           {env: map[string]string{endpoint: collector, disabled: "1"}, want: []string{"otlp"}, ignored: []string{disabled}},
		"no scheme":                  {env: map[string]string{endpoint: "collector:4318"}, ignored: []string{endpoint, "collector:4318", "http://collector:4318"}},
		"an address without scheme":  {env: map[string]string{endpoint: "10.0.0.1:4318"}, ignored: []string{endpoint}},
		"another scheme":             {env: map[string]string{traces: "tcp://collector:4318"}, ignored: []string{traces}},
		"no host":                    {env: map[string]string{endpoint: "http://"}, ignored: []string{endpoint}},
		"no scheme, and a right one": {env: map[string]string{endpoint: "collector:4318", traces: collector}, want: []string{"otlp"}, ignored: []string{endpoint}},
		"no scheme in gRPC":          {env: map[string]string{endpoint: "collector:4317", protocol: "grpc"}, want: []string{"otlp"}, grpc: true},
		"another protocol":           {env: map[string]string{endpoint: collector, protocol: "http/json"}, want: []string{"otlp"}, ignored: []string{protocol, "http/protobuf and grpc"}},
		"two exporters":              {env: map[string]string{exporter: "otlp, console"}, want: []string{"otlp", "console"}},
		"none":                       {env: map[string]string{exporter: "none", endpoint: collector}},
		"an unknown exporter":        {env: map[string]string{exporter: "jaeger"}, ignored: []string{exporter, `"jaeger"`, "otlp, console and none"}},
		"one unknown of two":         {env: map[string]string{exporter: "zipkin,console"}, want: []string{"console"}, ignored: []string{`"zipkin"`}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, v := range []string{exporter, endpoint, traces, protocol, disabled, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"} {
				t.Setenv(v, c.env[v])
			}
			names, grpc, ignored := traceExporters()
			if !slices.Equal(names, c.want) || grpc != c.grpc || (len(ignored) > 0) != (c.ignored != nil) || len(ignored) > 1 {
				t.Fatalf("%q, gRPC %t, ignored %q", names, grpc, ignored)
			}
			for _, text := range c.ignored {
				if !strings.Contains(ignored[0], text) {
					t.Errorf("no %q in %q", text, ignored[0])
				}
			}
			if len(ignored) > 0 && strings.Contains(ignored[0], "=") && os.Getenv(c.ignored[0]) != "" {
				t.Errorf("the SDK reads %s all the same", c.ignored[0])
			}
		})
	}
}

// TestLossIsSaidOncePerPeriod, with how much was lost since, and what is left at the end.
func TestLossIsSaidOncePerPeriod(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var said []int64
		l := &throttle{what: "traces are lost", warn: func(_ string, count int64, err error) {
			if err == nil {
				t.Error("it does not say why")
			}
			said = append(said, count)
		}}
		for range 100 {
			l.add(3, errors.New("refused"))
			time.Sleep(warnPeriod / 50)
		}
		l.flush()
		l.flush()
		if want := []int64{3, 150, 147}; !slices.Equal(said, want) {
			t.Errorf("said %v, want %v", said, want)
		}
	})
}

// TestSDKSaysItInTheLog: what the SDK would print, and the spans that it drops in silence.
func TestSDKSaysItInTheLog(t *testing.T) {
	t.Parallel()
	var said []string
	warn := func(what string, count int64, err error) {
		said = append(said, strings.Join([]string{what, err.Error()}, ": "))
	}
	sink := &sdkLog{losses: &throttle{what: "traces are lost", warn: warn}, others: &throttle{what: "other", warn: warn}}
	log := logr.New(sink)
	log.V(8).Info("exporting spans", "count", 5, "total_dropped", uint32(0))
	log.V(4).Info("created")
	log.V(8).Info("exporting spans", "count", 5, "total_dropped", uint32(7))
	log.Error(errors.New("no port"), "parse url", "input", "x")
	if want := []string{"traces are lost: spans end faster than they can be sent", "other: parse url: no port"}; !slices.Equal(said, want) || sink.dropped != 7 {
		t.Errorf("%q, %d dropped", said, sink.dropped)
	}
}

// TestLostTracesAreCounted: a warning counts what a collector did not take, and what cannot be meant is warned of in the log.
func TestLostTracesAreCounted(t *testing.T) {
	for _, v := range []string{"OTEL_TRACES_EXPORTER", "OTEL_SDK_DISABLED", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"} {
		t.Setenv(v, "")
	}
	t.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:1")
	lost := int64(0)
	traces, err := startTraces(t.Context(), func(what string, count int64, err error) {
		if what == "traces are lost" && err != nil {
			lost += count
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		_, span := traces.traces.Tracer("test").Start(t.Context(), "a job")
		span.End()
	}
	_ = traces.close()
	if lost != 3 {
		t.Errorf("%d spans are said to be lost, want 3", lost)
	}
	r := snapfleet(t, []string{"OTEL_EXPORTER_OTLP_ENDPOINT=collector:4318", "OTEL_TRACES_EXPORTER=jaeger"}, "worker", "--log-format=json", "--listen=")
	warnings := 0
	for line := range strings.Lines(r.err) {
		if strings.Contains(line, "OTEL_") {
			warnings++
			if !strings.HasPrefix(line, `{"level":"warn"`) {
				t.Errorf("no JSON: %s", line)
			}
		}
	}
	if warnings != 2 {
		t.Error(r)
	}
}
