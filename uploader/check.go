package uploader

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/minio/crc64nvme"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/snapfleet/snapfleet/contracts"
)

// checkSession is a check's name in CloudTrail.
const checkSession = "snapfleet-check"

// tidyTimeout bounds the removal of what a check has written, also when nobody waits for the check any more.
const tidyTimeout = 10 * time.Second

// Check tries whatever a delivery to the tenant's bucket needs, and whatever must be refused, with a session of its own
// and with test objects that nobody else uses, and removes them. Everything that it finds is in the report. It takes
// [Config].CheckTimeout, and ten seconds more to tidy up, at the most; when ctx ends, it hears the answer to the request
// that is under way, and tidies up. Nothing of the tenant's is read or touched, and nothing of the tenant's is sent.
//
// A role that lets us in without the external ID is not used: nothing is written to its bucket.
//
// A versioned bucket keeps, of each of the two objects that were visible for a moment, a noncurrent version and a delete
// marker, until the customer's lifecycle rules remove them.
//
// NextExternalID is not looked at: whoever wants to check it passes a record with that as ExternalID.
func (u *Uploader) Check(ctx context.Context, t contracts.Tenant) contracts.Check {
	ctx, span := tracer.Start(ctx, "check", trace.WithAttributes(attribute.String("snapfleet.tenant", t.Name)))
	report := contracts.Check{
		Version: contracts.CheckVersion, Tenant: t.Name, At: time.Now().UTC(),
		Bucket: t.Destination.Bucket, Region: t.Destination.Region, RoleARN: t.Destination.RoleARN,
	}
	limit, share := u.cfg.CheckTimeout, u.cfg.CheckTimeout/checkShares
	inTime, cancel := context.WithTimeoutCause(context.WithValue(ctx, toItsEnd{}, true), limit-share,
		fmt.Errorf("the check was not through within %s", limit-share))
	defer cancel()
	// What was written has to be removed, though ctx ends.
	life, end := context.WithTimeout(context.WithoutCancel(ctx), limit+tidyTimeout)
	defer end()

	c := newCheck(t)
	c.life = life
	c.bucket, c.barred = u.reachCheck(life, c.attempt)
	for _, name := range contracts.CheckNames {
		c.step(inTime, name)
	}
	if c.ok(contracts.CheckWithoutID) && c.ok(contracts.CheckRandomID) {
		c.bucket.trust.seen(t.Destination.RoleARN, true)
	}
	c.tidy()
	report.Steps = c.steps
	endCheck(span, report)
	return report
}

func endCheck(span trace.Span, report contracts.Check) {
	span.SetAttributes(attribute.String("snapfleet.check.result", string(report.Result())))
	if why := report.Failure(); why != nil {
		span.SetStatus(codes.Error, fmt.Sprintf("%s: %s", why.Code, why.What))
		span.SetAttributes(attribute.String("error.type", string(why.Code)))
	}
	span.End()
}

// checkShares is how many requests may try in vain before a check ends: nobody waits for it for ever.
const checkShares = 5

// reachCheck is what a check speaks to the bucket with.
func (u *Uploader) reachCheck(ctx context.Context, a contracts.Attempt) (*bucket, error) {
	if u.try == nil {
		return nil, errors.New("this worker delivers to a folder on a disk and not to buckets: there is no role and no bucket to check")
	}
	if err := a.Tenant.Validate(); err != nil {
		return nil, err
	}
	cfg, share := u.cfg, u.cfg.CheckTimeout/checkShares
	cfg.SessionDuration = 15 * time.Minute // STS gives no shorter ones
	cfg.RequestTimeout, cfg.RetryFor = min(cfg.RequestTimeout, share), min(cfg.RetryFor, share)
	cfg.RetryFirst, cfg.RetryMost = min(cfg.RetryFirst, share), min(cfg.RetryMost, share/3)
	return u.try(ctx, cfg, a)
}

// checking is one call of Check. It writes as a job would whose name no job can have.
type checking struct {
	life    context.Context // of its session
	attempt contracts.Attempt
	bucket  *bucket
	barred  error  // why there is no bucket to speak to
	body    []byte // of the test objects; no other check's, so what is read back was written now
	steps   []contracts.CheckStep
	uploads []contracts.Upload // that were begun
}

// The test objects.
const (
	checkObject = "object"  // written in one request
	checkUpload = "upload"  // by an upload that is completed
	checkAbort  = "aborted" // an upload that is not
)

func newCheck(t contracts.Tenant) *checking {
	random := make([]byte, 16)
	rand.Read(random) // never fails: it ends the program instead
	id := hex.EncodeToString(random)
	t.Destination.NextExternalID = ""
	return &checking{
		attempt: contracts.Attempt{
			Tenant: t.WithDefaults(), Request: contracts.Request{Tenant: t.Name, Job: contracts.CheckFolder + id},
			Number: 1, ID: "1-" + id[:16],
		},
		body: []byte(fmt.Sprintf("{\"snapfleet_check\":%q}\n", id)),
	}
}

// key is the full name of a test object, for people.
func (c *checking) key(name string) string { return c.attempt.Prefix() + name }

// step makes one step, or skips it, and writes down what came of it.
func (c *checking) step(ctx context.Context, name contracts.CheckName) {
	s := contracts.CheckStep{Name: name, Result: contracts.CheckSkipped}
	if name == contracts.CheckAssume || c.due(name) && ctx.Err() == nil {
		began := time.Now()
		s.Result, s.Reason = finding(c.do(ctx, name))
		s.Milliseconds = time.Since(began).Milliseconds()
	}
	c.steps = append(c.steps, s)
}

// due reports whether a step can be made, after what came of those before.
func (c *checking) due(name contracts.CheckName) bool {
	switch name {
	case contracts.CheckWithoutID, contracts.CheckRandomID:
		return c.ok(contracts.CheckAssume) // who refuses everybody has not refused us for want of the external ID
	case contracts.CheckBucket:
		// STS that does not answer is nothing against the role: it has just let us in properly.
		return c.ok(contracts.CheckAssume) && c.result(contracts.CheckWithoutID) != contracts.CheckFailed &&
			c.result(contracts.CheckRandomID) != contracts.CheckFailed
	case contracts.CheckWrite:
		return c.ok(contracts.CheckBucket)
	case contracts.CheckRead, contracts.CheckDelete, contracts.CheckAbort:
		return c.ok(contracts.CheckWrite)
	case contracts.CheckMultipart, contracts.CheckOutside:
		return c.ok(contracts.CheckDelete) // nothing is made visible that could not be removed
	}
	return true
}

func (c *checking) do(ctx context.Context, name contracts.CheckName) error {
	switch name {
	case contracts.CheckAssume:
		if c.barred != nil {
			return c.barred
		}
		return c.bucket.assume(ctx)
	case contracts.CheckWithoutID:
		return c.refuses(ctx, withoutID, nil)
	case contracts.CheckRandomID:
		return c.refuses(ctx, randomID, aws.String(rand.Text()))
	case contracts.CheckBucket:
		return c.lists(ctx)
	case contracts.CheckWrite:
		return c.write(ctx)
	case contracts.CheckRead:
		return c.read(ctx)
	case contracts.CheckDelete:
		return c.remove(ctx, checkObject)
	case contracts.CheckMultipart:
		return c.completes(ctx)
	case contracts.CheckAbort:
		return c.aborts(ctx)
	case contracts.CheckOutside:
		return c.stays(ctx)
	}
	return fmt.Errorf("no such step: %s", name)
}

// result is what came of a step that was made or skipped before.
func (c *checking) result(name contracts.CheckName) contracts.CheckResult {
	for _, s := range c.steps {
		if s.Name == name {
			return s.Result
		}
	}
	return ""
}

func (c *checking) ok(name contracts.CheckName) bool { return c.result(name) == contracts.CheckOK }

// finding is what an error says about the destination: a rejection is somebody's to mend, and no other error says
// anything.
func finding(err error) (contracts.CheckResult, *contracts.Reason) {
	if err == nil {
		return contracts.CheckOK, nil
	}
	if errors.Is(err, ErrUploadLost) || errors.Is(err, errGone) || errors.Is(err, errAbsent) {
		err = contracts.Reject(contracts.WriteLost, "%w", err)
	}
	if fault, ok := contracts.AsWorkerFault(err); ok { // it is the operator's to correct, and says nothing of the customer
		advice := fault.Advice()
		return contracts.CheckInconclusive, &contracts.Reason{Code: contracts.Inconclusive, What: fault.Summary(), Cause: advice.Cause, Fix: advice.Fix}
	}
	if r, ok := contracts.AsRejection(err); ok {
		return contracts.CheckFailed, r.Reason()
	}
	unclear := contracts.Rejection{Code: contracts.Inconclusive, Err: brief(err)}
	return contracts.CheckInconclusive, unclear.Reason()
}

// brief is an error in as few words as it can be told, and no rejection: for where it says nothing about the destination,
// or answers another question.
func brief(err error) error {
	if r, ok := contracts.AsRejection(err); ok {
		return r.Err
	}
	if _, ok := errors.AsType[*refusal](err); ok {
		return err
	}
	if errorCode(err) != "" || errorStatus(err) != 0 {
		return refused(err)
	}
	return err
}

// refuses makes sure that the role does not let us in with another external ID. Only its refusal says so: after any
// other answer, and after none, it is not known.
func (c *checking) refuses(ctx context.Context, how string, externalID *string) error {
	b := c.bucket
	arn := *b.role.input.RoleArn
	_, err := try(ctx, b.cfg, assuming, b.role.timeout, func(time.Time) {}, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, b.role.knock(ctx, externalID, checkSession)
	})
	switch {
	case err == nil:
		b.trust.seen(arn, false) // the next delivery is to ask again
		return insecure(arn, how)
	case denied(err):
		return nil
	}
	return fmt.Errorf("ask %s for a session %s: %w", arn, how, brief(err))
}

// lists makes sure that the bucket is the one that is meant and tells what is in the tenant's folder.
func (c *checking) lists(ctx context.Context) error {
	return together(
		func() error { return c.bucket.vacant(ctx) },
		func() error { _, err := c.bucket.uploads(ctx); return err },
	)
}

func (c *checking) write(ctx context.Context) error {
	err := c.bucket.write(ctx, checkObject, c.body)
	if errors.Is(err, errTaken) { // the answer to an earlier try was lost; what stands there is read now
		return nil
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", c.key(checkObject), err)
	}
	return nil
}

func (c *checking) read(ctx context.Context) error {
	switch data, err := c.bucket.read(ctx, checkObject, len(c.body)); {
	case errors.Is(err, errTooLarge):
		return contracts.Reject(contracts.WriteLost, "%s was written, and more than its %d bytes are there", c.key(checkObject), len(c.body))
	case err != nil:
		return err
	case data == nil:
		return contracts.Reject(contracts.WriteLost, "%s was written and is not there", c.key(checkObject))
	case !bytes.Equal(data, c.body):
		return contracts.Reject(contracts.WriteLost, "%s was written, and %d other bytes are read back", c.key(checkObject), len(data))
	}
	return nil
}

// remove deletes a test object, and makes sure that it is gone.
func (c *checking) remove(ctx context.Context, name string) error {
	if err := c.bucket.remove(ctx, name); err != nil && !errors.Is(err, errAbsent) {
		return fmt.Errorf("delete %s: %w", c.key(name), err)
	}
	return c.shows(ctx, name, false)
}

// shows makes sure that the folder's list names a test object, or does not. Some stores need a moment for it.
func (c *checking) shows(ctx context.Context, name string, want bool) error {
	var found bool
	err := insist(ctx, func() (bool, error) {
		names, err := c.bucket.list(ctx)
		found = slices.Contains(names, name)
		return found == want, err
	})
	switch {
	case err != nil:
		return fmt.Errorf("list %s: %w", c.attempt.Prefix(), err)
	case want && !found:
		return contracts.Reject(contracts.WriteLost, "%s was written and is not listed", c.key(name))
	case found && !want:
		return contracts.Reject(contracts.WriteLost, "%s was deleted and is still listed", c.key(name))
	}
	return nil
}

// begin starts an upload of one part as a delivery does, and sends the part.
func (c *checking) begin(ctx context.Context, name string) (u contracts.Upload, err error) {
	sum := crc64nvme.Checksum(c.body)
	u = contracts.Upload{Name: name, Size: int64(len(c.body)), CRC64NVME: crcText(sum)}
	if u.ID, err = c.bucket.create(ctx, name); err != nil {
		return u, err
	}
	c.uploads = append(c.uploads, u)
	part, err := c.bucket.put(ctx, u, 1, 0, c.body, sum)
	u.Parts = []contracts.Part{part}
	return u, err
}

// completes makes an upload visible by the code that makes a delivery's visible, and removes the object.
func (c *checking) completes(ctx context.Context) error {
	u, err := c.begin(ctx, checkUpload)
	if err != nil {
		return err
	}
	err = commit{store: c.bucket, attempt: c.attempt, receipt: contracts.Receipt{Attempt: c.attempt.ID}}.complete(ctx, u)
	if r, ok := contracts.AsRejection(err); ok && r.Code == contracts.DestinationTaken { // nobody else knows the name
		return contracts.Reject(contracts.WriteLost, "%w", r.Err)
	}
	if err != nil {
		return err
	}
	if err := c.shows(ctx, u.Name, true); err != nil {
		return err
	}
	return c.remove(ctx, u.Name)
}

// aborts begins an upload, finds it and its part, aborts it, and finds neither.
func (c *checking) aborts(ctx context.Context) error {
	u, err := c.begin(ctx, checkAbort)
	if err != nil {
		return err
	}
	parts, err := c.bucket.parts(ctx, u, 0)
	if err != nil {
		return fmt.Errorf("list the parts of %s: %w", c.key(u.Name), err)
	}
	if len(parts) != 1 || parts[0].size != u.Size {
		return contracts.Reject(contracts.WriteLost, "the part that was sent of %s is not listed", c.key(u.Name))
	}
	if err := c.showsUpload(ctx, u, true); err != nil {
		return err
	}
	if err := c.bucket.abort(ctx, u); err != nil {
		return err
	}
	return c.showsUpload(ctx, u, false)
}

// showsUpload is shows for an upload that is under way.
func (c *checking) showsUpload(ctx context.Context, u contracts.Upload, want bool) error {
	var found bool
	err := insist(ctx, func() (bool, error) {
		all, err := c.bucket.uploads(ctx)
		found = slices.ContainsFunc(all, func(o contracts.Upload) bool { return o.Name == u.Name && o.ID == u.ID })
		return found == want, err
	})
	switch {
	case err != nil:
		return err
	case want && !found:
		return contracts.Reject(contracts.WriteLost, "the upload of %s was begun and is not listed", c.key(u.Name))
	case found && !want:
		return contracts.Reject(contracts.WriteLost, "the upload of %s was aborted and is still listed", c.key(u.Name))
	}
	return nil
}

// outsideKey begins like the tenant's folder, and is not in it.
func (c *checking) outsideKey() string { return c.attempt.Tenant.Name + c.attempt.Request.Job }

// stays makes sure that the session, which has power over the tenant's folder only, can write, list and read nothing
// outside of it, whatever the role may.
//
// A key that is not there is denied also to those who may read and may not list. AWS then names the right that was
// missing; another store does not, and there a right to read alone is not found out.
func (c *checking) stays(ctx context.Context) error {
	b, key := c.bucket, aws.String(c.outsideKey())
	ctx = context.WithValue(ctx, refusalWanted{}, true)
	var could, unknown []string
	note := func(what string, err error, got bool) {
		switch {
		case got:
			could = append(could, what)
		case !denied(err) || strings.Contains(errorMessage(err), "kms:"): // who is denied the key may have been let in by S3
			unknown = append(unknown, fmt.Sprintf("%s %s: %v", what, *key, brief(err)))
		}
	}
	left, err := c.writeOutside(ctx, key)
	note("write", err, err == nil || errors.Is(err, errTaken)) // taken: by an earlier try
	_, err = send(ctx, b, listing, func(ctx context.Context) (*s3.ListObjectsV2Output, error) {
		return b.client.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: b.name(), Prefix: key, MaxKeys: aws.Int32(1), ExpectedBucketOwner: b.owner})
	})
	note("list", err, err == nil)
	_, err = send(ctx, b, writing, func(ctx context.Context) (*s3.GetObjectOutput, error) { // and not HEAD, whose refusal says no more than 403
		out, err := b.client.GetObject(ctx, &s3.GetObjectInput{Bucket: b.name(), Key: key, ExpectedBucketOwner: b.owner})
		if err == nil {
			out.Body.Close() // it is empty, or somebody else's
		}
		return nil, err
	})
	note("read", err, err == nil || errors.Is(err, errAbsent) || strings.Contains(errorMessage(err), "s3:ListBucket"))
	unknown = append(unknown, left...)
	switch more := strings.Join(unknown, "; "); {
	case len(could) > 0:
		more = strings.TrimSuffix("; "+more, "; ")
		return contracts.Reject(contracts.InsecureBucket, "a session with power over %s alone can %s %s%s",
			contracts.TenantPrefix(c.attempt.Tenant.Name), strings.Join(could, " and "), *key, more)
	case more != "":
		return errors.New(more)
	}
	return nil
}

// writeOutside tries to write an empty object where it must be refused, and removes at once what may have been written.
// left says what could not be removed.
func (c *checking) writeOutside(ctx context.Context, key *string) (left []string, err error) {
	b := c.bucket
	err = b.writeTo(ctx, key, nil, b.metadata())
	if denied(err) {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(c.life, tidyTimeout) // also when nobody waits any more
	defer cancel()
	_, kept := send(ctx, b, writing, func(ctx context.Context) (*s3.DeleteObjectOutput, error) {
		return b.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: b.name(), Key: key, ExpectedBucketOwner: b.owner})
	})
	switch {
	case kept == nil, errors.Is(kept, errAbsent):
		return nil, err
	case err == nil, errors.Is(err, errTaken):
		return []string{fmt.Sprintf("%s could not be removed: %v", *key, brief(kept))}, err
	}
	return []string{fmt.Sprintf("whether %s was written is not known: %v", *key, brief(kept))}, err
}

// tidy removes what is left below the check's name: of a step that failed, of a request that took effect when nobody
// heard of it, of a check that was broken off. What it cannot remove is told by the step that made it. (A request that is
// given up, and that S3 carries out later than this, cannot be known of.)
func (c *checking) tidy() {
	if !c.wasMade(contracts.CheckWrite) {
		return
	}
	ctx, cancel := context.WithTimeout(c.life, tidyTimeout)
	defer cancel()
	names, err := c.bucket.list(ctx)
	if err != nil {
		names = []string{checkObject, checkUpload} // there can be no others
	}
	for _, name := range names {
		if err := c.bucket.remove(ctx, name); err != nil && !errors.Is(err, errAbsent) {
			c.confess(name, fmt.Errorf("%s could not be removed: %w", c.key(name), brief(err)))
		}
	}
	if !c.wasMade(contracts.CheckMultipart) && !c.wasMade(contracts.CheckAbort) {
		return
	}
	left, err := c.bucket.uploads(ctx)
	if err != nil {
		left = c.uploads
		c.confess(checkAbort, fmt.Errorf("whether an upload is left below %s is not known: %w", c.attempt.Prefix(), brief(err)))
	}
	for _, u := range left {
		if err := c.bucket.abort(ctx, u); err != nil {
			c.confess(u.Name, fmt.Errorf("the upload of %s could not be aborted: %w", c.key(u.Name), brief(err)))
		}
	}
}

func (c *checking) wasMade(name contracts.CheckName) bool {
	r := c.result(name)
	return r != "" && r != contracts.CheckSkipped
}

// confess adds to the step that has made a test object what is left of it. No step is ok that leaves something.
func (c *checking) confess(object string, what error) {
	by := map[string][]contracts.CheckName{
		checkObject: {contracts.CheckDelete, contracts.CheckWrite},
		checkUpload: {contracts.CheckMultipart},
		checkAbort:  {contracts.CheckAbort, contracts.CheckMultipart},
	}[object]
	for _, name := range append(by, contracts.CheckWrite) {
		if !c.wasMade(name) {
			continue
		}
		s := &c.steps[slices.Index(contracts.CheckNames, name)]
		if s.Result == contracts.CheckOK {
			s.Result, s.Reason = finding(what)
		} else {
			s.Reason.What += "; " + what.Error()
		}
		return
	}
}
