package consumer

import (
	"strings"
	"testing"
	"time"
)

// Runs come due while the tenant, or everybody, is paused. When the pause is over one of them is made, and the
// schedule goes on.
func TestRunsOfAPauseAreOneRun(t *testing.T) {
	for _, c := range []struct {
		name   string
		tenant string
		age    time.Duration // at which a request is refused
		made   string        // of the runs of the pause
	}{
		{"a tenant's pause", "acme", 0, "2000-01-01-020000"},
		{"the fleet's", "", 0, "2000-01-01-020000"},
		{"longer than a request may wait", "acme", 90 * time.Minute, "2000-01-01-040000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, w *memory) {
				for _, name := range []string{"w1", "w2"} {
					w.node(name).employ(exports{part: time.Second}, Config{MaxAge: c.age})
				}
				w.schedule(schedule("0 * * * *", "UTC"))
				time.Sleep(time.Hour + 30*time.Minute)
				w.pause(Pause{Tenant: c.tenant})
				before := w.ends()
				time.Sleep(3*time.Hour + 10*time.Minute)
				for job, end := range w.ends() {
					if end == "delivered" && before[job] == "" {
						t.Errorf("job %s was delivered in the pause", job)
					}
				}
				w.resume(c.tenant)
				time.Sleep(5 * time.Minute)
				var made []string
				after := w.ends()
				for job, end := range after {
					switch {
					case before[job] != "":
					case end == "delivered":
						made = append(made, job)
					case !strings.HasPrefix(end, "skipped "):
						t.Errorf("job %s has ended as %s", job, end)
					}
				}
				if len(made) != 1 || made[0] != c.made {
					t.Errorf("%q were made, want %s:\n%v", made, c.made, after)
				}
				if len(w.dead) > 0 {
					t.Errorf("dead letters: %v", w.dead)
				}
				time.Sleep(2 * time.Hour)
				next := 0
				for job, end := range w.ends() {
					if end == "delivered" && after[job] == "" {
						if next++; w.run(job).LateSeconds > 0 {
							t.Errorf("job %s: %+v", job, w.run(job))
						}
					}
				}
				if next != 2 {
					t.Errorf("%d runs were made after that", next)
				}
			})
		})
	}
}
