// Package kubernetes_test looks at the manifests as kustomize renders them: what a cluster gets, and not what is written.
package kubernetes_test

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// object is one rendered manifest, or a part of one.
type object = map[string]any

var overlays = []string{"base", "dev", "production"}

// worker is what every pod of a worker is labelled with, and no other pod is.
var worker = map[string]string{"app.kubernetes.io/name": "snapfleet", "app.kubernetes.io/component": "worker"}

func render(t *testing.T, overlay string) (objects []object) {
	t.Helper()
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), overlay)
	if err != nil {
		t.Fatal(err)
	}
	text, err := resources.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	for d := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var o object
		if d.Decode(&o) != nil {
			break
		}
		objects = append(objects, o)
	}
	if len(objects) < 5 {
		t.Fatalf("%d objects in %s", len(objects), overlay)
	}
	return objects
}

// at is the part of o at a path of keys; nil: there is none.
func at(o any, path ...string) any {
	for _, key := range path {
		m, _ := o.(object)
		o = m[key]
	}
	return o
}

// labels are those that a selector asks for; whole says that it asks for nothing else.
func labels(selector any) (of map[string]string, whole bool) {
	m, ok := selector.(object)
	if inner, nested := m["matchLabels"]; nested {
		ok = ok && len(m) == 1
		m, _ = inner.(object)
	}
	of = map[string]string{}
	for key, v := range m {
		text, isText := v.(string)
		ok = ok && isText
		of[key] = text
	}
	return of, ok
}

func kind(o object) string { return fmt.Sprint(o["kind"]) }

// one is the only object of a kind.
func one(t *testing.T, objects []object, of string) object {
	t.Helper()
	found := slices.DeleteFunc(slices.Clone(objects), func(o object) bool { return kind(o) != of })
	if len(found) != 1 {
		t.Fatalf("%d objects of kind %s", len(found), of)
	}
	return found[0]
}

// selectors yields every selector below a part, by its path.
func selectors(path string, part any, found map[string]any) {
	switch part := part.(type) {
	case object:
		for key, inner := range part {
			here := path + "." + key
			if key == "selector" || strings.HasSuffix(key, "Selector") {
				found[here] = inner
				continue
			}
			selectors(here, inner, found)
		}
	case []any:
		for i, inner := range part {
			selectors(fmt.Sprintf("%s[%d]", path, i), inner, found)
		}
	}
}

// Each selector of every rendered manifest is in this table. An empty one holds all pods of the namespace; one with a label
// too many holds none.
func TestEverySelectorIsWhatItIsMeantToBe(t *testing.T) {
	t.Parallel()
	namespace := func(name string) map[string]string { return map[string]string{"kubernetes.io/metadata.name": name} }
	want := map[string]map[string]string{
		"Deployment.spec.selector": worker,
		"Deployment.spec.template.spec.topologySpreadConstraints[0].labelSelector": worker,
		"Deployment.spec.template.spec.topologySpreadConstraints[1].labelSelector": worker,
		"PodDisruptionBudget.spec.selector":                                        worker,
		"Service.spec.selector":                                                    worker,
		"NetworkPolicy.spec.podSelector":                                           worker,
		"NetworkPolicy.spec.ingress[0].from[0].namespaceSelector":                  namespace("monitoring"),
		"NetworkPolicy.spec.egress[0].to[0].namespaceSelector":                     namespace("kube-system"),
		"NetworkPolicy.spec.egress[0].to[0].podSelector":                           {"k8s-app": "kube-dns"},
		"NetworkPolicy.spec.egress[1].to[0].namespaceSelector":                     namespace("nats"),
		"NetworkPolicy.spec.egress[2].to[0].namespaceSelector":                     namespace("monitoring"),
	}
	for _, overlay := range overlays {
		found := map[string]any{}
		objects := render(t, overlay)
		for _, o := range objects {
			selectors(kind(o), o, found)
		}
		for path, selector := range found {
			got, whole := labels(selector)
			switch wanted, known := want[path]; {
			case !known:
				t.Errorf("%s: %s is not in the table", overlay, path)
			case !whole || !maps.Equal(got, wanted):
				t.Errorf("%s: %s is %v, want %v", overlay, path, selector, wanted)
			}
		}
		for path := range want {
			if _, ok := found[path]; !ok {
				t.Errorf("%s: there is no %s", overlay, path)
			}
		}
		pod, _ := labels(at(one(t, objects, "Deployment"), "spec", "template", "metadata", "labels"))
		if !maps.Equal(pod, worker) {
			t.Errorf("%s: the pods' labels are %v, want %v", overlay, pod, worker)
		}
	}
}

// peer is whom a worker sends something to: a pod, or an address.
type peer struct {
	namespace string
	labels    map[string]string
	address   string
	port      int
	protocol  string
}

// allows reports whether a policy lets a packet out to p, as Kubernetes reads it.
func allows(policy object, p peer) bool {
	rules, _ := at(policy, "spec", "egress").([]any)
	return slices.ContainsFunc(rules, func(rule any) bool {
		to, _ := at(rule, "to").([]any)
		ports, _ := at(rule, "ports").([]any)
		return slices.ContainsFunc(to, func(to any) bool { return p.isOf(to) }) && slices.ContainsFunc(ports, func(port any) bool {
			protocol, _ := at(port, "protocol").(string)
			return at(port, "port") == p.port && (protocol == p.protocol || protocol == "" && p.protocol == "TCP")
		})
	})
}

func (p peer) isOf(to any) bool {
	if cidr, ok := at(to, "ipBlock", "cidr").(string); ok {
		address, err := netip.ParseAddr(p.address)
		except, _ := at(to, "ipBlock", "except").([]any)
		return err == nil && netip.MustParsePrefix(cidr).Contains(address) && !slices.ContainsFunc(except, func(e any) bool {
			return netip.MustParsePrefix(e.(string)).Contains(address)
		})
	}
	namespace, _ := labels(at(to, "namespaceSelector"))
	if p.namespace == "" || namespace["kubernetes.io/metadata.name"] != p.namespace {
		return false
	}
	pod, _ := labels(at(to, "podSelector"))
	for key, value := range pod {
		if p.labels[key] != value {
			return false
		}
	}
	return true
}

func TestWorkersReachWhatTheyNeedAndNothingElse(t *testing.T) {
	t.Parallel()
	dns := map[string]string{"k8s-app": "kube-dns", "pod-template-hash": "5d78c9869d"}
	for _, overlay := range overlays {
		policy := one(t, render(t, overlay), "NetworkPolicy")
		for name, c := range map[string]struct {
			peer
			want bool
		}{
			"a name":                               {peer{namespace: "kube-system", labels: dns, port: 53, protocol: "UDP"}, true},
			"a name whose answer is long":          {peer{namespace: "kube-system", labels: dns, port: 53, protocol: "TCP"}, true},
			"another port of DNS":                  {peer{namespace: "kube-system", labels: dns, port: 9153, protocol: "TCP"}, false},
			"another pod of kube-system":           {peer{namespace: "kube-system", labels: map[string]string{"k8s-app": "metrics-server"}, port: 53, protocol: "UDP"}, false},
			"a pod that pretends, elsewhere":       {peer{namespace: "default", labels: dns, port: 53, protocol: "UDP"}, false},
			"NATS":                                 {peer{namespace: "nats", port: 4222, protocol: "TCP"}, true},
			"NATS's monitoring":                    {peer{namespace: "nats", port: 8222, protocol: "TCP"}, false},
			"traces":                               {peer{namespace: "monitoring", port: 4318, protocol: "TCP"}, true},
			"S3":                                   {peer{address: "52.218.0.1", port: 443, protocol: "TCP"}, true},
			"S3, without TLS":                      {peer{address: "52.218.0.1", port: 80, protocol: "TCP"}, false},
			"PostgreSQL":                           {peer{address: "10.1.2.3", port: 5432, protocol: "TCP"}, true},
			"the AWS identity":                     {peer{address: "169.254.170.23", port: 80, protocol: "TCP"}, true},
			"the node's own metadata":              {peer{address: "169.254.169.254", port: 80, protocol: "TCP"}, false},
			"the node's own metadata, by any port": {peer{address: "169.254.169.254", port: 443, protocol: "TCP"}, false},
		} {
			if got := allows(policy, c.peer); got != c.want {
				t.Errorf("%s: %s: allowed %v, want %v", overlay, name, got, c.want)
			}
		}
	}
}

// What one manifest says of another has to be there under that name, also where kustomize has changed it.
func TestEveryNameThatAManifestMentionsExists(t *testing.T) {
	t.Parallel()
	elsewhere := map[string][]string{ // made by the operator's own secret store, see production/kustomization.yaml
		"base":       {"Secret/snapfleet-worker"},
		"production": {"Secret/snapfleet-worker", "Secret/snapfleet-nats"},
	}
	for _, overlay := range overlays {
		objects := render(t, overlay)
		made := slices.Clone(elsewhere[overlay])
		for _, o := range objects {
			made = append(made, kind(o)+"/"+fmt.Sprint(at(o, "metadata", "name")))
		}
		pod, _ := at(one(t, objects, "Deployment"), "spec", "template", "spec").(object)
		container, _ := pod["containers"].([]any)
		mentioned := []string{
			"Deployment/" + fmt.Sprint(at(one(t, objects, "ScaledObject"), "spec", "scaleTargetRef", "name")),
			"ServiceAccount/" + fmt.Sprint(pod["serviceAccountName"]),
		}
		sources, _ := at(container[0], "envFrom").([]any)
		for _, from := range sources {
			for ref, of := range map[string]string{"configMapRef": "ConfigMap", "secretRef": "Secret"} {
				if name := at(from, ref, "name"); name != nil {
					mentioned = append(mentioned, of+"/"+fmt.Sprint(name))
				}
			}
		}
		volumes, _ := pod["volumes"].([]any)
		for _, v := range volumes {
			mentioned = append(mentioned, "Secret/"+fmt.Sprint(at(v, "secret", "secretName")))
		}
		if len(sources) < 2 {
			t.Errorf("%s: the worker's settings come from %v", overlay, sources)
		}
		for _, name := range mentioned {
			if !slices.Contains(made, name) {
				t.Errorf("%s: %s is mentioned, and there are %v", overlay, name, made)
			}
		}
	}
}
