package contracts

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"strings"
	"unicode/utf8"
)

// DecodeStrict reads exactly one JSON value into v. It refuses what encoding/json lets pass: unknown
// fields, a field given twice, a field in another case, invalid UTF-8, and anything after the value.
// Names of fields, and keys of maps, are of a-z 0-9 _ - only.
func DecodeStrict(data []byte, v any) error {
	if !utf8.Valid(data) {
		return errors.New("not valid UTF-8")
	}
	if bytes.HasPrefix(data, []byte("\ufeff")) {
		return errors.New("it begins with a byte order mark (U+FEFF): JSON is UTF-8 without one")
	}
	if err := uniqueKeys(data); err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("not the expected JSON: %w", inWords(err))
	}
	return nil
}

// inWords says what is wrong with a value in the words of JSON, not of Go.
func inWords(err error) error {
	var kind *json.UnmarshalTypeError
	if !errors.As(err, &kind) || kind.Type == nil {
		return err
	}
	field := kind.Field
	if field == "" {
		field = "the value"
	} else {
		field = fmt.Sprintf("field %.80q", field)
	}
	want := map[reflect.Kind]string{
		reflect.String: "a string", reflect.Bool: "true or false", reflect.Slice: "an array", reflect.Struct: "an object", reflect.Map: "an object",
		reflect.Float64: "a number",
	}[kind.Type.Kind()]
	if want == "" {
		want = "a whole number"
	}
	return fmt.Errorf("%s is %s %.80s, it must be %s", field, article(kind.Value), kind.Value, want)
}

// article is the word before a noun.
func article(word string) string {
	if word != "" && strings.ContainsRune("aeiou", rune(word[0])) {
		return "an"
	}
	return "a"
}

// wholeNumber reads an integer as JSON Schema defines it: 1.0 and 1e0 are 1.
type wholeNumber int

// UnmarshalJSON implements json.Unmarshaler.
func (n *wholeNumber) UnmarshalJSON(data []byte) error {
	var number json.Number
	if string(data) == "null" { // as encoding/json has it
		return nil
	}
	if len(data) > 0 && data[0] != '"' && json.Unmarshal(data, &number) == nil {
		if f, err := number.Float64(); err == nil && f == math.Trunc(f) && math.Abs(f) < 1<<31 {
			*n = wholeNumber(f)
			return nil
		}
	}
	return fmt.Errorf("%.80s is no whole number", data)
}

// uniqueKeys walks all of data. Its error names the key.
func uniqueKeys(data []byte) error {
	type object struct {
		seen map[string]bool // nil for an array
		key  bool            // the next string is a key
	}
	var open []object
	d := json.NewDecoder(bytes.NewReader(data))
	for {
		t, err := d.Token()
		if errors.Is(err, io.EOF) && len(open) == 0 {
			return errors.New("not JSON: empty")
		}
		if err != nil {
			return fmt.Errorf("not JSON: %w", err)
		}
		top := len(open) - 1
		if s, ok := t.(string); ok && top >= 0 && open[top].key {
			// encoding/json matches names as Unicode folds them: also the Kelvin sign is a k, and the
			// long s an s. So what is not plain is refused, before it can be a second spelling.
			if !plainKey(s) {
				return fmt.Errorf("unknown field %.80q: field names are of a-z 0-9 _ -", s)
			}
			if open[top].seen[s] {
				return fmt.Errorf("field %.80q is given twice", s)
			}
			open[top].seen[s], open[top].key = true, false
			continue
		}
		switch t {
		case json.Delim('{'):
			open = append(open, object{seen: map[string]bool{}, key: true})
			continue
		case json.Delim('['):
			open = append(open, object{})
			continue
		case json.Delim('}'), json.Delim(']'):
			open = open[:top]
			top--
		}
		if top < 0 { // the one value is complete
			break
		}
		open[top].key = open[top].seen != nil
	}
	if rest := bytes.TrimLeft(data[d.InputOffset():], " \t\r\n"); len(rest) > 0 {
		return errors.New("more than one JSON value")
	}
	return nil
}

func plainKey(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '_' && r != '-'
	})
}
