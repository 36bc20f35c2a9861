# A static binary and nothing else: no shell, no iptables, no ipset, no ipvsadm.
FROM rust:1.95-slim-bookworm AS build
# musl's resolver needs no files beside the binary, unlike a static glibc; ring compiles C with musl-gcc.
RUN apt-get update && apt-get install -y --no-install-recommends musl-tools \
	&& rm -rf /var/lib/apt/lists/* \
	&& rustup target add "$(uname -m)-unknown-linux-musl"
WORKDIR /source
COPY Cargo.toml Cargo.lock ./
COPY src src
# Cargo wants to see the tests and benchmarks that Cargo.toml names, though it builds none of them.
COPY tests tests
COPY benches benches
RUN cargo build --locked --release --target "$(uname -m)-unknown-linux-musl" \
	&& cp "target/$(uname -m)-unknown-linux-musl/release/kube-ipvs" /kube-ipvs

FROM scratch
COPY --from=build /kube-ipvs /usr/local/bin/kube-ipvs
ENTRYPOINT ["/usr/local/bin/kube-ipvs"]
