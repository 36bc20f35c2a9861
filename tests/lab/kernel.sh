#!/bin/sh
# kernel.sh   prints the path of a User-Mode Linux kernel with IPVS, built once into the user's cache folder.
#
# LAB_KERNEL=FILE       use this kernel, build nothing
# LAB_KERNEL=linux-source-X.Y   build from this package instead of the newest one that the distribution offers
set -eu
here=$(cd "$(dirname "$0")" && pwd)
die() { echo "lab: $*" >&2; exit 1; }

case ${LAB_KERNEL:-} in
*/*)
	[ -x "$LAB_KERNEL" ] || die "LAB_KERNEL=$LAB_KERNEL is not an executable file"
	echo "$LAB_KERNEL"
	exit
	;;
esac
[ "$(uname -m)" = x86_64 ] || die "User-Mode Linux runs on x86_64 only, this is $(uname -m): use a host with ip_vs"

cache=${XDG_CACHE_HOME:-$HOME/.cache}/kube-ipvs-lab
config=$(sha256sum "$here/uml.config" "$here/kernel.sh" | sha256sum | cut -c1-12)
newest() { apt-cache search --names-only '^linux-source-[0-9.]+$' 2>/dev/null | cut -d' ' -f1 | sort -V | tail -n 1; }

package=${LAB_KERNEL:-}
if [ -z "$package" ]; then
	# Quick on every later run: the newest kernel built with this configuration.
	built=$(find "$cache" -maxdepth 2 -path "$cache/linux-source-*-$config/linux" 2>/dev/null | sort -V | tail -n 1)
	[ -z "$built" ] || { echo "$built"; exit; }
	package=$(newest)
	if [ -z "$package" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
		apt-get update -qq >&2
		package=$(newest)
	fi
	[ -n "$package" ] || die "no package linux-source-* is known here: run 'apt-get update', or name a kernel with LAB_KERNEL"
fi

dir=$cache/$package-$config
if [ ! -x "$dir/linux" ]; then
	"$here/packages.sh" "$package" flex bison bc libelf-dev libssl-dev libc6-dev xz-utils make gcc >&2
	archive=$(find /usr/src -maxdepth 1 -name "$package.tar.*" | head -n 1)
	[ -n "$archive" ] || die "package $package left no archive in /usr/src"
	mkdir -p "$cache"
	work=$(mktemp -d "$cache/.build-XXXXXX")
	trap 'rm -rf "$work"' EXIT
	trap 'exit 1' HUP INT TERM
	echo "lab: building $package as User-Mode Linux, once (about five minutes on two cores)" >&2
	tar -xf "$archive" -C "$work" --strip-components=1
	log=$work/.lab.log
	(
		cd "$work"
		make ARCH=um defconfig
		ARCH=um scripts/kconfig/merge_config.sh -m .config "$here/uml.config"
		make ARCH=um olddefconfig
		make ARCH=um -j"$(nproc)" linux
	) >"$log" 2>&1 </dev/null || { tail -n 30 "$log" >&2; die "the kernel did not build"; }
	mkdir -p "$dir.new.$$"
	cp "$work/linux" "$work/.config" "$dir.new.$$/"
	strip "$dir.new.$$/linux"
	# Another build may have won the race: its result is as good.
	mv -T "$dir.new.$$" "$dir" 2>/dev/null || { rm -rf "$dir.new.$$"; [ -x "$dir/linux" ] || die "cannot create $dir"; }
fi
echo "$dir/linux"
