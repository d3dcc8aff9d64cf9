package test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

var (
	seeds     = flag.Int("seeds", 0, "random pairs of faults, after every single fault at every moment")
	firstSeed = flag.Int("first", 0, "seed of the first random pair")
	only      = flag.String("case", "", "run only the cases of the campaign whose name this regular expression finds")
)

// lanes are fleets at work side by side. Most of a case is waiting, so there are more of them than cores.
const lanes = 12

// patience is how long a disturbed job may take (I12): three observation times, the longest back-off, a clean
// run, and what a busy machine needs.
const patience = 90 * time.Second

// dearest is how many bytes may be sent for each that is delivered, in the median of all deliveries (I15).
const dearest = 3

// TestCampaign disturbs one delivery after another, and holds the whole world against the invariants after each:
// every moment of a delivery with every fault that fits it, then random pairs. It prints one line for each case.
func TestCampaign(t *testing.T) {
	chosen := append(singles(), scenes()...)
	for seed := *firstSeed; seed < *firstSeed+*seeds; seed++ {
		chosen = append(chosen, pair(seed))
	}
	wanted := regexp.MustCompile(*only)
	chosen = slices.DeleteFunc(chosen, func(c trial) bool { return !wanted.MatchString(c.name) })
	if len(chosen) == 0 {
		t.Fatalf("no case is called %s", *only)
	}
	var own []trial // on a database server of their own
	queue := make(chan trial, len(chosen))
	for _, c := range chosen {
		if c.ownServer() {
			own = append(own, c)
		} else {
			queue <- c
		}
	}
	close(queue)

	fmt.Printf("cases: %d\n", len(chosen))
	score := &score{began: time.Now()}
	var all sync.WaitGroup // and not t.Parallel, which runs as many at once as there are cores
	for n := range min(lanes, len(chosen)) {
		all.Go(func() {
			t.Run(strconv.Itoa(n), func(t *testing.T) {
				l := newLane(t, fmt.Sprintf("lane%d", n), n == 0 && len(own) > 0)
				if n == 0 {
					for _, c := range own {
						score.add(c, l.run(t, c))
					}
				}
				for c := range queue {
					score.add(c, l.run(t, c))
				}
				for _, err := range append(append(l.keepsakes(t.Context()), l.unswept(t.Context())), l.witness.aborts()...) {
					if err != nil {
						t.Error(err)
						score.add(trial{name: "at the end"}, err.Error())
					}
				}
				score.weigh(l.witness)
			})
		})
	}
	all.Wait()
	score.end(t)
}

// score is what has become of the cases.
type score struct {
	sync.Mutex
	began             time.Time
	cases, violations int
	loads             []float64
}

// add prints a case's line.
func (s *score) add(c trial, why string) {
	s.Lock()
	defer s.Unlock()
	s.cases++
	if why == "" {
		fmt.Printf("case %s ok\n", c.name)
		return
	}
	s.violations++
	fmt.Printf("case %s VIOLATION: %s\n", c.name, why)
}

func (s *score) weigh(w *witness) {
	s.Lock()
	defer s.Unlock()
	s.loads = append(s.loads, w.loads...)
}

func (s *score) end(t *testing.T) {
	slices.Sort(s.loads)
	if len(s.loads) > 0 {
		if median := s.loads[len(s.loads)/2]; median > dearest {
			t.Errorf("I15: %.1f bytes are sent for each that is delivered", median)
		}
	}
	t.Logf("%d cases, %d violations, %.0f s", s.cases, s.violations, time.Since(s.began).Seconds())
}

// A trial is one disturbed delivery.
type trial struct {
	name  string
	blows []blow
	// loose: not every blow has to be struck, because another one may have changed the course.
	loose bool
	// scene, where there are no blows, disturbs what submit has begun.
	scene func(ctx context.Context, l *lane, job string, submit func()) error
	rows  *int64 // of the table victim, after a scene
}

// all are its blows, and those without which their moments would not come.
func (c trial) all() (all []blow) {
	for _, b := range c.blows {
		if b.at.after != nil {
			all = append(all, *b.at.after)
		}
		all = append(all, b)
	}
	return all
}

func (c trial) ownServer() bool {
	return slices.ContainsFunc(c.blows, func(b blow) bool { return b.kind.own })
}

// A blow is a kind of fault at a moment.
type blow struct {
	at   moment
	kind kind
}

// singles are every moment with everything that can go wrong then.
func singles() (all []trial) {
	all = append(all, trial{name: "undisturbed"})
	for _, m := range moments {
		for _, k := range slices.Concat(replies, peculiar, deaths, accidents) {
			is := func(other kind) bool { return other.name == k.name }
			switch {
			case !k.fits(m):
			case slices.ContainsFunc(accidents, is) && !slices.Contains(landmarks, m.name):
			case slices.ContainsFunc(deaths, is) && m.late && m.says == nil: // nobody knows who the janitor is
			default:
				all = append(all, trial{name: m.name + "/" + k.name, blows: []blow{{m, k}}})
			}
		}
	}
	return all
}

// pair is two blows by chance. The same seed makes the same pair.
func pair(seed int) trial {
	r := rand.New(rand.NewPCG(uint64(seed), 0))
	kinds := slices.DeleteFunc(slices.Concat(replies, peculiar, deaths, accidents), func(k kind) bool { return k.own })
	c := trial{loose: true}
	var names []string
	for len(c.blows) < 2 {
		b := blow{moments[r.IntN(len(moments))], kinds[r.IntN(len(kinds))]}
		if !b.kind.fits(b.at) || b.at.late || len(c.blows) == 1 && c.blows[0].at.name == b.at.name {
			continue
		}
		b.at.skip += r.IntN(2)
		c.blows = append(c.blows, b)
		names = append(names, b.at.name+"/"+b.kind.name)
	}
	c.name = fmt.Sprintf("seed-%d/%s", seed, strings.Join(names, "+"))
	return c
}
