package contracts_test

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"

	"github.com/snapfleet/snapfleet/contracts"
)

// webhook reads the document, and compiles the schema of its events.
func webhook(t *testing.T) (doc node, events *jsonschema.Schema) {
	t.Helper()
	data, err := os.ReadFile("webhook.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var v node
	if err := yaml.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	if data, err = json.Marshal(v); err != nil {
		t.Fatal(err)
	}
	parsed, err := jsonschema.UnmarshalJSON(strings.NewReader(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	c, ids := compiler(t)
	here := strings.TrimSuffix(ids["outcome"], "schemas/outcome.schema.json") + "webhook.yaml"
	if err := c.AddResource(here, parsed); err != nil {
		t.Fatal(err)
	}
	if events, err = c.Compile(here + "#/components/schemas/Event"); err != nil {
		t.Fatal(err)
	}
	return parsed.(node), events
}

func TestWebhookDocumentIsWhatIsPosted(t *testing.T) {
	t.Parallel()
	doc, events := webhook(t)
	post := doc["webhooks"].(node)["event"].(node)["post"].(node)
	var headers []string
	for _, p := range post["parameters"].([]any) {
		headers = append(headers, p.(node)["name"].(string))
	}
	if want := []string{contracts.HeaderWebhookID, contracts.HeaderWebhookTimestamp, contracts.HeaderWebhookSignature, "traceparent"}; !slices.Equal(headers, want) {
		t.Errorf("headers %q, want %q", headers, want)
	}
	content := post["requestBody"].(node)["content"].(node)
	media, ok := content[contracts.EventContentType].(node)
	if !ok || len(content) != 1 {
		t.Fatalf("content %v", content)
	}
	var types []string
	for _, k := range []contracts.OutcomeKind{contracts.Delivered, contracts.DeliveredWithGaps, contracts.Failed, contracts.Cancelled, contracts.Skipped} {
		types = append(types, k.EventType())
	}
	for _, k := range contracts.NoticeKinds {
		types = append(types, k.EventType())
	}
	var named []string
	for _, e := range events.Properties["type"].Examples {
		named = append(named, e.(string))
	}
	if types = append(types, contracts.TestEvent); !slices.Equal(named, types) {
		t.Errorf("types\n%q, want\n%q", named, types)
	}
	for name, e := range media["examples"].(node) {
		example := e.(node)["value"].(node)
		if err := events.Validate(example); err != nil {
			t.Errorf("example %s: %v", name, err)
		}
		if example["source"] != contracts.EventSource || !slices.Contains(types, example["type"].(string)) {
			t.Errorf("example %s: %v", name, example)
		}
		for what, change := range map[string]func(node){
			"no id":       func(n node) { delete(n, "id") },
			"another id":  func(n node) { n["id"] = "evt_1.2" },
			"no data":     func(n node) { n["data"] = node{} },
			"other times": func(n node) { n["time"] = "yesterday" },
		} {
			n := node{}
			for k, v := range example {
				n[k] = v
			}
			change(n)
			if events.Validate(n) == nil {
				t.Errorf("example %s with %s is accepted", name, what)
			}
		}
	}
	// What the schema says of ids is what ids are.
	if id := contracts.EventID("snapshot.outcome.acme.j", []byte("{}")); events.Properties["id"].Ref.Validate(id) != nil {
		t.Errorf("%s is no id", id)
	}
}
