package uploader

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
)

// album is a delivery of two tables and some attachments, which can be gone on with.
type album struct {
	t     *testing.T
	sizes []int
	names []string // of attachments; nil: short ones
	gone  map[int]bool

	mu   sync.Mutex
	read int64  // bytes of attachments that were written
	woke func() // is called before a worker writes an attachment, if it is set
	died func() // ... and before it dies
}

// settle makes a worker that dies do so when every full part is kept.
func (a *album) settle(j *journal, partBytes int) {
	kept := func() (size int64) {
		j.mu.Lock()
		defer j.mu.Unlock()
		c, _ := contracts.JoinCheckpoints(attempt(0).ID, j.kept)
		for _, v := range c.Volumes {
			if v.Kind == contracts.Attachments {
				size += v.Upload.Size
			}
		}
		return size
	}
	before := kept()
	a.read = 0
	a.died = func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for end := time.Now().Add(30 * time.Second); kept() <= before+a.read-int64(partBytes); <-tick.C {
			if time.Now().After(end) {
				a.t.Error("not every part is kept")
				return
			}
		}
	}
}

func (a *album) name(i int) string {
	return contracts.AttachmentFile(a.id(i), a.filename(i))
}

func (a *album) filename(i int) string {
	if a.names != nil {
		return a.names[i]
	}
	return "f"
}

func (a *album) id(i int) string { return fmt.Sprintf("%04d", i) }

func (a *album) manifest() (contracts.Manifest, contracts.Archive) {
	list, rows := tables(3, 200)
	m := contracts.Manifest{Tables: list}
	for i := range a.sizes {
		at := contracts.Attachment{ID: a.id(i), Filename: a.filename(i), File: a.name(i)}
		if a.gone[i] {
			at.File = ""
			m.Gaps = append(m.Gaps, contracts.Gap{ID: a.id(i), Filename: a.filename(i), Reason: "missing"})
		}
		m.Attachments = append(m.Attachments, at)
	}
	return m, rows
}

// from are the attachments from a place on. They break off after so many bytes; -1: never.
func (a *album) from(place contracts.Place, breakOff int64) contracts.Archive {
	total := int64(0)
	for _, n := range a.sizes {
		total += int64(n)
	}
	return contracts.Archive{Kind: contracts.Attachments, Bytes: total, Members: func(yield func(contracts.Member, error) bool) {
		for i, n := range a.sizes {
			if a.id(i) <= place.After || a.gone[i] {
				continue
			}
			m := contracts.Member{Name: a.name(i), Of: a.id(i), Size: int64(n), ModTime: time.Unix(1e9, 5e8)}
			if m.Of == place.Of {
				m.Offset = place.Offset
			}
			m.Write = func(_ context.Context, w io.Writer, _ int64) (contracts.Piece, error) {
				body := noise(uint64(i), n)[m.Offset:]
				if a.woke != nil {
					a.woke()
				}
				a.mu.Lock()
				if left := breakOff - a.read; breakOff >= 0 && int64(len(body)) > left {
					body = body[:left]
				}
				a.read += int64(len(body))
				done := m.Offset+int64(len(body)) == m.Size
				a.mu.Unlock()
				_, err := io.CopyBuffer(struct{ io.Writer }{w}, bytes.NewReader(body), make([]byte, 777))
				if err == nil && !done {
					a.died()
					err = errDied
				}
				return contracts.Piece{}, err
			}
			if !yield(m, nil) {
				return
			}
		}
	}}
}

var errDied = errors.New("the worker dies")

// begin writes the tables, keeps the first checkpoint, and writes attachments until they break off.
func (a *album) begin(u *Uploader, at contracts.Attempt, j *journal, breakOff int64, died ...func()) (*Delivery, error) {
	a.t.Helper()
	d, err := u.Begin(a.t.Context(), at, j)
	if err != nil {
		a.t.Fatal(err)
	}
	if _, rows := a.manifest(); at.Request.Wants(contracts.Tables) {
		if err := d.Write(a.t.Context(), rows); err != nil {
			a.t.Fatal(err)
		}
	}
	if err := j.Checkpoint(a.t.Context(), d.Checkpoint()); err != nil {
		a.t.Fatal(err)
	}
	a.settle(j, d.cfg.PartBytes)
	for _, f := range died {
		a.died = f
	}
	return d, d.Write(a.t.Context(), a.from(contracts.Place{}, breakOff))
}

// goOn takes over from what was kept.
func (a *album) goOn(u *Uploader, at contracts.Attempt, j *journal, kept [][]byte, breakOff int64) (contracts.Receipt, error) {
	a.t.Helper()
	c, err := contracts.JoinCheckpoints(at.ID, kept)
	if err != nil {
		a.t.Fatal(err)
	}
	d, err := u.Resume(a.t.Context(), at, j, c)
	if err != nil {
		return contracts.Receipt{}, err
	}
	a.settle(j, d.cfg.PartBytes)
	if err := d.Write(a.t.Context(), a.from(c.Place(), breakOff)); err != nil {
		return contracts.Receipt{}, err
	}
	m, _ := a.manifest()
	return d.Receipt(m)
}
