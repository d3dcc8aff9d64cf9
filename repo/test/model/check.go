package model

import "fmt"

// Result is what [Check] has found.
type Result struct {
	Broken      Invariant // Holds: none
	Trail       []string  // the shortest way there, a step a line
	States      int       // looked at
	Transitions int
}

// String is one line, and the trail.
func (r Result) String() string {
	text := fmt.Sprintf("%v (%d states, %d transitions)", r.Broken, r.States, r.Transitions)
	for _, line := range r.Trail {
		text += "\n\t" + line
	}
	return text
}

// Check looks at every state that v can reach, until one of them breaks a promise.
func Check(v Variant) Result {
	g := graph{variant: &v, index: map[state]int32{}}
	g.add(state{}, -1)
	var steps []step
	for at := 0; at < len(g.states); at++ {
		s := g.states[at]
		if broken := s.check(); broken != Holds {
			return g.result(broken, int32(at))
		}
		steps = s.steps(&v, steps[:0])
		g.first = append(g.first, len(g.edges))
		for _, step := range steps {
			g.edges = append(g.edges, g.add(step.next, int32(at)))
		}
	}
	g.first = append(g.first, len(g.edges))
	if at := g.stuck(); at >= 0 {
		return g.result(I12, at)
	}
	return g.result(Holds, 0)
}

// graph is what was reached: states in the order in which they were, and the steps between them.
type graph struct {
	variant *Variant
	index   map[state]int32
	states  []state
	parent  []int32
	edges   []int32 // of state n: from first[n] to first[n+1]
	first   []int
}

func (g *graph) add(s state, from int32) int32 {
	at, ok := g.index[s]
	if !ok {
		at = int32(len(g.states))
		g.index[s], g.states, g.parent = at, append(g.states, s), append(g.parent, from)
	}
	return at
}

// stuck returns the first state from which no way leads to the end, or -1.
func (g *graph) stuck() int32 {
	into := make([]int32, len(g.states)+1) // where the edges into each state begin
	for _, to := range g.edges {
		into[to+1]++
	}
	for n := range g.states {
		into[n+1] += into[n]
	}
	from, next := make([]int32, len(g.edges)), append([]int32(nil), into...)
	for n := range g.states {
		for _, to := range g.edges[g.first[n]:g.first[n+1]] {
			from[next[to]] = int32(n)
			next[to]++
		}
	}
	ends := make([]bool, len(g.states))
	var todo []int32
	for n := range g.states {
		if g.states[n].over() {
			ends[n], todo = true, append(todo, int32(n))
		}
	}
	for len(todo) > 0 {
		n := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, p := range from[into[n]:into[n+1]] {
			if !ends[p] {
				ends[p], todo = true, append(todo, p)
			}
		}
	}
	for n, ok := range ends {
		if !ok {
			return int32(n)
		}
	}
	return -1
}

func (g *graph) result(broken Invariant, at int32) Result {
	r := Result{Broken: broken, States: len(g.states), Transitions: len(g.edges)}
	if broken == Holds {
		return r
	}
	var way []int32
	for n := at; n >= 0; n = g.parent[n] {
		way = append([]int32{n}, way...)
	}
	for i := range len(way) - 1 {
		r.Trail = append(r.Trail, g.label(way[i], way[i+1]))
	}
	return r
}

// label is the step between two states, and who takes it.
func (g *graph) label(from, to int32) string {
	s := g.states[from]
	for _, step := range s.steps(g.variant, nil) {
		if step.next != g.states[to] {
			continue
		}
		for k, w := range s.workers {
			if w != step.next.workers[k] && !(w.fresh && w != worker{} && onlyStale(w, step.next.workers[k])) {
				return fmt.Sprintf("worker %d, attempt %d, volume %d: %s", k+1, max(w.attempt, step.next.workers[k].attempt), w.volume+1, step.what)
			}
		}
		return step.what
	}
	return "?"
}

// onlyStale reports whether a worker has merely missed a change of the record.
func onlyStale(was, is worker) bool {
	was.fresh = false
	return was == is
}
