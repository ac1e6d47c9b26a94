# make help lists the targets.

CARGO ?= cargo
# Which demonstration `make demo` begins with; `make demo DEMO=` lists them.
DEMO ?= premature-termination
# More flags for `make bench`.
BENCH ?=
# The oldest compiler that builds this.
RUST_VERSION := 1.85

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-22s%s\n", $$1, $$2 }'

.PHONY: build
build: cargo ## optimised programs, in target/release
	$(CARGO) build --release --locked

.PHONY: check
check: cargo ## formatting, lints, documentation: no warning passes
	@$(CARGO) fmt --version >/dev/null 2>&1 || { echo "make check needs rustfmt: rustup component add rustfmt, or apt install rustfmt" >&2; exit 1; }
	@$(CARGO) clippy --version >/dev/null 2>&1 || { echo "make check needs clippy: rustup component add clippy, or apt install rust-clippy" >&2; exit 1; }
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) clippy -p tcpechod --no-default-features --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked --quiet

.PHONY: test
test: cargo ## all tests; TCPECHO_STRICT=1 turns every skip into a failure
	$(CARGO) build --workspace --bins --locked
	@# Most of a test is waiting: three for each processor.
	RUST_TEST_THREADS=$${RUST_TEST_THREADS:-$$((3 * $$(nproc)))} $(CARGO) test --workspace --locked --no-fail-fast

.PHONY: test-outside
test-outside: cargo ## tests with other people's programs: ncat, nc, socat, inetd, systemd ... (installs nothing)
	$(CARGO) test --locked -p tcpecho-lab --test outside -- --ignored

.PHONY: demo
demo: cargo ## the premature termination of a server, acted out and explained; then a menu (DEMO=name: another one)
	@$(CARGO) build --workspace --bins --locked
	@$(CARGO) run --quiet --locked -p tcpecho-lab -- $(if $(DEMO),menu $(DEMO),list)

.PHONY: compare
compare: build ## four models under three loads, side by side, in under 90 seconds
	@target/release/tcpecho-lab compare

.PHONY: bench
bench: build ## the same with a report: target/bench.html, .json, .csv, .md (BENCH="--full": everything)
	@target/release/tcpecho-lab compare $(BENCH) --export-html target/bench.html --export-json target/bench.json \
	  --export-csv target/bench.csv --export-markdown target/bench.md
	@echo "report: target/bench.html"

.PHONY: soak
soak: cargo ## all models under loads, faults, signals, restarts for MINUTES=N (1); fails on any loss
	$(CARGO) build --workspace --bins --locked
	$(CARGO) run --quiet --locked -p tcpecho-lab -- soak --minutes $(or $(MINUTES),1)

.PHONY: noreaper
noreaper: cargo ## the fork server without a reaper, as target/tcpechod_noreaper
	@$(CARGO) build --locked -p tcpechod
	@printf '#!/bin/sh\nexec "$$(dirname "$$0")/debug/tcpechod" --model fork --mistake no-reaper "$$@"\n' > target/tcpechod_noreaper
	@chmod +x target/tcpechod_noreaper
	@echo "ready: ./target/tcpechod_noreaper 8990    (then, after a client has left: ps x | grep tcpechod)"

.PHONY: clean
clean: cargo ## remove everything that was built
	$(CARGO) clean

# One clear line instead of a cascade.
.PHONY: cargo
cargo:
	@command -v $(CARGO) >/dev/null || { \
	  echo "cargo is missing: install Rust $(RUST_VERSION) or newer (Debian 13: apt install cargo; elsewhere: https://rustup.rs)" >&2; exit 1; }
	@version=$$($(CARGO) --version | cut -d' ' -f2); \
	oldest=$$(printf '%s\n' $(RUST_VERSION) "$$version" | sort -V | head -n 1); \
	[ "$$oldest" = $(RUST_VERSION) ] || { \
	  echo "cargo $$version is too old: this needs Rust $(RUST_VERSION) or newer (rustup update, or https://rustup.rs)" >&2; exit 1; }
