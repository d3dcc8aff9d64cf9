package consumer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/snapfleet/snapfleet/contracts"
)

// Registry keeps the tenants, in the bucket snapshot_tenants. It is safe for concurrent use.
type Registry struct {
	cells cells
	js    jetstream.JetStream // nil in memory, where there are no schedules
}

// ErrMayNotSee says that NATS does not let this user see the registry.
var ErrMayNotSee = errors.New("NATS does not let this user see the registry of tenants")

// OpenRegistry opens what [Setup] has made. The error may be [ErrMayNotSee].
func OpenRegistry(ctx context.Context, js jetstream.JetStream) (*Registry, error) {
	ctx, cancel := untilRefused(ctx, js.Conn(), ErrMayNotSee, "KV_"+contracts.TenantBucket)
	defer cancel()
	cells, err := openCells(ctx, js, contracts.TenantBucket)
	if err != nil && errors.Is(context.Cause(ctx), ErrMayNotSee) {
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, err
	}
	return &Registry{cells: cells, js: js}, nil
}

// Get returns a tenant as it is registered, with all defaults filled in. One that is not there, or whose record cannot be
// used, is a [contracts.Rejection].
func (r *Registry) Get(ctx context.Context, name string) (contracts.Tenant, error) {
	t, _, err := r.read(ctx, name)
	return t, err
}

// read is Get with the revision, which is 0 only when there is no record.
func (r *Registry) read(ctx context.Context, name string) (t contracts.Tenant, revision uint64, err error) {
	if !contracts.ValidTenant(name) {
		return t, 0, contracts.Reject(contracts.UnknownTenant, "%.80q is no tenant's name", name)
	}
	value, revision, err := r.cells.Get(ctx, name)
	if errors.Is(err, errNoCell) {
		return t, 0, contracts.Reject(contracts.UnknownTenant, "tenant %s is not registered", name)
	}
	if err != nil {
		return t, 0, fmt.Errorf("read tenant %s: %w", name, err)
	}
	if err := contracts.DecodeStrict(value, &t); err != nil {
		return contracts.Tenant{}, revision, contracts.Reject(contracts.InvalidTenant, "the record of tenant %s: %w", name, err)
	}
	t = t.WithDefaults()
	if t.Name != name {
		return contracts.Tenant{}, revision, contracts.Reject(contracts.InvalidTenant, "the record of tenant %s is of tenant %s", name, t.Name)
	}
	return t, revision, t.Validate()
}

// Set checks t and writes it. The external IDs of a tenant change only by a rotation: others than before are refused.
// A record that somebody else changes at the same time is an error, and nothing is written.
func (r *Registry) Set(ctx context.Context, t contracts.Tenant) error {
	t = t.WithDefaults()
	if t.Destination.Keep != (contracts.Keep{}) {
		return fmt.Errorf("write tenant %s: its destination is the house's", t.Name)
	}
	if err := t.Validate(); err != nil {
		return err
	}
	was, rev, err := r.read(ctx, t.Name)
	if _, rejected := contracts.AsRejection(err); err != nil && !rejected {
		return err
	}
	if is, now := was.Destination, t.Destination; err == nil && (is.ExternalID != now.ExternalID || is.NextExternalID != now.NextExternalID) {
		return contracts.Reject(contracts.InvalidTenant, "tenant %s has external IDs already, which only a rotation changes: customers' trust policies name them", t.Name)
	}
	_, err = r.write(ctx, t, rev)
	return err
}

// write writes a record if it still has the given revision, 0 meaning that there is none.
func (r *Registry) write(ctx context.Context, t contracts.Tenant, revision uint64) (contracts.Tenant, error) {
	t.UpdatedAt = time.Now().UTC()
	value, err := json.Marshal(t)
	switch {
	case err != nil:
	case revision == 0:
		_, err = r.cells.Create(ctx, t.Name, value)
	default:
		_, err = r.cells.Update(ctx, t.Name, value, revision)
	}
	if err != nil {
		return t, fmt.Errorf("write tenant %s: %w", t.Name, err)
	}
	return t, nil
}

// Names returns the names of all tenants, in order.
func (r *Registry) Names(ctx context.Context) ([]string, error) {
	names, err := r.cells.Keys(ctx, ">")
	if err != nil {
		return nil, fmt.Errorf("list tenants: %w", err)
	}
	names = slices.DeleteFunc(names, func(name string) bool { return name == contracts.HouseKey || name == contracts.FleetKeyKey })
	slices.Sort(names)
	return names, nil
}

// List returns all tenants, by name.
func (r *Registry) List(ctx context.Context) ([]contracts.Tenant, error) {
	names, err := r.Names(ctx)
	if err != nil {
		return nil, err
	}
	var tenants []contracts.Tenant
	for _, name := range names {
		t, err := r.Get(ctx, name)
		if rejection, ok := contracts.AsRejection(err); ok && rejection.Code == contracts.UnknownTenant {
			continue // removed in between
		}
		if err != nil {
			return nil, err
		}
		tenants = append(tenants, t)
	}
	return tenants, nil
}

// Remove forgets a tenant, and its schedule first. Jobs of the tenant that are under way end as failed.
func (r *Registry) Remove(ctx context.Context, name string) error {
	if _, err := r.Get(ctx, name); err != nil {
		if rejection, ok := contracts.AsRejection(err); !ok || rejection.Code == contracts.UnknownTenant {
			return err
		}
	}
	if r.js != nil {
		if err := clearSchedule(ctx, r.js, name); err != nil {
			return err
		}
	}
	if err := r.cells.Delete(ctx, name); err != nil {
		return fmt.Errorf("remove tenant %s: %w", name, err)
	}
	return nil
}
