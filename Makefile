# The two commands of the README; each sets up .venv when it is missing or pyproject.toml has changed.
PYTHON ?= python3
VENV := .venv
DONE := $(VENV)/.installed

.PHONY: quickstart test test-fast lint mutants clean

quickstart: $(DONE)
	$(VENV)/bin/nshot quickstart --out runs/quickstart

test: $(DONE) lint
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --cov --cov-report=term

test-fast: $(DONE)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 -m "not slow"

lint: $(DONE)
	$(VENV)/bin/ruff format --check src tests benchmarks examples
	$(VENV)/bin/ruff check src tests benchmarks examples
	$(VENV)/bin/mypy

mutants: $(DONE)
	OMP_NUM_THREADS=1 $(VENV)/bin/mutmut run --max-children 1
	$(VENV)/bin/mutmut results

$(DONE): pyproject.toml
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $(DONE)

clean:
	rm -rf $(VENV) runs mutants .pytest_cache .mypy_cache .ruff_cache .coverage
