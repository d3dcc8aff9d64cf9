#!/bin/sh
# Checks what Prometheus is given with Prometheus' own tool: the rules, that each alert fires when it ought to and not
# otherwise, and the metrics as a worker tells them. promtool comes from PATH or, for root on Debian or Ubuntu, out of the
# distribution's package, which is unpacked into bin and not installed.
set -eu
cd "$(dirname "$0")/.."
mkdir -p bin

promtool=$(command -v promtool || true)
if [ -z "$promtool" ]; then
	promtool=bin/prometheus/usr/bin/promtool
	if [ ! -x $promtool ]; then
		if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
			echo "make rules needs promtool: install Prometheus (on Debian or Ubuntu: sudo apt-get install prometheus; elsewhere: https://prometheus.io/download/)" >&2
			exit 1
		fi
		log=$(mktemp)
		dir=$(mktemp -d)
		trap 'rm -rf "$log" "$dir"' EXIT
		chmod 755 "$dir"
		if ! { apt-get update -q && cd "$dir" && apt-get download -q prometheus; } >"$log" 2>&1 </dev/null; then
			cat "$log" >&2
			echo "apt-get could not download prometheus" >&2
			exit 1
		fi
		rm -rf "$OLDPWD/bin/prometheus"
		cd "$OLDPWD"
		dpkg-deb -x "$dir"/prometheus_*.deb bin/prometheus
	fi
fi

"$promtool" check rules deploy/prometheus/rules.yaml
"$promtool" test rules deploy/prometheus/rules_test.yaml
scraped=$PWD/bin/metrics.txt
"${GO:-go}" test ./test -run '^(TestMetricsPage|TestDashboard|TestAlertsHaveAnEntryInTheRunbook|TestRunbookCommandsExist)$' -count=1 -args -scraped="$scraped"
"$promtool" check metrics <"$scraped"
