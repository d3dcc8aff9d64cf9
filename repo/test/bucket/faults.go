package bucket

import (
	"encoding/xml"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Fault disturbs the calls that match. Every failure exists in two kinds, and Apply is what tells them
// apart: it failed, or it failed but took effect.
type Fault struct {
	// Match chooses the calls, by operation, bucket, key, part number ... It is asked before anything is
	// done, one call at a time, and must be quick and not call the server. Nil: every call of S3 and STS.
	Match func(Call) bool
	// Skip lets that many matching calls pass undisturbed first; Times is how many are disturbed after
	// that. 0: all that follow.
	Skip, Times int
	// Apply carries the request out, and disturbs only what is answered.
	Apply bool
	// Delay and Hold stop the call before it is carried out or, with Apply, before it is answered: for a
	// time, and until the channel is closed. Remove and Close release it, too. The client may be gone by
	// then: the request is carried out all the same, as a late packet would be.
	Delay time.Duration
	Hold  <-chan struct{}
	// Flip turns over one bit in the middle of the request's body before it is carried out. S3 only.
	Flip bool
	// Reply replaces the answer. The zero Reply leaves the real one, and the request is carried out.
	Reply Reply
}

// Reply is what a disturbed call is answered with. At most one of Status, Lost, Cut and Flip is set.
type Reply struct {
	// Status and Code make an error in AWS's XML: 503 and "SlowDown". A Status of 200 with a Code is
	// what CompleteMultipartUpload answers when it fails late.
	Status  int
	Code    string
	Message string // for people; empty: the code
	// Header goes with Status: X-Amz-Bucket-Region, Location ...
	Header map[string]string
	// Lost resets the connection instead of answering. On a connection that was used before, net/http
	// repeats a GET or HEAD by itself then, once on another connection: with Times 1 nobody notices.
	Lost bool
	// Cut sends the real answer's header and about that many bytes of its body, then ends the
	// connection. It implies Apply. S3 only.
	Cut int64
	// Flip turns over one bit in the middle of the real answer's body. It implies Apply. S3 only.
	Flip bool
}

// Injected is a fault in place.
type Injected struct {
	// Reached is closed when the first call is disturbed, before it is stopped by Delay or Hold.
	Reached <-chan struct{}

	fault   Fault
	reached chan struct{}
	removed chan struct{}
	set     *faults

	// guarded by set.mu
	seen, hits int
	gone       bool
}

// Hits is how many calls were disturbed so far.
func (i *Injected) Hits() int {
	i.set.mu.Lock()
	defer i.set.mu.Unlock()
	return i.hits
}

// Remove takes the fault away and lets go of the calls that it holds. It may be called again.
func (i *Injected) Remove() {
	i.set.mu.Lock()
	defer i.set.mu.Unlock()
	i.set.remove(i)
}

type faults struct {
	mu     sync.Mutex
	active []*Injected
}

// Inject puts a fault in place until it is removed. Where several match a call, the one that was injected
// first has it.
func (s *Server) Inject(f Fault) *Injected {
	f.Apply = f.Apply || f.Reply.Cut > 0 || f.Reply.Flip
	reached := make(chan struct{})
	i := &Injected{Reached: reached, fault: f, reached: reached, removed: make(chan struct{}), set: &s.faults}
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	s.faults.active = append(s.faults.active, i)
	return i
}

// take finds the fault for a call and counts it. Nil: leave it alone.
func (f *faults) take(c Call) *Injected {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, i := range f.active {
		if i.fault.Match != nil && !i.fault.Match(c) {
			continue
		}
		i.seen++
		if i.seen <= i.fault.Skip || i.fault.Times > 0 && i.hits >= i.fault.Times {
			continue
		}
		if i.hits++; i.hits == 1 {
			close(i.reached)
		}
		return i
	}
	return nil
}

func (f *faults) clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.active) > 0 {
		f.remove(f.active[0])
	}
}

func (f *faults) remove(i *Injected) {
	if i.gone {
		return
	}
	i.gone = true
	close(i.removed)
	for n, other := range f.active {
		if other == i {
			f.active = append(f.active[:n], f.active[n+1:]...)
			return
		}
	}
}

// pause waits as the fault says, or until the fault is removed.
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

func (r Reply) replaces() bool { return r.Status != 0 || r.Lost }

func (r Reply) message() string {
	if r.Message != "" {
		return r.Message
	}
	return r.Code
}

// s3Error is an error as S3 writes it.
func s3Error(code, message, resource string) []byte {
	type body struct {
		XMLName                            xml.Name `xml:"Error"`
		Code, Message, Resource, RequestID string
	}
	b, err := xml.Marshal(body{Code: code, Message: message, Resource: resource, RequestID: "0000000000000000"})
	if err != nil {
		panic("bucket: four strings always marshal: " + err.Error())
	}
	return append([]byte(xml.Header), b...)
}

// Rot turns over one bit of an object where it lies, behind the gateway's back: nothing that S3 tells of the
// object changes.
func (s *Server) Rot(bucket, key string, at int64) error {
	root, err := os.OpenRoot(filepath.Join(s.dir, "objects", bucket))
	if err != nil {
		return fmt.Errorf("bucket: let %s/%s rot: %w", bucket, key, err)
	}
	defer root.Close()
	f, err := root.OpenFile(key, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("bucket: let %s/%s rot: %w", bucket, key, err)
	}
	b := make([]byte, 1)
	_, err = f.ReadAt(b, at)
	if err == nil {
		b[0] ^= 1
		_, err = f.WriteAt(b, at)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("bucket: let byte %d of %s/%s rot: %w", at, bucket, key, err)
	}
	return nil
}
