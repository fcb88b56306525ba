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
DOCUMENTED := $(VENV)/.documented-$(shell cat $(LOCK) locks/docs.txt | sha256sum | cut -c 1-16)
CLIENTS   := .venv-clients
CLIENTED  := $(CLIENTS)/.installed-$(shell cat locks/clients.txt pyproject.toml | sha256sum | cut -c 1-16)
PIP       := $(BIN)/python -m pip install --quiet --quiet --no-deps

# Nothing reports to anybody, and nothing is fetched from a model hub, unless the caller says otherwise.
export HF_HUB_OFFLINE            ?= 1
export HF_HUB_DISABLE_TELEMETRY  ?= 1
export VLLM_NO_USAGE_STATS       ?= 1
export RAY_USAGE_STATS_ENABLED   ?= 0
export PIP_DISABLE_PIP_VERSION_CHECK ?= 1

# The processes that the tests start find compiled modules, wherever the caller's environment turns them off.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help env run test chaos static check docs format clean web browser clients
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

run: env ## run the main job (a sweep of the shipped model over depth and width) or PLAN=FILE with a real engine; ends by naming its report
	$(BIN)/leadline $(if $(PLAN),run $(PLAN),sweep examples/fathom.toml --depths 1,2,3,4,6 --widths 1..16) --report

FAST := -n auto -m "not engine and not slow"

web: ## build the pages of `leadline report` from web/ into the package (needs npm); the result is committed
	cd web && npm ci --no-audit --no-fund && npm run check && npm run build

# What the tests of the pages open them with. What cannot be installed is named, and its tests are skipped.
browser:
	@command -v chromium >/dev/null || [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null || \
	  { apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } || echo "chromium cannot be installed"
	@[ -d web/node_modules ] || ! command -v npm >/dev/null || \
	  { cd web && npm ci --silent --no-audit --no-fund; } || echo "the packages of web/ cannot be installed"

# Packages of others that use Leadline, and whose pins are not ours: an environment of their own. Without it their tests are skipped.
clients: ## make .venv-clients, which the tests of other packages' clients use (minutes the first time)
	@[ -f $(CLIENTED) ] || { \
	  echo "making $(CLIENTS) from locks/clients.txt" && $(PYTHON) -m venv --clear $(CLIENTS) && \
	  $(CLIENTS)/bin/python -m pip install --quiet --quiet --no-deps -r locks/clients.txt && \
	  $(CLIENTS)/bin/python -m pip install --quiet --quiet --no-deps -e . && touch $(CLIENTED); \
	} || echo "the packages of locks/clients.txt cannot be installed"

test: env browser clients ## run the whole test suite, real engine included, with the coverage gate on its fast part (about an hour)
	@rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest $(FAST)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report
	$(BIN)/python -m pytest -n auto -m "slow and not engine"
	$(BIN)/python -m pytest -m engine

# Seed and size of the campaigns; a seed that fails is printed, with the command that plays it again.
CHAOS_SEED ?= 0
HISTORIES  ?= 5000
KILLS      ?= 100
CALLS      ?= 60
TORN       ?= 200
INPUTS     ?= 2000

chaos: env ## play histories of jobs under a simulated scheduler, kill real ones, fail their disk, give hostile inputs (about ten minutes)
	$(BIN)/python tests/chaos simulation --seed $(CHAOS_SEED) --n $(HISTORIES)
	$(BIN)/python tests/chaos signals --seed $(CHAOS_SEED) --n $(KILLS)
	$(BIN)/python tests/chaos disk --seed $(CHAOS_SEED) --n $(CALLS)
	$(BIN)/python tests/chaos torn --seed $(CHAOS_SEED) --n $(TORN)
	$(BIN)/python tests/chaos hostile --seed $(CHAOS_SEED) --n $(INPUTS)

static: env ## format, lint, types and the import contract: no test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: static ## the static checks and the fast tests (about five minutes)
	$(BIN)/python -m pytest $(FAST)

# What the site needs beside the environment: some 20 small packages, installed when a site is first built.
$(DOCUMENTED): $(LOCKED)
	@rm -f $(VENV)/.documented-*
	$(PIP) --only-binary :all: -r locks/docs.txt
	@touch $@

docs: env $(DOCUMENTED) ## build the documentation site into build/site, without network; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs --quiet build --strict
	@echo "built: build/site/index.html (to read it with its search: $(BIN)/python -m http.server --directory build/site)"

format: env ## format the sources and apply the safe lint fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove what make and the tools made (not the converted model in the user's cache)
	rm -rf $(VENV) $(CLIENTS) build dist .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
