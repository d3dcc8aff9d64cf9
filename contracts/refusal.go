package contracts

import "time"

// RefusalVersion is the only version of [Refusal] that this build writes.
const RefusalVersion = 1

// Refusal answers a request that never became a job, on [RefusedSubject]. It is no outcome: a job of the same id may be
// under way, or delivered, because each publisher may name any job in a request.
//
// A publisher recognises its own request by Sequence, which JetStream's publish acknowledgement has too.
type Refusal struct {
	Version int `json:"version"`
	// Tenant is the last token of the request's subject, or [NoTenant] when no tenant can have that name.
	Tenant string `json:"tenant"`
	// Sequence is the request's in [RequestStream].
	Sequence uint64 `json:"sequence"`
	// Digest is the SHA-256 of the request's body, in hex.
	Digest string `json:"digest"`
	// Job is empty when the request could not be read that far.
	Job string `json:"job,omitempty"`
	// MsgID is the request's Nats-Msg-Id. Empty: it had none, or one of more than 256 bytes.
	MsgID  string    `json:"msg_id,omitempty"`
	At     time.Time `json:"at"` // the worker's clock
	Reason Reason    `json:"reason"`
}
