package consumer

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
)

// The registry decides where a tenant's data goes, and NATS alone decides who writes it. So a worker that begins a
// delivery compares the tenant's record with what it was at the delivery before, and publishes what has changed, once. So
// operators see a change that none of them made, before they miss a delivery.

// knownRecord is what the fleet remembers of a tenant's record, by field: digests, because external IDs are in no bucket
// that readers see.
type knownRecord struct {
	Fields map[string]string `json:"fields"`
	// Untold is the notice that is to be published yet.
	Untold *contracts.Notice `json:"untold,omitempty"`
}

func knownRecordKey(tenant string) string { return "record." + tenant }

// recordFields are the digests of what says where a tenant's data comes from and goes to. The managed bucket is no field
// of a tenant that is delivered there.
func recordFields(t contracts.Tenant) map[string]string {
	d := t.Destination
	fields := map[string]string{"database or schema": t.Database + "\x00" + t.Schema, "bucket": "", "role": "", "external ID": ""}
	if !d.House() {
		fields["bucket"] = strings.Join([]string{d.Endpoint, d.Region, d.Bucket, d.Owner}, "\x00")
		fields["role"], fields["external ID"] = d.RoleARN, d.ExternalID
	}
	for name, value := range fields {
		fields[name] = digestOf([]byte(t.Name + "\x00" + value))[:16]
	}
	return fields
}

// noteRecord compares t with what is remembered of it. Failing to is no reason to hold up a job: the next delivery does it
// again.
func (c *Consumer) noteRecord(ctx context.Context, t contracts.Tenant) {
	err := c.tellChange(ctx, t)
	if errors.Is(err, errSwapped) {
		err = nil // another worker has just noticed the same
	}
	if err != nil {
		c.log(ctx).Warn().Err(err).Msg("cannot compare the tenant's record with the one of the delivery before")
	}
}

func (c *Consumer) tellChange(ctx context.Context, t contracts.Tenant) error {
	var known knownRecord
	rev, err := readCell(ctx, c.fleet, knownRecordKey(t.Name), &known)
	if err != nil {
		return err
	}
	now := recordFields(t)
	if rev == 0 || !maps.Equal(known.Fields, now) {
		next := knownRecord{Fields: now, Untold: known.Untold}
		if rev > 0 {
			next.Untold = changeNotice(t.Name, known.Fields, now)
		}
		if err := c.writeCell(ctx, knownRecordKey(t.Name), next, rev); err != nil {
			return err
		}
		if next.Untold == nil {
			return nil
		}
		if rev, err = readCell(ctx, c.fleet, knownRecordKey(t.Name), &known); err != nil {
			return err
		}
	}
	if known.Untold == nil {
		return nil
	}
	if err := c.ledger.Notify(ctx, *known.Untold); err != nil {
		return err
	}
	c.log(ctx).Warn().Str("code", string(known.Untold.Reason.Code)).Str("reason", known.Untold.Reason.What).Msg(string(known.Untold.Kind))
	known.Untold = nil
	return c.writeCell(ctx, knownRecordKey(t.Name), known, rev)
}

// changeNotice names the fields that differ, and not what is in them.
func changeNotice(tenant string, was, now map[string]string) *contracts.Notice {
	var changed []string
	for _, field := range slices.Sorted(maps.Keys(now)) {
		if was[field] != now[field] {
			changed = append(changed, field)
		}
	}
	why, _ := contracts.AsRejection(contracts.Reject(contracts.RecordChanged, "since the delivery before, the record of tenant %s has another %s", tenant, strings.Join(changed, ", ")))
	return &contracts.Notice{Tenant: tenant, Kind: contracts.DestinationChanged, At: time.Now().UTC(), Reason: why.Reason()}
}

// Twin is another tenant whose record has something in common with a tenant's that no two should have.
type Twin struct {
	Tenant string
	// Shares are the fields: schema, bucket, external ID.
	Shares []string
}

// Twins finds the tenants that share their schema, their bucket or their external ID with t. It reads the whole registry
// with one question.
func (r *Registry) Twins(ctx context.Context, t contracts.Tenant) (twins []Twin, err error) {
	kept, ok := r.cells.(bucketCells)
	if !ok {
		return nil, nil
	}
	t = t.WithDefaults()
	for c, err := range kept.newest(ctx, ">") {
		if err != nil {
			return nil, err
		}
		var other contracts.Tenant
		if c.key == t.Name || c.key == contracts.HouseKey || contracts.DecodeStrict(c.value, &other) != nil {
			continue
		}
		if shares := shared(t, other.WithDefaults()); len(shares) > 0 {
			twins = append(twins, Twin{Tenant: c.key, Shares: shares})
		}
	}
	slices.SortFunc(twins, func(a, b Twin) int { return strings.Compare(a.Tenant, b.Tenant) })
	return twins, nil
}

// shared are the fields that two tenants have in common.
func shared(t, other contracts.Tenant) (fields []string) {
	name := func(database string) string {
		if database == "" {
			return contracts.DefaultDatabase
		}
		return database
	}
	a, b := t.Destination, other.Destination
	if t.Schema == other.Schema && name(t.Database) == name(other.Database) {
		fields = append(fields, "schema")
	}
	if a.Bucket != "" && a.Bucket == b.Bucket && a.Endpoint == b.Endpoint {
		fields = append(fields, "bucket")
	}
	for _, id := range []string{a.ExternalID, a.NextExternalID} {
		if id != "" && (id == b.ExternalID || id == b.NextExternalID) {
			return append(fields, "external ID")
		}
	}
	return fields
}
