# syntax=docker/dockerfile:1
# Ringpost in a container. It needs io_uring, which the seccomp profiles of Docker (since version
# 25), containerd and Podman refuse; see tuning/README.md for the profile to run it with:
#
#   docker build -t ringpost .
#   docker run --security-opt seccomp=seccomp.json --ulimit memlock=67108864 \
#       -v mail:/var/spool/ringpost -p 25:25 -p 127.0.0.1:9025:9025 ringpost
#
# `--target load` builds the image of the load generator instead; loadtest/compose.yaml uses both.

FROM rust:1.95-bookworm AS builder
# Versions are not pinned: Debian removes old ones with the next point release.
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends clang libclang-dev g++ git make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN make release CARGO_FLAGS="--locked --workspace"

FROM debian:bookworm-slim AS base
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ca-certificates libstdc++6 \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 2525 ringpost \
    && useradd --uid 2525 --gid 2525 --no-create-home --shell /usr/sbin/nologin ringpost

FROM base AS load
RUN install -d -o ringpost -g ringpost -m 755 /report
COPY --from=builder /src/target/dist/ringpost-load /usr/local/bin/ringpost-load
# A numeric id, so that a runtime can verify that the user is not root.
USER 2525:2525
WORKDIR /report
VOLUME /report
ENTRYPOINT ["ringpost-load"]
CMD ["--help"]

FROM base AS ringpost
RUN install -d -o ringpost -g ringpost -m 700 /var/spool/ringpost
COPY --from=builder /src/target/dist/ringpost /usr/local/bin/ringpost
COPY tuning/container.toml /etc/ringpost/ringpost.toml

# Docker lets any user of a container bind low ports, so the server never runs as root; Podman needs
# `--sysctl net.ipv4.ip_unprivileged_port_start=25` for this.
USER 2525:2525
WORKDIR /var/spool/ringpost
VOLUME /var/spool/ringpost
EXPOSE 25 2525 9025
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["ringpost", "health", "--config", "/etc/ringpost/ringpost.toml"]
ENTRYPOINT ["ringpost"]
CMD ["serve", "--config", "/etc/ringpost/ringpost.toml"]
