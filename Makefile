# Everything that a person or CI runs. `make demo` and `make test` set the machine up first.
# The build goes to a folder outside the tree, shared by all checkouts; librocksdb is compiled once per machine.

CACHE            ?= $(HOME)/.cache/caribou
export CARGO_TARGET_DIR ?= $(CACHE)/target
export ROCKSDB_LIB_DIR  ?= $(CACHE)/rocksdb
export ROCKSDB_STATIC   := 1
RELEASE          := $(CARGO_TARGET_DIR)/release
SMOKE_BIN        := $(RELEASE)

.PHONY: help setup build demo check fix golden test smoke simulate scenario chaos pjdfstest bench aarch64

help:
	@echo 'make demo    build, then: a cluster, a mount, a tree copied while the leader is killed again and again'
	@echo 'make test    everything that CI runs'
	@echo 'make check   the fast part: format, lints, unit tests, tidy'
	@echo 'make fix     format the code and apply lint suggestions'
	@echo 'make simulate   fifty seeds of the simulation: some minutes on two cores'
	@echo 'make pjdfstest  the POSIX test suite on ext4 and on mounts'
	@echo 'make chaos   two minutes of faults under loads, and a report: caribou-chaos.html'
	@echo 'make scenario RUN=...  a scenario of caribou-chaos in full length'
	@echo 'make bench   Caribou, MooseFS and the local disk measured with the same workloads (up to an hour; BENCH=--quick: minutes)'
	@echo 'make golden  write the expected output of the golden scripts anew'

# Debian packages that are missing, and librocksdb.
setup:
	@./xtask/setup.sh

build: setup
	cargo build --release --locked --bins

demo: build
	$(RELEASE)/caribou demo $(DEMO)

check: setup
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo nextest run --workspace --locked

fix: setup
	cargo fmt --all
	cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged

golden: setup
	UPDATE_GOLDEN=1 cargo nextest run --locked -p caribou-meta-raft --test scripts
	UPDATE_GOLDEN=1 cargo nextest run --locked -p caribou-proto --test compat

aarch64: setup
	@if rustup target list --installed 2>/dev/null | grep -q aarch64-unknown-linux-gnu; then \
	  cargo check --workspace --locked --target aarch64-unknown-linux-gnu; \
	else echo 'aarch64: the target is not installed (rustup target add aarch64-unknown-linux-gnu): not checked'; fi

# Real processes: mounts, kills, power cuts, and the suites of others. Needs root and /dev/fuse; CARIBOU_TEST_WITHOUT=fuse leaves it
# out by name.
smoke: build
	suites=$$(CARIBOU_CACHE=$(CACHE) ./xtask/suites.sh) && \
	  PATH="$${suites:+$$suites:}$$PATH" $(RELEASE)/caribou-chaos smoke --bin $(SMOKE_BIN)

# One scenario in full length, as in: make scenario RUN='fsx --ops 200000 --kill-every 20s'
scenario: build
	suites=$$(CARIBOU_CACHE=$(CACHE) ./xtask/suites.sh) && \
	  PATH="$${suites:+$$suites:}$$PATH" $(RELEASE)/caribou-chaos $(RUN) --bin $(SMOKE_BIN)

# Faults under loads on loopback and in folders. CHAOS='--seed 7 --minutes 10 --profile failover' for another run.
chaos: build
	$(RELEASE)/caribou-chaos run --bin $(RELEASE) --plain $(CHAOS)

# The POSIX test suite, compared with chaos-tests/pjdfstest-expected.txt. Needs root and /dev/fuse.
pjdfstest:
	$(MAKE) scenario RUN='pjdfstest --ext4'

# Installs MooseFS to compare with, and leaves none of it running. Needs root and /dev/fuse, and a machine with nothing else to do.
bench: build
	./bench/setup.sh
	$(RELEASE)/caribou-bench --bin $(RELEASE) --revision "$$(git describe --always --dirty 2>/dev/null || echo unknown)" $(BENCH)

# Fifty seeds of the simulation.
simulate: build
	$(RELEASE)/caribou-simulation --seeds 50 --steps 20000

test: check aarch64 simulate smoke
