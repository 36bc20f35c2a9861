# The image holds kube-ipvs, the programs of iptables (to remove what kube-proxy left), and the usual certificate
# authorities. It is built for the architecture of the machine, or for that of --platform
# (docker buildx build --platform linux/amd64,linux/arm64).
FROM rust:1.95-slim-bookworm AS build
WORKDIR /source
COPY Cargo.toml Cargo.lock ./
COPY src src
# Cargo insists on the tests and benchmarks that Cargo.toml names, although it builds none of them here.
COPY tests tests
COPY benches benches
# The commit: metrics and log name it beside the version. `make image` passes it in.
ARG COMMIT=
RUN GIT_COMMIT="$COMMIT" cargo build --locked --release

# The same distribution as above, so that the binary finds the C library that it was linked with.
FROM debian:bookworm-slim AS files
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates iptables netbase \
	&& rm -rf /var/lib/apt/lists/*
COPY deploy/image/files.sh /files.sh
COPY --from=build /source/target/release/kube-ipvs /kube-ipvs
RUN /files.sh /kube-ipvs /image

FROM scratch
COPY --from=files /image /
ENTRYPOINT ["/usr/local/bin/kube-ipvs"]
