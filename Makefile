# `make demo` and `make test` need nothing but Python >= 3.11: each makes an environment of its own first.
# PYTHON=python3.12 chooses the interpreter; its environment is .venv-3.12 (the default python3 has .venv).
PYTHON ?= python3
VENV := $(if $(filter-out python3,$(PYTHON)),.venv-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'),.venv)
BIN := $(VENV)/bin
BASE := $(VENV)/.base
READY := $(VENV)/.ready
PYTEST := -m pytest -rs --numprocesses 2 --dist loadfile

.PHONY: demo docs examples test test-quick test-lowest test-torch lint

demo: $(BASE)
	$(BIN)/jaxseg demo -o demo

test: $(READY)
	$(BIN)/python $(PYTEST) --ignore tests/parity_torch

test-quick: $(READY)
	$(BIN)/python $(PYTEST) --ignore tests/parity_torch -m "not slow"

# The quick tests with the lowest versions that setup.cfg allows, in an environment of its own.
test-lowest:
	$(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install --quiet --editable '.[test,dicom-seg]' --constraint tests/lowest.txt
	$(VENV)-lowest/bin/python $(PYTEST) --ignore tests/parity_torch -m "not slow"

test-torch: $(READY)
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pytest tests/parity_torch -rs

# The documentation as a web site in build/docs; a broken link or an unknown name is an error.
docs: $(BASE)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	$(BIN)/python -m mkdocs build --strict

# Runs every notebook; what they show is not stored.
examples: $(READY)
	JAX_PLATFORMS=cpu $(BIN)/jupyter-execute --timeout=300 examples/*.ipynb

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

$(BASE): setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(READY): $(BASE)
	$(BIN)/python -m pip install --quiet --editable '.[test,all]'
	touch $@
