package uploader

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/snapfleet/snapfleet/contracts"
)

// linksAtOnce is how many links one answer has: each is of some 2 KB, most of it the session's token.
const linksAtOnce = 200

// Links makes links to the files of a delivery to the house: to those that its manifest names, and only while that is the
// one whose SHA-256 is given, from the outcome. The first skip files are left out. The links end after expires, or with
// the session that signs them, which may read this one folder and do nothing else.
//
// It returns a [contracts.Rejection]: NotInHouse for a delivery to a customer's bucket, DeliveryExpired when a file is not
// there any more, DeliveryChanged when one is not what it was. Nothing in an error or a span is a link.
func (u *Uploader) Links(ctx context.Context, a contracts.Attempt, manifestSHA256 string, expires time.Duration, skip int) (_ contracts.Links, err error) {
	ctx, span := start(ctx, "links", a)
	defer func() { endSpan(span, err) }()
	if u.look == nil || a.Tenant.Destination.Keep == (contracts.Keep{}) {
		return contracts.Links{}, contracts.Reject(contracts.NotInHouse, "%s is in %s, which is not the house's", a.Prefix(), place(a))
	}
	b, err := u.look(ctx, a)
	if err != nil {
		return contracts.Links{}, err
	}
	files, first, err := b.files(ctx, manifestSHA256)
	if err != nil {
		return contracts.Links{}, fmt.Errorf("look at %s in bucket %s: %w", a.Prefix(), b.to.Bucket, err)
	}
	links := contracts.Links{
		Version: contracts.LinksVersion, Tenant: a.Tenant.Name, Job: a.Request.Job, ManifestSHA256: manifestSHA256, ExpiresBy: b.to.Keep.By,
	}
	if links.Expires, err = b.expiry(ctx, first); err != nil {
		return contracts.Links{}, err
	}
	files = files[min(max(skip, 0), len(files)):]
	links.More = len(files) > linksAtOnce
	links.Files = files[:min(len(files), linksAtOnce)]
	links.ValidUntil, err = b.link(ctx, links.Files, expires)
	return links, err
}

// openReader opens a session that may read one job's folder, and nothing else.
func openReader(ctx context.Context, base aws.Config, cfg Config, trust *trustChecks, a contracts.Attempt) (*bucket, error) {
	if err := a.Tenant.WithDefaults().Validate(); err != nil {
		return nil, err
	}
	if !contracts.ValidJob(a.Request.Job) {
		return nil, contracts.Reject(contracts.InvalidRequest, "job %.80q is not a valid name", a.Request.Job)
	}
	b, err := reach(ctx, base, cfg, trust, a, power{a.Prefix(), linking}, sessionName(a.Request.Job), nil)
	if err != nil {
		return nil, err
	}
	return b, b.assume(ctx)
}

// files are the files of the delivery as they are there, manifest.json first, and when the first of them was begun.
func (b *bucket) files(ctx context.Context, manifestSHA256 string) (files []contracts.Link, first time.Time, err error) {
	there, first, err := b.contents(ctx)
	if err != nil {
		return nil, first, err
	}
	manifest, ok := there[contracts.ManifestName]
	if !ok {
		return nil, first, contracts.Reject(contracts.DeliveryExpired, "%s is not there any more", *b.key(contracts.ManifestName))
	}
	m, err := b.manifest(ctx, manifestSHA256, manifest.Size)
	if err != nil {
		return nil, first, err
	}
	named := []contracts.Volume{{Name: contracts.ManifestName, Size: manifest.Size}}
	for _, v := range append(named, m.Volumes...) {
		found, ok := there[v.Name]
		switch {
		case !contracts.IsFileOf(b.attempt.Request.Job, v.Name):
			return nil, first, contracts.Reject(contracts.DeliveryChanged, "the manifest names %.80q, which is no file of a delivery", v.Name)
		case !ok:
			return nil, first, contracts.Reject(contracts.DeliveryExpired, "%s is not there any more", *b.key(v.Name))
		case found.Size != v.Size:
			return nil, first, contracts.Reject(contracts.DeliveryChanged, "%s has %d bytes, and had %d when it was delivered", *b.key(v.Name), found.Size, v.Size)
		}
		files = append(files, found)
	}
	return files, first, nil
}

// manifest reads the manifest that has that digest, in bounded memory: first to compare the digest, then for what it says.
func (b *bucket) manifest(ctx context.Context, sum string, size int64) (m contracts.Manifest, err error) {
	changed := contracts.Reject(contracts.DeliveryChanged, "%s is not the manifest that was delivered", *b.key(contracts.ManifestName))
	if size > contracts.MaxManifestBytes {
		return m, changed
	}
	found, err := b.get(ctx, contracts.ManifestName, func(_ *stored, body io.Reader) error {
		return digest(b.attempt, &stored{size: size, sha256: sum}, body)
	})
	if err == nil && !found {
		return m, contracts.Reject(contracts.DeliveryExpired, "%s is not there any more", *b.key(contracts.ManifestName))
	}
	if err == nil {
		m, err = b.summary(ctx, sum, size)
	}
	if errors.Is(err, errOtherContent) {
		err = changed
	}
	return m, err
}

// contents are the visible objects of the folder that can be a delivery's, without links, and when the first was begun.
func (b *bucket) contents(ctx context.Context) (there map[string]contracts.Link, first time.Time, err error) {
	there = map[string]contracts.Link{}
	err = b.objects(ctx, func(name string, o types.Object) {
		if !contracts.IsFileOf(b.attempt.Request.Job, name) {
			return
		}
		there[name] = contracts.Link{Name: name, Size: aws.ToInt64(o.Size), ETag: aws.ToString(o.ETag)}
		if at := aws.ToTime(o.LastModified); first.IsZero() || at.Before(first) {
			first = at
		}
	})
	return there, first, err
}

// expiry is when the delivery may be gone: as its objects say where a tag counts, whatever the house's record says now.
func (b *bucket) expiry(ctx context.Context, first time.Time) (time.Time, error) {
	if b.to.Keep.By == contracts.ByTag {
		m, err := b.stat(ctx, contracts.ManifestName)
		if err != nil {
			return time.Time{}, err
		}
		if m != nil {
			if day, err := time.Parse(time.DateOnly, m.expires); err == nil {
				return day, nil
			}
		}
	}
	return b.to.Keep.Expires(first), nil
}

// link makes the links, and says until when they are good. Each opens a dialog to save the file, under its own name.
func (b *bucket) link(ctx context.Context, files []contracts.Link, expires time.Duration) (until time.Time, err error) {
	session, ok := b.role.session()
	now := time.Now()
	expires = min(expires, session.credentials.Expires.Sub(now)).Truncate(time.Second)
	if !ok || expires < time.Second {
		return until, errors.New("make links: the session is over")
	}
	sign := s3.NewPresignClient(b.client, s3.WithPresignExpires(expires), s3.WithPresignClientFromClientOptions(func(o *s3.Options) {
		o.APIOptions = nil // no span: nothing is sent
		o.Credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return session.credentials, nil })
	}))
	for i, f := range files {
		signed, err := sign.PresignGetObject(ctx, &s3.GetObjectInput{
			Bucket: b.name(), Key: b.key(f.Name), ResponseContentDisposition: aws.String(fmt.Sprintf("attachment; filename=%q", f.Name)),
		})
		if err != nil {
			return until, fmt.Errorf("link to %s: %w", *b.key(f.Name), err)
		}
		files[i].URL = signed.URL
	}
	return now.Add(expires).UTC().Truncate(time.Second), nil
}
