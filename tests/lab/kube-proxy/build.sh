#!/bin/sh
# build.sh   builds the kube-proxy of the Kubernetes release that go.mod names, from the project's own published sources,
# unless that was done before, and prints the program's path. Tests compare kube-ipvs with it, and take over from it.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cd "$here"
PATH=$PATH:/usr/local/go/bin
command -v go >/dev/null || { echo "build.sh: go not found (Debian package golang-go, or newer from the Go project)" >&2; exit 1; }
version=$(awk '$1 == "k8s.io/kubernetes" { print $2 }' go.mod)

hash=$({ go version; cat go.mod go.sum main.go build.sh; } | sha256sum | cut -c1-16)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/kube-ipvs-lab
program=$cache/kube-proxy-$version-$hash
if [ ! -x "$program" ]; then
	mkdir -p "$cache"
	temporary=$(mktemp "$cache/.kube-proxy-XXXXXX")
	trap 'rm -f "$temporary"' EXIT
	trap 'exit 1' HUP INT TERM
	echo "build.sh: building kube-proxy $version, which takes some minutes" >&2
	minor=${version#v1.}
	stamp=k8s.io/component-base/version
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -o "$temporary" -ldflags \
		"-s -w -X $stamp.gitVersion=$version -X $stamp.gitMajor=1 -X $stamp.gitMinor=${minor%%.*}" . >&2
	chmod 755 "$temporary"
	# Another build may have won the race: its result is as good.
	mv "$temporary" "$program"
fi
echo "$program"
