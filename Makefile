# Two commands do everything: `make demo` and `make test`. `make help` lists the rest.
PYTHON ?= python3
BIN := .venv/bin
PROFILE ?= toy-objects
JOBS ?=
# A large heap is not given back only to be asked for again: a quarter of the time on a CPU.
export MALLOC_MMAP_THRESHOLD_ ?= 4000000000
export MALLOC_TRIM_THRESHOLD_ ?= 8000000000
export DVC_NO_ANALYTICS = 1
export HF_HUB_OFFLINE = 1
export HF_HUB_DISABLE_TELEMETRY = 1
unexport PYTHONDONTWRITEBYTECODE
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help demo study test fast lint profile clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

demo: .venv/ready ## make the environment and run a study; PROFILE=quick for a first look
	@python -m stages.profile use $(PROFILE)
	@$(MAKE) --no-print-directory study
	@cat report/$(PROFILE)/summary.txt

study: .venv/ready ## run what is not up to date of the current study, JOBS stages at a time
	@python -m flows.study $(if $(JOBS),--jobs $(JOBS))

test: .venv/ready ## make the environment and run the tests
	OMP_NUM_THREADS=1 python -m pytest -m "" -n 2 --dist loadscope

fast: .venv/ready ## the tests that take less than two minutes together
	python -m pytest

lint: .venv/ready ## style, types, and which part may import which
	ruff check . && ruff format --check . && mypy && lint-imports

profile: .venv/ready ## make another profile the current one: make profile NAME=quick
	python -m stages.profile use $(NAME)

clean: ## forget every result, cache and checkpoint of this workspace
	rm -rf runs $(filter-out report/toy-objects,$(wildcard report/*)) .cache .checkpoints .dvc/cache .dvc/tmp

.venv/ready: requirements.lock
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --compile-bytecode requirements.lock
	touch $@
