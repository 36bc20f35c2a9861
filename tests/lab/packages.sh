#!/bin/sh
# packages.sh NAME...   makes sure that these Debian packages are installed.
# As root on Debian or Ubuntu it installs what is missing; anywhere else it names it in one line and fails.
set -eu

missing=
for package in "$@"; do
	dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
	echo "lab: missing packages:$missing (on Debian or Ubuntu, as root: apt-get install$missing)" >&2
	exit 1
fi
echo "lab: installing$missing" >&2
export DEBIAN_FRONTEND=noninteractive
# A fresh machine has no package lists, an old one stale ones: ask for new ones only when the install fails.
# shellcheck disable=SC2086 # one word per package
apt-get install -y -qq --no-install-recommends $missing >/dev/null 2>&1 || {
	apt-get update -qq >&2
	apt-get install -y -qq --no-install-recommends $missing >/dev/null 2>&1 ||
		apt-get install -y --no-install-recommends $missing >&2
}
