package exporter

import (
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/snapfleet/snapfleet/contracts"
)

// policed is a table of many chunks, half of whose rows a policy would hide.
const policed = `CREATE TABLE policed (id int, t text); INSERT INTO policed SELECT i, md5(i::text) FROM generate_series(1, 20000) i;
	ALTER TABLE policed ENABLE ROW LEVEL SECURITY; CREATE POLICY half ON policed USING (id % 2 = 0)`

// TestRightsThatEndMidway: whoever loses a right in the middle of an export may not deliver what is left to be
// seen. This attempt fails, and may be tried again; the next one knows the reason.
func TestRightsThatEndMidway(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, change string
		first        bool // before the first row
		code         contracts.Code
	}{
		{"BYPASSRLS, before the first row", "ALTER ROLE {role} NOBYPASSRLS", true, contracts.RowSecurity},
		{"BYPASSRLS", "ALTER ROLE {role} NOBYPASSRLS", false, contracts.RowSecurity},
		{"SELECT of a column", "REVOKE SELECT ON policed FROM {role}; GRANT SELECT (id) ON policed TO {role}", false, contracts.TableDenied},
		{"USAGE", "REVOKE USAGE ON SCHEMA acme FROM {role}", false, contracts.SchemaNotFound},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			tn := newTenant(t, policed)
			tn.as(grantAll, "ALTER ROLE {role} BYPASSRLS")
			change := sync.OnceFunc(func() { tn.exec(strings.ReplaceAll(c.change, "{role}", tn.db.User)) })
			s := tn.open(tiny)
			if c.first {
				change()
			}
			rows, err := tryWriteTo(s.Tables(), writerFunc(func(p []byte) (int, error) { change(); return len(p), nil }))
			if _, rejected := contracts.AsRejection(err); err == nil || rejected {
				t.Errorf("%d of 20000 rows, and the error %v", rows, err)
			}
			if _, err := tn.tryOpen(t.Context(), tiny); !isRejected(err, c.code) {
				t.Errorf("the next attempt: %v", err)
			}
		})
	}
}

// TestRightsThatEndWhileOpening: nor is the right believed in that there was at the first look.
func TestRightsThatEndWhileOpening(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, policed)
	tn.as(grantAll, "ALTER ROLE {role} BYPASSRLS")
	tn.exec("BEGIN; LOCK policed")
	opened := make(chan error, 1)
	go func() {
		s, err := tn.tryOpen(t.Context(), Config{})
		if err == nil {
			_, err = tryWriteTo(s.Tables(), writerFunc(io.Discard.Write))
			s.Close()
		}
		opened <- err
	}()
	other := tn.connect()
	await(t, "the exporter to wait for the lock", func() bool {
		var n int
		must(t, other.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'snapfleet/%' AND wait_event_type = 'Lock' AND datname = current_database()").Scan(&n))
		return n == 1
	})
	_, err := other.Exec(t.Context(), "ALTER ROLE "+tn.db.User+" NOBYPASSRLS", pgx.QueryExecModeSimpleProtocol)
	must(t, err)
	tn.exec("COMMIT")
	if err := <-opened; !isRejected(err, contracts.RowSecurity) {
		t.Errorf("error: %v", err)
	}
	tn.noSessions()
}
