# Works on a machine that has git, make and Python 3.11 with pip, and nothing else:
# uv is installed into the project's own .venv, and everything else by it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test slow lint docs clean

BIN := .venv/bin
UV := $(BIN)/uv
UV_REQUIREMENT := uv>=0.9,<1
ARGS ?=

export UV_PROJECT_ENVIRONMENT := .venv
unexport VIRTUAL_ENV PYTHONHOME
# The tests start hundreds of interpreters; each would compile Celery anew.
export UV_COMPILE_BYTECODE := 1
unexport PYTHONDONTWRITEBYTECODE

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile

demo: .venv/.synced  ## kills a worker before your eyes, on Celery alone, then with Crisper
	@$(BIN)/crisper demo $(ARGS)

test: .venv/.synced  ## every test; ARGS="tests/core -k lease" for some
	@$(BIN)/pytest $(ARGS)

slow: .venv/.synced  ## the tests that take minutes: a death between every two steps, outages, the demo
	@$(BIN)/pytest -m slow $(ARGS)

lint: .venv/.synced  ## ruff, mypy, import-linter
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv/.synced  ## builds the documentation into site/; a broken link fails it
	$(UV) run --quiet --frozen --group docs mkdocs build --strict

clean:  ## removes .venv and whatever was built
	rm -rf .venv .venv-lowest site build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# --inexact keeps uv itself, which is not one of the project's dependencies. The machine's own certificates
# come first, as they do for pip: behind a company's proxy uv's own do not open a package index.
SYNC := --quiet --frozen --inexact
.venv/.synced: pyproject.toml uv.lock Makefile
	@if ! $(BIN)/python -c '' 2>/dev/null; then \
	  for python in python3.11 python3 python3.12 python3.13 python3.14 python; do \
	    if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	      $$python -m venv --clear --without-pip .venv; break; \
	    fi; \
	  done; \
	  $(BIN)/python -c '' 2>/dev/null || { echo 'make: no Python 3.11 or newer with venv found on PATH' >&2; exit 1; }; \
	fi
	@$(UV) --version >/dev/null 2>&1 || $(INSTALL_UV)
	@UV_NATIVE_TLS=true $(UV) sync $(SYNC) || $(UV) sync $(SYNC)
	@touch $@

# A virtual environment made by uv, or on Debian without python3-venv, has no pip: the machine's own pip reaches into it.
define INSTALL_UV
{ \
  echo 'make: installing uv into .venv'; \
  for python in python3.11 python3 python; do \
    $$python -m pip --quiet --disable-pip-version-check --python $(BIN)/python install '$(UV_REQUIREMENT)' 2>.venv/.pip.log && exit 0; \
  done; \
  $(BIN)/python -m ensurepip >/dev/null 2>&1 && \
    $(BIN)/python -m pip --quiet --disable-pip-version-check install '$(UV_REQUIREMENT)' && exit 0; \
  cat .venv/.pip.log >&2; exit 1; \
}
endef
