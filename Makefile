# The two commands of a new user are `make quickstart` and `make test`; the README says what each does.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
CONSTRAINTS ?= constraints/tested.txt
# An index to take torch alone from, such as https://download.pytorch.org/whl/cpu for the build without CUDA; empty: where pip looks.
TORCH_INDEX ?=
# What `make resolve` resolves with.
UV = uv==0.13.9
# pip byte-compiles on one core; the first import does it where it is needed, and keeps it: torch and what trains with it take
# each process ten seconds to import otherwise, instead of four.
unexport PYTHONDONTWRITEBYTECODE
PIP = $(BIN)/python -m pip --disable-pip-version-check install -qq --no-compile -c $(CONSTRAINTS)
# Where to find the tools when the environment is not active.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help quickstart test resolve lint types schema long clean clean-all

help:
	@echo "make quickstart   install into $(VENV), run the study of studies/quickstart.yaml, print its table"
	@echo "                  (TORCH_INDEX=https://download.pytorch.org/whl/cpu: with the small build of torch, without CUDA)"
	@echo "make test         install with the test extra, run the test suite"
	@echo "make long         the tests that take minutes to hours"
	@echo "make resolve      do the constraints resolve from the package registry alone? Every Python and platform; installs nothing of them"
	@echo "make lint types   ruff, snakefmt and mypy"
	@echo "make clean        delete what studies built (results/, logs/, studies/NAME/) and nothing else; says it first, asks nothing"
	@echo "make clean-all    also delete $(VENV)"

quickstart: $(VENV)/.installed
	@$(BIN)/snakemake --profile local studies/quickstart

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m "not long" -n 3 --dist loadfile --durations=10 $(PYTEST_ARGS)

long: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m long $(PYTEST_ARGS)

resolve: $(VENV)/resolver/bin/uv
	@$(VENV)/resolver/bin/python constraints/resolve.py $(CONSTRAINTS)

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow

types: $(VENV)/.installed-test
	$(BIN)/mypy

schema: $(VENV)/.installed
	$(BIN)/python -m tst_titan.study.schema

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than Python 3.11; name another: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml $(CONSTRAINTS) | $(VENV)/bin/python
	@echo "Installing tst-titan into $(VENV) (some minutes the first time)"
	$(if $(TORCH_INDEX),$(PIP) --no-deps --index-url $(TORCH_INDEX) torch)
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	@echo "Installing the test extra into $(VENV)"
	$(PIP) -e ".[test]"
	@touch $@

# An environment of its own: what is resolved, and with what it is tested, does not depend on it.
$(VENV)/resolver/bin/uv: | $(VENV)/bin/python
	@$(PYTHON) -m venv $(VENV)/resolver
	@$(VENV)/resolver/bin/python -m pip --disable-pip-version-check install -qq "$(UV)"

# With the environment's Python where there is one, else with that of whoever installed the package otherwise (conda).
clean:
	@$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m tst_titan.cli clean

clean-all: clean
	@[ ! -e "$(VENV)" ] || { echo "deleting $(VENV)"; rm -rf -- "$(VENV)"; }
