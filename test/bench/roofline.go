package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/klauspost/compress/flate"
	"golang.org/x/sync/errgroup"
)

// The least that a delivery could cost here: the tables are read, in the chunks in which snapfleet reads them, by as
// many connections as there are cores, and go nowhere.

// chunkPages are 16 MiB, snapfleet's default.
const chunkPages = 16 << 20 / 8192

// deflateLevel is snapfleet's default.
const deflateLevel = 2

// rooflines are copy and copy_deflate.
func (g *ground) rooflines(schema string) []contender {
	run := func(c compressor) func(context.Context) (Cost, error) {
		return func(ctx context.Context) (Cost, error) {
			cost, _, err := g.copyAll(ctx, schema, runtime.NumCPU(), c)
			return cost, err
		}
	}
	return []contender{{"copy", run(nil)}, {"copy_deflate", run(deflated)}}
}

// compressor makes what the rows are compressed with; nil: they are not.
type compressor func() (*flate.Writer, error)

func deflated() (*flate.Writer, error) { return flate.NewWriter(io.Discard, deflateLevel) }

// copyAll reads every table of a schema, and says how large they are as CSV.
func (g *ground) copyAll(ctx context.Context, schema string, connections int, c compressor) (Cost, int64, error) {
	chunks, err := g.chunks(ctx, schema)
	if err != nil {
		return Cost{}, 0, err
	}
	before, began := selfCPU(), time.Now()
	var total atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	for range connections {
		group.Go(func() error {
			var w io.Writer = io.Discard
			var z *flate.Writer
			if c != nil {
				var err error
				if z, err = c(); err != nil {
					return err
				}
				w = z
			}
			r, err := dialCopies(ctx, g.database)
			if err != nil {
				return err
			}
			defer r.close()
			for sql := range chunks {
				n, err := r.copy(w, sql)
				if err != nil {
					return errors.Join(context.Cause(ctx), fmt.Errorf("%s: %w", sql, err))
				}
				total.Add(n)
				if z != nil {
					if err := z.Flush(); err != nil {
						return err
					}
					z.Reset(io.Discard)
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return Cost{}, 0, err
	}
	return Cost{Wall: time.Since(began).Seconds(), CPU: selfCPU() - before}, total.Load(), nil
}

// chunks are the COPY statements, in a closed channel.
func (g *ground) chunks(ctx context.Context, schema string) (<-chan string, error) {
	conn, err := pgx.Connect(ctx, g.database)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it has served
	rows, err := conn.Query(ctx, `SELECT c.relname, pg_relation_size(c.oid) / 8192 FROM pg_class c
		WHERE c.relnamespace = $1::regnamespace AND c.relkind = 'r' ORDER BY c.oid`, schema)
	if err != nil {
		return nil, err
	}
	var all []string
	var name string
	var pages int
	_, err = pgx.ForEachRow(rows, []any{&name, &pages}, func() error {
		for first := 0; first < max(1, pages); first += chunkPages {
			all = append(all, fmt.Sprintf("COPY (SELECT * FROM ONLY %s WHERE ctid >= '(%d,0)' AND ctid < '(%d,0)') TO STDOUT (FORMAT csv)",
				pgx.Identifier{schema, name}.Sanitize(), first, first+chunkPages))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	chunks := make(chan string, len(all))
	for _, sql := range all {
		chunks <- sql
	}
	close(chunks)
	return chunks, nil
}

// copies reads COPY after COPY from one connection, past pgx, which would make a message of each row: a roofline
// must not be what is slow.
type copies struct {
	conn net.Conn
	r    *bufio.Reader
	stop func() bool
}

func dialCopies(ctx context.Context, url string) (*copies, error) {
	conn, err := pgconn.Connect(ctx, url)
	if err != nil {
		return nil, err
	}
	h, err := conn.Hijack()
	if err != nil {
		return nil, errors.Join(err, conn.Close(ctx))
	}
	stop := context.AfterFunc(ctx, func() { _ = h.Conn.SetDeadline(time.Unix(1, 0)) })
	return &copies{h.Conn, bufio.NewReaderSize(h.Conn, 256<<10), stop}, nil
}

func (c *copies) close() {
	c.stop()
	_ = c.conn.Close()
}

// copy runs one statement, and returns how many bytes went to w.
func (c *copies) copy(w io.Writer, sql string) (total int64, failed error) {
	query, err := (&pgproto3.Query{String: sql}).Encode(nil)
	if err != nil {
		return 0, err
	}
	if _, err := c.conn.Write(query); err != nil {
		return 0, err
	}
	for {
		head, err := c.r.Peek(5)
		if err != nil {
			return total, err
		}
		kind, size := head[0], int(binary.BigEndian.Uint32(head[1:]))-4
		if _, err := c.r.Discard(5); err != nil {
			return total, err
		}
		switch kind {
		case 'd':
			total += int64(size)
			err = c.forward(w, size)
		case 'E':
			body := make([]byte, size)
			var refusal pgproto3.ErrorResponse
			if _, err = io.ReadFull(c.r, body); err == nil {
				err = refusal.Decode(body)
			}
			failed = errors.New(refusal.Message)
		case 'Z':
			_, err = c.r.Discard(size)
			return total, errors.Join(failed, err)
		default:
			_, err = c.r.Discard(size)
		}
		if err != nil {
			return total, err
		}
	}
}

// forward hands over the next bytes, without a copy where they are in the buffer whole.
func (c *copies) forward(w io.Writer, size int) error {
	if size > c.r.Size() {
		_, err := io.CopyN(w, c.r, int64(size))
		return err
	}
	p, err := c.r.Peek(size)
	if err != nil {
		return err
	}
	if _, err := w.Write(p); err != nil {
		return err
	}
	_, err = c.r.Discard(size)
	return err
}

// selfCPU is how many seconds of CPU this process has had.
func selfCPU() float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}
