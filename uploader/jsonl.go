package uploader

import (
	"bytes"
	"fmt"
	"unicode/utf8"

	"github.com/snapfleet/snapfleet/contracts"
)

// jsonlTable checks the text of a jsonl.gz as it is written to it, and counts its rows. Everything that is promised
// of the form is checked, of every byte: the text is UTF-8; each line is the object that row_to_json makes of a row
// of the table, {"column":value,...} with all of its columns, in their order, and no space between them; each value
// is JSON, by RFC 8259 to the letter, without a line feed or carriage return; and each line ends in a line feed. An
// empty table has no line.
// What the values are, and whether they suit the columns' types, is not looked at.
type jsonlTable struct {
	table  string
	seams  [][]byte // what stands before each value of a row, and after the last
	lines  int64
	seam   int // the one that is being read, or the next one
	at     int // how many bytes of it have come
	inside bool
	value  jsonValue
	text   utf8Text
	bad    error
}

func newJSONLTable(t contracts.Table) *jsonlTable {
	c := &jsonlTable{table: t.Name}
	seam := []byte("{")
	for i, column := range t.Columns {
		if i > 0 {
			seam = append(seam, ',')
		}
		c.seams = append(c.seams, append(appendJSON(seam, column.Name), ':'))
		seam = nil
	}
	c.seams = append(c.seams, append(seam, "}\n"...))
	return c
}

// appendJSON appends a string as PostgreSQL's escape_json writes it.
func appendJSON(b []byte, s string) []byte {
	short := map[byte]string{'"': `\"`, '\\': `\\`, '\b': `\b`, '\f': `\f`, '\n': `\n`, '\r': `\r`, '\t': `\t`}
	b = append(b, '"')
	for i := range len(s) {
		switch escape, ok := short[s[i]]; {
		case ok:
			b = append(b, escape...)
		case s[i] < ' ':
			b = fmt.Appendf(b, `\u%04x`, s[i])
		default:
			b = append(b, s[i])
		}
	}
	return append(b, '"')
}

// Write implements io.Writer. What comes after something that is wrong is not looked at.
func (c *jsonlTable) Write(p []byte) (int, error) {
	n := len(p)
	if c.bad == nil && !c.text.add(p) {
		c.bad = fmt.Errorf("row %d, or one soon after it, is not UTF-8", c.lines+1)
	}
	for len(p) > 0 && c.bad == nil {
		if c.inside {
			used, ended := c.value.scan(p)
			p = p[used:]
			c.inside = !ended
			if c.value.state == jsonWrong {
				c.bad = fmt.Errorf("row %d: value %d is not JSON", c.lines+1, c.seam)
			}
			continue
		}
		p = c.cross(p)
	}
	return n, nil
}

// cross reads of a seam what there is.
func (c *jsonlTable) cross(p []byte) (rest []byte) {
	want := c.seams[c.seam][c.at:]
	n := min(len(p), len(want))
	switch {
	case !bytes.Equal(p[:n], want[:n]):
		c.bad = fmt.Errorf("row %d is not an object with the columns of table %q", c.lines+1, c.table)
	case n < len(want):
		c.at += n
	case c.seam < len(c.seams)-1:
		c.at, c.inside = 0, true
		c.seam++
		c.value.reset()
	default:
		c.at, c.seam = 0, 0
		c.lines++
	}
	return p[n:]
}

// counted is how many lines have ended.
func (c *jsonlTable) counted() int64 { return c.lines }

// broken reports whether what was written is wrong, whatever follows.
func (c *jsonlTable) broken() bool { return c.bad != nil }

// rows returns the number of lines, or says what is wrong with the text.
func (c *jsonlTable) rows() (int64, error) {
	if c.bad == nil && (c.inside || c.seam > 0 || c.at > 0) {
		return c.lines, fmt.Errorf("row %d does not end in a line feed", c.lines+1)
	}
	return c.lines, c.bad
}

// maxJSONDepth is how deep a value may be nested. PostgreSQL, whose parser is recursive, refuses far less.
const maxJSONDepth = 1 << 20

// jsonValue reads one JSON value that comes in any number of pieces, with spaces and tabs around its parts, not line feeds.
// It keeps nothing of it, whatever its size, but a byte for each level of nesting. [encoding/json] has no such
// reader: its own needs the value in memory, and refuses some that PostgreSQL stores.
type jsonValue struct {
	state jsonState
	open  []byte // the brackets that are open, { or [
	key   bool   // the string under way is one
	word  string // what is left of true, false or null
	hex   int    // how many digits are left of an escape that begins with \u
}

type jsonState byte

const (
	jsonStart     jsonState = iota // a value
	jsonStartElse                  // a value, or the end of an array
	jsonKey                        // a key
	jsonKeyElse                    // a key, or the end of an object
	jsonColon
	jsonAfter  // a value: a comma or a bracket, or the end of all
	jsonString // inside one
	jsonEscape // behind its backslash
	jsonHex
	jsonWord
	jsonMinus // of a number, whose parts follow
	jsonZero
	jsonDigits
	jsonPoint
	jsonFraction
	jsonE
	jsonSign
	jsonExponent
	jsonWrong
)

func (v *jsonValue) reset() { *v = jsonValue{open: v.open[:0]} }

// plain are the bytes of a string that mean nothing.
var plain = func() (t [256]bool) {
	for i := range t {
		t[i] = i >= ' ' && i != '"' && i != '\\'
	}
	return t
}()

// scan reads on. ended: the value is whole, or wrong; p[used] is the first byte that is not of it.
func (v *jsonValue) scan(p []byte) (used int, ended bool) {
	for i := 0; i < len(p); {
		switch s := v.state; {
		case s == jsonString:
			for i < len(p) && plain[p[i]] {
				i++
			}
			if i < len(p) {
				v.inString(p[i])
				i++
			}
		case s == jsonDigits || s == jsonFraction || s == jsonExponent:
			for i < len(p) && jsonDigit(p[i]) {
				i++
			}
			if i < len(p) && v.number(p[i]) {
				i++
			}
		case s > jsonWord:
			if v.number(p[i]) {
				i++
			}
		case s == jsonAfter && len(v.open) == 0 && !jsonSpace(p[i]):
			return i, true
		default:
			v.step(p[i])
			i++
		}
		if v.state == jsonWrong {
			return i, true
		}
	}
	return len(p), false
}

func jsonDigit(b byte) bool { return '0' <= b && b <= '9' }

func jsonSpace(b byte) bool { return b == ' ' || b == '\t' }

// number takes b in if it goes on with the number under way. If not, the number has ended, or is none.
func (v *jsonValue) number(b byte) bool {
	digit, next := jsonDigit(b), jsonWrong
	switch s := v.state; {
	case s == jsonMinus && b == '0':
		next = jsonZero
	case s == jsonMinus && digit, s == jsonDigits && digit:
		next = jsonDigits
	case (s == jsonZero || s == jsonDigits) && b == '.':
		next = jsonPoint
	case (s == jsonPoint || s == jsonFraction) && digit:
		next = jsonFraction
	case (s == jsonZero || s == jsonDigits || s == jsonFraction) && (b == 'e' || b == 'E'):
		next = jsonE
	case s == jsonE && (b == '+' || b == '-'):
		next = jsonSign
	case (s == jsonE || s == jsonSign || s == jsonExponent) && digit:
		next = jsonExponent
	case s == jsonZero, s == jsonDigits, s == jsonFraction, s == jsonExponent:
		v.state = jsonAfter
		return false
	}
	v.state = next
	return next != jsonWrong
}

// step takes one byte that is not within a number.
func (v *jsonValue) step(b byte) {
	switch v.state {
	case jsonString:
		v.inString(b)
	case jsonEscape:
		v.escaped(b)
	case jsonHex:
		if v.hex--; !jsonHexDigit(b) {
			v.state = jsonWrong
		} else if v.hex == 0 {
			v.state = jsonString
		}
	case jsonWord:
		switch {
		case b != v.word[0]:
			v.state = jsonWrong
		case len(v.word) == 1:
			v.state = jsonAfter
		default:
			v.word = v.word[1:]
		}
	default:
		if !jsonSpace(b) {
			v.token(b)
		}
	}
}

// inString takes a byte of a string that means something.
func (v *jsonValue) inString(b byte) {
	switch {
	case b == '\\':
		v.state = jsonEscape
	case b != '"':
		v.state = jsonWrong
	case v.key:
		v.state = jsonColon
	default:
		v.state = jsonAfter
	}
}

func (v *jsonValue) escaped(b byte) {
	switch b {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		v.state = jsonString
	case 'u':
		v.state, v.hex = jsonHex, 4
	default:
		v.state = jsonWrong
	}
}

func jsonHexDigit(b byte) bool { return jsonDigit(b) || 'a' <= b|0x20 && b|0x20 <= 'f' }

// token takes the first byte of what stands between white space.
func (v *jsonValue) token(b byte) {
	inside := byte(0)
	if n := len(v.open); n > 0 {
		inside = v.open[n-1]
	}
	switch s := v.state; {
	case s == jsonColon && b == ':':
		v.state = jsonStart
	case s == jsonAfter && b == ',' && inside == '{':
		v.state = jsonKey
	case s == jsonAfter && b == ',' && inside == '[':
		v.state = jsonStart
	case (s == jsonAfter || s == jsonKeyElse) && b == '}' && inside == '{', (s == jsonAfter || s == jsonStartElse) && b == ']' && inside == '[':
		v.state, v.open = jsonAfter, v.open[:len(v.open)-1]
	case (s == jsonKey || s == jsonKeyElse) && b == '"':
		v.state, v.key = jsonString, true
	case s == jsonStart, s == jsonStartElse:
		v.begin(b)
	default:
		v.state = jsonWrong
	}
}

// begin takes the first byte of a value.
func (v *jsonValue) begin(b byte) {
	switch {
	case b == '"':
		v.state, v.key = jsonString, false
	case (b == '{' || b == '[') && len(v.open) == maxJSONDepth:
		v.state = jsonWrong
	case b == '{':
		v.state, v.open = jsonKeyElse, append(v.open, b)
	case b == '[':
		v.state, v.open = jsonStartElse, append(v.open, b)
	case b == '-':
		v.state = jsonMinus
	case b == '0':
		v.state = jsonZero
	case '1' <= b && b <= '9':
		v.state = jsonDigits
	case b == 't':
		v.state, v.word = jsonWord, "rue"
	case b == 'f':
		v.state, v.word = jsonWord, "alse"
	case b == 'n':
		v.state, v.word = jsonWord, "ull"
	default:
		v.state = jsonWrong
	}
}

// utf8Text tells whether a text that comes in pieces is UTF-8.
type utf8Text struct {
	cut [utf8.UTFMax]byte // a character whose end is still to come
	n   int
}

// add reports whether the text is UTF-8 so far.
func (t *utf8Text) add(p []byte) bool {
	for t.n > 0 && len(p) > 0 {
		t.cut[t.n] = p[0]
		t.n, p = t.n+1, p[1:]
		if !utf8.FullRune(t.cut[:t.n]) {
			continue
		}
		if r, size := utf8.DecodeRune(t.cut[:t.n]); r == utf8.RuneError && size == 1 {
			return false
		}
		t.n = 0
	}
	whole := len(p)
	for back := 1; back < utf8.UTFMax && back <= len(p); back++ {
		if last := p[len(p)-back:]; utf8.RuneStart(last[0]) {
			if !utf8.FullRune(last) {
				whole = len(p) - back
			}
			break
		}
	}
	if whole < len(p) {
		t.n = copy(t.cut[:], p[whole:])
	}
	return utf8.Valid(p[:whole])
}
