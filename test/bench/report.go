package main

import (
	"bufio"
	"encoding/json"
	"os"
	"runtime"
	"slices"
	"strings"
)

// Report is bench.json. Where something was not measured, because nobody asked for it, its keys are not there.
type Report struct {
	*Comparison
	RoundTrips  *RoundTrips  `json:"round_trips,omitempty"`
	Growth      *Growth      `json:"growth,omitempty"`      // --growth
	Attachments []Attachment `json:"attachments,omitempty"` // --attachments

	Machine  Machine           `json:"machine"`
	Versions map[string]string `json:"versions"` // snapfleet, go, postgresql, and upload: what the scripts uploaded with
}

// Comparison is what the rounds say. Each ratio is snapfleet's wall time by another's of the same round, and what is
// below 1 is faster; these and all other figures are medians over the rounds.
type Comparison struct {
	RoofRatio   float64 `json:"wall_ratio_roofline"`     // by copy_deflate's
	CopyRatio   float64 `json:"wall_ratio_copy"`         // by copy's
	ScriptRatio float64 `json:"wall_ratio_script"`       // by script's
	TunedRatio  float64 `json:"wall_ratio_script_tuned"` // by script_tuned's
	DumpRatio   float64 `json:"wall_ratio_pg_dump"`      // by pg_dump's
	Wall        float64 `json:"wall_s"`                  // of snapfleet, from submit to ack
	DBPerGB     float64 `json:"database_cpu_s_per_gb"`   // PostgreSQL's meanwhile
	CPUPerGB    float64 `json:"worker_cpu_s_per_gb"`     // the worker's whole life, for each 1e9 bytes of CSV
	RSS         float64 `json:"peak_rss_mib"`            // the most memory that the worker had
	JobsPerS    float64 `json:"small_jobs_per_s"`        // by one worker with small_job_slots slots
	JobLatency  float64 `json:"small_job_latency_s"`     // from submit to ack, with every slot busy
	SmallSlots  int     `json:"small_job_slots"`         // 4, if that was among --slots, else the last

	Asked  float64 `json:"gb_asked"`   // --gb
	GB     float64 `json:"gb"`         // the tables as CSV, in 1e9 bytes
	Small  []Small `json:"small_jobs"` // by a worker with each number of slots
	Idle   *Idle   `json:"idle,omitempty"`
	Rounds []Round `json:"rounds"`
}

// Machine is where it was measured.
type Machine struct {
	Model string `json:"model"` // of the processor
	Cores int    `json:"cores"`
	OS    string `json:"os"`
}

// Round is what was measured in one round.
type Round struct {
	Order []string        `json:"order"` // in which they ran
	Costs map[string]Cost `json:"costs"`
	Small []Small         `json:"small_jobs"` // in the order of --slots
}

// Cost is what one delivery took.
type Cost struct {
	Wall      float64 `json:"wall_s"`
	CPU       float64 `json:"cpu_s"`                     // of the client's processes
	Database  float64 `json:"database_cpu_s"`            // of PostgreSQL's
	RSS       float64 `json:"peak_rss_mib,omitempty"`    // of the largest of them; not of the rooflines, which are in our process
	Delivered int64   `json:"delivered_bytes,omitempty"` // as they are in the bucket
}

// Small is what small jobs took.
type Small struct {
	Slots     int      `json:"slots"`
	Flags     []string `json:"flags"` // of the worker, next to its defaults
	Jobs      int      `json:"jobs"`
	PerSecond float64  `json:"per_s"`
	Latency   float64  `json:"latency_s"` // the median
	CPU       float64  `json:"cpu_s_per_job"`
	RSS       float64  `json:"peak_rss_mib"`
}

// Idle is a worker with nothing to do.
type Idle struct {
	Seconds  float64        `json:"seconds"` // for which it was watched
	CPU      float64        `json:"cpu_s_per_minute"`
	RSS      float64        `json:"rss_mib"`
	Sent     float64        `json:"nats_sent_per_minute"` // messages, and pings
	Received float64        `json:"nats_received_per_minute"`
	Messages map[string]int `json:"nats_sent"` // in these seconds
}

// RoundTrips is what one job says: 50 tables of 10 rows, and the same with 10 attachments.
type RoundTrips struct {
	Small       Said `json:"small_job"`
	Attachments Said `json:"job_with_attachments"`
}

// Said is who was told what, and how often.
type Said struct {
	S3       map[string]int `json:"s3"`   // calls
	STS      map[string]int `json:"sts"`  // calls
	NATS     map[string]int `json:"nats"` // messages that the worker has sent
	SQL      map[string]int `json:"sql"`  // statements, one that is prepared counts once
	SQLTrips int            `json:"sql_round_trips"`
}

// entrants are all who are measured, as the table and the picture show them.
var entrants = []struct{ name, what string }{
	{"script", "psql COPY | gzip, tar, aws s3 cp"},
	{"script_tuned", "two at a time, gzip -1, streamed"},
	{"pg_dump", "pg_dump -j2 -Z1, tar, aws s3 cp"},
	{"snapfleet", "submit to ack"},
	{"copy_deflate", "roofline: COPY + deflate, no upload"},
	{"copy", "roofline: COPY to nowhere"},
}

// conclude makes the figures of the rounds.
func (r *Comparison) conclude() {
	r.RoofRatio, r.CopyRatio = r.ratio("copy_deflate"), r.ratio("copy")
	r.ScriptRatio, r.TunedRatio, r.DumpRatio = r.ratio("script"), r.ratio("script_tuned"), r.ratio("pg_dump")
	ours := r.cost("snapfleet")
	r.Wall, r.CPUPerGB, r.DBPerGB, r.RSS = ours.Wall, ours.CPU/r.GB, ours.Database/r.GB, ours.RSS
	r.Small = r.smallJobs()
	for _, s := range r.Small {
		if r.JobsPerS, r.JobLatency, r.SmallSlots = s.PerSecond, s.Latency, s.Slots; s.Slots == 4 {
			break
		}
	}
}

// ratio is snapfleet's wall time by another's of the same round.
func (r *Comparison) ratio(to string) float64 {
	return r.median(func(n Round) float64 { return n.Costs["snapfleet"].Wall / n.Costs[to].Wall })
}

// smallJobs is the medians for each number of slots.
func (r *Comparison) smallJobs() (all []Small) {
	for i, s := range r.Rounds[0].Small {
		s.PerSecond = r.median(func(n Round) float64 { return n.Small[i].PerSecond })
		s.Latency = r.median(func(n Round) float64 { return n.Small[i].Latency })
		s.CPU = r.median(func(n Round) float64 { return n.Small[i].CPU })
		s.RSS = r.median(func(n Round) float64 { return n.Small[i].RSS })
		all = append(all, s)
	}
	return all
}

// cost is the medians of one who was measured.
func (r *Comparison) cost(name string) Cost {
	of := func(figure func(Cost) float64) float64 {
		return r.median(func(n Round) float64 { return figure(n.Costs[name]) })
	}
	return Cost{
		Wall: of(func(c Cost) float64 { return c.Wall }), CPU: of(func(c Cost) float64 { return c.CPU }),
		Database:  of(func(c Cost) float64 { return c.Database }),
		RSS:       of(func(c Cost) float64 { return c.RSS }),
		Delivered: int64(of(func(c Cost) float64 { return float64(c.Delivered) })),
	}
}

func (r *Comparison) median(figure func(Round) float64) float64 {
	var all []float64
	for _, n := range r.Rounds {
		all = append(all, figure(n))
	}
	return median(all)
}

func median(all []float64) float64 {
	if len(all) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(all))
	half := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[half]
	}
	return (sorted[half-1] + sorted[half]) / 2
}

// write keeps the figures, and the picture if there is to be one.
func (r *Report) write(figures, picture string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(figures, append(data, '\n'), 0o644); err != nil {
		return err
	}
	if picture == "" || r.Comparison == nil {
		return nil
	}
	drawn, err := r.draw()
	if err != nil {
		return err
	}
	return os.WriteFile(picture, drawn, 0o644)
}

// thisMachine is what the system says of itself.
func thisMachine() Machine {
	m := Machine{Model: runtime.GOARCH, Cores: runtime.NumCPU(), OS: runtime.GOOS + "/" + runtime.GOARCH}
	info, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return m
	}
	defer info.Close() //nolint:errcheck // it is read
	for lines := bufio.NewScanner(info); lines.Scan(); {
		if key, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(key) == "model name" {
			m.Model = strings.TrimSpace(value)
			break
		}
	}
	return m
}
