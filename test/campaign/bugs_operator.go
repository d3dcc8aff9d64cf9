package main

// operatorBugs are of what operators run the fleet with: checks, rotation, pauses, schedules, filters, the house, the
// webhook, and who may do what.
var operatorBugs = []bug{
	// What is known of destinations.
	{
		"one slow check at a time", "consumer/turns.go",
		`group.SetLimit(abreast)`, `group.SetLimit(1)`,
		`^TestManySlowDestinations$`,
	},
	{
		"what went wrong in a round is told of nobody", "consumer/turns.go",
		`return errors.Join(problems...)`, `return nil`,
		`^TestEach$`,
	},
	{
		"one thing that goes wrong ends a round", "consumer/turns.go",
		`			return nil
		})
	}
	_ = group.Wait()`, `			return outcomes[i]
		})
		if errors.Join(outcomes...) != nil {
			break
		}
	}
	_ = group.Wait()`,
		`^TestEach$`,
	},
	{
		"told again and again", "consumer/checkup.go",
		"		if same {\n			k.Untold = nil\n		}\n", "",
		`^TestWhatBreaksIsToldOnceAndWhatIsMendedToo$`,
	},
	{
		"broken for as long as it was well", "consumer/checkup.go",
		`k.Since = was.At`, `k.Since = was.Since`,
		`^TestWhatIsKnownAfterACheck$`,
	},
	{
		"what no answer proves taken for a refusal", "uploader/check.go",
		`	case denied(err):
		return nil
	}
	return fmt.Errorf("ask`, `	case err != nil:
		return nil
	}
	return fmt.Errorf("ask`,
		`^TestNothingButARefusalMakesATrustPolicySecure$`,
	},
	{
		"check that leaves what it wrote", "uploader/check.go",
		"	c.tidy()\n", "",
		`^TestEveryRequestOfACheckMayFail$`,
	},
	{
		"check that leaves something and is ok", "uploader/check.go",
		`s.Result, s.Reason = finding(what)`, ``,
		`^TestNoCheckIsOKThatWasNotAnswered$`,
	},

	// The external ID.
	{
		"switched though the record is another", "consumer/rotation.go",
		`!reflect.DeepEqual(t, proven)`, `!reflect.DeepEqual(t.Destination, proven.Destination)`,
		`^TestRotation$`,
	},
	{
		"switched though nothing was found out", "cmd/snapfleet/rotate.go",
		`result != contracts.CheckOK`, `result == contracts.CheckFailed`,
		`^TestTenantRotate$`,
	},
	{
		"trust policy of one external ID", "cmd/snapfleet/policy.go",
		`range []string{d.ExternalID, d.NextExternalID}`, `range []string{d.ExternalID}`,
		`^TestPolicyOfARotationAcceptsBothExternalIDs$`,
	},
	{
		"any value in a template", "deploy/customer/customer.go",
		`return v.record().Validate()`, `return nil`,
		`^TestNothingOfAValueBreaksOutOfADocument$`,
	},

	// Pauses and dead letters.
	{
		"jobs begun in a pause", "consumer/crowd.go",
		`if delay := s.c.pauses.wait(s.tenant); delay > 0 {`, `if delay := s.c.pauses.wait(s.tenant); delay < 0 {`,
		`^TestPauseKeepsQueuedRequestsAndResumeBeginsThem$`,
	},
	{
		"commit held by a pause", "consumer/claim.go",
		`delay > 0 && r.State == running && !r.Cancel {`, `delay > 0 {`,
		`^TestPauseFinishesWhatIsPastItsPointOfNoReturn$`,
	},
	{
		"earlier pauses forgotten", "consumer/pause.go",
		`next.Earlier = recent(c.spans(now), now)`, ``,
		`^TestRequestDoesNotAgeInAPause$`,
	},
	{
		"dead letter for another tenant", "consumer/dead.go",
		`if req.Tenant != l.Tenant {`, `if req.Tenant == "" {`,
		`^TestWhatIsNoRequestIsNotReplayed$`,
	},

	// Schedules.
	{
		"run begun beside another", "consumer/runs.go",
		`case !over:`, `case !over && last == nil:`,
		`^TestARunUnderWayIsNotBegunTwice$`,
	},
	{
		"missed run begun beside its catch-up", "consumer/runs.go",
		`case fired.Before(last.FiredAt):`, `case fired.Before(last.FiredAt) && !over:`,
		`^TestDecide$`,
	},
	{
		"promise that is not kept", "consumer/timekeeper.go",
		`last.Job); err != nil || known {`, `last.Job); err != nil || !known {`,
		`^TestRunsThatNeverFiredAreFound$`,
	},
	{
		"vanished schedule stays away", "consumer/timekeeper.go",
		`return c.calendar.Restore(ctx, s)`, `return nil`,
		`^TestAScheduleThatVanishesComesBack$`,
	},
	{
		"job named after the moment it was published", "consumer/timetable.go",
		`fired, err := t.fired(published)`, `fired, err := published, error(nil)`,
		`^TestJobOfAMessageThatFired$`,
	},
	{
		"local time that is skipped has no run", "consumer/timetable.go",
		`if missing := t.named(before); !missing.IsZero() && missing.Before(wall) {`, `if missing := t.named(before); !missing.IsZero() && missing.After(wall) {`,
		`^TestClocksThatChange$`,
	},
	{
		"local time that comes twice runs twice", "consumer/timetable.go",
		`if wall.Before(before) {`, `if wall.After(before) {`,
		`^TestClocksThatChange$`,
	},
	{
		"run that no server fires is not asked for", "consumer/timekeeper.go",
		`!due.IsZero() && table.firedByServer(due)`, `!due.IsZero()`,
		`^TestADayWhoseClocksChangeHasOneRun$`,
	},
	{
		"overdue after one interval", "consumer/timetable.go",
		`t.interval(now) * 3 / 2`, `t.interval(now)`,
		`^TestOverdueAfterOneAndAHalfIntervals$`,
	},

	// What is left out, and other databases.
	{
		"old attachments of unknown age left out", "exporter/filter.go",
		`" WHERE ("+older+") IS NOT TRUE"`, `" WHERE NOT ("+older+")"`,
		`^TestRecentAttachments$`,
	},
	{
		"full replica left for its primary", "exporter/databases.go",
		`!isBusy(err) && `, ``,
		`^TestReplica$`,
	},
	{
		"conflicts not told", "consumer/claim.go",
		`Conflicts: r.Conflicts, FleetKey: c.fleetKey}`, `FleetKey: c.fleetKey}`,
		`^TestConflictsAreCounted$`,
	},
	{
		"excluded tables looked at", "exporter/exporter.go",
		` AND oid <> ALL ($2::oid[])`, ` AND $2::oid[] IS NOT NULL`,
		`^TestExcludedTablesAreNotTouched$`,
	},

	// The house.
	{
		"links' session that writes", "uploader/role.go",
		`rights{objects: []string{"s3:GetObject"}`, `rights{objects: []string{"s3:GetObject", "s3:PutObject", "s3:DeleteObject"}`,
		`^TestASessionForLinksReadsOneFolder$`,
	},
	{
		"others' lifecycle rules lost", "uploader/house.go",
		`return append(slices.DeleteFunc(slices.Clone(rules), isOurs), ours)`, `return []types.LifecycleRule{ours}`,
		`^TestExpiryIsARuleBesideTheOthers$`,
	},
	{
		"links into customers' buckets", "consumer/links.go",
		`!h.Holds(*o)`, `h.Destination.Bucket == ""`,
		`^TestLinksAreMadeOnlyOfWhatTheHouseHolds$`,
	},
	{
		"links to what was not delivered", "uploader/proof.go",
		`hex.EncodeToString(sum.Sum(nil)) != s.sha256`, `hex.EncodeToString(sum.Sum(nil)) == ""`,
		`^TestNoLinksToWhatWasNotDelivered$`,
	},

	// The webhook.
	{
		"refusal taken for acceptance", "consumer/webhook.go",
		`a.Status < 300`, `a.Status < 500`,
		`^TestWebhookPostsAgainUntilTheReceiverHasIt$`,
	},
	{
		"event posted to wherever it is sent", "consumer/webhook.go",
		`return http.ErrUseLastResponse`, `return nil`,
		`^TestWebhookPostsAgainUntilTheReceiverHasIt$`,
	},

	// What is told of it all.
	{
		"request that is held back is said to be late", "consumer/census.go",
		`age = max(0, age-s.pauses.held(tenant, published, now))`, `age = max(0, age)`,
		`^TestCensusCountsAJobUnderItsState$`,
	},
	{
		"takeover counted as a further attempt", "consumer/claim.go",
		`kind = claimTakeover`, `kind = claimAgain`,
		`./test ^TestMetricsOfTrouble$`,
	},
	{
		"control characters printed", "cmd/snapfleet/console.go",
		"	c.out, c.err = screen{out, c.colors}, screen{err, c.colors}\n", "",
		`^TestVerifyOfAStrangersManifest$`,
	},
	{
		"OpenTelemetry on though it is disabled", "cmd/snapfleet/config.go",
		`case strings.EqualFold(disabled, "true"):`, `case disabled == "true":`,
		`^TestTraceExporters$`,
	},
	{
		"durations without a trace", "cmd/snapfleet/worker.go",
		`EnableOpenMetrics: true`, `EnableOpenMetrics: false`,
		`./test ^TestMetricsPage$`,
	},
	{
		"batch that ends before its last part", "uploader/batches.go",
		`one.last-one.first+1`, `one.last-one.first`,
		`^TestBatches$`,
	},
	{
		"messages without tenant and job in their baggage", "consumer/telemetry.go",
		`propagation.Baggage{}.Inject(ctx, header)`, ``,
		`./test ^TestOneTrace$`,
	},

	// NATS.
	{
		"status that reads every record", "consumer/newest.go",
		`if end-first > window {`, `if end-first > 1<<40 {`,
		`^TestTheNewestJobsAreReadWithoutTheOthers$`,
	},
	{
		"list that ends with its first answer", "consumer/newest.go",
		`return got, last + 1, nil`, `return got, 0, nil`,
		`^TestNewestCellsOfABucket$`,
	},
	{
		"streams that are kept once", "consumer/setup.go",
		`p.stream.Replicas = o.Replicas`, ``,
		`./test ^TestCluster$`,
	},
	{
		"silent destination tried as often as ever", "consumer/claim.go",
		`retryDelay(int(m.Delivered())-1, c.cfg)`, `retryDelay(0, c.cfg)`,
		`^TestSilentDestinationIsTriedLessAndLess$`,
	},
	{
		"dead letter of a run that nobody can replay", "consumer/job.go",
		`m = asRequest{m, body}`, `_ = body`,
		`^TestDeadLettersOfRuns$`,
	},
	{
		"verdict that was not recorded", "consumer/job.go",
		`v, err = verdict{act: letGo}, fmt.Errorf("%w, over: %w", lost, err)`, ``,
		`^TestVerdictThatComesTooLate$`,
	},
}
