package world

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// NATS is a nats-server with JetStream on disk: in this process, or with [AsProcess] in one of its own.
type NATS struct {
	as      settings
	process bool

	server *server.Server // where it is in this process
	cmd    *exec.Cmd      // where it is not
	ended  <-chan error
}

// settings are what a server is started with.
type settings struct {
	Name       string // what others of its cluster call it
	Dir        string
	Port       int  // server.RANDOM_PORT before the first start
	Monitoring int  // 0: none
	Sync       bool // of every message
	Storage    int64
	MaxPayload int32    // 0: NATS's default
	Users      []login  // besides anybody who gives no name
	Config     string   // a file with everything else
	Environ    []string // what the file takes from the environment
	Cluster    string   // host:port where the other servers of a cluster find this one; empty: it is alone
	Routes     []string // of all of them
}

// login may do everything but publish on one subject.
type login struct{ Name, Password, Denied string }

// NATSOption changes how [StartNATS] starts.
type NATSOption func(*NATS)

// WithMonitoring serves /varz, /jsz and the like on a free port.
func WithMonitoring() NATSOption {
	return func(n *NATS) { n.as.Monitoring = server.RANDOM_PORT }
}

// WithSync writes every message to the disk before it is acknowledged, as production does.
func WithSync() NATSOption {
	return func(n *NATS) { n.as.Sync = true }
}

// WithStorage is how many bytes all streams may have together. What is published beyond that is refused.
func WithStorage(bytes int64) NATSOption {
	return func(n *NATS) { n.as.Storage = bytes }
}

// WithMaxPayload is how many bytes a message may have.
func WithMaxPayload(bytes int32) NATSOption {
	return func(n *NATS) { n.as.MaxPayload = bytes }
}

// Change makes the next [NATS.Start] or [NATS.Restart] start the server with other options.
func (n *NATS) Change(opts ...NATSOption) {
	for _, o := range opts {
		o(n)
	}
}

// WithUser lets somebody log in who may not publish on denied. Whoever gives no name may do everything.
func WithUser(name, password, denied string) NATSOption {
	return func(n *NATS) { n.as.Users = append(n.as.Users, login{name, password, denied}) }
}

// AsProcess makes the server a process of its own, so that it can be killed: this program, started once more.
// The program has to call [ServeNATS] before anything else.
func AsProcess() NATSOption {
	return func(n *NATS) { n.process = true }
}

// WithConfig starts the server with a configuration file, as operators do: of it everything is taken but the address,
// the ports and the folder of the streams. environ are variables that the file names, NAME=value; so the server has to be
// a process of its own, see [AsProcess].
func WithConfig(file string, environ ...string) NATSOption {
	return func(n *NATS) { n.as.Config, n.as.Environ, n.process = file, environ, true }
}

// WithMember lets the other servers of the cluster that the configuration file describes find this one at address,
// 127.0.0.1:port, in place of where the file says. Its name is the file's.
func WithMember(address string) NATSOption {
	return func(n *NATS) { n.as.Cluster = address }
}

// StartNATS starts a server that keeps its streams in dir.
func StartNATS(dir string, opts ...NATSOption) (*NATS, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("start NATS: %w", err)
	}
	n := &NATS{as: settings{Dir: dir, Port: server.RANDOM_PORT}}
	for _, o := range opts {
		o(n)
	}
	if err := n.start(); err != nil {
		return nil, fmt.Errorf("start NATS: %w", err)
	}
	return n, nil
}

// StartNATSCluster starts servers that keep their streams below dir, and can keep each of them several times. It
// returns once they have a leader.
func StartNATSCluster(ctx context.Context, dir string, servers int) (cluster []*NATS, err error) {
	addresses, err := FreeAddresses(servers)
	if err != nil {
		return nil, fmt.Errorf("start NATS: %w", err)
	}
	var routes []string
	for _, address := range addresses {
		routes = append(routes, "nats://"+address)
	}
	for i, address := range addresses {
		n, err := StartNATS(filepath.Join(dir, strconv.Itoa(i)), func(n *NATS) { n.as.Cluster, n.as.Routes = address, routes })
		if err != nil {
			for _, n := range cluster {
				n.Stop()
			}
			return nil, err
		}
		cluster = append(cluster, n)
	}
	for !slices.ContainsFunc(cluster, func(n *NATS) bool { return n.server.JetStreamIsLeader() }) {
		select {
		case <-ctx.Done():
			return cluster, fmt.Errorf("start NATS: no leader was chosen: %w", context.Cause(ctx))
		case <-time.After(20 * time.Millisecond):
		}
	}
	return cluster, nil
}

// start makes the ports ours from the first time on: a server that starts again takes the same ones, so clients
// find it.
func (n *NATS) start() (err error) {
	if n.process {
		return n.spawn()
	}
	n.server, n.as, err = n.as.serve()
	return err
}

// serve runs a server in this process. It returns the settings with the ports that it has.
func (as settings) serve() (*server.Server, settings, error) {
	opts, err := as.options()
	if err != nil {
		return nil, as, err
	}
	if as.Monitoring != 0 {
		opts.HTTPHost, opts.HTTPPort = "127.0.0.1", as.Monitoring
	}
	if as.Cluster != "" {
		host, port, err := net.SplitHostPort(as.Cluster)
		if err != nil {
			return nil, as, err
		}
		if as.Config == "" {
			opts.Cluster = server.ClusterOpts{Name: "snapfleet", NoAdvertise: true}
			opts.Routes = server.RoutesFromStr(strings.Join(as.Routes, ","))
		}
		opts.Cluster.Host = host
		if opts.Cluster.Port, err = strconv.Atoi(port); err != nil {
			return nil, as, err
		}
	}
	for _, u := range as.Users {
		opts.NoAuthUser = "anybody"
		opts.Users = append(opts.Users, &server.User{Username: u.Name, Password: u.Password, Permissions: &server.Permissions{
			Publish: &server.SubjectPermission{Deny: []string{u.Denied}},
		}})
	}
	if opts.NoAuthUser != "" {
		opts.Users = append(opts.Users, &server.User{Username: opts.NoAuthUser})
	}
	s, err := server.NewServer(opts)
	if err != nil {
		return nil, as, err
	}
	s.Start()
	switch {
	case !s.ReadyForConnections(30 * time.Second):
		err = errors.New("it did not accept a connection within 30s")
	case !s.JetStreamEnabled():
		err = fmt.Errorf("JetStream did not start in %s", as.Dir)
	}
	if err != nil {
		s.Shutdown()
		s.WaitForShutdown()
		return nil, as, err
	}
	if a, ok := s.Addr().(*net.TCPAddr); ok {
		as.Port = a.Port
	}
	if a := s.MonitorAddr(); a != nil {
		as.Monitoring = a.Port
	}
	as.Name = s.Name()
	return s, as, nil
}

// options are what a server is started with, but for monitoring and clusters.
func (as settings) options() (*server.Options, error) {
	opts := &server.Options{JetStream: true, JetStreamMaxStore: as.Storage, SyncAlways: as.Sync, MaxPayload: as.MaxPayload}
	if as.Config != "" {
		var err error
		if opts, err = server.ProcessConfigFile(as.Config); err != nil {
			return nil, err
		}
		opts.HTTPHost, opts.HTTPPort = "", 0
	}
	if as.Config == "" || as.Cluster == "" {
		opts.ServerName = "snapfleet-" + filepath.Base(as.Dir)
	}
	opts.Host, opts.Port, opts.StoreDir, opts.NoSigs, opts.NoLog = "127.0.0.1", as.Port, as.Dir, true, true
	return opts, nil
}

// settingsVariable tells a process to be a server, and which one.
const settingsVariable = "SNAPFLEET_WORLD_NATS"

// spawn starts this program once more, as a server.
func (n *NATS) spawn() error {
	given, err := json.Marshal(n.as)
	if err != nil {
		return err
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	n.cmd = exec.Command(program)
	n.cmd.Env = append(append(os.Environ(), n.as.Environ...), settingsVariable+"="+string(given))
	n.cmd.Stderr = os.Stderr
	out, err := n.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if n.ended, err = Spawn(n.cmd, syscall.SIGKILL); err != nil {
		return err
	}
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &n.as)
	}
	if err != nil {
		n.end(syscall.SIGKILL)
		return fmt.Errorf("the server's process says %q: %w", line, err)
	}
	return nil
}

// ServeNATS makes this process a nats-server until it is told to stop, if it was started to be one: see
// [AsProcess]. Otherwise it does nothing.
func ServeNATS() {
	given := os.Getenv(settingsVariable)
	if given == "" {
		return
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	var as settings
	err := json.Unmarshal([]byte(given), &as)
	var s *server.Server
	if err == nil {
		s, as, err = as.serve()
	}
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(as)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "serve NATS:", err)
		os.Exit(1)
	}
	<-stop
	s.Shutdown()
	s.WaitForShutdown()
	os.Exit(0)
}

// Name is what the server calls itself, and what others of its cluster call it.
func (n *NATS) Name() string { return n.as.Name }

// Dir is the folder of the streams. Whoever copies it has to stop the server before.
func (n *NATS) Dir() string { return n.as.Dir }

// URL is where clients connect to, nats://127.0.0.1:port.
func (n *NATS) URL() string { return "nats://" + n.Address() }

// Address is the same for a [Link], 127.0.0.1:port.
func (n *NATS) Address() string { return "127.0.0.1:" + strconv.Itoa(n.as.Port) }

// MonitoringURL is http://127.0.0.1:port, or empty without [WithMonitoring].
func (n *NATS) MonitoringURL() string {
	if n.as.Monitoring <= 0 {
		return ""
	}
	return "http://127.0.0.1:" + strconv.Itoa(n.as.Monitoring)
}

// Restart stops the server and starts it again on the same port with the same streams.
func (n *NATS) Restart(ctx context.Context) error {
	n.Stop()
	return n.Start(ctx)
}

// Start starts the server again, on the same port with the same streams, after Stop or Kill.
func (n *NATS) Start(ctx context.Context) error {
	// Somebody may have taken the port for a moment, as an outgoing connection's.
	for {
		err := n.start()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("restart NATS: %w: %w", context.Cause(ctx), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Stop ends the server and waits for it. It may be called again.
func (n *NATS) Stop() {
	if n.process {
		n.end(syscall.SIGTERM)
		return
	}
	n.server.Shutdown()
	n.server.WaitForShutdown()
}

// Kill ends the server's process where it stands, which takes [AsProcess].
func (n *NATS) Kill() { n.end(syscall.SIGKILL) }

func (n *NATS) end(sig syscall.Signal) {
	_ = n.cmd.Process.Signal(sig) // it may have ended
	<-n.ended
}
