package main

import (
	"io"
	stdlog "log"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// mostConnections is how many connections to the probes are open at once. Probes and scrapes need a handful.
const mostConnections = 64

// probeServer answers probes and scrapes in bounded memory, however many clients connect and however slowly they read.
// A connection is for one request. Where one more than [mostConnections] is opened, the oldest is closed: a probe is
// always answered.
func probeServer(handler http.Handler) *http.Server {
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second, WriteTimeout: 15 * time.Second,
		IdleTimeout: 5 * time.Second, MaxHeaderBytes: 16 << 10, ErrorLog: stdlog.New(io.Discard, "", 0),
	}
	server.SetKeepAlivesEnabled(false)
	var mu sync.Mutex
	var open []net.Conn // the oldest first
	server.ConnState = func(conn net.Conn, state http.ConnState) {
		mu.Lock()
		defer mu.Unlock()
		switch state {
		case http.StateNew:
			if open = append(open, conn); len(open) > mostConnections {
				_ = open[0].Close()
				open = open[1:]
			}
		case http.StateClosed, http.StateHijacked:
			if i := slices.Index(open, conn); i >= 0 {
				open = slices.Delete(open, i, i+1)
			}
		}
	}
	return server
}
