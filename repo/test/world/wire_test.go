package world_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"

	"github.com/snapfleet/snapfleet/test/world"
)

// TestWireToNATS loses one message before it arrives, and one after, and tells whose they were.
func TestWireToNATS(t *testing.T) {
	t.Parallel()
	n, err := world.StartNATS(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer n.Stop()
	var wire world.Wire
	defer wire.Close()
	relay, err := wire.NATS("one", n.URL())
	if err != nil {
		t.Fatal(err)
	}
	direct, err := nats.Connect(n.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer direct.Close()
	heard, err := direct.SubscribeSync("s.*")
	if err != nil {
		t.Fatal(err)
	}
	back := make(chan struct{}, 4)
	nc, err := nats.Connect(relay.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond), nats.ReconnectHandler(func(*nats.Conn) { back <- struct{}{} }))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	for _, tt := range []struct {
		apply bool
		want  string
	}{{false, "next"}, {true, "lost"}} {
		fault := wire.Inject(world.Fault{
			Match: func(m world.Message) bool { return m.ToServer && m.Subject == "s.a" && string(m.Body) == "lost" },
			Times: 1, Apply: tt.apply, Lost: true,
		})
		if err := nc.PublishMsg(&nats.Msg{Subject: "s.a", Data: []byte("lost"), Header: nats.Header{"A": {"b"}}}); err != nil {
			t.Fatal(err)
		}
		<-back
		if err := nc.Publish("s.b", []byte("next")); err != nil {
			t.Fatal(err)
		}
		m, err := heard.NextMsg(30 * time.Second)
		if err != nil || string(m.Data) != tt.want {
			t.Errorf("apply %v: heard %v, %v, want %s", tt.apply, m, err, tt.want)
		}
		if fault.Hits() != 1 || fault.Via() != "one" {
			t.Errorf("apply %v: %d hits, via %q", tt.apply, fault.Hits(), fault.Via())
		}
		fault.Remove()
	}
}

// TestWireToPostgres stops a statement, and cuts a COPY in its middle.
func TestWireToPostgres(t *testing.T) {
	t.Parallel()
	var wire world.Wire
	defer wire.Close()
	relay, err := wire.Postgres("one", database(t, "wire"))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), relay.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	hold := make(chan struct{})
	fault := wire.Inject(world.Fault{Match: func(m world.Message) bool { return strings.Contains(string(m.Body), "SELECT 41 + 1") }, Times: 1, Hold: hold})
	answer := make(chan int, 1)
	go func() {
		var n int
		_ = conn.QueryRow(t.Context(), "SELECT 41 + 1").Scan(&n)
		answer <- n
	}()
	<-fault.Reached
	if len(answer) > 0 {
		t.Error("it was not stopped")
	}
	close(hold)
	if n := <-answer; n != 42 {
		t.Errorf("the answer is %d", n)
	}
	wire.Inject(world.Fault{Match: func(m world.Message) bool { return m.Kind == "d" }, Skip: 100, Times: 1, Lost: true})
	var rows bytes.Buffer
	if _, err := conn.PgConn().CopyTo(t.Context(), &rows, "COPY (SELECT generate_series(1, 1000)) TO STDOUT"); err == nil || bytes.Count(rows.Bytes(), []byte("\n")) > 100 {
		t.Errorf("%d rows, %v", bytes.Count(rows.Bytes(), []byte("\n")), err)
	}
}
