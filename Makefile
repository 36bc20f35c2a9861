# An index of commands; the scripts that do the work are in tests/lab/.
program = $${CARGO_TARGET_DIR:-target}/debug/kube-ipvs

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /  make \1\t/p' Makefile

demo: toolchain ## a cluster of two nodes in the lab: every command shown, every step checked
	cargo build --quiet
	LAB_TIMEOUT=300 tests/lab/run.sh tests/lab/demo/play.sh "$(program)"

test: toolchain ## everything: unit, property, scenario and lab tests
	tests/lab/test.sh

compare: toolchain ## beside the kube-proxy of a release, built from its sources with Go: taken over, given back, compared
	program=$$(tests/lab/kube-proxy/build.sh) && CI=true LAB_TIMEOUT=3600 KUBE_PROXY=$$program cargo test --test kube_proxy

lint: toolchain ## format, clippy, the direction of dependencies, shell scripts
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	cargo clippy --test kube_proxy -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --document-private-items --quiet
	cargo test --test architecture
	tests/lab/packages.sh shellcheck=shellcheck
	shellcheck tests/lab/*.sh tests/lab/demo/*.sh tests/lab/kube-proxy/*.sh deploy/image/*.sh .ci/run

bench: toolchain ## every row of the table beside the floor of the kernel: target/bench.json, target/bench.svg
	cargo bench --bench sync
	cargo bench --bench lab

bench-quick: toolchain ## a part of that, in two minutes
	cargo bench --bench lab -- --quick

image: ## the container image kube-ipvs:latest
	docker build --build-arg COMMIT="$$(git describe --always --exclude '*' --abbrev=40 --dirty)" --tag kube-ipvs:latest .

# Besides cargo, a linker and a C compiler are needed: one dependency (ring) is partly C.
toolchain:
	@command -v cargo >/dev/null || { echo "cargo not found: install Rust with rustup (https://rustup.rs)" >&2; exit 1; }
	@tests/lab/packages.sh cc=build-essential

.PHONY: help demo test compare lint bench bench-quick image toolchain
