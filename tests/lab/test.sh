#!/bin/sh
# test.sh [ARGUMENT...]   all tests: cargo test with these arguments, the lab made ready first, and a look at what was
# left out. With CI=true a test that is ignored is a failure; otherwise its reason is shown at the end.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
# The first boot installs and builds what the lab needs; a test that met it would take minutes.
"$here/run.sh" true
"$here/packages.sh" promtool=prometheus /usr/lib/systemd/systemd=systemd

output=$(mktemp)
trap 'rm -f "$output"' EXIT
status=0
# A status passes no pipe.
{ cargo test --no-fail-fast "$@" 2>&1 </dev/null || echo "$?" >"$output.status"; } | tee "$output"
if [ -e "$output.status" ]; then
	status=$(cat "$output.status")
	rm "$output.status"
fi

# "test result: ok. 12 passed; 0 failed; 2 ignored; ...", one line per program, whatever wrote it (libtest or
# libtest-mimic); "test a_name ... ignored, the reason".
results=$(grep -c '^test result: ' "$output") || true
ignored=$(awk '/^test result: / { for (i = 2; i <= NF; i++) if ($i ~ /^ignored[;,.]?$/) n += $(i - 1) } END { print n + 0 }' "$output")
if [ "$results" = 0 ] && [ "$status" = 0 ]; then
	echo "test.sh: no program said how its tests went" >&2
	exit 1
fi
if [ "$ignored" != 0 ]; then
	echo
	echo "$ignored ignored:"
	grep -E '^test .* \.\.\. ignored' "$output" || true
	if [ "${CI:-}" = true ]; then
		echo "test.sh: under CI=true nothing may be ignored" >&2
		exit 1
	fi
fi
exit "$status"
