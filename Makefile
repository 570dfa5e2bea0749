# Every target sets up .venv by itself. The first time takes a few minutes, after that it is instant.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
# Everything else is pinned in requirements.lock. Torch is chosen here, because which build fits depends
# on the machine, e.g. make TORCH="torch==2.13.0 --index-url ..." test
TORCH ?= torch==2.13.0
JOBS ?= 2
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp

define new_venv
test -x $(BIN)/python || { \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "attriflow needs Python 3.10 or newer; try: make PYTHON=python3.11 ..." >&2; exit 1; }; \
	$(PYTHON) -m venv $(VENV); }
endef

# Nothing here needs the model hub; a test that would reach for it must fail at once, not hang.
export HF_HUB_OFFLINE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export NO_MKDOCS_2_WARNING := 1

.PHONY: help setup browser demo test test-fast test-models lint format bench bench-toy gpu-check-dry baseline docs pictures lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP) ## create or update .venv

# uv installs the locked packages several times faster; where it is out of reach, pip does the same.
$(STAMP): pyproject.toml requirements.lock
	@$(new_venv)
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip --upgrade >/dev/null
	@echo "setting up $(VENV): torch"
	@$(BIN)/python -m pip install --quiet $(TORCH)
	@echo "setting up $(VENV): $$(grep -c '==' requirements.lock) locked packages"
	@if $(BIN)/python -m pip install --quiet uv && $(BIN)/uv pip install --quiet --compile-bytecode \
			--python $(BIN)/python --no-deps -r requirements.lock; \
		then :; else $(BIN)/python -m pip install --quiet --no-deps -r requirements.lock; fi
	@echo "setting up $(VENV): attriflow"
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(STAMP) ## run the offline demo into demo-output/
	$(BIN)/attriflow demo --output demo-output

# Some tests drive a real browser; where there is none they are skipped, and say so.
browser: ## install Chromium for the tests (as root on Debian)
	@if command -v chromium >/dev/null || command -v google-chrome >/dev/null; then :; \
	elif ! command -v apt-get >/dev/null || [ "$$(id -u)" != 0 ]; then \
		echo "no Chromium: tests in a browser will be skipped (only root on Debian can install it here)"; \
	else \
		echo "installing Chromium for the tests in a browser"; \
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
			chromium fonts-noto-core; } >/dev/null \
		|| echo "Chromium could not be installed: tests in a browser will be skipped"; \
	fi

# Each of the parallel test processes keeps to one thread, else they fight over the cores.
test test-fast test-models: export OMP_NUM_THREADS := 1

test: $(STAMP) browser ## run all tests but the sweeps (test-models)
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not sweep" $(PYTEST_ARGS)

test-fast: $(STAMP) ## run all but the slow tests
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not slow and not sweep" $(PYTEST_ARGS)

test-models: $(STAMP) ## the sweeps: every architecture, half precision, memory over 200 calls
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m sweep $(PYTEST_ARGS)

lint: $(STAMP) ## check style, types and the layering
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## rewrite the sources in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

BENCH = $(BIN)/python -m pytest benchmarks -q -rf --benchmark-only --benchmark-quiet $(PYTEST_ARGS)

bench: $(STAMP) ## run the benchmarks
	@mkdir -p .benchmarks
	$(BENCH) --benchmark-json=.benchmarks/latest.json

# What a regression check compares with benchmarks/baselines/toy.json
bench-toy: $(STAMP) ## run the smallest benchmarks into .benchmarks/toy.json
	@mkdir -p .benchmarks
	$(BENCH) --scale toy --benchmark-json=.benchmarks/toy.json

gpu-check-dry: $(STAMP) ## try benchmarks/gpu_check.py on the CPU
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/gpu_check.py --device cpu --scale toy --out .benchmarks/gpu-check

baseline: $(STAMP) ## record benchmarks/baselines/toy.json anew, from three runs
	@mkdir -p .benchmarks
	for run in 1 2 3; do $(BENCH) --scale toy --benchmark-json=.benchmarks/toy-$$run.json; done
	$(BIN)/python benchmarks/baseline.py .benchmarks/toy-{1,2,3}.json --out benchmarks/baselines/toy.json

docs: $(STAMP) ## regenerate the tables made from the registries and build the site into site/
	$(BIN)/python recipes/make_docs.py
	$(BIN)/python -m mkdocs build --strict --quiet

# The demo, a browser and three measurements: a few minutes. The times in scaling.png are measured apart from this, by
# benchmarks/scaling.py --out docs/images, and only drawn here.
pictures: $(STAMP) browser ## make every picture of the docs anew, with its numbers
	$(BIN)/python recipes/make_pictures.py

# Torch's own CUDA packages are left out: they come with the torch build that TORCH selects.
# opencv-python-headless stands in for opencv-python, which the overrides drop.
# Versions stay as they are unless asked otherwise: make lock LOCK_ARGS=--upgrade
lock: ## re-resolve requirements.lock
	@$(new_venv)
	@$(BIN)/python -m pip install --quiet uv
	cp requirements.lock requirements.lock.new
	echo "opencv-python-headless>=4.9" | $(BIN)/uv pip compile pyproject.toml - --quiet $(LOCK_ARGS) \
		--universal --python-version 3.10 --extra ferret --extra app --extra docs --extra dev --extra ray --annotation-style line \
		--override requirements-overrides.txt --constraint <(echo "$(firstword $(TORCH))") \
		--custom-compile-command "make lock" --output-file requirements.lock.new > /dev/null
	sed -E '/^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z-]+)==/d' requirements.lock.new > requirements.lock
	rm requirements.lock.new

clean: ## remove .venv, caches and outputs
	rm -rf $(VENV) build dist demo-output .benchmarks .hypothesis .import_linter_cache .mypy_cache \
		.pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
