#!/bin/sh
# Runs the commands for DuckDB on contracts/README.md. DuckDB comes from npm, in one version, and goes away again.
set -eu

cd "$(dirname "$0")/.."
if ! command -v npm >/dev/null || ! command -v node >/dev/null; then
	echo "DuckDB is taken from npm: this takes npm and node." >&2
	exit 1
fi

home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
npm install --silent --no-audit --no-fund --prefix "$home" @duckdb/node-api@1.5.6-r.1
SNAPFLEET_TEST_DUCKDB=$home "${GO:-go}" test -tags duckdb -count=1 ./test -run '^TestDuckDB$'
