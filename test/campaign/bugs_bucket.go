package main

// bucketBugs are of the customer's bucket, and of uploads that another worker goes on with.
var bucketBugs = []bug{
	{
		"complete without If-None-Match", "uploader/bucket.go",
		`in.IfNoneMatch = aws.String("*")`, `in.IfNoneMatch = nil`,
		`^TestNeverOverwritesOthers$/volume`,
	},
	{
		"replace without If-Match", "uploader/bucket.go",
		`in.IfMatch = &over`, `in.IfMatch = nil`,
		`^TestLeftoverIsReplacedAsSeen$`,
	},
	{
		"manifest without If-None-Match", "uploader/bucket.go",
		`ExpectedBucketOwner: b.owner, IfNoneMatch: aws.String("*"),`, `ExpectedBucketOwner: b.owner,`,
		`^TestNeverOverwritesOthers$/manifest`,
	},
	{
		"successor's volume replaced", "uploader/commit.go",
		`case c.age(found) > 0:`, `case c.age(found) > 1<<30:`,
		`^TestNeverOverwritesOthers$/volume`,
	},
	{
		"manifest before the volumes", "uploader/commit.go",
		`if err := c.volumes(ctx, c.complete); err != nil {`,
		`_ = c.store.write(ctx, contracts.ManifestName, r.Manifest); if err := c.volumes(ctx, c.complete); err != nil {`,
		`^TestNeverOverwritesOthers$/volume`,
	},
	{
		"volumes not verified", "uploader/commit.go",
		`func() error { return c.volumes(ctx, c.verify) },`, `func() error { return nil },`,
		`^TestVolumeVanishesBeforeTheManifest$`,
	},
	{
		"an absence believed at once", "uploader/commit.go",
		`looks     = 5`, `looks     = 1`,
		`^TestEveryRequestMayFail$/HeadObject/not_there_for_a_moment`,
	},
	{
		"worker's credentials blamed on the customer", "uploader/identity.go",
		`case slices.Contains(callerRefused, code):`, `case slices.Contains(callerRefused, code) && code == "":`,
		`^TestFaultOfTheWorkersIdentity$`,
	},
	{
		"absent credentials waited for", "uploader/role.go",
		`if err := ownCredentials(ctx, r.base); err != nil {`, `if err := ownCredentials(ctx, r.base); err != nil && ctx.Err() != nil {`,
		`^TestFaultOfTheWorkersIdentity$/a_provider_that_has_none`,
	},
	{
		"wrong clock taken for a refusal", "uploader/judge.go",
		`case skewed(err):`, `case err == nil:`,
		`^TestClocksDiffer$`,
	},
	{
		"session's end by another's clock", "uploader/role.go",
		`until = now.Add(until.Sub(theirs))`, `_ = theirs`,
		`^TestClocksDiffer$/theirs_is_behind`,
	},
	{
		"manifest read without its checksum", "uploader/bucket.go",
		`in.ChecksumMode = types.ChecksumModeEnabled`, `in.ChecksumMode = ""`,
		`^TestBitsFlipOnTheWayBack$`,
	},
	{
		"part sent without its checksum", "uploader/bucket.go",
		"			in.ChecksumCRC64NVME = &sum\n		}\n		return b.client.UploadPart", "		}\n		return b.client.UploadPart",
		`^TestBitsFlipOnTheWayThere$/UploadPart`,
	},
	{
		"error inside a 200 believed to be final", "uploader/judge.go",
		`case "SlowDown", "RequestTimeout", "InternalError",`, `case "SlowDown", "RequestTimeout",`,
		`^TestJudge$`,
	},
	{
		"manifest's absence believed at once", "uploader/commit.go",
		"		there, err = c.store.read(ctx, contracts.ManifestName, len(c.receipt.Manifest))\n		return there != nil, err", "		there, err = c.store.read(ctx, contracts.ManifestName, len(c.receipt.Manifest))\n		return true, err",
		`^TestManifestIsNotSeenAtOnce$`,
	},
	{
		"manifest believed without a signature", "uploader/proof.go",
		`case !a.FleetKey.ProvesManifest(`, `case s.size < 0 && !a.FleetKey.ProvesManifest(`,
		`^TestDeliveredBelievesNoStranger$`,
	},
	{
		"volumes of a found manifest not looked at", "uploader/proof.go",
		`if err := b.hasVolumes(ctx, m); err != nil {`, `if err := b.hasVolumes(ctx, m); err != nil && ctx.Err() != nil {`,
		`^TestDeliveredBelievesNoStranger$`,
	},
	{
		"look into a bucket that is not counted", "consumer/claim.go",
		`s.Looks++`, `s.Looks = 0`,
		`^TestCrashLoopBeforeThereIsARecordEnds$`,
	},
	{
		"FIPS endpoint not asked for", "uploader/bucket.go",
		`o.EndpointOptions.UseFIPSEndpoint, o.EndpointOptions.UseDualStackEndpoint = endpointVariants(ctx, base)`, `_, _ = endpointVariants(ctx, base)`,
		`^TestEndpointVariants$`,
	},
	{
		"errors of any length read", "uploader/direct.go",
		`most = maxErrorBytes`, `most = 1 << 40`,
		`^TestHostileStore$/s3/an_endless_error`,
	},
	{
		"only known uploads aborted", "uploader/uploader.go",
		`return errors.Join(append(errs, abortListed(ctx, s, nil))...)`, `return errors.Join(errs...)`,
		`^TestEveryRequestMayFail$/CreateMultipartUpload`,
	},
	{
		"older attempts' uploads kept", "uploader/preflight.go",
		`return abortAll(ctx, b, left, append(slices.Clone(keep), probe))`, `return abortAll(ctx, b, left[:0], append(slices.Clone(keep), probe))`,
		`^TestBeginAbortsWhatOlderAttemptsLeft$`,
	},
	{
		"upload that is not recorded", "uploader/archive.go",
		`err = p.journal.Upload(ctx, contracts.Upload{Name: name, ID: id}); err != nil {`,
		`_, err = p.journal.Upload, nil; err != nil {`,
		`^TestUploadIsRecordedFirst$`,
	},
	{
		"upload taken away that a successor may go on with", "uploader/archive.go",
		`err = fmt.Errorf("record the upload of %s: %w", name, err)`,
		`err = errors.Join(fmt.Errorf("record the upload of %s: %w", name, err), p.store.abort(ctx, contracts.Upload{Name: name, ID: id}))`,
		`^TestUploadIsRecordedFirst$`,
	},
	{
		"note of a job that was claimed anew", "consumer/janitor.go",
		`return newer(c.records.DeleteIf(ctx, sweepKey(tenant, job), note))`, `return c.records.Delete(ctx, sweepKey(tenant, job))`,
		`^TestJanitorForgetsNothingNew$`,
	},
	{
		"external ID not sent", "uploader/role.go",
		`ExternalId:      aws.String(d.ExternalID),`, ``,
		`^TestDeliverToBucket$`,
	},
	{
		"session policy not sent", "uploader/role.go",
		`Policy:          aws.String(policy),`, `Policy: map[string]*string{}[policy],`,
		`^TestDeliverToBucket$`,
	},
	{
		"session policy of all jobs", "uploader/role.go",
		`bucket + "/" + prefix + "*",`, `bucket + "/" + strings.TrimSuffix(prefix, "/") + "*",`,
		`^TestSessionPolicyAllowsOneFolder$`,
	},
	{
		"session policy of the whole bucket", "uploader/role.go",
		`bucket + "/" + prefix + "*", nil`, `bucket + "/*", nil`,
		`^TestConduct$`,
	},
	{
		"lists of the whole bucket", "uploader/role.go",
		`bucket, below("StringLike")},`, `bucket, nil},`,
		`^TestConduct$`,
	},
	{
		"external ID told to S3", "uploader/bucket.go",
		`map[string]string{metaJob: b.attempt.Prefix(), `, `map[string]string{"for": b.to.ExternalID, metaJob: b.attempt.Prefix(), `,
		`^TestConduct$`,
	},
	{
		"bucket's owner not named", "uploader/bucket.go",
		`owner: aws.String(d.Account())}`, `owner: nil}`,
		`^TestDeliverToBucket$`,
	},
	{
		"trust not checked", "uploader/preflight.go",
		`if err := b.trust.check(ctx, b.role); err != nil {`, `if err := error(nil); err != nil {`,
		`^TestTrustIsCheckedOnce$`,
	},
	{
		"fenced worker gets credentials", "uploader/role.go",
		`if r.attempt.Err() != nil {`, `if r == nil {`,
		`^TestFencedWorkerGetsNoCredentials$`,
	},
	{
		"fenced worker hands its session on", "uploader/role.go",
		`r.newest.HasKeys() && r.attempt.Err() == nil`, `r.newest.HasKeys()`,
		`^TestFencedWorkerIsHandedNothing$`,
	},
	{
		"session for any attempt", "uploader/bucket.go",
		`prefix: a.Prefix(), attempt: a.ID}`, `prefix: a.Prefix()}`,
		`^TestSessionIsOfOneAttemptAndRecord$`,
	},
	{
		"session for any record of the tenant", "uploader/bucket.go",
		`sessionOf{to: a.Tenant.Destination, prefix:`, `sessionOf{prefix:`,
		`^TestSessionIsOfOneAttemptAndRecord$`,
	},
	{
		"refused session handed on", "uploader/role.go",
		"		cache.Invalidate()\n		r.newest = aws.Credentials{}\n", "		cache.Invalidate()\n",
		`^TestRefusedSessionIsNotHandedOn$`,
	},
	{
		"session handed on after a failure", "uploader/commit.go",
		`if err := c.volumes(ctx, c.complete); err != nil {`, `defer c.store.handOn(); if err := c.volumes(ctx, c.complete); err != nil {`,
		`^TestNoSessionAfterAFailure$`,
	},
	{
		"probe in a folder that may be delivered", "uploader/preflight.go",
		`if !b.noManifest.Load() { //`, `if false { //`,
		`^TestDeliverToBucket$`,
	},
	{
		"one question after another", "uploader/preflight.go",
		`group.Go(func() error { errs[i] = do(); return nil })`, `if errs[i] = do(); errs[i] != nil { return errs[i] }`,
		`^TestOneOfSeveralRefusals$`,
	},
	{
		"redirects followed", "uploader/uploader.go",
		`base.HTTPClient = direct(base.HTTPClient)`, `_ = direct`,
		`^TestRedirectIsNotFollowed$`,
	},
	{
		"region not named to HEAD", "uploader/judge.go",
		`case status == http.StatusMovedPermanently, status == http.StatusTemporaryRedirect:`, `case status == 0:`,
		`^TestJudge$`,
	},
	{
		"any endpoint", "uploader/bucket.go",
		`!slices.Contains(list, endpoint)`, `len(list) > 1<<30 && slices.Contains(list, endpoint)`,
		`^TestAllowedEndpoints$`,
	},
	{
		"refusal tried again", "uploader/judge.go",
		`return final, &contracts.Rejection{Code: c, Err: refused(err)}`, `return again, &contracts.Rejection{Code: c, Err: refused(err)}`,
		`^TestJudge$`,
	},
	{
		"checksums joined the wrong way round", "uploader/object.go",
		`crc = combine(crc, p.crc, p.size)`, `crc = combine(p.crc, crc, p.size)`,
		`^TestDeliverToBucket$`,
	},
	{
		"member without padding", "uploader/tar.go",
		`v.Write(zeros[:end-v.size])`, `v.Write(zeros[:0*end])`,
		`^TestSizesAroundEveryBorder$`,
	},
	{
		"short member believed", "uploader/tar.go",
		`case m.Size >= 0 && body.n != m.Size:`, `case m.Size >= 0 && body.n > m.Size:`,
		`^TestMembersThatLie$`,
	},

	// Going on where another worker stopped.
	{
		"attempt begun anew, whatever is kept", "cmd/snapfleet/deliver.go",
		`case len(kept) == 0:`, `case len(kept) >= 0:`,
		`./test ^TestTablesFinishWithinTheGracePeriod$`,
	},
	{
		"kept parts believed unseen", "uploader/resume.go",
		`if err := d.prove(ctx, v); err != nil {`, `if err := error(nil); err != nil {`,
		`^TestResumeWhatIsGone$`,
	},
	{
		"parts kept that are under way", "uploader/trail.go",
		`for n < len(t.parts) && t.parts[n].there.Load() {`, `for n < len(t.parts) {`,
		`^TestResumeAgainAndAgain$`,
	},
	{
		"digest begun again within a file", "uploader/resume.go",
		`if at.Offset > 0 {`, `if at.Offset < 0 {`,
		`^TestResumeAtEveryPart$`,
	},
	{
		"own uploads aborted", "uploader/uploader.go",
		`if !slices.ContainsFunc(keep, `, `if keep == nil || true || !slices.ContainsFunc(keep, `,
		`^TestResumeKeepsItsOwn$`,
	},
	{
		"stopped worker keeps nothing", "uploader/archive.go",
		`p.trail.close(ctx)`, `_ = p.trail.close`,
		`^TestLastWords$`,
	},
	{
		"kept gap forgotten", "exporter/resume.go",
		`f.gap = g.Reason`, `f.gap = ""`,
		`^TestResumedWithGaps$`,
	},
	{
		"kept sources not held against the allowed ones", "exporter/resume.go",
		`return s.checkAttachments() //`, `_ = s.checkAttachments(); return nil //`,
		`^TestResumeRefuses$`,
	},
}
