#!/bin/sh
# Runs the commands of deploy/nats/README.md, and the README's first steps, with the real nats-server, nats and nk, which are built in these versions.
set -eu

cd "$(dirname "$0")/.."
GO=${GO:-go}
programs=$(mktemp -d)
trap 'rm -rf "$programs"' EXIT
"$GO" build -o "$programs/nats-server" github.com/nats-io/nats-server/v2
GOBIN=$programs "$GO" install github.com/nats-io/natscli/nats@v0.5.1
GOBIN=$programs "$GO" install github.com/nats-io/nkeys/nk@v0.4.16
SNAPFLEET_TEST_NATSCLI=$programs "$GO" test -tags natscli -count=1 ./test -run '^(TestNATSPage|TestRunIt)$' "$@"
