# The two commands of the README; each sets up .venv when it is missing or pyproject.toml or the lock has changed.
PYTHON ?= python3
VENV := .venv
DONE := $(VENV)/.installed

LOCKED := requirements/locked.txt

.PHONY: docs links wheel quickstart test test-fast coverage lint audit lock mutants clean

quickstart: $(DONE)
	$(VENV)/bin/nshot quickstart --out runs/quickstart

test: $(DONE) lint
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist worksteal

# Which lines of nshot no test runs; apart from `test`, for tracing them takes time.
coverage: $(DONE)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist worksteal --cov --cov-report=term

test-fast: $(DONE)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist worksteal -m "not slow"

lint: $(DONE)
	$(VENV)/bin/ruff format --check src tests benchmarks examples
	$(VENV)/bin/ruff check src tests benchmarks examples
	$(VENV)/bin/mypy
	$(VENV)/bin/deptry src
	$(VENV)/bin/codespell README.md CONTRIBUTING.md CHANGELOG.md SECURITY.md docs src tests examples benchmarks

# The documentation site, in site/; a warning is an error.
docs: $(DONE)
	$(VENV)/bin/python -m sphinx -W --keep-going -q -b html docs site
	@echo "written: site/index.html"

# The wheel, built and run in a bare environment.
wheel: $(DONE)
	tests/wheel.sh $(VENV)/bin/python

# Links to other sites, which needs them.
links: $(DONE)
	$(VENV)/bin/python -m sphinx -q -b linkcheck docs site/links

# Known weaknesses of all that is installed; what cannot be looked up, as offline, is an error too.
audit: $(DONE)
	$(VENV)/bin/python requirements/audit.py

# All dependencies anew, at the newest versions that go together; look at what changes before it is committed.
lock: $(DONE)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(VENV)/bin/python requirements/lock.py --upgrade

mutants: $(DONE)
	OMP_NUM_THREADS=1 $(VENV)/bin/mutmut run --max-children 1
	$(VENV)/bin/mutmut results

# First what is locked, each file by its hash and nothing else; then torch and torchvision, by version ranges alone, and
# nshot itself, which pip cannot hash. The build takes the setuptools that is locked.
$(DONE): pyproject.toml $(LOCKED)
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r $(LOCKED)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-build-isolation -e '.[dev]'
	touch $(DONE)

clean:
	rm -rf $(VENV) runs mutants .pytest_cache .mypy_cache .ruff_cache .coverage
