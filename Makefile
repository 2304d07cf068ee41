# The two main commands are `make demo` and `make test`. `make help` lists all.
PYTHON ?= python3
BIN := .venv/bin
PROFILE ?= toy-objects
JOBS ?=
MEMORY ?=
PIN ?=
FROM ?=
# Reuse freed memory instead of returning it to the system: saves a quarter of the time on a CPU.
export MALLOC_MMAP_THRESHOLD_ ?= 4000000000
export MALLOC_TRIM_THRESHOLD_ ?= 8000000000
export DVC_NO_ANALYTICS = 1
export HF_HUB_OFFLINE = 1
export HF_HUB_DISABLE_TELEMETRY = 1
unexport PYTHONDONTWRITEBYTECODE
export PATH := $(CURDIR)/$(BIN):$(PATH)

PORT ?= 4200

.PHONY: help demo study serve worker test fast lint weights images clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

demo: .venv/ready ## install and run a study; PROFILE=quick for a first look, MEMORY=24 for a GPU with 24 GB
	@palimpsest profile use $(PROFILE) --quiet $(if $(MEMORY),--memory $(MEMORY))
	@$(MAKE) --no-print-directory study
	@palimpsest report --no-open

study: .venv/ready ## run what is not up to date in the current study, JOBS stages at a time
	@palimpsest run $(if $(JOBS),--jobs $(JOBS))

serve: .venv/ready ## start a Prefect server on this machine, with the deployments and a worker; PORT=4200
	@python -m flows.platform.serve --port $(PORT)

worker: .venv/ready ## start a worker for `python -m flows.platform.coordinator`, on the server in PREFECT_API_URL
	@python -m flows.platform.serve --worker

test: .venv/ready ## install and run all tests
	OMP_NUM_THREADS=1 python -m pytest -m "" -n auto --dist loadfile --no-loadscope-reorder

fast: .venv/ready ## run the fast tests: less than two minutes together
	OMP_NUM_THREADS=1 python -m pytest -n auto --dist loadfile

lint: .venv/ready ## check style, types and import rules
	ruff check . && ruff format --check . && mypy && lint-imports

weights: .venv/ready ## download the weights of a profile: make weights PROFILE=sdxl-quick
	HF_HUB_OFFLINE=0 python -m stages.tools.fetch --for $(PROFILE) $(if $(PIN),--pin) $(if $(FROM),--from $(FROM))

images: ## copy the figures in README.md from the report of the default study to docs/images
	cp report/toy-objects/grids/objects-side-by-side.png report/toy-objects/figures/objects-dino-matrix.png docs/images

clean: ## delete all results, caches and checkpoints of this workspace
	rm -rf runs report .cache .checkpoints .dvc/cache .dvc/tmp

.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --compile-bytecode requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@
