package exporter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/snapfleet/snapfleet/contracts"
)

// Database is one of the PostgreSQL servers that tenants live on.
type Database struct {
	// Primary is how to log in, from [pgx.ParseConfig]. [TenantInUser] in its user is replaced by the tenant's name, so that
	// each tenant is read by a login that can read nothing else.
	Primary *pgx.ConnConfig

	// Replica is a hot standby of it, which is read in its place, so that the primary is free for the application.
	// The primary is read when the standby has ended two attempts of a job, because of what its primary did
	// meanwhile; and at once when the standby cannot be read at all, or refuses what its primary may allow, because
	// it may lag behind. Default: none.
	Replica *pgx.ConnConfig

	// FleetConnections is how many sessions the whole fleet reads each of the two with; see
	// [Config].FleetConnections, which is the default. Negative: as many as there are.
	FleetConnections int
}

// TenantInUser is replaced by the tenant's name in the user of a [Database].
const TenantInUser = "{tenant}"

// maxRoleName is PostgreSQL's. It cuts a longer name without an error, which could then be another tenant's.
const maxRoleName = 63

// loginFor is how to log in for one tenant.
func loginFor(db *pgx.ConnConfig, tenant string) (*pgx.ConnConfig, error) {
	if !strings.Contains(db.User, TenantInUser) {
		return db, nil
	}
	db = db.Copy()
	db.User = strings.ReplaceAll(db.User, TenantInUser, tenant)
	if !contracts.ValidTenant(tenant) || len(db.User) > maxRoleName {
		return nil, contracts.Reject(contracts.InvalidTenant, "the tenant's login at the database would be %.80q: a role's name has at most %d bytes; "+
			"fix: register the tenant under a shorter name, or shorten the user of the workers' database URL", db.User, maxRoleName)
	}
	return db, nil
}

// CheckLogin returns nil if the login of every tenant can be made of db: [TenantInUser] is one part of the user, and is
// in no other setting. The error quotes none of them.
func CheckLogin(db *pgx.ConnConfig) error {
	switch {
	case strings.Contains(db.Host+db.Database, TenantInUser):
		return errors.New(TenantInUser + " may be in the user only, not in the host or the database")
	case db.User == TenantInUser:
		return errors.New("the user is " + TenantInUser + ", which is the tenant's own role: let it be a part of a name, such as snapfleet_" + TenantInUser)
	case strings.Count(db.User, TenantInUser) > 1:
		return errors.New(TenantInUser + " is in the user more than once")
	}
	return nil
}

// server is one PostgreSQL server, as snapshots are read from it.
type server struct {
	db      *pgx.ConnConfig
	user    string // db's, as it was before a tenant's name was put into it
	share   int    // of its sessions, for the whole fleet; negative: without a bound
	replica bool   // of another one, which can be read instead
}

// maxConflicts is how often a job is ended by a replica before its primary is read. Once may be bad luck.
const maxConflicts = 2

// readsReplica decides which of a database's servers an attempt reads first.
func readsReplica(db Database, conflicts int) bool {
	return db.Replica != nil && conflicts < maxConflicts
}

// withDefault is databases with the default one, and each with its share of sessions.
func withDefault(databases map[string]Database, db *pgx.ConnConfig, share int) map[string]Database {
	all := map[string]Database{contracts.DefaultDatabase: {Primary: db}}
	maps.Copy(all, databases)
	for name, d := range all {
		if d.Primary != nil {
			d.Primary = d.Primary.Copy()
		}
		if d.Replica != nil {
			d.Replica = d.Replica.Copy()
		}
		d.FleetConnections = cmp.Or(d.FleetConnections, share)
		all[name] = d
	}
	return all
}

// Knows returns nil if a database of that name can be read. The error has a method Busy() bool that says true: another
// worker may know it, of a fleet that is just told of it.
func (e *Exporter) Knows(database string) error {
	_, err := e.database(database)
	return err
}

func (e *Exporter) database(name string) (Database, error) {
	name = cmp.Or(name, contracts.DefaultDatabase)
	db, ok := e.databases[name]
	if !ok || db.Primary == nil {
		known := slices.Sorted(maps.Keys(e.databases))
		return db, busy{fmt.Errorf("this worker knows no database %.80q, only %s: name it in the workers' --databases, or correct the tenant's --database",
			name, strings.Join(known, ", "))}
	}
	return db, nil
}

// openSomewhere opens a snapshot on one of the servers of a's database.
func (e *Exporter) openSomewhere(ctx context.Context, a contracts.Attempt) (_ *Snapshot, err error) {
	defer func() { err = e.named(a.Tenant.Database, err) }()
	db, err := e.database(a.Tenant.Database)
	if err != nil {
		return nil, err
	}
	if readsReplica(db, a.Conflicts) {
		s, err := e.openAs(ctx, a, &server{db: db.Replica, share: db.FleetConnections, replica: true})
		if err == nil || !cured(ctx, err) {
			return s, err
		}
		// Now, and not with the next attempt: a standby that is down may be so for days, and each job would have
		// to fail first.
		trace.SpanFromContext(ctx).AddEvent("the replica cannot be read", trace.WithAttributes(attribute.String("snapfleet.error", err.Error())))
		if e.cfg.Fallback != nil {
			e.cfg.Fallback(ctx, cmp.Or(a.Tenant.Database, contracts.DefaultDatabase), err)
		}
	}
	return e.openAs(ctx, a, &server{db: db.Primary, share: db.FleetConnections})
}

// openAs opens a snapshot on one server, with the tenant's login.
func (e *Exporter) openAs(ctx context.Context, a contracts.Attempt, on *server) (*Snapshot, error) {
	login, err := loginFor(on.db, a.Tenant.Name)
	if err != nil {
		return nil, err
	}
	on.db, on.user = login, on.db.User
	snapshot, err := e.openOn(ctx, a, on)
	// A login of one tenant's says nothing about the worker, which reads all others with theirs.
	if fault, ok := contracts.AsWorkerFault(err); ok && on.user != login.User && strings.HasPrefix(sqlstate(err), "28") {
		return nil, fmt.Errorf("the database refuses the login that is this tenant's own (%w); fix: make its role as deploy/database.md shows", fault.Err)
	}
	return snapshot, err
}

// isOurs is an SQL condition: the role of that name is one that the fleet logs in with.
func (s *server) isOurs(role string) string {
	before, after, template := strings.Cut(s.user, TenantInUser)
	if !template {
		return role + " = current_user"
	}
	quote := func(name string) string { return "'" + strings.ReplaceAll(name, "'", "''") + "'" }
	return fmt.Sprintf("starts_with(%[1]s, %[2]s) AND right(%[1]s::text, %[4]d) = %[3]s", role, quote(before), quote(after), utf8.RuneCountInString(after))
}

// named says in a fault which database it is of, where there are several.
func (e *Exporter) named(database string, err error) error {
	if fault, ok := contracts.AsWorkerFault(err); ok && fault.Part == contracts.FaultDatabase {
		fault.Name = cmp.Or(database, contracts.DefaultDatabase)
	}
	return err
}

// Probe logs in to a database's primary and out again, as a snapshot does. The error is a [contracts.WorkerFault] when
// the login is refused. Any other error says nothing about the login: the server does not answer, or has no room.
func (e *Exporter) Probe(ctx context.Context, database string) error {
	db, err := e.database(database)
	if err != nil {
		return err
	}
	if strings.Contains(db.Primary.User, TenantInUser) {
		return nil // there is no login but the tenants'
	}
	conn, err := (&server{db: db.Primary}).connect(ctx, "snapfleet/probe")
	if err != nil {
		return e.named(database, err)
	}
	disconnect(conn)
	return nil
}

// Databases are the names of the databases that this exporter reads, sorted.
func (e *Exporter) Databases() []string { return slices.Sorted(maps.Keys(e.databases)) }

// cured reports whether the primary may do what a replica could not. Where the fleet's share of the replica is in use,
// the job waits for it: whoever has a replica wants to spare the primary just that.
func cured(ctx context.Context, err error) bool {
	return ctx.Err() == nil && !isBusy(err) && !isConflict(err)
}
