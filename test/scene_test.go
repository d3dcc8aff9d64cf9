package test

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/snapfleet/snapfleet/test/bucket"
)

// absent is how many rows a table has that is not there.
const absent = -1

// scenes change the schema while the tables are opened, and while they are read.
func scenes() (all []trial) {
	for _, ddl := range []struct {
		name, sql string
		rows      int64 // of the table victim, afterwards
	}{
		{"truncate", "TRUNCATE {s}.victim", 0},
		{"alter-type", "ALTER TABLE {s}.victim ALTER id TYPE bigint USING id + 1", 1000},
		{"drop", "DROP TABLE {s}.victim", absent},
		{"attach-partition", "ALTER TABLE {s}.parted ATTACH PARTITION {s}.parted_2 FOR VALUES IN (2)", 1000},
	} {
		during := func(open bool) func(context.Context, *lane, string, func()) error {
			return func(ctx context.Context, l *lane, job string, submit func()) error {
				return l.alter(ctx, strings.ReplaceAll(ddl.sql, "{s}", quoted(l.tenant)), open, job, submit)
			}
		}
		all = append(all,
			trial{name: "open/" + ddl.name, scene: during(true), rows: &ddl.rows},
			trial{name: "copy/" + ddl.name, scene: during(false), rows: new(int64(1000))})
	}
	return all
}

// alter changes the schema in a transaction that the exporter has to wait for, or after it has locked the tables.
func (l *lane) alter(ctx context.Context, ddl string, open bool, job string, submit func()) (err error) {
	conn, err := pgx.Connect(ctx, l.database)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it has served
	waits := func(who string) error {
		return l.settles(func() error {
			return l.query(ctx, "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database() AND "+who)
		})
	}
	if open {
		if _, err := conn.Exec(ctx, "BEGIN; "+ddl); err != nil {
			return err
		}
		submit()
		if err := waits("application_name LIKE 'snapfleet/%'"); err != nil {
			return fmt.Errorf("the exporter does not wait for the change: %w", err)
		}
		_, err = conn.Exec(ctx, "COMMIT")
		return err
	}
	hold := make(chan struct{})
	at := moment{operation: create}
	fault := cloud.Inject(bucket.Fault{Match: at.match(l, job), Skip: 1, Times: 1, Hold: hold})
	defer fault.Remove()
	submit()
	select {
	case <-fault.Reached:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	altered := make(chan error, 1)
	go func() {
		_, err := conn.Exec(ctx, ddl)
		altered <- err
	}()
	err = l.settles(func() error {
		if len(altered) > 0 { // it is one that does not disturb readers
			return nil
		}
		return l.query(ctx, fmt.Sprintf("SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %d", conn.PgConn().PID()))
	})
	close(hold)
	return errors.Join(err, <-altered)
}

// restore brings the tables that scenes change back to what they were.
func (l *lane) restore(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, l.database)
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // it has served
	_, err = conn.Exec(ctx, strings.ReplaceAll(`DROP TABLE IF EXISTS {s}.victim, {s}.parted, {s}.parted_2;`+changing, "{s}", quoted(l.tenant)))
	return err
}

// changing are the tables that scenes change.
const changing = `CREATE TABLE {s}.victim (id int, word text); INSERT INTO {s}.victim SELECT n, 'word' FROM generate_series(1, 1000) n;
	CREATE TABLE {s}.parted (id int) PARTITION BY LIST (id); CREATE TABLE {s}.parted_1 PARTITION OF {s}.parted FOR VALUES IN (1); INSERT INTO {s}.parted VALUES (1);
	CREATE TABLE {s}.parted_2 (id int); INSERT INTO {s}.parted_2 VALUES (2);`
