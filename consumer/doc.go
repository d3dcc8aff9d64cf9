// Package consumer decides when to work and when to say that it is done. It is the only package that knows
// NATS: the request queue, the record of each job, leases, the registry of tenants, outcomes, dead letters.
//
// # The life of a job
//
// JetStream acknowledgements are not fenced: after a redelivery, the first holder's ack still deletes the
// message. So a message here is only a reminder that a job exists. Who works on it, and how far it has come,
// stands in one place, the job's record in a key-value bucket, and every step is a compare-and-swap there:
//
//		        claim         receipt recorded      volumes visible     manifest visible      outcome published
//		none --------> RUNNING ------------> COMMITTING ---------> SEALING ---------> COMMITTED ---------> DONE -> ack
//		                |   ^                 |      |                |
//		                |   '-- upload lost --'------|----------------'
//		                '---------> FAILING <--------'  -> outcome, dead letter -> FAILED -> term
//
//	  - RUNNING: an attempt uploads. Nothing is visible. Any failure may be tried again from the start.
//	  - COMMITTING: the point of no return. All bytes are durable in the customer's bucket and the receipt that
//	    makes them visible is recorded; from here on any worker can finish with the same function.
//	  - SEALING: the manifest may stand at any moment. Only now does anybody write it, so a job in COMMITTING can
//	    still be given up, by one swap, whatever a paused worker may be about to do; a job in SEALING cannot: it
//	    waits until the bucket lets us in again.
//	  - COMMITTED: the manifest stands. What is left is to say so.
//	  - FAILING: given up, by a recorded decision, so that two workers cannot tell different ends.
//
// # Ownership
//
// The owner swaps the record every [Config].Heartbeat (H). It stops by itself when no swap that started within
// [Config].Fence (F) has succeeded. A challenger takes over only after it has seen the same revision for
// [Config].Observe (O) on its own monotonic clock; no clock of another host is ever compared, and no TTL is
// used for safety. 2H < F < O <= AckWait is checked at start. What a paused owner may still do after that is
// limited to wasting money: it cannot swap, so it cannot commit, publish or acknowledge.
//
// # Pauses
//
// An operator can stop the beginning of attempts, for a tenant or for the fleet ([Pauses]). Every worker follows these
// cells and goes by what it knew last. It looks where a slot would be taken, and before it takes over a job in RUNNING
// from an owner who has gone silent; then the request goes back to the queue for a while, and the record is not touched.
// What is past its point of no return is never held back. The time of a pause is taken off the age of a request, and
// put on the deadline of a job that waited.
//
// # Schedules
//
// A schedule is a message that JetStream publishes as a request at the times that its cron names; nobody else has to
// be up for that. All these messages have one body, so the job is made of the message's time stamp: the latest time of
// the cron that is not after it. A job that has no record yet is decided about in one cell for each tenant, the run
// that was begun last or promised (decide, in runs.go): it is begun, or it ends at once as skipped, because the run
// before goes on, or because a later run stands for it. That end is recorded and told like any other.
//
// A server that was stopped over some times of a schedule fires once when it is back, one that was killed not at all.
// So one worker after the other (keepTime) compares the schedules with what was begun, asks for what was not, and tells
// which tenants have waited for a delivery for more than one and a half intervals.
package consumer
