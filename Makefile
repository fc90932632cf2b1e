# The door to everything: `make` says what there is. Each target installs what it needs first, once.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
# Two CMake builds in one folder would disturb each other; each is parallel in itself
.NOTPARALLEL:
.DEFAULT_GOAL := help

# tools/setup.sh puts Node there where the system's is missing or too old
export PATH := $(CURDIR)/build/node/bin:$(PATH)
# WebGPU in Node: the software adapter that Debian's Chromium brings, unless told otherwise
export VK_ICD_FILENAMES ?= /usr/lib/chromium/vk_swiftshader_icd.json

NODE := node
TSC := $(NODE) node_modules/typescript/bin/tsc
JOBS ?= $(shell nproc)

# What the CMake builds make that the npm package takes
WASM_MODULES := sluice_loader sluice_store sluice_runtime
ABI_GENERATOR_TARGET := abi_gen
ABI_GENERATOR := build/native/hosts/wasm/$(ABI_GENERATOR_TARGET)

PACKAGE := packages/sluice
ABI_TS := $(PACKAGE)/src/generated/abi.ts

.PHONY: help setup build native asan wasm abi package model smollm2 checksmollm2 reference run demo test lint format bench plots fuzz faults clean

help: ## Say what there is
	@printf 'Targets of make:\n'
	@sed -nE 's/^([a-z0-9]+):.*## (.*)/  \1\t\2/p' Makefile | expand -t 12

setup: ## Install what the project needs (Debian packages, Node, npm packages), once
	@tools/setup.sh

# Configuring again after that is CMake's own doing, when a CMakeLists.txt changes
build/%/build.ninja: CMakePresets.json | setup
	cmake --preset $*
	@touch $@

native: build/native/build.ninja
	@cmake --build --preset native -j $(JOBS)

asan: build/asan/build.ninja
	@cmake --build --preset asan -j $(JOBS)

wasm: build/wasm/build.ninja
	@cmake --build --preset wasm -j $(JOBS)

# The TypeScript constants of the wasm interface, printed by a program that includes its header
abi: build/native/build.ninja
	@cmake --build --preset native -j $(JOBS) --target $(ABI_GENERATOR_TARGET)
	@mkdir -p $(dir $(ABI_TS))
	@$(ABI_GENERATOR) >$(ABI_TS).new
	@if cmp -s $(ABI_TS).new $(ABI_TS); then rm $(ABI_TS).new; else mv $(ABI_TS).new $(ABI_TS); fi

package: wasm abi
	@mkdir -p $(PACKAGE)/dist
	@for name in $(WASM_MODULES); do cp -u build/wasm/hosts/wasm/$$name.min.wasm $(PACKAGE)/dist/$$name.wasm; done
	@$(TSC) -p $(PACKAGE)/tsconfig.json
	@$(NODE) tools/bundle.mjs $(addprefix $(PACKAGE)/dist/,chat/libraries.js store/checksum.js store_worker.js worker.js)

build: native package ## Build everything: the native command, the loader's wasm, the npm package

model: | setup
	@tools/fetch_model.sh

# SMOLLM2=float32 makes the one alone
smollm2: model build/native/build.ninja build/wasm/build.ninja ## Compile SmolLM2 with TVM, link it with the runtime, pack its weights: build/smollm2/web
	@cmake --build --preset native -j $(JOBS) --target sluice
	@cmake --build --preset wasm -j $(JOBS) --target sluice_model
	@models/smollm2/build.sh $(SMOLLM2)

# Apart from `make test`: compiling takes minutes, and on a software adapter so does every answer
checksmollm2: smollm2 package ## Hold SmolLM2's files, tokenizer and first answer to the reference
	@$(NODE) --import tsx --test tests/smollm2/check.ts

# Of the native build only the command is needed, not the tests. A model of the caller's is not compiled, so it does not talk
run: SMOLLM2 := float32
run: package model $(if $(findstring --model,$(RUN)),,smollm2) ## Load a real model into headless Chromium's WebGPU, check every tensor, let it answer
	@cmake --build --preset native -j $(JOBS) --target sluice
	@$(NODE) --import tsx apps/run/main.ts $(RUN)

# SmolLM2 is linked anew where the runtime has changed: some 20 s for each .wasm. It is not built here the first time, which
# takes minutes; the server and its chat page say how
SMOLLM2_BUILT = $(patsubst build/smollm2/web/%/tensor-cache.json,%,$(wildcard build/smollm2/web/*/tensor-cache.json))
demo: package ## Serve the demo pages on 127.0.0.1: a model's tensors, and a chat
	@[[ -z '$(SMOLLM2_BUILT)' ]] || models/smollm2/build.sh $(SMOLLM2_BUILT) || \
		printf 'demo: SmolLM2 was not brought up to date, and is served as it is\n' >&2
	@$(NODE) --import tsx apps/demo/serve.ts $(DEMO)

# What tests/reference holds the loader against
reference: | setup
	@tools/fetch_model.sh reference

test: build asan reference ## Run every test; the last line is `N passed, M failed`
	@tools/test.py

lint: package ## Check format, lint and layering; the last line is `N passed, M failed`
	@tools/lint.py

format: | setup ## Rewrite the sources in the project's format
	@tools/lint.py --fix

bench: build ## Measure throughput, memory, calls, size and start-up time; tables, and charts under build/bench
	@$(NODE) bench/main.mjs
	@$(NODE) bench/plots.mjs

# What docs/benchmarks.md shows, of the figures under bench/results
plots: | setup ## Draw the figures of docs/benchmarks.md anew
	@$(NODE) bench/plots.mjs --out docs/figures bench/results/*.json
	@$(NODE) bench/plots.mjs --out docs/figures --ratios store-ratios bench/results/store-*.json bench/results/store/*.json

SECONDS ?= 60
fuzz: build/fuzz/build.ninja ## Fuzz each target for SECONDS=60, or RUNS= times (FUZZ='--max-len 256 ffi_fuzz'); what it finds lands in build/fuzz/findings
	@cmake --build --preset fuzz -j $(JOBS)
	@tools/fuzz.py --jobs $(JOBS) $(if $(RUNS),--runs $(RUNS),--seconds $(SECONDS)) $(FUZZ)

LOADS ?= 1000000
simulate: build/native/build.ninja ## Load LOADS=1000000 random models under random faults, and check every byte
	@cmake --build --preset native -j $(JOBS) --target simulate
	@build/native/core/load/simulate $(LOADS)

faults: package ## Repeat the local store's faults many times (FAULTS='--seed 1 --only cuts --cuts 50'); the last line is `N passed, M failed`
	@$(NODE) --import tsx $(PACKAGE)/test/faults/main.ts $(FAULTS)

clean: ## Remove what was built; Node and the downloaded model stay
	rm -rf build/native build/asan build/wasm build/fuzz build/lint build/test
	rm -rf build/smollm2/objects build/smollm2/web
	rm -rf $(PACKAGE)/dist $(PACKAGE)/src/generated
