package world

import (
	"bytes"
	"fmt"
	"net"
	"slices"
	"sync"
)

// A Link is the network between some clients and one server, and can be cut. While it is cut nothing passes in
// either direction and nobody is told: connections stay open, new ones are taken, and what was sent arrives once
// the link is mended, as late packets do. While it is torn, connections are reset.
type Link struct {
	to       string
	listener net.Listener
	around   sync.WaitGroup
	closing  chan struct{}

	mu    sync.Mutex
	whole chan struct{} // closed while bytes pass
	torn  bool
	trap  *trap
	ends  map[net.Conn]bool
}

// trap cuts the link when a client sends a text.
type trap struct {
	text   []byte
	passed bool
	sprung chan struct{}
}

// NewLink makes one to the server at an address.
func NewLink(to string) (*Link, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("link to %s: %w", to, err)
	}
	l := &Link{to: to, listener: listener, closing: make(chan struct{}), whole: make(chan struct{}), ends: map[net.Conn]bool{}}
	close(l.whole)
	l.around.Go(l.accept)
	return l, nil
}

// Address is where clients connect to, 127.0.0.1:port.
func (l *Link) Address() string { return l.listener.Addr().String() }

// Cut cuts the link.
func (l *Link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut()
}

func (l *Link) cut() {
	select {
	case <-l.whole:
		l.whole = make(chan struct{})
	default:
	}
}

// CutAt cuts the link when a client sends the text: before it has passed or, when passed is true, after it and
// before its answer. The channel is closed then. Only the last text counts, and it counts once.
func (l *Link) CutAt(text string, passed bool) (cut <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.trap = &trap{[]byte(text), passed, make(chan struct{})}
	return l.trap.sprung
}

// Spare takes back what CutAt said, if it has not come to it.
func (l *Link) Spare() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.trap = nil
}

// Tear resets all connections, and every new one until the link is mended.
func (l *Link) Tear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.torn = true
	for c := range l.ends {
		reset(c)
	}
}

// Mend lets everything pass again, beginning with what was sent meanwhile.
func (l *Link) Mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.torn = false
	select {
	case <-l.whole:
	default:
		close(l.whole)
	}
}

// Close takes the link away and waits until nothing is left of it.
func (l *Link) Close() error {
	l.mu.Lock()
	close(l.closing)
	for c := range l.ends {
		_ = c.Close()
	}
	err := l.listener.Close()
	l.mu.Unlock()
	l.around.Wait()
	return err
}

func (l *Link) accept() {
	for {
		client, err := l.listener.Accept()
		if err != nil {
			return // it was closed
		}
		server, err := net.Dial("tcp", l.to)
		if err != nil { // nobody listens there
			reset(client)
			continue
		}
		if !l.join(client, server) {
			reset(client)
			reset(server)
			continue
		}
		l.around.Go(func() { l.pump(client, server, l.listen) })
		l.around.Go(func() { l.pump(server, client, l.let) })
	}
}

// join takes a connection on, unless the link is torn.
func (l *Link) join(conns ...net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.closing:
		return false
	default:
	}
	if l.torn {
		return false
	}
	for _, c := range conns {
		l.ends[c] = true
	}
	return true
}

// pump carries bytes in one direction as long as let agrees, until either end is closed.
func (l *Link) pump(from, to net.Conn, let func(before, sent []byte) bool) {
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, c := range []net.Conn{from, to} {
			delete(l.ends, c)
			_ = c.Close()
		}
	}()
	var before []byte
	for chunk := make([]byte, 64<<10); ; {
		n, err := from.Read(chunk)
		if !let(before, chunk[:n]) {
			return
		}
		if _, wrong := to.Write(chunk[:n]); wrong != nil || err != nil {
			return
		}
		before = bytes.Clone(chunk[:n])
	}
}

// let waits until bytes may pass. It is false when the link is taken away.
func (l *Link) let(_, _ []byte) bool {
	l.mu.Lock()
	whole := l.whole
	l.mu.Unlock()
	select {
	case <-whole:
		return true
	case <-l.closing:
		return false
	}
}

// listen looks for the trap's text in what a client sends; it may come in two pieces.
func (l *Link) listen(before, sent []byte) bool {
	l.mu.Lock()
	t := l.trap
	if t == nil || !bytes.Contains(slices.Concat(before[max(0, len(before)-len(t.text)+1):], sent), t.text) {
		l.mu.Unlock()
		return l.let(before, sent)
	}
	l.trap = nil
	l.cut() // also where the text passes: its answer does not
	close(t.sprung)
	l.mu.Unlock()
	return t.passed || l.let(before, sent)
}

// reset makes the other end see an error, and not an end.
func reset(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}
