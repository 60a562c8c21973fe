# syntax=docker/dockerfile:1
# Ringpost in a container. It needs io_uring, which Docker's own seccomp profile has refused since
# version 25; see tuning/README.md for the profile to run it with:
#
#   docker build -t ringpost .
#   docker run --security-opt seccomp=seccomp.json --ulimit memlock=67108864 \
#       -v mail:/var/spool/ringpost -p 25:25 -p 127.0.0.1:9090:9090 ringpost

FROM rust:1.95-bookworm AS builder
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends clang libclang-dev g++ git make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN make release CARGO_FLAGS=--locked

FROM debian:bookworm-slim
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ca-certificates libstdc++6 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 2525 --user-group --no-create-home --shell /usr/sbin/nologin ringpost \
    && install -d -o ringpost -g ringpost -m 700 /var/spool/ringpost
COPY --from=builder /src/target/dist/ringpost /usr/local/bin/ringpost
COPY tuning/container.toml /etc/ringpost/ringpost.toml

# Docker lets any user of a container bind low ports, so nothing here ever runs as root.
USER ringpost
WORKDIR /var/spool/ringpost
VOLUME /var/spool/ringpost
EXPOSE 25 2525 9090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["ringpost", "health", "--config", "/etc/ringpost/ringpost.toml"]
ENTRYPOINT ["ringpost"]
CMD ["serve", "--config", "/etc/ringpost/ringpost.toml"]
