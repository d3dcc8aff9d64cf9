package uploader

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/minio/crc64nvme"

	"github.com/snapfleet/snapfleet/contracts"
)

// Metadata of every object that we write, with its job and attempt. Each principal that may write to the bucket can write the same.
// Only the MAC of a manifest proves that this fleet wrote it.
const (
	metaJob     = "snapfleet-job"     // "tenant/job/"
	metaAttempt = "snapfleet-attempt" // contracts.Attempt.ID
	metaExpires = "snapfleet-expires" // as the tag, which only those can read who have a right of its own
	metaSHA256  = "snapfleet-sha256"  // of manifest.json, hex
	metaMAC     = "snapfleet-mac"     // of manifest.json, see contracts.FleetKey
)

// bucket is a customer's bucket as one job sees it. It implements store.
type bucket struct {
	cfg     Config
	attempt contracts.Attempt
	to      contracts.Destination
	role    *role
	trust   *trustChecks
	kept    *sessions
	creds   *aws.CredentialsCache
	client  *s3.Client
	owner   *string // must own the bucket, in every request
	// noManifest says that none stood when it was asked for, in this verb or in the one before.
	noManifest atomic.Bool
	// unsigned leaves the body out of the signature: TLS guards it on the way and the checksum at the
	// other end, and SHA-256 of every byte would cost as much again as all the rest.
	unsigned func(*s3.Options)
}

// openBucket assumes the customer's role for one verb of a job, or goes on with the session of the verb before. The
// client is built from nothing but the tenant's record and the worker's HTTP client: no setting of the environment can
// send a delivery elsewhere.
func openBucket(ctx context.Context, base aws.Config, cfg Config, trust *trustChecks, kept *sessions, a contracts.Attempt) (*bucket, error) {
	if err := a.Tenant.WithDefaults().Validate(); err != nil {
		return nil, err
	}
	if !contracts.ValidJob(a.Request.Job) {
		return nil, contracts.Reject(contracts.InvalidRequest, "job %.80q is not a valid name", a.Request.Job)
	}
	handed := kept.take(sessionFor(a))
	b, err := reach(ctx, base, cfg, trust, a, power{a.Prefix(), delivering(a.Tenant.Destination)}, sessionName(a.Request.Job), handed)
	if err != nil {
		return nil, err
	}
	b.kept = kept
	b.noManifest.Store(handed != nil && handed.noManifest)
	// Now, so that a role that refuses is named as such and not as a failed request.
	if err := b.assume(ctx); err != nil {
		return nil, err
	}
	return b, nil
}

// reach makes what speaks to a bucket, in sessions of that name and power. It sends no request.
func reach(ctx context.Context, base aws.Config, cfg Config, trust *trustChecks, a contracts.Attempt, may power, name string, handed *session) (*bucket, error) {
	d := a.Tenant.Destination
	if d.Bucket == "" {
		return nil, contracts.Reject(contracts.NoDestination, "tenant %s has no bucket", a.Tenant.Name)
	}
	secure, err := allowed(d.Endpoint, cfg.AllowEndpoints)
	if err != nil {
		return nil, err
	}
	r, err := newRole(ctx, base, cfg, d, may, name, handed)
	if err != nil {
		return nil, err
	}
	b := &bucket{cfg: cfg, attempt: a, to: d, role: r, trust: trust, creds: r.cached(), owner: aws.String(d.Account())}
	b.client = s3.New(s3.Options{
		Region:      d.Region,
		Credentials: b.creds,
		HTTPClient:  base.HTTPClient,
		Retryer:     aws.NopRetryer{},
		// Every checksum is chosen here, where it is known why; the SDK's default differs by release.
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenRequired,
		ResponseChecksumValidation: aws.ResponseChecksumValidationWhenRequired,
	}, func(o *s3.Options) {
		o.APIOptions = append(o.APIOptions, traced)
		if d.Endpoint != "" {
			o.BaseEndpoint = aws.String(d.Endpoint)
			o.UsePathStyle = true
			return
		}
		o.EndpointOptions.UseFIPSEndpoint, o.EndpointOptions.UseDualStackEndpoint = endpointVariants(ctx, base)
	})
	b.unsigned = func(o *s3.Options) {
		if secure {
			o.APIOptions = append(o.APIOptions, v4.SwapComputePayloadSHA256ForUnsignedPayloadMiddleware)
		}
	}
	return b, nil
}

// assume opens a session, unless there is one.
func (b *bucket) assume(ctx context.Context) error {
	_, err := try(ctx, b.cfg, assuming, b.role.timeout+time.Second, b.renew, b.creds.Retrieve)
	return err
}

func sessionFor(a contracts.Attempt) sessionOf {
	return sessionOf{to: a.Tenant.Destination, prefix: a.Prefix(), attempt: a.ID}
}

func (b *bucket) handOn() {
	if b.kept == nil { // a session that may only read is of no use to a delivery
		return
	}
	if s, ok := b.role.session(); ok {
		s.noManifest = b.noManifest.Load()
		b.kept.put(sessionFor(b.attempt), s)
	}
}

// allowed reports whether the endpoint may be talked to, and whether it is reached over TLS.
func allowed(endpoint string, list []string) (secure bool, err error) {
	if endpoint == "" {
		return true, nil
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.User != nil || !slices.Contains(list, endpoint) || u.Scheme != "https" && !loopback(u) {
		return false, contracts.Reject(contracts.EndpointNotAllowed, "endpoint %.200q", endpoint)
	}
	return u.Scheme == "https", nil
}

// loopback reports whether u is plain http to this very machine.
func loopback(u *url.URL) bool {
	ip := net.ParseIP(u.Hostname())
	return u.Scheme == "http" && (u.Hostname() == "localhost" || ip != nil && ip.IsLoopback())
}

// send is try for requests to the bucket.
func send[T any](ctx context.Context, b *bucket, p purpose, request func(context.Context) (T, error)) (T, error) {
	return try(ctx, b.cfg, p, b.cfg.RequestTimeout, b.renew, request)
}

func (b *bucket) renew(began time.Time) { b.role.renew(b.creds, began) }

// key is the full name of an object. Every name that is sent to S3 is made here, but for the one that a check must not be
// able to write.
func (b *bucket) key(name string) *string { return aws.String(b.attempt.Prefix() + name) }

func (b *bucket) name() *string { return aws.String(b.to.Bucket) }

func (b *bucket) metadata() map[string]string {
	m := map[string]string{metaJob: b.attempt.Prefix(), metaAttempt: b.attempt.ID}
	if b.to.Keep.By == contracts.ByTag {
		m[metaExpires] = b.expires()
	}
	return m
}

// expires is the day from which on an object of the house's that is made now may be deleted.
func (b *bucket) expires() string { return b.to.Keep.Expires(time.Now()).Format(time.DateOnly) }

// tags say so to whoever deletes, where no rule of the bucket does.
func (b *bucket) tags() *string {
	if b.to.Keep.By != contracts.ByTag {
		return nil
	}
	return aws.String(contracts.ExpiresTag + "=" + b.expires())
}

// encryption asks for the tenant's key; without one the bucket's default applies.
func (b *bucket) encryption() (types.ServerSideEncryption, *string) {
	if b.to.KMSKeyARN == "" {
		return "", nil
	}
	return types.ServerSideEncryptionAwsKms, aws.String(b.to.KMSKeyARN)
}

func (b *bucket) create(ctx context.Context, name string) (string, error) {
	in := &s3.CreateMultipartUploadInput{
		Bucket: b.name(), Key: b.key(name), ExpectedBucketOwner: b.owner,
		ContentType: aws.String("application/x-tar"), Metadata: b.metadata(), Tagging: b.tags(),
	}
	in.ServerSideEncryption, in.SSEKMSKeyId = b.encryption()
	if !b.cfg.NoChecksum {
		in.ChecksumAlgorithm, in.ChecksumType = types.ChecksumAlgorithmCrc64nvme, types.ChecksumTypeFullObject
	}
	out, err := send(ctx, b, writing, func(ctx context.Context) (*s3.CreateMultipartUploadOutput, error) {
		return b.client.CreateMultipartUpload(ctx, in)
	})
	if err != nil {
		return "", fmt.Errorf("create an upload of %s: %w", *in.Key, err)
	}
	return aws.ToString(out.UploadId), nil
}

func (b *bucket) put(ctx context.Context, u contracts.Upload, number int, _ int64, body []byte, crc uint64) (contracts.Part, error) {
	sum := crcText(crc)
	out, err := send(ctx, b, writing, func(ctx context.Context) (*s3.UploadPartOutput, error) {
		in := &s3.UploadPartInput{
			Bucket: b.name(), Key: b.key(u.Name), UploadId: &u.ID, ExpectedBucketOwner: b.owner,
			PartNumber: aws.Int32(int32(number)), Body: bytes.NewReader(body), ContentLength: aws.Int64(int64(len(body))),
		}
		if !b.cfg.NoChecksum {
			in.ChecksumCRC64NVME = &sum
		}
		return b.client.UploadPart(ctx, in, b.unsigned)
	})
	if errors.Is(err, errGone) {
		err = ErrUploadLost
	}
	if err != nil {
		return contracts.Part{}, fmt.Errorf("upload part %d of %s: %w", number, u.Name, err)
	}
	metered.bytes.Add(ctx, int64(len(body)))
	return contracts.Part{ETag: aws.ToString(out.ETag), CRC64NVME: sum}, nil
}

func (b *bucket) complete(ctx context.Context, u contracts.Upload, over string) error {
	in := &s3.CompleteMultipartUploadInput{
		Bucket: b.name(), Key: b.key(u.Name), UploadId: &u.ID, ExpectedBucketOwner: b.owner,
		MpuObjectSize: aws.Int64(u.Size), MultipartUpload: &types.CompletedMultipartUpload{},
	}
	if over == "" {
		in.IfNoneMatch = aws.String("*")
	} else {
		in.IfMatch = &over
	}
	if !b.cfg.NoChecksum {
		in.ChecksumCRC64NVME, in.ChecksumType = &u.CRC64NVME, types.ChecksumTypeFullObject
	}
	for i, p := range u.Parts {
		part := types.CompletedPart{PartNumber: aws.Int32(int32(i + 1)), ETag: aws.String(p.ETag)}
		if !b.cfg.NoChecksum && p.CRC64NVME != "" {
			part.ChecksumCRC64NVME = aws.String(p.CRC64NVME)
		}
		in.MultipartUpload.Parts = append(in.MultipartUpload.Parts, part)
	}
	// Some stores copy the parts now.
	timeout := b.cfg.RequestTimeout + time.Duration(u.Size>>30)*10*time.Second
	_, err := try(ctx, b.cfg, finishing, timeout, b.renew, func(ctx context.Context) (*s3.CompleteMultipartUploadOutput, error) {
		return b.client.CompleteMultipartUpload(ctx, in)
	})
	return err
}

// abortTries is how often an upload is aborted: a part that was under way may survive the first time.
const abortTries = 5

func (b *bucket) abort(ctx context.Context, u contracts.Upload) error {
	if strings.Contains(u.Name, "/") || u.Name == "" {
		return fmt.Errorf("abort an upload of %.200q: not a name in the job's folder", u.Name)
	}
	for range abortTries {
		_, err := send(ctx, b, writing, func(ctx context.Context) (*s3.AbortMultipartUploadOutput, error) {
			return b.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{
				Bucket: b.name(), Key: b.key(u.Name), UploadId: &u.ID, ExpectedBucketOwner: b.owner,
			})
		})
		if err == nil {
			_, err = b.parts(ctx, u, 0)
		}
		if errors.Is(err, errGone) || errors.Is(err, errAbsent) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("abort the upload of %s: %w", u.Name, err)
		}
	}
	return fmt.Errorf("abort the upload of %s: it is still there after %d times", u.Name, abortTries)
}

// parts asks page by page, after the last part that it has seen: some stores name another one to go on after.
func (b *bucket) parts(ctx context.Context, u contracts.Upload, _ int) (found []arrived, err error) {
	const maxParts = 10_000 // of an upload, S3's own limit
	was := 0
	in := &s3.ListPartsInput{Bucket: b.name(), Key: b.key(u.Name), UploadId: &u.ID, ExpectedBucketOwner: b.owner}
	for {
		out, err := send(ctx, b, writing, func(ctx context.Context) (*s3.ListPartsOutput, error) {
			return b.client.ListParts(ctx, in)
		})
		if err != nil {
			return nil, err
		}
		for _, p := range out.Parts {
			found = append(found, arrived{
				number: int(aws.ToInt32(p.PartNumber)), size: aws.ToInt64(p.Size),
				tag: aws.ToString(p.ETag), crc: aws.ToString(p.ChecksumCRC64NVME),
			})
		}
		if !aws.ToBool(out.IsTruncated) || len(out.Parts) == 0 {
			return found, nil
		}
		last := found[len(found)-1].number
		if last <= was || len(found) > maxParts {
			return nil, contracts.Reject(contracts.StoreUnusable, "the list of an upload's parts has no end: part %d follows part %d", last, was)
		}
		was, in.PartNumberMarker = last, aws.String(strconv.Itoa(last))
	}
}

func (b *bucket) uploads(ctx context.Context) (found []contracts.Upload, err error) {
	in := &s3.ListMultipartUploadsInput{
		Bucket: b.name(), Prefix: aws.String(b.attempt.Prefix()), ExpectedBucketOwner: b.owner, MaxUploads: aws.Int32(pageSize),
	}
	for n := 1; ; n++ {
		out, err := send(ctx, b, listing, func(ctx context.Context) (*s3.ListMultipartUploadsOutput, error) {
			return b.client.ListMultipartUploads(ctx, in)
		})
		if err != nil {
			return nil, fmt.Errorf("list the uploads below %s: %w", b.attempt.Prefix(), err)
		}
		for _, u := range out.Uploads {
			name, below := strings.CutPrefix(aws.ToString(u.Key), b.attempt.Prefix())
			if below && name != "" && !strings.Contains(name, "/") { // a store may take the prefix lightly
				found = append(found, contracts.Upload{Name: name, ID: aws.ToString(u.UploadId)})
			}
		}
		if !aws.ToBool(out.IsTruncated) {
			return found, nil
		}
		next := aws.ToString(out.NextKeyMarker) + "\x00" + aws.ToString(out.NextUploadIdMarker)
		if aws.ToString(out.NextKeyMarker) == "" {
			next = ""
		}
		if err := goesOn(n, aws.ToString(in.KeyMarker)+"\x00"+aws.ToString(in.UploadIdMarker), next); err != nil {
			return nil, fmt.Errorf("list the uploads below %s: %w", b.attempt.Prefix(), err)
		}
		in.KeyMarker, in.UploadIdMarker = out.NextKeyMarker, out.NextUploadIdMarker
	}
}

// list leaves out what cannot be ours: the folder may hold any number of other people's objects.
func (b *bucket) list(ctx context.Context) (names []string, err error) {
	err = b.objects(ctx, func(name string, _ types.Object) {
		if canBeOurs(b.attempt.Request.Job, name) {
			names = append(names, name)
		}
	})
	return names, err
}

// canBeOurs reports whether a delivery, or a check of the destination, gives an object that name.
func canBeOurs(job, name string) bool {
	return contracts.IsFileOf(job, name) || name == checkObject || name == checkUpload
}

// objects hands over the visible objects of the folder, by their names in it, as the store lists them.
func (b *bucket) objects(ctx context.Context, one func(name string, o types.Object)) error {
	in := &s3.ListObjectsV2Input{
		Bucket: b.name(), Prefix: aws.String(b.attempt.Prefix()), ExpectedBucketOwner: b.owner, MaxKeys: aws.Int32(pageSize),
	}
	for n := 1; ; n++ {
		out, err := send(ctx, b, listing, func(ctx context.Context) (*s3.ListObjectsV2Output, error) {
			return b.client.ListObjectsV2(ctx, in)
		})
		if err != nil {
			return err
		}
		for _, o := range out.Contents {
			if name, below := strings.CutPrefix(aws.ToString(o.Key), b.attempt.Prefix()); below && name != "" {
				one(name, o)
			}
		}
		if !aws.ToBool(out.IsTruncated) {
			return nil
		}
		if err := goesOn(n, aws.ToString(in.ContinuationToken), aws.ToString(out.NextContinuationToken)); err != nil {
			return err
		}
		in.ContinuationToken = out.NextContinuationToken
	}
}

func (b *bucket) stat(ctx context.Context, name string) (*stored, error) {
	out, err := send(ctx, b, writing, func(ctx context.Context) (*s3.HeadObjectOutput, error) {
		return b.client.HeadObject(ctx, &s3.HeadObjectInput{
			Bucket: b.name(), Key: b.key(name), ExpectedBucketOwner: b.owner, ChecksumMode: types.ChecksumModeEnabled,
		})
	})
	if errors.Is(err, errAbsent) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return head(out.ContentLength, out.ChecksumCRC64NVME, out.ETag, out.Metadata), nil
}

func head(size *int64, crc, tag *string, metadata map[string]string) *stored {
	return &stored{
		size: aws.ToInt64(size), crc: aws.ToString(crc), tag: aws.ToString(tag),
		job: metadata[metaJob], attempt: metadata[metaAttempt], expires: metadata[metaExpires],
		sha256: metadata[metaSHA256], mac: metadata[metaMAC],
	}
}

func (b *bucket) read(ctx context.Context, name string, most int) (data []byte, err error) {
	_, err = b.get(ctx, name, func(s *stored, body io.Reader) error {
		if s.size > int64(most) {
			return errTooLarge
		}
		data, err = io.ReadAll(io.LimitReader(body, int64(most)+1))
		if err == nil && len(data) > most {
			return errTooLarge
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return data, nil
}

// get asks for an object, and hands its head and its body to use, again when the answer was cut. found is false when there
// is none. An object may be of any writer and any size: use bounds what it reads, and only what it reads is received.
func (b *bucket) get(ctx context.Context, name string, use func(*stored, io.Reader) error) (found bool, err error) {
	in := &s3.GetObjectInput{Bucket: b.name(), Key: b.key(name), ExpectedBucketOwner: b.owner}
	if !b.cfg.NoChecksum {
		in.ChecksumMode = types.ChecksumModeEnabled // a flipped bit is no stranger's manifest
	}
	var refusal error // of use, for another reason than that the body was cut
	_, err = send(ctx, b, writing, func(ctx context.Context) (struct{}, error) {
		out, err := b.client.GetObject(wantObject(ctx), in)
		if err != nil {
			return struct{}{}, err
		}
		defer out.Body.Close()
		body := &noting{r: out.Body}
		err = use(head(out.ContentLength, out.ChecksumCRC64NVME, out.ETag, out.Metadata), body)
		if body.err != nil {
			return struct{}{}, body.err
		}
		refusal = err
		return struct{}{}, nil
	})
	if errors.Is(err, errAbsent) {
		if name == contracts.ManifestName {
			b.noManifest.Store(true)
		}
		return false, nil
	}
	if err == nil {
		err = refusal
	}
	if err != nil {
		return false, fmt.Errorf("read %s: %w", *b.key(name), err)
	}
	return true, nil
}

// noting remembers why a body could not be read to its end.
type noting struct {
	r   io.Reader
	err error
}

func (n *noting) Read(p []byte) (int, error) {
	k, err := n.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		n.err = err
	}
	return k, err
}

func (b *bucket) write(ctx context.Context, name string, body []byte) error {
	metadata, sum := b.metadata(), sha256Of(body)
	mac := b.attempt.FleetKey.ManifestMAC(b.attempt.Tenant.Name, b.attempt.Request.Job, b.attempt.ID, sum, int64(len(body)))
	metadata[metaSHA256], metadata[metaMAC] = sum, cmp.Or(mac, "none")
	return b.writeTo(ctx, b.key(name), body, metadata)
}

func (b *bucket) writeTo(ctx context.Context, key *string, body []byte, metadata map[string]string) error {
	sum := crcText(crc64nvme.Checksum(body))
	_, err := send(ctx, b, writing, func(ctx context.Context) (*s3.PutObjectOutput, error) {
		in := &s3.PutObjectInput{
			Bucket: b.name(), Key: key, ExpectedBucketOwner: b.owner, IfNoneMatch: aws.String("*"),
			ContentType: aws.String("application/json"), Metadata: metadata, Tagging: b.tags(),
			Body: bytes.NewReader(body), ContentLength: aws.Int64(int64(len(body))),
		}
		in.ServerSideEncryption, in.SSEKMSKeyId = b.encryption()
		if !b.cfg.NoChecksum {
			in.ChecksumCRC64NVME = &sum
		}
		return b.client.PutObject(ctx, in, b.unsigned)
	})
	return err
}

func (b *bucket) remove(ctx context.Context, name string) error {
	_, err := send(ctx, b, writing, func(ctx context.Context) (*s3.DeleteObjectOutput, error) {
		return b.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: b.name(), Key: b.key(name), ExpectedBucketOwner: b.owner})
	})
	return err
}
