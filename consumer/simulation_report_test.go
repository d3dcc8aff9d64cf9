package consumer

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// table is the results for people.
func (r results) table() string {
	var out strings.Builder
	n := r.Night
	fmt.Fprintf(&out, "%d tenants, %.0f GB; %d workers with %d slots and %.0f core each, %d databases with %.0f cores and %d sessions each, %.2g GB/s of egress\n",
		n.Tenants, r.GB, n.Workers, n.Slots, n.Cores, n.Databases, n.Share, n.Sessions, n.Egress/1e9)
	fmt.Fprintf(&out, "delivered in %.1f min; no fleet of that size could in less than %.1f (", r.Minutes, r.Bound)
	for i, name := range slices.Sorted(maps.Keys(r.Bounds)) {
		if i > 0 {
			out.WriteString(", ")
		}
		fmt.Fprintf(&out, "%s %.1f", name, r.Bounds[name])
	}
	fmt.Fprintf(&out, ")\nslots: %.0f %% delivered, %.0f %% lost to destinations that take nothing, %.1f %% given back; %.3f attempts a job, %d times no session was free\n",
		100*r.Served, 100*r.Wasted, 100*r.Returned, r.Attempts, r.Refused)
	fmt.Fprintf(&out, "broker: %.1f messages a job, %.0f a second, and %.0f a second to tell workers of changes; %d handed out at most, fresh ones held back for %.1f min\n",
		r.PerJob, r.PerSecond, r.Pushed, r.Pending, r.Stalled)
	for _, what := range slices.Sorted(maps.Keys(r.Asked)) {
		fmt.Fprintf(&out, "  %s %.2f", what, float64(r.Asked[what])/float64(n.Tenants))
	}
	fmt.Fprintf(&out, "\nS3 and STS: %.1f requests a job, %.0f a second\n\n", r.Requests, r.Requests*float64(n.Tenants)/r.Minutes/60)
	table := tabwriter.NewWriter(&out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "CSV\ttenants\tGB\twait p50\tp95\tmax\tthen took p50\tp95\tmax\t")
	for _, c := range r.Classes {
		fmt.Fprintf(table, "%s\t%d\t%.0f\t%v\t%v\t%v\t%v\t%v\t%v\t\n", c.Name, c.Tenants, c.GB,
			brief(c.Wait50), brief(c.Wait95), brief(c.WaitMax), brief(c.Took50), brief(c.Took95), brief(c.TookMax))
	}
	_ = table.Flush()
	fmt.Fprintf(&out, "\nsimulated in %.0f s\n", r.RealSeconds)
	return out.String()
}

func brief(seconds float64) time.Duration {
	d := time.Duration(seconds * 1e9)
	if d > time.Minute {
		return d.Round(time.Second)
	}
	return d.Round(100 * time.Millisecond)
}

func (r results) draw() ([]byte, error) { return nil, nil }
