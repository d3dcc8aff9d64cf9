package uploader

import (
	"testing"
	"time"

	testbucket "github.com/snapfleet/snapfleet/test/bucket"
)

// onAnotherClock gives the customer an entrance to S3 and STS whose clock is not ours.
func (c *customer) onAnotherClock() *testbucket.Front {
	c.t.Helper()
	front, err := server.OpenFront()
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(front.Close)
	c.to().Endpoint = front.Endpoint()
	c.cfg.AllowEndpoints = []string{front.Endpoint()}
	c.front = front
	return front
}

// A worker whose clock is hours off, or jumps while it delivers, is refused once by each service for each jump, and
// goes on at the service's time. Its sessions last as long as anybody's.
func TestClocksDiffer(t *testing.T) {
	t.Parallel()
	for name, jumps := range map[string][4]time.Duration{
		"theirs is ahead":   {3 * time.Hour, 3 * time.Hour, 3 * time.Hour, 3 * time.Hour},
		"theirs is behind":  {-3 * time.Hour, -3 * time.Hour, -3 * time.Hour, -3 * time.Hour},
		"by more than days": {-50 * time.Hour, -50 * time.Hour, -50 * time.Hour, -50 * time.Hour},
		"it jumps":          {0, 5 * time.Hour, -5 * time.Hour, 26 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCustomer(t)
			front := c.onAnotherClock()
			u := c.uploader()
			front.Shift(jumps[0])
			d, err := u.Begin(t.Context(), c.attempt, &journal{})
			if err != nil {
				t.Fatal(err)
			}
			m, archives := archives()
			for i, a := range archives {
				front.Shift(jumps[1+i])
				if err := d.Write(t.Context(), a); err != nil {
					t.Fatal(err)
				}
			}
			r, err := d.Receipt(m)
			if err != nil {
				t.Fatal(err)
			}
			front.Shift(jumps[3])
			if err := u.Commit(t.Context(), c.attempt, r); err != nil {
				t.Fatal(err)
			}
			c.whole()
			// The delivery's is handed on; two looked for the trust's weakness and were refused.
			if n := c.sessions(); n > 1 {
				t.Errorf("it took %d sessions", n)
			}
		})
	}
}
