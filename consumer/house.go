package consumer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
)

// House returns the record of the house, where tenants without a destination of their own are delivered to. Without one,
// or with one that cannot work, the error is a [contracts.Rejection].
func (r *Registry) House(ctx context.Context) (contracts.House, error) {
	h, _, err := r.house(ctx)
	if errors.Is(err, errNoCell) {
		err = contracts.Reject(contracts.NoDestination, "there is no house bucket")
	}
	return h, err
}

func (r *Registry) house(ctx context.Context) (h contracts.House, revision uint64, err error) {
	value, revision, err := r.cells.Get(ctx, contracts.HouseKey)
	if err != nil {
		return h, 0, fmt.Errorf("read the house's record: %w", err)
	}
	if err := contracts.DecodeStrict(value, &h); err != nil {
		return contracts.House{}, revision, contracts.Reject(contracts.NoDestination, "the house's record: %w", err)
	}
	return h, revision, h.Validate()
}

// SetHouse checks h and writes it. The external ID never changes: another one than before is refused. A record that
// somebody else changes at the same time is an error, and nothing is written.
func (r *Registry) SetHouse(ctx context.Context, h contracts.House) error {
	h.Version, h.UpdatedAt = contracts.HouseVersion, time.Now().UTC()
	if err := h.Validate(); err != nil {
		return err
	}
	value, err := json.Marshal(h)
	if err != nil {
		return fmt.Errorf("write the house's record: %w", err)
	}
	was, revision, err := r.house(ctx)
	switch {
	case errors.Is(err, errNoCell):
		_, err = r.cells.Create(ctx, contracts.HouseKey, value)
	case err != nil && revision == 0:
		return err
	case err == nil && was.Destination.ExternalID != h.Destination.ExternalID:
		return contracts.Reject(contracts.NoDestination, "the house has an external ID already, and the trust policy of its role names it")
	default:
		_, err = r.cells.Update(ctx, contracts.HouseKey, value, revision)
	}
	if err != nil {
		return fmt.Errorf("write the house's record: %w", err)
	}
	return nil
}

// Resolve is Get for whoever delivers: a tenant without a destination of its own has the house's. Without a house that is
// a [contracts.Rejection].
func (r *Registry) Resolve(ctx context.Context, name string) (contracts.Tenant, error) {
	t, err := r.Get(ctx, name)
	if err != nil || !t.Destination.House() {
		return t, err
	}
	h, err := r.House(ctx)
	if rejection, ok := contracts.AsRejection(err); ok {
		return t, contracts.Reject(rejection.Code, "tenant %s has no bucket of its own, and %w", name, rejection.Err)
	}
	return h.For(t), err
}

// resolved is the registry as workers see it: every tenant has a destination.
type resolved struct{ *Registry }

func (r resolved) Get(ctx context.Context, name string) (contracts.Tenant, error) {
	return r.Resolve(ctx, name)
}

// Kept is how long, and by what, a delivery is kept: nothing when it is in a customer's bucket, or when we may not see
// the registry, which knows that.
func (j *Jobs) Kept(ctx context.Context, o contracts.Outcome) (contracts.Keep, error) {
	registry, err := OpenRegistry(ctx, j.js)
	if errors.Is(err, ErrMayNotSee) {
		return contracts.Keep{}, nil
	}
	if err != nil {
		return contracts.Keep{}, err
	}
	h, _, err := registry.house(ctx)
	switch {
	case errors.Is(err, errNoCell) || err == nil && !h.Holds(o):
		return contracts.Keep{}, nil
	case err != nil:
		return contracts.Keep{}, err
	}
	return contracts.Keep{Days: h.Days, By: h.ExpiresBy}, nil
}
