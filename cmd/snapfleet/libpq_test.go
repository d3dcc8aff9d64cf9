package main

import (
	"crypto/tls"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// libpqDocumented are the parameters in the documentation of libpq 18, "Parameter Key Words", a value that most people
// would write, and whether that is obeyed, or harmless to leave out.
var libpqDocumented = []struct {
	name, value string
	taken       bool
}{
	{"host", "127.0.0.1", true},
	{"hostaddr", "127.0.0.1", false},
	{"port", "5432", true},
	{"dbname", "db", true},
	{"user", "u", true},
	{"password", "p", true},
	{"passfile", "/nowhere", true},
	{"require_auth", "scram-sha-256", true},
	{"channel_binding", "prefer", true},
	{"connect_timeout", "10", true},
	{"client_encoding", "auto", true},
	{"client_encoding", "LATIN1", true},
	{"options", "-c geqo=off", true},
	{"application_name", "psql", true},
	{"fallback_application_name", "psql", true},
	{"keepalives", "1", true},
	{"keepalives_idle", "30", true},
	{"keepalives_interval", "10", true},
	{"keepalives_count", "3", true},
	{"tcp_user_timeout", "10000", true},
	{"replication", "false", true},
	{"replication", "database", false},
	{"gssencmode", "prefer", true},
	{"gssencmode", "disable", true},
	{"gssencmode", "require", false},
	{"sslmode", "prefer", true},
	{"requiressl", "0", true},
	{"requiressl", "1", false},
	{"sslnegotiation", "postgres", true},
	{"sslcompression", "0", true},
	{"sslcertmode", "allow", true},
	{"sslsni", "1", true},
	{"sslkeylogfile", "/nowhere", false},
	{"sslcrl", "/nowhere", false},
	{"sslcrldir", "/nowhere", false},
	{"requirepeer", "postgres", false},
	{"ssl_min_protocol_version", "TLSv1.2", true},
	{"ssl_min_protocol_version", "TLSv1.3", true},
	{"ssl_min_protocol_version", "TLSv9", false},
	{"ssl_max_protocol_version", "TLSv1.2", true},
	{"ssl_max_protocol_version", "TLSv1.1", false},
	{"min_protocol_version", "3.0", true},
	{"max_protocol_version", "latest", true},
	{"krbsrvname", "postgres", true},
	{"gsslib", "gssapi", true},
	{"gssdelegation", "0", true},
	{"gssdelegation", "1", false},
	{"scram_client_key", "AAAA", false},
	{"scram_server_key", "AAAA", false},
	{"target_session_attrs", "any", true},
	{"load_balance_hosts", "disable", true},
	{"load_balance_hosts", "random", false},
	{"oauth_issuer", "https://issuer", false},
	{"oauth_client_id", "id", false},
	{"oauth_client_secret", "s3cret", false},
	{"oauth_scope", "all", false},
	{"authtype", "x", true},
	{"tty", "x", true},
	// No parameters of libpq.
	{"sslmod", "require", false},
	{"search_path", "acme", false},
	{"statement_timeout", "0", false},
	{"pool_max_conns", "3", false},
}

// TestParametersOfLibpq: each parameter of libpq is obeyed or harmless to leave out, or it is refused at the start by its
// name. None is sent to the server as a setting, which would refuse each job's login.
func TestParametersOfLibpq(t *testing.T) {
	t.Parallel()
	for _, c := range libpqDocumented {
		for _, given := range []string{
			"host=127.0.0.1 sslmode=require user=u " + c.name + "='" + c.value + "'",
			"postgres://u@127.0.0.1/db?sslmode=require&" + c.name + "=" + strings.NewReplacer(" ", "%20", "=", "%3D").Replace(c.value),
		} {
			if c.name == "sslmode" {
				given = strings.NewReplacer("sslmode=require ", "", "sslmode=require&", "").Replace(given)
			}
			cfg, err := parseDatabase(given)
			if c.taken != (err == nil) {
				t.Errorf("%s: %v", given, err)
			}
			if err != nil && (!strings.Contains(err.Error(), c.name) || strings.Contains(err.Error(), "s3cret")) {
				t.Errorf("%s: says %v", given, err)
			}
			if err != nil {
				continue
			}
			for name := range cfg.RuntimeParams {
				if name != "options" {
					t.Errorf("%s: %s is sent to the server", given, name)
				}
			}
			if c.value == "TLSv1.3" && cfg.TLSConfig.MinVersion != tls.VersionTLS13 {
				t.Errorf("%s: %x is enough", given, cfg.TLSConfig.MinVersion)
			}
		}
	}
}

// TestVariablesOfLibpq: a variable that asks for what snapfleet cannot do is refused at the start, too; one that the
// connection string overrides is not looked at.
func TestVariablesOfLibpq(t *testing.T) {
	t.Parallel()
	env := map[string]string{"PGGSSENCMODE": "require", "PGCLIENTENCODING": "LATIN1", "PGSSLMINPROTOCOLVERSION": "TLSv1.3"}
	apply := func(given string) (*pgx.ConnConfig, error) {
		cfg, err := pgx.ParseConfig(given)
		if err != nil {
			t.Fatal(err)
		}
		return cfg, applyLibpq(cfg, func(name string) string { return env[name] })
	}
	if _, err := apply("host=h"); err == nil || !strings.Contains(err.Error(), "PGGSSENCMODE") {
		t.Errorf("error: %v", err)
	}
	cfg, err := apply("host=h sslmode=prefer gssencmode=disable")
	if err != nil || cfg.TLSConfig.MinVersion != tls.VersionTLS13 || len(cfg.RuntimeParams) != 0 {
		t.Errorf("%v, %+v", err, cfg.RuntimeParams)
	}
	snapfleet(t, []string{"PGSSLCRL=/nowhere/crl"}, "worker", "--listen=", "--database-url=postgres://u:"+secret+"@h/db").want(t, exitUsage, "PGSSLCRL", "fix:")
	snapfleet(t, nil, "worker", "--listen=", "--database-url=postgres://u:"+secret+"@h/db?requirepeer=me").want(t, exitUsage, "requirepeer", "fix:")
	snapfleet(t, nil, "worker", "--listen=", "--replica-url=postgres://u:"+secret+"@h/db?sslmod=require").want(t, exitUsage, `"sslmod"`)
}

// TestParametersOfThisLibpq: the machine's own libpq has no parameter that is not known here.
func TestParametersOfThisLibpq(t *testing.T) {
	t.Parallel()
	out, err := exec.CommandContext(t.Context(), "python3", "-c", `
import ctypes, ctypes.util
class Option(ctypes.Structure):
    _fields_ = [(n, ctypes.c_char_p) for n in ("keyword", "envvar", "compiled", "val", "label", "dispchar")] + [("dispsize", ctypes.c_int)]
lib = ctypes.CDLL(ctypes.util.find_library("pq") or "libpq.so.5")
lib.PQconndefaults.restype = ctypes.POINTER(Option)
options, i = lib.PQconndefaults(), 0
while options[i].keyword:
    print(options[i].keyword.decode())
    i += 1`).Output()
	if err != nil {
		t.Fatal(err)
	}
	names := strings.Fields(string(out))
	for _, name := range names {
		known := slices.ContainsFunc(libpqDocumented, func(c struct {
			name, value string
			taken       bool
		},
		) bool {
			return c.name == name
		})
		if !known && !slices.Contains([]string{"service", "sslcert", "sslkey", "sslpassword", "sslrootcert"}, name) { // these need files
			t.Errorf("libpq has a parameter %s", name)
		}
	}
	if len(names) < 30 {
		t.Errorf("parameters: %q", names)
	}
}
