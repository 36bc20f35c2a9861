#!/bin/sh
# files.sh BINARY FOLDER   fills FOLDER with the file system of the image: BINARY under its two names, with the libraries it
# needs; from the Debian package iptables, which must be installed here, the programs of iptables-legacy and iptables-nft
# for both families with their libraries and extensions; and from ca-certificates the authorities that a kubeconfig
# without one goes by. Nothing else: no shell, no package manager.
set -eu
[ $# = 2 ] || { echo "usage: files.sh BINARY FOLDER" >&2; exit 2; }
binary=$1
root=$2

# With the same path inside, and with the names of the links that lead there.
put() {
	mkdir -p "$root$(dirname "$1")"
	[ -e "$root$1" ] || cp -a "$1" "$root$1"
	if [ -L "$1" ]; then put "$(readlink -f "$1")"; fi
}
# The libraries of programs, and what loads them.
put_libraries() {
	needed=$(ldd "$@" 2>&1) || true
	if lacking=$(printf '%s\n' "$needed" | grep 'not found'); then
		echo "files.sh: $lacking" >&2
		exit 1
	fi
	printf '%s\n' "$needed" | sed -n 's/.*=> \(\/[^ ]*\) .*/\1/p; s/^[[:space:]]*\(\/[^ ]*\) (.*/\1/p' | sort -u | while read -r library; do
		put "$library"
	done
}

mkdir -p "$root/usr/local/bin" "$root/usr/sbin" "$root/usr/lib" "$root/run" "$root/tmp" "$root/proc" "$root/sys" "$root/dev" "$root/etc"
# As on a system whose /usr is merged: a library is found under either path.
for folder in lib lib64 sbin; do
	mkdir -p "$root/usr/$folder"
	[ -e "$root/$folder" ] || ln -s "usr/$folder" "$root/$folder"
done
install -m 755 "$binary" "$root/usr/local/bin/kube-ipvs"
ln -sf kube-ipvs "$root/usr/local/bin/kube-proxy"
put_libraries "$binary"

for variant in legacy nft; do
	put "/usr/sbin/xtables-$variant-multi"
	for family in iptables ip6tables; do
		for program in "" -save -restore; do
			put "/usr/sbin/$family-$variant$program"
		done
	done
done
extensions=$(dirname "$(find /usr/lib -name libxt_comment.so | head -n 1)")
mkdir -p "$root$extensions"
cp -a "$extensions"/*.so "$root$extensions/"
put_libraries /usr/sbin/xtables-legacy-multi /usr/sbin/xtables-nft-multi "$extensions"/*.so
# Names of protocols in rules.
put /etc/protocols
# Names of hosts: those that the container runtime writes, then the cluster's.
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
# Whom the API server's certificate is checked by, where the kubeconfig names no certificate-authority.
put /etc/ssl/certs/ca-certificates.crt
