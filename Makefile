# make demo | test | long | lowest | lint | docs | bench: each sets up .venv by itself on a fresh machine (Python 3.11 or newer).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test long lowest lint docs bench
demo: $(VENV)/installed
	$(BIN)/python -m experiments.run pose_coco.yaml sample.yaml

test: $(VENV)/installed
	$(BIN)/python -m pytest -n 2 --dist worksteal --durations 40 -m 'not long'

long: $(VENV)/installed
	$(BIN)/python -m pytest -n 2 -m long

# The fast tests with the lowest versions that pyproject.toml allows, in an environment of their own.
lowest:
	$(PYTHON) -m venv $(VENV)-lowest
	$(PYTHON) -m tests.lowest_versions > $(VENV)-lowest/constraints.txt
	$(VENV)-lowest/bin/python -m pip install --quiet --prefer-binary --editable '.[dev]' --constraint $(VENV)-lowest/constraints.txt
	$(VENV)-lowest/bin/python -m pytest -n 2 --dist worksteal -m 'not slow'

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

bench: $(VENV)/installed
	$(BIN)/python -m experiments.benchmark

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]' --constraint constraints.txt
	touch $@
