# make setup | demo | test | lint | bench | install, and docker/'s targets (build start stop ... docker-test)
CARGO ?= cargo
PREFIX ?= /usr/local
BIN := target/release/switchman

.PHONY: all setup demo test lint fmt bench install clean

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
test: setup
	$(CARGO) nextest --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-nextest
	REQUIRE_KERNEL=$${REQUIRE_KERNEL:-1} $(CARGO) nextest run --locked --no-fail-fast

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings

fmt:
	$(CARGO) fmt

# Ratios from one run, interleaved; never a test.
bench:
	sh tests/setup.sh bench
	$(CARGO) build --release --locked
	$(CARGO) bench --locked
	$(CARGO) test --release --locked --lib -- --ignored --nocapture --test-threads=1 ops::roll::simulation

install: $(BIN)
	install -D -m 755 $(BIN) $(DESTDIR)$(PREFIX)/sbin/switchman
	install -d $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/bash-completion/completions
	$(BIN) man $(DESTDIR)$(PREFIX)/share/man/man1
	$(BIN) completions bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/switchman

clean:
	$(CARGO) clean

-include docker/docker.mk
