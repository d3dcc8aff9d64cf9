package consumer

import (
	"cmp"
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
type Registry struct{ cells bucketCells }

// OpenRegistry opens what [Setup] has made.
func OpenRegistry(ctx context.Context, js jetstream.JetStream) (*Registry, error) {
	cells, err := openCells(ctx, js, contracts.TenantBucket)
	if err != nil {
		return nil, err
	}
	return &Registry{cells}, nil
}

// Get returns a tenant with all defaults filled in. One that is not there, or whose record cannot be used,
// is a [contracts.Rejection].
func (r *Registry) Get(ctx context.Context, name string) (contracts.Tenant, error) {
	if !contracts.ValidTenant(name) {
		return contracts.Tenant{}, contracts.Reject(contracts.UnknownTenant, "%.80q is no tenant's name", name)
	}
	value, _, err := r.cells.Get(ctx, name)
	if errors.Is(err, errNoCell) {
		return contracts.Tenant{}, contracts.Reject(contracts.UnknownTenant, "tenant %s is not registered", name)
	}
	if err != nil {
		return contracts.Tenant{}, fmt.Errorf("read tenant %s: %w", name, err)
	}
	var t contracts.Tenant
	if err := contracts.DecodeStrict(value, &t); err != nil {
		return contracts.Tenant{}, contracts.Reject(contracts.InvalidTenant, "the record of tenant %s: %w", name, err)
	}
	t = t.WithDefaults()
	if t.Name != name {
		return contracts.Tenant{}, contracts.Reject(contracts.InvalidTenant, "the record of tenant %s is of tenant %s", name, t.Name)
	}
	return t, t.Validate()
}

// Set checks t and writes it. The external ID of a tenant never changes: another one than before is refused.
// A record that somebody else changes at the same time is an error, and nothing is written.
func (r *Registry) Set(ctx context.Context, t contracts.Tenant) error {
	t = t.WithDefaults()
	t.UpdatedAt = time.Now().UTC()
	if err := t.Validate(); err != nil {
		return err
	}
	value, err := json.Marshal(t)
	if err != nil {
		return fmt.Errorf("write tenant %s: %w", t.Name, err)
	}
	_, rev, err := r.cells.Get(ctx, t.Name)
	switch {
	case errors.Is(err, errNoCell):
		_, err = r.cells.Create(ctx, t.Name, value)
	case err == nil:
		was, bad := r.Get(ctx, t.Name)
		if bad == nil && was.Destination.ExternalID != t.Destination.ExternalID {
			return contracts.Reject(contracts.InvalidTenant, "tenant %s has an external ID already, and customers' trust policies name it", t.Name)
		}
		_, err = r.cells.Update(ctx, t.Name, value, rev)
	}
	if err != nil {
		return fmt.Errorf("write tenant %s: %w", t.Name, err)
	}
	return nil
}

// List returns all tenants, by name.
func (r *Registry) List(ctx context.Context) ([]contracts.Tenant, error) {
	names, err := r.cells.Keys(ctx, ">")
	if err != nil {
		return nil, fmt.Errorf("list tenants: %w", err)
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
	slices.SortFunc(tenants, func(a, b contracts.Tenant) int { return cmp.Compare(a.Name, b.Name) })
	return tenants, nil
}

// Remove forgets a tenant. Jobs of the tenant that are under way end as failed.
func (r *Registry) Remove(ctx context.Context, name string) error {
	if _, err := r.Get(ctx, name); err != nil {
		if rejection, ok := contracts.AsRejection(err); !ok || rejection.Code == contracts.UnknownTenant {
			return err
		}
	}
	if err := r.cells.Delete(ctx, name); err != nil {
		return fmt.Errorf("remove tenant %s: %w", name, err)
	}
	return nil
}
