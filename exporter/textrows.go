package exporter

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/snapfleet/snapfleet/contracts"
)

// errText says that a server's CSV, or the text of a value in it, is not what PostgreSQL writes.
var errText = errors.New("the server sends text in a form that is not known")

// textRows is the sink of rows of CSV, of which it makes JSON. A string or a document goes through as it comes. Any
// other value is held in memory as a whole.
type textRows struct {
	*lines
	table *table

	at    int       // the present column
	state textState // of the present field
	begun bool      // something of the field is written
	held  []byte    // a value that is held, so far
	ended bool      // the row
}

type textState int

const (
	fieldStart textState = iota
	unquoted
	inQuotes
	quoteSeen // in quotation marks: the next byte decides whether they end here
)

// message takes a row, or a piece of one: PostgreSQL makes one message of each row.
func (t *textRows) message(p []byte, left int) error {
	t.ended = false
	for len(p) > 0 {
		if t.ended { // more than a row
			return errText
		}
		var err error
		if p, err = t.step(p); err != nil {
			return err
		}
		if err := t.spill(); err != nil {
			return err
		}
	}
	switch {
	case left > 0:
		return nil
	case !t.ended:
		return fmt.Errorf("%w: a row without an end", errText)
	}
	return t.row()
}

// step takes some of p, and returns the rest.
func (t *textRows) step(p []byte) (rest []byte, err error) {
	switch t.state {
	case fieldStart:
		if p[0] == '"' {
			t.state = inQuotes
			return p[1:], t.take(nil)
		}
		t.state = unquoted
		return p, nil
	case inQuotes:
		n := bytes.IndexByte(p, '"')
		if n < 0 {
			return nil, t.take(p)
		}
		t.state = quoteSeen
		return p[n+1:], t.take(p[:n])
	case quoteSeen:
		if p[0] == '"' {
			t.state = inQuotes
			return p[1:], t.take(p[:1])
		}
	default:
		n := bytes.IndexAny(p, ",\n")
		if n < 0 {
			return nil, t.take(p)
		}
		if n > 0 {
			return p[n:], t.take(p[:n])
		}
	}
	return p[1:], t.endField(p[0])
}

// field is the present one, and how its JSON is made.
func (t *textRows) field() (*field, *value) {
	f := &t.table.fields[t.at]
	if f.value == nil {
		return f, &value{form: asDocument}
	}
	return f, f.value
}

// take takes a piece of the present field's value.
func (t *textRows) take(p []byte) error {
	if t.at >= len(t.table.fields) {
		return fmt.Errorf("%w: another number of columns", errText)
	}
	f, v := t.field()
	if !t.begun {
		t.begun = true
		t.out = append(t.out, f.before...)
		if v.form == asString {
			t.out = append(t.out, '"')
		}
	}
	switch v.form {
	case asString:
		t.out = jsonEscaped(t.out, p)
	case asDocument:
		t.out = jsonRaw(t.out, p)
	default:
		if len(t.held)+len(p) > maxRow {
			return contracts.Reject(contracts.FormatImpossible, "a value of column %.80q of table %.80q has more than %d bytes, and is of type %.80s", f.label, t.table.Name, maxRow, f.typ)
		}
		t.held = append(t.held, p...)
	}
	return nil
}

// endField ends the present field, and with it the row if end is a newline.
func (t *textRows) endField(end byte) (err error) {
	if t.at >= len(t.table.fields) {
		return fmt.Errorf("%w: another number of columns", errText)
	}
	f, v := t.field()
	switch {
	case end != ',' && end != '\n':
		return errText
	case !t.begun: // neither a byte nor quotation marks
		t.out = append(append(t.out, f.before...), t.table.null...)
	case v.form == asString:
		t.out = append(t.out, '"')
	case v.form != asDocument:
		if t.out, err = v.append(t.out, t.held); err != nil {
			return fmt.Errorf("column %.80q of type %.80s: %w", f.label, f.typ, err)
		}
	}
	t.at, t.state, t.begun, t.held = t.at+1, fieldStart, false, t.held[:0]
	if end == ',' {
		return nil
	}
	if t.at != len(t.table.fields) {
		return fmt.Errorf("%w: another number of columns", errText)
	}
	t.out = append(t.out, t.table.after...)
	t.at, t.ended = 0, true
	return nil
}

// append writes the JSON of a whole value of that text.
func (v *value) append(dst, text []byte) ([]byte, error) {
	switch v.form {
	case asBool:
		if string(text) == "t" {
			return append(dst, "true"...), nil
		}
		return append(dst, "false"...), nil
	case asNumber:
		if jsonNumber(text) {
			return append(dst, text...), nil
		}
		return jsonText(dst, text), nil // NaN and the infinities
	case asDocument:
		return jsonRaw(dst, text), nil
	case asTimestamp, asTimestamptz:
		return v.appendTimestamp(dst, text), nil
	case asVector:
		return v.appendVector(dst, text)
	case asArray:
		return v.appendArray(dst, text)
	case asRecord:
		return v.appendRecord(dst, text)
	case asHstore:
		return appendHstore(dst, text)
	default:
		return jsonText(dst, text), nil
	}
}

// jsonNumber reports whether text is a number by JSON's grammar.
func jsonNumber(text []byte) bool {
	digits := func() bool {
		n := 0
		for n < len(text) && text[n] >= '0' && text[n] <= '9' {
			n++
		}
		text = text[n:]
		return n > 0
	}
	text = bytes.TrimPrefix(text, []byte("-"))
	if len(text) > 1 && text[0] == '0' && text[1] >= '0' && text[1] <= '9' || !digits() {
		return false
	}
	if len(text) > 0 && text[0] == '.' {
		if text = text[1:]; !digits() {
			return false
		}
	}
	if len(text) > 0 && (text[0] == 'e' || text[0] == 'E') {
		if text = text[1:]; len(text) > 0 && (text[0] == '+' || text[0] == '-') {
			text = text[1:]
		}
		if !digits() {
			return false
		}
	}
	return len(text) == 0
}

// appendTimestamp makes 2026-03-31T14:30:22+00:00 of 2026-03-31 14:30:22+00. The session's TimeZone is UTC.
func (v *value) appendTimestamp(dst, text []byte) []byte {
	day, clock, found := bytes.Cut(text, []byte(" "))
	if !found {
		return jsonText(dst, text) // infinity
	}
	dst = append(append(append(dst, '"'), day...), 'T')
	clock, bc := bytes.CutSuffix(clock, []byte(" BC"))
	dst = append(dst, clock...)
	if v.form == asTimestamptz {
		dst = append(dst, ":00"...)
	}
	return append(appendBC(dst, bc), '"')
}

func (v *value) appendVector(dst, text []byte) (_ []byte, err error) {
	dst = append(dst, '[')
	for i, elem := range bytes.Fields(text) {
		if i > 0 {
			dst = append(dst, ',')
		}
		if dst, err = v.elem.append(dst, elem); err != nil {
			return dst, err
		}
	}
	return append(dst, ']'), nil
}

// appendArray takes {1,NULL,"a \"b\""}, with further braces for each dimension, after [0:2]= where it does not begin
// at 1, which JSON does not tell.
func (v *value) appendArray(dst, text []byte) ([]byte, error) {
	if len(text) > 0 && text[0] == '[' {
		_, text, _ = bytes.Cut(text, []byte("="))
	}
	dst, rest, err := v.appendBraces(dst, text, 0)
	if err == nil && len(rest) > 0 {
		err = errText
	}
	return dst, err
}

func (v *value) appendBraces(dst, text []byte, depth int) (_, rest []byte, err error) {
	if len(text) == 0 || text[0] != '{' || depth > maxNesting {
		return dst, text, errText
	}
	dst, text = append(dst, '['), text[1:]
	for first := true; len(text) > 0 && text[0] != '}'; first = false {
		if !first {
			if text[0] != v.delim {
				return dst, text, errText
			}
			dst, text = append(dst, ','), text[1:]
		}
		if len(text) > 0 && text[0] == '{' {
			dst, text, err = v.appendBraces(dst, text, depth+1)
		} else {
			dst, text, err = v.appendElement(dst, text)
		}
		if err != nil {
			return dst, text, err
		}
	}
	if len(text) == 0 {
		return dst, text, errText
	}
	return append(dst, ']'), text[1:], nil
}

func (v *value) appendElement(dst, text []byte) (_, rest []byte, err error) {
	if len(text) > 0 && text[0] == '"' {
		elem, rest, err := unquote(text[1:])
		if err == nil {
			dst, err = v.elem.append(dst, elem)
		}
		return dst, rest, err
	}
	n := bytes.IndexFunc(text, func(r rune) bool { return r == rune(v.delim) || r == '}' })
	if n < 1 {
		return dst, text, errText
	}
	if elem := text[:n]; string(elem) == "NULL" {
		dst = append(dst, "null"...)
	} else {
		dst, err = v.elem.append(dst, elem)
	}
	return dst, text[n:], err
}

// unquote takes what is between quotation marks in an array, a record or an hstore, where a backslash, or another
// quotation mark, comes before one that is meant.
func unquote(text []byte) (content, rest []byte, err error) {
	if n := bytes.IndexAny(text, `"\`); n >= 0 && text[n] == '"' && (n+1 == len(text) || text[n+1] != '"') {
		return text[:n], text[n+1:], nil
	}
	content = make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"' && (i+1 == len(text) || text[i+1] != '"'):
			return content, text[i+1:], nil
		case c == '"' || c == '\\':
			if i++; i == len(text) {
				return content, nil, errText
			}
		}
		content = append(content, text[i])
	}
	return content, nil, errText
}

// appendRecord takes (1,,"a ""b"""): nothing at all is NULL.
func (v *value) appendRecord(dst, text []byte) (_ []byte, err error) {
	if len(text) < 2 || text[0] != '(' {
		return dst, errText
	}
	dst, text = append(dst, '{'), text[1:]
	for i, f := range v.fields {
		if i > 0 {
			if len(text) == 0 || text[0] != ',' {
				return dst, errText
			}
			dst, text = append(dst, ','), text[1:]
		}
		dst = append(jsonText(dst, []byte(v.names[i])), ':')
		if len(text) > 0 && text[0] == '"' {
			var content []byte
			if content, text, err = unquote(text[1:]); err == nil {
				dst, err = f.append(dst, content)
			}
		} else if n := bytes.IndexAny(text, ",)"); n > 0 {
			dst, err = f.append(dst, text[:n])
			text = text[n:]
		} else {
			dst = append(dst, "null"...)
		}
		if err != nil {
			return dst, err
		}
	}
	if string(text) != ")" {
		return dst, errText
	}
	return append(dst, '}'), nil
}

// appendHstore takes "a"=>"1", "b"=>NULL, and writes it as the extension's cast does.
func appendHstore(dst, text []byte) ([]byte, error) {
	dst = append(dst, '{')
	for first := true; len(text) > 0; first = false {
		if !first {
			if !bytes.HasPrefix(text, []byte(", ")) {
				return dst, errText
			}
			dst, text = append(dst, ", "...), text[2:]
		}
		if len(text) == 0 || text[0] != '"' {
			return dst, errText
		}
		key, rest, err := unquote(text[1:])
		if err != nil || !bytes.HasPrefix(rest, []byte("=>")) {
			return dst, errText
		}
		dst, text = append(jsonText(dst, key), ": "...), rest[2:]
		if bytes.HasPrefix(text, []byte("NULL")) {
			dst, text = append(dst, "null"...), text[4:]
			continue
		}
		if len(text) == 0 || text[0] != '"' {
			return dst, errText
		}
		if key, text, err = unquote(text[1:]); err != nil {
			return dst, err
		}
		dst = jsonText(dst, key)
	}
	return append(dst, '}'), nil
}
