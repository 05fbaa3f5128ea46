# The targets of seed row Z4 (docs/design/seed-systems.md#zero-downtime-deployment) over the containers of docker/. Included by the top-level Makefile.
#   make build start            the site on http://localhost:8000 (as dummy.local), /stats beside it
#   make enable-forward         both fronts into service; FRONT=f1 or FRONT=f2 for one
#   make disable-forward FRONT=f1    maintenance; all at once is refused by the capacity floor, FORCE=1 overrides
.PHONY: build start stop attach-lb attach-f1 attach-f2 enable-forward disable-forward purge docker-test

SWITCHMAN_BIN ?= target/release/switchman
DOCKER ?= docker
COMPOSE ?= $(shell $(DOCKER) compose version >/dev/null 2>&1 && echo $(DOCKER) compose || echo docker-compose)
SWM_COMPOSE = $(COMPOSE) -p swm-docker -f docker/docker-compose.yml
FRONT ?= f1 f2
FRONTS = $(patsubst f%,front-%,$(FRONT))

build:
	test -x $(SWITCHMAN_BIN) || $(CARGO) build --release --locked
	install -D -m 755 $(SWITCHMAN_BIN) docker/build/switchman
	$(SWM_COMPOSE) build

start:
	$(SWM_COMPOSE) up -d
	@echo "the site: http://localhost:$${SWM_PORT:-8000}/  HAProxy: http://localhost:$${SWM_PORT:-8000}/stats  (on backups until make enable-forward)"

stop:
	$(SWM_COMPOSE) stop

attach-lb:
	$(DOCKER) exec -it swm-lb bash

attach-f1:
	$(DOCKER) exec -it swm-front-1 bash

attach-f2:
	$(DOCKER) exec -it swm-front-2 bash

enable-forward:
	set -e; for front in $(FRONTS); do $(DOCKER) exec swm-$$front switchman enable-forward $(if $(FORCE),--force); done

disable-forward:
	set -e; for front in $(FRONTS); do $(DOCKER) exec swm-$$front switchman disable-forward --drain $(if $(FORCE),--force); done

# Only what carries this project's names and label: containers, network, images.
purge:
	$(SWM_COMPOSE) down --remove-orphans
	$(DOCKER) image rm -f swm-lb swm-front
	$(DOCKER) image prune -f --filter label=org.switchman=docker
	rm -rf docker/build

docker-test:
	$(CARGO) build --release --locked
	sh docker/test.sh
