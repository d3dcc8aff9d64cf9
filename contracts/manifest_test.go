package contracts_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/snapfleet/snapfleet/contracts"
)

func TestManifestRoundTrip(t *testing.T) {
	t.Parallel()
	m := fullManifest()
	data, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasSuffix(data, []byte("}\n")) || !bytes.HasPrefix(data, []byte("{\n  \"version\": 1,\n")) {
		t.Errorf("not indented, or without a newline at the end: %.40q", data)
	}
	if m.Tables[1].Columns != nil {
		t.Error("Encode changed its receiver")
	}
	again, err := contracts.DecodeManifest(data)
	if err != nil {
		t.Fatal(err)
	}
	m.Tables[1].Columns = []contracts.Column{} // null is never written
	if !reflect.DeepEqual(again, m) {
		t.Errorf("%+v\nread again\n%+v", m, again)
	}
	second, err := again.Encode()
	if err != nil || !bytes.Equal(data, second) {
		t.Errorf("written again, it is another manifest: %v", err)
	}
}

func TestManifestHasNoNull(t *testing.T) {
	t.Parallel()
	data, err := contracts.Manifest{Version: 1, Tenant: "acme", Job: "j", Tables: []contracts.Table{{Name: "no columns"}}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(data, []byte("null")) {
		t.Errorf("a list without entries is null:\n%s", data)
	}
}

// TestManifestIsIndentedJSON: the lists that are written entry by entry look as encoding/json writes them.
func TestManifestIsIndentedJSON(t *testing.T) {
	t.Parallel()
	odd := fullManifest()
	odd.Excluded = []string{"\n  \"tables\": []", "<&>"}
	odd.Attachments = append(odd.Attachments, contracts.Attachment{ID: "\n  \"files\": []", Filename: "\u2028\xff\"\\<>&\x00"})
	many := fullManifest()
	for i := range 3 {
		many.Files = append(many.Files, contracts.File{Name: fmt.Sprint(i)})
		many.Gaps = append(many.Gaps, contracts.Gap{ID: fmt.Sprint(i)})
	}
	for _, m := range []contracts.Manifest{fullManifest(), odd, many} {
		got, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		for i := range m.Tables {
			if m.Tables[i].Columns == nil {
				m.Tables[i].Columns = []contracts.Column{}
			}
		}
		if want, _ := json.MarshalIndent(m, "", "  "); string(got) != string(want)+"\n" {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	}
}

// TestJSONBytes: what a text will have in a manifest is known before it is written.
func TestJSONBytes(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"", "plain", "größe", "\"\\", "<>&", "\x00\x1f\n\r\t\b\f\x7f", "\u2028\u2029", "\xff\xfe", "\ufffd", "\U0001f600"} {
		data, _ := json.Marshal(s)
		if got, want := contracts.JSONBytes(s), int64(len(data)-2); got < want || got > want+4*int64(len(s)) {
			t.Errorf("%q: %d bytes, not %d", s, got, want)
		}
	}
}

func TestDecodeManifest(t *testing.T) {
	t.Parallel()
	good := `{"version":1,"tenant":"acme","job":"j"}`
	for name, c := range map[string]struct{ in, err string }{
		"small":              {good, ""},
		"of a later release": {`{"version":1,"tenant":"acme","job":"j","colour":"blue"}`, ""},
		"empty":              {"", "not the expected JSON"},
		"cut off":            {good[:20], "not the expected JSON"},
		"two":                {good + good, "not the expected JSON"},
		"page of a proxy":    {"<html>503</html>", "not the expected JSON"},
		"no version":         {`{"tenant":"acme","job":"j"}`, "version 0"},
		"version 2":          {`{"version":2,"tenant":"acme","job":"j"}`, "version 2"},
		"bad tenant":         {`{"version":1,"tenant":"../x","job":"j"}`, "not a valid name"},
		"bad job":            {`{"version":1,"tenant":"acme","job":"a/b"}`, "not a valid name"},
	} {
		_, err := contracts.DecodeManifest([]byte(c.in))
		if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s: error is %v, want %q", name, err, c.err)
		}
	}
}

func TestDecodeManifestTooLarge(t *testing.T) {
	t.Parallel()
	_, err := contracts.DecodeManifest(make([]byte, contracts.MaxManifestBytes+1))
	if err == nil || !strings.Contains(err.Error(), "the limit is") {
		t.Errorf("error is %v", err)
	}
}

func FuzzDecodeManifest(f *testing.F) {
	full, err := fullManifest().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(full)
	f.Add([]byte(`{"version":1,"tenant":"acme","job":"j"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := contracts.DecodeManifest(data)
		if err != nil {
			return
		}
		first, err := m.Encode()
		if err != nil {
			return // an instant that RFC 3339 cannot write
		}
		again, err := contracts.DecodeManifest(first)
		if err != nil {
			t.Fatalf("accepted, written again, refused: %v", err)
		}
		if second, err := again.Encode(); err != nil || !bytes.Equal(first, second) {
			t.Fatalf("written a third time, it is another manifest: %v", err)
		}
		if !json.Valid(first) {
			t.Fatal("not JSON")
		}
	})
}
