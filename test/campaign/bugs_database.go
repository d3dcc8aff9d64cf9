package main

// databaseBugs are of what is read: the tables and the attachments.
var databaseBugs = []bug{
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
		"settings left in the session", "exporter/session.go",
		`set_config(name, value, true)`, `set_config(name, value, false)`,
		`^TestTransactionPooler$`,
	},
	{
		"siblings not on the snapshot", "exporter/exporter.go",
		`"SET TRANSACTION SNAPSHOT '"+id+"'; "+s.settings()`, `s.settings()`,
		`^TestOneInstant$`,
	},
	{
		"siblings on instants of their own", "exporter/exporter.go",
		`if err := s.server.taken(ctx, conn, slot); err != nil {`, `if err := exec(ctx, conn, "COMMIT; "+begin+s.exporter.settings()); err != nil {`,
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
		`plain: leaf.plain(), `, `plain: false, `,
		`^TestTenantsCodeDoesNotRun$`,
	},
	{
		"attachment table's code", "exporter/catalog.go",
		`read[r.oid] && (r.kind == "v"`, `len(read) > 1<<30 && (r.kind == "v"`,
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
		"tenant's cast makes JSON", "exporter/types.go",
		`case t.kind == "e" || !t.superuser:`, `case t.kind == "e" && t.superuser:`,
		`^TestTenantsCodeDoesNotRun$`,
	},
	{
		"cast to json of an enum", "exporter/types.go",
		`case t.kind == "e" || !t.superuser:`, `case !t.superuser:`,
		`^TestOneFormOfAnEnum$`,
	},
	{
		"JSON of a table with code", "exporter/fields.go",
		`f.text == "" || c.plain && f.value == nil`, `f.text == ""`,
		`^TestCastOfASuperusers$`,
	},
	{
		"index of an owner who gains by it", "exporter/catalog.go",
		`return r.code || r.exposed`, `return r.code`,
		`^TestCodeThatIsMadeMeanwhile$`,
	},
	{
		"refused login ends the job", "exporter/failure.go",
		`return &contracts.WorkerFault{Part: contracts.FaultDatabase, Err: err}`, `return &contracts.Rejection{Code: contracts.DatabaseDenied, Err: err}`,
		`^TestRefusedLogin$`,
	},
	{
		"login that PostgreSQL cuts", "exporter/databases.go",
		`|| len(db.User) > maxRoleName {`, `|| len(db.User) > 1<<20 {`,
		`^TestLoginOfATenant$`,
	},
	{
		"share of each tenant's login", "exporter/databases.go",
		`if !template {`, `if !template || len(before) > 0 {`,
		`^TestTenantsLoginsShareTheBound$`,
	},
	{
		"partition key's code", "exporter/catalog.go",
		`partrelid, partrelid, true FROM pg_partitioned_table`, `partrelid, partrelid, true FROM pg_partitioned_table WHERE partnatts < 0`,
		`^TestAttachmentTablesCode$/partition_key`,
	},
	{
		"attachment table of an owner who gains", "exporter/attachment_copy.go",
		`plain = plain || read[r.oid] && r.plain()`, `plain = plain || read[r.oid] && r.code`,
		`^TestAttachmentsOfAnOwnerWhoGains$`,
	},
	{
		"query that cannot be planned", "exporter/exporter.go",
		`if r.code = sqlstate(err) != ""; err != nil`, `if r.code = false; err != nil`,
		`^TestCompiledCodeThatFails$`,
	},
	{
		"query that calls the tenant's function", "exporter/catalog.go",
		`; c.functions[name] {`, `; c.functions[name+"?"] {`,
		`^TestQueryThatCallsTheTenant$`,
	},
	{
		"text of an error of the attachment query", "exporter/attachments.go",
		`err = withoutText(s.queryAttachments())`, `err = s.queryAttachments()`,
		`^TestErrorOfAnAttachmentQuery$`,
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
		"slots counted that other roles hold", "exporter/slots.go",
		`s.isOurs("a.usename")`, `"true"`,
		`^TestLocksOfOtherRoles$`,
	},
	{
		"refusal at first sight", "exporter/exporter.go",
		`if confirms(before, err) {`, `if before == nil || confirms(before, err) {`,
		`^TestRefusalIsLookedAtAgain$`,
	},
	{
		"names in the role's encoding", "exporter/session.go",
		`c.RuntimeParams["client_encoding"] = name, "UTF8"`, `c.RuntimeParams["geqo"] = name, "on"`,
		`^TestNamesInEveryEncoding$`,
	},
	{
		"JSON that is not UTF-8", "exporter/rows.go",
		`if l.json != "" && !utf8.Valid(`, `if l.json == "?" && !utf8.Valid(`,
		`^TestBytesThatAreNotUTF8$`,
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
		"store that is silent waited for", "exporter/watchdog.go",
		`func() { cancel(silent) }`, `func() {}`,
		`^TestWatchdog$`,
	},
	{
		"trickle taken for progress", "exporter/watchdog.go",
		`b.w.got += n; b.w.got >= least`, `b.w.got += n; b.w.got > 0`,
		`^TestWatchdog$`,
	},
	{
		"giant row given to pgx", "exporter/wire.go",
		`length(head) > maxMessage`, `length(head) < 0`,
		`^TestAttachmentRowsAreBounded$`,
	},
	{
		"two attachments with one id uploaded", "exporter/attachments.go",
		`seen[id], folders[folded] = true, f.id()`, `folders[folder+f.filename()] = f.id()`,
		`^TestAttachmentsOfOneName$`,
	},
	{
		"misspelt attachment query taken for a tenant without the table", "exporter/attachments.go",
		`s.exporter.cfg.Attachments.Query == DefaultAttachmentsQuery && c.find(defaultAttachments) == nil {`, `c.find("file_atachments") == nil && s.exporter.cfg.Attachments.Query != DefaultAttachmentsQuery || c.find(defaultAttachments) == nil {`,
		`^TestNoAttachmentTable$`,
	},
	{
		"gap that nobody hears of", "exporter/snapshot.go",
		`if f.gap != "" {`, `if f.gap == "?" {`,
		`^TestGaps$`,
	},
}
