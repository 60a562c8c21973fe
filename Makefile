# The way in. `make run` gives a server, `make test` checks it. Missing system packages are installed
# when root, else named (.ci/deps).

# One profile for running, tests, lints and benches, so that RocksDB is compiled once for them all.
# .cargo/bin has a clang++ that compiles RocksDB in less than half of the time.
CARGO := PATH="$(CURDIR)/.cargo/bin:$(HOME)/.cargo/bin:$$PATH" cargo
CARGO_FLAGS ?=
TARGET := $(or $(CARGO_TARGET_DIR),target)
# Named stops for the crash tests. They change two small crates and no C++.
FAILPOINTS := --features ringpost/failpoints

# For `make run`: what follows `ringpost serve`.
ARGS ?=
# For `make crash`: how often the server is killed, and how often its disk loses power.
N ?= 200
CUTS ?= 50
# For `make bench` and `make guard`: write what was found into the tree (RECORD=1).
RECORD ?=
# For `make bench`: what follows the benches' names, and what the record says of the machine's mood.
BENCH_ARGS ?=
NOTE ?=
# For `make fuzz`: how long each target runs.
FUZZ_SECONDS ?= 60

.PHONY: help run check test bench guard lint release crash soak fuzz

help:
	@echo 'make run      a server on 127.0.0.1:2525 (ARGS="--config FILE")'
	@echo 'make check    quick checks while you edit: types, tidy and unit tests'
	@echo 'make test     all tests'
	@echo 'make lint     formatting and clippy; warnings are errors'
	@echo 'make bench    criterion benches, compared with the record (RECORD=1 writes the record)'
	@echo 'make guard    instructions of the hottest paths, compared with the record (RECORD=1 writes the record)'
	@echo 'make release  the release binary'
	@echo 'make crash    kills the server N=$(N) times and cuts the power CUTS=$(CUTS) times, under load'
	@echo 'make soak     hours of kills, power cuts and full-size scenarios; continues after an interrupt'
	@echo 'make fuzz     every fuzz target for FUZZ_SECONDS=$(FUZZ_SECONDS)'

run:
	@.ci/deps build
	$(CARGO) run --release $(CARGO_FLAGS) -- serve $(ARGS)

# Our own code unoptimised and compiled incrementally: seconds, not minutes.
check: export CARGO_INCREMENTAL = 1
check:
	@.ci/deps build
	$(CARGO) check --release --workspace --all-targets $(FAILPOINTS) $(CARGO_FLAGS)
	$(CARGO) test --quiet --release -p ringpost-tidy $(CARGO_FLAGS)
	$(CARGO) --config profile.release.package.ringpost.opt-level=0 test --quiet --release --lib $(FAILPOINTS) $(CARGO_FLAGS)

test:
	@.ci/deps test
	$(CARGO) test --release --workspace $(FAILPOINTS) $(CARGO_FLAGS)

lint:
	@.ci/deps build
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets $(FAILPOINTS) $(CARGO_FLAGS) -- \
	    -D warnings -D clippy::undocumented_unsafe_blocks

bench:
	@.ci/deps bench
	@mkdir -p "$(TARGET)" && touch "$(TARGET)/bench-began"
	$(CARGO) bench -p ringpost --bench '*' $(CARGO_FLAGS) -- $(BENCH_ARGS)
	@benches/summary "$(TARGET)" --since "$(TARGET)/bench-began" $(if $(RECORD),--record --note "$(NOTE)")

# Built like the tests, but with our library as one codegen unit: with 16, a change in one file alters
# inlining in others (up to 9 % were observed). Dependencies are not recompiled.
guard:
	@.ci/deps test
	$(CARGO) --config profile.release.package.ringpost.codegen-units=1 bench -p ringpost --bench guard $(FAILPOINTS) $(CARGO_FLAGS) -- $(if $(RECORD),record,check)

release:
	@.ci/deps build
	$(CARGO) build --profile dist $(CARGO_FLAGS)

crash:
	@.ci/deps test
	RINGPOST_TEST_CRASH_KILLS=$(N) RINGPOST_TEST_POWER_CUTS=$(CUTS) $(CARGO) test --release $(FAILPOINTS) $(CARGO_FLAGS) \
	    --test server -- --nocapture crash:: relay_crash:: power_cut::

soak:
	@.ci/soak

fuzz:
	@.ci/deps build
	@$(CARGO) +nightly fuzz --version >/dev/null 2>&1 || \
	    { echo 'fuzz: cargo-fuzz or a nightly Rust is missing (rustup toolchain install nightly; cargo install cargo-fuzz)' >&2; exit 1; }
	@set -e; for target in $$($(CARGO) +nightly fuzz list --fuzz-dir tests/fuzz); do \
	    echo "fuzz: $$target for $(FUZZ_SECONDS) s"; \
	    $(CARGO) +nightly fuzz run --fuzz-dir tests/fuzz $$target -- -max_total_time=$(FUZZ_SECONDS); \
	done
