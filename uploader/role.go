package uploader

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/snapfleet/snapfleet/contracts"
)

// errFenced says that an attempt that is over asked for credentials.
var errFenced = errors.New("the attempt is over: no more credentials")

// stsTimeout bounds one call of STS, unless a shorter one bounds every request.
const stsTimeout = 30 * time.Second

// expiryWindow is how long before their end credentials are refreshed, less up to half of it by chance,
// so that a fleet does not ask all at once.
const expiryWindow = 5 * time.Minute

// staleFor is how long credentials that could not be refreshed, but are still valid, are used before the
// next try.
const staleFor = 30 * time.Second

// role provides the credentials of a customer's role to one job, for as long as its attempt lives. It is
// used through an [aws.CredentialsCache].
type role struct {
	attempt context.Context // refuses to refresh once it is done
	client  *sts.Client
	base    aws.CredentialsProvider // the worker's own identity; nil: none
	house   bool                    // the role is the operator's own, of the house bucket
	input   sts.AssumeRoleInput
	timeout time.Duration // of one call

	mu      sync.Mutex
	handed  *session        // of the verb before, until it is used
	opened  time.Time       // when the newest session was asked for
	expires time.Time       // of the newest session
	newest  aws.Credentials // empty when they were refused
}

// newRole makes sessions of that name and power. It starts with the one that was handed on, if there is one.
func newRole(ctx context.Context, base aws.Config, cfg Config, d contracts.Destination, may power, name string, handed *session) (*role, error) {
	policy, err := policyOf(d, may.folder, may.rights)
	if err != nil {
		return nil, err
	}
	if base.Region == "" {
		base.Region = d.Region
	}
	client := sts.NewFromConfig(base, func(o *sts.Options) {
		o.Retryer = aws.NopRetryer{}
		o.APIOptions = append(o.APIOptions, traced)
		if o.BaseEndpoint != nil { // it is what was asked for: no other variant of it is known
			o.EndpointOptions.UseFIPSEndpoint, o.EndpointOptions.UseDualStackEndpoint = 0, 0
		}
	})
	return &role{attempt: ctx, client: client, base: base.Credentials, house: d.House(), handed: handed, timeout: min(stsTimeout, cfg.RequestTimeout), input: sts.AssumeRoleInput{
		RoleArn:         aws.String(d.RoleARN),
		RoleSessionName: aws.String(name),
		ExternalId:      aws.String(d.ExternalID),
		DurationSeconds: aws.Int32(int32(cfg.SessionDuration / time.Second)),
		Policy:          aws.String(policy),
	}}, nil
}

// Retrieve implements [aws.CredentialsProvider]. It asks once; whoever needs credentials for a request
// repeats that.
func (r *role) Retrieve(context.Context) (aws.Credentials, error) {
	if r.attempt.Err() != nil {
		return aws.Credentials{}, fmt.Errorf("%w: %w", errFenced, context.Cause(r.attempt))
	}
	if c, ok := r.handOver(); ok {
		return c, nil
	}
	// The attempt's context, because the cache shares one call among requests and detaches theirs.
	ctx, cancel := context.WithTimeout(r.attempt, r.timeout)
	defer cancel()
	if err := ownCredentials(ctx, r.base); err != nil {
		return aws.Credentials{}, err // no word of the customer's role: no request was sent to it
	}
	now := time.Now()
	out, err := r.client.AssumeRole(ctx, &r.input)
	if err != nil {
		if v, judged := judge(assuming, err); v == final {
			err = r.ours(judged)
		}
		return aws.Credentials{}, fmt.Errorf("assume %s: %w", *r.input.RoleArn, err)
	}
	c := out.Credentials
	if c == nil || c.AccessKeyId == nil || c.SecretAccessKey == nil || c.SessionToken == nil || c.Expiration == nil {
		return aws.Credentials{}, fmt.Errorf("assume %s: STS gave no credentials", *r.input.RoleArn)
	}
	until := *c.Expiration
	if theirs, ok := awsmiddleware.GetServerTime(out.ResultMetadata); ok {
		until = now.Add(until.Sub(theirs)) // by our clock: theirs may be hours away
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.opened, r.expires = now, until
	r.newest = aws.Credentials{
		AccessKeyID: *c.AccessKeyId, SecretAccessKey: *c.SecretAccessKey, SessionToken: *c.SessionToken,
		Source: "snapfleet.AssumeRole", CanExpire: true, Expires: until,
	}
	return r.newest, nil
}

// ours makes the operator's fault of a refusal by the operator's own role.
func (r *role) ours(err error) error {
	if rejection, ok := contracts.AsRejection(err); ok && r.house && rejection.Code == contracts.RoleDenied {
		return contracts.Fault(contracts.FaultHouseRole, "", "%s", rejection.Err.Error())
	}
	return err
}

// handOver gives the session that was handed on, once.
func (r *role) handOver() (c aws.Credentials, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.handed == nil {
		return c, false
	}
	c = r.handed.credentials
	r.opened, r.expires, r.newest, r.handed = r.handed.opened, c.Expires, c, nil
	return c, true
}

// session is the newest one, unless it was refused, or the attempt is over.
func (r *role) session() (s session, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return session{credentials: r.newest, opened: r.opened}, r.newest.HasKeys() && r.attempt.Err() == nil
}

// HandleFailToRefresh keeps using credentials that are still valid: an outage of STS, or a trust policy
// under repair, is no reason to lose an hour's work.
func (r *role) HandleFailToRefresh(_ context.Context, old aws.Credentials, err error) (aws.Credentials, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if !old.HasKeys() || !now.Before(r.expires) || errors.Is(err, errFenced) {
		return aws.Credentials{}, err
	}
	old.Expires = now.Add(staleFor)
	if old.Expires.After(r.expires) {
		old.Expires = r.expires
	}
	return old, nil
}

// AdjustExpiresBy moves the refresh forward by the cache's window, but never by more than a quarter of
// what is left: a session may be short, and credentials that could not be refreshed are kept for staleFor.
func (r *role) AdjustExpiresBy(c aws.Credentials, by time.Duration) (aws.Credentials, error) {
	c.Expires = c.Expires.Add(max(by, -time.Until(c.Expires)/4))
	return c, nil
}

// renew throws credentials away with which a request was refused that began at that time: not those of a session
// that another request has opened since, for the same reason.
func (r *role) renew(cache *aws.CredentialsCache, began time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.opened.After(began) {
		cache.Invalidate()
		r.newest = aws.Credentials{}
	}
}

// cached puts the role behind a cache that refreshes it in time.
func (r *role) cached() *aws.CredentialsCache {
	return aws.NewCredentialsCache(r, func(o *aws.CredentialsCacheOptions) {
		o.ExpiryWindow = expiryWindow
		o.ExpiryWindowJitterFrac = 0.5
	})
}

// sessionName tells the customer, in CloudTrail, which job acted. STS takes 64 characters.
func sessionName(job string) string {
	name := "snapshot-" + job
	if len(name) <= 64 {
		return name
	}
	sum := sha256.Sum256([]byte(job))
	return name[:64-9] + "." + hex.EncodeToString(sum[:4])
}

// maxPolicy is the longest inline session policy that STS takes, in characters.
const maxPolicy = 2048

type statement struct {
	Effect    string                       `json:"Effect"`
	Action    []string                     `json:"Action"`
	Resource  string                       `json:"Resource"`
	Condition map[string]map[string]string `json:"Condition,omitempty"`
}

// rights are what a session may do to one job's folder, and with the key that encrypts it.
type rights struct {
	objects []string // to the objects in it
	uploads bool     // list the uploads in it, too
	kms     []string
}

// power is over the objects below one prefix.
type power struct {
	folder string
	rights rights
}

// delivering is what a delivery does. A tag needs a right of its own, also while an object is made.
func delivering(d contracts.Destination) rights {
	r := rights{
		objects: []string{"s3:PutObject", "s3:GetObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"},
		uploads: true, kms: []string{"kms:GenerateDataKey", "kms:Decrypt"},
	}
	if d.Keep.By == contracts.ByTag {
		r.objects = append(r.objects, "s3:PutObjectTagging")
	}
	return r
}

// linking is what a link is good for, and to know what to link to.
var linking = rights{objects: []string{"s3:GetObject"}, kms: []string{"kms:Decrypt"}}

// policyOf narrows whatever the role may do to one job's folder: even with a role that may do
// everything, and a bug, nothing else can be written or read.
func policyOf(d contracts.Destination, prefix string, allow rights) (string, error) {
	partition := "aws"
	if f := strings.SplitN(d.RoleARN, ":", 3); len(f) == 3 {
		partition = f[1]
	}
	bucket := "arn:" + partition + ":s3:::" + d.Bucket
	below := func(op string) map[string]map[string]string {
		return map[string]map[string]string{op: {"s3:prefix": prefix + "*"}}
	}
	statements := []statement{
		{"Allow", allow.objects, bucket + "/" + prefix + "*", nil},
		{"Allow", []string{"s3:ListBucket"}, bucket, below("StringLike")},
	}
	if allow.uploads {
		// AWS does not say that it sets s3:prefix for this action: where it does, the prefix counts.
		statements = append(statements, statement{"Allow", []string{"s3:ListBucketMultipartUploads"}, bucket, below("StringLikeIfExists")})
	}
	if d.Endpoint == "" {
		// The bucket's default encryption may use a key that we were not told of. Which keys the role may
		// use is the customer's to say; here it is only that S3 uses them for us.
		kms := statement{
			"Allow",
			allow.kms,
			"*",
			map[string]map[string]string{"StringLike": {"kms:ViaService": "s3.*"}},
		}
		if strings.Contains(d.KMSKeyARN, ":key/") { // an alias is no resource of these actions
			kms.Resource = d.KMSKeyARN
		}
		statements = append(statements, kms)
	} else if d.KMSKeyARN != "" {
		statements = append(statements, statement{"Allow", allow.kms, d.KMSKeyARN, nil})
	}
	b, err := json.Marshal(map[string]any{"Version": "2012-10-17", "Statement": statements})
	if err != nil {
		return "", fmt.Errorf("session policy: %w", err)
	}
	if len(b) > maxPolicy {
		return "", fmt.Errorf("session policy: %d characters, STS takes %d", len(b), maxPolicy)
	}
	return string(b), nil
}

// trustChecks remembers which roles were seen to refuse us without their external ID.
type trustChecks struct {
	every time.Duration
	mu    sync.Mutex
	last  map[string]time.Time // by role ARN
}

// check asks the role to let us in without its external ID, and with a random one, and rejects it when it
// does. An error that says nothing about the role is not held against it: it has just let us in properly.
func (t *trustChecks) check(ctx context.Context, r *role) error {
	arn := *r.input.RoleArn
	t.mu.Lock()
	due := t.every > 0 && time.Since(t.last[arn]) >= t.every
	t.mu.Unlock()
	if !due {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, stsTimeout)
	defer cancel()
	var without, random error
	_ = together( // both errors are looked at
		func() error { without = r.knock(ctx, nil, trustCheckName); return nil },
		func() error { random = r.knock(ctx, aws.String(rand.Text()), trustCheckName); return nil },
	)
	switch {
	case without == nil:
		return insecure(arn, withoutID)
	case random == nil:
		return insecure(arn, randomID)
	case !denied(without), !denied(random):
		return nil
	}
	t.seen(arn, true)
	return nil
}

// seen remembers that a role has refused us as it must, or forgets that it ever did.
func (t *trustChecks) seen(arn string, refused bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if refused {
		// What is due again is as if it was never checked: a worker sees more roles in its life than it can remember.
		maps.DeleteFunc(t.last, func(_ string, at time.Time) bool { return time.Since(at) >= t.every })
		t.last[arn] = time.Now()
	} else {
		delete(t.last, arn)
	}
}

// What a role must not let us in with.
const (
	withoutID = "without the external ID"
	randomID  = "with a random external ID"
)

func insecure(arn, how string) error {
	return contracts.Reject(contracts.InsecureTrust, "%s let us in %s", arn, how)
}

// trustCheckName is the session that a delivery asks for and must not get.
const trustCheckName = "snapshot-trust-check"

// knock asks once for a session with another external ID than the role wants, or none. It returns what STS answers: nil
// when we were let in.
func (r *role) knock(ctx context.Context, externalID *string, name string) error {
	in := r.input
	in.ExternalId = externalID
	in.DurationSeconds = aws.Int32(900)
	in.RoleSessionName = aws.String(name)
	_, err := r.client.AssumeRole(context.WithValue(ctx, refusalWanted{}, true), &in)
	return err
}
