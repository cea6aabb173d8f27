# Two commands on a fresh clone: `make demo` and `make test`. Both build .venv from constraints.txt first.
PYTHON ?= $(shell for python in python3.12 python3.11 python3; do \
    $$python -c "import sys; sys.exit(sys.version_info[:2] < (3, 11))" 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin

.PHONY: demo test lint install clean

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

test: install lint
	# One thread: the networks of the tests are too small to share out, and two would wait for each other.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf .venv demo
