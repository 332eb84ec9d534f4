# `make demo` and `make test` need nothing except Python >= 3.11: each makes a virtual environment first.
# PYTHON=python3.12 selects the interpreter; its environment is .venv-3.12 (the default python3 has .venv).
PYTHON ?= python3
VENV := $(if $(filter-out python3,$(PYTHON)),.venv-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'),.venv)
BIN := $(VENV)/bin
BASE := $(VENV)/.base
READY := $(VENV)/.ready
MODULES := $(VENV)/.modules

# The strict editable mode puts a folder of links to the modules on the path. The default mode loses to a clone called
# `jaxseg`: Python started in the clone's parent folder would take the clone itself for the package. The links are made
# again when modules are added or removed.
EDITABLE := -m pip install --quiet --config-settings editable_mode=strict --editable

# Two processes share the test files; tests/conftest.py sorts these, the longest first.
PYTEST := -m pytest -rs --numprocesses 2 --dist loadfile --no-loadscope-reorder
OURS := $(PYTEST) --ignore tests/parity_torch
# SHARD=1/3 runs the first third of the test files.
SHARD ?= 1/1

.PHONY: demo docs examples gpu test test-quick test-long test-full test-lowest test-torch lint FORCE

demo: $(BASE)
	$(BIN)/jaxseg demo -o demo

# Minutes: everything except long trainings and goldens of large networks.
test: $(READY)
	$(BIN)/python $(OURS) -m "not full" --shard $(SHARD)

# One or two minutes, for use while you work.
test-quick: $(READY)
	$(BIN)/python $(OURS) -m "not slow" --shard $(SHARD)

# What `make test` leaves out.
test-long: $(READY)
	$(BIN)/python $(OURS) -m full --shard $(SHARD)

# Both in one go, which starts and reads everything only once.
test-full: $(READY)
	$(BIN)/python $(OURS) --shard $(SHARD)

# The quick tests with the lowest versions that setup.cfg allows, in an environment of its own.
test-lowest:
	$(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/python $(EDITABLE) '.[test,dicom-seg]' --constraint tests/lowest.txt
	$(VENV)-lowest/bin/python $(OURS) -m "not slow"

test-torch: $(READY)
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python $(PYTEST) tests/parity_torch

# The documentation as a web site in build/docs; a broken link or an unknown name is an error.
docs: $(BASE)
	$(BIN)/python $(EDITABLE) '.[docs]'
	$(BIN)/python -m mkdocs build --strict

# Runs every notebook, two at a time, whose outputs are not stored, and then every program.
examples: $(READY)
	printf '%s\n' examples/*.ipynb | JAX_PLATFORMS=cpu xargs -P 2 -n 1 $(BIN)/jupyter-execute --timeout=600
	printf '%s\n' examples/*.py | JAX_PLATFORMS=cpu xargs -n 1 $(BIN)/python

# All measurements on a GPU, in at most ten minutes; see benchmarks/README.md. It uses the JAX that is installed if that
# sees the GPU, and makes .venv-gpu otherwise.
gpu:
	PYTHON=$(PYTHON) benchmarks/gpu.sh

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The list of files that are linked. It is written only if it changed, so that it is older than $(BASE) otherwise.
$(MODULES): FORCE
	@mkdir -p $(VENV)
	@find jaxseg cli configs -type f -not -name '*.pyc' | LC_ALL=C sort > $@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

$(BASE): setup.cfg pyproject.toml $(MODULES)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(EDITABLE) .
	touch $@

$(READY): $(BASE)
	$(BIN)/python $(EDITABLE) '.[test,all]'
	touch $@
