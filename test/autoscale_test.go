//go:build kubernetes

package test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/snapfleet/snapfleet/consumer"
	"github.com/snapfleet/snapfleet/test/bucket"
	"github.com/snapfleet/snapfleet/test/world"
)

// overlay is deploy/kubernetes/dev where everything is on this machine, and KEDA looks often enough for a test.
var overlay = template.Must(template.New("").Parse(`apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: snapfleet-dev

resources:
  - ../../deploy/kubernetes/dev

configMapGenerator:
  - name: snapfleet-worker
    behavior: merge
    literals:
      - SNAPFLEET_NATS_URL={{.NATS}}
      - SNAPFLEET_ALLOW_ENDPOINT={{.Endpoint}}
      - SNAPFLEET_HEARTBEAT=300ms
      - SNAPFLEET_FENCE=1200ms
      - SNAPFLEET_OBSERVE=3s
      - SNAPFLEET_RETRY_BASE=200ms
      - SNAPFLEET_RETRY_MAX=2s

secretGenerator:
  - name: snapfleet-worker
    behavior: merge
    literals:
      - SNAPFLEET_DATABASE_URL={{.Database}}

patches:
  - target:
      kind: ScaledObject
    patch: |
      - {op: replace, path: /spec/maxReplicaCount, value: 4}
      - {op: replace, path: /spec/pollingInterval, value: 1}
      - {op: replace, path: /spec/cooldownPeriod, value: 5}
      - {op: replace, path: /spec/advanced/horizontalPodAutoscalerConfig/behavior/scaleDown, value: {stabilizationWindowSeconds: 0}}
      - {op: replace, path: /spec/triggers/0/metadata/natsServerMonitoringEndpoint, value: "{{.Monitoring}}"}
      - {op: replace, path: /spec/triggers/0/metadata/account, value: $G}
      - {op: replace, path: /spec/triggers/1/metadata/natsServerMonitoringEndpoint, value: "{{.Monitoring}}"}
      - {op: replace, path: /spec/triggers/1/metadata/account, value: $G}
`))

// TestAutoscale lets the real KEDA scale real workers by what waits in a real JetStream: from none to as many as there is
// work for, down while some of them are still at work, to none, and up again for a run of a schedule.
func TestAutoscale(t *testing.T) {
	c := startCluster(t)
	f := newFleet(t, "a", little("a"), world.WithMonitoring())
	customers := map[string]*fleet{"a": f}
	for _, name := range []string{"b", "c", "d"} {
		customers[name] = f.customer(t, name, "--schema=a")
	}
	judged(c)

	c.apply(f)
	k := c.startKubelet("snapfleet-dev", append(cloud.Environ(worker), "HOME="+t.TempDir()))
	// A Deployment that says nothing begins with one.
	applied := time.Now()
	c.kubectl("wait", "--namespace=snapfleet-dev", "--for=condition=Ready", "scaledobject/snapfleet-worker", "--timeout=1m")
	c.kubectl("wait", "--namespace=snapfleet-dev", "--for=jsonpath={.spec.replicas}=0", "deployment/snapfleet-worker", "--timeout=1m")
	k.awaitPods(t, 0, time.Minute)
	t.Logf("nothing to do: no worker after %s", time.Since(applied).Round(100*time.Millisecond))

	// One request of each tenant, which nobody can end: their parts do not arrive.
	holds := map[string]chan struct{}{}
	for name, customer := range customers {
		hold := make(chan struct{})
		fault := cloud.Inject(bucket.Fault{Match: customer.request("first", "UploadPart"), Skip: 1, Times: 1, Hold: hold}) // the first is the probe's
		t.Cleanup(fault.Remove)
		holds[name] = hold
	}
	asked := time.Now()
	for _, customer := range customers {
		customer.submit("first", "--only=tables")
	}
	c.becomes("a worker", time.Minute, func() error {
		if _, ready, _ := k.running(); len(ready) == 0 {
			return fmt.Errorf("there is none")
		}
		return nil
	})
	t.Logf("four requests: a worker is ready after %s", time.Since(asked).Round(100*time.Millisecond))
	k.awaitPods(t, 4, 2*time.Minute)
	t.Logf("four requests, four workers after %s", time.Since(asked).Round(100*time.Millisecond))
	at := map[string]string{} // whose job is at work at which pod
	c.becomes("each worker has a job", time.Minute, func() error {
		workers := map[string]bool{}
		for name, customer := range customers {
			s, err := f.jobs.Status(t.Context(), customer.tenant, "first")
			if err != nil {
				return err
			}
			if at[name] = s.Worker; s.Worker != "" {
				workers[s.Worker] = true
			}
		}
		if len(workers) != 4 {
			return fmt.Errorf("%v", at)
		}
		return nil
	})
	// Nothing waits any more. What is worked on counts, too, or long deliveries would lose their workers.
	k.stay(t, 4, 8*time.Second) // longer than cooldownPeriod, and than the HorizontalPodAutoscaler needs to look
	t.Log("four jobs at work, none waits: four workers stay")

	// Two of them are done. Of all pods those are to go that are not: the ReplicaSet chooses, and may choose worst.
	for _, name := range []string{"c", "d"} {
		k.annotate(at[name], "controller.kubernetes.io/pod-deletion-cost", "-1")
	}
	close(holds["a"])
	close(holds["b"])
	customers["a"].delivered("first")
	customers["b"].delivered("first")
	c.becomes("two workers are told to go", time.Minute, func() error {
		_, ready, going := k.running()
		if len(ready) != 2 || len(going) != 2 {
			return fmt.Errorf("%d are ready, and %d are going", len(ready), len(going))
		}
		for _, p := range going {
			if p.name != at["c"] && p.name != at["d"] {
				t.Fatalf("%s is told to go, which has nothing to do: %v", p.name, at)
			}
		}
		return nil
	})
	close(holds["c"])
	close(holds["d"])
	for _, name := range []string{"c", "d"} {
		s := customers[name].delivered("first")
		if s.Worker != at[name] || s.Attempt != 1 {
			t.Errorf("job first of %s is delivered by %s in attempt %d, and %s was to end what it had begun", name, s.Worker, s.Attempt, at[name])
		}
	}
	took := k.awaitPods(t, 0, 2*time.Minute)
	t.Logf("all is delivered: no worker after %s", took.Round(100*time.Millisecond))

	// A schedule fires while nobody is there.
	f.run("schedule", "set", "a", "--cron=* * * * *", "--only=tables")
	var run consumer.Status
	c.becomes("a run of the schedule", 2*time.Minute, func() error {
		jobs, err := f.jobs.List(t.Context(), "a")
		if err != nil {
			return err
		}
		for _, j := range jobs {
			if j.Job != "first" {
				run = j
				return nil
			}
		}
		return fmt.Errorf("%d jobs", len(jobs))
	})
	run = f.delivered(run.Job)
	t.Logf("a run is delivered %s after its time", run.Outcome.EndedAt.Sub(run.Outcome.Schedule.FiredAt).Round(100*time.Millisecond))
	f.run("schedule", "clear", "a")
	k.awaitPods(t, 0, 2*time.Minute)
	for _, customer := range customers {
		customer.allDelivered()
	}
}

// judged has the API server judge what is applied in production, and what it is made of, without doing it; and a field that
// there is not.
func judged(c *cluster) {
	c.t.Helper()
	c.kubectl("create", "--save-config", "namespace", "snapfleet")
	judge := []string{"apply", "--dry-run=server", "--validate=strict"}
	dir := func(overlay string) string { return filepath.Join(root, "deploy", "kubernetes", overlay) }
	for overlay, kinds := range map[string]int{"base": 7, "production": 8} { // which has a Namespace besides
		said := c.kubectl(append(slices.Clone(judge), "--kustomize="+dir(overlay))...)
		if strings.Contains(said, "Warning") || strings.Count(said, "(server dry run)") != kinds {
			c.t.Errorf("%s: %s", overlay, said)
		}
	}
	spoilt := c.write("spoilt.yaml", strings.ReplaceAll(c.kubectl("kustomize", dir("production")), "cooldownPeriod:", "cooldown:"))
	if said, err := c.tryKubectl(append(judge, "--filename="+spoilt)...); err == nil || !strings.Contains(said, `unknown field "spec.cooldown"`) {
		c.t.Errorf("a field that there is not: %v: %s", err, said)
	}
}

// apply does what an operator does with the overlay.
func (c *cluster) apply(f *fleet) {
	c.t.Helper()
	dir, err := os.MkdirTemp(filepath.Join(root, "bin"), "overlay-") // kustomize takes no base by an absolute path
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = os.RemoveAll(dir) })
	file, err := os.Create(filepath.Join(dir, "kustomization.yaml"))
	if err != nil {
		c.t.Fatal(err)
	}
	defer file.Close() //nolint:errcheck // kubectl reads it
	if err := overlay.Execute(file, map[string]string{
		"NATS": f.nats.URL(), "Monitoring": strings.TrimPrefix(f.nats.MonitoringURL(), "http://"), "Endpoint": cloud.Endpoint(), "Database": f.database,
	}); err != nil {
		c.t.Fatal(err)
	}
	said := c.kubectl("apply", "--validate=strict", "--kustomize="+dir)
	if strings.Contains(said, "Warning") {
		c.t.Errorf("the API server warns: %s", said)
	}
}

func (k *kubelet) annotate(pod, key, value string) {
	k.t.Helper()
	if err := k.call(http.MethodPatch, k.path("pods", pod), map[string]any{"metadata": map[string]any{"annotations": map[string]string{key: value}}}, nil); err != nil {
		k.t.Fatal(err)
	}
}
