package exporter

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/snapfleet/snapfleet/contracts"
)

// Database is one of the PostgreSQL servers that tenants live on.
type Database struct {
	// Primary is how to log in, from [pgx.ParseConfig].
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

// server is one PostgreSQL server, as snapshots are read from it.
type server struct {
	db      *pgx.ConnConfig
	share   int  // of its sessions, for the whole fleet; negative: without a bound
	replica bool // of another one, which can be read instead
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
		s, err := e.openOn(ctx, a, &server{db: db.Replica, share: db.FleetConnections, replica: true})
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
	return e.openOn(ctx, a, &server{db: db.Primary, share: db.FleetConnections})
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
