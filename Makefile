# What CI runs is what you run. Each command makes its own environment; nothing is set up before.

PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= .venv-extras
WORKERS ?= 2
ARGS ?=
# Small networks lose more to waking a second thread than it gives.
export OMP_NUM_THREADS ?= 1
# Scripts that others wrote against this API: run where a copy lies beside the checkout.
SCRIPTS ?= ../shared/acceptance
# Faults that were found from outside, as small checks.
FAULTS ?= ../shared/faults

BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: check test test-extras faults scripts train bench docs clean

check: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check
	$(BIN)/pytest -n $(WORKERS)
	@if [ -d $(FAULTS) ]; then $(MAKE) --no-print-directory faults; fi
	@if [ -d $(SCRIPTS) ]; then $(MAKE) --no-print-directory scripts; fi

# What is too heavy for every day: JAX (Brax, Jumanji) and OpenSpiel.
test-extras: $(EXTRAS)/.ready
	$(EXTRAS)/bin/pytest -rs -k 'jax or brax or jumanji or open' tests/envs/libs tests/envs/test_env_contract.py \
		torchrl/envs/libs

# Exact resume with simulators that keep a state of their own is not promised yet.
faults: $(READY)
	PYTHONDONTWRITEBYTECODE=1 $(BIN)/pytest -q -p no:cacheprovider -n $(WORKERS) --rootdir $(FAULTS) \
		--ignore $(FAULTS)/test_resume.py $(FAULTS)

# The longest one trains for 50 000 frames, two minutes, and judges what was learned; SEED_TOTAL_FRAMES shortens it.
scripts: $(READY)
	PYTHONDONTWRITEBYTECODE=1 MPLBACKEND=Agg $(SCRIPTS)/run $(abspath $(BIN))/python

train: $(READY)
	$(BIN)/python examples/ppo.py $(ARGS)

bench: $(READY)
	for file in benchmarks/*.py; do echo "== $$file" && $(BIN)/python $$file || exit 1; done

docs: $(READY)
	$(BIN)/python docs/old_names.py

clean:
	rm -rf $(VENV) $(EXTRAS) build dist .cache .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

# install ENVIRONMENT,EXTRA: torch comes first and pinned, what needs it must not choose another build.
define install
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "torchrl needs Python 3.10 or later: make PYTHON=python3.12 ...")'
	@echo "Installing into $(1): a few minutes, once."
	@test -x $(1)/bin/python || $(PYTHON) -m venv $(1) || \
		{ echo "$(PYTHON) cannot make environments; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@$(1)/bin/python -m pip -qq --disable-pip-version-check --no-input install -c constraints.txt torch
	@$(1)/bin/python -m pip -qq --disable-pip-version-check --no-input install -c constraints.txt -e '.[$(2)]'
	@touch $@
endef

$(READY): pyproject.toml constraints.txt
	$(call install,$(VENV),tests)

$(EXTRAS)/.ready: pyproject.toml constraints.txt
	$(call install,$(EXTRAS),tests_extras)
