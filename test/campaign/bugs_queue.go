package main

// queueBugs are of the queue and of the record of a job.
var queueBugs = []bug{
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
		"refused request not kept", "consumer/refuse.go",
		`err = c.ledger.Bury(ctx, m, job, why)`, `err = nil`,
		`^TestBadEnds$/unknown_version`,
	},
	{
		"refused request not answered", "consumer/refuse.go",
		`if isRun(m.Subject()) {`, `if m != nil {`,
		`^TestWhateverIsPublishedIsBuried$`,
	},
	{
		"a changed record noticed again and again", "consumer/recordnote.go",
		`next := knownRecord{Fields: now, Untold: known.Untold}`, `next := knownRecord{Fields: known.Fields, Untold: known.Untold}`,
		`^TestChangedRecordIsNoticed$`,
	},
	{
		"a request's age by its publisher's word alone", "consumer/claim.go",
		`req.ValidateAt(m.Published()); err != nil`, `req.ValidateAt(req.RequestedAt); err != nil`,
		`^TestRequestFromTheFuture$`,
	},
	{
		"receipts among the records", "consumer/record.go",
		`if err := s.pieces.Put(ctx, receiptKey(r, d, n), p); err != nil {`, `if err := s.Put(ctx, receiptKey(r, d, n), p); err != nil {`,
		`^TestPiecesAreApart$`,
	},
	{
		"a request takes a run of a schedule", "consumer/runs.go",
		`|| !table.last(at).Equal(at) {`, `|| !table.last(at).Equal(at) || at.After(now) {`,
		`^TestNobodyTakesARun$`,
	},
	{
		"dead letter with every header of the publisher", "consumer/deadletter.go",
		`Header: sendable(m.Header())}`, `Header: nats.Header(m.Header())}`,
		`^TestWhateverIsPublishedIsBuried$`,
	},
	{
		"dead letter on the subject that the publisher chose", "consumer/deadletter.go",
		`Subject: contracts.DeadSubject(m.Tenant()),`, `Subject: "snapshot.dead." + m.Tenant(),`,
		`^TestWhateverIsPublishedIsBuried$`,
	},
	{
		"forged headers kept", "consumer/deadletter.go",
		` || hasPrefixFold(name, contracts.HeaderPrefix) {`, ` {`,
		`^TestWhateverIsPublishedIsBuried$`,
	},
	{
		"caller's headers written into", "consumer/jobs.go",
		`Data: body, Header: nats.Header{}}`, `Data: body, Header: nats.Header(header)}`,
		`^TestSubmitKeepsWhatTheQueueDropped$`,
	},
	{
		"no share of the queue for each tenant", "consumer/setup.go",
		`MaxMsgsPerSubject: contracts.MaxTenantRequests, DiscardNewPerSubject: true,`, ``,
		`^TestShareOfATenant$`,
	},
	{
		"small messages of NATS not noticed", "consumer/payload.go",
		`most > 0 && most < MinPayload`, `most > 0 && most < 1`,
		`^TestSmallPayload$`,
	},
	{
		"record without a bound", "consumer/lease.go",
		`size > maxRecordBytes {`, `size > 1<<20 {`,
		`^TestRecordFits$`,
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
		"lease whose context is kept for ever", "consumer/lease.go",
		`l.cancel(nil)`, ``,
		`^TestTheContextOfALeaseIsReleased$`,
	},
	{
		"worker that has ended reports on", "consumer/consumer.go",
		`defer c.unregister()`, ``,
		`^TestAWorkerThatHasEndedReportsNothing$`,
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
		"job ended for the worker's own fault", "consumer/verdict.go",
		`busy.Busy(), faulty && r.State != failing:`, `busy.Busy(), faulty && r.State == failed:`,
		`^TestJudgeOfAWorkersFault$`,
	},
	{
		"faulty worker is ready", "consumer/consumer.go",
		`if len(serious) > 0 {`, `if len(serious) > 1<<30 {`,
		`^TestFaultsAndReadiness$`,
	},
	{
		"missing right tried again", "consumer/record.go",
		`if _, refused := AsNoRight(err); refused {`, `if _, refused := AsNoRight(err); refused && ctx.Err() != nil {`,
		`^TestMissingRightIsFinal$`,
	},
	{
		"dropped subscription not asked for again", "consumer/faults.go",
		`_ = c.nc.ForceReconnect()`, `_ = c.nc.IsConnected()`,
		`^TestRightsAndQueuesThatComeBack$`,
	},
	{
		"bucket waited for at the end", "consumer/faults.go",
		`stop := context.AfterFunc(c.leaving, func() { cancel(ErrShutdown) })`, `stop := context.AfterFunc(context.Background(), func() { cancel(ErrShutdown) })`,
		`^TestWorkerThatStopsDoesNotWaitForABucket$`,
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
		`err = c.work.Abort(abort, a, r.Uploads)`, `_, _ = a, abort`,
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
		"connection closed by two refused logins", "consumer/jetstream.go",
		`		nats.IgnoreAuthErrorAbort(), // else two refused logins in a row close the connection for good
`, ``,
		`^TestRefusedLoginsDoNotCloseTheConnection$`,
	},
	{
		"closed connection unnoticed", "consumer/faults.go",
		`			end(err)
			c.interrupt(err)
`, `			_ = err
`,
		`^TestRunEndsWhenTheConnectionIsClosed$`,
	},
	{
		"buffer while disconnected", "consumer/jetstream.go",
		"		nats.ReconnectBufSize(-1),\n", "",
		`^TestConnectBuffersNothing$`,
	},
}
