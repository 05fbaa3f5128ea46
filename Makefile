# make setup | demo | test | fuzz | host-test | lint | bench | install | static | deb, and docker/'s targets (build start stop ... docker-test)
CARGO ?= cargo
PREFIX ?= /usr/local
BIN := target/release/switchman
# Needs nothing of the machine it runs on; a target directory of its own keeps the two kinds of dependencies apart.
STATIC := target/static/x86_64-unknown-linux-gnu/release/switchman

.PHONY: all setup demo test fuzz soak host-test lint fmt bench install static deb clean

all: $(BIN)

$(BIN): FORCE
	$(CARGO) build --release --locked

.PHONY: FORCE
FORCE:

# Installs what the lab and the tests use, from Debian's packages; does nothing when all of it is there.
setup:
	sh tests/setup.sh

# A rehearsal of the whole story under load; ends with its own verdict.
demo: setup
	$(CARGO) build --release --locked
	$(BIN) lab demo

# REQUIRE_KERNEL=1: a missing privilege fails instead of skipping.
test:
	sh tests/setup.sh test
	$(CARGO) nextest --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-nextest
	REQUIRE_KERNEL=$${REQUIRE_KERNEL:-1} $(CARGO) nextest run --locked --no-fail-fast

# The host API against its own description, in about two minutes: EXAMPLES=100 SEED=2 make fuzz for more. Root, Python, its registry.
fuzz: setup
	$(CARGO) build --locked
	sh tests/fuzz/api.sh

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings

fmt:
	$(CARGO) fmt

# Ratios from one run, interleaved; never a test.
bench:
	sh tests/setup.sh bench
	$(CARGO) build --release --locked
	$(CARGO) bench --locked --bench switch --bench sockets --bench roll --bench versions
	$(CARGO) test --release --locked --lib -- --ignored --nocapture --test-threads=1 ops::roll::simulation

# The proxy beside HAProxy, nginx and Envoy, and main beside bad shadows; ten minutes, best on a machine with nothing else to do.
# A copy is measured: `cargo bench` builds $(BIN) again, with what tests need in tokio.
.PHONY: bench-proxy
bench-proxy:
	sh tests/setup.sh bench-proxy
	sh benches/proxy/envoy.sh
	$(CARGO) build --release --locked
	install -D -m 755 $(BIN) target/bench-proxy/switchman
	$(CARGO) bench --locked --bench proxy

# Under every kind of load: thirty rolling assigns of two services, a hundred comings and goings of the proxy, twenty deaths of
# it; three quarters of an hour.
soak:
	sh tests/setup.sh test
	REQUIRE_KERNEL=1 $(CARGO) test --locked --test it -- --ignored --test-threads=1

install: $(BIN)
	install -D -m 755 $(BIN) $(DESTDIR)$(PREFIX)/sbin/switchman
	install -d $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/bash-completion/completions
	$(BIN) man $(DESTDIR)$(PREFIX)/share/man/man1
	$(BIN) completions bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/switchman

static: $(STATIC)

$(STATIC): FORCE
	RUSTFLAGS="-C target-feature=+crt-static" $(CARGO) build --release --locked --target x86_64-unknown-linux-gnu --target-dir target/static

# target/deb/switchman_VERSION_amd64.deb
deb: $(STATIC)
	sh packaging/deb.sh $(STATIC)

# The package on a real Debian with systemd, in a container: reboot, power cut, purge. Root; see tests/nspawn/hosts.sh.
# FAST=1 takes the binary that the tests are built with, which runs on the container's Debian too.
HOST_TEST_BIN := $(if $(FAST),target/debug/switchman,$(STATIC))
host-test:
	sh tests/setup.sh host
	$(if $(FAST),$(CARGO) build --locked,$(MAKE) static)
	tests/nspawn/test.sh "$$($(if $(FAST),COMPRESSION=none) sh packaging/deb.sh $(HOST_TEST_BIN))"

clean:
	$(CARGO) clean

-include docker/docker.mk
