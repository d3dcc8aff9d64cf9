package world_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/snapfleet/snapfleet/test/world"
)

// A server of its own is this program, started once more.
func init() { world.ServeNATS() }

// TestNATSIsKilled kills the server where it stands: what it has acknowledged is there when it starts again.
func TestNATSIsKilled(t *testing.T) {
	t.Parallel()
	n, err := world.StartNATS(t.TempDir(), world.AsProcess())
	if err != nil {
		t.Fatal(err)
	}
	defer n.Stop()
	back := make(chan struct{}, 1)
	nc, err := nats.Connect(n.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond),
		nats.ReconnectHandler(func(*nats.Conn) { back <- struct{}{} }))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "s.1", []byte("kept")); err != nil {
		t.Fatal(err)
	}
	n.Kill()
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-back
	s, err := js.Stream(t.Context(), "S")
	if err != nil {
		t.Fatal(err)
	}
	if msg, err := s.GetLastMsgForSubject(t.Context(), "s.1"); err != nil || string(msg.Data) != "kept" {
		t.Errorf("after it was killed: %v, %v", msg, err)
	}
}

// TestNATSIsFull: what does not fit is refused, and fits once there is space again.
func TestNATSIsFull(t *testing.T) {
	t.Parallel()
	n, err := world.StartNATS(t.TempDir(), world.WithStorage(1<<20))
	if err != nil {
		t.Fatal(err)
	}
	defer n.Stop()
	nc, err := nats.Connect(n.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	for i := 0; err == nil && i < 100; i++ {
		_, err = js.Publish(t.Context(), "s.1", make([]byte, 64<<10))
	}
	var refusal *jetstream.APIError
	if !errors.As(err, &refusal) || refusal.ErrorCode != 10023 {
		t.Fatalf("a full server says %v", err)
	}
	if err := s.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "s.1", []byte("fits")); err != nil {
		t.Error(err)
	}
}

func TestNATSLives(t *testing.T) {
	t.Parallel()
	n, err := world.StartNATS(t.TempDir(), world.WithMonitoring())
	if err != nil {
		t.Fatal(err)
	}
	defer n.Stop()
	// Nobody tells when a client is back, but the client.
	back := make(chan struct{}, 1)
	nc, err := nats.Connect(n.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond),
		nats.ReconnectHandler(func(*nats.Conn) { back <- struct{}{} }))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "s.1", []byte("kept")); err != nil {
		t.Fatal(err)
	}
	url := n.URL()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := n.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	if n.URL() != url {
		t.Errorf("moved from %s to %s", url, n.URL())
	}
	<-back
	s, err := js.Stream(ctx, "S")
	if err != nil {
		t.Fatal(err)
	}
	if msg, err := s.GetLastMsgForSubject(ctx, "s.1"); err != nil || string(msg.Data) != "kept" {
		t.Errorf("after the restart: %v, %v", msg, err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := client.Get(n.MonitoringURL() + "/jsz")
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if r.StatusCode != http.StatusOK {
		t.Errorf("monitoring answered %s", r.Status)
	}
	n.Stop()
}
