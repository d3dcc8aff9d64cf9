package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// TestProbesAreAnsweredBesideIdleClients: connections that send nothing, or read nothing, are not kept, and a probe is
// answered all the same.
func TestProbesAreAnsweredBesideIdleClients(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := probeServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "alive") }))
	served := make(chan error)
	go func() { served <- server.Serve(listener) }()
	defer func() {
		_ = server.Close()
		<-served
	}()
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		return conn
	}
	probe := func() {
		conn := dial()
		defer conn.Close()
		fmt.Fprint(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		if err != nil || string(body) != "alive\n" || !response.Close {
			t.Fatalf("%q, close %t, %v", body, response.Close, err)
		}
	}
	const idle = 5 * mostConnections
	var clients []net.Conn
	for i := range idle {
		conn := dial()
		defer conn.Close()
		clients = append(clients, conn)
		if i%mostConnections == 0 {
			probe()
		}
	}
	probe()
	for i, conn := range clients[:idle-mostConnections] { // the server's end is closed
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Fatalf("client %d was sent something", i)
		} else if wait, ok := err.(net.Error); ok && wait.Timeout() {
			t.Fatalf("client %d of %d is still connected", i, idle)
		}
	}
	if server.ReadTimeout <= 0 || server.WriteTimeout <= 0 || server.IdleTimeout <= 0 || server.MaxHeaderBytes <= 0 {
		t.Errorf("a client may take as long, or send as much, as it likes: %+v", server)
	}
}
