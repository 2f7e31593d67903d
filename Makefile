# Sightline. `make` explains its targets; `make run` needs Python 3.11 or newer and nothing else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Without strace the tests that need it fail and say so; without libfaketime no clock is moved.
INSTALL_FAULT_TOOLS = apt-get install -qq -y strace libfaketime > /dev/null
FAULT_TOOLS = command -v strace > /dev/null && ls /usr/lib/*/faketime/libfaketimeMT.so.1 > /dev/null 2>&1 \
	|| { [ "$$(id -u)" = 0 ] && { $(INSTALL_FAULT_TOOLS) || { apt-get update -qq && $(INSTALL_FAULT_TOOLS); }; }; } || true

.DEFAULT_GOAL := help
.PHONY: help run test lint lint-scope format stress faults bench clean

help: ## Explain every target
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(READY) ## Start everything on http://127.0.0.1:8000 (PORT=… for another), until Ctrl-C
	@exec $(BIN)/python -m webapp.stack

test: $(READY) ## Run the whole test suite on servers of its own (needs strace)
	@$(FAULT_TOOLS)
	$(BIN)/python -m pytest

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

stress: $(READY) ## One minute of mixed load on the real processes, and a count of what went wrong
	$(BIN)/python -m reliability.stress

faults: $(READY) ## Break every part under load, half an hour or so, and write what was lost into docs/reliability.md
	@$(FAULT_TOOLS)
	$(BIN)/python -m reliability.faults

bench: $(READY) ## Measure beside peers, in one table of ratios (needs wrk)
	@command -v wrk > /dev/null || { [ "$$(id -u)" = 0 ] && apt-get install -qq -y wrk; } || true
	$(BIN)/python -m bench

clean: ## Remove the virtual environments and the demo's data
	rm -rf $(VENV) .venv-bench .sightline

# Installed anew when the pinned requirements change, and only then.
$(READY): requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Sightline needs Python 3.11 or newer; set PYTHON=… to one" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-dev.txt
	@touch $(READY)
