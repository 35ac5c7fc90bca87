.DEFAULT_GOAL := help
.PHONY: help install demo test lint wheel-check lowest-check pytest docs clean

PYTHON ?= $(shell command -v python3.11 || command -v python3)
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.docs-installed

# One thread in each worker process: oversubscribed cores make the tests 3-5 times slower.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 NUMEXPR_NUM_THREADS=1

help:
	@echo "make demo    search a pruning plan for the digits network and fine-tune it"
	@echo "make test    lint, type-check, try the built wheel, run every test"
	@echo "make lint    ruff, mypy and the layering contracts"
	@echo "make docs    build the pages of docs/ into docs/_build/html"
	@echo "make clean   remove caches and build output (the environment and runs/ stay)"

# The environment, made again when the dependencies change. torch comes first, so that the
# resolver sees the pinned build and never another one.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

# Sphinx and its theme are not needed for anything else, so they come with the first build.
$(DOCS_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	touch $@

install: $(STAMP)

demo: $(STAMP)
	$(BIN)/spear search --workload digits --target 0.3 --out runs/demo --overwrite

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

wheel-check: $(STAMP)
	PYTHON=$(BIN)/python tests/wheel_check.sh

# Under the lowest versions that are allowed; CI runs it.
lowest-check: $(STAMP)
	tests/lowest_check.sh

# COVERAGE=1 prints which lines of the library ran; CI sets it.
pytest: $(STAMP)
	$(ONE_THREAD) MPLBACKEND=Agg $(BIN)/pytest -n $(JOBS) --dist worksteal \
		$(if $(COVERAGE),--cov=spear_gym --cov-report=term:skip-covered)

# Strict: a warning is an error, and a link or a reference that leads nowhere is a warning.
docs: $(DOCS_STAMP)
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

# One after the other even under `make -j`, and pytest last: its summary closes the output.
test:
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory wheel-check
	@$(MAKE) --no-print-directory pytest

clean:
	rm -rf build dist *.egg-info .benchmarks .coverage htmlcov docs/_build
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find agents envs_registry spear_gym tests -name __pycache__ -type d -prune -exec rm -rf {} +
