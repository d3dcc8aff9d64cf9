package world

import (
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
	"syscall"
	"time"
)

// PgBouncer is a pooler in front of a server.
type PgBouncer struct {
	url  url.URL
	cmd  *exec.Cmd
	done <-chan error
	dir  string
}

// StartPgBouncer starts PgBouncer in front of p. The settings are lines of the section [pgbouncer]. It lets every user in
// whom the server lets in, and its sessions on the server are that user's. Debian's package pgbouncer has the program.
func StartPgBouncer(ctx context.Context, p *Postgres, settings ...string) (_ *PgBouncer, err error) {
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		if program, err = exec.LookPath("/usr/sbin/pgbouncer"); err != nil {
			return nil, fmt.Errorf("start PgBouncer: %w", err)
		}
	}
	dir, err := os.MkdirTemp(publicTemp(), "snapfleet-pgbouncer-")
	if err != nil {
		return nil, fmt.Errorf("start PgBouncer: %w", err)
	}
	b := &PgBouncer{dir: dir}
	defer func() {
		if err != nil {
			b.Stop()
		}
	}()
	port, err := freePort()
	if err != nil {
		return nil, fmt.Errorf("start PgBouncer: %w", err)
	}
	b.url = url.URL{Scheme: "postgres", User: url.User("postgres"), Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), RawQuery: "sslmode=disable"}
	host, there, err := net.SplitHostPort(p.base.Host)
	if err != nil {
		return nil, fmt.Errorf("start PgBouncer: %w", err)
	}
	users := filepath.Join(dir, "users.txt")
	ini := strings.Join(append([]string{
		"[databases]", "* = host=" + host + " port=" + there, "[pgbouncer]", "listen_addr = 127.0.0.1", "listen_port = " + strconv.Itoa(port),
		"auth_type = trust", "auth_file = " + users, "auth_query = SELECT rolname, '' FROM pg_roles WHERE rolname = $1", "auth_user = postgres",
		"unix_socket_dir =", "max_client_conn = 200", "server_tls_sslmode = disable",
	}, settings...), "\n") + "\n"
	config := filepath.Join(dir, "pgbouncer.ini")
	for path, text := range map[string]string{config: ini, users: "\"postgres\" \"\"\n"} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return nil, fmt.Errorf("start PgBouncer: %w", err)
		}
	}
	b.cmd = exec.CommandContext(context.WithoutCancel(ctx), program, config)
	b.cmd.WaitDelay = time.Second
	log := &tail{}
	b.cmd.Stdout, b.cmd.Stderr = log, log
	if os.Geteuid() == 0 { // it refuses to be root
		credential, err := unprivileged()
		if err != nil {
			return nil, fmt.Errorf("start PgBouncer: %w", err)
		}
		b.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential}
		if err := os.Chmod(dir, 0o755); err != nil {
			return nil, fmt.Errorf("start PgBouncer: %w", err)
		}
	}
	if b.done, err = Spawn(b.cmd, syscall.SIGKILL); err != nil {
		return nil, fmt.Errorf("start PgBouncer: %w", err)
	}
	if err := b.await(ctx); err != nil {
		return nil, fmt.Errorf("start PgBouncer: %w: %s", err, log)
	}
	return b, nil
}

// await waits until PgBouncer takes connections. Its console asks no server, so that the pools are still empty.
func (b *PgBouncer) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 60*time.Second, errors.New("it did not accept a connection within 60s"))
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	var dialer net.Dialer
	for {
		select {
		case <-b.done:
			b.cmd = nil
			return errors.New("pgbouncer ended")
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		if conn, err := dialer.DialContext(ctx, "tcp", b.url.Host); err == nil {
			return conn.Close()
		}
	}
}

// URL is a connection string for a database through the pooler.
func (b *PgBouncer) URL(user, database string) string {
	u := b.url
	u.User, u.Path = url.User(user), "/"+database
	return u.String()
}

// Stop ends PgBouncer, with every connection that it has.
func (b *PgBouncer) Stop() {
	if b.cmd != nil && b.cmd.Process != nil {
		b.cmd.Process.Signal(syscall.SIGTERM) // immediate
		<-b.done
	}
	os.RemoveAll(b.dir)
}
