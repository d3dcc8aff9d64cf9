package consumer

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"reflect"

	"github.com/snapfleet/snapfleet/contracts"
)

// The rotation of an external ID has three steps, each of them one swap of the tenant's record:
//
//	Rotate   the record has two IDs, and only the first is used; the customer's trust policy is to name both
//	Switch   only once the second is proven to work: it is the only one from now on
//	Abandon  instead of Switch: the second is forgotten

// ErrRecordChanged says that somebody else has changed a tenant's record meanwhile, and nothing was written.
var ErrRecordChanged = errors.New("the tenant's record was changed meanwhile")

// Rotate begins a rotation: it gives the tenant a next external ID, of 130 random bits. begun is false when a rotation was
// under way already; then nothing is changed, and the record is returned as it is.
func (r *Registry) Rotate(ctx context.Context, name string) (t contracts.Tenant, begun bool, err error) {
	return r.amend(ctx, name, func(d *contracts.Destination) bool {
		if d.NextExternalID != "" {
			return false
		}
		d.NextExternalID = rand.Text()
		return true
	})
}

// Abandon ends a rotation without a change of the external ID. ended is false when none was under way.
func (r *Registry) Abandon(ctx context.Context, name string) (t contracts.Tenant, ended bool, err error) {
	return r.amend(ctx, name, func(d *contracts.Destination) bool {
		ended := d.NextExternalID != ""
		d.NextExternalID = ""
		return ended
	})
}

// amend changes a tenant's record until no other writer is in between, or change reports that there is nothing to do.
func (r *Registry) amend(ctx context.Context, name string, change func(*contracts.Destination) bool) (contracts.Tenant, bool, error) {
	for {
		t, rev, err := r.read(ctx, name)
		if err != nil || !change(&t.Destination) {
			return t, false, err
		}
		t, err = r.write(ctx, t, rev)
		if errors.Is(err, errSwapped) && ctx.Err() == nil {
			continue
		}
		return t, err == nil, err
	}
}

// Switch makes the next external ID the only one. proven is the record that was read before the next ID was checked: if
// it has changed in any way since, the check says nothing of what stands now, and the error is [ErrRecordChanged]. The
// error leaves nothing changed; when it is unclear whether the swap took place, Switch finds out.
func (r *Registry) Switch(ctx context.Context, proven contracts.Tenant) (contracts.Tenant, error) {
	d := proven.Destination
	if d.NextExternalID == "" {
		return proven, contracts.Reject(contracts.InvalidTenant, "no rotation of the external ID of tenant %s is under way", proven.Name)
	}
	t, rev, err := r.read(ctx, proven.Name)
	if err != nil {
		return t, err
	}
	if !reflect.DeepEqual(t, proven) {
		return t, fmt.Errorf("switch the external ID of tenant %s: %w", proven.Name, ErrRecordChanged)
	}
	t.Destination.ExternalID, t.Destination.NextExternalID = d.NextExternalID, ""
	t, err = r.write(ctx, t, rev)
	if err == nil {
		return t, nil
	}
	now, _, readErr := r.read(ctx, proven.Name)
	switch {
	case readErr == nil && now.Destination.ExternalID == d.NextExternalID:
		return now, nil // it was us, and the reply was lost
	case errors.Is(err, errSwapped):
		return now, fmt.Errorf("switch the external ID of tenant %s: %w", proven.Name, ErrRecordChanged)
	}
	return t, err
}
