package main

import (
	"path"
	"strings"
)

// bug is a deliberate mistake: a substitution in one file, and the test that has to notice. It is applied by an
// overlay; the tree is never touched.
type bug struct {
	name     string
	file     string // from the repository's root
	old, new string // old stands in the file exactly once
	// run is the narrowest and fastest test that notices: of the file's package, or of another one that stands before
	// it ("./test ^TestX$"), or cases of the campaign over real processes ("case ^undisturbed$").
	run string
}

// inCampaign begins what is run as cases of the campaign.
const inCampaign = "case "

// test is the package whose tests have to notice, and which.
func (b bug) test() (pkg, run string) {
	if strings.HasPrefix(b.run, inCampaign) {
		return "./test", b.run
	}
	if pkg, run, elsewhere := strings.Cut(b.run, " "); elsewhere {
		return pkg, run
	}
	return "./" + path.Dir(b.file), b.run
}

// bugs are what the tests are tested with. Every rule that is easily forgotten is broken here, one at a time.
var bugs = []bug{
	// The queue and the record.
	{
		"ack before the outcome", "consumer/job.go",
		`c.settle(ctx, m, c.process(ctx, m))`,
		`c.settle(ctx, m, fate{end: acked}); c.settle(ctx, m, c.process(ctx, m))`,
		`^TestOneRequestOneDelivery$`,
	},
	{
		"DONE before the outcome", "consumer/job.go",
		"	o := c.deliveredOutcome(r)\n	if err := c.publish(ctx, o); err != nil {\n		return err\n	}\n",
		"	o := c.deliveredOutcome(r)\n	defer func() { _ = c.publish(ctx, o) }()\n",
		`^TestOwnerDies$`,
	},
	{
		"outcome before COMMITTED", "consumer/job.go",
		`if err := c.work.Seal(ctx, a, receipt); err != nil {`,
		`if err := c.publish(ctx, c.deliveredOutcome(r)); err != nil { return err }; if err := c.work.Seal(ctx, a, receipt); err != nil {`,
		`^TestOneRequestOneDelivery$`,
	},
	{
		"no last look at the bucket", "consumer/job.go",
		`found, err := c.found(ctx, r)`, `found, err := (*delivery)(nil), error(nil)`,
		`^TestDeliveryThatStandsEndsTheJob$`,
	},
	{
		"refused request not kept", "consumer/claim.go",
		`if err := c.ledger.Bury(ctx, m, job, why); err != nil {`, `if err := error(nil); err != nil {`,
		`^TestBadEnds$/unknown_version`,
	},
	{
		"another tenant's subject", "consumer/job.go",
		`if err == nil && req.Tenant != m.Tenant() {`, `if err == nil && req.Tenant == "" {`,
		`^TestRefusedRequestsAreKeptWithTheReason$`,
	},
	{
		"owner without a fence", "consumer/lease.go",
		`l.cancel(fmt.Errorf("%w: no heartbeat within %v", ErrLeaseLost, cfg.Fence))`, `_ = fmt.Sprint()`,
		`^TestOwnerWithoutRecordsStopsBeforeItsSuccessorStarts$`,
	},
	{
		"attempt that never stalls", "consumer/lease.go",
		`if l.stalled() {`, `if false {`,
		`^TestBadEnds$/an_attempt_hangs`,
	},
	{
		"takeover without observation", "consumer/claim.go",
		`age < c.cfg.Observe {`, `age < 0 {`,
		`^TestOneRequestOneDelivery$`,
	},
	{
		"same attempt after a takeover", "consumer/claim.go",
		`next.AttemptID = attemptID(next.Attempt)`, `next.AttemptID = r.AttemptID`,
		`^TestLostUploadStartsAgain$`,
	},
	{
		"crashes not counted", "consumer/claim.go",
		`next.Crashes++`, `_ = next.Crashes`,
		`^TestCrashLoopEnds$`,
	},
	{
		"own swap not recognised", "consumer/record.go",
		`case readErr == nil && now.Write == r.Write:`, `case readErr == nil && now.Write == "":`,
		`^TestEveryCallFailsOnce$`,
	},
	{
		"swap of any revision", "consumer/record.go",
		`return s.Update(ctx, key, value, revision)`, `return revision + 1, s.Put(ctx, key, value)`,
		`^TestRandomFaults$`,
	},
	{
		"lost upload waited for", "consumer/verdict.go",
		`v.act = restart`, `v.act = retry`,
		`^TestLostUploadStartsAgain$`,
	},
	{
		"rejection tried again", "consumer/verdict.go",
		`case r.State == running && rejected:`, `case r.State == "" && rejected:`,
		`^TestBadEnds$/destination_refuses`,
	},
	{
		"refusal ends a commit", "consumer/verdict.go",
		`case r.State == running && rejected:`, `case rejected:`,
		`^TestRefusalPastThePointOfNoReturnIsWaitedFor$`,
	},
	{
		"janitor that aborts nothing", "consumer/janitor.go",
		`err = c.work.Abort(ctx, a, r.Uploads)`, `_ = a`,
		`^TestJanitor$`,
	},
	{
		"BackOff set", "consumer/setup.go",
		`MaxDeliver: -1,`, `MaxDeliver: -1, BackOff: []time.Duration{time.Minute},`,
		`^TestSetup$`,
	},
	{
		"MaxDeliver 5", "consumer/setup.go",
		`MaxDeliver: -1,`, `MaxDeliver: 5,`,
		`^TestSetupRefusesWhatDiffers$/max_deliver`,
	},
	{
		"buffer while disconnected", "consumer/jetstream.go",
		"		nats.ReconnectBufSize(-1),\n", "",
		`^TestConnectBuffersNothing$`,
	},

	// The bucket.
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
		"		there, err = c.store.read(ctx, contracts.ManifestName)\n		return there != nil, err", "		there, err = c.store.read(ctx, contracts.ManifestName)\n		return true, err",
		`^TestManifestIsNotSeenAtOnce$`,
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

	// The database.
	{
		"no lock before the snapshot", "exporter/exporter.go",
		`if c == nil {`, `if c == nil || c.schema != "" {`,
		`^TestAlteredWhileOpening$`,
	},
	{
		"catalog not compared", "exporter/exporter.go",
		`if !before.equal(after) {`, `if before == nil {`,
		`^TestLookedAtAgain$`,
	},
	{
		"siblings for the smallest tenant", "exporter/exporter.go",
		`if work <= chunk {`, `if work < 0 {`,
		`^TestSmallTenant$`,
	},
	{
		"settings by whatever is called so", "exporter/session.go",
		`SELECT pg_catalog.set_config(`, `SELECT set_config(`,
		`^TestTenantsCodeDoesNotRun$`,
	},
	{
		"siblings not on the snapshot", "exporter/exporter.go",
		`begin+"SET TRANSACTION SNAPSHOT '"+id+"'; "+s.exporter.settings()`, `begin+s.exporter.settings()`,
		`^TestOneInstant$`,
	},
	{
		"siblings on instants of their own", "exporter/exporter.go",
		`if err := s.server.taken(slot); err != nil {`, `if err := exec(ctx, conn, "COMMIT; "+begin+s.exporter.settings()); err != nil {`,
		`^TestOneInstant$`,
	},
	{
		"sibling on another server", "exporter/exporter.go",
		`if !here.equal(s.instant) {`, `if here.XID == "" {`,
		`^TestAnotherServer$`,
	},
	{
		"loss of the holder unnoticed", "exporter/exporter.go",
		"	s.startWatch()\n", "",
		`^TestKilled$`,
	},
	{
		"rows hidden by policies", "exporter/catalog.go",
		`case len(secured) > 0:`, `case len(secured) > 1<<30:`,
		`^TestRefusals$/row_security`,
	},
	{
		"quotes in names", "exporter/catalog.go",
		`return pgx.Identifier{schema, r.name}.Sanitize()`, "return `\"` + schema + `\".\"` + r.name + `\"`",
		`^TestOddNames$`,
	},
	{
		"no lock on anything", "exporter/session.go",
		`names[i] = "ONLY " + r.quoted(schema)`, `names[i] = "pg_catalog.pg_class /* " + r.quoted(schema) + " */"`,
		`^TestAlteredWhileReading$/TRUNCATE`,
	},
	{
		"row_security on", "exporter/session.go",
		`SET LOCAL row_security = off;`, `SET LOCAL row_security = on;`,
		`^TestRightsThatEndMidway$`,
	},
	{
		"tenant's code in an index", "exporter/table.go",
		`plain: leaf.code, `, `plain: false, `,
		`^TestTenantsCodeDoesNotRun$`,
	},
	{
		"attachment table's code", "exporter/catalog.go",
		`if read[r.oid] && (`, `if len(read) > 1<<30 && (`,
		`^TestAttachmentTablesCode$`,
	},
	{
		"search_path of the role", "exporter/session.go",
		`SET LOCAL search_path = ''; `, ``,
		`^TestHostileDefaults$`,
	},
	{
		"DateStyle of the role", "exporter/session.go",
		`SET LOCAL DateStyle = 'ISO, YMD'; `, ``,
		`^TestHostileDefaults$`,
	},
	{
		"floats of the role", "exporter/session.go",
		`SET LOCAL extra_float_digits = 3; `, ``,
		`^TestHostileDefaults$`,
	},
	{
		"children's rows twice", "exporter/table.go",
		`"SELECT %s FROM ONLY %s%s"`, `"SELECT %s FROM %s%s"`,
		`^TestPartitionsAndInheritance$`,
	},
	{
		"command tag ignored", "exporter/table.go",
		`done.rows = tag.RowsAffected()`, `_ = tag`,
		`^TestPartitionsAndInheritance$`,
	},
	{
		"carriage return without quotes", "exporter/values.go",
		` | zeros(x^each*'\r')`, ``,
		`^TestEveryValueIsPostgreSQLs$`,
	},
	{
		"times before 2000 a day late", "exporter/values.go",
		`day, micros = day-1, micros+dayMicros`, `micros += dayMicros`,
		`^TestEveryValueIsPostgreSQLs$`,
	},
	{
		"backslash at the end of a row", "exporter/fields.go",
		`asCSV(c, len(columns) == 1)`, `asCSV(c, false)`,
		`^TestEveryValueIsPostgreSQLs$`,
	},
	{
		"tenant's cast makes JSON", "exporter/fields.go",
		`f.casts = c.user && c.casts`, `f.casts = false`,
		`^TestNoCodeMakesJSON$`,
	},
	{
		"JSON of a table with code", "exporter/fields.go",
		`return f.foreign || code && !f.native`, `return f.foreign || code && false`,
		`^TestNoCodeMakesJSON$`,
	},
	{
		"rows of a copy not counted", "exporter/rows.go",
		"\tl.rows++\n\treturn l.spill()", "\treturn l.spill()",
		`^TestPartitionsAndInheritance$`,
	},
	{
		"page lost between two chunks", "exporter/table.go",
		`c.first, c.last = first, first+step`, `c.first, c.last = first, first+step-1`,
		`^TestChunksAreTheWhole$`,
	},
	{
		"gzip without an end", "exporter/snapshot.go",
		`if err := gz.finish(); err != nil {`, `if err := error(nil); err != nil {`,
		`^TestNamesAndShapes$`,
	},
	{
		"CRC of one piece dropped", "exporter/snapshot.go",
		`gz.add(done.sum)`, `if t.left > 1 { gz.add(done.sum) }`,
		`^TestNamesAndShapes$`,
	},
	{
		"slot of the session", "exporter/slots.go",
		`pg_try_advisory_xact_lock(`, `pg_try_advisory_lock(`,
		`^TestSlotIsTheTransactions$`,
	},
	{
		"siblings without a slot", "exporter/exporter.go",
		`"SELECT "+s.server.slotColumn()+", "+instantColumns`, `"SELECT 0, "+instantColumns`,
		`^TestFullDatabase$`,
	},
	{
		"newer attempt's sessions ended", "exporter/session.go",
		`return err == nil && n <= a.Number`, `return err == nil && n > 0`,
		`^TestSessionNames$`,
	},
	{
		"sessions of jobs that begin alike", "exporter/session.go",
		`p := "snapfleet/" + a.Tenant.Name + "/" + a.Request.Job + "/"`, `p := "snapfleet/" + a.Tenant.Name + "/" + a.Request.Job`,
		`^TestSessionNames$`,
	},

	// Attachments.
	{
		"any key of an allowed bucket", "exporter/config.go",
		` && strings.HasPrefix(key, prefix)`, ``,
		`^TestForbiddenAttachments$`,
	},
	{
		"dots in keys", "exporter/config.go",
		`if segment == "." || segment == ".." {`, `if segment == "..." {`,
		`^TestForbiddenAttachments$`,
	},
	{
		"file fetched without If-Match", "exporter/source.go",
		", IfMatch: aws.String(`\"` + f.etag + `\"`)}", `}`,
		`^TestChangedMidway$`,
	},
	{
		"gap that nobody hears of", "exporter/snapshot.go",
		`if f.gap != "" {`, `if f.gap == "?" {`,
		`^TestGaps$`,
	},

	// Nouns.
	{
		"slash in a file name", "contracts/layout.go",
		"strings.ContainsRune(`/\\%:*?\"<>|~`, r),", "strings.ContainsRune(`\\%:*?\"<>|~`, r),",
		`^TestAttachmentFile$`,
	},
	{
		"receipt of another delivery", "contracts/receipt.go",
		`hex.EncodeToString(sum[:]) != digest {`, `hex.EncodeToString(sum[:]) == "" {`,
		`^TestJoinReceiptRefuses$`,
	},
	{
		"repeated request is another", "contracts/request.go",
		"	r.RequestedAt = time.Time{}\n", "",
		`^TestRequestDigest$`,
	},
	{
		"format not asked for", "consumer/claim.go",
		` || asked.Format != "" && m.Format != asked.Format`, ``,
		`^TestRecordOfADeliveryInAFormatIsLost$`,
	},
	{
		"format of another day", "uploader/resume.go",
		`d.format = cmp.Or(c.Format, contracts.CSV)`, `d.format = cmp.Or(a.Format(), contracts.CSV)`,
		`^TestResumeKeepsTheFormat$`,
	},
	{
		"format not of the wish", "contracts/request.go",
		`r.RequestedAt = time.Time{}`, `r.RequestedAt, r.Format = time.Time{}, ""`,
		`^TestRequestDigest$`,
	},
	{
		"format not counted", "uploader/verify.go",
		`append(v.report.Problems, addsUp(m)...)`, `addsUp(m)`,
		`^TestVerifyFindsEveryLie$`,
	},
}
