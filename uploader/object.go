package uploader

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/minio/crc64nvme"
	"golang.org/x/sync/errgroup"

	"github.com/snapfleet/snapfleet/contracts"
)

// object is one multipart upload under way: an io.Writer that sends its bytes off in parts while more are
// written. Parts have equal sizes but for the last, are numbered 1, 2, 3 in the order of the bytes, and
// leave in any order. Its methods are called from one goroutine.
type object struct {
	ctx       context.Context // the group's: done when a part has failed for good
	store     store
	group     *errgroup.Group // the parts under way
	free      chan []byte     // bounds memory and parallelism, and slows the writer down; see buffers
	partBytes int
	maxParts  int

	upload contracts.Upload // name and id
	size   int64
	parts  []*part
	cur    *part // the last of parts while it has room, else nil

	// full is told of each part when its last byte is written, and before it leaves. Nil: nobody is.
	full func(*part)

	batches batches       // the spans of the parts
	waited  time.Duration // until there was a buffer
}

// part is one part of an object. It leaves when it is full and owes nothing.
type part struct {
	number int // from 1
	offset int64

	// Owned by the object's writer until the part leaves.
	buf  []byte
	owes int // reservations not yet filled
	full bool

	// Set by the goroutine that uploads the part, read after the group's Wait.
	size  int64
	crc   uint64
	sent  contracts.Part
	there atomic.Bool // the store has acknowledged it: what stands above is set

	mark mark // set before the part leaves, if somebody asks; see trail
}

// buffers makes room for n buffers; each is allocated when it is first used, and grows to a part once.
func buffers(n int) chan []byte {
	free := make(chan []byte, n)
	for range n {
		free <- nil
	}
	return free
}

// Write implements io.Writer. It waits while every buffer is in use.
func (o *object) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		if err := o.room(); err != nil {
			return n, err
		}
		m := min(len(p), o.untilCut())
		o.fit(m)
		o.cur.buf = append(o.cur.buf, p[:m]...)
		o.size += int64(m)
		n, p = n+m, p[m:]
		if o.untilCut() == 0 {
			o.cut()
		}
	}
	return n, nil
}

// reserve appends n bytes that fill supplies later. The part they are in stays in memory until then,
// while the parts after it leave. n must divide the part size and the object's size so far.
func (o *object) reserve(n int) (fill func([]byte), err error) {
	if err := o.room(); err != nil {
		return nil, err
	}
	p, at := o.cur, len(o.cur.buf)
	if at%n != 0 || o.untilCut() < n {
		return nil, fmt.Errorf("reserve %d bytes at %d of %s: not on a border", n, o.size, o.upload.Name)
	}
	o.fit(n)
	p.buf = p.buf[:at+n]
	p.owes++
	o.size += int64(n)
	if o.untilCut() == 0 {
		o.cut()
	}
	return func(b []byte) {
		copy(p.buf[at:at+n], b)
		p.owes--
		o.release(p)
	}, nil
}

// firstBytes is what a part's buffer begins with. A small tenant's archive fits, and needs no part's worth of memory
// to be cleared for it; any other is copied once.
const firstBytes = 1 << 20

// fit makes sure that the current part's buffer takes n bytes more.
func (o *object) fit(n int) {
	buf := o.cur.buf
	if need := len(buf) + n; need > cap(buf) {
		size := o.partBytes
		if need <= firstBytes {
			size = min(size, firstBytes)
		}
		o.cur.buf = append(make([]byte, 0, size), buf...)
	}
}

// room makes sure that there is a current part. A current part always has space left.
func (o *object) room() error {
	if o.ctx.Err() != nil {
		return context.Cause(o.ctx)
	}
	if o.cur != nil {
		return nil
	}
	if len(o.parts) == o.maxParts {
		return tooLarge(o.upload.Name, o.maxParts)
	}
	buf, err := o.buffer()
	if err != nil {
		return err
	}
	o.cur = &part{number: len(o.parts) + 1, offset: o.size, buf: buf[:0]}
	o.parts = append(o.parts, o.cur)
	return nil
}

// buffer waits for one.
func (o *object) buffer() ([]byte, error) {
	select {
	case buf := <-o.free:
		return buf, nil
	default:
	}
	began := time.Now()
	defer func() { o.waited += time.Since(began) }()
	select {
	case buf := <-o.free:
		return buf, nil
	case <-o.ctx.Done():
		return nil, context.Cause(o.ctx)
	}
}

func tooLarge(name string, parts int) error {
	return contracts.Reject(contracts.VolumeTooLarge, "%s would need more than %d parts", name, parts)
}

// cut ends the current part.
func (o *object) cut() {
	if o.cur == nil {
		return
	}
	p := o.cur
	o.cur = nil
	p.full = true
	if o.full != nil {
		o.full(p)
	}
	o.release(p)
}

// untilCut is how many bytes may be written before a part is full.
func (o *object) untilCut() int {
	if o.cur == nil {
		return o.partBytes
	}
	return o.partBytes - len(o.cur.buf)
}

// release lets p leave, unless it has room left or still owes bytes.
func (o *object) release(p *part) {
	if !p.full || p.owes > 0 {
		return
	}
	ctx, sent := o.batches.leaves(o.ctx, p.number)
	o.group.Go(func() error {
		p.size = int64(len(p.buf))
		p.crc = crc64nvme.Checksum(p.buf)
		answer, err := o.store.put(ctx, o.upload, p.number, p.offset, p.buf, p.crc)
		sent(p.size, err)
		if err != nil {
			return err
		}
		p.sent = answer
		p.there.Store(true)
		o.free <- p.buf
		p.buf = nil
		return nil
	})
}

// receipt says what was uploaded. It is valid once the group's Wait has returned nil.
func (o *object) receipt() contracts.Upload {
	u := o.upload
	u.Size = o.size
	var crc uint64
	for _, p := range o.parts {
		crc = combine(crc, p.crc, p.size)
		u.Parts = append(u.Parts, p.sent)
	}
	u.CRC64NVME = crcText(crc)
	return u
}
