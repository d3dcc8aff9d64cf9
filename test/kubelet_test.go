//go:build kubernetes

package test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/snapfleet/snapfleet/test/world"
)

// A kubelet starts what a namespace's Pods say as processes of this machine, and stops them as Pods are: SIGTERM, and
// SIGKILL after their grace. It knows one container without volumes, and is the scheduler, too.
type kubelet struct {
	*cluster
	namespace string
	identity  []string // what a node gives a Pod of the cloud
	stop      chan struct{}
	stopped   sync.WaitGroup

	mu   sync.Mutex
	pods map[string]*pod // by name; those that have gone, too
}

// A pod is one that was started.
type pod struct {
	name    string
	process *exec.Cmd
	ended   <-chan error
	log     bytes.Buffer
	probe   string // of its readiness
	grace   time.Duration
	ready   bool
	told    time.Time // to go
	gone    time.Time
	killed  bool
}

// podList is what is needed of Pods.
type podList struct {
	Items []struct {
		Metadata struct {
			Name, UID         string
			DeletionTimestamp *time.Time
		}
		Spec struct {
			TerminationGracePeriodSeconds int
			Containers                    []container
		}
	}
}

type container struct {
	Args []string
	Env  []struct {
		Name, Value string
		ValueFrom   struct{ FieldRef struct{ FieldPath string } }
	}
	EnvFrom []struct{ ConfigMapRef, SecretRef struct{ Name string } }
}

// startKubelet starts one for the rest of the test. identity is what its Pods find besides what they name.
func (c *cluster) startKubelet(namespace string, identity []string) *kubelet {
	k := &kubelet{cluster: c, namespace: namespace, identity: identity, stop: make(chan struct{}), pods: map[string]*pod{}}
	k.stopped.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-k.stop:
				return
			case <-tick.C:
				if err := k.look(); err != nil {
					c.t.Errorf("kubelet: %v", err)
				}
			}
		}
	})
	c.t.Cleanup(func() {
		close(k.stop)
		k.stopped.Wait()
		for _, p := range k.pods {
			if p.gone.IsZero() {
				_ = p.process.Process.Kill()
				<-p.ended
			}
			if c.t.Failed() {
				c.t.Logf("%s said:\n%s", p.name, p.log.String())
			}
		}
	})
	return k
}

func (k *kubelet) path(kind, name string) string {
	return "/api/v1/namespaces/" + k.namespace + "/" + kind + "/" + name
}

// look does what is to be done now.
func (k *kubelet) look() error {
	var list podList
	if err := k.call(http.MethodGet, strings.TrimSuffix(k.path("pods", ""), "/"), nil, &list); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	listed := map[string]bool{}
	for _, item := range list.Items {
		name, grace := item.Metadata.Name, time.Duration(item.Spec.TerminationGracePeriodSeconds)*time.Second
		p := k.pods[name]
		listed[name] = true
		var err error
		switch {
		case p == nil && item.Metadata.DeletionTimestamp == nil:
			err = k.run(name, grace, item.Spec.Containers[0])
		case p == nil: // it went before it came
			err = k.forget(name)
		case item.Metadata.DeletionTimestamp != nil:
			err = k.end(p)
		case !p.ready:
			err = k.becomesReady(p)
		}
		if err != nil {
			return fmt.Errorf("pod %s: %w", name, err)
		}
	}
	for _, p := range k.pods {
		if !p.gone.IsZero() {
			continue
		}
		if !listed[p.name] { // whoever deleted it had seen it without a node
			if err := k.end(p); err != nil {
				return fmt.Errorf("pod %s: %w", p.name, err)
			}
		}
		select {
		case err := <-p.ended:
			p.gone = time.Now()
			if err == nil && p.told.IsZero() {
				err = errors.New("nobody has told it to")
			}
			if !p.told.IsZero() && !p.ready && interrupted(err) {
				err = nil // while it was starting, with nothing to drain
			}
			if err != nil {
				return fmt.Errorf("pod %s has ended: %w", p.name, err)
			}
			return k.forget(p.name)
		default:
		}
	}
	return nil
}

// run starts a Pod's process, unless the Pod goes before it has a node. Only what has one is given its grace when it goes.
func (k *kubelet) run(name string, grace time.Duration, c container) error {
	at, err := world.FreeAddresses(1)
	if err != nil {
		return err
	}
	env, err := k.environ(name, c)
	if err != nil {
		return err
	}
	args := slices.Clone(c.Args)
	for i, arg := range args { // on this machine a port is for one of them only
		if strings.HasPrefix(arg, "--listen=") {
			args[i] = "--listen=" + at[0]
		}
	}
	err = k.call(http.MethodPost, k.path("pods", name)+"/binding", map[string]any{
		"apiVersion": "v1", "kind": "Binding", "metadata": map[string]string{"name": name},
		"target": map[string]string{"apiVersion": "v1", "kind": "Node", "name": "this-machine"},
	}, nil)
	var refused *refusal
	if errors.As(err, &refused) && (refused.code == http.StatusNotFound || refused.code == http.StatusConflict) {
		return nil // it has gone, or is going: the next look tells
	}
	if err != nil {
		return err
	}
	p := &pod{name: name, process: exec.Command(binary, args...), probe: "http://" + at[0] + "/readyz", grace: grace}
	p.process.Env, p.process.Stderr = env, &p.log
	if p.ended, err = world.Spawn(p.process, syscall.SIGKILL); err != nil {
		return err
	}
	k.pods[name] = p
	return nil
}

// environ is what the Pod's process finds.
func (k *kubelet) environ(name string, c container) ([]string, error) {
	env := slices.Clone(k.identity)
	for _, from := range c.EnvFrom {
		var found struct{ Data map[string]string }
		switch {
		case from.ConfigMapRef.Name != "":
			if err := k.call(http.MethodGet, k.path("configmaps", from.ConfigMapRef.Name), nil, &found); err != nil {
				return nil, err
			}
		default:
			if err := k.call(http.MethodGet, k.path("secrets", from.SecretRef.Name), nil, &found); err != nil {
				return nil, err
			}
			for key, value := range found.Data {
				plain, err := base64.StdEncoding.DecodeString(value)
				if err != nil {
					return nil, err
				}
				found.Data[key] = string(plain)
			}
		}
		for key, value := range found.Data {
			env = append(env, key+"="+value)
		}
	}
	for _, v := range c.Env {
		value := strings.ReplaceAll(v.Value, "$(SNAPFLEET_NAME)", name)
		if v.ValueFrom.FieldRef.FieldPath == "metadata.name" {
			value = name
		}
		env = append(env, v.Name+"="+value)
	}
	return env, nil
}

// becomesReady tells the API once the worker says so itself.
func (k *kubelet) becomesReady(p *pod) error {
	res, err := http.Get(p.probe)
	if err != nil {
		return nil //nolint:nilerr // not yet
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil
	}
	p.ready = true
	now := time.Now().UTC().Format(time.RFC3339)
	conditions := []map[string]string{}
	for _, kind := range []string{"PodScheduled", "Initialized", "ContainersReady", "Ready"} {
		conditions = append(conditions, map[string]string{"type": kind, "status": "True", "lastTransitionTime": now})
	}
	return k.call(http.MethodPatch, k.path("pods", p.name)+"/status", map[string]any{
		"status": map[string]any{"phase": "Running", "startTime": now, "conditions": conditions},
	}, nil)
}

// end tells a Pod to go, and kills it when it has not gone in its grace.
func (k *kubelet) end(p *pod) error {
	switch {
	case !p.gone.IsZero():
		return nil
	case p.told.IsZero():
		p.told = time.Now()
		return p.process.Process.Signal(syscall.SIGTERM)
	case time.Since(p.told) > p.grace && !p.killed:
		p.killed = true
		return p.process.Process.Kill()
	}
	return nil
}

// interrupted reports whether a process that ended with err had been told to by SIGTERM. A worker that drains ends with none.
func interrupted(err error) bool {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return false
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && (status.ExitStatus() == 130 || status.Signaled() && status.Signal() == syscall.SIGTERM)
}

// forget takes a Pod that has gone out of the API.
func (k *kubelet) forget(name string) error {
	err := k.call(http.MethodDelete, k.path("pods", name), map[string]any{"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0}, nil)
	var refused *refusal
	if errors.As(err, &refused) && refused.code == http.StatusNotFound {
		return nil
	}
	return err
}

// running are the pods whose process runs: those that start, are at work, and are going.
func (k *kubelet) running() (starting, ready, going []*pod) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, p := range k.pods {
		switch {
		case !p.gone.IsZero():
		case !p.told.IsZero():
			going = append(going, p)
		case p.ready:
			ready = append(ready, p)
		default:
			starting = append(starting, p)
		}
	}
	return starting, ready, going
}

// awaitPods waits until so many pods are ready, and no other one runs. It returns how long that took.
func (k *kubelet) awaitPods(t *testing.T, n int, within time.Duration) time.Duration {
	t.Helper()
	return k.becomes(fmt.Sprintf("%d workers", n), within, func() error {
		starting, ready, going := k.running()
		if len(ready) != n || len(starting)+len(going) > 0 {
			return fmt.Errorf("%d start, %d are ready, and %d are going", len(starting), len(ready), len(going))
		}
		return nil
	})
}

// stay watches that for so long so many pods are ready, and that no other one runs.
func (k *kubelet) stay(t *testing.T, n int, long time.Duration) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); time.Since(began) < long; <-tick.C {
		if starting, ready, going := k.running(); len(ready) != n || len(starting)+len(going) > 0 {
			t.Fatalf("%d were to stay: after %s %d start, %d are ready, and %d are going",
				n, time.Since(began).Round(100*time.Millisecond), len(starting), len(ready), len(going))
		}
	}
}
