package consumer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/snapfleet/snapfleet/contracts"
)

// What is kept of a publisher's headers: so many names and values, and so many bytes of each and of all.
const (
	maxHeaders     = 32
	maxHeaderValue = 1 << 10
	maxHeaderBytes = 8 << 10
)

// maxCutBody is how much of a body is kept that cannot be kept whole.
const maxCutBody = 4 << 10

// Bury publishes the message as a dead letter. A publisher must not be able to prevent that: whatever the server or the
// library refuses of the original message is left out, first the headers that cannot be sent, then all of them and the end
// of the body.
func (s streams) Bury(ctx context.Context, m message, job string, why *contracts.Rejection) (err error) {
	ctx, span := startSend(ctx, contracts.DeadSubjects)
	defer func() { endStep(span, err) }()
	sum, reason := digestOf(m.Data()), why.Reason()
	letter := &nats.Msg{Subject: contracts.DeadSubject(m.Tenant()), Data: m.Data(), Header: sendable(m.Header())}
	ours := func() {
		letter.Header.Set(contracts.HeaderCode, string(reason.Code))
		letter.Header.Set(contracts.HeaderReason, oneLine(reason.What))
		letter.Header.Set(contracts.HeaderDigest, sum)
		if contracts.ValidJob(job) {
			letter.Header.Set(contracts.HeaderJob, job)
		}
	}
	ours()
	id := jetstream.WithMsgID(strings.Join([]string{strings.TrimPrefix(letter.Subject, "snapshot.dead."), sum, string(reason.Code)}, "."))
	_, err = s.js.PublishMsg(ctx, letter, id)
	if err == nil || !permanent(err) {
		return err
	}
	letter.Header = nats.Header{}
	ours()
	if len(letter.Data) > maxCutBody {
		letter.Header.Set(contracts.HeaderCut, strconv.Itoa(len(letter.Data)))
		letter.Data = letter.Data[:maxCutBody]
	}
	if _, again := s.js.PublishMsg(ctx, letter, id); again != nil {
		return fmt.Errorf("%w (without its headers: %w)", err, again)
	}
	return nil
}

// Refuse publishes the answer for the request's publisher.
func (s streams) Refuse(ctx context.Context, r contracts.Refusal) (err error) {
	ctx, span := startSend(ctx, contracts.RefusedSubjects)
	defer func() { endStep(span, err) }()
	r.Version = contracts.RefusalVersion
	body, err := json.Marshal(r)
	if err != nil {
		return err
	}
	m := &nats.Msg{Subject: contracts.RefusedSubject(r.Tenant), Data: body, Header: traceHeader(ctx)}
	_, err = s.js.PublishMsg(ctx, m, jetstream.WithMsgID(strconv.FormatUint(r.Sequence, 10)+"."+r.Digest))
	if err != nil {
		return fmt.Errorf("answer the publisher: %w", notSetUp(err))
	}
	return nil
}

// sendable is what of a publisher's headers can be published again: names and values that NATS takes, within the bounds
// above. What the publisher wrote for JetStream or in our name is left out: a server would obey the one, and people would
// believe the other.
func sendable(header contracts.Header) nats.Header {
	kept, number, size := nats.Header{}, 0, 0
	for name, values := range header {
		if !validHeaderName(name) || hasPrefixFold(name, "Nats-") || hasPrefixFold(name, contracts.HeaderPrefix) {
			continue
		}
		for _, value := range values {
			value = contracts.CutText(printableLine(value), maxHeaderValue)
			if number++; number > maxHeaders || size+len(name)+len(value) > maxHeaderBytes {
				return kept
			}
			size += len(name) + len(value)
			kept[name] = append(kept[name], value)
		}
	}
	return kept
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

// validHeaderName reports whether NATS clients take s as the name of a header: a token of RFC 9110 of at most 128 bytes.
func validHeaderName(s string) bool {
	return s != "" && len(s) <= 128 && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune("\"()/,:;<=>?@[\\]{}", r)
	})
}

// permanent reports whether a message that was refused with err will be refused again.
func permanent(err error) bool {
	for _, final := range []error{nats.ErrBadHeaderMsg, nats.ErrMaxPayload, nats.ErrBadSubject, nats.ErrHeadersNotSupported} {
		if errors.Is(err, final) {
			return true
		}
	}
	const tooLarge, badHeader = 10054, 10058
	refused, ok := errors.AsType[*jetstream.APIError](err)
	return ok && (refused.ErrorCode == tooLarge || refused.ErrorCode == badHeader || refused.Code == 400 && refused.ErrorCode == 0)
}

// oneLine makes s fit for a header.
func oneLine(s string) string { return contracts.CutText(printableLine(s), 2000) }

// printableLine is s with a space in place of each control character.
func printableLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}
