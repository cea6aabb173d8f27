# Two commands on a fresh clone: `make demo` and `make test`. Every target builds .venv from constraints.txt first.
#   make demo    trains on the embedded digits (a minute)
#   make check   before every commit: lint, types and the fast tests
#   make test    lint, types and the whole test suite; CI runs it
#   make mutants puts small faults into the package and counts those that no test notices (hours)
PYTHON ?= $(shell for python in python3.12 python3.11 python3; do \
    $$python -c "import sys; sys.exit(sys.version_info[:2] < (3, 11))" 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
# One thread per process: the networks of the tests are too small to split, and two threads would wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto
FAST := tests/test_house.py tests/losses tests/condensation tests/data tests/models tests/reporting

.PHONY: demo check test lint mutants install clean

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or 3.12 found. Name one: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $@

demo: install
	rm -rf demo
	$(BIN)/hf-kcd demo

check: lint
	$(PYTEST) -m "not slow" $(FAST)

test: lint
	$(PYTEST)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Its options: make mutants OPTIONS=--help
mutants: install
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[mutants]"
	$(BIN)/python tests/mutants/run.py $(OPTIONS)

clean:
	rm -rf .venv demo
