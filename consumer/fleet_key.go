package consumer

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/snapfleet/snapfleet/contracts"
)

// fleetKeyRecord is the fleet's secret as the registry's bucket keeps it. Workers and operators may read that bucket;
// publishers and readers may not.
type fleetKeyRecord struct {
	Version int    `json:"version"`
	Key     []byte `json:"key"` // 32 bytes
}

// fleetKeyVersion is the only version of fleetKeyRecord that this build reads and writes.
const fleetKeyVersion = 1

// ensureFleetKey makes the key, unless there is one. Of several that make it at once, one's is kept. A key is never
// changed: with another one, no manifest of before can be proven.
func ensureFleetKey(ctx context.Context, tenants cells) (did string, err error) {
	if _, err := readFleetKey(ctx, tenants); !errors.Is(err, errNoCell) {
		return kept, err
	}
	record := fleetKeyRecord{Version: fleetKeyVersion, Key: make([]byte, len(contracts.FleetKey{}))}
	rand.Read(record.Key) // never fails: it ends the program instead
	value, err := json.Marshal(record)
	if err == nil {
		_, err = tenants.Create(ctx, contracts.FleetKeyKey, value)
	}
	if errors.Is(err, errSwapped) { // another setup was faster
		_, err = readFleetKey(ctx, tenants)
		return kept, err
	}
	if err != nil {
		return "", fmt.Errorf("create the fleet key: %w", err)
	}
	return made, nil
}

func readFleetKey(ctx context.Context, tenants cells) (key contracts.FleetKey, err error) {
	value, _, err := tenants.Get(ctx, contracts.FleetKeyKey)
	if err != nil {
		return key, fmt.Errorf("read the fleet key: %w", err)
	}
	var record fleetKeyRecord
	if err := json.Unmarshal(value, &record); err != nil {
		return key, errors.New("read the fleet key: it is no JSON") // without the text: it may have the key
	}
	if record.Version != fleetKeyVersion || len(record.Key) != len(key) {
		return key, fmt.Errorf("read the fleet key: version %d with %d bytes, this build reads version %d with %d", record.Version, len(record.Key), fleetKeyVersion, len(key))
	}
	copy(key[:], record.Key)
	return key, nil
}

// fleetKey reads what [Setup] has made.
func (r *Registry) fleetKey(ctx context.Context) (contracts.FleetKey, error) {
	key, err := readFleetKey(ctx, r.cells)
	if errors.Is(err, errNoCell) {
		err = fmt.Errorf("%w: run `snapfleet setup` first", err)
	}
	return key, err
}
