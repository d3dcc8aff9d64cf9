package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/exporter"
)

// databaseEntry is one database in the file that --databases names. Each URL is given, or a file that holds it.
type databaseEntry struct {
	URL            string `json:"url"`
	URLFile        string `json:"url_file"`
	ReplicaURL     string `json:"replica_url"`
	ReplicaURLFile string `json:"replica_url_file"`
	// Connections is --fleet-connections for each of the two servers. Absent: that flag.
	Connections *int `json:"connections"`
}

// aboutDatabases is what the worker's manual says of the file.
const aboutDatabases = `
Tenants may live on several PostgreSQL servers. --databases names a file that says where they are, and a tenant's record
says which it is ("snapfleet tenant set acme --database=eu-1"). "default" is for tenants whose record says nothing, in
the place of --database-url. A job for a database that no worker knows waits, and says so in "snapfleet status". The
file is read once, at the start:

  {
    "default": {"url": "postgres://snapfleet:...@db1:5432/app"},
    "eu-1": {
      "url": "postgres://snapfleet:...@db2:5432/app",
      "replica_url": "postgres://snapfleet:...@db2-ro:5432/app",
      "connections": 10
    },
    "eu-2": {"url_file": "/run/secrets/eu-2"}
  }

A replica is read in its primary's place. When it has ended two attempts of a job, because of what its primary did to
the same rows, the primary is read; and at once, when the replica cannot be. connections is --fleet-connections, for
each server. url_file and replica_url_file name files that hold a URL each; a relative name begins at the file's folder.

{tenant} in the user of a URL is replaced by the tenant's name: postgres://snapfleet_{tenant}:...@db1/app reads each tenant
with a login of its own, which needs no right to another tenant's tables. deploy/database.md has the roles.`

// databaseFiles reads what --databases names.
type databaseFiles struct {
	path    string
	exposed []string // files with a login in them that other users of the machine can read
}

// databases are all that the flags name, by their names.
func (f databasesFlags) databases(def databaseFlags) (all map[string]exporter.Database, exposed []string, err error) {
	all = map[string]exporter.Database{}
	if f.Databases != "" {
		files := &databaseFiles{path: f.Databases}
		if all, err = files.load(); err != nil {
			return nil, nil, explain(exitUsage, fmt.Errorf("--databases: %w", err),
				"the file is not what `snapfleet worker --help` shows", "correct it, and start the worker again")
		}
		exposed = files.exposed
	}
	if _, twice := all[contracts.DefaultDatabase]; twice {
		if def.DatabaseURL != "" || f.ReplicaURL != "" {
			return nil, nil, usagef("--databases: %s has a database %q: take it out, or give neither --database-url nor --replica-url", f.Databases, contracts.DefaultDatabase)
		}
		return all, exposed, nil
	}
	var main exporter.Database
	if main.Primary, err = def.config(); err != nil {
		return nil, nil, err
	}
	if f.ReplicaURL != "" {
		if main.Replica, err = parseDatabase(f.ReplicaURL); err != nil {
			return nil, nil, usagef("--replica-url: %w", err)
		}
	}
	all[contracts.DefaultDatabase] = main
	return all, exposed, nil
}

// maxDatabasesBytes bounds a file that a person writes.
const maxDatabasesBytes = 1 << 20

// load returns the databases of the file. Its errors hold no value of it.
func (f *databaseFiles) load() (map[string]exporter.Database, error) {
	data, err := f.read(f.path)
	if err != nil {
		return nil, err
	}
	entries := map[string]databaseEntry{}
	if err := contracts.DecodeStrict(data, &entries); err != nil {
		return nil, fmt.Errorf("%s: %w", f.path, err)
	}
	all := map[string]exporter.Database{}
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		if !contracts.ValidDatabase(name) {
			return nil, fmt.Errorf("%s: %.80q is no name of 1 to 32 of a-z 0-9 _ -, starting with a letter or digit", f.path, name)
		}
		if all[name], err = f.database(entries[name]); err != nil {
			return nil, fmt.Errorf("%s: database %q: %w", f.path, name, err)
		}
	}
	return all, nil
}

func (f *databaseFiles) database(e databaseEntry) (d exporter.Database, err error) {
	if e.URL == "" && e.URLFile == "" {
		return d, errors.New("neither url nor url_file is given")
	}
	if d.Primary, err = f.server("url", e.URL, e.URLFile); err == nil {
		d.Replica, err = f.server("replica_url", e.ReplicaURL, e.ReplicaURLFile)
	}
	switch n := e.Connections; {
	case err != nil:
	case n == nil:
	case *n < 0:
		err = fmt.Errorf("connections is %d, and 0 is as many as there are", *n)
	default:
		d.FleetConnections = cmp.Or(*n, -1)
	}
	return d, err
}

// server is how to log in, or nil when nothing is given.
func (f *databaseFiles) server(field, given, file string) (*pgx.ConnConfig, error) {
	switch {
	case given != "" && file != "":
		return nil, fmt.Errorf("both %s and %s_file are given", field, field)
	case given == "" && file == "":
		return nil, nil
	case given != "":
		f.look(f.path)
	default:
		if field += "_file"; !filepath.IsAbs(file) {
			file = filepath.Join(filepath.Dir(f.path), file)
		}
		data, err := f.read(file)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", field, err)
		}
		if given = strings.TrimSpace(string(data)); given == "" {
			return nil, fmt.Errorf("%s: %s is empty", field, file)
		}
		f.look(file)
	}
	cfg, err := parseDatabase(given)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", field, err)
	}
	return cfg, nil
}

func (f *databaseFiles) read(path string) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no file", path)
	case info.Size() > maxDatabasesBytes:
		return nil, fmt.Errorf("%s has %d bytes, the limit is %d", path, info.Size(), maxDatabasesBytes)
	}
	return os.ReadFile(path)
}

// look notes a file with a login in it that everybody can read. It is no error: secrets are often mounted that way into
// a container, where there is nobody else.
func (f *databaseFiles) look(path string) {
	if info, err := os.Stat(path); err == nil && info.Mode()&0o004 != 0 && !slices.Contains(f.exposed, path) {
		f.exposed = append(f.exposed, path)
	}
}

// parseDatabase parses a connection string. The error never holds any of it: a password with a character that should
// have been encoded may be taken for a port, and errors quote ports.
func parseDatabase(given string) (*pgx.ConnConfig, error) {
	if strings.Contains(given, "://") { // where no brace may be
		given = strings.ReplaceAll(given, exporter.TenantInUser, url.QueryEscape(exporter.TenantInUser))
	}
	cfg, err := pgx.ParseConfig(given)
	if err == nil {
		if err = applyLibpq(cfg, databaseVariable); err != nil {
			return nil, err
		}
		return cfg, exporter.CheckLogin(cfg)
	}
	if strings.Contains(given, "://") {
		if _, bad := url.Parse(given); bad != nil {
			return nil, errors.New("not a URL of PostgreSQL; special characters of the password, such as @ : / ? # %, have to be written %40 %3A %2F %3F %23 %25")
		}
	}
	if parse, ok := errors.AsType[*pgconn.ParseConfigError](err); ok {
		err = parse.Unwrap() // its own text quotes the connection string
	}
	if err == nil {
		err = errors.New("neither a URL of PostgreSQL nor a key=value string")
	}
	return nil, errors.New(redact(err.Error()))
}
