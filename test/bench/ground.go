package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/jackc/pgx/v5"

	"github.com/snapfleet/snapfleet/test/bucket"
	"github.com/snapfleet/snapfleet/test/world"
)

const (
	ourAccount   = "111111111111"
	theirAccount = "222222222222"
	store        = "customer-bench" // the bucket that everybody delivers to
	files        = "files-bench"    // the bucket that attachments come from
)

// worker is who snapfleet is on AWS; peer is who the scripts are, and may write where they like.
var (
	worker = bucket.User{
		ARN: "arn:aws:iam::" + ourAccount + ":user/worker", AccessKey: "AKIABENCHWORKER00000", SecretKey: "bench/worker/secret/bench/worker/secret0",
		Policy: `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"sts:AssumeRole","Resource":"*"},
			{"Effect":"Allow","Action":["s3:GetObject","s3:ListBucket"],"Resource":["arn:aws:s3:::` + files + `","arn:aws:s3:::` + files + `/*"]}]}`,
	}
	peer = bucket.User{
		ARN: "arn:aws:iam::" + theirAccount + ":user/peer", AccessKey: "AKIABENCHPEER0000000", SecretKey: "bench/peer/secret/bench/peer/secret/0000",
		Policy: `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":"*"}]}`,
	}
)

// ground is where everybody runs: the same servers, the same data.
type ground struct {
	temp     string
	postgres *world.Postgres
	nats     *world.NATS
	cloud    *bucket.Server
	database string // its URL
}

// openGround starts the servers. A snapshot of 10,000 tables locks as many, in more sessions than one.
func openGround(ctx context.Context, temp string) (_ *ground, err error) {
	g := &ground{temp: temp}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.close())
		}
	}()
	if g.postgres, err = world.StartPostgres(ctx, filepath.Join(temp, "postgres"),
		world.Set("max_connections", "200"), world.Set("max_wal_size", "8GB"), world.Set("max_locks_per_transaction", "1024")); err != nil {
		return nil, err
	}
	if g.database, err = g.postgres.CreateDatabase(ctx, "bench"); err != nil {
		return nil, err
	}
	if g.nats, err = world.StartNATS(filepath.Join(temp, "nats")); err != nil {
		return nil, err
	}
	if g.cloud, err = bucket.Start(ctx, bucket.Config{Dir: filepath.Join(temp, "s3")}); err != nil {
		return nil, err
	}
	for _, u := range []bucket.User{worker, peer} {
		if err := g.cloud.AddUser(u); err != nil {
			return nil, err
		}
	}
	if err := g.cloud.CreateBucket(ctx, files, ourAccount); err != nil {
		return nil, err
	}
	return g, g.cloud.CreateBucket(ctx, store, theirAccount)
}

func (g *ground) close() (err error) {
	if g.cloud != nil {
		err = g.cloud.Close()
	}
	if g.nats != nil {
		g.nats.Stop()
	}
	if g.postgres != nil {
		err = errors.Join(err, g.postgres.Stop())
	}
	return err
}

// sweep empties the bucket, so that nobody finds a fuller disk than the one before.
func (g *ground) sweep(ctx context.Context) error {
	g.cloud.Reset() // it notes every call
	bucket := store
	pages := s3.NewListObjectsV2Paginator(g.cloud.Admin(), &s3.ListObjectsV2Input{Bucket: &bucket})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return err
		}
		if len(page.Contents) == 0 {
			continue
		}
		var keys []types.ObjectIdentifier
		for _, o := range page.Contents {
			keys = append(keys, types.ObjectIdentifier{Key: o.Key})
		}
		if _, err := g.cloud.Admin().DeleteObjects(ctx, &s3.DeleteObjectsInput{Bucket: &bucket, Delete: &types.Delete{Objects: keys}}); err != nil {
			return err
		}
	}
	return nil
}

// execute runs a process, with what it starts, to its end. What it said is part of the error.
func execute(ctx context.Context, cmd *exec.Cmd) (Cost, error) {
	var said strings.Builder
	cmd.Stderr = &said
	began := time.Now()
	done, err := world.Spawn(cmd, syscall.SIGKILL)
	if err != nil {
		return Cost{}, err
	}
	select {
	case err = <-done:
	case <-ctx.Done():
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) // a group of its own
		<-done
		return Cost{}, context.Cause(ctx)
	}
	if err != nil {
		return Cost{}, fmt.Errorf("%w: %s", err, strings.TrimSpace(said.String()))
	}
	return costOf(cmd.ProcessState, time.Since(began)), nil
}

// costOf is what a process, and those that it waited for, have used.
func costOf(s *os.ProcessState, wall time.Duration) Cost {
	c := Cost{Wall: wall.Seconds(), CPU: (s.UserTime() + s.SystemTime()).Seconds()}
	if u, ok := s.SysUsage().(*syscall.Rusage); ok {
		c.RSS = float64(u.Maxrss) / 1024 // KiB on Linux
	}
	return c
}

// versions are of what was measured, and with what.
func (g *ground) versions(ctx context.Context) map[string]string {
	v := map[string]string{"go": runtime.Version()}
	if conn, err := pgx.Connect(ctx, g.database); err == nil {
		v["postgresql"] = conn.PgConn().ParameterStatus("server_version")
		_ = conn.Close(ctx)
	}
	describe := exec.CommandContext(ctx, "git", "describe", "--tags", "--always", "--dirty")
	describe.Dir = startedIn
	if out, err := describe.Output(); err == nil {
		v["snapfleet"] = strings.TrimSpace(string(out))
	}
	return v
}
