package world

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A Wire is the way from processes to servers, on which a test can disturb single messages. Each process has a
// [Relay] of its own, so it is known whose message it is; the faults are asked about the messages of all of them.
type Wire struct {
	mu     sync.Mutex
	faults []*Injected
	relays []*Relay
}

// Message is one message of a conversation, on its way.
type Message struct {
	Via      string // the relay's name
	ToServer bool
	// Kind is NATS's verb (PUB, MSG; also for those with headers), or the type of PostgreSQL's message (Q, P, d),
	// which is "startup" for the first.
	Kind           string
	Subject, Reply string // of NATS
	Body           []byte // without headers
}

// Fault disturbs the messages that match. As with a store's faults there are two kinds of every failure, and Apply
// tells them apart: the message never arrived, or it did, and nothing more is heard of it.
type Fault struct {
	// Match chooses the messages. It is asked about one at a time and must be quick.
	Match func(Message) bool
	// Skip lets that many matching messages pass first; Times is how many are disturbed then, 0: all that follow.
	Skip, Times int
	// Apply hands the message over first, and keeps back what the other side says after that.
	Apply bool
	// Delay and Hold stop the conversation: for a time, and until the channel is closed. Its client may be gone by
	// then: the message arrives all the same, as a late packet would.
	Delay time.Duration
	Hold  <-chan struct{}
	// Lost ends the conversation, after the stop.
	Lost bool
}

// Injected is a fault in place.
type Injected struct {
	// Reached is closed when the first message is disturbed, before it is stopped.
	Reached <-chan struct{}

	wire    *Wire
	fault   Fault
	reached chan struct{}
	removed chan struct{}

	// guarded by wire.mu
	seen, hits int
	first      Message
	gone       bool
}

// Inject puts a fault in place until it is removed. Where several match, the one that was injected first has it.
func (w *Wire) Inject(f Fault) *Injected {
	reached := make(chan struct{})
	i := &Injected{Reached: reached, wire: w, fault: f, reached: reached, removed: make(chan struct{})}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults = append(w.faults, i)
	return i
}

// Hits is how many messages were disturbed so far, and Via whose the first of them was.
func (i *Injected) Hits() int {
	i.wire.mu.Lock()
	defer i.wire.mu.Unlock()
	return i.hits
}

// Via is the relay of the first message that was disturbed.
func (i *Injected) Via() string {
	i.wire.mu.Lock()
	defer i.wire.mu.Unlock()
	return i.first.Via
}

// Remove takes the fault away and lets go of what it holds. It may be called again.
func (i *Injected) Remove() {
	i.wire.mu.Lock()
	defer i.wire.mu.Unlock()
	if i.gone {
		return
	}
	i.gone = true
	close(i.removed)
	for n, other := range i.wire.faults {
		if other == i {
			i.wire.faults = append(i.wire.faults[:n], i.wire.faults[n+1:]...)
			return
		}
	}
}

// take finds the fault for a message and counts it. Nil: leave it alone.
func (w *Wire) take(m Message) *Injected {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, i := range w.faults {
		if !i.fault.Match(m) {
			continue
		}
		i.seen++
		if i.seen <= i.fault.Skip || i.fault.Times > 0 && i.hits >= i.fault.Times {
			continue
		}
		if i.hits++; i.hits == 1 {
			i.first = m
			close(i.reached)
		}
		return i
	}
	return nil
}

// pause waits as the fault says, or until it is removed.
func (i *Injected) pause() {
	if i.fault.Delay > 0 {
		t := time.NewTimer(i.fault.Delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-i.removed:
		}
	}
	if i.fault.Hold != nil {
		select {
		case <-i.fault.Hold:
		case <-i.removed:
		}
	}
}

// A Relay takes the connections of one process to one server.
type Relay struct {
	wire     *Wire
	name     string
	upstream string
	read     func(r *bufio.Reader, first bool, m *Message) (raw []byte, err error)
	url      string
	listener net.Listener

	mu     sync.Mutex
	open   map[net.Conn]bool
	closed bool
	all    sync.WaitGroup
}

// NATS relays to the server at a URL, which is spoken to without TLS.
func (w *Wire) NATS(name, server string) (*Relay, error) { return w.relay(name, server, readNATS) }

// Postgres relays to the server at a URL, which is spoken to without TLS.
func (w *Wire) Postgres(name, server string) (*Relay, error) {
	return w.relay(name, server, readPostgres)
}

func (w *Wire) relay(name, server string, read func(*bufio.Reader, bool, *Message) ([]byte, error)) (*Relay, error) {
	u, err := url.Parse(server)
	if err != nil {
		return nil, fmt.Errorf("relay: %w", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("relay: %w", err)
	}
	r := &Relay{wire: w, name: name, upstream: u.Host, read: read, listener: l, open: map[net.Conn]bool{}}
	u.Host = l.Addr().String()
	r.url = u.String()
	r.all.Go(r.serve)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.relays = append(w.relays, r)
	return r, nil
}

// URL is the server's, but for the address, which is the relay's.
func (r *Relay) URL() string { return r.url }

// Close takes every fault away and ends every conversation.
func (w *Wire) Close() {
	w.mu.Lock()
	faults, relays := append([]*Injected(nil), w.faults...), w.relays
	w.mu.Unlock()
	for _, i := range faults {
		i.Remove()
	}
	for _, r := range relays {
		r.close()
	}
}

func (r *Relay) close() {
	_ = r.listener.Close()
	r.mu.Lock()
	r.closed = true
	for c := range r.open {
		_ = c.Close()
	}
	r.mu.Unlock()
	r.all.Wait()
}

func (r *Relay) serve() {
	for {
		client, err := r.listener.Accept()
		if err != nil {
			return // closed
		}
		r.all.Go(func() {
			server, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", r.upstream)
			if err != nil {
				_ = client.Close()
				return
			}
			r.carry(client, server)
		})
	}
}

// remember lets close end the connections. It reports whether there is still time.
func (r *Relay) remember(conns ...net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range conns {
		r.open[c] = true
	}
	return !r.closed
}

func (r *Relay) forget(conns ...net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
		delete(r.open, c)
	}
}

// carry is one conversation.
func (r *Relay) carry(client, server net.Conn) {
	defer r.forget(client, server)
	if !r.remember(client, server) {
		return
	}
	there := &direction{relay: r, toServer: true, from: client, to: server}
	back := &direction{relay: r, from: server, to: client}
	there.other, back.other = back, there
	var both sync.WaitGroup
	both.Go(there.run)
	both.Go(back.run)
	both.Wait()
}

// direction is one half of a conversation.
type direction struct {
	relay    *Relay
	toServer bool
	from, to net.Conn
	other    *direction
	gate     sync.Mutex // held while nothing may pass
}

// run carries messages until either side ends, which ends the other one, too.
func (d *direction) run() {
	in := bufio.NewReaderSize(d.from, 32<<10)
	for first := true; ; first = false {
		m := Message{Via: d.relay.name, ToServer: d.toServer}
		raw, err := d.relay.read(in, first, &m)
		if err == nil {
			err = d.pass(raw, m)
		}
		if err != nil {
			break
		}
	}
	d.end()
}

// errLost ends a conversation on purpose.
var errLost = fmt.Errorf("the conversation is lost")

func (d *direction) pass(raw []byte, m Message) error {
	i := d.relay.wire.take(m)
	switch {
	case i == nil:
		return d.send(raw)
	case !i.fault.Apply:
		i.pause()
		if i.fault.Lost {
			return errLost
		}
		return d.send(raw)
	}
	d.other.gate.Lock()
	defer d.other.gate.Unlock()
	if err := d.send(raw); err != nil {
		return err
	}
	i.pause()
	if i.fault.Lost {
		d.end()
		return errLost
	}
	return nil
}

func (d *direction) send(raw []byte) error {
	d.gate.Lock()
	defer d.gate.Unlock()
	_, err := d.to.Write(raw)
	return err
}

// end ends both sides. What was handed over arrives: the server sees an orderly end after it, and is read from until
// it has ended, too, because a connection that is closed with something unread is reset.
func (d *direction) end() {
	client, server := d.from, d.to
	if !d.toServer {
		client, server = server, client
	}
	_ = client.Close()
	if tcp, ok := server.(*net.TCPConn); ok {
		_ = tcp.CloseWrite()
	}
	_ = server.SetReadDeadline(time.Now().Add(5 * time.Second))
	if d.toServer {
		return // the other half still reads, and finds that nobody listens
	}
	_, _ = io.Copy(io.Discard, server)
}

// readNATS reads one message of either side.
func readNATS(r *bufio.Reader, _ bool, m *Message) ([]byte, error) {
	line, err := r.ReadBytes('\n')
	if err != nil {
		return nil, err
	}
	word := strings.Fields(string(line))
	if len(word) == 0 {
		return line, nil
	}
	m.Kind = strings.ToUpper(word[0])
	headers := 0
	switch m.Kind {
	case "HPUB", "HMSG":
		if headers, err = strconv.Atoi(word[len(word)-2]); err != nil {
			return nil, err
		}
		m.Kind = m.Kind[1:]
		word = append(word[:len(word)-2], word[len(word)-1])
	case "PUB", "MSG":
	default:
		return line, nil
	}
	size, err := strconv.Atoi(word[len(word)-1])
	if err != nil {
		return nil, err
	}
	m.Subject = word[1]
	if rest := word[2 : len(word)-1]; m.Kind == "PUB" && len(rest) == 1 || m.Kind == "MSG" && len(rest) == 2 {
		m.Reply = rest[len(rest)-1]
	}
	raw := append(line, make([]byte, size+len("\r\n"))...)
	if _, err := io.ReadFull(r, raw[len(line):]); err != nil {
		return nil, err
	}
	m.Body = raw[len(line)+headers : len(line)+size]
	return raw, nil
}

// readPostgres reads one message of either side.
func readPostgres(r *bufio.Reader, first bool, m *Message) ([]byte, error) {
	head := make([]byte, 5)
	if m.Kind = "startup"; !m.ToServer || !first {
		if _, err := io.ReadFull(r, head[:1]); err != nil {
			return nil, err
		}
		m.Kind = string(head[:1])
	}
	if _, err := io.ReadFull(r, head[1:]); err != nil {
		return nil, err
	}
	if m.Kind == "startup" {
		head = head[1:]
	}
	size := int(binary.BigEndian.Uint32(head[len(head)-4:])) - 4
	raw := append(head, make([]byte, size)...)
	if _, err := io.ReadFull(r, raw[len(head):]); err != nil {
		return nil, err
	}
	m.Body = raw[len(head):]
	return raw, nil
}
