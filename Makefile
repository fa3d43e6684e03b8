# What you can do here. Each target is a line or a script in scripts/.
SHELL := /bin/bash
.DEFAULT_GOAL := help

# For example: make test TESTFLAGS='-run TestLayers -v'
TESTFLAGS  ?=
TIMEOUT    ?= 20m
FUZZTIME   ?= 30s
BENCHFLAGS ?=
# For make torture: load for each cell, a regular expression for the cells, the first seed (0: go on where it stopped).
CELL       ?= 30s
CELLS      ?=
SEED       ?= 0

.PHONY: help setup run test model soak torture lint fuzz bench tidy clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install what the tests need and isn't there: redis-server, postgresql, mariadb, node, a C compiler
	@scripts/setup.sh

run: ## start the demo: the gateway, a slow API behind it, and its database
	@echo "building bin/freshet"
	@go build -o bin/freshet ./cmd/freshet
	@exec bin/freshet demo

test: setup ## all tests of all modules, with the race detector
	@scripts/test.sh $(TIMEOUT) $(TESTFLAGS)

model: ## check the protocol's model within larger bounds: some minutes, 2 GB
	@FRESHET_MODEL=large go test -v -timeout $(TIMEOUT) $(TESTFLAGS) ./internal/model

soak: ## days of churn and outages in virtual time: 20, about half a minute each
	@FRESHET_SOAK=20 go test -race -v -timeout $(TIMEOUT) $(TESTFLAGS) -run 'TestSoak$$' .

torture: setup ## break Redis under a fleet and check what it saw, CELL (30s) of load for each fault; writes docs/faults.md
	@go test -v -count=1 -timeout 0 -run '^TestTorture$$' $(TESTFLAGS) ./internal/torture -for '$(CELL)' -cells '$(CELLS)' -seed '$(SEED)'

lint: ## gofmt, go vet, golangci-lint
	@scripts/lint.sh

fuzz: ## each fuzz target for FUZZTIME (30s)
	@scripts/fuzz.sh $(FUZZTIME)

bench: setup ## compare with other caches; BENCHFLAGS go to the program
	@cd bench && go run . $(BENCHFLAGS)

tidy: ## go mod tidy in every module
	@scripts/each-module.sh go mod tidy

clean: ## remove built tools and node_modules
	rm -rf bin examples/*/node_modules
