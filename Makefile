# What CI runs is what you run. Each command makes its own environment; nothing is set up before.

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
ARGS ?=
# Small networks lose more to waking a second thread than it gives.
export OMP_NUM_THREADS ?= 1
# Scripts that others wrote against this API: run where a copy lies beside the checkout.
SCRIPTS ?= ../shared/acceptance

BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check --no-input

.PHONY: check test scripts train bench docs clean

check: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check
	$(BIN)/pytest -n $(WORKERS)
	@if [ -d $(SCRIPTS) ]; then $(MAKE) --no-print-directory scripts; fi

# 3000 frames show that the long one runs; it judges what it learned only when it runs in full.
scripts: $(READY)
	PYTHONDONTWRITEBYTECODE=1 MPLBACKEND=Agg SEED_TOTAL_FRAMES=3000 $(SCRIPTS)/run $(abspath $(BIN))/python

train: $(READY)
	$(BIN)/python examples/ppo.py $(ARGS)

bench: $(READY)
	for file in benchmarks/*.py; do echo "== $$file" && $(BIN)/python $$file || exit 1; done

docs: $(READY)
	$(BIN)/python docs/old_names.py

clean:
	rm -rf $(VENV) build dist .cache .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

# torch comes first and pinned: what depends on it must not choose another build.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "torchrl needs Python 3.10 or later: make PYTHON=python3.12 ...")'
	@echo "Installing into $(VENV): a few minutes, once."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
		{ echo "$(PYTHON) cannot make environments; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@$(PIP) install -c constraints.txt torch
	@$(PIP) install -c constraints.txt -e '.[tests]'
	@touch $@
