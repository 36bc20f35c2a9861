#!/bin/sh
# packages.sh NAME...   makes sure that these Debian packages are installed. COMMAND=NAME stands for: the package NAME,
# unless there is such a command already, which is quicker to find out and holds on other distributions too.
# As root on Debian or Ubuntu it installs what is missing; anywhere else it names it in one line and fails.
# Daemons that come with it (etcd, prometheus) are neither started nor enabled.
set -eu
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin # where an ordinary user's shell does not look

is_installed() { dpkg-query -W -f='${Status}' "$1" 2>/dev/null | grep -q 'ok installed'; }

missing=
for package in "$@"; do
	case $package in
	*=*) command -v "${package%%=*}" >/dev/null || missing="$missing ${package#*=}" ;;
	*) is_installed "$package" || missing="$missing $package" ;;
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
install() { apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=600 "$@" </dev/null 9>&-; }

# Of these packages the tests want a program each; the daemon would be started, and at each boot.
daemons=
for package in $missing; do
	case $package in
	etcd-server | prometheus) is_installed "$package" || daemons="$daemons $package" ;;
	esac
done
if [ -n "$daemons" ]; then
	# Whoever configures a package asks this file. One that is there is the owner's, or left by a run that was killed; two runs
	# at once must not take it away from each other.
	policy=/usr/sbin/policy-rc.d
	mark='# kube-ipvs, tests/lab/packages.sh: here as long as packages are installed'
	exec 9>/run/kube-ipvs-lab-packages
	flock 9
	if [ ! -e "$policy" ] || grep -qxF "$mark" "$policy"; then
		trap 'rm -f "$policy"' EXIT
		trap 'exit 1' HUP INT TERM
		# shellcheck disable=SC2016 # expands there
		printf '%s\n' '#!/bin/sh' "$mark" 'case " $* " in *" start "* | *"(start)"*) exit 101 ;; esac' >"$policy"
		chmod +x "$policy"
	fi
fi

# A fresh machine has no package lists, an old one stale ones: ask for new ones only when the install fails.
# shellcheck disable=SC2086 # one word per package
install $missing >/dev/null 2>&1 || {
	apt-get update -qq >&2
	install $missing >&2
}

if [ -n "$daemons" ] && [ -d /run/systemd/system ]; then
	# shellcheck disable=SC2086 # one word per package
	units=$(dpkg -L $daemons | sed -n 's|^\(/usr\)\{0,1\}/lib/systemd/system/\([^/]*\.service\)$|\2|p' | sort -u)
	# shellcheck disable=SC2086 # one word per unit
	[ -z "$units" ] || systemctl --quiet disable --now $units
	echo "lab: the daemons of$daemons are neither started nor enabled" >&2
fi
