package contracts_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"

	"github.com/snapfleet/snapfleet/contracts"
)

type node = map[string]any

// asyncapi reads the document the way that JSON tools do: instants and numbers as JSON has them.
func asyncapi(t *testing.T) node {
	t.Helper()
	data, err := os.ReadFile("asyncapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var v node
	if err := yaml.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	data, err = json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	return doc.(node)
}

// resolve follows a $ref within the document.
func resolve(t *testing.T, doc node, v any) node {
	t.Helper()
	object, _ := v.(node)
	ref, ok := object["$ref"].(string)
	if !ok {
		return object
	}
	var at any = doc
	for _, key := range strings.Split(strings.TrimPrefix(ref, "#/"), "/") {
		at = at.(node)[key]
	}
	if at == nil {
		t.Fatalf("%s leads nowhere", ref)
	}
	return resolve(t, doc, at)
}

func TestAsyncAPIReferencesResolve(t *testing.T) {
	t.Parallel()
	doc := asyncapi(t)
	inside, outside := 0, map[string]bool{}
	walk(doc, "", func(path string, v any) {
		object, ok := v.(node)
		if !ok {
			return
		}
		ref, ok := object["$ref"].(string)
		switch {
		case !ok:
		case len(object) > 1:
			t.Errorf("%s: a $ref has siblings, which are ignored", path)
		case strings.HasPrefix(ref, "#/"):
			resolve(t, doc, object)
			inside++
		default:
			if _, err := os.Stat(ref); err != nil {
				t.Errorf("%s: %v", path, err)
			}
			outside[filepath.Base(ref)] = true
		}
	})
	if inside < 10 || !outside["request.schema.json"] || !outside["outcome.schema.json"] {
		t.Errorf("%d references inside, %v outside", inside, outside)
	}
}

func walk(v any, path string, visit func(path string, v any)) {
	visit(path, v)
	switch v := v.(type) {
	case node:
		for k, child := range v {
			walk(child, path+"/"+k, visit)
		}
	case []any:
		for i, child := range v {
			walk(child, fmt.Sprintf("%s/%d", path, i), visit)
		}
	}
}

// templated is what subject makes of a tenant, with the parameter in place of its name.
func templated(subject func(string) string) string {
	return strings.Replace(subject("acme"), "acme", "{tenant}", 1)
}

func TestAsyncAPISubjects(t *testing.T) {
	t.Parallel()
	channels := asyncapi(t)["channels"].(node)
	for name, c := range map[string]struct{ subject, space, stream string }{
		"request": {contracts.RequestSubject("{tenant}"), contracts.RequestSubjects, contracts.RequestStream},
		"outcome": {contracts.OutcomeSubject("{tenant}", "{job}"), contracts.OutcomeSubjects, contracts.OutcomeStream},
		"dead":    {templated(contracts.DeadSubject), contracts.DeadSubjects, contracts.DeadStream},
		"refused": {templated(contracts.RefusedSubject), contracts.RefusedSubjects, contracts.RefusedStream},
		"notice":  {contracts.NoticeSubject("{tenant}", "{kind}"), contracts.NoticeSubjects, contracts.NoticeStream},

		"schedule": {contracts.ScheduleSubject("{tenant}"), contracts.ScheduleSubjects, contracts.ScheduleStream},
		"askCheck": {contracts.AskSubject("check"), contracts.AskSubject("check"), "no stream"},
		"askLinks": {contracts.AskSubject("links"), contracts.AskSubject("links"), "no stream"},
	} {
		channel, _ := channels[name].(node)
		if channel["address"] != c.subject {
			t.Errorf("%s: address is %v, the subject is %s", name, channel["address"], c.subject)
		}
		if got := strings.NewReplacer("{tenant}", "*", "{job}", "*", "{kind}", "*").Replace(c.subject); got != c.space {
			t.Errorf("%s: the stream's subjects are %s, not %s", name, c.space, got)
		}
		if text, _ := channel["description"].(string); !strings.Contains(text, c.stream) {
			t.Errorf("%s: the description does not name the stream %s", name, c.stream)
		}
		delete(channels, name)
	}
	for _, name := range []string{"answerCheck", "answerLinks"} { // wherever the question says
		if address, ok := channels[name].(node)["address"]; ok {
			t.Errorf("%s: address is %v", name, address)
		}
		delete(channels, name)
	}
	for name := range channels {
		t.Errorf("channel %s has no subject in Go", name)
	}
}

func TestAsyncAPIMessages(t *testing.T) {
	t.Parallel()
	doc := asyncapi(t)
	messages := doc["components"].(node)["messages"].(node)
	for name, schema := range map[string]string{
		"request": "schemas/request.schema.json", "outcome": "schemas/outcome.schema.json", "notice": "schemas/notice.schema.json", "refusal": "schemas/refusal.schema.json", "schedule": "schemas/schedule.schema.json",
		"checkQuestion": "schemas/check-question.schema.json", "check": "schemas/check.schema.json",
		"linksQuestion": "schemas/links-question.schema.json", "links": "schemas/links.schema.json",
	} {
		payload := messages[name].(node)["payload"].(node)
		if ref := payload["schema"].(node)["$ref"]; ref != schema {
			t.Errorf("%s: the payload is %v, not %s", name, ref, schema)
		}
	}
	for name, headers := range map[string][]string{
		"request":    {"Nats-Msg-Id", "traceparent", "tracestate", "baggage"},
		"outcome":    {"traceparent", "tracestate", "baggage"},
		"notice":     {"traceparent", "tracestate", "baggage"},
		"refusal":    {"traceparent", "tracestate", "baggage"},
		"schedule":   {jetstream.ScheduleHeader, jetstream.ScheduleTimeZoneHeader, jetstream.ScheduleTargetHeader},
		"problem":    {micro.ErrorHeader, micro.ErrorCodeHeader},
		"deadLetter": {contracts.HeaderCode, contracts.HeaderReason, contracts.HeaderJob, contracts.HeaderDigest, contracts.HeaderCut, "traceparent", "tracestate", "baggage"},
	} {
		got := slices.Sorted(maps.Keys(messages[name].(node)["headers"].(node)["properties"].(node)))
		if slices.Sort(headers); !slices.Equal(got, headers) {
			t.Errorf("%s: headers are %q, want %q", name, got, headers)
		}
	}
	schema := compile(t, "request")
	for _, e := range messages["request"].(node)["examples"].([]any) {
		example := e.(node)
		if err := schema.Validate(example["payload"]); err != nil {
			t.Errorf("example %v: %v", example["name"], err)
		}
		data, err := json.Marshal(example["payload"])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := contracts.DecodeRequest(data); err != nil {
			t.Errorf("example %v: %v", example["name"], err)
		}
		headers, _ := example["headers"].(node)
		if id, advised := headers["Nats-Msg-Id"]; advised { // with it, the server may drop a request that it has not kept
			t.Errorf("example %v: Nats-Msg-Id is %v", example["name"], id)
		}
	}
}

func TestAsyncAPISchedule(t *testing.T) {
	t.Parallel()
	message := asyncapi(t)["components"].(node)["messages"].(node)["schedule"].(node)
	schema := compile(t, "schedule")
	for _, e := range message["examples"].([]any) {
		example := e.(node)
		if err := schema.Validate(example["payload"]); err != nil {
			t.Errorf("example %v: %v", example["name"], err)
		}
		data, err := json.Marshal(example["payload"])
		if err != nil {
			t.Fatal(err)
		}
		s, err := contracts.DecodeSchedule(data)
		if err != nil {
			t.Errorf("example %v: %v", example["name"], err)
		}
		want := node{
			jetstream.ScheduleHeader: "0 " + s.Cron, jetstream.ScheduleTimeZoneHeader: s.TimeZone, jetstream.ScheduleTargetHeader: contracts.RunSubject(s.Tenant),
		}
		if !reflect.DeepEqual(example["headers"], want) {
			t.Errorf("example %v: headers %v, want %v", example["name"], example["headers"], want)
		}
	}
}

// asyncapiShape is the part of the AsyncAPI 3.0 object model that the document uses: for each kind of
// object the fields that it may have, and what is in them. A leading + marks a required field. A kind in
// brackets is a list, in braces a map with names of one's own.
var asyncapiShape = map[string]map[string]string{
	"document":   {"+asyncapi": "", "id": "", "+info": "info", "servers": "{server}", "defaultContentType": "", "channels": "{channel}", "operations": "{operation}", "components": "components"},
	"info":       {"+title": "", "+version": "", "description": "", "termsOfService": "", "contact": "any", "license": "license", "tags": "any", "externalDocs": "any"},
	"license":    {"+name": "", "url": ""},
	"server":     {"+host": "", "+protocol": "", "protocolVersion": "", "pathname": "", "description": "", "title": "", "summary": "", "variables": "any", "security": "any", "tags": "any", "externalDocs": "any", "bindings": "any"},
	"channel":    {"address": "", "messages": "{message}", "title": "", "summary": "", "description": "", "servers": "[server]", "parameters": "{parameter}", "tags": "any", "externalDocs": "any", "bindings": "any"},
	"parameter":  {"enum": "any", "default": "", "description": "", "examples": "any", "location": ""},
	"operation":  {"+action": "", "+channel": "channel", "title": "", "summary": "", "description": "", "security": "any", "tags": "any", "externalDocs": "any", "bindings": "any", "traits": "any", "messages": "[message]", "reply": "reply"},
	"reply":      {"address": "any", "channel": "channel", "messages": "[message]"},
	"message":    {"headers": "schema", "payload": "payload", "correlationId": "any", "contentType": "", "name": "", "title": "", "summary": "", "description": "", "tags": "any", "externalDocs": "any", "bindings": "any", "examples": "[example]", "traits": "any"},
	"example":    {"headers": "any", "payload": "any", "name": "", "summary": ""},
	"payload":    {"schemaFormat": "", "schema": "any", "type": "", "description": ""},
	"schema":     {"type": "", "required": "any", "properties": "any", "description": "", "pattern": "", "examples": "any"},
	"components": {"schemas": "{schema}", "servers": "{server}", "channels": "{channel}", "operations": "{operation}", "messages": "{message}", "parameters": "{parameter}"},
}

func TestAsyncAPIStructure(t *testing.T) {
	t.Parallel()
	doc := asyncapi(t)
	if doc["asyncapi"] != "3.0.0" {
		t.Errorf("asyncapi is %v", doc["asyncapi"])
	}
	checkShape(t, doc, doc, "document", "")
	for name, v := range doc["operations"].(node) {
		op := v.(node)
		if op["action"] != "send" && op["action"] != "receive" {
			t.Errorf("operation %s: action is %v", name, op["action"])
		}
		channel := resolve(t, doc, op["channel"])
		for _, m := range op["messages"].([]any) { // an operation's messages are its channel's
			ref := m.(node)["$ref"].(string)
			if want := op["channel"].(node)["$ref"].(string) + "/messages/"; !strings.HasPrefix(ref, want) {
				t.Errorf("operation %s: message %s is not below %s", name, ref, want)
			}
		}
		if reply, ok := op["reply"].(node); ok {
			for _, m := range reply["messages"].([]any) {
				ref := m.(node)["$ref"].(string)
				if want := reply["channel"].(node)["$ref"].(string) + "/messages/"; !strings.HasPrefix(ref, want) {
					t.Errorf("operation %s: reply %s is not below %s", name, ref, want)
				}
			}
		}
		for token := range strings.SplitSeq(channel["address"].(string), ".") {
			if name, ok := strings.CutPrefix(token, "{"); ok && channel["parameters"].(node)[strings.TrimSuffix(name, "}")] == nil {
				t.Errorf("channel %s: no parameter for %s", channel["address"], token)
			}
		}
	}
}

func checkShape(t *testing.T, doc node, v any, kind, path string) {
	t.Helper()
	switch {
	case kind == "any":
	case kind == "":
		if _, ok := v.(string); !ok {
			t.Errorf("%s is %v, not a text", path, reflect.TypeOf(v))
		}
	case kind[0] == '{':
		object, ok := v.(node)
		if !ok {
			t.Errorf("%s is no map", path)
		}
		for k, child := range object {
			checkShape(t, doc, child, kind[1:len(kind)-1], path+"/"+k)
		}
	case kind[0] == '[':
		list, ok := v.([]any)
		if !ok {
			t.Errorf("%s is no list", path)
		}
		for i, child := range list {
			checkShape(t, doc, child, kind[1:len(kind)-1], fmt.Sprintf("%s/%d", path, i))
		}
	default:
		object := resolve(t, doc, v)
		fields := asyncapiShape[kind]
		for k, child := range object {
			what, ok := fields[k]
			if !ok {
				what, ok = fields["+"+k]
			}
			if !ok {
				t.Errorf("%s: a %s of AsyncAPI 3.0 has no field %s", path, kind, k)
				continue
			}
			checkShape(t, doc, child, what, path+"/"+k)
		}
		for k := range fields {
			if name, required := strings.CutPrefix(k, "+"); required && object[name] == nil {
				t.Errorf("%s: a %s of AsyncAPI 3.0 needs the field %s", path, kind, name)
			}
		}
	}
}
