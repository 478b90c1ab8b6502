# Everything a user or a developer types. `make help` lists it. The virtual environment .venv is made when it is missing.

VENV    := .venv
BIN     := $(VENV)/bin
SYSTEM_PYTHON ?= $(shell for python in python3 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$python; break; }; done)
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
ARGS    ?=

.PHONY: help run test test-all lint format clean
.DEFAULT_GOAL := help

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

run: $(VENV)/.installed  ## train and probe one model; options: make run ARGS="router=soft capacity=2"
	$(BIN)/moe-bench $(ARGS)

test: $(VENV)/.developing  ## the fast tests, as CI runs them
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

test-all: $(VENV)/.developing  ## all tests, slow ones too
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.developing  ## ruff, mypy and the rule that imports run one way
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.developing  ## let ruff rewrite what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove the environment, caches and build outputs; runs/ stays
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

$(BIN)/python:
	@test -n "$(SYSTEM_PYTHON)" || { echo "moe-bench needs Python 3.11 or newer; name one: make SYSTEM_PYTHON=/path/to/python3.11"; exit 1; }
	@echo "making $(VENV) with $$($(SYSTEM_PYTHON) --version); torch and its friends take some minutes the first time"
	@$(SYSTEM_PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python pyproject.toml constraints.txt
	@$(INSTALL) --editable .
	@touch $@

$(VENV)/.developing: $(VENV)/.installed
	@$(INSTALL) --editable ".[dev]"
	@touch $@
