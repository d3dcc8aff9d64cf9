package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"
	"github.com/snapfleet/snapfleet/consumer"
	"github.com/snapfleet/snapfleet/contracts"
	"go.opentelemetry.io/otel/sdk/trace"
)

func TestRedact(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ in, want string }{
		{"nothing to hide", "nothing to hide"},
		{"dial nats://user:pw@host:4222: refused", "dial nats://***@host:4222: refused"},
		{"nats://a:b@one:1,nats://c:d@two:2", "nats://***@one:1,nats://***@two:2"},
		{"cannot parse `postgres://u:p@h/db?sslmode=x`: no", "cannot parse `postgres://***`: no"},
		{"postgresql://h/db", "postgresql://***"},
		{"host=h password=pw dbname=d", "host=h password=*** dbname=d"},
		{"host=h password='p w\\'x' dbname=d", "host=h password=*** dbname=d"},
		{"PGPASSWORD", "PGPASSWORD"},
		{"https://h/?token=abc&x=1", "https://h/?token=***&x=1"},
		{"sign with whsec_c2VjcmV0+/=, not", "sign with whsec_***, not"},
		{"s3://bucket/tenant/job/", "s3://bucket/tenant/job/"},
		{"user:s3cr3tP@127.0.0.1:1: refused", "***@127.0.0.1:1: refused"},
		{"t0ken@127.0.0.1:1: refused", "***@127.0.0.1:1: refused"},
		{"nats://user:s3c@r3tP@host: refused", "nats://***@host: refused"},
		{"nats://user:s3c/r3tP@host: refused", "nats://***@host: refused"},
		{"nats://user:s3c r3tP@host, tls://a:b c@two: refused", "nats://***@host, tls://***@two: refused"},
		{`parse "nats://u:x\"nats://y z@host": invalid`, `parse "nats://***@host": invalid`},
		{"a:b@one:1,c:d@two:2", "***@two:2"},
		{"WS://u:p@host", "WS://***@host"},
		{"postgres://u:s3 cr3t@h/db refused", "postgres://*** refused"},
		{"password = 's3 cr3t", "password = ***"},
		{`password=s3\ cr3t x`, "password=*** x"},
		{`{"SecretAccessKey":"s3+/cr3t"}`, `{"SecretAccessKey":***}`},
		{"aws_secret_access_key = s3cr3t", "aws_secret_access_key = ***"},
		{"key AKIAIOSFODNN7EXAMPLE", "key AKIA***"},
		{"seed SUAM6ZIHDZCBLQ3TKZ27NZTHPCQVJNS6VCJVAQPGZJXTQPBQMIMTRWA2PI", "seed ***"},
		{"write to someone@example.com", "write to someone@example.com"},
		{"write it as " + databaseHint, "write it as " + databaseHint},
		{"write it as " + databaseHint + " or nats://u:p@h", "write it as " + databaseHint + " or nats://***@h"},
		{"arn:aws:iam::123456789012:role/x, 2026-11-30 19:00:00", "arn:aws:iam::123456789012:role/x, 2026-11-30 19:00:00"},
	} {
		if got := redact(c.in); got != c.want {
			t.Errorf("redact(%q) = %q, want %q", c.in, got, c.want)
		}
	}
}

// FuzzRedact: no secret is left of an error that quotes a connection string, in any form that a server takes.
func FuzzRedact(f *testing.F) {
	for _, password := range []string{"s3cr3tP", "s3c@r3tP", "s3c/r3tP", "s3c r3tP", "nats://x", "a'b\"c`d", "%41%zz", "x,y:z@", "\n\t?#[]"} {
		f.Add("user", password)
	}
	f.Fuzz(func(t *testing.T, user, password string) {
		if len(password) < leastSecret || len(user) > 20 || len(password) > 100 || strings.Contains(databaseHint+"***", password) {
			return // too short to be a secret, or a text that we print ourselves
		}
		for _, form := range []string{"%s:%s@host:4222", "nats://%s:%s@host:4222", "tls://h1,nats://%s:%s@h2", " ws://%s:%s@h2"} {
			configured := fmt.Sprintf(form, user, password)
			var known secretTexts
			known.addNATS(configured)
			for _, text := range []string{configured + ": refused", fmt.Sprintf("parse %q: invalid port", configured)} {
				if left := redactPart(known.redact(text)); strings.Contains(left, password) && !strings.Contains(fmt.Sprintf(form, user, "")+": refusedparse invalid port", password) {
					t.Errorf("%q is left of %q", left, text)
				}
			}
		}
	})
}

// TestNoLoginIsPrinted runs the program: it prints no login that it cannot connect with.
func TestNoLoginIsPrinted(t *testing.T) {
	t.Parallel()
	for _, server := range []string{
		"user:s3cr3tP@127.0.0.1:1", "s3cr3tP@127.0.0.1:1", "nats://user:x@s3cr3tP@127.0.0.1:1", "nats://user:s3cr3tP/x@127.0.0.1:1",
		"nats://user:y s3cr3tP@127.0.0.1:1", "nats://a:b@127.0.0.1:1, user:s3cr3tP@127.0.0.1:2", "user:s3cr3tP @127.0.0.1:1", "nats://user:s3cr3tP%zz@127.0.0.1:1",
	} {
		r := snapfleet(t, nil, "status", "--nats-url="+server)
		if strings.Contains(r.out+r.err, "s3cr3tP") || r.code == exitOK {
			t.Errorf("%s: exit %d: %s%s", server, r.code, r.out, r.err)
		}
	}
}

func TestExitCode(t *testing.T) {
	t.Parallel()
	interrupted, cancel := context.WithCancelCause(t.Context())
	cancel(errInterrupted)
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, exitOK},
		{errors.New("anything"), exitFailed},
		{fmt.Errorf("x: %w", usagef("y")), exitUsage},
		{fmt.Errorf("x: %w", consumer.ErrNoJob), exitNotFound},
		{contracts.Reject(contracts.UnknownTenant, "x"), exitNotFound},
		{fmt.Errorf("x: %w", contracts.Reject(contracts.JobConflict, "x")), exitRejected},
		{fmt.Errorf("x: %w", consumer.ErrTooLate), exitRejected},
		{fmt.Errorf("x: %w", explain(exitUnproven, errors.New("y"), "", "")), exitUnproven},
		{verdict(consumer.Status{}), exitJobFailed},
		{fmt.Errorf("x: %w", nats.ErrNoServers), exitUnreachable},
		{fmt.Errorf("x: %w", &net.OpError{Op: "dial", Err: errors.New("refused")}), exitUnreachable},
	} {
		if got := exitCode(t.Context(), c.err); got != c.want {
			t.Errorf("%v: exit %d, want %d", c.err, got, c.want)
		}
		if _, ok := exitMeaning[c.want]; !ok {
			t.Errorf("exit %d has no meaning", c.want)
		}
	}
	if got := exitCode(interrupted, errors.New("anything")); got != exitInterrupted {
		t.Errorf("interrupted: exit %d", got)
	}
	if got := exitCode(interrupted, nil); got != exitOK {
		t.Errorf("a drained worker: exit %d", got)
	}
}

func TestPrintError(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		want string
	}{
		{errors.New("dial nats://u:p@h: no"), "snapfleet: dial nats://***@h: no\n"},
		{
			fmt.Errorf("submit: %w", contracts.Reject(contracts.UnknownTenant, "tenant x is not registered")),
			"snapfleet: tenant x is not registered\n" +
				"    cause: no tenant of that name is registered, or its record\n" +
				"           was removed\n" +
				"    fix:   register it with `snapfleet tenant set`, then ask\n" +
				"           again under a new job id, or with `snapfleet dead\n" +
				"           replay`\n",
		},
		{explain(0, errors.New("w"), "c", "f"), "snapfleet: w\n    cause: c\n    fix:   f\n"},
	} {
		var b bytes.Buffer
		printError(&b, 64, c.err)
		if b.String() != c.want {
			t.Errorf("got\n%s\nwant\n%s", b.String(), c.want)
		}
	}
}

func TestMeter(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	began := time.Unix(0, 0)
	var m meter
	p := func(bytes int64) contracts.Progress {
		return contracts.Progress{Phase: contracts.WritingTables, Bytes: bytes, BytesTotal: 100 * mib}
	}
	for _, c := range []struct {
		after time.Duration
		bytes int64
		want  string
	}{
		{0, 0, "0 B of about 100 MiB"},
		{10 * time.Second, 20 * mib, "20 MiB of about 100 MiB, 2.0 MiB/s, 40s to go"},
		{20 * time.Second, 60 * mib, "60 MiB of about 100 MiB, 3.0 MiB/s, 13s to go"},
		{50 * time.Second, 120 * mib, "120 MiB, 2.0 MiB/s"},                             // the estimate is exceeded; the window has moved
		{60 * time.Second, 10 * mib, "10 MiB of about 100 MiB"},                         // another attempt
		{70 * time.Second, 10 * mib, "10 MiB of about 100 MiB"},                         // nothing moved
		{80 * time.Second, 10*mib + 1, "10 MiB of about 100 MiB, 0 B/s, 99h0m0s to go"}, // hardly
	} {
		m.see(began.Add(c.after), c.bytes)
		if got := m.volume(p(c.bytes)); got != c.want {
			t.Errorf("after %v: %q, want %q", c.after, got, c.want)
		}
	}
}

func TestLines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		c := console{}
		v := c.progress(&b, false, "acme/j1")
		v.show("queued", contracts.Progress{})
		v.show("queued", contracts.Progress{}) // nothing changed
		time.Sleep(5 * time.Second)            // virtual
		p := contracts.Progress{Phase: contracts.WritingTables, TablesTotal: 3, FilesTotal: 2}
		v.show("running", p)
		p.Tables, p.Rows, p.Bytes, p.BytesTotal = 1, 1234, 1<<20, 4<<20
		v.show("running", p)        // too soon
		time.Sleep(2 * time.Second) // virtual
		v.show("running", p)
		p.Phase, p.BytesTotal = contracts.Committing, p.Bytes
		v.show("committing", p) // never too soon
		p.BytesTotal++
		v.show("delivered", p) // nothing is to go, whatever the totals say
		v.end(true)
		v.show("running", p)
		want := `00:00:00 acme/j1: queued
00:00:05 acme/j1: running, tables, 0/3 tables, 0/2 files
00:00:07 acme/j1: running, tables, 1/3 tables, 0/2 files, 1,234 rows, 1.0 MiB of about 4.0 MiB, 146 KiB/s, 21s to go
00:00:07 acme/j1: committing, 1/3 tables, 0/2 files, 1,234 rows, 1.0 MiB
00:00:07 acme/j1: delivered, 1/3 tables, 0/2 files, 1,234 rows, 1.0 MiB
`
		if b.String() != want {
			t.Errorf("got\n%s\nwant\n%s", b.String(), want)
		}
	})
}

func TestBars(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	c := console{width: 100}
	v := c.progress(&b, true, "acme/j1")
	v.show("running", contracts.Progress{Phase: contracts.WritingTables, Tables: 2, TablesTotal: 3, Current: "parts", Bytes: 1 << 20, BytesTotal: 4 << 20})
	v.end(true)
	v.end(false)
	v.show("running", contracts.Progress{})
	for _, want := range []string{"acme/j1", "tables", "2/3", "1.0 MiB", "✓"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is not in\n%s", want, b.String())
		}
	}
	if strings.Contains(b.String(), "attachments") {
		t.Errorf("a bar for nothing:\n%s", b.String())
	}
}

func TestLogCarriesTheTrace(t *testing.T) {
	t.Parallel()
	ctx, span := trace.NewTracerProvider().Tracer("").Start(t.Context(), "x")
	defer span.End()
	var b bytes.Buffer
	log := logFlags{LogLevel: "info", LogFormat: "auto"}.logger(&b, false)
	log.Info().Ctx(ctx).Msg("hello")
	log.Debug().Msg("quiet")
	if want := `"trace_id":"` + span.SpanContext().TraceID().String() + `"`; !strings.Contains(b.String(), want) || strings.Count(b.String(), "\n") != 1 {
		t.Errorf("%s is not in %s", want, b.String())
	}
	if log.GetLevel() != zerolog.InfoLevel {
		t.Errorf("level %v", log.GetLevel())
	}
}

func TestTenantChangeKeepsWhatIsNotGiven(t *testing.T) {
	t.Parallel()
	text := func(s string) *string { return &s }
	was := contracts.Tenant{Name: "acme", Schema: "s", Destination: contracts.Destination{
		Bucket: "b", Region: "r", RoleARN: "a", ExternalID: "x", Owner: "1", Endpoint: "e",
	}, Format: contracts.JSONL}
	set := tenantSetCmd{Region: text("r2"), Owner: text(""), VolumeSize: new(tenantSize)}
	*set.VolumeSize = 5
	want := was
	want.Destination.Region, want.Destination.Owner, want.Limits.VolumeBytes = "r2", "", 5
	if got := set.change(was); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestExportSaysTheFormat(t *testing.T) {
	t.Parallel()
	for _, want := range []contracts.Format{contracts.CSV, contracts.JSONL} {
		e := exportCmd{Schema: "acme", Format: want}
		if a, err := e.attempt(time.Now()); err != nil || a.Format() != want || a.Tenant.Format != want {
			t.Errorf("%q: %+v, %v", want, a, err)
		}
	}
}

func TestWrap(t *testing.T) {
	t.Parallel()
	const long = "aaaaaaaaaa bbbbbbbbbb cccccccccc"
	if got := wrap(long, 21); got != "aaaaaaaaaa bbbbbbbbbb\ncccccccccc" {
		t.Errorf("%q", got)
	}
	if got := wrap("a\nb", 80); got != "a\nb" {
		t.Errorf("%q", got)
	}
}
