package contracts

import (
	"crypto/sha256"
	"encoding/hex"
)

// A webhook posts what is told on [OutcomeSubject] and [NoticeSubject] to a URL of the operator's: each as a CloudEvent
// 1.0 in structured JSON, signed as Standard Webhooks has it. webhook.yaml describes it for whoever receives it.

// EventContentType is the Content-Type of a post.
const EventContentType = "application/cloudevents+json"

// EventSource is an event's source, unless the operator gives each of several fleets one of its own.
const EventSource = "urn:com:github:snapfleet:snapfleet"

// Headers of a post. The signature is of "id.timestamp.body"; there are two of them, separated by a space, while the
// secret is being changed.
// https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
const (
	HeaderWebhookID        = "webhook-id"        // the event's id: the same however often it is posted
	HeaderWebhookTimestamp = "webhook-timestamp" // when this post was made, in seconds
	HeaderWebhookSignature = "webhook-signature" // "v1," and HMAC-SHA256 in base64
)

// TestEvent is the type of the event that `snapfleet webhook test` posts.
const TestEvent = "com.github.snapfleet.webhook.test"

const eventPrefix = "com.github.snapfleet.snapshot."

// EventType is the type of the event that tells of an outcome.
func (k OutcomeKind) EventType() string { return eventPrefix + string(k) }

// EventType is the type of the event that tells a notice.
func (k NoticeKind) EventType() string { return eventPrefix + string(k) }

// EventID is the id of the event that tells what was published on subject. The same is told with the same id, whoever
// tells it and however often, so that a receiver can drop what it has had. It has no dot, which separates what is signed.
func EventID(subject string, body []byte) string {
	sum := sha256.Sum256(append([]byte(subject+"\n"), body...))
	return "evt_" + hex.EncodeToString(sum[:16])
}
