package model

// Invariant is a promise. The numbers are those under which the whole project knows them.
type Invariant uint8

// The promises. I12 is about all that can still happen from a state, the others about a state or a step.
const (
	Holds Invariant = iota
	I1
	I2
	I3
	I4
	I5
	I8
	I10
	I12
	I15
)

// String is the promise in words.
func (i Invariant) String() string {
	return [...]string{
		Holds: "every promise holds",
		I1:    "I1: a request is acknowledged only when its outcome stands and, if that says delivered, every volume of the manifest",
		I2:    "I2: a job has one outcome, for ever",
		I3:    "I3: where a manifest is visible, so are the volumes of its attempt",
		I4:    "I4: the manifest is written once",
		I5:    "I5: there is a manifest when the outcome says delivered, and none when it says anything else",
		I8:    "I8: nothing is written over what a manifest names",
		I10:   "I10: no worker aborts its attempt's uploads once the record says that they are being committed",
		I12:   "I12: from wherever it has come to, a job can still end",
		I15:   "I15: no attempt without a reason: its owner died, or an upload was lost",
	}[i]
}

// check returns the promise that s breaks.
func (s *state) check() Invariant {
	switch {
	case s.broken != Holds:
		return s.broken
	case s.manifest != 0 && !s.whole():
		return I3
	case (s.outcome == delivered) && s.manifest == 0, (s.outcome == undelivered) && s.manifest != 0:
		return I5
	}
	return Holds
}

// whole reports whether every volume is of the manifest's attempt.
func (s *state) whole() bool {
	for _, k := range s.keys {
		if k != s.manifest {
			return false
		}
	}
	return true
}

// over reports whether nothing is left to do.
func (s *state) over() bool { return s.acked && s.workers == [workers]worker{} }
