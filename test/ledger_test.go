package test

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/snapfleet/snapfleet/contracts"
)

// A ledger is the oracle of what one instant is (I6): accounts in several tables, between which writers move
// money in transactions, and a list of all that they did. Each row says which transaction wrote it.
type ledger struct {
	url, schema string
	busy        chan bool // whether there is a job whose instant may be taken
}

// accounts are the ledger's tables. An account begins with opening.
var accounts = []string{"assets", "debts", "stock"}

const (
	accountsEach = 400
	opening      = 1000
)

// script makes the ledger.
func (l ledger) script() string {
	var b strings.Builder
	for _, table := range accounts {
		fmt.Fprintf(&b, `CREATE TABLE %[1]s (id int PRIMARY KEY, amount bigint NOT NULL, xid text NOT NULL, pad text);
			INSERT INTO %[1]s SELECT n, %[2]d, pg_current_xact_id()::text, repeat(md5(n::text), 8) FROM generate_series(1, %[3]d) n;
			`, quoted(l.schema, table), opening, accountsEach)
	}
	fmt.Fprintf(&b, "CREATE TABLE %s (from_table int, from_id int, to_table int, to_id int, amount bigint, xid text);", quoted(l.schema, "moves"))
	return b.String()
}

// write moves money until ctx is done, a hundred times a second while it is told to. A database that is away is
// waited for.
func (l ledger) write(ctx context.Context) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	var conn *pgx.Conn
	busy := false
	for n := 0; ctx.Err() == nil; n++ {
		select {
		case busy = <-l.busy:
		case <-tick.C:
		case <-ctx.Done():
		}
		if !busy {
			continue
		}
		if conn == nil || conn.IsClosed() {
			var err error
			if conn, err = pgx.Connect(ctx, l.url); err != nil {
				conn = nil
				continue
			}
		}
		from, to := n%3, (n+1+n/3%2)%3
		fromID, toID := 1+n*7%accountsEach, 1+n*11%accountsEach
		batch := fmt.Sprintf(`BEGIN; UPDATE %s SET amount = amount - 3, xid = pg_current_xact_id()::text WHERE id = %d;
			UPDATE %s SET amount = amount + 3, xid = pg_current_xact_id()::text WHERE id = %d;
			INSERT INTO %s VALUES (%d, %d, %d, %d, 3, pg_current_xact_id()::text); COMMIT`,
			quoted(l.schema, accounts[from]), fromID, quoted(l.schema, accounts[to]), toID, quoted(l.schema, "moves"), from, fromID, to, toID)
		_, _ = conn.PgConn().Exec(ctx, batch).ReadAll() // one that fails has moved nothing
	}
	if conn != nil {
		_ = conn.Close(context.WithoutCancel(ctx))
	}
}

// violation says how a delivery is not the one state of the database that its manifest names: a row that the
// snapshot could not see, an account that is not what the visible moves make it, a move too few.
func (l ledger) violation(ctx context.Context, m contracts.Manifest, volumes func(name string) ([]byte, error)) error {
	conn, err := pgx.Connect(ctx, l.url)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it has served
	type account struct{ table, id int }
	want, moves := map[account]int64{}, 0
	rows, err := conn.Query(ctx, "SELECT from_table, from_id, to_table, to_id, amount FROM "+quoted(l.schema, "moves")+
		" WHERE pg_visible_in_snapshot(xid::xid8, $1::text::pg_snapshot)", m.Snapshot.XID)
	if err != nil {
		return err
	}
	var from, to account
	var amount int64
	_, err = pgx.ForEachRow(rows, []any{&from.table, &from.id, &to.table, &to.id, &amount}, func() error {
		moves++
		want[from] -= amount
		want[to] += amount
		return nil
	})
	if err != nil {
		return err
	}

	xids, got := map[string]bool{}, map[string]int{}
	var total int64
	for _, v := range m.Volumes {
		if v.Kind != contracts.Tables {
			continue
		}
		data, err := volumes(v.Name)
		if err != nil {
			return err
		}
		err = eachRow(data, m, func(table string, row map[string]string) error {
			got[table]++
			if row["xid"] != "" {
				xids[row["xid"]] = true
			}
			which := slices.Index(accounts, table)
			if which < 0 {
				return nil
			}
			id, _ := strconv.Atoi(row["id"])
			has, err := strconv.ParseInt(row["amount"], 10, 64)
			if err != nil {
				return err
			}
			total += has
			if due := opening + want[account{which, id}]; has != due {
				return fmt.Errorf("I6: account %d of %s has %d, and by the moves that snapshot %s sees it has %d", id, table, has, m.Snapshot.XID, due)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if due := int64(opening * accountsEach * len(accounts)); total != due {
		return fmt.Errorf("I6: the accounts hold %d, not %d", total, due)
	}
	if got["moves"] != moves {
		return fmt.Errorf("I6: %d moves were delivered, snapshot %s sees %d", got["moves"], m.Snapshot.XID, moves)
	}
	var unseen int
	err = conn.QueryRow(ctx, "SELECT count(*) FROM unnest($1::text[]) x WHERE NOT pg_visible_in_snapshot(x::xid8, $2::text::pg_snapshot)",
		slices.Collect(maps.Keys(xids)), m.Snapshot.XID).Scan(&unseen)
	if err == nil && unseen > 0 {
		err = fmt.Errorf("I6: rows of %d transactions that snapshot %s does not see", unseen, m.Snapshot.XID)
	}
	return err
}

// eachRow gives every row of every table in a volume, by column.
func eachRow(volume []byte, m contracts.Manifest, give func(table string, row map[string]string) error) error {
	of := map[string]string{}
	for _, file := range m.Files {
		of[file.Name] = file.Of
	}
	for archive := tar.NewReader(strings.NewReader(string(volume))); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		plain, err := gzip.NewReader(archive)
		if err != nil {
			return err
		}
		lines := csv.NewReader(plain)
		lines.LazyQuotes = true
		lines.FieldsPerRecord = -1
		header, err := lines.Read()
		for err == nil {
			var fields []string
			if fields, err = lines.Read(); err != nil {
				break
			}
			row := map[string]string{}
			for n, name := range header {
				row[name] = fields[n]
			}
			if err := give(of[h.Name], row); err != nil {
				return err
			}
		}
		if !errors.Is(err, io.EOF) {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
}
