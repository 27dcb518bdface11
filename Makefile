# Neargate's commands. `make` alone lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
export CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/neargate
SECONDS ?= 600
PREFIX ?= /usr/local

# What is executed for each start is linked statically and not relocated: exec is part of the latency.
STATIC_FLAGS := -C target-feature=+crt-static -C relocation-model=static
STATIC_TARGET := x86_64-unknown-linux-gnu
export LIBSECCOMP_LINK_TYPE ?= static
export LIBSECCOMP_LIB_PATH ?= /usr/lib/x86_64-linux-gnu

.PHONY: help
help: ## List the commands
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: build ## Run real task definitions end to end, show what happens, clean up
	@scripts/demo.sh

.PHONY: try
try: build ## Leave an agent and a registry up to play with
	@scripts/try.sh start

.PHONY: try-stop
try-stop: ## End what `make try` started
	@scripts/try.sh stop

.PHONY: build
build: packages ## Build the three binaries below target/debug
	cargo build --locked -p agent -p cli -p system-tests --bins
	RUSTFLAGS="$(STATIC_FLAGS)" cargo build --locked -p runtime --target $(STATIC_TARGET)
	install -m 755 target/$(STATIC_TARGET)/debug/neargate-runtime target/debug/neargate-runtime

.PHONY: release
release: packages ## Build optimised binaries below target/release
	cargo build --locked --release -p agent --bins
	RUSTFLAGS="$(STATIC_FLAGS)" cargo build --locked --release -p runtime -p cli --bins --target $(STATIC_TARGET)
	install -m 755 -t target/release target/$(STATIC_TARGET)/release/neargate{,-runtime}

.PHONY: install
install: release ## Install the binaries below PREFIX (/usr/local)
	install -D -m 755 -t $(DESTDIR)$(PREFIX)/bin target/release/neargated target/release/neargate target/release/neargate-runtime
	install -D -m 644 agent/neargated.toml $(DESTDIR)/etc/neargate/neargated.toml

.PHONY: packages
packages: ## Install what building, the demo and the tests need from Debian
	@scripts/packages.sh

.PHONY: check
check: packages $(CACHE)/tools/bin/cargo-deny ## Formatting, lints, dependencies, unit tests: run before each commit
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	PATH="$(CACHE)/tools/bin:$$PATH" cargo deny --locked check --hide-inclusion-graph bans licenses sources
	cargo test --locked --workspace --exclude system-tests

$(CACHE)/tools/bin/cargo-deny:
	cargo install --locked --quiet --root $(CACHE)/tools cargo-deny --version $(shell cat scripts/cargo-deny.version)

.PHONY: test
test: check build ## Everything CI runs: check, system tests, the demo, the python client
	cargo test --locked -p system-tests -- --test-threads 2
	scripts/demo.sh
	scripts/python-client.sh

.PHONY: bench
bench: release ## Measure beside crun, runc, docker, podman and containerd; a missed target fails
	@scripts/packages.sh crun runc docker.io containerd podman python3-matplotlib
	PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 bench/main.py

.PHONY: soak
soak: build ## The long forms of the system tests' loops, seeded by SEED
	NEARGATE_TASKS=500 NEARGATE_KILLS=100 cargo test --locked -p system-tests --test agent kill9 -- --nocapture
	NEARGATE_CYCLES=1000 NEARGATE_SOAK_TASKS=200 cargo test --locked -p system-tests --test agent soak:: -- --nocapture --test-threads 1
	NEARGATE_FLOOD_MIB=1024 cargo test --locked -p system-tests --test agent floods::a_flood -- --nocapture

.PHONY: fuzz
fuzz: packages ## Feed the parsers hostile input for SECONDS (600) in all, seeded by SEED
	FUZZ_SECONDS=$$(($(SECONDS) / 5)) cargo test --locked -p definition -p rootfs -p runtime --test fuzz -- --nocapture --test-threads 1
	FUZZ_SECONDS=$$(($(SECONDS) / 5)) cargo test --locked -p rootfs --lib fuzz -- --nocapture

.PHONY: mutants
mutants: packages $(CACHE)/tools/bin/cargo-mutants ## Break the code on purpose and see the tests notice (hours)
	scripts/mutants.sh

$(CACHE)/tools/bin/cargo-mutants:
	cargo install --locked --quiet --root $(CACHE)/tools cargo-mutants --version $(shell cat scripts/cargo-mutants.version)
