package exporter

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/snapfleet/snapfleet/contracts"
)

func TestWhatIsToldOfAnError(t *testing.T) {
	t.Parallel()
	secret := func(code string) error {
		return fmt.Errorf("wrapped: %w", &pgconn.PgError{Code: code, Message: "MESSAGE", Detail: "SECRET", Hint: "SECRET", Where: "SECRET", InternalQuery: "SECRET", TableName: "SECRET"})
	}
	const ours contracts.Code = "the worker's fault"
	for _, c := range []struct {
		code    string
		reject  contracts.Code
		message bool
	}{
		{"28P01", ours, false},
		{"28000", ours, false},
		{"3D000", ours, true},
		{"XX001", contracts.DataCorrupted, true},
		{"XX002", contracts.DataCorrupted, true},
		{"22021", contracts.EncodingInvalid, false},
		{"22P05", contracts.EncodingInvalid, false},
		{"54000", contracts.ValueTooLarge, true},
		{"54001", contracts.ValueTooLarge, true},
		{"53200", "", true},
		{"XX000", "", true},
		{"22P02", "", false},
		{"40001", "", true},
		{"57P01", "", true},
		{"53300", "", true},
		{"57P03", "", true},
		{"25006", "", true},
		{"P0001", "", false},
		{"58P01", "", true},
	} {
		err := failed(t.Context(), secret(c.code), "copy table %q", "a")
		r, rejected := contracts.AsRejection(err)
		if rejected != (c.reject != "" && c.reject != ours) || rejected && r.Code != c.reject {
			t.Errorf("%s: %v", c.code, err)
		}
		if _, fault := contracts.AsWorkerFault(err); fault != (c.reject == ours) {
			t.Errorf("%s is the worker's fault: %v", c.code, fault)
		}
		if strings.Contains(err.Error(), "SECRET") || strings.Contains(err.Error(), "MESSAGE") != c.message || !strings.Contains(err.Error(), c.code) {
			t.Errorf("%s tells: %v", c.code, err)
		}
		if _, ok := errors.AsType[*pgconn.PgError](err); ok {
			t.Errorf("%s: the server's whole error is in the chain", c.code)
		}
	}
	raised := &pgconn.PgError{Code: "42501", Message: "SECRET", Routine: "exec_stmt_raise"}
	if err := failed(t.Context(), raised, "copy"); strings.Contains(err.Error(), "SECRET") {
		t.Errorf("a function's own words are told: %v", err)
	}
	if err := lockFailed(t.Context(), secret(outOfMemory)); !isRejected(err, contracts.TooManyTables) {
		t.Errorf("a full lock table: %v", err)
	}
	cause := errors.New("the lease is lost")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if err := failed(ctx, secret("57014"), "copy"); !errors.Is(err, cause) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestUnloggedOnAStandby(t *testing.T) {
	t.Parallel()
	c := &catalog{schema: "acme", relations: []*relation{{name: "a", kind: "r", persists: "p", readable: true}, {name: "fast", kind: "r", persists: "u", readable: true}}}
	if err := c.check(false); err != nil {
		t.Errorf("on a primary: %v", err)
	}
	if err := c.check(true); err == nil || !strings.Contains(err.Error(), `"fast"`) {
		t.Errorf("on a standby: %v", err)
	}
}

func FuzzHeader(f *testing.F) {
	f.Add("plain", `qu"o,te`)
	f.Add(`\.`, "")
	f.Add("line\nbreak", "\r")
	f.Fuzz(func(t *testing.T, a, b string) {
		row := header([]contracts.Column{{Name: a}, {Name: b}})
		if got := parseCSV(string(row)); len(got) != 2 || got[0] != a || got[1] != b {
			t.Fatalf("%q, %q became %q", a, b, row)
		}
		if alone := string(header([]contracts.Column{{Name: a}})); alone == "\\.\n" || parseCSV(alone)[0] != a {
			t.Fatalf("%q became %q", a, alone)
		}
	})
}

// parseCSV reads one row byte for byte, as PostgreSQL does.
func parseCSV(row string) (fields []string) {
	var field strings.Builder
	quoted := false
	for i := 0; i < len(row); i++ {
		switch c := row[i]; {
		case quoted && c == '"' && row[i+1] == '"':
			field.WriteByte(c)
			i++
		case c == '"':
			quoted = !quoted
		case !quoted && (c == ',' || c == '\n'):
			fields = append(fields, field.String())
			field.Reset()
		default:
			field.WriteByte(c)
		}
	}
	return fields
}

// FuzzQuoting asks PostgreSQL what it makes of a quoted name.
func FuzzQuoting(f *testing.F) {
	for _, name := range oddNames {
		f.Add("acme", name)
		f.Add(name, `"`)
	}
	f.Add("\xe3\xaa", "\xb4") // valid only together
	tn := newTenant(f)
	f.Fuzz(func(t *testing.T, schema, table string) {
		if schema == "" || table == "" || len(schema) > 63 || len(table) > 63 || strings.ContainsRune(schema+table, 0) || !utf8.ValidString(schema) || !utf8.ValidString(table) {
			return // no identifier of PostgreSQL
		}
		var parts []string
		err := tn.conn.QueryRow(context.Background(), "SELECT parse_ident($1)", (&relation{name: table}).quoted(schema)).Scan(&parts)
		if err != nil || len(parts) != 2 || parts[0] != schema || parts[1] != table {
			t.Fatalf("%q.%q became %q: %v", schema, table, parts, err)
		}
	})
}
