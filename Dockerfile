# syntax=docker/dockerfile:1

# The worker's image: one static binary, the certificate authorities, an empty folder to write in.
#
#   docker build -t twitterstream .                     the worker
#   docker build -t twitterstream --target injected .   the counter-example
#   docker build --platform linux/arm64 ...             for Graviton: nothing below names an architecture
#   docker build --build-arg GIT_COMMIT=... ...         the log's first line says so

ARG RUST=docker.io/library/rust:1.95.0-slim-trixie

# The list of crates goes into the binary, where scanners of images find it.
FROM ${RUST} AS toolchain
ARG CARGO_AUDITABLE=0.7.7
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    cargo install --locked --version "=${CARGO_AUDITABLE}" cargo-auditable

# The C library is linked in, so that the last stage needs no file of a distribution. The target is
# named below, though it is the builder's own: without it the flag would be for build scripts too.
FROM toolchain AS source
WORKDIR /source
COPY Cargo.toml Cargo.lock ./
COPY src src
ENV RUSTFLAGS="-C target-feature=+crt-static"

FROM source AS build
ARG GIT_COMMIT=
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/source/target \
    target=$(rustc --print host-tuple) && \
    cargo auditable build --locked --profile image --target "$target" --bin twitterstream && \
    install -D -t /root-of-image "target/$target/image/twitterstream"

FROM source AS build-injected
ARG GIT_COMMIT=
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/source/target \
    target=$(rustc --print host-tuple) && \
    cargo auditable build --locked --profile image --target "$target" --bin injected --features demo && \
    install -D -t /root-of-image "target/$target/image/injected"

# What both models share. Fargate gives a volume the owner that the image's folder has only where
# the image declares it as a VOLUME. The health checks below are for docker: ECS heeds those of the
# task definition alone.
FROM scratch AS base
COPY --from=toolchain /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=toolchain /mnt /var/lib
COPY --from=toolchain --chown=65532:65532 /mnt /var/lib/twitterstream
VOLUME /var/lib/twitterstream
USER 65532:65532
STOPSIGNAL SIGTERM
LABEL org.opencontainers.image.title="twitterstream" \
      org.opencontainers.image.licenses="Apache-2.0"

FROM base AS injected
LABEL org.opencontainers.image.description="The counter-example: its credentials are injected into its environment"
COPY --from=build-injected /root-of-image/injected /injected
ENTRYPOINT ["/injected"]
HEALTHCHECK --interval=30s --timeout=5s --start-period=300s --retries=3 CMD ["/injected", "health"]

FROM base AS worker
LABEL org.opencontainers.image.description="A worker for AWS Fargate that fetches, holds and rotates its third-party credentials itself"
COPY --from=build /root-of-image/twitterstream /twitterstream
ENTRYPOINT ["/twitterstream"]
HEALTHCHECK --interval=30s --timeout=5s --start-period=300s --retries=3 CMD ["/twitterstream", "health"]
