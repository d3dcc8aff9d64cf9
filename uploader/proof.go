package uploader

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/snapfleet/snapfleet/contracts"
)

// Each principal that may write to a customer's bucket can put a manifest.json there: of any content, with any metadata. It is
// believed in this order, and nothing of it is used before:
//
//  1. Its metadata has a MAC of this fleet's over tenant, job, attempt, digest and size. No other byte is read without.
//  2. Its content, which is read through SHA-256 and kept nowhere, has that size and digest. So this fleet wrote it.
//  3. Its totals are right, its snapshot is not older than the request, and every volume that it names is there, with the
//     size and checksum that it gives and the metadata of its attempt.
//
// What fails is no delivery of ours: a Rejection of DestinationTaken, which says what failed.

// noProof is that rejection.
func noProof(a contracts.Attempt, format string, args ...any) error {
	return contracts.Reject(contracts.DestinationTaken, "%s%s in %s does not prove a delivery of this job: %w",
		a.Prefix(), contracts.ManifestName, place(a), fmt.Errorf(format, args...))
}

// signed reports why the metadata of an object does not prove that this fleet wrote it as the manifest of this job.
func signed(a contracts.Attempt, s *stored) error {
	switch {
	case s.size > contracts.MaxManifestBytes:
		return noProof(a, "it has %d bytes, the limit is %d", s.size, contracts.MaxManifestBytes)
	case a.FleetKey == (contracts.FleetKey{}):
		return noProof(a, "this worker has no fleet key to prove it with")
	case !a.FleetKey.ProvesManifest(s.mac, a.Tenant.Name, a.Request.Job, s.attempt, s.sha256, s.size):
		return noProof(a, "its metadata has no signature of this fleet")
	}
	return nil
}

// delivered implements store.
func (b *bucket) delivered(ctx context.Context) (*contracts.FoundDelivery, error) {
	proven, err := b.proven(ctx)
	if errors.Is(err, errOtherContent) { // a bit may have flipped on the way, where there is no checksum
		proven, err = b.proven(ctx)
	}
	if err != nil || proven == nil {
		return nil, err
	}
	m, err := b.summary(ctx, proven.sha256, proven.size)
	if err != nil {
		return nil, err
	}
	if m.Tenant != b.attempt.Tenant.Name || m.Job != b.attempt.Request.Job || m.Attempt != proven.attempt {
		return nil, noProof(b.attempt, "it is of %s, attempt %.80q", contracts.JobPrefix(m.Tenant, m.Job), m.Attempt)
	}
	if err := punctual(b.attempt, m); err != nil {
		return nil, err
	}
	if err := b.hasVolumes(ctx, m); err != nil {
		return nil, err
	}
	return &contracts.FoundDelivery{Manifest: m, SHA256: proven.sha256}, nil
}

// proven is the manifest's head, when this fleet wrote it; nil when there is no manifest.
func (b *bucket) proven(ctx context.Context) (head *stored, err error) {
	found, err := b.get(ctx, contracts.ManifestName, func(s *stored, body io.Reader) error {
		head = s
		if err := signed(b.attempt, s); err != nil {
			return err
		}
		return digest(b.attempt, s, body)
	})
	if err != nil || !found {
		return nil, err
	}
	return head, nil
}

// errOtherContent says that an object is not what its digest says.
var errOtherContent = errors.New("its content was changed")

// digest reads an object to its end, and makes sure that it has the size and the digest of s. It keeps nothing of it.
func digest(a contracts.Attempt, s *stored, body io.Reader, also ...io.Writer) error {
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(append(also, sum)...), io.LimitReader(body, s.size+1))
	if err != nil {
		return err
	}
	if n != s.size || hex.EncodeToString(sum.Sum(nil)) != s.sha256 {
		return noProof(a, "%w", errOtherContent)
	}
	return nil
}

// summary reads a manifest whose digest has been proven, without its long lists, and makes sure that it is still the same.
func (b *bucket) summary(ctx context.Context, sum string, size int64) (m contracts.Manifest, err error) {
	found, err := b.get(ctx, contracts.ManifestName, func(s *stored, body io.Reader) error {
		pipe, write := io.Pipe()
		done := make(chan error, 1)
		go func() {
			var err error
			m, err = contracts.ReadManifestSummary(pipe)
			pipe.CloseWithError(err) // nothing waits for the rest
			done <- err
		}()
		err := digest(b.attempt, &stored{size: size, sha256: sum}, body, lenient{write})
		write.CloseWithError(err)
		if wrong := <-done; err == nil && wrong != nil {
			return noProof(b.attempt, "%w", wrong)
		}
		return err
	})
	if err == nil && !found {
		err = fmt.Errorf("read %s: it was there a moment ago and is gone", *b.key(contracts.ManifestName))
	}
	return m, err
}

// lenient ignores errors of a writer whose reader has ended.
type lenient struct{ w io.Writer }

func (l lenient) Write(p []byte) (int, error) {
	_, _ = l.w.Write(p)
	return len(p), nil
}

// punctual reports why a delivery is not an answer to the request: it is of an earlier one, and its snapshot is older than
// this one. Of the same request, the clocks of the publisher and the database are not compared.
func punctual(a contracts.Attempt, m contracts.Manifest) error {
	if m.RequestedAt.Equal(a.Request.RequestedAt) || !m.Snapshot.At.Before(a.Request.RequestedAt) {
		return nil
	}
	return noProof(a, "its snapshot is of %s, and this request is of %s", m.Snapshot.At.UTC().Format(time.RFC3339), a.Request.RequestedAt.UTC().Format(time.RFC3339))
}

// hasVolumes looks at every volume that the manifest names. The first one in its order that is not right is named.
func (b *bucket) hasVolumes(ctx context.Context, m contracts.Manifest) error {
	if wrong := nameVolumes(m); len(wrong) > 0 {
		return noProof(b.attempt, "%s", wrong[0])
	}
	wrong := make([]error, len(m.Volumes))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(completing)
	for i, v := range m.Volumes {
		group.Go(func() error {
			found, err := b.stat(ctx, v.Name)
			if err != nil {
				return fmt.Errorf("look at %s: %w", v.Name, err)
			}
			wrong[i] = b.isVolume(found, v, m.Attempt)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for _, err := range wrong {
		if err != nil {
			return noProof(b.attempt, "%w", err)
		}
	}
	return nil
}

// isVolume reports why what was found is not a volume as that attempt made it.
func (b *bucket) isVolume(found *stored, v contracts.Volume, attempt string) error {
	switch {
	case found == nil:
		return fmt.Errorf("volume %s is not there", v.Name)
	case found.job != b.attempt.Prefix() || found.attempt != attempt:
		return fmt.Errorf("volume %s is not of attempt %s", v.Name, attempt)
	case found.size != v.Size:
		return fmt.Errorf("volume %s has %d bytes, and had %d", v.Name, found.size, v.Size)
	case found.crc != v.CRC64NVME && !(b.cfg.NoChecksum && found.crc == ""):
		return fmt.Errorf("volume %s has another checksum than it had", v.Name)
	}
	return nil
}

func sha256Of(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
