#!/bin/sh
# run.sh COMMAND [ARGUMENT...]   runs a command as root on a kernel with IPVS, with a network of its own, and ends with
# its exit status. Folder, environment and output are the caller's; standard input is empty. Whatever the command
# leaves running ends with it.
#
# Where the running kernel has ip_vs and the user is root, that is a fresh set of namespaces on this host. Anywhere
# else a User-Mode Linux kernel (kernel.sh) is booted for the command, with the host's files as its own; there /run
# and $TMPDIR are empty and in memory.
#
# LAB_HOST=yes|no     insist on the host's kernel, or on User-Mode Linux (default: the host's where it can)
# LAB_KERNEL          see kernel.sh
# LAB_PROCESSOR=N     the host's processor that the lab kernel runs on (default: one of those that are allowed)
# LAB_MEMORY=2048     memory of the lab kernel, in MiB
# LAB_TIMEOUT=600     seconds after which the command is ended; the status is then 124
#
# Status 125: the lab itself failed, and says why.
set -eu
# Where the programs are, and where a shell does not look that was an ordinary user's before plain `su`.
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
here=$(cd "$(dirname "$0")" && pwd)
memory=${LAB_MEMORY:-2048}
timeout=${LAB_TIMEOUT:-600}
[ $# -gt 0 ] || { echo "usage: run.sh COMMAND [ARGUMENT...]" >&2; exit 2; }
case $memory in *[!0-9]* | '') echo "lab: LAB_MEMORY=$memory: a number of MiB is wanted" >&2; exit 2 ;; esac
case $timeout in *[!0-9]* | '') echo "lab: LAB_TIMEOUT=$timeout: a number of seconds is wanted" >&2; exit 2 ;; esac

# What the demo and the tests look at the kernel with.
"$here/packages.sh" ip=iproute2 ipvsadm=ipvsadm nft=nftables conntrack=conntrack iptables=iptables ipset=ipset nfacct=nfacct \
	update-ca-certificates=ca-certificates \
	socat=socat tcpdump=tcpdump ping=iputils-ping sysctl=procps || exit 125

# Sets $status. In the background, so that a signal to this script ends the command at once.
supervise() {
	status=0
	timeout -k 5 "$timeout" "$@" &
	child=$!
	trap 'stop 129' HUP
	trap 'stop 130' INT
	trap 'stop 143' TERM
	wait "$child" || status=$?
	trap - HUP INT TERM
}
# shellcheck disable=SC2317,SC2329 # called by traps
stop() {
	trap '' HUP INT TERM
	kill "$child" 2>/dev/null || true
	wait "$child" || true
	exit "$1"
}
timed_out() {
	echo "lab: ended after $timeout seconds (LAB_TIMEOUT)" >&2
	exit 124
}

host_can() { [ "$(id -u)" = 0 ] && { [ -e /proc/net/ip_vs ] || modprobe ip_vs 2>/dev/null; } && unshare -nmpf true 2>/dev/null; }
case ${LAB_HOST:-auto} in
yes) host_can || { echo "lab: LAB_HOST=yes, but this host has no ip_vs, or you are not root" >&2; exit 2; } ;;
no) ;;
auto) if host_can; then LAB_HOST=yes; else LAB_HOST=no; fi ;;
*) echo "lab: LAB_HOST=$LAB_HOST: allowed are yes and no" >&2; exit 2 ;;
esac

if [ "$LAB_HOST" = yes ]; then
	# A mount namespace, so that /sys and `ip netns` show the new network only; a PID namespace, which ends as a whole.
	# shellcheck disable=SC2016 # $@ is the inner shell's
	supervise unshare -nmpf --kill-child --mount-proc sh -ec '
		mount -t sysfs sysfs /sys
		mount -t tmpfs tmpfs /run
		mkdir -p /run/tmp /run/netns /run/lock
		ip link set lo up
		LAB=host TMPDIR=/run/tmp "$@" </dev/null' lab "$@"
	[ "$status" != 124 ] || timed_out
	exit "$status"
fi

kernel=$("$here/kernel.sh") || exit 125
dir=$(mktemp -d "${TMPDIR:-/tmp}/lab-XXXXXX")
trap 'rm -rf "$dir"' EXIT

quote() { printf "'%s' " "$(printf %s "$1" | sed "s/'/'\\\\''/g")"; }
{
	cat <<-'END'
		#!/bin/sh
		PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
		mount -t proc proc /proc
		mount -t sysfs sysfs /sys
		mount -t devtmpfs devtmpfs /dev
		mkdir -p /dev/pts /dev/shm
		mount -t devpts devpts /dev/pts
		mount -t tmpfs tmpfs /dev/shm
		mount -t tmpfs tmpfs /run
		mkdir -p /run/tmp /run/netns /run/lock
		ln -s /proc/self/fd /dev/fd
		ln -s /proc/self/fd/0 /dev/stdin
		ln -s /proc/self/fd/1 /dev/stdout
		ln -s /proc/self/fd/2 /dev/stderr
		exec 3>&2 </dev/null >/dev/tty0 2>/dev/tty2
		stty -opost </dev/tty0
		stty -opost </dev/tty2
		ip link set lo up
		unset seccomp uml_dir
	END
	export -p
	[ -t 1 ] || echo 'export TERM=dumb' # what looks like a terminal inside is none
	echo 'export TMPDIR=/run/tmp LAB=uml'
	printf 'cd '
	quote "$PWD"
	echo "|| { echo 'lab: that folder does not exist inside' >&2; status=125; }"
	printf '%s' "[ -n \"\${status:-}\" ] || { ("
	for word in "$@"; do quote "$word"; done
	echo ') 3>&-; status=$?; }'
	echo "echo \$status >'$dir/status'"
	# stty waits until all output is out. Not every machine has `halt`.
	cat <<-'END'
		exec 2>&3
		stty opost </dev/tty0
		stty opost </dev/tty2
		sync
		halt -f
		perl -e 'syscall(169, 0xfee1dead, 672274793, 0xcdef0123, 0)'
		echo 'lab: neither halt nor perl'
	END
} >"$dir/init"
chmod +x "$dir/init"

# The memory of the lab kernel is a file: in memory itself where that has room and lets code run.
store=${TMPDIR:-/tmp}
if [ "$(df -Pm /dev/shm 2>/dev/null | awk 'NR == 2 { print $4 }')" -gt "$memory" ] 2>/dev/null &&
	! grep -q '^[^ ]* /dev/shm .*noexec' /proc/mounts; then
	store=/dev/shm
fi

# The kernel's own messages go to its second console and a file: what the caller sees is the command's output alone.
# It would switch a terminal to raw mode, so it gets pipes.
mkfifo "$dir/out" "$dir/err"
cat <"$dir/out" &
out=$!
cat <"$dir/err" >&2 &
err=$!
# The lab kernel has one processor, but the host sees a process for each address space in it, and every system call and
# page fault inside is a turn from one process to another. On one processor of the host such a turn takes half of the
# time, on an idle machine a quarter of it.
processors=$(taskset -cp $$ | sed 's/.*: //' | tr ',' '\n' | while IFS=- read -r first last; do seq "$first" "${last:-$first}"; done)
processor=${LAB_PROCESSOR:-$(echo "$processors" | sed -n "$((1 + $$ % $(echo "$processors" | wc -l)))p")}

supervise taskset -c "$processor" env "TMPDIR=$store" "$kernel" "mem=${memory}M" rootfstype=hostfs rootflags=/ rw "init=$dir/init" "uml_dir=$dir/uml" \
	con=null con0=null,fd:4 con1=null,fd:1 con2=null,fd:5 console=tty1 seccomp=auto quiet \
	4>"$dir/out" 5>"$dir/err" >"$dir/boot.log" 2>&1
wait "$out" "$err" || true

[ ! -s "$dir/status" ] || exit "$(cat "$dir/status")"
case $status in 124 | 137) timed_out ;; esac
cat "$dir/boot.log" >&2
echo "lab: the kernel ended ($status) before the command did" >&2
exit 125
