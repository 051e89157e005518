# Needs Python 3.11 or newer (PYTHON=... names another one) and, for the fast chunker, a C compiler.

PYTHON ?= python3
PYTEST_ARGS ?=
MINUTES ?= 60
SEED ?=
TORTURE_ARGS ?=
PLANTED_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt
BUILD_INPUTS := pyproject.toml constraints.txt $(wildcard setup.py src/twinfold/*.[ch])
PACKAGE := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
CODE := src tests $(if $(wildcard benchmarks/*.py benchmarks/*/*.py),benchmarks)

.DEFAULT_GOAL := help
.PHONY: help demo test coverage torture planted check clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' Makefile

demo: $(PACKAGE) ## install twinfold into .venv and show it at work
	$(BIN)/twinfold demo

test: $(DEV) ## run the tests (PYTEST_ARGS="..." adds arguments)
	$(BIN)/python -m pytest -n 2 $(PYTEST_ARGS)

# Anybody may add to the folder: some tests work as another user.
coverage: $(DEV) ## run the tests and show which branches they reached, in all processes
	rm -rf .coverage.d
	mkdir -m 1777 .coverage.d
	export COVERAGE_FILE="$(CURDIR)/.coverage.d/reached"; \
	$(BIN)/coverage run -m pytest -n 2 $(PYTEST_ARGS); passed=$$?; \
	$(BIN)/coverage combine -q && $(BIN)/coverage json -q -o - | $(BIN)/python -m tests.coverage_table; \
	exit $$passed

torture: $(DEV) ## try to break it for an hour (MINUTES=..., SEED=..., TORTURE_ARGS="--only ...")
	$(BIN)/python -m tests.torture --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(TORTURE_ARGS)

planted: $(DEV) ## plant known faults one by one: the tests have to notice each (PLANTED_ARGS="--only ...")
	$(BIN)/python -m tests.planted $(PLANTED_ARGS)

check: $(DEV) ## lint, format, types for three platforms, import layers, counted costs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict --platform linux --cache-dir .mypy_cache/linux $(CODE)
	$(BIN)/mypy --strict --platform win32 --cache-dir .mypy_cache/win32 $(CODE)
	$(BIN)/mypy --strict --platform darwin --cache-dir .mypy_cache/darwin $(CODE)
	$(BIN)/lint-imports
	$(BIN)/python -m tests.counting

clean: ## remove what was built and cached; the packages in .venv stay
	rm -rf build dist src/*.egg-info .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage.d
	rm -f src/twinfold/*.so $(PACKAGE) $(DEV)
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

# pip, not python, is the target: a venv that failed half-way has the one without the other.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "twinfold needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(PACKAGE): $(BUILD_INPUTS) | $(BIN)/pip
	$(PIP_INSTALL) -e .
	touch $@

# Takes in what `demo` needs, so that one does not undo the other.
$(DEV): $(BUILD_INPUTS) | $(BIN)/pip
	$(PIP_INSTALL) -e '.[dev]'
	touch $(PACKAGE) $@
