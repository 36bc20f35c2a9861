#!/bin/sh
# kernel.sh   prints the path of a User-Mode Linux kernel with IPVS, built once into the user's cache folder.
#
# LAB_KERNEL=FILE               use this kernel, build nothing
# LAB_KERNEL=FILE.tar.xz        build from these sources
# LAB_KERNEL=linux-source-X.Y   build from this package instead of the newest one that the distribution offers
set -eu
here=$(cd "$(dirname "$0")" && pwd)
die() { echo "lab: $*" >&2; exit 1; }

archive= # the caller may have a variable of that name
case ${LAB_KERNEL:-} in
*/*.tar.*)
	archive=$(realpath "$LAB_KERNEL")
	[ -r "$archive" ] || die "LAB_KERNEL=$LAB_KERNEL is not a file that can be read"
	# Not a name that is taken for the newest one when nothing is asked for.
	LAB_KERNEL=from-$(basename "$archive" | sed 's/\.tar\..*//')
	;;
*/*)
	[ -x "$LAB_KERNEL" ] || die "LAB_KERNEL=$LAB_KERNEL is not an executable file"
	echo "$LAB_KERNEL"
	exit
	;;
esac
[ "$(uname -m)" = x86_64 ] || die "User-Mode Linux runs on x86_64 only, this is $(uname -m): use a host with ip_vs"

# What is built depends on the package, the configuration and the steps below: change `steps` when they change.
steps=1
cache=${XDG_CACHE_HOME:-${HOME:?is not set, and neither is XDG_CACHE_HOME}/.cache}/kube-ipvs-lab
config=$({ echo "$steps"; cat "$here/uml.config"; } | sha256sum | cut -c1-12)
newest_package() { apt-cache search --names-only '^linux-source-[0-9.]+$' 2>/dev/null | cut -d' ' -f1 | sort -V | tail -n 1; }
newest_built() { find "$cache" -mindepth 2 -maxdepth 2 -path "$cache/linux-source-*-$config/linux" 2>/dev/null | sort -V | tail -n 1; }

# The usual case comes first, since it is asked for on every run.
if [ -n "${LAB_KERNEL:-}" ]; then built=$cache/$LAB_KERNEL-$config/linux; else built=$(newest_built); fi
if [ -x "$built" ]; then
	echo "$built"
	exit
fi

package=${LAB_KERNEL:-$(newest_package)}
if [ -z "$package" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	apt-get update -qq >&2
	package=$(newest_package)
fi
[ -n "$package" ] || die "no package linux-source-* is known here: run 'apt-get update' as root, or name a kernel with LAB_KERNEL"
dir=$cache/$package-$config

# One build at a time: whoever comes second finds it done.
mkdir -p "$cache"
exec 9>"$cache/lock"
flock -n 9 || { echo "lab: another run is building the kernel, waiting for it" >&2; flock 9; }
if [ ! -x "$dir/linux" ]; then
	# What is left of a run that was killed: who builds a kernel has the lock. Such a run's `make` may still be writing there.
	rm -rf "$cache"/.build-linux-* || true
	[ -n "$archive" ] || "$here/packages.sh" "$package" >&2
	"$here/packages.sh" flex bison bc libelf-dev libssl-dev libc6-dev xz=xz-utils make gcc >&2
	archive=${archive:-$(find /usr/src -maxdepth 1 -name "$package.tar.*" | head -n 1)}
	[ -n "$archive" ] || die "package $package left no archive in /usr/src"
	work=$(mktemp -d "$cache/.build-linux-XXXXXX")
	trap 'rm -rf "$work" "$work.log"' EXIT
	echo "lab: building $package as User-Mode Linux, once (about five minutes on two cores)" >&2
	# timeout gives it a process group of its own, which ends as a whole when this script is told to end.
	# shellcheck disable=SC2016 # expands in the inner shell
	timeout 7200 sh -ec '
		cd "$3"
		tar -xf "$1" --strip-components=1
		make ARCH=um defconfig
		ARCH=um scripts/kconfig/merge_config.sh -m .config "$2"
		make ARCH=um olddefconfig
		make ARCH=um -j"$(nproc)" linux' build "$archive" "$here/uml.config" "$work" \
		>"$work.log" 2>&1 </dev/null 9>&- &
	trap 'kill $!; wait; exit 1' HUP INT TERM
	wait $! || { tail -n 30 "$work.log" >&2; die "the kernel did not build"; }
	mkdir "$work/result"
	cp "$work/linux" "$work/.config" "$work/result/"
	strip "$work/result/linux"
	rm -rf "$dir"
	mv -T "$work/result" "$dir"
fi
echo "$dir/linux"
