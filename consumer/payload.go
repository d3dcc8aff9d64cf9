package consumer

import (
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
)

// Everything that the fleet writes fits into one message of NATS. A request has 64 KiB, and its dead letter 8 KiB of
// headers more; a piece of a receipt or of a plan has 240,000 bytes; a reason is cut to 4 KiB. Only the record of a job
// grows, with its uploads, so it has a limit of its own.
const (
	// MinPayload is the least max_payload of a NATS server that the fleet works with, in bytes. NATS's default is 1 MiB.
	MinPayload = 512 << 10
	// maxRecordBytes is the largest record that an upload is added to.
	maxRecordBytes = 384 << 10
	// maxCurrent is how much of the name of what is being written a record keeps, in bytes.
	maxCurrent = 256
)

// ErrPayload: the server takes only messages that are too small for the fleet.
var ErrPayload = errors.New("NATS takes only small messages")

// checkPayload says what to change about the server that nc is connected to, if its messages are too small.
func checkPayload(nc *nats.Conn) error {
	if most := nc.MaxPayload(); most > 0 && most < MinPayload { // 0: it was never connected
		return fmt.Errorf("%w: its max_payload is %d bytes, and the fleet needs at least %d: set max_payload to 1MB in the configuration of every NATS server, and reload it", ErrPayload, most, MinPayload)
	}
	return nil
}
