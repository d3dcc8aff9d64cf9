package uploader

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/snapfleet/snapfleet/contracts"
)

// ErrUploadLost says that an upload of a receipt is gone and its object is not there: somebody aborted
// it. The delivery cannot be completed; a new attempt can.
var ErrUploadLost = errors.New("an upload of the receipt is lost")

// ErrDelivered says that the job's folder already holds the job's own manifest: there is nothing to do. It is a
// rejection, because trying again changes nothing; whoever has the record finds the delivery by [Uploader.Delivered].
var ErrDelivered = contracts.Reject(contracts.DestinationTaken, "the job is already delivered")

// Journal is what a delivery tells the job's record. Its methods are called from several goroutines.
type Journal interface {
	// Upload returns when the record holds the upload. No part of it leaves before.
	Upload(ctx context.Context, u contracts.Upload) error
	// Progress reports how far the delivery has come. It is called often, must be cheap, and may not
	// call back.
	Progress(report func(*contracts.Progress))
	// Checkpoint keeps how far the volumes have come that the checkpoint names, for whoever goes on. Only
	// these fields are set: PartBytes and Volumes.
	Checkpoint(ctx context.Context, c contracts.Checkpoint) error
}

// Uploader delivers to customers' buckets, or to a folder. It holds no state of a job but, for a minute, the session
// of the last verb, so that any worker can go on where another stopped, and is safe for concurrent use.
type Uploader struct {
	cfg Config
	// open reaches the job's folder. The context is the attempt's: once it is done, the store refuses to
	// refresh its credentials.
	open func(context.Context, contracts.Attempt) (store, error)
	// look reaches it to read; nil for a folder.
	look func(context.Context, contracts.Attempt) (*bucket, error)
	kept *sessions // between two verbs; nil for a folder
	// try reaches the folder of a check in the tenant's bucket, and asks nobody anything. Nil for a folder.
	try func(context.Context, Config, contracts.Attempt) (*bucket, error)
	// identity asks STS who the worker is. Nil for a folder.
	identity func(context.Context) (string, error)
}

// New returns an uploader for customers' buckets. base carries the worker's own credentials, with which
// roles are assumed, its HTTP client and, if it is not AWS's regional one, the STS endpoint. It panics
// when cfg cannot work; see [Config.Validate].
func New(base aws.Config, cfg Config) *Uploader {
	u := newUploader(cfg)
	metered.begin(context.Background())
	base.HTTPClient = direct(base.HTTPClient)
	trust := &trustChecks{every: u.cfg.TrustCheck, last: map[string]time.Time{}}
	u.kept = &sessions{kept: map[sessionOf]*keptSession{}}
	u.open = func(ctx context.Context, a contracts.Attempt) (store, error) {
		return openBucket(ctx, base, u.cfg, trust, u.kept, a)
	}
	u.try = func(ctx context.Context, cfg Config, a contracts.Attempt) (*bucket, error) {
		return reach(ctx, base, cfg, trust, a, power{contracts.TenantPrefix(a.Tenant.Name), delivering(a.Tenant.Destination)}, checkSession, nil)
	}
	u.identity = func(ctx context.Context) (string, error) { return callerIdentity(ctx, base) }
	u.look = func(ctx context.Context, a contracts.Attempt) (*bucket, error) {
		return openReader(ctx, base, u.cfg, trust, a)
	}
	return u
}

// NewFolder returns an uploader that writes the same volumes and manifest to dir/<tenant>/<job>/ on a
// local file system. It panics when cfg cannot work; see [Config.Validate].
func NewFolder(dir string, cfg Config) *Uploader {
	u := newUploader(cfg)
	u.open = func(_ context.Context, a contracts.Attempt) (store, error) { return openFolder(dir, a) }
	return u
}

func newUploader(cfg Config) *Uploader {
	if err := cfg.Validate(); err != nil {
		panic(err)
	}
	return &Uploader{cfg: cfg.withDefaults()}
}

// Begin assumes the customer's role, proves that the bucket takes a multipart upload, and aborts what
// older attempts of this job left behind. Nothing of the tenant's data is read before: a refusal here is
// cheap. It returns a [contracts.Rejection] for what the customer has to mend, [ErrDelivered] when there
// is nothing to do.
//
// ctx is the attempt's and must live as long as the delivery: once it is done, credentials are not
// refreshed any more, so the power of a worker that lost its lease ends with its session.
func (u *Uploader) Begin(ctx context.Context, a contracts.Attempt, j Journal) (*Delivery, error) {
	return u.begin(ctx, a, j, nil)
}

// begin leaves alone the uploads to keep.
func (u *Uploader) begin(ctx context.Context, a contracts.Attempt, j Journal, keep []contracts.Upload) (*Delivery, error) {
	j.Progress(func(p *contracts.Progress) { p.Phase = contracts.Preflight })
	s, err := u.open(ctx, a)
	if err != nil {
		return nil, err
	}
	sctx, span := start(ctx, "preflight", a)
	err = s.preflight(sctx, keep)
	endSpan(span, err)
	if err != nil {
		return nil, err
	}
	return &Delivery{
		cfg: u.cfg, attempt: a, format: a.Format(), store: s, journal: j,
		free: buffers(u.cfg.Buffers), kinds: map[contracts.Kind]bool{},
	}, nil
}

// Delivered returns the delivery of the job that is in its folder, or nil when there is no manifest. It is the second
// witness of a commit, for when the record is lost. It believes a manifest only with the MAC of a.FleetKey, and with
// every volume that it names; another one is a [contracts.Rejection] of DestinationTaken. Whatever is there, it holds
// less than 1 MiB of it, and the names of the volumes.
//
// In a local folder there is no MAC: there a manifest of this job is believed whose volumes have their sizes.
func (u *Uploader) Delivered(ctx context.Context, a contracts.Attempt) (*contracts.FoundDelivery, error) {
	s, err := u.open(ctx, a)
	if err != nil {
		return nil, err
	}
	found, err := s.delivered(ctx)
	if err == nil {
		s.handOn()
	}
	return found, err
}

// Abort ends the given uploads, and every other that is under way in the job's folder, and returns once
// nothing of them is left. It touches nothing outside that folder and nothing that is visible.
func (u *Uploader) Abort(ctx context.Context, a contracts.Attempt, uploads []contracts.Upload) (err error) {
	ctx, span := start(ctx, "abort", a)
	defer func() { endSpan(span, err) }()
	s, err := u.open(ctx, a)
	if err != nil {
		return err
	}
	var errs []error
	for _, up := range uploads {
		errs = append(errs, s.abort(ctx, up))
	}
	return errors.Join(append(errs, abortListed(ctx, s, nil))...)
}

// abortListed aborts every upload that is under way in the folder, but those to keep.
func abortListed(ctx context.Context, s store, keep []contracts.Upload) error {
	left, err := s.uploads(ctx)
	if err != nil {
		return err
	}
	return abortAll(ctx, s, left, keep)
}

// abortAll aborts the uploads that are left, but those to keep.
func abortAll(ctx context.Context, s store, left, keep []contracts.Upload) error {
	var errs []error
	for _, up := range left {
		if !slices.ContainsFunc(keep, func(k contracts.Upload) bool { return k.Name == up.Name && k.ID == up.ID }) {
			err := s.abort(ctx, up)
			if err == nil {
				metered.swept.Add(ctx, 1)
			}
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func start(ctx context.Context, name string, a contracts.Attempt) (context.Context, trace.Span) {
	return tracer.Start(ctx, name, trace.WithAttributes(
		attribute.String("snapfleet.tenant", a.Tenant.Name),
		attribute.String("snapfleet.job", a.Request.Job),
		attribute.String("snapfleet.attempt.id", a.ID)))
}

func taken(a contracts.Attempt, name string) error {
	return contracts.Reject(contracts.DestinationTaken, "%s%s in %s is not ours", a.Prefix(), name, place(a))
}

// place is where a delivery goes, in words.
func place(a contracts.Attempt) string {
	if b := a.Tenant.Destination.Bucket; b != "" {
		return fmt.Sprintf("bucket %s", b)
	}
	return "the folder"
}
