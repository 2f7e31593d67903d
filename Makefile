# Sightline. `make` explains its targets; `make run` needs Python 3.11 or newer and nothing else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Marks of what is installed there: what runs Sightline, and what tests and checks it too.
RUNNABLE := $(VENV)/.runnable
READY := $(VENV)/.ready
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps
COUNT_PINS = grep '^[a-z]' $(1) | grep -cv win32

UV := uv==0.13.9
PIN = $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate $(UPGRADE) pyproject.toml

# Debian's packages that tests need, installed where root may. Without strace the tests that need it
# fail and say so; without libfaketime no clock is moved; those that need a server that is missing
# are skipped, and say so. A package starts its service where no policy-rc.d says otherwise.
PACKAGES = strace libfaketime rabbitmq-server pgbouncer prometheus haproxy nftables iproute2 redis-server
INSTALL_PACKAGES = { policy=/usr/sbin/policy-rc.d; [ -e $$policy ] \
	|| { printf '\043!/bin/sh\nexit 101\n' > $$policy && chmod +x $$policy && trap "rm $$policy" EXIT; }; \
	apt-get install -qq -y --no-install-recommends $(PACKAGES) > /dev/null; }
FAULT_TOOLS = dpkg -s $(PACKAGES) > /dev/null 2>&1 \
	|| { [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null \
	&& ( $(INSTALL_PACKAGES) || { apt-get update -qq && $(INSTALL_PACKAGES); } ); } || true
INSTALL_WRK = apt-get install -qq -y wrk > /dev/null
WRK = command -v wrk > /dev/null \
	|| { [ "$$(id -u)" = 0 ] && { $(INSTALL_WRK) || { apt-get update -qq && $(INSTALL_WRK); }; }; } || true

# A process that a test starts is up twice as soon where what it imports is compiled already.
PYTEST = PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help run demo test check lint lint-scope format requirements sbom stress faults hosts hostile bench clean

help: ## Explain every target
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(RUNNABLE) ## Start everything on http://127.0.0.1:8000 (PORT=… for another), until Ctrl-C
	@exec $(BIN)/python -m webapp.stack

demo: $(RUNNABLE) ## Tell in half a minute what Sightline does, on servers that end with the story
	@exec $(BIN)/python -m webapp.stack.story

test: $(READY) ## Run the whole test suite on servers of its own (needs strace)
	@$(FAULT_TOOLS)
	$(PYTEST)

check: lint ## Check style and the quick half of the tests, in two minutes
	$(PYTEST) -q -m "not slow"

lint: $(READY) ## Check style, types and the directions of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lint-scope: $(READY) ## Prove that no way leads around the tenants' scopes
	$(BIN)/python -m webapp.stack.lint_scope

format: $(READY) ## Put the code into its form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

requirements: $(RUNNABLE) ## Pin what pyproject.toml names, with hashes (UPGRADE=--upgrade for new versions)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(UV)
	$(PIN) -o requirements.txt
	$(PIN) --group run -c requirements.txt -o requirements-run.txt
	$(PIN) --group traces -c requirements.txt -o requirements-traces.txt
	$(PIN) --group dev -c requirements-run.txt -c requirements-traces.txt -o requirements-dev.txt

sbom: $(READY) ## Write sbom.json: what production installs, as CycloneDX, the same each time
	@$(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible -o sbom.json requirements.txt

stress: $(READY) ## One minute of mixed load on the real processes, and a count of what went wrong
	$(BIN)/python -m reliability.stress

faults: $(READY) ## Break every part under load, half an hour or so, and write what was lost into docs/reliability.md
	@$(FAULT_TOOLS)
	$(BIN)/python -m reliability.faults

hosts: $(READY) ## Run it on many hosts (as root, on Linux), break them for an hour, and write what was lost into docs/reliability.md
	@$(FAULT_TOOLS)
	$(BIN)/python -m reliability.hosts
	$(BIN)/python -m reliability.hosts --broker sentinel --faults 33 --accesses 5000

hostile: $(READY) ## Attack the real processes under load, ten minutes or so, and write what others noticed into docs/reliability.md
	$(BIN)/python -m reliability.hostile

bench: $(READY) ## Measure beside peers, in one table of ratios (needs wrk)
	@$(WRK)
	$(BIN)/python -m bench

clean: ## Remove the virtual environments and the demo's data
	rm -rf $(VENV) .venv-bench .sightline

# Each is installed anew when its pinned requirements change, and only then.
$(RUNNABLE): requirements-run.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Sightline needs Python 3.11 or newer; set PYTHON=… to one" >&2; exit 1; }
	@test -x $(BIN)/python || { echo "Creating a Python environment in $(VENV) …"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing $$($(call COUNT_PINS,$<)) packages, PostgreSQL and Redis among them …"
	@$(INSTALL) -r $<
	@touch $@

$(READY): requirements-dev.txt $(RUNNABLE)
	@echo "Installing $$($(call COUNT_PINS,$<)) packages, with the tools that test and check …"
	@$(INSTALL) -r $<
	@touch $@
