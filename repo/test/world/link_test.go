package world_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/snapfleet/snapfleet/test/world"
)

// echo is a server that answers every line with itself, and a link to it.
func echo(t *testing.T) *world.Link {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for c, err := l.Accept(); err == nil; c, err = l.Accept() {
			go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
		}
	}()
	link, err := world.NewLink(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = link.Close() })
	return link
}

// client is one end of a link.
type client struct {
	t *testing.T
	net.Conn
	lines *bufio.Reader
}

func dial(t *testing.T, l *world.Link) client {
	t.Helper()
	c, err := net.Dial("tcp", l.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return client{t, c, bufio.NewReader(c)}
}

func (c client) say(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		c.t.Fatal(err)
	}
}

func (c client) hears(want string) {
	c.t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
	if got, err := c.lines.ReadString('\n'); got != want {
		c.t.Errorf("it hears %q, %v, and not %q", got, err, want)
	}
}

func (c client) hearsNothing() {
	c.t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if got, err := c.lines.ReadString('\n'); !errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Errorf("it hears %q, %v", got, err)
	}
}

func TestLinkDeliversLate(t *testing.T) {
	t.Parallel()
	l := echo(t)
	c := dial(t, l)
	c.say("one\n")
	c.hears("one\n")
	l.Cut()
	c.say("two\n")
	c.hearsNothing()
	late := dial(t, l)
	late.say("three\n")
	late.hearsNothing()
	l.Mend()
	c.hears("two\n")
	late.hears("three\n")
}

func TestLinkIsCutAtAText(t *testing.T) {
	t.Parallel()
	for _, passed := range []bool{false, true} {
		l := echo(t)
		c := dial(t, l)
		c.say("secret\n") // before it was asked for
		c.hears("secret\n")
		cut := l.CutAt("secret", passed)
		c.say("before\n")
		c.hears("before\n")
		c.say("sec")
		c.say("ret\n")
		<-cut
		l.Mend()
		got, err := c.lines.ReadString('\n')
		if got != "secret\n" {
			t.Errorf("it hears %q, %v", got, err)
		}
		c.say("secret\n") // it counts once
		c.hears("secret\n")
	}
}

func TestTornLink(t *testing.T) {
	t.Parallel()
	l := echo(t)
	c := dial(t, l)
	c.say("one\n")
	c.hears("one\n")
	l.Tear()
	_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
	if got, err := c.lines.ReadString('\n'); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("it hears %q, %v", got, err)
	}
	l.Mend()
	again := dial(t, l)
	again.say("two\n")
	again.hears("two\n")
}
