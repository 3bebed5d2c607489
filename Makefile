# Two commands matter: `make bake` (a spec becomes a running runner) and `make test`. The rest is for working on it.
GO      ?= go
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
ARCH    := $(shell $(GO) env GOARCH)
COUNT   ?= 1
# One set of flags for programs and tests, so that the SDKs are compiled once.
export CGO_ENABLED := 0
ROOT    := .ci/as-root

.PHONY: build test test-short test-race lint bench soak bake golden snapshot clean
.DEFAULT_GOAL := build

## build: the programs, into bin/
build:
	$(GO) build -ldflags '$(LDFLAGS)' -o bin/ ./cmd/dorunner-bake ./cmd/packer-plugin-dorunner
	GOOS=linux $(GO) build -ldflags '$(LDFLAGS)' -o bin/dorunner-firstboot-linux-$(ARCH) ./cmd/dorunner-firstboot

## bake: bake an image from the default spec, boot COUNT machines from it, wait until their runners are online
bake: build
	$(ROOT) .ci/setup bake
	$(ROOT) examples/one-machine/bake.sh $(COUNT)

## test: everything, with real Docker, cloud-init and QEMU
test: build
	$(ROOT) .ci/setup test
	$(ROOT) .ci/with-docker $(GO) test -timeout 40m ./...

## test-short: what needs neither root nor Docker nor QEMU
test-short:
	$(GO) test -short -timeout 10m ./...

test-race:
	CGO_ENABLED=1 $(GO) test -race -short ./...

## soak: the long versions of the tests
soak: build
	$(ROOT) .ci/setup test
	$(ROOT) env DORUNNER_SOAK=1 .ci/with-docker $(GO) test -timeout 180m ./...

## lint: gofmt, vet, golangci-lint, shellcheck
lint:
	@test -z "$$(gofmt -l .)" || { gofmt -l .; exit 1; }
	$(GO) vet ./...
	$(GO) generate ./... && git diff --exit-code -- '*.hcl2spec.go' docs/packer
	$(GO) run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0 run ./...
	shellcheck .ci/* examples/*/*.sh
	shellcheck --shell=dash templates/files/guest/*.sh

## bench: the figures, as ratios against the alternative in the same run
bench: build
	$(ROOT) .ci/setup test
	$(ROOT) env ONLY="$(ONLY)" .ci/with-docker examples/bench/bench.sh

## golden: rewrite the golden files from what is generated now
golden:
	$(GO) test -short $$(grep -rl 'flag.Bool("update"' --include='*_test.go' . | xargs -n1 dirname | sort -u) -update

## snapshot: a release as goreleaser would make it, without publishing
snapshot:
	$(GO) run github.com/goreleaser/goreleaser/v2@v2.16.0 check
	$(GO) run github.com/goreleaser/goreleaser/v2@v2.16.0 release --snapshot --clean --skip=publish

clean:
	rm -rf bin out dist completions
