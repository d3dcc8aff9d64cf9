package consumer

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/snapfleet/snapfleet/test/world"
)

// TestConnectBuffersNothing: an ack that is sent while the broker is away must fail, and not fire minutes later.
func TestConnectBuffersNothing(t *testing.T) {
	t.Parallel()
	server, err := world.StartNATS(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer server.Stop()
	away := make(chan struct{})
	nc, err := Connect(server.URL(), nats.ReconnectWait(time.Hour), nats.DisconnectErrHandler(func(*nats.Conn, error) { close(away) }))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	server.Stop()
	<-away
	if err := nc.Publish("ack", nil); err == nil {
		t.Error("what was sent without a connection is kept for later")
	}
	if !nc.IsReconnecting() {
		t.Error("it has given up")
	}
}
