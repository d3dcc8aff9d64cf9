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
// Other programs that use the database should not lock pairs of this class; those of other roles are not counted.
const slotClass = 0x736e6170

// slotColumn is a column of a query that takes a free slot, for as long as the transaction lasts: its number, 0 when
// they are not counted, NULL when none is free.
func (s *server) slotColumn() string {
	if s.share < 0 {
		return "0"
	}
	return freeSlot(1, int64(s.share))
}

// freeSlot takes a free slot with one of these numbers.
func freeSlot(from, to int64) string {
	return fmt.Sprintf("(SELECT n FROM generate_series(%d, %d) n WHERE pg_try_advisory_xact_lock(%d, n::int4) LIMIT 1)::int4", from, to, slotClass)
}

// taken says what became of a slotColumn. It takes a slot beyond the share where other roles hold locks of its numbers.
func (s *server) taken(ctx context.Context, conn *pgx.Conn, slot *int32) error {
	if slot != nil {
		return nil
	}
	free, others, err := s.slotBeyond(ctx, conn)
	if err != nil {
		return failed(ctx, err, "take one of the fleet's connections to the database")
	}
	if free {
		return nil
	}
	to := "this database"
	if s.replica {
		to += "'s replica"
	}
	what := fmt.Errorf("all %d connections that the fleet may have to %s are in use", s.share, to)
	if len(others) > 0 {
		what = fmt.Errorf("%w; besides, other roles hold advisory locks of the fleet's class %d: %s", what, slotClass, firstOf(others))
	}
	return busy{what}
}

// slotBeyond takes a slot with a number above the share, in the transaction that conn is in, if sessions of other roles hold
// locks that would otherwise be the fleet's slots. Each role that can log in may lock any number, so only the locks of our own
// role count, or of the roles of all tenants' logins. While others take and leave numbers, the fleet may have as many
// sessions too many as they have locks.
func (s *server) slotBeyond(ctx context.Context, conn *pgx.Conn) (free bool, others []string, err error) {
	var ours, theirs int64
	err = conn.QueryRow(ctx, fmt.Sprintf(`SELECT count(*) FILTER (WHERE ours), count(*) FILTER (WHERE NOT ours),
			coalesce(array_agg(DISTINCT role) FILTER (WHERE NOT ours), '{}')
		FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
			CROSS JOIN LATERAL (SELECT coalesce(%s, false) AS ours, coalesce(quote_ident(a.usename), 'unknown') AS role) holder
		WHERE l.locktype = 'advisory' AND l.classid = %d AND l.objsubid = 2 AND l.granted
			AND (l.pid IS NULL OR a.pid IS NOT NULL) -- a prepared transaction's is not ours; whose was a session that has just ended is unknown
			AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())`, s.isOurs("a.usename"), slotClass)).Scan(&ours, &theirs, &others)
	if err != nil || theirs == 0 || ours >= int64(s.share) {
		return false, others, err
	}
	var slot *int32
	err = conn.QueryRow(ctx, "SELECT "+freeSlot(int64(s.share)+1, int64(s.share)+theirs+ours+1)).Scan(&slot)
	return slot != nil, others, err
}

// takeSlot takes a slot where nothing else is asked.
func (s *server) takeSlot(ctx context.Context, conn *pgx.Conn) error {
	var slot *int32
	if err := conn.QueryRow(ctx, "SELECT "+s.slotColumn()).Scan(&slot); err != nil {
		return failed(ctx, err, "take one of the fleet's connections to the database")
	}
	return s.taken(ctx, conn, slot)
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
