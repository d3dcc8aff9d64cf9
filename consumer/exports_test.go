package consumer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"strconv"
	"strings"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
)

// exports is the attempt itself: two volumes in a bucket whose keys are fixed, as the customer's are. What it asks
// of the bucket, on which condition and in which order, is what package uploader does.
type exports struct {
	n      *node
	part   time.Duration                             // how long one part takes
	reject func(a contracts.Attempt) error           // from Prepare, before anything
	lose   func(a contracts.Attempt, id string) bool // the upload vanishes before Complete
	commit func() error                              // from Complete, before anything
	seal   func() error                              // from Seal, before anything
	seek   func() error                              // from Delivered, before anything
	clean  func(context.Context) error               // from Abort, before anything
	links  func(a contracts.Attempt, manifestSHA256 string, expires time.Duration, skip int) (contracts.Links, error)
	check  func(context.Context, contracts.Tenant) contracts.CheckResult
}

type lostUpload struct{ error }

func (lostUpload) LostUpload() bool { return true }

const partsPerVolume = 5

func (e exports) Prepare(ctx context.Context, a contracts.Attempt, j Journal) (contracts.Receipt, error) {
	none := contracts.Receipt{}
	if e.reject != nil {
		if err := e.reject(a); err != nil {
			return none, err
		}
	}
	found, err := e.Delivered(ctx, a)
	if err != nil {
		return none, err
	}
	if found != nil {
		return none, contracts.Reject(contracts.DestinationTaken, "the job is already delivered")
	}
	kept, err := j.Checkpoints(ctx)
	if err != nil {
		return none, err
	}
	if err := e.abortAllBut(ctx, a, kept); err != nil {
		return none, err
	}
	m := contracts.Manifest{Version: contracts.ManifestVersion, Tenant: a.Tenant.Name, Job: a.Request.Job, Attempt: a.ID, Only: a.Request.Only, Format: a.Format(), Producer: contracts.Producer{Name: e.n.name}}
	r := contracts.Receipt{Version: contracts.ReceiptVersion, Attempt: a.ID}
	for i, kind := range []contracts.Kind{contracts.Tables, contracts.Attachments} {
		name := contracts.VolumeName(kind, a.Request.Job, 0)
		var u contracts.Upload
		switch {
		case i < len(kept) && kind == contracts.Tables: // they are read once
			u = must(decodeUpload(kept[i]))
		case i < len(kept):
			u, err = e.goOn(ctx, a, j, must(decodeUpload(kept[len(kept)-1])))
		default:
			u, err = e.upload(ctx, a, j, name)
		}
		if err != nil {
			return none, err
		}
		if i >= len(kept) && kind == contracts.Tables {
			if err := j.Checkpoint(ctx, must(json.Marshal(u))); err != nil {
				return none, err
			}
		}
		r.Uploads = append(r.Uploads, u)
		m.Volumes = append(m.Volumes, contracts.Volume{Name: u.Name, Kind: kind, Size: u.Size})
	}
	r.Manifest = must(m.Encode())
	return r, nil
}

// upload sends one volume off, a part at a time.
func (e exports) upload(ctx context.Context, a contracts.Attempt, j Journal, name string) (contracts.Upload, error) {
	u := contracts.Upload{Name: name, Size: 100 * partsPerVolume}
	id, err := call(ctx, e.n, "s3 create "+name, func() (string, error) {
		f := e.n.folder(a.Prefix())
		f.next++
		id := fmt.Sprintf("u%d", f.next)
		f.uploads[id] = upload{name: name, attempt: a.ID}
		return id, nil
	})
	if err != nil {
		return u, err
	}
	u.ID = id
	if err := j.Upload(ctx, contracts.Upload{Name: name, ID: id}); err != nil {
		return u, err
	}
	return u, e.send(ctx, a, j, u, 0)
}

func decodeUpload(data []byte) (u contracts.Upload, err error) { return u, json.Unmarshal(data, &u) }

// goOn sends what is not proven to be there.
func (e exports) goOn(ctx context.Context, a contracts.Attempt, j Journal, u contracts.Upload) (contracts.Upload, error) {
	up, err := call(ctx, e.n, "s3 list parts of "+u.ID, func() (upload, error) {
		up, ok := e.n.folder(a.Prefix()).uploads[u.ID]
		if !ok {
			return up, lostUpload{errGone}
		}
		return up, nil
	})
	if err != nil {
		return u, err
	}
	return u, e.send(ctx, a, j, u, bits.TrailingZeros(^up.parts))
}

// send uploads the parts from one on.
func (e exports) send(ctx context.Context, a contracts.Attempt, j Journal, u contracts.Upload, from int) error {
	for part := from; part < partsPerVolume; part++ {
		if u.Name == contracts.VolumeName(contracts.Attachments, a.Request.Job, 0) {
			if err := j.Checkpoint(ctx, must(json.Marshal(u))); err != nil {
				return err
			}
		}
		pause(ctx, e.part)
		err := e.n.reach(ctx, fmt.Sprintf("s3 part %d of %s", part+1, u.ID), func() error {
			up, ok := e.n.folder(a.Prefix()).uploads[u.ID]
			if !ok {
				return lostUpload{errGone}
			}
			up.parts |= 1 << part
			e.n.folder(a.Prefix()).uploads[u.ID] = up
			return nil
		})
		if err != nil {
			return err
		}
		j.Progress(func(p *contracts.Progress) { p.Bytes += 100 })
	}
	return nil
}

var (
	errTaken = errors.New("an object of that name is there")
	errGone  = errors.New("no such upload")
)

func (e exports) Complete(ctx context.Context, a contracts.Attempt, r contracts.Receipt) error {
	if e.commit != nil {
		if err := e.commit(); err != nil {
			return err
		}
	}
	for _, u := range r.Uploads {
		if err := e.complete(ctx, a, u); err != nil {
			return err
		}
	}
	return nil
}

func (e exports) Seal(ctx context.Context, a contracts.Attempt, r contracts.Receipt) error {
	if e.seal != nil {
		if err := e.seal(); err != nil {
			return err
		}
	}
	for _, u := range r.Uploads {
		if err := e.verify(ctx, a, u); err != nil {
			return err
		}
	}
	return e.n.reach(ctx, "s3 manifest", func() error {
		f := e.n.folder(a.Prefix())
		if f.manifest != nil && string(f.manifest) != string(r.Manifest) {
			return contracts.Reject(contracts.DestinationTaken, "another manifest stands")
		}
		f.manifest = r.Manifest
		return nil
	})
}

// complete makes one volume visible, or finds that it is.
func (e exports) complete(ctx context.Context, a contracts.Attempt, u contracts.Upload) error {
	err := e.finish(ctx, a, u, "")
	if !errors.Is(err, errTaken) && !errors.Is(err, errGone) {
		return err
	}
	found, lookErr := e.look(ctx, a, u)
	switch {
	case lookErr != nil:
		return lookErr
	case found == a.ID:
		return nil // completed before
	case found == "" && errors.Is(err, errGone), number(found) > a.Number:
		return lostUpload{fmt.Errorf("%s is of %q: %w", u.Name, found, err)}
	case found == "":
		return err
	case number(found) == a.Number:
		return contracts.Reject(contracts.DestinationTaken, "%s is of attempt %s", u.Name, found)
	}
	there, lookErr := e.Delivered(ctx, a)
	switch {
	case lookErr != nil:
		return lookErr
	case there != nil:
		return contracts.Reject(contracts.DestinationTaken, "the job is already delivered")
	}
	if err := e.finish(ctx, a, u, found); !errors.Is(err, errTaken) && !errors.Is(err, errGone) {
		return err
	}
	return e.verify(ctx, a, u)
}

// finish is CompleteMultipartUpload, over what attempt has left under the name, or over nothing.
func (e exports) finish(ctx context.Context, a contracts.Attempt, u contracts.Upload, attempt string) error {
	return e.n.reach(ctx, "s3 complete "+u.ID, func() error {
		f := e.n.folder(a.Prefix())
		if e.lose != nil && e.lose(a, u.ID) {
			delete(f.uploads, u.ID)
		}
		up, ok := f.uploads[u.ID]
		switch {
		case !ok:
			return errGone
		case up.parts != 1<<partsPerVolume-1:
			return errors.New("not all parts are there")
		case f.objects[u.Name] != attempt:
			return errTaken
		}
		delete(f.uploads, u.ID)
		f.objects[u.Name] = up.attempt
		return nil
	})
}

// look is whose object stands under the volume's name.
func (e exports) look(ctx context.Context, a contracts.Attempt, u contracts.Upload) (string, error) {
	return call(ctx, e.n, "s3 head "+u.Name, func() (string, error) { return e.n.folder(a.Prefix()).objects[u.Name], nil })
}

func (e exports) verify(ctx context.Context, a contracts.Attempt, u contracts.Upload) error {
	found, err := e.look(ctx, a, u)
	if err == nil && found != a.ID {
		err = lostUpload{fmt.Errorf("%s is of %q", u.Name, found)}
	}
	return err
}

// number is the one that an attempt's id begins with.
func number(id string) int {
	n, _, _ := strings.Cut(id, "-")
	return must(strconv.Atoi(n))
}

// abortAllBut leaves nothing but what a checkpoint names.
func (e exports) abortAllBut(ctx context.Context, a contracts.Attempt, kept [][]byte) error {
	keep := map[string]bool{}
	for _, data := range kept {
		keep[must(decodeUpload(data)).ID] = true
	}
	return e.n.reach(ctx, "s3 abort what is not kept", func() error {
		maps.DeleteFunc(e.n.folder(a.Prefix()).uploads, func(id string, _ upload) bool { return !keep[id] })
		return nil
	})
}

func (e exports) Abort(ctx context.Context, a contracts.Attempt, _ []contracts.Upload) error {
	if e.clean != nil {
		if err := e.clean(ctx); err != nil {
			return err
		}
	}
	return e.n.reach(ctx, "s3 abort all", func() error { clear(e.n.folder(a.Prefix()).uploads); return nil })
}

// Delivered believes what reads as a manifest of the job: that it is proven, the real one's tests see to.
func (e exports) Delivered(ctx context.Context, a contracts.Attempt) (*contracts.FoundDelivery, error) {
	if e.seek != nil {
		if err := e.seek(); err != nil {
			return nil, err
		}
	}
	data, err := call(ctx, e.n, "s3 get manifest", func() ([]byte, error) { return e.n.folder(a.Prefix()).manifest, nil })
	if err != nil || data == nil {
		return nil, err
	}
	m, err := contracts.DecodeManifest(data)
	if err != nil || m.Tenant != a.Tenant.Name || m.Job != a.Request.Job {
		return nil, contracts.Reject(contracts.DestinationTaken, "%s holds a manifest that is none of ours: %w", a.Prefix(), err)
	}
	return &contracts.FoundDelivery{Manifest: m, SHA256: digestOf(data)}, nil
}

// Check is one step. Nobody who does not say what comes of it is told that all is well.
func (e exports) Check(ctx context.Context, t contracts.Tenant) contracts.Check {
	step := contracts.CheckStep{Name: contracts.CheckAssume, Result: contracts.CheckInconclusive}
	if e.check != nil {
		step.Result = e.check(ctx, t)
	}
	if step.Result != contracts.CheckOK {
		step.Reason = &contracts.Reason{Code: contracts.RoleDenied, What: "the role " + t.Destination.RoleARN + " says " + string(step.Result)}
	}
	return contracts.Check{Version: contracts.CheckVersion, Tenant: t.Name, At: time.Now().UTC(), Steps: []contracts.CheckStep{step}}
}

// Links tells what it was asked for, in place of links.
func (e exports) Links(_ context.Context, a contracts.Attempt, manifestSHA256 string, expires time.Duration, skip int) (contracts.Links, error) {
	if e.links == nil {
		return contracts.Links{}, contracts.Reject(contracts.NotInHouse, "%s", a.Prefix())
	}
	return e.links(a, manifestSHA256, expires, skip)
}
