package main

import (
	"crypto/tls"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"
)

// A connection string is libpq's, but pgx reads it, and takes each parameter that it does not know for a setting of the
// server, which refuses the login then, at each job. So the rest of libpq's parameters are looked at here, at the start.

// libpqParameter is a parameter of libpq that pgx does not know.
type libpqParameter struct {
	variable string   // of the environment, that gives its default
	harmless []string // values that change nothing here; nil: every value
	tls      map[string]func(*tls.Config)
	instead  string // what to do in place of other values
}

// never are the harmless values of a parameter that has none.
var never = []string{}

const unsupported = "snapfleet does not support it: leave it out"

// libpqParameters are those of PostgreSQL 9.6 to 18.
var libpqParameters = map[string]libpqParameter{
	"hostaddr":                  {variable: "PGHOSTADDR", harmless: never, instead: "give the address as host"},
	"client_encoding":           {variable: "PGCLIENTENCODING"}, // it is always UTF8
	"application_name":          {},                             // it names the job
	"fallback_application_name": {},
	"keepalives":                {}, // the exporter has its own
	"keepalives_idle":           {},
	"keepalives_interval":       {},
	"keepalives_count":          {},
	"tcp_user_timeout":          {},
	"replication":               {harmless: []string{"false", "off", "no", "0"}, instead: unsupported},
	"gssencmode":                {variable: "PGGSSENCMODE", harmless: []string{"disable", "prefer", "allow"}, instead: "use TLS: sslmode=verify-full"},
	"gsslib":                    {variable: "PGGSSLIB"},
	"gssdelegation":             {variable: "PGGSSDELEGATION", harmless: []string{"0"}, instead: unsupported},
	"requiressl":                {variable: "PGREQUIRESSL", harmless: []string{"0"}, instead: "write sslmode=require"},
	"sslcompression":            {variable: "PGSSLCOMPRESSION"},
	"sslkeylogfile":             {harmless: never, instead: unsupported},
	"sslcrl":                    {variable: "PGSSLCRL", harmless: never, instead: "snapfleet does not check revocation lists: leave it out if you can do without"},
	"sslcrldir":                 {variable: "PGSSLCRLDIR", harmless: never, instead: "snapfleet does not check revocation lists: leave it out if you can do without"},
	"requirepeer":               {variable: "PGREQUIREPEER", harmless: never, instead: unsupported},
	"ssl_min_protocol_version": {
		variable: "PGSSLMINPROTOCOLVERSION", harmless: []string{"TLSv1", "TLSv1.1", "TLSv1.2"}, // 1.2 is the least in any case
		tls: map[string]func(*tls.Config){"TLSv1.3": func(c *tls.Config) { c.MinVersion = tls.VersionTLS13 }}, instead: "write TLSv1.2 or TLSv1.3",
	},
	"ssl_max_protocol_version": {
		variable: "PGSSLMAXPROTOCOLVERSION", harmless: []string{"TLSv1.3"},
		tls: map[string]func(*tls.Config){"TLSv1.2": func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }}, instead: "write TLSv1.2 or TLSv1.3",
	},
	"load_balance_hosts":  {variable: "PGLOADBALANCEHOSTS", harmless: []string{"disable"}, instead: "hosts are tried in the order in which they are given: leave it out"},
	"scram_client_key":    {harmless: never, instead: "give the password"},
	"scram_server_key":    {harmless: never, instead: "give the password"},
	"oauth_issuer":        {harmless: never, instead: unsupported},
	"oauth_client_id":     {harmless: never, instead: unsupported},
	"oauth_client_secret": {harmless: never, instead: unsupported},
	"oauth_scope":         {harmless: never, instead: unsupported},
	"authtype":            {}, // libpq ignores these two
	"tty":                 {},
}

// serverSettings are start-up parameters of the server that may be given.
var serverSettings = []string{"options", "timezone"} // the second by PGTZ

// applyLibpq takes libpq's parameters out of those that would be sent to the server. It refuses, by its name and without
// its value, one that asks for what snapfleet cannot do. variable reads the environment.
func applyLibpq(cfg *pgx.ConnConfig, variable func(name string) string) error {
	for _, name := range slices.Sorted(maps.Keys(cfg.RuntimeParams)) {
		p, known := libpqParameters[name]
		if !known && slices.Contains(serverSettings, name) {
			continue
		}
		if !known {
			return fmt.Errorf("%.80q is not a connection parameter of libpq; correct it, or write a setting of the server as options=-c name=value", name)
		}
		if err := p.apply(cfg, cfg.RuntimeParams[name]); err != nil {
			return fmt.Errorf("the parameter %s: %w", name, err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(libpqParameters)) {
		p := libpqParameters[name]
		if _, given := cfg.RuntimeParams[name]; !given && p.variable != "" {
			if err := p.apply(cfg, variable(p.variable)); err != nil {
				return fmt.Errorf("the variable %s: %w", p.variable, err)
			}
		}
	}
	for name := range libpqParameters {
		delete(cfg.RuntimeParams, name)
	}
	return nil
}

func (p libpqParameter) apply(cfg *pgx.ConnConfig, value string) error {
	change := p.tls[value]
	switch {
	case value == "", p.harmless == nil, slices.Contains(p.harmless, value):
		return nil
	case change == nil:
		return fmt.Errorf("this value cannot be obeyed; %s", p.instead)
	}
	if cfg.TLSConfig != nil {
		change(cfg.TLSConfig)
	}
	for _, f := range cfg.Fallbacks {
		if f.TLSConfig != nil {
			change(f.TLSConfig)
		}
	}
	return nil
}
