# kube-ipvs, the programs of iptables for the one thing that needs them, removing what kube-proxy left, and the usual authorities.
# Builds for the architecture of the machine, or of --platform (docker buildx build --platform linux/amd64,linux/arm64).
FROM rust:1.95-slim-bookworm AS build
WORKDIR /source
COPY Cargo.toml Cargo.lock ./
COPY src src
# Cargo wants to see the tests and benchmarks that Cargo.toml names, though it builds none of them.
COPY tests tests
COPY benches benches
# What the metrics and the log call this build, beside its version; `make image` says it.
ARG COMMIT=
RUN GIT_COMMIT="$COMMIT" cargo build --locked --release

# The same distribution: the binary finds its own C library there.
FROM debian:bookworm-slim AS files
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates iptables netbase \
	&& rm -rf /var/lib/apt/lists/*
COPY deploy/image/files.sh /files.sh
COPY --from=build /source/target/release/kube-ipvs /kube-ipvs
RUN /files.sh /kube-ipvs /image

FROM scratch
COPY --from=files /image /
ENTRYPOINT ["/usr/local/bin/kube-ipvs"]
