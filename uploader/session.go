package uploader

import (
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/snapfleet/snapfleet/contracts"
)

// session is what STS gave, on its way from one verb of an attempt to the next.
type session struct {
	credentials aws.Credentials
	opened      time.Time // when it was asked for
	noManifest  bool      // was found with it
}

// sessionOf is what a session is good for: all that STS was told of it, and whose attempt it is. A tenant's record
// that has changed is another one.
type sessionOf struct {
	to              contracts.Destination
	prefix, attempt string
}

const (
	// handedOnFor is how long after it was opened a session may still be handed on: longer than a small tenant
	// takes, and short enough that whoever completes a large delivery asks for the role again.
	handedOnFor = time.Minute
	// keptSessions bounds how many may wait to be taken; a worker has one of each job that is between two verbs.
	keptSessions = 64
)

// sessions hands the session of one verb on to the next, so that a small delivery assumes the role once, and not for
// each of Delivered, Begin, Complete and Seal.
//
// A session is handed on and never shared: whoever begins takes it away, and puts back what it holds only when it has
// succeeded and its context is not over. So nobody gets more by it than by asking STS:
//
//   - A worker that was fenced keeps the session that it has, and gets no other: role refuses before it looks here,
//     and what others put here is not its.
//   - After a failure, whatever it was, the next try opens a session of its own, and so learns whether the role still
//     lets us in. A session that S3 refuses under way is replaced as ever, and not put here.
//   - A role that is broken without a request of ours failing is noticed a minute later than it could be, at the most.
//     What it has let in is let in for an hour anyway.
//   - The end of a job puts nothing back. What a verb has left that no other came for goes after a minute.
type sessions struct {
	mu   sync.Mutex
	kept map[sessionOf]*keptSession
}

type keptSession struct {
	session
	drop *time.Timer
}

// put leaves a session for the next verb.
func (s *sessions) put(of sessionOf, v session) {
	left := handedOnFor - time.Since(v.opened)
	if left <= 0 || time.Until(v.credentials.Expires) < expiryWindow {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if was := s.kept[of]; was != nil {
		was.drop.Stop()
	} else if len(s.kept) >= keptSessions {
		return
	}
	k := &keptSession{session: v}
	k.drop = time.AfterFunc(left, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.kept[of] == k {
			delete(s.kept, of)
		}
	})
	s.kept[of] = k
}

// take is the session that the verb before has left, or nil.
func (s *sessions) take(of sessionOf) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.kept[of]
	if k == nil {
		return nil
	}
	delete(s.kept, of)
	if !k.drop.Stop() { // its time is over at this very moment
		return nil
	}
	return &k.session
}
