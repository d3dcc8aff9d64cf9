// Package model is the protocol of package consumer as a model that is small enough to be looked at in every
// state that it can reach. [Check] does so, breadth first, and returns the shortest way to a broken promise.
//
// Nothing is assumed about time. Any worker may be handed the message at any moment, also after it was
// acknowledged (a publisher repeats itself); it may think the owner of a job dead at any moment, wrongly; it
// may die before and after each of its steps; and a worker that was thought dead goes on, as long as it likes, with
// what it knew. A swap of the record may take effect and lose its reply. Twice, somebody from outside aborts
// an upload. So all that keeps the promises here is what the protocol writes, on which condition, and in which
// order: heartbeats, fences and observation times only make it rare that work is done twice.
//
// The bucket is as the customer's is: the keys are fixed, objects tell which attempt made them, completing an
// upload and writing the manifest are conditional, and looking is a step apart from acting on what was seen.
//
// Two workers, two volumes, three attempts: enough for a leftover, its replacement, and a zombie of each. What is
// not modelled: that somebody deletes objects which we have completed, and that records are lost while a worker
// still commits from them.
//
// A [Variant] is the protocol with one rule broken. Each must have a counterexample: it shows that the rule is
// needed, and that the model would notice its absence in the protocol, too.
package model
