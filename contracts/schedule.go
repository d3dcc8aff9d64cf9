package contracts

import (
	"encoding/json"
	"regexp"
	"time"
)

// ScheduleVersion is the only version of [Schedule] that this build reads and writes.
const ScheduleVersion = 1

// Schedule asks for a snapshot of a tenant again and again. It is kept as one message on [ScheduleSubject], and
// JetStream publishes its body, unchanged, on [RunSubject] whenever Cron says so: what [Schedule.Request] makes of
// the body and of that instant is the request. Like a request it never says where to.
type Schedule struct {
	// Version is 1.
	Version int `json:"version"`
	// Tenant is the name under which the tenant is registered; it is the last token of the subject, too.
	Tenant string `json:"tenant"`
	// Cron is when: minute, hour, day of the month, month, day of the week, as in crontab(5); a sixth field before
	// them is the second. Or @hourly, @daily, @weekly, @monthly, @yearly.
	Cron string `json:"cron"`
	// TimeZone is where Cron's clock hangs, by its IANA name: America/Los_Angeles.
	TimeZone string `json:"timezone"`
	// Only and Format are the requests', see [Request].
	Only   Kind   `json:"only,omitempty"`
	Format Format `json:"format,omitempty"`
	// UpdatedAt is when an operator set the schedule, RFC 3339. It asks for nothing before that.
	UpdatedAt time.Time `json:"updated_at"`
}

var (
	cronText = regexp.MustCompile(`^(@[a-z]+|[0-9A-Za-z*?,/-]+( [0-9A-Za-z*?,/-]+){4,5})$`)
	zoneName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_+/-]{0,63}$`)
)

// Request is what the schedule asks for at a time that Cron names. The job's id is made of that time, so whoever reads
// the same message makes the same request.
func (s Schedule) Request(fired time.Time) Request {
	fired = fired.UTC()
	return Request{
		Version: RequestVersion, Tenant: s.Tenant, Job: fired.Format(JobLayout), Only: s.Only, Format: s.Format, RequestedAt: fired,
	}
}

// Validate returns a [Rejection] that names the first field that is wrong. Whether Cron and TimeZone mean anything is
// for those to say who know calendars.
func (s Schedule) Validate() error {
	switch {
	case s.Version != ScheduleVersion:
		return Reject(UnsupportedVersion, "version of the schedule is %d, this fleet reads %d", s.Version, ScheduleVersion)
	case !cronText.MatchString(s.Cron) || len(s.Cron) > 200:
		return Reject(InvalidRequest, "cron %.80q is not minute, hour, day of the month, month and day of the week, such as \"0 2 * * *\", nor @hourly, @daily, @weekly, @monthly or @yearly", s.Cron)
	case !zoneName.MatchString(s.TimeZone) || s.TimeZone == "Local":
		return Reject(InvalidRequest, "time zone %.80q is not an IANA name such as America/Los_Angeles or UTC", s.TimeZone)
	case s.UpdatedAt.Year() < 2000 || s.UpdatedAt.Year() > 2999:
		return Reject(InvalidRequest, "updated_at is missing, or in the year %d", s.UpdatedAt.Year())
	}
	return s.Request(s.UpdatedAt).Validate()
}

// IsSchedule reports whether data is meant as a schedule rather than a request.
func IsSchedule(data []byte) bool {
	var head struct {
		Cron *json.RawMessage `json:"cron"`
	}
	return len(data) <= MaxRequestBytes && json.Unmarshal(data, &head) == nil && head.Cron != nil
}

// DecodeSchedule reads a schedule as strictly as [DecodeRequest] reads a request. The error is a [Rejection].
func DecodeSchedule(data []byte) (Schedule, error) {
	var s Schedule
	if len(data) > MaxRequestBytes {
		return s, Reject(RequestTooLarge, "%d bytes, the limit is %d", len(data), MaxRequestBytes)
	}
	wire := struct {
		*Schedule
		UpdatedAt instant `json:"updated_at"`
	}{Schedule: &s}
	if err := DecodeStrict(data, &wire); err != nil {
		return s, &Rejection{Code: InvalidRequest, Err: err}
	}
	s.UpdatedAt = wire.UpdatedAt.Time
	return s, s.Validate()
}
