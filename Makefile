# Two commands do everything: `make demo` and `make test`. `make help` lists the rest.
PYTHON ?= python3
BIN := .venv/bin
PROFILE ?= toy-objects
JOBS ?=
MEMORY ?=
PIN ?=
FROM ?=
# A large heap is not given back only to be asked for again: a quarter of the time on a CPU.
export MALLOC_MMAP_THRESHOLD_ ?= 4000000000
export MALLOC_TRIM_THRESHOLD_ ?= 8000000000
export DVC_NO_ANALYTICS = 1
export HF_HUB_OFFLINE = 1
export HF_HUB_DISABLE_TELEMETRY = 1
unexport PYTHONDONTWRITEBYTECODE
export PATH := $(CURDIR)/$(BIN):$(PATH)

PORT ?= 4200

.PHONY: help demo study serve worker test fast lint weights images clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

demo: .venv/ready ## make the environment and run a study; PROFILE=quick for a first look, MEMORY=24 for a GPU of 24 GB
	@palimpsest profile use $(PROFILE) --quiet $(if $(MEMORY),--memory $(MEMORY))
	@$(MAKE) --no-print-directory study
	@palimpsest report --no-open

study: .venv/ready ## run what is not up to date of the current study, JOBS stages at a time
	@palimpsest run $(if $(JOBS),--jobs $(JOBS))

serve: .venv/ready ## a Prefect server on this machine, with its pages, its deployments and a worker; PORT=4200
	@python -m flows.platform.serve --port $(PORT)

worker: .venv/ready ## run what `python -m flows.platform.coordinator` hands out, on the server that PREFECT_API_URL names
	@python -m flows.platform.serve --worker

test: .venv/ready ## make the environment and run the tests
	OMP_NUM_THREADS=1 python -m pytest -m "" -n auto --dist loadfile --no-loadscope-reorder

fast: .venv/ready ## the tests that take less than two minutes together
	OMP_NUM_THREADS=1 python -m pytest -n auto --dist loadfile

lint: .venv/ready ## style, types, and which part may import which
	ruff check . && ruff format --check . && mypy && lint-imports

weights: .venv/ready ## fetch the weights that a profile needs: make weights PROFILE=sdxl-quick
	HF_HUB_OFFLINE=0 python -m stages.tools.fetch --for $(PROFILE) $(if $(PIN),--pin) $(if $(FROM),--from $(FROM))

images: ## copy the figures that README.md shows from the report of the default study to docs/images
	cp report/toy-objects/grids/objects-side-by-side.png report/toy-objects/figures/objects-dino-matrix.png docs/images

clean: ## forget every result, cache and checkpoint of this workspace
	rm -rf runs report .cache .checkpoints .dvc/cache .dvc/tmp

.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --compile-bytecode requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@
