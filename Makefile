# `make` alone lists the targets. Nothing here needs more than Go, make and a POSIX shell; what the tests
# need besides, test/install.sh installs.

# The last tag, and what came after it; without a tag, the commit.
VERSION ?= $(patsubst v%,%,$(shell git describe --tags --dirty 2>/dev/null || echo 0.0.0-$$(git rev-parse --short=12 HEAD)))
GO      ?= go

# Tools are run at these versions, and never installed.
GOFUMPT       = mvdan.cc/gofumpt@v0.12.0
STATICCHECK   = honnef.co/go/tools/cmd/staticcheck@v0.8.2
KUSTOMIZE     = sigs.k8s.io/kustomize/kustomize/v5@v5.8.1
KUBECONFORM   = github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0
CYCLONEDX     = github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0
GOLANGCI_LINT = github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

# Two packages at a time: many of them start servers of their own. In ./test the workers are processes of their own,
# which wait for each other most of the time, and nothing is to be learned of the race detector.
TESTFLAGS ?= -timeout 30m -p 2
PKG       ?= ./...
packages   = $(shell $(GO) list $(PKG))
# They count millions of instants, alone, which takes the race detector two minutes.
COUNTING   = ^(TestEachLocalDayHasItsRuns|TestTimetableAgreesWithTheServer)$$
raced      = $(filter-out %/snapfleet/test,$(packages))
processes  = $(filter %/snapfleet/test,$(packages))
FUZZTIME  ?= 10s
SEEDS     ?= 50
GB        ?= 2.3
ROUNDS    ?= 3

.PHONY: help
help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(if $(TRACE),bin/jaeger) ## See it work: the whole system on this machine. Your data: make demo DATABASE_URL=... SCHEMA=... With Jaeger: TRACE=1
	$(GO) build -o bin/demo ./cmd/demo
	@./bin/demo $(if $(TRACE),--jaeger=bin/jaeger)

.PHONY: test
test: ## Run every test, with the race detector, against real servers. One package: make test PKG=./uploader
	@test/install.sh
	$(if $(raced),$(GO) test -race $(TESTFLAGS) -skip '$(COUNTING)' $(raced))
	$(if $(filter %/consumer,$(packages)),$(GO) test $(TESTFLAGS) -run '$(COUNTING)' ./consumer)
	$(if $(processes),$(GO) test -parallel 4 $(TESTFLAGS) $(processes))

.PHONY: test-postgres18
test-postgres18: ## Run the exporter's tests against PostgreSQL 18, which npm brings.
	@test/postgres18.sh

.PHONY: test-duckdb
test-duckdb: ## Run the loading page's commands for DuckDB, which npm brings.
	@test/install.sh
	$(GO) vet -tags duckdb ./test
	@GO='$(GO)' test/duckdb.sh

.PHONY: test-natscli
test-natscli: ## Run the commands of deploy/nats/README.md with the real nats-server, nats and nk.
	@test/install.sh
	$(GO) vet -tags natscli ./test
	@GO='$(GO)' test/natscli.sh

.PHONY: build
build: ## Build bin/snapfleet.
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/snapfleet ./cmd/snapfleet

# Built from the same commit, it is the same image, byte for byte.
PLATFORMS ?= linux/amd64 linux/arm64
.PHONY: image
image: ## Build the container image into bin/image, without a container engine.
	@set -e; for platform in $(PLATFORMS); do \
		CGO_ENABLED=0 GOOS=$${platform%/*} GOARCH=$${platform#*/} $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/$$platform/snapfleet ./cmd/snapfleet; \
	done
	@$(GO) run $(CYCLONEDX) bin -std -json -noserial -notimestamp -version v$(VERSION) -output bin/sbom.cdx.json bin/$(firstword $(PLATFORMS))/snapfleet
	@$(GO) run ./deploy/image --out=bin/image --version='$(VERSION)' --sbom=bin/sbom.cdx.json \
		--revision="$$(git rev-parse HEAD)" --created="$$(git log -1 --format=%ct)" $(foreach p,$(PLATFORMS),--binary=$(p)=bin/$(p)/snapfleet)

.PHONY: manifests
manifests: ## Check the Kubernetes manifests against the API's own schemas.
	@mkdir -p bin
	@set -e; for overlay in base dev production; do \
		$(GO) run $(KUSTOMIZE) build deploy/kubernetes/$$overlay >bin/$$overlay.yaml; \
		echo "deploy/kubernetes/$$overlay"; \
		$(GO) run $(KUBECONFORM) -strict -summary -schema-location 'deploy/kubernetes/schemas/{{.ResourceKind}}{{.KindSuffix}}.json' bin/$$overlay.yaml; \
	done

.PHONY: rules
rules: ## Check the metrics, the alerts and the dashboard with Prometheus' promtool.
	@test/install.sh
	@GO='$(GO)' test/rules.sh

.PHONY: schemas
schemas: ## Write the schemas that manifests are checked against again. It downloads Kubernetes' source.
	$(GO) run ./deploy/kubernetes/schemas \
		--kubernetes="$$($(GO) mod download -json k8s.io/kubernetes@v1.37.2 | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')" \
		--keda="$$($(GO) mod download -json github.com/kedacore/keda/v2@v2.21.0 | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')"

.PHONY: lint
lint: ## Check formatting, vet, staticcheck, and who may import whom.
	@bad=$$($(GO) run $(GOFUMPT) -l .); if [ -n "$$bad" ]; then echo "not formatted, see make format:"; echo "$$bad"; exit 1; fi
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...
	$(GO) run $(GOLANGCI_LINT) run ./...

.PHONY: format
format: ## Format every file.
	$(GO) run $(GOFUMPT) -w .

.PHONY: generate
generate: ## Write again what is generated: the pages that are made from the source.
	$(GO) test ./contracts ./deploy/customer ./consumer -run '^(TestCustomerPage|TestExamples|TestDefinitions)$$' -update
	$(GO) test ./test -run '^TestMetricsPage$$' -args -update
	{ sed '/config:begin/q' README.md; $(GO) run ./cmd/snapfleet config-table; sed -n '/config:end/,$$p' README.md; } >README.md.new
	mv README.md.new README.md

.PHONY: fuzz
fuzz: ## Run every fuzzer for a short time. Longer: make fuzz FUZZTIME=10m
	@set -e; for dir in $$(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u); do \
		for f in $$(grep -ho --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' $$dir/*_test.go | cut -c6-); do \
			echo "$$dir $$f"; $(GO) test $$dir -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME); \
		done; \
	done

.PHONY: campaign
campaign: ## Look for broken promises, and for bugs that no test finds. Longer: make campaign SEEDS=200
	@test/install.sh
	$(GO) run ./test/campaign --seeds $(SEEDS)

.PHONY: bench
bench: ## Compare a delivery with scripts, pg_dump and the least it could cost. Smaller: make bench GB=0.2 ROUNDS=1
	@test/install.sh
	@mkdir -p bin
	$(GO) run ./test/bench --gb=$(GB) --rounds=$(ROUNDS) --json=bin/bench.json $(if $(SVG),--svg=$(SVG)) $(BENCHFLAGS)

.PHONY: bench-growth
bench-growth: ## Show how cost grows with bytes and tables, and what attachments cost. It takes some 20 GB of disk.
	@test/install.sh
	@mkdir -p bin
	$(GO) run ./test/bench --rounds=0 --growth --attachments --json=bin/bench-growth.json $(BENCHFLAGS)

# The real Jaeger, in a module of its own: see test/jaeger/go.mod.
bin/jaeger: test/jaeger/go.mod test/jaeger/go.sum
	@echo "Building Jaeger, once: 316 modules, some three minutes on two cores that have nothing else to do."
	@mkdir -p bin
	$(GO) build -C test/jaeger -ldflags '-s -w' -o ../../bin/jaeger github.com/jaegertracing/jaeger/cmd/jaeger
	@touch $@

.PHONY: trace
trace: bin/jaeger ## Show that the real Jaeger understands a delivery's trace. It builds Jaeger, once.
	@test/install.sh
	$(GO) vet -tags jaeger ./test ./cmd/demo
	$(GO) test -tags jaeger ./test ./cmd/demo -run '^TestJaeger' -p 1 -v -count 1

# The real Kubernetes and the real KEDA, in modules of their own, as Jaeger is.
KUBE = $(addprefix bin/kube/,etcd kube-apiserver kube-controller-manager kubectl)
KEDA = $(addprefix bin/keda/,operator adapter)

$(KUBE): bin/kube/%: test/kubernetes/go.mod test/kubernetes/go.sum
	@echo "Building $*, once: the four of Kubernetes take some eight minutes on two cores that have nothing else to do."
	@mkdir -p $(@D)
	$(GO) build -C test/kubernetes -ldflags '-s -w' -o ../../$@ $(if $(filter etcd,$*),go.etcd.io/etcd/server/v3,k8s.io/kubernetes/cmd/$*)
	@touch $@

$(KEDA): bin/keda/%: test/keda/go.mod test/keda/go.sum
	@echo "Building KEDA's $*, once: the two of KEDA take some six minutes on two cores that have nothing else to do."
	@mkdir -p $(@D)
	$(GO) build -C test/keda -ldflags '-s -w' -o ../../$@ github.com/kedacore/keda/v2/cmd/$*
	@touch $@

.PHONY: autoscale
autoscale: $(KUBE) $(KEDA) ## Show that the real KEDA scales workers in the real Kubernetes. It builds both, once.
	@test/install.sh
	$(GO) vet -tags kubernetes ./test
	$(GO) test -tags kubernetes ./test -run '^TestAutoscale$$' -timeout 20m -v -count 1

.PHONY: microbench
microbench: ## Run every Go benchmark.
	@test/install.sh
	$(GO) test -run '^$$' -bench . -benchmem -p 1 $(PKG)

SIMULATE ?= 100000
.PHONY: flood
flood: ## Publish a million requests of one tenant and 100,000 that cannot be read, and see when another tenant's job begins.
	$(GO) test ./consumer -run '^TestFlood$$' -count=1 -v -timeout 20m -args -flood

.PHONY: simulation
simulation: ## Simulate a night of 100,000 tenants in virtual time. Fewer: make simulation SIMULATE=10000
	@mkdir -p bin
	$(GO) test ./consumer -run '^TestSimulation$$' -v -timeout 1h -args -simulate=$(SIMULATE) \
		-sim-json=$(CURDIR)/bin/simulation.json -sim-svg=$(CURDIR)/bin/simulation.svg $(SIMFLAGS)

.PHONY: memory
memory: ## Show that memory does not grow: 0.1 and 4 GB. It takes some 15 GB of disk and a few minutes.
	@test/install.sh
	$(GO) test ./test -run '^TestMemoryDoesNotGrow$$' -v -timeout 30m -args -gigabytes=4

.PHONY: soak
soak: ## Show that a worker's memory does not grow: 200,000 jobs in virtual time, and 20,000 over a real server. It takes hours.
	$(GO) test ./consumer -run '^TestMemoryOfAWorkerDoesNotGrow$$' -v -timeout 12h -args -soak=200000
	$(GO) test ./consumer -run '^TestMemoryOfAWorkerDoesNotGrowOverARealServer$$' -v -timeout 6h -args -real-soak=20000

.PHONY: completion
completion: build ## Print how to complete snapfleet's commands with the tabulator key.
	@echo "bash:  source <($(CURDIR)/bin/snapfleet completion bash)"
	@echo "zsh:   source <($(CURDIR)/bin/snapfleet completion zsh)"

.PHONY: clean
clean: ## Remove what was built.
	rm -rf bin
