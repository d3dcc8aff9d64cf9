package uploader

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/snapfleet/snapfleet/contracts"
)

// completing is how many volumes are completed at once.
const completing = 4

// Complete makes every volume of the delivery visible. None of them means anything before [Uploader.Seal].
//
// Complete and Seal may be repeated, by any worker, at any time, also while another still tries: they do what is
// left to do. Success runs the same code as recovery. Both return [ErrUploadLost] when an upload is gone and its
// object is not there, a [contracts.Rejection] of DestinationTaken when somebody else's object has one of our names.
func (u *Uploader) Complete(ctx context.Context, a contracts.Attempt, r contracts.Receipt) (err error) {
	ctx, span := start(ctx, "complete volumes", a)
	defer func() { endSpan(span, err) }()
	c, err := u.commit(ctx, a, r)
	if err != nil {
		return err
	}
	// After it every volume has been visible once. Somebody may touch one before the manifest stands.
	if err := c.volumes(ctx, c.complete); err != nil {
		return err
	}
	c.store.handOn()
	return nil
}

// Seal writes manifest.json, when every volume has been seen with its size and checksum.
func (u *Uploader) Seal(ctx context.Context, a contracts.Attempt, r contracts.Receipt) (err error) {
	ctx, span := start(ctx, "write manifest", a)
	defer func() { endSpan(span, err) }()
	c, err := u.commit(ctx, a, r)
	if err != nil {
		return err
	}
	var names []string
	err = together(
		func() error { return c.volumes(ctx, c.verify) },
		func() (err error) { names, err = c.list(ctx); return err },
	)
	if err != nil {
		return err
	}
	if err := c.sweep(ctx, names); err != nil {
		return err
	}
	err = c.store.write(ctx, contracts.ManifestName, r.Manifest)
	if errors.Is(err, errTaken) {
		err = c.sameManifest(ctx)
	}
	if err != nil {
		return fmt.Errorf("write the manifest: %w", err)
	}
	// From here on the delivery is whole, for everybody and for ever.
	return nil
}

// Commit is Complete and Seal, for whoever keeps no record in between.
func (u *Uploader) Commit(ctx context.Context, a contracts.Attempt, r contracts.Receipt) error {
	if err := u.Complete(ctx, a, r); err != nil {
		return err
	}
	return u.Seal(ctx, a, r)
}

// commit opens the job's folder for a receipt that is in order.
func (u *Uploader) commit(ctx context.Context, a contracts.Attempt, r contracts.Receipt) (commit, error) {
	none := commit{}
	m, err := contracts.ReadManifestSummary(bytes.NewReader(r.Manifest))
	if err != nil {
		return none, fmt.Errorf("commit: %w", err)
	}
	if m.Tenant != a.Tenant.Name || m.Job != a.Request.Job || m.Attempt != r.Attempt {
		return none, fmt.Errorf("commit: the receipt is of %s/%s, attempt %s, not of %s, attempt %s", m.Tenant, m.Job, m.Attempt, a.Prefix(), r.Attempt)
	}
	if !slices.EqualFunc(m.Volumes, r.Uploads, func(v contracts.Volume, up contracts.Upload) bool {
		return v.Name == up.Name && v.Size == up.Size && v.CRC64NVME == up.CRC64NVME
	}) {
		return none, fmt.Errorf("commit: the receipt's uploads are not its manifest's volumes")
	}
	s, err := u.open(ctx, a)
	return commit{store: s, attempt: a, receipt: r}, err
}

// commit is one call of Complete or of Seal.
type commit struct {
	store   store
	attempt contracts.Attempt
	receipt contracts.Receipt
}

func (c commit) volumes(ctx context.Context, do func(context.Context, contracts.Upload) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(completing)
	for _, up := range c.receipt.Uploads {
		g.Go(func() error { return do(ctx, up) })
	}
	return g.Wait()
}

// complete makes one volume visible, or finds that it is.
func (c commit) complete(ctx context.Context, u contracts.Upload) error {
	err := c.store.complete(ctx, u, "")
	if err == nil {
		return nil
	}
	why, gone := err, errors.Is(err, errGone)
	if !gone && !errors.Is(err, errTaken) {
		return fmt.Errorf("complete %s: %w", u.Name, err)
	}
	found, err := c.look(ctx, u.Name)
	switch {
	case err != nil:
		return fmt.Errorf("look at %s: %w", u.Name, err)
	case found == nil && gone:
		return fmt.Errorf("complete %s: %w: %w", u.Name, ErrUploadLost, why)
	case found == nil: // it is being taken away under our eyes; the upload is still there
		return fmt.Errorf("complete %s: an object of that name was there and is gone", u.Name)
	case c.same(found, u): // an earlier call took effect, and its answer was lost
		return nil
	case found.job != c.attempt.Prefix():
		return taken(c.attempt, u.Name)
	case c.age(found) > 0: // we were thought dead, and wake up: what our successor has made is not ours to touch
		return fmt.Errorf("complete %s: attempt %s has come after this one: %w", u.Name, found.attempt, ErrUploadLost)
	case found.attempt == c.receipt.Attempt: // it says that it is what we have made, and is not
		return taken(c.attempt, u.Name)
	}
	// An attempt of this job that then lost another of its volumes left this one: it never was part of a
	// delivery, unless there is a manifest. It is replaced exactly as we have seen it, or not at all.
	manifest, err := c.store.stat(ctx, contracts.ManifestName)
	if err != nil {
		return fmt.Errorf("look for a manifest: %w", err)
	}
	if manifest != nil {
		return taken(c.attempt, contracts.ManifestName)
	}
	err = c.store.complete(ctx, u, found.tag)
	if errors.Is(err, errGone) || errors.Is(err, errTaken) { // our own lost answer, or none of ours
		return c.verify(ctx, u)
	}
	return err
}

// verify looks at a volume that was completed.
func (c commit) verify(ctx context.Context, u contracts.Upload) error {
	found, err := c.look(ctx, u.Name)
	switch {
	case err != nil:
		return fmt.Errorf("verify %s: %w", u.Name, err)
	case found == nil:
		return fmt.Errorf("verify %s: %w", u.Name, ErrUploadLost)
	case c.same(found, u):
		return nil
	case found.job == c.attempt.Prefix() && found.attempt != c.receipt.Attempt:
		return fmt.Errorf("verify %s: it is attempt %s's: %w", u.Name, found.attempt, ErrUploadLost)
	}
	return taken(c.attempt, u.Name)
}

// age compares the attempt that made found with the receipt's: negative when it was an earlier one. Two attempts
// have the same number only when the job's record was lost, and the count began again: then there is no telling,
// and what stands without a manifest is a leftover.
func (c commit) age(found *stored) int {
	return cmp.Compare(attemptNumber(found.attempt), attemptNumber(c.receipt.Attempt))
}

// attemptNumber is the number that an [contracts.Attempt].ID begins with, -1 when it does not.
func attemptNumber(id string) int {
	number, _, _ := strings.Cut(id, "-")
	n, err := strconv.Atoi(number)
	if err != nil {
		return -1
	}
	return n
}

// An object is absent when it was not there five times, at 0, 0.1, 0.3, 0.7 and 1.5 seconds.
const (
	looks     = 5
	firstWait = 100 * time.Millisecond
)

// look is stat, but does not believe in an absence at once: that a volume is lost costs a whole attempt,
// and some stores replace an object by removing it first, while another worker completes the same upload.
func (c commit) look(ctx context.Context, name string) (found *stored, err error) {
	err = insist(ctx, func() (bool, error) {
		found, err = c.store.stat(ctx, name)
		return found != nil, err
	})
	return found, err
}

// insist asks until it is there, or was absent often enough.
func insist(ctx context.Context, ask func() (there bool, err error)) error {
	for n, wait := 1, firstWait; ; n, wait = n+1, 2*wait {
		if there, err := ask(); there || err != nil || n == looks {
			return err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// same reports whether found is what u became.
func (c commit) same(found *stored, u contracts.Upload) bool {
	return found.size == u.Size && (found.crc == "" || found.crc == u.CRC64NVME) &&
		(found.mute || found.job == c.attempt.Prefix() && found.attempt == c.receipt.Attempt)
}

func (c commit) list(ctx context.Context) ([]string, error) {
	names, err := c.store.list(ctx)
	if err != nil {
		err = fmt.Errorf("list the folder: %w", err)
	}
	return names, err
}

// sweep removes volumes that a lost attempt of this job left under names that we do not use, of the names that are in
// the folder. The folder of a delivery holds what the manifest names, and what other people put there. Only names that a
// volume can have are looked at: the others may be any number.
func (c commit) sweep(ctx context.Context, names []string) error {
	names = slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		return name == contracts.ManifestName || !contracts.IsFileOf(c.attempt.Request.Job, name) ||
			slices.ContainsFunc(c.receipt.Uploads, func(u contracts.Upload) bool { return u.Name == name })
	})
	all, err := statAll(ctx, c.store, names)
	if err != nil {
		return err
	}
	for i, name := range names {
		found := all[i]
		if found == nil || found.job != c.attempt.Prefix() || c.age(found) > 0 || found.attempt == c.receipt.Attempt {
			continue
		}
		if err := c.store.remove(ctx, name); err != nil {
			return fmt.Errorf("remove %s, which attempt %s left: %w", name, found.attempt, err)
		}
	}
	return nil
}

// sameManifest is asked when there is a manifest already.
func (c commit) sameManifest(ctx context.Context) error {
	var there []byte
	err := insist(ctx, func() (_ bool, err error) {
		there, err = c.store.read(ctx, contracts.ManifestName, len(c.receipt.Manifest))
		return there != nil, err
	})
	switch {
	case errors.Is(err, errTooLarge):
		return taken(c.attempt, contracts.ManifestName)
	case err != nil:
		return err
	case there == nil:
		return errors.New("it was there a moment ago and is gone")
	case !bytes.Equal(there, c.receipt.Manifest):
		return taken(c.attempt, contracts.ManifestName)
	}
	return nil
}
