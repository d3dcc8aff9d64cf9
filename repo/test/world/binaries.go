package world

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	embedded "github.com/fergusstrange/embedded-postgres"
)

// DatabaseVariable names a PostgreSQL for the tests to use instead of a throw-away one:
// postgres://superuser@host/database.
const DatabaseVariable = "SNAPFLEET_TEST_DATABASE_URL"

// ErrNoPostgres: there are no server binaries on this machine.
var ErrNoPostgres = errors.New("no PostgreSQL server binaries (initdb, postgres) found by pg_config, below /usr/lib/postgresql or in PATH; install them, for example with: apt-get install -y postgresql")

// Binaries is the folder of the newest initdb and postgres of this machine, or [ErrNoPostgres].
func Binaries(ctx context.Context) (string, error) {
	var dirs []string
	if out, err := exec.CommandContext(ctx, "pg_config", "--bindir").Output(); err == nil {
		dirs = append(dirs, strings.TrimSpace(string(out)))
	}
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin",
		"/opt/homebrew/opt/postgresql@*/bin", "/usr/local/opt/postgresql@*/bin",
	} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return "", fmt.Errorf("look for PostgreSQL: %w", err)
		}
		slices.SortFunc(found, func(a, b string) int { return major(b) - major(a) })
		dirs = append(dirs, found...)
	}
	if path, err := exec.LookPath("postgres"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			dirs = append(dirs, filepath.Dir(path))
		}
	}
	for _, dir := range dirs {
		if complete(dir) {
			return dir, nil
		}
	}
	return "", ErrNoPostgres
}

// complete: pg_config comes with the client library, too, where there is no server.
func complete(dir string) bool {
	for _, program := range []string{"initdb", "postgres"} {
		if info, err := os.Stat(filepath.Join(dir, program)); err != nil || info.Mode()&0o111 == 0 {
			return false
		}
	}
	return true
}

// major is the version in a path like /usr/lib/postgresql/15/bin.
func major(dir string) int {
	name := filepath.Base(filepath.Dir(dir))
	n, err := strconv.Atoi(name[strings.LastIndexAny(name, "-@")+1:])
	if err != nil {
		return 0
	}
	return n
}

// FindPostgres is the PostgreSQL that [DatabaseVariable] names, or else a throw-away one in a temporary
// folder. Stop leaves the former alone and removes the latter.
func FindPostgres(ctx context.Context, opts ...Option) (*Postgres, error) {
	if given := os.Getenv(DatabaseVariable); given != "" {
		return UsePostgres(ctx, given)
	}
	bin, err := Binaries(ctx)
	if err != nil {
		return nil, err
	}
	return throwAway(ctx, bin, opts)
}

// UsePostgres is a server that somebody else runs, by the URL of a database in it.
func UsePostgres(ctx context.Context, rawURL string) (*Postgres, error) {
	u, err := url.Parse(rawURL)
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return nil, errors.New("use PostgreSQL: the database must be given as postgres://user@host:port/database")
	}
	p := &Postgres{base: *u}
	if err := p.exec(ctx, "SELECT 1"); err != nil {
		return nil, fmt.Errorf("use PostgreSQL at %s: %w", u.Host, err)
	}
	return p, nil
}

func throwAway(ctx context.Context, bin string, opts []Option) (*Postgres, error) {
	dir, err := os.MkdirTemp(publicTemp(), "snapfleet-postgres-")
	if err != nil {
		return nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	p, err := startPostgres(ctx, bin, dir, append(opts, func(p *Postgres) { p.owned = dir }))
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return p, nil
}

// ProvidePostgres is [FindPostgres] for people: where there are no binaries it installs or downloads them,
// and says so on log. cache keeps a download for the next time.
func ProvidePostgres(ctx context.Context, cache string, log io.Writer, opts ...Option) (*Postgres, error) {
	p, err := FindPostgres(ctx, opts...)
	if !errors.Is(err, ErrNoPostgres) {
		return p, err
	}
	if os.Geteuid() == 0 {
		if err := InstallPostgres(ctx, log); err != nil {
			return nil, err
		}
		return FindPostgres(ctx, opts...)
	}
	bin, err := DownloadPostgres(ctx, cache, log)
	if err != nil {
		return nil, err
	}
	return throwAway(ctx, bin, opts)
}

// noCluster is where Debian's package is told not to make a cluster.
const noCluster = "/etc/postgresql-common/createcluster.conf"

// InstallPostgres installs the server's binaries by apt, where we are root and there is apt.
func InstallPostgres(ctx context.Context, log io.Writer) error {
	apt, err := exec.LookPath("apt-get")
	if err != nil || os.Geteuid() != 0 {
		return ErrNoPostgres
	}
	fmt.Fprintln(log, "installing PostgreSQL: apt-get install -y postgresql")
	// We want the programs; the package would start a server on port 5432, too.
	if _, err := os.Stat(noCluster); errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(noCluster), 0o755); err != nil {
			return fmt.Errorf("install PostgreSQL: %w", err)
		}
		if err := os.WriteFile(noCluster, []byte("create_main_cluster = false\n"), 0o644); err != nil {
			return fmt.Errorf("install PostgreSQL: %w", err)
		}
		defer os.Remove(noCluster)
	}
	for _, args := range [][]string{
		{"update", "-q"},
		{"install", "-q", "-y", "--no-install-recommends", "-o", "Dpkg::Options::=--force-confold", "postgresql"},
	} {
		cmd := exec.CommandContext(ctx, apt, args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		// apt must not be cut off in the middle of a package.
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("install PostgreSQL: apt-get %s: %w: %s", args[0], err, lastLines(out))
		}
	}
	return nil
}

// DownloadPostgres fetches binaries from Maven Central by embedded-postgres, unless cache has them, and
// returns their folder. It must not be called as root.
func DownloadPostgres(ctx context.Context, cache string, log io.Writer) (string, error) {
	binaries := filepath.Join(cache, "postgresql")
	bin := filepath.Join(binaries, "bin")
	if complete(bin) {
		return bin, nil
	}
	port, err := freePort()
	if err != nil {
		return "", err
	}
	scratch, err := os.MkdirTemp("", "snapfleet-download-")
	if err != nil {
		return "", fmt.Errorf("download PostgreSQL: %w", err)
	}
	defer os.RemoveAll(scratch)
	fmt.Fprintln(log, "downloading PostgreSQL's binaries (about 25 MB), once")
	// The library downloads only on its way to a start.
	db := embedded.NewDatabase(embedded.DefaultConfig().
		BinariesPath(binaries).CachePath(cache).RuntimePath(scratch).
		Port(uint32(port)).Logger(io.Discard).StartTimeout(time.Minute))
	if err := db.Start(); err != nil {
		return "", fmt.Errorf("download PostgreSQL: %w; %w", err, ErrNoPostgres)
	}
	if err := db.Stop(); err != nil {
		return "", fmt.Errorf("download PostgreSQL: %w", err)
	}
	return bin, ctx.Err()
}

// unprivileged is whom root becomes: postgres, or else nobody.
func unprivileged() (*syscall.Credential, error) {
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err1 == nil && err2 == nil && uid != 0 {
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
		}
	}
	return nil, errors.New("PostgreSQL refuses to be root, and there is neither a user postgres nor nobody to be instead")
}
