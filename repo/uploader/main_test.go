package uploader

import (
	"context"
	"fmt"
	"os"
	"testing"

	"go.opentelemetry.io/otel"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.uber.org/goleak"

	testbucket "github.com/snapfleet/snapfleet/test/bucket"
)

// server is the one S3 and STS of this process; tests keep apart by bucket, role and user.
var server *testbucket.Server

// spans is every span of this process: the tracer provider can be set once.
var spans = tracetest.NewSpanRecorder()

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	otel.SetTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)))
	dir, err := os.MkdirTemp("", "uploader-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	server, err = testbucket.Start(context.Background(), testbucket.Config{Dir: dir})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if err := server.Close(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if err := goleak.Find(testbucket.LeftBehind()...); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}
