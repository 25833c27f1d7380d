# Everything happens in a virtual environment of its own; nothing else is needed but
# git, make and Python >= 3.11 with venv.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin
ARGS ?=
# Processes that share the tests; WORKERS=0 runs them in one, as a debugger wants it.
WORKERS ?= 2

.PHONY: cluster test test-all-pythons soak lint bench clean

cluster: $(VENV)/installed
	$(RUN)/pymirror cluster $(ARGS)

test: $(VENV)/installed-test
	$(RUN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

# The whole suite on every Python from 3.11 on that is installed here.
test-all-pythons:
	deploy/test-all-pythons $(ARGS)

# Faults for hours instead of minutes: fresh seeds, every crash point, a hundred kills.
SOAK_SECONDS ?= 3600
soak: $(VENV)/installed-test
	PYMIRROR_SOAK=1 PYMIRROR_SIMULATION_SECONDS=$(SOAK_SECONDS) PYMIRROR_TEST_KILLS=100 \
	$(RUN)/python -m pytest --timeout 14400 tests/test_simulation.py \
	tests/functional/test_crash_*.py tests/functional/test_power_*.py \
	tests/functional/scenarios $(ARGS)
	$(RUN)/python -m tests.soak --seconds $(SOAK_SECONDS)

lint: $(VENV)/installed-test
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

bench: $(VENV)/installed-bench
	$(RUN)/python -m bench $(ARGS)

$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "pymirror needs Python 3.11 or newer; name one: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

# The peers get environments of their own: see bench/README.md.
$(VENV)/installed-bench: $(VENV)/installed-test
	touch $@

clean:
	rm -rf .venv* .cluster build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
