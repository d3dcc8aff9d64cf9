package world

import (
	"bytes"
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"text/template"
	"time"
)

//go:embed jaeger/jaeger.yaml
var jaegerYAML string

// jaegerPage is what it shows: its own user interface is not in its Go module.
//
//go:embed jaeger/index.html
var jaegerPage []byte

var jaegerConfig = template.Must(template.New("").Parse(jaegerYAML))

// Jaeger is a real one, which keeps traces in memory. `make bin/jaeger` builds its binary.
type Jaeger struct {
	ports jaegerPorts
	log   string // a file
	cmd   *exec.Cmd
	done  <-chan error
}

type jaegerPorts struct {
	OTLP, OTLPGRPC, Query, QueryGRPC int
	UI                               string // a folder
}

// StartJaeger starts the binary with a configuration and a log in dir, and returns when it takes traces.
func StartJaeger(ctx context.Context, binary, dir string) (*Jaeger, error) {
	binary, err := filepath.Abs(binary)
	if err != nil {
		return nil, err
	}
	ui := filepath.Join(dir, "ui")
	if err := os.MkdirAll(ui, 0o755); err != nil {
		return nil, fmt.Errorf("start Jaeger: %w", err)
	}
	if err := os.WriteFile(filepath.Join(ui, "index.html"), jaegerPage, 0o644); err != nil {
		return nil, fmt.Errorf("start Jaeger: %w", err)
	}
	var last error
	for range 3 { // another process may take a port before it does
		j := &Jaeger{log: filepath.Join(dir, "jaeger.log")}
		j.ports.UI = ui
		if last = j.start(binary, filepath.Join(dir, "jaeger.yaml")); last != nil {
			return nil, fmt.Errorf("start Jaeger: %w", last)
		}
		if last = j.ready(ctx); last == nil {
			return j, nil
		}
		j.Stop()
		if ctx.Err() != nil {
			break
		}
	}
	return nil, fmt.Errorf("start Jaeger: %w", last)
}

func (j *Jaeger) start(binary, config string) error {
	for _, port := range []*int{&j.ports.OTLP, &j.ports.OTLPGRPC, &j.ports.Query, &j.ports.QueryGRPC} {
		free, err := freePort()
		if err != nil {
			return err
		}
		*port = free
	}
	var text bytes.Buffer
	if err := jaegerConfig.Execute(&text, j.ports); err != nil {
		return err
	}
	if err := os.WriteFile(config, text.Bytes(), 0o644); err != nil {
		return err
	}
	log, err := os.Create(j.log)
	if err != nil {
		return err
	}
	defer log.Close() // it has it open, too
	j.cmd = exec.Command(binary, "--config="+config)
	j.cmd.Stdout, j.cmd.Stderr = log, log
	j.done, err = Spawn(j.cmd, syscall.SIGKILL)
	return err
}

// ready waits until both what takes traces and what shows them answer.
func (j *Jaeger) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("not ready within a minute"))
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for _, url := range []string{j.OTLP() + "/v1/traces", j.URL() + "/api/services"} {
		for !answers(ctx, url) {
			select {
			case err := <-j.done:
				return fmt.Errorf("it ended at its start: %w: %s", cmp.Or(err, errors.New("without an error")), j.lastWords())
			case <-ctx.Done():
				return fmt.Errorf("%w: %s", context.Cause(ctx), j.lastWords())
			case <-tick.C:
			}
		}
	}
	return nil
}

// answers reports whether somebody is there, whatever they say.
func answers(ctx context.Context, url string) bool {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return false
	}
	return answer.Body.Close() == nil
}

func (j *Jaeger) lastWords() string {
	said, err := os.ReadFile(j.log)
	if err != nil {
		return ""
	}
	return lastLines(said)
}

// Environ makes a process send its traces here.
func (j *Jaeger) Environ() []string {
	return []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + j.OTLP(), "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf", "OTEL_TRACES_EXPORTER=otlp", "OTEL_BSP_SCHEDULE_DELAY=200"}
}

// OTLP is where it takes traces, by HTTP.
func (j *Jaeger) OTLP() string { return fmt.Sprintf("http://127.0.0.1:%d", j.ports.OTLP) }

// URL is where it shows them, and answers questions.
func (j *Jaeger) URL() string { return fmt.Sprintf("http://127.0.0.1:%d", j.ports.Query) }

// Trace is where it shows a trace.
func (j *Jaeger) Trace(id string) string { return j.URL() + "/trace/" + id }

// Stop ends it. It may be called again.
func (j *Jaeger) Stop() {
	j.cmd.Process.Signal(syscall.SIGTERM) // it may have ended by now
	select {
	case <-j.done:
	case <-time.After(10 * time.Second):
		j.cmd.Process.Kill()
		<-j.done
	}
}
