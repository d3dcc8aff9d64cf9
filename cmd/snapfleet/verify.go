package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/uploader"
)

type verifyCmd struct {
	Delivery string `arg:"" help:"s3://bucket/tenant/job/, or a local folder that holds manifest.json."`
	Files    bool   `short:"f" help:"List every file, too."`
	Parallel int    `default:"2" help:"Volumes that are read at once; each takes a core to decompress."`
	Region   string `group:"s3" placeholder:"REGION" help:"Region of the bucket. Default: AWS_REGION, or the profile's."`
	Endpoint string `group:"s3" placeholder:"URL" help:"S3-compatible store other than AWS, https://host[:port]."`
}

func (verifyCmd) manual() page {
	return page{
		about: `
Reads a delivery back from its first to its last byte and proves it against its manifest: every volume with its
size and CRC64NVME, every file with its size and SHA-256, every table with its rows, counted in the decompressed
CSV or JSON, and its columns; nothing missing, nothing twice, nothing besides. It trusts nothing but the manifest, and changes nothing.
A .tar must be one that snapfleet wrote, header by header: links, devices, sparse files and other modes are refused.

Memory is some MiB, and at most some twenty times the manifest. What was unpacked from the archives may lie beside them: it is
counted, and not looked at. Spreadsheets run what looks like a formula (=, +, -, @ in front) in a CSV file that they
open: import the columns as text.

It is for whoever owns the bucket, too: it needs s3:ListBucket and s3:GetObject, no NATS and no database.`,
		examples: []example{
			{"A delivery in a bucket.", "snapfleet verify s3://acme-snapshots/acme/2026-03-31-143022/"},
			{"In a store other than AWS.", "snapfleet verify s3://acme/acme/2026-03-31-143022/ --endpoint=https://minio.internal:9000 --region=us-east-1"},
			{"A folder, with every file.", "snapfleet verify ./acme/2026-03-31-143022 --files"},
		},
		env:   [][2]string{envAWS, envColor},
		exits: []int{exitOK, exitFailed, exitUsage, exitNotFound, exitRejected, exitUnproven, exitUnreachable, exitInterrupted},
	}
}

// Run reads everything.
func (v *verifyCmd) Run(ctx context.Context, c *console) error {
	source, err := v.source(ctx)
	if err != nil {
		return err
	}
	report, err := c.verify(ctx, source, v.Parallel)
	if err != nil {
		return unreadable(err)
	}
	c.report(report, v.Files)
	return unproven(report, "something was changed, removed or added after the delivery, or damaged on its way",
		"ask for a snapshot under a new job id; keep this folder for the investigation")
}

// unproven is nil for a delivery that is proven. cause and fix are for one that was changed.
func unproven(r uploader.Report, cause, fix string) error {
	switch what := fmt.Errorf("the delivery is not what its manifest says: %s", plural(len(r.Problems)+r.More, "problem")); {
	case r.OK():
		return nil
	case r.Intact():
		return explain(exitUnproven, fmt.Errorf("the delivery is whole, and the data in it is wrong: %s", plural(len(r.Problems), "problem")),
			"every size, CRC64NVME and SHA-256 is right: nothing was changed or damaged on the way, the delivery holds what the source gave",
			"have these tables corrected in the database, or left out (--exclude-tables), and ask for a snapshot under a new job id")
	default:
		return explain(exitUnproven, what, cause, fix)
	}
}

// verify reads a delivery and shows how far it is. parallel 0: the default.
func (c *console) verify(ctx context.Context, source uploader.Source, parallel int) (uploader.Report, error) {
	view := c.progress(c.err, c.errTTY, "verify "+source.String())
	report, err := uploader.Verify(ctx, source, uploader.VerifyOptions{
		Parallel: parallel,
		Progress: func(done, total int64) { view.show("", contracts.Progress{Bytes: done, BytesTotal: total}) },
	})
	view.end(err == nil && report.OK())
	if err == nil && c.errTTY {
		fmt.Fprintln(c.err) // below the bars
	}
	return report, err
}

// unreadable says what to do when a delivery cannot be read at all.
func unreadable(err error) error {
	var answer smithy.APIError
	switch {
	case errors.Is(err, uploader.ErrNothingThere):
		return explain(exitNotFound, err, "no delivery was made to this place, or its name is misspelt, or it was removed", "check the tenant and the job in the path: `snapfleet status` lists the jobs")
	case errors.Is(err, fs.ErrNotExist):
		return explain(exitNotFound, err, "there is no such folder", "check the path: it is the folder that holds manifest.json")
	case !errors.As(err, &answer):
		return err
	}
	told := fmt.Errorf("S3 answers %s: %s", answer.ErrorCode(), answer.ErrorMessage())
	switch answer.ErrorCode() {
	case "NoSuchBucket", "NotFound":
		return explain(exitNotFound, told, "there is no bucket of that name", "check the bucket's name, and --endpoint when it is not AWS")
	case "PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException":
		return explain(exitRejected, told, "the bucket is in another region", "give the bucket's own --region")
	case "AccessDenied", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken":
		return explain(exitRejected, told, "these credentials may not read the bucket", "use credentials that are allowed s3:ListBucket on the bucket and s3:GetObject on its objects (see AWS_PROFILE)")
	}
	return err
}

// source finds out what was meant.
func (v *verifyCmd) source(ctx context.Context) (uploader.Source, error) {
	if !strings.HasPrefix(v.Delivery, "s3:") {
		return uploader.FolderSource(v.Delivery), nil
	}
	u, err := url.Parse(v.Delivery)
	if err != nil || u.Host == "" || strings.Trim(u.Path, "/") == "" {
		return nil, usagef("%.200q is not s3://bucket/tenant/job/", v.Delivery)
	}
	prefix := strings.TrimSuffix(strings.Trim(u.Path, "/"), "/"+contracts.ManifestName)
	cloud, err := loadAWS(ctx)
	if err != nil {
		return nil, err
	}
	if v.Region != "" {
		cloud.Region = v.Region
	}
	if cloud.Region == "" {
		return nil, usagef("the bucket's region is not known: give --region or AWS_REGION")
	}
	client := s3.NewFromConfig(cloud, func(o *s3.Options) {
		if v.Endpoint != "" {
			o.BaseEndpoint = &v.Endpoint
		}
		explicit(o)
	})
	return uploader.BucketSource(client, u.Host, prefix), nil
}

// report prints what was proved, or what is wrong.
func (c *console) report(r uploader.Report, files bool) {
	m := r.Manifest
	if m.Version != 0 {
		c.facts(append([][2]string{
			{"delivery", c.bold(r.Source)},
			{"tenant", m.Tenant},
			{"job", m.Job},
			{"snapshot", when(m.Snapshot.At)},
			{"format", string(m.Format)},
			{"made by", m.Producer.Name + " " + m.Producer.Version},
		}, leftOut(m.Filter)...)...)
		fmt.Fprintln(c.out)
	}
	if len(r.Volumes) > 0 {
		rows := make([]table.Row, 0, len(r.Volumes))
		for _, v := range r.Volumes {
			rows = append(rows, table.Row{v.Name, size(v.Size), v.Files, v.CRC64NVME, c.mark(v.OK)})
		}
		c.table(table.Row{"volume", "size", "files", "crc64nvme", ""}, rows, right(2), right(3))
		fmt.Fprintln(c.out)
	}
	if files && len(r.Files) > 0 {
		rows := make([]table.Row, 0, len(r.Files))
		for _, f := range r.Files {
			lines := ""
			if f.Rows > 0 {
				lines = count(f.Rows)
			}
			rows = append(rows, table.Row{f.Name, lines, size(f.Size), f.SHA256, c.mark(f.OK)})
		}
		c.table(table.Row{"file", "rows", "size", "sha256", ""}, rows, right(2), right(3))
		fmt.Fprintln(c.out)
	}
	for i, g := range m.Gaps {
		if i == mostGaps {
			fmt.Fprintf(c.out, "gap: and %s\n", plural(len(m.Gaps)-i, "more attachment"))
			break
		}
		fmt.Fprintf(c.out, "gap: attachment %s, %.300q: %s\n", printable(cutName(g.ID)), g.Filename, printable(cutName(g.Reason)))
	}
	if r.Unpacked > 0 {
		fmt.Fprintf(c.out, "beside the archives: %s or folders that were unpacked from them, not looked at\n", plural(r.Unpacked, "file"))
	}
	if r.OK() {
		rate := ""
		if s := r.Took.Seconds(); s > 0.1 {
			rate = ", " + size(int64(float64(r.Bytes)/s)) + "/s"
		}
		fmt.Fprintf(c.out, "%s%s; %s read in %s%s\n", c.paint("proven", text.FgGreen, text.Bold), totals(&m.Totals), size(r.Bytes), took(r.Took), rate)
		return
	}
	for _, p := range r.Problems {
		fmt.Fprintln(c.out, c.paint("wrong", text.FgRed)+": "+p.String())
	}
	if r.More > 0 {
		fmt.Fprintln(c.out, c.paint("wrong", text.FgRed)+": and "+plural(r.More, "problem")+" more")
	}
}

// mostGaps is how many gaps are named.
const mostGaps = 1000

// cutName keeps of a name or a reason what fits a line.
func cutName(s string) string {
	if len(s) <= 300 {
		return s
	}
	return fmt.Sprintf("%.300s...", s)
}

func right(column int) table.ColumnConfig {
	return table.ColumnConfig{Number: column, Align: text.AlignRight, AlignHeader: text.AlignRight}
}

func (c *console) mark(ok bool) string {
	if ok {
		return c.paint("ok", text.FgGreen)
	}
	return c.paint("wrong", text.FgRed)
}
