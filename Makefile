# Every target makes what it needs: the virtual environment from the lock file, the compiler inside it.
# `make` or `make help` lists them.

VENV    ?= .venv
PYTHON  := $(CURDIR)/$(VENV)/bin/python
STAMP   := $(VENV)/.installed
PACKAGES := cdi cli controller driver kubeletplugin native proto sim
LINKTREE := build/typecheck/fracgpu

.DEFAULT_GOAL := help
.PHONY: help demo test e2e lint format proto native sanitize fuzz bench bench-e2e lock clean

help:           ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The environment is remade when the lock file or the package metadata change.
$(STAMP): requirements.lock pyproject.toml setup.py tools/bootstrap.sh
	@sh tools/bootstrap.sh venv "$(VENV)"
	@touch $@

demo: native    ## two pods share one (simulated) GPU: the five exercises, PASS or FAIL
	@$(PYTHON) -m fracgpu.cli.main lab

test: native    ## all tests of the fast tier, sanitizer builds of the C code included
	@sh tools/bootstrap.sh cc
	@$(MAKE) --no-print-directory --silent sanitize
	@$(PYTHON) -m pytest $(PYTEST_ARGS)
	@echo "The same claims on a real Kubernetes, as root: make e2e (the first time it builds one, about 10 minutes)"

# Only a KUBECONFIG that was typed counts: one in the environment may name a cluster that people depend on.
e2e: native     ## claims on a real Kubernetes, built and started here, as root; or KUBECONFIG=... for any cluster
	@$(PYTHON) -m tests.cluster.run $(if $(filter command,$(origin KUBECONFIG)),--kubeconfig $(KUBECONFIG)) $(PYTEST_ARGS)

native: $(STAMP) ## build interceptor, model GPU and probes into build/native
	@$(MAKE) --no-print-directory --silent -C native OUT=$(CURDIR)/build/native PYTHON=$(PYTHON)

sanitize: $(STAMP) ## build the C code for its tests under ASan, UBSan and TSan
	@$(MAKE) --no-print-directory --silent -C native OUT=$(CURDIR)/build/native PYTHON=$(PYTHON) sanitize

FUZZ_SECONDS ?= 600
fuzz: native    ## fuzz what reads config pages and state files, for FUZZ_SECONDS
	@sh tools/bootstrap.sh cc
	@$(PYTHON) -m tests.native.fuzz.run $(FUZZ_SECONDS)

lint: $(STAMP) $(LINKTREE) ## ruff (lint, format) and mypy --strict over every file
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@cd build/typecheck && $(PYTHON) -m mypy --config-file $(CURDIR)/pyproject.toml -p fracgpu
	@MYPYPATH=build/typecheck $(PYTHON) -m mypy setup.py bench tests

format: $(STAMP) ## let ruff rewrite what it can
	@$(PYTHON) -m ruff check --fix .
	@$(PYTHON) -m ruff format .

# `fracgpu` has no folder of its own, and mypy follows folders: give it one made of links.
$(LINKTREE): Makefile
	@mkdir -p $@ && for package in $(PACKAGES); do ln -sfn ../../../$$package $@/$$package; done && touch $@

proto: $(STAMP) $(LINKTREE) ## regenerate the committed gRPC stubs
	@$(PYTHON) -m fracgpu.proto.generate

bench: native   ## what a call, a Prepare, a placement cost; the first two against their floors in the same run
	@$(PYTHON) bench/native/run.py
	@$(PYTHON) bench/native/starts.py
	@$(PYTHON) -m bench.kubeletplugin.run
	@$(PYTHON) -m bench.controller.engine
	@$(PYTHON) -m bench.controller.world

bench-e2e: native ## on a real Kubernetes: a pod to its first CUDA call, claims allocated per second; as root
	@$(PYTHON) -m bench.cluster.run
	@$(PYTHON) -m bench.controller.allocation_rate

PIN := -m piptools compile --quiet --allow-unsafe --generate-hashes --strip-extras --no-emit-index-url --no-emit-find-links
lock: $(STAMP)  ## pin every dependency again, within the bounds of pyproject.toml
	@$(PYTHON) $(PIN) --all-extras --output-file requirements.lock pyproject.toml
	@$(PYTHON) $(PIN) --output-file tests/cluster/requirements.lock tests/cluster/requirements.in

clean:          ## remove everything that was built
	rm -rf build dist $(VENV) *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
