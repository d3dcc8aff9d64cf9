// Command schemas writes the JSON Schemas that kubeconform checks the manifests beside it with: of the kinds that they use,
// and no others, from the API's own OpenAPI document and from KEDA's custom resource. They are strict: a field that the API
// does not know is an error. `make schemas` calls it with the folders of the two Go modules that have these; the result is
// committed, so that a check needs no network.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/alecthomas/kong"
	"gopkg.in/yaml.v3"
)

// kinds are those that the manifests use.
var kinds = []string{
	"io.k8s.api.apps.v1.Deployment",
	"io.k8s.api.core.v1.ConfigMap",
	"io.k8s.api.core.v1.Namespace",
	"io.k8s.api.core.v1.Secret",
	"io.k8s.api.core.v1.Service",
	"io.k8s.api.core.v1.ServiceAccount",
	"io.k8s.api.networking.v1.NetworkPolicy",
	"io.k8s.api.policy.v1.PodDisruptionBudget",
}

type cli struct {
	Kubernetes string `required:"" type:"existingdir" help:"Folder of the module k8s.io/kubernetes."`
	KEDA       string `required:"" name:"keda" type:"existingdir" help:"Folder of the module github.com/kedacore/keda/v2."`
	Out        string `default:"deploy/kubernetes/schemas" type:"path" help:"Folder to write to."`
}

type object = map[string]any

func main() {
	var c cli
	kong.Parse(&c, kong.Name("schemas"), kong.Description("Write the JSON Schemas of the kinds that the manifests use."))
	if err := c.run(); err != nil {
		fmt.Fprintln(os.Stderr, "schemas:", err)
		os.Exit(1)
	}
}

func (c cli) run() error {
	data, err := os.ReadFile(filepath.Join(c.Kubernetes, "api/openapi-spec/swagger.json"))
	if err != nil {
		return err
	}
	var api struct {
		Definitions object `json:"definitions"`
	}
	if err := json.Unmarshal(data, &api); err != nil {
		return err
	}
	for _, kind := range kinds {
		if err := c.write(fileName(kind), standalone(api.Definitions, kind)); err != nil {
			return err
		}
	}
	return c.scaledObject(api.Definitions)
}

// standalone is a definition with all that it refers to.
func standalone(all object, kind string) object {
	needed := object{}
	var need func(v any)
	need = func(v any) {
		switch v := v.(type) {
		case object:
			if ref, ok := v["$ref"].(string); ok {
				name := strings.TrimPrefix(ref, "#/definitions/")
				if needed[name] == nil {
					needed[name] = strict(all[name])
					need(needed[name])
				}
			}
			for _, child := range v {
				need(child)
			}
		case []any:
			for _, child := range v {
				need(child)
			}
		}
	}
	root := strict(all[kind]).(object)
	need(root)
	root["$schema"] = "http://json-schema.org/draft-07/schema#"
	root["definitions"] = needed
	return root
}

// strict is a schema without its prose, and without a place for fields that it does not name.
func strict(v any) any {
	switch v := v.(type) {
	case object:
		if v["format"] == "int-or-string" || v["x-kubernetes-int-or-string"] == true {
			return object{"type": []any{"string", "integer"}}
		}
		s := object{}
		for keyword, child := range v {
			switch {
			case keyword == "properties": // these are names, and not keywords
				properties := object{}
				for name, schema := range child.(object) {
					properties[name] = strict(schema)
				}
				s[keyword] = properties
			case keyword == "description", keyword == "default", keyword == "format", strings.HasPrefix(keyword, "x-kubernetes-"):
			default:
				s[keyword] = strict(child)
			}
		}
		if s["properties"] != nil && s["additionalProperties"] == nil {
			s["additionalProperties"] = false
		}
		return s
	case []any:
		list := make([]any, len(v))
		for i, child := range v {
			list[i] = strict(child)
		}
		return list
	}
	return v
}

// scaledObject is KEDA's own kind. What every object has, its custom resource does not repeat.
func (c cli) scaledObject(all object) error {
	data, err := os.ReadFile(filepath.Join(c.KEDA, "config/crd/bases/keda.sh_scaledobjects.yaml"))
	if err != nil {
		return err
	}
	var crd struct {
		Spec struct {
			Versions []struct {
				Name   string
				Schema struct {
					OpenAPIV3Schema object `yaml:"openAPIV3Schema"`
				}
			}
		}
	}
	if err := yaml.Unmarshal(data, &crd); err != nil {
		return err
	}
	meta := standalone(all, "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta")
	for _, v := range crd.Spec.Versions {
		s := strict(v.Schema.OpenAPIV3Schema).(object)
		definitions := meta["definitions"].(object)
		definitions["ObjectMeta"] = object{"type": "object", "properties": meta["properties"], "additionalProperties": false}
		s["properties"].(object)["metadata"] = object{"$ref": "#/definitions/ObjectMeta"}
		s["$schema"], s["definitions"] = "http://json-schema.org/draft-07/schema#", definitions
		if err := c.write("scaledobject-keda-"+v.Name+".json", s); err != nil {
			return err
		}
	}
	return nil
}

// fileName is what kubeconform's template {{.ResourceKind}}{{.KindSuffix}}.json comes to.
func fileName(definition string) string {
	parts := strings.Split(definition, ".")
	group, version, kind := parts[3], parts[4], strings.ToLower(parts[5])
	if group == "core" {
		return kind + "-" + version + ".json"
	}
	return kind + "-" + group + "-" + version + ".json"
}

func (c cli) write(name string, schema object) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	if err := e.Encode(schema); err != nil {
		return err
	}
	fmt.Println(name)
	return os.WriteFile(filepath.Join(c.Out, name), b.Bytes(), 0o644)
}
