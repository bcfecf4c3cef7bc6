# Conveyor: everything a developer does, from the root of the repository.
# `make run` and `make test` need Go, git and make, nothing else.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

MODULES := $(patsubst %/go.mod,%,$(wildcard */go.mod))
MODULES := $(filter-out tools,$(MODULES))
TOOLS   := $(CURDIR)/bin/tools

# versions.yaml names the next release; what is built before it says so. The commit is stamped by go build, where git can tell it:
# a copy without .git, or one that git distrusts, builds too.
VERSION := $(shell sed -n 's/^  cli: *//p' versions.yaml)-dev
STAMP   := -s -w -X github.com/conveyor-etl/conveyor/internal/version.Version=$(VERSION)
VCS     := $(if $(shell git status --porcelain --branch 2>/dev/null),true,false)
export GOFLAGS := $(filter-out -buildvcs=%,$(GOFLAGS)) -buildvcs=false

BINARIES := conveyor conveyor-router conveyor-sidecar conveyor-connect
MAIN_conveyor         := ./cli/cmd/conveyor
MAIN_conveyor-router  := ./router/cmd/conveyor-router
MAIN_conveyor-sidecar := ./sidecar/cmd/conveyor-sidecar
MAIN_conveyor-connect := ./connectors/cmd/conveyor-connect

##@ Use

.PHONY: help
help: ## list the targets
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@/ { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z][a-z-]*:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: bin/conveyor ## build conveyor and start it on this machine with a demo pipeline
	@exec bin/conveyor dev

.PHONY: build
build: $(addprefix bin/,$(BINARIES)) ## build the four binaries into bin/

# Go decides what is up to date, so every build asks it.
.PHONY: $(addprefix bin/,$(BINARIES))
$(addprefix bin/,$(BINARIES)): bin/%:
	CGO_ENABLED=0 go build -trimpath -buildvcs=$(VCS) -ldflags '$(STAMP)' -o $@ $(MAIN_$*)

##@ Develop

.PHONY: test
test: ## run every test; CONVEYOR_TEST_RACE=1 races them, CONVEYOR_FAIL_ON_SKIP=1 fails on a skip
	@GOWORK=off go build -C tools -o $(CURDIR)/bin/testall ./cmd/testall
	@bin/testall -alone tools $(TESTFLAGS) $(MODULES)

.PHONY: lint
lint: tools ## check formatting, style, protos, generated files and module files
	@.ci/lint $(MODULES)

.PHONY: generate
generate: $(TOOLS)/.protogen ## regenerate Go code from the protos, and the module files
	cd protos && $(TOOLS)/buf generate
	GOWORK=off go run -C tools ./cmd/modsync -root $(CURDIR)

.PHONY: tidy
tidy: ## tidy every module, after a change of dependencies
	@for m in $(shell sed -n 's/^\([a-z]*\) *|.*/\1/p' tools/modules.txt); do \
	  if [ -f $$m/go.mod ]; then echo "$$m"; (cd $$m && GOWORK=off go mod tidy); fi; \
	done
	GOWORK=off go run -C tools ./cmd/modsync -root $(CURDIR)

.PHONY: bench
bench: bin/conveyor-router bin/conveyor-sidecar ## measure beside the floor, in one alternating block, and print the table
	CGO_ENABLED=0 go build -trimpath -o bin/floor ./integration/bench/floor
	CGO_ENABLED=0 go build -trimpath -o bin/bench ./integration/bench
	CGO_ENABLED=0 go build -trimpath -o bin/product ./integration/bench/product
	@bin/bench -floor bin/floor -contender conveyor=bin/product -blocked bin/product $(BENCHFLAGS)

.PHONY: bench-raft
bench-raft: ## measure commands of three routers beside the bare library, in alternating pairs
	go test -run '^$$' -bench ProposeAgainstBareRaft -benchtime 1x ./raftstore

.PHONY: chaos
chaos: MINUTES ?= 10
chaos: SEED ?= 0
chaos: ## make every part fail at random for MINUTES, account for everything, and keep what came of it
	@failed=0; \
	go test -count=1 -v -timeout 0 -run 'TestChaos|TestCluster|TestCut|TestDisk|TestFailpoints|TestFleet|TestPowerLoss' ./integration/chaos -minutes=$(MINUTES) -seed=$(SEED) -leaderkills=100 -powercuts=200 \
	  -runs=runs.jsonl -commit=$(shell git describe --always --dirty --abbrev=12) || failed=1; \
	go test -count=1 -run TestRuns ./integration/chaos -update; \
	exit $$failed

.PHONY: containers
containers: ## run the scenarios of clusters in containers too (needs a Docker engine, and no image)
	CONVEYOR_TEST_MACHINES=containers TESTCONTAINERS_RYUK_DISABLED=true TESTCONTAINERS_HOST_OVERRIDE=localhost \
	  go test -count=1 -timeout 20m $(TESTFLAGS) ./integration/cluster

.PHONY: mutants
mutants: ## break the code on purpose, one promise at a time, and show which test notices
	go run ./integration/mutants $(MUTANTS)

.PHONY: vuln
vuln: $(TOOLS)/.tools ## look for known vulnerabilities (needs the network)
	@for m in $(MODULES); do echo "$$m"; (cd $$m && $(TOOLS)/govulncheck ./...); done

.PHONY: clean
clean: ## remove what was built
	rm -rf bin

##@ Tools

.PHONY: tools
tools: $(TOOLS)/.protogen $(TOOLS)/.lint $(TOOLS)/.tools ## install the pinned tools into bin/tools

# Three sets with a go.mod each: their dependencies disagree, and only some change often.
$(TOOLS)/.tools: tools/go.mod tools/go.sum
	GOWORK=off GOBIN=$(TOOLS) go install -C tools tool
	@touch $@

$(TOOLS)/.protogen: tools/protogen/go.mod tools/protogen/go.sum
	GOWORK=off GOBIN=$(TOOLS) go install -C tools/protogen tool
	@touch $@

$(TOOLS)/.lint: tools/lint/go.mod tools/lint/go.sum
	GOWORK=off GOBIN=$(TOOLS) go install -C tools/lint tool
	@touch $@
