# What CI runs is what you run. Each command makes its own environment; nothing is set up before.

PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= .venv-extras
WORKERS ?= 2
ARGS ?=
MINUTES ?= 30
KILLS ?= 8
RUN ?= 1
# Small networks lose more to waking a second thread than it gives.
export OMP_NUM_THREADS ?= 1
# Scripts that others wrote against this API: run where a copy lies beside the checkout.
SCRIPTS ?= ../shared/acceptance
# Faults that were found from outside, and what others rely on in this API, as small checks.
FAULTS ?= ../shared/faults
CONTRACT ?= ../shared/contract

BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: check test test-distributed test-ray test-ranks test-extras faults contract scripts train bench soak scores scores-small scores-full docs notebooks clean

check: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# Of nearly 20 000 tests, some wait for processes on a busy machine: those that fail run once more, one at a time.
# Their first failure stays in what is printed; one that fails twice fails the run.
# Tutorials run once: `make docs` builds their pages, and what they printed is read there.
test: check
	$(BIN)/pytest -n $(WORKERS) --ignore tests/test_tutorials.py || \
		$(BIN)/pytest --last-failed --last-failed-no-failures none --ignore tests/test_tutorials.py
	$(MAKE) --no-print-directory test-distributed
	@if [ -d $(FAULTS) ]; then $(MAKE) --no-print-directory faults; fi
	@if [ -d $(CONTRACT) ]; then $(MAKE) --no-print-directory contract; fi
	@if [ -d $(SCRIPTS) ]; then $(MAKE) --no-print-directory scripts; fi
	@rm -f docs/tutorials/*.md5
	@if $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
		$(MAKE) --no-print-directory docs; else echo "The site needs Python 3.11; the tutorials run without it."; fi
	$(BIN)/pytest -n $(WORKERS) tests/test_tutorials.py || \
		$(BIN)/pytest --last-failed --last-failed-no-failures none tests/test_tutorials.py

# Ray, on one node and on several, and ranks of torch.distributed, all on this machine: those of Ray beside those of
# ranks, as either waits for processes half of the time. KILLS=20 kills more actors than the 8 of every day, and half as
# many nodes.
test-distributed: $(READY)
	$(MAKE) --no-print-directory --jobs 2 --keep-going --output-sync=target test-ray test-ranks

DISTRIBUTED = $(BIN)/pytest tests/collectors tests/objectives/test_data_parallel.py tests/trainers/test_data_parallel.py \
	tests/test_distributed_examples.py

test-ray: export KILLS := $(KILLS)
test-ray: RAY = $(DISTRIBUTED) -o cache_dir=.cache/ray -m 'distributed and ray'
test-ray: $(READY)
	$(RAY) || $(RAY) --last-failed --last-failed-no-failures none

test-ranks: RANKS = $(DISTRIBUTED) -o cache_dir=.cache/ranks -m 'distributed and not ray'
test-ranks: $(READY)
	$(RANKS) || $(RANKS) --last-failed --last-failed-no-failures none

# What is too heavy for every day: JAX (Brax, Jumanji) and OpenSpiel.
test-extras: $(EXTRAS)/.ready
	$(EXTRAS)/bin/pytest -rs -k 'jax or brax or jumanji or open' tests/envs/libs tests/envs/test_env_contract.py \
		torchrl/envs/libs

# A few checks compare the order of what two processes print, which a busy machine can reverse: those that fail run
# once more.
faults: export PYTHONDONTWRITEBYTECODE = 1
faults: CHECKS = $(BIN)/pytest -q --rootdir $(FAULTS) -o cache_dir=$(CURDIR)/.cache/faults $(FAULTS)
faults: $(READY)
	$(CHECKS) -n $(WORKERS) || $(CHECKS) --last-failed --last-failed-no-failures none

# Those that docs/differences.md refuses are left out.
contract: export PYTHONDONTWRITEBYTECODE = 1
contract: $(READY)
	@mkdir -p .cache
	@grep -oE 'test_[a-z_]+\.py::[^`]+' docs/differences.md | sed 's/^/--deselect=/' > .cache/refused
	$(BIN)/pytest -q -p no:cacheprovider -n $(WORKERS) --rootdir $(CONTRACT) @.cache/refused $(CONTRACT)

# The longest one trains for 50 000 frames, two minutes, and judges what was learned; SEED_TOTAL_FRAMES shortens it.
scripts: $(READY)
	PYTHONDONTWRITEBYTECODE=1 MPLBACKEND=Agg $(SCRIPTS)/run $(abspath $(BIN))/python

train: $(READY)
	$(BIN)/torchrl train ppo CartPole-v1 $(ARGS)

bench: $(READY)
	for file in $(filter-out %/keep.py %/resume.py %/soak.py,$(wildcard benchmarks/*.py)); do echo "== $$file" && $(BIN)/python $$file || exit 1; done

# Collectors, buffers, checkpoints and evaluators for half an hour; MINUTES=5 shortens it.
soak: $(READY)
	$(BIN)/python benchmarks/soak.py --minutes $(MINUTES)

# Runs that are in benchmarks/scores/results are not repeated.
scores scores-small: $(READY)
	$(BIN)/python benchmarks/scores --group small $(ARGS)

# More than a day on two cores; PEER_SB3=environment ARGS=--peer also trains with Stable-Baselines3.
scores-full: $(READY)
	$(BIN)/python benchmarks/scores $(ARGS)

# Each tutorial as tutorials/notebooks/NAME.ipynb, without outputs.
notebooks: $(READY)
	$(BIN)/python docs/notebooks.py

# The site is docs/_build/html/index.html. RUN=0 leaves out what takes longest: the tutorials are shown, but not run.
# A warning fails it, as does a tutorial that raises; what was built before is not built again. After a failure all pages
# are read once more, with the same warnings, and the tutorials that failed run again: some wait for processes.
docs: SITE = TORCHRL_DOCS_RUN=$(RUN) $(BIN)/python -m sphinx --fail-on-warning --keep-going --jobs $(WORKERS) --quiet \
	--doctree-dir docs/_build/doctrees docs docs/_build/html
docs: $(VENV)/.docs
	$(BIN)/python docs/old_names.py
	$(SITE) || { rm -rf docs/_build && $(SITE); }
	$(BIN)/python docs/check_site.py || $(BIN)/python docs/check_site.py

clean:
	rm -rf $(VENV) $(EXTRAS) docs/_build docs/reference docs/tutorials build dist .cache .pytest_cache \
		 .mypy_cache .ruff_cache .import_linter_cache

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

$(VENV)/.docs: $(READY)
	$(call install,$(VENV),docs)

$(EXTRAS)/.ready: pyproject.toml constraints.txt
	$(call install,$(EXTRAS),tests_extras)
