package model

// commit is the way from the recorded receipt to the manifest, as package uploader goes it: each request, and each
// look, is a step of its own.
func (t *turn) commit() {
	s, w := t.s, t.s.workers[t.k]
	theirs := s.keys[w.volume]
	ours := theirs == w.attempt || t.v.AnyAttemptIsOurs && theirs != 0
	switch w.at {
	case complete:
		switch {
		case s.uploads[w.attempt][w.volume] == full && (theirs == 0 || t.v.UnconditionalComplete):
			t.write("completes a volume")
		case s.uploads[w.attempt][w.volume] == full:
			t.to("completes a volume: the name is taken", look, nil)
		default:
			t.to("completes a volume: no such upload", look, nil)
		}
		// Volumes are completed side by side, and the first that is lost stops the others.
		for i := w.volume + 1; i < volumes; i++ {
			if s.uploads[w.attempt][i] == gone && s.keys[i] != w.attempt {
				t.to("finds the next volume lost", toRunning, nil)
			}
		}
	case look:
		switch {
		case ours && t.v.CompletesAgain:
			t.write("completes it again")
		case ours:
			t.to("finds it completed", t.completed(), advance)
		case theirs == 0, theirs > w.attempt && !t.v.ReplacesNewer:
			t.to("finds it lost", toRunning, nil)
		default:
			t.to("finds another attempt's", inquire, func(_ *state, w *worker) { w.seen = theirs })
		}
	case inquire:
		if s.manifest != 0 {
			t.to("finds a manifest", inspect, nil)
		} else {
			t.to("finds no manifest", replace, nil)
		}
	case replace:
		switch {
		case s.uploads[w.attempt][w.volume] == full && (theirs == w.seen || t.v.UnseenReplace):
			t.write("completes a volume over what it has seen")
		case ours:
			t.to("finds it completed", t.completed(), advance)
		default:
			t.to("finds it lost", toRunning, nil)
		}
	case toSealing:
		if t.v.SealsUnrecorded || t.v.NoCommitRecord {
			t.to("records nothing", verify, nil)
			break
		}
		t.swap("records SEALING", record{sealing, w.attempt, false}, t.enter(sealing))
	case verify:
		if ours {
			t.to("verifies a volume", t.next(verify, t.verified()), advance)
		} else {
			t.to("finds it lost", toRunning, nil)
		}
	case writeManifest:
		t.writeManifest()
	case toCommitted:
		if t.v.NoCommitRecord {
			t.to("records nothing", publish, nil)
			break
		}
		t.swap("records COMMITTED", record{committed, w.attempt, false}, t.enter(committed))
	case toRunning:
		if w.attempt < attempts {
			t.swap("records that an upload is lost", record{running, w.attempt, false}, idle)
		} else {
			t.to("has no attempt left", t.giveUp(), nil)
		}
	}
	if w.at < verify && !t.v.NoCommitRecord || t.v.GivesUpSealing && w.at != toCommitted {
		t.to("gives up the commit", inspect, nil)
	}
}

// advance goes to the worker's next volume.
func advance(_ *state, w *worker) { w.advance() }

// completed is what comes after a volume was completed.
func (t *turn) completed() at { return t.next(complete, toSealing) }

// verified is what comes after every volume was verified.
func (t *turn) verified() at {
	if t.v.ManifestFirst {
		return toCommitted
	}
	return writeManifest
}

// write puts the worker's volume under its key.
func (t *turn) write(what string) {
	t.to(what, t.completed(), func(n *state, w *worker) {
		if n.manifest != 0 {
			n.broken = I8
		}
		n.uploads[w.attempt][w.volume], n.keys[w.volume] = completed, w.attempt
		w.advance()
	})
}

func (t *turn) writeManifest() {
	next := toCommitted
	if t.v.ManifestFirst {
		next = complete
	}
	switch own := t.s.workers[t.k].attempt; {
	case t.s.manifest == 0 || t.v.UnconditionalManifest:
		t.to("writes the manifest", next, func(n *state, w *worker) {
			if n.manifest != 0 {
				n.broken = I4
			}
			n.manifest = own
		})
	case t.s.manifest == own:
		t.to("finds its manifest", next, nil)
	default:
		t.to("finds another manifest", inspect, nil)
	}
}
