package contracts_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
)

func TestScheduleMakesTheSameRequestForTheSameTime(t *testing.T) {
	t.Parallel()
	s := fullSchedule()
	fired := time.Date(2026, 3, 31, 7, 30, 22, 0, time.FixedZone("", -7*3600))
	r := s.Request(fired)
	if r.Job != "2026-03-31-143022" || !r.RequestedAt.Equal(fired) || r.Tenant != s.Tenant || r.Only != s.Only || r.Format != s.Format {
		t.Errorf("request %+v", r)
	}
	if err := r.Validate(); err != nil {
		t.Error(err)
	}
	s.UpdatedAt, s.Cron = s.UpdatedAt.Add(time.Hour), "1 2 * * *"
	if again := s.Request(fired.UTC()); again.Digest() != r.Digest() || again != s.Request(fired) {
		t.Errorf("request %+v, and again %+v", r, again)
	}
}

// A body that is refused is refused by the schema, too, unless a schema cannot say it.
func TestScheduleIsReadStrictly(t *testing.T) {
	t.Parallel()
	good, err := json.Marshal(fullSchedule())
	if err != nil {
		t.Fatal(err)
	}
	schema := compile(t, "schedule")
	for _, c := range []struct {
		name, from, to string
		want           string // of the error; empty: it is read
		beyond         bool   // a schema cannot know
	}{
		{name: "as it is"},
		{name: "a descriptor", from: "0 2 * * *", to: "@daily"},
		{name: "six fields", from: "0 2 * * *", to: "*/5 0 2 * * *"},
		{name: "names", from: "0 2 * * *", to: "0 2 * JAN-mar MON,fri"},
		{name: "another version", from: `"version":1`, to: `"version":2`, want: "version"},
		{name: "four fields", from: "0 2 * * *", to: "0 2 * *", want: "cron"},
		{name: "seven fields", from: "0 2 * * *", to: "0 0 0 2 * * *", want: "cron"},
		{name: "two spaces", from: "0 2 * * *", to: "0  2 * * *", want: "cron"},
		{name: "an interval", from: "0 2 * * *", to: "@every 5m", want: "cron"},
		{name: "an instant", from: "0 2 * * *", to: "@at 2026-01-01T00:00:00Z", want: "cron"},
		{name: "a zone in the cron", from: "0 2 * * *", to: "TZ=UTC 0 2 * * *", want: "cron"},
		{name: "a sign", from: "0 2 * * *", to: "+0 2 * * *", want: "cron"},
		{name: "endless", from: "0 2 * * *", to: "0 2 * * 0" + strings.Repeat(",1", 100), want: "cron"},
		{name: "no zone", from: "America/Los_Angeles", to: "", want: "time zone"},
		{name: "the server's own zone", from: "America/Los_Angeles", to: "Local", want: "time zone"},
		{name: "a path", from: "America/Los_Angeles", to: "../etc/passwd", want: "time zone"},
		{name: "a header", from: "America/Los_Angeles", to: `UTC\r\nX: y`, want: "time zone"},
		{name: "no tenant", from: `"acme"`, to: `"a.b"`, want: "tenant"},
		{name: "another kind", from: `"tables"`, to: `"all"`, want: "only"},
		{name: "another format", from: `"jsonl.gz"`, to: `"xml"`, want: "format"},
		{name: "never set", from: "2026-03-31T14:30:22.482913Z", to: "0001-01-01T00:00:00Z", want: "updated_at"},
		{name: "an impossible zone", from: "22.482913Z", to: "22.482913+24:00", want: "RFC 3339"},
		{name: "another field", from: `"cron"`, to: `"bucket":"b","cron"`, want: "bucket"},
		{name: "a field twice", from: `"cron"`, to: `"cron":"@daily","cron"`, want: "twice", beyond: true},
		{name: "another value", from: "}", to: "}{}", want: "more than one", beyond: true},
	} {
		data := strings.ReplaceAll(string(good), c.from, c.to)
		if c.from == "" {
			data = string(good)
		}
		s, err := contracts.DecodeSchedule([]byte(data))
		if c.want == "" {
			if err != nil || s.Tenant != "acme" || s.UpdatedAt.IsZero() {
				t.Errorf("%s: %+v, %v", c.name, s, err)
			}
		} else if _, rejected := contracts.AsRejection(err); !rejected || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want a rejection that names %s", c.name, err, c.want)
		}
		if refused := validate(schema, []byte(data)) != nil; !c.beyond && refused != (c.want != "") {
			t.Errorf("%s: refused by the schema: %v", c.name, refused)
		}
	}
	if _, err := contracts.DecodeSchedule(make([]byte, contracts.MaxRequestBytes+1)); err == nil {
		t.Error("a schedule of any size is read")
	}
}

func TestIsSchedule(t *testing.T) {
	t.Parallel()
	for data, want := range map[string]bool{
		`{"cron":"@daily"}`: true, `{"cron":7}`: true, `{"CRON":""}`: true, `{"job":"cron"}`: false, `{}`: false, `cron`: false, ``: false,
	} {
		if got := contracts.IsSchedule([]byte(data)); got != want {
			t.Errorf("%s: %v", data, got)
		}
	}
}
