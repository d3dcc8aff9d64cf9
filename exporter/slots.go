package exporter

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// The fleet's share of a database is a number of slots, and every session that a snapshot is read with holds
// one of them. They live in the database: a slot is an advisory lock, so nothing else has to be kept, agreed
// on or renewed, and nothing can be left locked, because a slot ends with its session, however that ends.
//
// The lock is the transaction's, not the session's. A pooler that lends sessions for one transaction keeps a
// transaction's session to itself, and would hand a session's lock to a stranger, or for ever to nobody.
//
// Nobody waits for a slot inside the database. The session that holds the instant needs one, and without it the
// snapshot is not opened; siblings take what is free, and the holder reads alone when nothing is. So jobs that
// start together cannot keep each other from starting. Workers that are told different numbers share the
// largest one. A replica and its primary are two servers, with a share each.

// slotClass is the first key of each slot's advisory lock, "snap" in ASCII; the second is its number, from 1.
// Other programs that use the database must not lock pairs of this class.
const slotClass = 0x736e6170

// slotColumn is a column of a query that takes a free slot, for as long as the transaction lasts: its number, 0 when
// they are not counted, NULL when none is free.
func (s *server) slotColumn() string {
	if s.share < 0 {
		return "0"
	}
	return fmt.Sprintf("(SELECT n FROM generate_series(1, %d) n WHERE pg_try_advisory_xact_lock(%d, n) LIMIT 1)", s.share, slotClass)
}

// taken says what became of a slotColumn.
func (s *server) taken(slot *int32) error {
	if slot == nil {
		to := "this database"
		if s.replica {
			to += "'s replica"
		}
		return busy{fmt.Errorf("all %d connections that the fleet may have to %s are in use", s.share, to)}
	}
	return nil
}

// takeSlot takes a slot where nothing else is asked.
func (s *server) takeSlot(ctx context.Context, conn *pgx.Conn) error {
	var slot *int32
	if err := conn.QueryRow(ctx, "SELECT "+s.slotColumn()).Scan(&slot); err != nil {
		return failed(ctx, err, "take one of the fleet's connections to the database")
	}
	return s.taken(slot)
}

// busy says that the database has no room for one more session now. That is nobody's fault: wait, and try again.
type busy struct{ error }

func (b busy) Unwrap() error { return b.error }

// Busy tells who tries again that it was not this attempt that failed.
func (b busy) Busy() bool { return true }

func isBusy(err error) bool {
	_, ok := errors.AsType[busy](err)
	return ok
}
