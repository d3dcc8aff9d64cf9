package world

import (
	"time"
	_ "unsafe" // for linkname

	_ "github.com/nats-io/nats-server/v2/server"
)

//go:linkname serverCron github.com/nats-io/nats-server/v2/server.parseCron
func serverCron(pattern string, zone *time.Location, after int64) (time.Time, error)

// NextFire is when a nats-server fires a cron of six fields next, by its own code, which it shows nobody.
func NextFire(pattern string, zone *time.Location, after time.Time) (time.Time, error) {
	return serverCron(pattern, zone, after.UnixNano())
}
