package world_test

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/snapfleet/snapfleet/test/world"
)

func query(t *testing.T, url, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var s string
	if err := conn.QueryRow(t.Context(), sql).Scan(&s); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestPostgresLives(t *testing.T) {
	t.Parallel()
	// As root, t.TempDir is a folder that the server's user cannot reach.
	p, err := world.StartPostgres(t.Context(), filepath.Join(t.TempDir(), "pg"), world.Set("max_connections", "7"), world.Set("application_name", "it's here"))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop() // stopped below
	url, err := p.CreateDatabase(t.Context(), `odd "name`)
	if err != nil {
		t.Fatal(err)
	}
	if got := query(t, url, "SELECT current_database() || ' ' || current_setting('max_connections')"); got != `odd "name 7` {
		t.Errorf("got %q", got)
	}
	if err := world.Load(t.Context(), url, strings.NewReader("CREATE TABLE kept AS SELECT 1")); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []world.Mode{world.Smart, world.Fast, world.Immediate} {
		if err := p.Restart(t.Context(), mode); err != nil {
			t.Fatalf("restart %v: %v", mode, err)
		}
		if got := query(t, url, "SELECT to_regclass('kept')::text"); got != "kept" {
			t.Errorf("after restart %v: %q", mode, got)
		}
	}
	dir := query(t, url, "SHOW data_directory")
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(); err != nil {
		t.Errorf("stop again: %v", err)
	}
	if os.Geteuid() == 0 {
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("left %s behind: %v", dir, err)
		}
	}
}

func TestPostgresSideBySide(t *testing.T) {
	t.Parallel()
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			p, err := world.StartPostgres(t.Context(), filepath.Join(t.TempDir(), "pg"))
			if err != nil {
				t.Error(err)
				return
			}
			if err := p.Stop(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestPostgresOfSomebodyElse(t *testing.T) {
	t.Parallel()
	url := database(t, "given")
	other, err := world.UsePostgres(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.CloneDatabase(t.Context(), "clone", "template0"); err != nil {
		t.Fatal(err)
	}
	if got := query(t, other.URL("clone"), "SELECT current_database()"); got != "clone" {
		t.Errorf("got %q", got)
	}
	if err := other.DropDatabase(t.Context(), "clone"); err != nil {
		t.Fatal(err)
	}
	if err := other.Restart(t.Context(), world.Fast); err == nil {
		t.Error("restarted a server that is not ours")
	}
	if err := other.Stop(); err != nil {
		t.Error(err)
	}
	if got := query(t, url, "SELECT current_database()"); got != "given" {
		t.Errorf("after Stop: %q", got)
	}
	for _, bad := range []string{"host=localhost", "mysql://localhost/x", "postgres://localhost:1/nothing"} {
		if _, err := world.UsePostgres(t.Context(), bad); err == nil {
			t.Errorf("used %q", bad)
		}
	}
}

func TestStandbyFollows(t *testing.T) {
	t.Parallel()
	primary, err := world.StartPostgres(t.Context(), filepath.Join(t.TempDir(), "primary"), world.Primary(), world.Set("max_connections", "9"))
	if err != nil {
		t.Fatal(err)
	}
	defer primary.Stop() // a throw-away
	url, err := primary.CreateDatabase(t.Context(), "d")
	if err != nil {
		t.Fatal(err)
	}
	standby, err := primary.StartStandby(t.Context(), filepath.Join(t.TempDir(), "standby"), world.Set("max_standby_streaming_delay", "7s"))
	if err != nil {
		t.Fatal(err)
	}
	defer standby.Stop() // a throw-away
	if err := world.Load(t.Context(), url, strings.NewReader("CREATE TABLE late AS SELECT 1")); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for query(t, standby.URL("d"), "SELECT coalesce(to_regclass('late')::text, '')") == "" {
		select {
		case <-deadline:
			t.Fatalf("the standby does not follow: %s", standby.Log())
		case <-tick.C:
		}
	}
	if got := query(t, standby.URL("d"), "SELECT pg_is_in_recovery() || ' ' || current_setting('max_connections') || ' ' || current_setting('max_standby_streaming_delay')"); got != "true 9 7s" {
		t.Errorf("the standby is %s", got)
	}
}
