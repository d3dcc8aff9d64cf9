package consumer

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/snapfleet/snapfleet/contracts"
)

// daily are the settings that checks of destinations have by default.
var daily = Config{CheckEvery: 24 * time.Hour, CheckAhead: 12 * time.Hour}

func TestWhenACheckIsDue(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 31, 15, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	in := func(d time.Duration) time.Time { return now.Add(d) }
	checked := func(d time.Duration) checkup { return checkup{Checkup: Checkup{At: ago(d)}, Of: "this"} }
	with := func(k checkup, change func(*checkup)) checkup { change(&k); return k }
	never := Config{CheckEvery: -1, CheckAhead: 12 * time.Hour}
	for _, c := range []struct {
		name string
		k    checkup
		run  time.Time
		cfg  Config
		want bool
	}{
		{"never checked", checkup{}, time.Time{}, daily, true},
		{"checked an hour ago", checked(time.Hour), time.Time{}, daily, false},
		{"checked just less than a day ago", checked(24*time.Hour - time.Second), time.Time{}, daily, false},
		{"checked a day ago", checked(24 * time.Hour), time.Time{}, daily, true},
		{"checked a minute ago, and another destination", with(checked(time.Minute), func(k *checkup) { k.Of = "that" }), time.Time{}, daily, true},
		{"a run in 13 hours", checked(20 * time.Hour), in(13 * time.Hour), daily, false},
		{"a run in 12 hours", checked(20 * time.Hour), in(12 * time.Hour), daily, true},
		{"a run in 11 hours, checked since it was 12", checked(30 * time.Minute), in(11 * time.Hour), daily, false},
		{"a run in 11 hours, checked when it was 12", checked(time.Hour), in(11 * time.Hour), daily, false},
		{"a run in 11 hours, checked just before it was 12", checked(time.Hour + time.Second), in(11 * time.Hour), daily, true},
		{"a run in 11 hours, and checks ahead are off", checked(20 * time.Hour), in(11 * time.Hour), Config{CheckEvery: 24 * time.Hour, CheckAhead: -1}, false},
		{"checked a week ago, and daily checks are off", checked(7 * 24 * time.Hour), time.Time{}, never, false},
		{"checked a week ago, a run in 11 hours, and daily checks are off", checked(7 * 24 * time.Hour), in(11 * time.Hour), never, true},
		{"a worker is at it", checkup{Claimed: ago(claimLife - time.Second)}, time.Time{}, daily, false},
		{"a worker died over it", checkup{Claimed: ago(claimLife)}, time.Time{}, daily, true},
		{"nothing was found out half an hour ago", checkup{Tried: ago(30 * time.Minute)}, time.Time{}, daily, false},
		{"nothing was found out an hour ago", checkup{Tried: ago(time.Hour)}, time.Time{}, daily, true},
		{"nothing was found out half an hour ago, and a run is near", with(checked(20*time.Hour), func(k *checkup) { k.Tried = ago(30 * time.Minute) }), in(time.Hour), daily, false},
		{"nothing was found out two minutes ago, and every minute is meant", checkup{Tried: ago(2 * time.Minute)}, time.Time{}, Config{CheckEvery: time.Minute}, true},
	} {
		if got := c.k.due(now, c.run, "this", c.cfg); got != c.want {
			t.Errorf("%s: due is %v, want %v", c.name, got, c.want)
		}
	}
}

func TestWhatIsKnownAfterACheck(t *testing.T) {
	t.Parallel()
	first := time.Date(2026, 3, 31, 15, 0, 0, 0, time.UTC)
	at := func(n int) time.Time { return first.Add(time.Duration(n) * time.Hour) }
	var k checkup
	for n, c := range []struct {
		found contracts.CheckResult
		want  contracts.CheckResult
		since int // hours
		told  contracts.NoticeKind
		began int // hours: since of the notice
	}{
		{contracts.CheckInconclusive, "", 0, "", 0},
		{contracts.CheckFailed, contracts.CheckFailed, 1, contracts.DestinationBroken, 1},
		{contracts.CheckFailed, contracts.CheckFailed, 1, "", 0},
		{contracts.CheckInconclusive, contracts.CheckFailed, 1, "", 0},
		{contracts.CheckOK, contracts.CheckOK, 4, contracts.DestinationMended, 1},
		{contracts.CheckOK, contracts.CheckOK, 4, "", 0},
		{contracts.CheckInconclusive, contracts.CheckOK, 4, "", 0},
		{contracts.CheckFailed, contracts.CheckFailed, 5, contracts.DestinationBroken, 5}, // it was well at 5, for the last time
		{contracts.CheckOK, contracts.CheckOK, 8, contracts.DestinationMended, 5},
	} {
		check := exports{check: func(context.Context, contracts.Tenant) contracts.CheckResult { return c.found }}.Check(t.Context(), tenant("acme"))
		check.At, check.Worker = at(n), "w1"
		k.Untold = nil
		k.Claimed, k.ClaimedBy = at(n), "w1"
		k = k.after(check, "this")
		if k.Result != c.want || k.Result != "" && !k.Since.Equal(at(c.since)) || (k.Reason != nil) != (c.want == contracts.CheckFailed) {
			t.Errorf("%d: after %s it is %+v", n, c.found, k.Checkup)
		}
		if !k.Claimed.IsZero() || k.ClaimedBy != "" || c.found == contracts.CheckInconclusive && !k.Tried.Equal(at(n)) || c.found != contracts.CheckInconclusive && !k.Tried.IsZero() {
			t.Errorf("%d: claimed %v by %s, tried %v", n, k.Claimed, k.ClaimedBy, k.Tried)
		}
		var told contracts.NoticeKind
		if k.Untold != nil {
			told = k.Untold.Kind
			if !k.Untold.Since.Equal(at(c.began)) || !k.Untold.At.Equal(at(n)) || (k.Untold.Reason != nil) != (told == contracts.DestinationBroken) || k.Untold.Tenant != "acme" {
				t.Errorf("%d: told is %+v", n, k.Untold)
			}
		}
		if told != c.told {
			t.Errorf("%d: after %s %q is told, want %q", n, c.found, told, c.told)
		}
	}
	late := contracts.Check{At: at(8).Add(-time.Minute), Steps: []contracts.CheckStep{{Result: contracts.CheckFailed}}}
	if got := k.after(late, "this"); got.Result != contracts.CheckOK {
		t.Errorf("a check that began earlier overrules a later one: %+v", got)
	}
	late.At = at(6) // of a worker whose clock is two hours behind, or it would have ended long ago
	if got := k.after(late, "this"); got.Result != contracts.CheckFailed {
		t.Errorf("a check of a wrong clock is not believed: %+v", got)
	}
}

// clinic is exports whose destinations can be made to break, and which counts.
type clinic struct {
	takes  time.Duration // one check; 0: 20 s
	mu     sync.Mutex
	most   int            // checks at once
	under  map[string]int // by tenant
	checks map[string][]time.Time
	result map[string]contracts.CheckResult
}

// works are exports that check by the clinic.
func (h *clinic) works(t *testing.T) exports {
	h.under, h.checks, h.result = map[string]int{}, map[string][]time.Time{}, map[string]contracts.CheckResult{}
	return exports{part: time.Second, check: func(ctx context.Context, of contracts.Tenant) contracts.CheckResult {
		h.mu.Lock()
		if h.under[of.Name]++; h.under[of.Name] > 1 {
			t.Errorf("%s is checked by two at the same time", of.Name)
		}
		all := 0
		for _, n := range h.under {
			all += n
		}
		h.most = max(h.most, all)
		h.checks[of.Name] = append(h.checks[of.Name], time.Now())
		result := h.result[of.Name]
		h.mu.Unlock()
		pause(ctx, cmp.Or(h.takes, 20*time.Second))
		h.mu.Lock()
		defer h.mu.Unlock()
		h.under[of.Name]--
		if result == "" {
			return contracts.CheckOK
		}
		return result
	}}
}

func (h *clinic) of(tenant string) []time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.checks[tenant])
}

func (h *clinic) becomes(tenant string, r contracts.CheckResult) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.result[tenant] = r
}

// told are the notices so far, as kind and tenant.
func (w *memory) told() (lines []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.notices {
		lines = append(lines, string(n.Kind)+" "+n.Tenant)
	}
	return lines
}

func TestEveryDestinationIsCheckedOnceADay(t *testing.T) {
	inMemory(t, func(t *testing.T, w *memory) {
		for _, name := range []string{"beta", "gamma", "delta", "epsilon", "zeta", "eta"} {
			w.addTenant(name)
		}
		var h clinic
		work := h.works(t)
		for _, name := range []string{"w1", "w2", "w3"} {
			w.node(name).employ(work, daily)
		}
		time.Sleep(3*24*time.Hour - time.Hour)
		for name := range w.tenants {
			if n := len(h.of(name)); n != 3 {
				t.Errorf("%s was checked %d times in almost three days: %v", name, n, h.of(name))
			}
		}
		if told := w.told(); len(told) > 0 {
			t.Errorf("all is well, and %q is told", told)
		}
	})
}

// A round that takes longer than until the next one is shared by the workers, and none checks what another one has begun.
func TestManySlowDestinations(t *testing.T) {
	inMemory(t, func(t *testing.T, w *memory) {
		for n := range 60 {
			w.addTenant(fmt.Sprintf("t%d", n))
		}
		h := clinic{takes: 110 * time.Second}
		work := h.works(t)
		for _, name := range []string{"w1", "w2", "w3"} {
			w.node(name).employ(work, daily)
		}
		time.Sleep(23 * time.Hour)
		for name := range w.tenants {
			if n := len(h.of(name)); n != 1 {
				t.Errorf("%s was checked %d times", name, n)
			}
		}
		if h.most <= abreast || h.most > 3*abreast {
			t.Errorf("%d checks at once, by three workers", h.most)
		}
	})
}

func TestDestinationIsCheckedBeforeAScheduledRun(t *testing.T) {
	inMemory(t, func(t *testing.T, w *memory) {
		w.addTenant("beta")
		var h clinic
		n := w.node("w1")
		run := time.Now().Add(26 * time.Hour) // at 2 at night
		n.upcoming = func(context.Context) (map[string]time.Time, error) {
			return map[string]time.Time{"acme": run}, nil
		}
		n.employ(h.works(t), daily)
		time.Sleep(20 * time.Hour)
		acme, beta := h.of("acme"), h.of("beta")
		if len(beta) != 1 || len(acme) != 2 {
			t.Fatalf("the scheduled tenant was checked at %v, the other one at %v", acme, beta)
		}
		if ahead := run.Sub(acme[1]); ahead > 12*time.Hour || ahead < 12*time.Hour-2*lookEvery {
			t.Errorf("it was checked %v before the run, want 12 hours", ahead)
		}
	})
}

// Schedules that cannot be read are no reason not to look.
func TestChecksGoOnWithoutSchedules(t *testing.T) {
	inMemory(t, func(t *testing.T, w *memory) {
		var h clinic
		n := w.node("w1")
		n.upcoming = func(context.Context) (map[string]time.Time, error) { return nil, errors.New("no schedules today") }
		n.employ(h.works(t), daily)
		within(t, w, time.Hour, "checked", func() bool { return len(h.of("acme")) == 1 })
	})
}

func TestNobodyChecksWhenToldSo(t *testing.T) {
	inMemory(t, func(t *testing.T, w *memory) {
		var h clinic
		w.node("w1").employ(h.works(t), Config{CheckEvery: -1, CheckAhead: -1})
		time.Sleep(100 * time.Hour)
		if n := len(h.of("acme")); n > 0 {
			t.Errorf("%d checks", n)
		}
	})
}

func TestWhatBreaksIsToldOnceAndWhatIsMendedToo(t *testing.T) {
	inMemory(t, func(t *testing.T, w *memory) {
		var h clinic
		work := h.works(t)
		w.node("w1").employ(work, Config{CheckEvery: 4 * time.Hour})
		w.node("w2").employ(work, Config{CheckEvery: 4 * time.Hour})
		time.Sleep(8 * time.Hour)
		lastWell := h.of("acme")
		for _, c := range []struct {
			becomes contracts.CheckResult
			told    []string
		}{
			{contracts.CheckFailed, []string{"destination-broken acme"}},
			{contracts.CheckInconclusive, []string{"destination-broken acme"}},
			{contracts.CheckFailed, []string{"destination-broken acme"}},
			{contracts.CheckOK, []string{"destination-broken acme", "destination-mended acme"}},
			{contracts.CheckInconclusive, []string{"destination-broken acme", "destination-mended acme"}},
			{contracts.CheckOK, []string{"destination-broken acme", "destination-mended acme"}},
		} {
			h.becomes("acme", c.becomes)
			before := len(h.of("acme"))
			time.Sleep(12 * time.Hour)
			if told := w.told(); !slices.Equal(told, c.told) {
				t.Fatalf("%s: %q is told, want %q", c.becomes, told, c.told)
			}
			checks := len(h.of("acme")) - before
			if hourly := checks >= 10; hourly != (c.becomes == contracts.CheckInconclusive) {
				t.Errorf("%s: %d checks in 12 hours", c.becomes, checks)
			}
		}
		broken, mended := w.notices[0], w.notices[1]
		if broken.Reason == nil || broken.Reason.Code != contracts.RoleDenied || broken.Since.Sub(lastWell[len(lastWell)-1]).Abs() > time.Minute {
			t.Errorf("told is %+v, and it was well for the last time at %v", broken, lastWell)
		}
		if mended.Reason != nil || !mended.Since.Equal(broken.Since) {
			t.Errorf("told is %+v", mended)
		}
	})
}

func TestWorkerDiesOverACheck(t *testing.T) {
	inMemory(t, func(t *testing.T, w *memory) {
		var h clinic
		work := h.works(t)
		w.node("w1").employ(work, daily)
		within(t, w, time.Hour, "begun", func() bool { return len(h.of("acme")) == 1 })
		first := w.lookUp(t, "acme")
		if first.ClaimedBy != "w1" {
			t.Errorf("the check is claimed by %q", first.ClaimedBy)
		}
		w.rest() // w1 stops in the middle of it
		w.ctx, w.stop = context.WithCancel(context.WithoutCancel(t.Context()))
		w.node("w2").employ(work, daily)
		within(t, w, time.Hour, "checked by the other one", func() bool { return w.lookUp(t, "acme").Result == contracts.CheckOK })
		checks := h.of("acme")
		if wait := checks[1].Sub(checks[0]); len(checks) != 2 || wait < claimLife || wait > claimLife+3*lookEvery {
			t.Errorf("checked at %v", checks)
		}
		if second := w.lookUp(t, "acme"); second.Worker != "w2" || !second.Claimed.IsZero() {
			t.Errorf("what is known is %+v", second)
		}
	})
}

// lookUp reads what is known of a tenant.
func (w *memory) lookUp(t *testing.T, tenant string) checkup {
	t.Helper()
	k, _, err := readCheckup(t.Context(), &w.shelf, tenant)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// A notice that could not be published is published later, however long it takes, and once.
func TestNoticeIsToldLater(t *testing.T) {
	inMemory(t, func(t *testing.T, w *memory) {
		var h clinic
		n := w.node("w1")
		refused := 0
		n.faults = func(op string) fault {
			if strings.HasPrefix(op, "notify") && refused < 3 {
				refused++
				return fault{kind: refuse}
			}
			return fault{}
		}
		work := h.works(t)
		h.becomes("acme", contracts.CheckFailed)
		n.employ(work, daily)
		within(t, w, 2*time.Hour, "told", func() bool { return len(w.told()) > 0 })
		time.Sleep(5 * time.Hour)
		if told := w.told(); len(told) != 1 || refused != 3 || len(h.of("acme")) != 1 {
			t.Errorf("%q is told after %d refusals and %d checks", told, refused, len(h.of("acme")))
		}
	})
}

func TestCheckupsFollowTheRegistry(t *testing.T) {
	inMemory(t, func(t *testing.T, w *memory) {
		w.addTenant("beta")
		var h clinic
		w.node("w1").employ(h.works(t), daily)
		within(t, w, time.Hour, "both are checked", func() bool { return len(h.of("acme")) == 1 && len(h.of("beta")) == 1 })
		time.Sleep(10 * time.Minute)
		known := &Checkups{&w.shelf}
		if k := must(known.Get(t.Context(), w.tenants["acme"])); k.Result != contracts.CheckOK || k.Worker != "w1" || k.At.IsZero() {
			t.Errorf("what is known is %+v", k)
		}
		w.change("another bucket, and one tenant less", func() {
			acme := w.tenants["acme"]
			acme.Destination.NextExternalID = "the-next-external-id-0123456789"
			w.tenants["acme"] = acme
			delete(w.tenants, "beta")
		})
		if k := must(known.Get(t.Context(), w.tenants["acme"])); k.Result != contracts.CheckOK {
			t.Errorf("a rotation that has begun makes it unknown: %+v", k)
		}
		time.Sleep(10 * time.Minute)
		if n := len(h.of("acme")); n != 1 {
			t.Errorf("a rotation that has begun makes a check due: %d", n)
		}
		w.change("another bucket", func() {
			acme := w.tenants["acme"]
			acme.Destination.Bucket = "another-bucket"
			w.tenants["acme"] = acme
		})
		if k := must(known.Get(t.Context(), w.tenants["acme"])); k != (Checkup{}) {
			t.Errorf("of a bucket that was never checked is known %+v", k)
		}
		within(t, w, 15*time.Minute, "the other bucket is checked", func() bool { return len(h.of("acme")) == 2 })
		if k := w.lookUp(t, "beta"); k.Result != "" {
			t.Errorf("of a tenant that is gone is known %+v", k)
		}
	})
}

func TestCheckupsOverNATS(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	nc, js, _ := broker(t)
	must(Setup(ctx, js, SetupOptions{}))
	registry := must(OpenRegistry(ctx, js))
	for _, name := range []string{"acme", "beta"} {
		if err := registry.Set(ctx, tenant(name)); err != nil {
			t.Fatal(err)
		}
	}
	var mu sync.Mutex
	result := contracts.CheckOK
	work := exports{check: func(_ context.Context, of contracts.Tenant) contracts.CheckResult {
		mu.Lock()
		defer mu.Unlock()
		if of.Name == "beta" {
			return contracts.CheckOK
		}
		return result
	}}
	for _, name := range []string{"w1", "w2"} {
		cfg := quick(name)
		cfg.CheckEvery, cfg.CheckAhead = 800*time.Millisecond, -1
		hire(t, nc, work, cfg)
	}
	known := must(OpenCheckups(ctx, js))
	knows := func(name string, want contracts.CheckResult) func() bool {
		return func() bool { return must(known.Get(ctx, must(registry.Get(ctx, name)))).Result == want }
	}
	eventually(t, "acme is ok", knows("acme", contracts.CheckOK))
	eventually(t, "beta is ok", knows("beta", contracts.CheckOK))
	mu.Lock()
	result = contracts.CheckFailed
	mu.Unlock()
	eventually(t, "acme is broken", knows("acme", contracts.CheckFailed))
	mu.Lock()
	result = contracts.CheckOK
	mu.Unlock()
	eventually(t, "acme is mended", knows("acme", contracts.CheckOK))
	if err := registry.Remove(ctx, "beta"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "beta is forgotten", func() bool {
		_, rev, err := readCheckup(ctx, known.cells, "beta")
		return err == nil && rev == 0
	})
	notices := must(js.OrderedConsumer(ctx, contracts.NoticeStream, jetstream.OrderedConsumerConfig{}))
	for _, want := range []contracts.NoticeKind{contracts.DestinationBroken, contracts.DestinationMended} {
		m := must(notices.Next(jetstream.FetchMaxWait(10 * time.Second)))
		var n contracts.Notice
		if err := json.Unmarshal(m.Data(), &n); err != nil || m.Subject() != "snapshot.notice.acme."+string(want) || n.Kind != want || n.Version != contracts.NoticeVersion {
			t.Errorf("%s: %s, %v, want %s", m.Subject(), m.Data(), err, want)
		}
	}
}

// An operator's question is as good as the fleet's own: what it finds is known, and what has changed is told.
func TestWhatAnOperatorAsksForIsKnown(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	nc, js, _ := broker(t)
	must(Setup(ctx, js, SetupOptions{}))
	registry := must(OpenRegistry(ctx, js))
	if err := registry.Set(ctx, tenant("acme")); err != nil {
		t.Fatal(err)
	}
	both := must(recordOf(registry.Rotate(ctx, "acme")))
	cfg := quick("w1")
	cfg.CheckEvery, cfg.CheckAhead = -1, -1
	hire(t, nc, exports{check: func(_ context.Context, of contracts.Tenant) contracts.CheckResult {
		if of.Destination.ExternalID == both.Destination.NextExternalID {
			return contracts.CheckOK
		}
		return contracts.CheckFailed
	}}, cfg)
	known := must(OpenCheckups(ctx, js))
	if check := must(AskCheck(ctx, nc, "acme", true)); check.Result() != contracts.CheckOK {
		t.Errorf("the next external ID was not used: %+v", check)
	}
	if k := must(known.Get(ctx, both)); k != (Checkup{}) {
		t.Errorf("a check with the next external ID says nothing about deliveries, and is known as %+v", k)
	}
	must(AskCheck(ctx, nc, "acme", false))
	if k := must(known.Get(ctx, both)); k.Result != contracts.CheckFailed || k.Reason == nil {
		t.Errorf("what is known is %+v", k)
	}
	s := must(js.Stream(ctx, contracts.NoticeStream))
	if m := must(s.GetLastMsgForSubject(ctx, "snapshot.notice.acme.destination-broken")); m.Sequence != 1 {
		t.Errorf("%d notices", m.Sequence)
	}
}
