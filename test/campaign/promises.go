package main

import "slices"

// promise is an invariant of the catalogue, and bugs that break it in front of the checker of real processes.
type promise struct {
	invariant string
	bugs      []bug
}

// promises are the invariants, each with at least one bug on which its check has turned red. What is broken below
// would mostly be caught by a narrower test, too: here it is the checker that has to see it.
var promises = []promise{
	{"I1", []bug{{
		"acknowledged early", "consumer/job.go",
		`c.settle(ctx, m, c.process(ctx, m))`,
		`c.settle(ctx, m, fate{end: acked}); c.settle(ctx, m, c.process(ctx, m))`,
		`case ^undisturbed$`,
	}}},
	{"I2", []bug{{
		"dead letter twice", "consumer/deadletter.go",
		`jetstream.WithMsgID(strings.Join([]string{strings.TrimPrefix(letter.Subject, "snapshot.dead."), sum, string(reason.Code)}, "."))`, `jetstream.WithMsgID(nonce())`,
		`case ^dead-letter/lost-but-done$`,
	}}},
	{"I3", []bug{{
		"manifest first", "uploader/commit.go",
		`if err := c.volumes(ctx, c.complete); err != nil {`,
		`_ = c.store.write(ctx, contracts.ManifestName, r.Manifest); if err := c.volumes(ctx, c.complete); err != nil {`,
		`case ^undisturbed$`,
	}}},
	{"I4", []bug{{
		"manifest over a manifest", "uploader/bucket.go",
		`ExpectedBucketOwner: b.owner, IfNoneMatch: aws.String("*"),`, `ExpectedBucketOwner: b.owner,`,
		`case ^put-manifest/lost-but-done$`,
	}}},
	{"I5", []bug{{
		"outcome before the manifest", "consumer/job.go",
		`if err := c.work.Seal(ctx, a, receipt); err != nil {`,
		`if err := c.publish(ctx, c.deliveredOutcome(r)); err != nil { return err }; if err := c.work.Seal(ctx, a, receipt); err != nil {`,
		`case ^put-manifest/hang$`,
	}}},
	{"I6", []bug{{
		"instants of their own", "exporter/exporter.go",
		`"SET TRANSACTION SNAPSHOT '"+id+"'; "+s.settings(), func(before string) error { return exec(ctx, conn, before) })
	if err != nil {
		return conn, noAnswer(parent, ctx, failed(ctx, err, "join the snapshot"))
	}
	return conn, nil
}

func (s *Snapshot) openSibling(ctx context.Context, id, schema string, tables []*relation) (*pgx.Conn, error) {
	conn, err := s.joinSnapshot(ctx, id)
	if err != nil {
		return conn, err
	}
	var here instant
	var slot *int32
	if err := conn.QueryRow(ctx, "SELECT "+s.server.slotColumn()+", "+instantColumns).Scan(append([]any{&slot}, here.fields()...)...); err != nil {
		return conn, failed(ctx, err, "join the snapshot")
	}
	if !here.equal(s.instant) {`,
		`"SELECT pg_sleep(0.5); ROLLBACK; "+begin+s.settings(), func(before string) error { return exec(ctx, conn, before) })
	if err != nil {
		return conn, noAnswer(parent, ctx, failed(ctx, err, "join the snapshot"))
	}
	return conn, nil
}

func (s *Snapshot) openSibling(ctx context.Context, id, schema string, tables []*relation) (*pgx.Conn, error) {
	conn, err := s.joinSnapshot(ctx, id)
	if err != nil {
		return conn, err
	}
	var here instant
	var slot *int32
	if err := conn.QueryRow(ctx, "SELECT "+s.server.slotColumn()+", "+instantColumns).Scan(append([]any{&slot}, here.fields()...)...); err != nil {
		return conn, failed(ctx, err, "join the snapshot")
	}
	if here.XID == "" {`,
		`case ^undisturbed$`,
	}}},
	{"I7", []bug{{
		"gap that is not named", "exporter/snapshot.go",
		`if f.gap != "" {`, `if f.gap == "?" {`,
		`case ^source-head/vanishes$`,
	}}},
	{"I8", []bug{
		{
			"session as wide as the role", "uploader/role.go",
			`Policy:          aws.String(policy),`, `Policy: map[string]*string{}[policy],`,
			`case ^undisturbed$`,
		},
		{
			"transaction that could write", "exporter/session.go",
			`ISOLATION LEVEL REPEATABLE READ READ ONLY; "`, `ISOLATION LEVEL REPEATABLE READ; "`,
			`case ^undisturbed$`,
		},
	}},
	{"I9", []bug{{
		"rows in errors", "exporter/failure.go",
		`err = fmt.Errorf("%s: %w", what, withoutSecrets(err))`, `err = fmt.Errorf("%s: %w", what, err)`,
		`./test ^TestNothingSecretIsTold$`,
	}}},
	{"I10", []bug{{
		"fenced worker cleans up", "consumer/job.go",
		"	case letGo:\n		return nil\n", "	case letGo:\n		if a, err := c.attemptOf(ctx, r); err == nil { _ = c.work.Abort(ctx, a, r.Uploads) }\n		return nil\n",
		`case ^(committing|complete-first|complete-second|head-volume|put-manifest|sealing)/stop(-after)?$`, // whoever wakes up in time
	}}},
	{"I11", []bug{{
		"gzip that does not end", "exporter/snapshot.go",
		`if err := gz.finish(); err != nil {`, `if err := error(nil); err != nil {`,
		`case ^undisturbed$`,
	}}},
	{"I12", []bug{{
		"no takeover", "consumer/claim.go",
		`age < c.cfg.Observe {`, `age < 1000*c.cfg.Observe {`,
		`case ^create-tables/kill$`,
	}}},
	{"I13", []bug{{
		"janitor without a broom", "consumer/janitor.go",
		`err = c.work.Abort(abort, a, r.Uploads)`, `_, _ = a, abort`,
		`case ^part-tables/locked-out$`,
	}}},
	{"I14", []bug{{
		"sessions left open", "exporter/snapshot.go",
		`ended.Go(func() { disconnect(conn) })`, `ended.Go(func() { go func() { defer disconnect(conn); select {} }() })`,
		`case ^undisturbed$`,
	}}},
	{"I15", []bug{{
		"blame not recorded", "consumer/claim.go",
		`next.Crashes++`, `_ = next.Crashes`,
		`case ^create-tables/kill$`,
	}}},
}

// allBugs are those of the tests, and then those of the checker.
func allBugs() []bug {
	all := slices.Concat(queueBugs, bucketBugs, databaseBugs, contractBugs, operatorBugs)
	for _, p := range promises {
		all = append(all, p.bugs...)
	}
	return all
}
