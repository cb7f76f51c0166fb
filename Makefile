# `make help` lists what there is to do. Every target that needs the package sets it up first.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# PYTHON=python3.12 works in a folder of its own, .venv-python3.12, and leaves .venv alone.
PYTHON ?= python3
ifndef VENV
ifeq ($(PYTHON),python3)
VENV := .venv
else
VENV := .venv-python$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
endif
endif

# Small kernels lose more to oversubscribed threads than they gain from them.
THREADS ?= 1
PINNED := OMP_NUM_THREADS=$(THREADS) MKL_NUM_THREADS=$(THREADS) OPENBLAS_NUM_THREADS=$(THREADS)
# Test processes: as many as cores, eight at most.
WORKERS ?= auto
PYTEST_ARGS ?=

PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
NAMES := build/names/likely
CODE := $(wildcard envs models inference tests examples benchmarks)

EXAMPLES := $(filter-out examples/_%,$(wildcard examples/*.py))
BENCHMARKS := $(filter-out benchmarks/_%,$(wildcard benchmarks/*.py))

.PHONY: help setup demo test test-fast coverage lint format examples bench wheel clean distclean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "  PYTHON=python3.12      another interpreter, in its own folder .venv-python3.12"
	@echo "  PYTEST_ARGS='-k name'  more arguments for pytest"
	@echo "  WORKERS=0 THREADS=1    test processes, and threads in each test or benchmark"

setup: $(STAMP) ## create the virtual environment and install what is pinned

# The last step imports ArviZ once, alone: its first import writes a cache file, and
# matplotlib's builds the font cache.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "likely needs Python 3.11 or newer; PYTHON=$(PYTHON) is $$($(PYTHON) --version 2>&1 | head -n 1)." >&2; \
	    echo "Name another one: make $(or $(MAKECMDGOALS),setup) PYTHON=/path/to/python3.11" >&2; \
	    exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -P -m pip install --disable-pip-version-check --quiet \
	    -c constraints.txt -e '.[dev,fast,web,rl,minari,render]'
	MPLBACKEND=Agg $(PY) -P -W ignore -c 'import arviz, matplotlib.pyplot, pyro'
	@touch $@

demo: $(STAMP) ## set up and run the anesthesia example
	$(PY) examples/anesthesia.py

test: $(STAMP) ## run every test
	$(PINNED) MPLBACKEND=Agg $(PY) -P -m pytest -n $(WORKERS) --maxprocesses=8 $(PYTEST_ARGS)

test-fast: $(STAMP) ## run the tests that are not marked slow
	$(PINNED) MPLBACKEND=Agg $(PY) -P -m pytest -n $(WORKERS) --maxprocesses=8 -m 'not slow' $(PYTEST_ARGS)

coverage: $(STAMP) ## run every test and list the lines that none of them reached
	$(PINNED) MPLBACKEND=Agg $(PY) -P -m pytest -n $(WORKERS) --maxprocesses=8 --cov --cov-report=term $(PYTEST_ARGS)

lint: $(STAMP) $(NAMES) ## ruff check, ruff format --check, mypy
	$(PY) -P -m ruff check $(CODE)
	$(PY) -P -m ruff format --check $(CODE)
	$(PY) -P -m mypy | sed 's#^$(NAMES)/##'

format: $(STAMP) ## let ruff format and sort imports
	$(PY) -P -m ruff check --fix $(CODE)
	$(PY) -P -m ruff format $(CODE)

# mypy does not follow the import hook of an editable install, so it reads the names here.
$(NAMES): Makefile
	mkdir -p $@
	for folder in envs models inference; do ln -sfn ../../../$$folder $@/$$folder; done
	@touch $@

examples: $(STAMP) ## run every example
	for script in $(EXAMPLES); do \
	    echo "== $$script"; $(PINNED) MPLBACKEND=Agg $(PY) $$script; \
	done

bench: $(STAMP) ## run every benchmark with pinned threads
	for script in $(BENCHMARKS); do \
	    echo "== $$script (threads: $(THREADS))"; $(PINNED) MPLBACKEND=Agg $(PY) $$script; \
	done

wheel: $(STAMP) ## build dist/likely-*.whl
	rm -rf build/lib build/bdist.*
	$(PY) -P -m build --wheel --no-isolation

clean: ## remove everything made but the virtual environments
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.*
	rm -rf examples/output benchmarks/output
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## remove the virtual environments too
	rm -rf .venv .venv-python*
