# `make help` lists the targets. A bare `make` builds the program, as package builders expect.
# A comment after `##` is a target's line in `make help`, and a line of `##@` opens a group there. docker/docker.mk has more.
CARGO ?= cargo
PREFIX ?= /usr/local

# Three profiles of Cargo.toml, each with one tree of dependencies:
#   dev      demo, test, check, fuzz: quick to build
#   release  all, install, docker: optimized
#   dist     static, deb, host-test: optimized also across crates, for what is shipped
BIN := target/release/switchman
STATIC := target/dist/switchman
DEBUG := target/debug/switchman

NEXTEST = $(CARGO) nextest run --locked --no-fail-fast

.DEFAULT_GOAL := all
.PHONY: FORCE
FORCE:

##@ Start here

.PHONY: help
help: ## List all targets
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z][a-z0-9-]*:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## Install the Debian packages that demo and tests use (root)
	sh tests/setup.sh

.PHONY: demo
demo: setup ## Rehearse on this machine: hosts, HAProxy, clients, a failing roll, versions (root)
	$(CARGO) build --locked
	$(DEBUG) lab demo

##@ Before a commit

# REQUIRE_KERNEL=1 without the privileges: a test that needs the kernel fails here, unless the profile `fast` of
# .config/nextest.toml leaves it out. So that profile cannot go stale unnoticed.
UNPRIVILEGED = REQUIRE_KERNEL=1 $(if $(filter 0,$(shell id -u)),setpriv --bounding-set -sys_admin$(,)-net_admin)
, := ,
.PHONY: check
check: nextest ## Check format, lints, layering and wording, and run the fast tests
	$(CARGO) fmt --check
	$(CARGO) clippy --quiet --locked --all-targets -- -D warnings
	$(UNPRIVILEGED) $(NEXTEST) --profile fast
	@echo "check: passed. It ran: cargo fmt, cargo clippy, layering, wording and all other tests that need no kernel privileges."
	@echo "check: not run: tests with real kernels and servers (make test), dependencies (make deny), make demo, make host-test."

.PHONY: fmt
fmt: ## Format the code
	$(CARGO) fmt

.PHONY: lint
lint: ## Check format and lints only
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings

.PHONY: deny
deny: cargo-deny ## Check licences, bans and sources of all dependencies by deny.toml
	$(CARGO) deny --locked check licenses bans sources

.PHONY: audit
audit: cargo-deny ## Check dependencies for known vulnerabilities (downloads the advisory database)
	$(CARGO) deny --locked check advisories

##@ Test

# REQUIRE_KERNEL=1: a missing privilege fails instead of skipping. A process, file, mount or namespace that is left fails too.
.PHONY: test
test: nextest ## Run the whole suite with real kernels, HAProxy and web servers (root)
	sh tests/setup.sh test
	REQUIRE_KERNEL=$${REQUIRE_KERNEL:-1} sh tests/leftovers.sh $(NEXTEST)

# EXAMPLES=100 SEED=2 make fuzz: more, and others.
.PHONY: fuzz
fuzz: setup ## Test the host API against its own description, in two minutes (root, Python)
	$(CARGO) build --locked
	sh tests/fuzz/api.sh $(DEBUG)

# SECONDS=600 make fuzz-parsers: longer; INPUTS=10000000: that many for each; TARGETS="config names": these alone.
.PHONY: fuzz-parsers
fuzz-parsers: ## Give every parser of outside bytes made-up inputs, 60 s each (builds with libFuzzer)
	sh tests/fuzz/parsers.sh

# Thirty rolling assigns of two services, a hundred starts and stops of the proxy, twenty kills of the proxy.
.PHONY: soak
soak: nextest ## Run the long tests under every kind of load, in three quarters of an hour (root)
	sh tests/setup.sh test
	REQUIRE_KERNEL=1 $(NEXTEST) --profile long --test it --run-ignored only --test-threads 1 -E 'not test(/^roll_faults::stores::/)'

# Every kind of fault at every step of a roll, with the journal on each store: see tests/it/roll_faults/stores.rs.
.PHONY: fault-matrix
fault-matrix: nextest ## Run every fault at every step of a roll on every journal store (root, an hour)
	sh tests/setup.sh test
	REQUIRE_KERNEL=1 $(NEXTEST) --profile long --test it --run-ignored only -E 'test(/^roll_faults::stores::/)'
	REQUIRE_KERNEL=1 $(NEXTEST) --profile long --lib --run-ignored only --no-capture -E 'test(/^lab::thousand_hosts/)'

# The machine's own HAProxy is left as it is: newer ones are unpacked into a cache and put first into the PATH of the tests.
HAPROXIES := /var/cache/swm-haproxy
.PHONY: haproxy-versions
haproxy-versions: nextest ## Run what depends on HAProxy with HAProxy 3.0, 3.2 and 3.4, in half an hour (root)
	sh tests/setup.sh
	sh tests/haproxy/versions.sh $(HAPROXIES)
	for version in 3.0 3.2 3.4; do \
		PATH=$(HAPROXIES)/$$version/bin:$$PATH REQUIRE_KERNEL=1 $(NEXTEST) --profile long --run-ignored all \
			-E 'test(/^haproxy_lint::|^haproxy_versions::|^sys::haproxy::(flush_|master_)?tests::/)' || exit 1; \
	done

# A reboot, a power cut, an upgrade and a purge, in a container: see tests/nspawn/hosts.sh. FAST=1 packages the debug binary, which
# runs on the container's Debian too.
HOST_TEST_BIN := $(if $(FAST),$(DEBUG),$(STATIC))
.PHONY: host-test
host-test: ## Test the package on a real Debian with systemd in a container (root); FAST=1: debug build
	sh tests/setup.sh host
	sh tests/journal/consul.sh target/consul
	$(if $(FAST),$(CARGO) build --locked,$(MAKE) static)
	tests/nspawn/test.sh "$$($(if $(FAST),COMPRESSION=none) sh packaging/deb.sh $(HOST_TEST_BIN))"

##@ Measure

# Ratios from one run, interleaved; never a test. `cargo bench` also builds $(BIN), by the profile `bench`.
.PHONY: bench
bench: nextest ## Measure switches, Ctrl-C, sockets, rolls, versions and a simulated fleet (root)
	sh tests/setup.sh bench
	$(CARGO) bench --locked --bench switch --bench interrupt --bench sockets --bench roll --bench versions
	$(NEXTEST) --cargo-profile bench --profile long --lib --run-ignored only --no-capture -E 'test(/::simulation::/)'

# Ten minutes, best on a machine with nothing else to do. A copy is measured: `cargo bench` builds $(BIN) again, with the features
# that tests need in tokio.
.PHONY: bench-proxy
bench-proxy: ## Measure the proxy beside HAProxy, nginx and Envoy
	sh tests/setup.sh bench-proxy
	sh benches/proxy/envoy.sh
	$(CARGO) build --profile bench --locked
	install -D -m 755 $(BIN) target/bench-proxy/switchman
	$(CARGO) bench --locked --bench proxy

##@ Build and install

.PHONY: all
all: $(BIN) ## Build the optimized program (the default)

$(BIN): FORCE
	$(CARGO) build --release --locked

.PHONY: install
install: $(BIN) ## Install program, manual pages and bash completion below PREFIX=/usr/local
	install -D -m 755 $(BIN) $(DESTDIR)$(PREFIX)/sbin/switchman
	install -d $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/bash-completion/completions
	$(BIN) man $(DESTDIR)$(PREFIX)/share/man/man1
	$(BIN) completions bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/switchman

.PHONY: static
static: $(STATIC) ## Build the static program of the package, which needs nothing of its machine

# The flag goes to the program alone and decides how it is linked. Its dependencies are the same for a static and a dynamic program.
$(STATIC): FORCE
	$(CARGO) rustc --profile dist --locked --bin switchman -- -C target-feature=+crt-static

.PHONY: deb
deb: $(STATIC) ## Build target/deb/switchman_VERSION_ARCH.deb
	sh packaging/deb.sh $(STATIC)

.PHONY: clean
clean: ## Remove everything that was built
	$(CARGO) clean

# Programs that the targets above need, built from their sources where they are missing.
.PHONY: nextest
nextest:
	@$(CARGO) nextest --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-nextest

# A debug build: 37 s to build on two cores, and the check takes 2 s.
.PHONY: cargo-deny
cargo-deny:
	@$(CARGO) deny --version >/dev/null 2>&1 || CARGO_PROFILE_DEV_DEBUG=0 $(CARGO) install --locked --debug cargo-deny

-include docker/docker.mk
