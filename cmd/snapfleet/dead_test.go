package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/snapfleet/snapfleet/consumer"
)

func TestReplayOfAllPublishesEachWishOnce(t *testing.T) {
	t.Parallel()
	letter := func(seq uint64, job, second string, replayed bool) consumer.Letter {
		l := consumer.Letter{Seq: seq, Tenant: "acme", Body: fmt.Appendf(nil, `{"version":1,"tenant":"acme","job":%q,"requested_at":"2020-01-01T00:00:%sZ"}`, job, second)}
		if replayed {
			l.Replay = &consumer.Replay{Job: job}
		}
		return l
	}
	broken := consumer.Letter{Seq: 9, Tenant: "acme", Body: []byte("\x1b[2J")}
	for name, c := range map[string]struct {
		letters []consumer.Letter
		again   bool
		due     []uint64
		out     int
	}{
		"none":                            {nil, false, nil, 0},
		"each":                            {[]consumer.Letter{letter(1, "a", "00", false), letter(2, "b", "00", false)}, false, []uint64{1, 2}, 0},
		"the same, asked for twice":       {[]consumer.Letter{letter(1, "a", "00", false), letter(2, "a", "01", false)}, false, []uint64{1}, 1},
		"the same as one before":          {[]consumer.Letter{letter(1, "a", "00", true), letter(2, "a", "01", false)}, false, nil, 1},
		"the same as one that came later": {[]consumer.Letter{letter(1, "a", "00", false), letter(2, "a", "01", true)}, false, nil, 1},
		"again":                           {[]consumer.Letter{letter(1, "a", "00", true), letter(2, "b", "00", false)}, true, []uint64{1, 2}, 0},
		"no request":                      {[]consumer.Letter{broken, letter(10, "a", "00", false)}, false, []uint64{10}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			due, out := dueOf(c.letters, c.again)
			var seqs []uint64
			for _, l := range due {
				seqs = append(seqs, l.Seq)
			}
			if !slices.Equal(seqs, c.due) || len(out) != c.out || strings.Contains(strings.Join(out, ""), "\x1b") {
				t.Errorf("due %v, left out %q", seqs, out)
			}
		})
	}
}

func TestNothingHostileReachesTheTerminal(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"plain\ttext\n":       "plain\ttext\n",
		"Größe 日本":            "Größe 日本",
		"\x1b[2J":             `\x1b[2J`,
		"\x07\r\x00\x7f":      `\a\r\x00\x7f`,
		"\xff\xc3":            `\xff\xc3`,
		"\u009b2J":            `\u009b2J`,
		"\u202eabc\u2066":     `\u202eabc\u2066`,
		"\U000e0041":          `\U000e0041`,
		"it's \"quoted\" \\n": "it's \"quoted\" \\n",
	} {
		if got := printable(in); got != want {
			t.Errorf("printable(%q) = %q, want %q", in, got, want)
		}
		var b bytes.Buffer
		c := console{out: &b}
		if err := c.json(map[string]string{"text": in}, true); err != nil {
			t.Fatal(err)
		}
		if strings.ContainsFunc(b.String(), func(r rune) bool { return r != '\n' && printable(string(r)) != string(r) }) {
			t.Errorf("%q reaches the terminal as %q", in, b.String())
		}
		var back map[string]string
		if err := json.Unmarshal(b.Bytes(), &back); err != nil || back["text"] != strings.ToValidUTF8(in, "\ufffd") && back["text"] != string([]rune(in)) {
			t.Errorf("%q comes back as %q, %v", in, back["text"], err)
		}
	}
}
