package world

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// NATS is a nats-server in this process, with JetStream on disk.
type NATS struct {
	opts   server.Options
	server *server.Server
}

// NATSOption changes how [StartNATS] starts.
type NATSOption func(*server.Options)

// WithMonitoring serves /varz, /jsz and the like on a free port.
func WithMonitoring() NATSOption {
	return func(o *server.Options) { o.HTTPHost, o.HTTPPort = "127.0.0.1", server.RANDOM_PORT }
}

// WithSync writes every message to the disk before it is acknowledged, as production does.
func WithSync() NATSOption {
	return func(o *server.Options) { o.SyncAlways = true }
}

// StartNATS starts a server that keeps its streams in dir.
func StartNATS(dir string, opts ...NATSOption) (*NATS, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("start NATS: %w", err)
	}
	n := &NATS{opts: server.Options{
		ServerName: "snapfleet-" + filepath.Base(dir), Host: "127.0.0.1", Port: server.RANDOM_PORT,
		JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true,
	}}
	for _, o := range opts {
		o(&n.opts)
	}
	if err := n.start(); err != nil {
		return nil, fmt.Errorf("start NATS: %w", err)
	}
	return n, nil
}

func (n *NATS) start() error {
	opts := n.opts // the server fills in its copy
	s, err := server.NewServer(&opts)
	if err != nil {
		return err
	}
	s.Start()
	if !s.ReadyForConnections(30 * time.Second) {
		s.Shutdown()
		s.WaitForShutdown()
		return errors.New("it did not accept a connection within 30s")
	}
	if !s.JetStreamEnabled() {
		s.Shutdown()
		s.WaitForShutdown()
		return fmt.Errorf("JetStream did not start in %s", n.opts.StoreDir)
	}
	n.server = s
	// From here on the ports are ours: a restart takes the same ones, so clients find the server again.
	if a, ok := s.Addr().(*net.TCPAddr); ok {
		n.opts.Port = a.Port
	}
	if a := s.MonitorAddr(); a != nil {
		n.opts.HTTPPort = a.Port
	}
	return nil
}

// URL is where clients connect to, nats://127.0.0.1:port.
func (n *NATS) URL() string { return "nats://127.0.0.1:" + strconv.Itoa(n.opts.Port) }

// MonitoringURL is http://127.0.0.1:port, or empty without [WithMonitoring].
func (n *NATS) MonitoringURL() string {
	if n.opts.HTTPPort <= 0 {
		return ""
	}
	return "http://127.0.0.1:" + strconv.Itoa(n.opts.HTTPPort)
}

// Server is the server itself, for tests that disturb it.
func (n *NATS) Server() *server.Server { return n.server }

// Restart stops the server and starts it again on the same port with the same streams.
func (n *NATS) Restart(ctx context.Context) error {
	n.Stop()
	// Somebody may have taken the port for a moment, as an outgoing connection's.
	for {
		err := n.start()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("restart NATS: %w: %w", context.Cause(ctx), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Stop ends the server and waits for it. It may be called again.
func (n *NATS) Stop() {
	n.server.Shutdown()
	n.server.WaitForShutdown()
}
