package main

// contractBugs are of what is asked for and told: requests, receipts, manifests and their formats.
var contractBugs = []bug{
	{
		"slash in a file name", "contracts/layout.go",
		"strings.ContainsRune(`/\\%:*?\"<>|~`, r),", "strings.ContainsRune(`\\%:*?\"<>|~`, r),",
		`^TestAttachmentFile$`,
	},
	{
		"ids that differ only in case in one folder", "contracts/layout.go",
		`	case !caseless(id):`, `	case false:`,
		`^TestAttachmentsApart$`,
	},
	{
		"pattern that does not cross a slash", "contracts/pattern.go",
		`p.except != slices.ContainsFunc`, `r != '/' && p.except != slices.ContainsFunc`,
		`^TestPatterns$`,
	},
	{
		"receipt of another delivery", "contracts/receipt.go",
		`hex.EncodeToString(sum.Sum(nil)) != digest {`, `hex.EncodeToString(sum.Sum(nil)) == "" {`,
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
	{
		"a member's header not compared", "uploader/untar.go",
		`err != nil || !bytes.Equal(raw, want) {`, `err != nil || len(want) == 0 {`,
		`^TestVerifyRefusesWhatOthersUnpackDifferently$`,
	},
	{
		"a table decompressed to its end", "uploader/verify_rows.go",
		`b.counter.counted() > b.most:`, `b.counter.counted() > b.most && b.most < 0:`,
		`^TestVerifyStopsDecompressing$`,
	},
	{
		"the customer accused of what the source held", "uploader/verify.go",
		`say(got.OK, "%v", wrong)`, `say(false, "%v", wrong)`,
		`^TestVerifyLeavesTheCustomerOutOfIt$`,
	},
	{
		"a pipe in the folder waited for", "uploader/source.go",
		`if !found.Mode().IsRegular() {`, `if found.IsDir() {`,
		`^TestVerifyOpensPlainFilesOnly$`,
	},
}
