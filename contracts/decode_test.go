package contracts_test

import (
	"strings"
	"testing"

	"github.com/snapfleet/snapfleet/contracts"
)

func TestDecodeStrict(t *testing.T) {
	t.Parallel()
	type inner struct {
		K int `json:"k"`
	}
	type value struct {
		Version int            `json:"version"`
		Text    string         `json:"text"`
		List    []inner        `json:"list"`
		Map     map[string]int `json:"map"`
	}
	pad := strings.Repeat(" ", 5000)
	for name, c := range map[string]struct{ in, err string }{
		"empty object":          {`{}`, ""},
		"everything":            {`{"version":1,"text":"a","list":[{"k":1},{"k":2}],"map":{"a":1,"b":2}}`, ""},
		"white space around":    {" \r\n\t{\"version\":1}\n" + pad, ""},
		"escaped name":          {`{"versi\u006fn":1}`, ""},
		"same name elsewhere":   {`{"list":[{"k":1},{"k":1}],"map":{"k":1}}`, ""},
		"empty":                 {"", "empty"},
		"blank":                 {pad, "empty"},
		"unknown":               {`{"verzion":1}`, `unknown field "verzion"`},
		"unknown inside":        {`{"list":[{"j":1}]}`, `unknown field "j"`},
		"other case":            {`{"Version":1}`, `unknown field "Version"`},
		"long s":                {`{"verſion":1}`, `unknown field "verſion"`},
		"escaped Kelvin sign":   {`{"list":[{"\u212a":1}]}`, "unknown field"},
		"twice":                 {`{"version":1,"version":1}`, `"version" is given twice`},
		"twice, escaped":        {`{"version":1,"versi\u006fn":1}`, `"version" is given twice`},
		"twice inside":          {`{"list":[{"k":1,"k":2}]}`, `"k" is given twice`},
		"twice in a map":        {`{"map":{"a":1,"a":2}}`, `"a" is given twice`},
		"twice after an object": {`{"map":{"a":1},"version":1,"map":{"a":1}}`, `"map" is given twice`},
		"two values":            {`{}{}`, "more than one"},
		"trailing brace":        {`{}}`, "more than one"},
		"brace far away":        {`{}` + pad + `}`, "more than one"},
		"bracket far away":      {`{}` + pad + `]`, "more than one"},
		"text far away":         {`{}` + pad + `x`, "more than one"},
		"trailing NUL":          {"{}\x00", "more than one"},
		"other white space":     {"{}\u00a0", "more than one"},
		"byte order mark":       {"\ufeff{}", "begins with a byte order mark"},
		"cut off":               {`{"version":1`, "not JSON"},
		"trailing comma":        {`{"version":1,}`, "not JSON"},
		"comment":               {`{/**/}`, "not JSON"},
		"not a number":          {`{"version":NaN}`, "not JSON"},
		"huge number":           {`{"version":1e999}`, "not"},
		"string for a number":   {`{"version":"1"}`, `field "version" is a string, it must be a whole number`},
		"fraction":              {`{"version":1.5}`, `field "version" is a number 1.5, it must be a whole number`},
		"number for a string":   {`{"text":1}`, `field "text" is a number, it must be a string`},
		"object for an array":   {`{"list":{}}`, `field "list" is an object, it must be an array`},
		"array for an object":   {`[]`, "not the expected JSON"},
		"invalid UTF-8":         {"{\"text\":\"\xff\"}", "not valid UTF-8"},
		"invalid UTF-8 name":    {"{\"te\xc3xt\":1}", "not valid UTF-8"},
		"control character":     {"{\"text\":\"\n\"}", "not JSON"},
		"deep":                  {`{"list":` + strings.Repeat("[", 30_000) + strings.Repeat("]", 30_000) + `}`, "not"},
		"deep, cut off":         {strings.Repeat(`{"map":`, 9_000), "not JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := contracts.DecodeStrict([]byte(c.in), new(value))
			if c.err == "" && err != nil {
				t.Fatalf("refused: %v", err)
			}
			if c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Fatalf("error is %v, want one that says %q", err, c.err)
			}
			if err != nil && len(err.Error()) > 300 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
		})
	}
}
