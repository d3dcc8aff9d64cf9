//go:build kubernetes

package test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/snapfleet/snapfleet/test/world"
)

// A cluster is a real Kubernetes without nodes: etcd, the API server, the controllers of Deployments and of
// HorizontalPodAutoscalers, and KEDA. `make autoscale` builds the programs. Whoever is not in it: a scheduler and a
// kubelet, see [kubelet]; a network; garbage collection.
type cluster struct {
	t      *testing.T
	dir    string
	api    string // host:port
	config string // a file for clients
	client *http.Client
}

// token is how everybody in the cluster says who they are.
const token = "throw-away"

func startCluster(t *testing.T) *cluster {
	t.Helper()
	at, err := world.FreeAddresses(8) // all at once: no two are the same
	if err != nil {
		t.Fatal(err)
	}
	etcd, peers, keda, metrics := "http://"+at[0], "http://"+at[1], at[2], at[3]
	c := &cluster{t: t, dir: t.TempDir(), api: at[4]}
	ca, certificate, key := peerCertificate(t)
	nobody, _, _ := peerCertificate(t) // no client has a certificate
	caFile, certFile, keyFile := c.write("ca.crt", string(ca)), c.write("tls.crt", string(certificate)), c.write("tls.key", string(key))
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	c.client = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	c.config = c.write("kubeconfig", fmt.Sprintf(`{"apiVersion": "v1", "kind": "Config", "current-context": "test",
		"clusters": [{"name": "test", "cluster": {"server": "https://%s", "certificate-authority": %q}}],
		"users": [{"name": "test", "user": {"token": %q}}],
		"contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}]}`, c.api, caFile, token))

	c.start("kube/etcd", nil, "--data-dir="+filepath.Join(c.dir, "etcd"), "--listen-client-urls="+etcd, "--advertise-client-urls="+etcd,
		"--listen-peer-urls="+peers, "--initial-advertise-peer-urls="+peers, "--initial-cluster=default="+peers, "--unsafe-no-fsync")
	signer := c.write("signer.pem", string(signingKey(t)))
	host, port, _ := net.SplitHostPort(c.api)
	c.start("kube/kube-apiserver", nil, "--etcd-servers="+etcd, "--bind-address="+host, "--secure-port="+port,
		"--tls-cert-file="+certFile, "--tls-private-key-file="+keyFile, "--authorization-mode=RBAC",
		"--token-auth-file="+c.write("tokens.csv", token+`,test,test,"system:masters"`+"\n"),
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file="+signer, "--service-account-signing-key-file="+signer,
		"--disable-admission-plugins=ServiceAccount", "--service-cluster-ip-range=10.0.0.0/24", "--endpoint-reconciler-type=none",
		"--client-ca-file="+c.write("clients.crt", string(nobody)), // KEDA's adapter wants to know it
		// How it says to KEDA's adapter who asks.
		"--requestheader-client-ca-file="+caFile, "--proxy-client-cert-file="+certFile, "--proxy-client-key-file="+keyFile,
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group", "--requestheader-extra-headers-prefix=X-Remote-Extra-")
	c.becomes("the API server is ready", time.Minute, func() error { return c.call(http.MethodGet, "/readyz", nil, nil) })

	c.start("kube/kube-controller-manager", nil, "--kubeconfig="+c.config, "--leader-elect=false", "--secure-port=0",
		"--controllers=deployment-controller,replicaset-controller,horizontal-pod-autoscaler-controller",
		"--horizontal-pod-autoscaler-sync-period=2s")

	crds := filepath.Join(moduleDir(t, "keda", "github.com/kedacore/keda/v2"), "config", "crd", "bases")
	c.kubectl("apply", "--server-side", "--filename="+crds) // some are too large for the annotation of the other way
	metricsHost, metricsPort, _ := net.SplitHostPort(metrics)
	c.kubectl("apply", "--filename="+c.write("adapter.json", fmt.Sprintf(`{"apiVersion": "v1", "kind": "List", "items": [
		{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "keda"}},
		{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "adapter", "namespace": "keda"}, "spec": {"type": "ExternalName", "externalName": %q}},
		{"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": "v1beta1.external.metrics.k8s.io"}, "spec": {
			"group": "external.metrics.k8s.io", "version": "v1beta1", "groupPriorityMinimum": 100, "versionPriority": 100,
			"service": {"namespace": "keda", "name": "adapter", "port": %s}, "insecureSkipTLSVerify": true}}]}`, metricsHost, metricsPort)))
	env := []string{"KUBECONFIG=" + c.config, "WATCH_NAMESPACE=", "POD_NAMESPACE=keda", "KEDA_CLUSTER_OBJECT_NAMESPACE=keda", "POD_NAME=keda"}
	c.start("keda/operator", env, "--cert-dir="+c.dir, "--metrics-bind-address="+at[5], "--health-probe-bind-address="+at[6], "--metrics-service-bind-address="+keda)
	_, plain, _ := net.SplitHostPort(at[7])
	c.start("keda/adapter", env, "--secure-port="+metricsPort, "--bind-address="+metricsHost, "--cert-dir="+c.dir, "--tls-cert-file="+certFile, "--tls-private-key-file="+keyFile,
		"--metrics-service-address="+keda, "--port="+plain,
		"--lister-kubeconfig="+c.config, "--authentication-kubeconfig="+c.config, "--authorization-kubeconfig="+c.config)
	c.becomes("KEDA answers for its metrics", 2*time.Minute, func() error {
		return c.call(http.MethodGet, "/apis/external.metrics.k8s.io/v1beta1", nil, nil)
	})
	return c
}

// signingKey is one that nobody uses: no Pod has a token.
func signingKey(t *testing.T) []byte {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
}

// moduleDir is where Go keeps a module's source that one of the nested modules requires.
func moduleDir(t *testing.T, nested, module string) string {
	t.Helper()
	list := exec.Command("go", "mod", "download", "-json", module)
	list.Dir = filepath.Join(root, "test", nested)
	out, err := list.Output()
	var found struct{ Dir string }
	if err == nil {
		err = json.Unmarshal(out, &found)
	}
	if err != nil {
		t.Fatalf("find %s: %v", module, err)
	}
	return found.Dir
}

func (c *cluster) write(name, text string) string {
	c.t.Helper()
	file := filepath.Join(c.dir, name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
	return file
}

// start starts a program for the rest of the test. What it said is told when the test has failed.
func (c *cluster) start(program string, env []string, args ...string) {
	c.t.Helper()
	log, err := os.Create(filepath.Join(c.dir, filepath.Base(program)+".log"))
	if err != nil {
		c.t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(root, "bin", program), args...)
	cmd.Env = append(env, "HOME="+c.dir, "PATH="+os.Getenv("PATH"))
	cmd.Stdout, cmd.Stderr = log, log
	ended, err := world.Spawn(cmd, syscall.SIGKILL)
	if err != nil {
		c.t.Fatalf("start %s: %v; make autoscale builds it", program, err)
	}
	c.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		_ = log.Close()
		if said, err := os.ReadFile(log.Name()); c.t.Failed() && err == nil {
			c.t.Logf("%s said at last:\n%s", program, said[max(0, len(said)-4000):])
		}
	})
}

// kubectl is what an operator types. It returns what was printed.
func (c *cluster) kubectl(args ...string) string {
	c.t.Helper()
	out, err := c.tryKubectl(args...)
	if err != nil {
		c.t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func (c *cluster) tryKubectl(args ...string) (string, error) {
	cmd := exec.CommandContext(c.t.Context(), filepath.Join(root, "bin", "kube", "kubectl"), append([]string{"--kubeconfig=" + c.config}, args...)...)
	cmd.Env = []string{"HOME=" + c.dir}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// call asks the API. The kubelet does until the cleanup has stopped it, when the test's context has ended already.
func (c *cluster) call(method, path string, body, answer any) error {
	var sent io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return err
		}
		sent = bytes.NewReader(data)
	}
	req, err := http.NewRequest(method, "https://"+c.api+path, sent)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	if method == http.MethodPatch {
		req.Header.Set("Content-Type", "application/merge-patch+json")
	}
	res, err := c.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close() //nolint:errcheck // it was read
	said, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode >= 300 {
		return &refusal{res.StatusCode, fmt.Sprintf("%s %s: %s: %.500s", method, path, res.Status, said)}
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(said, answer)
}

// refusal is what the API server says when it does not do it.
type refusal struct {
	code int
	what string
}

func (r *refusal) Error() string { return r.what }

// becomes waits for what must come true by itself, and returns how long that took.
func (c *cluster) becomes(what string, within time.Duration, ok func() error) time.Duration {
	c.t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); ; <-tick.C {
		err := ok()
		if err == nil {
			return time.Since(began)
		}
		if time.Since(began) > within {
			c.t.Fatalf("not true after %s: %s: %v", within, what, err)
		}
	}
}
