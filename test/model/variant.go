package model

// Variant is the protocol (the zero value), or the protocol with a rule broken.
type Variant struct {
	Name string

	// The record.
	NoCommitRecord  bool // completes its uploads without having recorded that it will
	ClaimWithoutCAS bool // takes a job over whatever the record has become since it was read
	SwapOnTop       bool // reads the revision again when a swap is refused, and writes over what stands
	ForgetsItsSwap  bool // does not recognise its own write when the reply was lost
	OnlyRunning     bool // takes over nothing but RUNNING
	RevivesFailing  bool // gives a job in FAILING another attempt
	FailsUnrecorded bool // says that a job has failed without having recorded it
	SealsUnrecorded bool // writes the manifest without having recorded that it may stand
	GivesUpSealing  bool // gives up, at a deadline, a job whose manifest another worker may be about to write

	// The bucket.
	UnconditionalComplete bool // completes an upload whatever stands under the key
	UnseenReplace         bool // replaces an older attempt's object without naming the one it has seen
	ReplacesNewer         bool // replaces a newer attempt's object, too
	AnyAttemptIsOurs      bool // takes another attempt's object for its own
	CompletesAgain        bool // writes its own object once more when it finds it
	ManifestFirst         bool // writes the manifest, then completes the volumes
	UnconditionalManifest bool // writes the manifest whether there is one or not
	TidiesPlanned         bool // aborts its attempt's uploads after a passing error, though a successor may go on with them
	FenceAborts           bool // a fenced worker aborts its attempt's uploads without looking at the record

	// The end.
	OutcomeEarly      bool // publishes the outcome before the manifest stands
	OutcomeNotOnce    bool // the outcome's subject takes a second message
	DoneBeforeOutcome bool // records DONE, then publishes
	AckEarly          bool // acknowledges before it publishes
	AckWhenFenced     bool // acknowledges what another worker has taken over

	// What follows breaks no rule. It makes another world.

	// Plans are kept: once its first volume is sent, an attempt is gone on with by whoever takes the job over.
	Plans bool
	// Patient workers take nothing over from an owner that lives: it can be seen what an attempt was spent on.
	Patient bool
	// Aborting does nothing in a store like Stubborn: what zombies have uploaded can still be completed. Cleaning
	// up before an attempt is one defence against that, the conditions under which volumes are completed are another.
	Stubborn bool
}

// Mutant is a variant that has to fail, and the promise that it breaks.
type Mutant struct {
	Variant
	Breaks Invariant
}

// Mutants are the rules of the protocol, each broken alone.
var Mutants = []Mutant{
	{Variant{Name: "no commit record", NoCommitRecord: true}, I5},
	{Variant{Name: "claim without CAS", ClaimWithoutCAS: true}, I10},
	{Variant{Name: "swap on top of another's", SwapOnTop: true}, I10},
	{Variant{Name: "swap that forgets itself", ForgetsItsSwap: true, Patient: true}, I15},
	{Variant{Name: "takeover of RUNNING only", OnlyRunning: true}, I12},
	{Variant{Name: "FAILING revived", RevivesFailing: true}, I5},
	{Variant{Name: "fail without record", FailsUnrecorded: true}, I5},
	{Variant{Name: "seal without record", SealsUnrecorded: true}, I5},
	{Variant{Name: "seal given up", GivesUpSealing: true}, I5},
	{Variant{Name: "complete without condition", UnconditionalComplete: true, Stubborn: true}, I3},
	{Variant{Name: "replace what was not seen", UnseenReplace: true, Stubborn: true}, I3},
	{Variant{Name: "replace a newer attempt's", ReplacesNewer: true, Stubborn: true}, I3},
	{Variant{Name: "any attempt's object is ours", AnyAttemptIsOurs: true}, I3},
	{Variant{Name: "complete what is completed", CompletesAgain: true}, I8},
	{Variant{Name: "manifest first", ManifestFirst: true}, I3},
	{Variant{Name: "manifest without condition", UnconditionalManifest: true}, I4},
	{Variant{Name: "tidy up what is planned", TidiesPlanned: true, Plans: true}, I10},
	{Variant{Name: "fence aborts blindly", FenceAborts: true}, I10},
	{Variant{Name: "outcome before the manifest", OutcomeEarly: true}, I5},
	{Variant{Name: "outcome without write-once", OutcomeNotOnce: true}, I2},
	{Variant{Name: "DONE before the outcome", DoneBeforeOutcome: true}, I1},
	{Variant{Name: "ack before the outcome", AckEarly: true}, I1},
	{Variant{Name: "ack when fenced", AckWhenFenced: true}, I1},
}

// Protocols are the variants that have to hold.
var Protocols = []Variant{
	{Name: "protocol"},
	{Name: "protocol, patient workers", Patient: true},
	{Name: "protocol, stubborn store", Stubborn: true},
	{Name: "protocol, with plans", Plans: true},
}
