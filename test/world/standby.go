package world

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
)

// Primary lets a server have standbys, which [StartPostgres] rules out to be faster.
func Primary() Option {
	return func(p *Postgres) { p.opts = append(p.opts, "wal_level=replica", "max_wal_senders=8") }
}

// StartStandby copies a server of ours, which [Primary] was told of, into dir, and starts a hot standby that
// follows it. The standby has the primary's settings, and then opts.
func (p *Postgres) StartStandby(ctx context.Context, dir string, opts ...Option) (*Postgres, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("start a standby: %w", err)
	}
	s := &Postgres{bin: p.bin, dir: dir, opts: append([]string(nil), p.opts...)}
	for _, o := range opts {
		o(s)
	}
	if err := s.prepare(); err != nil {
		return nil, fmt.Errorf("start a standby: %w", err)
	}
	host, port, err := net.SplitHostPort(p.base.Host)
	if err != nil {
		return nil, fmt.Errorf("start a standby: %w", err)
	}
	cmd := s.command(ctx, "pg_basebackup", "--pgdata", s.data(), "--host", host, "--port", port, "--username", "postgres",
		"--write-recovery-conf", "--checkpoint", "fast", "--no-sync")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("start a standby: pg_basebackup: %w: %s", err, lastLines(out))
	}
	if err := s.startAnywhere(ctx); err != nil {
		return nil, fmt.Errorf("start a standby: %w", err)
	}
	return s, nil
}
