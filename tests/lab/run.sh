#!/bin/sh
# run.sh COMMAND [ARGUMENT...]   runs a command as root on a kernel with IPVS, with a network of its own, and ends with
# its exit status. Folder and environment are the caller's; standard input is empty.
#
# Where the running kernel has ip_vs and the user is root, that is a fresh network namespace of this host. Anywhere
# else a User-Mode Linux kernel (kernel.sh) is booted for the command, with the host's files as its own.
#
# LAB_HOST=yes|no     insist on the host's kernel, or on User-Mode Linux (default: the host's where it can)
# LAB_KERNEL          see kernel.sh
# LAB_MEMORY=2048M    memory of the lab kernel
# LAB_TIMEOUT=600     seconds after which the lab kernel is ended; the status is then 124
set -eu
here=$(cd "$(dirname "$0")" && pwd)
[ $# -gt 0 ] || { echo "usage: run.sh COMMAND [ARGUMENT...]" >&2; exit 2; }

host_can() { [ "$(id -u)" = 0 ] && { [ -e /proc/net/ip_vs ] || modprobe ip_vs 2>/dev/null; } && unshare -n true 2>/dev/null; }

case ${LAB_HOST:-auto} in
yes) host_can || { echo "lab: LAB_HOST=yes, but this host has no ip_vs, or you are not root" >&2; exit 2; } ;;
no) ;;
auto) if host_can; then LAB_HOST=yes; else LAB_HOST=no; fi ;;
*) echo "lab: LAB_HOST=$LAB_HOST: allowed are yes and no" >&2; exit 2 ;;
esac

if [ "$LAB_HOST" = yes ]; then
	# A mount namespace too, so that /sys and `ip netns` show the new network only.
	exec timeout -k 5 "${LAB_TIMEOUT:-600}" unshare -n -m sh -ec '
		mount --make-rprivate /
		mount -t sysfs sysfs /sys
		mount -t tmpfs tmpfs /run
		ip link set lo up
		LAB=host exec "$@"' lab "$@" </dev/null
fi

kernel=$("$here/kernel.sh")
dir=$(mktemp -d "${TMPDIR:-/tmp}/lab-XXXXXX")
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM

quote() { printf "'%s' " "$(printf %s "$1" | sed "s/'/'\\\\''/g")"; }
{
	cat <<-'END'
		#!/bin/sh
		export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
		mount -t proc proc /proc
		mount -t sysfs sysfs /sys
		mountpoint -q /dev || mount -t devtmpfs devtmpfs /dev
		mkdir -p /dev/pts /dev/shm
		mount -t devpts devpts /dev/pts
		mount -t tmpfs tmpfs /dev/shm
		mount -t tmpfs tmpfs /run
		mkdir -p /run/tmp /run/netns /run/lock
		ln -s /proc/self/fd /dev/fd
		ln -s /proc/self/fd/0 /dev/stdin
		ln -s /proc/self/fd/1 /dev/stdout
		ln -s /proc/self/fd/2 /dev/stderr
		stty -opost
		ip link set lo up
	END
	export -p
	echo 'export TMPDIR=/run/tmp LAB=uml'
	printf 'cd '
	quote "$PWD"
	echo
	printf '('
	for word in "$@"; do quote "$word"; done
	echo ') </dev/null'
	echo "echo \$? >'$dir/status'"
	echo 'halt -f >/dev/null 2>&1'
} >"$dir/init"
chmod +x "$dir/init"

status=0
TMPDIR=/dev/shm timeout -k 5 "${LAB_TIMEOUT:-600}" "$kernel" "mem=${LAB_MEMORY:-2048M}" rootfstype=hostfs rootflags=/ rw \
	"init=$dir/init" "uml_dir=$dir/uml" con=null con0=fd:3,fd:4 quiet 3</dev/null 4>&1 >"$dir/boot.log" 2>&1 </dev/null || status=$?
[ "$status" != 124 ] && [ "$status" != 137 ] || { echo "lab: ended after ${LAB_TIMEOUT:-600} seconds" >&2; exit 124; }
[ -s "$dir/status" ] || { cat "$dir/boot.log" >&2; echo "lab: the kernel ended ($status) before the command did" >&2; exit 125; }
exit "$(cat "$dir/status")"
