#!/bin/sh
# packages.sh NAME...   makes sure that these Debian packages are installed. COMMAND=NAME stands for: the package NAME,
# unless there is such a command already, which is quicker to find out and holds on other distributions too.
# As root on Debian or Ubuntu it installs what is missing; anywhere else it names it in one line and fails.
set -eu
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin # where an ordinary user's shell does not look

missing=
for package in "$@"; do
	case $package in
	*=*) command -v "${package%%=*}" >/dev/null || missing="$missing ${package#*=}" ;;
	*) dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package" ;;
	esac
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
	echo "lab: missing packages:$missing (on Debian or Ubuntu, as root: apt-get install$missing)" >&2
	exit 1
fi
echo "lab: installing$missing" >&2
export DEBIAN_FRONTEND=noninteractive
# Another run of this script may be installing at this moment: wait for it.
install() { apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=600 "$@" </dev/null; }
# A fresh machine has no package lists, an old one stale ones: ask for new ones only when the install fails.
# shellcheck disable=SC2086 # one word per package
install $missing >/dev/null 2>&1 || {
	apt-get update -qq >&2
	install $missing >&2
}
