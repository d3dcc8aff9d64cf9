package world

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Postgres is a PostgreSQL server: a throw-away cluster of ours, or one that somebody else runs.
type Postgres struct {
	bin   string // empty: not ours
	dir   string // data, socket and log
	port  int
	user  *syscall.Credential
	opts  []string // settings, name=value
	owned string   // to be removed on Stop; empty: the caller's
	base  url.URL

	mu   sync.Mutex // guards what follows
	proc *process
}

// process is one postmaster.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	log  *tail
}

// Option changes how [StartPostgres] starts.
type Option func(*Postgres)

// Set sets a parameter of postgresql.conf: Set("max_connections", "200").
func Set(name, value string) Option {
	return func(p *Postgres) { p.opts = append(p.opts, name+"="+value) }
}

// Mode is how a server is stopped, in PostgreSQL's words.
type Mode syscall.Signal

// The modes.
const (
	Smart     = Mode(syscall.SIGTERM) // waits for the clients
	Fast      = Mode(syscall.SIGINT)  // ends their sessions
	Immediate = Mode(syscall.SIGQUIT) // a crash: recovery at the next start
)

// StartPostgres makes a cluster in dir, unless there is one, and starts it from the newest binaries that
// [Binaries] finds. PostgreSQL refuses to be root, so root's rights are dropped; where others cannot reach
// dir, the cluster lies in a folder of its own, which Stop removes. The server dies with this process, is
// not safe against power loss (fsync is off), and lets the superuser "postgres" in from this machine
// without a password.
func StartPostgres(ctx context.Context, dir string, opts ...Option) (*Postgres, error) {
	bin, err := Binaries(ctx)
	if err != nil {
		return nil, err
	}
	return startPostgres(ctx, bin, dir, opts)
}

func startPostgres(ctx context.Context, bin, dir string, opts []Option) (_ *Postgres, err error) {
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	p := &Postgres{bin: bin, dir: dir, opts: []string{
		"fsync=off", "synchronous_commit=off", "full_page_writes=off", "wal_level=minimal", "max_wal_senders=0",
		"shared_buffers=128MB", "max_wal_size=1GB", "log_min_messages=warning", "listen_addresses=127.0.0.1",
	}}
	for _, o := range opts {
		o(p)
	}
	if err := p.prepare(); err != nil {
		return nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	if err := p.initdb(ctx); err != nil {
		return nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	if err := p.startAnywhere(ctx); err != nil {
		return nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	return p, nil
}

// startAnywhere starts the server on a free port. One may be taken before the server has it: then on another.
func (p *Postgres) startAnywhere(ctx context.Context) (err error) {
	for range 5 {
		if p.port, err = freePort(); err != nil {
			return err
		}
		p.base = url.URL{Scheme: "postgres", User: url.User("postgres"), Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(p.port)), RawQuery: "sslmode=disable"}
		if err = p.start(ctx); err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), "in use") {
			break
		}
	}
	return err
}

// prepare makes the folder, and finds whom to be where we are root.
func (p *Postgres) prepare() error {
	if err := os.MkdirAll(p.dir, 0o755); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return nil
	}
	credential, err := unprivileged()
	if err != nil {
		return err
	}
	p.user = credential
	if !reachable(p.dir) {
		if p.owned, err = os.MkdirTemp(publicTemp(), "snapfleet-postgres-"); err != nil {
			return err
		}
		p.dir = p.owned
	}
	return os.Chown(p.dir, int(credential.Uid), int(credential.Gid))
}

// reachable: another user can get to the folder.
func reachable(dir string) bool {
	for parent := filepath.Dir(dir); ; parent = filepath.Dir(parent) {
		if info, err := os.Stat(parent); err != nil || info.Mode()&0o001 == 0 {
			return false
		}
		if parent == filepath.Dir(parent) {
			return true
		}
	}
}

// publicTemp is a temporary folder that another user can get to.
func publicTemp() string {
	for _, dir := range []string{os.TempDir(), "/tmp"} {
		if reachable(filepath.Join(dir, "x")) {
			return dir
		}
	}
	return "/var/tmp"
}

func (p *Postgres) initdb(ctx context.Context) error {
	if _, err := os.Stat(filepath.Join(p.data(), "PG_VERSION")); err == nil {
		return nil
	}
	cmd := p.command(ctx, "initdb", "--pgdata", p.data(), "--username", "postgres", "--auth", "trust",
		"--encoding", "UTF8", "--locale", "C", "--no-sync", "--no-instructions")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, lastLines(out))
	}
	return nil
}

func (p *Postgres) data() string { return filepath.Join(p.dir, "data") }

func (p *Postgres) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(p.bin, program), args...)
	cmd.Dir = p.dir
	// Not the caller's PG* settings, and a known language of messages.
	cmd.Env = []string{"PATH=" + p.bin + ":/usr/bin:/bin", "LC_ALL=C", "HOME=" + p.dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: p.user, Setpgid: true}
	return cmd
}

// start starts the postmaster and waits until it lets us in. A start that fails leaves nothing running.
func (p *Postgres) start(ctx context.Context) error {
	args := []string{"-D", p.data(), "-p", strconv.Itoa(p.port), "-c", "unix_socket_directories="}
	for _, o := range p.opts {
		args = append(args, "-c", o)
	}
	proc := &process{cmd: p.command(context.WithoutCancel(ctx), "postgres", args...), done: make(chan struct{}), log: &tail{}}
	proc.cmd.Stdout, proc.cmd.Stderr = proc.log, proc.log
	proc.cmd.WaitDelay = time.Second
	ended, err := Spawn(proc.cmd, syscall.SIGQUIT) // which makes a postmaster take its backends along
	if err != nil {
		return err
	}
	go func() {
		<-ended // why is in its log
		close(proc.done)
	}()
	p.mu.Lock()
	p.proc = proc
	p.mu.Unlock()
	if err = p.await(ctx, proc); err != nil {
		p.end(Immediate) // err says more
	}
	return err
}

func (p *Postgres) await(ctx context.Context, proc *process) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 60*time.Second, errors.New("it did not accept a connection within 60s"))
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-proc.done:
			return fmt.Errorf("postgres ended: %s", proc.log)
		case <-ctx.Done():
			return fmt.Errorf("%w: %s", context.Cause(ctx), proc.log)
		case <-tick.C:
		}
		conn, err := pgconn.Connect(ctx, p.URL("postgres"))
		if err != nil {
			continue
		}
		// Somebody else's server on that port would let us in, too.
		err = p.isOurs(ctx, conn)
		conn.Close(ctx) // it has served
		return err
	}
}

func (p *Postgres) isOurs(ctx context.Context, conn *pgconn.PgConn) error {
	result := conn.ExecParams(ctx, "SHOW data_directory", nil, nil, nil, nil).Read()
	if result.Err != nil {
		return result.Err
	}
	if dir := string(result.Rows[0][0]); dir != p.data() {
		return fmt.Errorf("port %d is in use by another server", p.port)
	}
	return nil
}

// URL is a connection string for a database, as the superuser.
func (p *Postgres) URL(database string) string {
	u := p.base
	u.Path = "/" + database
	return u.String()
}

// CreateDatabase makes an empty database and returns its URL.
func (p *Postgres) CreateDatabase(ctx context.Context, name string) (string, error) {
	return p.create(ctx, name, "template0")
}

// CloneDatabase makes a copy of a database that nobody is connected to, and returns its URL.
func (p *Postgres) CloneDatabase(ctx context.Context, name, from string) (string, error) {
	return p.create(ctx, name, from)
}

func (p *Postgres) create(ctx context.Context, name, template string) (string, error) {
	err := p.exec(ctx, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize()+" TEMPLATE "+pgx.Identifier{template}.Sanitize())
	if err != nil {
		return "", fmt.Errorf("create database %q: %w", name, err)
	}
	return p.URL(name), nil
}

// DropDatabase removes a database and ends the sessions in it.
func (p *Postgres) DropDatabase(ctx context.Context, name string) error {
	if err := p.exec(ctx, "DROP DATABASE IF EXISTS "+pgx.Identifier{name}.Sanitize()+" WITH (FORCE)"); err != nil {
		return fmt.Errorf("drop database %q: %w", name, err)
	}
	return nil
}

// exec runs a statement in the database that URL's base names, or in "postgres".
func (p *Postgres) exec(ctx context.Context, sql string) error {
	u := p.base
	if u.Path == "" || p.bin != "" {
		u.Path = "/postgres"
	}
	conn, err := pgconn.Connect(ctx, u.String())
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) // it has served
	_, err = conn.Exec(ctx, sql).ReadAll()
	return err
}

// Restart stops the server in a mode and starts it again, on the same port with the same data.
func (p *Postgres) Restart(ctx context.Context, mode Mode) error {
	if p.bin == "" {
		return errors.New("restart PostgreSQL: it is not ours to restart")
	}
	if err := p.end(mode); err != nil {
		return fmt.Errorf("restart PostgreSQL: %w", err)
	}
	if err := p.start(ctx); err != nil {
		return fmt.Errorf("restart PostgreSQL: %w", err)
	}
	return nil
}

// Stop ends our server and its sessions; somebody else's is left alone. It may be called again.
func (p *Postgres) Stop() error {
	err := p.end(Fast)
	if p.owned != "" {
		err = errors.Join(err, os.RemoveAll(p.owned))
	}
	if err != nil {
		return fmt.Errorf("stop PostgreSQL: %w", err)
	}
	return nil
}

func (p *Postgres) end(mode Mode) error {
	p.mu.Lock()
	proc := p.proc
	p.proc = nil
	p.mu.Unlock()
	if proc == nil {
		return nil
	}
	if err := proc.cmd.Process.Signal(syscall.Signal(mode)); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-proc.done:
		return nil
	case <-time.After(30 * time.Second):
		proc.cmd.Process.Kill() // the last resort
		<-proc.done
		return fmt.Errorf("it did not end within 30s and was killed: %s", proc.log)
	}
}

// Log is the end of what the server wrote.
func (p *Postgres) Log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.proc == nil {
		return ""
	}
	return p.proc.log.String()
}

// tail keeps the end of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

// Write never fails.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, b...)
	if len(t.buf) > 64<<10 {
		t.buf = append(t.buf[:0], t.buf[len(t.buf)-32<<10:]...)
	}
	return len(b), nil
}

// String is the last lines.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return lastLines(t.buf)
}

func lastLines(b []byte) string {
	lines := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-8):], []byte("\n")))
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// FreeAddresses are so many addresses of the loopback, 127.0.0.1:port, that nobody listened at a moment ago.
func FreeAddresses(n int) (addresses []string, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer l.Close() // all at once: no two are the same
		addresses = append(addresses, l.Addr().String())
	}
	return addresses, nil
}
