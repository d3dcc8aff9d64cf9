package test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"gopkg.in/yaml.v3"

	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/test/bucket"
	"github.com/snapfleet/snapfleet/test/world"
)

// trio is a fleet whose broker is three servers with deploy/nats/cluster.conf, each a process of its own.
type trio struct {
	*guarded
	servers []*world.NATS
	stores  []string // of the servers
	routes  []string // where they find each other
}

func newTrio(t *testing.T, tenant string) *trio {
	t.Helper()
	c := &trio{guarded: prepareGuarded(t, tenant)}
	var err error
	if c.routes, err = world.FreeAddresses(3); err != nil {
		t.Fatal(err)
	}
	ca, certificate, key := peerCertificate(t)
	shared := append(c.environ,
		"SNAPFLEET_NATS_ROUTES=[tls://"+strings.Join(c.routes, ", tls://")+"]", "SNAPFLEET_NATS_MAX_FILE=256M",
		"SNAPFLEET_NATS_ROUTE_CA="+c.write("route-ca.pem", ca), "SNAPFLEET_NATS_ROUTE_CERT="+c.write("route.pem", certificate), "SNAPFLEET_NATS_ROUTE_KEY="+c.write("route-key.pem", key))
	var urls []string
	for i, route := range c.routes {
		store := filepath.Join(c.dir, fmt.Sprint("store-", i))
		n, err := world.StartNATS(store, world.WithConfig(filepath.Join(root, "deploy", "nats", "cluster.conf"), append(slices.Clone(shared), fmt.Sprint("SNAPFLEET_NATS_NAME=nats-", i))...),
			world.WithMember(route), world.WithMonitoring())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(n.Stop)
		c.servers, c.stores, urls = append(c.servers, n), append(c.stores, store), append(urls, n.URL())
	}
	c.urls = strings.Join(urls, ",")
	for _, n := range c.servers { // all of them know who leads
		c.eventually(n.Name()+" is healthy", func() error { return c.healthy(n) })
	}
	c.begin("--replicas=3", "--ack-wait=3s")
	return c
}

// peerCertificate is a pair for 127.0.0.1, for servers and for clients, and the authority that signed it.
func peerCertificate(t *testing.T) (ca, certificate, key []byte) {
	t.Helper()
	sign := func(template, parent *x509.Certificate, public, private *ecdsa.PrivateKey) []byte {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, template, parent, &public.PublicKey, private)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	var keys [2]*ecdsa.PrivateKey
	for i := range keys {
		var err error
		if keys[i], err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	authority := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	ca = sign(authority, authority, keys[0], keys[0])
	certificate = sign(&x509.Certificate{
		SerialNumber: big.NewInt(2), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, authority, keys[1], keys[0])
	der, err := x509.MarshalPKCS8PrivateKey(keys[1])
	if err != nil {
		t.Fatal(err)
	}
	return ca, certificate, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// ask reads a page of a server's monitoring port.
func (c *trio) ask(n *world.NATS, page string, into any) error {
	q, err := http.NewRequestWithContext(c.t.Context(), http.MethodGet, n.MonitoringURL()+page, nil)
	if err != nil {
		return err
	}
	r, err := http.DefaultClient.Do(q)
	if err != nil {
		return err
	}
	defer r.Body.Close() //nolint:errcheck // it is read
	if r.StatusCode != http.StatusOK {
		return fmt.Errorf("%s%s: %s", n.Name(), page, r.Status)
	}
	return json.NewDecoder(r.Body).Decode(into)
}

// healthy is what an operator waits for before the next server is touched: it has caught up with all its streams.
func (c *trio) healthy(n *world.NATS) error {
	return c.ask(n, "/healthz", new(any))
}

// placed are the streams and buckets, and who has a copy of them.
func (c *trio) placed() (all []*jetstream.StreamInfo) {
	c.t.Helper()
	for _, name := range []string{
		contracts.RequestStream, contracts.ScheduleStream, contracts.OutcomeStream, contracts.DeadStream, contracts.RefusedStream, contracts.NoticeStream,
		"KV_" + contracts.JobBucket, "KV_" + contracts.PieceBucket, "KV_" + contracts.TenantBucket, "KV_" + contracts.FleetBucket,
	} {
		var info *jetstream.StreamInfo
		c.eventually(name+" has a leader", func() error {
			s, err := c.js.Stream(c.t.Context(), name)
			if err != nil {
				return err
			}
			if info = s.CachedInfo(); info.Cluster == nil || info.Cluster.Leader == "" {
				return errors.New("it has none")
			}
			return nil
		})
		if info == nil || info.Cluster == nil {
			c.t.FailNow()
		}
		all = append(all, info)
	}
	return all
}

// leader is the number of the server that leads the records of jobs.
func (c *trio) leader() int {
	c.t.Helper()
	for _, s := range c.placed() {
		if s.Config.Name == "KV_"+contracts.JobBucket {
			return slices.IndexFunc(c.servers, func(n *world.NATS) bool { return n.Name() == s.Cluster.Leader })
		}
	}
	return -1
}

// killedInTheMiddle ends a server where it stands, while a job uploads its data, and waits for the delivery.
func (c *trio) killedInTheMiddle(job string, server func() int) (killed int) {
	c.t.Helper()
	hold := make(chan struct{})
	fault := cloud.Inject(bucket.Fault{Match: c.request(job, "UploadPart"), Skip: 1, Times: 1, Hold: hold})
	defer fault.Remove()
	c.submit(job, "--only=tables")
	select {
	case <-fault.Reached:
	case <-time.After(time.Minute):
		c.t.Fatalf("job %s: the worker never got there", job)
	}
	killed = server()
	c.servers[killed].Kill()
	close(hold)
	c.delivered(job)
	return killed
}

// TestCluster runs three servers as deploy/nats ships them. One is killed in the middle of a job, replaced by one with an
// empty disk, and then another one is killed: the jobs are delivered, by brokers that remember everything.
func TestCluster(t *testing.T) {
	t.Parallel()
	c := newTrio(t, "trio")
	ctx := t.Context()
	for _, s := range c.placed() {
		if s.Config.Replicas != 3 || s.Config.Storage != jetstream.FileStorage || len(s.Cluster.Replicas) != 2 {
			t.Errorf("%s: %d replicas in %v: %+v", s.Config.Name, s.Config.Replicas, s.Config.Storage, s.Cluster)
		}
	}
	t.Run("a stranger does not join", c.strangers)
	t.Run("KEDA sees the queue", c.scaled)

	workers := &fleet{}
	*workers = *c.fleet
	workers.env = c.as("worker")
	for _, name := range []string{"one", "two"} {
		workers.work(name)
	}
	first := c.killedInTheMiddle("one", c.leader)
	for i, n := range c.servers { // each answers the roles of other accounts, whoever leads
		if i != first {
			c.through(n, fmt.Sprint("asked-", i))
		}
	}

	// An empty disk, and the same name.
	if err := os.RemoveAll(c.stores[first]); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(c.stores[first], 0o700); err != nil {
		t.Fatal(err)
	}
	if err := c.servers[first].Start(ctx); err != nil {
		t.Fatal(err)
	}
	c.eventually("the new server is healthy", func() error { return c.healthy(c.servers[first]) })
	c.eventually("everything is there three times", func() error {
		for _, s := range c.placed() {
			for _, r := range s.Cluster.Replicas {
				if !r.Current || r.Offline || r.Lag > 0 {
					return fmt.Errorf("%s: %+v", s.Config.Name, r)
				}
			}
		}
		return nil
	})
	// One of the two that were there from the beginning goes: what is left needs the new one's copy.
	second := c.killedInTheMiddle("two", func() int { return (first + 1) % len(c.servers) })
	for _, job := range []string{"one", "two"} {
		if s := c.await(job); !s.Outcome.Kind.OK() {
			t.Errorf("%s: %+v", job, s)
		}
	}
	if err := c.servers[second].Start(ctx); err != nil {
		t.Fatal(err)
	}
	c.eventually("it catches up with what it missed", func() error { return c.healthy(c.servers[second]) })
	c.eventually("setup finds everything", func() error { // a stream that elects its leader does not answer in time
		out, code := c.try(c.env, "setup", "--replicas=3", "--ack-wait=3s")
		if strings.Contains(out, "created") {
			t.Errorf("something was missing:\n%s", out)
		}
		if code != 0 {
			return fmt.Errorf("it ends with %d: %s", code, out)
		}
		return nil
	})
	c.check()
}

// through asks one server as those do who are in accounts of their own.
func (c *trio) through(n *world.NATS, job string) {
	c.t.Helper()
	here := *c.guarded
	here.urls = n.URL()
	for _, role := range []string{"publisher", "reader"} {
		nc, v := here.connect(role)
		js, err := jetstream.NewWithDomain(nc, "snapfleet")
		if err != nil {
			c.t.Fatal(err)
		}
		if role == "publisher" {
			body := fmt.Sprintf(`{"version":1,"tenant":%q,"job":%q,"only":"tables","requested_at":%q}`, c.tenant, job, time.Now().Format(time.RFC3339))
			// A stream that elects its leader answers nobody: whoever publishes asks again, and is delivered to once.
			c.eventually(n.Name()+" takes a request", func() error {
				_, err := js.Publish(c.t.Context(), contracts.RequestSubject(c.tenant), []byte(body))
				return err
			})
			c.delivered(job)
		}
		c.eventually(role+" hears from "+n.Name()+" how it ended", func() error {
			s, err := js.Stream(c.t.Context(), contracts.OutcomeStream)
			if err != nil {
				return err
			}
			m, err := s.GetLastMsgForSubject(c.t.Context(), contracts.OutcomeSubject(c.tenant, job))
			if err != nil {
				return err
			}
			var o contracts.Outcome
			if err := json.Unmarshal(m.Data, &o); err != nil || o.Kind != contracts.Delivered {
				return fmt.Errorf("%s: %w", m.Data, err)
			}
			return nil
		})
		if v.has("") {
			c.t.Errorf("%s at %s: %q", role, n.Name(), v.all)
		}
	}
}

// strangers: whoever has no certificate of the servers' authority is no server.
func (c *trio) strangers(t *testing.T) {
	for _, route := range c.routes {
		conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(t.Context(), "tcp", route)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close() //nolint:errcheck // it has served
		secured := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
		if err = secured.HandshakeContext(t.Context()); err == nil {
			_, err = secured.Read(make([]byte, 1))
		}
		if err == nil || !strings.Contains(err.Error(), "certificate required") {
			t.Errorf("%s let a stranger in: %v", route, err)
		}
	}
}

// scaled: what KEDA is told to look for is where it looks, for whatever server leads the queue.
func (c *trio) scaled(t *testing.T) {
	file, err := os.ReadFile(filepath.Join(root, "deploy", "kubernetes", "base", "scaledobject.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var object struct {
		Spec struct {
			Triggers []struct{ Metadata map[string]string }
		}
	}
	if err := yaml.Unmarshal(file, &object); err != nil || len(object.Spec.Triggers) != 2 {
		t.Fatalf("%v: %+v", err, object)
	}
	for _, trigger := range object.Spec.Triggers {
		c.seen(trigger.Metadata)
	}
}

func (c *trio) seen(told map[string]string) {
	c.t.Helper()
	for _, n := range c.servers {
		var page struct {
			Accounts []struct {
				Name    string
				Streams []struct {
					Name      string
					Consumers []struct {
						Name    string
						Pending *int `json:"num_pending"`
						Cluster struct{ Leader string }
					} `json:"consumer_detail"`
				} `json:"stream_detail"`
			} `json:"account_details"`
		}
		c.eventually(told["stream"]+" is on "+n.Name(), func() error {
			if err := c.ask(n, "/jsz?consumers=true&config=true&acc="+told["account"], &page); err != nil {
				return err
			}
			for _, account := range page.Accounts {
				for _, stream := range account.Streams {
					for _, queue := range stream.Consumers {
						if account.Name == told["account"] && stream.Name == told["stream"] && queue.Name == told["consumer"] && queue.Pending != nil && strings.HasPrefix(queue.Cluster.Leader, "nats-") {
							return nil
						}
					}
				}
			}
			return fmt.Errorf("%v is not in %+v", told, page)
		})
	}
}
