package main

import (
	"io"
	"time"

	"github.com/rs/zerolog"
	"go.opentelemetry.io/otel/trace"

	"github.com/snapfleet/snapfleet/contracts"
)

// logger writes events to w: JSON for collectors, text for people. An event with a context in it carries
// that context's trace id, so that the log and the trace of a job find each other. Durations are in seconds.
func (f logFlags) logger(w io.Writer, terminal bool) zerolog.Logger {
	level, err := zerolog.ParseLevel(f.LogLevel)
	if err != nil { // the flag is an enum
		level = zerolog.InfoLevel
	}
	if f.LogFormat == "text" || f.LogFormat == "auto" && terminal {
		w = zerolog.ConsoleWriter{Out: w, TimeFormat: time.TimeOnly, NoColor: !terminal || !colorsWanted()}
	}
	zerolog.DurationFieldUnit = time.Second
	zerolog.ErrorMarshalFunc = shortError
	return zerolog.New(w).Level(level).Hook(traceHook{}).With().Timestamp().Logger()
}

// maxLoggedError is the largest text of an error in one event, in bytes: a store or a database may answer with megabytes.
const maxLoggedError = 8 << 10

// shortError is how an event shows an error.
func shortError(err error) any { return contracts.CutText(err.Error(), maxLoggedError) }

// traceHook adds trace_id and span_id to events that know their context.
type traceHook struct{}

// Run implements zerolog.Hook.
func (traceHook) Run(e *zerolog.Event, _ zerolog.Level, _ string) {
	if span := trace.SpanContextFromContext(e.GetCtx()); span.IsValid() {
		e.Str("trace_id", span.TraceID().String()).Str("span_id", span.SpanID().String())
	}
}
