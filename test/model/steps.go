package model

// step is one thing that can happen.
type step struct {
	what string
	next state
}

// steps returns everything that can happen in s, in the order of the workers.
func (s *state) steps(v *Variant, out []step) []step {
	for k := range s.workers {
		t := turn{v: v, s: s, k: k, out: out}
		if s.workers[k].at != idle {
			t.crash()
		}
		t.act()
		out = t.out
	}
	if s.lost < losses {
		for a := 1; a <= attempts; a++ {
			for i := range volumes {
				if s.uploads[a][i] == full {
					n := *s
					n.uploads[a][i] = gone
					n.lost++
					n.excused = v.Patient
					out = append(out, step{"somebody from outside aborts an upload", n})
				}
			}
		}
	}
	return out
}

// turn is one worker's choice of steps.
type turn struct {
	v   *Variant
	s   *state
	k   int
	out []step

	planned bool // the record that is entered has a plan
}

// to adds the step after which the worker is at next, and change has happened besides.
func (t *turn) to(what string, next at, change func(n *state, w *worker)) {
	n := *t.s
	w := &n.workers[t.k]
	w.at = next
	if change != nil {
		change(&n, w)
	}
	if w.at == idle {
		*w = worker{}
	}
	t.out = append(t.out, step{what, n})
}

func (t *turn) crash() {
	t.to("crash", idle, func(n *state, w *worker) { n.excused = n.excused || t.v.Patient && t.s.workers[t.k].holds() })
}

// swap adds what can become of a compare-and-swap of the record. next is where its writer goes on.
func (t *turn) swap(what string, r record, next at) {
	w := t.s.workers[t.k]
	if !w.fresh && !(t.v.ClaimWithoutCAS && w.at == claim) {
		if t.v.SwapOnTop {
			t.to(what+": refused, reads the revision again", w.at, func(_ *state, w *worker) { w.fresh = true })
			return
		}
		t.to(what+": refused", fenced, nil)
		return
	}
	apply := func(n *state, w *worker) {
		n.record = r
		for k := range n.workers {
			n.workers[k].fresh = false
		}
		w.fresh, w.attempt, w.volume, w.read, w.planned, w.seen = true, r.attempt, 0, none, false, 0
		if r.planned && r.phase == running {
			w.volume = 1 // the first one stands in the plan
		}
		if t.v.Patient && r.phase == running && next == clean { // a new attempt
			if r.attempt > 1 && !n.excused {
				n.broken = I15
			}
			n.excused = false
		}
	}
	t.to(what, next, apply)
	if next != idle {
		t.to(what+": took effect, reply lost", unsure, apply)
	}
}

// enter is what a record in some phase asks of its owner, whoever brought it there.
func (t *turn) enter(p phase) at {
	switch p {
	case running:
		if t.planned {
			return send
		}
		return clean
	case committing:
		switch {
		case t.v.OutcomeEarly:
			return publish
		case t.v.ManifestFirst:
			return writeManifest
		}
		return complete
	case sealing:
		return verify
	case committed:
		if t.v.DoneBeforeOutcome {
			return toDone
		}
		return publish
	case failing:
		return abort
	case done:
		if t.v.DoneBeforeOutcome {
			return publish
		}
	}
	return ack
}

// act adds the steps that the worker can take.
func (t *turn) act() {
	w := t.s.workers[t.k]
	switch w.at {
	case idle:
		t.receive()
	case claim:
		t.claim()
	case unsure:
		switch {
		case !w.fresh:
			t.to("finds another's write", fenced, nil)
		case t.v.ForgetsItsSwap:
			t.to("takes its own write for another's", idle, nil)
		default:
			t.planned = t.s.record.planned
			t.to("finds its own write", t.enter(t.s.record.phase), nil)
		}
	case fenced:
		t.stop()
	case clean, send, toPlan, toCommitting:
		t.prepare()
	case complete, look, inquire, replace, toSealing, verify, writeManifest, toCommitted, toRunning:
		t.commit()
	case publish, toDone, ack:
		t.announce()
	case inspect, toFailing, adopt, abort, publishNo, toFailed:
		t.abandon()
	}
}

// receive is a delivery of the message, with the read of the record that follows it.
func (t *turn) receive() {
	r := t.s.record
	next := claim
	if r.phase == done || r.phase == failed {
		next = ack
	}
	t.to("is handed the message, reads the record", next, func(_ *state, w *worker) {
		w.fresh, w.attempt = true, r.attempt
		if next == claim {
			w.read, w.planned = r.phase, r.planned
		}
	})
}

// claim takes the job over, whoever may be at work on it.
func (t *turn) claim() {
	w := t.s.workers[t.k]
	same := record{w.read, w.attempt, w.planned}
	next := record{running, w.attempt + 1, false}
	switch {
	case t.v.Patient && t.s.held(t.k):
		t.to("waits for the owner", idle, nil)
	case w.read == none:
		t.swap("creates the record", next, clean)
	case w.read == running && w.planned:
		t.planned = true
		t.swap("goes on with the attempt", same, send)
		t.swap("takes over to give up", record{failing, w.attempt, false}, abort)
	case w.read == running, w.read == failing && t.v.RevivesFailing:
		if w.attempt < attempts {
			t.swap("begins the next attempt", next, clean)
		}
		// Cancelled, or too late, or too often.
		t.swap("takes over to give up", record{failing, w.attempt, false}, abort)
	case t.v.OnlyRunning:
		t.to("leaves it alone", idle, nil)
	default:
		t.swap("takes over", same, t.enter(w.read))
	}
}

// held reports whether a worker other than k owns the job and lives.
func (s *state) held(k int) bool {
	for o, w := range s.workers {
		if o != k && w.holds() {
			return true
		}
	}
	return false
}

// stop is what a fenced worker does.
func (t *turn) stop() {
	switch {
	case t.v.AckWhenFenced:
		t.to("acknowledges, fenced", idle, acknowledge)
	case t.v.FenceAborts:
		t.to("stops, and aborts its uploads", idle, func(n *state, w *worker) { t.v.abort(n, w.attempt, w.attempt) })
	default:
		t.to("stops", idle, nil)
	}
}

// prepare is the attempt.
func (t *turn) prepare() {
	w := t.s.workers[t.k]
	switch w.at {
	case clean:
		t.to("aborts what older attempts left", send, func(n *state, w *worker) { t.v.abort(n, w.attempt, attempts) })
	case send:
		next := t.next(send, toCommitting)
		if t.v.Plans && w.volume == 0 {
			next = toPlan
		}
		if t.v.Plans && t.s.uploads[w.attempt][w.volume] == gone {
			t.to("finds its upload gone", toRunning, nil)
			break
		}
		t.to("uploads a volume", next, func(n *state, w *worker) {
			if u := &n.uploads[w.attempt][w.volume]; *u != completed {
				*u = full
			}
			w.advance()
		})
	case toPlan:
		t.planned = true
		t.swap("records a plan", record{running, w.attempt, true}, send)
	case toCommitting:
		if t.v.NoCommitRecord {
			t.to("records nothing", complete, nil)
			break
		}
		t.swap("records the receipt", record{committing, w.attempt, false}, t.enter(committing))
	}
	t.to("meets a final error", t.giveUp(), nil)
	if t.v.TidiesPlanned {
		t.to("meets a passing error, and tidies up", idle, func(n *state, w *worker) { t.v.abort(n, w.attempt, w.attempt) })
	}
}

func (t *turn) giveUp() at {
	if t.v.FailsUnrecorded {
		return publishNo
	}
	return inspect
}

// next is again while there is another volume, and then after.
func (t *turn) next(again, after at) at {
	if t.s.workers[t.k].volume+1 < volumes {
		return again
	}
	return after
}

// advance goes to the next volume, or back to the first.
func (w *worker) advance() { w.volume, w.seen = (w.volume+1)%volumes, 0 }

// abort aborts every upload of all attempts up to last. own is the attempt of the worker who does it.
func (v *Variant) abort(n *state, own, last uint8) {
	if v.Stubborn {
		return
	}
	for a := uint8(1); a <= last; a++ {
		for i, u := range n.uploads[a] {
			if u != full {
				continue
			}
			n.uploads[a][i] = gone
			if a == own && n.record.phase == committing && n.record.attempt == own {
				n.broken = I10
			}
		}
	}
}

// announce is the end of a delivery.
func (t *turn) announce() {
	w := t.s.workers[t.k]
	switch w.at {
	case publish:
		switch {
		case t.v.AckEarly:
			t.to("acknowledges", idle, acknowledge)
		case t.s.outcome == undelivered && !t.v.OutcomeNotOnce:
			t.to("finds the opposite outcome", idle, nil)
		default:
			next := toDone
			switch {
			case t.v.OutcomeEarly && t.s.manifest == 0:
				next = complete
			case t.v.DoneBeforeOutcome, t.v.NoCommitRecord:
				next = ack
			}
			t.to("publishes: delivered", next, func(n *state, _ *worker) { n.publish(delivered, t.v) })
			t.to("publishes: delivered, reply lost", publish, func(n *state, _ *worker) { n.publish(delivered, t.v) })
		}
	case toDone:
		t.swap("records DONE", record{done, w.attempt, false}, t.enter(done))
	case ack:
		t.to("acknowledges", idle, acknowledge)
	}
}

func (n *state) publish(o outcome, v *Variant) {
	switch {
	case n.outcome == open:
		n.outcome = o
	case v.OutcomeNotOnce:
		n.outcome, n.broken = o, I2
	}
}

func acknowledge(n *state, _ *worker) {
	n.acked = true
	if n.outcome == open || n.outcome == delivered && (n.manifest == 0 || !n.whole()) {
		n.broken = I1
	}
}

// abandon is the end of a job that is given up, by a recorded decision.
func (t *turn) abandon() {
	w := t.s.workers[t.k]
	switch w.at {
	case inspect:
		if t.s.manifest != 0 {
			t.to("finds a manifest", adopt, nil)
		} else {
			t.to("finds no manifest", toFailing, nil)
		}
	case adopt:
		t.swap("records COMMITTED after all", record{committed, t.s.manifest, false}, t.enter(committed))
	case toFailing:
		t.swap("records FAILING", record{failing, w.attempt, false}, abort)
	case abort:
		t.to("aborts all uploads", publishNo, func(n *state, w *worker) { t.v.abort(n, w.attempt, attempts) })
	case publishNo:
		if t.s.outcome == delivered && !t.v.OutcomeNotOnce {
			t.to("finds the opposite outcome", idle, nil)
			break
		}
		next := toFailed
		if t.v.FailsUnrecorded && t.s.record.phase != failing {
			next = ack
		}
		t.to("publishes: failed", next, func(n *state, _ *worker) { n.publish(undelivered, t.v) })
		t.to("publishes: failed, reply lost", publishNo, func(n *state, _ *worker) { n.publish(undelivered, t.v) })
	case toFailed:
		t.swap("records FAILED", record{failed, w.attempt, false}, ack)
	}
}
