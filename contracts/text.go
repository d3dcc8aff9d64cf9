package contracts

import (
	"strings"
	"unicode/utf8"
)

// MaxReasonBytes is the largest text of a reason. A reason is part of a job's record, of its outcome, of the header of a
// dead letter and of a notice, and each of them has to fit into one message of NATS.
const MaxReasonBytes = 4 << 10

// CutText returns s as valid UTF-8 of at most limit bytes. A text that is longer is cut between two characters and ends in
// " ...". The limit must be at least 4.
func CutText(s string, limit int) string {
	const end = " ..."
	if len(s) > limit {
		at := limit - len(end)
		for at > 0 && !utf8.RuneStart(s[at]) {
			at--
		}
		s = s[:at] + end
	}
	return strings.ToValidUTF8(s, "?")
}
