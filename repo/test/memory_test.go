//go:build linux

package test

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// gigabytes is how much the larger delivery of TestMemoryDoesNotGrow holds. `make memory` shows 4.
var gigabytes = flag.Float64("gigabytes", 0.4, "GB of CSV in the larger delivery whose memory is measured")

// memoryLimit is what a worker may need, with every slot busy, whatever the size of the snapshots.
const memoryLimit = 300 << 20

// TestMemoryDoesNotGrow delivers much and little, each to two tenants at once so that both slots of a worker are
// busy, and looks at the most memory that the worker ever had.
func TestMemoryDoesNotGrow(t *testing.T) {
	f := newFleet(t, "memory_small", func(ctx context.Context, url string) error {
		if err := fill(ctx, url, "memory_small", 0.1); err != nil {
			return err
		}
		return fill(ctx, url, "memory_large", *gigabytes)
	})
	second := func(schema string) *fleet {
		g := *f
		g.enrol(schema+"_too", "--schema="+schema)
		return &g
	}
	// Parts so small that a tenth of a gigabyte fills every buffer: what is more can only be growth.
	small := peak("small", f, second("memory_small"), "--part-size=5MiB")
	f.enrol("memory_large")
	g := second("memory_large")
	if large := peak("large", f, g, "--part-size=5MiB"); large > small+small/2 {
		t.Errorf("%d MiB for 0.1 GB, and %d MiB for %.1f GB", small>>20, large>>20, *gigabytes)
	}
	if most := peak("default", f, g); most > memoryLimit {
		t.Errorf("a worker had %d MiB, the limit is %d", most>>20, memoryLimit>>20)
	}
}

// peak delivers two tenants at once by one new worker, and returns the most memory that it had.
func peak(job string, f, g *fleet, args ...string) int64 {
	f.t.Helper()
	w := f.work(job, args...)
	began := time.Now()
	f.submit(job)
	g.submit(job)
	f.await(job)
	g.await(job)
	took := time.Since(began)
	most := highWater(f.t, w.Process.Pid)
	if err := w.stop(syscall.SIGTERM); err != nil {
		f.t.Error(err)
	}
	bytes := f.delivered(job).Outcome.Totals.Bytes
	g.delivered(job)
	f.t.Logf("%s: two times %.2f GB of .tar in %v: %d MiB", job, float64(bytes)/1e9, took.Round(100*time.Millisecond), most>>20)
	return most
}

// highWater is the largest resident set that the process has had, in bytes.
func highWater(t *testing.T, pid int) int64 {
	t.Helper()
	status, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer status.Close() //nolint:errcheck // it is read
	for lines := bufio.NewScanner(status); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) == 3 && fields[0] == "VmHWM:" {
			kib, err := strconv.ParseInt(fields[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatal("the system does not say how much memory a process has had")
	return 0
}

// fill makes a schema of four tables that are that large as CSV, of text that compresses to half. Nothing of it
// survives a crash of the server, which makes it quick.
func fill(ctx context.Context, url, schema string, gigabytes float64) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // it has served
	const tables, texts, width = 4, 1000, 32 * 30
	rounds := int(gigabytes * 1e9 / tables / texts / (width + 40))
	_, err = conn.Exec(ctx, strings.NewReplacer("{schema}", schema, "{rounds}", strconv.Itoa(rounds)).Replace(`
		CREATE SCHEMA {schema};
		CREATE TEMP TABLE texts AS
			SELECT n, (SELECT string_agg(md5(random()::text || n || m), '') FROM generate_series(1, 30) m) AS body FROM generate_series(1, 1000) n;
		DO $$ BEGIN
			FOR i IN 1..4 LOOP
				EXECUTE format('CREATE UNLOGGED TABLE {schema}.measurements_%s WITH (autovacuum_enabled = off) AS
					SELECT r * 1000 + n AS id, now() AS at, n %% 10 = 0 AS odd, body FROM generate_series(1, {rounds}) r, texts', i);
			END LOOP;
		END $$;
		DROP TABLE texts`))
	return err
}
