package consumer

import (
	"sync"
	"time"
)

// spacing keeps the requests that wait from taking all of a worker's time. A tenant that asks for a thousand snapshots has
// two jobs under way, and its other requests come back to the workers again and again. JetStream hands out what comes back
// before what is new. So what one worker sends back comes back one by one: at most tenantRate requests of one tenant in a
// second, and at most fleetRate of all tenants that have such a backlog. It is safe for concurrent use.
type spacing struct {
	mu   sync.Mutex
	next map[string]time.Time // the earliest time at which another request of the tenant may come back
}

const (
	tenantRate = 10
	fleetRate  = 20
)

// delay is how long a request of the tenant is to wait that would wait for d.
func (s *spacing) delay(tenant string, d time.Duration, now time.Time) time.Duration {
	if d <= 0 {
		return d // given back for another worker to go on with
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next == nil {
		s.next = map[string]time.Time{}
	}
	for name, at := range s.next {
		if at.Before(now) {
			delete(s.next, name)
		}
	}
	at := now.Add(d)
	if earliest := s.next[tenant]; at.Before(earliest) {
		at = earliest
	}
	s.next[tenant] = at.Add(max(time.Second/tenantRate, time.Duration(len(s.next))*time.Second/fleetRate))
	return at.Sub(now)
}
