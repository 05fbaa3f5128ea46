# The seed's targets over the containers of docker/. Included by the top-level Makefile.

##@ The set-up as containers

SWITCHMAN_BIN ?= target/release/switchman
DOCKER ?= docker
COMPOSE ?= $(shell $(DOCKER) compose version >/dev/null 2>&1 && echo $(DOCKER) compose || echo docker-compose)
SWM_COMPOSE = $(COMPOSE) -p swm-docker -f docker/docker-compose.yml
FRONT ?= f1 f2
FRONTS = $(patsubst f%,front-%,$(FRONT))

.PHONY: build
build: $(SWITCHMAN_BIN) ## Build the images of a load balancer and two hosts
	install -D -m 755 $(SWITCHMAN_BIN) docker/build/switchman
	$(SWM_COMPOSE) build

.PHONY: start
start: ## Start the site on http://localhost:8000, with HAProxy's statistics below /stats
	$(SWM_COMPOSE) up -d
	@echo "the site: http://localhost:$${SWM_PORT:-8000}/  HAProxy: http://localhost:$${SWM_PORT:-8000}/stats  (on backups until make enable-forward)"

.PHONY: stop
stop: ## Stop the containers
	$(SWM_COMPOSE) stop

.PHONY: attach-lb attach-f1 attach-f2
attach-lb: ## Open a shell in the load balancer
	$(DOCKER) exec -it swm-lb bash

attach-f1: ## Open a shell in front 1
	$(DOCKER) exec -it swm-front-1 bash

attach-f2: ## Open a shell in front 2
	$(DOCKER) exec -it swm-front-2 bash

.PHONY: enable-forward
enable-forward: ## Put both fronts into service; FRONT=f1 or FRONT=f2: one; FORCE=1: ignore refusals
	set -e; for front in $(FRONTS); do $(DOCKER) exec swm-$$front switchman enable-forward $(if $(FORCE),--force); done

# Both fronts at once are refused by the capacity floor.
.PHONY: disable-forward
disable-forward: ## Put fronts into maintenance; FRONT and FORCE as above
	set -e; for front in $(FRONTS); do $(DOCKER) exec swm-$$front switchman disable-forward --drain $(if $(FORCE),--force); done

# Only what carries this project's names and label: containers, network, images.
.PHONY: purge
purge: ## Remove containers, network and images of this project
	$(SWM_COMPOSE) down --remove-orphans
	$(DOCKER) image rm -f swm-lb swm-front
	$(DOCKER) image prune -f --filter label=org.switchman=docker
	rm -rf docker/build

.PHONY: docker-test
docker-test: $(BIN) ## Switch and redeploy both fronts under load, with a Docker daemon of its own (root)
	sh docker/test.sh
