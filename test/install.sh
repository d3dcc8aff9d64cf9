#!/bin/sh
# Installs what the tests need besides Go: PostgreSQL, a C compiler (for -race), and the programs that
# extract a delivery the way customers do. Root on Debian or Ubuntu gets them by apt; everybody else is told
# what is missing. Does nothing when all of it is there.
set -eu

# The folders in which Debian and Ubuntu keep PostgreSQL's server programs.
have_postgres() {
	for dir in "$(pg_config --bindir 2>/dev/null || true)" /usr/lib/postgresql/*/bin; do
		if [ -x "$dir/postgres" ] && [ -x "$dir/initdb" ]; then return 0; fi
	done
	command -v postgres >/dev/null && command -v initdb >/dev/null
}

have_compiler() { command -v "${CC:-gcc}" >/dev/null && echo '#include <stdlib.h>' | "${CC:-gcc}" -E -x c - >/dev/null 2>&1; }
have_gnu_tar() { tar --version 2>/dev/null | grep -q 'GNU tar'; }
have() { command -v "$1" >/dev/null; }

packages=
have_postgres || packages="$packages postgresql"
have_compiler || packages="$packages gcc libc6-dev"
have_gnu_tar || packages="$packages tar"
have bsdtar || packages="$packages libarchive-tools"
have python3 || packages="$packages python3"
have git || packages="$packages git"
have pgbouncer || [ -x /usr/sbin/pgbouncer ] || packages="$packages pgbouncer"
have jq || packages="$packages jq"
have psql || packages="$packages postgresql-client"
[ -n "$packages" ] || exit 0

if [ "$(id -u)" -ne 0 ] || ! have apt-get; then
	echo "The tests need programs that this machine lacks. On Debian or Ubuntu:" >&2
	echo "    sudo apt-get install -y --no-install-recommends$packages" >&2
	echo "Elsewhere: PostgreSQL's server (14 or newer), a C compiler, GNU tar, bsdtar, python3, git, jq, psql and pgbouncer, in PATH." >&2
	exit 1
fi

echo "installing$packages" >&2
# The tests want PostgreSQL's programs, and start servers of their own; Debian's package would start one, too.
cluster=/etc/postgresql-common/createcluster.conf
case $packages in *postgresql*)
	if [ ! -e $cluster ]; then
		mkdir -p "${cluster%/*}"
		echo 'create_main_cluster = false' >$cluster
		# Afterwards the package's own settings apply again.
		trap 'rm -f $cluster; if [ -e $cluster.ucf-dist ]; then mv $cluster.ucf-dist $cluster; fi' EXIT
	fi
	;;
esac
log=$(mktemp)
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086
if ! { apt-get update -q && apt-get install -q -y --no-install-recommends \
	-o Dpkg::Options::=--force-confold $packages; } >"$log" 2>&1 </dev/null; then
	cat "$log" >&2
	echo "apt-get could not install:$packages" >&2
	exit 1
fi
case $packages in *pgbouncer*) service pgbouncer stop >/dev/null 2>&1 || true ;; esac # the tests start their own
rm -f "$log"
