package consumer

import (
	"bytes"
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/snapfleet/snapfleet/contracts"
)

var update = flag.Bool("update", false, "write the definitions in deploy/nats/streams")

// definitions are the files of deploy/nats/streams, for those who keep their streams with the nats command, NACK or
// Terraform: see there.
const definitions = "../deploy/nats/streams"

func queueFile(p place) string {
	return p.stream.Name + ".consumer." + contracts.WorkersName + ".json"
}

// defined reads a file strictly: a field that this client does not know would be lost on the way.
func defined(t *testing.T, file string, into any) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(definitions, file))
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

// definition is a configuration as the files have it.
func definition(t *testing.T, config any) []byte {
	t.Helper()
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(config); err != nil {
		t.Fatal(err)
	}
	return text.Bytes()
}

// ours leaves out what the server notes about itself.
func ours(metadata map[string]string) map[string]string {
	maps.DeleteFunc(metadata, func(k, _ string) bool { return strings.HasPrefix(k, "_nats.") })
	if len(metadata) == 0 {
		return nil
	}
	return metadata
}

// TestDefinitions: the files are what a server has after setup, but for the three replicas of production.
func TestDefinitions(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	_, js, _ := broker(t)
	if _, err := Setup(ctx, js, SetupOptions{}); err != nil {
		t.Fatal(err)
	}
	check := func(file string, have, kept any) {
		t.Helper()
		text := definition(t, have)
		if *update {
			if err := os.WriteFile(filepath.Join(definitions, file), text, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		defined(t, file, kept)
		if again := definition(t, kept); !bytes.Equal(again, text) {
			t.Errorf("%s is %s\nand after setup it is %s\nrun make generate", file, again, text)
		}
	}
	files := map[string]bool{}
	for _, p := range plan() {
		s, err := js.Stream(ctx, p.stream.Name)
		if err != nil {
			t.Fatal(err)
		}
		have := s.CachedInfo().Config
		have.Replicas, have.Metadata = 3, ours(have.Metadata)
		check(p.stream.Name+".json", have, new(jetstream.StreamConfig))
		files[p.stream.Name+".json"] = true
		if p.queue == "" {
			continue
		}
		q, err := js.Consumer(ctx, p.stream.Name, contracts.WorkersName)
		if err != nil {
			t.Fatal(err)
		}
		reader := q.CachedInfo().Config
		reader.Replicas, reader.Metadata = 3, ours(reader.Metadata)
		check(queueFile(p), reader, new(jetstream.ConsumerConfig))
		files[queueFile(p)] = true
	}

	entries, err := os.ReadDir(definitions)
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for _, e := range entries {
		there[e.Name()] = true
	}
	if !reflect.DeepEqual(there, files) {
		t.Errorf("there is %v, and there should be %v", there, files)
	}
}

// TestDefinitionsSuffice: where somebody has made the streams from the files, setup finds nothing to do, and workers
// start.
func TestDefinitionsSuffice(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	_, js, _ := broker(t)
	for _, p := range plan() {
		var c jetstream.StreamConfig
		defined(t, p.stream.Name+".json", &c)
		c.Replicas = 1 // there is one server
		if _, err := js.CreateStream(ctx, c); err != nil {
			t.Fatalf("%s: %v", p.stream.Name, err)
		}
		if p.queue == "" {
			continue
		}
		var q jetstream.ConsumerConfig
		defined(t, queueFile(p), &q)
		q.Replicas = 1
		if _, err := js.CreateConsumer(ctx, p.stream.Name, q); err != nil {
			t.Fatalf("%s: %v", p.stream.Name, err)
		}
	}
	if err := verify(ctx, js); err != nil {
		t.Error(err)
	}
	lines, err := Setup(ctx, js, SetupOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range lines {
		if !strings.HasSuffix(line, kept) && line != "fleet key: "+made { // a secret is in no file
			t.Error(line)
		}
	}
}
