# Two commands matter: `make demo` and `make test`. Everything they need is set up where it is missing.

PYTHON ?= python3
# Which torch build: the plain pin, or with an index of the CPU or a CUDA build in PIP_* variables.
TORCH_SPEC ?= torch==2.13.0
PORT ?= 8000
ONLY ?=
BIN := .venv/bin

.PHONY: demo test lint smoke bench evidence stop clean setup setup-dev lock

demo: setup
	$(BIN)/python manage.py demo --port $(PORT)

test: setup-dev
	deploy/ensure_chromium.sh
	$(BIN)/pytest
	deploy/with_node.sh npm --prefix frontend test

lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	deploy/with_node.sh npm --prefix frontend run lint

smoke: setup-dev
	deploy/ensure_chromium.sh
	$(BIN)/python -m tests.e2e.smoke

bench: setup-dev
	deploy/ensure_chromium.sh
	$(BIN)/python -m tests.bench $(if $(ONLY),--only $(ONLY))

# Every figure of the README files, from seeds: about an hour on two cores.
evidence: setup
	deploy/evidence.sh

stop:
	@if [ -x $(BIN)/python ]; then \
	  $(BIN)/python -m backend.config.supervisor --stop; \
	  $(BIN)/python -m backend.config.postgres stop; fi

# Removes everything that is not in the repository: environment, builds, and the demo's data.
clean: stop
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m backend.config.postgres remove; fi
	rm -rf .venv var frontend/node_modules frontend/dist bench.json *.egg-info

setup: .venv/.runtime frontend/dist/.built
setup-dev: setup .venv/.dev

.venv/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; $(PYTHON) is older. Set PYTHON=…"; exit 1; }
	$(PYTHON) -m venv .venv
	touch $@

# The lock first and without dependency resolution, so that torch finds what it needs in place.
.venv/.runtime: requirements.lock requirements-real-slide.lock pyproject.toml | .venv/.python
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-real-slide.lock
	$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH_SPEC)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

.venv/.dev: requirements-dev.lock .venv/.runtime
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-dev.lock
	touch $@

frontend/dist/.built: $(shell find frontend/src frontend/styles -type f 2>/dev/null) \
    frontend/package-lock.json frontend/vite.config.ts | .venv/.runtime
	deploy/with_node.sh npm --prefix frontend ci --no-audit --no-fund --loglevel=error
	deploy/with_node.sh npm --prefix frontend run build
	touch $@

# Writes the lock files anew from requirements*.in; needs uv on the PATH.
lock:
	uv pip compile requirements.in -o requirements.lock --generate-hashes --no-annotate --no-header \
	  --python-version 3.11 --no-emit-package torch \
	  $$(sed "s/^/--no-emit-package /" deploy/not_locked.txt)
	uv pip compile requirements-dev.in -o requirements-dev.lock --generate-hashes --no-annotate --no-header \
	  --python-version 3.11
	uv pip compile requirements-node.in -o requirements-node.lock --generate-hashes --no-annotate --no-header \
	  --python-version 3.11
