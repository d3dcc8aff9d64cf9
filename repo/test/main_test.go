package test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/snapfleet/snapfleet/test/bucket"
	"github.com/snapfleet/snapfleet/test/world"
)

// What all tests of this package share: the binary as users run it, one PostgreSQL, one S3 and STS (a process
// can have no second one). Each test has its own broker, database, tenant and bucket.
var (
	binary   string
	root     string // the repository
	postgres *world.Postgres
	cloud    *bucket.Server
)

func TestMain(m *testing.M) {
	code, err := withWorld(m.Run)
	if err != nil {
		fmt.Fprintln(os.Stderr, "test:", err)
		code = 1
	}
	os.Exit(code)
}

func withWorld(run func() int) (code int, err error) {
	if root, err = filepath.Abs(".."); err != nil {
		return 1, err
	}
	dir, err := os.MkdirTemp("", "snapfleet-test-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder
	binary = filepath.Join(dir, "snapfleet")
	build := exec.Command("go", "build", "-o", binary, "./cmd/snapfleet")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return 1, fmt.Errorf("go build: %w: %s", err, out)
	}
	ctx := context.Background()
	if postgres, err = world.FindPostgres(ctx, world.Set("max_connections", "200")); err != nil {
		return 1, err
	}
	defer func() { _ = postgres.Stop() }()
	if cloud, err = bucket.Start(ctx, bucket.Config{Dir: filepath.Join(dir, "s3")}); err != nil {
		return 1, err
	}
	defer func() { _ = cloud.Close() }()
	for _, u := range []bucket.User{worker, auditor} {
		if err := cloud.AddUser(u); err != nil {
			return 1, err
		}
	}
	return run(), nil
}
