package exporter

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/snapfleet/snapfleet/contracts"
)

// TestLimitsOfPostgreSQL: what a limit of the server's refuses is refused again by every retry. The reason does not speak of
// memory, which is not short, while a server that is short of memory is asked again.
func TestLimitsOfPostgreSQL(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		code, message string
		reject, busy  bool
	}{
		{"54000", "out of memory", true, false}, // PostgreSQL 14 to 16: Cannot enlarge string buffer
		{"54000", "string buffer exceeds maximum allowed length (1073741823 bytes)", true, false},
		{"54001", "stack depth limit exceeded", true, false},
		{"XX000", "invalid memory alloc request size 1174405123", true, false},
		{"XX000", "cache lookup failed for relation 4711", false, false},
		{"53200", "out of memory", false, false},
		{"53100", "could not extend file", false, false},
		{"08P01", "query_wait_timeout", false, true},
		{"08P01", "no more connections allowed (max_client_conn)", false, true},
		{"XX000", "Max client connections reached", false, true},
		{"58000", "could not get connection from the pool - AllServersDown", false, true},
		{"08P01", "invalid message format", false, false},
	} {
		err := failed(t.Context(), fmt.Errorf("wrapped: %w", &pgconn.PgError{Code: c.code, Message: c.message}), "copy table %q", "a")
		_, rejected := contracts.AsRejection(err)
		if rejected != c.reject || isRejected(err, contracts.ValueTooLarge) != c.reject || isWaiting(err) != c.busy {
			t.Errorf("%s %s: %v", c.code, c.message, err)
		}
		if c.reject && (!strings.Contains(err.Error(), `table "a"`) || strings.Contains(err.Error(), "memory")) {
			t.Errorf("%s %s: says %v", c.code, c.message, err)
		}
	}
}

// TestValueThatIsTooLarge: a value whose JSON would be larger than a gigabyte. The server takes some 1.3 GB to find that out,
// so no other test runs beside it. A bytea of more than 512 MiB meets the same end, with XX000, at three times the cost.
func TestValueThatIsTooLarge(t *testing.T) {
	tn := newTenant(t, `CREATE TABLE fine (x int); INSERT INTO fine VALUES (1)`,
		`CREATE TABLE huge (id int, v text); INSERT INTO huge VALUES (1, repeat(E'\x01', 180 * 1024 * 1024))`)
	_, _, err := tn.read(Config{}, contracts.JSONL, contracts.Tables)
	if !isRejected(err, contracts.ValueTooLarge) || !strings.Contains(err.Error(), `table "huge"`) || strings.Contains(err.Error(), "memory") {
		t.Errorf("error: %v", err)
	}
}

// TestBeginUnderATimeout: a statement_timeout of the role's that ends the first statements is taken off.
func TestBeginUnderATimeout(t *testing.T) {
	t.Parallel()
	tn := newTenant(t)
	tn.as("ALTER ROLE {role} SET statement_timeout = '1ms'")
	conn, err := pgx.ConnectConfig(t.Context(), tn.db)
	must(t, err)
	defer conn.Close(context.Background())
	calls := 0
	err = beginWith(t.Context(), conn, "SET LOCAL statement_timeout = 0", func(before string) error {
		if calls++; calls < 4 {
			return &serverError{code: queryCanceled}
		}
		return exec(t.Context(), conn, before)
	})
	must(t, err)
	var got string
	must(t, conn.QueryRow(t.Context(), "SELECT current_setting('statement_timeout') || ' ' || current_setting('transaction_read_only')").Scan(&got))
	if got != "0 on" || calls != 4 {
		t.Errorf("after %d calls: %s", calls, got)
	}
}

// answering is a server that treats each connection in one way.
func answering(t *testing.T, handle func(net.Conn)) (host string, port uint16) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				handle(conn)
			}()
		}
	}()
	return "localhost", uint16(l.Addr().(*net.TCPAddr).Port)
}

// certificate makes one that is its own authority, and the file of that.
func certificate(t *testing.T, name string) (cert tls.Certificate, file string) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	must(t, err)
	file = filepath.Join(t.TempDir(), "root.pem")
	must(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}, file
}

// TestNoAddressInErrors: whatever keeps us from connecting, the error has no host, address, port, user, database or
// password: it goes into reasons that a tenant's customer may read.
func TestNoAddressInErrors(t *testing.T) {
	t.Parallel()
	tn := newTenant(t)
	refusesTLS := func(c net.Conn) { c.Read(make([]byte, 8)); c.Write([]byte("N")); c.Read(make([]byte, 1)) }
	noTLS := func(c net.Conn) { c.Read(make([]byte, 8)); c.Write([]byte("Shello, no handshake")) }
	ours, _ := certificate(t, "localhost")
	others, root := certificate(t, "db.secret.invalid")
	selfSigned := func(cert tls.Certificate) func(net.Conn) {
		return func(c net.Conn) {
			c.Read(make([]byte, 8))
			c.Write([]byte("S"))
			s := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}})
			s.Handshake()
			s.Read(make([]byte, 1))
		}
	}
	silent := func(c net.Conn) { c.Read(make([]byte, 1<<10)); c.Read(make([]byte, 1<<10)) }
	mute := func(c net.Conn) { c.Read(make([]byte, 1<<10)) }
	for name, c := range map[string]struct {
		handle func(net.Conn)
		url    string // {at}: the server's
	}{
		"refused":              {nil, "postgres://somebody:s3cret@127.0.0.1:1/secretdb"},
		"several, refused":     {nil, "postgres://somebody:s3cret@127.0.0.1:1,127.0.0.2:1,localhost:1/secretdb"},
		"no such host":         {nil, "postgres://somebody:s3cret@db.secret.invalid:5433/secretdb"},
		"several unknown":      {nil, "postgres://somebody:s3cret@a.secret.invalid,b.secret.invalid:5433/secretdb"},
		"no such socket":       {nil, "host=/nowhere/secret port=5433 user=somebody dbname=secretdb password=s3cret"},
		"TLS refused":          {refusesTLS, "postgres://somebody:s3cret@{at}/secretdb?sslmode=require"},
		"no TLS at all":        {noTLS, "postgres://somebody:s3cret@{at}/secretdb?sslmode=require"},
		"TLS or not":           {noTLS, "postgres://somebody:s3cret@{at}/secretdb?sslmode=prefer"},
		"unknown authority":    {selfSigned(ours), "postgres://somebody:s3cret@{at}/secretdb?sslmode=verify-full"},
		"another host's":       {selfSigned(others), "postgres://somebody:s3cret@{at}/secretdb?sslmode=verify-full&sslrootcert={root}"},
		"never an answer":      {silent, "postgres://somebody:s3cret@{at}/secretdb?sslmode=disable&connect_timeout=1"},
		"never an answer, TLS": {silent, "postgres://somebody:s3cret@{at}/secretdb?sslmode=require&connect_timeout=1"},
		"closed at once":       {mute, "postgres://somebody:s3cret@{at}/secretdb?sslmode=disable"},
		"closed at once, TLS":  {mute, "postgres://somebody:s3cret@{at}/secretdb?sslmode=require"},
		"setting":              {nil, "postgres://postgres@{postgres}/{database}?sslmode=disable&no_such_setting=1"},
		"no standby":           {nil, "postgres://postgres@{postgres}/{database}?sslmode=disable&target_session_attrs=standby"},
		"no such user":         {nil, "postgres://somebody:s3cret@{postgres}/{database}?sslmode=disable"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at, secrets := "", []string{"somebody", "s3cret", "secretdb", "127.0.0.", "localhost", ".invalid", "/nowhere", "5433"}
			if c.handle != nil {
				host, port := answering(t, c.handle)
				at = fmt.Sprintf("%s:%d", host, port)
				secrets = append(secrets, fmt.Sprint(port))
			}
			url := strings.NewReplacer("{at}", at, "{root}", root, "{database}", tn.db.Database, "{postgres}", fmt.Sprintf("127.0.0.1:%d", tn.db.Port)).Replace(c.url)
			db, err := pgx.ParseConfig(url)
			must(t, err)
			_, err = New(db, nil, Config{}).Open(t.Context(), attempt("acme"))
			if err == nil {
				t.Fatal("it was opened")
			}
			for _, secret := range append(secrets, fmt.Sprint(tn.db.Port)) {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("%q is in the error: %v", secret, err)
				}
			}
			if text := err.Error(); strings.HasSuffix(text, ": ") || len(text) > 700 || errors.Is(err, errMoved) {
				t.Errorf("says %q", text)
			}
			t.Log(err)
		})
	}
}
