package main

import (
	"path/filepath"
	"slices"
	"testing"
)

// TestExportOfAPart: an export takes the filter that a tenant's record has, from flags.
func TestExportOfAPart(t *testing.T) {
	t.Parallel()
	env := source(t, "cmd_export_part", tenant+"CREATE TABLE acme.audit_log (x int); CREATE TABLE acme.staging (x int);")
	to := t.TempDir()
	snapfleet(t, env, "export", "acme", "--to="+to, "--job=j1", "--exclude-tables=audit_*, staging,", "--attachments-newer-than=90d").
		want(t, exitOK, "2 tables, 5,000 rows")
	snapfleet(t, nil, "verify", filepath.Join(to, "acme", "j1")).want(t, exitOK, "left out tables: audit_log, staging (audit_*, staging)", "proven: 2 tables")
	snapfleet(t, env, "export", "acme", "--to="+to, "--job=j2", "--exclude-tables=").want(t, exitOK, "4 tables, 5,000 rows")
	snapfleet(t, env, "export", "acme", "--to="+to, "--job=j3", "--exclude-tables=*").
		want(t, exitRejected, `the tenant's filter leaves out all 4 tables of schema "acme"`, "fix:", "--exclude-tables")
	snapfleet(t, env, "export", "acme", "--to="+to, "--job=odd", `--exclude-tables=audit\,log,stagin`).
		want(t, exitOK, "4 tables, 5,000 rows", "2 patterns of --exclude-tables matched no table")
	snapfleet(t, nil, "verify", filepath.Join(to, "acme", "odd")).want(t, exitOK, `no table is called audit\,log, stagin`)
	for flag, says := range map[string]string{
		"--exclude-tables=a,[":           `"[" is no pattern such as audit_*`,
		"--attachments-newer-than=soon":  `"soon" is neither an age such as 90d nor an instant`,
		"--attachments-newer-than=-1d":   `"-1d" is neither an age such as 90d`,
		"--attachments-newer-than=90":    `"90" is neither an age such as 90d`,
		"--attachments-newer-than=2026-": `"2026-" is neither an age such as 90d`,
	} {
		snapfleet(t, env, "export", "acme", "--to="+to, "--job=j4", flag).want(t, exitUsage, says)
	}
}

// TestSplitPatterns: a comma after a backslash is the name's.
func TestSplitPatterns(t *testing.T) {
	t.Parallel()
	for in, want := range map[string][]string{
		"":          {""},
		"a,b":       {"a", "b"},
		`a\,b,c`:    {`a\,b`, "c"},
		`a\\,b`:     {`a\\`, "b"},
		`a\`:        {`a\`},
		`\,,\,`:     {`\,`, `\,`},
		"größe,*/*": {"größe", "*/*"},
	} {
		if got := splitPatterns(in); !slices.Equal(got, want) {
			t.Errorf("%s is %q, want %q", in, got, want)
		}
	}
}
