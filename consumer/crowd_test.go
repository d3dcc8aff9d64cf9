package consumer

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
)

// addTenant registers one more tenant in the memory.
func (w *memory) addTenant(name string) {
	w.tenants[name] = contracts.Tenant{Name: name, Destination: contracts.Destination{Bucket: name + "-bucket"}}.WithDefaults()
}

func requestOf(tenant, job string) contracts.Request {
	r := request(job)
	r.Tenant = tenant
	return r
}

func TestSmallTenantBehindALargeOne(t *testing.T) {
	const many = 200
	inMemory(t, func(t *testing.T, w *memory) {
		w.addTenant("small")
		for i := range many {
			w.publish(request(fmt.Sprintf("job%d", i)))
		}
		w.publish(requestOf("small", "job"))
		for i := range 3 {
			w.node(fmt.Sprintf("w%d", i)).employ(exports{part: 20 * time.Second}, Config{Slots: 4})
		}
		start := time.Now()
		most := 0
		waited := time.Duration(0)
		within(t, w, 30*time.Minute, "delivered", func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			busy := 0
			for key := range w.cells {
				var r record
				if key != "small.job" && len(key) > 5 && key[:5] == "acme." && jsonInto(w.cells[key].value, &r) && r.Owner != "" && r.State == running {
					busy++
				}
			}
			if time.Since(start) > 4*time.Minute { // workers that start together do not know of each other yet
				most = max(most, busy)
			}
			if _, ok := w.outcomes["small.job"]; ok && waited == 0 {
				waited = time.Since(start)
			}
			return waited > 0 && time.Since(start) > 8*time.Minute
		})
		// A delivery takes 200 s here; behind two hundred of them it would wait for most of a day.
		if waited > 10*time.Minute {
			t.Errorf("the small tenant waited %v", waited)
		}
		if most > 4 || most == 0 { // the cap is 2; three workers may decide at the same moment
			t.Errorf("%d jobs of the large tenant at once", most)
		}
	})
}

func TestTenantAloneIsNotHeldBack(t *testing.T) {
	inMemory(t, func(t *testing.T, w *memory) {
		for i := range 20 {
			w.publish(request(fmt.Sprintf("job%d", i)))
		}
		start := time.Now()
		w.node("w1").employ(exports{part: time.Second}, Config{Slots: 3})
		within(t, w, time.Hour, "settled", w.settled)
		// 20 deliveries of 10 s, two at a time, and a message that was put off comes back within 30 s.
		if d := time.Since(start); d > 6*time.Minute {
			t.Errorf("20 jobs took %v", d)
		}
	})
}

type down struct{ error }

func (down) Unreachable() bool { return true }

func TestDeadDestinationHoldsNoSlots(t *testing.T) {
	inMemory(t, func(t *testing.T, w *memory) {
		w.addTenant("dead")
		alive := time.Now().Add(2 * time.Hour)
		var mu sync.Mutex
		busy, held := 0, time.Duration(0)
		reject := func(a contracts.Attempt) error {
			if a.Tenant.Name != "dead" || time.Now().After(alive) {
				return nil
			}
			began := time.Now()
			pause(w.ctx, 10*time.Minute) // as long as a request is tried
			mu.Lock()
			defer mu.Unlock()
			busy, held = busy+1, held+time.Since(began)
			return down{errors.New("no answer")}
		}
		for i := range 15 {
			w.publish(requestOf("dead", fmt.Sprintf("job%d", i)))
		}
		w.node("w1").employ(exports{part: time.Second, reject: reject}, Config{Slots: 3, Attempts: 1000})
		time.Sleep(time.Minute) // virtual
		for i := range 20 {
			w.publish(request(fmt.Sprintf("job%d", i)))
		}
		start := time.Now()
		within(t, w, time.Hour, "delivered", func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			return len(w.outcomes) == 20
		})
		if d := time.Since(start); d > 15*time.Minute {
			t.Errorf("20 jobs of a tenant whose bucket works took %v", d)
		}
		within(t, w, 24*time.Hour, "settled", w.settled)
		// Two at first, then one at a time with growing pauses: not two slots for two hours.
		mu.Lock()
		defer mu.Unlock()
		if held > 110*time.Minute {
			t.Errorf("the dead destination held slots for %v, %d times", held, busy)
		}
	})
}

// A destination that does not answer at all is found out before there is a record. Every worker of a large fleet would
// try it for itself; what they have tried together counts.
func TestSilentDestinationIsTriedLessAndLess(t *testing.T) {
	const night, workers = 8 * time.Hour, 20
	inMemory(t, func(t *testing.T, w *memory) {
		var mu sync.Mutex
		tries := 0
		silent := func(op string) fault {
			if op != "s3 get manifest" {
				return fault{}
			}
			mu.Lock()
			defer mu.Unlock()
			tries++
			return fault{kind: refuse, delay: 30 * time.Second}
		}
		w.publish(request("job"))
		for i := range workers {
			n := w.node(fmt.Sprintf("w%d", i))
			n.faults = silent
			n.employ(exports{part: time.Second}, Config{})
		}
		time.Sleep(night) // virtual
		mu.Lock()
		defer mu.Unlock()
		if tries < 8 || tries > 40 { // a fleet of one would try it some twelve times
			t.Errorf("%d workers tried it %d times in %v", workers, tries, night)
		}
	})
}
