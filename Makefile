# The two main commands are `make demo` and `make test`. `make help` lists all.
# The Python of the environment; by default one that uv finds or downloads, as pyproject.toml requires.
PYTHON ?=
BIN := .venv/bin
UV := .cache/uv/bin/uv
PROFILE ?= toy-objects
STUDY = studies/$(PROFILE)
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

# make itself ignores a setting that it does not know, such as a misspelt one.
SETTINGS := PROFILE MEMORY JOBS PORT PYTHON PIN FROM
UNKNOWN := $(filter-out $(SETTINGS),$(foreach name,$(.VARIABLES),$(if $(findstring command line,$(origin $(name))),$(name))))
$(if $(UNKNOWN),$(error there is no setting $(UNKNOWN). There is: $(SETTINGS). Variables of the environment go before `make`))

.PHONY: help demo study serve worker test fast lint lock weights images terminal clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

# A project of its own, so that a study changes no file of this repository.
demo: .venv/ready ## install and run a study in studies/PROFILE; PROFILE=quick for a first look, MEMORY=24 for a GPU with 24 GB
	@test -e $(STUDY)/.dvc/plots || palimpsest init $(STUDY) --profile $(PROFILE) --link
	@cd $(STUDY) && palimpsest profile use $(PROFILE) --quiet $(if $(MEMORY),--memory $(MEMORY))
	@cd $(STUDY) && palimpsest run $(if $(JOBS),--jobs $(JOBS))
	@cd $(STUDY) && palimpsest report --no-open
	@echo "This study is a project of its own: cd $(STUDY)"

study: .venv/ready ## run what is not up to date in the study of this folder, JOBS stages at a time
	@palimpsest run $(if $(JOBS),--jobs $(JOBS))

serve: .venv/ready ## start a Prefect server on this machine, with the deployments and a worker; PORT=4200
	@python -m flows.platform.serve --port $(PORT)

worker: .venv/ready ## start a worker for `python -m flows.platform.coordinator`, on the server in PREFECT_API_URL
	@python -m flows.platform.serve --worker

test: .venv/ready ## install and run all tests
	OMP_NUM_THREADS=1 python -m pytest -m "" -n auto --dist loadfile --no-loadscope-reorder

fast: .venv/ready ## run the fast tests: a few minutes
	OMP_NUM_THREADS=1 python -m pytest -n auto --dist loadfile

lint: .venv/ready ## check style, types and import rules
	ruff check . && ruff format --check . && mypy && lint-imports

lock: .venv/ready ## resolve requirements.lock anew, once for all supported Pythons and platforms
	$(UV) pip compile --quiet --universal --fork-strategy fewest --extra dev --no-header --no-annotate \
		pyproject.toml -o requirements.lock

weights: .venv/ready ## download the weights of a profile: make weights PROFILE=sdxl-quick
	HF_HUB_OFFLINE=0 python -m stages.tools.fetch --for $(PROFILE) $(if $(PIN),--pin) $(if $(FROM),--from $(FROM))

images: .venv/ready ## make the pictures in README.md from the report of the demo; needs Chromium
	cp studies/toy-objects/report/toy-objects/grids/objects-side-by-side.png docs/images
	python docs/images/filmstrip.py studies/toy-objects/report/toy-objects/report.html docs/images/filmstrip.png

terminal: .venv/ready ## record the animated terminal of README.md: runs the profile quick, some minutes on an idle machine
	python docs/images/terminal.py docs/images/terminal.svg

clean: ## delete all studies, results, caches and checkpoints of this folder
	rm -rf studies runs report .cache .checkpoints .dvc/cache .dvc/tmp

.venv/ready: requirements.lock pyproject.toml
	@test -x $(UV) || { $(or $(PYTHON),python3) -m venv --clear .cache/uv && \
		.cache/uv/bin/python -m pip install --quiet --disable-pip-version-check uv; } || \
		{ echo "error: uv cannot be installed: python3 -m venv and its pip are needed (Debian: python3-venv)." >&2; exit 4; }
	@$(UV) venv --quiet --clear --python-preference system $(if $(PYTHON),--python $(PYTHON)) .venv 2>.cache/uv/log || \
		{ echo "error: no suitable Python: pyproject.toml has$$(grep requires-python pyproject.toml | cut -d= -f2-)," \
		"and uv could neither find nor download one (.cache/uv/log). Install one, or add PYTHON=/path/to/python3.12" >&2; exit 4; }
	$(UV) pip sync --quiet --python $(BIN)/python requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@
