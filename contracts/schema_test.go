package contracts_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/snapfleet/snapfleet/contracts"
)

// documents are the Go types that have a JSON Schema, by the schema's name.
var documents = map[string]reflect.Type{
	"request":  reflect.TypeFor[contracts.Request](),
	"tenant":   reflect.TypeFor[contracts.Tenant](),
	"manifest": reflect.TypeFor[contracts.Manifest](),
	"outcome":  reflect.TypeFor[contracts.Outcome](),
	"notice":   reflect.TypeFor[contracts.Notice](),
	"refusal":  reflect.TypeFor[contracts.Refusal](),
	"schedule": reflect.TypeFor[contracts.Schedule](),
	"house":    reflect.TypeFor[contracts.House](),
	"check":    reflect.TypeFor[contracts.Check](),
	"links":    reflect.TypeFor[contracts.Links](),

	"check-question": reflect.TypeFor[contracts.CheckQuestion](),
	"links-question": reflect.TypeFor[contracts.LinksQuestion](),
}

// compiler knows all schemas by their $id, so that they find each other without a network.
func compiler(t testing.TB) (c *jsonschema.Compiler, ids map[string]string) {
	t.Helper()
	files, err := filepath.Glob("schemas/*.schema.json")
	if err != nil || len(files) != len(documents) {
		t.Fatalf("%d schemas, %d documents: %v", len(files), len(documents), err)
	}
	c, ids = jsonschema.NewCompiler(), map[string]string{}
	c.DefaultDraft(jsonschema.Draft2020)
	c.AssertFormat()
	for _, file := range files {
		doc := load(t, file)
		id, _ := doc["$id"].(string)
		name, _ := strings.CutSuffix(filepath.Base(file), ".schema.json")
		if !strings.HasSuffix(id, "/contracts/schemas/"+filepath.Base(file)) {
			t.Fatalf("%s: $id is %q", file, id)
		}
		if err := c.AddResource(id, doc); err != nil {
			t.Fatal(err)
		}
		ids[name] = id
	}
	return c, ids
}

func compile(t testing.TB, name string) *jsonschema.Schema {
	t.Helper()
	c, ids := compiler(t)
	s, err := c.Compile(ids[name])
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func load(t testing.TB, file string) map[string]any {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	object, ok := doc.(map[string]any)
	if !ok {
		t.Fatalf("%s is no object", file)
	}
	return object
}

// validate reads data as JSON like everybody does, and asks the schema.
func validate(s *jsonschema.Schema, data []byte) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one value")
	}
	return s.Validate(v)
}

func TestSchemasAreSchemas(t *testing.T) {
	t.Parallel()
	meta, err := jsonschema.NewCompiler().Compile("https://json-schema.org/draft/2020-12/schema")
	if err != nil {
		t.Fatal(err)
	}
	for name := range documents {
		doc := load(t, "schemas/"+name+".schema.json")
		if err := meta.Validate(doc); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if doc["$schema"] != "https://json-schema.org/draft/2020-12/schema" || doc["title"] == nil || doc["description"] == nil {
			t.Errorf("%s: $schema, title or description is missing", name)
		}
	}
}

func TestSchemaExamples(t *testing.T) {
	t.Parallel()
	for name, typ := range documents {
		s := compile(t, name)
		examples, _ := load(t, "schemas/"+name+".schema.json")["examples"].([]any)
		if len(examples) == 0 {
			t.Errorf("%s has no examples", name)
		}
		for i, e := range examples {
			if err := s.Validate(e); err != nil {
				t.Errorf("%s: example %d: %v", name, i, err)
			}
			data, err := json.Marshal(e)
			if err != nil {
				t.Fatal(err)
			}
			v := reflect.New(typ).Interface()
			if err := contracts.DecodeStrict(data, v); err != nil {
				t.Errorf("%s: example %d: %v", name, i, err)
			}
			switch v := v.(type) {
			case *contracts.Request:
				err = v.Validate()
			case *contracts.Tenant:
				err = v.Validate()
			case *contracts.Schedule:
				err = v.Validate()
			case *contracts.House:
				err = v.Validate()
			case *contracts.Manifest:
				_, err = contracts.DecodeManifest(data)
			}
			if err != nil {
				t.Errorf("%s: example %d: %v", name, i, err)
			}
		}
	}
}

// TestSchemasAcceptWhatGoWrites marshals every document twice: with every field set, and with as little
// as there can be.
func TestSchemasAcceptWhatGoWrites(t *testing.T) {
	t.Parallel()
	full, _ := fullManifest().Encode()
	bare, err := contracts.Manifest{
		Version: contracts.ManifestVersion, Tenant: "acme", Job: "j", Attempt: "1-0", Format: contracts.CSV,
		Tables: []contracts.Table{{Name: "no columns"}},
	}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	tenant := fullTenant()
	plain := contracts.Tenant{Name: "acme", Destination: contracts.Destination{
		Bucket: "bucket", Region: "eu-central-1",
		RoleARN: tenant.Destination.RoleARN, ExternalID: tenant.Destination.ExternalID,
	}}.WithDefaults()
	if err := errors.Join(tenant.Validate(), plain.Validate()); err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 3, 31, 14, 30, 22, 123456789, time.FixedZone("", -7*3600))
	for _, c := range []struct {
		schema, name string
		value        any
	}{
		{"request", "full", contracts.Request{Version: 1, Tenant: "acme", Job: "j", Only: contracts.Tables, Format: contracts.JSONL, RequestedAt: now}},
		{"request", "bare", contracts.Request{Version: 1, Tenant: "acme", Job: "j", RequestedAt: now}},
		{"tenant", "full", tenant},
		{"tenant", "bare", plain},
		{"manifest", "full", json.RawMessage(full)},
		{"manifest", "bare", json.RawMessage(bare)},
		{"schedule", "full", fullSchedule()},
		{"schedule", "bare", contracts.Schedule{Version: 1, Tenant: "acme", Cron: "@daily", TimeZone: "UTC", UpdatedAt: now}},
		{"house", "full", fullHouse()},
		{"house", "bare", contracts.House{Version: 1, Destination: plain.Destination, Days: 30, ExpiresBy: contracts.ByTag}},
		{"check", "full", fullCheck()},
		{"check", "of a folder on a disk", contracts.Check{Version: 1, Tenant: "acme", At: now, Steps: []contracts.CheckStep{}}},
		{"check-question", "full", fullCheckQuestion()},
		{"check-question", "bare", contracts.CheckQuestion{Tenant: "acme"}},
		{"links", "full", fullLinks()},
		{"links", "bare", contracts.Links{Version: 1, Tenant: "acme", Job: "j", ManifestSHA256: strings.Repeat("0", 64), ValidUntil: now, Expires: now, ExpiresBy: contracts.ByTag, Files: []contracts.Link{}}},
		{"links-question", "full", fullLinksQuestion()},
		{"links-question", "bare", contracts.LinksQuestion{Tenant: "acme", Job: "j", Seconds: 60}},
		{"refusal", "full", fullRefusal()},
		{"refusal", "bare", contracts.Refusal{Version: 1, Tenant: contracts.NoTenant, Digest: strings.Repeat("0", 64), At: now, Reason: contracts.Reason{Code: contracts.InvalidRequest, What: "not JSON"}}},
		{"notice", "full", fullNotice()},
		{"notice", "good news", contracts.Notice{Version: 1, Tenant: "acme", Kind: contracts.DeliveryCaughtUp, At: now}},
		{"outcome", "full", fullOutcome()},
		{"outcome", "delivered", contracts.Outcome{
			Version: 1, Tenant: "acme", Job: "j", Kind: contracts.Delivered, Attempt: "1-0", Attempts: 1, EndedAt: now,
			Manifest: "s3://bucket/acme/j/manifest.json", ManifestSHA256: strings.Repeat("0", 64), Totals: &contracts.Totals{},
		}},
		{"outcome", "failed", contracts.Outcome{
			Version: 1, Tenant: "acme", Job: "j", Kind: contracts.Failed, EndedAt: now,
			Reason: &contracts.Reason{Code: contracts.UnknownTenant, What: "no tenant acme"},
		}},
	} {
		data, err := json.Marshal(c.value)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate(compile(t, c.schema), data); err != nil {
			t.Errorf("%s, %s: %v\n%s", c.schema, c.name, err, data)
		}
	}
}

// TestFullValuesAreFull keeps the test above honest when a field is added.
func TestFullValuesAreFull(t *testing.T) {
	t.Parallel()
	for _, v := range []any{fullManifest(), fullTenant(), fullOutcome(), fullNotice(), fullRefusal(), fullSchedule(), fullHouse(), fullCheck(), fullCheckQuestion(), fullLinks(), fullLinksQuestion()} {
		zeroFields(reflect.ValueOf(v), reflect.TypeOf(v).Name(), func(path string) {
			t.Errorf("%s is not set", path)
		})
	}
}

// zeroFields reports every field that is zero in v; of a list, the first entry counts.
func zeroFields(v reflect.Value, path string, report func(string)) {
	if v.IsZero() {
		report(path)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		zeroFields(v.Elem(), path, report)
	case reflect.Slice:
		zeroFields(v.Index(0), path+"[0]", report)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			return
		}
		for i := range v.NumField() {
			if v.Type().Field(i).Tag.Get("json") == "-" {
				continue
			}
			zeroFields(v.Field(i), path+"."+v.Type().Field(i).Name, report)
		}
	}
}

// TestSchemasAndTypesHaveTheSameFields walks each Go type beside its schema.
func TestSchemasAndTypesHaveTheSameFields(t *testing.T) {
	t.Parallel()
	for name, typ := range documents {
		compareFields(t, name, typ, compile(t, name))
	}
}

func compareFields(t *testing.T, path string, typ reflect.Type, s *jsonschema.Schema) {
	t.Helper()
	for s != nil && s.Ref != nil {
		s = s.Ref
	}
	if s == nil {
		t.Errorf("%s has no schema", path)
		return
	}
	switch {
	case typ.Kind() == reflect.Pointer:
		compareFields(t, path, typ.Elem(), s)
	case typ.Kind() == reflect.Slice:
		compareFields(t, path+"[]", typ.Elem(), s.Items2020)
	case typ == reflect.TypeFor[time.Time]():
		if s.Format == nil || s.Format.Name != "date-time" {
			t.Errorf("%s is no date-time in the schema", path)
		}
	case typ.Kind() == reflect.Struct:
		var inGo, required []string
		for i := range typ.NumField() {
			field := typ.Field(i)
			tag := strings.Split(field.Tag.Get("json"), ",")
			if tag[0] == "-" { // in no document
				continue
			}
			inGo = append(inGo, tag[0])
			if len(tag) == 1 {
				required = append(required, tag[0])
			}
			compareFields(t, path+"."+tag[0], field.Type, s.Properties[tag[0]])
		}
		var inSchema []string
		for p := range s.Properties {
			inSchema = append(inSchema, p)
		}
		if missing := without(inSchema, inGo); len(missing) > 0 {
			t.Errorf("%s: the schema has %q, the Go type has not", path, missing)
		}
		if optional := without(required, s.Required); len(optional) > 0 {
			t.Errorf("%s: Go always writes %q, the schema does not require it", path, optional)
		}
	case s.Types != nil:
		want := map[reflect.Kind]string{
			reflect.String: "string", reflect.Int: "integer", reflect.Int64: "integer", reflect.Uint64: "integer", reflect.Bool: "boolean",
		}[typ.Kind()]
		if got := s.Types.ToStrings(); !slices.Equal(got, []string{want}) {
			t.Errorf("%s is %v in the schema and %v in Go", path, got, typ)
		}
	case s.Enum == nil && s.Const == nil:
		t.Errorf("%s has neither type nor values in the schema", path)
	}
}

// without returns what of a is not in b.
func without(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
}

// TestRequestSchemaAgreesWithDecodeRequest asks both about every good and bad request that we know.
func TestRequestSchemaAgreesWithDecodeRequest(t *testing.T) {
	t.Parallel()
	s := compile(t, "request")
	for _, c := range requestCases() {
		err := validate(s, []byte(c.body))
		if want := c.code == "" || c.beyond; (err == nil) != want {
			t.Errorf("%s: accepted by the schema: %v, want %v (%v)", c.name, err == nil, want, err)
		}
	}
}

func TestTenantSchemaAgreesWithValidate(t *testing.T) {
	t.Parallel()
	s := compile(t, "tenant")
	for _, c := range tenantCases() {
		data, err := json.Marshal(c.tenant())
		if err != nil {
			t.Fatal(err)
		}
		err = validate(s, data)
		if want := c.names == "" || c.beyond; (err == nil) != want {
			t.Errorf("%s: accepted by the schema: %v, want %v (%v)", c.name, err == nil, want, err)
		}
	}
}

func TestCheckSchemaNamesEveryStep(t *testing.T) {
	t.Parallel()
	s := compile(t, "check")
	var named []contracts.CheckName
	for _, e := range s.Properties["steps"].Items2020.Ref.Properties["name"].Examples {
		named = append(named, contracts.CheckName(e.(string)))
	}
	if !slices.Equal(named, contracts.CheckNames) {
		t.Errorf("the schema names\n%q\nthere are\n%q", named, contracts.CheckNames)
	}
}

func TestOutcomeSchemaNamesEveryCode(t *testing.T) {
	t.Parallel()
	s := compile(t, "outcome")
	var named []string
	for _, e := range s.Properties["reason"].Ref.Properties["code"].Examples {
		named = append(named, e.(string))
	}
	var codes []string
	for _, c := range contracts.Codes() {
		codes = append(codes, string(c))
	}
	if !slices.Equal(named, codes) {
		t.Errorf("the schema names\n%q\nthere are\n%q", named, codes)
	}
}

func TestOutcomeSchemaRefuses(t *testing.T) {
	t.Parallel()
	s := compile(t, "outcome")
	for name, change := range map[string]func(*contracts.Outcome){
		"delivered without a manifest": func(o *contracts.Outcome) { o.Kind, o.Manifest = contracts.Delivered, "" },
		"failed without a reason":      func(o *contracts.Outcome) { o.Kind, o.Reason = contracts.Failed, nil },
		"skipped without a reason":     func(o *contracts.Outcome) { o.Kind, o.Reason = contracts.Skipped, nil },
		"a run without its time":       func(o *contracts.Outcome) { o.Schedule = &contracts.ScheduledRun{MissedTotal: -1} },
		"cancelled without a reason":   func(o *contracts.Outcome) { o.Kind, o.Reason = contracts.Cancelled, nil },
		"another kind":                 func(o *contracts.Outcome) { o.Kind = "perhaps" },
		"another manifest":             func(o *contracts.Outcome) { o.Manifest = "s3://bucket/manifest.json" },
	} {
		o := fullOutcome()
		change(&o)
		data, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		if validate(s, data) == nil {
			t.Errorf("the schema accepts an outcome: %s", name)
		}
	}
}
