package contracts_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
)

// requestCase is one message, and what both readers of requests have to say about it: this package, and
// the JSON Schema that publishers in other languages check with.
type requestCase struct {
	name, body string
	code       contracts.Code // empty: a good request
	// beyond: what is wrong is outside what a JSON Schema can say.
	beyond bool
}

// request returns a good request with one field written as value; an empty value leaves the field out.
func request(field, value string) string {
	fields := map[string]string{"version": "1", "tenant": `"acme"`, "job": `"2026-03-31-143022"`, "requested_at": `"2026-03-31T14:30:22Z"`}
	fields[field] = value
	var list []string
	for _, k := range []string{"version", "tenant", "job", "only", "format", "requested_at", field} {
		if v := fields[k]; v != "" {
			list = append(list, `"`+k+`":`+v)
			delete(fields, k)
		}
	}
	return "{" + strings.Join(list, ",") + "}"
}

func requestCases() []requestCase {
	const invalid, version = contracts.InvalidRequest, contracts.UnsupportedVersion
	good := request("version", "1")
	return []requestCase{
		{name: "plain", body: good},
		{name: "white space", body: "\n\t " + good + "\r\n"},
		{name: "tables only", body: request("only", `"tables"`)},
		{name: "attachments only", body: request("only", `"attachments"`)},
		{name: "only empty", body: request("only", `""`)},
		{name: "only null", body: request("only", `null`)},
		{name: "csv.gz", body: request("format", `"csv.gz"`)},
		{name: "jsonl.gz", body: request("format", `"jsonl.gz"`)},
		{name: "format empty", body: request("format", `""`)},
		{name: "format null", body: request("format", `null`)},
		{name: "tenant of one letter", body: request("tenant", `"a"`)},
		{name: "tenant of 63", body: request("tenant", `"`+strings.Repeat("a", 63)+`"`)},
		{name: "tenant escaped", body: request("tenant", `"\u0061cme"`)},
		{name: "job of 64", body: request("job", `"`+strings.Repeat("_", 64)+`"`)},
		{name: "job with leading hyphen", body: request("job", `"-1"`)},
		{name: "fraction of a second", body: request("requested_at", `"2026-03-31T14:30:22.123456789Z"`)},
		{name: "zone", body: request("requested_at", `"2026-03-31T14:30:22+05:45"`)},
		{name: "leap day", body: request("requested_at", `"2028-02-29T00:00:00Z"`)},
		{name: "exactly the limit", body: good + strings.Repeat(" ", contracts.MaxRequestBytes-len(good))},

		{name: "nothing", body: "", code: invalid},
		{name: "null", body: "null", code: version},
		{name: "array", body: "[" + good + "]", code: invalid},
		{name: "string", body: `"snapshot please"`, code: invalid},
		{name: "empty object", body: "{}", code: version},
		{name: "not JSON", body: "tenant=acme", code: invalid},
		{name: "protobuf", body: "\x0a\x04acme\xff", code: invalid},
		{name: "one byte over the limit", body: good + strings.Repeat(" ", contracts.MaxRequestBytes-len(good)+1), code: contracts.RequestTooLarge, beyond: true},
		{name: "deep", body: request("only", strings.Repeat("[", 30_000)+strings.Repeat("]", 30_000)), code: invalid},
		{name: "two values", body: good + good, code: invalid},
		{name: "trailing text", body: good + "x", code: invalid},
		{name: "invalid UTF-8", body: request("job", "\"a\xff\""), code: invalid},

		{name: "version missing", body: request("version", ""), code: version},
		{name: "version 0", body: request("version", "0"), code: version},
		{name: "version 2", body: request("version", "2"), code: version},
		{name: "version 2 with another field", body: strings.TrimSuffix(request("version", "2"), "}") + `,"priority":9}`, code: version},
		{name: "version as text", body: request("version", `"1"`), code: invalid},
		{name: "version null", body: request("version", "null"), code: version},
		{name: "version as a fraction", body: request("version", "1.5"), code: invalid},
		{name: "version beyond int64", body: request("version", "99999999999999999999"), code: invalid},

		{name: "unknown field", body: request("bucket", `"evil"`), code: invalid},
		{name: "other case", body: request("Only", `"tables"`), code: invalid},
		{name: "long s", body: `{"verſion":1,"tenant":"acme","job":"j","requested_at":"2026-03-31T14:30:22Z"}`, code: invalid},
		{name: "field twice", body: strings.TrimSuffix(good, "}") + `,"tenant":"other"}`, code: invalid, beyond: true},

		{name: "tenant missing", body: request("tenant", ""), code: invalid},
		{name: "tenant null", body: request("tenant", "null"), code: invalid},
		{name: "tenant empty", body: request("tenant", `""`), code: invalid},
		{name: "tenant a number", body: request("tenant", "7"), code: invalid},
		{name: "tenant of 64", body: request("tenant", `"`+strings.Repeat("a", 64)+`"`), code: invalid},
		{name: "tenant with slash", body: request("tenant", `"a/b"`), code: invalid},
		{name: "tenant dot dot", body: request("tenant", `".."`), code: invalid},
		{name: "tenant with dot", body: request("tenant", `"a.b"`), code: invalid},
		{name: "tenant wildcard", body: request("tenant", `"*"`), code: invalid},
		{name: "tenant wildcard tail", body: request("tenant", `">"`), code: invalid},
		{name: "tenant with space", body: request("tenant", `"a b"`), code: invalid},
		{name: "tenant with line feed", body: request("tenant", `"acme\n"`), code: invalid},
		{name: "tenant with quote", body: request("tenant", `"a'; DROP SCHEMA acme; --"`), code: invalid},
		{name: "tenant with NUL", body: request("tenant", `"acme\u0000"`), code: invalid},
		{name: "tenant with umlaut", body: request("tenant", `"müller"`), code: invalid},
		{name: "tenant with leading hyphen", body: request("tenant", `"-rf"`), code: invalid},
		{name: "tenant with leading underscore", body: request("tenant", `"_a"`), code: invalid},

		{name: "job missing", body: request("job", ""), code: invalid},
		{name: "job empty", body: request("job", `""`), code: invalid},
		{name: "job of 65", body: request("job", `"`+strings.Repeat("a", 65)+`"`), code: invalid},
		{name: "job with dot", body: request("job", `"a.receipt"`), code: invalid},
		{name: "job with slash", body: request("job", `"../x"`), code: invalid},
		{name: "job with line feed", body: request("job", `"a\n"`), code: invalid},
		{name: "job an object", body: request("job", `{}`), code: invalid},

		{name: "only unknown", body: request("only", `"schemas"`), code: invalid},
		{name: "only in capitals", body: request("only", `"Tables"`), code: invalid},
		{name: "only a list", body: request("only", `["tables"]`), code: invalid},

		{name: "format unknown", body: request("format", `"parquet"`), code: invalid},
		{name: "format without gz", body: request("format", `"jsonl"`), code: invalid},
		{name: "format in capitals", body: request("format", `"CSV.GZ"`), code: invalid},
		{name: "format a list", body: request("format", `["csv.gz"]`), code: invalid},

		{name: "requested_at missing", body: request("requested_at", ""), code: invalid},
		{name: "requested_at null", body: request("requested_at", "null"), code: invalid},
		{name: "requested_at empty", body: request("requested_at", `""`), code: invalid},
		{name: "requested_at a number", body: request("requested_at", "1774967422"), code: invalid},
		{name: "requested_at without zone", body: request("requested_at", `"2026-03-31T14:30:22"`), code: invalid},
		{name: "requested_at with a space", body: request("requested_at", `"2026-03-31 14:30:22Z"`), code: invalid},
		{name: "requested_at in small letters", body: request("requested_at", `"2026-03-31t14:30:22z"`), code: invalid},
		{name: "requested_at with comma", body: request("requested_at", `"2026-03-31T14:30:22,5Z"`), code: invalid},
		{name: "no such day", body: request("requested_at", `"2026-02-29T14:30:22Z"`), code: invalid},
		{name: "no such hour", body: request("requested_at", `"2026-03-31T24:00:00Z"`), code: invalid},
		{name: "no such zone", body: request("requested_at", `"2026-03-31T14:30:22+24:00"`), code: invalid},
		{name: "leap second", body: request("requested_at", `"2016-12-31T23:59:60Z"`), code: invalid},
		{name: "the zero time", body: request("requested_at", `"0001-01-01T00:00:00Z"`), code: invalid},
		{name: "the year 1999", body: request("requested_at", `"1999-12-31T23:59:59Z"`), code: invalid},
		{name: "the year 3000", body: request("requested_at", `"3000-01-01T00:00:00Z"`), code: invalid},
	}
}

func TestDecodeRequest(t *testing.T) {
	t.Parallel()
	for _, c := range requestCases() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r, err := contracts.DecodeRequest([]byte(c.body))
			if c.code == "" {
				if err != nil {
					t.Fatalf("refused: %v", err)
				}
				roundTrip(t, r)
				return
			}
			rejection, ok := contracts.AsRejection(err)
			if !ok || rejection.Code != c.code {
				t.Fatalf("error is %v, want a rejection %s", err, c.code)
			}
			if reason := rejection.Reason(); reason.What == "" || len(reason.What) > 400 {
				t.Errorf("what happened is %q", reason.What)
			}
		})
	}
}

func FuzzDecodeRequest(f *testing.F) {
	for _, c := range requestCases() {
		if len(c.body) < 2000 {
			f.Add([]byte(c.body))
		}
	}
	schema := compile(f, "request")
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := contracts.DecodeRequest(data)
		if err != nil {
			if _, ok := contracts.AsRejection(err); !ok {
				t.Fatalf("no rejection: %v", err)
			}
			return
		}
		roundTrip(t, r)
		if err := validate(schema, data); err != nil {
			t.Fatalf("DecodeRequest accepts what the schema refuses: %v", err)
		}
	})
}

// roundTrip asserts that an accepted request, written again, is accepted as the same request.
func roundTrip(t *testing.T, r contracts.Request) {
	t.Helper()
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	again, err := contracts.DecodeRequest(data)
	if err != nil {
		t.Fatalf("written again as %s, it is refused: %v", data, err)
	}
	if !again.RequestedAt.Equal(r.RequestedAt) {
		t.Fatalf("requested at %v, read again %v", r.RequestedAt, again.RequestedAt)
	}
	if again.RequestedAt = r.RequestedAt; again != r {
		t.Fatalf("%+v, read again %+v", r, again)
	}
	if again.Digest() != r.Digest() {
		t.Fatal("the digest changed")
	}
}

func TestRequestDigest(t *testing.T) {
	t.Parallel()
	base := contracts.Request{Version: 1, Tenant: "acme", Job: "j", RequestedAt: time.Date(2026, 3, 31, 14, 30, 22, 0, time.UTC)}
	same := base
	same.RequestedAt = same.RequestedAt.Add(time.Hour).In(time.FixedZone("", 3600))
	if base.Digest() != same.Digest() {
		t.Error("the same wish at another instant has another digest")
	}
	seen := map[string]string{base.Digest(): "base"}
	for name, change := range map[string]func(*contracts.Request){
		"version": func(r *contracts.Request) { r.Version = 2 },
		"tenant":  func(r *contracts.Request) { r.Tenant = "acm" },
		"job":     func(r *contracts.Request) { r.Job = "k" },
		"tables":  func(r *contracts.Request) { r.Only = contracts.Tables },
		"files":   func(r *contracts.Request) { r.Only = contracts.Attachments },
		"csv":     func(r *contracts.Request) { r.Format = contracts.CSV },
		"jsonl":   func(r *contracts.Request) { r.Format = contracts.JSONL },
	} {
		r := base
		change(&r)
		if other, ok := seen[r.Digest()]; ok {
			t.Errorf("%s and %s have the same digest", name, other)
		}
		seen[r.Digest()] = name
	}
	// The digest is kept in job records for as long as a job may be repeated: it must not drift.
	const want = "788fd311ca4f67f19610e90da62352478b6ee985eb44f8cd2522ed1cb2f505a1"
	if got := base.Digest(); got != want {
		t.Errorf("digest is %s, not %s", got, want)
	}
}

func TestAttemptFormat(t *testing.T) {
	t.Parallel()
	const csv, jsonl = contracts.CSV, contracts.JSONL
	for _, c := range []struct{ request, tenant, want contracts.Format }{
		{"", "", csv},
		{"", csv, csv},
		{"", jsonl, jsonl},
		{csv, "", csv},
		{csv, jsonl, csv},
		{jsonl, "", jsonl},
		{jsonl, csv, jsonl},
	} {
		a := contracts.Attempt{Request: contracts.Request{Format: c.request}, Tenant: contracts.Tenant{Format: c.tenant}}
		if got := a.Format(); got != c.want {
			t.Errorf("request %q, tenant %q: %q, want %q", c.request, c.tenant, got, c.want)
		}
	}
}

func TestWants(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		only, kind contracts.Kind
		want       bool
	}{
		{"", contracts.Tables, true},
		{"", contracts.Attachments, true},
		{contracts.Tables, contracts.Tables, true},
		{contracts.Tables, contracts.Attachments, false},
		{contracts.Attachments, contracts.Attachments, true},
		{contracts.Attachments, contracts.Tables, false},
	} {
		if got := (contracts.Request{Only: c.only}).Wants(c.kind); got != c.want {
			t.Errorf("only %q wants %q: %v", c.only, c.kind, got)
		}
	}
}

// TestRequestVersionIsAWholeNumber: 1.0 and 1e0 are integers in JSON Schema, and in JSON's other readers.
func TestRequestVersionIsAWholeNumber(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]string{
		"1": "", "1.0": "", "1e0": "", "10e-1": "", "1.5": "is no whole number", `"1"`: "is no whole number", "null": "version is 0", "2.0": "version is 2", "0.0": "version is 0",
	} {
		r, err := contracts.DecodeRequest([]byte(`{"version":` + version + `,"tenant":"acme","job":"j","requested_at":"2026-03-31T14:30:22Z"}`))
		if want == "" && (err != nil || r.Version != 1) || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("version %s: %d, %v, want %q", version, r.Version, err, want)
		}
	}
}

// TestRequestOfTheFuture: it would not be too old for years.
func TestRequestOfTheFuture(t *testing.T) {
	t.Parallel()
	stored := time.Date(2026, 3, 31, 14, 30, 22, 0, time.UTC)
	for ahead, ok := range map[time.Duration]bool{-7 * 24 * time.Hour: true, 0: true, contracts.MaxClockSkew: true, contracts.MaxClockSkew + time.Second: false, 24 * time.Hour: false, 1 << 62: false} {
		err := contracts.Request{RequestedAt: stored.Add(ahead)}.ValidateAt(stored)
		if rejection, rejected := contracts.AsRejection(err); ok != (err == nil) || !ok && (!rejected || rejection.Code != contracts.InvalidRequest) {
			t.Errorf("%v ahead: %v", ahead, err)
		}
	}
}
