package contracts

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	if err := uniqueKeys(data); err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("not the expected JSON: %w", err)
	}
	return nil
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
