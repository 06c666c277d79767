# Everything a developer does, from nothing: each target sets up $(VENV) first if it is missing or out of date.
# `make demo` and `make test` are the two that matter. Written for make 3.81 and later.

VENV ?= .venv
FIND = for python in python3.13 python3.12 python3.11 python3 python; do \
         $$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { command -v $$python; break; }; done

# The first Python that really runs and is new enough. Choose another one by `make test PYTHON=… VENV=…`.
PYTHON ?= $(shell $(FIND))
BIN = $(VENV)/bin
READY = $(VENV)/.ready

.PHONY: help demo test test-all chaos fuzz lint format bench-limits bench-throughput clean

help:
	@echo "make demo              run the main job against the sandbox: no keys, no cost"
	@echo "make test              run the tests, with real Redis-protocol and PostgreSQL servers"
	@echo "make test-all          run the slower suites too: field cases, SDKs, published schemas"
	@echo "make chaos             kill, cut and starve everything, and count what is lost: ARGS=\"--jobs 3\" for 25 minutes instead of an hour"
	@echo "make fuzz              feed every reader rubbish by coverage, a minute each (Linux on x86-64): ARGS=\"lines --minutes 10\""
	@echo "make lint              check style, format and types"
	@echo "make format            put the format right"
	@echo "make bench-limits      how much of the limits is used, and how many 429s that costs: ARGS=\"--rows half --workers 2\""
	@echo "make bench-throughput  jobs per second from submit to the last durable result"
	@echo "make clean             remove $(VENV) and all that tools left behind"

demo: $(READY)
	$(BIN)/truckllm demo

test: $(READY)
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not full" $(ARGS)

test-all: $(READY)
	$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

chaos: $(READY)
	$(BIN)/python -m tests.chaos $(ARGS)

fuzz: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[fuzz]"
	$(BIN)/python -m tests.fuzz $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-limits: $(READY)
	$(BIN)/python bench/limits.py $(ARGS)

bench-throughput: $(READY)
	$(BIN)/python bench/throughput.py $(ARGS)

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer (with venv) was found; name one: make PYTHON=/path/to/python3" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	@touch $(READY)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .fuzz .truckllm
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
