# One command each: `make run`, `make test`, `make check`. Needs Python 3.11 or later with venv, and a package index.
# The environment is .venv, from a lock file; two stamps in it carry the hashes of what it was made from, each written last.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PLAN   ?=

# An NVIDIA GPU that answers selects the CUDA build of vLLM, everything else the CPU build. Override: make run EXTRA=cpu
EXTRA ?= $(if $(findstring GPU,$(shell nvidia-smi -L 2>/dev/null)),cuda,cpu)
LOCK  := locks/$(EXTRA).txt
LOCKED    := $(VENV)/.locked-$(EXTRA)-$(shell sha256sum < $(LOCK) | cut -c 1-16)
INSTALLED := $(VENV)/.installed-$(shell cat $(LOCK) pyproject.toml | sha256sum | cut -c 1-16)
PIP       := $(BIN)/python -m pip install --quiet --quiet --no-deps

# Nothing reports to anybody, and nothing is fetched from a model hub, unless the caller says otherwise.
export HF_HUB_OFFLINE            ?= 1
export HF_HUB_DISABLE_TELEMETRY  ?= 1
export VLLM_NO_USAGE_STATS       ?= 1
export RAY_USAGE_STATS_ENABLED   ?= 0
export PIP_DISABLE_PIP_VERSION_CHECK ?= 1

.DEFAULT_GOAL := help
.PHONY: help env run test static check format clean
.DELETE_ON_ERROR:

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

env: $(INSTALLED) ## make .venv from the lock file (minutes the first time, nothing afterwards)

# An environment without a stamp was interrupted half-way, or holds the other build of vLLM: it is made anew. One with the
# stamp of another version of the same lock is brought up to date.
$(LOCKED):
	@echo "making $(VENV) from $(LOCK): a few minutes the first time"
	@$(PYTHON) -m venv $(if $(wildcard $(VENV)/.locked-$(EXTRA)-*),,--clear) $(VENV)
	@rm -f $(VENV)/.locked-* $(VENV)/.installed-*
	$(PIP) --only-binary :all: -r $(LOCK)
	@touch $@

# The project itself, by reference (an edit needs no reinstall; a changed entry point does).
$(INSTALLED): $(LOCKED)
	@rm -f $(VENV)/.installed-*
	$(PIP) --no-build-isolation -e .
	@touch $@

run: env ## run the main job (a sweep of the shipped model over depth and width) or PLAN=FILE with a real engine; say where results lie
	$(BIN)/leadline $(if $(PLAN),run $(PLAN),sweep examples/sounder.toml --depths 1,2,3,4,8 --widths 1..16)

FAST := -n auto -m "not engine and not slow"

test: env ## run the whole test suite, real engine included, with the coverage gate on its fast part
	@rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest $(FAST)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report
	$(BIN)/python -m pytest -n auto -m "slow and not engine"
	$(BIN)/python -m pytest -m engine

static: env ## format, lint, types and the import contract: no test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: static ## the static checks and the fast tests, in about a minute
	$(BIN)/python -m pytest $(FAST)

format: env ## format the sources and apply the safe lint fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove what make and the tools made (not the converted model in the user's cache)
	rm -rf $(VENV) build dist .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
