package consumer

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
)

// maxTenantMetrics is the most that [Config].TenantMetrics may be.
const maxTenantMetrics = 1000

// lateness is what this worker found when it looked at the schedules in its turn. Nil: it is not its turn.
type lateness struct {
	atomic.Pointer[punctual]
	callback metric.Registration
}

// punctual is how old each tenant's last delivery is, of those that have a schedule.
type punctual struct {
	mu      sync.Mutex // while it is being found out
	overdue int
	tenants []aged // the oldest first
}

type aged struct {
	tenant string
	age    time.Duration
}

// newLateness tells of the worst tenants by name, as many as there may be.
func newLateness(worst int) *lateness {
	l := &lateness{}
	m := otel.Meter(scope)
	const whose = " Said by the one worker that looks at the schedules."
	scheduled, _ := m.Int64ObservableGauge("snapfleet.tenants.scheduled", metric.WithDescription("Tenants with a schedule."+whose), metric.WithUnit("{tenant}"))
	overdue, _ := m.Int64ObservableGauge("snapfleet.tenants.overdue", metric.WithDescription("Tenants with a schedule that nothing was delivered to for one and a half intervals."+whose), metric.WithUnit("{tenant}"))
	oldest, _ := m.Float64ObservableGauge("snapfleet.delivery.age", metric.WithDescription("Age of the last delivery to that tenant with a schedule whose last delivery is oldest."+whose), metric.WithUnit("s"))
	each, _ := m.Float64ObservableGauge("snapfleet.tenant.delivery.age", metric.WithDescription("Age of the last delivery to a tenant with a schedule, of so many as --tenant-metrics says: those whose last delivery is oldest."+whose), metric.WithUnit("s"))
	l.callback, _ = m.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		p := l.Load()
		if p == nil {
			return nil
		}
		o.ObserveInt64(scheduled, int64(len(p.tenants)))
		o.ObserveInt64(overdue, int64(p.overdue))
		o.ObserveFloat64(oldest, p.oldest().Seconds())
		for _, t := range p.worst(worst) {
			o.ObserveFloat64(each, t.age.Seconds(), labels("tenant", t.tenant))
		}
		return nil
	}, scheduled, overdue, oldest, each)
	return l
}

func (p *punctual) note(tenant string, late bool, age time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if late {
		p.overdue++
	}
	p.tenants = append(p.tenants, aged{tenant, age})
}

// sorted is p with the oldest first; p may be nil.
func (p *punctual) sorted() *punctual {
	if p == nil {
		return nil
	}
	slices.SortFunc(p.tenants, func(a, b aged) int { return cmp.Or(cmp.Compare(b.age, a.age), cmp.Compare(a.tenant, b.tenant)) })
	return p
}

// worst are the n tenants whose last delivery is oldest.
func (p *punctual) worst(n int) []aged { return p.tenants[:min(n, len(p.tenants))] }

// oldest is the age of the last delivery to the worst of them; 0: there is none.
func (p *punctual) oldest() time.Duration {
	for _, t := range p.worst(1) {
		return t.age
	}
	return 0
}
