package model

// The size of the world.
const (
	workers  = 2
	volumes  = 2
	attempts = 3
	losses   = 2 // uploads that somebody from outside aborts
)

// state is everything there is.
type state struct {
	record   record
	uploads  [attempts + 1][volumes]upload // by attempt, from 1
	keys     [volumes]uint8                // whose object stands under the volume's key; 0: nobody's
	manifest uint8                         // whose manifest stands; 0: nobody's
	outcome  outcome
	acked    bool
	lost     uint8     // uploads aborted from outside so far
	excused  bool      // the next attempt has a reason; kept for [Variant].Patient only
	broken   Invariant // by the last step
	workers  [workers]worker
}

// record is the job's record. Its revision is not counted: all that matters is whether what a worker has read or
// written last still stands, which is worker.fresh.
type record struct {
	phase   phase
	attempt uint8
	planned bool // a successor goes on with the attempt
}

type phase uint8

const (
	none phase = iota
	running
	committing
	sealing
	committed
	failing
	done
	failed
)

// upload is one multipart upload, of one volume by one attempt.
type upload uint8

const (
	unborn    upload = iota
	full             // all its parts are durable
	completed        // it has become an object
	gone             // aborted, by whomever
)

// outcome is what stands on the job's write-once subject.
type outcome uint8

const (
	open outcome = iota
	delivered
	undelivered
)

// worker is one worker and what it knows.
type worker struct {
	at      at
	fresh   bool  // the record is still as this worker last read or wrote it
	read    phase // at claim: what it has read
	planned bool  // likewise
	attempt uint8 // that it works on
	volume  uint8 // that it works on
	seen    uint8 // whose object stood under the volume's key when it looked
}

// at is what a worker does next.
type at uint8

const (
	idle   at = iota
	claim     // make the record its own
	unsure    // find out what became of a swap whose reply was lost
	fenced    // somebody else's write stands: stop

	clean        // RUNNING: abort every upload in the folder
	send         // upload the volume
	toPlan       // from here on a successor goes on with this attempt
	toCommitting // the point of no return

	complete      // COMMITTING: complete the volume, if nothing has its name
	look          // something has, or the upload is gone: whose is it?
	inquire       // an older attempt's: is there a manifest?
	replace       // complete the volume over it
	toSealing     // from here on the manifest may stand
	verify        // SEALING: look at the volume again
	writeManifest // if there is none
	toCommitted
	toRunning // an upload is lost: another attempt

	publish // COMMITTED: the outcome, if there is none
	toDone
	ack

	inspect // give up, unless there is a manifest
	toFailing
	adopt     // there is a manifest: to COMMITTED
	abort     // FAILING: abort every upload in the folder
	publishNo // the outcome, if there is none
	toFailed
)

// holds reports whether w owns the job, as far as the record says.
func (w worker) holds() bool { return w.fresh && w.at != idle && w.at != claim && w.at != fenced }
