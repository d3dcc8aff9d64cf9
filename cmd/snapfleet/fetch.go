package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"sync"
	"syscall"
	"time"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/cenkalti/backoff/v4"

	"github.com/snapfleet/snapfleet/contracts"
)

// fetch downloads the files of one delivery into a folder, by links. Its methods may be called at the same time.
type fetch struct {
	root   *os.Root
	client *http.Client
	ask    func(context.Context) (contracts.Links, error)
	moved  func(bytes int64) // forward, or back when a file has to begin anew

	mu    sync.Mutex
	links contracts.Links
	asked int // how often links were asked for
}

const (
	// fetchTries is how often a file is gone on with without a byte in between.
	fetchTries = 6
	// fetchStall is how long not a single byte may come.
	fetchStall = time.Minute
)

// What a request for a file may come to; each is tried again in a way of its own.
var (
	errLinkOver = errors.New("the store does not take the link any more")
	errAnew     = errors.New("the store begins anew")
)

// renew is the links, asked for anew unless somebody has done so since they were asked for the given number of times.
func (f *fetch) renew(ctx context.Context, asked int) (contracts.Links, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.asked > asked {
		return f.links, nil
	}
	links, err := f.ask(ctx)
	if err != nil {
		return links, err
	}
	f.links = links
	f.asked++
	return links, nil
}

// link is the newest link to a file, and how often links had been asked for by then.
func (f *fetch) link(name string) (l contracts.Link, asked int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range f.links.Files {
		if l.Name == name {
			return l, f.asked, nil
		}
	}
	return l, f.asked, contracts.Reject(contracts.DeliveryChanged, "%s is not among the files any more", name)
}

// file downloads one file, unless it is there. Until all of it is, it has another name, which tells what it is a part of:
// bytes of two objects never meet.
func (f *fetch) file(ctx context.Context, name string) error {
	l, _, err := f.link(name)
	if err != nil {
		return err
	}
	switch info, err := f.root.Lstat(name); {
	case err == nil && info.Mode().IsRegular() && info.Size() == l.Size:
		f.moved(l.Size)
		return nil
	case err == nil:
		return explain(exitFailed, fmt.Errorf("%s is there already, and is not the file of %s that is to be downloaded", path.Join(f.root.Name(), name), size(l.Size)),
			"something else was written to this folder", "move it away, or choose another --to")
	case !errors.Is(err, fs.ErrNotExist):
		return unwritable(err)
	}
	part, err := f.open(l)
	if err != nil {
		return err
	}
	err = errors.Join(part.fill(ctx), part.Close())
	if err != nil {
		return err
	}
	if err := f.root.Rename(part.name, name); err != nil {
		return unwritable(err)
	}
	return nil
}

// part is a file that is not all there.
type part struct {
	*os.File
	f    *fetch
	name string
	of   contracts.Link
	have int64
}

// open goes on with what a former run has left of this very object. What it has left of another one is no use.
func (f *fetch) open(l contracts.Link) (*part, error) {
	sum := sha256.Sum256([]byte(l.ETag))
	p := &part{f: f, of: l, name: l.Name + "." + hex.EncodeToString(sum[:4]) + ".part"}
	if err := f.plain(p.name); err != nil {
		return nil, err
	}
	former, err := fs.Glob(f.root.FS(), l.Name+".????????.part")
	for _, name := range former {
		if name != p.name {
			err = errors.Join(err, f.root.Remove(name))
		}
	}
	if err != nil {
		return nil, unwritable(err)
	}
	if p.File, err = f.root.OpenFile(p.name, os.O_RDWR|os.O_CREATE|syscall.O_NONBLOCK, 0o600); err != nil {
		return nil, unwritable(err)
	}
	info, err := p.Stat()
	if err == nil && info.Size() > l.Size {
		err = p.Truncate(0)
	} else if err == nil {
		p.have = info.Size()
	}
	if err != nil {
		return nil, unwritable(errors.Join(err, p.Close()))
	}
	f.moved(p.have)
	return p, nil
}

// plain makes sure that the name is free, or that of a plain file: no link leads from it to another.
func (f *fetch) plain(name string) error {
	info, err := f.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return unwritable(err)
	}
	if !info.Mode().IsRegular() {
		return explain(exitFailed, fmt.Errorf("%s is there already, and is no plain file", path.Join(f.root.Name(), name)),
			"something else was put into this folder", "move it away, or choose another --to")
	}
	return nil
}

// fill downloads what is missing, over as many connections and links as that takes. What it has filled is on the disk.
func (p *part) fill(ctx context.Context) error {
	wait := backoff.NewExponentialBackOff(backoff.WithInitialInterval(200*time.Millisecond), backoff.WithMaxInterval(5*time.Second))
	for tries := 0; p.have < p.of.Size; tries++ {
		l, asked, err := p.f.link(p.of.Name)
		if err != nil {
			return err
		}
		if l.ETag != p.of.ETag || l.Size != p.of.Size {
			return contracts.Reject(contracts.DeliveryChanged, "%s was changed while it was downloaded", l.Name)
		}
		before := p.have
		err = p.pull(ctx, l.URL)
		if p.have > before {
			tries = 0
			wait.Reset()
		}
		switch {
		case err == nil:
			continue
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case final(err) || tries >= fetchTries:
			return fmt.Errorf("download %s: %w", p.of.Name, err)
		case errors.Is(err, errLinkOver):
			if _, err := p.f.renew(ctx, asked); err != nil {
				return err
			}
		}
		if err := rest(ctx, wait.NextBackOff()); err != nil {
			return err
		}
	}
	if err := p.Sync(); err != nil {
		return unwritable(err)
	}
	return nil
}

// final reports whether an error is not the network's.
func final(err error) bool {
	_, ours := errors.AsType[*failure](err)
	_, rejected := contracts.AsRejection(err)
	return ours || rejected
}

func rest(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// pull sends one request, and writes what comes. No error holds the link.
func (p *part) pull(ctx context.Context, link string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := time.AfterFunc(fetchStall, func() { cancel(fmt.Errorf("not a byte for %v", fetchStall)) })
	defer stalled.Stop()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, link, nil)
	if err != nil || request.URL.Scheme != "https" && !loopback(request.URL) {
		return contracts.Reject(contracts.DeliveryChanged, "the worker's link to %s is not https", p.of.Name)
	}
	request.Header.Set("If-Match", p.of.ETag)
	request.Header.Set("Accept-Encoding", "identity")
	if p.have > 0 {
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-", p.have))
	}
	response, err := p.f.client.Do(request)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok { // its text has the whole link
			err = u.Err
		}
		return err
	}
	defer response.Body.Close()
	if err := p.accept(response); err != nil {
		return err
	}
	buffer := make([]byte, 256<<10)
	for {
		n, err := response.Body.Read(buffer)
		stalled.Reset(fetchStall)
		if p.have+int64(n) > p.of.Size {
			return fmt.Errorf("the store sends more than %d bytes", p.of.Size)
		}
		if _, err := p.WriteAt(buffer[:n], p.have); err != nil {
			return unwritable(err)
		}
		p.have += int64(n)
		p.f.moved(int64(n))
		switch {
		case errors.Is(err, io.EOF) && p.have < p.of.Size:
			return io.ErrUnexpectedEOF
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// accept makes of an answer what it means for the part.
func (p *part) accept(r *http.Response) error {
	switch code := r.StatusCode; {
	case code == http.StatusOK && p.have > 0: // it knows no ranges
		return p.anew()
	case code == http.StatusOK:
		return nil
	case code == http.StatusPartialContent:
		if from := fmt.Sprintf("bytes %d-%d/%d", p.have, p.of.Size-1, p.of.Size); r.Header.Get("Content-Range") != from {
			return fmt.Errorf("the store answers with another range than was asked for")
		}
		return nil
	case code == http.StatusPreconditionFailed:
		return contracts.Reject(contracts.DeliveryChanged, "%s was changed since the links were made", p.of.Name)
	case code == http.StatusRequestedRangeNotSatisfiable:
		return errors.Join(p.anew(), errAnew)
	case code == http.StatusBadRequest, code == http.StatusUnauthorized, code == http.StatusForbidden, code == http.StatusNotFound:
		return fmt.Errorf("%w (status %d)", errLinkOver, code)
	default:
		return fmt.Errorf("the store answers with status %d", code)
	}
}

// anew forgets what is there.
func (p *part) anew() error {
	if err := p.Truncate(0); err != nil {
		return unwritable(err)
	}
	p.f.moved(-p.have)
	p.have = 0
	return nil
}

// loopback reports whether u is plain http to this very machine.
func loopback(u *url.URL) bool {
	host := u.Hostname()
	return u.Scheme == "http" && (host == "127.0.0.1" || host == "::1" || host == "localhost")
}

// plainClient speaks HTTP with the authorities that AWS_CA_BUNDLE names, and follows no redirect: what a link is to is
// the worker's to say.
func plainClient(ctx context.Context) (*http.Client, error) {
	cloud, err := loadAWS(ctx)
	if err != nil {
		return nil, err
	}
	transport := awshttp.NewBuildableClient().GetTransport()
	if c, ok := cloud.HTTPClient.(*awshttp.BuildableClient); ok {
		transport = c.GetTransport()
	}
	return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}, nil
}

// writeTroubles are the reasons for which a file cannot be written that a person can do something about.
var writeTroubles = []struct {
	err        error
	cause, fix string
}{
	{syscall.ENOSPC, "the disk is full", "make room, or choose another --to; the download goes on where it stopped"},
	{syscall.EDQUOT, "the disk quota is used up", "make room, or choose another --to; the download goes on where it stopped"},
	{syscall.EFBIG, "the file is larger than the file system, or this user's limit, allows", "choose another --to, or raise the limit (ulimit -f)"},
	{syscall.EROFS, "the file system is mounted read-only", "choose another --to"},
	{fs.ErrPermission, "this user may not write there", "choose another --to, or change the folder's permissions"},
	{syscall.ENOTDIR, "a part of the path is a file", "choose another --to"},
}
